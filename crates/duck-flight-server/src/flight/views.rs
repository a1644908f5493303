//! Texts in views, which are read as bytes until it is known how many they are.
//!
//! Arrow's reader looks whether each view shows UTF-8, however many views show the same bytes: some megabytes of views
//! of one megabyte would keep a thread of the network busy for minutes.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, BinaryViewArray, RecordBatch, RecordBatchOptions, make_array,
};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, UnionFields};
use arrow::error::ArrowError;

/// The schema with bytes for all texts in views.
pub(super) fn with_bytes(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(bytes_field);
    let fields: Vec<_> = fields.collect();
    if schema.fields().iter().eq(&fields) {
        return schema.clone();
    }
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// A batch that was read [with bytes](with_bytes), by its own schema.
///
/// # Errors
/// When the bytes of a text are not UTF-8.
pub(super) fn with_texts(
    batch: RecordBatch,
    schema: &SchemaRef,
) -> Result<RecordBatch, ArrowError> {
    if batch.schema_ref() == schema {
        return Ok(batch);
    }
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| {
        let data = texts(column.to_data(), field.data_type())?;
        Ok(make_array(data))
    });
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns = columns.collect::<Result<_, ArrowError>>()?;
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
}

/// How many bytes the views in arrays show that were read [with bytes](with_bytes), each as many as it does, inside other
/// types as well.
pub(super) fn shown_bytes(arrays: &[ArrayData]) -> usize {
    let shown = |array: &ArrayData| match array.data_type() {
        DataType::BinaryView => {
            let views = BinaryViewArray::from(array.clone());
            let lengths = views.lengths().map(|length| length as usize);
            lengths.fold(0, usize::saturating_add)
        }
        _ => shown_bytes(array.child_data()),
    };
    arrays.iter().map(shown).fold(0, usize::saturating_add)
}

fn bytes_field(field: &FieldRef) -> FieldRef {
    let data_type = bytes_type(field.data_type());
    if data_type == *field.data_type() {
        return field.clone();
    }
    Arc::new(Field::clone(field).with_data_type(data_type))
}

fn bytes_type(data_type: &DataType) -> DataType {
    use DataType::{
        BinaryView, Dictionary, FixedSizeList, LargeList, LargeListView, List, ListView, Map,
        RunEndEncoded, Struct, Union, Utf8View,
    };
    match data_type {
        Utf8View => BinaryView,
        List(item) => List(bytes_field(item)),
        LargeList(item) => LargeList(bytes_field(item)),
        ListView(item) => ListView(bytes_field(item)),
        LargeListView(item) => LargeListView(bytes_field(item)),
        FixedSizeList(item, size) => FixedSizeList(bytes_field(item), *size),
        Map(entries, is_sorted) => Map(bytes_field(entries), *is_sorted),
        Struct(fields) => Struct(fields.iter().map(bytes_field).collect()),
        Union(fields, mode) => {
            let fields = fields.iter().map(|(id, field)| (id, bytes_field(field)));
            Union(fields.collect::<UnionFields>(), *mode)
        }
        Dictionary(keys, values) => Dictionary(keys.clone(), Box::new(bytes_type(values))),
        RunEndEncoded(ends, values) => RunEndEncoded(ends.clone(), bytes_field(values)),
        other => other.clone(),
    }
}

/// The values of an array as this type has them: bytes in views become texts again, and are checked.
fn texts(data: ArrayData, data_type: &DataType) -> Result<ArrayData, ArrowError> {
    if data.data_type() == data_type {
        return Ok(data);
    }
    let types = child_types(data_type);
    let children = data.child_data().iter().zip(types);
    let children = children.map(|(child, data_type)| texts(child.clone(), data_type));
    let children = children.collect::<Result<_, _>>()?;
    let data = data.into_builder().data_type(data_type.clone());
    data.child_data(children).build()
}

/// The types of the children of an array of this type.
pub(super) fn child_types(data_type: &DataType) -> Vec<&DataType> {
    use DataType::{
        Dictionary, FixedSizeList, LargeList, LargeListView, List, ListView, Map, RunEndEncoded,
        Struct, Union,
    };
    match data_type {
        List(item)
        | LargeList(item)
        | ListView(item)
        | LargeListView(item)
        | FixedSizeList(item, _)
        | Map(item, _) => vec![item.data_type()],
        Struct(fields) => fields.iter().map(|field| field.data_type()).collect(),
        Union(fields, _) => fields.iter().map(|(_, field)| field.data_type()).collect(),
        Dictionary(_, values) => vec![values],
        RunEndEncoded(ends, values) => vec![ends.data_type(), values.data_type()],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        ArrayRef, DictionaryArray, Int8Array, Int64Array, ListArray, StringViewArray, StructArray,
    };
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::Int8Type;

    use super::*;

    /// Texts in views, alone and inside other types, beside a column without any.
    fn batch() -> RecordBatch {
        let long = "a text that is too long for a view";
        let views = StringViewArray::from(vec![Some("ü"), None, Some(long)]);
        let item = Arc::new(Field::new_list_field(DataType::Utf8View, true));
        let offsets = OffsetBuffer::from_lengths([1, 0, 2]);
        let list = ListArray::new(item.clone(), offsets, Arc::new(views.clone()), None);
        let keys = Int8Array::from(vec![Some(2), None, Some(0)]);
        let dictionary = DictionaryArray::<Int8Type>::new(keys, Arc::new(views.clone()));
        let inside = StructArray::from(vec![(
            Arc::new(Field::new("list", list.data_type().clone(), true)),
            Arc::new(list.clone()) as ArrayRef,
        )]);
        RecordBatch::try_from_iter([
            ("views", Arc::new(views) as ArrayRef),
            ("list", Arc::new(list)),
            ("dictionary", Arc::new(dictionary)),
            ("inside", Arc::new(inside)),
            ("numbers", Arc::new(Int64Array::from(vec![1, 2, 3]))),
        ])
        .unwrap()
    }

    /// The batch as it is read.
    fn read(batch: &RecordBatch) -> RecordBatch {
        let schema = with_bytes(&batch.schema());
        let columns = batch.columns().iter().zip(schema.fields());
        let columns = columns
            .map(|(column, field)| make_array(texts(column.to_data(), field.data_type()).unwrap()));
        RecordBatch::try_new(schema.clone(), columns.collect()).unwrap()
    }

    #[test]
    fn texts_are_the_same_once_they_were_read_as_bytes() {
        let sent = batch();
        let read = read(&sent);
        let told = format!("{:?}", read.schema());
        assert!(!told.contains("Utf8View"), "{told}");
        assert_eq!(with_texts(read, &sent.schema()).unwrap(), sent);
        let numbers = sent.project(&[4]).unwrap().schema();
        assert!(Arc::ptr_eq(&with_bytes(&numbers), &numbers));
    }

    #[test]
    fn bytes_are_counted_as_often_as_views_show_them() {
        let read = read(&batch());
        let once = 2 + 34;
        // In each of the four columns.
        let columns = read.columns().iter().map(|column| column.to_data());
        let columns: Vec<_> = columns.collect();
        assert_eq!(shown_bytes(&columns), 4 * once);
        assert_eq!(shown_bytes(&columns[4..]), 0);
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        let texts = ["fine", "a text that is too long for a view"];
        let sent: ArrayRef = Arc::new(StringViewArray::from_iter_values(texts));
        let sent = RecordBatch::try_from_iter([("views", sent)]).unwrap();
        for bytes in [&b"\xff"[..], &[0xff; 20]] {
            let views = BinaryViewArray::from_iter_values([&b"fine"[..], bytes]);
            let schema = with_bytes(&sent.schema());
            let read = RecordBatch::try_new(schema, vec![Arc::new(views)]).unwrap();
            assert!(with_texts(read, &sent.schema()).is_err(), "{bytes:?}");
        }
    }
}
