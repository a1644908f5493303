//! The rows of a large unit that are gathered in a temporary table first: so the transaction that conflicts with other
//! loaders begins only when all are there, and rows at fault can be taken out again.

use std::sync::Arc;

use arrow::array::RecordBatch;
use duck_flight_protocol::quote;

use super::appender::{STAGED, TableWriter};
use super::catalog::{literal, prepare};
use super::effect::{DELETES, Effect, ORDINAL};
use super::ffi::Connection;
use super::offences::{Offence, staged_offences};
use super::plan::Plan;
use super::readable::Readable;
use super::rejects::{MAX_REJECTS, Reject, RejectedBytes, Sifted};
use super::sql_error::SqlError;
use super::stored::AT_FAULT;
use super::types::row_json;
use super::unit::{Committed, Target, offence_error, places};
use super::{Lossless, transaction};
use crate::error::{Error, Result};

/// How often a unit is tried again without the rows that were at fault.
const MAX_TRIES: usize = 20;

/// What is known of rows that were gathered.
pub(super) struct StagedRows {
    pub(super) plan: Arc<Plan>,
    /// The rows that were sent.
    sent: u64,
    /// The numbers, from 1, of those that have no ordinal, in their order: they were put aside before.
    unnumbered: Vec<u64>,
    /// All that are put aside.
    rejects: Vec<Reject>,
    rejected_bytes: RejectedBytes,
}

impl StagedRows {
    pub(super) fn new(plan: Arc<Plan>) -> Self {
        Self {
            plan,
            sent: 0,
            unnumbered: Vec::new(),
            rejects: Vec::new(),
            rejected_bytes: RejectedBytes::default(),
        }
    }

    /// Adds a batch by way of a writer of [`STAGED`].
    pub(super) fn add(
        &mut self,
        staged: &mut TableWriter<'_>,
        put: &Target,
        batch: &RecordBatch,
    ) -> Result<()> {
        let rows_before = self.sent;
        self.sent += batch.num_rows() as u64;
        let Sifted { cast, rejects } = put.cast(&self.plan, batch, rows_before)?;
        if !put.rejects {
            return staged.append(&cast, rows_before);
        }
        let cast_before = rows_before - self.unnumbered.len() as u64;
        let numbers = rejects.iter().map(|reject| reject.row);
        self.unnumbered.extend(numbers);
        self.put_aside(rejects)?;
        let misfits = staged.sift(&cast, cast_before)?;
        let places: Vec<_> = self.places(&misfits).collect();
        let misfits = misfits.iter().zip(places);
        let rejects = misfits.map(|(misfit, place)| {
            let index = usize::try_from(place - rows_before)
                .map_err(|_| SqlError::internal("a row is not in its batch"))?;
            let reason = misfit.reason.to_string();
            Ok(Reject::new(batch, index, rows_before, reason))
        });
        self.put_aside(rejects.collect::<Result<_>>()?)
    }

    /// The places in the unit, from 0, of rows that are told by their ordinals.
    fn places(&self, offences: &[Offence]) -> impl Iterator<Item = u64> {
        places(self.unnumbered.iter().copied(), offences)
    }

    /// Puts rows aside, unless they are too many.
    fn put_aside(&mut self, rejects: Vec<Reject>) -> Result<()> {
        self.rejected_bytes.add(&rejects)?;
        self.rejects.extend(rejects);
        if self.rejects.len() > MAX_REJECTS {
            return Err(Error::TooManyRejects(MAX_REJECTS));
        }
        Ok(())
    }

    /// Applies the rows; where some break a constraint, again without them, if the put says so.
    pub(super) fn apply(
        &mut self,
        connection: &Connection,
        lossless: &Lossless,
        put: &Target,
        mut apply: impl FnMut(&Connection, &Self) -> Result<()>,
    ) -> Result<()> {
        for _ in 0..MAX_TRIES {
            self.rejects.sort_by_key(|reject| reject.row);
            let outcome = transaction(connection, |connection| apply(connection, self));
            match outcome {
                Err(error) if error.is_constraint() => {
                    self.without_offences(connection, lossless, put, error)?;
                }
                other => return other,
            }
        }
        transaction(connection, |connection| apply(connection, self))
    }

    /// Takes the rows out that break a constraint. The error comes back, with the first such row named, where the unit is
    /// not worth another try.
    fn without_offences(
        &mut self,
        connection: &Connection,
        lossless: &Lossless,
        put: &Target,
        error: Error,
    ) -> Result<()> {
        let outcome = transaction(connection, |connection| {
            let offences = staged_offences(connection, lossless, put, &self.plan)?;
            if put.rejects && !offences.is_empty() {
                self.take_out(connection, lossless, put, &offences)?;
            }
            Ok(offences)
        });
        match outcome {
            Ok(offences) => match offences.first() {
                None => Err(error),
                Some(_) if put.rejects => Ok(()),
                Some(first) => {
                    let unnumbered = self.unnumbered.iter().copied();
                    Err(offence_error(unnumbered, first, &error))
                }
            },
            Err(limit @ (Error::TooManyRejects(_) | Error::RejectsTooLarge(_))) if put.rejects => {
                Err(limit)
            }
            Err(failure) => {
                tracing::debug!(error = %failure, "the rows at fault were not found");
                Err(error)
            }
        }
    }

    /// Takes the rows out that are [`AT_FAULT`].
    fn take_out(
        &mut self,
        connection: &Connection,
        lossless: &Lossless,
        put: &Target,
        offences: &[Offence],
    ) -> Result<()> {
        let sql = format!(
            "SELECT {} FROM {STAGED} SEMI JOIN {AT_FAULT} USING ({ORDINAL}) ORDER BY {ORDINAL}",
            self.told_columns(&put.effect).join(", ")
        );
        let statement = prepare(connection, &sql)?;
        let mut batches = statement.execute()?.into_batches(&lossless.options)?;
        let readable = Readable::new(batches.schema());
        let places: Vec<_> = self.places(offences).collect();
        let mut at_fault = offences.iter().zip(places);
        while let Some(batch) = batches.next_batch()? {
            let batch = readable.apply(batch)?;
            let rows = (0..batch.num_rows()).zip(at_fault.by_ref());
            let rejects = rows.map(|(index, (offence, place))| Reject {
                row: place + 1,
                reason: offence.reason.to_string(),
                data: row_json(&batch.slice(index, 1)),
            });
            self.put_aside(rejects.collect())?;
        }
        drop(batches);
        connection.execute(&format!(
            "DELETE FROM {STAGED} AS staged USING {AT_FAULT} AS at_fault WHERE staged.{ORDINAL} = at_fault.{ORDINAL}"
        ))?;
        Ok(())
    }

    /// What a row is told by, as nearly as it was sent.
    fn told_columns(&self, effect: &Effect) -> Vec<String> {
        let given = self.plan.given();
        let mut columns: Vec<_> = given.map(|column| quote(column.field.name())).collect();
        if let Effect::Changes { op, .. } = effect {
            let (delete, other) = (literal("D"), literal("U"));
            columns.push(format!(
                "CASE WHEN {DELETES} THEN {delete} ELSE {other} END AS {}",
                quote(op)
            ));
        }
        columns
    }

    /// The rows that are put aside, in their order.
    pub(super) fn rejects(&self) -> &[Reject] {
        &self.rejects
    }

    /// The rows that were sent.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// What the commit answers.
    pub(super) fn committed(&self) -> Committed {
        let rejected = self.rejects.len() as u64;
        Committed {
            rows: self.sent - rejected,
            duplicate: false,
            rejected,
        }
    }
}
