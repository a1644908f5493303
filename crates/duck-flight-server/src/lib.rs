//! Puts one DuckDB database behind Apache Arrow Flight, so that many loaders write and many clients query it
//! at the same time.
//!
//! # The way of a get
//!
//! `flight` → `flight::get` → [`Engine`] → a worker thread (or this one, for what is small), which runs the
//! ticket's statements and sends the last one's chunks, coalesced, through a bounded channel → the Flight
//! encoder, on the task of the response. A client that goes away drops the response, which drops the channel
//! and interrupts the statement.
//!
//! # The way of a put
//!
//! `flight` → `flight::messages` (gathers each by itself) → `flight::decode` (validates every buffer) →
//! `flight::put` → the engine's `ingest`, which casts to the table's types and gathers a unit within one memory
//! budget → a lane → a writer thread, which takes all units that wait, appends them in one transaction, commits, and
//! only then answers → acks.
//!
//! A unit too large for the budget does not wait for a lane: it gets a connection and a transaction of its own, into which its
//! batches go while they come in. Where it has a key, its table refers to another one, or rows of it may be rejected,
//! they are gathered in a temporary table first, and go from there to the table once all are there.
//!
//! # Invariants
//!
//! - A unit is acknowledged after its COMMIT has returned, never before.
//! - A put whose client did not finish its stream commits nothing of the unit that was open: `server` tells a
//!   cancelled stream apart from one that ended.
//! - A failing unit never fails another one: a group that fails is taken apart.
//! - Every queue has a bound: statements that wait, bytes of rows that wait, frames of a result.
//! - Only `engine` and `error` name DuckDB; only `flight`, `server` and `error` name tonic; unsafe code lives
//!   in `engine::ffi`.

mod args;
mod config;
mod drain;
mod engine;
mod error;
mod flight;
mod gauge;
mod grains;
mod grpc;
mod intake;
mod panics;
mod server;
mod session;
mod unpacking;

pub use args::{Args, LogFormat};
pub use config::{Config, ConfigError};
pub use engine::{
    BLOCK_BYTES, Closed, DEFAULT_ROW_GROUP_ROWS, DEFAULT_STORAGE_VERSION, DISABLE_COMPRESSION_SQL,
    Engine, EngineOptions, Facts, SqlError, SqlErrorKind,
};
pub use error::{Error, Result};
#[doc(hidden)]
pub use flight::{Decoded, Fetched, Stages};
pub use panics::log_panics;
pub use server::{ServeError, runtime, serve, serve_flight};
pub use session::Expiry;
