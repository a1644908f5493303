"""Stock clients against the real server binary.

Each module gets a server of its own on a temporary database; it must still stop cleanly after the module's
last test, whatever the tests sent to it. DUCK_FLIGHT_SERVER_BIN names another binary.

What the server says to which mistake is for tests/e2e, in Rust; tests are here where a client's own calls matter.
"""

import itertools
import os
import signal
import subprocess
import threading
from pathlib import Path

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest
from pyarrow import flight

REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 60
# Only of a server that never ends: it may have to wait for its grace, and on a slow machine for its checkpoint.
STOP_SECONDS = 120


def server_binary() -> Path:
    target = Path(os.environ.get("CARGO_TARGET_DIR", "target"))
    binary = os.environ.get("DUCK_FLIGHT_SERVER_BIN", target / "testing" / "duck-flight-server")
    return REPOSITORY / binary


class Server:
    """A running duck-flight-server on a port of its own."""

    def __init__(self, directory: Path, *flags: str, database: str = "test.db"):
        self.database = directory / database
        self.log = directory / "server.log"
        command = [server_binary(), "--database", self.database, *flags]
        if "--listen" not in flags:
            command += ["--listen", "127.0.0.1:0"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        # One that neither listens nor ends is killed: otherwise the next line would wait for good.
        watchdog = threading.Timer(START_SECONDS, self.process.kill)
        watchdog.daemon = True
        watchdog.start()
        ready = self.process.stdout.readline()
        watchdog.cancel()
        if not ready.startswith("listening on "):
            self.kill()
            raise RuntimeError(f"the server did not start: {ready}{self.log.read_text()}")
        self.location = "grpc://" + ready.removeprefix("listening on ").strip()

    def client(self) -> flight.FlightClient:
        return flight.connect(self.location)

    def stop(self) -> None:
        """Finishes what is in flight and stops the server, which must end cleanly."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(STOP_SECONDS)
        assert code == 0, f"the server ended with {code}: {self.log.read_text()}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(STOP_SECONDS)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    try:
        yield server
        server.stop()
    finally:
        server.kill()


@pytest.fixture
def start_server(tmp_path):
    """Starts servers with flags of the test's own, all on one database file."""
    servers = []

    def start(*flags: str) -> Server:
        servers.append(Server(tmp_path, *flags))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client
        # Whatever the test did, the server is alive and serves.
        assert query(client, "SELECT 42 AS answer") == [{"answer": 42}]


@pytest.fixture
def connection(server):
    """An ADBC connection that commits each statement."""
    with adbc.connect(server.location, autocommit=True) as connection:
        yield connection
        with connection.cursor() as cursor:
            cursor.execute("SELECT 42")
            assert cursor.fetchall() == [(42,)]


_numbers = itertools.count()


@pytest.fixture
def table() -> str:
    """A table name that no other test uses."""
    return f"table_{next(_numbers)}"


def execute(client: flight.FlightClient, sql: str) -> list[bytes]:
    """Runs a script by action, as the seed's loader does."""
    return [result.body.to_pybytes() for result in client.do_action(("query", sql.encode()))]


def read(client: flight.FlightClient, sql: str) -> pa.Table:
    """Reads a result by ticket, as the seed's query client does."""
    return client.do_get(flight.Ticket(sql.encode())).read_all()


def query(client: flight.FlightClient, sql: str) -> list[dict]:
    return read(client, sql).to_pylist()


def put(client: flight.FlightClient, table: str, data: pa.Table) -> None:
    """Puts a table by path, as the seed's loader does."""
    writer, _ = client.do_put(flight.FlightDescriptor.for_path(table), data.schema)
    writer.write_table(data)
    writer.close()
