"""What a client may ask, and what it hears when it asks wrongly."""

import pyarrow as pa
import pytest
from conftest import execute, put, query, read
from pyarrow import flight

DUCKS = pa.table({"id": [1, 2], "name": ["mallard", None]})


@pytest.mark.parametrize(
    ("ticket", "error", "message"),
    [
        (b"", pa.ArrowInvalid, "(?i)empty"),
        (b"  ;  -- nothing", pa.ArrowInvalid, "(?i)statement|empty"),
        (b"\xff\xfe\x00", pa.ArrowInvalid, "(?i)utf-8"),
        (b"SELECT 1\x00", pa.ArrowInvalid, None),
        (b"SELEKT 1", pa.ArrowInvalid, "SELEKT"),
        (b"SELECT nothing", pa.ArrowInvalid, "nothing"),
        (b"SELECT 'duck'::INTEGER", pa.ArrowInvalid, "duck"),
        (b"SELECT error('quack')", pa.ArrowInvalid, "quack"),
        (b"SELECT * FROM nowhere", pa.lib.ArrowKeyError, "nowhere"),
        (b"DROP TABLE nowhere", pa.lib.ArrowKeyError, "nowhere"),
        (b"CREATE TABLE pond (i INTEGER); CREATE TABLE pond (i INTEGER)", pa.ArrowException, "pond.*exist"),
        (b"SELECT ?", pa.ArrowInvalid, "(?i)parameter"),
    ],
)
def test_a_bad_ticket_gets_the_right_error(client, ticket, error, message):
    with pytest.raises(error, match=message):
        client.do_get(flight.Ticket(ticket)).read_all()


def test_an_error_after_many_rows_reaches_the_client(client):
    sql = "SELECT CASE WHEN range < 2500000 THEN range ELSE error('quack') END AS i FROM range(3000000)"
    with pytest.raises(pa.ArrowInvalid, match="quack"):
        read(client, sql)


@pytest.mark.parametrize("sql", ["SELEKT 1", "INSERT INTO nowhere VALUES (1)", ""])
def test_a_bad_script_in_an_action_is_refused(client, sql):
    with pytest.raises((pa.ArrowInvalid, KeyError)):
        execute(client, sql)


def test_an_unknown_action_is_refused_with_the_list_of_known_ones(client):
    with pytest.raises(pa.ArrowNotImplementedError, match="(?s)quack.*query"):
        list(client.do_action(("quack", b"")))


def test_the_known_actions_are_listed(client):
    assert "query" in [action.type for action in client.list_actions()]


def test_requests_with_32_kib_of_headers_are_served(client, table):
    headers = flight.FlightCallOptions(headers=[(b"x-credentials", b"h" * (32 << 10))])
    writer, acks = client.do_put(flight.FlightDescriptor.for_path(table), DUCKS.schema, headers)
    writer.write_table(DUCKS)
    writer.done_writing()
    assert acks.read().to_pybytes() == b'{"rows":2,"duplicate":false}'
    writer.close()
    (changed,) = client.do_action(("query", f"DELETE FROM {table} WHERE id = 2".encode()), headers)
    assert changed.body.to_pybytes() == b'{"rows_changed":1}'
    rows = client.do_get(flight.Ticket(f"SELECT id FROM {table}".encode()), headers).read_all()
    assert rows.to_pylist() == [{"id": 1}]


def test_the_info_of_a_table_leads_to_its_rows(client, table):
    put(client, table, DUCKS)
    info = client.get_flight_info(flight.FlightDescriptor.for_path(table))
    assert info.schema.equals(DUCKS.schema)
    (endpoint,) = info.endpoints
    assert client.do_get(endpoint.ticket).read_all().equals(DUCKS)


def test_the_info_of_a_statement_leads_to_its_rows(client):
    info = client.get_flight_info(flight.FlightDescriptor.for_command(b"SELECT 42::BIGINT AS answer"))
    assert info.schema.equals(pa.schema([("answer", pa.int64())]))
    (endpoint,) = info.endpoints
    assert client.do_get(endpoint.ticket).read_all().to_pylist() == [{"answer": 42}]


def test_the_schema_of_a_table_and_of_a_statement_is_that_of_the_rows(client, table):
    put(client, table, DUCKS)
    sql = f"SELECT *, 1::HUGEINT AS h, 'a'::ENUM ('a') AS e, uuid() AS u, [1] AS l FROM {table}"
    for descriptor, statement in [
        (flight.FlightDescriptor.for_path(table), f"SELECT * FROM {table}"),
        (flight.FlightDescriptor.for_command(sql.encode()), sql),
    ]:
        schema = read(client, statement).schema
        assert client.get_schema(descriptor).schema.equals(schema)
        assert client.get_flight_info(descriptor).schema.equals(schema)


def test_asking_for_the_schema_does_not_run_the_statement(client, table):
    execute(client, f"CREATE TABLE {table} (i BIGINT); CREATE SEQUENCE sequence_of_{table}")
    for sql in [
        f"INSERT INTO {table} VALUES (1)",
        f"INSERT INTO {table} VALUES (2) RETURNING i",
        f"SELECT nextval('sequence_of_{table}') AS n",
        f"DROP TABLE {table}",
    ]:
        descriptor = flight.FlightDescriptor.for_command(sql.encode())
        client.get_schema(descriptor)
        client.get_flight_info(descriptor)
    assert query(client, f"SELECT * FROM {table}") == []
    assert query(client, f"SELECT nextval('sequence_of_{table}') AS n") == [{"n": 1}]


@pytest.mark.parametrize(
    ("descriptor", "error", "message"),
    [
        (flight.FlightDescriptor.for_path("nowhere"), pa.lib.ArrowKeyError, "nowhere"),
        (flight.FlightDescriptor.for_path("a", "b", "c", "d"), pa.ArrowInvalid, "4"),
        (flight.FlightDescriptor.for_command(b"SELEKT 1"), pa.ArrowInvalid, "SELEKT"),
        (flight.FlightDescriptor.for_command(b"SELECT * FROM nowhere"), pa.lib.ArrowKeyError, "nowhere"),
        (flight.FlightDescriptor.for_command(b""), pa.ArrowInvalid, "(?i)empty"),
        (flight.FlightDescriptor.for_command(b"\xff\xfe"), pa.ArrowInvalid, "(?i)utf-8"),
    ],
)
def test_a_descriptor_of_nothing_gets_the_right_error(client, descriptor, error, message):
    for call in (client.get_schema, client.get_flight_info):
        with pytest.raises(error, match=message):
            call(descriptor)


def test_tables_and_views_are_listed_with_schema_and_rows(client, table):
    put(client, table, DUCKS)
    execute(client, f"CREATE VIEW view_of_{table} AS SELECT id FROM {table}")
    listed = {info.descriptor.path[-1].decode(): info for info in client.list_flights()}
    assert listed[table].schema.equals(DUCKS.schema)
    assert listed[table].total_records == 2
    assert listed[f"view_of_{table}"].schema.names == ["id"]
    (endpoint,) = listed[table].endpoints
    assert client.do_get(endpoint.ticket).read_all().equals(DUCKS)


def test_the_listing_can_be_narrowed_by_name(client, table):
    execute(client, f"CREATE TABLE {table} (i BIGINT); CREATE TABLE {table}_too (i BIGINT)")
    names = [info.descriptor.path[-1].decode() for info in client.list_flights(table.encode())]
    assert names == [table]
    assert list(client.list_flights(b"no such table")) == []


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{directory}/written.csv'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/etc/*')",
        "ATTACH '{directory}/attached.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '100GB'",
        "SET GLOBAL threads = 1",
        "PRAGMA enable_profiling",
        "EXPORT DATABASE '{directory}/exported'",
    ],
)
def test_a_client_reaches_no_files_extensions_or_settings(client, tmp_path, sql):
    sql = sql.format(directory=tmp_path)
    with pytest.raises(pa.ArrowException):
        execute(client, sql)
    with pytest.raises(pa.ArrowException):
        read(client, sql)
    assert list(tmp_path.iterdir()) == []


def test_a_call_that_is_not_served_says_so(client):
    with pytest.raises(pa.ArrowNotImplementedError):
        client.do_exchange(flight.FlightDescriptor.for_path("t"))[1].read_all()
