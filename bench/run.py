"""Measures Duck Flight beside other servers and beside DuckDB's own limits, and prints the ratios.

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
import writes
from contenders import BINARIES, REPOSITORY, running
from table import print_cost, print_table

NAMES = ("seed", "duck-flight")
READ_ALL = "SELECT * FROM readings"
CASES = ("loads", "exactly-once", "waits", "one-row", "keyed", "reads", "small")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench.sh", description=__doc__)
    parser.add_argument("--turns", type=int, default=3, help="turns of each contender (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=5, help="seconds of each load (default: %(default)s)")
    parser.add_argument("--writers", type=int, default=8, help="loaders at the same time (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows of the large read (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=2000, help="small queries (default: %(default)s)")
    parser.add_argument("--keys", type=int, default=1_000_000, help="rows of the table with a key (default: %(default)s)")
    parser.add_argument(
        "--ack-seconds", type=int, default=15, help="seconds of each load whose longest ack counts (default: %(default)s)"
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, help="what to measure (default: all)")
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


def measure_limits(found: Measurements, options: argparse.Namespace) -> None:
    if not (BINARIES / "duck-bench").exists():
        return
    with contenders.working_directory() as directory:
        limits = contenders.run_json(BINARIES / "duck-bench", "limits", "--dir", directory, "--keys", str(options.keys))
    for name in ("appender_rows_per_s", "stream_rows_per_s", "upsert_rows_per_s"):
        found.add(f"limit.{name}", limits[name])


def measure_loads(found: Measurements, options: argparse.Namespace) -> None:
    for name in NAMES:
        measure_load(found, name, "stream", options)
    measure_load(found, "duck-flight", "batch", options)


def measure_turn(found: Measurements, options: argparse.Namespace) -> None:
    if set(options.cases) - {"waits", "one-row", "small"}:
        measure_limits(found, options)
    if "loads" in options.cases:
        measure_loads(found, options)
    if "exactly-once" in options.cases:
        writes.measure_exactly_once(found, options)
    if "one-row" in options.cases:
        writes.measure_one_row(found, options)
    if "keyed" in options.cases:
        writes.measure_keyed(found, options)
    if "reads" in options.cases:
        for name in NAMES:
            measure_reads(found, name, options)
    if "small" in options.cases:
        for name in NAMES:
            measure_small_queries(found, name, options)


def measure(options: argparse.Namespace) -> Measurements:
    found = Measurements()
    for turn in range(1, options.turns + 1):
        print(f"turn {turn} of {options.turns}", file=sys.stderr)
        measure_turn(found, options)
    # Once: the longest wait of one long run, not the median of several.
    if "waits" in options.cases:
        print(f"waits for acks, {options.ack_seconds} s each", file=sys.stderr)
        writes.measure_waits(found, options)
    return found


def main() -> None:
    options = arguments()
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True)
    print(f"{machine}; {options.writers} loaders, {options.seconds} s each; reads of {options.rows:,} rows;", end=" ")
    print(f"medians of {options.turns} turns")
    found = measure(options)
    table, cost = print_table(found), print_cost(found)
    results = REPOSITORY / "bench" / "results"
    results.mkdir(exist_ok=True)
    result = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": machine,
        "options": vars(options),
        "turns": found.turns,
        "table": table,
        "exactly_once_cost": cost,
    }
    (results / "latest.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
