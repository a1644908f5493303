//! One writer: sends its batches in time, and records what comes of each.
//!
//! A producer's batches leave in the order of their sequences, always: what failed is sent again before anything
//! new, and when one is given up, nothing follows.

use std::collections::VecDeque;
use std::time::Duration;

use duck_flight_protocol::Ack;
use tokio::time::{Instant, sleep_until};

use crate::ledger::{End, Ledger};
use crate::stats::Stats;
use crate::target::{Failure, Outcome, Target};
use crate::{Batch, BatchSource, Plan, Progress, Stop};

use location::{not_ours, position};

/// No producer of duck-load comes farther: that would be 30,000 batches a second for a year.
const MAX_SEQUENCE: u64 = 1 << 40;

/// One writer of a run.
pub(crate) struct Worker<T> {
    /// Counts from 1, for people.
    index: usize,
    plan: Plan,
    target: T,
    source: BatchSource,
    progress: Progress,
    stop: Stop,
    stats: Stats,
    started: Instant,
    /// Batches sent without an answer, oldest first; never more than the plan's window.
    waiting: VecDeque<Sent>,
    /// When the last ack came.
    last_answer: Instant,
    /// Batches to be sent again, oldest first.
    again: VecDeque<Sent>,
    /// Nothing is sent before.
    not_before: Instant,
    /// The sequence of the last batch made.
    made: u64,
    /// The last sequence that was made before the server lost some, which are made again; 0 while it has lost none.
    furthest: u64,
    /// The last sequence of the producer that the server has acknowledged, or said to be durable.
    durable: u64,
    /// The last sequence of the producer whose ack is recorded: one that is sent again after the server has lost it is
    /// recorded once.
    recorded: u64,
    /// The sequences of batches that were sent and given up without an ack.
    unacknowledged: Vec<u64>,
    failures_in_a_row: u32,
    /// The failures since the last ack.
    setback: Option<Setback>,
    /// The server's own faults since then.
    faults: Option<Faults>,
    /// Puts that were given up without a word on what became of them, and that may still fence a later one.
    abandoned_puts: u32,
    /// When the last of them was given up.
    abandoned_at: Option<Instant>,
    /// Whether the target is ready for batches: a producer asks first how far it has come.
    located: bool,
    /// What of the producer was durable before the run; known once it has been asked.
    earlier: Option<u64>,
    stopping: bool,
}

/// Failures in a row, mended or not.
#[derive(Clone, Copy)]
struct Setback {
    since: Instant,
    times: u32,
}

/// Errors of the server's own, all at the same batch.
#[derive(Clone, Copy)]
struct Faults {
    sequence: u64,
    times: u32,
}

/// A batch that has been sent at least once.
struct Sent {
    batch: Batch,
    /// When it was first due, which is where its latency begins.
    due: Instant,
    /// When it was last sent.
    at: Instant,
    /// How often it was sent, but for those times when one before it failed.
    attempts: u32,
    /// Whether a sending of it ended without a word on what became of it.
    uncertain: bool,
}

enum Event {
    Answer(Result<Ack, Failure>),
    StopRequested,
    Due,
    NoAnswer,
}

impl<T: Target> Worker<T> {
    /// A writer that starts its clock now.
    pub(crate) fn new(
        index: usize,
        plan: Plan,
        target: T,
        source: BatchSource,
        progress: Progress,
        stop: Stop,
    ) -> Self {
        let now = Instant::now();
        Self {
            index,
            located: plan.producer.is_none(),
            plan,
            target,
            source,
            progress,
            stop,
            stats: Stats::default(),
            started: now,
            waiting: VecDeque::new(),
            last_answer: now,
            again: VecDeque::new(),
            not_before: now,
            made: 0,
            furthest: 0,
            durable: 0,
            recorded: 0,
            unacknowledged: Vec::new(),
            failures_in_a_row: 0,
            setback: None,
            faults: None,
            abandoned_puts: 0,
            abandoned_at: None,
            earlier: None,
            stopping: false,
        }
    }

    /// Sends until the plan is fulfilled or the end is asked for, and waits for all answers.
    pub(crate) async fn run(mut self) -> (Stats, Ledger) {
        loop {
            let due = self.next_due();
            if due.is_none() && self.waiting.is_empty() {
                break;
            }
            match self.next_event(due).await {
                Event::Answer(Ok(ack)) => self.acknowledge(ack),
                Event::Answer(Err(failure)) => {
                    let failure = self.explain(failure).await;
                    self.fail_waiting(&failure);
                }
                Event::StopRequested => self.stop(),
                Event::Due if !self.located => self.locate().await,
                Event::Due => self.send(),
                Event::NoAnswer => {
                    self.reset();
                    self.fail_waiting(&no_answer(self.plan.ack_timeout));
                }
            }
        }
        let (end, ended) = (self.end(), Instant::now());
        self.close().await;
        self.stats.ran(self.started, ended);
        self.count_what_is_not_restored();
        // An ack stays one, whatever the server has lost since.
        self.unacknowledged
            .retain(|sequence| *sequence > self.recorded);
        let sent = self.made.max(self.furthest);
        let ledger = Ledger::new(self.source, sent, self.unacknowledged, end);
        (self.stats, ledger)
    }

    /// Counts what the server has lost, and what was on its way to it then, as far as it was not sent again.
    fn count_what_is_not_restored(&mut self) {
        self.stats.still_lost = self.recorded - self.durable;
        let sent_again = self.made.max(self.recorded);
        let left = self.furthest.saturating_sub(sent_again);
        if left > 0 {
            self.unacknowledged.extend(sent_again + 1..=self.furthest);
            self.count_failures(left, 0, "stopped before they could be sent again");
        }
    }

    /// When the next batch may be sent; `None` when there is no room for it, or nothing left to send.
    fn next_due(&self) -> Option<Instant> {
        if self.waiting.len() >= self.plan.window() {
            return None;
        }
        if !self.again.is_empty() {
            return Some(self.not_before);
        }
        if self.stopping || self.end() == End::Done {
            return None;
        }
        Some(self.planned().max(self.not_before))
    }

    /// Why it ends, were it to end now.
    fn end(&self) -> End {
        if self.plan.producer.is_some() && self.earlier.is_none() {
            // Whatever the time: nobody has said yet what there is left to do.
            return End::Unlocated;
        }
        // What was sent before and is lost is not new: it is sent again whatever the plan says.
        let is_new = self.made >= self.furthest;
        match is_new && self.has_all_of_the_plan() {
            true => End::Done,
            false => End::Early,
        }
    }

    /// Whether the plan wants no further batch to be made.
    fn has_all_of_the_plan(&self) -> bool {
        let all_made = self
            .plan
            .batches
            .is_some_and(|most| self.made >= most.get());
        let is_over = self.plan.duration.is_some_and(|duration| {
            let end = self.started + duration;
            self.planned() >= end || Instant::now() >= end
        });
        all_made || is_over
    }

    /// When the plan wants the next batch to be sent.
    fn planned(&self) -> Instant {
        match self.plan.interval {
            None => self.started,
            Some(interval) => {
                // The pace counts what this run makes, not what earlier ones did.
                let made = self.made.saturating_sub(self.stats.resumed);
                let nanos = interval.as_nanos().saturating_mul(made.into());
                let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
                self.started + Duration::from_nanos(nanos)
            }
        }
    }

    async fn next_event(&mut self, due: Option<Instant>) -> Event {
        let oldest = self.waiting.front();
        // The server comes to a batch once it has answered those before.
        let overdue = oldest.map(|sent| sent.at.max(self.last_answer) + self.plan.ack_timeout);
        tokio::select! {
            // Answers first, so that their latency is not that of making the next batch.
            biased;
            answer = self.target.answer(), if overdue.is_some() => Event::Answer(answer),
            () = self.stop.requested(), if !self.stopping => Event::StopRequested,
            () = wait_until(due) => Event::Due,
            () = wait_until(overdue) => Event::NoAnswer,
        }
    }

    fn send(&mut self) {
        let mut sent = match self.again.pop_front() {
            None => self.make(),
            Some(sent) => {
                self.stats.retries += 1;
                sent
            }
        };
        sent.attempts += 1;
        sent.at = Instant::now();
        match self.target.send(&sent.batch) {
            Ok(()) => self.waiting.push_back(sent),
            Err(failure) => self.fail(vec![sent], &failure),
        }
    }

    fn make(&mut self) -> Sent {
        let planned = self.planned();
        let batch = self.source.next_batch();
        self.made = batch.sequence;
        let now = Instant::now();
        let due = match self.plan.interval {
            None => now,
            // What waits behind a slow batch counts from when it should have been sent.
            Some(_) => planned,
        };
        Sent {
            batch,
            due,
            at: now,
            attempts: 0,
            uncertain: false,
        }
    }

    fn acknowledge(&mut self, ack: Ack) {
        let Some(sent) = self.waiting.pop_front() else {
            return;
        };
        self.last_answer = Instant::now();
        let Err(message) = self.check(&sent, ack) else {
            return self.settle(&sent, ack.duplicate);
        };
        let failure = Failure::of_all(Outcome::Unknown, message);
        if self.plan.producer.is_none() {
            return self.fail(vec![sent], &failure);
        }
        // Acks that do not fit mean nothing for those behind either.
        self.waiting.push_front(sent);
        self.reset();
        self.fail_waiting(&failure);
    }

    /// Finds an ack that is not that of this batch.
    fn check(&self, sent: &Sent, ack: Ack) -> Result<(), String> {
        let rows = u64::from(self.plan.rows.get());
        if ack.rows != rows {
            return Err(format!(
                "the server acknowledged {} rows of {rows}",
                ack.rows
            ));
        }
        let sequence = sent.batch.sequence;
        match ack.sequence {
            found if self.plan.producer.is_none() || found == Some(sequence) => Ok(()),
            None => Err(format!(
                "the server acknowledged sequence {sequence} without naming it"
            )),
            Some(other) => Err(format!(
                "the server acknowledged sequence {other} in place of {sequence}"
            )),
        }
    }

    /// Records a batch that is durable.
    fn settle(&mut self, sent: &Sent, duplicate: bool) {
        self.failures_in_a_row = 0;
        self.setback = None;
        self.faults = None;
        let sequence = sent.batch.sequence;
        if self.plan.producer.is_some() {
            self.durable = self.durable.max(sequence);
            if sequence <= self.recorded {
                return;
            }
            self.recorded = sequence;
        }
        let rows = u64::from(self.plan.rows.get());
        self.progress.acknowledged(rows);
        // What an earlier process loaded is not this one's load.
        let is_earlier = self.earlier.is_some_and(|last| sequence <= last);
        self.stats.duplicates += u64::from(duplicate || is_earlier);
        if !is_earlier {
            self.stats.acknowledge(rows, sent.due.elapsed());
        }
    }

    /// Asks how far the producer has come, unless the end is asked for first.
    async fn locate(&mut self) {
        let is_first = self.earlier.is_none();
        let asking = position(&mut self.target, &self.source, self.durable, is_first);
        let answer = tokio::time::timeout(self.plan.ack_timeout, asking);
        let located = tokio::select! {
            biased;
            () = self.stop.requested(), if !self.stopping => None,
            located = answer => Some(located),
        };
        match located {
            None => {
                self.reset();
                self.stop();
            }
            Some(Ok(Ok(last))) => self.go_on_after(last),
            Some(Ok(Err(failure))) => self.fail_to_locate(&failure),
            Some(Err(_)) => {
                self.reset();
                self.fail_to_locate(&no_answer(self.plan.ack_timeout));
            }
        }
    }

    /// Goes on from where the producer is: with the first batch that is not durable, whatever was acknowledged before.
    fn go_on_after(&mut self, last: u64) {
        if self.earlier.is_none() && self.plan.resume {
            if last > MAX_SEQUENCE {
                return self.fail_to_locate(&not_ours(last));
            }
            self.resume_after(last);
        }
        self.located = true;
        if last < self.durable {
            self.rewind_to(last);
        }
        // What the server has lost of an earlier process this one loads.
        self.earlier = Some(self.earlier.map_or(last, |earlier| earlier.min(last)));
        while let Some(sent) = self.again.pop_front() {
            if sent.batch.sequence > last {
                self.again.push_front(sent);
                break;
            }
            self.settle(&sent, false);
        }
    }

    /// Begins where an earlier process has ended.
    fn resume_after(&mut self, last: u64) {
        self.made = last;
        self.source.skip_to(last);
        self.durable = last;
        self.recorded = last;
        self.stats.resumed = last;
        let planned = self.plan.batches.map_or(last, |most| last.min(most.get()));
        let rows = u64::from(self.plan.rows.get());
        self.progress.skipped(planned.saturating_mul(rows));
    }

    /// Begins again behind `last`, because the server has lost what it had acknowledged after it, as one does whose file
    /// is replaced by an older copy. A later batch would make it take all of that for duplicates.
    fn rewind_to(&mut self, last: u64) {
        let lost = self.durable - last;
        self.stats.lost += lost;
        self.say(&format!(
            "the server has lost {lost} of the batches that it had acknowledged: it had come to {}, and is at {last} now; \
             sending them again",
            self.durable
        ));
        self.furthest = self.furthest.max(self.made);
        self.durable = last;
        self.made = last;
        self.source.skip_to(last);
        // They are made again in their turn.
        self.again.clear();
    }

    /// Forgets what the target is at; a producer must be located again.
    fn reset(&mut self) {
        self.target.reset();
        self.located = self.plan.producer.is_none();
    }

    async fn close(&mut self) {
        let closing = tokio::time::timeout(self.plan.ack_timeout, self.target.close());
        let result = match closing.await {
            Ok(result) => result,
            Err(_) => Err(no_answer(self.plan.ack_timeout)),
        };
        if let Err(failure) = result {
            let message = format!("the put did not end well: {}", failure.message);
            match self.plan.producer {
                // Its acks say by their sequence what is durable, and that is all it has sent.
                Some(_) => self.say(&message),
                None => self.count_failures(1, 0, &message),
            }
        }
    }

    fn say(&self, what: &str) {
        self.progress.say(&format!("writer {}: {what}", self.index));
    }
}

fn no_answer(timeout: Duration) -> Failure {
    let message = format!("no answer within {timeout:?}");
    Failure::of_all(Outcome::Unknown, message)
}

/// Waits until `deadline`, not at all when it has passed, and for ever when there is none.
async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        None => std::future::pending().await,
        // A timer ticks in milliseconds: what is due already must not wait for its next tick.
        Some(deadline) if deadline <= Instant::now() => {}
        Some(deadline) => sleep_until(deadline).await,
    }
}

mod failures;
mod location;
#[cfg(test)]
mod producer_tests;
#[cfg(test)]
mod tests;
