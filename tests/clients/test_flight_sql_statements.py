"""Flight SQL statements by hand: what other drivers send, and what none should."""

import pyarrow as pa
import pytest
from conftest import execute, query, read
from flight_sql import (
    act,
    act_sql,
    begin,
    close_prepared,
    command,
    decode,
    end,
    info_of,
    message,
    prepare,
    put_command,
    read_command,
    select,
    update,
)
from pyarrow import flight

UNKNOWN = b"no such handle"
NOT_FOUND = (pa.lib.ArrowKeyError, KeyError)


def schema_in(encoded: bytes) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(encoded))


# Statements.


def test_a_query_is_described_without_running_and_read_by_its_ticket(client, table):
    execute(client, f"CREATE SEQUENCE {table}")
    result = read_command(client, "CommandStatementQuery", {1: f"SELECT nextval('{table}') AS n, 'duck' AS name"})
    assert result.to_pylist() == [{"n": 1, "name": "duck"}]
    assert result.schema.equals(pa.schema([("n", pa.int64()), ("name", pa.string())]))


def test_a_change_on_the_query_path_happens_once_however_often_its_ticket_is_read(client, table):
    execute(client, f"CREATE TABLE {table} (i BIGINT)")
    for sql in [f"INSERT INTO {table} VALUES (1)", f"INSERT INTO {table} VALUES (2) RETURNING i"]:
        info = info_of(client, "CommandStatementQuery", {1: sql})
        for _ in range(3):
            try:
                client.do_get(info.endpoints[0].ticket).read_all()
            except NOT_FOUND:
                # A ticket may be good for once only.
                pass
    assert query(client, f"SELECT * FROM {table} ORDER BY i") == [{"i": 1}, {"i": 2}]


def test_ddl_on_the_query_path_takes_effect_once(client, table):
    info = info_of(client, "CommandStatementQuery", {1: f"CREATE TABLE {table} (i BIGINT)"})
    client.do_get(info.endpoints[0].ticket).read_all()
    assert query(client, f"FROM {table}") == []


def test_a_query_may_be_read_twice_or_says_that_its_ticket_is_used(client, table):
    execute(client, f"CREATE SEQUENCE {table}")
    info = info_of(client, "CommandStatementQuery", {1: f"SELECT nextval('{table}') AS n"})
    first = client.do_get(info.endpoints[0].ticket).read_all().to_pylist()
    assert first == [{"n": 1}]
    try:
        assert client.do_get(info.endpoints[0].ticket).read_all().to_pylist() == first
    except NOT_FOUND:
        pass
    assert query(client, f"SELECT nextval('{table}') AS n") == [{"n": 2}]


def test_an_update_says_how_many_rows_it_changed(client, table):
    assert update(client, f"CREATE TABLE {table} (i BIGINT)") == 0
    assert update(client, f"INSERT INTO {table} FROM range(10)") == 10
    assert update(client, f"DELETE FROM {table} WHERE i < 3") == 3
    assert query(client, f"SELECT count(*) AS n FROM {table}") == [{"n": 7}]


def test_an_update_that_fails_says_why(client):
    with pytest.raises(NOT_FOUND, match="nowhere"):
        update(client, "INSERT INTO nowhere VALUES (1)")
    with pytest.raises(pa.ArrowInvalid, match="SELEKT"):
        update(client, "SELEKT 1")


def test_an_update_is_answered_before_the_client_ends_its_stream(client, table):
    # As clients in C++ have it: they close their side only when they have the answer.
    descriptor = flight.FlightDescriptor.for_command(
        command("CommandStatementUpdate", {1: f"CREATE TABLE {table} AS FROM range(3)"})
    )
    writer, reader = client.do_put(descriptor, pa.schema([]), flight.FlightCallOptions(timeout=5))
    assert reader.read() is not None
    writer.close()
    assert len(query(client, f"FROM {table}")) == 3


def test_many_tickets_wait_to_be_read(client):
    infos = [info_of(client, "CommandStatementQuery", {1: f"SELECT {i} AS i"}) for i in range(500)]
    rows = [client.do_get(info.endpoints[0].ticket).read_all().to_pylist() for info in infos]
    assert rows == [[{"i": i}] for i in range(500)]


# Prepared statements, as a JDBC driver uses them.


def test_a_prepared_query_tells_its_schemas_and_that_it_is_no_update(client, table):
    execute(client, f"CREATE TABLE {table} (i INTEGER, name VARCHAR)")
    prepared = prepare(client, f"SELECT name, i FROM {table} WHERE i > ?")
    assert schema_in(prepared[2][0]).types == [pa.string(), pa.int32()]
    assert schema_in(prepared[3][0]).types == [pa.int32()]
    assert prepared[4] == [0]


@pytest.mark.parametrize(
    "sql", ["INSERT INTO {table} VALUES (?)", "CREATE TABLE {table}_new (i BIGINT)", "SET TimeZone = 'UTC'"]
)
def test_a_prepared_change_tells_that_it_is_an_update(client, table, sql):
    execute(client, f"CREATE TABLE {table} (i BIGINT)")
    prepared = prepare(client, sql.format(table=table))
    assert prepared[4] == [1]
    # Older drivers go by the schema: no columns, no result.
    assert 2 not in prepared or prepared[2] == [b""] or schema_in(prepared[2][0]).names == []


def test_a_change_that_returns_rows_is_no_update(client, table):
    execute(client, f"CREATE TABLE {table} (i BIGINT)")
    prepared = prepare(client, f"INSERT INTO {table} VALUES (1) RETURNING i + 1 AS next")
    assert prepared[4] == [0]
    assert schema_in(prepared[2][0]).names == ["next"]
    assert query(client, f"FROM {table}") == []
    assert read_command(client, "CommandPreparedStatementQuery", {1: prepared[1][0]}).to_pylist() == [{"next": 2}]
    assert query(client, f"FROM {table}") == [{"i": 1}]


def test_an_update_is_prepared_executed_again_and_again_and_closed(client, table):
    execute(client, f"CREATE TABLE {table} (i BIGINT)")
    (handle,) = prepare(client, f"INSERT INTO {table} SELECT count(*) FROM {table}")[1]
    for _ in range(3):
        assert put_command(client, "CommandPreparedStatementUpdate", {1: handle}) == {1: [1]}
    close_prepared(client, handle)
    assert query(client, f"SELECT * FROM {table} ORDER BY i") == [{"i": 0}, {"i": 1}, {"i": 2}]


def test_a_batch_of_parameters_runs_an_update_for_each_row(client, table):
    execute(client, f"CREATE TABLE {table} (i BIGINT, name VARCHAR)")
    (handle,) = prepare(client, f"INSERT INTO {table} VALUES (?, ?)")[1]
    rows = pa.table({"1": [1, 2, 3], "2": ["a", None, "c"]})
    assert put_command(client, "CommandPreparedStatementUpdate", {1: handle}, rows) == {1: [3]}
    assert [row["name"] for row in query(client, f"SELECT * FROM {table} ORDER BY i")] == ["a", None, "c"]


def test_bound_parameters_stay_until_others_are_bound(client):
    (handle,) = prepare(client, "SELECT ?::BIGINT + 1 AS next")[1]
    for value in [1, 41]:
        answer = put_command(client, "CommandPreparedStatementQuery", {1: handle}, pa.table({"1": [value]}))
        # A server may answer with a new handle that carries the values.
        (handle,) = answer.get(1, [handle])
        for _ in range(2):
            assert read_command(client, "CommandPreparedStatementQuery", {1: handle}).to_pylist() == [
                {"next": value + 1}
            ]


def test_no_rows_of_parameters_are_not_those_that_were_bound_before(client, table):
    execute(client, f"CREATE TABLE {table} (i BIGINT)")
    (handle,) = prepare(client, f"INSERT INTO {table} VALUES (?)")[1]
    put_command(client, "CommandPreparedStatementQuery", {1: handle}, pa.table({"i": [42]}))
    none = pa.table({"i": pa.array([], pa.int64())})
    assert put_command(client, "CommandPreparedStatementUpdate", {1: handle}, none) in ({}, {1: [0]})
    assert query(client, f"FROM {table}") == []
    # Without columns nothing is said of them, and they are what was bound.
    assert put_command(client, "CommandPreparedStatementUpdate", {1: handle}) == {1: [1]}
    assert query(client, f"FROM {table}") == [{"i": 42}]


def test_a_prepared_query_describes_itself_without_running(client, table):
    execute(client, f"CREATE SEQUENCE {table}")
    (handle,) = prepare(client, f"SELECT nextval('{table}') AS n")[1]
    descriptor = flight.FlightDescriptor.for_command(command("CommandPreparedStatementQuery", {1: handle}))
    for _ in range(3):
        assert client.get_schema(descriptor).schema.names == ["n"]
    assert read_command(client, "CommandPreparedStatementQuery", {1: handle}).to_pylist() == [{"n": 1}]


def test_a_prepared_statement_is_known_by_its_handle_on_any_connection(server, client):
    (handle,) = prepare(client, "SELECT ?::BIGINT * 2 AS v")[1]
    with server.client() as elsewhere:
        answer = put_command(elsewhere, "CommandPreparedStatementQuery", {1: handle}, pa.table({"1": [21]}))
        (handle,) = answer.get(1, [handle])
        assert read_command(elsewhere, "CommandPreparedStatementQuery", {1: handle}).to_pylist() == [{"v": 42}]


def test_a_closed_prepared_statement_is_not_found(client):
    (handle,) = prepare(client, "SELECT 1")[1]
    close_prepared(client, handle)
    for use in [
        lambda: info_of(client, "CommandPreparedStatementQuery", {1: handle}),
        lambda: put_command(client, "CommandPreparedStatementQuery", {1: handle}, pa.table({"1": [1]})),
        lambda: put_command(client, "CommandPreparedStatementUpdate", {1: handle}),
    ]:
        with pytest.raises(NOT_FOUND, match="(?i)prepared"):
            use()


# Handles that do not exist.


def test_unknown_handles_are_not_found(client):
    for use in [
        lambda: info_of(client, "CommandPreparedStatementQuery", {1: UNKNOWN}),
        lambda: put_command(client, "CommandPreparedStatementUpdate", {1: UNKNOWN}),
        lambda: put_command(client, "CommandPreparedStatementQuery", {1: UNKNOWN}, pa.table({"1": [1]})),
        lambda: end(client, UNKNOWN, commit=True),
        lambda: end(client, UNKNOWN, commit=False),
        lambda: update(client, "SELECT 1", transaction=UNKNOWN),
        lambda: select(client, "SELECT 1", transaction=UNKNOWN),
        lambda: prepare(client, "SELECT 1", transaction=UNKNOWN),
    ]:
        with pytest.raises(NOT_FOUND):
            use()


def test_a_ticket_that_is_not_the_servers_is_refused(client):
    for ticket in [
        command("TicketStatementQuery", {1: UNKNOWN}),
        command("CommandPreparedStatementQuery", {1: UNKNOWN}),
    ]:
        with pytest.raises((pa.ArrowInvalid, *NOT_FOUND)):
            client.do_get(flight.Ticket(ticket)).read_all()


# Transactions.


def test_transactions_are_known_by_their_handles_on_any_connection(server, client, table):
    execute(client, f"CREATE TABLE {table} (name VARCHAR)")
    one, other = begin(client), begin(client)
    assert one != other
    with server.client() as elsewhere:
        update(client, f"INSERT INTO {table} VALUES ('one')", one)
        update(elsewhere, f"INSERT INTO {table} VALUES ('one, elsewhere')", one)
        update(client, f"INSERT INTO {table} VALUES ('other')", other)
        assert len(select(elsewhere, f"FROM {table}", one)) == 2
        assert select(elsewhere, f"FROM {table}", other) == [{"name": "other"}]
        assert query(client, f"FROM {table}") == []
        end(elsewhere, one, commit=True)
    end(client, other, commit=False)
    assert [row["name"] for row in query(client, f"FROM {table}")] == ["one", "one, elsewhere"]


@pytest.mark.parametrize("commit", [True, False])
def test_a_transaction_ends_once(client, commit):
    transaction = begin(client)
    end(client, transaction, commit)
    with pytest.raises(NOT_FOUND, match="(?i)transaction"):
        end(client, transaction, commit)
    with pytest.raises(NOT_FOUND, match="(?i)transaction"):
        update(client, "SELECT 1", transaction)


def test_a_commit_after_a_failed_statement_says_that_nothing_was_committed(client, table):
    execute(client, f"CREATE TABLE {table} (i BIGINT PRIMARY KEY)")
    transaction = begin(client)
    update(client, f"INSERT INTO {table} VALUES (1)", transaction)
    with pytest.raises(pa.ArrowInvalid, match="(?i)duplicate"):
        update(client, f"INSERT INTO {table} VALUES (1)", transaction)
    with pytest.raises(pa.ArrowException, match="(?i)rolled back|aborted"):
        end(client, transaction, commit=True)
    assert query(client, f"FROM {table}") == []
    # And it is over.
    with pytest.raises(NOT_FOUND):
        end(client, transaction, commit=False)


def test_an_end_that_is_neither_commit_nor_rollback_is_refused(client):
    transaction = begin(client)
    for kind in [0, 7]:
        with pytest.raises(pa.ArrowInvalid):
            act_sql(client, "EndTransaction", "ActionEndTransactionRequest", {1: transaction, 2: kind})
    end(client, transaction, commit=True)


def test_ingest_joins_the_transaction_that_it_names(client, table):
    for commit in [False, True]:
        transaction = begin(client)
        options = {1: {1: 1, 2: 1}, 2: table, 6: transaction}
        assert put_command(client, "CommandStatementIngest", options, pa.table({"i": [1, 2]})) == {1: [2]}
        assert len(select(client, f"FROM {table}", transaction)) == 2
        with pytest.raises(NOT_FOUND, match=table):
            read(client, f"FROM {table}")
        end(client, transaction, commit)
    assert len(query(client, f"FROM {table}")) == 2


@pytest.mark.parametrize("commit", [True, False])
def test_the_script_of_a_transaction_cannot_end_it_behind_its_back(client, table, commit):
    execute(client, f"CREATE TABLE {table} (i BIGINT)")
    transaction = begin(client)
    update(client, f"INSERT INTO {table} VALUES (1)", transaction)
    for sql in ["COMMIT", "ROLLBACK", "BEGIN"]:
        with pytest.raises(pa.ArrowInvalid, match="(?i)transaction"):
            update(client, sql, transaction)
    end(client, transaction, commit)
    assert len(query(client, f"FROM {table}")) == (1 if commit else 0)


# What DuckDB does not have.


@pytest.mark.parametrize(
    ("action", "name", "fields"),
    [
        ("BeginSavepoint", "ActionBeginSavepointRequest", {1: b"transaction", 2: "name"}),
        ("EndSavepoint", "ActionEndSavepointRequest", {1: b"savepoint", 2: 1}),
        ("CreatePreparedSubstraitPlan", "ActionCreatePreparedSubstraitPlanRequest", {1: {1: b"plan", 2: "0.1"}}),
    ],
)
def test_an_action_for_what_duckdb_lacks_is_unimplemented(client, action, name, fields):
    with pytest.raises(pa.ArrowNotImplementedError, match="(?i)savepoint|substrait"):
        act_sql(client, action, name, fields)


def test_substrait_is_unimplemented(client):
    plan = {1: {1: b"plan", 2: "0.1"}}
    with pytest.raises(pa.ArrowNotImplementedError, match="(?i)substrait"):
        info_of(client, "CommandStatementSubstraitPlan", plan)
    with pytest.raises(pa.ArrowNotImplementedError, match="(?i)substrait"):
        put_command(client, "CommandStatementSubstraitPlan", plan)


# What makes no sense.


@pytest.mark.parametrize(
    "body",
    [
        command("CommandStatementQuery", b"\xff\xff\xff"),
        command("CommandStatementQuery", message({1: b"\xff\xfe"})),
        command("CommandPreparedStatementQuery", b"\x0a\x7f"),
        command("CommandGetTables", b"\x0a\x05ab"),
        command("CommandStatementQuery", {1: "SELECT 1"})[:-3],
        command("CommandNobodyKnows", {1: "SELECT 1"}),
        command("CommandStatementQuery", {}),
    ],
    ids=range(7),
)
def test_a_malformed_command_is_refused(client, body):
    descriptor = flight.FlightDescriptor.for_command(body)
    for call in [
        lambda: client.get_flight_info(descriptor),
        lambda: client.get_schema(descriptor),
        lambda: client.do_get(flight.Ticket(body)).read_all(),
    ]:
        with pytest.raises((pa.ArrowInvalid, pa.ArrowNotImplementedError)):
            call()


@pytest.mark.parametrize(
    "action", ["CreatePreparedStatement", "ClosePreparedStatement", "BeginTransaction", "EndTransaction"]
)
@pytest.mark.parametrize("body", [b"", b"\xff\xff", b"\x0a\x7fx"])
def test_a_malformed_action_is_refused(client, action, body):
    with pytest.raises((pa.ArrowInvalid, pa.ArrowNotImplementedError)):
        act(client, action, body)


@pytest.mark.parametrize("action", ["SetSessionOptions", "CancelFlightInfo", "RenewFlightEndpoint"])
def test_a_malformed_session_or_flight_action_is_refused(client, action):
    with pytest.raises((pa.ArrowInvalid, pa.ArrowNotImplementedError)):
        act(client, action, b"\xff\xff")


def test_the_actions_are_listed_beside_our_own(client):
    listed = {action.type for action in client.list_actions()}
    assert {
        "query",
        "CreatePreparedStatement",
        "ClosePreparedStatement",
        "BeginTransaction",
        "EndTransaction",
        "CancelFlightInfo",
        "CancelQuery",
        "GetSessionOptions",
        "SetSessionOptions",
        "CloseSession",
    } <= listed
    assert not {"BeginSavepoint", "EndSavepoint", "CreatePreparedSubstraitPlan"} & listed


# Sessions by hand, as a JDBC driver keeps them.


def test_a_session_that_is_closed_twice_is_closed(client):
    for _ in range(2):
        (answer,) = act(client, "CloseSession", b"")
        assert decode(answer) == {1: [1]}


def test_session_options_are_read_by_name(client):
    (answer,) = act(client, "GetSessionOptions", b"")
    options = {}
    for entry in decode(answer)[1]:
        fields = decode(entry)
        options[fields[1][0].decode()] = decode(fields[2][0])
    assert options["catalog"] == {1: [b"test"]}
    assert options["schema"] == {1: [b"main"]}


def test_a_password_is_exchanged_for_a_token(client):
    name, token = client.authenticate_basic_token("duck", "quack")
    assert name == b"authorization"
    assert token.startswith(b"Bearer ")
    options = flight.FlightCallOptions(headers=[(name, token)])
    assert client.do_get(flight.Ticket(b"SELECT 42 AS i"), options).read_all().to_pylist() == [{"i": 42}]
