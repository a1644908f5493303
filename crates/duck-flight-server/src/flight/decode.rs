//! The messages of a put, decoded and checked: nothing here trusts its client.
//!
//! Arrow's reader validates every buffer it builds an array from (offsets, UTF-8, dictionary keys, child
//! lengths). What it takes on trust is checked before: how often a header refers to the same bytes ([`parse`]), what it says
//! of types and [batches](headers), and here the sizes that compressed buffers claim and the numbers of values that take no
//! bytes. Where it panics, the panic ends as an error of the put.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::{Array, ArrayData};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, SchemaRef};
use arrow_flight::FlightData;
use arrow_ipc::{CompressionType, Message, MessageHeader};

use super::dictionaries::Dictionaries;
use super::messages::PutMessage;
use super::{headers, intervals, parse, size, views};
use crate::engine::{HeldBytes, SentBatch};
use crate::error::{Error, Result};

/// How much larger than the largest message a message may become when it is decompressed.
pub(super) const MAX_EXPANSION: usize = 8;

/// Values that take no bytes (nulls, runs) may outnumber the message's bits by this many.
const FREE_VALUES: usize = 1 << 20;

/// All columns together may have this many more values that take no bytes.
const FREE_VALUES_OF_ALL: usize = 16 << 20;

/// What an array takes, and each of its buffers, however few values there are.
const ARRAY_BYTES: usize = 128;

/// Reads the batches of a put.
pub(super) struct Decoder {
    schema: SchemaRef,
    /// What batches are read by.
    schema_with_bytes: SchemaRef,
    dictionaries: Dictionaries,
    max_expanded_bytes: usize,
}

/// Runs a decoder of Arrow's. Malformed bytes that make it panic are an error like any other.
pub(super) fn guarded<T>(decode: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err(malformed("the message is not valid Arrow IPC")))
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
pub(super) fn claimed_bytes(data: &FlightData) -> Result<usize> {
    if data.data_header.is_empty() {
        return Ok(0);
    }
    let message = parse::root(&data.data_header)?;
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
    /// For batches of this schema. Their dictionaries are added to what is held.
    pub(super) fn new(schema: SchemaRef, max_expanded_bytes: usize, held: HeldBytes) -> Self {
        Self {
            schema_with_bytes: views::with_bytes(&schema),
            schema,
            dictionaries: Dictionaries::new(max_expanded_bytes, held),
            max_expanded_bytes,
        }
    }

    /// The schema of every batch.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Decodes a message; `None` where it holds no rows.
    pub(super) fn decode(&mut self, sent: &PutMessage) -> Result<Option<SentBatch>> {
        let data = &sent.data;
        if data.data_header.is_empty() && data.data_body.is_empty() {
            // Metadata alone, which a plain put has no use for.
            return Ok(None);
        }
        let message = parse::root(&data.data_header)?;
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
