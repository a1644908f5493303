"""What is compared, and how it is printed."""

from collections.abc import Callable
from dataclasses import dataclass


def millions(rows_per_second: float) -> str:
    return f"{rows_per_second / 1e6:.2f} M rows/s"


def a_second(rate: float) -> str:
    return f"{rate:,.0f} /s"


def millis(latency: float) -> str:
    return f"{latency:.1f} ms"


def short_millis(latency: float) -> str:
    return f"{latency:.2f} ms"


def megabytes(memory: float) -> str:
    return f"{memory:.0f} MB"


@dataclass(frozen=True)
class Comparison:
    """A row of the table: the other and ours by the names of the measurements."""

    name: str
    other: str | None
    ours: str
    show: Callable[[float], str]
    # The ratio to reach, or the value that ours must not exceed.
    at_least: float | None = None
    at_most: float | None = None

    def cells(self, found) -> list[str]:
        theirs, ours = found[self.other] if self.other else None, found[self.ours]
        values = [self.show(value) if value is not None else "-" for value in (theirs, ours)]
        ratio = ours / theirs if ours and theirs else None
        against = self.other.split(".")[0] if self.other else ""
        return [self.name, against, *values, f"{ratio:.2f}" if ratio else "-", *self.verdict(ratio, ours)]

    def verdict(self, ratio: float | None, ours: float | None) -> tuple[str, str]:
        if self.at_least is not None:
            reached = None if ratio is None else ratio >= self.at_least
            target = f"{self.at_least:.2f}"
        elif self.at_most is not None:
            reached = None if ours is None else ours <= self.at_most
            target = f"<= {self.show(self.at_most)}"
        else:
            return "", ""
        return target, {None: "", True: "reached", False: "missed"}[reached]


COMPARISONS = [
    Comparison("puts of 1,000 rows, ack", "seed.puts.rows_per_second", "duck-flight.puts.rows_per_second", millions, 2.5),
    Comparison("  ack p50", "seed.puts.latency_ms_p50", "duck-flight.puts.latency_ms_p50", millis),
    Comparison("  ack p99", "seed.puts.latency_ms_p99", "duck-flight.puts.latency_ms_p99", millis),
    Comparison("batch commit", "limit.appender_rows_per_s", "duck-flight.batch_commit.rows_per_second", millions, 0.7),
    Comparison("batch commit, beside the next", "limit.appender_rows_per_s", "no-producer.batch_commit.rows_per_second", millions, 0.85),
    Comparison("batch commit, exactly once", "limit.appender_rows_per_s", "duck-flight.once.batch_commit.rows_per_second", millions, 0.85),
    Comparison("batch commit, exactly once", "no-producer.batch_commit.rows_per_second", "duck-flight.once.batch_commit.rows_per_second", millions, 0.95),
    Comparison("puts of 1,000 rows, exactly once", "no-producer.puts.rows_per_second", "duck-flight.once.puts.rows_per_second", millions),
    Comparison("longest ack, puts of 1,000 rows", None, "duck-flight.waits.puts.latency_ms_max", millis, at_most=250),
    Comparison("  p99", None, "duck-flight.waits.puts.latency_ms_p99", millis),
    Comparison("  rate", None, "duck-flight.waits.puts.rows_per_second", millions),
    Comparison("longest ack, batch commit", None, "duck-flight.waits.batch_commit.latency_ms_max", millis, at_most=250),
    Comparison("  p99", None, "duck-flight.waits.batch_commit.latency_ms_p99", millis),
    Comparison("  rate", None, "duck-flight.waits.batch_commit.rows_per_second", millions),
    Comparison("one-row puts", "quack.one_row.rows_per_second", "duck-flight.one_row.puts.rows_per_second", a_second, 10),
    Comparison("one-row puts", "postgres.one_row.rows_per_second", "duck-flight.one_row.puts.rows_per_second", a_second),
    Comparison("  ack p50", "quack.one_row.latency_ms_p50", "duck-flight.one_row.puts.latency_ms_p50", short_millis),
    Comparison("  ack p99", "quack.one_row.latency_ms_p99", "duck-flight.one_row.puts.latency_ms_p99", short_millis),
    Comparison("one-row batches, one long put", "quack.one_row.rows_per_second", "duck-flight.one_row.stream.rows_per_second", a_second, 10),
    Comparison("  128 on their way", "quack.one_row.rows_per_second", "duck-flight.one_row.pipelined.rows_per_second", a_second),
    Comparison("upserts of 1,000 rows", "limit.upsert_rows_per_s", "duck-flight.upsert.rows_per_second", millions),
    Comparison("  ack p99", None, "duck-flight.upsert.latency_ms_p99", millis),
    Comparison("changes of 1,000 rows", None, "duck-flight.changes.rows_per_second", millions),
    Comparison("  ack p99", None, "duck-flight.changes.latency_ms_p99", millis),
    Comparison("read, Rust client", "limit.stream_rows_per_s", "duck-flight.read_rust.rows_per_second", millions, 0.6),
    Comparison("read, Rust client", "seed.read_rust.rows_per_second", "duck-flight.read_rust.rows_per_second", millions),
    Comparison("read, pyarrow", "seed.read.rows_per_second", "duck-flight.read.rows_per_second", millions),
    Comparison("small query", "seed.small.queries_per_second", "duck-flight.small.queries_per_second", a_second, 2.0),
    Comparison("  p50", "seed.small.latency_ms_p50", "duck-flight.small.latency_ms_p50", short_millis),
    Comparison("  p99", "seed.small.latency_ms_p99", "duck-flight.small.latency_ms_p99", short_millis),
    Comparison("small query, 8 clients", "seed.small_8.queries_per_second", "duck-flight.small_8.queries_per_second", a_second),
    Comparison("memory peak, puts", "seed.puts.memory_mb", "duck-flight.puts.memory_mb", megabytes),
    Comparison("memory peak, batch commit", None, "duck-flight.batch_commit.memory_mb", megabytes),
    Comparison("memory peak, read", "seed.read.memory_mb", "duck-flight.read.memory_mb", megabytes),
]

HEADER = ["case", "against", "theirs", "duck-flight", "ratio", "target", ""]


def print_table(found) -> list[dict]:
    lines = [comparison.cells(found) for comparison in COMPARISONS if found[comparison.ours] is not None]
    widths = [max(len(line[column]) for line in [HEADER, *lines]) for column in range(len(HEADER))]
    for line in [HEADER, *lines]:
        left = [cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]
        print("  ".join(left + right).rstrip())
    return [dict(zip(HEADER[:-1] + ["verdict"], line, strict=True)) for line in lines]


def print_cost(found) -> dict | None:
    """What exactly-once costs in percent of the rate without it: the median of the pairs, the least and the most."""
    without = found.turns.get("no-producer.batch_commit.rows_per_second", [])
    once = found.turns.get("duck-flight.once.batch_commit.rows_per_second", [])
    costs = sorted(100 * (1 - ours / theirs) for theirs, ours in zip(without, once, strict=True))
    if not costs:
        return None
    middle = (costs[(len(costs) - 1) // 2] + costs[len(costs) // 2]) / 2
    print(f"exactly once costs {middle:.1f} % with batch commit (pairs from {costs[0]:.1f} to {costs[-1]:.1f} %), target 5 %")
    return {"median_percent": middle, "pairs_percent": costs}
