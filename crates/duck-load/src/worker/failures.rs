//! What a writer does about failures: what is sent again and when, and when it gives up.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::{Faults, Sent, Setback, Worker};
use crate::report::Batches;
use crate::retry;
use crate::target::{Failure, Outcome, Target};

/// After so many failures in a row that a retry did not mend, a writer gives up.
const MAX_FAILURES_IN_A_ROW: u32 = 5;

/// So many of the puts that were given up are remembered at most: two processes that send as one producer fence each other no
/// more often.
const MAX_ABANDONED_PUTS: u32 = 5;

impl<T: Target> Worker<T> {
    pub(super) fn fail_to_locate(&mut self, failure: &Failure) {
        let ends_it = self.ends_a_producer(failure);
        let setback = self.set_back();
        if ends_it || self.is_exhausted(setback, setback.times) {
            self.count_failures(1, 0, &reason(failure, ends_it));
            self.give_up();
        } else {
            self.back_off(setback, &failure.message);
        }
    }

    pub(super) fn fail_waiting(&mut self, failure: &Failure) {
        let sent = std::mem::take(&mut self.waiting).into();
        self.fail(sent, failure);
    }

    /// Decides what becomes of batches that failed together: sent again, given up, or unknown.
    pub(super) fn fail(&mut self, failed: Vec<Sent>, failure: &Failure) {
        let is_producer = self.plan.producer.is_some();
        // What answers next may be another server, which knows less than this one did.
        self.located = !is_producer;
        let ends_a_producer = self.ends_a_producer(failure);
        let setback = self.set_back();
        let faults = self.count_fault(&failed, failure);
        // Nobody mends the server meanwhile: those that resume would only meet the same until their time is over.
        let faults = faults.filter(|faults| is_producer && faults.times > self.plan.retries);
        let mut again = VecDeque::new();
        let mut abandoned = Vec::new();
        let mut is_final = is_producer && ends_a_producer;
        for (position, mut sent) in failed.into_iter().enumerate() {
            let outcome = match position {
                0 => failure.oldest,
                _ => {
                    // What stands behind others that fail has its own retries still before it.
                    sent.attempts = sent.attempts.saturating_sub(1);
                    failure.later
                }
            };
            sent.uncertain |= outcome == Outcome::Unknown;
            let may_help = match outcome {
                Outcome::Retriable => true,
                Outcome::Refused => false,
                Outcome::Unknown => is_producer,
                Outcome::Fenced => !ends_a_producer,
            };
            let exhausted =
                may_help && (faults.is_some() || self.is_exhausted(setback, sent.attempts));
            is_final |= exhausted && !self.stopping;
            if may_help && !exhausted && !self.stopping {
                again.push_back(sent);
            } else {
                abandoned.push(sent);
            }
        }
        // They were sent before those that wait already.
        let is_again = !again.is_empty();
        again.append(&mut self.again);
        self.again = again;
        let reason = match faults {
            Some(faults) => self.faulty(faults, failure),
            None => reason(failure, ends_a_producer),
        };
        self.abandon(&abandoned, &reason);
        if is_final || self.failures_in_a_row >= MAX_FAILURES_IN_A_ROW {
            self.give_up();
        } else if is_again && failure.oldest != Outcome::Refused {
            self.back_off(setback, &failure.message);
        }
    }

    /// Whether a producer cannot go on after this failure. To be asked once for each.
    fn ends_a_producer(&mut self, failure: &Failure) -> bool {
        match failure.oldest {
            // A producer that left a batch out could never send it any more: what follows would overtake it.
            Outcome::Refused => true,
            Outcome::Fenced => !self.may_have_fenced_itself(),
            Outcome::Unknown => {
                self.abandoned_puts = MAX_ABANDONED_PUTS.min(self.abandoned_puts + 1);
                self.abandoned_at = Some(Instant::now());
                false
            }
            Outcome::Retriable => false,
        }
    }

    /// Whether what fenced a producer may be a put of its own: one that it gave up not long ago, and that a proxy or a server that
    /// stood still brought forth only after a later one, whether or not that had acks already. Each is believed once: another
    /// process fences again.
    fn may_have_fenced_itself(&mut self) -> bool {
        let is_recent = self
            .abandoned_at
            .is_some_and(|at| at.elapsed() < self.plan.give_up_after);
        let may_have = is_recent && self.abandoned_puts > 0;
        self.abandoned_puts = self.abandoned_puts.saturating_sub(1);
        may_have
    }

    /// Counts a failure since the last ack.
    pub(super) fn set_back(&mut self) -> Setback {
        let setback = self.setback.get_or_insert(Setback {
            since: Instant::now(),
            times: 0,
        });
        setback.times = setback.times.saturating_add(1);
        *setback
    }

    /// Counts how often the server has failed at a batch with no ack in between, where it did so again.
    fn count_fault(&mut self, failed: &[Sent], failure: &Failure) -> Option<Faults> {
        let oldest = failed.first().filter(|_| failure.fault)?;
        let sequence = oldest.batch.sequence;
        let earlier = self.faults.filter(|faults| faults.sequence == sequence);
        let times = earlier.map_or(0, |faults| faults.times).saturating_add(1);
        self.faults = Some(Faults { sequence, times });
        self.faults
    }

    /// Why a producer ends at a batch at which the server fails each time, for people.
    fn faulty(&self, faults: Faults, failure: &Failure) -> String {
        let Faults { sequence, times } = faults;
        let producer = self.producer().unwrap_or_default();
        let often = match times {
            1 => "once".to_owned(),
            _ => format!("{times} times with no ack in between"),
        };
        let message = &failure.message;
        format!(
            "the server has failed at sequence {sequence} of producer `{producer}`, {often} (INTERNAL): {message}. Its log tells \
             more. The batch may be stored or not: once the server is mended, run the same command again, which stores nothing \
             twice"
        )
    }

    /// The producer that this writer is.
    fn producer(&self) -> Option<String> {
        let [index, writers] =
            [self.index, self.plan.writers.get()].map(|it| u64::try_from(it).unwrap_or(u64::MAX));
        self.plan.producer_of(index.saturating_sub(1), writers)
    }

    /// Whether it has been tried often enough, or without progress for long enough.
    pub(super) fn is_exhausted(&self, setback: Setback, attempts: u32) -> bool {
        match self.plan.resume {
            true => setback.since.elapsed() >= self.plan.give_up_after,
            false => attempts > self.plan.retries,
        }
    }

    /// Gives up batches that were sent.
    pub(super) fn abandon(&mut self, abandoned: &[Sent], message: &str) {
        if abandoned.is_empty() {
            return;
        }
        let sequences = abandoned.iter().map(|sent| sent.batch.sequence);
        self.unacknowledged.extend(sequences);
        let count = |uncertain| {
            let alike = abandoned.iter().filter(|sent| sent.uncertain == uncertain);
            u64::try_from(alike.count()).unwrap_or(u64::MAX)
        };
        self.count_failures(count(false), count(true), message);
    }

    pub(super) fn count_failures(&mut self, errors: u64, unknown: u64, message: &str) {
        self.stats.errors += errors;
        self.stats.unknown += unknown;
        self.failures_in_a_row += 1;
        if self.stats.first_error.is_none() {
            self.stats.first_error = Some(message.to_owned());
        }
        let what = match (errors, unknown) {
            (errors, 0) => format!("{errors} not committed"),
            (0, unknown) => format!("{} may be stored or not", Batches(unknown)),
            (errors, unknown) => {
                let unknown = Batches(unknown);
                format!("{errors} not committed, {unknown} may be stored or not")
            }
        };
        self.say(&format!("failed ({what}): {message}"));
    }

    pub(super) fn back_off(&mut self, setback: Setback, message: &str) {
        let delay = retry::delay(setback.times);
        self.not_before = Instant::now() + delay;
        let millis = delay.as_millis();
        self.say(&format!("retrying in {millis} ms: {message}"));
    }

    pub(super) fn give_up(&mut self) {
        self.say("giving up");
        self.stop();
    }

    /// Sends nothing more; what waited to be sent again is given up.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
        let again: Vec<_> = std::mem::take(&mut self.again).into();
        self.abandon(&again, "stopped before they could be sent again");
    }
}

/// Why batches are given up, for people.
fn reason(failure: &Failure, ends_a_producer: bool) -> String {
    let message = &failure.message;
    match failure.oldest {
        Outcome::Fenced if ends_a_producer => {
            format!("another process sends as this producer now: {message}")
        }
        _ => message.clone(),
    }
}
