"""Small queries: `SELECT 42` in every way it can be asked, and rows by their key, prepared or not."""

from collections.abc import Iterator

import clients
import postgres
import quack
from case import (
    MICROSECONDS,
    MILLISECONDS,
    QUERIES_PER_SECOND,
    Bars,
    Case,
    Step,
    Table,
    by_contender,
    cpu_of,
    named,
    step,
)
from contenders import running, working_directory
from sizes import Size

TESTS = {
    "rust-1": "`SELECT 42`, one connection, Rust or the peer's own client",
    "rust-8": "`SELECT 42`, eight connections",
    "pyarrow-1": "`SELECT 42`, one connection, pyarrow",
    "adbc-1": "`SELECT 42`, one connection, ADBC in Python",
    "point-8": "a row by its key, eight connections",
}
POINT = "SELECT * FROM points WHERE id = ?"
CONNECTIONS = (1, 8)


def limit(connections: int, seconds: float) -> dict:
    with working_directory() as directory:
        how = ["--dir", directory, "--connections", connections, "--seconds", seconds]
        return clients.only(clients.bench("limit", "small", *how), *clients.QUERY_METRICS)


def by_rust(name: str, connections: int, via: str, seconds: float) -> dict:
    with running(name) as server:
        return clients.small(server, seconds, connections, via)


def by_python(asker, name: str, seconds: float) -> dict:
    with running(name) as server, asker(server) as ask:
        return clients.timed(server, lambda: ask("SELECT 42"), seconds)


def points(name: str, via: str, size: Size) -> dict:
    with running(name) as server:
        server.execute(
            f"""CREATE TABLE points (id BIGINT PRIMARY KEY, value DOUBLE, category VARCHAR);
                INSERT INTO points SELECT range, random(), chr((65 + range % 4)::INTEGER) FROM range({size.keys})"""
        )
        return clients.small(server, size.seconds, 8, via, sql=POINT, keys=size.keys)


def steps(size: Size) -> Iterator[Step]:
    for count in CONNECTIONS:
        test = f"rust-{count}"
        yield step(test, "limit", limit, count, size.seconds)
        yield step(test, "floor", by_rust, "floor", count, "plain", size.seconds)
        yield step(test, "seed", by_rust, "seed", count, "plain", size.seconds)
        yield step(test, "quack", quack.small, count, size.seconds)
        yield step(test, "postgres", postgres.small, count, size.seconds)
        yield step(test, "duck-flight", by_rust, "duck-flight", count, "plain", size.seconds)
        yield step(test, "duck-flight-sql", by_rust, "duck-flight", count, "flight-sql", size.seconds)
        yield step(test, "duck-flight-prepared", by_rust, "duck-flight", count, "prepared", size.seconds)
    for name in ("floor", "seed", "duck-flight"):
        yield step("pyarrow-1", name, by_python, clients.plain_asker, name, size.seconds)
    for name in ("floor", "duck-flight"):
        yield step("adbc-1", name, by_python, clients.adbc_asker, name, size.seconds)
    yield step("point-8", "seed", points, "seed", "plain", size)
    yield step("point-8", "postgres", postgres.points, size.keys, 8, size.seconds)
    for contender, via in (
        ("duck-flight", "plain"),
        ("duck-flight-sql", "flight-sql"),
        ("duck-flight-prepared", "prepared"),
    ):
        yield step("point-8", contender, points, "duck-flight", via, size)


PEERS = ("limit", "floor", "seed", "quack", "postgres", "duck-flight")
WAYS = ("duck-flight", "duck-flight-sql", "duck-flight-prepared")
DIRECT = ("rust-1", "rust-8", "point-8")

CASE = Case(
    name="small",
    about="`SELECT 42` on one and eight connections, by plain Flight, Flight SQL, prepared and ADBC; a row by its key",
    steps=steps,
    tables=(
        Table(
            "small", "queries a second", named(TESTS), by_contender("queries_per_second", QUERIES_PER_SECOND, *PEERS)
        ),
        Table("small-p99", "p99 in ms", named(TESTS), by_contender("latency_ms_p99", MILLISECONDS, *PEERS)),
        Table("small-cpu", "what a query takes", named(TESTS), cpu_of("query", MICROSECONDS, "floor", "duck-flight")),
        Table(
            "ways",
            "Duck Flight's ways: queries a second",
            named({test: TESTS[test] for test in DIRECT}),
            by_contender("queries_per_second", QUERIES_PER_SECOND, *WAYS),
        ),
        Table(
            "ways-p99",
            "Duck Flight's ways: p99 in ms",
            named({test: TESTS[test] for test in DIRECT}),
            by_contender("latency_ms_p99", MILLISECONDS, *WAYS),
        ),
    ),
    plots=(
        Bars(
            "small",
            "small queries a second",
            QUERIES_PER_SECOND,
            "queries_per_second",
            named(
                {
                    "rust-1": "SELECT 42, 1 connection",
                    "rust-8": "SELECT 42, 8 connections",
                    "point-8": "by key, 8 connections",
                }
            ),
            ("duck-flight", "duck-flight-prepared", "seed", "quack", "postgres"),
            log_scale=True,
        ),
    ),
)
