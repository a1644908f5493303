"""What ADBC shows of the database: catalogs, schemas, tables and columns, at every depth and with every filter."""

import pyarrow as pa
import pytest
from adbc_driver_manager import AdbcStatusCode
from flight_sql import COOKIES, connect, refused, rows_of, run, table_of

MOST_TYPES = """
    a TINYINT NOT NULL, b USMALLINT, c HUGEINT, d UHUGEINT, e DECIMAL(10, 3), f FLOAT, g DOUBLE, h VARCHAR, i BLOB,
    j BIT, k UUID, l DATE, m TIME, n TIMESTAMP, o TIMESTAMP_S, p TIMESTAMP_NS, q TIMESTAMPTZ, r INTERVAL, s BOOLEAN,
    t INTEGER[], u INTEGER[3], v STRUCT(x INTEGER, y VARCHAR), w MAP(VARCHAR, INTEGER), x UNION(n INTEGER, t VARCHAR),
    y ENUM ('a', 'b'), z JSON
"""


def catalogs(connection, **filters) -> list[dict]:
    return connection.adbc_get_objects(**filters).read_all().to_pylist()


def schemas(connection, **filters) -> dict[str, dict]:
    """The schemas of the database itself, by name."""
    (database,) = [c for c in catalogs(connection, **filters) if c["catalog_name"] == "test"]
    return {schema["db_schema_name"]: schema for schema in database["catalog_db_schemas"]}


def tables(connection, schema: str = "main", **filters) -> dict[str, dict]:
    found = schemas(connection, db_schema_filter=schema, **filters)
    return {table["table_name"]: table for table in found[schema]["db_schema_tables"]}


def test_the_catalogs_hold_the_database(connection):
    found = catalogs(connection, depth="catalogs")
    assert "test" in [catalog["catalog_name"] for catalog in found]
    assert all(catalog["catalog_db_schemas"] is None for catalog in found)


@pytest.mark.parametrize(("pattern", "found"), [("test", True), ("te%", True), ("t_st", True), ("nowhere", False)])
def test_catalogs_are_filtered_by_pattern(connection, pattern, found):
    names = [catalog["catalog_name"] for catalog in catalogs(connection, depth="catalogs", catalog_filter=pattern)]
    assert ("test" in names) == found


def test_the_schemas_are_those_of_the_database(connection, table):
    run(connection, f"CREATE SCHEMA schema_of_{table}")
    found = schemas(connection, depth="db_schemas")
    assert {"main", f"schema_of_{table}"} <= found.keys()
    assert found["main"]["db_schema_tables"] is None
    assert list(schemas(connection, depth="db_schemas", db_schema_filter=f"schema_of_{table}")) == [
        f"schema_of_{table}"
    ]
    assert list(schemas(connection, depth="db_schemas", db_schema_filter="mai_")) == ["main"]
    assert schemas(connection, depth="db_schemas", db_schema_filter="nowhere") == {}


def test_tables_are_found_by_pattern(connection, table):
    for name in [f"{table}_abc", f"{table}_aXc", f"{table}_abcd"]:
        run(connection, f"CREATE TABLE {name} (i INTEGER)")
    found = tables(connection, depth="tables")
    assert {f"{table}_abc", f"{table}_aXc", f"{table}_abcd"} <= found.keys()
    assert found[f"{table}_abc"]["table_columns"] is None
    assert tables(connection, depth="tables", table_name_filter=f"{table}_a_c").keys() == {
        f"{table}_abc",
        f"{table}_aXc",
    }
    assert tables(connection, depth="tables", table_name_filter=f"{table}_abc%").keys() == {
        f"{table}_abc",
        f"{table}_abcd",
    }
    assert tables(connection, depth="tables", table_name_filter="nowhere") == {}


def test_tables_and_views_are_told_apart_by_their_types(connection, table):
    run(connection, f"CREATE TABLE {table} (i INTEGER)")
    run(connection, f"CREATE VIEW {table}_view AS FROM {table}")
    found = tables(connection, depth="tables", table_name_filter=f"{table}%")
    types = {name: found[name]["table_type"] for name in found}
    assert types.keys() == {table, f"{table}_view"}
    assert types[table] != types[f"{table}_view"]
    known = connection.adbc_get_table_types()
    assert set(types.values()) <= set(known)
    assert len(known) == len(set(known))
    for name, kind in types.items():
        only = tables(connection, depth="tables", table_name_filter=f"{table}%", table_types_filter=[kind])
        assert list(only) == [name]
    both = tables(connection, depth="tables", table_name_filter=f"{table}%", table_types_filter=list(types.values()))
    assert both.keys() == types.keys()


def test_the_columns_are_those_of_the_table(connection, table):
    run(connection, f"CREATE TABLE {table} (id INTEGER NOT NULL, name VARCHAR, price DECIMAL(10, 3))")
    columns = tables(connection, depth="all", table_name_filter=table)[table]["table_columns"]
    assert [(c["column_name"], c["ordinal_position"]) for c in columns] == [("id", 1), ("name", 2), ("price", 3)]
    assert [c["xdbc_type_name"] for c in columns] == ["INTEGER", "VARCHAR", "DECIMAL"]
    some = tables(connection, depth="columns", table_name_filter=table, column_name_filter="%e")
    assert [c["column_name"] for c in some[table]["table_columns"]] == ["name", "price"]


def test_names_are_shown_as_they_are(connection, table):
    name = f"{table} \"quoted\" 'and' Späť%_"
    quoted = '"' + name.replace('"', '""') + '"'
    run(connection, f"CREATE TABLE {quoted} ({quoted} INTEGER)")
    assert name in tables(connection, depth="tables")
    assert connection.adbc_get_table_schema(name).names == [name]


def test_the_schema_of_a_table_is_that_of_its_rows(connection, table):
    run(connection, f"CREATE TABLE {table} ({MOST_TYPES})")
    schema = connection.adbc_get_table_schema(table)
    rows = table_of(connection, f"FROM {table}").schema
    assert schema.names == rows.names
    assert schema.types == rows.types
    assert not schema.field("a").nullable
    assert schema.field("b").nullable


def test_the_schema_is_found_in_the_current_schema_before_others(connection, table):
    run(connection, f"CREATE SCHEMA a_schema_of_{table}")
    run(connection, f"CREATE TABLE a_schema_of_{table}.{table} (other VARCHAR)")
    run(connection, f"CREATE TABLE {table} (i INTEGER)")
    run(connection, f"CREATE TABLE {table.replace('_', 'X')} (x INTEGER)")
    assert connection.adbc_get_table_schema(table).names == ["i"]
    assert connection.adbc_get_table_schema(table, db_schema_filter=f"a_schema_of_{table}").names == ["other"]
    assert connection.adbc_get_table_schema(table, catalog_filter="test", db_schema_filter="main").names == ["i"]


def test_a_table_that_is_not_there_has_no_schema(connection):
    with refused(AdbcStatusCode.NOT_FOUND):
        connection.adbc_get_table_schema("nowhere")


def test_the_schema_of_a_statement_comes_without_running_it(connection, table):
    run(connection, f"CREATE SEQUENCE {table}")
    with connection.cursor() as cursor:
        schema = cursor.adbc_execute_schema(f"SELECT nextval('{table}') AS n, 'duck' AS name")
        assert schema.types == [pa.int64(), pa.string()]
        assert schema.names == ["n", "name"]
    assert rows_of(connection, f"SELECT nextval('{table}')") == [(1,)]


def test_a_dropped_table_is_not_shown(connection, table):
    run(connection, f"CREATE TABLE {table} (i INTEGER)")
    run(connection, f"DROP TABLE {table}")
    assert tables(connection, depth="tables", table_name_filter=table) == {}


def test_a_temporary_table_is_shown_to_its_own_session_only(server, table):
    with connect(server, COOKIES) as one, connect(server, COOKIES) as other:
        run(one, f"CREATE TEMP TABLE {table} (i INTEGER)")
        assert one.adbc_get_table_schema(table).names == ["i"]
        with refused(AdbcStatusCode.NOT_FOUND):
            other.adbc_get_table_schema(table)


def test_a_table_made_in_a_transaction_is_shown_to_nobody_else(server, connection, table):
    with connect(server, COOKIES, autocommit=False) as other:
        run(other, f"CREATE TABLE {table} (i INTEGER)")
        assert tables(connection, depth="tables", table_name_filter=table) == {}
        other.commit()
    assert list(tables(connection, depth="tables", table_name_filter=table)) == [table]


@pytest.mark.parametrize("options", [None, COOKIES], ids=["plain", "cookies"])
def test_a_table_made_in_a_transaction_is_shown_to_it(server, connection, table, options):
    with connect(server, options, autocommit=False) as own:
        run(own, f"CREATE TABLE {table} (i INTEGER, name VARCHAR)")
        assert own.adbc_get_table_schema(table).names == ["i", "name"]
        assert list(tables(own, depth="tables", table_name_filter=table)) == [table]
        own.rollback()
        with refused(AdbcStatusCode.NOT_FOUND):
            own.adbc_get_table_schema(table)
        # Looking at the catalog begins no transaction, which would not see what comes next.
        run(connection, f"CREATE TABLE {table} (other INTEGER)")
        assert own.adbc_get_table_schema(table).names == ["other"]
