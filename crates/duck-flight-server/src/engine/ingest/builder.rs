//! A unit that is growing: its rows are cast as they come in and wait in memory, within the budget, until it is handed to the
//! writers. One that grows large goes on in a transaction of its own, with all it holds.

use arrow::array::RecordBatch;
use tokio::sync::oneshot;

use super::budget::Share;
use super::large::Large;
use super::unit::{Answer, CastRows, Unit};
use super::{Committing, LARGE_UNIT_BYTES, LARGE_UNIT_ROWS, PLACES, Put, SentBatch};
use crate::engine::Engine;
use crate::engine::connections::lease::Place;
use crate::error::{Error, Result};
use crate::intake::Standing;

/// A unit that is growing. Dropped before [`UnitBuilder::commit`], it leaves nothing behind.
pub(crate) struct UnitBuilder<'a> {
    put: &'a mut Put,
    sequence: Option<u64>,
    /// Whether it is durable already, or fenced, and so it stays: its rows are only counted.
    is_settled: bool,
    is_first: bool,
    /// Rows that were sent.
    rows: u64,
    /// Whether the table was looked at again for rows that do not fit it.
    looked_again: bool,
    state: State,
}

enum State {
    Small(Small),
    Large(Large),
}

struct Small {
    sent: Vec<RecordBatch>,
    cast: CastRows,
    bytes: usize,
    share: Share,
}

impl<'a> UnitBuilder<'a> {
    pub(super) fn new(
        put: &'a mut Put,
        sequence: Option<u64>,
        is_settled: bool,
        is_first: bool,
    ) -> Self {
        let small = Small::new(&put.engine);
        Self {
            put,
            sequence,
            is_settled,
            is_first,
            rows: 0,
            looked_again: false,
            state: State::Small(small),
        }
    }

    /// Adds a batch. Waits while the budget is spent, which holds back the client.
    pub(crate) async fn push(&mut self, batch: SentBatch) -> Result<()> {
        let rows_before = self.rows;
        self.rows += batch.rows.num_rows() as u64;
        if self.is_settled {
            return Ok(());
        }
        if let State::Small(small) = &mut self.state {
            let cast_bytes = self.put.expected_bytes(&batch);
            let is_small = self.rows < LARGE_UNIT_ROWS;
            if is_small && small.make_room(batch.bytes, cast_bytes).await {
                // They count in the budget now.
                drop(batch.room);
                self.add(batch.rows, rows_before).await?;
                return self.cover().await;
            }
            self.grow_large().await?;
        }
        match &mut self.state {
            State::Large(large) => large.push(batch.rows, batch.room).await,
            State::Small(_) => Err(Error::WorkerLost),
        }
    }

    /// Adds a batch to a small unit. Where rows do not fit, the table may have changed since it was last seen.
    async fn add(&mut self, batch: RecordBatch, rows_before: u64) -> Result<()> {
        let State::Small(small) = &mut self.state else {
            return Err(Error::WorkerLost);
        };
        if small.sent.is_empty() && self.put.is_sifted_late(self.sequence, self.is_first) {
            self.put.make_table().await?;
            self.put.engine.forget_columns(&self.put.target.table);
            self.put.resolve().await?;
        }
        let rejects_before = small.cast.rejects.len();
        small.sent.push(batch.clone());
        let Some(plan) = &self.put.plan else {
            // They are cast once the table is as it should be.
            return Ok(());
        };
        let outcome = self.put.cast(plan, &batch, rows_before).await;
        let outcome = outcome.and_then(|cast| small.cast.add(plan, cast));
        let is_misfit = match &outcome {
            Ok(()) => small.cast.rejects.len() > rejects_before,
            Err(error) => matches!(error, Error::Value { .. }),
        };
        // Once for a unit, for a client may send nothing but rows that do not fit.
        if !is_misfit || std::mem::replace(&mut self.looked_again, true) {
            return outcome;
        }
        if !self.put.look_again().await? {
            return outcome;
        }
        small.cast = match &self.put.plan {
            Some(plan) => self.put.cast_all(plan, &small.sent).await?,
            None => CastRows::default(),
        };
        Ok(())
    }

    /// Sees that all that the rows have become has its part of the budget, too: cast, or put aside as JSON, they may be far
    /// larger than they were sent.
    async fn cover(&mut self) -> Result<()> {
        let State::Small(small) = &mut self.state else {
            return Ok(());
        };
        let Small { cast, share, .. } = small;
        match share.cover_cast(cast.bytes()) && share.cover_rejects(cast.rejected_bytes()) {
            true => Ok(()),
            false => self.grow_large().await,
        }
    }

    /// Goes on in a transaction of its own, with all that a small unit holds.
    async fn grow_large(&mut self) -> Result<()> {
        let State::Small(small) = &mut self.state else {
            return Ok(());
        };
        // Its rows are in memory until a thread takes them, so they count: beside the budget where there is room, else in it. Units that
        // have a thread take no budget, so nobody waits in a circle.
        let Small { sent, share, .. } = std::mem::replace(small, Small::new(&self.put.engine));
        let share = share.moved_to(self.put.engine.growing());
        if !self.makes_anew() {
            // A client may have dropped or altered the table since its first rows came in.
            self.put.resolve().await?;
            if self.put.plan.is_none() {
                self.put.make_table().await?;
            }
        }
        let places = self.put.places(PLACES).await?;
        let Put { engine, target, .. } = &*self.put;
        let referred = match self.makes_anew() {
            // A table that a put makes has no foreign keys.
            true => Vec::new(),
            false => self.put.referred().await?,
        };
        let (sequence, is_first) = (self.sequence, self.is_first);
        let mut large = Large::start(engine, target, sequence, is_first, referred, places)?;
        large.started().await;
        for batch in sent {
            large.push_kept(batch).await?;
        }
        drop(share);
        self.state = State::Large(large);
        Ok(())
    }

    /// Whether its table is made with it.
    fn makes_anew(&self) -> bool {
        self.is_first && self.put.target.makes_anew()
    }

    /// What it holds while it waits for its client.
    pub(crate) fn standing(&self) -> Standing {
        match &self.state {
            State::Small(small) if small.share.is_empty() => Standing::Idle,
            State::Small(_) => Standing::Holding,
            State::Large(_) => Standing::Writing,
        }
    }

    /// Waits for the client to go on. A unit is given up when it keeps others waiting for too long, for the budget or for
    /// a transaction.
    pub(crate) async fn wait_for_client<T>(
        &self,
        next: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let engine = &self.put.engine;
        let patience = match &self.state {
            State::Small(small) if small.share.is_empty() => return next.await,
            State::Small(_) => engine.budget_patience(),
            State::Large(large) => return large.wait_for_client(&Place::Any, next).await,
        };
        patience.bear(&Place::Any, next).await
    }

    /// Hands the unit over to be committed.
    pub(crate) async fn commit(self) -> Result<Committing> {
        match self.state {
            State::Large(large) => Ok(large.commit().await),
            State::Small(small) => {
                let place = self.put.places(1).await?;
                let (sender, committing) = oneshot::channel();
                let target = self.put.target.clone();
                let referred = match self.is_settled {
                    true => Vec::new(),
                    false => self.put.referred().await?,
                };
                let plan = self.put.plan.clone();
                let unit = Unit {
                    put: target.clone(),
                    sequence: self.sequence,
                    cast: plan.map(|plan| (plan, small.cast.batches)),
                    sent: small.sent,
                    rows: self.rows,
                    rejects: small.cast.rejects,
                    is_first: self.is_first,
                    referred,
                    answer: Answer::new(target, sender, Some(place)),
                    share: small.share,
                };
                // For what is settled no writer is needed.
                let unit = match self.is_settled {
                    true => unit.screen(),
                    false => Some(unit),
                };
                if let Some(unit) = unit {
                    self.put.engine.submit(unit)?;
                }
                Ok(Committing(committing))
            }
        }
    }
}

impl Small {
    fn new(engine: &Engine) -> Self {
        Self {
            sent: Vec::new(),
            cast: CastRows::default(),
            bytes: 0,
            share: engine.budget().share(),
        }
    }

    /// Takes budget for `bytes` more, and for what they become; false when the unit must go on in a transaction of its own.
    async fn make_room(&mut self, bytes: usize, cast_bytes: usize) -> bool {
        if self.bytes + bytes > LARGE_UNIT_BYTES {
            return false;
        }
        let is_taken = self.share.take(bytes, cast_bytes).await;
        if is_taken {
            self.bytes += bytes;
        }
        is_taken
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BooleanArray, StringArray};
    use duck_flight_protocol::{Mode, OnError, PutOptions, SchemaMode};

    use super::*;
    use crate::engine::EngineOptions;

    #[tokio::test(flavor = "multi_thread")]
    async fn rows_that_do_not_fit_are_found_before_a_writer_has_them() {
        let engine = Engine::open(&EngineOptions::in_memory()).unwrap();
        let sql = "CREATE TABLE t (v INTEGER)".to_owned();
        engine.execute(&Place::Any, sql).await.unwrap();
        let evolving = PutOptions {
            schema: SchemaMode::Evolve,
            ..PutOptions::new("t")
        };
        let keyed = PutOptions {
            mode: Mode::Upsert,
            key: Some(vec!["v".into()]),
            ..PutOptions::new("new")
        };
        for options in [evolving, keyed] {
            let texts = |values: Vec<Option<&str>>| Arc::new(StringArray::from(values)) as ArrayRef;
            let bad = (options.mode == Mode::Append).then_some("x");
            let columns = [
                ("v", texts(vec![Some("1"), bad]), true),
                ("w", texts(vec![None, Some("w")]), true),
            ];
            let rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
            let options = PutOptions {
                on_error: OnError::Reject,
                ..options
            };
            let mut put = engine.put(&options, rows.schema()).await.unwrap();
            let mut unit = put.unit(None).await.unwrap();
            let batch = SentBatch {
                rows,
                bytes: 100,
                room: None,
            };
            unit.push(batch).await.unwrap();
            let State::Small(small) = &unit.state else {
                panic!("so few rows are a small unit");
            };
            assert_eq!(small.cast.rejects.len(), 1);
            let committed = unit.commit().await.unwrap().done().await.unwrap();
            assert_eq!((committed.rows, committed.rejected), (1, 1));
        }
    }

    /// So many rows of columns with these names, with a bit for each value.
    fn bits(rows: usize, names: impl IntoIterator<Item = String>) -> SentBatch {
        let bits: ArrayRef = Arc::new(BooleanArray::from(vec![true; rows]));
        let columns = names.into_iter().map(|name| (name, bits.clone()));
        SentBatch {
            rows: RecordBatch::try_from_iter(columns).unwrap(),
            bytes: 100,
            room: None,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rows_grow_large_whose_table_is_altered_before_they_are_cast() {
        const ROWS: usize = 100_000;
        let engine = Engine::open(&EngineOptions::in_memory()).unwrap();
        let sql = "CREATE TABLE t (v BIGINT)".to_owned();
        engine.execute(&Place::Any, sql).await.unwrap();
        // The last one goes as it is into the table that is made for it.
        for (table, name, is_large) in [("t", "w", true), ("t", "x", true), ("made", "w", false)] {
            let options = PutOptions {
                schema: SchemaMode::Evolve,
                ..PutOptions::new(table)
            };
            let batch = bits(ROWS, ["v".to_owned(), name.to_owned()]);
            let mut put = engine.put(&options, batch.rows.schema()).await.unwrap();
            assert!(put.plan.is_none());
            let mut unit = put.unit(None).await.unwrap();
            unit.push(batch).await.unwrap();
            assert_eq!(matches!(unit.state, State::Large(_)), is_large);
            let committed = unit.commit().await.unwrap().done().await.unwrap();
            assert_eq!(committed.rows, ROWS as u64);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rows_are_refused_that_become_far_larger_because_their_table_was_altered() {
        let engine = Engine::open(&EngineOptions::in_memory()).unwrap();
        let table = |columns: usize, sql_type: &str| {
            let columns = (0..columns).map(|column| format!("c{column} {sql_type}"));
            let columns = columns.collect::<Vec<_>>().join(", ");
            format!("CREATE OR REPLACE TABLE t ({columns})")
        };
        for (columns, fits) in [(1, true), (40, false)] {
            let sql = table(columns, "BOOLEAN");
            engine.execute(&Place::Any, sql).await.unwrap();
            let batch = bits(1_000_000, (0..columns).map(|column| format!("c{column}")));
            let options = PutOptions::new("t");
            let mut put = engine.put(&options, batch.rows.schema()).await.unwrap();
            let mut unit = put.unit(None).await.unwrap();
            unit.push(batch).await.unwrap();
            assert!(matches!(unit.state, State::Small(_)));
            let sql = table(columns, "BIGINT");
            engine.execute(&Place::Any, sql).await.unwrap();
            match unit.commit().await.unwrap().done().await {
                Ok(committed) => assert_eq!((committed.rows, fits), (1_000_000, true)),
                Err(error) => assert!(matches!(error, Error::TableAltered(_)) && !fits, "{error}"),
            }
        }
    }
}
