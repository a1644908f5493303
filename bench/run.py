"""Measures Duck Flight beside the seed's server and beside DuckDB's own limits, and prints the ratios.

Contenders take turns, each time on a fresh database; what is printed is the median of all turns.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from statistics import median

import contenders
from contenders import BINARIES, REPOSITORY, running

NAMES = ("seed", "duck-flight")
READ_ALL = "SELECT * FROM readings"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench.sh", description=__doc__)
    parser.add_argument("--turns", type=int, default=3, help="turns of each contender (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=5, help="seconds of each load (default: %(default)s)")
    parser.add_argument("--writers", type=int, default=8, help="loaders at the same time (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows of the large read (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=2000, help="small queries (default: %(default)s)")
    return parser.parse_args()


class Measurements:
    """What was measured, turn by turn, by a dotted name: `seed.puts.rows_per_second`."""

    def __init__(self):
        self.turns: dict[str, list[float]] = {}

    def add(self, name: str, value: float | None) -> None:
        if value is not None:
            self.turns.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> float | None:
        return median(self.turns[name]) if name in self.turns else None


def measure_load(found: Measurements, name: str, commit: str, options: argparse.Namespace) -> None:
    case = f"{name}.{'puts' if commit == 'stream' else 'batch_commit'}"
    with running(name) as server:
        report = contenders.load(server, commit, options.writers, options.seconds)
        for key in ("rows_per_second", "latency_ms_p50", "latency_ms_p99"):
            found.add(f"{case}.{key}", report[key])
        found.add(f"{case}.memory_mb", server.memory_peak_mb())


def measure_reads(found: Measurements, name: str, options: argparse.Namespace) -> None:
    with running(name) as server:
        contenders.fill(server, options.rows)
        contenders.read_seconds(server, READ_ALL, options.rows)
        seconds = median(contenders.read_seconds(server, READ_ALL, options.rows) for _ in range(3))
        found.add(f"{name}.read.rows_per_second", options.rows / seconds)
        if rust := rust_read_seconds(server):
            found.add(f"{name}.read_rust.rows_per_second", options.rows / rust)
        found.add(f"{name}.read.memory_mb", server.memory_peak_mb())


def rust_read_seconds(server: contenders.Contender) -> float | None:
    if not (BINARIES / "duck-bench").exists():
        return None
    command = [BINARIES / "duck-bench", "read", "--server", server.url, "--sql", READ_ALL]
    return median(contenders.run_json(*command)["seconds"] for _ in range(3))


def measure_small_queries(found: Measurements, name: str, options: argparse.Namespace) -> None:
    with running(name) as server:
        small = [BINARIES / "duck-bench", "small", "--server", server.url, "--queries", str(options.queries)]
        for case, connections in (("small", "1"), ("small_8", "8")):
            report = contenders.run_json(*small, "--connections", connections)
            found.add(f"{name}.{case}.queries_per_second", report["queries_per_s"])
            found.add(f"{name}.{case}.latency_ms_p50", report["latency_ms_p50"])
            found.add(f"{name}.{case}.latency_ms_p99", report["latency_ms_p99"])


def measure_limits(found: Measurements) -> None:
    if not (BINARIES / "duck-bench").exists():
        return
    with contenders.working_directory() as directory:
        limits = contenders.run_json(BINARIES / "duck-bench", "limits", "--dir", directory)
    for name in ("appender_rows_per_s", "stream_rows_per_s"):
        found.add(f"limit.{name}", limits[name])


def measure(options: argparse.Namespace) -> Measurements:
    found = Measurements()
    for turn in range(1, options.turns + 1):
        print(f"turn {turn} of {options.turns}", file=sys.stderr)
        measure_limits(found)
        for name in NAMES:
            measure_load(found, name, "stream", options)
        measure_load(found, "duck-flight", "batch", options)
        for name in NAMES:
            measure_reads(found, name, options)
        for name in NAMES:
            measure_small_queries(found, name, options)
    return found


def millions(rows_per_second: float) -> str:
    return f"{rows_per_second / 1e6:.2f} M rows/s"


# What is compared: its name, the other and ours by the names of the measurements, how to print them, and the
# ratio to reach.
COMPARISONS = [
    ("puts of 1,000 rows, ack", "seed.puts.rows_per_second", "duck-flight.puts.rows_per_second", millions, 2.5),
    ("  ack p50", "seed.puts.latency_ms_p50", "duck-flight.puts.latency_ms_p50", "{:.1f} ms".format, None),
    ("  ack p99", "seed.puts.latency_ms_p99", "duck-flight.puts.latency_ms_p99", "{:.1f} ms".format, None),
    ("batch commit", "limit.appender_rows_per_s", "duck-flight.batch_commit.rows_per_second", millions, 0.7),
    ("read, Rust client", "limit.stream_rows_per_s", "duck-flight.read_rust.rows_per_second", millions, 0.6),
    ("read, Rust client", "seed.read_rust.rows_per_second", "duck-flight.read_rust.rows_per_second", millions, None),
    ("read, pyarrow", "seed.read.rows_per_second", "duck-flight.read.rows_per_second", millions, None),
    ("small query", "seed.small.queries_per_second", "duck-flight.small.queries_per_second", "{:.0f} /s".format, 2.0),
    ("  p50", "seed.small.latency_ms_p50", "duck-flight.small.latency_ms_p50", "{:.2f} ms".format, None),
    ("  p99", "seed.small.latency_ms_p99", "duck-flight.small.latency_ms_p99", "{:.2f} ms".format, None),
    ("small query, 8 clients", "seed.small_8.queries_per_second", "duck-flight.small_8.queries_per_second", "{:.0f} /s".format, None),
    ("memory peak, puts", "seed.puts.memory_mb", "duck-flight.puts.memory_mb", "{:.0f} MB".format, None),
    ("memory peak, batch commit", None, "duck-flight.batch_commit.memory_mb", "{:.0f} MB".format, None),
    ("memory peak, read", "seed.read.memory_mb", "duck-flight.read.memory_mb", "{:.0f} MB".format, None),
]


def compare(found: Measurements, other: str | None, ours: str, show, target: float | None) -> list[str]:
    theirs_value, our_value = found[other] if other else None, found[ours]
    cells = [show(value) if value is not None else "-" for value in (theirs_value, our_value)]
    ratio = our_value / theirs_value if our_value and theirs_value else None
    verdict = "" if target is None or ratio is None else "reached" if ratio >= target else "missed"
    against = other.split(".")[0] if other else ""
    return [against, *cells, f"{ratio:.2f}" if ratio else "-", f"{target:.2f}" if target else "", verdict]


def print_table(found: Measurements) -> list[dict]:
    header = ["case", "against", "theirs", "duck-flight", "ratio", "target", ""]
    lines = [[name, *compare(found, *comparison)] for name, *comparison in COMPARISONS]
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]
    for line in [header, *lines]:
        left = [cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]
        print("  ".join(left + right).rstrip())
    return [dict(zip(header[:-1] + ["verdict"], line, strict=True)) for line in lines]


def main() -> None:
    options = arguments()
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True)
    print(f"{machine}; {options.writers} loaders, {options.seconds} s each; reads of {options.rows:,} rows;", end=" ")
    print(f"medians of {options.turns} turns")
    found = measure(options)
    table = print_table(found)
    results = REPOSITORY / "bench" / "results"
    results.mkdir(exist_ok=True)
    result = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": machine,
        "options": vars(options),
        "turns": found.turns,
        "table": table,
    }
    (results / "latest.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
