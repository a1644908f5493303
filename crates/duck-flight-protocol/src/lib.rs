//! What the Duck Flight server and its clients agree on.
//!
//! No DuckDB and no server code lives here: only the options of a put ([`PutOptions`]) and its
//! acknowledgements ([`Ack`]), which are JSON on the wire and types in the code, and the way a client
//! reaches a server ([`ConnectOptions`]).
//!
//! A put is a `DoPut` whose first message carries a descriptor made by [`PutOptions::descriptor`]; the
//! server answers with [`Ack`]s. A producer that names itself numbers what it sends, and may send it again; on a
//! stream of many units the server first says where it was ([`Resume`]). A query is a `DoGet` whose ticket is SQL text. A script without a
//! result is the action [`ACTION_QUERY`], answered with one [`RowsChanged`].

mod ack;
mod connect;
mod producer;
mod put;
mod session;
mod socket;
mod table_name;
mod told;

pub use ack::{Ack, BatchMetadata, Resume};
#[cfg(feature = "cli")]
pub use connect::ConnectArgs;
pub use connect::{ConnectError, ConnectOptions, DEFAULT_PORT, DEFAULT_SERVER, error_message};
pub use producer::{
    ACTION_FORGET_PRODUCERS, ACTION_PRODUCERS, ForgetProducers, ProducerState, ProducersForgotten,
};
pub use put::{Commit, Create, Mode, OnError, OptionsError, PutOptions, SchemaMode};
pub use session::{
    ACTION_CLOSE_SESSION, ACTION_GET_SESSION_OPTIONS, ACTION_SET_SESSION_OPTIONS,
    CloseSessionResult, CloseSessionStatus, GetSessionOptionsResult, OptionValue,
    PreparedStatementResult, SESSION_COOKIE, SessionOptionValue, SetSessionOptionError,
    SetSessionOptionReason, SetSessionOptionsRequest, SetSessionOptionsResult, StringListValue,
};
pub use socket::{Endings, Socket};
pub use table_name::{TableName, quote};
pub use told::{escape_controls, escape_controls_in_lines};

use serde::{Deserialize, Serialize};

/// The name of the `DoAction` that runs a script of SQL and answers with [`RowsChanged`].
pub const ACTION_QUERY: &str = "query";

/// The name of the `DoAction` that counts what the server keeps for its clients.
pub const ACTION_STATUS: &str = "status";

/// The body of the one result of [`ACTION_QUERY`], as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsChanged {
    /// Rows inserted, updated and deleted by all statements of the script together.
    pub rows_changed: u64,
}
