"""Every Arrow type a client may send comes back with the same values, or gets a clear error."""

import itertools
import math
import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import execute, put, query, read
from puts import Stream, send
from pyarrow import flight, ipc

# More than two of DuckDB's vectors, and not a multiple of one.
ROWS = 5000

UUIDS = [uuid.UUID(int=5), uuid.UUID("ffffffff-ffff-ffff-ffff-fffffffffffe"), None]
LONG = "longer than the twelve bytes that a view holds inline 🦆"
MOMENT = datetime(2026, 2, 28, 23, 59, 58, 123456)

ROUND_TRIPS = [
    (pa.null(), [None]),
    (pa.bool_(), [True, False, None]),
    (pa.int8(), [-(2**7), 2**7 - 1, None]),
    (pa.int16(), [-(2**15), 2**15 - 1, None]),
    (pa.int32(), [-(2**31), 2**31 - 1, None]),
    (pa.int64(), [-(2**63), 2**63 - 1, None]),
    (pa.uint8(), [0, 2**8 - 1, None]),
    (pa.uint16(), [0, 2**16 - 1, None]),
    (pa.uint32(), [0, 2**32 - 1, None]),
    (pa.uint64(), [0, 2**64 - 1, None]),
    (pa.float32(), [1.5, -math.inf, math.nan, None]),
    (pa.float64(), [0.1, math.inf, math.nan, 5e-324, None]),
    (pa.decimal32(9, 2), [Decimal("1234567.89"), Decimal("-0.01"), None]),
    (pa.decimal64(18, 4), [Decimal("12345678901234.5678"), Decimal("-0.0001"), None]),
    (pa.decimal128(4, 1), [Decimal("999.9"), Decimal("-999.9"), None]),
    (pa.decimal128(38, 0), [Decimal("9" * 38), Decimal("-" + "9" * 38), None]),
    (pa.decimal128(38, 38), [Decimal("0." + "9" * 38), Decimal("-0." + "9" * 38), None]),
    (pa.string(), ["", "duck", LONG, "nul \0 inside", None]),
    (pa.large_string(), ["", "duck", LONG, None]),
    (pa.string_view(), ["", "duck", LONG, None]),
    (pa.binary(), [b"", b"\x00\xff", LONG.encode(), None]),
    (pa.large_binary(), [b"", b"\x00\xff", LONG.encode(), None]),
    (pa.binary_view(), [b"", b"\x00\xff", LONG.encode(), None]),
    (pa.binary(3), [b"\x00\xff\x00", b"abc", None]),
    (pa.date32(), [date(1, 1, 1), date(2026, 2, 28), date(9999, 12, 31), None]),
    (pa.date64(), [date(1, 1, 1), date(2026, 2, 28), date(9999, 12, 31), None]),
    (pa.time32("s"), [time(0, 0, 0), time(23, 59, 59), None]),
    (pa.time32("ms"), [time(0, 0, 0), time(23, 59, 59, 999000), None]),
    (pa.time64("us"), [time(0, 0, 0), time(23, 59, 59, 999999), None]),
    (pa.time64("ns"), [0, 86_399_999_999_999, None]),
    (pa.timestamp("s"), [MOMENT.replace(microsecond=0), datetime(1, 1, 1), None]),
    (pa.timestamp("ms"), [MOMENT.replace(microsecond=123000), datetime(1, 1, 1), None]),
    (pa.timestamp("us"), [MOMENT, datetime(1, 1, 1), None]),
    (pa.timestamp("ns"), [0, 1_700_000_000_123_456_789, -1, None]),
    (pa.timestamp("s", "UTC"), [MOMENT.replace(microsecond=0, tzinfo=UTC), None]),
    (pa.timestamp("ms", "+02:00"), [MOMENT.replace(microsecond=1000, tzinfo=UTC), None]),
    (pa.timestamp("us", "Europe/Berlin"), [MOMENT.replace(tzinfo=UTC), None]),
    (pa.timestamp("ns", "UTC"), [0, 1_700_000_000_123_456_000, None]),
    (pa.duration("s"), [timedelta(days=400, seconds=1), timedelta(seconds=-1), None]),
    (pa.duration("ms"), [timedelta(days=400, milliseconds=1), timedelta(milliseconds=-1), None]),
    (pa.duration("us"), [timedelta(days=400, microseconds=1), timedelta(microseconds=-1), None]),
    (pa.duration("ns"), [1000, 86_400_000_001_000, None]),
    (
        pa.month_day_nano_interval(),
        [pa.MonthDayNano([1, 2, 3000]), pa.MonthDayNano([-1, 40, -1000]), None],
    ),
    (pa.uuid(), UUIDS),
    (pa.json_(), ['{"a": [1, null]}', '"text"', None]),
    (pa.bool8(), [1, 0, None]),
    (pa.dictionary(pa.int8(), pa.string()), ["A", "B", "A", None]),
    (pa.dictionary(pa.uint32(), pa.int64()), [2**40, 1, 2**40, None]),
    (pa.run_end_encoded(pa.int32(), pa.string()), ["a", "a", None, "b"]),
    (pa.run_end_encoded(pa.int16(), pa.float64()), [1.5, 1.5, None, 2.5]),
    (pa.list_(pa.int32()), [[1, None, 3], [], None]),
    (pa.large_list(pa.string()), [["a", None, LONG], [], None]),
    (pa.list_view(pa.int32()), [[1, None, 3], [], None]),
    (pa.large_list_view(pa.string()), [["a", None, LONG], [], None]),
    (pa.list_(pa.float32(), 3), [[1.0, None, 3.0], [4.0, 5.0, 6.0], None]),
    (
        pa.struct([("a", pa.int32()), ("b", pa.string())]),
        [{"a": 1, "b": None}, {"a": None, "b": LONG}, None],
    ),
    (pa.map_(pa.string(), pa.int32()), [[("a", 1), ("b", None)], [], None]),
    # Combined.
    (pa.list_(pa.list_(pa.list_(pa.int8()))), [[[[1], None, []], []], [], None]),
    (
        pa.list_(pa.struct([("at", pa.timestamp("us", "UTC")), ("tags", pa.list_(pa.string()))])),
        [[{"at": MOMENT.replace(tzinfo=UTC), "tags": ["a", None]}, None], None],
    ),
    (
        pa.map_(pa.string(), pa.list_(pa.decimal128(10, 2))),
        [[("a", [Decimal("1.25"), None]), ("b", None)], None],
    ),
    (pa.struct([("inner", pa.struct([("u", pa.uuid())]))]), [{"inner": {"u": UUIDS[0]}}, {"inner": None}, None]),
    (pa.list_(pa.dictionary(pa.int8(), pa.string())), [["A", "B", None], [], None]),
    (pa.list_(pa.string_view()), [["a", LONG, None], [], None]),
    (pa.struct([("d", pa.duration("us")), ("b", pa.bool8())]), [{"d": timedelta(seconds=1), "b": 1}, None]),
    (pa.list_(pa.struct([("x", pa.int64())]), 2), [[{"x": 1}, None], [{"x": 2}, {"x": 3}], None]),
]

# DuckDB has no such type, so a refusal that names the column is as good as the same values.
ROUND_TRIPS_OR_REFUSED = [
    (pa.float16(), [1.5, -2.25, None]),
    (pa.decimal256(20, 2), [Decimal("123456789012345678.90"), None]),
    (pa.decimal256(76, 0), [Decimal("9" * 76), None]),
    (pa.decimal128(10, -2), [Decimal("1500"), None]),
    (pa.list_(pa.float16()), [[1.5, None], None]),
    (pa.struct([("d", pa.decimal256(50, 5))]), [{"d": Decimal("1.25")}, None]),
    # Beyond a microsecond.
    (pa.timestamp("ns", "UTC"), [1_700_000_000_123_456_789, None]),
    (pa.duration("ns"), [1, None]),
    (pa.month_day_nano_interval(), [pa.MonthDayNano([0, 0, 1]), None]),
    # Outside the range of DuckDB's type.
    (pa.duration("s"), [2**53, None]),
    (pa.time32("s"), [86_400 * 2, None]),
    (pa.timestamp("s"), [2**60, None]),
    (pa.timestamp("ms", "UTC"), [2**60, None]),
]


def array(arrow_type: pa.DataType, values: list) -> pa.Array:
    repeated = list(itertools.islice(itertools.cycle(values), ROWS))
    if isinstance(arrow_type, pa.Bool8Type):
        return pa.ExtensionArray.from_storage(arrow_type, pa.array(repeated, pa.int8()))
    if pa.types.is_struct(arrow_type):
        # Member by member: pyarrow makes no extension types inside others by itself.
        members = [array(field.type, [row and row[field.name] for row in values]) for field in arrow_type]
        return pa.StructArray.from_arrays(
            members, fields=list(arrow_type), mask=pa.array([row is None for row in repeated])
        )
    return pa.array(repeated, arrow_type)


def comparable(value):
    """The same for two values that mean the same."""
    match value:
        case pa.MonthDayNano(months=months, days=days, nanoseconds=nanoseconds):
            return ("interval", months, days * 86_400 * 10**9 + nanoseconds)
        case timedelta():
            return ("interval", 0, value // timedelta(microseconds=1) * 1000)
        case uuid.UUID():
            return str(value)
        case bool():
            return int(value)
        case float() if math.isnan(value):
            return "not a number"
        case dict():
            return {key: comparable(item) for key, item in value.items()}
        case list() | tuple():
            return [comparable(item) for item in value]
    return value


def values_of(column: pa.Array | pa.ChunkedArray) -> list:
    kind = column.type
    if pa.types.is_duration(kind):
        scale = {"s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}[kind.unit]
        counts = column.cast(pa.int64()).to_pylist()
        return [None if count is None else ("interval", 0, count * scale) for count in counts]
    if getattr(kind, "unit", None) is not None:
        # As a number: Python's own types end at microseconds and at the year 9999.
        scale = {"s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}[kind.unit]
        whole = column.cast(pa.int32() if pa.types.is_time32(kind) else pa.int64())
        return [None if count is None else count * scale for count in whole.to_pylist()]
    return [comparable(value) for value in column.to_pylist()]


def round_trip(client, table, gauge: pa.Array) -> None:
    data = pa.table({"id": range(len(gauge)), "gauge": gauge})
    put(client, table, data)
    back = read(client, f"SELECT * FROM {table} ORDER BY id")
    assert back["id"].to_pylist() == list(range(len(gauge)))
    assert values_of(back["gauge"]) == values_of(gauge)


def label(case) -> str:
    return str(case) if isinstance(case, pa.DataType) else ""


@pytest.mark.parametrize(("arrow_type", "values"), ROUND_TRIPS, ids=label)
def test_values_come_back_as_they_were_sent(client, table, arrow_type, values):
    round_trip(client, table, array(arrow_type, values))


@pytest.mark.parametrize(("arrow_type", "values"), ROUND_TRIPS_OR_REFUSED, ids=label)
def test_what_duckdb_lacks_comes_back_unharmed_or_is_refused_by_column(client, table, arrow_type, values):
    try:
        round_trip(client, table, array(arrow_type, values))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        assert "gauge" in str(error)


def test_a_sparse_union_comes_back_as_it_was_sent(client, table):
    kinds = pa.array([0, 1, 0] * 1000, pa.int8())
    members = [pa.array([1, None, None] * 1000, pa.int32()), pa.array([None, "duck", None] * 1000)]
    round_trip(client, table, pa.UnionArray.from_sparse(kinds, members, ["number", "text"]))


def test_a_dense_union_comes_back_unharmed_or_is_refused_by_column(client, table):
    kinds, offsets = pa.array([0, 1, 0], pa.int8()), pa.array([0, 0, 1], pa.int32())
    members = [pa.array([1, None], pa.int32()), pa.array(["duck"])]
    try:
        round_trip(client, table, pa.UnionArray.from_dense(kinds, offsets, members, ["number", "text"]))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        assert "gauge" in str(error)


def test_slices_of_larger_arrays_come_back_as_they_were_sent(client, table):
    for arrow_type in [pa.string(), pa.bool_(), pa.list_(pa.int32()), pa.list_view(pa.int32()), pa.string_view()]:
        name = f"{table}_{arrow_type.id}"
        values = next(values for kind, values in ROUND_TRIPS if kind == arrow_type)
        round_trip(client, name, array(arrow_type, values).slice(1001, 2999))


def test_dictionaries_may_change_from_batch_to_batch(client, table):
    batches = [pa.record_batch({"d": pa.array(words).dictionary_encode()}) for words in (["a", "b"], ["c", "a", None])]
    writer, _ = client.do_put(flight.FlightDescriptor.for_path(table), batches[0].schema)
    for batch in batches:
        writer.write_batch(batch)
    writer.close()
    assert [row["d"] for row in query(client, f"SELECT * FROM {table}")] == ["a", "b", "c", "a", None]


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_batches_are_read(client, table, compression):
    data = pa.table({"s": ["duck", None, LONG] * 1000, "i": range(3000)})
    options = flight.FlightCallOptions(write_options=ipc.IpcWriteOptions(compression=compression))
    writer, _ = client.do_put(flight.FlightDescriptor.for_path(table), data.schema, options)
    writer.write_table(data)
    writer.close()
    assert read(client, f"SELECT * FROM {table}").equals(data)


def test_two_columns_of_one_name_are_refused_by_name(client, table):
    with pytest.raises(pa.ArrowInvalid, match="(?i)twin"):
        put(client, table, pa.table([pa.array([1]), pa.array([2])], names=["twin", "TWIN"]))


def test_a_put_without_columns_is_refused(client, table):
    with pytest.raises(pa.ArrowInvalid, match="column"):
        put(client, table, pa.table({}))


def test_nulls_in_a_column_that_says_it_has_none_are_stored_or_refused(client, table):
    execute(client, f"CREATE TABLE {table} (i BIGINT)")
    lying = pa.schema([pa.field("i", pa.int64(), nullable=False)])
    data = pa.Table.from_arrays([pa.array([1, None])], schema=lying)
    try:
        put(client, table, data)
        assert query(client, f"SELECT * FROM {table}") == [{"i": 1}, {"i": None}]
    except pa.ArrowInvalid:
        assert query(client, f"SELECT * FROM {table}") == []


def dictionary_union(rows: int) -> tuple[pa.Array, list[str]]:
    """A sparse union of a dictionary and numbers, and its values as DuckDB writes them."""
    kinds = pa.array([row % 2 for row in range(rows)], pa.int8())
    words = [f"d{row % 50}" for row in range(rows)]
    union = pa.UnionArray.from_sparse(kinds, [pa.array(words).dictionary_encode(), pa.array(range(rows))], ["w", "n"])
    return union, [str(row) if row % 2 else word for row, word in enumerate(words)]


@pytest.mark.parametrize("kind", ["list", "fixed_size_list", "map", "struct"])
def test_dictionaries_in_unions_inside_others_come_back_as_they_were_sent(client, table, kind):
    union, texts = dictionary_union(ROWS)
    offsets = pa.array(range(ROWS + 1), pa.int32())
    match kind:
        case "list":
            gauge, shape = pa.ListArray.from_arrays(offsets, union), "[{}]"
        case "fixed_size_list":
            gauge, shape = pa.FixedSizeListArray.from_arrays(union, 1), "[{}]"
        case "map":
            gauge, shape = pa.MapArray.from_arrays(offsets, pa.array(["k"] * ROWS), union), "{{k={}}}"
        case _:
            gauge, shape = pa.StructArray.from_arrays([union], ["k"]), "{{'k': {}}}"
    put(client, table, pa.table({"id": range(ROWS), "gauge": gauge}))
    back = query(client, f"SELECT gauge::VARCHAR AS gauge FROM {table} ORDER BY id")
    assert [row["gauge"] for row in back] == [shape.format(text) for text in texts]


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_lists_below_a_null_do_not_move_those_behind_it(client, table, mode):
    # The NULL row's own elements are there, and one of them is NULL.
    lists = pa.array([[9], None, [5], [6]])
    rows = pa.FixedSizeListArray.from_arrays(lists, 2, mask=pa.array([True, False]))
    key = {"key": ["id"]} if mode == "upsert" else {}
    send(client, pa.table({"id": [0, 1], "v": rows}), table=table, mode=mode, **key)
    assert query(client, f"SELECT * FROM {table} ORDER BY id") == [{"id": 0, "v": None}, {"id": 1, "v": [[5], [6]]}]


def test_a_map_below_a_null_is_nobodys(client, table):
    keys = pa.array(["a", "b"], pa.large_string())
    offsets = pa.array([0, 1, 2], pa.int32())
    maps = pa.MapArray.from_arrays(offsets, keys, pa.array([1, 2]))
    lists = pa.ListArray.from_arrays(offsets, maps, mask=pa.array([True, False]))
    put(client, table, pa.table({"id": [0, 1], "v": lists}))
    assert [row["v"] for row in query(client, f"SELECT v FROM {table} ORDER BY id")] == [None, [[("b", 2)]]]


def nanos(*values: int) -> pa.Array:
    return pa.array(values, pa.timestamp("ns"))


FAR = date(9999, 1, 1)

# Of a timestamp: Arrow has no day for it.
INFINITY = 2**63 - 1

# What would become another value on its way into the column.
LOSSES = [
    ("FLOAT", pa.array([1e300])),
    ("FLOAT", pa.array(["1e300"])),
    ("FLOAT", pa.array([Decimal(16777217)])),
    ("DOUBLE", pa.array([Decimal("1234567890123456789.0123456789")])),
    ("DECIMAL(10, 2)", pa.array([Decimal("1.005")], pa.decimal32(9, 4))),
    ("DECIMAL(10, 2)", pa.array([Decimal("1.005")], pa.decimal64(10, 4))),
    ("DECIMAL(10, 2)", pa.array([Decimal("1.005")]).dictionary_encode()),
    ("DECIMAL(10, 2)", pa.array(["1.005"])),
    ("DECIMAL(10, 2)", pa.array([f"{2**254}.000"])),
    ("INTEGER", pa.array([Decimal("1.5")], pa.decimal64(10, 4))),
    ("INTEGER", pa.array([1.5]).dictionary_encode()),
    ("INTEGER", pc.run_end_encode(pa.array([1.5]))),
    ("HUGEINT", pa.array(["1.5"])),
    ("BIGNUM", pa.array(["1.5"])),
    ("TIMESTAMP", nanos(1001).dictionary_encode()),
    ("TIMESTAMP", pc.run_end_encode(nanos(1001))),
    ("TIMESTAMP_NS", pa.array([FAR])),
    ("TIMESTAMP_NS", pa.array([FAR], pa.date64())),
    ("TIMESTAMP", pa.array([150_000_000], pa.date32())),
    ("DATE", pa.array(["2020-01-01 12:34:56"])),
    ("DATE", pa.array([INFINITY], pa.timestamp("us"))),
    ("DATE[]", pa.array([[INFINITY]], pa.list_(pa.timestamp("us")))),
    ("VARCHAR", pa.array([INFINITY], pa.timestamp("us", "+00:00"))),
    ("INTERVAL", pa.array(["a while"])),
    ("TIMESTAMP", pa.array(["2020-01-01 12:34:56.1234567"])),
    ("TIMESTAMP_S", pa.array(["2020-01-01 12:34:56.5"])),
    ("TIMESTAMPTZ", pa.array(["2020-01-01 12:34:56.1234567Z"])),
    ("TIME", pa.array(["12:34:56.1234567"])),
    ("JSON", pa.array(["{bad"])),
    ("JSON", pa.array(["{bad"]).dictionary_encode()),
    ("INTEGER[]", pa.array([[1.5]])),
    ("INTEGER[2]", pa.array([[1, 1.5]])),
    ("TIMESTAMP[]", pa.array([[1001]], pa.list_(pa.timestamp("ns")))),
    ("DECIMAL(10, 2)[]", pa.array([[Decimal("1.005")]])),
    ("DOUBLE[]", pa.array([[2**53 + 1]])),
    ("JSON[]", pa.array([["{bad"]])),
    ("MAP(VARCHAR, INTEGER)", pa.array([[("a", 1.5)]], pa.map_(pa.string(), pa.float64()))),
    ("STRUCT(a INTEGER)", pa.array([{"a": 1.5}])),
    ("STRUCT(a INTEGER)[]", pa.array([[{"a": 1.5}]])),
]


@pytest.mark.parametrize(("sql_type", "gauge"), LOSSES, ids=str)
def test_a_value_that_would_become_another_one_is_refused_with_its_row(client, table, sql_type, gauge):
    execute(client, f"CREATE TABLE {table} (gauge {sql_type})")
    # Behind rows that fit.
    data = pa.table({"gauge": pa.concat_arrays([pa.nulls(2, gauge.type), gauge])})
    with pytest.raises(pa.ArrowInvalid, match="row 3, column `gauge`"):
        put(client, table, data)
    assert query(client, f"SELECT count(*) AS n FROM {table}") == [{"n": 0}]


@pytest.mark.parametrize(
    ("sql_type", "gauge", "text"),
    [
        ("FLOAT", pa.array([0.1, math.inf]), ["0.1", "inf"]),
        ("FLOAT", pa.array(["-inf"]), ["-inf"]),
        ("DOUBLE", pa.array([Decimal("1234.56")]), ["1234.56"]),
        ("DECIMAL(10, 2)", pa.array(["1.500", "-15"]), ["1.50", "-15.00"]),
        ("HUGEINT", pa.array(["12.0"]), ["12"]),
        ("BIGNUM", pa.array([2**56, 2**56 + 1, -(2**56), None]), [str(2**56), str(2**56 + 1), str(-(2**56)), None]),
        ("BIGNUM", pa.array([2**64 - 1], pa.uint64()), [str(2**64 - 1)]),
        ("BIGNUM", pa.array([2**56 + 175]).dictionary_encode(), [str(2**56 + 175)]),
        ("BIGNUM[]", pa.array([[2**56]]), [f"[{2**56}]"]),
        ("INTERVAL", pa.array(["02:03:04", "1 day 02:03:04", "2 months ago", "5"]), ["02:03:04", "1 day 02:03:04", "-2 months", "00:00:05"]),
        ("ENUM('1', '2')", pa.array([2, 1]), ["2", "1"]),
        ("DECIMAL(10, 2)", pa.array(["0" * 60 + "1.500"]), ["1.50"]),
        ("TIMESTAMP", pa.array([FAR]), ["9999-01-01 00:00:00"]),
        ("DATE", pa.array(["2020-01-01 00:00:00"]), ["2020-01-01"]),
        ("TIMESTAMP", pa.array(["2020-01-01 12:34:56.123456000"]), ["2020-01-01 12:34:56.123456"]),
        ("JSON", pa.array(['{"a": NaN}', "[1, 2]", None]), ['{"a": NaN}', "[1, 2]", None]),
        ("INTEGER[]", pa.array([[1.0, 2.0], None]), ["[1, 2]", None]),
        ("UUID[]", pa.array([[str(UUIDS[1])]]), [f"[{UUIDS[1]}]"]),
        ("HUGEINT[]", pa.array([[2**62]]), [f"[{2**62}]"]),
        ("BOOLEAN[]", pa.array([["true", None]]), ["[true, NULL]"]),
        ("STRUCT(a INTEGER, b INTEGER)", pa.array([{"B": 1}]), ["{'a': NULL, 'b': 1}"]),
        ("MAP(VARCHAR, INTEGER)", pa.array([{"a": 1, "b": 2}]), ["{a=1, b=2}"]),
        ("INTEGER[2]", pa.array([[1, 2]]), ["[1, 2]"]),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_that_fits_is_cast(client, table, sql_type, gauge, text):
    execute(client, f"CREATE TABLE {table} (gauge {sql_type})")
    put(client, table, pa.table({"gauge": gauge}))
    assert [row["v"] for row in query(client, f"SELECT gauge::VARCHAR AS v FROM {table}")] == text


@pytest.mark.parametrize(
    ("sql_type", "value", "gauge"),
    [
        ("TIMESTAMP", "2024-02-29 12:30:01.5", pa.array([datetime(2024, 2, 29, 12, 30, 1, 500000)], pa.timestamp("us"))),
        ("TIMESTAMP", "2024-02-29 12:30:01.5", pa.array([datetime(2024, 2, 29, 12, 30, 1, 500000)], pa.timestamp("ms"))),
        ("TIMESTAMP", "infinity", pa.array([INFINITY], pa.timestamp("us"))),
        ("DATE", "0044-03-15 (BC)", pa.array([-735160], pa.date32())),
        ("DATE", "2024-02-29", pa.array([date(2024, 2, 29)], pa.date64())),
        ("TIME", "12:30:01.5", pa.array([time(12, 30, 1, 500000)], pa.time32("ms"))),
        ("TIME_NS", "12:30:01.500000001", pa.array([45_001_500_000_001], pa.time64("ns"))),
        ("DOUBLE", "1e300", pa.array([1e300])),
        ("DOUBLE", "nan", pa.array([math.nan]).dictionary_encode()),
        ("FLOAT", "0.1", pa.array([0.1], pa.float32())),
        ("INTERVAL", "1 month 2 days 00:00:01.5", pa.array([(1, 2, 1_500_000_000)], pa.month_day_nano_interval())),
        ("INTERVAL", "30:00:00", pa.array([timedelta(hours=30)], pa.duration("ms"))),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_that_becomes_text_is_spelled_as_duckdb_does(client, table, sql_type, value, gauge):
    lists = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), gauge)
    execute(client, f"CREATE TABLE {table} AS SELECT '{value}'::{sql_type}::VARCHAR AS gauge, [gauge] AS list")
    put(client, table, pa.table({"gauge": gauge, "list": lists}))
    texts = query(client, f"SELECT gauge, list[1] AS inside FROM {table}")
    assert len(texts) == 2 and texts[0] == texts[1]


def test_a_field_that_the_table_lacks_is_refused_by_name(client, table):
    execute(client, f"CREATE TABLE {table} (gauge STRUCT(a INTEGER))")
    with pytest.raises(pa.ArrowInvalid, match="column `gauge`: the table has no field `b`"):
        put(client, table, pa.table({"gauge": pa.array([{"a": 1, "b": 2}])}))


def test_json_is_checked_in_a_table_made_for_it(client, table):
    field = pa.field("gauge", pa.string(), metadata={"ARROW:extension:name": "arrow.json"})
    for text in ["{bad", "", "{'a': 1}"]:
        with pytest.raises(pa.ArrowInvalid, match="is not JSON"):
            put(client, table, pa.table([pa.array(["{}", text])], schema=pa.schema([field])))


def test_bits_of_duckdb_in_a_list_keep_all_their_bytes(client, table):
    opaque = pa.opaque(pa.binary(), "bit", "DuckDB")
    values = pa.ExtensionArray.from_storage(opaque, pa.array([b"\x01ab", b"\x00c"], pa.binary()))
    gauge = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), values)
    put(client, table, pa.table({"gauge": gauge}))
    assert [row["gauge"] for row in query(client, f"SELECT * FROM {table}")] == [[b"\x01ab"], [b"\x00c"]]


def test_list_views_of_structs_weigh_what_they_hold(client, table):
    values = [[{"a": row, "b": f"text {row}"}, {"a": row, "b": None}] for row in range(ROWS)]
    round_trip(client, table, pa.array(values, pa.list_view(pa.struct([("a", pa.int64()), ("b", pa.string())]))))


@pytest.mark.parametrize("options", [{}, {"on_error": "reject"}], ids=str)
@pytest.mark.parametrize(
    ("before", "after", "value"),
    [("INTEGER", "BIGINT", 3_000_000_000), ("ENUM('a')", "ENUM('a', 'b')", "b"), ("DATE", "VARCHAR", "no date")],
)
def test_a_column_that_a_client_has_altered_is_seen_by_the_next_put(client, table, before, after, value, options):
    execute(client, f"CREATE TABLE {table} (v {before})")
    nothing = pa.table({"v": pa.array([None], pa.array([value]).type)})
    assert send(client, nothing, table=table) == {"rows": 1, "duplicate": False}
    execute(client, f"ALTER TABLE {table} ALTER v TYPE {after}")
    data = pa.table({"v": [value]})
    assert send(client, data, table=table, **options) == {"rows": 1, "duplicate": False}
    assert query(client, f"SELECT v FROM {table} WHERE v IS NOT NULL") == [{"v": value}]


def test_a_column_that_a_client_has_altered_is_seen_by_a_put_that_is_open(client, table):
    execute(client, f"CREATE TABLE {table} (v INTEGER)")
    stream = Stream(client, pa.schema([("v", pa.int64())]), table=table)
    assert stream.send([{"v": 1}])["rows"] == 1
    execute(client, f"CREATE OR REPLACE TABLE {table} (v BIGINT)")
    assert stream.send([{"v": 1}, {"v": 2**40}])["rows"] == 2
    stream.close()
    assert query(client, f"SELECT v FROM {table} ORDER BY v") == [{"v": 1}, {"v": 2**40}]


def test_names_that_differ_in_the_case_of_letters_beyond_ascii_are_two(client, table):
    execute(client, f'CREATE TABLE {table} ("é" INTEGER, "É" INTEGER)')
    put(client, table, pa.table({"É": [1], "é": [2]}))
    put(client, table, pa.table({"É": [3]}))
    assert query(client, f'SELECT "é", "É" FROM {table} ORDER BY "É"') == [{"é": 2, "É": 1}, {"é": None, "É": 3}]
    options = {"producer": f"of {table}", "sequence": 5}
    for name in [f"{table}_é", f"{table}_É"]:
        assert send(client, pa.table({"v": [1]}), table=name, **options)["duplicate"] is False
        assert send(client, pa.table({"v": [1]}), table=name.upper().replace("É", name[-1]), **options)["duplicate"]
        assert query(client, f'SELECT count(*) AS n FROM "{name}"') == [{"n": 1}]
