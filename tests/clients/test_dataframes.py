"""pandas, polars and SQLAlchemy read and write through the stock ADBC driver."""

from datetime import date, datetime
from decimal import Decimal

import pandas as pd
import polars as pl
import pytest
import sqlalchemy as sa
from flight_sql import COOKIES, connect, count_of, rows_of, run
from polars.testing import assert_frame_equal

DUCKS = {
    "id": [1, 2, 3],
    "name": ["mallard", "teal", None],
    "weight": [1.2, 0.3, None],
    "seen": [datetime(2026, 2, 28, 12, 34, 56, 789012), None, datetime(1969, 12, 31)],
}


@pytest.fixture(params=["autocommit", "default", "session"])
def any_connection(server, request):
    """A connection as programs open it: one that commits by itself, a default one, and one with cookies."""
    options = COOKIES if request.param == "session" else None
    with connect(server, options, autocommit=request.param == "autocommit") as connection:
        yield connection


def test_pandas_reads_a_query(connection):
    frame = pd.read_sql("SELECT range AS i, 'row ' || range AS name FROM range(3000)", connection)
    assert frame["i"].tolist() == list(range(3000))
    assert frame["name"].tolist() == [f"row {i}" for i in range(3000)]


def test_pandas_writes_a_table_and_reads_it_back(server, any_connection, table):
    frame = pd.DataFrame({"id": [1, 2, 3], "name": ["mallard", "teal", "eider"], "weight": [1.2, 0.3, 2.1]})
    assert frame.to_sql(table, any_connection, index=False) == 3
    with connect(server) as other:
        pd.testing.assert_frame_equal(pd.read_sql(f"SELECT * FROM {table} ORDER BY id", other), frame)


def test_pandas_appends_and_refuses_a_table_that_exists(any_connection, table):
    frame = pd.DataFrame({"id": [1, 2]})
    frame.to_sql(table, any_connection, index=False)
    frame.to_sql(table, any_connection, index=False, if_exists="append")
    with pytest.raises(ValueError, match="exists"):
        frame.to_sql(table, any_connection, index=False)
    assert count_of(any_connection, table) == 4


def test_pandas_replaces_a_table(any_connection, table):
    pd.DataFrame({"id": [1, 2]}).to_sql(table, any_connection, index=False)
    pd.DataFrame({"other": ["x"]}).to_sql(table, any_connection, index=False, if_exists="replace")
    assert rows_of(any_connection, f"FROM {table}") == [("x",)]


def test_pandas_replaces_a_table_that_it_has_appended_to(any_connection, table):
    frame = pd.DataFrame({"id": [1, 2]})
    frame.to_sql(table, any_connection, index=False)
    frame.to_sql(table, any_connection, index=False, if_exists="append")
    for value in ["x", "y"]:
        pd.DataFrame({"other": [value]}).to_sql(table, any_connection, index=False, if_exists="replace")
        assert rows_of(any_connection, f"FROM {table}") == [(value,)]


def test_pandas_writes_into_a_schema(connection, table):
    run(connection, f"CREATE SCHEMA schema_of_{table}")
    pd.DataFrame({"id": [1]}).to_sql(table, connection, schema=f"schema_of_{table}", index=False)
    assert rows_of(connection, f"FROM schema_of_{table}.{table}") == [(1,)]


def test_polars_reads_a_query_with_its_types(connection):
    frame = pl.read_database(
        "SELECT 1.25::DECIMAL(10, 2) AS price, DATE '2026-02-28' AS day, [1, 2] AS l, {'a': 'x'} AS s", connection
    )
    assert frame.to_dicts() == [{"price": Decimal("1.25"), "day": date(2026, 2, 28), "l": [1, 2], "s": {"a": "x"}}]


def test_polars_reads_with_parameters_and_in_batches(connection):
    frame = pl.read_database("SELECT ?::BIGINT AS i", connection, execute_options={"parameters": [7]})
    assert frame.to_dicts() == [{"i": 7}]
    batches = pl.read_database("SELECT range AS i FROM range(100000)", connection, iter_batches=True, batch_size=10_000)
    assert sum(len(batch) for batch in batches) == 100_000


def test_polars_writes_a_table_and_reads_it_back(server, any_connection, table):
    frame = pl.DataFrame(DUCKS)
    assert frame.write_database(table, any_connection, engine="adbc") == 3
    with connect(server) as other:
        assert_frame_equal(pl.read_database(f"SELECT * FROM {table} ORDER BY id", other), frame)


def test_polars_appends_and_replaces(any_connection, table):
    frame = pl.DataFrame(DUCKS)
    frame.write_database(table, any_connection, engine="adbc")
    frame.write_database(table, any_connection, engine="adbc", if_table_exists="append")
    assert count_of(any_connection, table) == 6
    frame.head(1).write_database(table, any_connection, engine="adbc", if_table_exists="replace")
    assert count_of(any_connection, table) == 1


@pytest.fixture(scope="module")
def engine(server):
    engine = sa.create_engine(server.location.replace("grpc://", "adbc+flightsql://") + "?tls=false")
    yield engine
    engine.dispose()


def test_sqlalchemy_commits_and_rolls_back(engine, connection, table):
    with engine.begin() as own:
        own.execute(sa.text(f"CREATE TABLE {table} (i BIGINT, name VARCHAR)"))
        own.execute(sa.text(f"INSERT INTO {table} VALUES (1, 'mallard')"))
        own.execute(
            sa.text(f"INSERT INTO {table} VALUES (:i, :name)"), [{"i": 2, "name": "teal"}, {"i": 3, "name": None}]
        )
    with engine.connect() as own:
        own.execute(sa.text(f"DELETE FROM {table}"))
        own.rollback()
    assert rows_of(connection, f"FROM {table} ORDER BY i") == [(1, "mallard"), (2, "teal"), (3, None)]


def test_sqlalchemy_builds_statements_and_reads_rows(engine, table):
    birds = sa.Table(table, sa.MetaData(), sa.Column("id", sa.Integer), sa.Column("name", sa.String))
    with engine.begin() as own:
        birds.create(own)
        own.execute(birds.insert(), [{"id": i, "name": f"bird {i}"} for i in range(100)])
        found = own.execute(
            sa.select(birds.c.name).where(birds.c.id < sa.bindparam("top")).order_by(birds.c.id), {"top": 2}
        )
        assert [row.name for row in found] == ["bird 0", "bird 1"]


def test_sqlalchemy_sees_tables_and_columns(engine, connection, table):
    run(connection, f"CREATE TABLE {table} (id INTEGER NOT NULL, name VARCHAR)")
    inspector = sa.inspect(engine)
    assert inspector.has_table(table, schema="main")
    assert not inspector.has_table("nowhere", schema="main")
    columns = inspector.get_columns(table, schema="main")
    assert [(column["name"], str(column["type"])) for column in columns] == [("id", "INTEGER"), ("name", "VARCHAR")]


def test_pandas_reads_through_sqlalchemy(engine):
    frame = pd.read_sql(sa.text("SELECT range AS i FROM range(10)"), engine)
    assert frame["i"].tolist() == list(range(10))
