//! Batches as the messages of a put.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::writer::{
    CompressionContext, DictionaryTracker, IpcDataGenerator, IpcWriteOptions,
};
use arrow_flight::{FlightData, FlightDescriptor, SchemaAsIpc};

use crate::batch;

/// Turns batches into messages. A batch that fails to encode fails by itself, before any part of it is sent.
pub(super) struct Encoder {
    /// The first message of every put: its descriptor and its schema.
    pub(super) schema: FlightData,
    generator: IpcDataGenerator,
    dictionaries: DictionaryTracker,
    options: IpcWriteOptions,
    compression: CompressionContext,
}

impl Encoder {
    pub(super) fn new(descriptor: FlightDescriptor) -> Self {
        let options = IpcWriteOptions::default();
        let schema = FlightData::from(SchemaAsIpc::new(&batch::schema(), &options));
        Self {
            schema: schema.with_descriptor(descriptor),
            generator: IpcDataGenerator::default(),
            dictionaries: DictionaryTracker::new(false),
            options,
            compression: CompressionContext::default(),
        }
    }

    pub(super) fn encode(&mut self, rows: &RecordBatch) -> Result<FlightData, ArrowError> {
        let (_, message) = self.generator.encode(
            rows,
            &mut self.dictionaries,
            &self.options,
            &mut self.compression,
        )?;
        Ok(message.into())
    }
}
