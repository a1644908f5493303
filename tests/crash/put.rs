//! An open put: the test decides when batches are sent and when it ends. The batches carry sequences.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::{FlightData, FlightDescriptor};
use bytes::Bytes;
use duck_flight_protocol::{Ack, BatchMetadata, PutOptions, Resume};
use duck_tests::{Answer, Client, messages};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;
use tonic::Status;

/// An open put. Sending never waits: how much is on its way is the loader's to bound.
pub(crate) struct Put {
    messages: Option<mpsc::UnboundedSender<FlightData>>,
    answers: BoxStream<'static, Answer<Bytes>>,
}

impl Put {
    /// Opens a put; its schema is the first message. It reaches the server when the first answer is waited for.
    pub(crate) fn open(client: &Client, options: &PutOptions, schema: &SchemaRef) -> Self {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        for message in messages(options.descriptor(), schema, &[], None) {
            sender.send(message).ok();
        }
        let sent = stream::poll_fn(move |context| receiver.poll_recv(context));
        let mut client = client.clone();
        let call = async move { Ok::<_, Status>(client.raw().do_put(sent).await?.into_inner()) };
        let answers = stream::once(call).try_flatten();
        Self {
            messages: Some(sender),
            answers: answers.map_ok(|result| result.app_metadata).boxed(),
        }
    }

    /// Sends a batch. One that the server has no more use for is dropped; the acks say why.
    pub(crate) fn send(&self, batch: &RecordBatch, sequence: Option<u64>) {
        let none = FlightDescriptor::default();
        let mut both = messages(none, &batch.schema(), std::slice::from_ref(batch), None);
        assert_eq!(both.len(), 2, "schema and batch");
        let mut message = both.swap_remove(1);
        if sequence.is_some() {
            message.app_metadata = BatchMetadata { sequence }.to_json().into();
        }
        let open = self.messages.as_ref().expect("sent before the end");
        open.send(message).ok();
    }

    /// Says that everything was sent.
    pub(crate) fn end(&mut self) {
        self.messages = None;
    }

    /// Waits for the first answer of a put with a producer whose batches are units: where the producer was.
    pub(crate) async fn resume(&mut self) -> Answer<u64> {
        let Some(json) = self.answers.try_next().await? else {
            return Err(Status::unknown("the put ended before it was answered"));
        };
        let resume = Resume::from_json(&json).map_err(|error| wrong(&error, &json))?;
        Ok(resume.resume_after)
    }

    /// Waits for the next ack; `None` is the end of a put that succeeded.
    pub(crate) async fn ack(&mut self) -> Answer<Option<Ack>> {
        match self.answers.try_next().await? {
            None => Ok(None),
            Some(json) => Ack::from_json(&json)
                .map(Some)
                .map_err(|error| wrong(&error, &json)),
        }
    }
}

fn wrong(error: &dyn std::error::Error, json: &[u8]) -> Status {
    // A code no loader tries again after.
    Status::data_loss(format!("{error}: {}", String::from_utf8_lossy(json)))
}
