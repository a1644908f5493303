//! A unit: the rows that are committed as a whole, and the one answer to them.

use std::slice;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use duck_flight_protocol::SchemaMode;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::budget::Share;
use super::large::parts;
use super::producers::{Claim, Standing};
use super::rejects::{Reject, RejectedBytes, Sifted};
use super::target::{TableKey, Target};
use crate::engine::rows::offences::Offence;
use crate::engine::rows::plan::Plan;
use crate::engine::sql_error::SqlError;
use crate::error::{Error, Result};

/// What the rows of a unit that is alone may become without room in the budget. They become more only where their table was altered since they
/// were sent: sent again, they are a large unit, and cast as they come in.
const MOST_ALONE_BYTES: usize = 256 << 20;

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
    use duck_flight_protocol::{PutOptions, TableName};

    use super::*;
    use crate::engine::rows::effect::Effect;

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
