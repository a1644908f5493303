"""Bulk ingest through ADBC: every mode, every place, all or nothing."""

import pyarrow as pa
import pytest
from adbc_driver_manager import AdbcStatusCode
from flight_sql import COOKIES, connect, count_of, refused, rows_of, run

DUCKS = pa.table({"id": [1, 2], "name": ["mallard", None]})
GEESE = pa.table({"id": [3], "name": ["greylag"]})
ALL = [(1, "mallard"), (2, None), (3, "greylag")]


def ingest(connection, table: str, data, mode: str = "create", **options) -> int:
    with connection.cursor() as cursor:
        return cursor.adbc_ingest(table, data, mode=mode, **options)


def test_create_makes_the_table_and_says_how_many_rows_it_holds(connection, table):
    assert ingest(connection, table, DUCKS) == 2
    assert rows_of(connection, f"FROM {table} ORDER BY id") == ALL[:2]
    assert connection.adbc_get_table_schema(table).equals(DUCKS.schema)


def test_create_refuses_a_table_that_exists_and_leaves_it_alone(connection, table):
    ingest(connection, table, DUCKS)
    with refused(AdbcStatusCode.ALREADY_EXISTS, table):
        ingest(connection, table, GEESE)
    assert rows_of(connection, f"FROM {table} ORDER BY id") == ALL[:2]


def test_create_makes_a_table_that_was_dropped_or_renamed(connection, table):
    for gone in [f"DROP TABLE {table}", f"ALTER TABLE {table} RENAME TO old_{table}"]:
        ingest(connection, table, DUCKS)
        ingest(connection, table, GEESE, "append")
        run(connection, gone)
        ingest(connection, table, GEESE)
        assert rows_of(connection, f"FROM {table}") == ALL[2:]
        run(connection, f"DROP TABLE {table}")


def test_append_adds_rows(connection, table):
    ingest(connection, table, DUCKS)
    assert ingest(connection, table, GEESE, "append") == 1
    assert rows_of(connection, f"FROM {table} ORDER BY id") == ALL


def test_append_refuses_a_table_that_is_not_there_and_does_not_make_it(connection, table):
    with refused(AdbcStatusCode.NOT_FOUND, table):
        ingest(connection, table, DUCKS, "append")
    with refused(AdbcStatusCode.NOT_FOUND, table):
        rows_of(connection, f"FROM {table}")


def test_replace_makes_the_table_anew(connection, table):
    assert ingest(connection, table, DUCKS, "replace") == 2
    other = pa.table({"wings": [2.0]})
    assert ingest(connection, table, other, "replace") == 1
    assert rows_of(connection, f"FROM {table}") == [(2.0,)]


def test_create_append_makes_the_table_once(connection, table):
    ingest(connection, table, DUCKS, "create_append")
    ingest(connection, table, GEESE, "create_append")
    assert rows_of(connection, f"FROM {table} ORDER BY id") == ALL


@pytest.mark.parametrize("mode", ["append", "create_append", "replace"])
def test_rows_that_do_not_fit_leave_everything_as_it_was(connection, table, mode):
    run(connection, f"CREATE TABLE {table} (id TINYINT, name VARCHAR CHECK (name <> 'bad'))")
    run(connection, f"INSERT INTO {table} VALUES (1, 'good')")
    bad = pa.table({"id": [1, 1000], "name": ["good", "bad"]})
    if mode == "replace":
        # A new table takes these rows; it is the stream that breaks.
        bad = pa.table({"id": pa.array([1]), "ID": pa.array([2])})
    with refused(AdbcStatusCode.INVALID_ARGUMENT):
        ingest(connection, table, bad, mode)
    assert rows_of(connection, f"FROM {table}") == [(1, "good")]


def test_a_column_that_the_table_lacks_is_refused_by_name(connection, table):
    ingest(connection, table, DUCKS)
    with refused(AdbcStatusCode.INVALID_ARGUMENT, "wings"):
        ingest(connection, table, pa.table({"id": [3], "wings": [2]}), "append")
    assert count_of(connection, table) == 2


def test_a_new_table_that_gets_no_rows_is_there(connection, table):
    assert ingest(connection, table, pa.RecordBatch.from_pylist([], DUCKS.schema)) == 0
    assert connection.adbc_get_table_schema(table).names == ["id", "name"]


def test_a_stream_without_a_batch_is_an_error_or_makes_the_table(connection, table):
    # This driver then sends nothing at all, not even the table's name.
    try:
        ingest(connection, table, DUCKS.slice(0, 0))
    except connection.Error as error:
        assert error.status_code == AdbcStatusCode.INVALID_ARGUMENT, error
    else:
        assert connection.adbc_get_table_schema(table).names == ["id", "name"]


def test_a_reader_that_fails_is_an_error_for_its_client(connection, table):
    def batches():
        yield from DUCKS.to_batches()
        raise RuntimeError("quack")

    reader = pa.RecordBatchReader.from_batches(DUCKS.schema, batches())
    with pytest.raises(Exception, match="quack"):
        ingest(connection, table, reader)


def test_a_table_goes_where_it_is_told(connection, table):
    run(connection, f"CREATE SCHEMA schema_of_{table}")
    ingest(connection, table, DUCKS, catalog_name="test", db_schema_name=f"schema_of_{table}")
    ingest(connection, table, GEESE, "append", db_schema_name=f"schema_of_{table}")
    ingest(connection, table, GEESE, "create", catalog_name="test")
    assert rows_of(connection, f"FROM test.schema_of_{table}.{table} ORDER BY id") == ALL
    assert rows_of(connection, f"FROM test.main.{table}") == ALL[2:]


@pytest.mark.parametrize("options", [{"catalog_name": "nowhere"}, {"db_schema_name": "nowhere"}])
@pytest.mark.parametrize("mode", ["create", "append", "replace", "create_append"])
def test_a_catalog_or_schema_that_is_not_there_is_refused_by_name(connection, table, options, mode):
    with refused(AdbcStatusCode.NOT_FOUND, "nowhere"):
        ingest(connection, table, DUCKS, mode, **options)


def test_a_name_is_a_name_and_never_sql(connection, table):
    name = f'{table}"; DROP TABLE {table}; --'
    ingest(connection, table, DUCKS)
    ingest(connection, name, GEESE)
    quoted = '"' + name.replace('"', '""') + '"'
    assert rows_of(connection, f"FROM {quoted}") == ALL[2:]
    assert count_of(connection, table) == 2


def test_a_temporary_table_is_the_sessions_own(server, table):
    with connect(server, COOKIES) as one, connect(server, COOKIES) as other:
        ingest(one, table, DUCKS, temporary=True)
        ingest(one, table, GEESE, "append", temporary=True)
        assert rows_of(one, f"FROM {table} ORDER BY id") == ALL
        with refused(AdbcStatusCode.NOT_FOUND, table):
            rows_of(other, f"FROM {table}")
        # One of the same name for all does not come in its way.
        ingest(other, table, GEESE)
        assert count_of(one, f"temp.{table}") == 3
        assert count_of(other, table) == 1


def test_a_temporary_table_without_a_session_is_no_table_for_all(connection, table):
    try:
        ingest(connection, table, DUCKS, temporary=True)
    except connection.Error as error:
        assert error.status_code in (AdbcStatusCode.INVALID_ARGUMENT, AdbcStatusCode.UNKNOWN)
        assert "session" in str(error)
    with refused(AdbcStatusCode.NOT_FOUND, table):
        rows_of(connection, f"FROM {table}")


def test_the_catalog_of_temporary_tables_is_the_sessions_own(server, connection, table):
    with connect(server, COOKIES) as session:
        ingest(session, table, DUCKS, catalog_name="TEMP", db_schema_name="main")
        assert rows_of(session, f"FROM temp.{table} ORDER BY id") == ALL[:2]
        with refused(AdbcStatusCode.INVALID_ARGUMENT, "catalog"):
            ingest(session, table, DUCKS, catalog_name="test", temporary=True)
        with refused(AdbcStatusCode.NOT_FOUND, table):
            rows_of(connection, f"FROM test.main.{table}")


def test_a_million_rows_in_many_batches_are_one_unit(server, connection, table):
    rows = 1_000_000
    data = pa.table({"i": range(rows), "name": [f"row {i % 100}" for i in range(rows)]})
    assert ingest(connection, table, data.to_reader(max_chunksize=10_000)) == rows
    result = rows_of(connection, f"SELECT count(*), count(DISTINCT i), sum(i) FROM {table}")
    assert result == [(rows, rows, rows * (rows - 1) // 2)]


def test_ingest_in_the_sessions_transaction_is_committed_with_it(server, connection, table):
    with connect(server, COOKIES, autocommit=False) as writer:
        run(writer, f"CREATE TABLE {table} (id BIGINT, name VARCHAR)")
        ingest(writer, table, DUCKS, "append")
        ingest(writer, f"{table}_new", GEESE)
        assert count_of(writer, table) == 2
        with refused(AdbcStatusCode.NOT_FOUND, table):
            rows_of(connection, f"FROM {table}")
        writer.commit()
        assert rows_of(connection, f"FROM {table} ORDER BY id") == ALL[:2]
        assert rows_of(connection, f"FROM {table}_new") == ALL[2:]


def test_ingest_in_the_sessions_transaction_is_rolled_back_with_it(server, connection, table):
    run(connection, f"CREATE TABLE {table} (id BIGINT, name VARCHAR)")
    with connect(server, COOKIES, autocommit=False) as writer:
        ingest(writer, table, DUCKS, "append")
        ingest(writer, f"{table}_new", GEESE)
        assert count_of(writer, table) == 2
        writer.rollback()
        assert count_of(writer, table) == 0
    assert count_of(connection, table) == 0
    with refused(AdbcStatusCode.NOT_FOUND, f"{table}_new"):
        rows_of(connection, f"FROM {table}_new")


def test_a_record_batch_without_rows_makes_the_table_and_no_batch_at_all_is_refused(connection, table):
    schema = pa.schema([("id", pa.int64())])
    with pytest.raises(connection.Error, match="ADBC.*without batches"):
        ingest(connection, table, pa.Table.from_batches([], schema))
    ingest(connection, table, pa.RecordBatch.from_pylist([], schema))
    assert rows_of(connection, f"FROM {table}") == []
