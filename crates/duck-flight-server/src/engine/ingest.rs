//! The way of a put, up to the writers: batches are cast to the table's types and gathered into units.
//!
//! A unit is what is committed as a whole: a record batch, or a whole put. Small units wait in memory,
//! within one budget for all puts, and go to the [writers](writer), where they share commits. A unit that
//! grows large, or that finds half of the budget taken, moves to a transaction and a connection of its own and is
//! written [while it comes in](large); so memory stays bounded and no unit waits for another one's budget.

pub(super) mod budget;
pub(super) mod large;
pub(super) mod own_table;
pub(super) mod producers;
pub(super) mod queue;
pub(super) mod recent;
pub(super) mod rejects;
mod shared;
pub(super) mod staged;
mod tables;
mod target;
pub(super) mod unit;
pub(super) mod writer;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use duck_flight_protocol::{Create, Mode, PutOptions};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::Engine;
use super::catalog::Columns;
use super::connections::lease::Place;
use super::rows::effect::{Effect, check_names};
use super::rows::evolve::alterations;
use super::rows::growth::Growth;
use super::rows::plan::Plan;
use super::rows::sql_type::create_table_sql;
use crate::error::{Error, Result};
use crate::intake::Standing;
use crate::unpacking::Room;
use budget::Share;
use large::Large;
use producers::{Claim, Standing as UnitStanding};
use rejects::Sifted;
use target::{TableKey, Target, unambiguous};
use unit::{Answer, CastRows, Committed, Unit};

/// From this size on a unit has a transaction of its own.
const LARGE_UNIT_BYTES: usize = 32 << 20;

/// What units may have in memory together, at least, that wait for a thread: eight of the largest, or very many that grow early.
pub(super) const GROWING_BYTES: usize = 8 * LARGE_UNIT_BYTES;

/// From this many rows on, too: more do not make a shared commit any cheaper.
const LARGE_UNIT_ROWS: u64 = 1 << 20;

/// How many units of a put may be under way: more than the acks that may wait.
const PLACES: u32 = 1 << 16;

/// An open put: units are built from its batches and committed.
pub(crate) struct Put {
    engine: Engine,
    target: Arc<Target>,
    /// Limits how many units of the put are under way. A large unit does not go through the queue, so it takes all places: nothing of
    /// the put may overtake it, nor be overtaken by it.
    places: Arc<Semaphore>,
    /// How rows go into the table as it was last seen; `None` where it is to be made or changed first.
    plan: Option<Arc<Plan>>,
    /// How rows may grow while there is no plan.
    growth: Growth,
    /// Whether `plan` is up to date for the next unit.
    is_resolved: bool,
    /// Why new rows will be refused, found out when the put was opened: the table is gone, or has no key any more. Duplicates are
    /// still answered.
    refusal: Option<Error>,
    begun: bool,
}

/// A record batch as it was sent.
pub(crate) struct SentBatch {
    /// The rows, checked.
    pub(crate) rows: RecordBatch,
    /// The memory they hold: what they weigh against the budget.
    pub(crate) bytes: usize,
    /// The room they have while they count nowhere else.
    pub(crate) room: Option<Room>,
}

impl Put {
    /// Opens a put: resolves the table and matches the stream's columns with it. That of a producer which goes on is matched once
    /// it sends what is new: what it sends again is a duplicate, whatever has become of the table.
    pub(super) async fn open(
        engine: &Engine,
        options: &PutOptions,
        schema: SchemaRef,
    ) -> Result<Self> {
        let key = engine.table_key(&options.table);
        Self::check_table(&key)?;
        if key.is_temporary() {
            // Acknowledged there, they would be in a writer's temporary table, which nobody can read.
            return Err(Error::Malformed(
                "rows of a put are written by a connection that all puts share, and a temporary table is its client's own: \
                 put into another table, or use Flight SQL's ingest in a session"
                    .into(),
            ));
        }
        let table = unambiguous(&options.table, engine.own_catalog());
        let options = &PutOptions {
            table,
            ..options.clone()
        };
        let (effect, refusal) = match effect(engine, options).await {
            Ok(effect) => (effect, None),
            // The table has no key any more; it may have had one.
            Err(error) if options.producer.is_some() && options.key.is_none() => {
                (Effect::Append, Some(error))
            }
            Err(error) => return Err(error),
        };
        // From here on the producer's other stream is fenced.
        let claim = match &options.producer {
            Some(producer) => Some(engine.claim(producer, &key).await?),
            None => None,
        };
        let mut put = Self {
            engine: engine.clone(),
            target: Arc::new(Target::new(options, key, effect, claim, schema)),
            places: Arc::new(Semaphore::new(PLACES as usize)),
            plan: None,
            growth: Growth::default(),
            is_resolved: false,
            refusal,
            begun: false,
        };
        if put.last_sequence().is_none_or(|last| last == 0) {
            put.resolve().await?;
            put.is_resolved = true;
        }
        Ok(put)
    }

    /// Refuses tables that are not for putting into.
    pub(super) fn check_table(key: &TableKey) -> Result<()> {
        if key.is_own() {
            return Err(Error::Forbidden(
                "tables of the schema duck_flight are the server's own; they can be read, not put into",
            ));
        }
        if key.is_scratch() {
            return Err(Error::Forbidden(
                "the server gathers rows in temporary tables called duck_flight_staged, duck_flight_at_fault and duck_flight_widened: \
                 choose another name",
            ));
        }
        Ok(())
    }

    /// The last sequence of the put's producer that is durable; 0 where there is none.
    pub(crate) fn last_sequence(&self) -> Option<u64> {
        let claim = self.target.claim.as_ref();
        claim.map(Claim::last_sequence)
    }

    /// Makes the plan for the table as it is.
    async fn resolve(&mut self) -> Result<()> {
        if let Some(refusal) = self.refusal.take() {
            self.target.note_refused();
            return Err(refusal);
        }
        let columns = self.engine.columns(&self.target.table).await?;
        let outcome = self.plan_for(columns).await;
        if let Err(Error::Columns(_) | Error::TableExists(_)) = outcome {
            // The table may have changed since it was last seen.
            self.engine.forget_columns(&self.target.table);
            let columns = self.engine.columns(&self.target.table).await?;
            return self.plan_for(columns).await;
        }
        outcome
    }

    /// Looks at the table again, and makes another plan if its columns are others now; false if they are not.
    async fn look_again(&mut self) -> Result<bool> {
        let Some(plan) = self.plan.clone() else {
            return Ok(false);
        };
        self.engine.forget_columns(&self.target.table);
        let columns = self.engine.columns(&self.target.table).await?;
        if columns.as_ref().is_some_and(|columns| plan.fits(columns)) {
            return Ok(false);
        }
        self.plan_for(columns).await?;
        Ok(true)
    }

    async fn plan_for(&mut self, columns: Option<Columns>) -> Result<()> {
        let Target {
            table,
            create,
            schema,
            effect,
            schema_mode: mode,
            ..
        } = &*self.target;
        let mode = *mode;
        if effect.is_keyed() || self.target.rejects {
            let stream = schema.fields().iter().map(|field| field.name());
            let shapes = columns.iter().flat_map(|columns| columns.iter());
            check_names(stream.chain(shapes.map(|column| column.field.name())))?;
        }
        let columns = match (columns, create) {
            (None, Create::Never) => return Err(Error::NoTable(table.clone())),
            (Some(_), Create::Always) if !self.begun && self.target.makes_anew() => {
                return Err(Error::TableExists(table.clone()));
            }
            (None, _) if matches!(effect, Effect::Delete { .. }) => {
                return Err(Error::NothingToDelete(table.clone()));
            }
            // What is there is replaced by the put's first unit, which may still be on its way.
            (Some(_), Create::Replace) if self.target.is_yet_to_make() => None,
            (columns, _) => columns,
        };
        let Some(columns) = columns else {
            // The table that the rows go into is yet to be made.
            create_table_sql("CREATE TABLE", &table.to_sql(), schema, effect, mode)?;
            self.plan = None;
            self.growth = Growth::new(schema, &[], effect, mode);
            return Ok(());
        };
        if self.plan.as_ref().is_some_and(|plan| plan.is_for(&columns)) {
            return Ok(());
        }
        let alterations = alterations(table, &columns, schema, effect, mode)?;
        let alterations = self
            .engine
            .without_fixed_columns(table, alterations)
            .await?;
        self.plan = match alterations.is_empty() {
            true => Some(Arc::new(Plan::new(schema, &columns, effect, mode)?)),
            false => None,
        };
        if self.plan.is_none() {
            self.growth = Growth::new(schema, &columns, effect, mode);
        }
        Ok(())
    }

    /// What a batch will take once it is cast, beside what was sent; at most, where nobody knows yet how it will be.
    fn expected_bytes(&self, batch: &SentBatch) -> usize {
        match &self.plan {
            Some(plan) => plan.expected_bytes(batch.rows.num_rows(), batch.bytes),
            None => self.growth.most_bytes(&batch.rows, batch.bytes),
        }
    }

    /// The tables that its rows may refer to by foreign keys.
    async fn referred(&self) -> Result<Vec<TableKey>> {
        Ok(self.target.referred(&*self.engine.references().await?))
    }

    /// Waits while a unit of this put would wait for a table that is held, and memory is scarce. To be called before anything of the unit is
    /// read: what is in memory meanwhile, others lack.
    pub(crate) async fn await_table(&self) -> Result<()> {
        let budget = self.engine.budget();
        if budget.is_scarce() {
            let referred = self.referred().await?;
            let queue = &self.engine.shared().queue;
            queue.await_table(&self.target, &referred, &budget).await;
        }
        Ok(())
    }

    /// Starts a unit; `sequence` is its producer's number for it. Waits a little where the disk is nearly full.
    pub(crate) async fn unit(&mut self, sequence: Option<u64>) -> Result<UnitBuilder<'_>> {
        let is_settled = self.target.standing(sequence) != UnitStanding::New;
        let is_first = !std::mem::replace(&mut self.begun, true);
        if !is_settled {
            self.engine.room().wait().await?;
            if !std::mem::take(&mut self.is_resolved) {
                self.resolve().await?;
            }
        }
        let small = Small::new(&self.engine);
        Ok(UnitBuilder {
            put: self,
            sequence,
            is_settled,
            is_first,
            rows: 0,
            looked_again: false,
            state: State::Small(small),
        })
    }
}

async fn effect(engine: &Engine, options: &PutOptions) -> Result<Effect> {
    if options.mode == Mode::Append || options.key.is_some() {
        return Effect::new(options, None);
    }
    let table = &options.table;
    let primary_key = engine.primary_key(table).await?;
    if primary_key.is_none() && engine.columns(table).await?.is_none() {
        return Err(match options.mode {
            Mode::Delete => Error::NothingToDelete(table.clone()),
            _ => Error::NoTableNorKey(table.clone()),
        });
    }
    Effect::new(options, primary_key)
}

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

/// What a commit will answer, once the unit is durable.
pub(crate) struct Committing(pub(super) oneshot::Receiver<Result<Committed>>);

impl Committing {
    /// Waits for the commit.
    pub(crate) async fn done(self) -> Result<Committed> {
        self.0.await.map_err(|_| Error::WorkerLost)?
    }
}

impl UnitBuilder<'_> {
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
        if !(self.is_first && self.put.target.makes_anew()) {
            // A client may have dropped or altered the table since its first rows came in.
            self.put.resolve().await?;
            if self.put.plan.is_none() {
                self.put.make_table().await?;
            }
        }
        let places = self.put.places(PLACES).await?;
        let Put { engine, target, .. } = &*self.put;
        let referred = match self.is_first && target.makes_anew() {
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

impl Put {
    /// Casts a batch. Where the put says so, rows that do not fit are put aside, for which they are looked for on another
    /// thread: those of the network have others to serve.
    async fn cast(
        &self,
        plan: &Arc<Plan>,
        batch: &RecordBatch,
        rows_before: u64,
    ) -> Result<Sifted> {
        match plan.apply(batch, rows_before) {
            Ok(cast) => Ok(Sifted::whole(cast)),
            Err(Error::Value { .. }) if self.target.rejects => {
                let sieves = self.engine.sieves();
                sieves.sift(plan, batch, rows_before).await
            }
            Err(error) => Err(error),
        }
    }

    /// Casts all batches of a unit.
    async fn cast_all(&self, plan: &Arc<Plan>, sent: &[RecordBatch]) -> Result<CastRows> {
        let (mut cast, mut rows) = (CastRows::default(), 0);
        for batch in sent {
            cast.add(plan, self.cast(plan, batch, rows).await?)?;
            rows += batch.num_rows() as u64;
        }
        Ok(cast)
    }

    /// Takes places for units, and waits until they are free.
    async fn places(&self, count: u32) -> Result<OwnedSemaphorePermit> {
        let places = self.places.clone().acquire_many_owned(count).await;
        places.map_err(|_| Error::WorkerLost)
    }

    /// Whether a writer would have to look for the rows of this unit that do not fit, because there is no plan yet. It would do so
    /// in its turn, in which nobody else commits; so the table is made or changed beforehand.
    fn is_sifted_late(&self, sequence: Option<u64>, is_first: bool) -> bool {
        let target = &self.target;
        self.plan.is_none()
            && target.rejects
            && !(is_first && target.makes_anew())
            && !target.has_failed()
            && target.standing(sequence) == UnitStanding::New
    }

    /// Makes or changes the table in a commit of its own. In a long transaction it would keep everybody else from putting into
    /// the table.
    async fn make_table(&self) -> Result<()> {
        // A large unit that is to make the table holds all of them. It has not gone through the queue, so this one would overtake it.
        let place = self.places(1).await?;
        let (sender, made) = oneshot::channel();
        self.engine.submit(Unit {
            put: self.target.clone(),
            sequence: None,
            cast: None,
            sent: Vec::new(),
            rejects: Vec::new(),
            rows: 0,
            is_first: false,
            // It has no rows.
            referred: Vec::new(),
            answer: Answer::new(self.target.clone(), sender, Some(place)),
            share: self.engine.budget().share(),
        })?;
        Committing(made).done().await.map(|_| ())
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
    use arrow::array::{ArrayRef, BooleanArray, StringArray};
    use duck_flight_protocol::{OnError, SchemaMode};

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
