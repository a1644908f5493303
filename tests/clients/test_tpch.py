"""The queries of TPC-H, at scale factor 0.1, answered over Flight SQL as DuckDB answers them itself."""

import csv
import io
from decimal import Decimal
from pathlib import Path

import duckdb
import duckdb_extension_tpch
import pyarrow as pa
import pytest
from conftest import Server
from flight_sql import connect

SCALE = 0.1
QUERIES = range(1, 23)


def load(connection: duckdb.DuckDBPyConnection) -> None:
    """Loads the extension that a package brought; nothing is downloaded."""
    (file,) = Path(duckdb_extension_tpch.__file__).parent.rglob("tpch.duckdb_extension")
    connection.execute(f"LOAD '{file}'")


@pytest.fixture(scope="module")
def tpch(tmp_path_factory):
    """The database file, the queries by number, and the extension's own answers by number."""
    directory = tmp_path_factory.mktemp("tpch")
    with duckdb.connect(directory / "test.db") as connection:
        load(connection)
        connection.execute(f"CALL dbgen(sf = {SCALE})")
        queries = dict(connection.execute("FROM tpch_queries()").fetchall())
        answers = connection.execute(
            "SELECT query_nr, answer FROM tpch_answers() WHERE scale_factor = ?", [SCALE]
        ).fetchall()
        results = {number: connection.execute(queries[number]).to_arrow_table() for number in QUERIES}
    return directory, queries, dict(answers), results


@pytest.fixture(scope="module")
def served(tpch):
    """ADBC to a server of that database."""
    server = Server(tpch[0])
    try:
        with connect(server) as connection:
            yield connection
        server.stop()
    finally:
        server.kill()


def text(value) -> str:
    """A value as the extension's answers write it."""
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def close(ours: str, theirs: str) -> bool:
    """The same text, or the same number to the digits that are written."""
    if ours == theirs:
        return True
    try:
        return abs(float(ours) - float(theirs)) <= 0.01
    except ValueError:
        return False


@pytest.mark.parametrize("number", QUERIES)
def test_a_query_gives_the_answer_of_the_extension(tpch, served, number):
    _, queries, answers, _ = tpch
    with served.cursor() as cursor:
        cursor.execute(queries[number])
        result = cursor.fetch_arrow_table()
    header, *lines = csv.reader(io.StringIO(answers[number]), delimiter="|")
    assert (result.num_columns, result.num_rows) == (len(header), len(lines))
    for row, line in zip(result.to_pylist(), lines, strict=True):
        assert all(close(text(ours), theirs) for ours, theirs in zip(row.values(), line, strict=True)), (row, line)


@pytest.mark.parametrize("number", QUERIES)
def test_a_query_gives_the_rows_of_the_same_query_in_process(tpch, served, number):
    _, queries, _, results = tpch
    with served.cursor() as cursor:
        cursor.execute(queries[number])
        ours = cursor.fetch_arrow_table()
    theirs = results[number]
    assert ours.column_names == theirs.column_names
    for name in ours.column_names:
        if pa.types.is_floating(theirs.schema.field(name).type):
            assert ours[name].to_pylist() == pytest.approx(theirs[name].to_pylist(), rel=1e-9)
        else:
            assert ours[name].to_pylist() == theirs[name].to_pylist()
