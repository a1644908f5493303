//! The rows that a large unit has appended last: DuckDB looks at them only when its appender runs its statement, and does
//! not tell which of them breaks a constraint.

use std::collections::VecDeque;
use std::iter;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};

use super::target::Target;
use super::unit::offence_error;
use crate::engine::Lossless;
use crate::engine::ffi::Connection;
use crate::engine::rows::appender::GATHERED_BYTES;
use crate::engine::rows::offences::{offences, tell_unfound};
use crate::engine::rows::plan::Plan;
use crate::error::Error;

/// What a batch and each of its columns take at most beside the values.
const OVERHEAD_BYTES: usize = 512;

/// The rows that an appender may hold still.
#[derive(Default)]
pub(super) struct Recent {
    /// How they were cast; `None` before any were.
    plan: Option<Arc<Plan>>,
    /// The rows of the unit before these.
    rows_before: u64,
    batches: VecDeque<RecordBatch>,
    rows: u64,
    bytes: usize,
}

impl Recent {
    /// Adds a batch of the plan, which is about to be appended.
    pub(super) fn add(&mut self, plan: &Arc<Plan>, batch: &RecordBatch) {
        self.plan.get_or_insert_with(|| plan.clone());
        self.batches.push_back(batch.clone());
        self.rows += batch.num_rows() as u64;
        self.bytes += bytes(batch);
        // Without the first of them no row may be named.
        while self.bytes > GATHERED_BYTES && self.batches.len() > 1 {
            self.drop_first();
        }
    }

    /// Drops all batches but those that hold the last `rows` rows.
    pub(super) fn keep_last(&mut self, rows: u64) {
        while let Some(first) = self.batches.front()
            && self.rows - first.num_rows() as u64 >= rows
        {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(first) = self.batches.pop_front() {
            let rows = first.num_rows() as u64;
            self.rows -= rows;
            self.rows_before += rows;
            self.bytes -= bytes(&first);
        }
    }

    /// The error of the unit with the first row named that breaks a constraint, where it is one of these. To be called once the
    /// transaction is rolled back.
    pub(super) fn named(
        self,
        connection: &Connection,
        lossless: &Lossless,
        put: &Target,
        error: Error,
    ) -> Error {
        let Self {
            plan: Some(plan),
            rows_before,
            mut batches,
            ..
        } = self
        else {
            return error;
        };
        if !error.is_constraint() {
            return error;
        }
        let found = offences(connection, lossless, put, &plan, batches.make_contiguous());
        match found {
            Ok(found) => match found.into_iter().next() {
                Some(mut first) => {
                    first.row += rows_before;
                    offence_error(iter::empty(), &first, &error)
                }
                None => error,
            },
            Err(failure) => {
                tell_unfound(&failure);
                error
            }
        }
    }
}

fn bytes(batch: &RecordBatch) -> usize {
    let columns = batch.columns().iter().map(|column| {
        let values = column.to_data().get_slice_memory_size();
        OVERHEAD_BYTES + values.unwrap_or_else(|_| column.get_array_memory_size())
    });
    OVERHEAD_BYTES + columns.sum::<usize>()
}
