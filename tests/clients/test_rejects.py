"""Rows that do not fit: put aside with the reason, or refused with the first of them named."""

import datetime
import decimal
import json

import pyarrow as pa
import pytest
from conftest import execute, query, read
from puts import Stream, send

LARGE = 1 << 20


def put_aside(client, table, data, **options) -> dict:
    return send(client, data, table=table, on_error="reject", **options)


def rejects(client, table) -> list[dict]:
    sql = f"""SELECT * EXCLUDE (rejected_at), rejected_at BETWEEN now() - INTERVAL 1 HOUR AND now() AS fresh
              FROM duck_flight.rejects WHERE "table" = '{table}' ORDER BY sequence, "row" """
    found = query(client, sql)
    assert all(row.pop("fresh") and row.pop("schema") == "main" and row.pop("table") == table for row in found)
    return found


def numbers_of(client, table) -> list[int]:
    return [row["row"] for row in rejects(client, table)]


def rows(client, table) -> list[tuple]:
    return [tuple(row.values()) for row in query(client, f"SELECT * FROM {table} ORDER BY ALL")]


def texts(*values) -> pa.Table:
    return pa.table({"i": pa.array(values, pa.string())})


def test_rows_that_do_not_cast_are_put_aside(client, table):
    execute(client, f"CREATE TABLE {table} (i INTEGER, s VARCHAR)")
    data = pa.table({"i": [1, 2**40, None, -(2**40), 5], "s": ["a", "b", None, "d", "e"]})
    assert put_aside(client, table, data) == {"rows": 3, "duplicate": False, "rejected": 2}
    assert rows(client, table) == [(1, "a"), (5, "e"), (None, None)]
    first, second = rejects(client, table)
    assert (first["row"], first["producer"], first["sequence"]) == (2, None, None)
    assert json.loads(first["data"]) == {"i": 2**40, "s": "b"}
    assert "`i`" in first["reason"] and str(2**40) in first["reason"]
    assert (second["row"], json.loads(second["data"])["s"]) == (4, "d")


# For each type a text that fits and one that does not.
BY_TEXT = {
    "BOOLEAN": ("true", "maybe"), "TINYINT": ("1", "128"), "BIGINT": ("1", "1x"), "UBIGINT": ("1", "-1"),
    "HUGEINT": ("170141183460469231731687303715884105727", "170141183460469231731687303715884105728"),
    "DOUBLE": ("1.5", "one"), "DECIMAL(4, 2)": ("1.25", "100"), "DATE": ("2024-02-29", "2023-02-29"),
    "TIME": ("12:30:00", "25:00:00"), "TIMESTAMP": ("2024-02-29 12:00:00", "yesterday"),
    "TIMESTAMPTZ": ("2024-02-29 12:00:00+00", "now-ish"), "INTERVAL": ("1 day", "a while"),
    "UUID": ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc99"), "ENUM('a', 'b')": ("a", "c"),
    "BIT": ("0101", "0121"), "BIGINT[]": ("[1, 2]", "[1, x]"), "STRUCT(x BIGINT)": ("{'x': 1}", "{'x': y}"),
}  # fmt: skip


@pytest.mark.parametrize("sql_type", BY_TEXT)
def test_text_that_is_no_value_of_the_columns_type_is_put_aside(client, table, sql_type):
    good, bad = BY_TEXT[sql_type]
    execute(client, f"CREATE TABLE {table} (i {sql_type})")
    answer = put_aside(client, table, texts(good, bad, None, good, bad))
    assert (answer["rows"], answer["rejected"]) == (3, 2)
    assert query(client, f"SELECT count(*) AS rows, count(i) AS given FROM {table}") == [{"rows": 3, "given": 2}]
    assert [(row["row"], json.loads(row["data"])) for row in rejects(client, table)] == [
        (2, {"i": bad}),
        (5, {"i": bad}),
    ]
    assert all("`i`" in row["reason"] for row in rejects(client, table))


def test_what_arrow_refuses_as_a_whole_is_put_aside_row_by_row(client, table):
    execute(client, f"CREATE TABLE {table} (i DATE, e ENUM('1', '2'))")
    days = [0, 2**63 - 1, None, 86_400_000_000, 0]
    data = pa.table({"i": pa.array(days * 100, pa.timestamp("us")), "e": pa.array([1, 2, 1, 2, 3] * 100)})
    assert put_aside(client, table, data) == {"rows": 300, "duplicate": False, "rejected": 200}
    assert numbers_of(client, table) == [row for row in range(1, 501) if row % 5 in (0, 2)]
    # More values than an index of one byte tells apart.
    data = pa.table({"e": range(300)})
    assert put_aside(client, table, data)["rejected"] == 298


def test_nested_values_that_do_not_cast_are_put_aside(client, table):
    execute(client, f"CREATE TABLE {table} (l TINYINT[], s STRUCT(x TINYINT))")
    data = pa.table({"l": [[1], [1, 1000], None, [2]], "s": [{"x": 1}, {"x": 2}, {"x": 1000}, {"x": None}]})
    answer = put_aside(client, table, data)
    assert (answer["rows"], answer["rejected"]) == (2, 2)
    assert numbers_of(client, table) == [2, 3]
    assert rows(client, table) == [([1], {"x": 1}), ([2], {"x": None})]


CONSTRAINTS = {
    "NOT NULL": ("i BIGINT, v BIGINT NOT NULL", [(1, None)], [(1, 1)]),
    "CHECK": ("i BIGINT, v BIGINT CHECK (v < 10)", [(1, 10), (2, 11)], [(1, 9), (2, None)]),
    "CHECK of two": ("i BIGINT, v BIGINT, CHECK (v <= i)", [(1, 2)], [(2, 1), (None, 7)]),
    "PRIMARY KEY": ("i BIGINT PRIMARY KEY, v BIGINT", [(0, 5), (None, 5)], [(1, 1)]),
    "PRIMARY KEY of two": ("i BIGINT, v BIGINT, PRIMARY KEY (v, i)", [(0, 0), (0, None)], [(0, 1), (1, 0)]),
    "UNIQUE": ("i BIGINT UNIQUE, v BIGINT", [(0, 5)], [(1, 1), (None, 1), (None, 2)]),
}


@pytest.mark.parametrize("kind", CONSTRAINTS)
def test_rows_that_break_a_constraint_are_put_aside(client, table, kind):
    columns, bad, good = CONSTRAINTS[kind]
    execute(client, f"CREATE TABLE {table} ({columns}); INSERT INTO {table} VALUES (0, 0)")
    there = rows(client, table)
    both = [row for pair in zip(bad, good, strict=False) for row in pair] + good[len(bad) :] + bad[len(good) :]
    data = pa.Table.from_pylist(
        [{"i": i, "v": v} for i, v in both], pa.schema([("i", pa.int64()), ("v", pa.int64())])
    )
    assert put_aside(client, table, data) == {"rows": len(good), "duplicate": False, "rejected": len(bad)}
    assert sorted(rows(client, table), key=str) == sorted(there + good, key=str)
    found = rejects(client, table)
    assert [row["row"] for row in found] == [both.index(row) + 1 for row in bad]
    # A primary key is NOT NULL, too.
    assert all(kind.split(" of")[0] in row["reason"] or "NOT NULL" in row["reason"] for row in found)


def test_of_rows_with_one_key_the_first_is_kept(client, table):
    execute(client, f"CREATE TABLE {table} (i BIGINT PRIMARY KEY, v BIGINT)")
    data = pa.table({"i": [1, 2, 1, 3, 2, 1], "v": range(6)})
    assert put_aside(client, table, data)["rejected"] == 3
    assert rows(client, table) == [(1, 0), (2, 1), (3, 3)]
    assert numbers_of(client, table) == [3, 5, 6]


def test_a_row_that_is_put_aside_takes_no_key_from_another(client, table):
    execute(
        client,
        f"CREATE TABLE {table} (i BIGINT PRIMARY KEY, u BIGINT UNIQUE, v BIGINT NOT NULL CHECK (v > 0));"
        f"INSERT INTO {table} VALUES (0, 0, 1)",
    )
    data = pa.Table.from_pylist(
        [
            {"i": 1, "u": 1, "v": None},  # breaks NOT NULL
            {"i": 1, "u": 1, "v": 2},
            {"i": 2, "u": 0, "v": 3},  # `u` is there
            {"i": 2, "u": 2, "v": 4},
            {"i": 3, "u": 2, "v": 5},  # `u` is row 4's
            {"i": 3, "u": 3, "v": 6},
            {"i": 0, "u": 9, "v": 7},  # `i` is there
            {"i": 4, "u": 9, "v": 8},
            {"i": 4, "u": 5, "v": 9},  # `i` is row 8's
            {"i": 6, "u": 5, "v": 10},
        ]
    )
    assert put_aside(client, table, data)["rejected"] == 5
    assert numbers_of(client, table) == [1, 3, 5, 7, 9]
    assert rows(client, table) == [(0, 0, 1), (1, 1, 2), (2, 2, 4), (3, 3, 6), (4, 9, 8), (6, 5, 10)]


def test_casts_and_constraints_break_in_one_unit_of_many_batches(client, table):
    execute(client, f"CREATE TABLE {table} (i INTEGER PRIMARY KEY, v TINYINT CHECK (v <> 7), w BIGINT NOT NULL)")
    expected, bad, batches, number = [], [], [], 0
    for size in [1, 1000, 0, 3000, 7]:
        batch = []
        for _ in range(size):
            row = {"i": number, "v": number % 100, "w": number}
            if number % 11 == 3:
                row["v"] = 1000  # does not cast
            elif number % 13 == 5:
                row["w"] = None
            elif number % 17 == 4 and number > 100:
                row["i"] = number - 17 * 6  # there already, unless that one was put aside
            batch.append(row)
            number += 1
        batches.append(pa.Table.from_pylist(batch, pa.schema([(name, pa.int64()) for name in "ivw"])))
    keys = set()
    for place, row in enumerate(row for batch in batches for row in batch.to_pylist()):
        if row["v"] > 127 or row["v"] == 7 or row["w"] is None or row["i"] in keys:
            bad.append(place + 1)
        else:
            keys.add(row["i"])
            expected.append(tuple(row.values()))
    answer = put_aside(client, table, pa.concat_tables(batches))
    assert answer == {"rows": len(expected), "duplicate": False, "rejected": len(bad)}
    assert numbers_of(client, table) == bad
    assert rows(client, table) == sorted(expected)


def test_a_unit_of_nothing_but_bad_rows_is_acknowledged(client, table):
    execute(client, f"CREATE TABLE {table} (i TINYINT CHECK (i > 0))")
    answer = put_aside(client, table, pa.table({"i": [1000] * 3000}))
    assert answer == {"rows": 0, "duplicate": False, "rejected": 3000}
    answer = put_aside(client, table, pa.table({"i": [0] * 3000}))
    assert answer == {"rows": 0, "duplicate": False, "rejected": 3000}
    assert rows(client, table) == []
    assert numbers_of(client, table) == [number for number in range(1, 3001) for _ in range(2)]


def test_without_a_bad_row_nothing_is_put_aside(client, table):
    assert put_aside(client, table, pa.table({"i": [1, 2]})) == {"rows": 2, "duplicate": False}
    assert put_aside(client, table, pa.table({"i": [3]})) == {"rows": 1, "duplicate": False}
    assert rejects(client, table) == []


def test_rows_count_from_one_in_each_unit(client, table):
    execute(client, f"CREATE TABLE {table} (i TINYINT CHECK (i <> 5))")
    stream = Stream(client, pa.schema([("i", pa.int64())]), table=table, on_error="reject")
    for batch in [[1, 1000], [5, 1, 5], [1, 1, 1, 1000, 5]]:
        answer = stream.send([{"i": value} for value in batch])
        bad = sum(value in (5, 1000) for value in batch)
        assert (answer["rows"], answer["rejected"]) == (len(batch) - bad, bad)
    stream.close()
    assert sorted(numbers_of(client, table)) == [1, 2, 3, 4, 5]
    assert rows(client, table) == [(1,)] * 5


def test_a_rejected_row_is_kept_as_it_was_sent(client, table):
    execute(client, f"CREATE TABLE {table} (i TINYINT)")
    sent = pa.table(
        {
            "i": [1000],
            "text": ['quoted "🦆" \n'],
            "null": pa.array([None], pa.string()),
            "double": [0.1],
            "bool": [True],
            "date": [datetime.date(2024, 2, 29)],
            "time": [datetime.time(12, 30, 1)],
            "moment": [datetime.datetime(2024, 2, 29, 12, 30, 1, 234567)],
            "zoned": pa.array([datetime.datetime(2024, 2, 29, 12)], pa.timestamp("us", "UTC")),
            "decimal": [decimal.Decimal("12345678901234567890.125")],
            "list": [[1, None, 3]],
            "struct": [{"x": 1, "y": ["a"]}],
            "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
            "bytes": [b"\x00\xff"],
            "large": pa.array([2**63 + 1], pa.uint64()),
            "word": pa.array(["w"]).dictionary_encode(),
        }
    )
    fitting = sent.set_column(0, "i", pa.array([1], pa.int8()))
    assert put_aside(client, table, fitting, schema="evolve") == {"rows": 1, "duplicate": False}
    assert put_aside(client, table, sent)["rejected"] == 1
    data = json.loads(rejects(client, table)[0]["data"])
    plain = {"i": 1000, "text": 'quoted "🦆" \n', "double": 0.1, "bool": True, "list": [1, None, 3], "map": {"k": 1}}
    assert {name: data[name] for name in plain} == plain
    assert data["struct"] == {"x": 1, "y": ["a"]}
    assert data.get("null") is None
    assert data["date"] == "2024-02-29"
    assert data["time"].startswith("12:30:01")
    assert data["moment"] == "2024-02-29T12:30:01.234567"
    assert data["zoned"].startswith("2024-02-29T12:00:00")
    assert str(data["decimal"]) in ("12345678901234567890.125", "1.2345678901234567e+19")
    assert data["bytes"].lower() in ("00ff", "\\x00\\xff")
    assert data["large"] == 2**63 + 1
    assert data["word"] == "w"
    # The column is JSON in SQL, too.
    sql = f"""SELECT data->>'$.struct.y[0]' AS y, data->>'i' AS i FROM duck_flight.rejects WHERE "table" = '{table}'"""
    assert query(client, sql) == [{"y": "a", "i": "1000"}]


def test_what_a_producer_sends_again_is_not_put_aside_again(client, table):
    execute(client, f"CREATE TABLE {table} (i TINYINT CHECK (i <> 5))")
    options = {"producer": "p", "sequence": 3}
    data = pa.table({"i": [1, 1000, 5]})
    first = {"rows": 1, "sequence": 3, "duplicate": False, "rejected": 2}
    assert put_aside(client, table, data, **options) == first
    again = put_aside(client, table, data, **options)
    assert again["duplicate"] and again.get("rejected", 0) == 0
    found = rejects(client, table)
    assert [(row["producer"], row["sequence"], row["row"]) for row in found] == [("p", 3, 2), ("p", 3, 3)]
    assert rows(client, table) == [(1,)]


@pytest.mark.parametrize("mode", ["upsert", "delete", "changes"])
def test_rows_of_every_mode_are_put_aside(client, table, mode):
    execute(client, f"CREATE TABLE {table} (k TINYINT PRIMARY KEY, v BIGINT NOT NULL CHECK (v < 10))")
    execute(client, f"INSERT INTO {table} VALUES (1, 1), (2, 2)")
    ops = {"op": ["u", "u", "u", "d", "d"]} if mode == "changes" else {}
    data = pa.table(ops | {"k": [1, 1000, None, 2, 3], "v": [5, 6, 7, None, None]})
    answer = put_aside(client, table, data, mode=mode)
    if mode == "upsert":
        assert (answer["rows"], answer["rejected"]) == (1, 4)
        assert rows(client, table) == [(1, 5), (2, 2)]
        assert numbers_of(client, table) == [2, 3, 4, 5]
    else:
        assert (answer["rows"], answer["rejected"]) == (3, 2)
        assert rows(client, table) == ([] if mode == "delete" else [(1, 5)])
        assert numbers_of(client, table) == [2, 3]


def test_a_row_that_deletes_is_not_put_aside_beside_one_that_breaks_a_constraint(client, table):
    execute(client, f"CREATE TABLE {table} (k BIGINT PRIMARY KEY, v BIGINT NOT NULL CHECK (v < 10))")
    execute(client, f"INSERT INTO {table} VALUES (1, 1), (2, 2), (3, 3)")
    data = pa.table({"op": ["d", "u", "d", "u", "u"], "k": [1, 2, 3, 4, 5], "v": [None, None, 99, 99, 5]})
    answer = send(client, data, table=table, mode="changes", on_error="reject")
    assert (answer["rows"], answer["rejected"]) == (3, 2)
    assert numbers_of(client, table) == [2, 4]
    assert rows(client, table) == [(2, 2), (5, 5)]
    with pytest.raises(pa.ArrowInvalid, match="row 2.*`v`.*NOT NULL"):
        send(client, data, table=table, mode="changes")


def test_a_change_of_no_known_kind_is_put_aside(client, table):
    execute(client, f"CREATE TABLE {table} (k BIGINT PRIMARY KEY)")
    data = pa.table({"op": ["I", "X", None, "I"], "k": [1, 2, 3, 4]})
    assert put_aside(client, table, data, mode="changes")["rejected"] == 2
    assert rows(client, table) == [(1,), (4,)]
    assert json.loads(rejects(client, table)[0]["data"]) == {"op": "X", "k": 2}


BEYOND_THE_ROW = {
    "a foreign key": ("i BIGINT REFERENCES of_{0} (i)", [4], "FOREIGN KEY"),
    "a unique index": ("i BIGINT); CREATE UNIQUE INDEX index_of_{0} ON {0} (i", [3], "UNIQUE INDEX"),
    "a column that is not sent": ("i BIGINT, other BIGINT NOT NULL", [1, 2, 3, 4], "NOT NULL"),
}


@pytest.mark.parametrize("kind", BEYOND_THE_ROW)
def test_rows_that_break_a_constraint_with_more_than_their_values_are_put_aside(client, table, kind):
    columns, bad, named = BEYOND_THE_ROW[kind]
    execute(client, f"CREATE TABLE of_{table} (i BIGINT PRIMARY KEY); INSERT INTO of_{table} VALUES (1), (2)")
    execute(client, f"CREATE TABLE {table} ({columns.format(table)})")
    answer = put_aside(client, table, pa.table({"i": [1, 2, 2, 3]}))
    assert (answer["rows"], answer.get("rejected", 0)) == (4 - len(bad), len(bad))
    assert len(rows(client, table)) == 4 - len(bad)
    assert numbers_of(client, table) == bad
    assert all(named in row["reason"] for row in rejects(client, table))


def test_a_column_that_only_duckdb_knows_refuses_the_unit_and_says_why(client, table):
    execute(client, f"CREATE SEQUENCE of_{table}")
    execute(client, f"CREATE TABLE {table} (i BIGINT, n BIGINT DEFAULT nextval('of_{table}') CHECK (n < 3))")
    with pytest.raises(pa.ArrowInvalid, match="(?i)check"):
        put_aside(client, table, pa.table({"i": [1, 2, 3, 4]}))
    assert rows(client, table) == []
    assert rejects(client, table) == []


def large(bad: dict[int, int]) -> pa.Table:
    values = list(range(LARGE + 1000))
    for place, value in bad.items():
        values[place] = value
    table = pa.table({"i": pa.array(values, pa.int64()), "v": pa.array(range(len(values)), pa.int64())})
    return pa.concat_tables([table.slice(start, 100_000) for start in range(0, len(values), 100_000)])


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_rows_of_a_large_unit_are_put_aside(client, table, mode):
    execute(client, f"CREATE TABLE {table} (i INTEGER, v BIGINT)")
    data = large({0: 2**40, 99_999: 2**41, 100_000: 2**42, LARGE + 999: 2**43})
    options = {} if mode == "append" else {"key": ["i"]}
    for _ in range(2):
        answer = put_aside(client, table, data, mode=mode, producer="p", sequence=1, **options)
    assert answer == {"rows": LARGE + 1000, "sequence": 1, "duplicate": True}
    assert [(row["row"], json.loads(row["data"])["i"]) for row in rejects(client, table)] == [
        (1, 2**40),
        (100_000, 2**41),
        (100_001, 2**42),
        (LARGE + 1000, 2**43),
    ]
    assert query(client, f"SELECT count(*) AS n FROM {table}") == [{"n": LARGE + 996}]


NAMED = {
    "a cast": ("i TINYINT, v BIGINT", [1, 1000, 2000], "row 2, column `i`.*1000"),
    "a cast by DuckDB": ("i BIGINT, v UUID", [1, 2, 3], "row 1, column `v`"),
    "NOT NULL": ("i BIGINT NOT NULL, v BIGINT", [1, None, None], "row 2, column `i`.*NOT NULL"),
    "CHECK": ("i BIGINT CHECK (i < 5), v BIGINT", [1, 2, 7], "row 3, column `i`.*CHECK"),
    "PRIMARY KEY": ("i BIGINT PRIMARY KEY, v BIGINT", [1, 2, 1], "row 3, column `i`.*PRIMARY KEY"),
    "UNIQUE": ("i BIGINT, v BIGINT, UNIQUE (v, i)", [1, 1, 1], None),
    "two constraints": ("i BIGINT CHECK (i < 5), v BIGINT CHECK (v < 0)", [1, 2, 7], "row 1, column `v`.*CHECK"),
}


@pytest.mark.parametrize("kind", NAMED)
def test_the_first_row_that_does_not_fit_is_named(client, table, kind):
    columns, values, named = NAMED[kind]
    execute(client, f"CREATE TABLE {table} ({columns})")
    v = ["a", "b", "c"] if kind == "a cast by DuckDB" else [10, 20, 30]
    data = pa.table({"v": v, "i": pa.array(values, pa.int64())})
    if named is None:
        data = pa.concat_tables([data, data.slice(1, 1)])
        named = "row 4, column `v, i`.*UNIQUE"
    with pytest.raises(pa.ArrowInvalid, match=named):
        send(client, data, table=table)
    assert rows(client, table) == []


def test_numbers_that_json_has_no_value_for_are_told_as_text(client, table):
    execute(client, f"CREATE TABLE {table} (i INTEGER, f DOUBLE, g DOUBLE)")
    data = pa.table({"i": [2**40], "f": [float("nan")], "g": [1.5]})
    assert put_aside(client, table, data)["rejected"] == 1
    assert json.loads(rejects(client, table)[0]["data"]) == {"i": 2**40, "f": "NaN", "g": 1.5}


# What Arrow has no text for: in SQL, and as it is told.
FAR = [
    ("TIMESTAMPTZ 'infinity'", "infinity"),
    ("TIMESTAMP '-infinity'", "-infinity"),
    ("TIMESTAMP_MS '290309-12-22 (BC) 00:00:00'", "290309-12-22 (BC) 00:00:00"),
    ("DATE '5881580-07-10'", "5881580-07-10"),
    ("TIME '24:00'", "24:00:00"),
    ("[TIMESTAMPTZ 'infinity']", ["infinity"]),
    ("{'x': DATE 'infinity'}", {"x": "infinity"}),
]


@pytest.mark.parametrize("second", [300, 1], ids=["a cast", "a key"])
def test_moments_that_arrow_has_no_text_for_are_told_as_duckdb_does(client, table, second):
    values = ", ".join(f"{value} AS c{place}" for place, (value, _) in enumerate(FAR))
    execute(client, f"CREATE TABLE {table} AS SELECT 1::TINYINT AS i, {values} LIMIT 0")
    execute(client, f"ALTER TABLE {table} ADD PRIMARY KEY (i)")
    data = read(client, f"SELECT unnest([1, {second}]) AS i, {values}")
    assert put_aside(client, table, data) == {"rows": 1, "duplicate": False, "rejected": 1}
    told = json.loads(rejects(client, table)[0]["data"])
    assert told == {"i": second} | {f"c{place}": text for place, (_, text) in enumerate(FAR)}
