"""A server of DuckDB's own remote protocol, to measure against.

Usage: quack_server.py DATABASE TOKEN SET_UP EXTENSION..., where SET_UP is the SQL that makes its tables.
"""

import signal
import socket
import sys

import duckdb


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def main() -> None:
    database, token, set_up, *extensions = sys.argv[1:]
    connection = duckdb.connect(database)
    for extension in extensions:
        connection.execute(f"LOAD '{extension}'")
    connection.execute(set_up)
    port = free_port()
    connection.execute(f"CALL quack_serve('quack:localhost:{port}', token => '{token}')")
    print(f"listening on localhost:{port}", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
