"""What drives the servers: the loaders and readers, and the tables they work on."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import quantiles

from pyarrow import flight

from contenders import BINARIES, COLUMNS, Contender, LeftOut

LOADED = "concurrent_test"
READ_ALL = "SELECT * FROM readings"

# Batches on their way make up a few full row groups, so that each commit can be one.
ROWS_ON_THEIR_WAY = 1_000_000


def run_json(*arguments, **options) -> dict:
    """Runs a program and reads the JSON it prints."""
    done = subprocess.run(list(map(str, arguments)), stdout=subprocess.PIPE, text=True, check=False, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, arguments))} ended with {done.returncode}: {done.stdout}")
    return json.loads(done.stdout)


def bench(*arguments) -> dict:
    """What a command of duck-bench found."""
    return run_json(BINARIES / "duck-bench", *arguments)


def only(report: dict, *metrics: str) -> dict:
    return {metric: report.get(metric) for metric in metrics}


WRITE_METRICS = ("rows_per_second", "latency_ms_p50", "latency_ms_p99", "latency_ms_max")
QUERY_METRICS = ("queries_per_second", "latency_ms_p50", "latency_ms_p99", "latency_ms_max")


def make_loaded_table(server: Contender) -> None:
    server.execute(f"CREATE TABLE {LOADED} ({COLUMNS})")


def load_command(server: Contender, commit: str, writers: int, rows: int, seconds: float, **more) -> list:
    """How duck-load is called; `commit` is `puts` or `batch`."""
    in_flight = max(2, min(128, ROWS_ON_THEIR_WAY // (writers * rows)))
    given = {
        "writers": writers,
        "rows": rows,
        "duration": f"{seconds}s",
        "commit": "stream" if commit == "puts" else "batch",
        "in-flight": in_flight,
        **more,
    }
    command = [str(BINARIES / "duck-load"), "--server", server.url, "--format", "json"]
    for name, value in given.items():
        command += [f"--{name}", str(value)]
    return command


def load(server: Contender, *how, **more) -> dict:
    """What duck-load came to; see `load_command`."""
    report = run_json(*load_command(server, *how, **more), stderr=subprocess.DEVNULL)
    if report["duplicates"]:
        raise RuntimeError(f"{report['duplicates']} batches of a new producer were duplicates")
    return only(report, *WRITE_METRICS)


def new_producer() -> dict[str, str]:
    """A name that never sent before, for what it sent before would not be applied again."""
    return {"producer": f"bench-{os.getpid()}-{time.time_ns()}"}


class Loading:
    """A duck-load that runs; `report` is what it came to, once it has ended."""

    def __init__(self, process: subprocess.Popen):
        self.process = process
        self.report: dict = {}

    def check_it_still_loads(self) -> None:
        """What was measured beside it would else be measured beside nothing."""
        if self.process.poll() is not None:
            raise RuntimeError("the loaders ended before what was to be measured beside them")


@contextmanager
def loading(server: Contender, *how, **more):
    """While duck-load loads."""
    command = load_command(server, *how, **more)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    load = Loading(process)
    try:
        wait_for_rows(server, process)
        yield load
        said, _ = process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"duck-load ended with {process.returncode}: {said}")
        load.report = only(json.loads(said), *WRITE_METRICS)
    finally:
        process.kill()
        process.wait()


def wait_for_rows(server: Contender, loader: subprocess.Popen) -> None:
    """Until the first batch of a loader can be read."""
    with flight.connect(server.url) as client:
        while loader.poll() is None:
            table = client.do_get(flight.Ticket(f"SELECT count(*) FROM {LOADED}".encode())).read_all()
            if table.column(0)[0].as_py() > 0:
                return
    raise RuntimeError("duck-load ended before it loaded anything")


def fill(server: Contender, rows: int, table: str = "readings") -> None:
    """Makes a table that is the same on every server."""
    server.execute(f"CREATE TABLE {table} ({COLUMNS})")
    server.execute(
        f"""INSERT INTO {table} SELECT range // 1000, TIMESTAMP '2026-01-01' + to_microseconds(range * 1000),
            hash(range) % 100000 / 1000, chr(65 + (hash(range + 1) % 4)::INTEGER) FROM range({rows})"""
    )


def small(server: Contender, seconds: float, connections: int = 1, via: str = "plain", **statement) -> dict:
    """What clients in Rust come to that ask the same again and again; `statement` is sql and keys."""
    given = {"seconds": seconds, "connections": connections, "via": via, **statement}
    flags = [word for name, value in given.items() for word in (f"--{name}", value)]
    return only(bench("small", "--server", server.url, *flags), *QUERY_METRICS)


@dataclass(frozen=True)
class Timed:
    """What a call answered, and how long it took."""

    value: int
    seconds: float


def timed_once(call: Callable[[], int]) -> Timed:
    start = time.perf_counter()
    value = call()
    return Timed(value, time.perf_counter() - start)


def timed(ask: Callable[[], int], seconds: float) -> dict:
    """What one client in Python comes to that asks the same again and again, after a warm-up."""
    ask()
    latencies = []
    start = now = time.perf_counter()
    while now - start < seconds:
        if ask() == 0:
            raise RuntimeError("the result is empty")
        before, now = now, time.perf_counter()
        latencies.append((now - before) * 1e3)
    percents = quantiles(latencies, n=100) if len(latencies) > 1 else latencies * 99
    return {
        "queries_per_second": len(latencies) / (now - start),
        "latency_ms_p50": percents[49],
        "latency_ms_p99": percents[98],
        "latency_ms_max": max(latencies),
    }


@contextmanager
def plain_asker(server: Contender):
    """Asks by pyarrow's plain Flight client; the answer is how many rows came."""
    with flight.connect(server.url) as client:
        yield lambda sql: client.do_get(flight.Ticket(sql.encode())).read_all().num_rows


@contextmanager
def adbc_asker(server: Contender):
    """Asks by the ADBC driver for Flight SQL, as a program in Python does."""
    try:
        from adbc_driver_flightsql import dbapi
    except ImportError as error:
        raise LeftOut("the ADBC driver is not installed: run scripts/bench.sh") from error

    try:
        connection = dbapi.connect(server.url.replace("grpc://", "grpc+tcp://"), autocommit=True)
    except dbapi.NotSupportedError as error:
        raise LeftOut("the server does not speak Flight SQL yet") from error
    # One cursor, as a program has that asks again and again: the driver prepares the same text once.
    with connection, connection.cursor() as cursor:

        def ask(sql: str) -> int:
            cursor.execute(sql)
            return cursor.fetch_arrow_table().num_rows

        try:
            ask("SELECT 42")
        except dbapi.NotSupportedError as error:
            raise LeftOut("the server does not speak Flight SQL yet") from error
        yield ask


def speaks_flight_sql(server: Contender) -> None:
    """Raises `LeftOut` where it does not."""
    with adbc_asker(server):
        pass
