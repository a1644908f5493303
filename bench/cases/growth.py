"""What grows with the table, and with the connections."""

from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import PIPE, Popen

import clients
from case import (
    MEGABYTES,
    MILLISECONDS,
    QUERIES_PER_SECOND,
    ROWS_PER_SECOND,
    Case,
    Plot,
    Series,
    Step,
    Table,
    by_metric,
    step,
)
from contenders import BINARIES, Server, running
from sizes import Size

# It reads one row group: zone maps rule out the others.
LOOK_UP = f"SELECT count(*), avg(value) FROM {clients.LOADED} WHERE batch_id = 7"


def table_of(rows: int, size: Size) -> dict:
    """Loading into a table of so many rows, and asking it."""
    with running("duck-flight") as server:
        clients.fill(server, rows, clients.LOADED)
        asked = clients.small(server, size.seconds, sql=LOOK_UP)
        loaded = clients.load(server, "puts", 8, 1_000, size.seconds)
        return {
            "rows_per_second": loaded["rows_per_second"],
            "latency_ms_p99": loaded["latency_ms_p99"],
            "query_ms_p50": asked["latency_ms_p50"],
            "memory_mb": server.memory_peak_mb(),
        }


@contextmanager
def idle_connections(server: Server, count: int):
    """So many connections that do nothing."""
    command = [BINARIES / "duck-bench", "idle", "--server", server.url, "--connections", str(count)]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        if process.stdout.readline().strip() != "connected":
            raise RuntimeError(f"{count} connections were not to be had")
        yield
        # It ends by itself when its input does.
        process.communicate()


def idle(connections: int, size: Size) -> dict:
    with running("duck-flight") as server:
        clients.make_loaded_table(server)
        with idle_connections(server, connections):
            loaded = clients.load(server, "puts", 8, 1_000, size.seconds)
            asked = clients.small(server, size.seconds)
        return {
            "rows_per_second": loaded["rows_per_second"],
            "latency_ms_p99": loaded["latency_ms_p99"],
            "queries_per_second": asked["queries_per_second"],
            "memory_mb": server.memory_peak_mb(),
        }


def active(connections: int, size: Size) -> dict:
    with running("duck-flight") as server:
        asked = clients.small(server, size.seconds, connections)
        return {
            "queries_per_second": asked["queries_per_second"],
            "latency_ms_p99": asked["latency_ms_p99"],
            "memory_mb": server.memory_peak_mb(),
        }


def steps(size: Size) -> Iterator[Step]:
    for rows in size.table_rows:
        yield step(f"table-{rows}", "duck-flight", table_of, rows, size)
    for connections in size.connections:
        yield step(f"idle-{connections}", "duck-flight", idle, connections, size)
        yield step(f"active-{connections}", "duck-flight", active, connections, size)


def number(prefix: str):
    def of(test: str) -> float | None:
        return int(test.removeprefix(prefix)) if test.startswith(prefix) else None

    return of


def label(prefix: str, noun: str):
    def of(test: str) -> str | None:
        found = number(prefix)(test)
        return None if found is None else f"{found:,} {noun}{'' if found == 1 else 's'}"

    return of


LOADED = {"rows_per_second": ("rows/s", ROWS_PER_SECOND), "latency_ms_p99": ("ack p99, ms", MILLISECONDS)}
LOADED_FIRST = {metric: (f"8 loaders: {label}", unit) for metric, (label, unit) in LOADED.items()}
ASKED = {"queries_per_second": ("queries/s", QUERIES_PER_SECOND)}
ASKED_AFTERWARDS = {"queries_per_second": ("afterwards `SELECT 42`: queries/s", QUERIES_PER_SECOND)}
MEMORY = {"memory_mb": ("memory peak, MB", MEGABYTES)}

CASE = Case(
    name="growth",
    about=(
        "8 loaders, and a query without them, on tables of 1 to 100 million rows (quick: to 10), and beside 1 to 1,000 "
        "idle connections; 1 to 1,000 active ones"
    ),
    steps=steps,
    tables=(
        Table(
            "growth-table",
            "rows in the table",
            label("table-", "row"),
            by_metric("duck-flight", **LOADED, query_ms_p50=("look-up p50, ms", MILLISECONDS), **MEMORY),
        ),
        Table(
            "growth-idle",
            "idle connections",
            label("idle-", "connection"),
            by_metric("duck-flight", **LOADED_FIRST, **ASKED_AFTERWARDS, **MEMORY),
        ),
        Table(
            "growth-active",
            "connections that ask `SELECT 42`",
            label("active-", "connection"),
            by_metric("duck-flight", **ASKED, latency_ms_p99=("p99, ms", MILLISECONDS), **MEMORY),
        ),
    ),
    plots=(
        Plot(
            "connections",
            "SELECT 42: queries a second by connections",
            "connections",
            QUERIES_PER_SECOND,
            (
                Series("all of them asking", "duck-flight", "queries_per_second", number("active-")),
                Series("one asking, the others idle", "duck-flight", "queries_per_second", number("idle-")),
            ),
        ),
    ),
)
