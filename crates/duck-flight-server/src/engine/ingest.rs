//! The way of a put, up to the writers: batches are cast to the table's types and gathered into units.
//!
//! A unit is what is committed as a whole: a record batch, or a whole put. Small units [wait in memory](builder),
//! within one budget for all puts, and go to the [writers](writer), where they share commits. A unit that
//! grows large, or that finds half of the budget taken, moves to a transaction and a connection of its own and is
//! written [while it comes in](large); so memory stays bounded and no unit waits for another one's budget.

pub(super) mod budget;
mod builder;
pub(super) mod large;
pub(super) mod own_table;
pub(super) mod producers;
pub(super) mod queue;
pub(super) mod recent;
pub(super) mod rejects;
pub(super) mod shared;
pub(super) mod staged;
mod tables;
pub(super) mod target;
pub(super) mod unit;
pub(super) mod writer;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use duck_flight_protocol::{Create, Mode, PutOptions};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::Engine;
use super::catalog::Columns;
use super::rows::effect::{Effect, check_names};
use super::rows::evolve::alterations;
use super::rows::growth::Growth;
use super::rows::plan::Plan;
use super::rows::sql_type::create_table_sql;
use crate::error::{Error, Result};
use crate::unpacking::Room;
use builder::UnitBuilder;
use producers::{Claim, Standing};
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
        let is_settled = self.target.standing(sequence) != Standing::New;
        let is_first = !std::mem::replace(&mut self.begun, true);
        if !is_settled {
            self.engine.room().wait().await?;
            if !std::mem::take(&mut self.is_resolved) {
                self.resolve().await?;
            }
        }
        Ok(UnitBuilder::new(self, sequence, is_settled, is_first))
    }

    /// Whether a writer would have to look for the rows of this unit that do not fit, because there is no plan yet. It would do so
    /// in its turn, in which nobody else commits; so the table is made or changed beforehand.
    fn is_sifted_late(&self, sequence: Option<u64>, is_first: bool) -> bool {
        let target = &self.target;
        self.plan.is_none()
            && target.rejects
            && !(is_first && target.makes_anew())
            && !target.has_failed()
            && target.standing(sequence) == Standing::New
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

/// What a commit will answer, once the unit is durable.
pub(crate) struct Committing(pub(super) oneshot::Receiver<Result<Committed>>);

impl Committing {
    /// Waits for the commit.
    pub(crate) async fn done(self) -> Result<Committed> {
        self.0.await.map_err(|_| Error::WorkerLost)?
    }
}
