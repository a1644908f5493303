//! A unit: the rows that are committed as a whole, and the put they belong to.

use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use duck_flight_protocol::{Create, OnError, PutOptions, SchemaMode, TableName};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::budget::Share;
use super::large::parts;
use super::producers::{Claim, OWN_SCHEMA, Standing};
use super::rejects::{Reject, RejectedBytes, Sifted, sift};
use crate::engine::catalog::references::References;
use crate::engine::ffi::ColumnShape;
use crate::engine::replay::widened::KEPT;
use crate::engine::rows::appender::STAGED;
use crate::engine::rows::effect::Effect;
use crate::engine::rows::offences::Offence;
use crate::engine::rows::plan::Plan;
use crate::engine::rows::stored::AT_FAULT;
use crate::engine::rows::types::same_name;
use crate::engine::sql_error::SqlError;
use crate::error::{Error, Result};

/// What the rows of a unit that is alone may become without room in the budget. They become more only where their table was altered since they
/// were sent: sent again, they are a large unit, and cast as they come in.
const MOST_ALONE_BYTES: usize = 256 << 20;

/// A put, as long as the server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PutId(u64);

impl PutId {
    /// One that no put had before.
    pub(super) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The catalog of temporary tables. In `temp.t` DuckDB reads `temp` as the catalog, not as a schema.
pub(crate) const TEMPORARY: &str = "temp";

/// Completes the name of a table of the server's own database: adds the catalog where only a schema is named, and `main` where
/// only a catalog is, so that DuckDB cannot take a schema for a database of the same name.
pub(super) fn unambiguous(table: &TableName, own_catalog: &str) -> TableName {
    let TableName {
        catalog,
        schema,
        table,
    } = table.clone();
    let (catalog, schema) = match (catalog, schema) {
        (None, Some(schema)) => (Some(own_catalog.to_owned()), Some(schema)),
        (Some(catalog), None) => (Some(catalog), Some("main".to_owned())),
        as_it_is => as_it_is,
    };
    TableName {
        catalog,
        schema,
        table,
    }
}

/// What tells a table from others, however its name is written: DuckDB ignores the case of ASCII letters only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::engine) struct TableKey {
    /// `None` for the server's own database.
    pub(in crate::engine) catalog: Option<String>,
    pub(in crate::engine) schema: String,
    pub(in crate::engine) table: String,
}

impl TableKey {
    /// The key of a table, as it is named in a database called `own_catalog`.
    pub(in crate::engine) fn new(table: &TableName, own_catalog: &str) -> Self {
        let catalog = table.catalog.as_ref();
        let schema = table.schema.as_deref().unwrap_or("main");
        Self {
            catalog: catalog
                .filter(|name| !same_name(name, own_catalog))
                .map(|name| name.to_ascii_lowercase()),
            schema: schema.to_ascii_lowercase(),
            table: table.table.to_ascii_lowercase(),
        }
    }

    /// The key of a table in the server's own database.
    pub(in crate::engine) fn in_own_catalog(schema: &str, table: &str) -> Self {
        Self {
            catalog: None,
            schema: schema.to_ascii_lowercase(),
            table: table.to_ascii_lowercase(),
        }
    }

    /// Whether it is one of our own tables.
    pub(super) fn is_own(&self) -> bool {
        self.catalog.is_none() && self.schema == OWN_SCHEMA
    }

    /// Whether it has the name of a temporary table that the writers use: to them they would be one.
    pub(super) fn is_scratch(&self) -> bool {
        let in_scratch = format!("{TEMPORARY}.main.{}", self.table);
        [STAGED, AT_FAULT, KEPT].contains(&in_scratch.as_str())
    }

    /// Whether it is a temporary table, of which every connection has its own.
    pub(super) fn is_temporary(&self) -> bool {
        self.catalog.as_deref().unwrap_or(&self.schema) == TEMPORARY
    }
}

/// What all units of a put have in common.
pub(in crate::engine) struct Target {
    pub(super) id: PutId,
    pub(in crate::engine) table: TableName,
    pub(super) key: TableKey,
    pub(super) create: Create,
    pub(super) schema_mode: SchemaMode,
    pub(in crate::engine) effect: Effect,
    /// Whether rows that do not fit are put aside.
    pub(in crate::engine) rejects: bool,
    pub(super) claim: Option<Claim>,
    /// The stream's schema.
    pub(super) schema: SchemaRef,
    failed: AtomicBool,
    committed: AtomicBool,
}

impl Target {
    pub(super) fn new(
        options: &PutOptions,
        key: TableKey,
        effect: Effect,
        claim: Option<Claim>,
        schema: SchemaRef,
    ) -> Self {
        Self {
            id: PutId::next(),
            table: options.table.clone(),
            key,
            create: options.create,
            schema_mode: options.schema,
            effect,
            rejects: options.on_error == OnError::Reject,
            claim,
            schema,
            failed: AtomicBool::new(false),
            committed: AtomicBool::new(false),
        }
    }

    /// Where its unit of this sequence stands now. Without a producer each is new.
    pub(super) fn standing(&self, sequence: Option<u64>) -> Standing {
        let identity = self.claim.as_ref().zip(sequence);
        identity.map_or(Standing::New, |(claim, sequence)| claim.standing(sequence))
    }

    /// How its rows go into a table with these columns.
    pub(super) fn plan(&self, columns: &Arc<[ColumnShape]>) -> Result<Plan> {
        Plan::new(&self.schema, columns, &self.effect, self.schema_mode)
    }

    /// The tables that its rows may refer to by foreign keys. Those that only delete refer to nothing.
    pub(super) fn referred(&self, references: &References) -> Vec<TableKey> {
        match self.effect {
            Effect::Delete { .. } => Vec::new(),
            _ => references.of(&self.key).to_vec(),
        }
    }

    /// Records that a unit of this put was refused: those that follow it will be refused as well.
    pub(super) fn note_refused(&self) {
        self.failed.store(true, Ordering::Release);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Records that a unit of this put was committed, and so its first one: they are committed in their order.
    fn note_committed(&self) {
        self.committed.store(true, Ordering::Release);
    }

    /// Whether the table is yet to be made anew, so that whatever is there now does not matter.
    pub(super) fn is_yet_to_make(&self) -> bool {
        self.makes_anew() && !self.committed.load(Ordering::Acquire)
    }

    /// Casts a batch for the table; rows that do not fit are put aside where the put says so, and are an error where
    /// not. `rows_before` are the rows of the unit before the batch.
    pub(super) fn cast(
        &self,
        plan: &Plan,
        batch: &RecordBatch,
        rows_before: u64,
    ) -> Result<Sifted> {
        if self.rejects {
            return sift(plan, batch, rows_before);
        }
        plan.apply(batch, rows_before).map(Sifted::whole)
    }

    /// Whether the put's first unit makes the table anew. A producer that goes on has done so already.
    pub(super) fn makes_anew(&self) -> bool {
        matches!(self.create, Create::Always | Create::Replace)
            && self
                .claim
                .as_ref()
                .is_none_or(|claim| claim.last_sequence() == 0)
    }
}

/// The rows of a unit as its table takes them, without those put aside, which are bounded.
#[derive(Default)]
pub(super) struct CastRows {
    pub(super) batches: Vec<RecordBatch>,
    /// What they take beside the rows as they were sent.
    bytes: usize,
    pub(super) rejects: Vec<Reject>,
    rejected_bytes: RejectedBytes,
}

impl CastRows {
    /// What the rows take beside what was sent.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the rows take that were put aside.
    pub(super) fn rejected_bytes(&self) -> usize {
        self.rejected_bytes.total()
    }

    /// Adds another batch that was cast by this plan.
    pub(super) fn add(&mut self, plan: &Plan, batch: Sifted) -> Result<()> {
        let Sifted { cast, rejects } = batch;
        self.bytes = self.bytes.saturating_add(plan.cast_bytes(&cast));
        self.rejected_bytes.add(&rejects)?;
        self.rejects.extend(rejects);
        self.batches.push(cast);
        Ok(())
    }
}

/// What a commit answers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Committed {
    /// Rows of the unit that took effect; of a duplicate, those that were sent.
    pub(crate) rows: u64,
    /// Whether it had been committed before.
    pub(crate) duplicate: bool,
    /// Rows that were put aside.
    pub(crate) rejected: u64,
}

/// The one answer to a unit. Without one, because whoever was to give it is lost, the put has failed: the units that follow
/// must not be committed behind a gap.
pub(super) struct Answer {
    put: Arc<Target>,
    sender: Option<oneshot::Sender<Result<Committed>>>,
    /// A place, or all, among the units of the put that are under way: a large one waits for all of them. Freed last.
    _places: Option<OwnedSemaphorePermit>,
}

impl Answer {
    pub(super) fn new(
        put: Arc<Target>,
        sender: oneshot::Sender<Result<Committed>>,
        places: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self {
            put,
            sender: Some(sender),
            _places: places,
        }
    }

    pub(super) fn give(mut self, outcome: Result<Committed>) {
        match outcome {
            Ok(_) => self.put.note_committed(),
            Err(_) => self.put.note_refused(),
        }
        if let Some(sender) = self.sender.take() {
            sender.send(outcome).ok();
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.sender.is_some() {
            self.put.note_refused();
        }
    }
}

/// Rows that are committed as a whole, on their way to a writer.
pub(in crate::engine) struct Unit {
    pub(super) put: Arc<Target>,
    pub(super) sequence: Option<u64>,
    /// The rows as they were sent, and how many.
    pub(super) sent: Vec<RecordBatch>,
    pub(super) rows: u64,
    /// The rows cast according to a plan made beforehand, without those put aside; void when the table has
    /// changed since.
    pub(super) cast: Option<(Arc<Plan>, Vec<RecordBatch>)>,
    /// Rows that were put aside, in their order.
    pub(super) rejects: Vec<Reject>,
    /// Whether `create: always` and `create: replace` are this unit's to do.
    pub(super) is_first: bool,
    /// The tables that its rows may refer to by foreign keys.
    pub(super) referred: Vec<TableKey>,
    pub(super) answer: Answer,
    /// Freed once the unit is committed or refused.
    pub(super) share: Share,
}

impl Unit {
    /// Whether it makes its table anew.
    pub(super) fn makes_anew(&self) -> bool {
        self.is_first && self.put.makes_anew()
    }

    /// Whether it may alter its table, for which it is matched with the table only once that is done.
    pub(super) fn may_alter(&self) -> bool {
        self.cast.is_none() && self.put.schema_mode != SchemaMode::Match
    }

    /// Who sends it, and as which of its units.
    pub(super) fn identity(&self) -> Option<(&Claim, u64)> {
        self.put.claim.as_ref().zip(self.sequence)
    }

    /// Answers a unit that need not or must not be committed; gives back any other.
    pub(super) fn screen(self) -> Option<Self> {
        let standing = self.identity().map(|(claim, sequence)| {
            let standing = claim.standing(sequence);
            (standing, claim)
        });
        let refusal = match standing {
            // Said before anything else: a later unit may have been fenced, and failed the put, since this one
            // was looked at first.
            Some((Standing::Fenced, claim)) => claim.fenced_error(),
            _ if self.put.has_failed() => Error::EarlierBatchFailed,
            None | Some((Standing::New, _)) => return Some(self),
            Some((Standing::Duplicate, _)) => {
                let committed = Committed {
                    rows: self.rows,
                    duplicate: true,
                    rejected: 0,
                };
                self.answer.give(Ok(committed));
                return None;
            }
        };
        self.refuse(refusal);
        None
    }

    /// Says that its rows are durable.
    pub(super) fn acknowledge(self) {
        let rejected = self.rejects.len() as u64;
        let committed = Committed {
            rows: self.rows - rejected,
            duplicate: false,
            rejected,
        };
        self.answer.give(Ok(committed));
    }

    /// Says why it was not committed, or why nobody knows.
    pub(super) fn refuse(self, error: Error) {
        self.answer.give(Err(error));
    }

    /// Casts the rows again, for the table as it is now. In a group, what they become must fit into the free part of the budget, or
    /// the group is taken apart. A unit that `is_alone` may exceed it, up to [`MOST_ALONE_BYTES`]: nobody waits for it.
    pub(super) fn replan(&mut self, plan: &Arc<Plan>, is_alone: bool) -> Result<()> {
        let (mut cast, mut rows) = (CastRows::default(), 0);
        for part in self.sent.iter().flat_map(parts) {
            cast.add(plan, self.put.cast(plan, &part, rows)?)?;
            rows += part.num_rows() as u64;
            let has_room = self.share.cover_cast(cast.bytes());
            if !has_room && is_alone && cast.bytes() > MOST_ALONE_BYTES {
                return Err(Error::TableAltered(self.put.table.clone()));
            }
            let has_room = has_room && self.share.cover_rejects(cast.rejected_bytes());
            if !has_room && !is_alone {
                return Err(Error::NoRoomForGroup);
            }
        }
        self.rejects = cast.rejects;
        self.cast = Some((plan.clone(), cast.batches));
        Ok(())
    }

    /// Puts rows aside that break a constraint; `offences` are places among the rows that were cast.
    pub(super) fn put_aside(&mut self, offences: &[Offence]) -> Result<()> {
        let Some((_, batches)) = &mut self.cast else {
            return Ok(());
        };
        let mut aside = Vec::with_capacity(offences.len());
        let numbers = self.rejects.iter().map(|reject| reject.row);
        for (offence, row) in offences.iter().zip(places(numbers, offences)) {
            if let Some((batch, index, rows_before)) = find_row(&self.sent, row) {
                aside.push(Reject::new(
                    batch,
                    index,
                    rows_before,
                    offence.reason.to_string(),
                ));
            }
        }
        let mut rows = 0;
        for batch in batches {
            let end = rows + batch.num_rows() as u64;
            let keep: BooleanArray = (rows..end)
                .map(|row| {
                    let found = offences.binary_search_by_key(&row, |offence| offence.row);
                    Some(found.is_err())
                })
                .collect();
            *batch = filter_record_batch(batch, &keep)
                .map_err(|error| SqlError::internal(error.to_string()))?;
            rows = end;
        }
        self.rejects.extend(aside);
        RejectedBytes::default().add(&self.rejects)?;
        self.rejects.sort_by_key(|reject| reject.row);
        Ok(())
    }
}

/// The error of a unit that is refused for a row that breaks a constraint; its place counts without the rows of these
/// numbers.
pub(super) fn offence_error(
    aside: impl Iterator<Item = u64>,
    offence: &Offence,
    error: &Error,
) -> Error {
    Error::Value {
        row: 1 + places(aside, slice::from_ref(offence)).sum::<u64>(),
        column: offence.columns.to_string(),
        reason: format!("{}: {error}", offence.reason),
    }
}

/// The places in the unit, from 0, of rows that are counted without some that were put aside: those of these numbers, from
/// 1. Both are in order.
pub(super) fn places(
    aside: impl Iterator<Item = u64>,
    offences: &[Offence],
) -> impl Iterator<Item = u64> {
    let mut aside = aside.map(|number| number - 1).peekable();
    let mut before = 0;
    offences.iter().map(move |offence| {
        while aside.next_if(|row| *row <= offence.row + before).is_some() {
            before += 1;
        }
        offence.row + before
    })
}

/// The batch that holds a row of the unit, the row's place there, and the rows before the batch.
fn find_row(batches: &[RecordBatch], row: u64) -> Option<(&RecordBatch, usize, u64)> {
    let mut rows_before = 0;
    for batch in batches {
        let rows = batch.num_rows() as u64;
        if row < rows_before + rows {
            let index = usize::try_from(row - rows_before).ok()?;
            return Some((batch, index, rows_before));
        }
        rows_before += rows;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_nobody_answers_has_failed_its_put() {
        let table = TableName {
            catalog: None,
            schema: None,
            table: "t".into(),
        };
        let key = TableKey::new(&table, "own");
        let schema = Arc::new(arrow::datatypes::Schema::empty());
        let options = PutOptions::new(table);
        let put = Arc::new(Target::new(&options, key, Effect::Append, None, schema));
        let answer = |outcome: Option<Result<Committed>>| {
            let (sender, mut answered) = oneshot::channel();
            let answer = Answer::new(put.clone(), sender, None);
            match outcome {
                Some(outcome) => answer.give(outcome),
                None => drop(answer),
            }
            (answered.try_recv().is_ok(), put.has_failed())
        };
        assert_eq!(answer(Some(Ok(Committed::default()))), (true, false));
        assert_eq!(answer(None), (false, true));
    }

    #[test]
    fn rows_are_found_between_those_put_aside() {
        // Of rows 0 to 5, the rows 0 and 2 are put aside: 1, 3, 4 and 5 are left.
        let numbers = [1, 3];
        let offences = (0..4).map(|row| Offence {
            row,
            columns: "".into(),
            reason: "".into(),
        });
        let places: Vec<_> = places(numbers.into_iter(), &offences.collect::<Vec<_>>()).collect();
        assert_eq!(places, [1, 3, 4, 5]);
    }
}
