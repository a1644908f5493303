"""A server of DuckDB's own remote protocol, to measure against. Usage: quack_server.py DATABASE TOKEN"""

import signal
import socket
import sys

import duckdb

from quack import extensions


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def main() -> None:
    database, token = sys.argv[1:]
    connection = duckdb.connect(database)
    for extension in extensions():
        connection.execute(f"LOAD '{extension}'")
    connection.execute("CREATE TABLE concurrent_test (batch_id BIGINT, timestamp TIMESTAMP, value DOUBLE, category VARCHAR)")
    port = free_port()
    connection.execute(f"CALL quack_serve('quack:localhost:{port}', token => '{token}')")
    print(f"listening on localhost:{port}", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
