"""The options of a put, its acknowledgements, and how columns find their place."""

import json

import pyarrow as pa
import pytest
from conftest import execute, put, query, read
from pyarrow import flight

NUMBERS = pa.schema([("i", pa.int64())])


def numbers(*values) -> pa.Table:
    return pa.table({"i": values}, NUMBERS)


def command(**options) -> flight.FlightDescriptor:
    return flight.FlightDescriptor.for_command(json.dumps(options))


def put_with(client, descriptor, data) -> list[dict]:
    """Puts a table and answers with every acknowledgement."""
    writer, reader = client.do_put(descriptor, data.schema)
    writer.write_table(data)
    writer.done_writing()
    acks = []
    while (ack := reader.read()) is not None:
        acks.append(json.loads(ack.to_pybytes()))
    writer.close()
    return acks


def test_a_whole_put_is_acknowledged_once(client, table):
    data = pa.concat_tables([numbers(1, 2), numbers(3)])
    assert put_with(client, command(table=table), data) == [{"rows": 3, "duplicate": False}]
    assert query(client, f"SELECT * FROM {table}") == [{"i": 1}, {"i": 2}, {"i": 3}]


def test_each_batch_is_acknowledged_while_the_stream_goes_on(client, table):
    writer, reader = client.do_put(command(table=table, commit="batch"), NUMBERS)
    for number, rows in enumerate([1, 1000, 3000], start=1):
        writer.write_batch(pa.record_batch({"i": [number] * rows}, NUMBERS))
        assert json.loads(reader.read().to_pybytes()) == {"rows": rows, "duplicate": False}
        # Acknowledged is committed: another call sees it at once.
        assert query(client, f"SELECT count(*) AS n FROM {table} WHERE i = {number}") == [{"n": rows}]
    writer.done_writing()
    assert reader.read() is None
    writer.close()


def test_a_failing_put_inserts_nothing(client, table):
    execute(client, f"CREATE TABLE {table} (i BIGINT CHECK (i < 10))")
    data = pa.concat_tables([numbers(1), numbers(11)])
    with pytest.raises(pa.ArrowException, match="(?i)check"):
        put_with(client, command(table=table), data)
    assert query(client, f"SELECT * FROM {table}") == []


def test_a_path_may_name_the_schema_and_the_catalog(client, table):
    execute(client, f"CREATE SCHEMA schema_of_{table}")
    put_with(client, flight.FlightDescriptor.for_path(f"schema_of_{table}", table), numbers(1))
    catalog = query(client, "SELECT current_database() AS name")[0]["name"]
    put_with(client, flight.FlightDescriptor.for_path(catalog, f"schema_of_{table}", table), numbers(2))
    assert query(client, f"SELECT * FROM schema_of_{table}.{table}") == [{"i": 1}, {"i": 2}]


def test_names_are_data_and_never_sql(client):
    execute(client, "CREATE TABLE y (i BIGINT)")
    for strange in ['x"; DROP TABLE y; --', "select", "it's", "späť 🦆", "a.b", " "]:
        data = pa.table({strange: [1, 2]})
        put(client, strange, data)
        put(client, strange, data)
        quoted = '"' + strange.replace('"', '""') + '"'
        assert read(client, f"SELECT * FROM {quoted}").equals(pa.concat_tables([data, data]))
    assert query(client, "SELECT * FROM y") == []


def test_columns_that_the_stream_lacks_take_their_default(client, table):
    execute(client, f"CREATE SEQUENCE sequence_of_{table}")
    defaults = f"d INTEGER DEFAULT 7, n INTEGER, s BIGINT DEFAULT nextval('sequence_of_{table}')"
    execute(client, f"CREATE TABLE {table} (i BIGINT, {defaults})")
    put(client, table, numbers(10, 20))
    assert query(client, f"SELECT * FROM {table}") == [
        {"i": 10, "d": 7, "n": None, "s": 1},
        {"i": 20, "d": 7, "n": None, "s": 2},
    ]


def test_values_are_cast_to_the_tables_types(client, table):
    execute(client, f"CREATE TABLE {table} (a BIGINT, b DOUBLE, c DECIMAL(10, 2), d TIMESTAMP, e VARCHAR)")
    data = pa.table(
        {
            "a": pa.array([1, None] * 3000, pa.int8()),
            "b": pa.array([1.5, None] * 3000, pa.float32()),
            "c": pa.array([3, None] * 3000, pa.int32()),
            "d": pa.array([5, None] * 3000, pa.timestamp("s")),
            "e": pa.array(["x", None] * 3000, pa.large_string()),
        }
    )
    put(client, table, data)
    back = read(client, f"SELECT * FROM {table}")
    assert back.num_rows == 6000
    assert back.schema.field("c").type == pa.decimal128(10, 2)
    assert back.to_pylist() == data.to_pylist()


@pytest.mark.parametrize(
    ("table_type", "values"),
    [
        ("INTEGER", pa.array([1, 2, 2**40], pa.int64())),
        ("UTINYINT", pa.array([1, 2, -1], pa.int64())),
        ("DOUBLE", pa.array(["1", "2", "duck"])),
        ("BIGINT[]", pa.array(["1", "2", "duck"])),
        ("INTEGER", pa.array([[1], [2], [3]], pa.list_(pa.int32()))),
        ("DECIMAL(4, 2)", pa.array([1.0, 2.0, 1000.0])),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_column(client, table, table_type, values):
    execute(client, f"CREATE TABLE {table} (fitting INTEGER, misfit {table_type})")
    with pytest.raises(pa.ArrowInvalid, match="misfit"):
        put(client, table, pa.table({"fitting": pa.array([1, 2, 3], pa.int32()), "misfit": values}))
    assert query(client, f"SELECT * FROM {table}") == []


@pytest.mark.parametrize("path", [["temp", "main"], ["TEMP", "main"], ["temp"]], ids=".".join)
def test_rows_that_nobody_could_read_are_refused(client, table, path):
    data = pa.table({"i": [1, 2, 3]})
    with pytest.raises(pa.ArrowInvalid, match="temporary"):
        writer, _ = client.do_put(flight.FlightDescriptor.for_path(*path, table), data.schema)
        with writer:
            writer.write_table(data)


def test_a_message_above_the_limit_is_refused_with_the_right_code(start_server):
    limit = 1 << 20
    with start_server("--max-message-size", str(limit)).client() as client:
        execute(client, "CREATE TABLE t (i BIGINT)")
        too_large = pa.table({"i": pa.array(range(limit // 4), pa.int64())})
        # pyarrow has no exception for RESOURCE_EXHAUSTED; the code stands in its message.
        with pytest.raises(pa.ArrowException, match="(?is)resource exhausted.*--max-message-size"):
            put(client, "t", too_large)
        assert query(client, "SELECT * FROM t") == []
        put(client, "t", numbers(*range(1000)))
        assert query(client, "SELECT count(*) AS n FROM t") == [{"n": 1000}]


def test_a_column_without_a_name_is_told_in_words(client, table):
    nameless = pa.table({"": [1]})
    inside = pa.table({"s": pa.array([{"": 1}])})
    with pytest.raises(pa.ArrowInvalid, match="no name"):
        put_with(client, command(table=table), nameless)
    with pytest.raises(pa.ArrowInvalid, match="`s`.*without a name"):
        put_with(client, command(table=table), inside)
    put_with(client, command(table=table), numbers(1))
    with pytest.raises(pa.ArrowInvalid, match="no name"):
        put_with(client, command(table=table, schema="evolve"), nameless)


def test_a_bare_name_as_the_command_is_told_what_a_command_is(client, table):
    for bare in [table, f'["{table}"]']:
        with pytest.raises(pa.ArrowInvalid, match='JSON object such as {"table":"events"}'):
            put_with(client, flight.FlightDescriptor.for_command(bare), numbers(1))
