"""What the seed's loader and query client do, done by many at the same time."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pyarrow as pa
import pytest
import seed_loader
from conftest import execute, put, query, read

LOADERS, READERS, BATCHES = 4, 2, 40


def start_loader(server, table, loader):
    script = Path(seed_loader.__file__)
    command = [sys.executable, script, server.location, table, str(loader), str(BATCHES)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def watch_counts(server, table, finished):
    """The counts that one reader sees until the loaders have finished, and once more after that."""
    counts = []
    with server.client() as client:
        while True:
            last_look = finished.is_set()
            counts.append(query(client, f"SELECT count(*) AS n FROM {table}")[0]["n"])
            if last_look:
                return counts


def test_loaders_and_readers_do_not_disturb_each_other(server, client, table):
    execute(client, seed_loader.CREATE.format(table))
    finished = Event()
    with ThreadPoolExecutor(READERS) as readers:
        watches = [readers.submit(watch_counts, server, table, finished) for _ in range(READERS)]
        try:
            loaders = [start_loader(server, table, loader) for loader in range(LOADERS)]
            outcomes = [(*loader.communicate(), loader.returncode) for loader in loaders]
        finally:
            finished.set()
        counts = [watch.result() for watch in watches]

    assert [errors for _, errors, _ in outcomes] == [""] * LOADERS
    assert [code for _, _, code in outcomes] == [0] * LOADERS
    acknowledged = sum(int(output) for output, _, _ in outcomes)
    for seen in counts:
        assert all(count % seed_loader.ROWS_PER_BATCH == 0 for count in seen), "a batch was half visible"
        assert seen == sorted(seen), "a count went down"
        assert seen[-1] == acknowledged
    batches = query(client, f"SELECT batch_id, count(*) AS n FROM {table} GROUP BY batch_id")
    assert len(batches) == LOADERS * BATCHES
    assert {batch["n"] for batch in batches} == {seed_loader.ROWS_PER_BATCH}


def test_a_put_by_path_creates_the_missing_table_from_the_schema(client, table):
    data = seed_loader.random_batch(7)
    put(client, table, data)
    put(client, table, data)
    back = read(client, f"SELECT * FROM {table}")
    assert back.schema.equals(data.schema)
    assert back.equals(pa.concat_tables([data, data]))


def test_a_put_of_no_rows_creates_the_table(client, table):
    put(client, table, seed_loader.random_batch(7).slice(0, 0))
    assert query(client, f"SELECT count(*) AS n FROM {table}") == [{"n": 0}]


def test_an_action_says_how_many_rows_changed(client, table):
    script = f"CREATE TABLE {table} (i INTEGER); INSERT INTO {table} VALUES (1), (2); DELETE FROM {table} WHERE i = 1"
    assert execute(client, script) == [b'{"rows_changed":3}']


def test_a_ticket_may_be_a_script_whose_last_result_streams_back(client, table):
    create = f"CREATE TABLE {table} (i INTEGER); INSERT INTO {table} VALUES (1), (2)"
    assert query(client, f"{create}; SELECT sum(i)::INTEGER AS s FROM {table}") == [{"s": 3}]


@pytest.mark.parametrize("sql", ["SELECT 1 AS a, 'x' AS b WHERE false", "SELECT * FROM range(0) AS t(a)"])
def test_an_empty_result_keeps_its_schema(client, sql):
    empty = read(client, sql)
    assert empty.num_rows == 0
    assert empty.schema.names[0] == "a"


def test_a_large_result_arrives_whole_and_in_order(client):
    numbers = read(client, "SELECT range AS i FROM range(3000000)")["i"].combine_chunks()
    assert numbers.equals(pa.array(range(3000000), pa.int64()))
