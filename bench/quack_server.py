"""A server of DuckDB's own remote protocol, to measure against.

Usage: quack_server.py DATABASE TOKEN READINGS EXTENSION..., where READINGS is how many rows the table has that is read.
"""

import signal
import socket
import sys

import duckdb

COLUMNS = "batch_id BIGINT, timestamp TIMESTAMP, value DOUBLE, category VARCHAR"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def main() -> None:
    database, token, readings, *extensions = sys.argv[1:]
    connection = duckdb.connect(database)
    for extension in extensions:
        connection.execute(f"LOAD '{extension}'")
    connection.execute(f"CREATE TABLE concurrent_test ({COLUMNS})")
    connection.execute(
        f"""CREATE TABLE readings AS SELECT range // 1000 AS batch_id,
            TIMESTAMP '2026-01-01' + to_microseconds(range * 1000) AS timestamp,
            hash(range) % 100000 / 1000 AS value, chr(65 + (hash(range + 1) % 4)::INTEGER) AS category
            FROM range({readings})"""
    )
    port = free_port()
    connection.execute(f"CALL quack_serve('quack:localhost:{port}', token => '{token}')")
    print(f"listening on localhost:{port}", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
