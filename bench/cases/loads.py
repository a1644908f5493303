"""Loading the four columns of duck-load: from one stream to 256 loaders, from one row a batch to 10,000."""

import re
from collections.abc import Iterator

import clients
import postgres
import quack
from case import (
    MEGABYTES,
    MILLISECONDS,
    NANOSECONDS,
    ROWS_PER_SECOND,
    Bars,
    Case,
    Plot,
    Series,
    Step,
    Table,
    by_contender,
    by_metric,
    cpu_of,
    step,
)
from contenders import running, working_directory
from sizes import BULK, Size

PEER_CLIENTS = 8
# What clients and the transport come to by themselves.
FLOORS = ((8, 1), (8, 1_000), (256, 1_000), (8, 10_000))
# So many rows of a batch have a limit, which is measured right before eight loaders with such batches.
LIMITED_ROWS = (1, 1_000, 10_000)
# What it also counts for: how many rows a batch has beyond that changes little.
BULK_LIMIT_ROWS = 10_000
# Batches of one row that are on their way, by the limit's test: more of them cannot share a commit.
ON_THEIR_WAY = {"limit-1": PEER_CLIENTS, "limit-1-batch": PEER_CLIENTS * clients.in_flight(PEER_CLIENTS, 1)}


def load(name: str, commit: str, writers: int, rows: int, seconds: float, *, once: bool = False) -> dict:
    with running(name) as server:
        clients.make_loaded_table(server)
        producer = clients.new_producer() if once else {}
        report = clients.load(server, commit, writers, rows, seconds, **producer)
        return {**report, "memory_mb": server.memory_peak_mb()}


def limit(rows: int, total: int, most_batches: int | None = None) -> dict:
    """The appender's rates; of commits that have so many batches at most."""
    with working_directory() as directory:
        how = ["--dir", directory, "--batch-rows", rows, "--rows", total]
        if most_batches:
            how += ["--max-commit-batches", most_batches]
        found = clients.bench("limit", "append", *how)
    by_commit: dict[str, float] = {}
    for setting in found["settings"]:
        if not setting["exactly_once"]:
            metric = f"commits_of_{setting['batches_per_commit']}"
            by_commit[metric] = max(by_commit.get(metric, 0), setting["rows_per_second"])
    return {**clients.only(found, "rows_per_second", "rows_per_second_once"), **by_commit}


def limits(commit: str, writers: int, rows: int, size: Size) -> Iterator[Step]:
    """The limit of a test, where it has one."""
    if writers != PEER_CLIENTS or rows not in LIMITED_ROWS:
        return
    shown = "limit-1-batch" if (commit, rows) == ("batch", 1) else f"limit-{rows}"
    tests = [shown, f"{commit}-{writers}x{rows}"]
    if rows == BULK_LIMIT_ROWS:
        tests.append(f"{commit}-{BULK[0]}x{BULK[1]}")
    yield Step(tuple(tests), "limit", lambda: limit(rows, size.limit_append_rows, ON_THEIR_WAY.get(shown)))


def steps(size: Size) -> Iterator[Step]:
    for writers, rows in size.puts:
        test = f"puts-{writers}x{rows}"
        yield from limits("puts", writers, rows, size)
        if (writers, rows) in FLOORS:
            yield step(test, "floor", load, "floor", "puts", writers, rows, size.seconds)
        if (writers, rows) in size.seed_puts:
            yield step(test, "seed", load, "seed", "puts", writers, rows, size.seconds)
        if (writers == PEER_CLIENTS and rows in size.peer_rows) or (writers, rows) == BULK:
            yield step(test, "quack", quack.insert, writers, rows, size.seconds)
            yield step(test, "postgres", postgres.insert, writers, rows, size.seconds)
        yield step(test, "duck-flight", load, "duck-flight", "puts", writers, rows, size.seconds)
        if ("puts", writers, rows) in size.exactly_once:
            yield exactly_once("puts", writers, rows, size)
    for writers, rows in size.batches:
        yield from limits("batch", writers, rows, size)
        if (writers, rows) in FLOORS:
            yield step(f"batch-{writers}x{rows}", "floor", load, "floor", "batch", writers, rows, size.seconds)
        yield step(f"batch-{writers}x{rows}", "duck-flight", load, "duck-flight", "batch", writers, rows, size.seconds)
        if ("batch", writers, rows) in size.exactly_once:
            yield exactly_once("batch", writers, rows, size)


def exactly_once(commit: str, writers: int, rows: int, size: Size) -> Step:
    def measure() -> dict:
        return load("duck-flight", commit, writers, rows, size.seconds, once=True)

    return Step((f"{commit}-{writers}x{rows}",), "duck-flight-once", measure)


def pair(commit: str, test: str) -> tuple[int, int] | None:
    """Loaders and rows of a batch."""
    found = re.fullmatch(rf"{commit}-(\d+)x(\d+)", test)
    return (int(found[1]), int(found[2])) if found else None


def by_rows(test: str) -> tuple[int, int]:
    writers, rows = pair("puts", test) or pair("batch", test)
    return rows, writers


def label(commit: str):
    def of(test: str) -> str | None:
        if (found := pair(commit, test)) is None:
            return None
        writers, rows = found
        return f"{writers} {'loader' if writers == 1 else 'loaders'} × {rows:,} {'row' if rows == 1 else 'rows'}"

    return of


def rows_of_limit(test: str) -> str | None:
    if (on_their_way := ON_THEIR_WAY.get(test)) is not None:
        return f"batches of 1 row, {on_their_way:,} on their way"
    found = re.fullmatch(r"limit-(\d+)", test)
    return f"batches of {int(found[1]):,} rows" if found else None


def writers_with(commit: str, rows: int):
    """The loaders of a test, where its batches have so many rows."""

    def of(test: str) -> float | None:
        found = pair(commit, test)
        return found[0] if found and found[1] == rows else None

    return of


def peers(test: str) -> str | None:
    found = pair("puts", test)
    return f"{found[1]:,} {'row' if found[1] == 1 else 'rows'}" if found and found[0] == PEER_CLIENTS else None


RATES = by_contender(
    "rows_per_second", ROWS_PER_SECOND, "limit", "floor", "seed", "quack", "postgres", "duck-flight", "duck-flight-once"
)
P99 = by_contender("latency_ms_p99", MILLISECONDS, "seed", "quack", "postgres", "duck-flight", "duck-flight-once")
BATCH_RATES = by_contender("rows_per_second", ROWS_PER_SECOND, "limit", "floor", "duck-flight", "duck-flight-once")
BATCH_P99 = by_contender("latency_ms_p99", MILLISECONDS, "duck-flight", "duck-flight-once")
LIMIT_RATES = by_metric(
    "limit",
    commits_of_1=("a commit for each", ROWS_PER_SECOND),
    commits_of_4=("for four", ROWS_PER_SECOND),
    commits_of_8=("for eight", ROWS_PER_SECOND),
    rows_per_second=("the best of all", ROWS_PER_SECOND),
    rows_per_second_once=("the best, exactly once", ROWS_PER_SECOND),
)
CPU = cpu_of("row", NANOSECONDS, "floor", "seed", "duck-flight")
MEMORY = by_contender("memory_mb", MEGABYTES, "seed", "quack", "duck-flight", "duck-flight-once")

CASE = Case(
    name="loads",
    about=(
        "puts, one for each batch, and batch commit, of 1 to 256 loaders with 1 to 10,000 rows, and of one with a "
        "million; with and without exactly-once"
    ),
    steps=steps,
    tables=(
        Table("puts", "a put for each batch", label("puts"), RATES, by_rows),
        Table("puts-p99", "a put for each batch: ack, p99 in ms", label("puts"), P99, by_rows),
        Table("batch", "batch commit", label("batch"), BATCH_RATES, by_rows),
        Table("batch-p99", "batch commit: ack, p99 in ms", label("batch"), BATCH_P99, by_rows),
        Table("limits", "in-process DuckDB", rows_of_limit, LIMIT_RATES),
        Table("puts-cpu", "a put for each batch: what a row takes", label("puts"), CPU, by_rows),
        Table("batch-cpu", "batch commit: what a row takes", label("batch"), CPU, by_rows),
        Table("loads-memory", "a put for each batch: the server's memory peak in MB", label("puts"), MEMORY, by_rows),
        Table("batch-memory", "batch commit: the server's memory peak in MB", label("batch"), MEMORY, by_rows),
    ),
    plots=(
        Plot(
            "loaders",
            "1,000-row batches: rows a second by loaders",
            "loaders",
            ROWS_PER_SECOND,
            (
                Series("Duck Flight, batch commit", "duck-flight", "rows_per_second", writers_with("batch", 1_000)),
                Series("Duck Flight, a put each", "duck-flight", "rows_per_second", writers_with("puts", 1_000)),
                Series("seed, a put each", "seed", "rows_per_second", writers_with("puts", 1_000)),
            ),
        ),
        Bars(
            "batch-sizes",
            "8 loaders, a put for each batch: rows a second by rows of a batch",
            ROWS_PER_SECOND,
            "rows_per_second",
            peers,
            ("duck-flight", "limit", "seed", "quack", "postgres"),
            log_scale=True,
            order=by_rows,
        ),
    ),
)
