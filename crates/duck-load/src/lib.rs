//! Generates load for a Duck Flight server, and counts only what the server acknowledged.
//!
//! The way of a batch: a [`Plan`] says how much and how fast; each writer makes its own batches
//! ([`BatchSource`]), sends them to its [`Target`], waits for the answers, and records what came of them;
//! [`run`] starts all writers together and merges what they recorded into one [`Report`].
//!
//! What holds always:
//! - **Never counted unless acknowledged.** Rows and batches of a report have an ack of the server.
//! - **Never sent twice unless certain.** A batch is resent only when nothing of it can have been committed:
//!   the server itself answered with a code that promises so, or there was no connection to send it on. A
//!   batch whose answer got lost is counted as *unknown* and left alone (see [`Outcome`]).
//! - **A producer may send anything again.** Its batches are numbered and come out the same whenever they are made,
//!   in this process or the next, and the server applies a number once ([`Plan::producer`]). They leave in order,
//!   so that what is durable is always the first so many ([`Plan::resume`]).
//! - **Whole or absent.** All rows of a batch carry the same `batch_id`, and no other batch has it, so that
//!   `SELECT batch_id, count(*) ... GROUP BY batch_id` proves that every batch arrived whole, and once.
//!   [`Plan::verify`] does that for every batch of the run, content included ([`Verification`]).
//! - **Latency is what a client waits.** From the moment a batch was due until its ack, retries included.

mod batch;
mod digest;
mod forget;
mod ids;
mod ledger;
mod plan;
mod progress;
mod report;
mod retry;
mod stats;
mod stop;
mod target;
mod verify;
mod worker;

pub mod args;

pub use batch::{Batch, BatchSource, schema};
pub use duck_flight_protocol::Commit;
pub use forget::forget;
pub use plan::Plan;
pub use progress::Progress;
pub use report::{Load, Report};
pub use stop::Stop;
pub use target::{Failure, FlightTarget, Outcome, Target};
pub use verify::{Offender, Verification};

use std::num::NonZeroU64;
use std::sync::Arc;

use duck_flight_protocol::{ConnectError, ConnectOptions};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::ledger::{End, Ledger};
use crate::stats::Stats;
use crate::worker::Worker;

/// Connects the plan's writers to a Flight server, runs them, and verifies what they loaded if the plan asks for
/// it: the whole of `duck-load` but its flags.
///
/// # Errors
/// When no connection can be made. What goes wrong later is counted in the report.
pub async fn load(
    server: &ConnectOptions,
    plan: &Plan,
    progress: Progress,
    stop: Stop,
) -> Result<Report, ConnectError> {
    let targets = FlightTarget::connect_all(server, plan, &progress).await?;
    Ok(load_over(server, targets, plan, progress, stop).await)
}

/// As [`load`], over connections that stand already. A stop that is asked for once the batches are sent ends their
/// verification, and there is none; one that comes before does not.
pub async fn load_over(
    server: &ConnectOptions,
    targets: Vec<FlightTarget>,
    plan: &Plan,
    progress: Progress,
    mut stop: Stop,
) -> Report {
    let (mut report, ledgers) = run_recorded(plan, targets, progress.clone(), stop.clone()).await;
    let is_unlocated = ledgers.iter().any(|it| it.end() == End::Unlocated);
    // Asked to end before it knew what there is to prove: that is no failure.
    if !plan.verify || plan.resume && report.interrupted && is_unlocated {
        return report;
    }
    let is_stopped_already = stop.is_requested();
    tokio::select! {
        proof = verify::verify(server, plan, &ledgers, &progress) => {
            report.verification = Some(proof);
        }
        () = stop.requested(), if !is_stopped_already => report.interrupted = true,
    }
    report
}

/// Runs one writer per target, all of them starting at the same moment, until the plan is fulfilled, `stop`
/// asks for the end, or they give up; then waits for the outstanding answers. It verifies nothing.
///
/// # Panics
/// When a writer panics.
pub async fn run<T: Target>(
    plan: &Plan,
    targets: Vec<T>,
    progress: Progress,
    stop: Stop,
) -> Report {
    run_recorded(plan, targets, progress, stop).await.0
}

async fn run_recorded<T: Target>(
    plan: &Plan,
    targets: Vec<T>,
    progress: Progress,
    stop: Stop,
) -> (Report, Vec<Ledger>) {
    let writer_count = targets.len();
    let barrier = Arc::new(Barrier::new(writer_count));
    let sources = BatchSource::for_writers(plan, writer_count);
    let mut writers = JoinSet::new();
    for ((target, source), index) in targets.into_iter().zip(sources).zip(1..) {
        let barrier = Arc::clone(&barrier);
        let (plan, progress, stop) = (plan.clone(), progress.clone(), stop.clone());
        writers.spawn(async move {
            barrier.wait().await;
            let worker = Worker::new(index, plan, target, source, progress, stop);
            (index, worker.run().await)
        });
    }
    let mut done = writers.join_all().await;
    done.sort_unstable_by_key(|(index, _)| *index);
    let (stats, ledgers): (Vec<_>, Vec<_>) = done.into_iter().map(|(_, done)| done).unzip();
    let stats = stats.into_iter().reduce(Stats::merge).unwrap_or_default();
    progress.finish();
    // One without an end never is.
    let is_fulfilled = stats.still_lost == 0 && unfinished(&ledgers).next().is_none();
    let interrupted = stop.is_requested() && !is_fulfilled;
    let mut report = Report::new(plan, writer_count, &stats, interrupted);
    report.unsent = unsent(plan, &ledgers);
    (report, ledgers)
}

/// Batches of the plan that writers did not come to before they gave up, or were asked to end.
fn unsent(plan: &Plan, ledgers: &[Ledger]) -> u64 {
    let most = plan.batches.map_or(0, NonZeroU64::get);
    let left = unfinished(ledgers).map(|it| most.saturating_sub(it.sent()));
    left.sum()
}

/// The writers that ended before the plan was fulfilled, or before what the server lost of it was sent again.
fn unfinished(ledgers: &[Ledger]) -> impl Iterator<Item = &Ledger> {
    ledgers.iter().filter(|ledger| ledger.end() != End::Done)
}
