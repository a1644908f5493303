"""Tables that follow the schemas of their streams: new columns, wider types, and never a value lost."""

import datetime
import decimal
import threading

import pyarrow as pa
import pytest
from conftest import execute, query, read
from puts import Stream, send

D = decimal.Decimal
DAY = datetime.date(2024, 2, 29)
MOMENT = datetime.datetime(2024, 2, 29, 12, 30, 1)


def evolve(client, table, data, **options) -> dict:
    return send(client, data, **({"table": table, "schema": "evolve"} | options))


def types(client, table) -> dict[str, str]:
    found = query(client, f"SELECT column_name, column_type FROM (DESCRIBE {table})")
    return {row["column_name"]: row["column_type"] for row in found}


def column(client, table, name="v") -> list:
    return [row["v"] for row in query(client, f"SELECT {name} AS v FROM {table} ORDER BY rowid")]


# The column's type and values, the stream's, and the type that holds both.
WIDENED = [
    ("TINYINT", "[-128, 127, NULL]", pa.array([-(2**15)], pa.int16()), "SMALLINT", [-128, 127, None, -(2**15)]),
    ("SMALLINT", "[-32768]", pa.array([2**31 - 1], pa.int32()), "INTEGER", [-32768, 2**31 - 1]),
    ("INTEGER", "[-2147483648]", pa.array([2**63 - 1], pa.int64()), "BIGINT", [-(2**31), 2**63 - 1]),
    ("UTINYINT", "[255]", pa.array([2**16 - 1], pa.uint16()), "USMALLINT", [255, 2**16 - 1]),
    ("USMALLINT", "[65535]", pa.array([2**32 - 1], pa.uint32()), "UINTEGER", [2**16 - 1, 2**32 - 1]),
    ("UINTEGER", "[4294967295]", pa.array([2**64 - 1], pa.uint64()), "UBIGINT", [2**32 - 1, 2**64 - 1]),
    ("UTINYINT", "[255]", pa.array([-128], pa.int8()), "SMALLINT", [255, -128]),
    ("INTEGER", "[-1]", pa.array([2**32 - 1], pa.uint32()), "BIGINT", [-1, 2**32 - 1]),
    ("UINTEGER", "[4294967295]", pa.array([-(2**63)], pa.int64()), "BIGINT", [2**32 - 1, -(2**63)]),
    ("FLOAT", "['0.1', 'inf', NULL]", pa.array([0.1], pa.float64()), "DOUBLE", [pytest.approx(0.1), float("inf"), None, 0.1]),
    ("SMALLINT", "[32767]", pa.array([0.5], pa.float32()), "FLOAT", [32767, 0.5]),
    ("INTEGER", "[2147483647]", pa.array([0.5], pa.float32()), "DOUBLE", [2**31 - 1, 0.5]),
    ("INTEGER", "[2147483647]", pa.array([0.1], pa.float64()), "DOUBLE", [2**31 - 1, 0.1]),
    ("FLOAT", "[0.5]", pa.array([2**31 - 1], pa.int32()), "DOUBLE", [0.5, 2**31 - 1]),
    ("DECIMAL(4, 2)", "[99.99, -0.01]", pa.array([D("12345.678")], pa.decimal128(8, 3)), "DECIMAL(8,3)", [D("99.990"), D("-0.010"), D("12345.678")]),
    ("DECIMAL(4, 2)", "[99.99]", pa.array([2**63 - 1], pa.int64()), "DECIMAL(21,2)", [D("99.99"), D(2**63 - 1)]),
    ("BIGINT", "[9223372036854775807]", pa.array([D("0.5")], pa.decimal128(3, 1)), "DECIMAL(20,1)", [D(2**63 - 1), D("0.5")]),
    ("DATE", "['2024-02-29', NULL]", pa.array([MOMENT], pa.timestamp("us")), "TIMESTAMP", [datetime.datetime(2024, 2, 29), None, MOMENT]),
    ("DATE", "['2024-02-29']", pa.array([MOMENT], pa.timestamp("s")), "TIMESTAMP_S", [datetime.datetime(2024, 2, 29), MOMENT]),
    ("TIMESTAMP_S", "['2024-02-29 00:00:00']", pa.array([MOMENT], pa.timestamp("us")), "TIMESTAMP", [datetime.datetime(2024, 2, 29), MOMENT]),
    ("TIMESTAMP_MS", "['2024-02-29 00:00:00.123']", pa.array([MOMENT], pa.timestamp("us")), "TIMESTAMP", [datetime.datetime(2024, 2, 29, 0, 0, 0, 123000), MOMENT]),
]  # fmt: skip


@pytest.mark.parametrize("case", WIDENED, ids=lambda case: f"{case[0]} and {case[2].type} is {case[3]}")
@pytest.mark.parametrize("mode", ["evolve", "evolve_text"])
def test_a_type_is_widened_to_one_that_holds_all_values(client, table, case, mode):
    old_type, old, new, expected_type, expected = case
    execute(client, f"CREATE TABLE {table} AS SELECT unnest({old})::{old_type} AS v")
    assert evolve(client, table, pa.table({"V": new}), schema=mode)["rows"] == len(new)
    assert types(client, table) == {"v": expected_type}
    assert column(client, table) == expected
    # Once more, and with what was there before: nothing is left to do.
    evolve(client, table, pa.table({"v": new}), schema=mode)
    assert types(client, table) == {"v": expected_type}
    assert column(client, table) == expected + expected[-1:]


@pytest.mark.parametrize(
    ("sql_type", "first", "second", "as_text"),
    [
        ("HUGEINT", pa.array([2**64 - 1], pa.uint64()), pa.array([-(2**63)]), ["18446744073709551615", str(-(2**63))]),
        ("TIME_NS", pa.array([1], pa.time64("us")), pa.array([1], pa.time64("ns")), ["00:00:00.000001", "00:00:00.000000001"]),
    ],
    ids=["HUGEINT", "TIME_NS"],
)  # fmt: skip
def test_the_widest_types_hold_both_values(client, table, sql_type, first, second, as_text):
    for values in [first, second]:
        evolve(client, table, pa.table({"v": values}))
    assert types(client, table) == {"v": sql_type}
    assert column(client, table, "v::VARCHAR") == as_text
    for values in [first, second]:
        evolve(client, table, pa.table({"v": values}))
    assert types(client, table) == {"v": sql_type}
    assert column(client, table, "v::VARCHAR") == as_text * 2


# Types that hold more than the stream's: they stay as they are.
NOT_NARROWED = [
    ("BIGINT", pa.int8()), ("HUGEINT", pa.int64()), ("HUGEINT", pa.uint64()), ("UHUGEINT", pa.uint64()), ("UBIGINT", pa.uint8()),
    ("DOUBLE", pa.float32()), ("DOUBLE", pa.int32()), ("FLOAT", pa.int16()), ("FLOAT", pa.float16()),
    ("DECIMAL(38, 2)", pa.decimal128(5, 1)), ("DECIMAL(30, 2)", pa.int64()), ("TIMESTAMP", pa.date32()), ("TIMESTAMP_NS", pa.timestamp("s")),
    ("TIMESTAMP_NS", pa.date32()), ("TIME_NS", pa.time32("s")), ("VARCHAR", pa.large_string()), ("VARCHAR", pa.dictionary(pa.int8(), pa.string())),
    ("BLOB", pa.binary(4)), ("TIMESTAMPTZ", pa.timestamp("s", "Europe/Paris")), ("BIGINT", pa.null()), ("BIGINT[]", pa.null()),
    ("ENUM('a')", pa.string()), ("UUID", pa.string()), ("JSON", pa.string()), ("BIGINT", pa.dictionary(pa.int8(), pa.int16())),
    ("STRUCT(a BIGINT)", pa.struct([("a", pa.int64())])), ("TINYINT[]", pa.list_(pa.int64())), ("TIME WITH TIME ZONE", pa.time64("ns")),
    ("BIT", pa.null()), ("BIT", pa.string()), ("STRUCT(a BIGINT)", pa.null()), ("MAP(VARCHAR, BIGINT)", pa.null()), ("INTEGER[2]", pa.null()), ("INTERVAL", pa.month_day_nano_interval()), ("INTEGER[2]", pa.list_(pa.int32(), 2)),
]  # fmt: skip


@pytest.mark.parametrize(("sql_type", "stream"), NOT_NARROWED, ids=lambda type: str(type))
@pytest.mark.parametrize("mode", ["evolve", "evolve_text"])
def test_a_type_is_never_narrowed_nor_changed_without_need(client, table, sql_type, stream, mode):
    execute(client, f"CREATE TABLE {table} (v {sql_type})")
    before = types(client, table)
    assert evolve(client, table, pa.table({"v": pa.array([None, None], stream)}), schema=mode)["rows"] == 2
    assert types(client, table) == before
    assert column(client, table) == [None, None]


@pytest.mark.parametrize(
    ("sql_type", "value", "bad"),
    [
        ("BIGINT", "1", pa.array([0.5])),
        ("DOUBLE", "1", pa.array([2**53 + 1])),
        ("DOUBLE", "1", pa.array([2**64 - 1], pa.uint64())),
        ("FLOAT", "1", pa.array([2**53 + 1])),
        ("BOOLEAN", "true", pa.array([2])),
        ("INTEGER", "1", pa.array(["one"])),
        ("DATE", "'2024-02-29'", pa.array([1])),
        ("UUID", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", pa.array(["no uuid"])),
        ("DECIMAL(38, 0)", "1", pa.array([D("0.5")])),
        ("INTEGER[]", "[1]", pa.array([["one"]])),
        ("INTEGER", "1", pa.array([[1]])),
        ("INTEGER[]", "[1]", pa.array([1])),
    ],
    ids=str,
)
def test_where_no_type_holds_both_a_value_that_does_not_fit_is_refused(client, table, sql_type, value, bad):
    execute(client, f"CREATE TABLE {table} (v {sql_type}); INSERT INTO {table} VALUES ({value})")
    before = types(client, table), column(client, table)
    with pytest.raises(pa.ArrowInvalid, match="`v`"):
        evolve(client, table, pa.table({"v": bad}))
    assert (types(client, table), column(client, table)) == before


@pytest.mark.parametrize(
    ("sql_type", "old", "new", "expected"),
    [
        ("INTEGER", "unnest([1, -2147483648, NULL])", pa.array(["one"]), ["1", "-2147483648", None, "one"]),
        ("BOOLEAN", "true", pa.array([2]), ["true", "2"]),
        ("DOUBLE", "unnest([0.1, 1e300, 'nan'])", pa.array(["x"]), ["0.1", "1e+300", "nan", "x"]),
        ("BIGINT", "9007199254740993", pa.array([0.5]), ["9007199254740993", "0.5"]),
        ("DECIMAL(6, 3)", "1.500", pa.array(["x"]), ["1.500", "x"]),
        ("DATE", "'2024-02-29'", pa.array(["x"]), ["2024-02-29", "x"]),
        ("TIMESTAMP", "'2024-02-29 12:30:01.5'", pa.array([True]), ["2024-02-29 12:30:01.5", "true"]),
        ("VARCHAR", "'old'", pa.array([2**63 - 1]), ["old", str(2**63 - 1)]),
        ("VARCHAR", "'old'", pa.array([DAY]), ["old", "2024-02-29"]),
    ],
    ids=str,
)
def test_evolve_text_makes_text_of_what_has_no_common_type(client, table, sql_type, old, new, expected):
    execute(client, f"CREATE TABLE {table} AS SELECT ({old})::{sql_type} AS v")
    evolve(client, table, pa.table({"v": new}), schema="evolve_text")
    assert types(client, table) == {"v": "VARCHAR"}
    assert column(client, table) == expected


@pytest.mark.parametrize("mode", ["evolve", "evolve_text"])
def test_new_columns_are_added_and_null_in_old_rows(client, table, mode):
    execute(client, f"CREATE TABLE {table} AS SELECT range AS i FROM range(3)")
    new = {
        "text": ["a"],
        "list": [[1, None]],
        "struct": [{"x": 1, "y": {"z": ["a"]}}],
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        "decimal": [D("1.50")],
        "moment": pa.array([MOMENT], pa.timestamp("us", "UTC")),
        "bytes": [b"\0\xff"],
        "späť; DROP": [True],
    }
    # One of nothing but nulls has no type yet.
    evolve(client, table, pa.table(new | {"nothing": pa.array([None], pa.null())}), schema=mode)
    assert list(types(client, table)) == ["i", *new]
    found = read(client, f"SELECT * FROM {table} ORDER BY rowid").to_pylist()
    assert found[:3] == [{"i": i} | dict.fromkeys(new) for i in range(3)]
    expected = {name: pa.array(values)[0].as_py() for name, values in new.items()}
    assert found[3] == {"i": None} | expected
    # Without `evolve` a column that is not there is still refused.
    with pytest.raises(pa.ArrowInvalid, match="other"):
        evolve(client, table, pa.table({"other": [1]}), schema="match")


def test_defaults_and_constraints_survive(client, table):
    execute(
        client,
        f"CREATE TABLE {table} (i INTEGER NOT NULL, d INTEGER DEFAULT 7, twice INTEGER GENERATED ALWAYS AS (d * 2))",
    )
    execute(client, f"INSERT INTO {table} (i) VALUES (1)")
    evolve(client, table, pa.table({"i": [2**40], "n": [1]}))
    assert query(client, f"SELECT * FROM {table} ORDER BY i") == [
        {"i": 1, "d": 7, "twice": 14, "n": None},
        {"i": 2**40, "d": 7, "twice": 14, "n": 1},
    ]
    with pytest.raises(pa.ArrowInvalid, match="`i`.*NOT NULL"):
        evolve(client, table, pa.table({"i": pa.array([None], pa.int64()), "m": [1]}))
    with pytest.raises(pa.ArrowInvalid, match="twice.*generated"):
        evolve(client, table, pa.table({"i": [1], "twice": pa.array([1], pa.int32())}))


ALTERED_BY_NOBODY = {
    "a primary key": "(v INTEGER PRIMARY KEY, w INTEGER)",
    "a unique column": "(v INTEGER UNIQUE, w INTEGER)",
    "a check": "(v INTEGER CHECK (v < 100), w INTEGER)",
    "an index": "(v INTEGER, w INTEGER); CREATE INDEX index_of_{0} ON {0} (v)",
    "an index of another column": "(v INTEGER, w INTEGER); CREATE INDEX index_of_{0} ON {0} (w)",
    "a generated column": "(v INTEGER, w INTEGER, g INTEGER GENERATED ALWAYS AS (v + 1))",
}


@pytest.mark.parametrize("kind", ALTERED_BY_NOBODY)
@pytest.mark.parametrize("mode", ["evolve", "evolve_text"])
def test_a_column_that_cannot_be_altered_stays_and_takes_what_fits_it(client, table, kind, mode):
    execute(client, f"CREATE TABLE {table} {ALTERED_BY_NOBODY[kind].format(table)}")
    execute(client, f"INSERT INTO {table} (v, w) VALUES (1, 1), (2, 2)")
    # What else the put changes is changed all the same.
    evolve(client, table, pa.table({"v": [3], "w": [3], "new": ["x"]}), schema=mode)
    assert query(client, f"SELECT v, w, new FROM {table} ORDER BY v") == [
        {"v": 1, "w": 1, "new": None},
        {"v": 2, "w": 2, "new": None},
        {"v": 3, "w": 3, "new": "x"},
    ]
    found = types(client, table)
    assert (found["v"], found["w"]) == ("INTEGER", "INTEGER" if "index" in kind else "BIGINT")
    with pytest.raises(pa.ArrowInvalid, match="row 2.*`v`.*stays INTEGER.*drop"):
        evolve(client, table, pa.table({"v": [4, 2**40]}), schema=mode)
    assert column(client, table) == [1, 2, 3]


def test_a_column_is_widened_once_nothing_is_in_the_way_any_more(client, table):
    execute(client, f"CREATE TABLE {table} (v INTEGER); CREATE INDEX index_of_{table} ON {table} (v)")
    schema = pa.schema([("v", pa.int64())])
    stream = Stream(client, schema, table=table, schema="evolve", producer="p")
    assert stream.resume_after() == 0
    stream.write([{"v": 1}], 1)
    assert stream.answer()["rows"] == 1
    execute(client, f"DROP INDEX index_of_{table}")
    stream.write([{"v": 2**40}], 2)
    assert stream.answer()["rows"] == 1
    stream.close()
    assert types(client, table)["v"] == "BIGINT"
    assert column(client, table) == [1, 2**40]


def test_an_upsert_of_wider_integers_keeps_the_key_as_it_is(client, table):
    execute(client, f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, name TEXT)")
    for name in ("a", "b"):
        evolve(client, table, pa.table({"id": [1], "name": [name]}), mode="upsert")
    assert query(client, f"FROM {table}") == [{"id": 1, "name": "b"}]
    assert types(client, table) == {"id": "INTEGER", "name": "VARCHAR"}


@pytest.mark.parametrize("kind", ["a primary key", "a unique column", "a check"])
def test_a_table_with_constraints_gains_columns(client, table, kind):
    execute(client, f"CREATE TABLE {table} {ALTERED_BY_NOBODY[kind].format(table)}")
    execute(client, f"INSERT INTO {table} (v, w) VALUES (1, 1)")
    evolve(client, table, pa.table({"v": pa.array([2], pa.int32()), "new": ["x"]}))
    assert query(client, f"SELECT v, new FROM {table} ORDER BY v") == [{"v": 1, "new": None}, {"v": 2, "new": "x"}]


def test_a_unit_that_fails_after_its_table_was_changed_loses_nothing(client, table):
    execute(client, f"CREATE TABLE {table} (v INTEGER, w INTEGER CHECK (w > 0)); INSERT INTO {table} VALUES (1, 1)")
    with pytest.raises(pa.ArrowInvalid, match="row 2.*`w`"):
        evolve(client, table, pa.table({"v": [2**40, 2], "w": pa.array([1, 0], pa.int32()), "n": [1, 2]}))
    assert query(client, f"SELECT v, w FROM {table}") == [{"v": 1, "w": 1}]


def test_a_stream_of_batches_evolves_with_its_first_unit(client, table):
    execute(client, f"CREATE TABLE {table} AS SELECT 1::INTEGER AS v")
    stream = Stream(client, pa.schema([("v", pa.int64()), ("n", pa.string())]), table=table, schema="evolve", producer="p")
    assert stream.resume_after() == 0
    for sequence in range(1, 101):
        stream.write([{"v": 2**40 + sequence, "n": "x"}] * 10, sequence)
    assert [stream.answer()["sequence"] for _ in range(100)] == list(range(1, 101))
    stream.close()
    assert query(client, f"SELECT count(*) AS rows, sum(v) AS sum FROM {table} WHERE n = 'x'") == [
        {"rows": 1000, "sum": 10 * sum(2**40 + sequence for sequence in range(1, 101))}
    ]


def test_two_loaders_evolve_one_table_while_others_read_it(server, client, table):
    execute(client, f"CREATE TABLE {table} AS SELECT 0::TINYINT AS v")
    failures, over = [], threading.Event()

    def load(name):
        try:
            with server.client() as own:
                for number, type in enumerate([pa.int16(), pa.int32(), pa.int64(), pa.decimal128(25, 3)] * 3):
                    fields = [("v", type), (f"{name}_{number}", pa.int64()), (f"both_{number}", pa.string())]
                    stream = Stream(own, pa.schema(fields), table=table, schema="evolve")
                    for _ in range(5):
                        row = {"v": D(1) if number % 4 == 3 else 1, f"{name}_{number}": number, f"both_{number}": name}
                        stream.write([row] * 7)
                    for _ in range(5):
                        assert stream.answer()["rows"] == 7
                    stream.close()
        except Exception as error:
            failures.append(error)

    def watch():
        try:
            with server.client() as own:
                last = 0
                while not over.is_set():
                    found = read(own, f"SELECT * FROM {table}")
                    assert found.num_rows >= last and found.num_rows % 7 == 1
                    last = found.num_rows
        except Exception as error:
            failures.append(error)

    readers = [threading.Thread(target=watch) for _ in range(2)]
    loaders = [threading.Thread(target=load, args=[name]) for name in ("one", "two")]
    for thread in readers + loaders:
        thread.start()
    for thread in loaders:
        thread.join()
    over.set()
    for thread in readers:
        thread.join()
    assert failures == []
    assert types(client, table)["v"] == "DECIMAL(25,3)"
    counts = query(client, f"SELECT count(*) AS rows, sum(v) AS sum, count(one_0) AS one, count(both_11) AS both FROM {table}")
    assert counts == [{"rows": 841, "sum": D(840), "one": 35, "both": 70}]


def test_upserts_evolve_their_table(client, table):
    options = {"mode": "upsert", "key": ["k"]}
    evolve(client, table, pa.table({"k": [1, 2], "v": pa.array([1, 2], pa.int32())}), **options)
    evolve(client, table, pa.table({"k": [2, 3], "v": [2**40, 3], "n": ["b", "c"]}), **options)
    assert query(client, f"SELECT * FROM {table} ORDER BY k") == [
        {"k": 1, "v": 1, "n": None},
        {"k": 2, "v": 2**40, "n": "b"},
        {"k": 3, "v": 3, "n": "c"},
    ]
    changes = pa.table({"op": ["d", "u"], "k": [1, 2], "m": [None, 0.5]})
    evolve(client, table, changes, mode="changes")
    assert list(types(client, table)) == ["k", "v", "n", "m"]
    assert column(client, table, "m") == [None, 0.5] or sorted(column(client, table, "m"), key=str) == [0.5, None]
    # The type of a key stays.
    with pytest.raises(pa.ArrowInvalid, match="`k`.*stays BIGINT"):
        evolve(client, table, pa.table({"k": [D("0.5")]}), **options)
    # What a delete carries beside its key changes no table.
    gone = pa.table({"k": [3], "v": ["text"], "more": [1]})
    send(client, gone, table=table, mode="delete", key=["k"])
    with pytest.raises(pa.ArrowInvalid, match="`schema`"):
        evolve(client, table, gone, mode="delete", key=["k"])
    assert list(types(client, table)) == ["k", "v", "n", "m"]
    assert [row["k"] for row in query(client, f"SELECT k FROM {table}")] == [2]


def test_what_evolving_cannot_make_room_for_is_put_aside(client, table):
    execute(client, f"CREATE TABLE {table} (i INTEGER, t INTEGER); INSERT INTO {table} VALUES (1, 1)")
    data = pa.table({"i": [2**40, 2, 3], "t": ["7", "seven", "8"], "n": ["a", "b", "c"]})
    answer = evolve(client, table, data, on_error="reject")
    assert (answer["rows"], answer["rejected"]) == (2, 1)
    assert query(client, f"SELECT * FROM {table} ORDER BY t") == [
        {"i": 1, "t": 1, "n": None},
        {"i": 2**40, "t": 7, "n": "a"},
        {"i": 3, "t": 8, "n": "c"},
    ]
    sql = f"""SELECT "row", data->>'t' AS t FROM duck_flight.rejects WHERE "table" = '{table}'"""
    assert query(client, sql) == [{"row": 2, "t": "seven"}]


def test_a_large_unit_evolves_its_table(client, table):
    execute(client, f"CREATE TABLE {table} AS SELECT 1::INTEGER AS v")
    count = (1 << 20) + 10
    data = pa.table({"v": pa.array(range(2**40, 2**40 + count)), "n": pa.array(range(count))})
    assert evolve(client, table, data)["rows"] == count
    assert types(client, table) == {"v": "BIGINT", "n": "BIGINT"}
    assert query(client, f"SELECT count(*) AS rows, sum(n) AS sum, min(v) AS least FROM {table}") == [
        {"rows": count + 1, "sum": count * (count - 1) // 2, "least": 1}
    ]
