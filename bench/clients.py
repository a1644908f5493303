"""What drives the servers: the loaders and readers, and the tables they work on."""

import json
import os
import resource
import subprocess
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial

from pyarrow import flight

from contenders import BINARIES, COLUMNS, Server, LeftOut
from results import latency_report

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


def with_cpu(server: Server, call: Callable[[], dict], count: Callable[[dict], float]) -> dict:
    """What a call comes to, with the CPU that each of its rows or queries, as counted, takes the server and the clients.

    The clients are this process or those it starts and waits for. How busy the cores are is of the whole call.
    """
    start, server_start, clients_start = time.perf_counter(), server.cpu_seconds(), clients_cpu_seconds()
    found = call()
    seconds, clients_seconds = time.perf_counter() - start, clients_cpu_seconds() - clients_start
    if server_start is None or not (counted := count(found)):
        return found
    server_seconds = server.cpu_seconds() - server_start
    return {
        **found,
        "server_cpu_ns": server_seconds / counted * 1e9,
        "clients_cpu_ns": clients_seconds / counted * 1e9,
        "busy_percent": 100 * (server_seconds + clients_seconds) / seconds / os.cpu_count(),
    }


def clients_cpu_seconds() -> float:
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, whose))


CPU_METRICS = ("server_cpu_ns", "clients_cpu_ns", "busy_percent")
WRITE_METRICS = ("rows_per_second", "latency_ms_p50", "latency_ms_p99", "latency_ms_max")
QUERY_METRICS = ("queries_per_second", "latency_ms_p50", "latency_ms_p99", "latency_ms_max")


def make_loaded_table(server: Server) -> None:
    server.execute(f"CREATE TABLE {LOADED} ({COLUMNS})")


def in_flight(writers: int, rows: int) -> int:
    """Batches that each loader has on their way."""
    return max(2, min(128, ROWS_ON_THEIR_WAY // (writers * rows)))


def load_command(server: Server, commit: str, writers: int, rows: int, seconds: float, **more) -> list:
    """How duck-load is called; `commit` is `puts` or `batch`."""
    given = {
        "writers": writers,
        "rows": rows,
        "duration": f"{seconds}s",
        "commit": "stream" if commit == "puts" else "batch",
        "in-flight": in_flight(writers, rows),
        **more,
    }
    if given["commit"] == "stream":
        # A put for each batch: the next one waits for its ack.
        del given["in-flight"]
    command = [str(BINARIES / "duck-load"), "--server", server.url, "--format", "json"]
    for name, value in given.items():
        command += [f"--{name}", str(value)]
    return command


def load(server: Server, *how, **more) -> dict:
    """What duck-load came to; see `load_command`."""
    return only(load_report(server, *how, **more), *WRITE_METRICS, *CPU_METRICS)


def load_report(server: Server, *how, **more) -> dict:
    """All that duck-load reported, with the CPU that a row takes."""
    command = load_command(server, *how, **more)
    report = with_cpu(server, lambda: run_json(*command, stderr=subprocess.DEVNULL), lambda found: found["rows"])
    if report["duplicates"]:
        raise RuntimeError(f"{report['duplicates']} batches of a new producer were duplicates")
    return report


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
def loading(server: Server, *how, **more):
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


def wait_for_rows(server: Server, loader: subprocess.Popen) -> None:
    """Until the first batch of a loader can be read."""
    with flight.connect(server.url) as client:
        while loader.poll() is None:
            if count_loaded(client) > 0:
                return
    raise RuntimeError("duck-load ended before it loaded anything")


def count_loaded(client: flight.FlightClient) -> int:
    table = client.do_get(flight.Ticket(f"SELECT count(*) FROM {LOADED}".encode())).read_all()
    return table.column(0)[0].as_py()


def with_rows_loaded(server: Server, call: Callable[[], dict]) -> dict:
    """What a call comes to, with the rows a second that loaders load from its beginning to its end."""
    with flight.connect(server.url) as client:
        rows, start = count_loaded(client), time.perf_counter()
        found = call()
        rows, seconds = count_loaded(client) - rows, time.perf_counter() - start
    return {**found, "rows_per_second": rows / seconds}


def readings(rows: int) -> str:
    """The rows of the table that is read, for every server that is a DuckDB."""
    return f"""SELECT range // 1000 AS batch_id, TIMESTAMP '2026-01-01' + to_microseconds(range * 1000) AS timestamp,
        hash(range) % 100000 / 1000 AS value, chr(65 + (hash(range + 1) % 4)::INTEGER) AS category FROM range({rows})"""


def fill(server: Server, rows: int, table: str = "readings") -> None:
    """Makes a table that is the same on every server."""
    server.execute(f"CREATE TABLE {table} ({COLUMNS})")
    server.execute(f"INSERT INTO {table} {readings(rows)}")


def small(server: Server, seconds: float, connections: int = 1, via: str = "plain", **statement) -> dict:
    """What clients in Rust come to that ask the same again and again; `statement` is sql and keys."""
    given = {"seconds": seconds, "connections": connections, "via": via, **statement}
    flags = [word for name, value in given.items() for word in (f"--{name}", value)]
    call = partial(bench, "small", "--server", server.url, *flags)
    report = with_cpu(server, call, lambda found: found["queries_per_second"] * seconds)
    return only(report, *QUERY_METRICS, *CPU_METRICS)


def timed(server: Server, ask: Callable[[], int], seconds: float) -> dict:
    """What one client in Python comes to that asks the same again and again, after a warm-up."""
    ask()
    latencies: list[float] = []

    def ask_for_so_long() -> dict:
        start = now = time.perf_counter()
        while now - start < seconds:
            if ask() == 0:
                raise RuntimeError("the result is empty")
            before, now = now, time.perf_counter()
            latencies.append((now - before) * 1e3)
        return {"queries_per_second": len(latencies) / (now - start)}

    found = with_cpu(server, ask_for_so_long, lambda _: len(latencies))
    return {**found, **latency_report(latencies)}


@contextmanager
def plain_asker(server: Server):
    """Asks by pyarrow's plain Flight client; the answer is how many rows came."""
    with flight.connect(server.url) as client:
        yield lambda sql: client.do_get(flight.Ticket(sql.encode())).read_all().num_rows


@contextmanager
def adbc_asker(server: Server):
    """Asks by the ADBC driver for Flight SQL, as a program in Python does."""
    try:
        from adbc_driver_flightsql import dbapi
    except ImportError as error:
        raise LeftOut("the ADBC driver is not installed: run scripts/bench.sh") from error

    connection = dbapi.connect(server.url.replace("grpc://", "grpc+tcp://"), autocommit=True)
    # One cursor, as a program has that asks again and again: the driver prepares the same text once.
    with connection, connection.cursor() as cursor:

        def ask(sql: str) -> int:
            cursor.execute(sql)
            return cursor.fetch_arrow_table().num_rows

        yield ask
