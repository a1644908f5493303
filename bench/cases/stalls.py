"""The longest wait for an ack: what a commit or a checkpoint holds up."""

from collections.abc import Iterator

import clients
from case import MILLISECONDS, QUERIES_PER_SECOND, ROWS_PER_SECOND, SECONDS, Case, Step, Table, by_metric, named, step
from contenders import running, working_directory
from sizes import Size

# Commit, and batches of a loader on their way. So many that their throughput is the highest wait for each other too.
LOADS = {"puts": ("puts", 1), "batch": ("batch", 8), "batch-flat-out": ("batch", 125)}
LABELS = {
    "puts": "8 loaders, a put for each 1,000 rows",
    "batch": "8 loaders, batch commit of 1,000 rows, 8 batches of each on their way",
    "batch-flat-out": "8 loaders, batch commit of 1,000 rows, 125 batches of each on their way",
}


def load(commit: str, in_flight: int, seconds: float) -> dict:
    with running("duck-flight") as server:
        clients.make_loaded_table(server)
        more = {"in-flight": in_flight}
        return {"seconds": seconds, **clients.load(server, commit, 8, 1_000, seconds, **more)}


def disk(seconds: float) -> dict:
    """What the disk alone does with small writes, one after the other."""
    with working_directory() as directory:
        found = clients.bench("limit", "disk", "--dir", directory, "--seconds", seconds)
        return clients.only(found, "syncs_per_second", "latency_ms_p50", "latency_ms_p99", "latency_ms_max")


def steps(size: Size) -> Iterator[Step]:
    for test, (commit, in_flight) in LOADS.items():
        yield step(test, "duck-flight", load, commit, in_flight, size.stall_seconds, once=True)
    yield step("disk", "limit", disk, size.stall_seconds / 4, once=True)


COLUMNS = by_metric(
    "duck-flight",
    latency_ms_p50=("p50, ms", MILLISECONDS),
    latency_ms_p99=("p99, ms", MILLISECONDS),
    latency_ms_max=("longest, ms", MILLISECONDS),
    rows_per_second=("rows/s", ROWS_PER_SECOND),
    seconds=("load, s", SECONDS),
)

DISK_COLUMNS = by_metric(
    "limit",
    syncs_per_second=("a second", QUERIES_PER_SECOND),
    latency_ms_p50=("p50, ms", MILLISECONDS),
    latency_ms_p99=("p99, ms", MILLISECONDS),
    latency_ms_max=("longest, ms", MILLISECONDS),
)

CASE = Case(
    name="stalls",
    about="the longest wait for an ack, in one load flat out for a minute (quick: 10 s)",
    steps=steps,
    tables=(
        Table("stalls", "acks", named(LABELS), COLUMNS),
        Table("disk", "the disk alone", named({"disk": "4 KiB and fdatasync, again and again"}), DISK_COLUMNS),
    ),
)
