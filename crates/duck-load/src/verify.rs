//! The proof that a load arrived, from the table itself.
//!
//! One query groups the rows of the run by their batch; its answer streams through a [`Tally`], which makes each
//! batch again and compares. Memory holds a bit for each batch found, and nothing grows with the rows.

mod tally;

use std::fmt;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow_flight::Ticket;
use arrow_flight::error::FlightError;
use duck_flight_protocol::{ConnectError, ConnectOptions, escape_controls_in_lines};
use futures::TryStreamExt;
use serde::Serialize;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};

use crate::digest::Digest;
use crate::ledger::{End, Ledger};
use crate::target::{Failure, Outcome};
use crate::{Plan, Progress, retry};

use tally::Tally;

/// The last sequence of a writer that can be proved: a proof knows the blocks of ids up to it.
const MAX_PROVED: u64 = 1 << 34;

/// What the table itself says about the batches of a run. Those of a producer that resumes are all of its batches,
/// whichever process sent them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Whether every acknowledged batch is there once, and every other one once or not at all.
    pub verified: bool,
    /// Batches the server acknowledged.
    pub batches_acknowledged: u64,
    /// Of those, the ones that are there once, whole, and with the content that was sent.
    pub batches_found_once: u64,
    /// Of those, the ones of which nothing is there.
    pub batches_missing: u64,
    /// Batches, acknowledged or not, with more rows than were sent.
    pub batches_doubled: u64,
    /// Batches, acknowledged or not, with fewer rows than were sent, or other ones.
    pub batches_damaged: u64,
    /// Batches that were sent, and of which it was never learned what became of them, or that were refused.
    pub batches_unacknowledged: u64,
    /// Of those, the ones that are there all the same, once and whole.
    pub batches_unacknowledged_present: u64,
    /// Rows of the acknowledged batches, as they were sent.
    pub rows_acknowledged: u64,
    /// Rows of all these batches, as they are in the table.
    pub rows_found: u64,
    /// The first few batches that break the proof.
    pub offenders: Vec<Offender>,
    /// Why nothing was proved, if so.
    pub error: Option<String>,
}

/// A batch that breaks the proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Offender {
    /// Its id.
    pub batch_id: i64,
    /// Its writer, from 1.
    pub writer: usize,
    /// Its number among the batches of its writer, from 1.
    pub sequence: u64,
    /// Its rows in the table.
    pub rows_found: u64,
    /// What is wrong with it.
    pub problem: String,
}

impl Verification {
    /// How many offenders are named.
    pub const MAX_OFFENDERS: usize = 5;
}

/// Asks the table for the batches of a run, and waits for its answer as long as the plan says, all attempts together. A
/// failure that may pass is tried again, for it is only read.
pub(crate) async fn verify(
    server: &ConnectOptions,
    plan: &Plan,
    ledgers: &[Ledger],
    progress: &Progress,
) -> Verification {
    let is_unknown = |ledger: &Ledger| ledger.end() == End::Unlocated;
    if plan.resume
        && let Some(writer) = ledgers.iter().position(is_unknown)
    {
        // What earlier processes have loaded is to be proved, too.
        let message = format!(
            "nothing to prove, for writer {} never came to know what its producer had loaded",
            writer + 1
        );
        return Tally::new(ledgers, plan.rows.get().into()).fail(message);
    }
    if let Some(error) = too_far(ledgers) {
        return Verification {
            error: Some(error),
            ..Verification::default()
        };
    }
    let started = Instant::now();
    let patience = || plan.give_up_after.saturating_sub(started.elapsed());
    let mut attempt = 1;
    loop {
        let mut tally = Tally::new(ledgers, plan.rows.get().into());
        let counting = count(server, plan, &mut tally);
        let failure = match timeout(patience(), counting).await {
            Ok(Ok(())) => return tally.finish(),
            Ok(Err(failure)) => failure,
            Err(_) => return tally.fail(format!("no answer within {:?}", plan.give_up_after)),
        };
        let delay = retry::delay(attempt);
        let exhausted = delay >= patience() || !plan.resume && attempt > plan.retries;
        if failure.oldest == Outcome::Refused || exhausted {
            return tally.fail(failure.message);
        }
        let (millis, message) = (delay.as_millis(), failure.message);
        progress.say(&format!("verifying again in {millis} ms: {message}"));
        sleep(delay).await;
        attempt += 1;
    }
}

/// What is wrong where a writer has come farther than a proof goes.
fn too_far(ledgers: &[Ledger]) -> Option<String> {
    let sequence = ledgers.iter().map(Ledger::sent).max()?;
    (sequence > MAX_PROVED)
        .then(|| format!("a writer is at sequence {sequence}, and a proof goes up to {MAX_PROVED}"))
}

async fn count(server: &ConnectOptions, plan: &Plan, tally: &mut Tally<'_>) -> Result<(), Failure> {
    let Some(condition) = tally.condition() else {
        return Ok(());
    };
    let query = Digest::query(&plan.table.to_sql(), &condition);
    let mut client = server.connect().await.map_err(unreachable_for_now)?;
    let failed = |error: FlightError| Failure::of_call(error, &server.server);
    let mut answer = client.do_get(Ticket::new(query)).await.map_err(failed)?;
    while let Some(batch) = answer.try_next().await.map_err(failed)? {
        for (id, digest) in digests(&batch)? {
            tally.found(id, &digest);
            // Making batches again takes long where they are large: who asks for the end meanwhile is heard.
            yield_now().await;
        }
    }
    Ok(())
}

pub(crate) fn unreachable_for_now(error: ConnectError) -> Failure {
    let outcome = match error {
        ConnectError::Address { .. } => Outcome::Refused,
        ConnectError::Refused { .. } => Outcome::Retriable,
    };
    Failure::of_all(outcome, error.to_string())
}

/// Reads the answer to [`Digest::query`].
fn digests(batch: &RecordBatch) -> Result<Vec<(i64, Digest)>, Failure> {
    let columns: Option<Vec<_>> = batch
        .columns()
        .iter()
        .map(|column| column.as_primitive_opt::<Int64Type>())
        .collect();
    let Some([ids, rows, values, pairs, first, last]) = columns.as_deref() else {
        let message = format!("the answer has other columns: {}", batch.schema());
        return Err(Failure::of_all(Outcome::Refused, message));
    };
    let digest = |row: usize| {
        let digest = Digest {
            rows: rows.value(row),
            values: values.is_valid(row).then(|| values.value(row)),
            pairs: pairs.is_valid(row).then(|| pairs.value(row)),
            times: [first, last].map(|times| times.is_valid(row).then(|| times.value(row))),
        };
        (ids.value(row), digest)
    };
    Ok((0..batch.num_rows()).map(digest).collect())
}

/// The proof for people.
impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.verified { "verified" } else { "FAILED" };
        if let Some(error) = &self.error {
            let error = escape_controls_in_lines(error);
            return write!(f, "{verdict:<10} no proof from the table: {error}");
        }
        write!(
            f,
            "{verdict:<10} {} of {} acknowledged batches found once; {} missing, {} doubled, {} damaged\n\
             found      {} rows, of {} acknowledged",
            self.batches_found_once,
            self.batches_acknowledged,
            self.batches_missing,
            self.batches_doubled,
            self.batches_damaged,
            self.rows_found,
            self.rows_acknowledged,
        )?;
        if self.batches_unacknowledged > 0 {
            write!(
                f,
                "\nunacked    {} of {} batches without an ack found once",
                self.batches_unacknowledged_present, self.batches_unacknowledged
            )?;
            // A doubled or damaged one may be one without an ack.
            if self.batches_doubled + self.batches_damaged == 0 {
                f.write_str(", the others not at all")?;
            }
        }
        for offender in &self.offenders {
            write!(
                f,
                "\noffender   batch {} (writer {}, sequence {}): {}",
                offender.batch_id, offender.writer, offender.sequence, offender.problem
            )?;
        }
        Ok(())
    }
}
