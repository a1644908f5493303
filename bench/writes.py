"""The cases of the write path: exactly-once loading, the longest waits, one-row puts, and rows by key."""

import os
import sys
import time
from argparse import Namespace

import contenders
import postgres
import quack
from contenders import BINARIES, running

RATE = "rows_per_second"
WAITS = ("latency_ms_p50", "latency_ms_p99", "latency_ms_max")


def measure_exactly_once(found, options: Namespace) -> None:
    """Loads with producers and without, each on a fresh table, in an order that favours neither."""
    for case, commit, order in (
        ("batch_commit", "batch", (False, True, True, False)),
        ("puts", "stream", (False, True)),
    ):
        for once in order:
            # A new name, for what a producer sent before would not be applied again.
            producer = {"producer": f"bench-{os.getpid()}-{time.time_ns()}"} if once else {}
            with running("duck-flight") as server:
                report = contenders.load(server, commit, options.writers, options.seconds, **producer)
            if report["duplicates"]:
                raise RuntimeError(f"{report['duplicates']} batches of a new producer were duplicates")
            found.add(f"{'duck-flight.once' if once else 'no-producer'}.{case}.{RATE}", report[RATE])


def measure_waits(found, options: Namespace) -> None:
    """How long the loaders wait for an ack, flat out for a while: what a commit or a checkpoint holds up."""
    for case, commit, in_flight in (("puts", "stream", 1), ("batch_commit", "batch", 8)):
        with running("duck-flight") as server:
            report = contenders.load(server, commit, options.writers, options.ack_seconds, in_flight)
        for key in (RATE, *WAITS):
            found.add(f"duck-flight.waits.{case}.{key}", report[key])


def measure_one_row(found, options: Namespace) -> None:
    """Clients that send a row and wait until it is durable; and ours where they need not wait for each."""
    add_report(found, "quack.one_row", quack.one_row(options.writers, options.seconds))
    measure_postgres(found, options)
    for case, commit, in_flight in (("puts", "stream", 1), ("stream", "batch", 1), ("pipelined", "batch", 128)):
        with running("duck-flight") as server:
            report = contenders.load(server, commit, options.writers, options.seconds, in_flight, rows=1)
        add_report(found, f"duck-flight.one_row.{case}", report)


def measure_postgres(found, options: Namespace) -> None:
    programs = postgres.binaries()
    if programs is None:
        print("PostgreSQL is not installed: left out", file=sys.stderr)
        return
    try:
        report = postgres.one_row(programs, options.writers, options.seconds)
    except (OSError, LookupError, RuntimeError) as error:
        print(f"PostgreSQL does not run here, left out: {error}", file=sys.stderr)
        return
    add_report(found, "postgres.one_row", report)


def measure_keyed(found, options: Namespace) -> None:
    """Loaders that send batches of random rows of a table by its primary key."""
    for kind in ("upsert", "changes"):
        with running("duck-flight") as server:
            command = [BINARIES / "duck-bench", "keyed", "--server", server.url, "--kind", kind]
            sizes = ["--writers", options.writers, "--keys", options.keys, "--seconds", options.seconds]
            add_report(found, f"duck-flight.{kind}", contenders.run_json(*command, *map(str, sizes)))


def add_report(found, case: str, report: dict) -> None:
    for key in (RATE, *WAITS):
        found.add(f"{case}.{key}", report.get(key))
