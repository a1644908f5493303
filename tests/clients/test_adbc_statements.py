"""Statements through ADBC: each takes effect exactly once, whatever becomes of its cursor."""

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from adbc_driver_manager import AdbcStatusCode
from flight_sql import connect, count_of, refused, rows_of, run, table_of, value_of


def test_a_result_is_read_row_by_row_in_pieces_or_at_once(connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT range AS i, 'row ' || range AS name FROM range(10)")
        assert [column[0] for column in cursor.description] == ["i", "name"]
        assert cursor.fetchone() == (0, "row 0")
        assert cursor.fetchmany(2) == [(1, "row 1"), (2, "row 2")]
        assert len(cursor.fetchall()) == 7
        assert cursor.fetchone() is None


def test_an_empty_result_has_a_schema(connection):
    result = table_of(connection, "SELECT 1 AS i, 'duck' AS name WHERE false")
    assert result.num_rows == 0
    assert result.schema.types == [pa.int32(), pa.string()]


@pytest.mark.parametrize(
    ("sql", "first"),
    [
        ("FROM {table}", (1, "mallard")),
        ("VALUES (1, 'one'), (2, 'two')", (1, "one")),
        ("TABLE {table}", (1, "mallard")),
        ("(SELECT 1) UNION ALL (SELECT 2) ORDER BY 1", (1,)),
        ("WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t WHERE i < 3) SELECT max(i) FROM t", (3,)),
        ("SELECT name FROM {table}; ", ("mallard",)),
        ("/* a comment */ SELECT 1 -- and another", (1,)),
        ("SHOW TABLES", None),
        ("DESCRIBE {table}", None),
        ("SUMMARIZE {table}", None),
        ("EXPLAIN SELECT 1", None),
        ("EXPLAIN ANALYZE SELECT 1", None),
        ("PRAGMA table_info('{table}')", None),
        ("PIVOT {table} ON name USING count(*)", None),
        ("CALL range(3)", (0,)),
        ("SELECT * FROM duckdb_settings()", None),
    ],
)
def test_whatever_answers_with_rows_can_be_read(connection, table, sql, first):
    run(connection, f"CREATE TABLE {table} AS SELECT 1 AS i, 'mallard' AS name")
    rows = rows_of(connection, sql.format(table=table))
    assert rows
    assert first in (None, rows[0])


def test_ddl_takes_effect_when_nothing_is_fetched(connection, table):
    run(connection, f"CREATE TABLE {table} (i INTEGER)")
    assert count_of(connection, table) == 0
    run(connection, f"ALTER TABLE {table} ADD COLUMN name VARCHAR")
    assert table_of(connection, f"FROM {table}").column_names == ["i", "name"]
    run(connection, f"DROP TABLE {table}")
    with refused(AdbcStatusCode.NOT_FOUND, table):
        rows_of(connection, f"FROM {table}")


@pytest.mark.parametrize("fetch", [False, True])
def test_a_change_takes_effect_exactly_once(connection, table, fetch):
    run(connection, f"CREATE SEQUENCE sequence_of_{table}")
    run(connection, f"CREATE TABLE {table} (i BIGINT DEFAULT nextval('sequence_of_{table}'), name VARCHAR)")
    for name in ["mallard", "teal", "eider"]:
        with connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {table} (name) VALUES ('{name}')")
            if fetch:
                cursor.fetchall()
    assert rows_of(connection, f"FROM {table} ORDER BY i") == [(1, "mallard"), (2, "teal"), (3, "eider")]
    assert value_of(connection, f"SELECT nextval('sequence_of_{table}')") == 4


def test_a_statement_executed_again_takes_effect_again(connection, table):
    run(connection, f"CREATE TABLE {table} (i BIGINT)")
    with connection.cursor() as cursor:
        for _ in range(5):
            cursor.execute(f"INSERT INTO {table} SELECT count(*) FROM {table}")
    assert rows_of(connection, f"FROM {table} ORDER BY i") == [(0,), (1,), (2,), (3,), (4,)]


def test_what_a_change_returns_comes_back_and_it_happens_once(connection, table):
    run(connection, f"CREATE TABLE {table} (i BIGINT)")
    assert rows_of(connection, f"INSERT INTO {table} FROM range(3) RETURNING i * 10") == [(0,), (10,), (20,)]
    assert rows_of(connection, f"UPDATE {table} SET i = i + 1 WHERE i > 0 RETURNING i") == [(2,), (3,)]
    assert rows_of(connection, f"DELETE FROM {table} WHERE i = 0 RETURNING i") == [(0,)]
    assert rows_of(connection, f"FROM {table} ORDER BY i") == [(2,), (3,)]


def test_a_large_answer_of_a_change_is_sent_in_messages_that_the_driver_takes(connection, table):
    run(connection, f"CREATE TABLE {table} (s VARCHAR)")
    rows = rows_of(connection, f"INSERT INTO {table} SELECT repeat('x', 10000) FROM range(2048) RETURNING *")
    assert rows == [("x" * 10000,)] * 2048
    assert count_of(connection, table) == 2048


def test_a_change_says_how_many_rows_it_changed(connection, table):
    run(connection, f"CREATE TABLE {table} (i BIGINT)")
    assert run(connection, f"INSERT INTO {table} FROM range(10)") == 10
    assert run(connection, f"UPDATE {table} SET i = 0 WHERE i < 4") == 4
    assert run(connection, f"DELETE FROM {table} WHERE i = 0") == 4
    assert run(connection, f"DELETE FROM {table} WHERE i = 0") == 0


def test_many_rows_of_parameters_change_many_rows(connection, table):
    run(connection, f"CREATE TABLE {table} (i BIGINT PRIMARY KEY, name VARCHAR)")
    with connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO {table} VALUES (?, ?)", [(i, f"row {i}") for i in range(3000)])
        assert cursor.rowcount == 3000
        cursor.executemany(f"UPDATE {table} SET name = ? WHERE i = ?", [("new", 1), ("new", 2), ("new", 99999)])
        assert cursor.rowcount == 2
        cursor.executemany(f"DELETE FROM {table} WHERE i >= ?", [(2000,), (1000,)])
        assert cursor.rowcount == 2000
        cursor.executemany(f"DELETE FROM {table} WHERE i = ?", [])
    assert rows_of(connection, f"SELECT count(*), count(*) FILTER (name = 'new') FROM {table}") == [(1000, 2)]


def test_no_rows_of_parameters_run_nothing(connection, table):
    run(connection, f"CREATE TABLE {table} (i BIGINT)")
    none = pa.table({"i": pa.array([], pa.int64())})
    with connection.cursor() as cursor:
        for _ in range(2):
            cursor.executemany(f"INSERT INTO {table} VALUES (?)", none)
            assert cursor.rowcount == 0
            # Nor are the values that were bound before taken for them.
            cursor.executemany(f"INSERT INTO {table} VALUES (?)", [(1,)])
        cursor.execute("SELECT ?::INTEGER AS i", none)
        result = cursor.fetch_arrow_table()
        assert result.schema == pa.schema({"i": pa.int32()})
        assert result.num_rows == 0
        cursor.execute(f"INSERT INTO {table} VALUES (?) RETURNING i + 1 AS next", none)
        assert cursor.fetch_arrow_table().schema.names == ["next"]
    assert count_of(connection, table) == 2
    with refused(AdbcStatusCode.INVALID_ARGUMENT, "2 parameters and was given 1"):
        rows_of(connection, "SELECT ?::INTEGER, ?::INTEGER", none)


def test_many_rows_of_parameters_take_effect_all_or_nothing(connection, table):
    run(connection, f"CREATE TABLE {table} (i BIGINT PRIMARY KEY)")
    with connection.cursor() as cursor, refused(AdbcStatusCode.INVALID_ARGUMENT, "(?i)duplicate|constraint"):
        cursor.executemany(f"INSERT INTO {table} VALUES (?)", [(1,), (2,), (3,), (2,)])
    assert count_of(connection, table) == 0


def test_a_script_runs_all_its_statements(connection, table):
    with connection.cursor() as cursor:
        cursor.executescript(
            f"CREATE TABLE {table} (i BIGINT); INSERT INTO {table} VALUES (1), (2); DELETE FROM {table} WHERE i = 1"
        )
    assert rows_of(connection, f"FROM {table}") == [(2,)]


def test_preparing_runs_nothing(connection, table):
    run(connection, f"CREATE TABLE {table} (i BIGINT)")
    with connection.cursor() as cursor:
        cursor.adbc_prepare(f"INSERT INTO {table} VALUES (1)")
        cursor.adbc_prepare(f"INSERT INTO {table} VALUES (1) RETURNING i")
        try:
            cursor.adbc_prepare(f"INSERT INTO {table} VALUES (1); INSERT INTO {table} VALUES (2)")
        except connection.Error as error:
            assert error.status_code == AdbcStatusCode.INVALID_ARGUMENT
    assert count_of(connection, table) == 0


def test_a_prepared_statement_sees_what_changed_since(connection, table):
    run(connection, f"CREATE TABLE {table} (i BIGINT)")
    sql = f"SELECT count(*) FROM {table} WHERE i > ?"
    with connection.cursor() as cursor:
        for expected in range(4):
            cursor.execute(sql, [0])
            assert cursor.fetchall() == [(expected,)]
            run(connection, f"INSERT INTO {table} VALUES (1)")
        run(connection, f"DROP TABLE {table}")
        run(connection, f"CREATE TABLE {table} (name VARCHAR, i BIGINT)")
        cursor.execute(sql, [0])
        assert cursor.fetchall() == [(0,)]


def test_a_prepared_statement_whose_table_is_gone_says_so(connection, table):
    run(connection, f"CREATE TABLE {table} (i BIGINT)")
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {table}")
        cursor.fetchall()
        run(connection, f"DROP TABLE {table}")
        with refused(AdbcStatusCode.NOT_FOUND, table):
            cursor.execute(f"SELECT * FROM {table}")
            cursor.fetchall()


def test_prepared_statements_of_many_clients_are_not_mixed_up(server, connection, table):
    run(connection, f"CREATE TABLE {table} AS SELECT range AS i, 'row ' || range AS name FROM range(1000)")

    def work(client: int) -> list[tuple]:
        with connect(server) as own, own.cursor() as cursor:
            rows = []
            for execution in range(100):
                cursor.execute(f"SELECT name FROM {table} WHERE i = ?", [client * 100 + execution])
                rows += cursor.fetchall()
            return rows

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(8)))
    assert found == [[(f"row {client * 100 + i}",) for i in range(100)] for client in range(8)]


def test_several_results_are_read_at_once_on_one_connection(connection):
    cursors = [connection.cursor() for _ in range(8)]
    for number, cursor in enumerate(cursors):
        cursor.execute(f"SELECT {number} + range FROM range(100000)")
    rows = [[cursor.fetchone()[0] for cursor in cursors] for _ in range(3)]
    assert rows == [list(range(8)), list(range(1, 9)), list(range(2, 10))]
    for cursor in cursors:
        cursor.close()


def test_a_result_of_ten_million_rows_arrives_whole(connection):
    rows = 10_000_000
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT range AS i, range % 1000 AS remainder, range::DOUBLE / 3 AS third FROM range({rows})")
        count = total = 0
        for batch in cursor.fetch_record_batch():
            # In order, and without a gap.
            assert batch["i"][0].as_py() == count
            count += batch.num_rows
            total += pc.sum(batch["i"]).as_py()
            assert batch["i"][-1].as_py() == count - 1
    assert (count, total) == (rows, rows * (rows - 1) // 2)


def test_a_huge_result_that_nobody_reads_to_the_end_hinders_nobody(connection):
    for _ in range(40):
        with connection.cursor() as cursor:
            cursor.execute("SELECT range, repeat('x', 100) FROM range(1000000000)")
            cursor.fetchone()
    assert rows_of(connection, "SELECT 42") == [(42,)]


@pytest.mark.parametrize(
    ("sql", "status", "message"),
    [
        ("", AdbcStatusCode.INVALID_STATE, None),
        ("-- nothing", AdbcStatusCode.INVALID_ARGUMENT, "(?i)statement|empty"),
        ("SELEKT 1", AdbcStatusCode.INVALID_ARGUMENT, "SELEKT"),
        ("SELECT nothing", AdbcStatusCode.INVALID_ARGUMENT, "nothing"),
        ("SELECT 'duck'::INTEGER", AdbcStatusCode.INVALID_ARGUMENT, "duck"),
        ("SELECT error('quack')", AdbcStatusCode.INVALID_ARGUMENT, "quack"),
        ("SELECT ?", AdbcStatusCode.INVALID_ARGUMENT, "(?i)parameter"),
        ("FROM nowhere", AdbcStatusCode.NOT_FOUND, "nowhere"),
        ("DROP TABLE nowhere", AdbcStatusCode.NOT_FOUND, "nowhere"),
        ("INSERT INTO nowhere VALUES (1)", AdbcStatusCode.NOT_FOUND, "nowhere"),
        ("CREATE SCHEMA main", AdbcStatusCode.ALREADY_EXISTS, "main"),
        ("EXECUTE no_such_statement", AdbcStatusCode.NOT_FOUND, "no_such_statement"),
        ("SELECT * FROM read_csv('/etc/passwd')", AdbcStatusCode.UNAUTHORIZED, None),
        ("SET GLOBAL threads = 1", None, "(?i)global"),
        ("COPY (SELECT 1) TO '/tmp/leaked.csv'", None, None),
    ],
)
def test_a_bad_statement_gets_the_right_error(connection, sql, status, message):
    with pytest.raises(connection.Error, match=message) as caught:
        rows_of(connection, sql)
    assert status is None or caught.value.status_code == status, caught.value


def test_an_error_after_many_rows_reaches_the_reader(connection):
    sql = "SELECT CASE WHEN range < 2500000 THEN range ELSE error('quack') END FROM range(3000000)"
    with connection.cursor() as cursor:
        with refused(AdbcStatusCode.INVALID_ARGUMENT, "quack"):
            cursor.execute(sql)
            cursor.fetch_arrow_table()


def test_a_violated_constraint_is_named(connection, table):
    run(connection, f"CREATE TABLE {table} (i BIGINT PRIMARY KEY, CHECK (i < 10))")
    run(connection, f"INSERT INTO {table} VALUES (1)")
    for bad, message in [(1, "(?i)duplicate key"), (10, "(?i)check"), ("NULL", "(?i)not null")]:
        with refused(AdbcStatusCode.INVALID_ARGUMENT, message):
            run(connection, f"INSERT INTO {table} VALUES ({bad})")
    assert rows_of(connection, f"FROM {table}") == [(1,)]


def test_a_result_in_partitions_is_read_by_another_connection(server, connection):
    with connection.cursor() as cursor:
        partitions, schema = cursor.adbc_execute_partitions("SELECT range AS i FROM range(1000)")
        assert schema.names == ["i"]
        rows = []
        with connect(server) as other, other.cursor() as reader:
            for partition in partitions:
                reader.adbc_read_partition(partition)
                rows += reader.fetchall()
    assert sorted(rows) == [(i,) for i in range(1000)]


def test_a_statement_runs_while_its_progress_is_polled(connection):
    with connection.cursor(adbc_stmt_kwargs={"adbc.statement.exec.incremental": "true"}) as cursor:
        partitions, schema = cursor.adbc_execute_partitions("SELECT sum(range) AS s FROM range(300000000)")
        assert schema is None or schema.names == ["s"]
        while partitions:
            cursor.adbc_read_partition(partitions[0])
            ((total,),) = cursor.fetchall()
            partitions, _ = cursor.adbc_execute_partitions("SELECT sum(range) AS s FROM range(300000000)")
    assert total == 300000000 * 299999999 // 2
