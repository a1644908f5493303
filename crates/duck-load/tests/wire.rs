//! The loader against a Flight service that keeps what it is sent, over a real connection.

mod keeper;
mod process;

use std::collections::HashSet;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use duck_flight_protocol::{Commit, ConnectOptions};
use duck_load::{Plan, Progress, Report, Stop};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Notify;

use keeper::{Fault, Keeper, Spoil};
use process::Process;

const BOTH: [Commit; 2] = [Commit::Stream, Commit::Batch];

/// How long a test waits for an end: it only says that there is none.
const PATIENCE: Duration = Duration::from_secs(30);

fn plan(commit: Commit) -> Plan {
    Plan {
        writers: NonZeroUsize::new(4).unwrap(),
        batches: NonZeroU64::new(50),
        commit,
        ..Plan::new("odd \"name\".x")
    }
}

#[tokio::test]
async fn every_acknowledged_batch_arrives_whole_and_once() {
    for commit in BOTH {
        let keeper = Keeper::new([]);
        let report = keeper.load(&plan(commit)).await;
        assert!(report.is_success(), "{report}");
        assert_eq!((report.rows, report.batches), (200_000, 200));
        let rows = keeper.rows_by_id();
        assert_eq!(rows.len(), 200);
        assert!(rows.values().all(|rows| *rows == 1000));
    }
}

#[tokio::test]
async fn stream_commit_is_a_put_per_batch_and_batch_commit_a_put_per_writer() {
    for (commit, puts) in [(Commit::Stream, 200), (Commit::Batch, 4)] {
        let keeper = Keeper::new([]);
        keeper.load(&plan(commit)).await;
        let kept = keeper.kept();
        assert_eq!(kept.puts.len(), puts);
        for options in &kept.puts {
            assert_eq!(options.table, "odd \"name\".x".into());
            assert_eq!(options.commit, commit);
        }
    }
}

#[tokio::test]
async fn what_the_server_turns_down_for_now_is_sent_again() {
    for commit in BOTH {
        let keeper = Keeper::new([(1, Fault::Refuse), (2, Fault::Refuse)]);
        let plan = Plan {
            writers: NonZeroUsize::MIN,
            in_flight: NonZeroUsize::MIN,
            ..plan(commit)
        };
        let report = keeper.load(&plan).await;
        assert!(report.is_success(), "{report}");
        assert_eq!((report.batches, report.retries), (50, 2));
        assert_eq!(keeper.rows_by_id().len(), 50);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_says_does_not_move_the_cursor() {
    let keeper = Keeper::new([(1, Fault::Refuse)]);
    let server = keeper.serve().await.server;
    let mut command = Command::new(env!("CARGO_BIN_EXE_duck-load"));
    command.args(["--server", &server, "--batches", "1"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("the queue is full\\x07"), "{said:?}");
}

#[tokio::test]
async fn a_large_batch_goes_into_one_put_as_several_messages() {
    let keeper = Keeper::new([]);
    let plan = Plan {
        rows: NonZeroU32::new(200_000).unwrap(),
        batches: NonZeroU64::new(1),
        writers: NonZeroUsize::MIN,
        ..plan(Commit::Stream)
    };
    let report = keeper.load(&plan).await;
    assert!(report.is_success(), "{report}");
    let rows: Vec<_> = keeper.rows_by_id().into_values().collect();
    assert_eq!(rows, [200_000]);
    assert_eq!(keeper.kept().batches.len(), 4);
}

#[tokio::test]
async fn loaders_started_together_never_share_an_id_even_with_one_seed() {
    let keeper = Keeper::new([]);
    let server = keeper.serve().await;
    let plan = Plan {
        seed: Some(1),
        ..plan(Commit::Batch)
    };
    let loads = (0..8).map(|_| duck_load::load(&server, &plan, Progress::silent(), Stop::never()));
    let reports = futures::future::try_join_all(loads).await.unwrap();
    assert!(reports.iter().all(Report::is_success));
    let ids: HashSet<_> = keeper.rows_by_id().into_keys().collect();
    assert_eq!(ids.len(), 8 * 200);
}

fn producer(commit: Commit) -> Plan {
    Plan {
        producer: Some("events".into()),
        verify: true,
        ..plan(commit)
    }
}

fn resuming(commit: Commit) -> Plan {
    Plan {
        resume: true,
        ..producer(commit)
    }
}

async fn load(server: &ConnectOptions, plan: &Plan) -> Report {
    duck_load::load(server, plan, Progress::silent(), Stop::never())
        .await
        .unwrap()
}

/// Every batch of the four producers landed once, in order, and was never sent with other content.
fn assert_exactly_once(keeper: &Keeper, batches: u64) {
    let rows = keeper.rows_by_id();
    assert!(rows.values().all(|rows| *rows == 1000));
    let kept = keeper.kept();
    assert_eq!(kept.altered, 0);
    assert_eq!(kept.producers.len(), 4);
    let expected: Vec<_> = (1..=batches).collect();
    for (name, sequences) in &kept.producers {
        assert_eq!(*sequences, expected, "{name}");
    }
    assert_eq!(u64::try_from(rows.len()).unwrap(), 4 * batches);
}

#[tokio::test]
async fn a_resuming_producer_lands_every_batch_once_through_cuts_and_lost_acks() {
    for commit in BOTH {
        let faults = [Fault::Cut, Fault::LoseAck, Fault::Refuse, Fault::LoseAck];
        let keeper = Keeper::new([2, 31, 60, 61].into_iter().zip(faults));
        // More failures than a plan without resuming would bear.
        let plan = Plan {
            retries: 0,
            ..resuming(commit)
        };
        let report = keeper.load(&plan).await;
        assert!(report.is_success(), "{report}");
        assert_exactly_once(&keeper, 50);
        assert_eq!((report.rows, report.batches), (200_000, 200));
        // Those whose ack got lost are found to be durable.
        assert!(report.retries >= 2, "{report}");
        let proof = report.verification.unwrap();
        assert_eq!(
            (proof.batches_acknowledged, proof.rows_found),
            (200, 200_000)
        );
    }
}

#[tokio::test]
async fn a_producer_survives_a_lost_ack_without_resuming_too() {
    for commit in BOTH {
        let keeper = Keeper::new([(10, Fault::LoseAck)]);
        let report = keeper.load(&producer(commit)).await;
        assert!(report.is_success(), "{report}");
        assert_exactly_once(&keeper, 50);
        assert_eq!((report.rows, report.batches), (200_000, 200));
    }
}

#[tokio::test]
async fn a_restarted_loader_goes_on_and_a_complete_one_sends_nothing() {
    for commit in BOTH {
        let keeper = Keeper::new([]);
        let server = keeper.serve().await;
        let first = Plan {
            batches: NonZeroU64::new(20),
            ..resuming(commit)
        };
        load(&server, &first).await;
        let report = load(&server, &resuming(commit)).await;
        assert_eq!((report.batches, report.resumed), (120, 80), "{report}");
        assert_exactly_once(&keeper, 50);
        let units = keeper.kept().units;
        let report = load(&server, &resuming(commit)).await;
        assert!(report.is_success(), "{report}");
        assert_eq!((report.batches, report.resumed), (0, 200));
        assert_eq!(keeper.kept().units, units);
        // What earlier processes loaded is verified too.
        assert_eq!(report.verification.unwrap().batches_found_once, 200);
    }
}

#[tokio::test]
async fn without_resuming_a_second_run_is_all_duplicates() {
    for commit in BOTH {
        let keeper = Keeper::new([]);
        let server = keeper.serve().await;
        load(&server, &producer(commit)).await;
        let report = load(&server, &producer(commit)).await;
        assert!(report.is_success(), "{report}");
        assert_eq!((report.batches, report.duplicates), (0, 200));
        assert_exactly_once(&keeper, 50);
    }
}

#[tokio::test]
async fn a_fenced_producer_ends_and_says_why() {
    for commit in BOTH {
        let keeper = Keeper::new([(7, Fault::Fence)]);
        let plan = Plan {
            writers: NonZeroUsize::MIN,
            ..resuming(commit)
        };
        let report = keeper.load(&plan).await;
        assert!(!report.is_success(), "{report}");
        assert_eq!(report.batches, 6);
        let error = report.first_error.unwrap();
        assert!(error.starts_with("another process sends as"), "{error}");
        // Nothing was sent again.
        assert_eq!(keeper.kept().producers["events"].len(), 6);
    }
}

/// Six batches are acknowledged, and the server fails at the seventh each time, until it is mended.
#[tokio::test]
async fn a_batch_at_which_the_server_fails_each_time_ends_a_resuming_loader_until_it_is_mended() {
    for commit in BOTH {
        let keeper = Keeper::new((7..100).map(|unit| (unit, Fault::Fail)));
        let server = keeper.serve().await;
        let plan = Plan {
            writers: NonZeroUsize::MIN,
            in_flight: NonZeroUsize::MIN,
            retries: 2,
            ..resuming(commit)
        };
        let report = tokio::time::timeout(PATIENCE, load(&server, &plan)).await;
        let report = report.expect("an end");
        assert!(!report.is_success(), "{report}");
        assert_eq!((report.batches, report.errors), (6, 0), "{report}");
        assert_eq!((report.unknown, report.unsent), (1, 43), "{report}");
        assert_eq!(keeper.kept().units, 6 + 3);
        let error = report.first_error.unwrap();
        for words in ["sequence 7 of producer `events`", "a writer panicked"] {
            assert!(error.contains(words), "{error}");
        }
        let proof = report.verification.unwrap();
        assert!(proof.verified, "{proof}");
        assert_eq!(
            (proof.batches_found_once, proof.batches_unacknowledged),
            (6, 1)
        );
        keeper.kept().faults.clear();
        let report = load(&server, &plan).await;
        assert!(report.is_success(), "{report}");
        assert_eq!((report.batches, report.resumed), (44, 6), "{report}");
        assert_eq!(keeper.rows_by_id().len(), 50);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_ends_at_a_fault_of_the_server_exits_with_1_and_names_the_batch() {
    let keeper = Keeper::new((2..100).map(|unit| (unit, Fault::Fail)));
    let server = keeper.serve().await.server;
    let mut command = Command::new(env!("CARGO_BIN_EXE_duck-load"));
    let resume = ["--producer", "p", "--resume", "--retries", "1"];
    command.args(["--server", &server, "--batches", "3"]);
    command.args(resume);
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    let summary = String::from_utf8(output.stdout).unwrap();
    for text in [said, summary] {
        let named = "the server has failed at sequence 2 of producer `p`, 2 times";
        assert!(text.contains(named), "{text}");
        assert!(text.contains("run the same command again"), "{text}");
    }
}

#[tokio::test]
async fn a_resuming_loader_waits_for_a_server_that_comes_later() {
    // It is taken from the start, so that no other test is given its port; but nobody listens.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let server = ConnectOptions {
        server: address.to_string(),
    };
    let impatient = Plan {
        give_up_after: Duration::from_millis(50),
        ..resuming(Commit::Batch)
    };
    let refused = duck_load::load(&server, &impatient, Progress::silent(), Stop::never());
    assert!(refused.await.is_err());
    let loading = tokio::spawn(async move { load(&server, &resuming(Commit::Batch)).await });
    // Time enough for a first attempt; coming too early would only make the test easier.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let keeper = Keeper::new([]);
    keeper.serve_on(socket.listen(1024).unwrap()).await;
    let report = loading.await.unwrap();
    assert!(report.is_success(), "{report}");
    assert_exactly_once(&keeper, 50);
}

#[tokio::test]
async fn a_resuming_loader_waits_for_a_server_that_goes_away_while_it_connects() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = ConnectOptions {
        server: address.to_string(),
    };
    let loading = tokio::spawn(async move { load(&server, &resuming(Commit::Batch)).await });
    let (first, _) = listener.accept().await.unwrap();
    // The first of four connections stands.
    first.readable().await.unwrap();
    drop(first);
    drop(listener);
    let keeper = Keeper::new([]);
    keeper
        .serve_on(TcpListener::bind(address).await.unwrap())
        .await;
    let report = loading.await.unwrap();
    assert!(report.is_success(), "{report}");
    assert_exactly_once(&keeper, 50);
}

#[tokio::test]
async fn a_proof_fails_when_the_table_does_not_hold_what_was_acknowledged() {
    let spoils: [(Spoil, &str); 3] = [
        (|table| drop(table.remove(3)), "1 missing"),
        (|table| table.push(table[3].clone()), "1 doubled"),
        (|table| table[3] = table[3].slice(0, 999), "1 damaged"),
    ];
    for (spoil, expected) in spoils {
        let keeper = Keeper::new([]);
        keeper.kept().spoil = Some(spoil);
        let plan = Plan {
            verify: true,
            ..plan(Commit::Batch)
        };
        let report = keeper.load(&plan).await;
        assert!(!report.is_success(), "{report}");
        let proof = report.verification.unwrap();
        assert!(proof.to_string().contains(expected), "{proof}");
        let id = keeper.kept().batches[3].column(0).clone();
        let id = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(&id).value(0);
        assert_eq!(proof.offenders.len(), 1);
        assert_eq!(proof.offenders[0].batch_id, id);
    }
}

/// Twenty batches are acknowledged, an older copy of three takes the server's place, and the run is stopped while the fourth
/// is sent again.
#[tokio::test]
async fn a_proof_fails_when_what_was_acknowledged_is_lost_and_not_sent_again() {
    for plan in BOTH.into_iter().flat_map(|it| [producer(it), resuming(it)]) {
        let keeper = Keeper::new([(21, Fault::Restore(3)), (22, Fault::Pause)]);
        let server = keeper.serve().await;
        let plan = Plan {
            writers: NonZeroUsize::MIN,
            in_flight: NonZeroUsize::MIN,
            ..plan
        };
        let restored = keeper.clone();
        let stop = Stop::on(async move {
            while restored.kept().units < 22 {
                tokio::task::yield_now().await;
            }
            // On one thread the stop is asked for before anybody hears of this.
            restored.kept().go_on.notify_one();
        });
        let report = duck_load::load(&server, &plan, Progress::silent(), stop);
        let report = report.await.unwrap();
        assert_eq!((report.batches, report.lost), (20, 17), "{report}");
        assert_eq!(report.still_lost, 16, "{report}");
        assert!(report.interrupted && !report.is_success(), "{report}");
        let proof = report.verification.unwrap();
        assert!(!proof.verified, "{proof}");
        assert_eq!(proof.batches_acknowledged, 20, "{proof}");
        assert_eq!((proof.batches_found_once, proof.batches_missing), (4, 16));
    }
}

/// As where the sequences of the producer are times that somebody else has given.
#[tokio::test]
async fn a_proof_takes_no_longer_the_farther_others_have_brought_the_producer() {
    for (last, expected) in [
        (1 << 33, "; 8589934592 missing, "),
        (
            1 << 40,
            "is at sequence 1099511627776, and a proof goes up to 17179869184",
        ),
    ] {
        let keeper = Keeper::new([]);
        let committed = vec![last];
        keeper.kept().producers.insert("events".into(), committed);
        let plan = Plan {
            writers: NonZeroUsize::MIN,
            ..resuming(Commit::Batch)
        };
        let report = keeper.load(&plan).await;
        assert!(!report.is_success(), "{report}");
        let proof = report.verification.unwrap();
        assert!(proof.to_string().contains(expected), "{proof}");
    }
}

#[tokio::test]
async fn an_unknown_batch_of_a_plain_load_may_be_there_or_not() {
    for (fault, present) in [(Fault::LoseAck, 1), (Fault::Cut, 0)] {
        let keeper = Keeper::new([(3, fault)]);
        let plan = Plan {
            writers: NonZeroUsize::MIN,
            verify: true,
            ..plan(Commit::Stream)
        };
        let report = keeper.load(&plan).await;
        assert_eq!((report.batches, report.unknown), (49, 1), "{report}");
        let proof = report.verification.unwrap();
        assert!(proof.verified, "{proof}");
        assert_eq!(proof.batches_unacknowledged, 1);
        assert_eq!(proof.batches_unacknowledged_present, present);
    }
}

#[tokio::test]
async fn a_proof_is_waited_for_as_long_as_the_plan_says_and_no_longer() {
    let keeper = Keeper::new([]);
    keeper.kept().asked = Some(Arc::default());
    for plan in [plan(Commit::Batch), resuming(Commit::Batch)] {
        let plan = Plan {
            verify: true,
            give_up_after: Duration::from_millis(300),
            ..plan
        };
        // The answer never comes, so the waiting for it ends only as the plan says.
        let report = tokio::time::timeout(PATIENCE, keeper.load(&plan)).await;
        let report = report.expect("an end");
        let proof = report.verification.unwrap();
        assert_eq!(proof.error.unwrap(), "no answer within 300ms");
        assert!(!report.interrupted && !proof.verified);
    }
}

#[tokio::test]
async fn a_stop_ends_the_waiting_for_a_proof() {
    let keeper = Keeper::new([]);
    let asked = Arc::new(Notify::new());
    keeper.kept().asked = Some(asked.clone());
    let server = keeper.serve().await;
    let plan = Plan {
        verify: true,
        ..plan(Commit::Batch)
    };
    let stop = Stop::on(async move { asked.notified().await });
    let loading = duck_load::load(&server, &plan, Progress::silent(), stop);
    let report = tokio::time::timeout(PATIENCE, loading).await;
    let report = report.expect("an end").unwrap();
    assert_eq!(report.batches, 200);
    assert!(report.interrupted && report.verification.is_none());
}

/// Runs the command until the keeper has some batches, interrupts it, and answers with its exit code and its report.
async fn interrupted(signal: &str, flags: &[&str]) -> (Option<i32>, serde_json::Value) {
    let keeper = Keeper::new([]);
    let server = keeper.serve().await.server;
    let mut process = Process::start(
        Command::new(env!("CARGO_BIN_EXE_duck-load"))
            .args(["--server", &server, "--interval", "5ms", "--format", "json"])
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::null()),
    );
    let ended = async {
        while keeper.kept().units < 10 {
            assert_eq!(process.0.try_wait().unwrap(), None, "it ended too soon");
            tokio::time::sleep(LOOK).await;
        }
        process.signal(signal);
        loop {
            if let Some(status) = process.0.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await;
    let status = ended.expect("an end");
    // The report is short enough to wait in the pipe.
    let report = serde_json::from_reader(process.0.stdout.take().unwrap()).unwrap();
    (status.code(), report)
}

/// How often a child is looked at.
const LOOK: Duration = Duration::from_millis(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_was_interrupted_is_not_taken_for_done() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        for flags in [["--batches", "10000"], ["--duration", "1h"]] {
            let (found, report) = interrupted(signal, &flags).await;
            assert_eq!(found, Some(code), "{flags:?}");
            assert_eq!(report["interrupted"], true, "{report}");
            assert_eq!(report["errors"], 0, "{report}");
        }
    }
}

/// The stop comes while the answer to the last batch is waited for.
#[tokio::test]
async fn a_load_that_has_sent_all_is_not_interrupted_by_a_late_stop() {
    let keeper = Keeper::new([]);
    let server = keeper.serve().await;
    let plan = plan(Commit::Stream);
    let at_the_last = keeper.clone();
    let stop = Stop::on(async move {
        while at_the_last.kept().units < 200 {
            tokio::task::yield_now().await;
        }
    });
    let report = duck_load::load(&server, &plan, Progress::silent(), stop);
    let report = report.await.unwrap();
    assert_eq!(report.batches, 200);
    assert!(!report.interrupted, "{report}");
}
