"""Producers: whatever a loader sends again, every row lands exactly once."""

import json

import pyarrow as pa
import pytest
from conftest import Server, execute, query
from puts import Stream, command, send

SCHEMA = pa.schema([("i", pa.int64())])


def rows(*values) -> list[dict]:
    return [{"i": value} for value in values]


def data(*values) -> pa.Table:
    return pa.table({"i": values}, SCHEMA)


def values(client, table) -> list[int]:
    return [row["i"] for row in query(client, f"SELECT i FROM {table} ORDER BY i")]


def states(client, producer) -> list[dict]:
    results = client.do_action(("producers", b""))
    found = [json.loads(result.body.to_pybytes()) for result in results]
    return [state for state in found if state["producer"] == producer]


def forget(client, **which) -> int:
    results = list(client.do_action(("forget_producers", json.dumps(which).encode())))
    assert len(results) == 1
    return json.loads(results[0].body.to_pybytes())["forgotten"]


def ack(count, sequence, duplicate=False) -> dict:
    return {"rows": count, "sequence": sequence, "duplicate": duplicate}


def test_a_put_that_is_sent_again_is_applied_once(client, table):
    options = {"table": table, "producer": "p"}
    assert send(client, data(1, 2), **options, sequence=1) == ack(2, 1)
    assert send(client, data(1, 2), **options, sequence=1) == ack(2, 1, duplicate=True)
    assert send(client, data(3), **options, sequence=2) == ack(1, 2)
    assert send(client, data(1, 2), **options, sequence=1) == ack(2, 1, duplicate=True)
    assert values(client, table) == [1, 2, 3]


def test_producers_of_a_database_that_has_the_name_of_their_schema_are_listed(tmp_path):
    for _ in range(2):
        server = Server(tmp_path, database="duck_flight.db")
        with server.client() as client:
            send(client, data(1), table="t", producer="p", sequence=1)
            assert values(client, "t") == [1]
            assert query(client, "SELECT producer FROM duck_flight.producers") == [{"producer": "p"}]
            assert query(client, "SELECT count(*) AS n FROM duck_flight.rejects") == [{"n": 0}]
            execute(client, "DELETE FROM duck_flight.rejects")
        server.stop()


def test_batches_that_are_sent_again_are_applied_once_and_acknowledged_in_order(client, table):
    stream = Stream(client, SCHEMA, table=table, producer="p")
    assert stream.resume_after() == 0
    for sequence in [1, 2, 2, 1, 3, 3, 3, 2, 4]:
        stream.write(rows(*[sequence] * sequence), sequence)
    stream.writer.done_writing()
    acks = [stream.answer() for _ in range(9)]
    assert [answer["sequence"] for answer in acks] == [1, 2, 2, 1, 3, 3, 3, 2, 4]
    assert [answer["duplicate"] for answer in acks] == [
        False, False, True, True, False, True, True, True, False,
    ]  # fmt: skip
    assert all(answer["rows"] == answer["sequence"] for answer in acks)
    assert stream.reader.read() is None
    stream.writer.close()
    assert values(client, table) == [1, 2, 2, 3, 3, 3, 4, 4, 4, 4]


def test_sequences_may_leave_gaps_and_be_as_large_as_they_get(client, table):
    stream = Stream(client, SCHEMA, table=table, producer="p")
    assert stream.resume_after() == 0
    largest = 2**64 - 1
    for sequence in [5, 1000, 2**53 + 1, largest]:
        assert stream.send(rows(1), sequence) == ack(1, sequence)
    assert stream.send(rows(2), 999)["duplicate"]
    assert stream.send(rows(2), 2**53)["duplicate"]
    stream.close()
    again = Stream(client, SCHEMA, table=table, producer="p")
    assert again.resume_after() == largest
    again.close()
    assert values(client, table) == [1, 1, 1, 1]


def test_a_loader_that_comes_back_is_told_where_it_was(client, table):
    for start in [0, 3, 6]:
        stream = Stream(client, SCHEMA, table=table, producer="p")
        assert stream.resume_after() == start
        for sequence in range(start + 1, start + 4):
            assert stream.send(rows(sequence), sequence) == ack(1, sequence)
        # It ends in the middle of a put, as a loader does that dies.
        del stream
    assert values(client, table) == list(range(1, 10))


def test_a_put_as_a_whole_and_a_put_of_batches_share_the_sequences(client, table):
    assert send(client, data(1), table=table, producer="p", sequence=7) == ack(1, 7)
    stream = Stream(client, SCHEMA, table=table, producer="p")
    assert stream.resume_after() == 7
    assert stream.send(rows(1), 7)["duplicate"]
    assert stream.send(rows(8), 8) == ack(1, 8)
    stream.close()
    assert send(client, data(8), table=table, producer="p", sequence=8)["duplicate"]
    assert values(client, table) == [1, 8]


def test_the_same_producer_counts_for_each_table_alone(client, table):
    other = f"other_{table}"
    streams = [Stream(client, SCHEMA, table=name, producer="p") for name in (table, other)]
    assert [stream.resume_after() for stream in streams] == [0, 0]
    for sequence in [1, 2]:
        for stream in streams:
            assert stream.send(rows(sequence), sequence) == ack(1, sequence)
    for stream in streams:
        stream.close()
    assert values(client, table) == values(client, other) == [1, 2]


def test_two_producers_of_a_table_count_apart(client, table):
    for producer in ["p", "P", "p ", "it's", '"', "🦆"]:
        assert send(client, data(1), table=table, producer=producer, sequence=1) == ack(1, 1)
        assert send(client, data(1), table=table, producer=producer, sequence=1)["duplicate"]
    assert values(client, table) == [1] * 6


def test_a_table_is_the_same_however_its_name_is_written(client, table):
    catalog = query(client, "SELECT current_database() AS name")[0]["name"]
    names = [
        table,
        table.upper(),
        {"schema": "main", "table": table},
        {"schema": "MAIN", "table": table.title()},
        {"catalog": catalog, "schema": "main", "table": table},
        {"catalog": catalog.upper(), "schema": "Main", "table": table},
    ]
    for last, name in enumerate(names):
        stream = Stream(client, SCHEMA, table=name, producer="p")
        assert stream.resume_after() == last
        if last:
            assert stream.send(rows(last), last)["duplicate"]
        assert stream.send(rows(last + 1), last + 1) == ack(1, last + 1)
        stream.close()
    assert values(client, table) == list(range(1, len(names) + 1))


def test_a_table_of_the_same_name_in_another_schema_is_another_table(client, table):
    execute(client, f"CREATE SCHEMA schema_of_{table}")
    assert send(client, data(1), table=table, producer="p", sequence=1) == ack(1, 1)
    other = {"schema": f"schema_of_{table}", "table": table}
    assert send(client, data(1), table=other, producer="p", sequence=1) == ack(1, 1)


def test_a_stream_that_is_taken_over_commits_nothing_more(client, table):
    old = Stream(client, SCHEMA, table=table, producer="p")
    assert old.resume_after() == 0
    assert old.send(rows(1), 1) == ack(1, 1)
    new = Stream(client, SCHEMA, table=table.upper(), producer="p")
    assert new.resume_after() == 1
    old.write(rows(2), 2)
    with pytest.raises(pa.ArrowException, match="fenced"):
        old.answer()
    assert new.send(rows(2), 2) == ack(1, 2)
    new.close()
    assert values(client, table) == [1, 2]


def test_of_two_whole_puts_with_one_sequence_one_is_applied(client, table):
    # Which one is open last is the network's choice: the other one is fenced, or was there before it.
    options = {"table": table, "producer": "p", "sequence": 1}
    writer, reader = client.do_put(command(**options), SCHEMA)
    writer.write_table(data(1))

    def second():
        return send(client, data(1), **options)

    def first():
        writer.done_writing()
        answer = reader.read()
        writer.close()
        return json.loads(answer.to_pybytes())

    acks = []
    for end in [second, first]:
        try:
            acks.append(end())
        except pa.ArrowException as error:
            assert "fenced" in str(error)
    assert [answer["duplicate"] for answer in acks].count(False) == 1
    assert values(client, table) == [1]


def test_streams_that_take_each_other_over_double_no_row(server, client, table):
    last = 0
    for round in range(20):
        with server.client() as other:
            stream = Stream(other, SCHEMA, table=table, producer="p")
            resume_after = stream.resume_after()
            assert resume_after >= last
            # Of some the acks are never read, as when a connection breaks.
            sequences = range(resume_after + 1, resume_after + 11)
            for sequence in sequences:
                stream.write(rows(sequence), sequence)
            if round % 2:
                # What the stream before sent last may have been on its way to the disk.
                assert [stream.answer()["sequence"] for _ in sequences] == list(sequences)
                last = resume_after + 10
                stream.close()
    found = values(client, table)
    assert found == list(range(1, len(found) + 1))
    assert len(found) >= last


def test_after_a_bad_batch_none_of_the_stream_counts_and_the_loader_goes_on_before_it(client, table):
    execute(client, f"CREATE TABLE {table} (i BIGINT CHECK (i < 10))")
    stream = Stream(client, SCHEMA, table=table, producer="p")
    assert stream.resume_after() == 0
    assert stream.send(rows(1), 1) == ack(1, 1)
    for sequence, value in [(2, 2), (3, 11), (4, 4)]:
        stream.write(rows(value), sequence)
    assert stream.answer() == ack(1, 2)
    with pytest.raises(pa.ArrowInvalid, match="row 1.*`i`"):
        stream.answer()
    again = Stream(client, SCHEMA, table=table, producer="p")
    assert again.resume_after() == 2
    assert again.send(rows(3), 3) == ack(1, 3)
    assert again.send(rows(4), 4) == ack(1, 4)
    again.close()
    assert values(client, table) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        (None, "sequence"),
        (b'{"sequence":0}', "start at 1"),
        (b'{"sequence":-1}', "sequence|-1"),
        (b'{"sequence":1.5}', "1.5|sequence"),
        (b'{"sequence":"1"}', "sequence|string"),
        (b'{"sequence":18446744073709551616}', "sequence|18446744073709551616|float"),
        (b'{"sequenze":1}', "sequenze"),
        (b"{}", "sequence"),
        (b"[]", "app_metadata"),
        (b"\xff", "app_metadata"),
    ],
)
def test_a_batch_of_a_producer_must_say_its_sequence(client, table, metadata, named):
    stream = Stream(client, SCHEMA, table=table, producer="p")
    assert stream.resume_after() == 0
    assert stream.send(rows(1), 1) == ack(1, 1)
    batch = pa.RecordBatch.from_pylist(rows(2), SCHEMA)
    if metadata is None:
        stream.writer.write_batch(batch)
    else:
        stream.writer.write_with_metadata(batch, metadata)
    with pytest.raises(pa.ArrowInvalid, match=named):
        stream.answer()
    assert values(client, table) == [1]
    assert [state["last_sequence"] for state in states(client, "p") if state["table"]["table"] == table] == [1]


def test_a_sequence_without_a_producer_is_refused(client, table):
    stream = Stream(client, SCHEMA, table=table)
    stream.write(rows(1), 1)
    with pytest.raises(pa.ArrowInvalid, match="producer"):
        stream.answer()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"producer": "p"}, "sequence"),
        ({"sequence": 1}, "producer"),
        ({"producer": "p", "sequence": 0}, "starts at 1"),
        ({"producer": "p", "sequence": -1}, "-1"),
        ({"producer": "", "sequence": 1}, "1 to 256"),
        ({"producer": "p" * 257, "sequence": 1}, "1 to 256"),
        ({"producer": "a\0b", "sequence": 1}, "NUL"),
        ({"producer": "p", "sequence": 1, "commit": "batch"}, "app_metadata"),
    ],
)
def test_options_of_a_producer_that_make_no_sense_are_refused(client, table, options, named):
    with pytest.raises(pa.ArrowInvalid, match=named):
        send(client, data(1), table=table, **options)


def test_a_put_of_no_batches_answers_with_where_the_producer_was(client, table):
    for _ in range(2):
        stream = Stream(client, SCHEMA, table=table, producer="p")
        assert stream.resume_after() == 0
        stream.close()


def test_an_empty_unit_counts_too(client, table):
    assert send(client, data(), table=table, producer="p", sequence=1) == ack(0, 1)
    assert send(client, data(1), table=table, producer="p", sequence=1) == ack(1, 1, duplicate=True)
    stream = Stream(client, SCHEMA, table=table, producer="p")
    assert stream.resume_after() == 1
    assert stream.send([], 2) == ack(0, 2)
    assert stream.send([], 2) == ack(0, 2, duplicate=True)
    stream.close()
    assert values(client, table) == []


def test_a_producer_that_goes_on_does_not_make_its_table_anew(client, table):
    execute(client, f"CREATE TABLE {table} AS SELECT 'old' AS s")
    options = {"table": table, "producer": "p", "create": "replace"}
    stream = Stream(client, SCHEMA, **options)
    assert stream.resume_after() == 0
    assert stream.send(rows(1), 1) == ack(1, 1)
    assert stream.send(rows(2), 2) == ack(1, 2)
    again = Stream(client, SCHEMA, **options)
    assert again.resume_after() == 2
    assert again.send(rows(2), 2)["duplicate"]
    assert again.send(rows(3), 3) == ack(1, 3)
    again.close()
    assert send(client, data(3), **options, sequence=3)["duplicate"]
    assert send(client, data(4), **options, sequence=4) == ack(1, 4)
    assert values(client, table) == [1, 2, 3, 4]


def test_a_producer_that_sends_again_what_made_its_table_is_not_told_that_it_exists(client, table):
    options = {"table": table, "producer": "p", "create": "always"}
    assert send(client, data(1), **options, sequence=1) == ack(1, 1)
    assert send(client, data(1), **options, sequence=1)["duplicate"]
    with pytest.raises(pa.ArrowException, match="exist"):
        send(client, data(1), **(options | {"producer": "q"}), sequence=1)
    assert values(client, table) == [1]


def test_producers_are_told_by_action_and_by_view(client, table):
    producer = f"producer of {table}"
    other = f"other_{table}"
    send(client, data(1), table=table.upper(), producer=producer, sequence=3)
    send(client, data(1), table=other, producer=producer, sequence=9)
    listed = states(client, producer)
    by_table = {state["table"]["table"]: state for state in listed}
    assert {name: state["last_sequence"] for name, state in by_table.items()} == {table: 3, other: 9}
    assert all(state["table"]["schema"] == "main" for state in listed)
    assert all(state["last_commit_at"].endswith("Z") for state in listed)
    view = query(
        client,
        f"""SELECT "table", "schema", last_sequence, last_commit_at BETWEEN now() - INTERVAL 1 HOUR AND now() AS fresh
            FROM duck_flight.producers WHERE producer = '{producer}' ORDER BY last_sequence""",
    )
    assert view == [
        {"table": table, "schema": "main", "last_sequence": 3, "fresh": True},
        {"table": other, "schema": "main", "last_sequence": 9, "fresh": True},
    ]
    names = query(client, "SELECT column_name FROM (DESCRIBE duck_flight.producers)")
    assert [row["column_name"] for row in names] == [
        "producer", "schema", "table", "last_sequence", "last_commit_at",
    ]  # fmt: skip


def test_a_producer_that_is_forgotten_begins_anew_and_its_open_stream_is_fenced(client, table):
    producer = f"it's {table}"
    stream = Stream(client, SCHEMA, table=table, producer=producer)
    assert stream.resume_after() == 0
    assert stream.send(rows(1), 1) == ack(1, 1)
    send(client, data(1), table=f"other_{table}", producer=producer, sequence=5)
    assert forget(client, producer=producer) == 2
    assert forget(client, producer=producer) == 0
    assert states(client, producer) == []
    stream.write(rows(2), 2)
    with pytest.raises(pa.ArrowException, match="fenced"):
        stream.answer()
    assert send(client, data(10), table=table, producer=producer, sequence=1) == ack(1, 1)
    assert values(client, table) == [1, 10]
    assert [state["last_sequence"] for state in states(client, producer)] == [1]


def test_idle_producers_are_forgotten_unless_they_have_a_stream_open(client, table):
    idle, busy = f"idle {table}", f"busy {table}"
    send(client, data(1), table=table, producer=idle, sequence=1)
    stream = Stream(client, SCHEMA, table=table, producer=busy)
    assert stream.resume_after() == 0
    assert stream.send(rows(2), 1) == ack(1, 1)
    assert forget(client, idle_seconds=3600) == 0
    assert forget(client, idle_seconds=0) >= 1
    assert states(client, idle) == []
    assert [state["last_sequence"] for state in states(client, busy)] == [1]
    assert stream.send(rows(3), 2) == ack(1, 2)
    stream.close()
    assert send(client, data(4), table=table, producer=idle, sequence=1) == ack(1, 1)
    assert values(client, table) == [1, 2, 3, 4]


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"producer":1}', b'{"idle_seconds":-1}', b'{"name":"p"}'])
def test_forgetting_says_what_it_wants_to_know(client, body):
    with pytest.raises(pa.ArrowInvalid, match="producer.*idle_seconds") as refusal:
        list(client.do_action(("forget_producers", body)))
    assert "untagged" not in str(refusal.value)


def test_what_the_server_keeps_of_producers_is_not_for_puts(client):
    for table in ["sequences", "rejects", "anything"]:
        with pytest.raises(pa.ArrowException, match="duck_flight"):
            send(client, data(1), table={"schema": "Duck_Flight", "table": table})


def test_producers_survive_the_death_of_the_server(start_server):
    server = start_server()
    with server.client() as client:
        for sequence in range(1, 11):
            send(client, data(sequence), table="t", producer="p", sequence=sequence)
    server.kill()
    with start_server().client() as client:
        stream = Stream(client, SCHEMA, table="T", producer="p")
        assert stream.resume_after() == 10
        assert stream.send(rows(10), 10)["duplicate"]
        assert stream.send(rows(11), 11) == ack(1, 11)
        stream.close()
        assert values(client, "t") == list(range(1, 12))
