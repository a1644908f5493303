//! The headers of messages, and the schema in the first one: read within limits, so that a small one does not come to much.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use arrow_ipc::{Endianness, Message, MetadataVersion};
use flatbuffers::VerifierOptions;

use super::decode::malformed;
use super::headers;
use crate::error::Result;

/// A header may refer to a table or a string many times, and each time it is read anew. Read so, it may come to
/// `MAX_HEADER_EXPANSION` times its length and `SMALL_HEADER_BYTES` more, but to `MAX_HEADER_BYTES` at most. The headers of wide
/// tables come to less than twice their length.
const MAX_HEADER_EXPANSION: usize = 16;
const SMALL_HEADER_BYTES: usize = 64 << 10;
const MAX_HEADER_BYTES: usize = 128 << 20;

/// A header may hold one flatbuffer table for each 4 of its bytes, and 16 more. Headers of wide tables hold at most one for each 20.
const MIN_TABLE_BYTES: usize = 4;
const FEW_TABLES: usize = 16;

/// The schema in the header of a put's first message.
pub(super) fn schema(header: &[u8]) -> Result<SchemaRef> {
    if header.is_empty() {
        return Err(malformed(
            "the first message of a put must hold its schema as well, beside the descriptor",
        ));
    }
    let message = root(header)?;
    let schema = message.header_as_schema().ok_or_else(|| {
        let found = message
            .header_type()
            .variant_name()
            .unwrap_or("nothing known");
        malformed(format!(
            "the first message of a put must hold its schema, not {found}"
        ))
    })?;
    if schema.fields().is_none() {
        return Err(malformed("the schema has no list of fields"));
    }
    // Arrow's reader takes all values for little-endian ones.
    if schema.endianness() != Endianness::Little {
        return Err(malformed(
            "big-endian Arrow is not supported; send little-endian",
        ));
    }
    let schema: Schema = arrow_ipc::convert::fb_to_schema(schema);
    headers::check_schema(&schema)?;
    Ok(Arc::new(schema))
}

/// The memory of a schema.
pub(super) fn schema_bytes(schema: &Schema) -> usize {
    let entries = schema.metadata.iter();
    let entries = entries.map(|(key, value)| 2 * size_of::<String>() + key.len() + value.len());
    schema.fields.size() + entries.sum::<usize>()
}

/// A header, of a version that can be read.
pub(super) fn root(header: &[u8]) -> Result<Message<'_>> {
    let message = arrow_ipc::root_as_message_with_opts(&limits_of(header), header);
    let message = message.map_err(|error| {
        malformed(format!(
            "the message's header is not valid Arrow IPC: {error}"
        ))
    })?;
    match message.version() {
        MetadataVersion::V4 | MetadataVersion::V5 => Ok(message),
        other => Err(malformed(format!(
            "{other:?} of Arrow IPC is not supported; send V5 or V4"
        ))),
    }
}

/// What a header may come to.
fn limits_of(header: &[u8]) -> VerifierOptions {
    let limits = VerifierOptions::default();
    let bytes = header.len().saturating_mul(MAX_HEADER_EXPANSION);
    VerifierOptions {
        max_tables: limits
            .max_tables
            .min(header.len() / MIN_TABLE_BYTES + FEW_TABLES),
        max_apparent_size: MAX_HEADER_BYTES.min(bytes.saturating_add(SMALL_HEADER_BYTES)),
        ..limits
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use arrow::datatypes::{DataType, Field, Fields};
    use arrow_ipc::writer::{
        CompressionContext, DictionaryTracker, IpcDataGenerator, IpcWriteOptions,
    };
    use arrow_ipc::{MessageArgs, MessageHeader, SchemaArgs};
    use flatbuffers::{FlatBufferBuilder, WIPOffset};

    use super::*;

    const COLUMNS: usize = 4000;

    fn metadata(of: usize) -> [(String, String); 3] {
        let json =
            format!(r#"{{"name": "column_{of}", "pandas_type": "int64", "metadata": null}}"#);
        let pairs = [
            ("PARQUET:field_id", of.to_string()),
            ("a", "b".into()),
            ("pandas", json),
        ];
        pairs.map(|(key, value)| (key.to_owned(), value))
    }

    /// A wide table's columns: plain ones, some with metadata, some nested.
    fn wide_schemas() -> [Schema; 4] {
        let name = |column: usize| format!("column_{column}");
        let plain = |column: usize| Field::new(name(column), DataType::Int64, true);
        let short = |column: usize| Field::new(column.to_string(), DataType::Boolean, true);
        let described = |column| plain(column).with_metadata(metadata(column).into());
        let nested = |column| {
            let inner = Fields::from(vec![plain(column), short(column), plain(column)]);
            Field::new_list(name(column), Field::new_struct("item", inner, true), true)
        };
        let kinds: [&dyn Fn(usize) -> Field; 4] = [&plain, &short, &described, &nested];
        kinds.map(|field| Schema::new((0..COLUMNS).map(field).collect::<Vec<_>>()))
    }

    fn schema_header(schema: &Schema) -> Vec<u8> {
        let (generator, options) = (IpcDataGenerator::default(), IpcWriteOptions::default());
        let mut tracker = DictionaryTracker::new(false);
        let message =
            generator.schema_to_bytes_with_dictionary_tracker(schema, &mut tracker, &options);
        message.ipc_message
    }

    fn batch_header() -> Vec<u8> {
        let values = |column: usize| -> ArrayRef {
            match column % 2 {
                0 => Arc::new(Int64Array::from(vec![1])),
                _ => Arc::new(StringArray::from(vec!["x"])),
            }
        };
        let columns = (0..COLUMNS).map(|column| (column.to_string(), values(column)));
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let mut tracker = DictionaryTracker::new(false);
        let encoded = IpcDataGenerator::default().encode(
            &rows,
            &mut tracker,
            &IpcWriteOptions::default(),
            &mut CompressionContext::default(),
        );
        encoded.unwrap().1.ipc_message
    }

    #[test]
    fn headers_of_wide_tables_come_to_far_less_than_they_may() {
        let mut headers = wide_schemas().each_ref().map(schema_header).to_vec();
        headers.push(batch_header());
        for header in headers {
            let limits = limits_of(&header);
            let quarter = VerifierOptions {
                max_tables: limits.max_tables / 4,
                max_apparent_size: limits.max_apparent_size / 4,
                ..limits
            };
            arrow_ipc::root_as_message_with_opts(&quarter, &header).unwrap();
        }
    }

    #[test]
    fn a_schema_weighs_what_its_columns_and_texts_do() {
        let [plain, _, described, _] = wide_schemas();
        let of_plain = schema_bytes(&plain);
        assert!(
            (COLUMNS * 100..COLUMNS * 300).contains(&of_plain),
            "{of_plain}"
        );
        assert!(schema_bytes(&described) > of_plain + COLUMNS * 100);
        let texts = [("a".to_owned(), "x".repeat(10_000_000))];
        let with_text = plain.with_metadata(texts.into());
        let of_text = schema_bytes(&with_text) - of_plain;
        assert!((10_000_000..10_000_100).contains(&of_text), "{of_text}");
    }

    /// The header of a schema without columns.
    fn header_of(version: MetadataVersion, endianness: Endianness) -> Vec<u8> {
        let mut builder = FlatBufferBuilder::new();
        let columns: [WIPOffset<arrow_ipc::Field<'_>>; 0] = [];
        let columns = builder.create_vector(&columns);
        let schema = SchemaArgs {
            endianness,
            fields: Some(columns),
            ..Default::default()
        };
        let schema = arrow_ipc::Schema::create(&mut builder, &schema);
        let message = MessageArgs {
            version,
            header_type: MessageHeader::Schema,
            header: Some(schema.as_union_value()),
            ..Default::default()
        };
        let message = Message::create(&mut builder, &message);
        builder.finish(message, None);
        builder.finished_data().to_vec()
    }

    #[test]
    fn what_is_not_little_endian_or_of_a_version_that_is_not_known_is_refused() {
        use MetadataVersion as Version;
        let refusal = |version, endianness| {
            let schema = schema(&header_of(version, endianness));
            schema.err().map(|error| error.to_string())
        };
        for version in [Version::V4, Version::V5] {
            assert_eq!(refusal(version, Endianness::Little), None);
            for endianness in [Endianness::Big, Endianness(7)] {
                let why = refusal(version, endianness).expect("a refusal");
                assert!(why.contains("send little-endian"), "{why}");
            }
        }
        for version in [Version::V1, Version::V3, Version(5), Version(-1)] {
            let why = refusal(version, Endianness::Little).expect("a refusal");
            assert!(why.contains("send V5 or V4"), "{why}");
        }
    }
}
