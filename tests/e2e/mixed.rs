//! Many clients do all that Flight SQL offers at once, and give up much of it halfway: what was acknowledged is there
//! once, what was rolled back is not, and nothing is left behind.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch};
use bytes::Bytes;
use duck_tests::{Client, ENDLESS_ROWS, SqlClient, TestServer, soon, start};
use futures::StreamExt;
use futures::future::join_all;

use super::fuzz::Random;
use super::statement::{cancel, poll, query};

const CLIENTS: i32 = 32;
const STEPS: usize = 25;

/// One client, and what it knows of its rows.
struct Mixer {
    number: i32,
    client: Client,
    sql: SqlClient,
    has_session: bool,
    random: Random,
    next: i64,
    /// Rows that are committed.
    certain: BTreeSet<i64>,
    /// Rows whose statement was given up.
    doubtful: BTreeSet<i64>,
}

impl Mixer {
    async fn new(server: &TestServer, number: i32) -> Self {
        let client = server.client().await;
        let has_session = number % 2 == 0;
        let sql = match has_session {
            true => client.session().await,
            false => client.sql(),
        };
        Self {
            number,
            client,
            sql,
            has_session,
            random: Random(number.unsigned_abs().into()),
            next: 0,
            certain: BTreeSet::new(),
            doubtful: BTreeSet::new(),
        }
    }

    fn new_rows(&mut self, count: i64) -> Vec<i64> {
        self.next += count;
        (self.next - count..self.next).collect()
    }

    fn insert(&self, rows: &[i64]) -> String {
        let number = self.number;
        let values = rows.iter().map(|n| format!("({number}, {n})"));
        let values: Vec<_> = values.collect();
        format!("INSERT INTO t VALUES {}", values.join(", "))
    }

    fn batch(&self, rows: &[i64]) -> RecordBatch {
        let task: ArrayRef = Arc::new(Int32Array::from(vec![self.number; rows.len()]));
        let n: ArrayRef = Arc::new(Int64Array::from(rows.to_vec()));
        RecordBatch::try_from_iter([("task", task), ("n", n)]).unwrap()
    }

    async fn step(&mut self) {
        match self.random.below(10) {
            0 => self.update().await,
            1 | 2 => self.transaction().await,
            3 => self.prepared().await,
            4 => self.ingest().await,
            5 => self.give_up().await,
            6 => self.cancel().await,
            7 => self.poll().await,
            8 if self.has_session => self.script_transaction().await,
            _ => self.drop_a_result(None).await,
        }
    }

    async fn update(&mut self) {
        let rows = self.new_rows(2);
        let changed = self.sql.update(&self.insert(&rows), None).await.unwrap();
        assert_eq!(changed, 2);
        self.certain.extend(rows);
    }

    /// A transaction of several statements, some of them given up or an ingest.
    async fn transaction(&mut self) {
        let transaction = self.sql.begin().await.unwrap();
        let mut rows = Vec::new();
        for _ in 0..self.random.below(4) {
            let more = self.new_rows(3);
            match self.random.below(3) {
                0 => {
                    let batch = self.batch(&more);
                    let ingest = self.sql.ingest("t", Some(&transaction), vec![batch]);
                    ingest.await.unwrap();
                }
                1 => {
                    self.drop_a_result(Some(&transaction)).await;
                    let insert = self.insert(&more);
                    self.sql.update(&insert, Some(&transaction)).await.unwrap();
                }
                _ => {
                    let insert = self.insert(&more);
                    let info = self.sql.info(&insert, Some(&transaction)).await.unwrap();
                    self.sql.fetch(&info).await.unwrap();
                }
            }
            rows.extend(more);
        }
        if self.random.below(2) == 0 {
            self.sql.commit(&transaction).await.unwrap();
            self.certain.extend(rows);
        } else {
            self.sql.roll_back(&transaction).await.unwrap();
        }
    }

    async fn prepared(&mut self) {
        let rows = self.new_rows(3);
        let sql = "INSERT INTO t VALUES (?, ?)".to_owned();
        let mut statement = self.sql.raw().prepare(sql, None).await.unwrap();
        statement.set_parameters(self.batch(&rows)).unwrap();
        assert_eq!(statement.execute_update().await.unwrap(), 3);
        statement.close().await.unwrap();
        self.certain.extend(rows);
    }

    async fn ingest(&mut self) {
        let rows = self.new_rows(50);
        let batch = self.batch(&rows);
        let put = self.sql.ingest("t", None, vec![batch]).await.unwrap();
        assert_eq!(put, 50);
        self.certain.extend(rows);
    }

    /// A statement whose client does not wait for its answer.
    async fn give_up(&mut self) {
        let rows = self.new_rows(2);
        let insert = self.insert(&rows);
        let patience = Duration::from_micros(100 * self.random.below(40) as u64);
        match tokio::time::timeout(patience, self.sql.update(&insert, None)).await {
            Ok(changed) => {
                assert_eq!(changed.unwrap(), 2);
                self.certain.extend(rows);
            }
            Err(_) => self.doubtful.extend(rows),
        }
    }

    async fn cancel(&mut self) {
        let info = self.sql.info(ENDLESS_ROWS, None).await.unwrap();
        let ticket = info.endpoint[0].ticket.clone().unwrap();
        let mut result = self.sql.raw().do_get(ticket).await.unwrap();
        assert!(result.next().await.unwrap().is_ok());
        cancel(&self.client, info).await;
        let end = async { while result.next().await.is_some_and(|batch| batch.is_ok()) {} };
        soon("the end of a cancelled query", end).await;
    }

    async fn poll(&mut self) {
        let rows = self.new_rows(2);
        let mut polled = poll(&self.client, query(&self.insert(&rows))).await;
        while let Some(next) = polled.flight_descriptor.take() {
            polled = poll(&self.client, next).await;
        }
        self.certain.extend(rows);
    }

    async fn script_transaction(&mut self) {
        self.sql.update("BEGIN", None).await.unwrap();
        let rows = self.new_rows(2);
        let insert = self.insert(&rows);
        self.sql.update(&insert, None).await.unwrap();
        if self.random.below(2) == 0 {
            self.sql.update("COMMIT", None).await.unwrap();
            self.certain.extend(rows);
        } else {
            self.sql.update("ROLLBACK", None).await.unwrap();
        }
    }

    /// Drops a result in the middle, and goes on at once with another statement.
    async fn drop_a_result(&mut self, transaction: Option<&Bytes>) {
        let info = self.sql.info(ENDLESS_ROWS, transaction).await.unwrap();
        let ticket = info.endpoint[0].ticket.clone().unwrap();
        let mut result = self.sql.raw().do_get(ticket).await.unwrap();
        assert!(result.next().await.unwrap().is_ok());
        drop(result);
        let next = self.sql.rows_behind("SELECT 42", transaction).await;
        assert_eq!(next, ["42"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_that_do_all_at_once_find_just_what_they_were_told() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t (task INTEGER, n BIGINT)")
        .await;
    let tasks = (0..CLIENTS).map(|number| {
        let mixer = Mixer::new(&server, number);
        async move {
            let mut mixer = mixer.await;
            for _ in 0..STEPS {
                mixer.step().await;
            }
            // With all that it has open.
            mixer.sql.close().await;
            mixer
        }
    });
    let mixers = join_all(tasks).await;
    client.until_nothing_is_kept().await;
    for mixer in mixers {
        let number = mixer.number;
        let found = client
            .rows(&format!("SELECT n FROM t WHERE task = {number}"))
            .await;
        let set: BTreeSet<i64> = found.iter().map(|n| n.parse().unwrap()).collect();
        assert_eq!(set.len(), found.len(), "{number}: a row is there twice");
        assert!(
            set.is_superset(&mixer.certain),
            "{number}: rows are missing"
        );
        let more: BTreeSet<_> = set.difference(&mixer.certain).copied().collect();
        assert!(mixer.doubtful.is_superset(&more), "{number}: {more:?}");
    }
    server.shutdown().await;
}
