"""The servers that are measured, and what drives them."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from pyarrow import flight

REPOSITORY = Path(__file__).resolve().parents[1]
TARGET = REPOSITORY / os.environ.get("CARGO_TARGET_DIR", "target")
BINARIES = TARGET / "release"

COLUMNS = "batch_id BIGINT, timestamp TIMESTAMP, value DOUBLE, category VARCHAR"


class Contender:
    """A server on a fresh database."""

    def __init__(self, process: subprocess.Popen):
        self.process = process
        ready = process.stdout.readline()
        if not ready.startswith("listening on "):
            raise RuntimeError(f"{process.args} did not start")
        self.address = ready.removeprefix("listening on ").strip()
        self.url = f"grpc://{self.address}"

    def memory_peak_mb(self) -> float | None:
        """The most resident memory so far; absent where the system does not tell."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except FileNotFoundError:
            return None
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024

    def execute(self, sql: str) -> None:
        with flight.connect(self.url) as client:
            list(client.do_action(("query", sql.encode())))


@contextmanager
def working_directory():
    """On the file system of the build, for a system's temporary directory may be in memory."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=TARGET) as directory:
        yield Path(directory)


def command(name: str, database: Path) -> list:
    if name == "seed":
        return [sys.executable, REPOSITORY / "bench" / "seed_server.py", database]
    return [BINARIES / "duck-flight-server", "--database", database, "--listen", "127.0.0.1:0"]


def running(name: str):
    """The server `name` (`seed` or `duck-flight`) while it runs."""
    return serving(lambda database: command(name, database))


@contextmanager
def serving(command_for):
    """A server while it runs; `command_for` a database is what starts it."""
    with working_directory() as directory, (directory / "log").open("w+") as log:
        process = subprocess.Popen(command_for(directory / "bench.db"), stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            yield Contender(process)
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read())
            raise
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def run_json(*arguments, **options) -> dict:
    """Runs a program and reads the JSON it prints."""
    done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=False, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, arguments))} ended with {done.returncode}: {done.stdout}")
    return json.loads(done.stdout)


def load(server: Contender, commit: str, writers: int, seconds: int, in_flight: int = 128, **more) -> dict:
    """duck-load's report; `more` are further options of it. By default so many batches are on their way that a
    commit is a full row group."""
    server.execute(f"CREATE TABLE concurrent_test ({COLUMNS})")
    given = {"writers": writers, "commit": commit, "in-flight": in_flight, "duration": f"{seconds}s", **more}
    load_command = [BINARIES / "duck-load", "--server", server.url, "--format", "json"]
    for name, value in given.items():
        load_command += [f"--{name}", str(value)]
    return run_json(*load_command, stderr=subprocess.DEVNULL)


def fill(server: Contender, rows: int) -> None:
    """Makes the table `readings`, the same on every server."""
    server.execute(f"CREATE TABLE readings ({COLUMNS})")
    server.execute(
        f"""INSERT INTO readings SELECT range // 1000, TIMESTAMP '2026-01-01' + to_microseconds(range * 1000),
            hash(range) % 100000 / 1000, chr(65 + (hash(range + 1) % 4)::INTEGER) FROM range({rows})"""
    )


def read_seconds(server: Contender, sql: str, rows: int) -> float:
    """How long pyarrow takes to receive a result of so many rows."""
    with flight.connect(server.url) as client:
        start = time.perf_counter()
        received = sum(chunk.data.num_rows for chunk in client.do_get(flight.Ticket(sql.encode())))
        seconds = time.perf_counter() - start
    if received != rows:
        raise RuntimeError(f"{received} rows arrived instead of {rows}")
    return seconds
