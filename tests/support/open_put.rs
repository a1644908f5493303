//! A put whose messages are sent one by one.

use std::pin::Pin;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow_flight::{FlightData, FlightDescriptor, PutResult};
use duck_flight_protocol::{Ack, BatchMetadata, Resume};
use futures::{Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tonic::Streaming;

use crate::client::Answer;
use crate::{messages, soon};

/// More than client and server hold of a stream that nobody reads: its window of 1 MiB, and about as much in the buffers of
/// each side.
const UNREAD_BYTES: usize = 6 << 20;

/// The client holds so many messages more: one that is being sent, and the next.
const UNSENT_MESSAGES: usize = 2;

pub(crate) fn ack(result: PutResult) -> Ack {
    Ack::from_json(&result.app_metadata).expect("an ack is JSON")
}

/// Messages that are sent one by one, up to the one that says the end. Without it the stream stays open for good, so
/// that a put ends cleanly only where the test says so.
pub(crate) struct Upload {
    messages: mpsc::Receiver<Option<FlightData>>,
    /// Tells that it has been asked for its first message.
    begun: Option<oneshot::Sender<()>>,
}

impl Stream for Upload {
    type Item = FlightData;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<FlightData>> {
        if let Some(begun) = self.begun.take() {
            begun.send(()).ok();
        }
        match self.messages.poll_recv(context) {
            Poll::Ready(None) => Poll::Pending,
            other => other.map(Option::flatten),
        }
    }
}

/// A put in the middle of which anything may happen. Dropped, it stays open as long as its connection.
#[derive(Debug)]
pub struct OpenPut {
    messages: mpsc::Sender<Option<FlightData>>,
    state: State,
}

#[derive(Debug)]
enum State {
    Calling(JoinHandle<Answer<Streaming<PutResult>>>),
    Answered(Box<Streaming<PutResult>>),
    Over,
}

impl OpenPut {
    /// Makes a call with the messages that are going to be sent, and waits until it is on its way.
    pub(crate) async fn calling<C>(call: impl FnOnce(Upload) -> C) -> Self
    where
        C: Future<Output = Answer<Streaming<PutResult>>> + Send + 'static,
    {
        let (sender, messages) = mpsc::channel(1);
        let (begun, has_begun) = oneshot::channel();
        let begun = Some(begun);
        let call = tokio::spawn(call(Upload { messages, begun }));
        // HTTP/2 asks for messages once the call's head stands in the connection's queue. One that fails never asks.
        soon("a call", has_begun).await.ok();
        Self {
            messages: sender,
            state: State::Calling(call),
        }
    }

    /// Sends a message, and waits until HTTP/2 has taken it: for as long as the server takes none. One that the server has no
    /// more use for is dropped; the acks say why.
    pub async fn send(&self, message: FlightData) {
        if self.messages.send(Some(message)).await.is_ok() {
            // There is room for the next one then.
            self.messages.reserve().await.ok();
        }
    }

    /// Sends a batch.
    ///
    /// # Panics
    /// When it has dictionaries.
    pub async fn send_batch(&self, batch: &RecordBatch) {
        self.send(batch_message(batch)).await;
    }

    /// Sends a batch with its sequence.
    ///
    /// # Panics
    /// When it has dictionaries.
    pub async fn send_sequenced(&self, batch: &RecordBatch, sequence: u64) {
        let sequence = Some(sequence);
        let metadata = BatchMetadata { sequence }.to_json();
        self.send(batch_message(batch).with_app_metadata(metadata))
            .await;
    }

    /// Sends a batch again and again, until the server must have begun to read them; answers how often. A server reads them once
    /// it has done all that it does before, such as to look for the statement that they are values of.
    ///
    /// # Panics
    /// When it does not begin, or the batch has dictionaries.
    pub async fn fill(&self, batch: &RecordBatch) -> usize {
        let times = UNREAD_BYTES.div_ceil(batch.get_array_memory_size()) + UNSENT_MESSAGES;
        for _ in 0..times {
            soon("a batch taken", self.send_batch(batch)).await;
        }
        times
    }

    /// Says that everything was sent.
    pub async fn end(&self) {
        self.messages.send(None).await.ok();
    }

    /// Waits for the next ack; `None` is the end of a put that succeeded.
    ///
    /// # Panics
    /// When the client itself fails.
    pub async fn ack(&mut self) -> Option<Answer<Ack>> {
        self.result().await.map(|result| result.map(ack))
    }

    /// Waits for the first answer to a producer's put of batches: the sequence to go on after. The put is then
    /// open, and those of the same producer before it are fenced.
    ///
    /// # Errors
    /// What the server says.
    ///
    /// # Panics
    /// When the answer is another one, or there is none.
    pub async fn resume_after(&mut self) -> Answer<u64> {
        let result = soon("where to go on", self.result()).await;
        let result = result.expect("an answer")?;
        let resume = Resume::from_json(&result.app_metadata).expect("where to go on");
        Ok(resume.resume_after)
    }

    /// Waits for the next answer as it comes; `None` is the end.
    ///
    /// # Panics
    /// When the client itself fails.
    pub async fn result(&mut self) -> Option<Answer<PutResult>> {
        if let State::Calling(call) = &mut self.state {
            match call.await.expect("the call does not panic") {
                Ok(acks) => self.state = State::Answered(Box::new(acks)),
                Err(error) => {
                    self.state = State::Over;
                    return Some(Err(error));
                }
            }
        }
        let State::Answered(acks) = &mut self.state else {
            return None;
        };
        acks.next().await
    }

    /// Ends the put and answers with the acks that are left.
    ///
    /// # Errors
    /// What the server says.
    pub async fn finish(mut self) -> Answer<Vec<Ack>> {
        self.end().await;
        let mut acks = Vec::new();
        while let Some(ack) = soon("an ack", self.ack()).await {
            acks.push(ack?);
        }
        Ok(acks)
    }

    /// Cancels the put: its stream is reset, as any gRPC client does that cancels a call or gives up on it.
    pub async fn cancel(self) {
        if let State::Calling(call) = self.state {
            call.abort();
            call.await.ok();
        }
    }
}

/// The message of a batch.
fn batch_message(batch: &RecordBatch) -> FlightData {
    let none = FlightDescriptor::default();
    let mut messages = messages(none, &batch.schema(), std::slice::from_ref(batch), None);
    assert_eq!(messages.len(), 2, "schema and batch");
    messages.swap_remove(1)
}
