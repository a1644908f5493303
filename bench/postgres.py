"""PostgreSQL with its own pgbench: one-row inserts, each committed by itself."""

import os
import re
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from contenders import working_directory

INSERT = "INSERT INTO concurrent_test VALUES (1, TIMESTAMP '2026-01-01 12:34:56.789', 43.21, 'A');\n"
TABLE = "CREATE TABLE concurrent_test (batch_id BIGINT, timestamp TIMESTAMP, value DOUBLE PRECISION, category VARCHAR)"
# It refuses to run as root.
USER = {"user": "postgres"} if hasattr(os, "geteuid") and os.geteuid() == 0 else {}


def binaries() -> Path | None:
    """Where its programs are: Debian keeps them out of the PATH."""
    found = shutil.which("pgbench")
    paths = [Path(found).resolve().parent] if found else []
    paths += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    needed = ("initdb", "postgres", "psql", "pgbench")
    return next((path for path in paths if all((path / name).exists() for name in needed)), None)


def run(*command, **options) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **USER, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stdout}")
    return done.stdout


@contextmanager
def serving(programs: Path, directory: Path):
    """The server with its own defaults, which wait for the disk at each commit, while it runs: how to reach it."""
    if USER:
        shutil.chown(directory, **USER)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = directory / "data"
    run(programs / "initdb", "--auth=trust", "--username=postgres", "--no-sync", "-D", data, cwd=directory)
    settings = ["-h", "127.0.0.1", "-p", str(port), "-k", ""]
    log = (directory / "log").open("w")
    server = subprocess.Popen([programs / "postgres", "-D", data, *settings], cwd=directory, stdout=log, stderr=log, **USER)
    try:
        where = ["-h", "127.0.0.1", "-p", str(port), "-U", "postgres"]
        wait_until_ready(server, [programs / "psql", *where, "-c", TABLE, "postgres"], directory)
        yield where
    finally:
        server.terminate()
        server.wait(60)
        log.close()


def wait_until_ready(server: subprocess.Popen, command: list, directory: Path) -> None:
    while server.poll() is None:
        try:
            run(*command, cwd=directory)
            return
        except RuntimeError as error:
            if "refused" not in str(error) and "starting up" not in str(error):
                raise
        time.sleep(0.05)
    raise RuntimeError(f"postgres did not start: {(directory / 'log').read_text()}")


def one_row(programs: Path, writers: int, seconds: int) -> dict:
    """What clients come to that insert one row at a time, each on a connection of its own."""
    with working_directory() as directory, serving(programs, directory) as where:
        script = directory / "insert.sql"
        script.write_text(INSERT)
        script.chmod(0o644)
        clients = ["-c", str(writers), "-j", "2", "-T", str(seconds)]
        command = [programs / "pgbench", "--no-vacuum", "-M", "prepared", *where, *clients]
        said = run(*command, "-f", script, "postgres", cwd=directory)
    return {
        "rows_per_second": float(re.search(r"^tps = ([\d.]+)", said, re.MULTILINE)[1]),
        "latency_ms_mean": float(re.search(r"^latency average = ([\d.]+) ms", said, re.MULTILINE)[1]),
    }
