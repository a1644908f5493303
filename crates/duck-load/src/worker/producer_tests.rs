use std::num::NonZeroUsize;

use duck_flight_protocol::ConnectOptions;
use tokio::time::sleep;

use super::tests::{ROWS, failure, millis, pipelined, plan, run, run_until, sequences};
use super::*;
use crate::target::fake::{Answer, FakeTarget};

fn producer(plan: Plan) -> Plan {
    Plan {
        producer: Some("p".into()),
        ..plan
    }
}

fn resuming(plan: Plan) -> Plan {
    Plan {
        resume: true,
        ..producer(plan)
    }
}

fn lost(outcome: Outcome) -> Failure {
    Failure::of_all(outcome, "lost")
}

#[tokio::test(start_paused = true)]
async fn a_producer_sends_an_unknown_batch_again_unless_it_is_durable() {
    let lose = Answer::Lose(lost(Outcome::Unknown));
    for (answer, sent) in [
        (failure(Outcome::Unknown), vec![1, 1, 2]),
        (lose, vec![1, 2]),
    ] {
        let mut script = vec![(millis(1), Answer::Ack); 3];
        script[0].1 = answer;
        let (report, seen) = run(&producer(plan(2)), FakeTarget::new(script)).await;
        assert!(report.is_success(), "{report}");
        assert_eq!((report.rows, report.batches), (2 * ROWS, 2));
        assert_eq!(report.duplicates, 0);
        assert_eq!(sequences(&seen), sent);
        let seen = seen.lock().unwrap();
        assert!(sent.len() == 2 || seen.ids[0] == seen.ids[1]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_server_has_lost_after_its_ack_is_sent_again_and_counted_once() {
    for plan in [plan(8), pipelined(8, 2)] {
        let mut script = vec![(millis(1), Answer::Ack); 30];
        script[6].1 = Answer::Restore(2, lost(Outcome::Unknown));
        for plan in [producer(plan.clone()), resuming(plan)] {
            let (report, seen) = run(&plan, FakeTarget::new(script.clone())).await;
            assert!(report.is_success(), "{report}");
            let sequences = sequences(&seen);
            let again = sequences.iter().rposition(|sequence| *sequence == 3);
            assert_eq!(sequences[again.unwrap()..], [3, 4, 5, 6, 7, 8]);
            assert_eq!((report.rows, report.batches), (8 * ROWS, 8));
            assert_eq!((report.lost, report.duplicates), (4, 0));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_the_server_has_forgotten_sends_nothing_again() {
    for plan in [plan(8), pipelined(8, 2)] {
        let mut script = vec![(millis(1), Answer::Ack); 30];
        script[6].1 = Answer::Forget(lost(Outcome::Unknown));
        for plan in [producer(plan.clone()), resuming(plan)] {
            let (report, seen) = run(&plan, FakeTarget::new(script.clone())).await;
            assert!(!report.is_success(), "{report}");
            assert_eq!((report.batches, report.errors), (6, 1), "{report}");
            assert_eq!((report.lost, report.still_lost), (0, 0));
            let error = report.first_error.unwrap();
            assert!(error.contains("has forgotten this producer"), "{error}");
            let sequences = sequences(&seen);
            assert!(
                sequences.is_sorted_by(|one, next| one < next),
                "{sequences:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_is_fenced_because_it_is_forgotten_says_so() {
    for (plan, errors) in [(producer(plan(8)), 1), (resuming(pipelined(8, 2)), 2)] {
        let mut script = vec![(millis(1), Answer::Ack); 30];
        script[6].1 = Answer::Forget(lost(Outcome::Fenced));
        let (report, seen) = run(&plan, FakeTarget::new(script)).await;
        assert_eq!((report.batches, report.errors), (6, errors), "{report}");
        let error = report.first_error.unwrap();
        assert!(error.contains("has forgotten this producer"), "{error}");
        assert!(sequences(&seen).is_sorted_by(|one, next| one < next));
        // Only a producer that goes on is located: that fences others.
        assert_eq!(seen.lock().unwrap().located, 1);
    }
}

fn id(plan: &Plan, sequence: u64) -> i64 {
    BatchSource::for_writers(plan, 1)[0].ids().id(sequence)
}

#[tokio::test(start_paused = true)]
async fn a_new_process_of_a_producer_that_the_server_has_forgotten_sends_nothing() {
    for plan in [
        producer(plan(5)),
        resuming(plan(5)),
        resuming(pipelined(5, 2)),
    ] {
        // All is forgotten, or what came after an older state of it.
        for last in [0, 2] {
            let target = FakeTarget::steady(millis(1)).holding(last, []);
            let target = target.having(last + 1, id(&plan, last + 1));
            let (report, seen) = run(&plan, target).await;
            assert_eq!((report.batches, report.errors), (0, 1), "{report}");
            let error = report.first_error.unwrap();
            assert!(error.contains("has forgotten this producer"), "{error}");
            assert_eq!(sequences(&seen), [] as [u64; 0]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_an_earlier_process_may_arrive_while_a_new_one_begins() {
    let plan = resuming(plan(5));
    let target = FakeTarget::steady(millis(1)).holding(2, []);
    let (report, seen) = run(&plan, target.having_late(3, id(&plan, 3))).await;
    assert!(report.is_success(), "{report}");
    assert_eq!((report.batches, report.resumed), (2, 3));
    assert_eq!(sequences(&seen), [4, 5]);
}

#[tokio::test(start_paused = true)]
async fn what_a_server_has_lost_of_earlier_runs_is_sent_again_too() {
    let mut script = vec![(millis(1), Answer::Ack); 30];
    script[1].1 = Answer::Restore(38, lost(Outcome::Retriable));
    let target = FakeTarget::new(script).holding(40, []);
    let plan = Plan {
        interval: Some(millis(10)),
        ..plan(43)
    };
    let (report, seen) = run(&resuming(plan), target).await;
    assert!(report.is_success(), "{report}");
    assert_eq!(sequences(&seen), [41, 42, 39, 40, 41, 42, 43]);
    assert_eq!((report.batches, report.resumed, report.lost), (3, 40, 3));
    let text = report.to_string();
    assert!(
        text.contains("lost 3 batches that it had acknowledged"),
        "{text}"
    );
}

/// Ten batches of 10 ms are acknowledged, the eleventh is on its way, and the server is replaced by a copy that holds two.
fn restoring(then: Answer) -> FakeTarget {
    let mut script = vec![(millis(10), Answer::Ack); 11];
    script[10].1 = Answer::Restore(2, lost(Outcome::Unknown));
    script.push((millis(10), then));
    script.extend(vec![(millis(10), Answer::Ack); 20]);
    FakeTarget::new(script)
}

#[tokio::test(start_paused = true)]
async fn what_a_server_has_lost_is_sent_again_even_when_the_time_is_over() {
    let plan = Plan {
        batches: None,
        duration: Some(millis(105)),
        ..plan(1)
    };
    for plan in [producer(plan.clone()), resuming(plan)] {
        let (report, seen) = run(&plan, restoring(Answer::Ack)).await;
        assert!(report.is_success(), "{report}");
        let expected: Vec<_> = (1..=11).chain(3..=11).collect();
        assert_eq!(sequences(&seen), expected);
        assert_eq!((report.batches, report.lost), (11, 8));
        assert_eq!(report.still_lost, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_and_not_sent_again_makes_the_run_fail_and_counts_as_acknowledged() {
    // The first of what is sent again is refused, or is the last one before a stop.
    for (answer, stop_after) in [
        (failure(Outcome::Refused), None),
        (Answer::Silence, Some(millis(300))),
    ] {
        let stop = stop_after.map_or_else(Stop::never, |after| Stop::on(sleep(after)));
        let plan = Plan {
            ack_timeout: millis(500),
            ..producer(plan(11))
        };
        let targets = vec![restoring(answer)];
        let (report, ledgers) =
            crate::run_recorded(&plan, targets, Progress::silent(), stop.clone()).await;
        assert!(!report.is_success(), "{report}");
        assert_eq!((report.batches, report.still_lost), (10, 8));
        assert_eq!(report.interrupted, stop.is_requested());
        let ledger = &ledgers[0];
        assert_eq!((ledger.sent(), ledger.unacknowledged()), (11, 1));
        assert!((1..=10).all(|sequence| ledger.is_acknowledged(sequence)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_is_farther_than_any_loader_comes_is_not_gone_on_with() {
    // Such as one whose sequences are times.
    let target = FakeTarget::steady(millis(1)).holding(1_700_000_000_000_000_000, []);
    let (report, seen) = run(&resuming(plan(2)), target).await;
    assert_eq!((report.errors, report.resumed), (1, 0), "{report}");
    let error = report.first_error.unwrap();
    assert!(error.contains("1700000000000000000"), "{error}");
    assert_eq!(sequences(&seen), [] as [u64; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_producer_goes_on_once_for_each_put_that_it_gave_up_and_that_may_have_fenced_it() {
    for plan in [producer(plan(3)), resuming(plan(3))] {
        assert_goes_on_once_for_each(Plan {
            ack_timeout: millis(500),
            ..plan
        })
        .await;
    }
}

async fn assert_goes_on_once_for_each(plan: Plan) {
    let fenced = Answer::Fail(lost(Outcome::Fenced));
    let script = |answers: &[Answer]| {
        let acks = std::iter::repeat_n(Answer::Ack, 10);
        let answers = answers.iter().cloned().chain(acks);
        answers
            .map(|answer| (millis(1), answer))
            .collect::<Vec<_>>()
    };
    // Acks may have come between, for a proxy may deliver what was given up at any time.
    for (answers, sent) in [
        (vec![Answer::Silence, fenced.clone()], vec![1, 1, 1, 2, 3]),
        (
            vec![Answer::Silence, Answer::Ack, fenced.clone()],
            vec![1, 1, 2, 2, 3],
        ),
        (
            vec![
                Answer::Silence,
                Answer::Silence,
                Answer::Ack,
                fenced.clone(),
                fenced.clone(),
            ],
            vec![1, 1, 1, 2, 2, 2, 3],
        ),
    ] {
        let (report, seen) = run(&plan, FakeTarget::new(script(&answers))).await;
        assert!(report.is_success(), "{report}");
        assert_eq!(sequences(&seen), sent);
    }
    // Once more than it gave up a put it is another process.
    for (answers, sent) in [
        (vec![Answer::Ack, fenced.clone()], vec![1, 2]),
        (
            vec![failure(Outcome::Retriable), fenced.clone()],
            vec![1, 1],
        ),
        (
            vec![Answer::Silence, fenced.clone(), fenced.clone()],
            vec![1, 1, 1],
        ),
        (
            vec![Answer::Silence, fenced.clone(), Answer::Ack, fenced],
            vec![1, 1, 1, 2],
        ),
    ] {
        let (report, seen) = run(&plan, FakeTarget::new(script(&answers))).await;
        assert!(!report.is_success(), "{report}");
        let error = report.first_error.unwrap();
        assert!(error.starts_with("another process sends as"), "{error}");
        assert_eq!(sequences(&seen), sent);
    }
}

#[tokio::test(start_paused = true)]
async fn two_processes_of_a_producer_do_not_fence_each_other_for_ever() {
    let mut script = vec![(millis(1), failure(Outcome::Unknown)); 10];
    script.push((millis(1), Answer::Ack));
    script.extend(vec![(millis(1), Answer::Fail(lost(Outcome::Fenced))); 100]);
    let (report, seen) = run(&resuming(plan(3)), FakeTarget::new(script)).await;
    assert_eq!((report.batches, report.errors), (1, 1), "{report}");
    let fenced = sequences(&seen).iter().filter(|it| **it == 2).count();
    assert_eq!(fenced, 6);
}

#[tokio::test(start_paused = true)]
async fn a_resuming_producer_begins_after_what_is_durable() {
    let target = FakeTarget::steady(millis(1)).holding(40, []);
    let (report, seen) = run(&resuming(plan(43)), target).await;
    assert_eq!(sequences(&seen), [41, 42, 43]);
    assert_eq!((report.batches, report.resumed), (3, 40));
    assert_eq!((report.duplicates, report.retries), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_pace_of_a_resuming_producer_begins_with_the_run() {
    let target = FakeTarget::steady(millis(1)).holding(40, []);
    let plan = Plan {
        interval: Some(millis(10)),
        ..plan(43)
    };
    let (report, _) = run(&resuming(plan), target).await;
    assert_eq!(report.elapsed_seconds, 0.021);
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_does_not_resume_begins_with_the_first_batch() {
    let target = FakeTarget::steady(millis(1)).holding(2, []);
    let (report, seen) = run(&producer(plan(5)), target).await;
    assert_eq!(sequences(&seen), [1, 2, 3, 4, 5]);
    // What an earlier run loaded is not this one's load.
    assert_eq!((report.rows, report.batches), (3 * ROWS, 3));
    assert_eq!((report.duplicates, report.resumed), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_has_sent_all_sends_nothing() {
    for durable in [5, 6] {
        let target = FakeTarget::steady(millis(1)).holding(durable, []);
        let (report, seen) = run(&resuming(plan(5)), target).await;
        assert!(report.is_success(), "{report}");
        assert_eq!((report.batches, report.resumed), (0, durable));
        assert_eq!(sequences(&seen), [] as [u64; 0]);
        assert!(seen.lock().unwrap().closed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_producer_whose_table_is_gone_does_not_take_its_batches_for_loaded() {
    for plan in [
        producer(plan(5)),
        resuming(plan(5)),
        resuming(pipelined(5, 2)),
    ] {
        let target = FakeTarget::steady(millis(1)).without_table();
        let (report, seen) = run(&plan, target.holding(5, [])).await;
        assert!(!report.is_success(), "{report}");
        let error = report.first_error.unwrap();
        assert!(error.contains("the table is gone"), "{error}");
        assert!(error.contains("--forget"), "{error}");
        assert_eq!(sequences(&seen), [] as [u64; 0]);
        // Of a new producer there is nothing to miss.
        let target = FakeTarget::steady(millis(1)).without_table();
        let (report, _) = run(&plan, target).await;
        assert!(report.is_success(), "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_producer_whose_table_is_gone_when_it_goes_on_ends_too() {
    for plan in [producer(plan(5)), resuming(pipelined(5, 2))] {
        let mut script = vec![(millis(1), Answer::Ack); 10];
        script[2].1 = Answer::Drop(lost(Outcome::Unknown));
        let (report, _) = run(&plan, FakeTarget::new(script)).await;
        assert!(!report.is_success(), "{report}");
        assert_eq!(report.batches, 2);
        let error = report.first_error.unwrap();
        assert!(error.contains("the table is gone"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_goes_on_after_the_last_durable_batch() {
    let mut script = vec![(millis(1), Answer::Ack); 20];
    script[1].1 = Answer::Lose(lost(Outcome::Unknown));
    let plan = resuming(pipelined(6, 4));
    let (report, seen) = run(&plan, FakeTarget::new(script)).await;
    assert!(report.is_success(), "{report}");
    // The second had been committed, and the third to fifth were on their way.
    assert_eq!(sequences(&seen), [1, 2, 3, 4, 5, 3, 4, 5, 6]);
    assert_eq!((report.rows, report.batches), (6 * ROWS, 6));
    assert_eq!((report.duplicates, report.retries), (0, 3));
    assert_eq!(seen.lock().unwrap().located, 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_batch_ends_a_producer_for_nothing_may_overtake_it() {
    // Of those behind it nothing is committed either.
    for (plan, errors) in [(producer(plan(9)), 1), (resuming(pipelined(9, 3)), 3)] {
        let script = vec![
            (millis(1), Answer::Ack),
            (millis(1), failure(Outcome::Refused)),
        ];
        let (report, seen) = run(&plan, FakeTarget::new(script)).await;
        assert!(!report.is_success());
        assert_eq!((report.batches, report.errors), (1, errors));
        assert_eq!(report.unknown, 0);
        assert_eq!(report.first_error.as_deref(), Some("oops"));
        assert!(sequences(&seen).is_sorted(), "{:?}", sequences(&seen));
    }
}

#[tokio::test(start_paused = true)]
async fn without_resuming_a_producers_retries_come_to_an_end() {
    let plan = Plan {
        retries: 3,
        ..producer(plan(10))
    };
    let script = vec![(millis(1), failure(Outcome::Unknown))];
    let (report, seen) = run(&plan, FakeTarget::new(script)).await;
    assert_eq!((report.errors, report.unknown, report.retries), (0, 1, 3));
    assert_eq!(sequences(&seen), [1, 1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_resuming_producer_gives_up_only_after_a_time_without_progress() {
    let plan = Plan {
        give_up_after: Duration::from_secs(600),
        ..resuming(plan(10))
    };
    let mut script = vec![(millis(1), failure(Outcome::Unknown)); 50];
    // An ack in between starts the time anew.
    script[40].1 = Answer::Ack;
    script.extend(vec![(millis(1), failure(Outcome::Unknown)); 1000]);
    let (report, _) = run(&plan, FakeTarget::new(script)).await;
    assert_eq!((report.batches, report.errors, report.unknown), (1, 0, 1));
    assert!(report.elapsed_seconds > 705.0, "{report}");
    assert!(report.elapsed_seconds < 765.0, "{report}");
}

/// The server itself says that it failed at the batch.
fn fault() -> Answer {
    Answer::Fail(Failure {
        fault: true,
        ..Failure::of_oldest(Outcome::Unknown, "oops")
    })
}

#[tokio::test(start_paused = true)]
async fn a_batch_at_which_the_server_fails_each_time_ends_a_producer_and_is_named() {
    for (plan, unknown) in [
        (producer(plan(9)), 1),
        (resuming(plan(9)), 1),
        (resuming(pipelined(9, 3)), 3),
    ] {
        let plan = Plan { retries: 3, ..plan };
        let mut script = vec![(millis(1), fault()); 30];
        script[0].1 = Answer::Ack;
        let target = FakeTarget::new(script);
        let seen = target.seen();
        let (report, ledgers) =
            crate::run_recorded(&plan, vec![target], Progress::silent(), Stop::never()).await;
        assert!(!report.is_success(), "{report}");
        assert_eq!((report.batches, report.errors), (1, 0), "{report}");
        assert_eq!((report.unknown, report.unsent), (unknown, 8 - unknown));
        let error = report.first_error.unwrap();
        for words in ["sequence 2 of producer `p`", "4 times", ": oops. "] {
            assert!(error.contains(words), "{error}");
        }
        let sent = sequences(&seen);
        assert_eq!(sent.iter().filter(|it| **it == 2).count(), 4, "{sent:?}");
        // What was sent and has no ack is not taken for loaded.
        let ledger = &ledgers[0];
        assert_eq!(
            (ledger.sent(), ledger.unacknowledged()),
            (1 + unknown, unknown)
        );
        assert!(ledger.is_acknowledged(1) && !ledger.is_acknowledged(2));
    }
}

#[tokio::test(start_paused = true)]
async fn the_producer_of_a_fault_is_that_of_its_writer() {
    let plan = Plan {
        writers: NonZeroUsize::new(2).unwrap(),
        retries: 0,
        ..resuming(plan(1))
    };
    let targets = vec![
        FakeTarget::steady(millis(1)),
        FakeTarget::new(vec![(millis(1), fault())]),
    ];
    let report = crate::run(&plan, targets, Progress::silent(), Stop::never()).await;
    let error = report.first_error.unwrap();
    assert!(
        error.contains("sequence 1 of producer `p-2`, once"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn faults_of_the_server_that_pass_do_not_add_up() {
    for plan in [producer(plan(4)), resuming(plan(4))] {
        let plan = Plan { retries: 3, ..plan };
        let mut script = vec![(millis(1), fault()); 4];
        script[3].1 = Answer::Ack;
        let (report, _) = run(&plan, FakeTarget::new(script)).await;
        assert!(report.is_success(), "{report}");
        assert_eq!((report.batches, report.retries), (4, 12), "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn faults_of_the_server_at_other_batches_do_not_add_up() {
    let plan = Plan {
        retries: 1,
        ..resuming(plan(8))
    };
    // It fails at the fifth, is replaced by a copy that holds two, and fails at the third.
    let mut script = vec![(millis(1), Answer::Ack); 30];
    script[4].1 = fault();
    script[5].1 = Answer::Restore(2, lost(Outcome::Unknown));
    script[6].1 = fault();
    let (report, seen) = run(&plan, FakeTarget::new(script)).await;
    assert!(report.is_success(), "{report}");
    assert_eq!(sequences(&seen), [1, 2, 3, 4, 5, 5, 3, 3, 4, 5, 6, 7, 8]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_be_asked_is_asked_again() {
    let failures = vec![lost(Outcome::Retriable), lost(Outcome::Unknown)];
    let target = FakeTarget::steady(millis(1)).holding(1, failures);
    let (report, seen) = run(&producer(plan(2)), target).await;
    assert!(report.is_success(), "{report}");
    assert_eq!(seen.lock().unwrap().located, 3);
}

/// A resuming producer with forty batches, whose time is over long before the server says so.
fn hardly_located(failures: usize) -> (Plan, FakeTarget) {
    let plan = Plan {
        batches: None,
        duration: Some(millis(50)),
        give_up_after: Duration::from_secs(60),
        ..resuming(plan(1))
    };
    let failures = vec![lost(Outcome::Retriable); failures];
    (plan, FakeTarget::steady(millis(1)).holding(40, failures))
}

#[tokio::test(start_paused = true)]
async fn a_producer_is_located_even_when_its_time_is_over() {
    let (plan, target) = hardly_located(5);
    let (report, seen) = run(&plan, target).await;
    assert!(report.is_success() && !report.interrupted, "{report}");
    assert_eq!((report.resumed, report.batches), (40, 0));
    assert_eq!(seen.lock().unwrap().located, 6);
}

#[tokio::test(start_paused = true)]
async fn of_a_producer_that_is_never_located_there_is_nothing_to_prove() {
    // It gives up, or is asked to end when its time is over.
    for (stop_after, errors) in [(millis(3_600_000), 1), (millis(500), 0)] {
        let stop = Stop::on(sleep(stop_after));
        let (plan, target) = hardly_located(1000);
        let (report, ledgers) =
            crate::run_recorded(&plan, vec![target], Progress::silent(), stop).await;
        assert_eq!((report.errors, report.resumed), (errors, 0), "{report}");
        assert_eq!(report.interrupted, errors == 0, "{report}");
        // Nobody is asked there.
        let server = ConnectOptions {
            server: "localhost:1".to_owned(),
        };
        let proof = crate::verify::verify(&server, &plan, &ledgers, &Progress::silent()).await;
        assert!(!proof.verified, "{proof}");
        let error = proof.error.unwrap();
        assert!(error.starts_with("nothing to prove"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_knows_no_producers_is_a_final_error() {
    let target = FakeTarget::steady(millis(1)).holding(0, vec![lost(Outcome::Refused)]);
    let (report, seen) = run(&resuming(plan(2)), target).await;
    assert_eq!((report.batches, report.errors), (0, 1));
    assert_eq!(sequences(&seen), [] as [u64; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_ack_that_never_comes_makes_a_producer_send_again() {
    let plan = Plan {
        ack_timeout: millis(500),
        ..resuming(pipelined(3, 2))
    };
    let mut script = vec![(millis(1), Answer::Ack); 10];
    script[0].1 = Answer::Silence;
    let (report, seen) = run(&plan, FakeTarget::new(script)).await;
    assert!(report.is_success(), "{report}");
    assert_eq!(sequences(&seen), [1, 2, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_leaves_what_waits_for_a_retry_unknown_where_it_is() {
    let stop = Stop::on(sleep(millis(20)));
    let script = vec![(millis(1), failure(Outcome::Unknown))];
    let target = FakeTarget::new(script);
    let (report, _) = run_until(&resuming(plan(5)), target, stop).await;
    assert_eq!((report.batches, report.errors, report.unknown), (0, 0, 1));
}
