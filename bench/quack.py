"""DuckDB's own remote protocol, the extension `quack`: one-row inserts."""

import sys
from importlib.util import find_spec
from pathlib import Path

from contenders import BINARIES, REPOSITORY, run_json, serving

TOKEN = "benchmark"


def extensions() -> list[Path]:
    """The extension and what it needs, in the order to load them; their packages are in bench/requirements.txt."""
    files = []
    for name in ("httpfs", "quack"):
        spec = find_spec(f"duckdb_extension_{name}")
        if spec is None:
            raise RuntimeError(f"duckdb-extension-{name} is not installed: run scripts/bench.sh")
        files += Path(spec.origin).parent.rglob(f"{name}.duckdb_extension")
    return files


def one_row(writers: int, seconds: int) -> dict:
    """What clients come to that insert one row at a time, each on a connection of its own."""
    with serving(lambda database: [sys.executable, REPOSITORY / "bench" / "quack_server.py", database, TOKEN]) as server:
        command = [BINARIES / "duck-bench", "quack", "--server", server.address, "--token", TOKEN]
        for extension in extensions():
            command += ["--load", extension]
        return run_json(*command, "--writers", str(writers), "--seconds", str(seconds))
