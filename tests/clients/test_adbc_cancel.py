"""Cancelling through ADBC ends that query, at once, and no other."""

import threading
from contextlib import contextmanager

import pytest
from adbc_driver_manager import AdbcStatusCode
from flight_sql import COOKIES, connect, count_of, refused, rows_of, run

ENDLESS = "SELECT sum(a.range * b.range) FROM range(100000000) a, range(100000000) b"


@contextmanager
def cancelled(cursor):
    """Cancels again and again until what is done within has ended: the first one may come before it began."""
    ended = threading.Event()

    def cancel():
        while not ended.wait(0.01):
            cursor.adbc_cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        with refused(AdbcStatusCode.CANCELLED):
            yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture(params=[None, COOKIES], ids=["plain", "cookies"])
def narrow(start_server, request):
    """A connection to a server that runs one statement at a time: a query that goes on would be in the way."""
    server = start_server("--max-queries", "1")
    with connect(server, request.param) as connection:
        yield connection


def test_a_query_that_has_no_row_yet_is_cancelled(narrow):
    for _ in range(5):
        with narrow.cursor() as cursor, cancelled(cursor):
            cursor.execute(ENDLESS)
            cursor.fetchall()
        assert rows_of(narrow, "SELECT 42") == [(42,)]


def test_a_result_is_cancelled_while_it_is_read(narrow):
    with narrow.cursor() as cursor:
        cursor.execute("SELECT range, repeat('x', 100) FROM range(100000000000)")
        cursor.fetchone()
        with cancelled(cursor):
            cursor.fetch_arrow_table()
    assert rows_of(narrow, "SELECT 42") == [(42,)]


def test_a_change_that_is_cancelled_has_no_effect(narrow, table):
    run(narrow, f"CREATE TABLE {table} (i BIGINT)")
    with narrow.cursor() as cursor, cancelled(cursor):
        cursor.execute(f"INSERT INTO {table} {ENDLESS}")
        cursor.fetchall()
    assert count_of(narrow, table) == 0


def test_a_cursor_that_is_closed_ends_its_query(narrow):
    for _ in range(10):
        with narrow.cursor() as cursor:
            cursor.execute(ENDLESS)
        assert rows_of(narrow, "SELECT 42") == [(42,)]


def test_a_cancelled_cursor_can_be_used_again(narrow):
    with narrow.cursor() as cursor:
        with cancelled(cursor):
            cursor.execute(ENDLESS)
            cursor.fetchall()
        cursor.execute("SELECT 42")
        assert cursor.fetchall() == [(42,)]


def assert_only_one_is_cancelled(one, other):
    """Cancels a query of one connection while one of the other, which may be the same, is read."""
    with other.cursor() as going_on, one.cursor() as cursor:
        going_on.execute("SELECT range FROM range(3000000)")
        assert going_on.fetchone() == (0,)
        with cancelled(cursor):
            cursor.execute(ENDLESS)
            cursor.fetchall()
        assert going_on.fetch_record_batch().read_all().num_rows >= 2_000_000


def test_the_other_query_goes_on(server):
    with connect(server) as one, connect(server) as other:
        assert_only_one_is_cancelled(one, other)


def test_a_query_of_the_same_connection_goes_on(connection):
    assert_only_one_is_cancelled(connection, connection)


def test_a_timeout_of_the_client_ends_the_query(start_server):
    server = start_server("--max-queries", "1")
    with connect(server, {"adbc.flight.sql.rpc.timeout_seconds.fetch": "0.2"}) as hasty:
        with pytest.raises(hasty.Error, match="(?i)timeout|deadline") as caught:
            rows_of(hasty, ENDLESS)
        # Whichever side's clock is first.
        assert caught.value.status_code in (AdbcStatusCode.TIMEOUT, AdbcStatusCode.CANCELLED)
    with connect(server) as connection:
        assert rows_of(connection, "SELECT 42") == [(42,)]


def test_a_transaction_can_go_on_after_a_cancelled_query_or_says_that_it_cannot(server, connection, table):
    run(connection, f"CREATE TABLE {table} (i BIGINT)")
    with connect(server, autocommit=False) as writer:
        run(writer, f"INSERT INTO {table} VALUES (1)")
        with writer.cursor() as cursor, cancelled(cursor):
            cursor.execute(ENDLESS)
            cursor.fetchall()
        try:
            run(writer, f"INSERT INTO {table} VALUES (2)")
            writer.commit()
        except writer.Error:
            writer.rollback()
            assert count_of(connection, table) == 0
        else:
            assert count_of(connection, table) == 2
