"""How an ADBC driver connects, what it learns of the server, and what its session keeps to itself."""

import json
import time
from contextlib import suppress

import pytest
from adbc_driver_flightsql import ConnectionOptions, DatabaseOptions
from adbc_driver_manager import AdbcStatusCode
from flight_sql import COOKIES, connect, count_of, refused, rows_of, run, session_option, value_of

PASSWORD = {"username": "duck", "password": "quack"}
HEADER = DatabaseOptions.RPC_CALL_HEADER_PREFIX.value


@pytest.fixture
def session(server):
    """A connection whose statements share a session."""
    with connect(server, COOKIES) as connection:
        yield connection


@pytest.mark.parametrize(
    "options",
    [None, COOKIES, PASSWORD, {"username": "duck"}, PASSWORD | COOKIES, {HEADER + "x-unknown": "ignored"}],
)
@pytest.mark.parametrize("autocommit", [True, False])
def test_a_driver_connects_with_any_options(server, options, autocommit):
    with connect(server, options, autocommit) as connection:
        assert rows_of(connection, "SELECT 42") == [(42,)]


def test_the_server_says_who_it_is(connection):
    info = connection.adbc_get_info()
    assert info["vendor_name"] == "Duck Flight"
    assert info["vendor_version"].startswith("duckdb v1.")
    assert info["driver_name"].startswith("ADBC Flight SQL Driver")
    assert info["vendor_arrow_version"]


@pytest.mark.parametrize("options", [COOKIES, PASSWORD, PASSWORD | COOKIES], ids=["cookies", "token", "both"])
def test_a_session_keeps_temporary_tables_settings_and_variables(server, options, table):
    with connect(server, options) as connection:
        run(connection, f"CREATE TEMP TABLE {table} AS SELECT 1 AS i")
        run(connection, "SET TimeZone = 'Asia/Tokyo'")
        run(connection, "SET VARIABLE duck = 'mallard'")
        assert count_of(connection, table) == 1
        assert value_of(connection, "SELECT current_setting('TimeZone')") == "Asia/Tokyo"
        assert value_of(connection, "SELECT getvariable('duck')") == "mallard"


def test_sessions_see_nothing_of_each_other(server, table):
    with connect(server, COOKIES) as one, connect(server, COOKIES) as other:
        zone = value_of(other, "SELECT current_setting('TimeZone')")
        run(one, f"CREATE TEMP TABLE {table} AS SELECT 'one' AS owner")
        run(other, f"CREATE TEMP TABLE {table} AS SELECT 'other' AS owner")
        run(one, "SET TimeZone = 'Asia/Tokyo'")
        assert value_of(one, f"SELECT owner FROM {table}") == "one"
        assert value_of(other, f"SELECT owner FROM {table}") == "other"
        assert value_of(other, "SELECT current_setting('TimeZone')") == zone


def test_what_a_session_left_is_gone_when_it_is_closed(server, table):
    for _ in range(40):
        with connect(server, COOKIES) as connection:
            with refused(AdbcStatusCode.NOT_FOUND, table):
                rows_of(connection, f"FROM {table}")
            assert value_of(connection, "SELECT current_setting('TimeZone')") != "Asia/Tokyo"
            assert value_of(connection, "SELECT getvariable('left_behind')") is None
            run(connection, f"CREATE TEMP TABLE {table} (i INTEGER)")
            run(connection, "SET TimeZone = 'Asia/Tokyo'")
            run(connection, "SET VARIABLE left_behind = 1")


def test_a_session_that_nobody_uses_ends_and_its_client_hears_of_it(start_server, table):
    # Long enough for the calls that a statement is made of.
    server = start_server("--session-timeout", "1s")
    with connect(server, COOKIES) as connection:
        run(connection, f"CREATE TEMP TABLE {table} (i INTEGER)")
        with connect(server) as other, pytest.raises(connection.Error, match="(?i)session"):
            # Each use keeps it alive, so that the pauses between them grow.
            for seconds in [0.5 * 2**n for n in range(7)]:
                pause_end = time.monotonic() + seconds
                while time.monotonic() < pause_end:
                    rows_of(other, "SELECT 42")
                count_of(connection, table)


def test_a_connection_without_cookies_leaves_nothing_to_others(server, table):
    with connect(server) as one, connect(server) as other:
        for sql in [f"CREATE TEMP TABLE {table} (i INTEGER)", "SET TimeZone = 'Asia/Tokyo'"]:
            # Without a session this may be refused.
            with suppress(one.Error):
                run(one, sql)
        with refused(AdbcStatusCode.NOT_FOUND, table):
            rows_of(other, f"FROM {table}")
        assert value_of(other, "SELECT current_setting('TimeZone')") != "Asia/Tokyo"


@pytest.mark.parametrize("autocommit", [True, False])
def test_what_cannot_be_kept_is_not_said_to_be_kept(server, connection, table, autocommit):
    # This driver keeps no cookies unless told so, and so has no session.
    run(connection, f"CREATE SCHEMA schema_of_{table}")
    with connect(server, autocommit=autocommit) as plain:
        try:
            plain.adbc_current_db_schema = f"schema_of_{table}"
        except plain.Error as error:
            assert "cookie" in str(error)
        else:
            assert value_of(plain, "SELECT current_schema()") == f"schema_of_{table}"


@pytest.mark.parametrize(
    ("change", "look"),
    [
        ("CREATE TEMP TABLE {table} AS SELECT 1 AS i", "FROM {table}"),
        ("SET TimeZone = 'Asia/Tokyo'", "SELECT 1 WHERE current_setting('TimeZone') = 'Asia/Tokyo'"),
        ("SET VARIABLE v = 1", "SELECT getvariable('v')"),
    ],
)
def test_what_a_statement_leaves_in_no_session_is_kept_or_refused(server, table, change, look):
    with connect(server) as plain:
        try:
            run(plain, change.format(table=table))
        except plain.Error as error:
            assert "session" in str(error)
        else:
            assert rows_of(plain, look.format(table=table)) == [(1,)]


def test_the_current_catalog_and_schema_can_be_read_and_set(session, table):
    assert session.adbc_current_catalog == "test"
    assert session.adbc_current_db_schema == "main"
    run(session, f"CREATE SCHEMA schema_of_{table}")
    session.adbc_current_db_schema = f"schema_of_{table}"
    assert session.adbc_current_db_schema == f"schema_of_{table}"
    run(session, f"CREATE TABLE {table} AS SELECT 7 AS i")
    assert value_of(session, f"SELECT i FROM test.schema_of_{table}.{table}") == 7
    session.adbc_current_catalog = "test"
    assert session.adbc_current_catalog == "test"


def test_what_use_says_is_what_the_session_options_say(session, table):
    run(session, f"CREATE SCHEMA schema_of_{table}")
    run(session, f"USE schema_of_{table}")
    assert session.adbc_current_db_schema == f"schema_of_{table}"


def test_a_macro_of_the_session_does_not_change_what_its_options_say(session):
    run(session, "CREATE TEMP MACRO current_schema() AS 'nothing'")
    run(session, "CREATE TEMP MACRO current_database() AS 'nothing'")
    assert value_of(session, "SELECT current_schema()") == "nothing"
    assert session.adbc_current_db_schema == "main"
    assert session.adbc_current_catalog == "test"


def test_the_schema_of_one_session_is_not_that_of_another(server, session, table):
    run(session, f"CREATE SCHEMA schema_of_{table}")
    session.adbc_current_db_schema = f"schema_of_{table}"
    with connect(server, COOKIES) as other:
        assert other.adbc_current_db_schema == "main"


@pytest.mark.parametrize("name", ["adbc_current_catalog", "adbc_current_db_schema"])
def test_a_catalog_or_schema_that_is_not_there_cannot_be_set(session, name):
    before = getattr(session, name)
    with refused(AdbcStatusCode.INVALID_ARGUMENT, "(?i)invalid value"):
        setattr(session, name, "no such thing")
    assert getattr(session, name) == before


def test_a_setting_of_duckdb_is_a_session_option(session):
    connection = session.adbc_connection
    default = value_of(session, "SELECT current_setting('TimeZone')")
    connection.set_options(**{session_option("TimeZone"): "Asia/Tokyo"})
    assert value_of(session, "SELECT current_setting('TimeZone')") == "Asia/Tokyo"
    connection.set_options(**{ConnectionOptions.OPTION_ERASE_SESSION_OPTION_PREFIX.value + "TimeZone": ""})
    assert value_of(session, "SELECT current_setting('TimeZone')") == default


def test_all_session_options_can_be_listed(session):
    options = json.loads(session.adbc_connection.get_option(ConnectionOptions.OPTION_SESSION_OPTIONS.value))
    assert options["catalog"] == "test"
    assert options["schema"] == "main"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("no_such_option", "1", "invalid name"),
        ("TimeZone", "no such zone", "invalid value"),
        ("memory_limit", "100GB", "no_such_option|memory_limit"),
        ("threads", "1", "threads"),
        ("enable_external_access", "true", "enable_external_access"),
    ],
)
def test_an_option_that_is_unknown_or_not_the_sessions_is_refused(session, name, value, message):
    with refused(AdbcStatusCode.INVALID_ARGUMENT, message):
        session.adbc_connection.set_options(**{session_option(name): value})


def test_a_clone_of_a_connection_has_a_session_of_its_own(session, table):
    run(session, f"CREATE TEMP TABLE {table} (i INTEGER)")
    with session.adbc_clone() as clone:
        with refused(AdbcStatusCode.NOT_FOUND, table):
            rows_of(clone, f"FROM {table}")
