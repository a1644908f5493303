//! What a writer sends its batches to: a Flight server, or in tests a fake of known latencies.

mod encoder;
#[cfg(test)]
pub(crate) mod fake;
mod flight;

use std::future::Future;

use arrow::error::ArrowError;
use arrow_flight::error::FlightError;
use duck_flight_protocol::{Ack, silence};
use tonic::{Code, ConnectError, Status};

pub use flight::FlightTarget;

use crate::Batch;

/// What a writer sends its batches to. Answers come in the order in which the batches were sent.
pub trait Target: Send + 'static {
    /// Makes ready to send as a producer, and answers with the last of its sequences that is durable; 0 when
    /// there is none. To be called before the first batch, and again after a failure; never for a writer that is
    /// not a producer. It may be dropped and called again.
    ///
    /// # Errors
    /// When the server cannot be asked, or does not let this producer send.
    fn locate(&mut self) -> impl Future<Output = Result<u64, Failure>> + Send;

    /// Starts to send a batch, and does not wait for its answer.
    ///
    /// # Errors
    /// When the batch cannot be sent at all, or not before a producer is located again. This says nothing about batches sent
    /// before.
    fn send(&mut self, batch: &Batch) -> Result<(), Failure>;

    /// Waits for the answer to the oldest batch that has none. It may be dropped and called again without
    /// losing an answer; it must not be called when every batch has its answer.
    ///
    /// # Errors
    /// When the answer is a failure. The target has then forgotten all batches without an answer, and a
    /// `send` starts afresh.
    fn answer(&mut self) -> impl Future<Output = Result<Ack, Failure>> + Send;

    /// Forgets all batches without an answer; a `send` starts afresh.
    fn reset(&mut self);

    /// Says that there are no more batches, and waits for the target to agree.
    ///
    /// # Errors
    /// When it does not. Every ack given before stays valid.
    fn close(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// What a failure says about a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing of it was committed, and sending it again may help.
    Retriable,
    /// Nothing of it was committed, and sending it again does not help.
    Refused,
    /// It may have been committed or not. Sending it again might store its rows twice, unless a producer does so
    /// under the same sequence.
    Unknown,
}

/// Why batches have no ack.
///
/// The rule by which outcomes are told:
/// - There was no connection to send on: everything without an answer is [`Outcome::Retriable`].
/// - The server itself answered with a status. It is the answer to the oldest batch without one:
///   `UNAVAILABLE`, `RESOURCE_EXHAUSTED` and `ABORTED` promise that nothing of it was committed and are
///   retriable; `INVALID_ARGUMENT` and the other codes by which a server turns a request down are refused;
///   `INTERNAL`, `UNKNOWN`, `CANCELLED`, `DEADLINE_EXCEEDED` and `DATA_LOSS` promise nothing, hence unknown.
///   Batches behind the oldest were on their way and may share a commit with other loaders': unknown.
/// - An `ABORTED` by which the server says that this producer was fenced refuses everything without an answer:
///   another process took over, and trying again would only take it back.
/// - Everything else (a connection that broke, a proxy's answer, a stream that ended without acks, no answer
///   in time) leaves everything without an answer unknown, whatever code the client's library gives to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What it says about the oldest batch without an answer.
    pub oldest: Outcome,
    /// What it says about the batches sent after it.
    pub later: Outcome,
    /// What went wrong, for people.
    pub message: String,
}

impl Failure {
    /// A failure that says the same about all batches without an answer.
    pub fn of_all(outcome: Outcome, message: impl Into<String>) -> Self {
        Self {
            oldest: outcome,
            later: outcome,
            message: message.into(),
        }
    }
}

/// How tonic begins the message of a status that it made of an HTTP answer without a gRPC status.
const FROM_HTTP_STATUS: &str = "grpc-status header missing";

/// How the generated client begins the message of a status that it made before it sent anything.
const NOT_READY: &str = "Service was not ready";

/// What the server says to a producer's stream when a later stream of the same producer has taken its place.
const FENCED: &str = "fenced";

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let message = status_message(&status);
        if never_sent(&status) {
            return Self::of_all(Outcome::Retriable, message);
        }
        // tonic gives a source to what its transport reports, and none to what a server answered.
        let made_here = std::error::Error::source(&status).is_some();
        if made_here || status.message().starts_with(FROM_HTTP_STATUS) {
            return Self::of_all(Outcome::Unknown, message);
        }
        if status.code() == Code::Aborted && status.message().contains(FENCED) {
            let message = format!("another process sends as this producer now: {message}");
            return Self::of_all(Outcome::Refused, message);
        }
        Self {
            oldest: answered(status.code()),
            later: Outcome::Unknown,
            message,
        }
    }
}

impl From<FlightError> for Failure {
    fn from(error: FlightError) -> Self {
        match error {
            FlightError::Tonic(status) => (*status).into(),
            other => Self::of_all(Outcome::Unknown, other.to_string()),
        }
    }
}

impl From<ArrowError> for Failure {
    fn from(error: ArrowError) -> Self {
        let message = format!("cannot encode the batch: {error}");
        Self::of_all(Outcome::Refused, message)
    }
}

/// What a code that the server itself gave says about the batch it answers.
fn answered(code: Code) -> Outcome {
    match code {
        Code::Unavailable | Code::ResourceExhausted | Code::Aborted => Outcome::Retriable,
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented => Outcome::Refused,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Internal
        | Code::DataLoss => Outcome::Unknown,
    }
}

/// Whether the call failed before there was a connection to send it on.
fn never_sent(status: &Status) -> bool {
    causes(status).any(|cause| cause.is::<ConnectError>())
        || status.message().starts_with(NOT_READY)
}

fn status_message(status: &Status) -> String {
    if let Some(silence) = silence(status) {
        return silence.to_owned();
    }
    let mut message = match status.message() {
        "" => status.code().to_string(),
        message => message.to_owned(),
    };
    for cause in causes(status).map(ToString::to_string) {
        // Errors of the transport like to repeat their cause.
        if !message.contains(&cause) {
            message.push_str(": ");
            message.push_str(&cause);
        }
    }
    message
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(status), |error| error.source())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn outcomes(status: Status) -> (Outcome, Outcome) {
        let failure = Failure::from(status);
        (failure.oldest, failure.later)
    }

    #[test]
    fn what_the_server_turned_down_for_now_may_be_sent_again() {
        for code in [Code::Unavailable, Code::ResourceExhausted, Code::Aborted] {
            let found = outcomes(Status::new(code, "try later"));
            assert_eq!(found, (Outcome::Retriable, Outcome::Unknown), "{code}");
        }
    }

    #[test]
    fn what_the_server_refused_is_not_sent_again() {
        for code in [Code::InvalidArgument, Code::NotFound, Code::OutOfRange] {
            let found = outcomes(Status::new(code, "no such column"));
            assert_eq!(found, (Outcome::Refused, Outcome::Unknown), "{code}");
        }
    }

    #[test]
    fn being_fenced_is_final_for_all_batches() {
        let status = Status::aborted("producer `p` was fenced by a later stream");
        let failure = Failure::from(status);
        assert_eq!(
            (failure.oldest, failure.later),
            (Outcome::Refused, Outcome::Refused)
        );
        assert!(failure.message.starts_with("another process sends"));
    }

    #[test]
    fn codes_that_promise_nothing_leave_the_batch_unknown() {
        for code in [Code::Internal, Code::Unknown, Code::Cancelled] {
            let found = outcomes(Status::new(code, "oops"));
            assert_eq!(found, (Outcome::Unknown, Outcome::Unknown), "{code}");
        }
    }

    #[test]
    fn a_lost_connection_leaves_all_batches_unknown_whatever_its_code() {
        let broken = io::Error::new(io::ErrorKind::BrokenPipe, "broken pipe");
        let mut status = Status::unavailable("transport error");
        status.set_source(std::sync::Arc::new(broken));
        assert_eq!(outcomes(status), (Outcome::Unknown, Outcome::Unknown));
    }

    #[test]
    fn a_proxys_answer_leaves_all_batches_unknown() {
        let status =
            Status::unavailable("grpc-status header missing, mapped from HTTP status code 503");
        assert_eq!(outcomes(status), (Outcome::Unknown, Outcome::Unknown));
    }

    #[test]
    fn without_a_connection_everything_may_be_sent_again() {
        let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused");
        let status = Status::from_error(Box::new(ConnectError(refused.into())));
        assert_eq!(outcomes(status), (Outcome::Retriable, Outcome::Retriable));
    }

    #[test]
    fn a_message_names_its_causes_once() {
        let mut status = Status::unavailable("transport error");
        status.set_source(std::sync::Arc::new(io::Error::other("broken pipe")));
        assert_eq!(
            Failure::from(status).message,
            "transport error: broken pipe"
        );
    }
}
