//! Answers that are made beforehand, to the messages.

use std::sync::Arc;

use arrow::array::{
    Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow_flight::utils::batches_to_flight_data;
use arrow_flight::{FlightData, FlightEndpoint, FlightInfo, Ticket};
use futures::stream::{self, Stream};

/// Rows of a message of a large result, as Duck Flight sends it.
const MESSAGE_ROWS: usize = 16_384;

/// What a statement is answered with.
pub(super) struct Answer {
    pub(super) sql: &'static str,
    /// Where to get it. The ticket is the statement.
    pub(super) info: FlightInfo,
    /// The schema, then the rows.
    messages: Arc<[FlightData]>,
}

impl Answer {
    /// One row with one number.
    pub(super) fn small(sql: &'static str) -> anyhow::Result<Self> {
        let row = RecordBatch::try_from_iter_with_nullable([(
            "42",
            Arc::new(Int32Array::from(vec![42])) as _,
            true,
        )])?;
        Self::new(sql, &row, 1)
    }

    /// So many rows of the four columns that loaders send and readers read.
    pub(super) fn large(sql: &'static str, rows: usize) -> anyhow::Result<Self> {
        Self::new(sql, &readings(MESSAGE_ROWS)?, rows)
    }

    /// The batch again and again, until there are so many rows. Each is encoded once, and its bytes are shared: like
    /// those of a server that has just made them, they are in the processor's cache.
    fn new(sql: &'static str, batch: &RecordBatch, rows: usize) -> anyhow::Result<Self> {
        let schema = batch.schema();
        let rest = batch.slice(0, rows % batch.num_rows());
        let encoded = batches_to_flight_data(&schema, vec![batch.clone(), rest.clone()])?;
        let mut messages = vec![encoded[0].clone()];
        messages.resize(1 + rows / batch.num_rows(), encoded[1].clone());
        if rest.num_rows() > 0 {
            messages.push(encoded[2].clone());
        }
        let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(sql));
        Ok(Self {
            sql,
            info: FlightInfo::new()
                .try_with_schema(&schema)?
                .with_endpoint(endpoint)
                .with_total_records(-1)
                .with_total_bytes(-1),
            messages: messages.into(),
        })
    }

    /// All messages, for one client.
    pub(super) fn messages(&self) -> impl Stream<Item = FlightData> + Send + use<> {
        let messages = self.messages.clone();
        stream::iter((0..messages.len()).map(move |number| messages[number].clone()))
    }
}

/// Rows like those of the table that reads are measured with.
fn readings(rows: usize) -> anyhow::Result<RecordBatch> {
    let batch_ids = (0..rows).map(|row| (row / 1_000) as i64);
    let times = (0..rows).map(|row| 1_767_225_600_000_000 + 1_000 * row as i64);
    let values = (0..rows).map(|row| (row * 7_919 % 100_003) as f64 / 1e3);
    let categories = (0..rows).map(|row| ["A", "B", "C", "D"][row * 31 % 7 % 4]);
    Ok(RecordBatch::try_from_iter_with_nullable([
        (
            "batch_id",
            Arc::new(batch_ids.collect::<Int64Array>()) as _,
            true,
        ),
        (
            "timestamp",
            Arc::new(TimestampMicrosecondArray::from_iter_values(times)) as _,
            true,
        ),
        (
            "value",
            Arc::new(values.collect::<Float64Array>()) as _,
            true,
        ),
        (
            "category",
            Arc::new(StringArray::from_iter_values(categories)) as _,
            true,
        ),
    ])?)
}

#[cfg(test)]
mod tests {
    use arrow_flight::utils::flight_data_to_batches;

    use super::*;

    #[test]
    fn a_large_answer_has_as_many_rows_as_asked_for() {
        for rows in [0, 1, MESSAGE_ROWS, 2 * MESSAGE_ROWS + 5] {
            let answer = Answer::large("FROM t", rows).unwrap();
            let batches = flight_data_to_batches(&answer.messages).unwrap();
            let found: usize = batches.iter().map(RecordBatch::num_rows).sum();
            assert_eq!(found, rows);
        }
    }
}
