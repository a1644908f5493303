"""Values through ADBC: results, parameters and ingested columns, exactly, of every type."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest
from adbc_driver_manager import AdbcStatusCode
from conftest import put, query, read
from flight_sql import refused, rows_of, run, table_of, value_of
from test_types_in import ROUND_TRIPS, array, label, values_of
from test_types_out import EXACT

BOUND = 100

# Values of Python's own types, with what DuckDB says they are.
PYTHON = [
    (True, "BOOLEAN"),
    (-(2**63), "BIGINT"),
    (0.1, "DOUBLE"),
    ("späť 🦆 \0 '", "VARCHAR"),
    (b"\x00\xff", "BLOB"),
    (Decimal("-12345.678"), "DECIMAL(8,3)"),
    (date(2026, 2, 28), "DATE"),
    (time(12, 34, 56, 789000), "TIME"),
    (datetime(2026, 2, 28, 12, 34, 56, 789012), "TIMESTAMP"),
    (datetime(2026, 2, 28, 12, 34, 56, 789012, UTC), "TIMESTAMP WITH TIME ZONE"),
    (timedelta(days=1, microseconds=5), "INTERVAL"),
    ([1, None, 3], "BIGINT[]"),
    ({"a": 1, "b": "x"}, "STRUCT(a BIGINT, b VARCHAR)"),
]

PARAMETER_SCHEMAS = [
    ("SELECT * FROM {table} WHERE i = ?", [pa.int32()]),
    ("INSERT INTO {table} VALUES (?, ?, ?)", [pa.int32(), pa.string(), pa.decimal128(10, 3)]),
    ("UPDATE {table} SET name = ? WHERE price > ?", [pa.string(), pa.decimal128(10, 3)]),
    ("SELECT ?::DATE, ?::TIMESTAMPTZ, ?::BLOB", None),
]


@pytest.mark.parametrize(
    ("sql", "arrow_type", "expected"), EXACT, ids=lambda case: case if isinstance(case, str) else ""
)
def test_results_are_exact(connection, sql, arrow_type, expected):
    rows = f"FROM range(5000) LEFT JOIN (SELECT {sql} AS gauge) ON range % 3 != 1 ORDER BY range"
    column = table_of(connection, f"SELECT gauge {rows}")["gauge"]
    assert column.to_pylist() == [None if row % 3 == 1 else expected for row in range(5000)]
    assert arrow_type is None or column.type == arrow_type


@pytest.mark.parametrize(("arrow_type", "values"), ROUND_TRIPS, ids=label)
def test_ingested_values_come_back_as_they_were_sent(connection, table, arrow_type, values):
    gauge = array(arrow_type, values)
    with connection.cursor() as cursor:
        assert cursor.adbc_ingest(table, pa.table({"id": range(len(gauge)), "gauge": gauge})) == len(gauge)
    back = table_of(connection, f"FROM {table} ORDER BY id")
    assert values_of(back["gauge"]) == values_of(gauge)


@pytest.mark.parametrize(("arrow_type", "values"), ROUND_TRIPS, ids=label)
def test_bound_values_arrive_as_they_were_sent(client, connection, table, arrow_type, values):
    gauge = array(arrow_type, values).slice(0, BOUND)
    # A put of no rows makes a table with the column that such values have.
    rows = pa.table({"id": range(BOUND), "gauge": gauge})
    put(client, table, rows.slice(0, 0))
    with connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO {table} VALUES (?, ?)", rows)
        assert cursor.rowcount == BOUND
    back = table_of(connection, f"FROM {table} ORDER BY id")
    assert values_of(back["gauge"]) == values_of(gauge)


@pytest.mark.parametrize(("value", "duckdb_type"), PYTHON, ids=lambda case: case if isinstance(case, str) else "")
def test_a_parameter_has_the_type_that_was_bound(connection, value, duckdb_type):
    back, kind = rows_of(connection, "SELECT ? AS v, typeof(?)", [value, value])[0]
    assert kind == duckdb_type
    if isinstance(value, timedelta):
        assert (back.months, back.days * 86_400 * 10**9 + back.nanoseconds) == (
            0,
            value // timedelta(microseconds=1) * 1000,
        )
    else:
        assert back == value


@pytest.mark.parametrize(
    ("sql", "duckdb_type"),
    [
        ("(-170141183460469231731687303715884105728)::HUGEINT", "HUGEINT"),
        ("170141183460469231731687303715884105727::HUGEINT", "HUGEINT"),
        ("340282366920938463463374607431768211455::UHUGEINT", "UHUGEINT"),
        ("5::UHUGEINT", "UHUGEINT"),
        ("[7::UHUGEINT, NULL]", "UHUGEINT[]"),
        ("union_value(i := 5)", "UNION(i INTEGER)"),
    ],
)
def test_what_was_read_can_be_bound(client, connection, sql, duckdb_type):
    value = read(client, f"SELECT {sql} AS v")["v"]
    bound = pa.table({"v": value, "w": value})
    with connection.cursor() as cursor:
        cursor.execute("SELECT ?::VARCHAR, typeof(?)", bound)
        assert cursor.fetchall() == [(query(client, f"SELECT ({sql})::VARCHAR AS v")[0]["v"], duckdb_type)]


def raw(arrow_type, value, bits=64):
    """An array of one value that pyarrow would not make."""
    data = value.to_bytes(bits // 8, "little", signed=True)
    return pa.Array.from_buffers(arrow_type, 1, [None, pa.py_buffer(data)])


@pytest.mark.parametrize(
    "value",
    [
        raw(pa.time64("us"), -1),
        raw(pa.time64("ns"), 2**63 - 1),
        raw(pa.time32("s"), 86_401, 32),
        raw(pa.date32(), -(2**31), 32),
        raw(pa.timestamp("us"), -(2**63)),
        raw(pa.timestamp("s"), 2**63 - 2),
        raw(pa.timestamp("ms"), 2**62),
        raw(pa.timestamp("ns", "UTC"), -(2**63)),
        raw(pa.decimal128(4, 1), 10_000, 128),
    ],
    ids=lambda value: str(value.type),
)
def test_a_value_that_duckdb_does_not_have_is_refused(connection, value):
    with refused(AdbcStatusCode.INVALID_ARGUMENT, "row 1"):
        rows_of(connection, "SELECT ?::VARCHAR", pa.table({"v": value}))


def test_no_value_is_bound_as_null(connection):
    assert rows_of(connection, "SELECT ? IS NULL, ?::INTEGER, coalesce(?, 7)", [None, None, None]) == [(True, None, 7)]


@pytest.mark.parametrize(
    ("arrow_type", "duckdb_type"),
    [
        (pa.int64(), "BIGINT"),
        (pa.string(), "VARCHAR"),
        (pa.decimal128(10, 2), "DECIMAL(10,2)"),
        (pa.timestamp("us", "UTC"), "TIMESTAMP WITH TIME ZONE"),
        (pa.list_(pa.int32()), "INTEGER[]"),
        (pa.struct({"a": pa.int32()}), "STRUCT(a INTEGER)"),
        (pa.map_(pa.string(), pa.int32()), "MAP(VARCHAR, INTEGER)"),
        (pa.dictionary(pa.int8(), pa.string()), "VARCHAR"),
        (pa.null(), '"NULL"'),
    ],
    ids=str,
)
def test_a_null_has_the_type_of_its_column(connection, arrow_type, duckdb_type):
    null = pa.nulls(1, arrow_type)
    rows = rows_of(connection, "SELECT ? AS v, typeof(?)", pa.record_batch([null, null], names=["v", "w"]))
    assert rows == [(None, duckdb_type)]


def test_the_columns_of_a_query_are_the_same_for_a_null(connection):
    for values in [[1, 2, None], [None, 2], [None, None]]:
        bound = pa.table({"v": pa.array(values, pa.int64())})
        result = table_of(connection, "SELECT ? AS v", bound)
        assert result.schema.types == [pa.int64()]
        assert result["v"].to_pylist() == values


def test_text_is_a_value_and_never_sql(connection, table):
    run(connection, f"CREATE TABLE {table} (name VARCHAR)")
    evil = f"'); DROP TABLE {table}; --"
    run(connection, f"INSERT INTO {table} VALUES (?)", [evil])
    assert rows_of(connection, f"FROM {table} WHERE name = ?", [evil]) == [(evil,)]


def test_a_query_bound_to_several_rows_runs_for_each(connection, table):
    run(connection, f"CREATE TABLE {table} AS SELECT range AS i FROM range(100)")
    bound = pa.table({"low": [1, 50, 98], "high": [3, 50, 200]})
    result = rows_of(connection, f"SELECT i FROM {table} WHERE i BETWEEN ? AND ? ORDER BY i", bound)
    assert result == [(1,), (2,), (3,), (50,), (98,), (99,)]


def test_a_change_bound_to_several_rows_happens_for_each(connection, table):
    run(connection, f"CREATE TABLE {table} (i BIGINT, name VARCHAR)")
    run(connection, f"INSERT INTO {table} VALUES (?, ?)", pa.table({"i": [1, 2, None], "name": ["a", None, "c"]}))
    assert rows_of(connection, f"FROM {table} ORDER BY ALL NULLS LAST") == [(1, "a"), (2, None), (None, "c")]


def test_parameters_change_from_execution_to_execution(connection):
    with connection.cursor() as cursor:
        for value, kind in [(1, "BIGINT"), ("duck", "VARCHAR"), (1.5, "DOUBLE"), (b"x", "BLOB"), (2, "BIGINT")]:
            cursor.execute("SELECT $1, typeof($1)", [value])
            assert cursor.fetchall() == [(value, kind)]


def test_numbered_parameters_are_bound_by_number(connection):
    assert rows_of(connection, "SELECT $2, $1, $2", ["one", "two"]) == [("two", "one", "two")]


@pytest.mark.parametrize(("sql", "types"), PARAMETER_SCHEMAS)
def test_the_types_of_parameters_are_known_beforehand(connection, table, sql, types):
    run(connection, f"CREATE TABLE {table} (i INTEGER, name VARCHAR, price DECIMAL(10, 3))")
    with connection.cursor() as cursor:
        schema = cursor.adbc_prepare(sql.format(table=table))
        if types is None:
            assert len(schema) == 3
        else:
            assert schema.types == types


@pytest.mark.parametrize("bound", [[], [1], [1, 2, 3]])
def test_too_few_or_too_many_parameters_are_refused(connection, bound):
    with refused(AdbcStatusCode.INVALID_ARGUMENT, "(?i)parameter|value"):
        rows_of(connection, "SELECT ? + ?", bound)
    with connection.cursor() as cursor, refused(AdbcStatusCode.INVALID_ARGUMENT, "(?i)parameter|value"):
        cursor.executemany("SELECT ? + ?", [tuple(bound)] if bound else None)


def test_a_value_that_does_not_fit_its_column_is_refused(connection, table):
    run(connection, f"CREATE TABLE {table} (i TINYINT)")
    for bad in [1000, "duck"]:
        with refused(AdbcStatusCode.INVALID_ARGUMENT, str(bad)):
            run(connection, f"INSERT INTO {table} VALUES (?)", [bad])
    assert value_of(connection, f"SELECT count(*) FROM {table}") == 0


def test_the_largest_text_fits_in_a_parameter_and_a_result(connection):
    text = "duck" * (2 * 1024 * 1024)
    assert value_of(connection, "SELECT ?", [text]) == text
