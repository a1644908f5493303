//! How large rows may become once they are cast, as long as there is no plan by which they will be.

use arrow::array::{Array, ArrayData, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use duck_flight_protocol::SchemaMode;

use super::effect::Effect;
use super::evolve::has_no_type_yet;
use super::types::Names;
use crate::engine::ffi::ColumnShape;

/// What a value becomes at most, beside its own bytes: a `HUGEINT`, or the text of a truth value or a number.
const VALUE_BYTES: usize = 16;

/// The places of a stream's columns that the table may take as others than they are sent.
#[derive(Default)]
pub(in crate::engine) struct Growth(Vec<usize>);

impl Growth {
    /// Of a stream's columns in a table that has these so far, and is to be made or altered for the stream.
    pub(in crate::engine) fn new(
        stream: &Schema,
        table: &[ColumnShape],
        effect: &Effect,
        mode: SchemaMode,
    ) -> Self {
        let names = Names::new(table.iter().map(|column| column.field.name()));
        let mut places = Vec::new();
        for (place, field) in stream.fields().iter().enumerate() {
            let column = names.place(field.name()).map(|place| &table[place]);
            let is_left_out = !effect.concerns(field.name())
                || (column.is_none() && has_no_type_yet(field, mode));
            if !is_left_out && !is_kept(field, column) {
                places.push(place);
            }
        }
        Self(places)
    }

    /// What a batch of the stream may take once it is cast, beside what was sent, which takes `sent_bytes`: rather too much.
    pub(in crate::engine) fn most_bytes(&self, batch: &RecordBatch, sent_bytes: usize) -> usize {
        if self.0.is_empty() {
            return 0;
        }
        let of_column = |&place: &usize| values(&batch.column(place).to_data());
        let values = self.0.iter().map(of_column);
        let values = values.fold(0, usize::saturating_add);
        values
            .saturating_mul(VALUE_BYTES)
            .saturating_add(sent_bytes)
    }
}

/// Whether a table takes the values of a field as they are: into this column, or into the one that it is given for them.
fn is_kept(field: &Field, column: Option<&ColumnShape>) -> bool {
    use DataType::*;
    let from = field.data_type();
    match column {
        // What such a one stands for may be spelled out.
        _ if field.extension_type_name().is_some() => false,
        Some(column) => column.field.data_type() == from,
        None => matches!(
            from,
            Boolean
                | Int8
                | Int16
                | Int32
                | Int64
                | UInt8
                | UInt16
                | UInt32
                | UInt64
                | Float32
                | Float64
                | Decimal128(..)
                | Date32
                | Time64(_)
                | Timestamp(..)
                | Utf8
                | Binary
        ),
    }
}

/// How many values a column has, with those inside others.
fn values(data: &ArrayData) -> usize {
    let children: &[ArrayData] = match data.data_type() {
        // Its values may be those of many batches, and are no more than the rows show.
        DataType::Dictionary(..) => &[],
        _ => data.child_data(),
    };
    children
        .iter()
        .map(values)
        .fold(data.len(), usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BooleanArray, FixedSizeListArray, Int64Array, NullArray};

    use super::*;

    #[test]
    fn values_grow_that_their_table_takes_as_others() {
        let bits: ArrayRef = Arc::new(BooleanArray::from(vec![true; 20]));
        let item = Arc::new(Field::new("item", DataType::Boolean, true));
        let pairs = FixedSizeListArray::new(item, 2, bits.clone(), None);
        let bits = bits.slice(0, 10);
        let longs: ArrayRef = Arc::new(Int64Array::from(vec![1; 10]));
        let table = [ColumnShape::flag("flag"), ColumnShape::number("number")];
        let cases: [(&str, ArrayRef, usize); 7] = [
            ("FLAG", bits.clone(), 0),
            ("flag", longs.clone(), 10),
            ("number", bits.clone(), 10),
            ("new", bits, 0),
            ("new", longs, 0),
            ("new", Arc::new(pairs), 30),
            ("new", Arc::new(NullArray::new(10)), 0),
        ];
        for (name, column, values) in cases {
            let batch = RecordBatch::try_from_iter_with_nullable([(name, column, true)]).unwrap();
            let (schema, mode) = (batch.schema(), SchemaMode::Evolve);
            let growth = Growth::new(&schema, &table, &Effect::Append, mode);
            let expected = match values {
                0 => 0,
                _ => values * VALUE_BYTES + 7,
            };
            let bytes = growth.most_bytes(&batch, 7);
            assert_eq!(bytes, expected, "{name}: {}", schema.field(0).data_type());
        }
    }
}
