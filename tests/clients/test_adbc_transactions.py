"""Transactions through ADBC: separate for each connection, and seen by others only when committed."""

import json
import threading
import time
from contextlib import contextmanager, suppress

import pyarrow as pa
import pytest
from adbc_driver_manager import AdbcStatusCode
from flight_sql import COOKIES, act, connect, count_of, refused, rows_of, run, value_of

# For a statement that would wait for ever.
LIMITS = {f"adbc.flight.sql.rpc.timeout_seconds.{kind}": "10" for kind in ["fetch", "query", "update"]}


@pytest.fixture(params=[None, COOKIES], ids=["plain", "cookies"])
def open_transaction(server, request):
    """Opens connections that do not commit by themselves."""
    connections = []

    def open_one():
        connections.append(connect(server, request.param, autocommit=False))
        return connections[-1]

    yield open_one
    for connection in connections:
        connection.close()


def kept(server, what: str) -> int:
    """How many sessions or transactions there are."""
    with server.client() as client:
        (status,) = act(client, "status", b"")
    return json.loads(status)[what]


def test_a_commit_shows_everything_at_once(open_transaction, connection, table):
    run(connection, f"CREATE TABLE {table} (i BIGINT)")
    writer = open_transaction()
    for i in range(3):
        run(writer, f"INSERT INTO {table} VALUES (?)", [i])
        assert count_of(writer, table) == i + 1
        assert count_of(connection, table) == 0
    writer.commit()
    assert count_of(connection, table) == 3


def test_a_rollback_leaves_nothing(open_transaction, connection, table):
    run(connection, f"CREATE TABLE {table} (i BIGINT)")
    writer = open_transaction()
    run(writer, f"INSERT INTO {table} VALUES (1)")
    run(writer, f"CREATE TABLE {table}_new (i BIGINT)")
    writer.rollback()
    assert count_of(writer, table) == 0
    assert count_of(connection, table) == 0
    with refused(AdbcStatusCode.NOT_FOUND, f"{table}_new"):
        rows_of(connection, f"FROM {table}_new")


def test_a_transaction_goes_on_seeing_what_it_saw_first(open_transaction, connection, table):
    run(connection, f"CREATE TABLE {table} AS SELECT 1 AS i")
    reader = open_transaction()
    assert count_of(reader, table) == 1
    run(connection, f"INSERT INTO {table} VALUES (2)")
    assert count_of(reader, table) == 1
    reader.commit()
    assert count_of(reader, table) == 2


def test_a_transaction_that_did_nothing_yet_sees_the_latest(open_transaction, connection, table):
    reader = open_transaction()
    run(connection, f"CREATE TABLE {table} AS SELECT 1 AS i")
    assert count_of(reader, table) == 1


def test_two_transactions_do_not_mix(open_transaction, connection, table):
    run(connection, f"CREATE TABLE {table} (name VARCHAR)")
    one, other = open_transaction(), open_transaction()
    run(one, f"INSERT INTO {table} VALUES ('one')")
    run(other, f"INSERT INTO {table} VALUES ('other')")
    assert rows_of(one, f"FROM {table}") == [("one",)]
    assert rows_of(other, f"FROM {table}") == [("other",)]
    one.rollback()
    other.commit()
    assert rows_of(connection, f"FROM {table}") == [("other",)]


def test_a_conflict_is_retriable_and_leaves_nothing_of_the_loser(open_transaction, connection, table):
    run(connection, f"CREATE TABLE {table} AS SELECT 1 AS i, 'first' AS owner")
    winner, loser = open_transaction(), open_transaction()
    run(winner, f"UPDATE {table} SET owner = 'winner'")
    run(loser, f"INSERT INTO {table} VALUES (2, 'loser')")
    with pytest.raises(loser.Error, match="(?i)aborted") as caught:
        run(loser, f"UPDATE {table} SET owner = 'loser' WHERE i = 1")
        winner.commit()
        loser.commit()
    assert caught.value.status_code == AdbcStatusCode.UNKNOWN
    winner.commit()
    loser.rollback()
    assert rows_of(connection, f"FROM {table}") == [(1, "winner")]
    # Tried again, it goes through.
    run(loser, f"UPDATE {table} SET owner = 'loser'")
    loser.commit()
    assert rows_of(connection, f"FROM {table}") == [(1, "loser")]


def test_a_failed_statement_spoils_its_transaction_only(open_transaction, connection, table):
    run(connection, f"CREATE TABLE {table} (i BIGINT PRIMARY KEY)")
    writer, other = open_transaction(), open_transaction()
    run(other, f"INSERT INTO {table} VALUES (10)")
    run(writer, f"INSERT INTO {table} VALUES (1)")
    with refused(AdbcStatusCode.INVALID_ARGUMENT, "(?i)duplicate"):
        run(writer, f"INSERT INTO {table} VALUES (1)")
    writer.rollback()
    run(writer, f"INSERT INTO {table} VALUES (2)")
    writer.commit()
    other.commit()
    assert rows_of(connection, f"FROM {table} ORDER BY i") == [(2,), (10,)]


def test_switching_autocommit_on_commits_and_off_begins(connection, server, table):
    run(connection, f"CREATE TABLE {table} (i BIGINT)")
    with connect(server) as writer:
        writer.adbc_connection.set_autocommit(False)
        run(writer, f"INSERT INTO {table} VALUES (1)")
        assert count_of(connection, table) == 0
        writer.adbc_connection.set_autocommit(True)
        assert count_of(connection, table) == 1
        run(writer, f"INSERT INTO {table} VALUES (2)")
        assert count_of(connection, table) == 2


def test_closing_a_connection_rolls_back(open_transaction, connection, table):
    run(connection, f"CREATE TABLE {table} (i BIGINT UNIQUE)")
    run(connection, f"INSERT INTO {table} VALUES (1)")
    writer = open_transaction()
    run(writer, f"UPDATE {table} SET i = 2")
    writer.close()
    assert rows_of(connection, f"FROM {table}") == [(1,)]
    # And holds on to nothing: another one may change the same row.
    run(connection, f"UPDATE {table} SET i = 3")
    assert rows_of(connection, f"FROM {table}") == [(3,)]


def test_a_script_of_its_own_is_a_transaction_too(server, connection, table):
    run(connection, f"CREATE TABLE {table} (i BIGINT)")
    with connect(server, COOKIES) as writer:
        run(writer, "BEGIN")
        run(writer, f"INSERT INTO {table} VALUES (1)")
        assert count_of(connection, table) == 0
        run(writer, "COMMIT")
        assert count_of(connection, table) == 1


def test_ddl_is_part_of_a_transaction(open_transaction, connection, table):
    run(connection, f"CREATE TABLE {table} AS SELECT 1 AS i")
    writer = open_transaction()
    run(writer, f"ALTER TABLE {table} ADD COLUMN name VARCHAR DEFAULT 'duck'")
    assert rows_of(writer, f"FROM {table}") == [(1, "duck")]
    assert rows_of(connection, f"FROM {table}") == [(1,)]
    writer.commit()
    assert rows_of(connection, f"FROM {table}") == [(1, "duck")]


def test_a_prepared_statement_stays_in_its_transaction(open_transaction, connection, table):
    run(connection, f"CREATE TABLE {table} (i BIGINT)")
    writer = open_transaction()
    with writer.cursor() as cursor:
        for i in range(3):
            cursor.execute(f"INSERT INTO {table} VALUES (?)", [i])
        cursor.executemany(f"INSERT INTO {table} VALUES (?)", [(10,), (11,)])
    assert count_of(connection, table) == 0
    writer.rollback()
    assert count_of(writer, table) == 0


def test_a_statement_is_executed_again_in_each_next_transaction(open_transaction, connection, table):
    run(connection, f"CREATE TABLE {table} (i BIGINT)")
    writer = open_transaction()
    with writer.cursor() as cursor:
        for i in range(3):
            cursor.execute(f"INSERT INTO {table} VALUES (?)", (i,))
            assert count_of(connection, table) == i
            writer.commit()
        for i in range(3, 6):
            cursor.executemany(f"INSERT INTO {table} VALUES ($1)", [(i,)])
            assert count_of(connection, table) == i
            writer.commit()
        for _ in range(3):
            cursor.execute(f"INSERT INTO {table} VALUES (?)", (-1,))
            writer.rollback()
        for _ in range(3):
            cursor.execute(f"SELECT count(*) FROM {table}")
            assert cursor.fetchall() == [(6,)]
            writer.rollback()
        for _ in range(3):
            with refused(AdbcStatusCode.INVALID_ARGUMENT, "duck"):
                cursor.execute("SELECT 'duck'::INTEGER")
                cursor.fetchall()
            writer.rollback()
    assert rows_of(connection, f"FROM {table} ORDER BY i") == [(i,) for i in range(6)]


def test_a_statement_of_a_transaction_is_executed_again_without_one(open_transaction, connection, table):
    run(connection, f"CREATE TABLE {table} (i BIGINT)")
    writer = open_transaction()
    with writer.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} VALUES (?)", (1,))
        writer.adbc_connection.set_autocommit(True)
        cursor.execute(f"INSERT INTO {table} VALUES (?)", (2,))
        assert count_of(connection, table) == 2


def test_a_statement_runs_while_a_result_of_the_same_transaction_is_read(open_transaction, connection, table):
    run(connection, f"CREATE TABLE {table} (i BIGINT)")
    own = open_transaction()
    with own.cursor() as reader, own.cursor(adbc_stmt_kwargs=LIMITS) as cursor:
        reader.execute("SELECT range AS i, repeat('x', 100) FROM range(400000)")
        for _ in range(10):
            (i, _) = reader.fetchone()
            cursor.execute(f"INSERT INTO {table} VALUES (?)", [i])
            cursor.execute(f"SELECT count(*) FROM {table}")
            assert cursor.fetchall() == [(i + 1,)]
        assert len(reader.fetchall()) == 399_990
    own.commit()
    assert count_of(connection, table) == 10


def test_a_huge_result_that_is_open_does_not_block_its_transaction_for_ever(open_transaction):
    own = open_transaction()
    with own.cursor() as reader, own.cursor(adbc_stmt_kwargs=LIMITS) as cursor:
        reader.execute("SELECT range, repeat('x', 1000) FROM range(1000000000)")
        reader.fetchone()
        try:
            cursor.execute("SELECT 42")
            assert cursor.fetchall() == [(42,)]
        except own.Error as error:
            # It is too much to be put aside; but nobody waits for that.
            assert error.status_code not in (AdbcStatusCode.TIMEOUT, AdbcStatusCode.CANCELLED), error


def test_an_abandoned_transaction_is_rolled_back_in_the_end(start_server, table):
    # Long enough for the calls that a statement is made of.
    server = start_server("--transaction-timeout", "1s")
    with connect(server) as connection, connect(server, autocommit=False) as abandoned:
        run(connection, f"CREATE TABLE {table} AS SELECT 1 AS i")
        run(abandoned, f"UPDATE {table} SET i = 2")
        # Until then each try is in its way, and worth another.
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                run(connection, f"UPDATE {table} SET i = 3")
                break
            except connection.Error as error:
                assert "(Aborted" in str(error), error
        assert rows_of(connection, f"FROM {table}") == [(3,)]
        with refused(AdbcStatusCode.UNKNOWN, "(?i)transaction has expired.*FailedPrecondition"):
            abandoned.commit()


def wait_until_none_is_kept(server, what):
    deadline = time.monotonic() + 30
    while kept(server, what) > 0:
        assert time.monotonic() < deadline, f"{what} are still kept"
        time.sleep(0.05)


def test_a_connection_goes_on_once_its_expired_transaction_is_rolled_back(start_server, table):
    # Long enough for a statement and a commit, one after the other.
    server = start_server("--transaction-timeout", "3s")
    with connect(server) as connection, connect(server, autocommit=False) as own, own.cursor() as cursor:
        run(connection, f"CREATE TABLE {table} (i BIGINT)")
        for _ in range(2):
            cursor.execute(f"INSERT INTO {table} VALUES (1)")
            wait_until_none_is_kept(server, "transactions")
            with refused(AdbcStatusCode.UNKNOWN, "(?i)transaction has expired.*FailedPrecondition"):
                cursor.execute(f"INSERT INTO {table} VALUES (1)")
            with refused(AdbcStatusCode.UNKNOWN, "(?i)transaction has expired.*FailedPrecondition"):
                cursor.adbc_ingest(table, pa.table({"i": [2]}), mode="append")
            own.rollback()
            assert count_of(connection, table) == 0
        cursor.execute(f"INSERT INTO {table} VALUES (1)")
        own.commit()
        assert count_of(connection, table) == 1


@contextmanager
def idle_transaction(server):
    """A connection in a session, with a transaction that has not begun. What is gone cannot be closed without an error."""
    connection = connect(server, COOKIES, autocommit=False)
    try:
        yield connection
    finally:
        with suppress(connection.Error):
            connection.close()


def assert_ingest_has_no_session(connection, table):
    deadline = time.monotonic() + 30
    with connection.cursor() as cursor, refused(AdbcStatusCode.UNAUTHENTICATED, "session has ended"):
        while time.monotonic() < deadline:
            try:
                cursor.adbc_ingest(table, pa.table({"i": [1]}), mode="append")
                break
            except connection.Error as error:
                # The driver may not have found the server again yet.
                if "(Unavailable" not in str(error):
                    raise


def test_an_ingest_for_a_transaction_that_is_gone_with_its_session_is_not_committed(start_server, table):
    server = start_server("--session-timeout", "200ms")
    with connect(server) as connection, idle_transaction(server) as writer:
        run(connection, f"CREATE TABLE {table} (i BIGINT)")
        wait_until_none_is_kept(server, "sessions")
        assert_ingest_has_no_session(writer, table)
        assert count_of(connection, table) == 0


def test_an_ingest_for_a_transaction_that_is_gone_with_its_server_is_not_committed(start_server, table):
    server = start_server()
    with connect(server) as connection:
        run(connection, f"CREATE TABLE {table} (i BIGINT)")
    with idle_transaction(server) as writer:
        server.kill()
        again = start_server("--listen", server.location.removeprefix("grpc://"))
        assert_ingest_has_no_session(writer, table)
        with connect(again) as connection:
            assert count_of(connection, table) == 0


def test_many_idle_transactions_hinder_nobody(server, connection):
    idle = [connect(server, autocommit=False) for _ in range(100)]
    assert value_of(connection, "SELECT 42") == 42
    for number, one in enumerate(idle):
        assert value_of(one, "SELECT ?", [number]) == number
        one.commit()
    for one in idle:
        one.close()


def test_64_clients_each_have_their_own_transaction_at_once(server, connection, table):
    clients, rows = 64, 20
    run(connection, f"CREATE TABLE {table} (client BIGINT, i BIGINT)")
    together = threading.Barrier(clients)
    failures = []

    def work(client: int) -> None:
        try:
            with connect(server, autocommit=False) as own:
                for i in range(rows):
                    run(own, f"INSERT INTO {table} VALUES (?, ?)", [client, i])
                    if i == 0:
                        # Now all of them have one open.
                        together.wait(60)
                assert rows_of(own, f"SELECT client, count(*) FROM {table} GROUP BY ALL") == [(client, rows)]
                own.rollback() if client % 4 == 0 else own.commit()
        except BaseException as error:
            together.abort()
            failures.append((client, error))

    threads = [threading.Thread(target=work, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    committed = [client for client in range(clients) if client % 4 != 0]
    counts = rows_of(connection, f"SELECT client, count(*), count(DISTINCT i) FROM {table} GROUP BY ALL ORDER BY ALL")
    assert counts == [(client, rows, rows) for client in committed]
