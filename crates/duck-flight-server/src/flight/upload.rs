//! A put as its client sends it: the first message, with its descriptor and schema, and the record batches behind it.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::{FlightData, FlightDescriptor};
use bytes::Bytes;
use prost::Message as _;

use super::decode::{Decoder, MAX_EXPANSION, claimed_bytes, guarded, malformed};
use super::messages::{Messages, PutMessage};
use super::parse;
use crate::drain::Stage;
use crate::engine::{HeldBytes, Parameters, SentBatch};
use crate::error::{Error, Result};
use crate::intake::Standing;
use crate::unpacking::Unpacking;

/// An open put may keep this many bytes of its first message uncounted: HTTP/2 keeps more for each stream.
const LITTLE: usize = 64 << 10;

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
        let schema = guarded(|| parse::schema(&self.first.data_header))?;
        let kept = parse::schema_bytes(&schema).saturating_add(self.descriptor_bytes);
        if kept > LITTLE {
            held.grow(kept)?;
        }
        Ok(PutStream {
            messages: self.messages,
            unpacking: self.unpacking,
            decoder: Decoder::new(schema, max_expanded_bytes, held),
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

/// The record batches of a put.
pub(super) struct PutStream {
    messages: Messages,
    unpacking: Unpacking,
    decoder: Decoder,
}

impl PutStream {
    /// The schema of every batch.
    pub(super) fn schema(&self) -> &SchemaRef {
        self.decoder.schema()
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
