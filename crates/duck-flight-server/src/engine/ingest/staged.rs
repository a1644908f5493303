//! The rows of a large unit that are gathered in a temporary table first: so the transaction that conflicts with other
//! loaders begins only when all are there, and rows at fault can be taken out again.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use duck_flight_protocol::quote;

use super::rejects::{MAX_REJECTS, Reject, RejectedBytes, Sifted};
use super::target::Target;
use super::unit::{Committed, offence_error, places};
use crate::engine::catalog::{literal, prepare};
use crate::engine::ffi::Connection;
use crate::engine::query::readable::Readable;
use crate::engine::rows::appender::{STAGED, TableWriter};
use crate::engine::rows::effect::{DELETES, Effect, ORDINAL};
use crate::engine::rows::offences::{Offence, staged_offences, tell_unfound};
use crate::engine::rows::plan::Plan;
use crate::engine::rows::stored::AT_FAULT;
use crate::engine::rows::types::row_json;
use crate::engine::sql_error::SqlError;
use crate::engine::{Lossless, transaction};
use crate::error::{Error, Result, in_a_line};

/// How often a unit is tried again: without the rows that were at fault, or because somebody else had changed the same
/// rows, or their table. For those it waits for `CONFLICT_WAIT` each time.
const MAX_TRIES: usize = 20;
const CONFLICT_WAIT: Duration = Duration::from_millis(20);

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

    /// Applies the rows; where some break a constraint, again without them, if the put says so. What others have committed
    /// meanwhile does not fail it, for then they are applied again, to what is there now. `turn` is that of the try which
    /// is the last: one whose commit has failed may have left half an entry in the log, behind which nobody else may commit.
    pub(super) fn apply<'c, T>(
        &mut self,
        connection: &'c Connection,
        lossless: &Lossless,
        put: &Target,
        turn: &mut Option<T>,
        mut apply: impl FnMut(&'c Connection, &Self, &mut Option<T>) -> Result<()>,
    ) -> Result<()> {
        let mut may_be_gone = true;
        for _ in 0..MAX_TRIES {
            self.rejects.sort_by_key(|reject| reject.row);
            let outcome = transaction(connection, |connection| apply(connection, self, turn));
            match outcome {
                Err(error) if error.is_constraint() => {
                    // Others commit until the next try.
                    *turn = None;
                    may_be_gone =
                        self.without_offences(connection, lossless, put, error, may_be_gone)?;
                }
                // What was sent again elsewhere is told to its client.
                Err(error) if error.is_conflict() && !matches!(error, Error::Resent(_)) => {
                    *turn = None;
                    tracing::debug!(error = %in_a_line(&error), "a large unit is tried again");
                    std::thread::sleep(CONFLICT_WAIT);
                }
                other => return other,
            }
        }
        transaction(connection, |connection| apply(connection, self, turn))
    }

    /// Takes the rows out that break a constraint; false where there are none, if what was in their way `may_be_gone` since. The error
    /// comes back, with the first such row named, where the unit is not worth another try.
    fn without_offences(
        &mut self,
        connection: &Connection,
        lossless: &Lossless,
        put: &Target,
        error: Error,
        may_be_gone: bool,
    ) -> Result<bool> {
        let outcome = transaction(connection, |connection| {
            let offences = staged_offences(connection, lossless, put, &self.plan)?;
            if put.rejects && !offences.is_empty() {
                self.take_out(connection, lossless, put, &offences)?;
            }
            Ok(offences)
        });
        match outcome {
            Ok(offences) => match offences.first() {
                None if may_be_gone => Ok(false),
                None => Err(error),
                Some(_) if put.rejects => Ok(true),
                Some(first) => {
                    let unnumbered = self.unnumbered.iter().copied();
                    Err(offence_error(unnumbered, first, &error))
                }
            },
            Err(limit @ (Error::TooManyRejects(_) | Error::RejectsTooLarge(_))) if put.rejects => {
                Err(limit)
            }
            Err(failure) => {
                tell_unfound(&failure);
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

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
    use duck_flight_protocol::{PutOptions, TableName};

    use super::super::target::TableKey;
    use super::*;
    use crate::engine::ffi::Database;
    use crate::engine::sql_error::SqlErrorKind;
    use crate::engine::storage::open::lossless;

    /// Rows for the table `t`, as if they were gathered.
    fn staged(connection: &Connection) -> (Target, StagedRows) {
        let options = PutOptions::new("t");
        let table: &TableName = &options.table;
        let columns = connection.table_columns(table).unwrap().unwrap().into();
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let rows = RecordBatch::try_from_iter([("i", ids)]).unwrap();
        let key = TableKey::new(table, "memory");
        let put = Target::new(&options, key, Effect::Append, None, rows.schema());
        let plan = Arc::new(put.plan(&columns).unwrap());
        (put, StagedRows::new(plan))
    }

    #[test]
    fn rows_are_applied_again_to_what_others_have_committed_meanwhile() {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        let other = database.connect().unwrap();
        let lossless = lossless(&database).unwrap();
        connection
            .execute("CREATE TABLE t (i BIGINT PRIMARY KEY, n BIGINT DEFAULT 0)")
            .unwrap();
        let (put, mut rows) = staged(&connection);
        let mut tries = 0;
        let apply = |connection: &Connection, _: &StagedRows, _: &mut Option<()>| {
            tries += 1;
            connection.execute("INSERT INTO t VALUES (1, 7) ON CONFLICT DO UPDATE SET n = 8")?;
            if tries == 1 {
                // A key that is there only at the commit.
                other.execute("INSERT INTO t (i) VALUES (1)")?;
            }
            Ok(())
        };
        rows.apply(&connection, &lossless, &put, &mut None, apply)
            .unwrap();
        assert_eq!(tries, 2);
        let is_so = "count(*) = 1 AND min(n) = 8";
        let sql = format!("SELECT CASE WHEN {is_so} THEN 1 ELSE error('no') END FROM t");
        connection.execute(&sql).unwrap();
    }

    #[test]
    fn rows_are_applied_again_once_what_was_in_their_way_is_gone() {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        let other = database.connect().unwrap();
        let lossless = lossless(&database).unwrap();
        connection
            .execute("CREATE TABLE t (i BIGINT PRIMARY KEY)")
            .unwrap();
        let (put, mut rows) = staged(&connection);
        // Where rows are looked for there are none, so none is at fault.
        drop(TableWriter::stage(&connection, &put.table, &rows.plan).unwrap());
        // What stays refuses them in the end.
        for goes in [true, false] {
            other.execute("INSERT INTO t VALUES (1)").unwrap();
            let mut tries = 0;
            let apply = |connection: &Connection, _: &StagedRows, _: &mut Option<()>| {
                tries += 1;
                let applied = connection.execute("INSERT INTO t VALUES (1)");
                if goes && tries == 1 {
                    other.execute("DELETE FROM t")?;
                }
                applied?;
                Ok(())
            };
            let outcome = rows.apply(&connection, &lossless, &put, &mut None, apply);
            assert_eq!((outcome.is_ok(), tries), (goes, 2));
            other.execute("DELETE FROM t").unwrap();
        }
    }

    #[test]
    fn a_unit_that_was_sent_again_elsewhere_is_not_applied_again() {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        let lossless = lossless(&database).unwrap();
        connection.execute("CREATE TABLE t (i BIGINT)").unwrap();
        let (put, mut rows) = staged(&connection);
        let mut tries = 0;
        let turn = &mut None::<()>;
        let refused = rows.apply(&connection, &lossless, &put, turn, |_, _, _| {
            tries += 1;
            Err(Error::Resent(7))
        });
        assert!(matches!(refused, Err(Error::Resent(7))), "{refused:?}");
        assert_eq!(tries, 1);
    }

    #[test]
    fn a_turn_is_kept_where_a_commit_has_failed_and_given_away_before_another_try() {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        let lossless = lossless(&database).unwrap();
        connection.execute("CREATE TABLE t (i BIGINT)").unwrap();
        let (put, mut rows) = staged(&connection);
        let (mut turn, mut tries) = (None::<i32>, 0);
        let refused = rows.apply(&connection, &lossless, &put, &mut turn, |_, _, turn| {
            assert_eq!(*turn, None);
            tries += 1;
            *turn = Some(tries);
            let (kind, message) = match tries {
                1 => (SqlErrorKind::Conflict, "Conflict on update!"),
                _ => (SqlErrorKind::Exhausted, "Failed to commit: no room"),
            };
            Err(SqlError::new(kind, message).into())
        });
        assert!(refused.unwrap_err().is_failed_commit());
        assert_eq!((turn, tries), (Some(2), 2));
    }
}
