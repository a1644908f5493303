//! One writer: sends its batches in time, and records what comes of each.

use std::collections::VecDeque;
use std::time::Duration;

use duck_flight_protocol::Ack;
use tokio::time::{Instant, sleep_until};

use crate::stats::Stats;
use crate::target::{Failure, Outcome, Target};
use crate::{Batch, BatchSource, Plan, Progress, Stop, retry};

/// After so many failures in a row that a retry did not mend, a writer gives up.
const MAX_FAILURES_IN_A_ROW: u32 = 5;

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
    /// Batches to be sent again, oldest first.
    again: VecDeque<Sent>,
    /// Nothing is sent before.
    not_before: Instant,
    /// Batches made.
    made: u64,
    failures_in_a_row: u32,
    stopping: bool,
}

/// A batch that has been sent at least once.
struct Sent {
    batch: Batch,
    /// When it was first due, which is where its latency begins.
    due: Instant,
    /// When it was last sent.
    at: Instant,
    attempts: u32,
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
            plan,
            target,
            source,
            progress,
            stop,
            stats: Stats::default(),
            started: now,
            waiting: VecDeque::new(),
            again: VecDeque::new(),
            not_before: now,
            made: 0,
            failures_in_a_row: 0,
            stopping: false,
        }
    }

    /// Sends until the plan is fulfilled or the end is asked for, and waits for all answers.
    pub(crate) async fn run(mut self) -> Stats {
        loop {
            let due = self.next_due();
            if due.is_none() && self.waiting.is_empty() {
                break;
            }
            match self.next_event(due).await {
                Event::Answer(Ok(ack)) => self.acknowledge(ack),
                Event::Answer(Err(failure)) => self.fail_waiting(&failure),
                Event::StopRequested => self.stop(),
                Event::Due => self.send(),
                Event::NoAnswer => {
                    self.target.reset();
                    self.fail_waiting(&no_answer(self.plan.ack_timeout));
                }
            }
        }
        let ended = Instant::now();
        self.close().await;
        self.stats.ran(self.started, ended);
        self.stats
    }

    /// When the next batch may be sent; `None` when there is no room for it, or nothing left to send.
    fn next_due(&self) -> Option<Instant> {
        if self.waiting.len() >= self.plan.window() {
            return None;
        }
        if !self.again.is_empty() {
            return Some(self.not_before);
        }
        let all_made = self
            .plan
            .batches
            .is_some_and(|most| self.made >= most.get());
        if self.stopping || all_made {
            return None;
        }
        let planned = self.planned();
        if let Some(duration) = self.plan.duration {
            let end = self.started + duration;
            if planned >= end || Instant::now() >= end {
                return None;
            }
        }
        Some(planned.max(self.not_before))
    }

    /// When the plan wants the next batch to be sent.
    fn planned(&self) -> Instant {
        match self.plan.interval {
            None => self.started,
            Some(interval) => {
                let nanos = interval.as_nanos().saturating_mul(self.made.into());
                let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
                self.started + Duration::from_nanos(nanos)
            }
        }
    }

    async fn next_event(&mut self, due: Option<Instant>) -> Event {
        let oldest = self.waiting.front();
        let overdue = oldest.map(|sent| sent.at + self.plan.ack_timeout);
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
        self.made += 1;
        let batch = self.source.next_batch();
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
        }
    }

    fn acknowledge(&mut self, ack: Ack) {
        let Some(sent) = self.waiting.pop_front() else {
            return;
        };
        let rows = u64::from(self.plan.rows.get());
        if ack.rows != rows {
            let message = format!("the server acknowledged {} rows of {rows}", ack.rows);
            self.fail(vec![sent], &Failure::of_all(Outcome::Unknown, message));
            return;
        }
        self.failures_in_a_row = 0;
        self.stats.acknowledge(rows, sent.due.elapsed());
        self.progress.acknowledged(rows);
    }

    fn fail_waiting(&mut self, failure: &Failure) {
        let sent = std::mem::take(&mut self.waiting).into();
        self.fail(sent, failure);
    }

    /// Decides what becomes of batches that failed together: sent again, given up, or unknown.
    fn fail(&mut self, failed: Vec<Sent>, failure: &Failure) {
        let mut again = VecDeque::new();
        let (mut errors, mut unknown, mut exhausted) = (0, 0, false);
        for (position, sent) in failed.into_iter().enumerate() {
            let outcome = match position {
                0 => failure.oldest,
                _ => failure.later,
            };
            match outcome {
                Outcome::Retriable if self.stopping => errors += 1,
                Outcome::Retriable if sent.attempts <= self.plan.retries => again.push_back(sent),
                Outcome::Retriable => {
                    errors += 1;
                    exhausted = true;
                }
                Outcome::Refused => errors += 1,
                Outcome::Unknown => unknown += 1,
            }
        }
        // They were sent before those that wait already.
        let attempts = again.front().map(|sent| sent.attempts);
        again.append(&mut self.again);
        self.again = again;
        if errors + unknown > 0 {
            self.count_failures(errors, unknown, &failure.message);
        }
        if exhausted || self.failures_in_a_row >= MAX_FAILURES_IN_A_ROW {
            self.give_up();
        } else if let Some(attempts) = attempts {
            self.back_off(attempts, &failure.message);
        }
    }

    fn count_failures(&mut self, errors: u64, unknown: u64, message: &str) {
        self.stats.errors += errors;
        self.stats.unknown += unknown;
        self.failures_in_a_row += 1;
        if self.stats.first_error.is_none() {
            self.stats.first_error = Some(message.to_owned());
        }
        let what = match (errors, unknown) {
            (errors, 0) => format!("{errors} not committed"),
            (0, unknown) => format!("{unknown} unknown"),
            (errors, unknown) => format!("{errors} not committed, {unknown} unknown"),
        };
        self.say(&format!("failed ({what}): {message}"));
    }

    fn back_off(&mut self, attempts: u32, message: &str) {
        let delay = retry::delay(attempts);
        self.not_before = Instant::now() + delay;
        let millis = delay.as_millis();
        self.say(&format!("retrying in {millis} ms: {message}"));
    }

    fn give_up(&mut self) {
        self.say("giving up");
        self.stop();
    }

    /// Sends nothing more; what waited to be sent again is not committed and stays so.
    fn stop(&mut self) {
        self.stopping = true;
        let abandoned = u64::try_from(self.again.len()).unwrap_or(u64::MAX);
        self.again.clear();
        if abandoned > 0 {
            self.count_failures(abandoned, 0, "stopped before they could be sent again");
        }
    }

    async fn close(&mut self) {
        let closing = tokio::time::timeout(self.plan.ack_timeout, self.target.close());
        let result = match closing.await {
            Ok(result) => result,
            Err(_) => Err(no_answer(self.plan.ack_timeout)),
        };
        if let Err(failure) = result {
            let message = format!("the put did not end well: {}", failure.message);
            self.count_failures(1, 0, &message);
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

#[cfg(test)]
mod tests;
