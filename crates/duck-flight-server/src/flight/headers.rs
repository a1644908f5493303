//! What headers say of columns and batches, checked before anything goes by it: Arrow's code takes some of it on trust, and
//! panics at some.

use arrow::datatypes::{
    DECIMAL32_MAX_PRECISION, DECIMAL64_MAX_PRECISION, DECIMAL128_MAX_PRECISION,
    DECIMAL256_MAX_PRECISION, DataType, Schema,
};
use arrow_ipc::{BodyCompressionMethod, FieldNode, MetadataVersion};

use super::decode::malformed;
use super::views::child_types;
use crate::error::Result;

/// Refuses columns, and fields inside them, whose names or types nothing can be done with.
pub(super) fn check_schema(schema: &Schema) -> Result<()> {
    for field in schema.flattened_fields() {
        // Names go to DuckDB as C strings.
        if field.name().contains('\0') {
            let name = field.name().escape_default();
            return Err(malformed(format!(
                "the name `{name}` of a column or field holds the character NUL"
            )));
        }
        check_type(field.name(), field.data_type())?;
    }
    Ok(())
}

/// Looks at a field's type, but for the fields in it.
fn check_type(name: &str, data_type: &DataType) -> Result<()> {
    use DataType::{Decimal32, Decimal64, Decimal128, Decimal256, Dictionary, Timestamp};
    let (digits, most) = match data_type {
        Dictionary(_, values) => return check_type(name, values),
        // It goes with its type as a C string, too.
        Timestamp(_, Some(zone)) if zone.contains('\0') => {
            let zone = zone.escape_default();
            return Err(malformed(format!(
                "the time zone `{zone}` of the column or field `{name}` holds the character NUL"
            )));
        }
        Decimal32(digits, _) => (*digits, DECIMAL32_MAX_PRECISION),
        Decimal64(digits, _) => (*digits, DECIMAL64_MAX_PRECISION),
        Decimal128(digits, _) => (*digits, DECIMAL128_MAX_PRECISION),
        Decimal256(digits, _) => (*digits, DECIMAL256_MAX_PRECISION),
        _ => return Ok(()),
    };
    if (1..=most).contains(&digits) {
        return Ok(());
    }
    Err(malformed(format!(
        "the column or field `{name}` is a decimal of {digits} digits; those of its width have 1 to {most}"
    )))
}

/// Refuses a batch of these columns that Arrow's reader would read as another one than was sent.
pub(super) fn check_batch<'t>(
    batch: &arrow_ipc::RecordBatch<'_>,
    version: MetadataVersion,
    mut columns: impl Iterator<Item = &'t DataType>,
) -> Result<()> {
    let method = batch.compression().map(|compression| compression.method());
    if method.is_some_and(|method| method != BodyCompressionMethod::BUFFER) {
        return Err(malformed(
            "the batch is compressed in a way that is not known; compress each of its buffers",
        ));
    }
    let nodes = batch.nodes();
    for node in nodes.iter().flatten() {
        let (length, nulls) = (node.length(), node.null_count());
        if !(0..=length).contains(&nulls) {
            return Err(malformed(format!(
                "an array of the batch has {length} values and {nulls} nulls, as its header says"
            )));
        }
    }
    // Members have nulls of their own, which stay.
    let mut nodes = nodes.iter().flatten();
    if version == MetadataVersion::V4 && columns.any(|of| has_union_nulls(of, &mut nodes)) {
        return Err(malformed(
            "a union in the batch has nulls beside those of its members, as V4 of Arrow IPC has them; send V5",
        ));
    }
    Ok(())
}

/// Whether a union says that it has nulls itself; Arrow's reader would leave them out. Takes the nodes of a column of this type.
fn has_union_nulls<'n>(
    data_type: &DataType,
    nodes: &mut impl Iterator<Item = &'n FieldNode>,
) -> bool {
    let has_nulls = nodes.next().is_some_and(|node| node.null_count() > 0);
    match data_type {
        // The values have a message of their own.
        DataType::Dictionary(..) => false,
        DataType::Union(..) if has_nulls => true,
        other => child_types(other)
            .into_iter()
            .any(|child| has_union_nulls(child, nodes)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{Field, TimeUnit, UnionFields, UnionMode};
    use arrow_ipc::{BodyCompression, BodyCompressionArgs, RecordBatch, RecordBatchArgs};
    use flatbuffers::FlatBufferBuilder;

    use super::*;

    /// Why a column of this type is refused, alone and inside others.
    fn refusal_of_type(data_type: &DataType) -> Option<String> {
        let keys = Box::new(DataType::Int8);
        let dictionary = DataType::Dictionary(keys, Box::new(data_type.clone()));
        let list = DataType::new_list(data_type.clone(), true);
        let refusals = [data_type.clone(), dictionary, list].map(|data_type| {
            let inside = Field::new("item", data_type, true);
            let column = Field::new_struct("c", vec![inside], true);
            let refused = check_schema(&Schema::new(vec![column]));
            refused.err().map(|error| error.to_string())
        });
        let [first, second, third] = refusals;
        assert_eq!(first, second);
        assert_eq!(first, third);
        first
    }

    #[test]
    fn decimals_have_a_digit_and_no_more_than_fit_into_them() {
        use DataType::{Decimal32, Decimal64, Decimal128, Decimal256};
        type Decimal = fn(u8, i8) -> DataType;
        let kinds: [(Decimal, u8); 4] = [
            (Decimal32, 9),
            (Decimal64, 18),
            (Decimal128, 38),
            (Decimal256, 76),
        ];
        for (decimal, most) in kinds {
            for digits in [0, most + 1, u8::MAX] {
                let why = refusal_of_type(&decimal(digits, 0)).expect("a refusal");
                let words = format!("`item` is a decimal of {digits} digits");
                assert!(why.contains(&words), "{why}");
            }
            // What is behind the point may be more than all digits.
            for digits in [1, most] {
                assert_eq!(refusal_of_type(&decimal(digits, 100)), None);
            }
        }
    }

    #[test]
    fn time_zones_are_c_strings() {
        let zoned = |zone: &str| DataType::Timestamp(TimeUnit::Microsecond, Some(zone.into()));
        let why = refusal_of_type(&zoned("U\0C")).expect("a refusal");
        assert!(why.contains("the time zone `U\\u{0}C`"), "{why}");
        assert_eq!(refusal_of_type(&zoned("Europe/Zürich")), None);
    }

    /// Looks at a batch of a column of this type, with these lengths and null counts of its arrays.
    fn check(
        column: &DataType,
        nodes: &[(i64, i64)],
        version: MetadataVersion,
        method: BodyCompressionMethod,
    ) -> Result<()> {
        let nodes = nodes
            .iter()
            .map(|(length, nulls)| FieldNode::new(*length, *nulls));
        let nodes: Vec<_> = nodes.collect();
        let mut builder = FlatBufferBuilder::new();
        let nodes = builder.create_vector(&nodes);
        let compression = BodyCompressionArgs {
            method,
            ..Default::default()
        };
        let compression = BodyCompression::create(&mut builder, &compression);
        let batch = RecordBatchArgs {
            nodes: Some(nodes),
            compression: Some(compression),
            ..Default::default()
        };
        let batch = RecordBatch::create(&mut builder, &batch);
        builder.finish(batch, None);
        let batch = flatbuffers::root::<RecordBatch<'_>>(builder.finished_data()).unwrap();
        check_batch(&batch, version, std::iter::once(column))
    }

    #[test]
    fn an_array_has_no_fewer_nulls_than_none_and_no_more_than_values() {
        let check = |length, nulls| {
            let nodes = [(3, 0), (length, nulls)];
            let (version, method) = (MetadataVersion::V5, BodyCompressionMethod::BUFFER);
            check(&DataType::Int64, &nodes, version, method)
        };
        for (length, nulls) in [(3, -1), (3, i64::MIN), (3, 4), (-1, 0), (-1, -1), (0, 1)] {
            let why = check(length, nulls).unwrap_err().to_string();
            let words = format!("{length} values and {nulls} nulls");
            assert!(why.contains(&words), "{why}");
        }
        for (length, nulls) in [(0, 0), (3, 0), (3, 3), (i64::MAX, 1)] {
            check(length, nulls).unwrap();
        }
    }

    #[test]
    fn buffers_are_compressed_one_by_one() {
        let nodes = [(3, 0)];
        let check = |method| check(&DataType::Int64, &nodes, MetadataVersion::V5, method);
        check(BodyCompressionMethod::BUFFER).unwrap();
        let why = check(BodyCompressionMethod(1)).unwrap_err().to_string();
        assert!(why.contains("compress each of its buffers"), "{why}");
    }

    #[test]
    fn unions_have_no_nulls_beside_those_of_their_members() {
        let member = Arc::new(Field::new("m", DataType::Int64, true));
        let fields = UnionFields::from_fields([member]);
        let union = DataType::Union(fields, UnionMode::Sparse);
        let number = Field::new("n", DataType::Int64, true);
        let column = DataType::Struct(vec![number, Field::new("u", union, true)].into());
        let check = |nodes: [(i64, i64); 4], version| {
            check(&column, &nodes, version, BodyCompressionMethod::BUFFER)
        };
        // The struct, the number, the union and its member.
        let nodes = [(3, 1), (3, 1), (3, 0), (3, 1)];
        check(nodes, MetadataVersion::V4).unwrap();
        let nodes = [(3, 0), (3, 0), (3, 1), (3, 0)];
        let why = check(nodes, MetadataVersion::V4).unwrap_err().to_string();
        assert!(why.contains("a union in the batch has nulls"), "{why}");
        check(nodes, MetadataVersion::V5).unwrap();
    }
}
