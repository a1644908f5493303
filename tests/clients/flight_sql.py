"""Flight SQL through the stock ADBC driver, and by hand where ADBC never goes.

By hand means protobuf field by field: a message is a dict from field number to value (bytes, text, number, truth,
or a list of those for a repeated field), so that nothing stands between a test and the wire.
"""

from contextlib import contextmanager

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest
from adbc_driver_flightsql import ConnectionOptions, DatabaseOptions
from adbc_driver_manager import AdbcStatusCode
from conftest import Server
from pyarrow import flight

# What the server is still to learn; a test that passes although it is marked so fails.
COOKIES = {DatabaseOptions.WITH_COOKIE_MIDDLEWARE.value: "true"}
PACKAGE = "type.googleapis.com/arrow.flight.protocol.sql."


# Through ADBC.


def connect(server: Server, options: dict[str, str] | None = None, autocommit: bool = True) -> adbc.Connection:
    return adbc.connect(server.location, db_kwargs=options, autocommit=autocommit)


def run(connection: adbc.Connection, sql: str, parameters=None) -> int:
    """Runs a statement as most programs do, without looking at a result, and answers with its row count."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.rowcount


def table_of(connection: adbc.Connection, sql: str, parameters=None) -> pa.Table:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetch_arrow_table()


def rows_of(connection: adbc.Connection, sql: str, parameters=None) -> list[tuple]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()


def value_of(connection: adbc.Connection, sql: str, parameters=None):
    ((value,),) = rows_of(connection, sql, parameters)
    return value


def count_of(connection: adbc.Connection, table: str) -> int:
    return value_of(connection, f"SELECT count(*) FROM {table}")


@contextmanager
def refused(status: AdbcStatusCode, message: str | None = None):
    """What is done within is refused with this ADBC status and a message that matches."""
    with pytest.raises(adbc.Error, match=message) as caught:
        yield
    assert caught.value.status_code == status, caught.value


def session_option(name: str) -> str:
    return ConnectionOptions.OPTION_SESSION_OPTION_PREFIX.value + name


# By hand.


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(number: int, value) -> bytes:
    if isinstance(value, list):
        return b"".join(_field(number, item) for item in value)
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    if isinstance(value, dict):
        value = message(value)
    if isinstance(value, str):
        value = value.encode()
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def message(fields: dict) -> bytes:
    """A protobuf message; fields that are None are left out."""
    return b"".join(_field(number, value) for number, value in fields.items() if value is not None)


def command(name: str, fields: dict | bytes | None = None) -> bytes:
    """A Flight SQL message, wrapped in the `Any` that says which one it is."""
    body = fields if isinstance(fields, bytes) else message(fields or {})
    return message({1: PACKAGE + name, 2: body})


def decode(data: bytes) -> dict[int, list]:
    """A message as lists of values by field number; lengths and meaning are the caller's business."""
    fields: dict[int, list] = {}
    position = 0

    def varint() -> int:
        nonlocal position
        number = shift = 0
        while True:
            byte = data[position]
            position += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while position < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            value = varint()
        else:
            length = {1: 8, 5: 4}[kind] if kind != 2 else varint()
            value = data[position : position + length]
            position += length
        fields.setdefault(key >> 3, []).append(value)
    return fields


def unwrap(data: bytes) -> dict[int, list]:
    """The fields of the message inside an `Any`."""
    return decode(decode(data)[2][0])


def info_of(client: flight.FlightClient, name: str, fields: dict | bytes | None = None) -> flight.FlightInfo:
    return client.get_flight_info(flight.FlightDescriptor.for_command(command(name, fields)))


def read_command(client: flight.FlightClient, name: str, fields: dict | None = None) -> pa.Table:
    """The whole result of a command; its schema must be what `GetFlightInfo` and `GetSchema` promise."""
    descriptor = flight.FlightDescriptor.for_command(command(name, fields))
    info = client.get_flight_info(descriptor)
    (endpoint,) = info.endpoints
    result = client.do_get(endpoint.ticket).read_all()
    assert result.schema.equals(info.schema)
    assert result.schema.equals(client.get_schema(descriptor).schema)
    return result


def act(client: flight.FlightClient, action: str, body: bytes) -> list[bytes]:
    return [result.body.to_pybytes() for result in client.do_action((action, body))]


def act_sql(client: flight.FlightClient, action: str, name: str, fields: dict | bytes) -> dict[int, list]:
    """A Flight SQL action's answer; empty when it has none."""
    answers = act(client, action, command(name, fields))
    return unwrap(answers[0]) if answers else {}


def begin(client: flight.FlightClient) -> bytes:
    (transaction,) = act_sql(client, "BeginTransaction", "ActionBeginTransactionRequest", {})[1]
    return transaction


def end(client: flight.FlightClient, transaction: bytes, commit: bool) -> None:
    fields = {1: transaction, 2: 1 if commit else 2}
    act_sql(client, "EndTransaction", "ActionEndTransactionRequest", fields)


def prepare(client: flight.FlightClient, sql: str, transaction: bytes | None = None) -> dict[int, list]:
    """Field 1 is the handle, 2 the result's schema, 3 the parameters' schema, 4 whether it is an update."""
    fields = {1: sql, 2: transaction}
    return act_sql(client, "CreatePreparedStatement", "ActionCreatePreparedStatementRequest", fields)


def close_prepared(client: flight.FlightClient, handle: bytes) -> None:
    act_sql(client, "ClosePreparedStatement", "ActionClosePreparedStatementRequest", {1: handle})


def put_command(client: flight.FlightClient, name: str, fields: dict, data: pa.Table | None = None) -> dict[int, list]:
    """Sends rows, or none, to a command and answers with its result's fields."""
    descriptor = flight.FlightDescriptor.for_command(command(name, fields))
    data = pa.table({}) if data is None else data
    writer, reader = client.do_put(descriptor, data.schema)
    writer.write_table(data)
    writer.done_writing()
    answer = reader.read()
    writer.close()
    return decode(answer.to_pybytes()) if answer is not None else {}


def update(client: flight.FlightClient, sql: str, transaction: bytes | None = None) -> int:
    """Runs a `CommandStatementUpdate` and answers with its row count."""
    result = put_command(client, "CommandStatementUpdate", {1: sql, 2: transaction})
    return result.get(1, [0])[0]


def select(client: flight.FlightClient, sql: str, transaction: bytes | None = None) -> list[dict]:
    info = info_of(client, "CommandStatementQuery", {1: sql, 2: transaction})
    (endpoint,) = info.endpoints
    return client.do_get(endpoint.ticket).read_all().to_pylist()
