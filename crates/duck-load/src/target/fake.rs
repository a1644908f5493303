//! A target that answers as it is told, after times that are known.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use duck_flight_protocol::Ack;
use tokio::time::{Instant, sleep_until};

use super::{Failure, Target};
use crate::Batch;

/// How the fake answers one batch.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// An ack of all rows.
    Ack,
    /// An ack of so many rows.
    AckOf(u64),
    /// No answer, but what was sent is durable; then a failure, upon which it forgets all batches.
    Lose(Failure),
    /// A failure, upon which it forgets all batches.
    Fail(Failure),
    /// A failure, after which no more than so many are durable: another server answers, with an older copy.
    Restore(u64, Failure),
    /// A failure, after which the producer is forgotten, and what was durable is there all the same.
    Forget(Failure),
    /// A failure, after which the table is gone.
    Drop(Failure),
    /// None, ever.
    Silence,
}

/// A server that works on one batch at a time, in order, and takes the scripted time for each; after the
/// script's end it begins anew.
#[derive(Debug)]
pub(crate) struct FakeTarget {
    script: Vec<(Duration, Answer)>,
    position: usize,
    working: VecDeque<(Instant, Batch, Answer)>,
    /// Where the producer is, and what asking for it is answered with first.
    durable: u64,
    lost: VecDeque<Failure>,
    /// The ids of the batches that the table has, by their sequences; not those of earlier processes.
    held: BTreeMap<u64, i64>,
    /// A batch, by its sequence and id, that is committed once it was asked where the producer is.
    late: Option<(u64, i64)>,
    has_table: bool,
    seen: Arc<Mutex<Seen>>,
}

/// What a fake was sent.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The ids of all batches, in order, resent ones again.
    pub(crate) ids: Vec<i64>,
    /// Their sequences.
    pub(crate) sequences: Vec<u64>,
    /// The most batches that were without an answer at once.
    pub(crate) most_waiting: usize,
    /// How often it was asked where the producer is.
    pub(crate) located: usize,
    pub(crate) closed: bool,
}

impl FakeTarget {
    pub(crate) fn new(script: Vec<(Duration, Answer)>) -> Self {
        Self {
            script,
            position: 0,
            working: VecDeque::new(),
            durable: 0,
            lost: VecDeque::new(),
            held: BTreeMap::new(),
            late: None,
            has_table: true,
            seen: Arc::default(),
        }
    }

    /// Has this many of the producer's batches already, and says so once it has failed with each of `lost`.
    pub(crate) fn holding(self, durable: u64, lost: impl Into<VecDeque<Failure>>) -> Self {
        Self {
            durable,
            lost: lost.into(),
            ..self
        }
    }

    /// Has the rows of this batch, by its sequence and id, whatever it knows of the producer.
    pub(crate) fn having(mut self, sequence: u64, id: i64) -> Self {
        self.held.insert(sequence, id);
        self
    }

    /// Commits this batch, by its sequence and id, once it has said for the first time where the producer is.
    pub(crate) fn having_late(self, sequence: u64, id: i64) -> Self {
        Self {
            late: Some((sequence, id)),
            ..self
        }
    }

    /// Has no table any more.
    pub(crate) fn without_table(self) -> Self {
        Self {
            has_table: false,
            ..self
        }
    }

    /// Acknowledges every batch after `latency`.
    pub(crate) fn steady(latency: Duration) -> Self {
        Self::new(vec![(latency, Answer::Ack)])
    }

    fn commit(&mut self, batch: &Batch) {
        self.durable = self.durable.max(batch.sequence);
        self.held.insert(batch.sequence, batch.id);
    }

    pub(crate) fn seen(&self) -> Arc<Mutex<Seen>> {
        Arc::clone(&self.seen)
    }
}

impl Target for FakeTarget {
    fn send(&mut self, batch: &Batch) -> Result<(), Failure> {
        let (takes, answer) = self.script[self.position % self.script.len()].clone();
        self.position += 1;
        let now = Instant::now();
        let begins = self
            .working
            .back()
            .map_or(now, |(ready, ..)| now.max(*ready));
        self.working
            .push_back((begins + takes, batch.clone(), answer));
        let mut seen = self.seen.lock().unwrap();
        seen.ids.push(batch.id);
        seen.sequences.push(batch.sequence);
        seen.most_waiting = seen.most_waiting.max(self.working.len());
        Ok(())
    }

    async fn answer(&mut self) -> Result<Ack, Failure> {
        let (ready, batch, answer) = self.working.front().cloned().expect("a batch is waiting");
        sleep_until(ready).await;
        let rows = match answer {
            Answer::Ack => u64::try_from(batch.rows.num_rows()).unwrap(),
            Answer::AckOf(rows) => rows,
            Answer::Silence => std::future::pending().await,
            Answer::Lose(failure) => {
                self.commit(&batch);
                self.working.clear();
                return Err(failure);
            }
            Answer::Restore(durable, failure) => {
                self.durable = durable;
                self.held.retain(|sequence, _| *sequence <= durable);
                self.working.clear();
                return Err(failure);
            }
            Answer::Forget(failure) => {
                self.durable = 0;
                self.working.clear();
                return Err(failure);
            }
            Answer::Drop(failure) => {
                self.has_table = false;
                self.working.clear();
                return Err(failure);
            }
            Answer::Fail(failure) => {
                self.working.clear();
                return Err(failure);
            }
        };
        self.working.pop_front();
        let duplicate = batch.sequence <= self.durable;
        self.commit(&batch);
        Ok(Ack {
            rows,
            sequence: Some(batch.sequence),
            duplicate,
            ..Ack::default()
        })
    }

    async fn locate(&mut self) -> Result<u64, Failure> {
        self.seen.lock().unwrap().located += 1;
        if let Some(failure) = self.lost.pop_front() {
            return Err(failure);
        }
        let last = self.durable;
        if let Some((sequence, id)) = self.late.take() {
            self.durable = sequence;
            self.held.insert(sequence, id);
        }
        Ok(last)
    }

    async fn last_durable(&mut self) -> Result<u64, Failure> {
        Ok(self.durable)
    }

    async fn holds(&mut self, ids: [i64; 2]) -> Result<bool, Failure> {
        Ok(self.held.values().any(|id| ids.contains(id)))
    }

    async fn has_table(&mut self) -> Result<bool, Failure> {
        Ok(self.has_table)
    }

    fn reset(&mut self) {
        self.working.clear();
    }

    async fn close(&mut self) -> Result<(), Failure> {
        self.seen.lock().unwrap().closed = true;
        Ok(())
    }
}
