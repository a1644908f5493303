//! Where a producer is, as the server says, and whether it can go on from there.

use super::Worker;
use crate::BatchSource;
use crate::target::{Failure, Outcome, Target};

impl<T: Target> Worker<T> {
    /// Tells a producer that was forgotten from one that another process has fenced, for the server fences the puts of both.
    pub(super) async fn explain(&mut self, failure: Failure) -> Failure {
        if failure.oldest != Outcome::Fenced {
            return failure;
        }
        let asking = forgotten_at(&mut self.target, &self.source, self.durable);
        let answer = tokio::time::timeout(self.plan.ack_timeout, asking);
        let found = tokio::select! {
            biased;
            () = self.stop.requested(), if !self.stopping => None,
            found = answer => found.ok(),
        };
        match found {
            Some(Ok(Some(last))) => return forgotten(last, self.durable),
            // Where it is not forgotten, or the server does not say, it is what it looks like.
            Some(_) => {}
            None => self.reset(),
        }
        failure
    }
}

/// Asks how far a producer has come that had come to `durable`. Where it is behind that and the rows are there all the same,
/// they are not lost but the producer is forgotten, and its batches would be taken for new ones; the first time it is not known
/// how far it had come. The table of a producer that has come anywhere must be there: without it all that was loaded is gone,
/// and would count as loaded.
pub(super) async fn position<T: Target>(
    target: &mut T,
    source: &BatchSource,
    durable: u64,
    is_first: bool,
) -> Result<u64, Failure> {
    let last = match is_first {
        true => first_position(target, source).await?,
        false => target.locate().await?,
    };
    if last > 0 && !target.has_table().await? {
        return Err(dropped(last));
    }
    if is_forgotten(target, source, last, durable).await? {
        return Err(forgotten(last, durable));
    }
    Ok(last)
}

/// Asks for the first time. Where the next batch is in the table already, somebody has sent it, and the server does not know.
async fn first_position<T: Target>(target: &mut T, source: &BatchSource) -> Result<u64, Failure> {
    let last = target.locate().await?;
    let next = last.saturating_add(1);
    if !target.holds([source.ids().id(next); 2]).await? {
        return Ok(last);
    }
    // A put of an earlier process may have been committed between the two questions: then the server knows of it by now.
    target.reset();
    let found = target.locate().await?;
    match found > last {
        // Not looked at again: beside another process the next batch is there each time.
        true => Ok(found),
        false => Err(taken(found, next)),
    }
}

/// Where a producer that had come to `durable` is now, if it was forgotten.
async fn forgotten_at<T: Target>(
    target: &mut T,
    source: &BatchSource,
    durable: u64,
) -> Result<Option<u64>, Failure> {
    let last = target.last_durable().await?;
    let is_forgotten = is_forgotten(target, source, last, durable).await?;
    Ok(is_forgotten.then_some(last))
}

/// Whether a producer that is at `last` had come to `durable`, and the rows in between are there.
async fn is_forgotten<T: Target>(
    target: &mut T,
    source: &BatchSource,
    last: u64,
    durable: u64,
) -> Result<bool, Failure> {
    if last >= durable {
        return Ok(false);
    }
    let lost = [last + 1, durable].map(|sequence| source.ids().id(sequence));
    target.holds(lost).await
}

fn forgotten(last: u64, durable: u64) -> Failure {
    let message = format!(
        "the server has forgotten this producer, which had come to {durable} at least and is at {last} now, and has the rows in \
         between: sent again they would be there twice. Delete them, or go on as another --producer"
    );
    Failure::of_all(Outcome::Refused, message)
}

fn taken(last: u64, next: u64) -> Failure {
    let message = format!(
        "the table has rows of batch {next} already, but the producer is at {last}: the server has forgotten this producer, or \
         another load was given the same --first-batch-id. Sent again they would be there twice. Delete them, or go on as \
         another --producer, with ids of its own"
    );
    Failure::of_all(Outcome::Refused, message)
}

fn dropped(last: u64) -> Failure {
    let message = format!(
        "the server knows {last} batches of this producer, but the table is gone that they were loaded into: it would take \
         them for duplicates. Run once with --forget to load them again, or go on as another --producer"
    );
    Failure::of_all(Outcome::Refused, message)
}

pub(super) fn not_ours(last: u64) -> Failure {
    let message = format!(
        "the producer is at sequence {last}, to which duck-load did not bring it: give it a --producer of its own"
    );
    Failure::of_all(Outcome::Refused, message)
}
