"""What clients and the transport cost by themselves: Duck Flight beside a server that does nothing."""

from collections.abc import Iterator

import clients
from case import QUERIES_PER_SECOND, ROWS_PER_SECOND, Case, Step, Table, by_contender, named, step
from cases import loads, reads, small
from sizes import Size

QUERIES = {
    "small-rust-1": "`SELECT 42`, one connection, Rust",
    "small-rust-8": "`SELECT 42`, eight connections, Rust",
    "small-pyarrow": "`SELECT 42`, one connection, pyarrow",
    "small-adbc": "`SELECT 42`, one connection, ADBC",
}
ROWS = {
    "read-rust": "the whole table, Rust",
    "read-pyarrow": "the whole table, pyarrow",
    "read-adbc": "the whole table, ADBC",
    "puts-8x1": "8 loaders × 1 row, a put for each",
    "puts-8x1000": "8 loaders × 1,000 rows, a put for each batch",
    "batch-8x1000": "8 loaders × 1,000 rows, batch commit",
}
PYTHON = {"pyarrow": clients.plain_asker, "adbc": clients.adbc_asker}
CONTENDERS = ("floor", "duck-flight")


def steps(size: Size) -> Iterator[Step]:
    """Both in turn, test by test."""
    for connections in (1, 8):
        for name in CONTENDERS:
            yield step(f"small-rust-{connections}", name, small.by_rust, name, connections, "plain", size.seconds)
    for client, asker in PYTHON.items():
        for name in CONTENDERS:
            yield step(f"small-{client}", name, small.by_python, asker, name, size.seconds)
    for name in CONTENDERS:
        yield step("read-rust", name, reads.by_rust, name, size.read_rows, *flags(name, size))
    for client, asker in PYTHON.items():
        for name in CONTENDERS:
            yield step(f"read-{client}", name, reads.by_python, asker, name, size.read_rows, *flags(name, size))
    for commit, rows in (("puts", 1), ("puts", 1_000), ("batch", 1_000)):
        for name in CONTENDERS:
            yield step(f"{commit}-8x{rows}", name, loads.load, name, commit, 8, rows, size.seconds)


def flags(name: str, size: Size) -> tuple[str, ...]:
    """What says how large the table is: the floor has none that could be filled."""
    return ("--rows", str(size.read_rows)) if name == "floor" else ()


CASE = Case(
    name="floor",
    about="what clients and the transport cost by themselves: small queries, large results and puts of a server that "
    "does nothing, beside Duck Flight's",
    steps=steps,
    tables=(
        Table(
            "floor-queries",
            "queries a second",
            named(QUERIES),
            by_contender("queries_per_second", QUERIES_PER_SECOND, *CONTENDERS),
        ),
        Table("floor-rows", "rows a second", named(ROWS), by_contender("rows_per_second", ROWS_PER_SECOND, *CONTENDERS)),
    ),
)
