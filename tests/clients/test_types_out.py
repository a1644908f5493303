"""Every type DuckDB returns is readable with its exact values."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest
from conftest import read
from pyarrow import flight

UUID = "eeccb8c5-9943-b2bb-bb5e-222f4e14b687"

EXACT = [
    ("NULL", None, None),
    ("true", pa.bool_(), True),
    ("'-128'::TINYINT", pa.int8(), -128),
    ("65535::USMALLINT", pa.uint16(), 65535),
    ("18446744073709551615::UBIGINT", pa.uint64(), 2**64 - 1),
    ("('-' || repeat('9', 38))::HUGEINT", pa.decimal128(38, 0), Decimal("-" + "9" * 38)),
    ("340282366920938463463374607431768211455::UHUGEINT", pa.decimal256(39, 0), Decimal(2**128 - 1)),
    ("0::UHUGEINT", pa.decimal256(39, 0), Decimal(0)),
    ("0.1::FLOAT", pa.float32(), 0.10000000149011612),
    ("0.1::DOUBLE", pa.float64(), 0.1),
    ("1.5::DECIMAL(4, 1)", pa.decimal128(4, 1), Decimal("1.5")),
    ("repeat('9', 38)::DECIMAL(38, 0)", pa.decimal128(38, 0), Decimal("9" * 38)),
    ("'späť 🦆'", pa.string(), "späť 🦆"),
    ("'\\x00\\xFFa'::BLOB", pa.binary(), b"\x00\xffa"),
    ("'10101'::BIT", pa.string(), "10101"),
    ("repeat('01', 100)::BIT", pa.string(), "01" * 100),
    (f"'{UUID}'::UUID", pa.string(), UUID),
    ("'b'::ENUM ('a', 'b')", pa.string(), "b"),
    ("date '2026-02-28'", pa.date32(), date(2026, 2, 28)),
    ("time '12:34:56.789'", pa.time64("us"), time(12, 34, 56, 789000)),
    ("'12:34:56+02'::TIMETZ", pa.string(), "12:34:56+02"),
    ("'12:34:56.789-03:30'::TIMETZ", pa.string(), "12:34:56.789-03:30"),
    ("timestamp '2026-02-28 12:34:56.789012'", pa.timestamp("us"), datetime(2026, 2, 28, 12, 34, 56, 789012)),
    ("'2026-02-28 12:34:56'::TIMESTAMP_S", pa.timestamp("s"), datetime(2026, 2, 28, 12, 34, 56)),
    ("'2026-02-28 12:34:56.789'::TIMESTAMP_MS", pa.timestamp("ms"), datetime(2026, 2, 28, 12, 34, 56, 789000)),
    ("'2026-02-28 12:34:56+02'::TIMESTAMPTZ", None, datetime(2026, 2, 28, 10, 34, 56, tzinfo=UTC)),
    (
        "INTERVAL '1 year 2 days 3.5 seconds'",
        pa.month_day_nano_interval(),
        pa.MonthDayNano([12, 2, 3_500_000_000]),
    ),
    ("[1, NULL, 3]", pa.list_(pa.int32()), [1, None, 3]),
    ("[]::VARCHAR[]", pa.list_(pa.string()), []),
    ("[1, 2, 3]::INTEGER[3]", pa.list_(pa.int32(), 3), [1, 2, 3]),
    ("{'a': 1, 'b': NULL::VARCHAR}", pa.struct([("a", pa.int32()), ("b", pa.string())]), {"a": 1, "b": None}),
    ("MAP {'a': 1, 'b': NULL}", pa.map_(pa.string(), pa.int32()), [("a", 1), ("b", None)]),
    ("union_value(number := 1)::UNION(number INTEGER, text VARCHAR)", None, 1),
    ("'duck'::UNION(number INTEGER, text VARCHAR)", None, "duck"),
    # Combined.
    ("['a', 'b', NULL]::ENUM ('a', 'b')[]", pa.list_(pa.string()), ["a", "b", None]),
    (f"{{'u': '{UUID}'::UUID}}", pa.struct([("u", pa.string())]), {"u": UUID}),
    ("[1::HUGEINT, NULL]", pa.list_(pa.decimal128(38, 0)), [Decimal(1), None]),
    ("MAP {'a': [{'x': date '2026-02-28'}]}", None, [("a", [{"x": date(2026, 2, 28)}])]),
    ("[[1, 2], [3, 4]]::INTEGER[2][2]", None, [[1, 2], [3, 4]]),
    ("[MAP {1: [true, NULL]}, NULL]", None, [[(1, [True, None])], None]),
]

# Exact or a clear error; never something else.
EXACT_OR_REFUSED = [
    ("170141183460469231731687303715884105727::HUGEINT", Decimal(2**127 - 1)),
    ("'-170141183460469231731687303715884105728'::HUGEINT", Decimal(-(2**127))),
    ("[340282366920938463463374607431768211455::UHUGEINT]", [Decimal(2**128 - 1)]),
    ("{'a': 340282366920938463463374607431768211455::UHUGEINT}", {"a": Decimal(2**128 - 1)}),
    ("['101'::BIT]", ["101"]),
    ("MAP {'a': '12:34:56+02'::TIMETZ}", [("a", "12:34:56+02")]),
    ("['12:34:56+02'::TIMETZ]::TIMETZ[1]", ["12:34:56+02"]),
    ("union_value(b := '101'::BIT)", "101"),
    ("['123456789012345678901234567890123456789012345'::BIGNUM]", ["123456789012345678901234567890123456789012345"]),
]


def column_of(client, sql: str) -> pa.ChunkedArray:
    """The value over several of DuckDB's vectors, with nulls between, in the column `gauge`."""
    rows = "FROM range(5000) LEFT JOIN (SELECT {} AS gauge) ON range % 3 != 1 ORDER BY range"
    return read(client, f"SELECT gauge {rows.format(sql)}")["gauge"]


def label(case) -> str:
    return case if isinstance(case, str) else ""


def assert_exact(column: pa.ChunkedArray, expected) -> None:
    assert column.to_pylist() == [None if row % 3 == 1 else expected for row in range(len(column))]


@pytest.mark.parametrize(
    ("sql", "arrow_type", "expected"), EXACT, ids=lambda case: case if isinstance(case, str) else ""
)
def test_values_are_exact(client, sql, arrow_type, expected):
    column = column_of(client, sql)
    assert_exact(column, expected)
    if arrow_type is not None:
        assert column.type == arrow_type


@pytest.mark.parametrize(("sql", "expected"), EXACT_OR_REFUSED, ids=label)
def test_values_are_exact_or_refused(client, sql, expected):
    try:
        column = column_of(client, sql)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        assert "gauge" in str(error)
    else:
        assert_exact(column, expected)


@pytest.mark.parametrize("value", ["to_hours(3000000)", "[to_hours(3000000)]", "{'a': to_hours(-3000000)}"])
def test_an_interval_that_arrow_cannot_tell_is_refused(client, value):
    with pytest.raises(pa.ArrowInvalid, match="292 years.*VARCHAR"):
        read(client, f"SELECT {value} AS i")
    assert read(client, f"SELECT ({value})::VARCHAR AS i").num_rows == 1
    assert read(client, "SELECT to_hours(2500000) AS i")["i"].to_pylist() == [
        pa.MonthDayNano([0, 0, 2500000 * 3600 * 10**9])
    ]


def test_a_union_tells_its_sql_type_as_other_columns_do(client):
    sql = "SELECT 1::UNION(number INTEGER, text VARCHAR) AS u, [u] AS l"
    schema = read(client, sql).schema
    assert schema.field("u").nullable
    assert schema.field("u").metadata[b"ARROW:FLIGHT:SQL:TYPE_NAME"].startswith(b"UNION")
    info = client.get_flight_info(flight.FlightDescriptor.for_command(sql.encode()))
    assert info.schema.equals(schema, check_metadata=True)


def test_json_is_text(client):
    column = read(client, """SELECT '{"a": [1, null]}'::JSON AS j UNION ALL SELECT NULL""")["j"]
    assert sorted(column.to_pylist(), key=str) == [None, '{"a": [1, null]}']
    assert column.type in (pa.string(), pa.json_())


def test_a_big_number_keeps_its_digits(client):
    digits = "1234567890" * 10
    (value,) = read(client, f"SELECT '{digits}'::BIGNUM AS b")["b"].to_pylist()
    assert str(value) == digits


def test_nanoseconds_are_kept(client):
    row = read(client, "SELECT '12:34:56.123456789'::TIME_NS AS t, '2026-02-28 12:34:56.123456789'::TIMESTAMP_NS AS ts")
    assert row.schema.types == [pa.time64("ns"), pa.timestamp("ns")]
    seconds = 12 * 3600 + 34 * 60 + 56
    assert row["t"].cast(pa.int64()).to_pylist() == [seconds * 10**9 + 123456789]
    day = int(datetime(2026, 2, 28, tzinfo=UTC).timestamp())
    assert row["ts"].cast(pa.int64()).to_pylist() == [(day + seconds) * 10**9 + 123456789]


def test_the_zone_of_a_timestamp_is_utc(client):
    kind = read(client, "SELECT '2026-02-28 12:34:56+02'::TIMESTAMPTZ AS t").schema.field("t").type
    assert kind.tz in ("UTC", "Etc/UTC")


def test_rows_of_many_types_stay_together(client):
    rows = read(
        client,
        """SELECT range AS i, range::HUGEINT * 100000000000000000000 AS h, range::UHUGEINT AS uh,
            'row ' || range AS s, [range, range + 1] AS l, {'a': range, 'b': range::VARCHAR} AS st,
            MAP {range::VARCHAR: range} AS m, (['a', 'b', 'c'][range % 3 + 1])::ENUM ('a', 'b', 'c') AS e,
            range::INTEGER::BIT::VARCHAR AS bt, (range % 200)::INTEGER::BIT AS b,
            to_days(range::INTEGER) AS iv, timestamp '2026-01-01' + to_seconds(range) AS ts,
            CASE WHEN range % 2 = 0 THEN range END AS n
        FROM range(10000)""",
    ).to_pylist()
    for i, row in enumerate(rows):
        assert (row["i"], row["h"], row["uh"], row["s"]) == (i, i * 10**20, i, f"row {i}")
        assert (row["l"], row["st"], row["m"]) == ([i, i + 1], {"a": i, "b": str(i)}, [(str(i), i)])
        assert (row["e"], row["bt"], row["b"]) == ("abc"[i % 3], f"{i:032b}", f"{i % 200:032b}")
        assert (row["iv"], row["ts"]) == (pa.MonthDayNano([0, i, 0]), datetime(2026, 1, 1) + timedelta(seconds=i))
        assert row["n"] == (i if i % 2 == 0 else None)
    assert len(rows) == 10000


@pytest.mark.parametrize("sql", ["1::VARIANT", "'POINT (1 2)'::GEOMETRY", "NULL::VARIANT", "lambda x: x"])
def test_what_has_no_arrow_type_is_readable_or_refused(client, sql):
    try:
        assert read(client, f"SELECT {sql} AS v").num_rows == 1
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        assert str(error)
