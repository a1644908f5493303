"""What the rows of a put do to a table: upsert, delete and apply changes."""

import datetime
import decimal
import uuid

import pyarrow as pa
import pytest
from conftest import execute, query
from puts import Stream, send

DAY = datetime.date(2024, 2, 29)
MOMENT = datetime.datetime(2024, 2, 29, 12, 30, 1, 234567)
UUIDS = [str(uuid.UUID(int=number)) for number in (1, 2**127, 2**128 - 1)]


def rows(client, table, order="ALL") -> list[dict]:
    return query(client, f"SELECT * FROM {table} ORDER BY {order}")


def upsert(client, table, data, **options) -> dict:
    return send(client, data, table=table, mode="upsert", **options)


def delete(client, table, data, **options) -> dict:
    return send(client, data, table=table, mode="delete", **options)


def changes(client, table, data, **options) -> dict:
    return send(client, data, table=table, mode="changes", **options)


def primary_key(client, table) -> list[str]:
    sql = f"""SELECT constraint_column_names AS names FROM duckdb_constraints()
              WHERE table_name = '{table}' AND constraint_type = 'PRIMARY KEY'"""
    return query(client, sql)[0]["names"]


def test_upsert_makes_a_table_whose_primary_key_is_the_key(client, table):
    data = pa.table({"v": ["a", "b"], "K": [1, 2]})
    assert upsert(client, table, data, key=["k"])["rows"] == 2
    assert primary_key(client, table) == ["K"]
    # Where the table has one, the key may be left out.
    upsert(client, table, pa.table({"k": [2, 3], "v": ["B", "C"]}))
    assert rows(client, table, "K") == [{"v": "a", "K": 1}, {"v": "B", "K": 2}, {"v": "C", "K": 3}]


def test_changes_make_a_table_without_the_column_that_says_what_a_row_is(client, table):
    data = pa.table({"op": ["I", "I", "D"], "k": [1, 2, 1], "v": ["a", "b", None]})
    assert changes(client, table, data, key=["k"])["rows"] == 3
    assert primary_key(client, table) == ["k"]
    assert rows(client, table) == [{"k": 2, "v": "b"}]


@pytest.mark.parametrize("made", ["with a primary key", "without one"])
def test_a_composite_key_tells_rows_by_all_its_columns(client, table, made):
    key = ", PRIMARY KEY (b, a)" if made == "with a primary key" else ""
    execute(client, f"CREATE TABLE {table} (a BIGINT, b VARCHAR, v BIGINT{key})")
    options = {} if key else {"key": ["B", "A"]}
    upsert(client, table, pa.table({"a": [1, 1, 2], "b": ["x", "y", "x"], "v": [1, 2, 3]}), **options)
    upsert(client, table, pa.table({"b": ["y", "y"], "v": [20, 40], "a": [1, 2]}), **options)
    assert [tuple(row.values()) for row in rows(client, table)] == [
        (1, "x", 1), (1, "y", 20), (2, "x", 3), (2, "y", 40),
    ]  # fmt: skip
    delete(client, table, pa.table({"a": [1, 2, 7], "b": ["x", "y", "x"]}), **options)
    assert [tuple(row.values()) for row in rows(client, table)] == [(1, "y", 20), (2, "x", 3)]


KEYS = {
    "VARCHAR": pa.array(["", "it's", "🦆"]),
    "UUID": pa.array(UUIDS),
    "DATE": pa.array([DAY, datetime.date(1, 1, 1), datetime.date(9999, 12, 31)]),
    "TIMESTAMP": pa.array([MOMENT, datetime.datetime(1970, 1, 1), datetime.datetime(1969, 1, 1)], pa.timestamp("us")),
    "TIMESTAMPTZ": pa.array([MOMENT, datetime.datetime(1, 1, 1)], pa.timestamp("us", "UTC")),
    "TIME": pa.array([datetime.time(0), datetime.time(12, 30), datetime.time(23, 59, 59, 999999)]),
    "DECIMAL(18, 3)": pa.array([decimal.Decimal(text) for text in ("0.001", "-1.500", "999999999999999.999")]),
    "DECIMAL(38, 0)": pa.array([decimal.Decimal(text) for text in ("0", "-1", "9" * 38)]),
    "HUGEINT": pa.array([0, -(2**63), 2**63 - 1]),
    "UBIGINT": pa.array([0, 1, 2**64 - 1], pa.uint64()),
    "TINYINT": pa.array([-128, 0, 127], pa.int64()),
    "DOUBLE": pa.array([0.1, float("inf"), -5e-324]),
    "BOOLEAN": pa.array([True, False]),
    "BLOB": pa.array([b"", b"\0", b"\xff\xfe"]),
    "INTERVAL": pa.array([(1, 0, 0), (0, 29, 0), (0, 0, 1000)], pa.month_day_nano_interval()),
    "ENUM('a', 'b', 'c')": pa.array(["a", "b", "c"]).dictionary_encode(),
    "BIGINT[]": pa.array([[], [1, None], [1, 2]], pa.list_(pa.int64())),
    "STRUCT(x BIGINT, y VARCHAR)": pa.array([{"x": 1, "y": "a"}, {"x": None, "y": "a"}, {"x": 1, "y": None}]),
}  # fmt: skip


@pytest.mark.parametrize("sql_type", KEYS)
def test_a_key_may_have_any_type(client, table, sql_type):
    keys = KEYS[sql_type]
    numbers = range(len(keys))
    execute(client, f"CREATE TABLE {table} (k {sql_type}, v BIGINT)")

    def values():
        return [row["v"] for row in query(client, f"SELECT v FROM {table} ORDER BY v")]

    for start in [0, 10, 20]:
        upsert(client, table, pa.table({"k": keys, "v": [start + number for number in numbers]}), key=["k"])
        assert values() == [start + number for number in numbers]
    ops = ["d"] + ["u"] * (len(keys) - 1)
    changes(client, table, pa.table({"op": ops, "k": keys, "v": [30 + n for n in numbers]}), key=["k"])
    assert values() == [30 + number for number in numbers[1:]]
    delete(client, table, pa.table({"k": keys[:2]}), key=["k"])
    assert values() == [30 + number for number in numbers[2:]]


@pytest.mark.parametrize(
    "keys",
    [
        KEYS["VARCHAR"], KEYS["DATE"], KEYS["TIMESTAMP"], KEYS["DECIMAL(18, 3)"], KEYS["DECIMAL(38, 0)"], KEYS["UBIGINT"],
        KEYS["DOUBLE"], KEYS["BOOLEAN"], KEYS["BLOB"],
        pa.array([uuid.UUID(text).bytes for text in UUIDS], pa.binary(16)),
        pa.array(["a", "b"]).dictionary_encode(),
    ],
    ids=lambda keys: str(keys.type),
)  # fmt: skip
def test_upsert_makes_a_table_for_keys_of_many_types(client, table, keys):
    for start in [0, 10]:
        upsert(client, table, pa.table({"k": keys, "v": range(start, start + len(keys))}), key=["k"])
    assert [row["v"] for row in query(client, f"SELECT v FROM {table} ORDER BY v")] == list(
        range(10, 10 + len(keys))
    )
    assert primary_key(client, table) == ["k"]


@pytest.mark.parametrize("keys", [pa.array([[1]]), pa.array([{"x": 1}])], ids=["list", "struct"])
def test_a_key_that_duckdb_cannot_index_makes_no_table_and_is_named(client, table, keys):
    with pytest.raises(pa.ArrowException, match="(?i)key|index"):
        upsert(client, table, pa.table({"k": keys, "v": [1]}), key=["k"])
    assert query(client, f"SELECT * FROM duckdb_tables() WHERE table_name = '{table}'") == []


def test_a_key_is_compared_as_the_tables_type(client, table):
    execute(client, f"CREATE TABLE {table} (k BIGINT PRIMARY KEY, v VARCHAR)")
    for keys, v in [(["7"], "text"), (pa.array([7], pa.int8()), "small"), ([decimal.Decimal("7.00")], "decimal")]:
        upsert(client, table, pa.table({"k": keys, "v": [v]}))
        assert rows(client, table) == [{"k": 7, "v": v}]
    with pytest.raises(pa.ArrowInvalid, match="row 1.*`k`"):
        upsert(client, table, pa.table({"k": ["seven"], "v": [""]}))
    delete(client, table, pa.table({"k": ["7"]}))
    assert rows(client, table) == []


@pytest.mark.parametrize("mode", ["upsert", "delete", "changes"])
def test_a_row_without_a_key_is_refused_with_its_number(client, table, mode):
    execute(client, f"CREATE TABLE {table} (a BIGINT, b BIGINT, v BIGINT)")
    execute(client, f"INSERT INTO {table} VALUES (1, 1, 1), (1, NULL, 2)")
    batches = [{"op": "D", "a": 1, "b": 1, "v": 9}] * 3, [{"op": "D", "a": 1, "b": None, "v": 9}]
    schema = pa.schema([("op", pa.string())] + [(name, pa.int64()) for name in "abv"])
    data = pa.concat_tables([pa.Table.from_pylist(batch, schema) for batch in batches])
    if mode == "upsert":
        data = data.drop_columns(["op"])
    with pytest.raises(pa.ArrowInvalid, match="row 4.*`b`.*NULL"):
        send(client, data, table=table, mode=mode, key=["a", "b"])
    assert rows(client, table) == [{"a": 1, "b": 1, "v": 1}, {"a": 1, "b": None, "v": 2}]


@pytest.mark.parametrize("mode", ["upsert", "delete", "changes"])
@pytest.mark.parametrize("there", [True, False])
def test_a_key_that_is_not_in_the_stream_is_named(client, table, mode, there):
    if there or mode == "delete":
        execute(client, f"CREATE TABLE {table} (k BIGINT PRIMARY KEY, v BIGINT)")
    data = pa.table({"op": ["U"], "v": [1]}) if mode == "changes" else pa.table({"v": [1]})
    with pytest.raises(pa.ArrowInvalid, match='[`"]k[`"]'):
        send(client, data, table=table, mode=mode, key=["k"])


@pytest.mark.parametrize("mode", ["upsert", "delete", "changes"])
def test_rows_cannot_be_told_without_a_key(client, table, mode):
    execute(client, f"CREATE TABLE {table} (k BIGINT, v BIGINT)")
    with pytest.raises(pa.ArrowInvalid, match="primary key.*`key`"):
        send(client, pa.table({"op": ["U"], "k": [1], "v": [1]}), table=table, mode=mode)
    with pytest.raises(pa.ArrowInvalid, match="twice"):
        send(client, pa.table({"op": ["U"], "k": [1], "v": [1]}), table=table, mode=mode, key=["k", "K"])


@pytest.mark.parametrize("made", ["with a primary key", "without one"])
def test_of_the_rows_with_one_key_the_last_one_counts(client, table, made):
    key = " PRIMARY KEY" if made == "with a primary key" else ""
    execute(client, f"CREATE TABLE {table} (k BIGINT{key}, v BIGINT)")
    count = 10_000
    keys = [number % 7 for number in range(count)]
    data = pa.table({"k": keys, "v": range(count)})
    data = pa.concat_tables([data.slice(start, 3333) for start in range(0, count, 3333)])
    assert upsert(client, table, data, key=["k"])["rows"] == count
    last = {number % 7: number for number in range(count)}
    assert rows(client, table) == [{"k": k, "v": last[k]} for k in range(7)]


def test_changes_are_applied_in_their_order(client, table):
    execute(client, f"CREATE TABLE {table} (k BIGINT PRIMARY KEY, v BIGINT)")
    execute(client, f"INSERT INTO {table} VALUES (1, 0), (2, 0), (3, 0), (4, 0)")
    feed = [
        ("D", 1, None), ("I", 1, 10),  # there, deleted, inserted
        ("I", 5, 50), ("D", 5, None),  # not there, inserted, deleted
        ("U", 2, 20), ("D", 2, 21), ("c", 2, 22),
        ("r", 3, 30), ("u", 3, 31), ("d", 3, None),
        ("D", 6, None), ("U", 7, 70), ("i", 4, 40), ("C", 4, 41), ("R", 8, 80),
    ]  # fmt: skip
    op, k, v = zip(*feed, strict=True)
    data = pa.table({"k": k, "op": op, "v": v})
    assert changes(client, table, data)["rows"] == len(feed)
    assert [tuple(row.values()) for row in rows(client, table)] == [(1, 10), (2, 22), (4, 41), (7, 70), (8, 80)]


def test_changes_in_batches_are_applied_in_their_order(client, table):
    schema = pa.schema([("Kind", pa.dictionary(pa.int8(), pa.string())), ("k", pa.int64()), ("v", pa.int64())])
    stream = Stream(client, schema, table=table, mode="changes", key=["k"], op="kind")
    expected = {}
    for number in range(200):
        k, kind = number * number % 11, "cud"[number % 3]
        stream.write([{"Kind": kind, "k": k, "v": number}])
        expected.pop(k, None)
        if kind != "d":
            expected[k] = number
    for _ in range(200):
        assert stream.answer()["rows"] == 1
    stream.close()
    assert rows(client, table) == [{"k": k, "v": expected[k]} for k in sorted(expected)]


@pytest.mark.parametrize("op", ["", "X", "insert", "I ", None])
def test_a_change_of_no_known_kind_is_refused_with_its_row(client, table, op):
    execute(client, f"CREATE TABLE {table} (k BIGINT PRIMARY KEY)")
    with pytest.raises(pa.ArrowInvalid, match="row 2.*`op`.*none of I, C, R, U, D"):
        changes(client, table, pa.table({"op": ["I", op], "k": [1, 2]}))
    assert rows(client, table) == []


def test_the_column_that_says_what_a_row_is_must_be_there_and_text(client, table):
    with pytest.raises(pa.ArrowInvalid, match="`op`"):
        changes(client, table, pa.table({"k": [1]}), key=["k"])
    with pytest.raises(pa.ArrowInvalid, match="`kind`"):
        changes(client, table, pa.table({"k": [1], "op": ["I"]}), key=["k"], op="kind")
    with pytest.raises(pa.ArrowInvalid, match="`op`.*Int64"):
        changes(client, table, pa.table({"k": [1], "op": [1]}), key=["k"])
    with pytest.raises(pa.ArrowInvalid, match="op"):
        changes(client, table, pa.table({"k": [1], "op": ["I"]}), key=["op"])
    assert query(client, f"SELECT * FROM duckdb_tables() WHERE table_name = '{table}'") == []


@pytest.mark.parametrize("made", ["with a primary key", "without one"])
def test_columns_that_are_not_sent_keep_their_value_or_take_their_default(client, table, made):
    key = " PRIMARY KEY" if made == "with a primary key" else ""
    execute(
        client,
        f"CREATE TABLE {table} (k BIGINT{key}, a BIGINT, b VARCHAR DEFAULT 'none', c BIGINT NOT NULL DEFAULT 7, "
        "twice BIGINT GENERATED ALWAYS AS (a * 2) VIRTUAL)",
    )
    execute(client, f"INSERT INTO {table} VALUES (1, 1, 'one', 1)")
    upsert(client, table, pa.table({"k": [1, 2], "a": [10, 20]}), key=["k"])
    one = {"k": 1, "a": 10, "b": "one", "c": 1, "twice": 20}
    two = {"k": 2, "a": 20, "b": "none", "c": 7, "twice": 40}
    assert rows(client, table) == [one, two]
    changes(client, table, pa.table({"k": [2, 1], "b": ["two", None], "op": ["u", "u"]}), key=["k"])
    assert rows(client, table) == [one | {"b": None}, two | {"b": "two"}]
    # The key alone: rows that are there stay, new ones get their defaults.
    upsert(client, table, pa.table({"k": [1, 3]}), key=["k"])
    three = {"k": 3, "a": None, "b": "none", "c": 7, "twice": None}
    assert rows(client, table) == [one | {"b": None}, two | {"b": "two"}, three]
    with pytest.raises(pa.ArrowInvalid, match="twice.*generated"):
        upsert(client, table, pa.table({"k": [1], "twice": [1]}), key=["k"])


def test_a_change_of_a_row_needs_only_the_columns_it_changes_even_where_others_must_not_be_null(client, table):
    execute(client, f"CREATE TABLE {table} (k BIGINT PRIMARY KEY, a BIGINT NOT NULL, b BIGINT)")
    execute(client, f"INSERT INTO {table} VALUES (1, 1, 1)")
    upsert(client, table, pa.table({"k": [1], "b": [2]}))
    assert rows(client, table) == [{"k": 1, "a": 1, "b": 2}]
    with pytest.raises(pa.ArrowInvalid, match="NOT NULL.*a"):
        upsert(client, table, pa.table({"k": [1, 2], "b": [3, 3]}))
    with pytest.raises(pa.ArrowInvalid, match="row 2.*`a`.*NOT NULL"):
        upsert(client, table, pa.table({"k": [1, 1], "a": [1, None]}))
    assert rows(client, table) == [{"k": 1, "a": 1, "b": 2}]


def test_a_row_that_deletes_needs_nothing_but_its_key(client, table):
    execute(client, f"CREATE TABLE {table} (k BIGINT PRIMARY KEY, a BIGINT NOT NULL CHECK (a > 0), b VARCHAR UNIQUE)")
    execute(client, f"INSERT INTO {table} VALUES (1, 1, 'x'), (2, 2, 'y')")
    schema = pa.schema([("op", pa.string()), ("k", pa.int64()), ("a", pa.int64()), ("b", pa.string())])
    data = pa.table({"op": ["D", "D", "I"], "k": [1, 5, 3], "a": [None, -1, 3], "b": [None, "y", "z"]}, schema)
    changes(client, table, data)
    assert [tuple(row.values()) for row in rows(client, table)] == [(2, 2, "y"), (3, 3, "z")]


def test_a_delete_reads_no_column_but_the_key(client, table):
    execute(client, f"CREATE TABLE {table} (k BIGINT, v BIGINT)")
    execute(client, f"INSERT INTO {table} VALUES (1, 1), (1, 2), (2, 2)")
    data = pa.table({"unknown": [[1], None], "K": [1, 9], "v": ["no number", None]})
    assert delete(client, table, data, key=["k"]) == {"rows": 2, "duplicate": False}
    assert rows(client, table) == [{"k": 2, "v": 2}]


def test_a_delete_needs_its_table(client, table):
    for create in ["if_missing", "never"]:
        with pytest.raises(KeyError, match=table):
            delete(client, table, pa.table({"k": [1]}), key=["k"], create=create)
    with pytest.raises(KeyError, match=table):
        upsert(client, table, pa.table({"k": [1]}), key=["k"], create="never")


def test_values_that_must_be_unique_beside_the_key_are_kept_so(client, table):
    execute(client, f"CREATE TABLE {table} (k BIGINT PRIMARY KEY, u VARCHAR UNIQUE, v BIGINT)")
    upsert(client, table, pa.table({"k": [1, 2], "u": ["a", "b"], "v": [1, 2]}))
    upsert(client, table, pa.table({"k": [1, 2], "u": ["a", "c"], "v": [10, 20]}))
    with pytest.raises(pa.ArrowInvalid, match="(?i)duplicate.*u: a|constraint.*u"):
        upsert(client, table, pa.table({"k": [3], "u": ["a"], "v": [3]}))
    with pytest.raises(pa.ArrowInvalid, match="(?i)duplicate|constraint"):
        upsert(client, table, pa.table({"k": [4, 5], "u": ["d", "d"], "v": [4, 5]}))
    assert [tuple(row.values()) for row in rows(client, table)] == [(1, "a", 10), (2, "c", 20)]


def test_tables_with_indexes_and_nested_columns_take_changes_again_and_again(client, table):
    execute(
        client,
        f"""CREATE TABLE {table} (k BIGINT PRIMARY KEY, l BIGINT[], s STRUCT(x BIGINT, y VARCHAR), m MAP(VARCHAR, BIGINT),
                                  t VARCHAR);
            CREATE INDEX index_of_{table} ON {table} (t)""",
    )
    types = pa.schema(
        [
            ("op", pa.string()),
            ("k", pa.int64()),
            ("l", pa.list_(pa.int64())),
            ("s", pa.struct([("x", pa.int64()), ("y", pa.string())])),
            ("m", pa.map_(pa.string(), pa.int64())),
            ("t", pa.string()),
        ]
    )
    stream = Stream(client, types, table=table, mode="changes")
    for number in range(60):
        row = {"l": [number, None], "s": {"x": number, "y": None}, "m": [("a", number)], "t": str(number % 5)}
        kind = "d" if number % 4 == 3 else "u"
        stream.write([{"op": kind, "k": k} | row for k in range(number % 3, 300, 3)])
    for _ in range(60):
        stream.answer()
    stream.close()
    found = rows(client, table, "k")
    # Of the last three batches, which change every key, the one of the keys 2, 5, 8… deleted.
    assert [row["k"] for row in found] == [k for k in range(300) if k % 3 != 2]
    for row in found:
        number = 57 + row["k"] % 3
        assert row["l"] == [number, None]
        assert row["s"] == {"x": number, "y": None}
        assert row["m"] == [("a", number)]
        assert row["t"] == str(number % 5)
    by_index = query(client, f"SELECT k FROM {table} WHERE t = '2' ORDER BY k")
    assert [row["k"] for row in by_index] == [k for k in range(300) if k % 3 == 0]


@pytest.mark.parametrize("mode", ["upsert", "delete", "changes"])
def test_empty_units_change_nothing(client, table, mode):
    execute(client, f"CREATE TABLE {table} (k BIGINT PRIMARY KEY, v BIGINT)")
    execute(client, f"INSERT INTO {table} VALUES (1, 1)")
    names = ["k", "v"] + (["op"] if mode == "changes" else [])
    schema = pa.schema([(name, pa.string() if name == "op" else pa.int64()) for name in names])
    assert send(client, schema.empty_table(), table=table, mode=mode) == {"rows": 0, "duplicate": False}
    stream = Stream(client, schema, table=table, mode=mode)
    assert stream.send([]) == {"rows": 0, "duplicate": False}
    stream.close()
    assert rows(client, table) == [{"k": 1, "v": 1}]


@pytest.mark.parametrize("mode", ["upsert", "delete", "changes"])
def test_a_view_has_no_rows_to_change(client, table, mode):
    execute(client, f"CREATE TABLE of_{table} AS SELECT 1::BIGINT AS k; CREATE VIEW {table} AS FROM of_{table}")
    with pytest.raises(pa.ArrowException, match=table):
        send(client, pa.table({"op": ["D"], "k": [1]}), table=table, mode=mode, key=["k"])
    assert rows(client, table) == [{"k": 1}]


def test_names_of_columns_are_data_and_never_sql(client, table):
    strange = ['k"; DROP TABLE x; --', "select", "old", "new", "duck_flight_rows", "a.b", "späť"]
    schema = pa.schema([(name, pa.int64()) for name in strange])
    for start in [0, 10]:
        data = pa.Table.from_pylist([{name: start for name in strange} | {name: 1 for name in strange[:2]}], schema)
        upsert(client, table, data, key=strange[:2])
    expected = {name: 10 for name in strange} | {name: 1 for name in strange[:2]}
    assert rows(client, table) == [expected]
    delete(client, table, data, key=["OLD"])
    assert rows(client, table) == []


def test_replace_puts_a_keyed_table_in_place_of_another(client, table):
    execute(client, f"CREATE TABLE {table} AS SELECT 'old' AS s")
    data = pa.table({"k": [1, 1], "v": [1, 2]})
    upsert(client, table, data, key=["k"], create="replace")
    assert rows(client, table) == [{"k": 1, "v": 2}]
    assert primary_key(client, table) == ["k"]
