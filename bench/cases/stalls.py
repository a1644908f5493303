"""The longest wait for an ack: what a commit or a checkpoint holds up."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import clients
from case import (
    COUNT,
    MILLISECONDS,
    PERCENT,
    QUERIES_PER_SECOND,
    ROWS_PER_SECOND,
    SECONDS,
    Case,
    Step,
    Table,
    by_metric,
    named,
    step,
)
from contenders import running, working_directory
from sizes import Size

# Commit, and batches of a loader on their way. So many that their throughput is the highest wait for each other too.
# 32 are what `duck-load` has on its way where it is not told.
LOADS = {
    "puts": ("puts", 1),
    "batch": ("batch", 8),
    "batch-default": ("batch", 32),
    "batch-flat-out": ("batch", 125),
}
LABELS = {
    "puts": "8 loaders, a put for each 1,000 rows",
    "batch": "8 loaders, batch commit of 1,000 rows, 8 batches of each on their way",
    "batch-default": "8 loaders, batch commit of 1,000 rows, 32 batches of each on their way (the default)",
    "batch-flat-out": "8 loaders, batch commit of 1,000 rows, 125 batches of each on their way",
}

CHECKPOINT_LABELS = {
    "checkpoint": "a checkpoint of one new row, in a table of four columns and 15,000 row groups (300 million rows of ours)"
}

# Of all that is told at debug, checkpoints only: the log is not to slow down what is measured.
CHECKPOINTS_LOG = "info,duck_flight_server::engine::storage::checkpoint=debug"


@dataclass(frozen=True)
class Span:
    """From when to when, in seconds since 1970."""

    start: float
    end: float

    @classmethod
    def until(cls, end: str, millis: float) -> "Span":
        """The time before an end that is written as in `2026-01-02T03:04:05.000006Z`."""
        at = datetime.fromisoformat(end).timestamp()
        return cls(at - millis / 1e3, at)

    def seconds(self) -> float:
        return self.end - self.start

    def seconds_within(self, other: "Span") -> float:
        return max(0.0, min(self.end, other.end) - max(self.start, other.start))


def load(commit: str, in_flight: int, seconds: float) -> dict:
    with running("duck-flight", "--log-format", "json", log=CHECKPOINTS_LOG) as server:
        clients.make_loaded_table(server)
        start, more = time.time(), {"in-flight": in_flight}
        report = clients.load_report(server, commit, 8, 1_000, seconds, **more)
        loading = Span(start, time.time())
        checkpoints = checkpoints_of(server.whole_log())
    longest_ack = Span.until(report["latency_max_at"], report["latency_ms_max"])
    found = clients.only(report, *clients.WRITE_METRICS, *clients.CPU_METRICS)
    return {"seconds": seconds, **found, **beside(checkpoints, loading, longest_ack)}


def checkpoints_of(log: str) -> list[Span]:
    """When the checkpoints ran of which a log tells."""
    lines = [json.loads(line) for line in log.splitlines() if '"checkpoint finished"' in line]
    return [Span.until(line["timestamp"], float(line["fields"]["elapsed_ms"])) for line in lines]


def beside(checkpoints: list[Span], loading: Span, longest_ack: Span) -> dict:
    """The checkpoints of a load, and how much of its time and of its longest wait for an ack one ran beside it."""
    during = [span for span in checkpoints if span.start < loading.end and loading.start < span.end]
    return {
        "checkpoints": len(during),
        "checkpoint_ms_max": max((1e3 * checkpoint.seconds() for checkpoint in during), default=None),
        "checkpoints_percent": percent_beside(during, loading),
        "longest_ack_checkpoints_percent": percent_beside(during, longest_ack),
    }


def percent_beside(checkpoints: list[Span], span: Span) -> float:
    """Of a span, in which a checkpoint ran; there is one at a time."""
    return 100 * sum(checkpoint.seconds_within(span) for checkpoint in checkpoints) / span.seconds()


def disk(seconds: float) -> dict:
    """What the disk alone does with small writes, one after the other."""
    with working_directory() as directory:
        found = clients.bench("limit", "disk", "--dir", directory, "--seconds", seconds)
        return clients.only(found, "syncs_per_second", "latency_ms_p50", "latency_ms_p99", "latency_ms_max")


def checkpoint(row_groups: int) -> dict:
    """What plain DuckDB takes for a checkpoint that has next to nothing to write."""
    with working_directory() as directory:
        return clients.bench("limit", "checkpoint", "--dir", directory, "--row-groups", row_groups)


def steps(size: Size) -> Iterator[Step]:
    for test, (commit, in_flight) in LOADS.items():
        yield step(test, "duck-flight", load, commit, in_flight, size.stall_seconds, once=True)
    yield step("checkpoint", "limit", checkpoint, size.checkpoint_row_groups, once=True)
    yield step("disk", "limit", disk, size.stall_seconds / 4, once=True)


COLUMNS = by_metric(
    "duck-flight",
    latency_ms_p50=("p50, ms", MILLISECONDS),
    latency_ms_p99=("p99, ms", MILLISECONDS),
    latency_ms_max=("longest, ms", MILLISECONDS),
    rows_per_second=("rows/s", ROWS_PER_SECOND),
    seconds=("load, s", SECONDS),
    checkpoints=("checkpoints", COUNT),
    checkpoint_ms_max=("longest checkpoint, ms", MILLISECONDS),
    checkpoints_percent=("load beside one", PERCENT),
    longest_ack_checkpoints_percent=("longest ack beside one", PERCENT),
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
    about="the longest wait for an ack, in one load flat out for a minute (quick: 8 s)",
    steps=steps,
    tables=(
        Table("stalls", "acks", named(LABELS), COLUMNS),
        Table("checkpoint", "plain DuckDB", named(CHECKPOINT_LABELS), by_metric("limit", checkpoint_ms=("ms", MILLISECONDS))),
        Table("disk", "the disk alone", named({"disk": "4 KiB and fdatasync, again and again"}), DISK_COLUMNS),
    ),
)
