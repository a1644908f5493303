//! Exactly once: whatever is sent again, taken over or cut short, every row lands one time.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_flight::Action;
use duck_flight_protocol::{Commit, ConnectOptions, PutOptions};
use duck_load::{BatchSource, FlightTarget, Outcome, Plan, Progress, Report, Stop, Target};
use duck_tests::{
    Answer, Client, OpenPut, PATIENCE, ServerProcess, TestServer, assert_refused, ints, options,
    soon, start,
};
use futures::TryStreamExt;
use futures::future::join_all;
use tonic::{Code, Status};

/// So many rows have a transaction of their own.
const LARGE: i64 = 1_100_000;

fn batches_of(producer: &str) -> PutOptions {
    options(&format!(
        r#"{{"table":"t","commit":"batch","producer":"{producer}"}}"#
    ))
}

async fn open(client: &Client, options: &PutOptions) -> (OpenPut, u64) {
    let schema = ints([]).schema();
    let mut put = soon("an open put", client.open_put(options, &schema)).await;
    let resume_after = put.resume_after().await.unwrap();
    (put, resume_after)
}

fn is_fenced(error: &Status) -> bool {
    error.code() == Code::Aborted && error.message().starts_with("fenced: ")
}

/// Each of the numbers from 1 on stands in the table once.
async fn assert_each_once(client: &Client, numbers: u64) {
    assert_eq!(
        client
            .rows("SELECT count(*), count(DISTINCT i), min(i), max(i) FROM t")
            .await,
        [format!("{numbers}|{numbers}|1|{numbers}")]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_unit_that_is_fenced_commits_nothing() {
    for mode in ["append", "upsert"] {
        let server = TestServer::start().await;
        let client = server.client().await;
        let mut put_options = batches_of("p");
        put_options.mode = serde_json::from_str(&format!("{mode:?}")).unwrap();
        put_options.key = (mode == "upsert").then(|| vec!["i".to_owned()]);
        let (mut old, _) = open(&client, &put_options).await;
        let batch = ints(0..LARGE);
        let large = old.send_sequenced(&batch, 1);
        let ((), (new, resume_after)) = tokio::join!(large, open(&client, &put_options));
        assert_eq!(resume_after, 0);
        let error = soon("a refusal", old.ack()).await.unwrap().unwrap_err();
        assert!(is_fenced(&error), "{error:?}");
        new.send_sequenced(&ints([1]), 1).await;
        assert_eq!(new.finish().await.unwrap()[0].rows, 1);
        assert_each_once(&client, 1).await;
        server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_unit_that_is_sent_again_is_a_duplicate() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let append = options(r#"{"table":"t","producer":"p","sequence":7}"#);
    let upsert =
        options(r#"{"table":"u","producer":"p","sequence":7,"mode":"upsert","key":["i"]}"#);
    for put_options in [append, upsert] {
        for (is_again, is_altered) in [(false, false), (true, false), (true, true)] {
            if is_altered {
                let table = put_options.table.to_sql();
                let alter = format!("ALTER TABLE {table} RENAME i TO j");
                client.execute(&alter).await;
            }
            // In halves, so that the unit turns large on its way.
            let halves = [ints(1..LARGE / 2), ints(LARGE / 2..=LARGE)];
            let acks = client.put(&put_options, &halves).await.unwrap();
            assert_eq!(acks.len(), 1);
            assert_eq!(acks[0].rows, LARGE.unsigned_abs());
            assert_eq!(acks[0].sequence, Some(7));
            assert_eq!(acks[0].duplicate, is_again);
        }
    }
    client.execute("ALTER TABLE t RENAME j TO i").await;
    assert_each_once(&client, LARGE.unsigned_abs()).await;
    assert_eq!(client.count("u").await, LARGE.unsigned_abs());
    server.shutdown().await;
}

/// Two rows of a table of keys `k` and values `v`, for any mode.
fn keyed(mode: &str, keys: [i64; 2]) -> RecordBatch {
    let ints = |values: [i64; 2]| Arc::new(Int64Array::from_iter_values(values)) as ArrayRef;
    let mut columns = vec![("k", ints(keys)), ("v", ints([1000, 2000]))];
    if mode == "changes" {
        let ops = StringArray::from(vec!["I", "U"]);
        columns.push(("op", Arc::new(ops)));
    }
    RecordBatch::try_from_iter(columns).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_again_is_a_duplicate_whatever_has_become_of_its_table() {
    let (server, client) = start().await;
    for statement in [
        "ALTER TABLE t DROP v",
        "ALTER TABLE t RENAME v TO w",
        "ALTER TABLE t ALTER v TYPE UTINYINT USING 0",
        "DROP TABLE t",
    ] {
        for (mode, on_error) in ["append", "upsert", "delete", "changes"]
            .into_iter()
            .flat_map(|mode| [(mode, "fail"), (mode, "reject")])
        {
            client
                .execute("CREATE OR REPLACE TABLE t (k BIGINT PRIMARY KEY, v BIGINT)")
                .await;
            let case = format!("{statement}, {mode}, {on_error}");
            // Without a `key`: it is the table's, if there is one.
            let with = |more: &str| {
                options(&format!(
                    r#"{{"table":"t","create":"never","producer":"{case}","mode":"{mode}","on_error":"{on_error}",{more}}}"#
                ))
            };
            let (stream, batch) = (with(r#""sequence":1"#), with(r#""commit":"batch""#));
            let units = [keyed(mode, [1, 2]), keyed(mode, [3, 4])];
            let send = async |resume_after: u64| {
                let mut acks = client.put(&stream, &units[..1]).await?;
                let schema = units[1].schema();
                let mut put = client.open_put(&batch, &schema).await;
                assert_eq!(put.resume_after().await?, resume_after, "{case}");
                put.send_sequenced(&units[1], 2).await;
                acks.extend(put.finish().await?);
                Ok::<_, Status>(acks)
            };
            for (resume_after, is_again) in [(1, false), (2, true)] {
                if is_again {
                    client.execute(statement).await;
                }
                let stored = client.try_rows("FROM t ORDER BY ALL").await.ok();
                let acks = send(resume_after).await;
                let acks = acks.unwrap_or_else(|error| panic!("{case}: {error:?}"));
                let acks: Vec<_> = acks.iter().map(|ack| (ack.rows, ack.duplicate)).collect();
                assert_eq!(acks, [(2, is_again); 2], "{case}");
                if is_again {
                    let after = client.try_rows("FROM t ORDER BY ALL").await.ok();
                    assert_eq!(after, stored, "{case}");
                }
            }
        }
    }
    assert_eq!(client.count("duck_flight.rejects").await, 0);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_goes_on_is_refused_once_it_sends_what_its_altered_table_does_not_take() {
    let (server, client) = start().await;
    let (mut old, _) = open(&client, &batches_of("p")).await;
    old.send_sequenced(&ints([1]), 1).await;
    soon("an ack", old.ack()).await.unwrap().unwrap();
    client.execute("ALTER TABLE t RENAME i TO j").await;
    for _ in 0..2 {
        let (mut new, resume_after) = open(&client, &batches_of("p")).await;
        assert_eq!(resume_after, 1);
        new.send_sequenced(&ints([1]), 1).await;
        new.send_sequenced(&ints([2]), 2).await;
        let ack = soon("an ack", new.ack()).await.unwrap().unwrap();
        assert!(ack.duplicate);
        let refused = soon("a refusal", new.ack()).await.unwrap();
        assert_refused(refused, Code::InvalidArgument, &["`i`"]);
    }
    // To the stream that was taken over what is durable is none of its own.
    old.send_sequenced(&ints([1]), 1).await;
    let error = soon("a refusal", old.ack()).await.unwrap().unwrap_err();
    assert!(is_fenced(&error), "{error:?}");
    assert_eq!(client.rows("FROM t").await, ["1"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_unit_does_not_overtake_a_large_one_of_its_stream() {
    let server = TestServer::start().await;
    let client = server.client().await;
    for mode in ["append", "upsert"] {
        let key = if mode == "upsert" {
            r#","key":["i"]"#
        } else {
            ""
        };
        let put_options = options(&format!(
            r#"{{"table":"t","commit":"batch","producer":"{mode}","mode":"{mode}","create":"replace"{key}}}"#
        ));
        let (mut put, _) = open(&client, &put_options).await;
        put.send_sequenced(&ints(1..=LARGE), 1).await;
        put.send_sequenced(&ints([LARGE + 1]), 2).await;
        put.send_sequenced(&ints([LARGE + 2]), 3).await;
        for (sequence, rows) in [(1, LARGE), (2, 1), (3, 1)] {
            let ack = soon("an ack", put.ack()).await.unwrap().unwrap();
            assert_eq!(
                (ack.sequence, ack.rows),
                (Some(sequence), rows.unsigned_abs())
            );
            assert!(!ack.duplicate);
        }
        assert!(put.finish().await.unwrap().is_empty());
        assert_each_once(&client, LARGE.unsigned_abs() + 2).await;
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_behind_a_large_unit_that_fails_is_committed() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client
        .execute("CREATE TABLE t (i BIGINT CHECK (i <> 1000000))")
        .await;
    let put_options = options(r#"{"table":"t","commit":"batch"}"#);
    let put = client.open_put(&put_options, &ints([]).schema()).await;
    put.send_batch(&ints(0..LARGE)).await;
    put.send_batch(&ints([1])).await;
    assert!(put.finish().await.is_err());
    assert_eq!(client.count("t").await, 0);
    server.shutdown().await;
}

/// Sends what is left of the numbers up to `last`, as often as another stream takes over.
async fn send_all(client: Client, last: u64) -> Answer<()> {
    let put_options = batches_of("p");
    loop {
        let (mut put, resume_after) = open(&client, &put_options).await;
        if resume_after >= last {
            put.end().await;
            return Ok(());
        }
        let numbers = resume_after + 1..=last.min(resume_after + 20);
        for number in numbers.clone() {
            let batch = ints([number.cast_signed()]);
            soon("room for a batch", put.send_sequenced(&batch, number)).await;
        }
        for number in numbers {
            match soon("an ack", put.ack()).await {
                Some(Ok(ack)) => assert_eq!(ack.sequence, Some(number)),
                Some(Err(error)) if is_fenced(&error) => break,
                other => panic!("{other:?}"),
            }
        }
        soon("the end", put.end()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn loaders_that_take_each_other_over_send_every_row_once() {
    let server = TestServer::start().await;
    let mut loaders = Vec::new();
    for _ in 0..6 {
        loaders.push(tokio::spawn(send_all(server.client().await, 500)));
    }
    for loader in join_all(loaders).await {
        loader.unwrap().unwrap();
    }
    assert_each_once(&server.client().await, 500).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loader_goes_on_after_the_server_was_killed() {
    let mut server = ServerProcess::start(&[]);
    let mut acknowledged = 0;
    for _ in 0..4 {
        let client = server.client().await;
        let (mut put, resume_after) = open(&client, &batches_of("p")).await;
        assert!(
            resume_after >= acknowledged,
            "{resume_after} of {acknowledged}"
        );
        for number in resume_after + 1..=resume_after + 100 {
            put.send_sequenced(&ints([number.cast_signed()]), number)
                .await;
        }
        for _ in 0..50 {
            let ack = soon("an ack", put.ack()).await.unwrap().unwrap();
            assert!(!ack.duplicate);
            acknowledged = ack.sequence.unwrap();
        }
        server = ServerProcess::start_in(server.kill(), &[]);
    }
    let client = server.client().await;
    let (put, resume_after) = open(&client, &batches_of("p")).await;
    assert!(resume_after >= acknowledged);
    assert!(put.finish().await.unwrap().is_empty());
    assert_each_once(&client, resume_after).await;
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_keeps_of_a_producer_does_not_grow_without_end() {
    const UNITS: u64 = 40_000;
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    let (mut put, _) = open(&client, &batches_of("p")).await;
    let mut sent = 0;
    for acknowledged in 0..UNITS {
        while sent < UNITS && sent < acknowledged + 64 {
            sent += 1;
            put.send_sequenced(&ints([sent.cast_signed()]), sent).await;
        }
        let ack = soon("an ack", put.ack()).await.unwrap().unwrap();
        assert_eq!(
            (ack.sequence, ack.duplicate),
            (Some(acknowledged + 1), false)
        );
    }
    assert!(put.finish().await.unwrap().is_empty());
    let kept = client.count("duck_flight.sequences").await;
    assert!(kept <= 30_000, "{kept} rows are kept");
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    let (put, resume_after) = open(&client, &batches_of("p")).await;
    assert_eq!(resume_after, UNITS);
    put.send_sequenced(&ints([1]), UNITS).await;
    put.send_sequenced(&ints([UNITS.cast_signed() + 1]), UNITS + 1)
        .await;
    let acks = put.finish().await.unwrap();
    assert_eq!(
        acks.iter().map(|ack| ack.duplicate).collect::<Vec<_>>(),
        [true, false]
    );
    assert_each_once(&client, UNITS + 1).await;
    // A commit after the start is followed by a compaction.
    let compacted = async {
        while client.count("duck_flight.sequences").await > 1 {
            tokio::task::yield_now().await;
        }
    };
    soon("a compaction", compacted).await;
    let last = "SELECT last_sequence FROM duck_flight.producers";
    assert_eq!(client.rows(last).await, [(UNITS + 1).to_string()]);
    server.stop();
}

/// A resuming loader of one writer.
fn resuming(commit: Commit, interval: Duration, batches: u64) -> Plan {
    Plan {
        rows: NonZeroU32::new(10).unwrap(),
        batches: NonZeroU64::new(batches),
        interval: Some(interval),
        commit,
        producer: Some("p".into()),
        resume: true,
        ..Plan::new("t")
    }
}

async fn load(server: &str, plan: Plan) -> Report {
    let server = ConnectOptions {
        server: server.to_owned(),
    };
    let report = duck_load::load(&server, &plan, Progress::silent(), Stop::never()).await;
    report.expect("a connection")
}

/// Servers that come after each other on one database.
struct Servers {
    directory: tempfile::TempDir,
}

impl Servers {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn start(&self, listen: &str) -> ServerProcess {
        let database = self.directory.path().join("test.db").display().to_string();
        let start = Instant::now();
        loop {
            match ServerProcess::try_start(&["--database", &database, "--listen", listen]) {
                Ok(server) => return server,
                // While the one before was away, another test may have been given its port.
                Err(exit) => assert!(
                    exit.stderr.contains("already in use") && start.elapsed() < PATIENCE,
                    "{exit:?}"
                ),
            }
        }
    }
}

fn end(mut server: ServerProcess, signal: &str) {
    server.signal(signal);
    server.wait();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resuming_loader_sends_again_what_a_server_with_an_older_file_has_lost() {
    // The last one may send nothing while its server is away.
    let cases = [
        (Commit::Stream, 20, 100),
        (Commit::Batch, 20, 100),
        (Commit::Stream, 500, 15),
    ];
    for (commit, interval_ms, batches) in cases {
        let plan = |batches| resuming(commit, Duration::from_millis(interval_ms), batches);
        let servers = Servers::new();
        let file = |name: &str| servers.directory.path().join(name);
        let server = servers.start("127.0.0.1:0");
        let address = server.address().to_owned();
        assert!(load(&address, plan(5)).await.is_success());
        end(server, "TERM");
        std::fs::copy(file("test.db"), file("older.db")).unwrap();
        let server = servers.start(&address);
        let loading = tokio::spawn({
            let (address, plan) = (address.clone(), plan(batches));
            async move { load(&address, plan).await }
        });
        let client = server.client().await;
        // Acks of the first may be on their way still, but not behind two more.
        let more = async {
            let mut rows = 50;
            for _ in 0..3 {
                let before = rows;
                while rows <= before {
                    rows = client.count("t").await;
                }
            }
        };
        soon("three more commits", more).await;
        end(server, "KILL");
        for name in ["test.db.wal", "test.db.mark"] {
            std::fs::remove_file(file(name)).ok();
        }
        std::fs::copy(file("older.db"), file("test.db")).unwrap();
        let server = servers.start(&address);
        let report = soon("the loader's end", loading).await.unwrap();
        assert!(report.is_success() && report.lost > 0, "{report}");
        let stored = "SELECT count(*), count(DISTINCT batch_id) FROM t";
        let stored = server.client().await.rows(stored).await;
        assert_eq!(stored, [format!("{}|{batches}", 10 * batches)], "{report}");
    }
}

const MOMENT: Duration = Duration::from_millis(20);

const LOADED: &str =
    "CREATE TABLE t (batch_id BIGINT, timestamp TIMESTAMP, value DOUBLE, category VARCHAR)";

async fn forget(client: &Client) {
    let forget = Action::new("forget_producers", r#"{"producer":"p"}"#);
    let forgotten = client.flight().do_action(forget).await;
    let forgotten: Vec<_> = forgotten.unwrap().try_collect().await.unwrap();
    assert_eq!(forgotten, [r#"{"forgotten":1}"#]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loader_that_is_fenced_because_its_producer_is_forgotten_says_so() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.execute(LOADED).await;
    let loading = tokio::spawn({
        let address = server.address().to_owned();
        async move { load(&address, resuming(Commit::Batch, MOMENT, 100_000)).await }
    });
    let some = async { while client.count("t").await < 30 {} };
    soon("three batches", some).await;
    forget(&client).await;
    let report = soon("the loader's end", loading).await.unwrap();
    let error = report.first_error.unwrap();
    assert!(error.contains("has forgotten this producer"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loader_whose_producer_is_forgotten_ends_and_doubles_nothing() {
    for commit in [Commit::Stream, Commit::Batch] {
        let servers = Servers::new();
        let server = servers.start("127.0.0.1:0");
        let address = server.address().to_owned();
        let client = server.client().await;
        client.execute(LOADED).await;
        let loading = tokio::spawn({
            let (address, plan) = (address.clone(), resuming(commit, MOMENT, 100_000));
            async move { load(&address, plan).await }
        });
        let some = async { while client.count("t").await < 30 {} };
        soon("three batches", some).await;
        end(server, "KILL");
        // Where the loader does not come: a batch of it would be remembered again.
        let server = servers.start("127.0.0.1:0");
        let client = server.client().await;
        forget(&client).await;
        end(server, "TERM");
        let server = servers.start(&address);
        let report = soon("the loader's end", loading).await.unwrap();
        assert!(!report.is_success(), "{report}");
        assert_eq!((report.lost, report.still_lost), (0, 0), "{report}");
        let error = report.first_error.unwrap();
        assert!(error.contains("has forgotten this producer"), "{error}");
        // The next process knows nothing but what is there.
        let next = load(&address, resuming(commit, MOMENT, 3));
        let error = soon("the next one's end", next).await.first_error.unwrap();
        assert!(error.contains("has forgotten this producer"), "{error}");
        let doubled = "SELECT batch_id FROM t GROUP BY batch_id HAVING count(*) <> 10";
        assert_eq!(server.client().await.rows(doubled).await, [""; 0]);
        end(server, "TERM");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_into_a_table_that_was_dropped_begins_anew_once_its_producer_is_forgotten() {
    for commit in [Commit::Stream, Commit::Batch] {
        let server = TestServer::start().await;
        let client = server.client().await;
        let connect = ConnectOptions {
            server: server.address().to_owned(),
        };
        let plan = Plan {
            interval: None,
            ..resuming(commit, MOMENT, 5)
        };
        let elsewhere = Plan {
            table: "elsewhere".into(),
            ..plan.clone()
        };
        for plan in [&plan, &elsewhere] {
            assert!(load(server.address(), plan.clone()).await.is_success());
        }
        client.execute("DROP TABLE t").await;
        for resume in [true, false] {
            let plan = Plan {
                resume,
                ..plan.clone()
            };
            let report = load(server.address(), plan).await;
            assert!(!report.is_success(), "{report}");
            let error = report.first_error.unwrap();
            assert!(error.contains("--forget"), "{error}");
        }
        let answer = duck_load::forget(&connect, &plan).await.unwrap();
        assert_eq!(answer.forgotten, 1);
        for plan in [plan, elsewhere] {
            let report = load(server.address(), plan.clone()).await;
            assert!(report.is_success(), "{report}");
            let table = plan.table.to_sql();
            assert_eq!(client.count(&table).await, 50, "{table}");
        }
    }
}

/// On one thread the end of a connection is heard of before a later server's answer.
#[tokio::test]
async fn a_batch_is_not_in_doubt_whose_loader_lost_its_connection_before() {
    let servers = Servers::new();
    let server = servers.start("127.0.0.1:0");
    let address = server.address().to_owned();
    let plan = Plan {
        rows: NonZeroU32::new(10).unwrap(),
        commit: Commit::Batch,
        ..Plan::new("t")
    };
    let connect = ConnectOptions {
        server: address.clone(),
    };
    let targets = FlightTarget::connect_all(&connect, &plan, &Progress::silent()).await;
    let mut target = targets.unwrap().remove(0);
    let mut source = BatchSource::for_writers(&plan, 1).remove(0);
    target.send(&source.next_batch()).unwrap();
    soon("an ack", target.answer()).await.unwrap();
    end(server, "KILL");
    let server = servers.start(&address);
    let client = server.client().await;
    assert_eq!(client.count("t").await, 10);
    target.send(&source.next_batch()).unwrap();
    let ack = soon("an ack", target.answer()).await.unwrap();
    assert_eq!((ack.rows, client.count("t").await), (10, 20));
    end(server, "TERM");
}

/// On one thread, as above.
#[tokio::test]
async fn a_later_server_is_not_asked_for_the_rows_of_the_one_before() {
    let servers = Servers::new();
    let server = servers.start("127.0.0.1:0");
    let connect = ConnectOptions {
        server: server.address().to_owned(),
    };
    let plan = resuming(Commit::Stream, MOMENT, 1);
    let targets = FlightTarget::connect_all(&connect, &plan, &Progress::silent()).await;
    let mut target = targets.unwrap().remove(0);
    assert_eq!(soon("a position", target.locate()).await.unwrap(), 0);
    assert!(!soon("an answer", target.has_table()).await.unwrap());
    end(server, "KILL");
    let server = servers.start(&connect.server);
    let client = server.client().await;
    assert_eq!(client.count("duck_flight.producers").await, 0);
    let failure = soon("an answer", target.holds([1, 1])).await.unwrap_err();
    assert_eq!(failure.oldest, Outcome::Retriable, "{failure:?}");
    assert_eq!(soon("a position", target.locate()).await.unwrap(), 0);
    assert!(!soon("an answer", target.holds([1, 1])).await.unwrap());
    end(server, "TERM");
}
