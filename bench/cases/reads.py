"""A large result: the whole of a table of four columns."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import clients
import postgres
import quack
from case import (
    MEGABYTES,
    NANOSECONDS,
    ROWS_PER_SECOND,
    Bars,
    Case,
    Step,
    Table,
    by_contender,
    cpu_of,
    named,
    step,
)
from clients import READ_ALL
from contenders import Server, running, working_directory
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


@contextmanager
def filled(name: str, rows: int):
    """A server with the table; the floor is told how large the one is that it makes up."""
    flags = ("--rows", str(rows)) if name == "floor" else ()
    with running(name, *flags) as server:
        clients.fill(server, rows)
        yield server


def by_rust(name: str, rows: int) -> dict:
    with filled(name, rows) as server:

        def read_once() -> float:
            found = clients.bench("read", "--server", server.url, "--sql", READ_ALL)
            check(found["rows"], rows)
            return found["seconds"]

        return read(server, rows, read_once)


def by_python(asker, name: str, rows: int) -> dict:
    with filled(name, rows) as server, asker(server) as ask:

        def read_once() -> float:
            start = time.perf_counter()
            check(ask(READ_ALL), rows)
            return time.perf_counter() - start

        return read(server, rows, read_once)


def read(server: Server, rows: int, read_once: Callable[[], float]) -> dict:
    """What a client comes to that reads the whole table a few times, after a warm-up; it tells each time's seconds."""
    read_once()

    def read_again() -> dict:
        return {"rows_per_second": rows / median(read_once() for _ in range(READS))}

    found = clients.with_cpu(server, read_again, lambda _: rows * READS)
    return {**found, "memory_mb": server.memory_peak_mb()}


def check(found: int, rows: int) -> None:
    if found != rows:
        raise RuntimeError(f"{found} rows arrived instead of {rows}")


def steps(size: Size) -> Iterator[Step]:
    yield step("rust", "limit", limit, size.read_rows)
    for name in ("floor", "seed", "duck-flight"):
        yield step("rust", name, by_rust, name, size.read_rows)
    yield step("rust", "quack", quack.read, size.read_rows)
    yield step("rust", "postgres", postgres.read, size.read_rows)
    for name in ("floor", "seed", "duck-flight"):
        yield step("pyarrow", name, by_python, clients.plain_asker, name, size.read_rows)
    for name in ("floor", "duck-flight"):
        yield step("adbc", name, by_python, clients.adbc_asker, name, size.read_rows)


RATES = by_contender("rows_per_second", ROWS_PER_SECOND, "limit", "floor", "seed", "quack", "postgres", "duck-flight")
MEMORY = by_contender("memory_mb", MEGABYTES, "seed", "duck-flight")

CASE = Case(
    name="reads",
    about="`SELECT *` of a table of four columns and 5 million rows, by several clients",
    steps=steps,
    tables=(
        Table("reads", "the whole table", named(TESTS), RATES),
        Table("reads-cpu", "what a row takes", named(TESTS), cpu_of("row", NANOSECONDS, "floor", "seed", "duck-flight")),
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
