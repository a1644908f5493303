"""Loading rows that are wide, long, nested, or go by a primary key."""

from collections.abc import Iterator

import clients
import postgres
from case import MEGABYTES, MILLISECONDS, ROWS_PER_SECOND, Case, Step, Table, by_contender, named, step
from contenders import running, working_directory
from sizes import Size

SHAPES = {
    "wide": "100 columns of numbers",
    "strings": "4 texts of 5 to 200 bytes",
    "nested": "a list, a struct and a list of structs",
}
KEYED = {
    "upsert": "upserts by primary key",
    "changes": "changes by primary key, a tenth of them deletes",
}
WRITERS = 8
BATCH_ROWS = 1_000


def load(name: str, kind: str, size: Size) -> dict:
    with running(name) as server:
        how = ["--kind", kind, "--writers", WRITERS, "--seconds", size.seconds, "--keys", size.keys]
        report = clients.bench("load", "--server", server.url, "--rows", BATCH_ROWS, *how)
        return {**clients.only(report, *clients.WRITE_METRICS), "memory_mb": server.memory_peak_mb()}


def append_limit(shape: str, size: Size) -> dict:
    with working_directory() as directory:
        how = ["--dir", directory, "--shape", shape, "--rows", size.limit_shape_rows]
        return clients.only(clients.bench("limit", "append", *how), "rows_per_second")


def upsert_limit(size: Size) -> dict:
    with working_directory() as directory:
        how = ["--dir", directory, "--keys", size.keys, "--seconds", min(1, size.seconds)]
        return clients.bench("limit", "upsert", *how)


def steps(size: Size) -> Iterator[Step]:
    for kind in SHAPES:
        yield step(kind, "limit", append_limit, kind, size)
        for name in ("seed", "duck-flight"):
            yield step(kind, name, load, name, kind, size)
    yield step("upsert", "limit", upsert_limit, size)
    yield step("upsert", "postgres", postgres.upsert, WRITERS, BATCH_ROWS, size.keys, size.seconds)
    for kind in KEYED:
        yield step(kind, "duck-flight", load, "duck-flight", kind, size)


RATES = by_contender("rows_per_second", ROWS_PER_SECOND, "limit", "seed", "postgres", "duck-flight")
P99 = by_contender("latency_ms_p99", MILLISECONDS, "seed", "duck-flight")
MEMORY = by_contender("memory_mb", MEGABYTES, "seed", "duck-flight")

CASE = Case(
    name="rows",
    about="8 loaders with puts of 1,000 rows that are wide, long, nested, or go by a primary key",
    steps=steps,
    tables=(
        Table("rows", "8 loaders × 1,000 rows", named(SHAPES | KEYED), RATES),
        Table("rows-p99", "8 loaders × 1,000 rows: ack, p99 in ms", named(SHAPES | KEYED), P99),
        Table(
            "rows-memory", "8 loaders × 1,000 rows: the server's memory peak in MB", named(SHAPES | KEYED), MEMORY
        ),
    ),
)
