//! What the keeper answers to questions about what it holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_flight::FlightData;
use arrow_flight::encode::FlightDataEncoderBuilder;
use duck_flight_protocol::{ProducerState, TableName};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use tonic::Status;

/// How far a producer is, under the table's full name.
pub(super) fn state(producer: &str, table: &TableName, last_sequence: u64) -> arrow_flight::Result {
    let state = ProducerState {
        producer: producer.to_owned(),
        table: TableName {
            catalog: Some("events".into()),
            schema: Some("main".into()),
            table: table.table.to_uppercase(),
        },
        last_sequence,
        last_commit_at: "2026-01-01T00:00:00Z".into(),
    };
    arrow_flight::Result {
        body: serde_json::to_vec(&state).unwrap().into(),
    }
}

/// Whether there are rows of the batches whose ids the query names; none of them where it names none.
pub(super) fn first_held(
    batches: &[RecordBatch],
    query: &str,
) -> BoxStream<'static, Result<FlightData, Status>> {
    let (_, list) = query.split_once("IN (").unwrap_or(("", "0)"));
    let (list, _) = list.split_once(')').unwrap();
    let ids: Vec<i64> = list.split(", ").map(|id| id.parse().unwrap()).collect();
    let is_asked_for = |batch: &RecordBatch| {
        let found = batch.column(0).as_primitive::<Int64Type>().values();
        found.iter().any(|id| ids.contains(id))
    };
    let held = batches.iter().any(is_asked_for);
    let ones: ArrayRef = Arc::new(Int64Array::from(vec![1; usize::from(held)]));
    encoded(RecordBatch::try_from_iter([("1", ones)]).unwrap())
}

/// What the loader's proof asks for, reckoned as its SQL says: rows, sums and times of each batch id.
pub(super) fn digests(batches: &[RecordBatch]) -> BoxStream<'static, Result<FlightData, Status>> {
    let mut groups: BTreeMap<i64, [i128; 5]> = BTreeMap::new();
    for batch in batches {
        let ids = batch.column(0).as_primitive::<Int64Type>();
        let times = batch.column(1).as_primitive::<TimestampMicrosecondType>();
        let values = batch.column(2).as_primitive::<Float64Type>();
        let categories = batch.column(3).as_string::<i32>();
        for row in 0..batch.num_rows() {
            let [rows, value_sum, pair_sum, first, last] = groups
                .entry(ids.value(row))
                .or_insert([0, 0, 0, i128::MAX, i128::MIN]);
            let steps = steps(values.value(row));
            let letter = i128::from(categories.value(row).as_bytes()[0]);
            let micros = i128::from(times.value(row));
            *rows += 1;
            *value_sum += steps;
            *pair_sum += pair(steps, letter);
            *first = micros.min(*first);
            *last = micros.max(*last);
        }
    }
    let modulus = (1 << 61) - 1;
    let number = |value: i128| i64::try_from(value).unwrap();
    let column = |of: fn(&[i128; 5]) -> i128| {
        let values = groups.values().map(|group| number(of(group)));
        Arc::new(Int64Array::from_iter_values(values)) as ArrayRef
    };
    let sum = |of: fn(&[i128; 5]) -> i128| {
        let values = groups.values().map(|group| number(of(group) % modulus));
        Arc::new(Int64Array::from_iter_values(values)) as ArrayRef
    };
    let ids = Arc::new(Int64Array::from_iter_values(groups.keys().copied())) as ArrayRef;
    let answer = RecordBatch::try_from_iter([
        ("batch_id", ids),
        ("row_count", column(|group| group[0])),
        ("value_sum", sum(|group| group[1])),
        ("pair_sum", sum(|group| group[2])),
        ("first_micros", column(|group| group[3])),
        ("last_micros", column(|group| group[4])),
    ])
    .unwrap();
    encoded(answer)
}

fn pair(steps: i128, letter: i128) -> i128 {
    let (one, other) = ((1 << 31) - 1, (1 << 31) - 19);
    let shifted = steps % one + letter;
    (shifted * shifted % one) * (steps % other * (steps % other) % other)
}

fn encoded(answer: RecordBatch) -> BoxStream<'static, Result<FlightData, Status>> {
    FlightDataEncoderBuilder::new()
        .build(stream::iter([Ok(answer)]))
        .map_err(Status::from)
        .boxed()
}

#[expect(clippy::cast_possible_truncation, reason = "it has no fraction")]
fn steps(value: f64) -> i128 {
    (value * 2_f64.powi(46)).floor() as i128
}
