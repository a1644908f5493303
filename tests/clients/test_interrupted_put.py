"""A put whose client goes away commits nothing; what was acknowledged stays.

A pyarrow writer that is merely dropped is no such case: its destructor ends the stream cleanly, and no server
can tell that from a put that is whole.
"""

import subprocess
import sys

import duckdb
import pyarrow as pa
import pytest
from conftest import execute, put, query
from pyarrow import flight

ROWS_PER_BATCH = 1000
SCHEMA = pa.schema([("i", pa.int64())])
BATCH = pa.record_batch({"i": range(ROWS_PER_BATCH)}, SCHEMA)

# Writes batches to the table `t`, reads as many acks as it is told, says so, and then waits to be killed.
HANGING_LOADER = """
import sys
import pyarrow as pa
from pyarrow import flight
client = flight.connect(sys.argv[1])
batch = pa.record_batch({"i": pa.array(range(1000), pa.int64())})
writer, reader = client.do_put(flight.FlightDescriptor.for_command(sys.argv[2]), batch.schema)
for _ in range(5):
    writer.write_batch(batch)
for _ in range(int(sys.argv[3])):
    reader.read()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def server(start_server):
    server = start_server()
    with server.client() as client:
        execute(client, "CREATE TABLE t (i BIGINT)")
    return server


def rows_at_rest(server) -> int:
    """Rows in the database after the server finished what was in flight and stopped."""
    server.stop()
    with duckdb.connect(str(server.database), read_only=True) as database:
        return database.execute("SELECT count(*) FROM t").fetchone()[0]


def kill_loader(server, options: str, acks: int) -> None:
    command = [sys.executable, "-c", HANGING_LOADER, server.location, options, str(acks)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as loader:
        assert loader.stdout.readline() == "ready\n"
        loader.kill()


def count(server) -> int:
    with server.client() as client:
        return query(client, "SELECT count(*) AS n FROM t")[0]["n"]


def test_a_loader_killed_in_a_put_commits_nothing(server):
    kill_loader(server, '{"table": "t"}', acks=0)
    assert count(server) == 0
    assert rows_at_rest(server) == 0


def test_a_loader_killed_between_batches_keeps_whole_batches_and_all_acknowledged_ones(server):
    kill_loader(server, '{"table": "t", "commit": "batch"}', acks=3)
    assert count(server) >= 3 * ROWS_PER_BATCH
    rows = rows_at_rest(server)
    assert 3 * ROWS_PER_BATCH <= rows <= 5 * ROWS_PER_BATCH
    assert rows % ROWS_PER_BATCH == 0


def test_a_put_that_runs_into_its_deadline_commits_nothing(server):
    with server.client() as client:
        # Long enough to connect and to send the batch.
        options = flight.FlightCallOptions(timeout=3)
        writer, reader = client.do_put(flight.FlightDescriptor.for_path("t"), SCHEMA, options)
        writer.write_batch(BATCH)
        assert reader.read() is None
        # Client and server both watch the deadline; the server's answer, where it is first, is CANCELLED.
        with pytest.raises((flight.FlightTimedOutError, flight.FlightCancelledError)):
            writer.close()
        assert query(client, "SELECT count(*) AS n FROM t") == [{"n": 0}]
    assert rows_at_rest(server) == 0


def test_a_loader_that_gives_up_in_the_middle_leaves_the_table_to_others(server):
    kill_loader(server, '{"table": "t"}', acks=0)
    with server.client() as client:
        put(client, "t", pa.Table.from_batches([BATCH]))
    assert rows_at_rest(server) == ROWS_PER_BATCH


def test_an_interrupted_put_that_creates_its_table_leaves_no_rows(server):
    kill_loader(server, '{"table": "fresh"}', acks=0)
    with server.client() as client:
        put(client, "fresh", pa.Table.from_batches([BATCH]))
        assert query(client, "SELECT count(*) AS n FROM fresh") == [{"n": ROWS_PER_BATCH}]
