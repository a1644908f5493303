//! Nobody waits for nobody: a loader that floods the server fills its own lane.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use duck_flight_protocol::PutOptions;
use duck_tests::{
    Answer, Client, Setup, TRIES, TestServer, eventually, ints, messages, numbered, options, soon,
};
use futures::{StreamExt, stream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Takes DuckDB a second or more to plan, for it works out the constant, and as long again each time that it is started:
/// `now()` has it planned anew.
const PLANNED_FOR_LONG: &str = "SELECT count(*) FROM t
    WHERE i < levenshtein(repeat('a', 20000), repeat('b', 15000)) AND now() IS NOT NULL";

/// A loader that sends batches as fast as it can, and waits for no ack.
struct Flood {
    sent: Arc<AtomicU64>,
    acknowledged: watch::Receiver<u64>,
    end: JoinHandle<()>,
}

impl Flood {
    /// Sends a batch so many times.
    fn start(mut client: Client, options: &str, batch: &RecordBatch, times: usize) -> Self {
        let options: PutOptions = serde_json::from_str(options).unwrap();
        let batches = std::slice::from_ref(batch);
        let [schema, message] = messages(options.descriptor(), &batch.schema(), batches, None)
            .try_into()
            .unwrap();
        let sent = Arc::new(AtomicU64::new(0));
        let (count, acknowledged) = watch::channel(0);
        let counter = sent.clone();
        let flood = stream::repeat(message).take(times).inspect(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        let flood = stream::iter([schema]).chain(flood);
        let end = tokio::spawn(async move {
            let acks = client.raw().do_put(flood).await.unwrap();
            let mut acks = acks.into_inner();
            while let Some(ack) = acks.next().await {
                ack.unwrap();
                count.send_modify(|count| *count += 1);
            }
        });
        Self {
            sent,
            acknowledged,
            end,
        }
    }

    fn acknowledged(&self) -> u64 {
        *self.acknowledged.borrow()
    }

    fn waiting(&self) -> u64 {
        self.sent
            .load(Ordering::Relaxed)
            .saturating_sub(self.acknowledged())
    }

    /// Waits until so many batches wait for their acks.
    async fn deep(&mut self, waiting: u64) {
        while self.waiting() < waiting {
            self.acknowledged.changed().await.unwrap();
        }
    }

    /// How many of its acks come while a small put waits for its own, behind a full queue.
    async fn acks_beside(&mut self, client: &Client, options: &PutOptions) -> u64 {
        soon("a full queue", self.deep(200)).await;
        let before = self.acknowledged();
        let batch = [numbered(2, 1)];
        let put = client.put(options, &batch);
        assert_eq!(soon("a small put", put).await.unwrap()[0].rows, 1);
        self.acknowledged() - before
    }
}

/// Most acks of a flood that come while a small put waits for its own: those of the groups under way, and what the
/// client has yet to count. A put that waited for the whole queue would see far more.
const MEANWHILE: u64 = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_small_put_waits_for_no_flood() {
    for mode in ["append", "upsert"] {
        let server = TestServer::start().await;
        let client = server.client().await;
        let rest = match mode {
            "upsert" => r#""mode":"upsert","key":["row"]"#,
            _ => r#""mode":"append""#,
        };
        let options = format!(r#"{{"table":"t","commit":"batch",{rest}}}"#);
        let loader = server.client().await;
        let mut flood = Flood::start(loader, &options, &numbered(1, 10_000), 1500);
        for table in ["other", "t", "other", "t"] {
            let options = format!(r#"{{"table":"{table}",{rest}}}"#);
            let options: PutOptions = serde_json::from_str(&options).unwrap();
            let mut meanwhile = flood.acks_beside(&client, &options).await;
            if meanwhile > MEANWHILE {
                // Acks that had come before may have been counted late, which does not happen twice in a row.
                meanwhile = flood.acks_beside(&client, &options).await;
            }
            assert!(meanwhile <= MEANWHILE, "{mode} into {table}: {meanwhile}");
            // Queries answer, too.
            soon("a query", client.rows("SELECT count(*) FROM t")).await;
        }
        assert!(flood.waiting() > 0, "the flood was over too soon");
        flood.end.await.unwrap();
        server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_put_does_not_wait_for_the_many_small_units_of_another() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let options = r#"{"table":"t","commit":"batch"}"#;
    let loader = server.client().await;
    let mut flood = Flood::start(loader, options, &numbered(1, 1), 20_000);
    let mut beside = 0;
    while flood.acknowledged() + 1000 < 20_000 {
        soon("waiting units", flood.deep(1)).await;
        let put = client.append("other", &[numbered(2, 1)]).await;
        beside += put.unwrap();
    }
    assert!(beside >= 10, "{beside} puts beside the flood");
    flood.end.await.unwrap();
    assert_eq!(client.count("t").await, 20_000);
    assert_eq!(client.count("other").await, beside);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_is_acknowledged_while_a_query_is_planned_as_it_starts() {
    let server = TestServer::start().await;
    let (client, other) = (server.client().await, server.client().await);
    other.append("t", &[ints(0..10)]).await.unwrap();
    for rows in (10..).step_by(10).take(TRIES) {
        // From now on the plan is kept, and the query goes straight to its start.
        assert_eq!(client.rows(PLANNED_FOR_LONG).await, [rows.to_string()]);
        let client = client.clone();
        let asking = tokio::spawn(async move { client.rows(PLANNED_FOR_LONG).await });
        other.until_kept("running", 1).await;
        other.append("t", &[ints(rows..rows + 10)]).await.unwrap();
        let was_first = !asking.is_finished();
        let seen = asking.await.unwrap();
        let possible = [rows, rows + 10].map(|rows| vec![rows.to_string()]);
        assert!(possible.contains(&seen), "{seen:?}");
        if was_first {
            return drop(server.shutdown().await);
        }
    }
    panic!("no put was acknowledged before the query")
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_do_not_wait_for_a_listing() {
    let server = TestServer::start().await;
    let (client, other) = (server.client().await, server.client().await);
    // A listing takes some seconds.
    let slow = "CREATE VIEW slow AS SELECT levenshtein(repeat('a', 20000), repeat('b', 30000))";
    client.execute(slow).await;
    for round in 0..TRIES {
        let client = client.clone();
        let listing = tokio::spawn(async move {
            let found = client.flight().list_flights("").await.unwrap();
            found.map(Result::unwrap).count().await
        });
        for table in 0..5 {
            let table = format!("t{round}_{table}");
            other.append(&table, &[ints(0..10)]).await.unwrap();
        }
        let were_first = !listing.is_finished();
        assert!(listing.await.unwrap() >= 1);
        if were_first {
            return drop(server.shutdown().await);
        }
    }
    panic!("no five puts were acknowledged before the listing")
}

/// A server with a table `t` of which a statement changes rows until it is aborted: rows `batch`, and `row`, the key. Another one
/// is `u`, without a key.
async fn start_with_endless_update(setup: Setup) -> (TestServer, Client, JoinHandle<Answer<u64>>) {
    let server = setup.start().await;
    let client = server.client().await;
    client
        .execute(
            "CREATE TABLE t (batch BIGINT, \"row\" BIGINT PRIMARY KEY);
             CREATE TABLE u (batch BIGINT, \"row\" BIGINT);
             CREATE SEQUENCE s;
             INSERT INTO t VALUES (0, -1)",
        )
        .await;
    let updating = client.clone();
    let update = tokio::spawn(async move {
        let endless = "UPDATE t SET batch = (SELECT sum(a + s) FROM (SELECT nextval('s') AS s), range(1000000) AS r(a),
            range(1000000) AS q(b) WHERE a + b < 3)";
        updating.try_execute(endless).await
    });
    let drawn = "SELECT count(last_value) FROM duckdb_sequences() WHERE sequence_name = 's'";
    soon("a number drawn", async {
        while client.rows(drawn).await != ["1"] {}
    })
    .await;
    (server, client, update)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_into_a_table_whose_rows_a_statement_changes_leaves_memory_to_other_tables() {
    let (server, client, update) = start_with_endless_update(Setup {
        ingest_buffer_bytes: 4 << 20,
        ..Setup::default()
    })
    .await;
    // 160 KB each: half of the buffer is taken by thirteen.
    let options = r#"{"table":"t","commit":"batch","mode":"upsert"}"#;
    let flood = Flood::start(server.client().await, options, &numbered(1, 10_000), 200);
    for round in 0..100 {
        let rows = [numbered(round, 1)];
        let put = client.append("u", &rows);
        assert_eq!(soon("a put into another table", put).await.unwrap(), 1);
    }
    // The buffer was not free all the time.
    soon("half of the buffer taken", async {
        while flood.sent.load(Ordering::Relaxed) < 16 {
            client.ping().await;
        }
    })
    .await;
    let rows = [numbered(100, 1)];
    let put = client.append("u", &rows);
    assert_eq!(soon("one more", put).await.unwrap(), 1);
    assert_eq!(flood.acknowledged(), 0);
    assert!(!update.is_finished());
    update.abort();
    eventually("the flood", flood.end).await.unwrap();
    assert_eq!(client.count("t").await, 10_001);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_units_that_wait_for_their_table_are_not_in_the_way_of_others() {
    // So many are a large unit.
    const ROWS: i64 = 1 << 20;
    let (server, client, update) = start_with_endless_update(Setup::default()).await;
    let upsert = options(r#"{"table":"t","mode":"upsert"}"#);
    let mut upserts = Vec::new();
    // As many as there are threads for them.
    for number in 0..2 {
        let client = server.client().await;
        let (first, more) = (numbered(number, ROWS), numbered(number, 1 << 16));
        let mut put = client.open_put(&upsert, &first.schema()).await;
        soon("a batch taken", put.send_batch(&first)).await;
        // What comes behind the rows that make it a large unit is read once it has a thread.
        let more_rows = put.fill(&more).await * more.num_rows();
        put.end().await;
        upserts.push(tokio::spawn(async move {
            let ack = put.ack().await.expect("an ack");
            // Until then its connection stays.
            drop(client);
            ack.map(|ack| ack.rows - more_rows as u64)
        }));
    }
    // The others wait for one.
    for number in 2..4 {
        let (client, upsert) = (server.client().await, upsert.clone());
        upserts.push(tokio::spawn(async move {
            let acks = client.put(&upsert, &[numbered(number, ROWS)]).await;
            acks.map(|acks| acks[0].rows)
        }));
    }
    for number in 0..4 {
        let rows = [numbered(number, ROWS)];
        let put = client.append("u", &rows);
        let acknowledged = eventually("a large put into another table", put).await;
        assert_eq!(acknowledged.unwrap(), ROWS.cast_unsigned());
    }
    assert!(!update.is_finished() && !upserts.iter().any(JoinHandle::is_finished));
    update.abort();
    for upsert in upserts {
        let rows = eventually("a large upsert", upsert).await.unwrap();
        assert_eq!(rows.unwrap(), ROWS.cast_unsigned());
    }
    assert_eq!(client.count("t").await, ROWS.cast_unsigned() + 1);
    server.shutdown().await;
}
