//! What the end-to-end tests share.
//!
//! - [`TestServer`]: a server inside the test's process, on a port and in a directory of its own;
//! - [`ServerProcess`]: the real binary as a child, whose memory, processor time and end can be watched;
//! - [`Client`]: a client whose answers are short to compare; [`OpenPut`]: a put in the middle of which
//!   anything may happen; [`Wire`]: a connection that can be cut;
//! - [`messages`]: a put as the messages it is made of, to be spoiled.
//!
//! Tests wait for events. Where a test waits for something that must not take forever, it waits in [`soon`].

mod batch;
mod client;
mod open_put;
mod process;
mod server;
mod sql;
mod wire;

pub use batch::{Compression, empty_message, ints, messages, numbered, options, pairs};
pub use client::{Answer, Client, assert_refused, status};
pub use open_put::OpenPut;
pub use process::{Exit, ServerProcess, server_command};
pub use server::{Setup, TestServer, rows_at_rest, start};
pub use sql::{ENDLESS_COUNT, ENDLESS_ROWS, SqlClient, ingest_into};
pub use wire::Wire;

use std::future::Future;
use std::time::Duration;

/// How long a test waits for what should come at once.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for what should come at once.
///
/// # Panics
/// When it has not come within [`PATIENCE`].
pub async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, event).await {
        Ok(value) => value,
        Err(_) => panic!("{what} has not happened within {PATIENCE:?}"),
    }
}
