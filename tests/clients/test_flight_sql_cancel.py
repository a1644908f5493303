"""Cancelling by hand: CancelFlightInfo and CancelQuery end the query they name, and no other."""

import json
import threading

import pyarrow as pa
import pytest
from conftest import execute, query
from flight_sql import act, act_sql, decode, info_of, message, prepare
from pyarrow import flight

ENDLESS = "SELECT sum(a.range * b.range) AS s FROM range(100000000) a, range(100000000) b"
CANCELLED, CANCELLING, NOT_CANCELLABLE = 1, 2, 3


def cancel_flight_info(client, info: flight.FlightInfo) -> int:
    (answer,) = act(client, "CancelFlightInfo", message({1: info.serialize()}))
    return decode(answer)[1][0]


def cancel_query(client, info: flight.FlightInfo) -> int:
    return act_sql(client, "CancelQuery", "ActionCancelQueryRequest", {1: info.serialize()})[1][0]


def running(client) -> int:
    """How many statements run."""
    (status,) = act(client, "status", b"")
    return json.loads(status)["running"]


@pytest.fixture
def narrow(start_server):
    """A server that runs one statement at a time: a query that goes on would be in the way."""
    return start_server("--max-queries", "1")


@pytest.mark.parametrize("cancel", [cancel_flight_info, cancel_query])
@pytest.mark.parametrize("prepared", [False, True])
def test_a_running_query_is_cancelled_by_its_info(narrow, cancel, prepared):
    with narrow.client() as client, narrow.client() as other:
        if prepared:
            (handle,) = prepare(client, ENDLESS)[1]
            info = info_of(client, "CommandPreparedStatementQuery", {1: handle})
        else:
            info = info_of(client, "CommandStatementQuery", {1: ENDLESS})
        outcome = []

        def fetch():
            try:
                outcome.append(client.do_get(info.endpoints[0].ticket).read_all())
            except pa.ArrowException as error:
                outcome.append(error)

        thread = threading.Thread(target=fetch)
        thread.start()
        # One that is cancelled before it begins never runs.
        while thread.is_alive() and not running(other):
            pass
        # The last says that there is none any more.
        while thread.is_alive():
            try:
                assert cancel(other, info) in (CANCELLED, CANCELLING)
            except (KeyError, pa.ArrowException):
                break
            thread.join(0.01)
        thread.join()
        (error,) = outcome
        assert isinstance(error, (flight.FlightCancelledError, pa.lib.ArrowCancelled, KeyError)), error
        assert query(client, "SELECT 42 AS i") == [{"i": 42}]


@pytest.mark.parametrize("cancel", [cancel_flight_info, cancel_query])
def test_a_query_that_was_never_read_can_be_cancelled(client, cancel, table):
    execute(client, f"CREATE TABLE {table} (i BIGINT)")
    info = info_of(client, "CommandStatementQuery", {1: f"INSERT INTO {table} VALUES (1) RETURNING i"})
    assert cancel(client, info) in (CANCELLED, CANCELLING)
    with pytest.raises((KeyError, flight.FlightCancelledError, pa.ArrowException)):
        client.do_get(info.endpoints[0].ticket).read_all()


def test_the_other_query_goes_on(server, client):
    reader = client.do_get(
        info_of(client, "CommandStatementQuery", {1: "SELECT range FROM range(3000000)"}).endpoints[0].ticket
    )
    rows = reader.read_chunk().data.num_rows
    victim = info_of(client, "CommandStatementQuery", {1: ENDLESS})
    cancel_flight_info(client, victim)
    assert rows + reader.read_all().num_rows == 3_000_000


@pytest.mark.parametrize("cancel", [cancel_flight_info, cancel_query])
@pytest.mark.parametrize("ticket", [b"SELECT 1", b"\xff\xfe", b""])
def test_what_is_no_query_of_ours_is_not_cancelled(client, cancel, ticket):
    schema = pa.schema([("i", pa.int64())])
    endpoint = flight.FlightEndpoint(ticket, [])
    info = flight.FlightInfo(schema, flight.FlightDescriptor.for_command(b""), [endpoint], -1, -1)
    try:
        assert cancel(client, info) == NOT_CANCELLABLE
    except (KeyError, pa.ArrowInvalid):
        # Or not known at all.
        pass
