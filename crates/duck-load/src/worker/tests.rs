use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::sync::{Arc, Mutex};

use duck_flight_protocol::Commit;
use tokio::time::sleep;

use super::*;
use crate::Report;
use crate::target::fake::{Answer, FakeTarget, Seen};

pub(super) const ROWS: u64 = 10;

pub(super) fn plan(batches: u64) -> Plan {
    Plan {
        rows: NonZeroU32::new(10).unwrap(),
        batches: NonZeroU64::new(batches),
        ..Plan::new("t")
    }
}

pub(super) fn pipelined(batches: u64, in_flight: usize) -> Plan {
    Plan {
        commit: Commit::Batch,
        in_flight: NonZeroUsize::new(in_flight).unwrap(),
        ..plan(batches)
    }
}

pub(super) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) fn failure(oldest: Outcome) -> Answer {
    Answer::Fail(Failure::of_oldest(oldest, "oops"))
}

pub(super) async fn run(plan: &Plan, target: FakeTarget) -> (Report, Arc<Mutex<Seen>>) {
    run_until(plan, target, Stop::never()).await
}

pub(super) async fn run_until(
    plan: &Plan,
    target: FakeTarget,
    stop: Stop,
) -> (Report, Arc<Mutex<Seen>>) {
    let seen = target.seen();
    let report = crate::run(plan, vec![target], Progress::silent(), stop).await;
    (report, seen)
}

pub(super) fn sequences(seen: &Arc<Mutex<Seen>>) -> Vec<u64> {
    seen.lock().unwrap().sequences.clone()
}

fn assert_close(found: Option<f64>, expected: f64) {
    let found = found.unwrap();
    let difference = (found / expected - 1.0).abs();
    assert!(difference < 0.002, "{found} is not {expected}");
}

#[tokio::test(start_paused = true)]
async fn counts_percentiles_and_rate_are_those_of_the_target() {
    let script = (1..=100).map(|ms| (millis(ms), Answer::Ack)).collect();
    let (report, seen) = run(&plan(100), FakeTarget::new(script)).await;
    assert_eq!((report.rows, report.batches), (1000, 100));
    assert_close(report.latency_ms_p50, 50.0);
    assert_close(report.latency_ms_p95, 95.0);
    assert_close(report.latency_ms_p99, 99.0);
    assert_close(report.latency_ms_max, 100.0);
    // 1 + 2 + ... + 100 milliseconds, one batch after the other.
    assert_close(Some(report.elapsed_seconds), 5.05);
    assert_close(Some(report.rows_per_second), 1000.0 / 5.05);
    assert!(report.is_success());
    assert!(seen.lock().unwrap().closed);
}

#[tokio::test(start_paused = true)]
async fn writers_start_together_and_their_counts_add_up() {
    let targets = (1..=4)
        .map(|n| FakeTarget::steady(millis(10 * n)))
        .collect();
    let report = crate::run(&plan(5), targets, Progress::silent(), Stop::never()).await;
    assert_eq!((report.rows, report.batches), (20 * ROWS, 20));
    assert_close(Some(report.elapsed_seconds), 0.2);
}

#[tokio::test(start_paused = true)]
async fn at_a_fixed_pace_latency_counts_from_the_planned_start() {
    let plan = Plan {
        interval: Some(millis(10)),
        ..plan(4)
    };
    let mut script = vec![(millis(1), Answer::Ack); 4];
    script[0].0 = millis(100);
    let (report, _) = run(&plan, FakeTarget::new(script)).await;
    // The first takes 100; the others, due at 10, 20 and 30, are done at 101, 102 and 103.
    assert_close(report.latency_ms_max, 100.0);
    assert_close(report.latency_ms_p50, 82.0);
    assert_close(Some(report.elapsed_seconds), 0.103);
}

#[tokio::test(start_paused = true)]
async fn a_fixed_pace_is_kept_while_the_target_keeps_up() {
    let plan = Plan {
        interval: Some(millis(10)),
        ..plan(100)
    };
    let (report, _) = run(&plan, FakeTarget::steady(millis(2))).await;
    assert_close(report.latency_ms_max, 2.0);
    assert_close(Some(report.elapsed_seconds), 0.992);
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_holds_no_more_than_its_window() {
    let (report, seen) = run(&pipelined(100, 8), FakeTarget::steady(millis(1))).await;
    assert_eq!(report.batches, 100);
    assert_eq!(seen.lock().unwrap().most_waiting, 8);
    // The target is never idle.
    assert_close(Some(report.elapsed_seconds), 0.1);
    assert_close(report.latency_ms_p50, 8.0);
}

#[tokio::test(start_paused = true)]
async fn what_is_retriable_is_sent_again_under_its_id_and_counted_once() {
    let script = vec![
        (millis(5), failure(Outcome::Retriable)),
        (millis(5), failure(Outcome::Retriable)),
        (millis(5), Answer::Ack),
    ];
    let (report, seen) = run(&plan(1), FakeTarget::new(script)).await;
    assert_eq!((report.rows, report.batches), (ROWS, 1));
    assert_eq!((report.retries, report.errors, report.unknown), (2, 0, 0));
    assert!(report.is_success());
    let ids = &seen.lock().unwrap().ids;
    assert_eq!(ids.len(), 3);
    assert!(ids.iter().all(|id| *id == ids[0]));
    // 3 times 5 ms, and waits of 50 to 100 ms and 100 to 200 ms, are all part of the latency.
    let latency = report.latency_ms_max.unwrap();
    assert!((165.0..=318.0).contains(&latency), "{latency}");
}

#[tokio::test(start_paused = true)]
async fn retries_come_to_an_end_and_the_writer_gives_up() {
    let plan = Plan {
        retries: 3,
        ..plan(10)
    };
    let script = vec![(millis(1), failure(Outcome::Retriable))];
    let (report, seen) = run(&plan, FakeTarget::new(script)).await;
    assert_eq!((report.rows, report.errors, report.retries), (0, 1, 3));
    assert_eq!(seen.lock().unwrap().ids.len(), 4);
    assert_eq!(report.first_error.as_deref(), Some("oops"));
    assert!(!report.is_success());
}

#[tokio::test(start_paused = true)]
async fn an_unknown_batch_is_never_sent_again() {
    let script = vec![
        (millis(1), failure(Outcome::Unknown)),
        (millis(1), Answer::Ack),
        (millis(1), Answer::Ack),
    ];
    let (report, seen) = run(&plan(3), FakeTarget::new(script)).await;
    assert_eq!((report.batches, report.unknown, report.retries), (2, 1, 0));
    let ids = &seen.lock().unwrap().ids;
    assert!(ids[0] != ids[1] && ids[1] != ids[2]);
    assert!(!report.is_success());
}

#[tokio::test(start_paused = true)]
async fn batches_behind_one_that_was_turned_down_are_sent_again_in_order() {
    let mut script = vec![(millis(1), Answer::Ack); 10];
    script[1].1 = failure(Outcome::Retriable);
    let (report, seen) = run(&pipelined(4, 4), FakeTarget::new(script.clone())).await;
    assert!(report.is_success(), "{report}");
    assert_eq!((report.batches, report.retries), (4, 3));
    let ids = seen.lock().unwrap().ids.clone();
    assert_eq!(ids.len(), 7);
    assert_eq!(ids[1..4], ids[4..]);
    // What was refused is not.
    script[1].1 = failure(Outcome::Refused);
    let (report, seen) = run(&pipelined(4, 4), FakeTarget::new(script)).await;
    assert_eq!((report.batches, report.errors, report.unknown), (3, 1, 0));
    let ids = seen.lock().unwrap().ids.clone();
    assert_eq!(ids.len(), 6);
    assert_eq!(ids[2..4], ids[4..]);
}

#[tokio::test(start_paused = true)]
async fn batches_behind_an_unknown_one_are_unknown() {
    let mut script = vec![(millis(1), Answer::Ack); 10];
    script[1].1 = failure(Outcome::Unknown);
    let (report, seen) = run(&pipelined(4, 4), FakeTarget::new(script)).await;
    assert_eq!((report.batches, report.unknown, report.retries), (1, 3, 0));
    assert_eq!(seen.lock().unwrap().ids.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_batch_behind_others_that_fail_keeps_its_retries() {
    let plan = Plan {
        retries: 1,
        ..pipelined(4, 4)
    };
    for (outcome, failing, sent, batches) in [
        (
            Outcome::Refused,
            vec![0, 4, 7],
            vec![1, 2, 3, 4, 2, 3, 4, 3, 4, 4],
            1,
        ),
        (
            Outcome::Retriable,
            vec![0, 5, 9, 12],
            vec![1, 2, 3, 4, 1, 2, 3, 4, 2, 3, 4, 3, 4, 4],
            4,
        ),
    ] {
        let mut script = vec![(millis(1), Answer::Ack); 14];
        for position in failing {
            script[position].1 = failure(outcome);
        }
        let (report, seen) = run(&plan, FakeTarget::new(script)).await;
        assert_eq!(sequences(&seen), sent);
        assert_eq!((report.batches, report.unknown), (batches, 0));
        assert_eq!(report.errors, 4 - batches);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_that_is_always_refused_gives_up_and_nothing_is_unknown() {
    let script = vec![(millis(1), failure(Outcome::Refused))];
    let (report, _) = run(&pipelined(1000, 32), FakeTarget::new(script)).await;
    assert_eq!((report.batches, report.unknown), (0, 0));
    assert_eq!(report.errors + report.unsent, 1000);
    assert_eq!(report.first_error.as_deref(), Some("oops"));
}

#[tokio::test(start_paused = true)]
async fn without_a_connection_all_batches_are_sent_again_in_order() {
    let lost = Failure::of_all(Outcome::Retriable, "no connection");
    let script = [
        vec![(millis(1), Answer::Fail(lost))],
        vec![(millis(1), Answer::Ack); 8],
    ]
    .concat();
    let (report, seen) = run(&pipelined(4, 3), FakeTarget::new(script)).await;
    assert_eq!((report.batches, report.retries), (4, 3));
    let ids = &seen.lock().unwrap().ids;
    assert_eq!(ids[..3], ids[3..6]);
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_is_always_refused_gives_up() {
    let script = vec![(millis(1), failure(Outcome::Refused))];
    let (report, seen) = run(&plan(1000), FakeTarget::new(script)).await;
    assert_eq!((report.batches, report.errors), (0, 5));
    assert_eq!(report.unsent, 995);
    assert_eq!(seen.lock().unwrap().ids.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn an_ack_of_other_rows_is_not_an_ack() {
    let script = vec![(millis(1), Answer::AckOf(9)), (millis(1), Answer::Ack)];
    let (report, _) = run(&plan(2), FakeTarget::new(script)).await;
    assert_eq!((report.batches, report.rows, report.unknown), (1, ROWS, 1));
    let error = report.first_error.unwrap();
    assert!(error.contains("9 rows of 10"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_never_comes_is_unknown_after_the_timeout() {
    let plan = Plan {
        ack_timeout: millis(500),
        ..plan(2)
    };
    let script = vec![(millis(1), Answer::Silence), (millis(1), Answer::Ack)];
    let (report, _) = run(&plan, FakeTarget::new(script)).await;
    assert_eq!((report.batches, report.unknown), (1, 1));
    assert_close(Some(report.elapsed_seconds), 0.501);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_goes_on_answering_is_waited_for_however_long_the_queue_is() {
    let plan = Plan {
        ack_timeout: millis(500),
        ..pipelined(20, 8)
    };
    let (report, _) = run(&plan, FakeTarget::steady(millis(200))).await;
    assert!(report.is_success(), "{report}");
    assert_close(report.latency_ms_max, 1600.0);
}

#[tokio::test(start_paused = true)]
async fn a_duration_ends_the_sending_and_the_last_answers_still_count() {
    let plan = Plan {
        batches: None,
        duration: Some(millis(100)),
        ..plan(1)
    };
    let (report, seen) = run(&plan, FakeTarget::steady(millis(30))).await;
    assert_eq!(report.batches, 4);
    assert_close(Some(report.elapsed_seconds), 0.12);
    assert!(seen.lock().unwrap().closed);
    assert!(!report.interrupted);
}

#[tokio::test(start_paused = true)]
async fn the_fewer_of_batches_and_duration_ends_the_sending() {
    let plan = Plan {
        duration: Some(millis(1000)),
        ..plan(3)
    };
    let (report, _) = run(&plan, FakeTarget::steady(millis(10))).await;
    assert_eq!(report.batches, 3);
}

#[tokio::test(start_paused = true)]
async fn batches_for_which_the_duration_has_no_time_are_not_missed() {
    let plan = Plan {
        interval: Some(millis(100)),
        duration: Some(millis(1000)),
        ..plan(50)
    };
    // The last one is sent, and answered, before the time is over.
    let (report, _) = run(&plan, FakeTarget::steady(millis(1))).await;
    assert_eq!((report.batches, report.unsent), (10, 0), "{report}");
    assert!(!report.interrupted);
    // Those of a writer that gave up are, however long the others went on.
    let refused = FakeTarget::new(vec![(millis(1), failure(Outcome::Refused))]);
    let targets = vec![refused, FakeTarget::steady(millis(1))];
    let report = crate::run(&plan, targets, Progress::silent(), Stop::never()).await;
    assert_eq!((report.batches, report.errors), (10, 5), "{report}");
    assert_eq!(report.unsent, 45);
}

#[tokio::test(start_paused = true)]
async fn a_stop_sends_nothing_more_and_waits_for_outstanding_acks() {
    let plan = Plan {
        batches: None,
        ..pipelined(1, 4)
    };
    let stop = Stop::on(sleep(millis(101)));
    let (report, seen) = run_until(&plan, FakeTarget::steady(millis(10)), stop).await;
    // Ten are answered when the stop comes, and four are under way.
    assert_eq!((report.batches, report.unknown, report.errors), (14, 0, 0));
    assert_eq!(seen.lock().unwrap().ids.len(), 14);
    assert!(seen.lock().unwrap().closed);
    assert!(report.interrupted && report.is_success());
}

#[tokio::test(start_paused = true)]
async fn a_stop_counts_what_waits_for_a_retry_as_not_committed() {
    let stop = Stop::on(sleep(millis(20)));
    let script = vec![(millis(1), failure(Outcome::Retriable))];
    let (report, _) = run_until(&plan(5), FakeTarget::new(script), stop).await;
    assert_eq!((report.batches, report.errors, report.retries), (0, 1, 0));
}
