//! Rejects: rows that do not fit their table, kept with the reason.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tokio::sync::Semaphore;

use super::own_table::OwnTable;
use super::producers::Claim;
use super::target::Target;
use crate::engine::ffi::Connection;
use crate::engine::rows::plan::Plan;
use crate::engine::rows::types::row_json;
use crate::engine::sql_error::SqlError;
use crate::error::{Error, Result};

/// Where rejected rows are kept.
pub(in crate::engine) const CREATE_SQL: &str = "
    CREATE TABLE IF NOT EXISTS duck_flight.rejects (
        rejected_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT system.main.now(),
        \"schema\" VARCHAR NOT NULL,
        \"table\" VARCHAR NOT NULL,
        producer VARCHAR,
        sequence UBIGINT,
        \"row\" UBIGINT NOT NULL,
        reason VARCHAR NOT NULL,
        data JSON
    );";

/// What the rows of a unit that do not fit may take as JSON: they wait in memory for its commit.
const MAX_BYTES: usize = 64 << 20;

/// How many rows of a unit may be put aside after they were gathered.
pub(in crate::engine) const MAX_REJECTS: usize = 1_000_000;

/// How many batches are sifted at the same time for puts that are small so far: each takes a thread, and memory that is
/// not yet counted.
const SIFTED_AT_ONCE: usize = 2;

/// A row that does not fit its table.
#[derive(Debug, Clone)]
pub(super) struct Reject {
    /// Its number in the unit, from 1.
    pub(super) row: u64,
    pub(super) reason: String,
    /// The row as JSON, as it was sent.
    pub(super) data: String,
}

impl Reject {
    /// Row `index` of a batch as it was sent. `rows_before` are the rows of the unit before the batch.
    pub(super) fn new(batch: &RecordBatch, index: usize, rows_before: u64, reason: String) -> Self {
        Self {
            row: rows_before + index as u64 + 1,
            reason,
            data: row_json(&batch.slice(index, 1)),
        }
    }
}

/// What rejects of one unit take together, bounded.
#[derive(Default)]
pub(super) struct RejectedBytes(usize);

impl RejectedBytes {
    pub(super) fn add(&mut self, rejects: &[Reject]) -> Result<()> {
        let bytes = |reject: &Reject| reject.data.len() + reject.reason.len();
        self.0 += rejects.iter().map(bytes).sum::<usize>();
        if self.0 > MAX_BYTES {
            return Err(Error::RejectsTooLarge(MAX_BYTES));
        }
        Ok(())
    }

    pub(super) fn total(&self) -> usize {
        self.0
    }
}

/// Casts a batch; rows that do not fit are put aside. `rows_before` are the rows of the unit before the batch.
pub(super) fn sift(plan: &Plan, batch: &RecordBatch, rows_before: u64) -> Result<Sifted> {
    let mut sieve = Sieve {
        plan,
        cast: Vec::new(),
        rejects: Vec::new(),
        bytes: RejectedBytes::default(),
    };
    sieve.sift(batch, rows_before)?;
    let cast = match sieve.cast.len() {
        1 => Ok(sieve.cast.swap_remove(0)),
        _ => concat_batches(plan.schema(), &sieve.cast),
    };
    Ok(Sifted {
        cast: cast.map_err(|error| SqlError::internal(error.to_string()))?,
        rejects: sieve.rejects,
    })
}

/// Sifts batches on threads of its own, a few at a time: that takes too long for the threads of the network.
pub(in crate::engine) struct Sieves(Arc<Semaphore>);

impl Default for Sieves {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(SIFTED_AT_ONCE)))
    }
}

impl Sieves {
    /// As [`sift`], in its turn.
    pub(super) async fn sift(
        &self,
        plan: &Arc<Plan>,
        batch: &RecordBatch,
        rows_before: u64,
    ) -> Result<Sifted> {
        let place = self.0.clone().acquire_owned().await;
        let place = place.map_err(|_| Error::WorkerLost)?;
        let (plan, batch) = (plan.clone(), batch.clone());
        let sifting = tokio::task::spawn_blocking(move || {
            let sifted = sift(&plan, &batch, rows_before);
            drop(place);
            sifted
        });
        sifting.await.map_err(|_| Error::WorkerLost)?
    }
}

/// A batch whose rows that do not fit are put aside.
pub(super) struct Sifted {
    /// The rows that fit, as the table takes them.
    pub(super) cast: RecordBatch,
    /// The others, in their order.
    pub(super) rejects: Vec<Reject>,
}

impl Sifted {
    /// A batch all of whose rows fit.
    pub(super) fn whole(cast: RecordBatch) -> Self {
        Self {
            cast,
            rejects: Vec::new(),
        }
    }
}

struct Sieve<'a> {
    plan: &'a Plan,
    cast: Vec<RecordBatch>,
    rejects: Vec<Reject>,
    bytes: RejectedBytes,
}

impl Sieve<'_> {
    /// Halves what cannot be cast, down to the rows at fault.
    fn sift(&mut self, batch: &RecordBatch, rows_before: u64) -> Result<()> {
        let error = match self.plan.apply(batch, rows_before) {
            Ok(cast) => {
                self.cast.push(cast);
                return Ok(());
            }
            Err(error) => error,
        };
        let rows = batch.num_rows();
        match error {
            Error::Value { .. } if rows > 1 => {
                let half = rows / 2;
                self.sift(&batch.slice(0, half), rows_before)?;
                self.sift(&batch.slice(half, rows - half), rows_before + half as u64)
            }
            Error::Value { column, reason, .. } => {
                let reason = format!("column `{column}`: {reason}");
                let reject = Reject::new(batch, 0, rows_before, reason);
                self.bytes.add(std::slice::from_ref(&reject))?;
                self.rejects.push(reject);
                Ok(())
            }
            other => Err(other),
        }
    }
}

/// The table of rejects.
pub(in crate::engine) struct Rejects {
    table: OwnTable,
    schema: SchemaRef,
}

impl Rejects {
    /// Finds the table, which must exist.
    pub(in crate::engine) fn open(connection: &Connection) -> Result<Self> {
        let field = |name, data_type| Field::new(name, data_type, true);
        let schema = Arc::new(Schema::new(vec![
            field("schema", DataType::Utf8),
            field("table", DataType::Utf8),
            field("producer", DataType::Utf8),
            field("sequence", DataType::UInt64),
            field("row", DataType::UInt64),
            field("reason", DataType::Utf8),
            field("data", DataType::Utf8),
        ]));
        Ok(Self {
            table: OwnTable::open(connection, "rejects", &schema)?,
            schema,
        })
    }

    /// Adds a unit's rejects in the open transaction.
    pub(super) fn write(
        &self,
        connection: &Connection,
        put: &Target,
        sequence: Option<u64>,
        rejects: &[Reject],
    ) -> Result<()> {
        if rejects.is_empty() {
            return Ok(());
        }
        let repeat = |text: Option<&str>| -> ArrayRef {
            Arc::new(StringArray::from_iter(rejects.iter().map(|_| text)))
        };
        let columns = vec![
            repeat(Some(&put.key.schema)),
            repeat(Some(&put.key.table)),
            repeat(put.claim.as_ref().map(Claim::producer)),
            Arc::new(UInt64Array::from_iter(rejects.iter().map(|_| sequence))),
            Arc::new(UInt64Array::from_iter_values(
                rejects.iter().map(|reject| reject.row),
            )),
            Arc::new(StringArray::from_iter_values(
                rejects.iter().map(|reject| &reject.reason),
            )),
            Arc::new(StringArray::from_iter_values(
                rejects.iter().map(|reject| &reject.data),
            )),
        ];
        let batch = RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|error| SqlError::internal(error.to_string()))?;
        self.table.append(connection, &batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rejects_of_a_unit_are_bounded() {
        let reject = |bytes| Reject {
            row: 1,
            reason: "r".into(),
            data: "x".repeat(bytes),
        };
        let mut bytes = RejectedBytes::default();
        let half = [reject(MAX_BYTES / 2 - 1)];
        bytes.add(&half).unwrap();
        bytes.add(&half).unwrap();
        let error = bytes.add(&[reject(0)]).unwrap_err();
        assert!(
            matches!(error, Error::RejectsTooLarge(MAX_BYTES)),
            "{error}"
        );
    }
}
