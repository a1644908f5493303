//! What DuckDB says when it refuses: a kind to act on, and its message.

mod advice;

use std::ffi::CStr;

use duckdb::ffi;

/// An error of DuckDB's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SqlError {
    /// What to do about it.
    pub kind: SqlErrorKind,
    /// DuckDB's own words, and what to do where they do not tell.
    pub message: String,
}

/// The kinds of error that callers treat differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqlErrorKind {
    /// The statement or its values are wrong: syntax, types, casts, constraints.
    Invalid,
    /// A row breaks a constraint of its table.
    Constraint,
    /// Something that is named does not exist.
    NotFound,
    /// Something that is created exists.
    AlreadyExists,
    /// Another transaction got there first: the same statement may succeed when tried again.
    Conflict,
    /// The transaction cannot go on.
    Transaction,
    /// A limit is reached: memory or disk.
    Exhausted,
    /// The server's settings forbid it.
    Forbidden,
    /// DuckDB does not have this.
    Unsupported,
    /// The statement was interrupted.
    Interrupted,
    /// The database must be opened again before it can go on.
    Fatal,
    /// A bug of DuckDB's or ours.
    Internal,
}

/// How DuckDB refuses to export a column.
pub(super) const UNSUPPORTED_TYPE: &str = "Unsupported Arrow type";

/// How DuckDB says that memory is full, and that no more may be spilled.
const SPILL_LIMIT_REACHED: &str = "failed to offload data block";

/// What a statement is told that reads a file by another way than a call.
pub(crate) const NO_FILES: &CStr =
    c"the files of the server are not for reading: name a table, or send rows with a put (the README shows how to load a file)";

impl SqlError {
    pub(crate) fn new(kind: SqlErrorKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.contains(UNSUPPORTED_TYPE) {
            message.push_str("; cast it, for example to VARCHAR");
        }
        let kind = refine(kind, &message);
        advice::set_right(kind, &mut message);
        Self { kind, message }
    }

    /// Reads error data, whose message may be JSON that tells type and message.
    pub(crate) fn from_data(kind: SqlErrorKind, message: &str) -> Self {
        #[derive(serde::Deserialize)]
        struct Told {
            exception_type: String,
            exception_message: String,
        }
        match serde_json::from_str::<Told>(message) {
            Ok(told) => {
                let (name, message) = (told.exception_type, told.exception_message);
                Self::from_message(&format!("{name} Error: {message}"))
            }
            Err(_) => Self::new(kind, message),
        }
    }

    /// A bug: of DuckDB's, or ours in using it.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(SqlErrorKind::Internal, message)
    }

    /// Reads a message that begins with DuckDB's name for its kind, such as `Binder Error: `.
    pub(crate) fn from_message(message: &str) -> Self {
        let kind = message
            .split_once(" Error: ")
            .or_else(|| message.split_once(" exception: "))
            .map_or(SqlErrorKind::Invalid, |(name, _)| kind_of(name));
        Self::new(kind, message)
    }

    /// Whether the database is unusable from now on.
    pub(crate) fn is_fatal(&self) -> bool {
        self.kind == SqlErrorKind::Fatal
    }

    /// Whether a commit has failed for another reason than what others have committed: for want of memory or disk, for one.
    pub(crate) fn is_of_commit(&self) -> bool {
        let is_its_own = matches!(
            self.kind,
            SqlErrorKind::Exhausted | SqlErrorKind::Transaction
        );
        is_its_own && name_and_words(&self.message).1.starts_with(FAILED_COMMIT)
    }

    /// Whether a definition of another transaction is in the way, which has altered or made the same table.
    pub(crate) fn is_of_definition(&self) -> bool {
        let words = name_and_words(&self.message).1;
        let says = |part: &str| words.contains(part);
        self.kind == SqlErrorKind::Conflict && (says(DEFINITIONS_CONFLICT) || says(ALTERED))
    }

    /// Whether the database was unusable before: the statement was not begun.
    pub(crate) fn is_of_earlier(&self) -> bool {
        self.message.contains("because of a previous fatal error")
    }
}

fn kind_of(name: &str) -> SqlErrorKind {
    match name {
        "Constraint" => SqlErrorKind::Constraint,
        "TransactionContext" => SqlErrorKind::Transaction,
        "Out of Memory" => SqlErrorKind::Exhausted,
        "Permission" => SqlErrorKind::Forbidden,
        "Not implemented" => SqlErrorKind::Unsupported,
        "INTERRUPT" => SqlErrorKind::Interrupted,
        "FATAL" => SqlErrorKind::Fatal,
        "INTERNAL" | "IO" | "Serialization" => SqlErrorKind::Internal,
        _ => SqlErrorKind::Invalid,
    }
}

/// How DuckDB begins to say that it has given a database up, because it could not checkpoint it.
const GIVEN_UP: &[&str] = &[
    "Checkpoint failed for database \"",
    "Transaction COMMIT succeeded and is durable, but the autocheckpoint failed.",
];
const GIVEN_UP_BEFORE: (&str, &str) = (
    "Database \"",
    "\" has been invalidated because checkpointing failed",
);

/// How DuckDB begins to say why a commit has failed.
const FAILED_COMMIT: &str = "Failed to commit: ";

/// How DuckDB begins to say that another transaction was in the way of a definition.
const DEFINITIONS_CONFLICT: &str = "Catalog write-write conflict";

/// How DuckDB begins to say that a table is altered, or dropped, by another transaction.
const ALTERED: &str = "Transaction conflict: attempting to ";

/// Some kinds are told apart only by DuckDB's wording, read where no client can have written it.
fn refine(kind: SqlErrorKind, message: &str) -> SqlErrorKind {
    let (name, words) = name_and_words(message);
    let says = |part: &str| words.contains(part);
    let is_told_of_names = |what: &str| match name {
        "Binder" | "Catalog" | "Parser" => words.contains(what),
        // What refuses a value says more after it.
        "" => {
            let first = words.lines().next().and_then(|line| line.strip_suffix('!'));
            first.is_some_and(|line| line.ends_with(what))
        }
        _ => false,
    };
    match kind {
        SqlErrorKind::Invalid if says(&NO_FILES.to_string_lossy()) => SqlErrorKind::Forbidden,
        // What refuses a value or a statement quotes it.
        SqlErrorKind::Internal | SqlErrorKind::Transaction if is_given_up(words) => {
            SqlErrorKind::Fatal
        }
        // A key that is there only at the commit is one that another transaction has committed meanwhile.
        SqlErrorKind::Transaction
            if says("onflict")
                || says("concurrent transaction")
                || says("another transaction")
                || says("Failed to commit: PRIMARY KEY or UNIQUE constraint violation") =>
        {
            SqlErrorKind::Conflict
        }
        SqlErrorKind::Invalid if message.starts_with(DEFINITIONS_CONFLICT) => {
            SqlErrorKind::Conflict
        }
        SqlErrorKind::Unsupported if says("Unknown TimeZone") => SqlErrorKind::Invalid,
        SqlErrorKind::Invalid if is_told_of_names("already exists") => SqlErrorKind::AlreadyExists,
        SqlErrorKind::Invalid if is_told_of_names("does not exist") => SqlErrorKind::NotFound,
        SqlErrorKind::Invalid if says("the configuration has been locked") => {
            SqlErrorKind::Forbidden
        }
        // A commit that cannot write its log says so as an error of its transaction.
        SqlErrorKind::Internal | SqlErrorKind::Transaction
            if says("No space left on device")
                || says("Could not write file")
                || says("Cannot open file") =>
        {
            SqlErrorKind::Exhausted
        }
        // So does one that finds no memory.
        SqlErrorKind::Transaction
            if says("failed to pin block")
                || says("could not allocate block")
                || says(SPILL_LIMIT_REACHED) =>
        {
            SqlErrorKind::Exhausted
        }
        kind => kind,
    }
}

/// Before it quotes the statement that an error is in.
const QUOTED: &str = "\n\nLINE ";

/// DuckDB's name for the kind of an error, where the message begins with it, and what it says before it quotes the
/// statement.
fn name_and_words(message: &str) -> (&str, &str) {
    let is_name = |name: &str| {
        name.bytes()
            .all(|byte| byte.is_ascii_alphabetic() || byte == b' ')
    };
    let named = message.split_once(" Error: ");
    let (name, words) = named
        .filter(|(name, _)| is_name(name))
        .unwrap_or(("", message));
    let said = words.split_once(QUOTED).map_or(words, |(said, _)| said);
    (name, said)
}

/// Whether DuckDB has given a database up, by the words of an error that does not begin with those of a client.
fn is_given_up(words: &str) -> bool {
    let reason = ["Failed to append: ", FAILED_COMMIT]
        .iter()
        .fold(words, |words, prefix| {
            words.strip_prefix(prefix).unwrap_or(words)
        });
    let (beginning, end) = GIVEN_UP_BEFORE;
    GIVEN_UP
        .iter()
        .any(|beginning| reason.starts_with(beginning))
        || reason.starts_with(beginning) && reason.contains(end)
}

impl SqlErrorKind {
    /// Reads DuckDB's error type.
    pub(crate) fn from_code(code: ffi::duckdb_error_type) -> Self {
        match code {
            ffi::duckdb_error_type_DUCKDB_ERROR_CONSTRAINT => Self::Constraint,
            ffi::duckdb_error_type_DUCKDB_ERROR_TRANSACTION => Self::Transaction,
            ffi::duckdb_error_type_DUCKDB_ERROR_OUT_OF_MEMORY => Self::Exhausted,
            ffi::duckdb_error_type_DUCKDB_ERROR_PERMISSION => Self::Forbidden,
            ffi::duckdb_error_type_DUCKDB_ERROR_NOT_IMPLEMENTED => Self::Unsupported,
            ffi::duckdb_error_type_DUCKDB_ERROR_INTERRUPT => Self::Interrupted,
            ffi::duckdb_error_type_DUCKDB_ERROR_FATAL => Self::Fatal,
            ffi::duckdb_error_type_DUCKDB_ERROR_INTERNAL
            | ffi::duckdb_error_type_DUCKDB_ERROR_IO
            | ffi::duckdb_error_type_DUCKDB_ERROR_SERIALIZATION => Self::Internal,
            _ => Self::Invalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_is_read_from_duckdbs_wording() {
        let kind = |message: &str| SqlError::from_message(message).kind;
        assert_eq!(
            kind("Parser Error: syntax error at or near \"x\""),
            SqlErrorKind::Invalid
        );
        assert_eq!(
            kind("Catalog Error: Table with name t does not exist!"),
            SqlErrorKind::NotFound
        );
        assert_eq!(
            kind("Catalog Error: Table with name \"t\" already exists!"),
            SqlErrorKind::AlreadyExists
        );
        assert_eq!(
            kind("TransactionContext Error: Conflict on update!"),
            SqlErrorKind::Conflict
        );
        assert_eq!(
            kind(
                "TransactionContext Error: Failed to commit: PRIMARY KEY or UNIQUE constraint violation: duplicate key \"4\""
            ),
            SqlErrorKind::Conflict
        );
        assert_eq!(
            kind("INTERRUPT Error: Interrupted!"),
            SqlErrorKind::Interrupted
        );
        assert_eq!(
            kind(
                "FATAL Error: Failed: database has been invalidated because of a previous fatal error"
            ),
            SqlErrorKind::Fatal
        );
        for reason in [
            "Checkpoint failed for database \"d\". The database has been invalidated. Original error: e",
            "Database \"d\" has been invalidated because checkpointing failed. Detach and reattach it.",
            "Transaction COMMIT succeeded and is durable, but the autocheckpoint failed. Detach it.",
        ] {
            for told in [
                "IO Error: ",
                "TransactionContext Error: Failed to commit: ",
                "IO Error: Failed to append: ",
            ] {
                assert_eq!(kind(&format!("{told}{reason}")), SqlErrorKind::Fatal);
            }
            for told in [
                "Invalid Input Error: ",
                "Conversion Error: Could not convert string \"",
                "",
            ] {
                assert_eq!(kind(&format!("{told}{reason}")), SqlErrorKind::Invalid);
            }
        }
        assert_eq!(
            kind("Binder Error: no column\n\nLINE 1: SELECT c WHERE s = 'it does not exist'"),
            SqlErrorKind::Invalid
        );
        let catalog = "Catalog \"c\" does not exist!";
        assert_eq!(kind(catalog), SqlErrorKind::NotFound);
        for told in ["", "Conversion Error: "] {
            let message = format!("{told}Could not convert string '{catalog}' to INT32");
            assert_eq!(kind(&message), SqlErrorKind::Invalid);
        }
        assert_eq!(
            kind("Conversion Error: Could not convert string 'Catalog write-write conflict'"),
            SqlErrorKind::Invalid
        );
        assert_eq!(kind("words of no known kind"), SqlErrorKind::Invalid);
        let json = r#"{"exception_type":"Not implemented","exception_message":"no such type"}"#;
        let error = SqlError::from_data(SqlErrorKind::Invalid, json);
        assert_eq!(error.kind, SqlErrorKind::Unsupported);
        assert_eq!(error.message, "Not implemented Error: no such type");
        let is_of_commit = |message: &str| SqlError::from_message(message).is_of_commit();
        for told in [
            "TransactionContext Error: Failed to commit: Could not write file \"a.wal\": No space left on device",
            "TransactionContext Error: Failed to commit: failed to pin block of size 128.0 KiB",
            "TransactionContext Error: Failed to commit: std::bad_alloc",
        ] {
            assert!(is_of_commit(told), "{told}");
        }
        for told in [
            "Out of Memory Error: failed to pin block of size 128.0 KiB",
            "TransactionContext Error: Failed to commit: PRIMARY KEY or UNIQUE constraint violation: key",
            "Invalid Input Error: Failed to commit: ",
        ] {
            assert!(!is_of_commit(told), "{told}");
        }
        let of_a_commit = |message| SqlError::new(SqlErrorKind::Transaction, message).kind;
        assert_eq!(
            of_a_commit(
                "Failed to commit: Could not write file \"a.wal\": No space left on device"
            ),
            SqlErrorKind::Exhausted
        );
        assert_eq!(
            of_a_commit("Failed to commit: failed to pin block of size 128.0 KiB"),
            SqlErrorKind::Exhausted
        );
    }

    #[test]
    fn the_limit_of_what_is_spilled_is_told_by_the_servers_own_name() {
        let reason = "failed to offload data block of size 192.0 KiB (19.8 MiB/20.0 MiB used).";
        for told in [
            "Out of Memory Error: ",
            "TransactionContext Error: Failed to commit: ",
        ] {
            let error = SqlError::from_message(&format!("{told}{reason}"));
            assert_eq!(error.kind, SqlErrorKind::Exhausted);
            assert!(error.message.contains("--spill-limit"), "{error}");
        }
    }

    #[test]
    fn a_definition_in_the_way_is_told_apart_from_a_row() {
        let is_of_definition = |message: &str| SqlError::from_message(message).is_of_definition();
        assert!(is_of_definition(
            "TransactionContext Error: Transaction conflict: attempting to insert into table \"t\" but it has been altered by a \
             different transaction"
        ));
        assert!(is_of_definition(
            "TransactionContext Error: Catalog write-write conflict on create with \"t\""
        ));
        assert!(!is_of_definition(
            "TransactionContext Error: Conflict on update!"
        ));
    }
}
