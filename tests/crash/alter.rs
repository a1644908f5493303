//! Tables are altered and renamed while rows come in: what was acknowledged is there, once and as it was sent, also after a
//! kill and after a checkpoint.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use duck_flight_protocol::{PutOptions, SchemaMode};
use duck_tests::{Answer, Client, ServerProcess, assert_refused, eventually};
use futures::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::Code;

const MAKE: &str = "CREATE TABLE t (id BIGINT, c VARCHAR, n INTEGER)";

/// So many rows take a while to go over.
const MANY: u64 = 500_000;

const LOADERS: i64 = 3;

/// The rows of a unit.
const ROWS: i64 = 100;

/// Rows that say of themselves whether they are whole.
fn batch(from: i64) -> RecordBatch {
    let ids = from..from + ROWS;
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(ids.clone()));
    let texts = ids.clone().map(|id| format!("s{id}"));
    let c: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
    let numbers = ids.map(|id| i32::try_from(id % 1000).expect("small"));
    let n: ArrayRef = Arc::new(Int32Array::from_iter_values(numbers));
    RecordBatch::try_from_iter([("id", id), ("c", c), ("n", n)]).expect("three columns")
}

/// Makes the table with many rows, whose ids are below 0.
async fn make_large(client: &Client) {
    let sql = format!(
        "CREATE TABLE t AS
         SELECT -1000 - range AS id, 's' || id AS c, (range % 1000)::INTEGER AS n FROM range({MANY})"
    );
    client.execute(&sql).await;
}

/// How rows come in.
#[derive(Debug, Clone, Copy)]
enum Way {
    Put,
    Insert,
}

impl Way {
    async fn load(self, client: &Client, from: i64) -> Answer<u64> {
        match self {
            Self::Put => client.append("t", &[batch(from)]).await,
            Self::Insert => {
                let sql = format!(
                    "INSERT INTO t SELECT i, 's' || i, i % 1000 FROM range({from}, {}) AS r(i)",
                    from + ROWS
                );
                client.try_execute(sql).await
            }
        }
    }
}

/// Loaders that send units to the table `t` until they are stopped, or their server is gone.
struct Load {
    stop: watch::Sender<bool>,
    acks: watch::Receiver<u64>,
    loaders: Vec<JoinHandle<Vec<i64>>>,
}

impl Load {
    fn start(server: &ServerProcess, way: Way) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (acked, acks) = watch::channel(0);
        let loaders = (0..LOADERS).map(|loader| {
            let (address, stopped, acked) =
                (server.address().to_owned(), stopped.clone(), acked.clone());
            tokio::spawn(async move {
                let client = Client::connect(&address).await;
                let mut loaded = Vec::new();
                for unit in 0.. {
                    if *stopped.borrow() {
                        break;
                    }
                    let from = (unit * LOADERS + loader) * ROWS;
                    match way.load(&client, from).await {
                        Ok(_) => {
                            loaded.push(from);
                            acked.send_modify(|count| *count += 1);
                        }
                        Err(gone) if gone.code() == Code::Unavailable => break,
                        // Altered at that moment: it is not there.
                        Err(_) => {}
                    }
                }
                loaded
            })
        });
        Self {
            stop,
            acks,
            loaders: loaders.collect(),
        }
    }

    /// Waits for some more units.
    async fn some(&mut self) {
        let before = *self.acks.borrow_and_update();
        let enough = self.acks.wait_for(|now| *now >= before + 30);
        eventually("acks", enough).await.expect("loaders");
    }

    /// Stops the loaders; answers with the first rows of what was acknowledged.
    async fn stop(self) -> Vec<i64> {
        self.stop.send_replace(true);
        let loaded = eventually("the loaders' end", join_all(self.loaders)).await;
        loaded
            .into_iter()
            .flat_map(|loaded| loaded.expect("no panic"))
            .collect()
    }
}

/// Asserts that every unit is there as a whole, once and as it was sent, and every one that was acknowledged.
async fn assert_kept(client: &Client, table: &str, acked: &[i64]) {
    let sql = format!(
        "SELECT id // {ROWS} * {ROWS} AS first, count(*), count(DISTINCT id),
             coalesce(bool_and(c = 's' || id AND n = id % 1000), false)
         FROM {table} WHERE id >= 0 GROUP BY first"
    );
    let found: BTreeSet<String> = client.rows(&sql).await.into_iter().collect();
    let torn = |row: &&String| !row.ends_with("|100|100|true");
    let torn: Vec<_> = found.iter().filter(torn).take(5).collect();
    assert!(torn.is_empty(), "{torn:?}");
    let is_missing = |from: &&i64| !found.contains(&format!("{from}|100|100|true"));
    let missing: Vec<_> = acked.iter().filter(is_missing).collect();
    assert!(
        missing.is_empty(),
        "{} of {} units are missing",
        missing.len(),
        acked.len()
    );
}

/// Asserts it of the large table, now, after a kill, and after a checkpoint and another kill.
async fn assert_survives(server: ServerProcess, acked: &[i64]) {
    let rows =
        "SELECT count(*), bool_and(c = 's' || id AND n = (-1000 - id) % 1000) FROM t WHERE id < 0";
    let assert_all = async |client: &Client| {
        assert_eq!(client.rows(rows).await, [format!("{MANY}|true")]);
        assert_kept(client, "t", acked).await;
    };
    assert_all(&server.client().await).await;
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    assert_all(&client).await;
    client.checkpoint().await;
    let server = ServerProcess::start_in(server.kill(), &[]);
    assert_all(&server.client().await).await;
    server.stop();
}

/// While DuckDB changes a type it does not keep rows out of the table that it is about to replace, and fails for them.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_come_in_while_a_type_is_changed_are_kept() {
    for way in [Way::Put, Way::Insert] {
        let server = ServerProcess::start(&[]);
        let client = server.client().await;
        make_large(&client).await;
        let mut load = Load::start(&server, way);
        load.some().await;
        let change = "ALTER TABLE t ALTER n TYPE BIGINT USING n + 0 * length(md5(c))";
        client.execute(change).await;
        load.some().await;
        let acked = load.stop().await;
        assert_survives(server, &acked).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_clients_insert_while_a_put_widens_a_column_are_kept() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    make_large(&client).await;
    let mut load = Load::start(&server, Way::Insert);
    load.some().await;
    let options = PutOptions {
        schema: SchemaMode::Evolve,
        ..PutOptions::new("t")
    };
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values([-1]));
    let c: ArrayRef = Arc::new(StringArray::from_iter_values(["wide"]));
    let n: ArrayRef = Arc::new(Int64Array::from_iter_values([i64::MAX]));
    let wide = RecordBatch::try_from_iter([("id", id), ("c", c), ("n", n)]).expect("three columns");
    client.put(&options, &[wide]).await.unwrap();
    load.some().await;
    let acked = load.stop().await;
    client.execute("DELETE FROM t WHERE c = 'wide'").await;
    assert_survives(server, &acked).await;
}

/// DuckDB logs rows under the name that an open transaction has given their table.
#[tokio::test(flavor = "multi_thread")]
async fn rows_survive_a_kill_beside_a_transaction_that_would_rename_their_table() {
    const RENAME: &str = "ALTER TABLE t RENAME TO u";
    for script in [None, Some("BEGIN; ALTER TABLE t RENAME TO u; SELECT 1")] {
        let server = ServerProcess::start(&[]);
        let client = server.client().await;
        client.execute(MAKE).await;
        let mut sql = client.session().await;
        let renamed = match script {
            None => {
                let transaction = sql.begin().await.unwrap();
                sql.update(RENAME, Some(&transaction)).await
            }
            Some(script) => sql.update(script, None).await,
        };
        client.append("t", &[batch(0)]).await.unwrap();
        let server = ServerProcess::start_in(server.kill(), &[]);
        assert_kept(&server.client().await, "t", &[0]).await;
        assert_refused(renamed, Code::FailedPrecondition, &["name", "BEGIN"]);
        server.stop();
    }
}

/// DuckDB does not take the new name back where the statement fails for another transaction.
#[tokio::test(flavor = "multi_thread")]
async fn rows_survive_a_kill_after_their_table_could_not_be_renamed() {
    for rename in [
        "ALTER TABLE t RENAME TO u",
        "BEGIN; ALTER TABLE other RENAME TO u; ALTER TABLE t RENAME TO other; COMMIT",
    ] {
        let server = ServerProcess::start(&[]);
        let client = server.client().await;
        client.execute(MAKE).await;
        client.execute("CREATE TABLE other AS FROM t").await;
        let mut sql = client.sql();
        let transaction = sql.begin().await.unwrap();
        let comment = "COMMENT ON TABLE t IS 'altered'";
        sql.update(comment, Some(&transaction)).await.unwrap();
        let renamed = client.try_execute(rename).await;
        client.append("t", &[batch(0)]).await.unwrap();
        client.append("other", &[batch(0)]).await.unwrap();
        let server = ServerProcess::start_in(server.kill(), &[]);
        let client = server.client().await;
        assert_kept(&client, "t", &[0]).await;
        assert_kept(&client, "other", &[0]).await;
        assert_refused(renamed, Code::Aborted, &["t"]);
        server.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_survive_a_kill_while_their_table_makes_room_for_another_one() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    client.execute(MAKE).await;
    let mut load = Load::start(&server, Way::Put);
    let mut tables = vec!["FROM t".to_owned()];
    for round in 0..6 {
        load.some().await;
        let old = format!("old_{round}");
        if round % 2 == 0 {
            client
                .execute(&format!("CREATE TABLE next_{round} AS FROM t LIMIT 0"))
                .await;
            let swap = format!(
                "BEGIN; ALTER TABLE t RENAME TO {old}; ALTER TABLE next_{round} RENAME TO t; COMMIT"
            );
            client.execute(&swap).await;
        } else {
            // The loaders make another one.
            client
                .execute(&format!("ALTER TABLE main.t RENAME TO {old}"))
                .await;
        }
        assert!(client.count(&old).await > 0);
        tables.push(format!("FROM {old}"));
    }
    load.some().await;
    let all = format!("({})", tables.join(" UNION ALL "));
    let directory = server.kill();
    let acked = load.stop().await;
    let server = ServerProcess::start_in(directory, &[]);
    let client = server.client().await;
    assert_kept(&client, &all, &acked).await;
    client.checkpoint().await;
    let server = ServerProcess::start_in(server.kill(), &[]);
    assert_kept(&server.client().await, &all, &acked).await;
    server.stop();
}
