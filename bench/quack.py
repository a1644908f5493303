"""DuckDB's own remote protocol, the extension `quack`, with clients that are DuckDBs too."""

import sys
from importlib.util import find_spec
from pathlib import Path

from clients import LOADED, QUERY_METRICS, WRITE_METRICS, bench, only, readings
from contenders import COLUMNS, REPOSITORY, LeftOut, serving

TOKEN = "benchmark"


def extension(name: str) -> Path:
    """The file of a DuckDB extension, from its package of bench/requirements.txt."""
    spec = find_spec(f"duckdb_extension_{name}")
    if spec is None:
        raise LeftOut(f"duckdb-extension-{name} is not installed: run scripts/bench.sh")
    return next(Path(spec.origin).parent.rglob(f"{name}.duckdb_extension"))


def extensions() -> list[Path]:
    """The extension and what it needs, in the order to load them."""
    return [extension("httpfs"), extension("quack")]


def running(rows: int = 0):
    """The server, with an empty table for the loaders, and one of so many rows for the readers."""
    set_up = f"CREATE TABLE {LOADED} ({COLUMNS}); CREATE TABLE readings AS {readings(rows)}"
    program = REPOSITORY / "bench" / "quack_server.py"
    return serving(lambda database: [sys.executable, program, database, TOKEN, set_up, *extensions()])


def ask(server, command: str, *arguments) -> dict:
    loads = [word for file in extensions() for word in ("--load", file)]
    return bench("quack", command, "--server", server.address, "--token", TOKEN, *loads, *arguments)


def insert(clients: int, rows: int, seconds: float) -> dict:
    """Clients that add batches, each committed by itself."""
    with running() as server:
        report = ask(server, "insert", "--clients", clients, "--seconds", seconds, "--rows", rows)
        return {**only(report, *WRITE_METRICS), "memory_mb": server.memory_peak_mb()}


def small(clients: int, seconds: float) -> dict:
    with running() as server:
        return only(ask(server, "small", "--clients", clients, "--seconds", seconds), *QUERY_METRICS)


def read(rows: int) -> dict:
    with running(rows) as server:
        return only(ask(server, "read", "--table", "readings"), "rows_per_second")
