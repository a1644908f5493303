//! What of an error goes to a client: its gRPC code, and a message that is not too long.

use tonic::{Code, Status};

use super::{Error, in_a_line};
use crate::engine::SqlErrorKind;

impl Error {
    /// The code a client should act on.
    pub fn code(&self) -> Code {
        match self {
            Self::Sql(error) | Self::Statement { source: error, .. } => sql_code(error.kind),
            Self::Options(_)
            | Self::Malformed(_)
            | Self::NoStatement
            | Self::Columns(_)
            | Self::NoSequence(_)
            | Self::NoProducer(_)
            | Self::TooManyRejects(_)
            | Self::RejectsTooLarge(_)
            | Self::Parameter { .. }
            | Self::ParameterCount { .. }
            | Self::ParametersOfScript
            | Self::TransactionByCall
            | Self::SchemaChanged
            | Self::Value { .. } => Code::InvalidArgument,
            Self::SessionEnded => Code::Unauthenticated,
            Self::UnknownSchema(_)
            | Self::NoSession
            | Self::TransactionFailed
            | Self::TransactionExpired
            | Self::TransactionOpen
            | Self::AlterationTooLate { .. }
            | Self::AlterationBesideChanges
            | Self::RenameInTransaction
            | Self::IndexMadeAgain
            | Self::IndexBesideChanges
            | Self::IndexBesideIndex
            | Self::OpenTransaction
            | Self::DatabaseInUse { .. }
            | Self::OwnSchema(_)
            | Self::LogDamaged { .. }
            | Self::LogUnreadable(_)
            | Self::LogNotReplayed { .. }
            | Self::LogOfAnotherMoment { .. } => Code::FailedPrecondition,
            Self::Forbidden(_) => Code::PermissionDenied,
            Self::NoTable(_)
            | Self::NothingToDelete(_)
            | Self::NoTableNorKey(_)
            | Self::UnknownHandle { .. } => Code::NotFound,
            Self::TableExists(_) => Code::AlreadyExists,
            Self::PutCutShort | Self::Cancelled | Self::EarlierBatchFailed => Code::Cancelled,
            Self::Fenced(_)
            | Self::Resent(_)
            | Self::TableAltered(_)
            | Self::IndexBesideOlder
            | Self::IndexBesideWriters
            | Self::CheckpointBesideRows
            | Self::TypeBesideOlder => Code::Aborted,
            Self::Busy { .. }
            | Self::NoRoom(_)
            | Self::NoRoomForGroup
            | Self::MessageTooLarge(_)
            | Self::SessionBusy
            | Self::Stalled(_)
            | Self::TooManyHandles { .. }
            | Self::TooMuchHeld(_)
            | Self::TooManyParameters(_)
            | Self::ResultTooLarge(_) => Code::ResourceExhausted,
            Self::Io { source, .. } if is_disk_full(source) => Code::ResourceExhausted,
            Self::Unimplemented(_) => Code::Unimplemented,
            Self::ShuttingDown => Code::Unavailable,
            Self::ReasonLost | Self::Undecided(_) => Code::Unknown,
            Self::WorkerLost | Self::NeedsConnection | Self::Io { .. } => Code::Internal,
            Self::Transport(code, _) | Self::Again(code, _) => *code,
        }
    }
}

/// Whether it is for want of disk that something could not be written, as DuckDB's own errors tell it.
fn is_disk_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

pub(super) fn sql_code(kind: SqlErrorKind) -> Code {
    match kind {
        SqlErrorKind::Invalid | SqlErrorKind::Constraint => Code::InvalidArgument,
        SqlErrorKind::NotFound => Code::NotFound,
        SqlErrorKind::AlreadyExists => Code::AlreadyExists,
        SqlErrorKind::Conflict => Code::Aborted,
        SqlErrorKind::Transaction => Code::FailedPrecondition,
        SqlErrorKind::Exhausted => Code::ResourceExhausted,
        SqlErrorKind::Forbidden => Code::PermissionDenied,
        SqlErrorKind::Unsupported => Code::Unimplemented,
        SqlErrorKind::Interrupted => Code::Cancelled,
        SqlErrorKind::Fatal => Code::Unavailable,
        SqlErrorKind::Internal => Code::Internal,
    }
}

/// The most of a message that goes to a client, in bytes as they are sent: gRPC carries it in a header, of which clients
/// take 8 KiB with all others, and where there is more see another error.
const MAX_MESSAGE_BYTES: usize = 6 << 10;

/// The bytes a character of a message takes: gRPC writes all but plain letters, digits and most signs as `%XX`.
fn sent_bytes(char: char) -> usize {
    let is_plain = char.is_ascii_graphic() && !"\"#%<>`?{}".contains(char);
    if is_plain { 1 } else { 3 * char.len_utf8() }
}

/// Where a message is cut; `None` where it is not too long.
fn cut_at(message: &str) -> Option<usize> {
    let mut bytes = 0;
    let is_too_far = |(_, char): &(usize, char)| {
        bytes += sent_bytes(*char);
        bytes > MAX_MESSAGE_BYTES
    };
    message.char_indices().find(is_too_far).map(|(at, _)| at)
}

/// What DuckDB adds to the message of a bug: where it was in its code, and the paths of its libraries.
const STACK_TRACE: &str = "\n\nStack Trace:";

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let (code, mut message) = (error.code(), error.to_string());
        match code {
            Code::Internal => tracing::error!(error = %in_a_line(&error), "request failed"),
            _ => tracing::debug!(error = %in_a_line(&error), ?code, "request refused"),
        }
        // It is in the log.
        if let Some(start) = message.find(STACK_TRACE) {
            message.truncate(start);
        }
        if let Some(end) = cut_at(&message) {
            message.truncate(end);
            message.push('…');
        }
        Self::new(code, message)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use duck_flight_protocol::{OptionsError, TableName};

    use super::*;
    use crate::engine::SqlError;

    fn sql(kind: SqlErrorKind) -> Error {
        Error::Sql(SqlError {
            kind,
            message: "m".into(),
        })
    }

    #[test]
    fn every_kind_of_duckdbs_errors_has_a_code() {
        let cases = [
            (sql(SqlErrorKind::Invalid), Code::InvalidArgument),
            (sql(SqlErrorKind::Constraint), Code::InvalidArgument),
            (sql(SqlErrorKind::NotFound), Code::NotFound),
            (sql(SqlErrorKind::AlreadyExists), Code::AlreadyExists),
            (sql(SqlErrorKind::Conflict), Code::Aborted),
            (sql(SqlErrorKind::Transaction), Code::FailedPrecondition),
            (sql(SqlErrorKind::Exhausted), Code::ResourceExhausted),
            (sql(SqlErrorKind::Forbidden), Code::PermissionDenied),
            (sql(SqlErrorKind::Unsupported), Code::Unimplemented),
            (sql(SqlErrorKind::Interrupted), Code::Cancelled),
            (sql(SqlErrorKind::Fatal), Code::Unavailable),
            (sql(SqlErrorKind::Internal), Code::Internal),
        ];
        for (error, code) in cases {
            assert_eq!(error.code(), code, "{error}");
        }
    }

    #[test]
    fn what_a_transaction_cannot_have_has_the_code_that_says_whether_to_try_again() {
        let cases = [
            (Error::TransactionByCall, Code::InvalidArgument),
            (Error::TransactionFailed, Code::FailedPrecondition),
            (
                Error::AlterationTooLate { rows: 1 },
                Code::FailedPrecondition,
            ),
            (Error::AlterationBesideChanges, Code::FailedPrecondition),
            (Error::RenameInTransaction, Code::FailedPrecondition),
            (Error::IndexMadeAgain, Code::FailedPrecondition),
            (Error::IndexBesideChanges, Code::FailedPrecondition),
            (Error::IndexBesideIndex, Code::FailedPrecondition),
            (Error::IndexBesideOlder, Code::Aborted),
            (Error::IndexBesideWriters, Code::Aborted),
            (Error::CheckpointBesideRows, Code::Aborted),
            (Error::TypeBesideOlder, Code::Aborted),
        ];
        for (error, code) in cases {
            assert_eq!(error.code(), code, "{error}");
        }
    }

    #[test]
    fn every_error_has_the_code_a_client_should_act_on() {
        let table = || TableName::from("t");
        let io = || std::io::Error::other("x");
        let cases = [
            (
                Error::Options(OptionsError::EmptyName),
                Code::InvalidArgument,
            ),
            (Error::NoSequence(1), Code::InvalidArgument),
            (Error::NoProducer(1), Code::InvalidArgument),
            (Error::TooManyRejects(1), Code::InvalidArgument),
            (Error::RejectsTooLarge(1), Code::InvalidArgument),
            (Error::NeedsConnection, Code::Internal),
            (Error::SessionBusy, Code::ResourceExhausted),
            (Error::Stalled(Duration::ZERO), Code::ResourceExhausted),
            (
                Error::TooManyHandles {
                    what: "w",
                    limit: 1,
                },
                Code::ResourceExhausted,
            ),
            (Error::TooManyParameters(1), Code::ResourceExhausted),
            (Error::TooMuchHeld(1), Code::ResourceExhausted),
            (Error::NoSession, Code::FailedPrecondition),
            (Error::Again(Code::Aborted, "m".into()), Code::Aborted),
            (Error::SessionEnded, Code::Unauthenticated),
            (Error::TransactionOpen, Code::FailedPrecondition),
            (
                Error::Parameter {
                    row: 1,
                    reason: "r".into(),
                },
                Code::InvalidArgument,
            ),
            (
                Error::ParameterCount {
                    wanted: 1,
                    given: 2,
                },
                Code::InvalidArgument,
            ),
            (Error::ParametersOfScript, Code::InvalidArgument),
            (Error::SchemaChanged, Code::InvalidArgument),
            (Error::ResultTooLarge(1), Code::ResourceExhausted),
            (Error::UnknownHandle { what: "w" }, Code::NotFound),
            (Error::Fenced("p".into()), Code::Aborted),
            (Error::Resent(1), Code::Aborted),
            (Error::NoRoom("n".into()), Code::ResourceExhausted),
            (Error::NoRoomForGroup, Code::ResourceExhausted),
            (Error::Malformed("m".into()), Code::InvalidArgument),
            (Error::NoStatement, Code::InvalidArgument),
            (Error::Forbidden("f"), Code::PermissionDenied),
            (Error::OpenTransaction, Code::FailedPrecondition),
            (Error::NoTable(table()), Code::NotFound),
            (Error::TableExists(table()), Code::AlreadyExists),
            (Error::TableAltered(table()), Code::Aborted),
            (Error::Columns("c".into()), Code::InvalidArgument),
            (
                Error::Value {
                    row: 1,
                    column: "c".into(),
                    reason: "r".into(),
                },
                Code::InvalidArgument,
            ),
            (Error::TransactionExpired, Code::FailedPrecondition),
            (Error::NothingToDelete(table()), Code::NotFound),
            (Error::NoTableNorKey(table()), Code::NotFound),
            (Error::OwnSchema("o".into()), Code::FailedPrecondition),
            (Error::PutCutShort, Code::Cancelled),
            (Error::EarlierBatchFailed, Code::Cancelled),
            (Error::MessageTooLarge("m".into()), Code::ResourceExhausted),
            (Error::Transport(Code::Aborted, "m".into()), Code::Aborted),
            (
                Error::Busy {
                    what: "w",
                    remedy: "r",
                    limit: 1,
                },
                Code::ResourceExhausted,
            ),
            (Error::Unimplemented("u".into()), Code::Unimplemented),
            (Error::Cancelled, Code::Cancelled),
            (Error::ReasonLost, Code::Unknown),
            (Error::Undecided("u".into()), Code::Unknown),
            (Error::ShuttingDown, Code::Unavailable),
            (Error::WorkerLost, Code::Internal),
            (
                Error::Io {
                    doing: "d",
                    source: io(),
                },
                Code::Internal,
            ),
        ];
        for (error, code) in cases {
            assert_eq!(error.code(), code, "{error}");
        }
    }

    #[test]
    fn a_disk_that_is_full_is_told_from_one_that_fails() {
        use std::io::ErrorKind::{FileTooLarge, PermissionDenied, QuotaExceeded, StorageFull};
        let code = |kind| {
            let source = std::io::Error::new(kind, "FILE.metadata");
            let doing = "keep images";
            Error::Io { doing, source }.code()
        };
        for kind in [StorageFull, QuotaExceeded, FileTooLarge] {
            assert_eq!(code(kind), Code::ResourceExhausted, "{kind}");
        }
        assert_eq!(code(PermissionDenied), Code::Internal);
    }

    #[test]
    fn a_stack_trace_is_not_for_clients() {
        let message =
            "INTERNAL Error: out of bounds\n\nStack Trace:\n\n/opt/lib/libduckdb.so(+0x5b)\n";
        let status = Status::from(Error::Sql(SqlError::internal(message)));
        assert_eq!(status.message(), "INTERNAL Error: out of bounds");
    }

    #[test]
    fn a_long_message_is_cut_at_a_character_before_its_header_is_too_long() {
        for (text, chars) in [("é", 1024), ("x", 6144), (" ", 2048), ("\n🦆", 819)] {
            let error = Error::Malformed(text.repeat(2 * MAX_MESSAGE_BYTES));
            let status = Status::from(error);
            let whole = text.chars().cycle().take(chars);
            let cut = whole.chain(['…']).collect::<String>();
            assert_eq!(status.message(), cut);
            let headers = status.into_http::<()>().into_parts().0.headers;
            assert!(headers["grpc-message"].len() <= MAX_MESSAGE_BYTES + 9);
        }
        let message = Status::from(Error::Malformed("short".into()));
        assert_eq!(message.message(), "short");
    }
}
