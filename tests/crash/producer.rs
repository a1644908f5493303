//! Loaders that name themselves: what they send again is applied once.

use std::collections::VecDeque;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use duck_flight_protocol::{Ack, Commit, PutOptions};
use duck_tests::{Client, eventually};
use tonic::{Code, Status};

use crate::loader::{Loader, Progress};
use crate::put::Put;
use crate::table::{Check, Trouble, rows_if_there};
use crate::world::{Counts, Life};

/// How many units that are committed already a loader sends again at most, after it has come back.
const SENT_AGAIN: u64 = 2;

/// How much a loader does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Units that are on their way at a time.
    pub(crate) in_flight: usize,
    /// Units in one life of the server.
    pub(crate) each_life: u64,
}

/// What an ack must say of a unit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effect {
    pub(crate) rows: u64,
    pub(crate) rejected: u64,
}

/// The units of one loader, each of which follows from its sequence, and the model of the table they make.
pub(crate) trait Source: Clone + Send + Sync + 'static {
    /// What the table must hold.
    type Model: Clone + Default + Send + Sync;

    /// The options of its puts, but for producer and sequence.
    fn options(&self) -> PutOptions;

    /// The loader's name, and its producer's.
    fn name(&self) -> String {
        self.options().table.table
    }

    /// SQL that must have run before the first unit.
    fn set_up(&self) -> Option<String> {
        None
    }

    /// The batches of a unit: one where batches are units.
    fn unit(&self, sequence: u64) -> Vec<RecordBatch>;

    /// The schema of a unit.
    fn schema(&self, sequence: u64) -> SchemaRef {
        self.unit(sequence)[0].schema()
    }

    /// Applies a unit to the model.
    fn apply(&self, model: &mut Self::Model, sequence: u64);

    /// What the table must answer. A thorough check looks at every row.
    fn checks(&self, model: &Self::Model, thorough: bool) -> Vec<Check>;

    /// What the ack of a unit must say, where that is plain.
    fn effect(&self, sequence: u64) -> Option<Effect>;

    fn pace(&self) -> Pace;

    /// Whether units may have transactions of their own, which take long.
    fn is_large(&self) -> bool {
        false
    }

    /// Counts a unit that is about to be sent.
    fn count(&self, _sequence: u64, _counts: &mut Counts) {}
}

/// A loader with a producer.
#[derive(Clone)]
pub(crate) struct Producer<S: Source> {
    source: S,
    options: PutOptions,
    name: String,
    /// The table after the unit `last`.
    model: S::Model,
    /// The last unit that is known to be committed.
    last: u64,
    /// The last unit that was ever sent.
    sent: u64,
    duplicates: u64,
}

impl<S: Source> Producer<S> {
    pub(crate) fn new(source: S) -> Self {
        let mut options = source.options();
        let name = source.name();
        options.producer = Some(name.clone());
        Self {
            source,
            options,
            name,
            model: S::Model::default(),
            last: 0,
            sent: 0,
            duplicates: 0,
        }
    }

    fn advance_to(&mut self, sequence: u64) {
        for unit in self.last + 1..=sequence {
            self.source.apply(&mut self.model, unit);
        }
        self.last = self.last.max(sequence);
    }

    /// Takes the server's word for where this producer is, if it can be true.
    fn believe(&mut self, last: u64) -> Result<(), Trouble> {
        if last < self.last {
            return Err(Trouble::Broken(format!(
                "unit {} was acknowledged, and the server has come to {last} only",
                self.last
            )));
        }
        if last > self.sent {
            return Err(Trouble::Broken(format!(
                "units up to {} were sent, and the server has come to {last}",
                self.sent
            )));
        }
        self.advance_to(last);
        Ok(())
    }

    async fn last_sequence(&self, client: &Client) -> Result<u64, Trouble> {
        let sql = format!(
            "SELECT last_sequence FROM duck_flight.producers WHERE producer = '{}'",
            self.name
        );
        match rows_if_there(client, &sql).await?.as_slice() {
            [] => Ok(0),
            [last] => Ok(last.parse().expect("a sequence")),
            more => Err(Trouble::Broken(format!("{sql}: {more:?}"))),
        }
    }

    /// Compares the table with the model.
    async fn compare(&self, client: &Client, thorough: bool) -> Result<(), Trouble> {
        for check in self.source.checks(&self.model, thorough) {
            match check.run(client).await {
                // Its first unit makes the table.
                Err(Trouble::Status(status))
                    if status.code() == Code::NotFound && self.last == 0 => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn send(&mut self, put: &Put, sequence: u64, life: &Life) {
        let world = life.world();
        world.count(|counts| self.source.count(sequence, counts));
        self.sent = self.sent.max(sequence);
        let of_batch = (self.options.commit == Commit::Batch).then_some(sequence);
        for batch in self.source.unit(sequence) {
            put.send(&batch, of_batch);
        }
    }

    async fn take_ack(&mut self, put: &mut Put, sequence: u64, life: &Life) -> Result<(), Trouble> {
        let answer = eventually("an ack", put.ack()).await?;
        let Some(ack) = answer else {
            return Err(Status::unknown("the put ended without an ack").into());
        };
        let is_duplicate = sequence <= self.last;
        self.check_ack(&ack, sequence, is_duplicate)?;
        self.duplicates += u64::from(is_duplicate);
        self.advance_to(sequence);
        life.world().count(|counts| counts.acks += 1);
        Ok(())
    }

    fn check_ack(&self, ack: &Ack, sequence: u64, is_duplicate: bool) -> Result<(), Trouble> {
        let mut expected = Ack {
            sequence: Some(sequence),
            duplicate: is_duplicate,
            ..*ack
        };
        if let Some(effect) = self.source.effect(sequence) {
            // Of a duplicate the ack counts the rows that were sent.
            let sent = effect.rows + effect.rejected;
            expected.rows = if is_duplicate { sent } else { effect.rows };
            expected.rejected = if is_duplicate { 0 } else { effect.rejected };
        }
        if *ack == expected {
            return Ok(());
        }
        Err(Trouble::Broken(format!("{expected:?} expected: {ack:?}")))
    }

    /// One put for each unit.
    async fn load_units(&mut self, client: &Client, life: &Life) -> Result<(), Trouble> {
        let first = self.last.saturating_sub(life.number() % (SENT_AGAIN + 1));
        let end = self.last + self.source.pace().each_life;
        for sequence in first + 1..=end {
            if life.is_gone() {
                break;
            }
            self.options.sequence = Some(sequence);
            let mut put = Put::open(client, &self.options, &self.source.schema(sequence));
            self.send(&put, sequence, life);
            put.end();
            self.take_ack(&mut put, sequence, life).await?;
            end_of(&mut put).await?;
        }
        Ok(())
    }

    /// Puts in which every batch is a unit: one for each schema.
    async fn load_batches(&mut self, client: &Client, life: &Life) -> Result<(), Trouble> {
        let end = self.last + self.source.pace().each_life;
        while !life.is_gone() && self.last < end {
            self.load_one_schema(client, life, end).await?;
        }
        Ok(())
    }

    async fn load_one_schema(
        &mut self,
        client: &Client,
        life: &Life,
        end: u64,
    ) -> Result<(), Trouble> {
        let schema = self.source.schema(self.last + 1);
        let mut put = Put::open(client, &self.options, &schema);
        let resume_after = eventually("resume_after", put.resume()).await?;
        let known = self.last;
        self.believe(resume_after)?;
        if resume_after != known {
            return Err(Trouble::Broken(format!(
                "the table was at unit {known}, and resume_after is {resume_after}"
            )));
        }
        let mut next = resume_after + 1;
        for _ in 0..life.number() % (SENT_AGAIN + 1) {
            if next > 1 && self.source.schema(next - 1) == schema {
                next -= 1;
            }
        }
        let mut waiting = VecDeque::new();
        loop {
            while waiting.len() < self.source.pace().in_flight
                && next <= end
                && !life.is_gone()
                && self.source.schema(next) == schema
            {
                self.send(&put, next, life);
                waiting.push_back(next);
                next += 1;
            }
            let Some(oldest) = waiting.pop_front() else {
                break;
            };
            self.take_ack(&mut put, oldest, life).await?;
        }
        put.end();
        end_of(&mut put).await
    }
}

/// Waits for the end of a put all of whose acks have come.
async fn end_of(put: &mut Put) -> Result<(), Trouble> {
    match eventually("the end of a put", put.ack()).await? {
        None => Ok(()),
        Some(ack) => Err(Trouble::Broken(format!("an ack too many: {ack:?}"))),
    }
}

#[tonic::async_trait]
impl<S: Source> Loader for Producer<S> {
    fn name(&self) -> &str {
        &self.name
    }

    async fn set_up(&mut self, client: &Client) -> Result<(), Status> {
        match self.source.set_up() {
            Some(sql) => client.try_execute(sql).await.map(drop),
            None => Ok(()),
        }
    }

    async fn check(&mut self, client: &Client, thorough: bool) -> Result<(), Trouble> {
        loop {
            let last = self.last_sequence(client).await?;
            self.believe(last)?;
            let difference = match self.compare(client, thorough).await {
                Err(Trouble::Broken(difference)) => difference,
                other => return other,
            };
            // Units of a put that has failed may still have been committed since.
            if self.last_sequence(client).await? == last {
                return Err(Trouble::Broken(format!("at unit {last}: {difference}")));
            }
        }
    }

    async fn load(&mut self, client: &Client, life: &Life) -> Result<(), Trouble> {
        if life.is_calm && self.source.is_large() {
            return Ok(());
        }
        match self.options.commit {
            Commit::Stream => self.load_units(client, life).await,
            Commit::Batch => self.load_batches(client, life).await,
        }
    }

    fn progress(&self) -> Progress {
        Progress {
            sent: self.sent,
            committed: self.last,
            duplicates: self.duplicates,
        }
    }

    fn fork(&self) -> Box<dyn Loader> {
        Box::new(self.clone())
    }
}
