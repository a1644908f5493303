"""How much is measured: every number that a mode sets."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Size:
    """What a mode measures. Pairs of a grid are loaders and rows of a batch."""

    mode: str
    turns: int
    # Each load, and each series of small queries.
    seconds: float
    puts: tuple[tuple[int, int], ...]
    batches: tuple[tuple[int, int], ...]
    exactly_once: tuple[tuple[str, int, int], ...]
    # Peers: the seed; PostgreSQL and Quack, with 8 clients and so many rows, and with the bulk.
    seed_puts: tuple[tuple[int, int], ...]
    peer_rows: tuple[int, ...]
    limit_append_rows: int
    limit_shape_rows: int
    keys: int
    read_rows: int
    tpch_scale: float
    mixed_rows: int
    stall_seconds: float
    checkpoint_row_groups: int
    table_rows: tuple[int, ...]
    connections: tuple[int, ...]
    slow_reader_rows: int


WRITERS = (1, 2, 4, 8, 16, 64, 256)
BATCH_ROWS = (1, 100, 1_000, 10_000)
# One stream of large puts.
BULK = (1, 1_000_000)
GRID = tuple((writers, rows) for rows in BATCH_ROWS for writers in WRITERS) + (BULK,)

FULL = Size(
    mode="full",
    turns=3,
    seconds=4,
    puts=GRID,
    batches=GRID,
    exactly_once=tuple(
        (commit, writers, rows) for commit in ("puts", "batch") for writers in WRITERS for rows in BATCH_ROWS
    ),
    seed_puts=((1, 1_000), (8, 1), (8, 100), (8, 1_000), (8, 10_000), (64, 1_000), (256, 1_000), BULK),
    peer_rows=BATCH_ROWS,
    limit_append_rows=4_000_000,
    limit_shape_rows=500_000,
    keys=1_000_000,
    read_rows=5_000_000,
    tpch_scale=1,
    mixed_rows=1_000_000,
    stall_seconds=60,
    checkpoint_row_groups=15_000,
    table_rows=(1_000_000, 10_000_000, 100_000_000),
    connections=(1, 10, 100, 1_000),
    slow_reader_rows=100_000_000,
)

QUICK = replace(
    FULL,
    mode="quick",
    turns=2,
    seconds=1,
    puts=((1, 1_000), (8, 1), (8, 1_000), (64, 1_000), (256, 1_000), (8, 10_000)),
    batches=((1, 1_000), (8, 1_000), (64, 1_000), (256, 1_000), (8, 10_000)),
    exactly_once=(("puts", 8, 1_000), ("batch", 8, 1_000)),
    seed_puts=((8, 1), (8, 1_000), (8, 10_000)),
    peer_rows=(1, 1_000, 10_000),
    limit_append_rows=1_000_000,
    limit_shape_rows=100_000,
    tpch_scale=0.1,
    stall_seconds=8,
    table_rows=(1_000_000, 10_000_000),
    connections=(1, 100, 1_000),
)

# Whether every case runs; its figures mean nothing.
TINY = replace(
    QUICK,
    mode="tiny",
    turns=1,
    seconds=0.2,
    puts=((1, 1_000), (8, 1), (8, 1_000), (64, 1_000), (8, 10_000), BULK),
    batches=((1, 1_000), (8, 1_000), (64, 1_000)),
    seed_puts=((8, 1_000),),
    peer_rows=(1, 1_000),
    limit_append_rows=200_000,
    limit_shape_rows=20_000,
    keys=10_000,
    read_rows=500_000,
    tpch_scale=0.01,
    mixed_rows=100_000,
    stall_seconds=0.5,
    checkpoint_row_groups=100,
    table_rows=(10_000, 100_000),
    connections=(1, 20),
    slow_reader_rows=2_000_000,
)

SIZES = {size.mode: size for size in (QUICK, FULL, TINY)}
