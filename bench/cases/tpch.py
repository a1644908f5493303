"""TPC-H: its 22 queries through the wire, against the same in the process that asks."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb

import clients
import quack
from case import MEGABYTES, SECONDS, Case, Step, Table, by_contender, step
from contenders import TARGET, running, working_directory
from sizes import Size


def database(scale: float) -> Path:
    """The file with TPC-H's tables, made once for each scale."""
    path = TARGET / f"tpch-{scale}.db"
    if not path.exists():
        making = path.with_suffix(".making")
        making.unlink(missing_ok=True)
        with duckdb.connect(making) as connection:
            connection.execute(f"LOAD '{quack.extension('tpch')}'; CALL dbgen(sf = {scale})")
        making.rename(path)
    return path


def queries() -> list[str]:
    with duckdb.connect() as connection:
        connection.execute(f"LOAD '{quack.extension('tpch')}'")
        return [
            query for (query,) in connection.execute("SELECT query FROM tpch_queries() ORDER BY query_nr").fetchall()
        ]


def seconds_of(ask) -> dict:
    """The time of each query, the second time it is asked, and of all together."""
    found = {}
    for number, query in enumerate(queries(), 1):
        ask(query)
        start = time.perf_counter()
        ask(query)
        found[f"q{number:02}_seconds"] = time.perf_counter() - start
    return {**found, "seconds": sum(found.values())}


def in_process(scale: float) -> dict:
    with duckdb.connect(database(scale), read_only=True) as connection:
        return seconds_of(lambda query: connection.execute(query).to_arrow_table())


def through_the_wire(name: str, scale: float, asker) -> dict:
    with working_directory() as directory:
        copy = directory / "tpch.db"
        shutil.copy(database(scale), copy)
        with running(name, database=copy) as server, asker(server) as ask:
            return {**seconds_of(ask), "memory_mb": server.memory_peak_mb()}


def steps(size: Size) -> Iterator[Step]:
    test = f"all-{size.tpch_scale}"
    yield step(test, "limit", in_process, size.tpch_scale)
    for name in ("seed", "duck-flight"):
        yield step(test, name, through_the_wire, name, size.tpch_scale, clients.plain_asker)
    yield step(test, "duck-flight-adbc", through_the_wire, "duck-flight", size.tpch_scale, clients.adbc_asker)


def label(test: str) -> str:
    return f"all 22 queries, scale factor {test.removeprefix('all-')}"


TIMES = by_contender("seconds", SECONDS, "limit", "seed", "duck-flight", "duck-flight-adbc")
MEMORY = by_contender("memory_mb", MEGABYTES, "seed", "duck-flight", "duck-flight-adbc")

CASE = Case(
    name="tpch",
    about="the 22 queries of TPC-H, by clients in Python",
    steps=steps,
    tables=(
        Table("tpch", "seconds", label, TIMES),
        Table("tpch-memory", "the server's memory peak in MB", label, MEMORY),
    ),
)
