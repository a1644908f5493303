"""PostgreSQL with its own defaults, which wait for the disk at each commit, and its own clients: pgbench and psql."""

import os
import re
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles

from contenders import LeftOut, working_directory

COLUMNS = "batch_id BIGINT, timestamp TIMESTAMP, value DOUBLE PRECISION, category VARCHAR"
INSERT = "INSERT INTO concurrent_test VALUES (1, TIMESTAMP '2026-01-01 12:34:56.789', 43.21, 'A');\n"
COPY = "COPY concurrent_test FROM STDIN;\n"
ROW = "1\t2026-01-01 12:34:56.789\t43.21\tA\n"

# About what COPY reaches with 8 clients: how many batches are sent so that it takes the time asked for.
COPY_ROWS_PER_SECOND = 600_000

# It refuses to run as root.
USER = {"user": "postgres"} if hasattr(os, "geteuid") and os.geteuid() == 0 else {}


def binaries() -> Path:
    """Where its programs are: Debian keeps them out of the PATH."""
    found = shutil.which("pgbench")
    paths = [Path(found).resolve().parent] if found else []
    paths += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    needed = ("initdb", "postgres", "psql", "pgbench")
    for path in paths:
        if all((path / name).exists() for name in needed):
            return path
    raise LeftOut("PostgreSQL is not installed")


def run(*command, **options) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **USER, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stdout}")
    return done.stdout


class Postgres:
    """A server that runs, with an empty table for the loaders."""

    def __init__(self, programs: Path, directory: Path, port: int):
        self.programs = programs
        self.directory = directory
        self.where = ["-h", "127.0.0.1", "-p", str(port), "-U", "postgres"]

    def psql(self, *arguments: str) -> list:
        return [self.programs / "psql", "--no-psqlrc", "--quiet", *self.where, *arguments, "postgres"]

    def execute(self, sql: str) -> None:
        run(*self.psql("-v", "ON_ERROR_STOP=1", "-c", sql), cwd=self.directory)

    def pgbench(self, sql: str, clients: int, seconds: float, mode: str) -> dict:
        """What clients come to that run the same script again and again."""
        script = self.directory / "script.sql"
        script.write_text(sql)
        script.chmod(0o644)
        # It counts whole seconds.
        given = ["-c", str(clients), "-j", str(min(2, clients)), "-T", str(max(1, round(seconds)))]
        log = ["--log", "--log-prefix", str(self.directory / "latencies")]
        command = [self.programs / "pgbench", "--no-vacuum", "-M", mode, *log, *self.where, *given]
        said = run(*command, "-f", script, "postgres", cwd=self.directory)
        rate = float(re.search(r"^tps = ([\d.]+)", said, re.MULTILINE)[1])
        return {"rate": rate, **self.latencies()}

    def latencies(self) -> dict:
        """From pgbench's logs, whose third field is a transaction's microseconds."""
        millis = [
            int(line.split()[2]) / 1e3
            for log in self.directory.glob("latencies.*")
            for line in log.read_text().splitlines()
        ]
        percents = quantiles(millis, n=100)
        return {"latency_ms_p50": percents[49], "latency_ms_p99": percents[98], "latency_ms_max": max(millis)}


@contextmanager
def running():
    programs = binaries()
    with working_directory() as directory:
        if USER:
            shutil.chown(directory, **USER)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        data = directory / "data"
        run(programs / "initdb", "--auth=trust", "--username=postgres", "--no-sync", "-D", data, cwd=directory)
        settings = ["-h", "127.0.0.1", "-p", str(port), "-k", ""]
        with (directory / "log").open("w") as log:
            command = [programs / "postgres", "-D", data, *settings]
            process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log, **USER)
            try:
                server = Postgres(programs, directory, port)
                wait_until_ready(server, process)
                yield server
            finally:
                process.terminate()
                process.wait(60)


def wait_until_ready(server: Postgres, process: subprocess.Popen) -> None:
    while process.poll() is None:
        try:
            server.execute(f"CREATE TABLE concurrent_test ({COLUMNS})")
            return
        except RuntimeError as error:
            if "refused" not in str(error) and "starting up" not in str(error):
                raise
        time.sleep(0.05)
    raise RuntimeError(f"postgres did not start: {(server.directory / 'log').read_text()}")


def insert(clients: int, rows: int, seconds: float) -> dict:
    """Clients that add batches, each committed by itself: one row by a prepared INSERT, more by COPY."""
    with running() as server:
        if rows == 1:
            found = server.pgbench(INSERT, clients, seconds, "prepared")
            found["rows_per_second"] = found.pop("rate")
            return found
        return {"rows_per_second": copy(server, clients, rows, seconds)}


def copy(server: Postgres, clients: int, rows: int, seconds: float) -> float:
    """Rows a second of psql clients that send prepared COPY blocks, one after another."""
    blocks = max(1, round(COPY_ROWS_PER_SECOND * seconds / clients / rows))
    script = server.directory / "copy.sql"
    script.write_text((COPY + ROW * rows + "\\.\n") * blocks)
    script.chmod(0o644)
    command = server.psql("-v", "ON_ERROR_STOP=1", "-f", str(script))
    start = time.perf_counter()
    loaders = [subprocess.Popen(command, cwd=server.directory, **USER) for _ in range(clients)]
    if any(loader.wait() != 0 for loader in loaders):
        raise RuntimeError("psql could not load")
    return blocks * rows * clients / (time.perf_counter() - start)


def small(clients: int, seconds: float) -> dict:
    """Clients that ask the same small query again and again, parsed each time."""
    with running() as server:
        found = server.pgbench("SELECT 42;\n", clients, seconds, "simple")
        found["queries_per_second"] = found.pop("rate")
        return found


def points(keys: int, clients: int, seconds: float) -> dict:
    """Clients that ask for a row by its key again and again, by a prepared statement."""
    with running() as server:
        server.execute(
            f"""CREATE UNLOGGED TABLE points (id BIGINT PRIMARY KEY, value DOUBLE PRECISION, category VARCHAR);
                INSERT INTO points SELECT i, random(), chr((65 + i % 4)::INTEGER) FROM generate_series(0, {keys} - 1) i;
                ANALYZE points"""
        )
        ask = f"\\set key random(0, {keys - 1})\nSELECT * FROM points WHERE id = :key;\n"
        found = server.pgbench(ask, clients, seconds, "prepared")
        found["queries_per_second"] = found.pop("rate")
        return found


def read(rows: int) -> dict:
    """The whole table by COPY in PostgreSQL's binary format, thrown away by psql."""
    with running() as server:
        server.execute(
            f"""CREATE UNLOGGED TABLE readings ({COLUMNS}); INSERT INTO readings
                SELECT i / 1000, TIMESTAMP '2026-01-01' + i * INTERVAL '1 ms', random() * 100, chr(65 + i % 4)
                FROM generate_series(1, {rows}) i"""
        )
        command = server.psql("-c", "COPY readings TO STDOUT (FORMAT binary)")
        start = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, cwd=server.directory, **USER)
        return {"rows_per_second": rows / (time.perf_counter() - start)}
