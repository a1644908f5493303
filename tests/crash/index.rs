//! Tables with indexes: after a kill every row is found by its key and by every index, whatever has written it.
//!
//! DuckDB 1.5.5 spoils indexes where it replays whole row groups, so most of these write some, and where another index of the table was
//! made or dropped between changes.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use duck_flight_protocol::{Mode, PutOptions, TableName};
use duck_tests::{Client, ServerProcess, assert_refused, eventually};
use futures::future::join_all;
use tonic::Code;

use crate::with_index::make_index;

const KEYED: &str = "CREATE TABLE t (id BIGINT PRIMARY KEY, c VARCHAR, n BIGINT)";
const UNIQUE: &str = "CREATE TABLE t (id BIGINT PRIMARY KEY, c VARCHAR, n BIGINT UNIQUE)";
const PLAIN: &str = "CREATE TABLE t (id BIGINT, c VARCHAR, n BIGINT)";

/// So many rows fill a row group, and begin another.
const MANY: i64 = 25_000;

/// Something that writes rows. Those of a put have the text `s{id}` and the number `id + n`.
enum Step {
    Sql(&'static str),
    Checkpoint,
    Append {
        from: i64,
        rows: i64,
    },
    Upsert {
        from: i64,
        rows: i64,
        n: i64,
    },
    /// Puts of 2,000 rows each, at once, so that some share a commit.
    Upserts {
        puts: i64,
    },
    /// Puts of 15,000 rows each, at once, each with a spelling of the table's name of its own, up to 32.
    Spellings {
        puts: i64,
    },
    /// A statement and ingests of so many rows each, one behind the other, in a transaction of a client's.
    Transaction {
        first: &'static str,
        ingests: i64,
        rows: i64,
    },
}

use Step::{Append, Checkpoint, Spellings, Sql, Transaction, Upsert, Upserts};

fn batch(from: i64, rows: i64, n: i64) -> RecordBatch {
    let ids = from..from + rows;
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(ids.clone()));
    let texts = ids.clone().map(|id| format!("s{id}"));
    let c: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
    let n: ArrayRef = Arc::new(Int64Array::from_iter_values(ids.map(|id| id + n)));
    RecordBatch::try_from_iter([("id", id), ("c", c), ("n", n)]).expect("three columns")
}

async fn upsert(client: &Client, from: i64, rows: i64, n: i64) {
    let options = PutOptions {
        mode: Mode::Upsert,
        key: Some(vec!["id".into()]),
        ..PutOptions::new("t")
    };
    client.put(&options, &[batch(from, rows, n)]).await.unwrap();
}

/// One of 32 ways to spell the name of the table.
fn spelling(number: i64) -> TableName {
    let is_upper = |bit| number >> bit & 1 == 1;
    let spelled = |bit, letter: char| match is_upper(bit) {
        true => letter.to_ascii_uppercase(),
        false => letter,
    };
    let schema = "main".chars().enumerate();
    TableName {
        catalog: None,
        schema: Some(schema.map(|(bit, letter)| spelled(bit, letter)).collect()),
        table: spelled(4, 't').into(),
    }
}

impl Step {
    async fn run(&self, client: &Client) {
        match *self {
            Sql(sql) => {
                client.execute(sql).await;
            }
            Checkpoint => client.checkpoint().await,
            Append { from, rows } => {
                client.append("t", &[batch(from, rows, 0)]).await.unwrap();
            }
            Upsert { from, rows, n } => upsert(client, from, rows, n).await,
            Upserts { puts } => {
                for round in 0..3 {
                    let puts =
                        (0..puts).map(|put| upsert(client, put * 2000, 2000, round * 1_000_000));
                    join_all(puts).await;
                }
            }
            Spellings { puts } => {
                let puts = (0..puts).map(|put| async move {
                    let options = PutOptions::new(spelling(put));
                    let rows = [batch(put * 15_000, 15_000, 0)];
                    client.put(&options, &rows).await.unwrap();
                });
                join_all(puts).await;
            }
            Transaction {
                first,
                ingests,
                rows,
            } => {
                let mut sql = client.sql();
                let transaction = sql.begin().await.unwrap();
                sql.update(first, Some(&transaction)).await.unwrap();
                for ingest in 0..ingests {
                    let batches = vec![batch(ingest * rows, rows, 5)];
                    let ingested = sql.ingest("t", Some(&transaction), batches).await;
                    assert_eq!(ingested.unwrap(), rows);
                }
                sql.commit(&transaction).await.unwrap();
            }
        }
    }
}

/// The rows of some keys, found by a scan and by each index that may lead there.
async fn rows_of(client: &Client, ids: &[i64]) -> Vec<[Vec<String>; 4]> {
    let mut found = Vec::new();
    for id in ids {
        let row = client.rows(&format!("FROM t WHERE id + 0 = {id}")).await;
        let number = row
            .first()
            .and_then(|row| row.split('|').nth(2))
            .unwrap_or("0");
        let by_number = client
            .rows(&format!("FROM t WHERE n = {number} AND id + 0 = {id}"))
            .await;
        found.push([
            client.rows(&format!("FROM t WHERE id = {id}")).await,
            client
                .rows(&format!("FROM t WHERE c = 's{id}' AND id + 0 = {id}"))
                .await,
            by_number,
            row,
        ]);
    }
    found
}

async fn assert_survives(name: &str, steps: &[Step]) {
    let ids = [
        0, 1, 4999, 5000, 20_479, 20_480, 24_999, 30_000, 30_099, 45_000, 59_999,
    ];
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    for step in steps {
        eventually(name, step.run(&client)).await;
    }
    let all = client.rows("SELECT count(*), sum(id), sum(n) FROM t").await;
    let before = rows_of(&client, &ids).await;
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    assert_eq!(
        client.rows("SELECT count(*), sum(id), sum(n) FROM t").await,
        all,
        "{name}"
    );
    let after = rows_of(&client, &ids).await;
    assert_eq!(after, before, "{name}");
    for found in &after {
        assert!(
            found.iter().all(|rows| *rows == found[3]),
            "{name}: {found:?}"
        );
    }
    // The indexes serve changes as well, and what they say is what a checkpoint writes.
    let list = ids.map(|id| id.to_string()).join(", ");
    client
        .execute(&format!("DELETE FROM t WHERE id IN ({list})"))
        .await;
    for id in ids {
        client
            .append("t", &[batch(id, 1, 10_000_000)])
            .await
            .unwrap();
    }
    upsert(&client, 5000, 100, 20_000_000).await;
    let all = client.rows("SELECT count(*), sum(id), sum(n) FROM t").await;
    let server = ServerProcess::start_in(server.stop(), &[]);
    let client = server.client().await;
    assert_eq!(
        client.rows("SELECT count(*), sum(id), sum(n) FROM t").await,
        all,
        "{name}"
    );
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_of_row_groups_survive_beside_an_index() {
    let small = || Append {
        from: 30_000,
        rows: 100,
    };
    let many = || Append {
        from: 0,
        rows: MANY,
    };
    for (name, index) in [
        ("an index", "CREATE INDEX i ON t (c)"),
        ("a unique index", "CREATE UNIQUE INDEX i ON t (c)"),
        (
            "an index of an expression",
            "CREATE INDEX i ON t (lower(c))",
        ),
        ("an index of two columns", "CREATE INDEX i ON t (n, c)"),
    ] {
        assert_survives(name, &[Sql(PLAIN), Sql(index), many(), small()]).await;
        assert_survives(name, &[Sql(KEYED), Sql(index), small(), many()]).await;
    }
    let late = [
        Sql(KEYED),
        small(),
        Sql("CREATE INDEX i ON t (c)"),
        Checkpoint,
        many(),
    ];
    assert_survives("an index in the file", &late).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_deleted_and_inserted_again_survive() {
    let index = || Sql("CREATE INDEX i ON t (c)");
    let first = || Append {
        from: 0,
        rows: 30_000,
    };
    let second = || Upsert {
        from: 20_000,
        rows: 40_000,
        n: 1_000_000,
    };
    assert_survives("a unique column", &[Sql(UNIQUE), first(), second()]).await;
    assert_survives("an index", &[Sql(KEYED), index(), first(), second()]).await;
    assert_survives(
        "upserts at once",
        &[Sql(KEYED), index(), Upserts { puts: 24 }],
    )
    .await;
    assert_survives(
        "upserts at once, unique",
        &[Sql(UNIQUE), Upserts { puts: 24 }],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_deleted_and_ingested_again_in_a_transaction_survive() {
    let many_small = MANY / 5000;
    for (table, first, ingests) in [
        (KEYED, "DELETE FROM t", 1),
        (UNIQUE, "DELETE FROM t WHERE id < 9000", many_small),
        (KEYED, "TRUNCATE t", many_small),
    ] {
        let before = Append {
            from: 0,
            rows: 9000,
        };
        let again = Transaction {
            first,
            ingests,
            rows: MANY / ingests,
        };
        let name = format!("{first} and {ingests} ingests");
        assert_survives(&name, &[Sql(table), before, again]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_that_share_a_commit_and_spell_their_table_in_several_ways_survive() {
    let index = "CREATE INDEX i ON t (c)";
    let small = Append {
        from: 500_000,
        rows: 100,
    };
    let spellings = Spellings { puts: 24 };
    assert_survives("spellings", &[Sql(PLAIN), Sql(index), spellings, small]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_statements_write_survives() {
    let small = || Append {
        from: 40_000,
        rows: 100,
    };
    let insert = "INSERT INTO t SELECT i, 's' || i, i FROM range(0, 25000) AS r(i)";
    let index = "CREATE INDEX i ON t (c)";
    let again = "BEGIN; DELETE FROM t WHERE id >= 5000;
        INSERT INTO t SELECT i, 's' || i, i + 5 FROM range(5000, 40000) AS r(i); COMMIT";
    let in_parts = "BEGIN; INSERT INTO t SELECT i, 's' || i, i FROM range(0, 15000) AS r(i);
        INSERT INTO t SELECT i, 's' || i, i FROM range(15000, 30000) AS r(i); COMMIT";
    let update = "UPDATE t SET n = n + 7000000 WHERE id < 24000";
    let merge = "MERGE INTO t USING (SELECT i AS id, 's' || i AS c, i + 1000000 AS n
        FROM range(10000, 60000) AS r(i)) USING (id) WHEN MATCHED THEN UPDATE WHEN NOT MATCHED THEN INSERT";
    assert_survives("INSERT", &[Sql(PLAIN), Sql(index), Sql(insert), small()]).await;
    assert_survives(
        "two INSERTs",
        &[Sql(KEYED), Sql(index), Sql(in_parts), small()],
    )
    .await;
    assert_survives("DELETE and INSERT", &[Sql(KEYED), Sql(insert), Sql(again)]).await;
    assert_survives("UPDATE", &[Sql(UNIQUE), Sql(insert), Sql(update)]).await;
    assert_survives("MERGE", &[Sql(UNIQUE), Sql(insert), Sql(merge)]).await;
    let ignores =
        "INSERT OR REPLACE INTO t SELECT i, 's' || i, i + 3000000 FROM range(9000, 45000) AS r(i)";
    assert_survives(
        "INSERT OR REPLACE",
        &[Sql(KEYED), Sql(insert), Sql(ignores)],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_put_survives_beside_an_index() {
    let large = Append {
        from: 0,
        rows: 1_100_000,
    };
    let small = Append {
        from: 2_000_000,
        rows: 100,
    };
    let steps = [Sql(PLAIN), Sql("CREATE INDEX i ON t (c)"), large, small];
    assert_survives("a large put", &steps).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_made_while_row_groups_come_in_survives() {
    for acks_before in 0..4 {
        let server = ServerProcess::start(&[]);
        let client = server.client().await;
        client.execute(PLAIN).await;
        let (acked, mut acks) = tokio::sync::watch::channel(0);
        let loaders = (0..2).map(|loader| {
            let (address, acked) = (server.address().to_owned(), acked.clone());
            tokio::spawn(async move {
                let client = Client::connect(&address).await;
                for put in 0.. {
                    let rows = [batch((2 * put + loader) * MANY, MANY, 0)];
                    if client.append("t", &rows).await.is_err() {
                        return;
                    }
                    acked.send_modify(|count| *count += 1);
                }
            })
        });
        let loaders: Vec<_> = loaders.collect();
        let mut some = async |count| {
            let before = *acks.borrow_and_update();
            let enough = acks.wait_for(|now| *now >= before + count);
            eventually("acks", enough).await.unwrap();
        };
        some(1 + acks_before).await;
        client.execute("CREATE INDEX i ON t (c)").await;
        some(2).await;
        let directory = server.kill();
        join_all(loaders).await;
        let acked = *acked.borrow();
        let server = ServerProcess::start_in(directory, &[]);
        let client = server.client().await;
        let count = client.count("t").await;
        assert!(
            count >= acked * MANY.unsigned_abs(),
            "{count} of {acked} puts"
        );
        for id in [0, 1, MANY, MANY + 20_479, 2 * MANY - 1] {
            let by_index = format!("SELECT id FROM t WHERE c = 's{id}'");
            let by_scan = format!("SELECT id FROM t WHERE id = {id}");
            assert_eq!(client.rows(&by_index).await, client.rows(&by_scan).await);
        }
        assert_eq!(
            client
                .rows("SELECT count(*) - count(DISTINCT id) FROM t")
                .await,
            ["0"]
        );
        server.stop();
    }
}

/// Kills the server; sees that all rows with `ids` are there once, and found by the index of their text.
async fn assert_indexed_after_kill(server: ServerProcess, rows: i64, ids: &[i64]) {
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    assert_eq!(client.count("t").await, rows.unsigned_abs());
    for id in ids {
        let by_index = format!("SELECT id FROM t WHERE c = 's{id}'");
        assert_eq!(client.rows(&by_index).await, [id.to_string()]);
    }
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_made_while_a_large_put_comes_in_survives() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    client.execute(PLAIN).await;
    client.append("t", &[batch(-10, 10, 0)]).await.unwrap();
    let put = client
        .open_put(&PutOptions::new("t"), &batch(0, 0, 0).schema())
        .await;
    // More than a small unit takes, and than may be on its way: rows are in their transaction by now.
    for part in 0..80 {
        put.send_batch(&batch(part * MANY, MANY, 0)).await;
    }
    client.execute("CREATE INDEX i ON t (c)").await;
    for part in 80..82 {
        put.send_batch(&batch(part * MANY, MANY, 0)).await;
    }
    put.finish().await.unwrap();
    client.append("t", &[batch(-20, 10, 0)]).await.unwrap();
    let ids = [-20, -10, 0, 20_480, 1_000_000, 82 * MANY - 1];
    assert_indexed_after_kill(server, 82 * MANY + 20, &ids).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_made_beside_a_transaction_with_row_groups_survives() {
    for last in [None, Some("INSERT INTO t VALUES (-1, 's-1', 0)")] {
        let server = ServerProcess::start(&[]);
        let client = server.client().await;
        client.execute(PLAIN).await;
        client.append("t", &[batch(-10, 9, 0)]).await.unwrap();
        let mut sql = client.sql();
        let transaction = sql.begin().await.unwrap();
        let insert = "INSERT INTO t SELECT i, 's' || i, i FROM range(0, 25000) AS r(i)";
        sql.update(insert, Some(&transaction)).await.unwrap();
        client.execute("CREATE INDEX i ON t (c)").await;
        if let Some(last) = last {
            sql.update(last, Some(&transaction)).await.unwrap();
        }
        sql.commit(&transaction).await.unwrap();
        client.append("t", &[batch(-20, 10, 0)]).await.unwrap();
        let count = client.count("t").await.cast_signed();
        assert_indexed_after_kill(server, count, &[-20, -10, 0, 20_480, MANY - 1]).await;
    }
}

/// DuckDB reads the table first and then adds the index: what was committed in between was never found by it.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_has_what_is_committed_while_it_is_made() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    client.execute(PLAIN).await;
    for round in 0..4 {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let loaders = (0..4).map(|loader| {
            let (address, stopped) = (server.address().to_owned(), stopped.clone());
            tokio::spawn(async move {
                let client = Client::connect(&address).await;
                let mut loaded = Vec::new();
                while !*stopped.borrow() {
                    let puts = i64::try_from(loaded.len()).unwrap();
                    let from = ((round * 4 + loader) * 10_000 + puts) * 100;
                    client.append("t", &[batch(from, 100, 0)]).await.unwrap();
                    loaded.push(from);
                }
                loaded
            })
        });
        let loaders: Vec<_> = loaders.collect();
        eventually("rows", async {
            while client.count("t").await < 1000 * (round + 1).unsigned_abs() {}
        })
        .await;
        client.execute("CREATE INDEX i ON t (c)").await;
        stop.send_replace(true);
        for loaded in join_all(loaders).await {
            for id in loaded.unwrap() {
                let by_index = format!("SELECT id FROM t WHERE c = 's{id}'");
                assert_eq!(client.rows(&by_index).await, [id.to_string()]);
            }
        }
        client.execute("DROP INDEX i").await;
    }
    server.stop();
}

/// What makes or drops an index beside another one, with changes before and behind it in the same log.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_made_or_dropped_beside_another_one_survives() {
    const BY_ID: &str = "CREATE INDEX by_id ON t (id)";
    const BY_C: &str = "CREATE INDEX by_c ON t (c)";
    const BY_N: &str = "CREATE UNIQUE INDEX by_n ON t (n)";
    const FIRST: &str =
        "INSERT INTO t SELECT i, 's' || i, i FROM (VALUES (0), (1), (4999)) AS r(i)";
    const DELETE: &str = "DELETE FROM t WHERE id = 0";
    const NEXT: &str = "INSERT INTO t VALUES (5000, 's5000', 7)";
    const LAST: &str = "INSERT INTO t VALUES (30000, 's30000', 8)";
    let upsert = Upsert {
        from: 0,
        rows: 2,
        n: 100,
    };
    let append = Append {
        from: 59_999,
        rows: 1,
    };
    for (name, steps) in [
        (
            "all rows are deleted behind it",
            vec![
                Sql(PLAIN),
                Sql(BY_ID),
                Sql(FIRST),
                Sql(BY_C),
                Sql("DELETE FROM t"),
            ],
        ),
        (
            "a row before it and one behind it",
            vec![
                Sql(PLAIN),
                Sql(BY_ID),
                Sql(FIRST),
                Checkpoint,
                Sql(DELETE),
                Sql(BY_C),
                Sql("DELETE FROM t WHERE id = 1"),
            ],
        ),
        (
            "a column before that of the other one",
            vec![Sql(PLAIN), Sql(BY_N), Sql(FIRST), Sql(BY_ID), Sql(NEXT)],
        ),
        (
            "DROP INDEX",
            vec![
                Sql(PLAIN),
                Sql(BY_N),
                Sql(BY_ID),
                Sql(FIRST),
                Checkpoint,
                Sql(NEXT),
                Sql("DROP INDEX by_id"),
                Sql(LAST),
            ],
        ),
        (
            "puts, an update, and several of them",
            vec![
                Sql(KEYED),
                Sql(BY_N),
                Sql(FIRST),
                Sql(
                    "CREATE INDEX by_c ON t (c); UPDATE t SET n = 9 WHERE id = 1; CREATE INDEX by_id ON t (id)",
                ),
                upsert,
                Sql("DROP INDEX by_n"),
                append,
            ],
        ),
    ] {
        assert_survives(name, &steps).await;
    }
}

/// A transaction may change rows before such a statement and behind it, and beside one that has updated some there is no checkpoint.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_beside_another_one_is_not_made_where_there_is_no_checkpoint() {
    const BY_C: &str = "CREATE INDEX by_c ON t (c)";
    let server = ServerProcess::start(&["--stall-timeout", "100ms"]);
    let client = server.client().await;
    client
        .execute(&format!(
            "{PLAIN}; CREATE INDEX by_id ON t (id); CREATE TABLE u (i BIGINT, j BIGINT)"
        ))
        .await;
    client.append("t", &[batch(0, 100, 0)]).await.unwrap();
    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    let beside = sql.update(BY_C, Some(&transaction)).await;
    assert_refused(beside, Code::FailedPrecondition, &["on its own"]);
    for alone in [
        "UPDATE t SET n = 5 WHERE id = 5",
        "CREATE INDEX IF NOT EXISTS by_id ON t (id)",
    ] {
        sql.update(alone, Some(&transaction)).await.unwrap();
    }
    let refused = client.try_execute(BY_C).await;
    assert_refused(refused, Code::Aborted, &["needs a checkpoint", "try again"]);
    sql.commit(&transaction).await.unwrap();
    make_index(&client, BY_C).await;
    let transaction = sql.begin().await.unwrap();
    for first in [
        "CREATE INDEX by_i ON u (i)",
        "CREATE INDEX by_both ON u (i, j)",
    ] {
        sql.update(first, Some(&transaction)).await.unwrap();
    }
    client
        .execute("CREATE INDEX by_j ON u (j); INSERT INTO u VALUES (1, 2)")
        .await;
    let overtaken = sql.commit(&transaction).await;
    assert_refused(overtaken, Code::Aborted, &["run it again"]);
    client.execute("INSERT INTO u VALUES (3, 4)").await;
    let transaction = sql.begin().await.unwrap();
    for last in ["DROP INDEX by_j", "CREATE INDEX by_i ON u (i)"] {
        sql.update(last, Some(&transaction)).await.unwrap();
    }
    sql.commit(&transaction).await.unwrap();
    client
        .execute("DELETE FROM u WHERE i = 1; DELETE FROM t WHERE id = 7")
        .await;
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    assert_eq!(client.rows("FROM u WHERE i = 3").await, ["3|4"]);
    assert_eq!(client.rows("FROM t WHERE c = 's5'").await, ["5|s5|5"]);
    assert_eq!(client.count("t").await, 99);
    server.stop();
}

/// Of what it reads from a table DuckDB writes batches to the file that are no whole row group, from nine tenths of one on; where the
/// table was empty they stay there.
#[tokio::test(flavor = "multi_thread")]
async fn nearly_a_row_group_that_is_inserted_from_a_table_is_found_after_a_kill() {
    for rows in [18_432_i64, 19_000, 20_479] {
        let server = ServerProcess::start(&[]);
        let client = server.client().await;
        client
            .execute("CREATE TABLE source AS SELECT range AS id, 's' || range AS c, -range AS n FROM range(200000)")
            .await;
        for sql in [PLAIN, "CREATE INDEX i ON t (n)"] {
            client.execute(sql).await;
        }
        let insert = format!("INSERT INTO t FROM source WHERE id < {rows}");
        client.execute(&insert).await;
        let one = batch(rows, 1, 1_000_000);
        client.put(&PutOptions::new("t"), &[one]).await.unwrap();
        let server = ServerProcess::start_in(server.kill(), &[]);
        let client = server.client().await;
        let found = client
            .rows("SELECT count(*), count(DISTINCT id), count(DISTINCT n) FROM t")
            .await;
        let all = rows + 1;
        assert_eq!(found, [format!("{all}|{all}|{all}")], "{rows}");
        let by_index = client.rows("SELECT c FROM t WHERE n = -77").await;
        assert_eq!(by_index, ["s77"], "{rows}");
        server.stop();
    }
}
