//! The stages of a put and of a get, each by itself, for the benchmark of the hot paths: what it costs without network and client.
//! Clients come by the [front door](super).

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use duck_flight_protocol::PutOptions;
use futures::{TryStreamExt, stream};
use tonic::Request;
use tonic::body::Body;

use super::columns::with_types;
use super::decode::MAX_EXPANSION;
use super::get::encode;
use super::messages::{Messages, RequestBytes};
use super::upload::Upload;
use crate::drain::Drain;
use crate::engine::{Engine, Place, SentBatch};
use crate::error::{Error, Result};
use crate::intake::Standing;
use crate::unpacking::Unpacking;

/// What a put and a get are made of.
#[doc(hidden)]
pub struct Stages {
    engine: Engine,
    unpacking: Unpacking,
    max_message_bytes: usize,
}

/// A put, decoded and checked.
#[doc(hidden)]
pub struct Decoded {
    options: PutOptions,
    schema: SchemaRef,
    batches: Vec<SentBatch>,
}

/// A result in memory.
#[doc(hidden)]
#[derive(Clone)]
pub struct Fetched {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

impl Stages {
    /// Those of a server whose messages have this many bytes at most.
    pub fn new(engine: Engine, max_message_bytes: usize) -> Self {
        Self {
            engine,
            unpacking: Unpacking::new(max_message_bytes.saturating_mul(MAX_EXPANSION)),
            max_message_bytes,
        }
    }

    /// Gathers the messages of a put's request, decodes them, and checks every buffer.
    ///
    /// # Errors
    /// When they are not those of a put.
    pub async fn decode(&self, request: Body) -> Result<Decoded> {
        let mut call = Request::new(());
        call.extensions_mut().insert(RequestBytes::new(request));
        let (_, drain) = Drain::new();
        let messages = Messages::of(call, self.max_message_bytes, &drain);
        let (descriptor, upload) = Upload::open(messages, &self.unpacking).await?;
        let options = PutOptions::from_descriptor(&descriptor)?;
        let mut rows = upload.rows(self.engine.hold_bytes(0)?)?;
        let mut batches = Vec::new();
        while let Some((batch, _)) = rows.next(Standing::Idle).await? {
            batches.push(batch);
        }
        Ok(Decoded {
            options,
            schema: rows.schema().clone(),
            batches,
        })
    }

    /// Casts the rows to the table's types and commits them as one unit; answers how many there are.
    ///
    /// # Errors
    /// When they are refused.
    pub async fn append(&self, decoded: Decoded) -> Result<u64> {
        let mut put = self.engine.put(&decoded.options, decoded.schema).await?;
        let mut unit = put.unit(None).await?;
        for batch in decoded.batches {
            unit.push(batch).await?;
        }
        Ok(unit.commit().await?.done().await?.rows)
    }

    /// Runs a statement, and gathers its result.
    ///
    /// # Errors
    /// When it fails.
    pub async fn fetch(&self, sql: &str) -> Result<Fetched> {
        let result = self.engine.query(&Place::Any, sql.to_owned()).await?;
        Ok(Fetched {
            schema: with_types(result.schema(), result.type_names()),
            batches: result.try_collect().await?,
        })
    }

    /// Cuts and encodes a result to its messages; answers how many bytes their headers and bodies have.
    ///
    /// # Errors
    /// When its types have no encoding.
    pub async fn encode(fetched: Fetched) -> Result<usize> {
        let batches = stream::iter(fetched.batches.into_iter().map(Ok));
        let messages = encode(fetched.schema, batches).map_err(|status| {
            let message = status.message().to_owned();
            Error::Transport(status.code(), message)
        });
        messages
            .try_fold(0, async |bytes, message| {
                Ok(bytes + message.data_header.len() + message.data_body.len())
            })
            .await
    }
}
