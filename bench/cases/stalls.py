"""The longest wait for an ack: what a commit or a checkpoint holds up."""

from collections.abc import Iterator

import clients
from case import MILLISECONDS, ROWS_PER_SECOND, Case, Step, Table, by_metric, named, step
from contenders import running
from sizes import Size

# Commit, and batches of a loader on their way: more of them would wait for each other.
LOADS = {"puts": ("puts", 1), "batch": ("batch", 8)}
LABELS = {
    "puts": "8 loaders, a put for each 1,000 rows",
    "batch": "8 loaders, batch commit of 1,000 rows, 8 batches of each on their way",
}


def load(commit: str, in_flight: int, seconds: float) -> dict:
    with running("duck-flight") as server:
        clients.make_loaded_table(server)
        more = {"in-flight": in_flight}
        return clients.load(server, commit, 8, 1_000, seconds, **more)


def steps(size: Size) -> Iterator[Step]:
    for test, (commit, in_flight) in LOADS.items():
        yield step(test, "duck-flight", load, commit, in_flight, size.stall_seconds, once=True)


COLUMNS = by_metric(
    "duck-flight",
    latency_ms_p50=("p50, ms", MILLISECONDS),
    latency_ms_p99=("p99, ms", MILLISECONDS),
    latency_ms_max=("longest, ms", MILLISECONDS),
    rows_per_second=("rows/s", ROWS_PER_SECOND),
)

CASE = Case(
    name="stalls",
    about="the longest wait for an ack, in one load flat out for a minute (quick: 20 s)",
    steps=steps,
    tables=(Table("stalls", "acks", named(LABELS), COLUMNS),),
)
