//! The messages of a put, decoded and checked: nothing here trusts its client.
//!
//! Arrow's reader validates every buffer it builds an array from (offsets, UTF-8, dictionary keys, child
//! lengths). What it takes on trust is checked here before: how often a header refers to the same bytes, what it says of types and
//! [batches](headers), the sizes that compressed buffers claim, and the numbers of values that take no bytes. Where it panics,
//! the panic ends as an error of the put.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayData, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow_flight::{FlightData, FlightDescriptor};
use arrow_ipc::{CompressionType, Endianness, Message, MessageHeader, MetadataVersion};
use bytes::Bytes;
use flatbuffers::VerifierOptions;
use prost::Message as _;

use super::dictionaries::Dictionaries;
use super::messages::{Messages, PutMessage};
use super::{headers, intervals, size, views};
use crate::drain::Stage;
use crate::engine::{HeldBytes, Parameters, SentBatch};
use crate::error::{Error, Result};
use crate::intake::Standing;
use crate::unpacking::Unpacking;

/// How much larger than the largest message a message may become when it is decompressed.
pub(super) const MAX_EXPANSION: usize = 8;

/// Values that take no bytes (nulls, runs) may outnumber the message's bits by this many.
const FREE_VALUES: usize = 1 << 20;

/// All columns together may have this many more values that take no bytes.
const FREE_VALUES_OF_ALL: usize = 16 << 20;

/// A header may refer to a table or a string many times, and each time it is read anew. Read so, it may come to
/// `MAX_HEADER_EXPANSION` times its length and `SMALL_HEADER_BYTES` more, but to `MAX_HEADER_BYTES` at most. The headers of wide
/// tables come to less than twice their length.
const MAX_HEADER_EXPANSION: usize = 16;
const SMALL_HEADER_BYTES: usize = 64 << 10;
const MAX_HEADER_BYTES: usize = 128 << 20;

/// A header may hold one flatbuffer table for each 4 of its bytes, and 16 more. Headers of wide tables hold at most one for each 20.
const MIN_TABLE_BYTES: usize = 4;
const FEW_TABLES: usize = 16;

/// What an array takes, and each of its buffers, however few values there are.
const ARRAY_BYTES: usize = 128;

/// An open put may keep this many bytes of its first message uncounted: HTTP/2 keeps more for each stream.
const LITTLE: usize = 64 << 10;

/// The record batches of a put.
pub(super) struct PutStream {
    messages: Messages,
    unpacking: Unpacking,
    decoder: Decoder,
}

struct Decoder {
    schema: SchemaRef,
    /// What batches are read by.
    schema_with_bytes: SchemaRef,
    dictionaries: Dictionaries,
    max_expanded_bytes: usize,
}

/// A put of which the first message has been read.
pub(super) struct Upload {
    first: FlightData,
    /// How long the descriptor was: what it says is kept for as long as the put is open.
    descriptor_bytes: usize,
    messages: Messages,
    unpacking: Unpacking,
}

impl Upload {
    /// Reads the first message, which holds the descriptor. Those with rows need room of `unpacking` for what they become.
    pub(super) async fn open(
        mut messages: Messages,
        unpacking: &Unpacking,
    ) -> Result<(FlightDescriptor, Self)> {
        let Some(PutMessage {
            data: mut first, ..
        }) = messages.next().await?
        else {
            return Err(malformed(
                "the put is empty: its first message holds descriptor and schema. ADBC's driver sends nothing of a table \
                 without batches: skip it, or ingest a record batch without rows",
            ));
        };
        let descriptor = first.flight_descriptor.take().ok_or_else(|| {
            malformed("the first message of a put must hold a descriptor that names the table")
        })?;
        let upload = Self {
            first,
            descriptor_bytes: descriptor.encoded_len(),
            messages,
            unpacking: unpacking.clone(),
        };
        Ok((descriptor, upload))
    }

    /// The rows, whose schema is in the first message too. Their dictionaries are added to what is held, and what the put
    /// keeps of the first message where that is much.
    pub(super) fn rows(self, mut held: HeldBytes) -> Result<PutStream> {
        let max_expanded_bytes = self.messages.max_bytes().saturating_mul(MAX_EXPANSION);
        let schema = guarded(|| decode_schema(&self.first.data_header))?;
        let kept = schema_bytes(&schema).saturating_add(self.descriptor_bytes);
        if kept > LITTLE {
            held.grow(kept)?;
        }
        let decoder = Decoder {
            schema_with_bytes: views::with_bytes(&schema),
            schema,
            dictionaries: Dictionaries::new(max_expanded_bytes, held),
            max_expanded_bytes,
        };
        Ok(PutStream {
            messages: self.messages,
            unpacking: self.unpacking,
            decoder,
        })
    }

    /// All rows and their schema, where there is one: the values of a statement's parameters. They are added to what is held
    /// for it, which comes to no more than `max_bytes`, and their dictionaries to what is held until all are read.
    pub(super) async fn all_rows(
        mut self,
        max_bytes: usize,
        held: &mut HeldBytes,
        held_meanwhile: HeldBytes,
    ) -> Result<Option<(SchemaRef, Vec<RecordBatch>)>> {
        if self.first.data_header.is_empty() {
            // A statement without parameters: nothing may follow but the end, and nothing is kept until then.
            self.first = FlightData::default();
            return match self.messages.next().await? {
                None => Ok(None),
                Some(_) => Err(malformed("rows without a schema before them")),
            };
        }
        let mut rows = self.rows(held_meanwhile)?;
        // Before Arrow's reader, which panics at some that DuckDB does not have.
        Parameters::check_types(rows.schema())?;
        let mut batches = Vec::new();
        while let Some((batch, _)) = rows.next(Standing::Idle).await? {
            if batch.rows.num_rows() == 0 {
                continue;
            }
            if held.bytes() + batch.bytes > max_bytes {
                return Err(Error::TooManyParameters(max_bytes));
            }
            held.grow(batch.bytes)?;
            batches.push(batch.rows);
        }
        Ok(Some((rows.schema().clone(), batches)))
    }
}

impl PutStream {
    /// The schema of every batch.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.decoder.schema
    }

    /// Fails as soon as the server is on its way down: what was read is whole, and more can be sent to the next server.
    pub(super) fn end_with_the_server(&mut self) {
        self.messages.end_at(Stage::Finishing);
    }

    /// The next batch and its `app_metadata`, or `None` once the client has ended the stream. `standing` is that of the put
    /// that waits for it.
    pub(super) async fn next(&mut self, standing: Standing) -> Result<Option<(SentBatch, Bytes)>> {
        self.messages.tell(standing);
        while let Some(message) = self.messages.next().await? {
            let claimed = guarded(|| claimed_bytes(&message.data))?;
            let room = self.unpacking.take(standing, claimed).await;
            if let Some(batch) = guarded(|| self.decoder.decode(&message))? {
                let batch = SentBatch { room, ..batch };
                return Ok(Some((batch, message.data.app_metadata)));
            }
        }
        Ok(None)
    }
}

/// Runs a decoder of Arrow's. Malformed bytes that make it panic are an error like any other.
fn guarded<T>(decode: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err(malformed("the message is not valid Arrow IPC")))
}

fn decode_schema(header: &[u8]) -> Result<SchemaRef> {
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
fn schema_bytes(schema: &Schema) -> usize {
    let entries = schema.metadata.iter();
    let entries = entries.map(|(key, value)| 2 * size_of::<String>() + key.len() + value.len());
    schema.fields.size() + entries.sum::<usize>()
}

fn root(header: &[u8]) -> Result<Message<'_>> {
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

/// How many bytes a compressed buffer claims to become, and those it has for that in the body of its message; `None` for one without a
/// claim.
fn claim<'b>(buffer: &arrow_ipc::Buffer, body: &'b [u8]) -> Result<Option<(usize, &'b [u8])>> {
    let start = usize::try_from(buffer.offset()).unwrap_or(usize::MAX);
    let len = usize::try_from(buffer.length()).unwrap_or(usize::MAX);
    let bytes = start.checked_add(len).and_then(|end| body.get(start..end));
    let bytes = bytes.ok_or_else(|| malformed("a buffer lies outside of its message"))?;
    let Some((claim, compressed)) = bytes.split_first_chunk::<8>() else {
        return Ok(None);
    };
    // -1 says that the buffer is not compressed after all.
    let claim = usize::try_from(i64::from_le_bytes(*claim)).unwrap_or(0);
    Ok(Some((claim, compressed)))
}

/// How many bytes the compressed buffers of a message claim to become together.
fn claimed_bytes(data: &FlightData) -> Result<usize> {
    if data.data_header.is_empty() {
        return Ok(0);
    }
    let message = root(&data.data_header)?;
    let batch = match message.header_type() {
        MessageHeader::RecordBatch => message.header_as_record_batch(),
        MessageHeader::DictionaryBatch => message
            .header_as_dictionary_batch()
            .and_then(|dictionary| dictionary.data()),
        _ => None,
    };
    let Some(batch) = batch.filter(|batch| batch.compression().is_some()) else {
        return Ok(0);
    };
    let mut total: usize = 0;
    for buffer in batch.buffers().iter().flatten() {
        let claim = claim(buffer, &data.data_body)?;
        total = total.saturating_add(claim.map_or(0, |(bytes, _)| bytes));
    }
    Ok(total)
}

impl Decoder {
    /// Decodes a message; `None` where it holds no rows.
    fn decode(&mut self, sent: &PutMessage) -> Result<Option<SentBatch>> {
        let data = &sent.data;
        if data.data_header.is_empty() && data.data_body.is_empty() {
            // Metadata alone, which a plain put has no use for.
            return Ok(None);
        }
        let message = root(&data.data_header)?;
        let body = Buffer::from(data.data_body.clone());
        match message.header_type() {
            MessageHeader::RecordBatch => {
                let batch = message
                    .header_as_record_batch()
                    .ok_or_else(|| empty("record batch"))?;
                let types = self.schema.fields().iter().map(|field| field.data_type());
                headers::check_batch(&batch, message.version(), types)?;
                let bytes = self.expanded_bytes(&batch, &body)?;
                let referred = self.referred_bytes(&batch)?;
                let arrays = array_bytes(&batch);
                let rows = arrow_ipc::reader::read_record_batch(
                    &body,
                    batch,
                    self.schema_with_bytes.clone(),
                    self.dictionaries.by_id(),
                    None,
                    &message.version(),
                )
                .map_err(invalid_batch)?;
                let columns = rows.columns().iter().map(|column| column.to_data());
                let columns: Vec<_> = columns.collect();
                let bytes = self.check_sizes(&columns, rows.num_rows(), bytes)?;
                self.check_views(&columns)?;
                let rows = intervals::aligned_batch(rows, columns).map_err(invalid_batch)?;
                let rows = views::with_texts(rows, &self.schema).map_err(invalid_batch)?;
                // They keep their whole message.
                let bytes = bytes
                    .max(referred)
                    .max(sent.bytes)
                    .saturating_add(arrays)
                    .saturating_add(self.dictionaries.take_new_bytes());
                Ok(Some(SentBatch {
                    rows,
                    bytes,
                    room: None,
                }))
            }
            MessageHeader::DictionaryBatch => {
                self.read_dictionary(&message, body, sent.bytes)?;
                Ok(None)
            }
            MessageHeader::Schema => Err(malformed("a put has one schema, at its start")),
            other => {
                let name = other.variant_name().unwrap_or("unknown");
                Err(malformed(format!(
                    "a message of kind {name} does not belong in a put"
                )))
            }
        }
    }

    /// Keeps the values of a dictionary, in place of those it had or behind them.
    fn read_dictionary(
        &mut self,
        message: &Message<'_>,
        body: Buffer,
        sent_bytes: usize,
    ) -> Result<()> {
        let dictionary = message
            .header_as_dictionary_batch()
            .ok_or_else(|| empty("dictionary"))?;
        let data = dictionary.data().ok_or_else(|| empty("dictionary"))?;
        let bytes = self.expanded_bytes(&data, &body)?;
        let version = message.version();
        // Only its own bytes count for as long as it stays.
        let body = match body.len() < sent_bytes / 2 {
            true => Buffer::from(body.as_slice()),
            false => body,
        };
        self.dictionaries
            .read(dictionary, &body, bytes, &self.schema_with_bytes, version)
    }

    /// Refuses batches whose views show far more than their message: each view is looked at, also those that no row shows.
    fn check_views(&self, columns: &[ArrayData]) -> Result<()> {
        let shown = views::shown_bytes(columns);
        if shown > self.max_expanded_bytes {
            return Err(malformed(format!(
                "the views of the batch show {shown} bytes (limit {}); send smaller batches",
                self.max_expanded_bytes
            )));
        }
        Ok(())
    }

    /// The bytes a batch takes in memory. Refuses compressed buffers that claim, or hold, more than is allowed.
    fn expanded_bytes(&self, batch: &arrow_ipc::RecordBatch<'_>, body: &Buffer) -> Result<usize> {
        let Some(compression) = batch.compression() else {
            return Ok(body.len());
        };
        let mut total = body.len();
        for buffer in batch.buffers().iter().flatten() {
            let Some((claim, compressed)) = claim(buffer, body)? else {
                continue;
            };
            total = total.saturating_add(claim);
            if total > self.max_expanded_bytes {
                return Err(malformed(format!(
                    "the batch would take {total} bytes once decompressed (limit {}); send smaller batches",
                    self.max_expanded_bytes
                )));
            }
            if compression.codec() == CompressionType::LZ4_FRAME && claim > 0 {
                check_lz4(compressed, claim)?;
            }
        }
        Ok(total)
    }

    /// The bytes that the buffers of a batch have in its message, each as often as it is referred to: columns that share
    /// one are apart once they are copied.
    fn referred_bytes(&self, batch: &arrow_ipc::RecordBatch<'_>) -> Result<usize> {
        let buffers = batch.buffers();
        let lengths = buffers.iter().flatten().map(|buffer| buffer.length());
        let lengths = lengths.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        let referred = lengths.fold(0, usize::saturating_add);
        if referred > self.max_expanded_bytes {
            return Err(malformed(format!(
                "the batch would take {referred} bytes once each column has its own (limit {}); send smaller batches",
                self.max_expanded_bytes
            )));
        }
        Ok(referred)
    }

    /// Refuses batches that would grow far beyond their message once they are copied: more values than bytes,
    /// or the same bytes referred to many times. Answers with what the batch weighs.
    fn check_sizes(&self, columns: &[ArrayData], rows: usize, bytes: usize) -> Result<usize> {
        let limit = (bytes + self.dictionaries.bytes())
            .saturating_mul(8)
            .saturating_add(FREE_VALUES);
        let longest = columns.iter().map(size::longest).max();
        let longest = longest.unwrap_or(0).max(rows);
        // A dictionary's values are its own, in however many columns.
        let length = |column: &ArrayData| match column.data_type() {
            DataType::Dictionary(..) => column.len(),
            _ => size::longest(column),
        };
        let all = columns.iter().map(length).fold(0, usize::saturating_add);
        if longest > limit || all > limit.saturating_add(FREE_VALUES_OF_ALL) {
            return Err(malformed(format!(
                "the batch claims {} values in a message of {bytes} bytes; send smaller batches",
                longest.max(all)
            )));
        }
        let spelled_out = columns
            .iter()
            .map(size::spelled_out_bytes)
            .fold(0, usize::saturating_add);
        if spelled_out > self.max_expanded_bytes {
            return Err(malformed(format!(
                "the batch would take {spelled_out} bytes once its views and dictionaries are spelled out \
                 (limit {}); send smaller batches",
                self.max_expanded_bytes
            )));
        }
        Ok(bytes.max(spelled_out))
    }
}

/// What the arrays of a batch take besides their values.
fn array_bytes(batch: &arrow_ipc::RecordBatch<'_>) -> usize {
    let nodes = batch.nodes().map_or(0, |nodes| nodes.len());
    let buffers = batch.buffers().map_or(0, |buffers| buffers.len());
    (nodes + buffers) * ARRAY_BYTES
}

/// Arrow's reader reads an LZ4 frame to its end, whatever length was claimed; so the length is checked before.
fn check_lz4(compressed: &[u8], claim: usize) -> Result<()> {
    use std::io::Read;
    let mut frame = lz4_flex::frame::FrameDecoder::new(compressed).take(claim as u64 + 1);
    let held = std::io::copy(&mut frame, &mut std::io::sink())
        .map_err(|error| malformed(format!("a compressed buffer is not valid LZ4: {error}")))?;
    if held == claim as u64 {
        return Ok(());
    }
    Err(malformed(
        "a compressed buffer does not hold as many bytes as it claims",
    ))
}

pub(super) fn invalid_batch(error: arrow::error::ArrowError) -> Error {
    malformed(format!(
        "the batch is not valid Arrow IPC for the put's schema: {error}"
    ))
}

pub(super) fn empty(kind: &str) -> Error {
    malformed(format!("a message calls itself a {kind} and holds none"))
}

pub(super) fn malformed(message: impl Into<String>) -> Error {
    Error::Malformed(message.into())
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use arrow::datatypes::{Field, Fields};
    use arrow_ipc::writer::{
        CompressionContext, DictionaryTracker, IpcDataGenerator, IpcWriteOptions,
    };
    use arrow_ipc::{MessageArgs, SchemaArgs};
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
            let schema = decode_schema(&header_of(version, endianness));
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
