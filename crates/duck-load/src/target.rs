//! What a writer sends its batches to: a Flight server, or in tests a fake of known latencies.

mod encoder;
#[cfg(test)]
pub(crate) mod fake;
mod flight;

use std::future::Future;

use arrow::error::ArrowError;
use arrow_flight::error::FlightError;
use duck_flight_protocol::{Ack, error_message};
use tonic::{Code, ConnectError, Status};

pub use flight::FlightTarget;

use crate::Batch;

/// What a writer sends its batches to. Answers come in the order in which the batches were sent.
pub trait Target: Send + 'static {
    /// Makes ready to send as a producer, and answers with the last of its sequences that is durable; 0 when
    /// there is none. To be called before the first batch, and again after a failure or a `reset`; never for a writer that is
    /// not a producer. It may be dropped and called again.
    ///
    /// # Errors
    /// When the server cannot be asked, or does not let this producer send.
    fn locate(&mut self) -> impl Future<Output = Result<u64, Failure>> + Send;

    /// The last of the producer's sequences that is durable, as [`Target::locate`] answers it, but for a producer that is not
    /// to send: nothing is made ready, which would fence another process.
    ///
    /// # Errors
    /// When the server cannot be asked.
    fn last_durable(&mut self) -> impl Future<Output = Result<u64, Failure>> + Send;

    /// Whether the table has rows of one of these batches, by their ids. To be called after [`Target::locate`] or
    /// [`Target::last_durable`]; a `reset` follows where it is dropped, or the end.
    ///
    /// # Errors
    /// When the table cannot be asked. The producer must be located again.
    fn holds(&mut self, ids: [i64; 2]) -> impl Future<Output = Result<bool, Failure>> + Send;

    /// Whether there is a table. To be called after [`Target::locate`], where the producer has loaded batches into it; a `reset`
    /// follows where it is dropped.
    ///
    /// # Errors
    /// As those of [`Target::holds`].
    fn has_table(&mut self) -> impl Future<Output = Result<bool, Failure>> + Send;

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
    /// Nothing of it was committed, for a later put of the same producer has taken the place of this one. Sending it again
    /// takes it back.
    Fenced,
}

/// Why batches have no ack.
///
/// The rule by which outcomes are told:
/// - There was no connection to send on: everything without an answer is [`Outcome::Retriable`].
/// - The server itself answered with a status. It is the answer to the oldest batch without one:
///   `RESOURCE_EXHAUSTED`, `ABORTED` and an `UNAVAILABLE` in the server's own words promise that nothing of it was
///   committed and are retriable; `INVALID_ARGUMENT` and the other codes by which a server turns a request down are
///   refused, and so is a batch that is larger than a message may be; `INTERNAL`, `UNKNOWN`, `CANCELLED`,
///   `DEADLINE_EXCEEDED` and `DATA_LOSS` promise nothing, hence unknown.
///   It commits the batches of a put in their order, and none behind one that it turned down: where nothing of the oldest was
///   committed, nothing of those behind it was, and they are retriable. Otherwise they are unknown, too.
/// - An `ABORTED` by which the server says that this producer was fenced is [`Outcome::Fenced`] for everything without
///   an answer.
/// - An `INTERNAL` that the server itself answered is a [fault](Failure::fault) of its own, which may meet the same batch each
///   time. Those of a connection are none: tonic gives that code to streams that were reset, too.
/// - Everything else (a connection that broke, a proxy's answer, a stream that ended without acks, no answer
///   in time) leaves everything without an answer unknown, whatever code the client's library gives to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What it says about the oldest batch without an answer.
    pub oldest: Outcome,
    /// What it says about the batches sent after it.
    pub later: Outcome,
    /// Whether the server answered the oldest one with an error of its own, such as a panic: sending it again may meet the
    /// same each time.
    pub fault: bool,
    /// What went wrong, for people.
    pub message: String,
}

impl Failure {
    /// A failure that says the same about all batches without an answer.
    pub fn of_all(outcome: Outcome, message: impl Into<String>) -> Self {
        Self {
            oldest: outcome,
            later: outcome,
            fault: false,
            message: message.into(),
        }
    }

    /// A failure that answers the oldest batch. Those behind it were not looked at where it was turned down.
    pub(crate) fn of_oldest(oldest: Outcome, message: impl Into<String>) -> Self {
        let later = match oldest {
            Outcome::Retriable | Outcome::Refused => Outcome::Retriable,
            Outcome::Unknown | Outcome::Fenced => oldest,
        };
        Self {
            oldest,
            later,
            fault: false,
            message: message.into(),
        }
    }

    /// What the error of a call to `server` says.
    pub(crate) fn of_call(error: impl Into<FlightError>, server: &str) -> Self {
        let error = error.into();
        let message = error_message(&error, server);
        let FlightError::Tonic(status) = error else {
            return Self::of_all(Outcome::Unknown, message);
        };
        if never_sent(&status) {
            return Self::of_all(Outcome::Retriable, no_connection(&status, server));
        }
        // tonic gives a source to what its transport reports, and none to what a server answered.
        let made_here = std::error::Error::source(&*status).is_some();
        if made_here || status.message().starts_with(FROM_HTTP_STATUS) {
            return Self::of_all(Outcome::Unknown, message);
        }
        if status.code() == Code::Aborted && status.message().starts_with(FENCED) {
            return Self::of_all(Outcome::Fenced, message);
        }
        Self {
            fault: is_fault(&status),
            ..Self::of_oldest(answered(&status), message)
        }
    }
}

/// How tonic begins the message of a status that it made of an HTTP answer without a gRPC status.
const FROM_HTTP_STATUS: &str = "grpc-status header missing";

/// How tonic, and the last of them grpc-go, begins the message of an `INTERNAL` that it made of a stream that was cut off or damaged
/// on its way: here, which it gives no source, or where a server or a proxy answered with what it met itself.
const FROM_STREAM: [&str; 5] = [
    "Unexpected EOF decoding stream",
    "Error decompressing: ",
    "protocol error: ",
    "h2 protocol error: ",
    "stream terminated by RST_STREAM",
];

/// How the generated client begins the message of a status that it made before it sent anything.
const NOT_READY: &str = "Service was not ready";

/// How the server begins what it says to a producer's stream when a later stream of the same producer has taken its place.
/// Other conflicts name tables, which may be called anything.
const FENCED: &str = "fenced: ";

/// What the server says, by one or the other, with every `UNAVAILABLE` of its own. A proxy gives that code too, where the
/// connection behind it broke and the batch may have been committed.
const GOING_DOWN: [&str; 2] = ["shutting down", "previous fatal error"];

/// What the server says when a message is larger than it takes.
const TOO_LARGE: &str = "--max-message-size";

impl From<ArrowError> for Failure {
    fn from(error: ArrowError) -> Self {
        let message = format!("cannot encode the batch: {error}");
        Self::of_all(Outcome::Refused, message)
    }
}

/// What a status that the server itself gave says about the batch it answers.
fn answered(status: &Status) -> Outcome {
    let says = |words: &str| status.message().contains(words);
    match status.code() {
        Code::Unavailable if !GOING_DOWN.into_iter().any(says) => Outcome::Unknown,
        Code::ResourceExhausted if says(TOO_LARGE) => Outcome::Refused,
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

/// Whether a status that the server itself gave tells of an error of its own.
fn is_fault(status: &Status) -> bool {
    let is_of_stream = |begin: &str| status.message().starts_with(begin);
    status.code() == Code::Internal && !FROM_STREAM.into_iter().any(is_of_stream)
}

/// Whether the call failed before there was a connection to send it on.
fn never_sent(status: &Status) -> bool {
    causes(status).any(|cause| cause.is::<ConnectError>())
        || status.message().starts_with(NOT_READY)
}

/// What to say of a call that had no connection, in the words for a first connection.
fn no_connection(status: &Status, server: &str) -> String {
    let root = causes(status).last();
    let refused = duck_flight_protocol::ConnectError::Refused {
        server: server.to_owned(),
        reason: root.map_or_else(|| status.message().to_owned(), ToString::to_string),
    };
    refused.to_string()
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(status), |error| error.source())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    const SERVER: &str = "localhost:50051";

    fn outcomes(status: Status) -> (Outcome, Outcome) {
        let failure = Failure::of_call(status, SERVER);
        (failure.oldest, failure.later)
    }

    #[test]
    fn what_the_server_turned_down_for_now_may_be_sent_again() {
        for status in [
            Status::unavailable("the server is shutting down; try again once it is back"),
            Status::resource_exhausted("the queue is full"),
            Status::aborted("a conflict with another transaction"),
            Status::aborted("Catalog write-write conflict on alter with \"fenced: areas\""),
        ] {
            let found = outcomes(status.clone());
            assert_eq!(found, (Outcome::Retriable, Outcome::Retriable), "{status}");
        }
    }

    #[test]
    fn a_batch_that_is_too_large_for_a_message_is_not_sent_again() {
        let status = Status::resource_exhausted(
            "40 MB, the limit is 16 MB: send it in smaller parts, or have the server's --max-message-size raised",
        );
        assert_eq!(outcomes(status), (Outcome::Refused, Outcome::Retriable));
    }

    #[test]
    fn what_the_server_refused_is_not_sent_again_but_what_is_behind_it() {
        for code in [Code::InvalidArgument, Code::NotFound, Code::OutOfRange] {
            let found = outcomes(Status::new(code, "no such column"));
            assert_eq!(found, (Outcome::Refused, Outcome::Retriable), "{code}");
        }
    }

    #[test]
    fn being_fenced_counts_for_all_batches() {
        let status = Status::aborted(
            "fenced: another put of producer `p` into this table was opened after this one, so this one commits nothing more",
        );
        assert_eq!(outcomes(status), (Outcome::Fenced, Outcome::Fenced));
    }

    #[test]
    fn codes_that_promise_nothing_leave_the_batch_unknown() {
        for code in [Code::Internal, Code::Unknown, Code::Cancelled] {
            let found = outcomes(Status::new(code, "oops"));
            assert_eq!(found, (Outcome::Unknown, Outcome::Unknown), "{code}");
        }
    }

    #[test]
    fn a_fault_of_the_server_is_told_from_those_of_the_transport() {
        let is_fault = |status: Status| Failure::of_call(status, SERVER).fault;
        assert!(is_fault(Status::internal("the server failed")));
        let mut reset = Status::internal("h2 protocol error: http2 error");
        reset.set_source(std::sync::Arc::new(io::Error::other("stream reset")));
        assert!(!is_fault(reset));
        for message in [
            "Unexpected EOF decoding stream.",
            "protocol error: received message with compressed-flag but no grpc-encoding was specified",
            "h2 protocol error: error reading a body from connection",
            "Error decompressing: deflate decompression error, while decompressing",
            "stream terminated by RST_STREAM with error code: INTERNAL_ERROR",
            "grpc-status header missing, mapped from HTTP status code 400",
        ] {
            assert!(!is_fault(Status::internal(message)), "{message}");
        }
        for code in [Code::Unknown, Code::Unavailable, Code::InvalidArgument] {
            assert!(!is_fault(Status::new(code, "oops")), "{code}");
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
        for message in [
            "grpc-status header missing, mapped from HTTP status code 503",
            "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
        ] {
            let found = outcomes(Status::unavailable(message));
            assert_eq!(found, (Outcome::Unknown, Outcome::Unknown), "{message}");
        }
    }

    #[test]
    fn without_a_connection_everything_may_be_sent_again() {
        let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused");
        let status = Status::from_error(Box::new(ConnectError(refused.into())));
        assert_eq!(outcomes(status), (Outcome::Retriable, Outcome::Retriable));
    }

    #[test]
    fn a_failure_of_the_connection_names_the_server_and_its_cause() {
        let mut broken = Status::unavailable("transport error");
        broken.set_source(std::sync::Arc::new(io::Error::other("broken pipe")));
        let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused");
        let refused = Status::from_error(Box::new(ConnectError(refused.into())));
        for (status, begin, end) in [
            (
                broken,
                "the connection to localhost:50051 broke",
                "broken pipe",
            ),
            (
                refused,
                "no server answers at localhost:50051",
                "connection refused",
            ),
        ] {
            let message = Failure::of_call(status, SERVER).message;
            assert!(
                message.starts_with(begin) && message.ends_with(end),
                "{message}"
            );
        }
    }
}
