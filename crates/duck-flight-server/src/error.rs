//! One error type, and its one mapping to gRPC codes ([`status`]).

mod status;

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use duck_flight_protocol::{OptionsError, TableName, escape_controls};
use tonic::Code;

use crate::engine::{SqlError, SqlErrorKind};
use status::sql_code;

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What to do about a damaged log.
const SALVAGE: &str = "1. put the log back from a copy; 2. or, where there is none, copy the database file, its .wal* and \
                       its .mark, and start with --salvage-log: rows behind the damage are lost, but for those that \
                       loaders with --resume send again";

/// Everything that can go wrong in a request. Every message says what is wrong and, where it can, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// DuckDB refuses.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// DuckDB refuses one statement of a script; those before it have run.
    #[error("statement {number} of {count}: {source}")]
    Statement {
        /// Which statement, from 1.
        number: u64,
        /// How many there are.
        count: u64,
        /// What DuckDB says.
        source: SqlError,
    },
    /// A put's options cannot be read.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The request's bytes are not what the protocol says.
    #[error("{0}")]
    Malformed(String),
    /// There is no statement in the request.
    #[error("the request is empty: it holds no SQL statement")]
    NoStatement,
    /// The schema of a script is not known before it runs.
    #[error("the schema of this script is known only once it has run: {0}")]
    UnknownSchema(SqlError),
    /// A statement the server does not let clients run.
    #[error("{0}")]
    Forbidden(&'static str),
    /// A script began a transaction and did not end it.
    #[error("the script left a transaction open, so it was rolled back: end it with COMMIT")]
    OpenTransaction,
    /// A request needs a connection of its client's own: said between the engine's parts, never to a client.
    #[error("the statement needs a connection of its client's own")]
    NeedsConnection,
    /// A request waited too long for the one before it.
    #[error(
        "another statement of this session is still running, or its result is still being read: a session runs one \
         statement at a time; read or cancel that one, or use another session"
    )]
    SessionBusy,
    /// A parameter's value cannot be bound.
    #[error("parameters, row {row}: {reason}")]
    Parameter {
        /// Which of the rows that were bound, from 1.
        row: u64,
        /// What is wrong.
        reason: String,
    },
    /// A statement has another number of parameters than it was given.
    #[error("the statement has {wanted} parameters and was given {given}")]
    ParameterCount {
        /// How many it has.
        wanted: usize,
        /// How many it was given.
        given: usize,
    },
    /// The rows of parameters are too many to hold.
    #[error(
        "the parameters take more than {0} bytes, the limit: run the statement for fewer rows, or ingest them"
    )]
    TooManyParameters(usize),
    /// Parameters were given to more than one statement.
    #[error(
        "a script of several statements takes no parameters: run the one that has them on its own"
    )]
    ParametersOfScript,
    /// A statement that was run for several rows of parameters gave results of different schemas.
    #[error(
        "the statement's columns depend on its parameters: run it for one row of parameters at a time"
    )]
    SchemaChanged,
    /// A result that is kept until it is fetched is too large.
    #[error(
        "the result is larger than {0} bytes, the limit for one of a statement that does more than read; \
         read it with a SELECT of its own"
    )]
    ResultTooLarge(usize),
    /// A handle of the server's that is not known.
    #[error("unknown {what}: it was closed, or has expired")]
    UnknownHandle {
        /// What the handle is of.
        what: &'static str,
    },
    /// Too much is kept for clients.
    #[error("there are {limit} {what}s already, the limit: close some, or let them expire")]
    TooManyHandles {
        /// What there is too much of.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// Too much waits for clients.
    #[error(
        "unread results, prepared statements with their values, texts of statements that wait or run, and dictionaries of \
         puts and their large schemas take {0} bytes already, the limit: read or close some, send smaller scripts, or try \
         again later"
    )]
    TooMuchHeld(usize),
    /// A session that its client still shows has ended.
    #[error(
        "the session has ended, or the server was restarted, and what it held is gone: connect again"
    )]
    SessionEnded,
    /// Something that lives in a session was asked for without one.
    #[error(
        "settings and temporary tables live in a session, and this client has none, so they would be gone at once: put the \
         statement before the others in one script (SET ...; SELECT ...), or connect with a user name or with cookies enabled"
    )]
    NoSession,
    /// An error that was told before, told again.
    #[error("{1}")]
    Again(Code, String),
    /// A transaction in which a statement had failed was to be committed.
    #[error(
        "a statement of the transaction had failed, so it was rolled back instead of committed: roll back after a statement \
         that fails. Where the driver has dropped the transaction by now, as ADBC's does, close its connection and connect again"
    )]
    TransactionFailed,
    /// A transaction in which nothing was run for too long.
    #[error(
        "the transaction has expired and was rolled back, for nothing was run in it for too long: roll it back and run it \
         again (after a commit, ADBC's driver cannot: close its connection and connect again), or have the server's \
         --transaction-timeout raised"
    )]
    TransactionExpired,
    /// A statement would end a transaction that a call has begun.
    #[error(
        "this transaction was begun by BeginTransaction: end it by EndTransaction, not by a statement"
    )]
    TransactionByCall,
    /// Rows that a transaction has written would be lost on DuckDB's way of altering their table.
    #[error(
        "ALTER cannot follow in a transaction that may have written {rows} rows or more, for DuckDB could crash: alter first, or \
         commit in between"
    )]
    AlterationTooLate {
        /// So many rows may be written before.
        rows: u64,
    },
    /// Rows that a transaction has changed would be refused in the middle of its commit.
    #[error(
        "a table is altered in another transaction than one that has deleted or changed rows of it, for DuckDB 1.5.5 cannot commit \
         both: alter it first, or commit in between"
    )]
    AlterationBesideChanges,
    /// Rows that others commit would be logged under a name that their table does not have yet.
    #[error(
        "a table gets another name outside of transactions only, or by one script of nothing but BEGIN, ALTER TABLE ... RENAME TO ... \
         and DROP TABLE statements, and COMMIT: what others commit into it meanwhile could not be read again"
    )]
    RenameInTransaction,
    /// DuckDB would take an index for another one of its name.
    #[error(
        "DuckDB 1.5.5 takes an index for another one of its name that the same transaction has dropped: commit in between, or \
         give it another name"
    )]
    IndexMadeAgain,
    /// A start that replays it would find keys in an index that are in no row.
    #[error(
        "an index or a primary key is made in another transaction than one that deletes or changes rows of its table, for after \
         a kill DuckDB 1.5.5 would refuse their old keys for good: commit in between"
    )]
    IndexBesideChanges,
    /// An index or a primary key is made while a transaction is open that began before rows were deleted or changed.
    #[error(
        "an index or a primary key is not made beside a transaction, a put, or a result that is being read, that is older than rows \
         which were deleted or changed since, for DuckDB 1.5.5 would spoil the database: try again once all of those have ended, \
         and in no transaction"
    )]
    IndexBesideOlder,
    /// A CREATE INDEX or DROP INDEX inside a transaction with more in it, on a table that keeps another index.
    #[error(
        "a table that has another index is given one, or loses one, in no transaction with more, for after a kill DuckDB 1.5.5 could \
         not open the database, or would not find rows: commit, and run the CREATE INDEX or DROP INDEX on its own"
    )]
    IndexBesideIndex,
    /// A CREATE INDEX or DROP INDEX on a table that keeps another index, where the checkpoint that must come first is not possible
    /// beside what others have open.
    #[error(
        "where a table has another index, a CREATE INDEX or DROP INDEX needs a checkpoint before it, for after a kill DuckDB 1.5.5 could \
         not open the database, and there is none beside a transaction that has updated rows or defined something, nor beside one, or \
         a result that is being read, that is older than where another did: try again once those have ended"
    )]
    IndexBesideWriters,
    /// A checkpoint during which rows would go into the database file.
    #[error(
        "there is no checkpoint while another one runs, or while a statement writes to the database file: the server makes one by itself \
         once that has ended"
    )]
    CheckpointBesideRows,
    /// What others have committed would be undone.
    #[error(
        "a column gets no other type beside a transaction, a put, or a result that is being read, that is older than rows which were \
         changed since, for DuckDB 1.5.5 would undo that: try again once all of those have ended, and in no transaction"
    )]
    TypeBesideOlder,
    /// A session has one transaction at a time.
    #[error("the session has an open transaction already: end it first, or use another session")]
    TransactionOpen,
    /// A table that is not there.
    #[error("table `{0}` does not exist; create it, or put with create: if_missing")]
    NoTable(TableName),
    /// A table whose rows were to be deleted is not there.
    #[error("table `{0}` does not exist, and a put that deletes makes none: create it first")]
    NothingToDelete(TableName),
    /// A table that is not there, and without a key cannot be made.
    #[error(
        "table `{0}` does not exist: create it, or give the put a `key`, which becomes its primary key"
    )]
    NoTableNorKey(TableName),
    /// A table that is there already.
    #[error(
        "table `{0}` already exists; put with create: if_missing to append, or create: replace (ADBC's mode create_append, or replace)"
    )]
    TableExists(TableName),
    /// A table is not as it was when the rows of a large unit were cast for it, or when others that it makes far larger were sent.
    #[error(
        "table `{0}` was altered or dropped while the put came in, so nothing of it was committed: send it again"
    )]
    TableAltered(TableName),
    /// Columns of a put do not fit the table.
    #[error("{0}")]
    Columns(String),
    /// A value of a put does not fit its column.
    #[error("row {row}, column `{column}`: {reason}")]
    Value {
        /// The row in its unit, from 1.
        row: u64,
        /// The column of the table.
        column: String,
        /// The value, the two types, and what is wrong.
        reason: String,
    },
    /// A batch of a put follows one that was refused.
    #[error("an earlier batch of this put was refused, so this one was not committed")]
    EarlierBatchFailed,
    /// A batch of a producer's put does not say its sequence.
    #[error(
        "batch {0} of the put has no sequence; each batch of a producer carries app_metadata {{\"sequence\":N}}"
    )]
    NoSequence(u64),
    /// A batch says a sequence, but nobody whose it is.
    #[error("batch {0} of the put has a sequence, but the put names no `producer` whose it is")]
    NoProducer(u64),
    /// Another stream of the same producer has taken over.
    #[error(
        "fenced: another put of producer `{0}` into this table was opened after this one, so this one commits nothing more"
    )]
    Fenced(String),
    /// A unit was committed while it waited, as one that was sent before.
    #[error("sequence {0} was committed meanwhile; try again")]
    Resent(u64),
    /// A unit has more rows that do not fit than can be kept.
    #[error(
        "more than {0} rows of the put do not fit the table, so it was refused; nothing of it was committed"
    )]
    TooManyRejects(usize),
    /// The rows of a unit that do not fit take more memory than they may.
    #[error(
        "the rows of the put that do not fit the table take more than {0} bytes as JSON, so it was refused; nothing of it was \
         committed"
    )]
    RejectsTooLarge(usize),
    /// The rows of units in a group, cast or put aside for tables that others altered, take more of the memory for rows than is
    /// free.
    #[error(
        "the rows take more memory, cast or put aside for their tables, than --ingest-buffer has left; nothing of them was \
         committed, try again"
    )]
    NoRoomForGroup,
    /// There is no room for more rows.
    #[error("{0}")]
    NoRoom(String),
    /// A put ended before its end: the client cancelled or went away.
    #[error("the put was cut short by its client, so nothing of it was committed")]
    PutCutShort,
    /// A message is larger than the transport takes.
    #[error("{0}: send it in smaller parts, or have the server's --max-message-size raised")]
    MessageTooLarge(String),
    /// The transport refused a message, or lost its client.
    #[error("{1}")]
    Transport(Code, String),
    /// Too many requests are waiting.
    #[error("{limit} {what} are waiting already, the limit: {remedy}")]
    Busy {
        /// What waits.
        what: &'static str,
        /// What to do.
        remedy: &'static str,
        /// How many may wait.
        limit: usize,
    },
    /// A client stood still in the middle of a statement that others waited for.
    #[error(
        "the client took or sent nothing for {} while others waited for its place, so it was ended: \
         read or send without a pause, or have the server's --max-queries, --ingest-buffer or --stall-timeout raised",
        humantime::format_duration(*.0)
    )]
    Stalled(Duration),
    /// Something the protocol has and this server has not.
    #[error("{0}")]
    Unimplemented(String),
    /// A statement failed, and DuckDB told only that it stopped its other threads.
    #[error("the statement failed, and DuckDB did not tell why: run it again to see its error")]
    ReasonLost,
    /// The client cancelled, or went away.
    #[error("the statement was cancelled")]
    Cancelled,
    /// The database failed for good, it may be in the middle of a commit.
    #[error(
        "{0}; what was being committed may be in the database or not, and the server must be started again to know: look \
         before you send it again, or name a producer, whose units may be sent again"
    )]
    Undecided(String),
    /// The server is on its way down.
    #[error("the server is shutting down; try again once it is back")]
    ShuttingDown,
    /// A thread ended in the middle of a request.
    #[error(
        "the server failed in the middle of this request, and its log may say why: a change that it was to make may be \
         committed or not"
    )]
    WorkerLost,
    /// Another process has the database.
    #[error("database file {path} is in use by another process{holder}; stop it, or use another --database", path = path.display())]
    DatabaseInUse {
        /// The file.
        path: PathBuf,
        /// Which process, in brackets after a space, where it is known.
        holder: String,
    },
    /// The schema of the server's own tables holds something else.
    #[error(
        "the schema duck_flight of a database is the server's own, and in this one it is not: rename or drop what is in it \
         ({0})"
    )]
    OwnSchema(String),
    /// The log holds less than was acknowledged.
    #[error(
        "the write-ahead log {log} is damaged: {bytes} bytes of it were acknowledged and are no longer there as they \
         were written. What to do: {salvage}", log = log.display(), salvage = SALVAGE
    )]
    LogDamaged {
        /// The log.
        log: PathBuf,
        /// How long it was.
        bytes: u64,
    },
    /// DuckDB cannot read the log.
    #[error("{0}; what to do where the log is damaged: {salvage}", salvage = SALVAGE)]
    LogUnreadable(String),
    /// DuckDB cannot read the log, though nothing in it is damaged.
    #[error(
        "{said}; the log is not damaged, or is cut before the damage: DuckDB 1.5.5 cannot replay it. Put the database file and \
         its log back from a copy; or, where there is none, copy them, move {log} away, and start with --salvage-log again, \
         which loses all that was committed since the last checkpoint", log = log.display()
    )]
    LogNotReplayed {
        /// What DuckDB says.
        said: String,
        /// The log.
        log: PathBuf,
    },
    /// The log goes with the database file as it was at another moment.
    #[error(
        "{said}; the log is not of the same moment as the database file: where a copy was put in its place, move {log}, \
         {log}.checkpoint if it is there, and {mark} away, which go with the file that was there before, and put those beside \
         it that were copied with it, if there are any; where not, put the file back that goes with the log", log = log.display(), mark = mark.display()
    )]
    LogOfAnotherMoment {
        /// What DuckDB says.
        said: String,
        /// The log.
        log: PathBuf,
        /// The mark beside it.
        mark: PathBuf,
    },
    /// Reading or writing outside DuckDB failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
}

impl Error {
    /// The error of making or reading the server's own tables: where they are not its own, it says so.
    pub(crate) fn of_own_schema(self) -> Self {
        use SqlErrorKind::{AlreadyExists, Invalid, NotFound};
        let is_taken = match &self {
            Self::Sql(error) => matches!(error.kind, AlreadyExists | Invalid | NotFound),
            other => matches!(other, Self::Columns(_) | Self::NoTable(_)),
        };
        match is_taken {
            true => Self::OwnSchema(self.to_string()),
            false => self,
        }
    }

    /// Whether the same request may succeed when it is tried again at once.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Sql(error) if sql_code(error.kind) == Code::Aborted)
            || matches!(self, Self::Resent(_) | Self::TypeBesideOlder)
    }

    /// The error of a put that is not tried again: where another's definition is in its way, it says what to wait for.
    pub(crate) fn of_put(self) -> Self {
        match self {
            Self::Sql(mut error) if error.is_of_definition() => {
                error.message.push_str(
                    "; most likely another client's open transaction has altered or made the table: puts go on once it has ended",
                );
                Self::Sql(error)
            }
            other => other,
        }
    }

    /// Whether a commit has failed that may be in the log in part.
    pub(crate) fn is_failed_commit(&self) -> bool {
        matches!(self, Self::Sql(error) | Self::Statement { source: error, .. } if error.is_of_commit())
    }

    /// Whether a row breaks a constraint of its table.
    pub(crate) fn is_constraint(&self) -> bool {
        matches!(self, Self::Sql(error) if error.kind == SqlErrorKind::Constraint)
    }
}

/// A name or an error as a line of the log holds it: it may have text of a client in it, which must not look like a line
/// of its own, nor move the cursor of whoever reads it.
pub(crate) fn in_a_line(text: &impl Display) -> String {
    escape_controls(&text.to_string()).into_owned()
}
