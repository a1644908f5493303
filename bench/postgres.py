"""PostgreSQL with its own defaults, which wait for the disk at each commit, and its own clients: pgbench and psql."""

import atexit
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from random import Random
from statistics import median

from contenders import LeftOut, end, working_directory
from results import latency_report

COLUMNS = "batch_id BIGINT, timestamp TIMESTAMP, value DOUBLE PRECISION, category VARCHAR"
INSERT = "INSERT INTO concurrent_test VALUES (1, TIMESTAMP '2026-01-01 12:34:56.789', 43.21, 'A');\n"
COPY = "COPY concurrent_test FROM STDIN;\n"
END_OF_COPY = "\\.\n"

# In the order of the keys, or two clients that have some in common would wait for each other.
UPSERT = """INSERT INTO keyed SELECT DISTINCT ON (id) * FROM incoming ORDER BY id ON CONFLICT (id)
    DO UPDATE SET timestamp = EXCLUDED.timestamp, value = EXCLUDED.value, category = EXCLUDED.category;
"""
# So many different batches of each client are upserted again and again.
UPSERT_BATCHES = 16

READS = 3

# What lives until the benchmark ends.
until_the_end = ExitStack()
atexit.register(until_the_end.close)

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

    def script(self, name: str, sql: str) -> Path:
        """A file that its clients can run."""
        script = self.directory / f"{name}.sql"
        script.write_text(sql)
        script.chmod(0o644)
        return script

    def pgbench(self, sql: str, clients: int, seconds: float, mode: str) -> dict:
        """What clients come to that run the same script again and again."""
        script = self.script("script", sql)
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
        return latency_report(millis)


def hand_over(directory: Path) -> None:
    """Makes a directory that of PostgreSQL's user, who must be able to go there."""
    if not USER:
        return
    shutil.chown(directory, **USER)
    if subprocess.run(["test", "-x", directory], check=False, cwd="/", **USER).returncode != 0:
        raise LeftOut(f"the user {USER['user']} cannot go to {directory}: clone elsewhere, or set CARGO_TARGET_DIR")


@cache
def new_cluster() -> Path:
    """A cluster to copy, for to make one takes longer than most of what is measured. It is removed at the end."""
    directory = until_the_end.enter_context(working_directory())
    hand_over(directory)
    data = directory / "data"
    initdb = (binaries() / "initdb", "--auth=trust", "--username=postgres", "--no-sync")
    run(*initdb, "-D", data, cwd=directory)
    return data


@contextmanager
def running():
    programs = binaries()
    with working_directory() as directory:
        hand_over(directory)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        data = directory / "data"
        run("cp", "-a", new_cluster(), data, cwd=directory)
        settings = ["-h", "127.0.0.1", "-p", str(port), "-k", ""]
        with (directory / "log").open("w") as log:
            command = [programs / "postgres", "-D", data, *settings]
            process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log, **USER)
            try:
                server = Postgres(programs, directory, port)
                wait_until_ready(server, process)
                yield server
            finally:
                end(process)


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
    """Rows a second of psql clients that send prepared COPY blocks, one after another, for about so long."""
    block = COPY + "".join(text_rows(rows)) + END_OF_COPY

    def seconds_of(blocks: int) -> float:
        return seconds_of_scripts(server, [server.script("copy", block * blocks)] * clients)

    return rows * clients * blocks_per_second(seconds_of, seconds)


def blocks_per_second(seconds_of: Callable[[int], float], seconds: float) -> float:
    """Of a client that sends so many that it takes about so long; `seconds_of` some is how long those take."""
    blocks = 1
    while True:
        elapsed = seconds_of(blocks)
        if elapsed >= seconds / 2:
            return blocks / elapsed
        blocks = max(2 * blocks, round(blocks * seconds / elapsed))


def text_rows(count: int) -> Iterator[str]:
    """Rows as duck-load makes them, in COPY's text."""
    random = Random(1)
    for row in range(count):
        yield f"1\t2026-01-01 12:34:56.{row % 1000:03}\t{random.random() * 100}\t{random.choice('ABCD')}\n"


def seconds_of_scripts(server: Postgres, scripts: list[Path], set_up: str = "") -> float:
    """How long psql clients take that each run a script; as with all others, once they are connected, and set up."""
    command = server.psql("-v", "ON_ERROR_STOP=1")
    given = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": server.directory, **USER}
    with ExitStack() as running_clients:
        loaders = [running_clients.enter_context(subprocess.Popen(command, **given)) for _ in scripts]
        for loader in loaders:
            tell(loader, f"{set_up}\\! echo connected")
        if any([loader.stdout.readline() != "connected\n" for loader in loaders]):
            raise RuntimeError("psql could not connect")
        start = time.perf_counter()
        for loader, script in zip(loaders, scripts, strict=True):
            tell(loader, f"\\i {script.name}")
            loader.stdin.close()
        # Each is waited for, whatever became of the others.
        if any([loader.wait() for loader in loaders]):
            raise RuntimeError("psql could not load")
        return time.perf_counter() - start


def tell(client: subprocess.Popen, line: str) -> None:
    client.stdin.write(f"{line}\n")
    client.stdin.flush()


def upsert(clients: int, rows: int, keys: int, seconds: float) -> dict:
    """psql clients that upsert batches of random keys, each in a transaction of its own, from a temporary table."""
    with running() as server:
        server.execute(
            f"""CREATE TABLE keyed (id BIGINT, timestamp TIMESTAMP, value DOUBLE PRECISION, category VARCHAR);
                INSERT INTO keyed SELECT i, TIMESTAMP '2026-01-01', 0, 'A' FROM generate_series(0, {keys} - 1) i;
                ALTER TABLE keyed ADD PRIMARY KEY (id)"""
        )
        blocks_of = [list(upsert_blocks(rows, keys, seed)) for seed in range(1, clients + 1)]
        set_up = "CREATE TEMP TABLE incoming (LIKE keyed) ON COMMIT DELETE ROWS;\n"

        def seconds_of(count: int) -> float:
            texts = ["".join(islice(cycle(blocks), count)) for blocks in blocks_of]
            scripts = [server.script(f"upsert-{number}", text) for number, text in enumerate(texts)]
            return seconds_of_scripts(server, scripts, set_up)

        return {"rows_per_second": rows * clients * blocks_per_second(seconds_of, seconds)}


def upsert_blocks(rows: int, keys: int, seed: int) -> Iterator[str]:
    """Transactions with rows as `duck-bench load --kind upsert` makes them."""
    random = Random(seed)
    for _ in range(UPSERT_BATCHES):
        lines = (
            f"{random.randrange(keys)}\t2026-01-01 12:34:56.789\t{random.random() * 100}\t{random.choice('ABCD')}\n"
            for _ in range(rows)
        )
        yield f"BEGIN;\nCOPY incoming FROM STDIN;\n{''.join(lines)}{END_OF_COPY}{UPSERT}COMMIT;\n"


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
        seconds = [seconds_of_run(command, server.directory) for _ in range(1 + READS)]
        # The first one is the warm-up.
        return {"rows_per_second": rows / median(seconds[1:])}


def seconds_of_run(command: list, directory: Path) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, cwd=directory, **USER)
    return time.perf_counter() - start
