"""A large result: the whole of a table of four columns."""

from collections.abc import Iterator
from statistics import median

import clients
import postgres
import quack
from case import MEGABYTES, ROWS_PER_SECOND, Bars, Case, Step, Table, by_contender, named, step
from clients import READ_ALL
from contenders import running, working_directory
from sizes import Size

TESTS = {
    "rust": "a client in Rust, or of the peer's own kind",
    "pyarrow": "pyarrow's Flight client",
    "adbc": "ADBC in Python",
}
READS = 3


def limit(rows: int) -> dict:
    with working_directory() as directory:
        return clients.bench("limit", "stream", "--dir", directory, "--rows", rows)


def by_rust(name: str, rows: int, *flags: str) -> dict:
    with running(name, *flags) as server:
        clients.fill(server, rows)
        reads = [clients.bench("read", "--server", server.url, "--sql", READ_ALL) for _ in range(READS)]
        return {
            "rows_per_second": median(read["rows_per_second"] for read in reads),
            "memory_mb": server.memory_peak_mb(),
        }


def by_python(asker, name: str, rows: int, *flags: str) -> dict:
    with running(name, *flags) as server:
        clients.fill(server, rows)
        with asker(server) as ask:
            ask(READ_ALL)
            seconds = median(seconds_of(ask, rows) for _ in range(READS))
        return {"rows_per_second": rows / seconds, "memory_mb": server.memory_peak_mb()}


def seconds_of(ask, rows: int) -> float:
    found = clients.timed_once(lambda: ask(READ_ALL))
    if found.value != rows:
        raise RuntimeError(f"{found.value} rows arrived instead of {rows}")
    return found.seconds


def steps(size: Size) -> Iterator[Step]:
    yield step("rust", "limit", limit, size.read_rows)
    for name in ("seed", "duck-flight"):
        yield step("rust", name, by_rust, name, size.read_rows)
    yield step("rust", "quack", quack.read, size.slow_peer_read_rows)
    yield step("rust", "postgres", postgres.read, size.slow_peer_read_rows)
    for name in ("seed", "duck-flight"):
        yield step("pyarrow", name, by_python, clients.plain_asker, name, size.read_rows)
    yield step("adbc", "duck-flight", by_python, clients.adbc_asker, "duck-flight", size.read_rows)


RATES = by_contender("rows_per_second", ROWS_PER_SECOND, "limit", "seed", "quack", "postgres", "duck-flight")
MEMORY = by_contender("memory_mb", MEGABYTES, "seed", "duck-flight")

CASE = Case(
    name="reads",
    about="`SELECT *` of a table of four columns, by several clients",
    steps=steps,
    tables=(
        Table("reads", "the whole table", named(TESTS), RATES),
        Table("reads-memory", "the server's memory peak in MB", named(TESTS), MEMORY),
    ),
    plots=(
        Bars(
            "reads",
            "the whole table: rows a second by client",
            ROWS_PER_SECOND,
            "rows_per_second",
            named({"rust": "Rust, or own", "pyarrow": "pyarrow", "adbc": "ADBC"}),
            ("duck-flight", "limit", "seed", "quack", "postgres"),
        ),
    ),
)
