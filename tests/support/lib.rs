//! What the end-to-end tests share.
//!
//! - [`TestServer`]: a server inside the test's process, on a port and in a directory of its own;
//! - [`ServerProcess`]: the real binary as a child, whose memory, processor time and end can be watched;
//! - [`Client`]: a client whose answers are short to compare; [`OpenPut`]: a put in the middle of which
//!   anything may happen; [`Wire`]: a connection that can be cut;
//! - [`messages`]: a put as the messages it is made of, to be spoiled.
//!
//! Tests wait for events. Where a test waits for something that must not take forever, it waits in [`soon`], or in [`eventually`]
//! where there is much to do before.

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
pub use process::{Exit, ServerProcess, binary, server_command};
pub use server::{Setup, TestServer, rows_at_rest, start};
pub use sql::{ENDLESS_COUNT, ENDLESS_ROWS, SqlClient, ingest_into};
pub use wire::Wire;

use std::future::Future;
use std::time::Duration;

/// How long a test waits for what should come at once. It is no longer than the server by default bears with clients that stand still:
/// what had to wait for one of them does not come within it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long a test waits for what is seconds of work on a quick machine that has nothing else to do: many times as long. It only says
/// that something never comes; whether it waits for a client that stands still, [`PATIENCE`] tells.
pub const WORK_PATIENCE: Duration = Duration::from_secs(120);

/// Of what is to happen while something else goes on, how often a test tries it at most: how long either takes is the machine's. What
/// has to wait for the end of the other fails each time.
pub const TRIES: usize = 5;

/// Waits for what should come at once.
///
/// # Panics
/// When it has not come within [`PATIENCE`].
pub async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    within(PATIENCE, what, event).await
}

/// Waits for what comes once much work is done.
///
/// # Panics
/// When it has not come within [`WORK_PATIENCE`].
pub async fn eventually<T>(what: &str, event: impl Future<Output = T>) -> T {
    within(WORK_PATIENCE, what, event).await
}

async fn within<T>(patience: Duration, what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(patience, event).await {
        Ok(value) => value,
        Err(_) => panic!("{what} has not happened within {patience:?}"),
    }
}
