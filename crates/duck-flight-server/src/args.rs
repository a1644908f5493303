//! Flags as typed.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::BoolishValueParser;

use crate::engine::{
    DEFAULT_ROW_GROUP_ROWS, DEFAULT_STORAGE_VERSION, MAX_ROW_GROUP_ROWS, VECTOR_ROWS,
};

/// The versions of DuckDB that changed the format of its files.
const STORAGE_VERSIONS: [&str; 6] = ["v1.0.0", "v1.1.0", "v1.2.0", "v1.3.0", "v1.4.0", "v1.5.0"];

/// Each is a thread of the system; many times the cores of the largest machines.
const MAX_THREADS: usize = 1024;

/// Each has a connection and a thread, which are made at the start.
const MAX_QUERIES: usize = 4096;

/// Share one DuckDB database over Apache Arrow Flight: many loaders write and many clients query it at the
/// same time.
#[derive(Debug, clap::Parser)]
#[command(name = "duck-flight-server", version)]
pub struct Args {
    /// The database file, created when it is missing, or `:memory:`
    #[arg(
        long,
        value_name = "FILE",
        env = "DUCK_FLIGHT_DATABASE",
        default_value = "duck_flight.db"
    )]
    pub database: PathBuf,

    /// The address to listen on; port 0 picks a free one
    #[arg(
        long,
        value_name = "IP:PORT",
        value_parser = address,
        env = "DUCK_FLIGHT_LISTEN",
        default_value = "127.0.0.1:8815"
    )]
    pub listen: SocketAddr,

    /// Listen on an address other machines can reach, although there is no TLS and no password
    #[arg(long, env = "DUCK_FLIGHT_INSECURE", value_parser = BoolishValueParser::new())]
    pub insecure: bool,

    /// DuckDB's threads, at most 1024 [default: one for each core]
    #[arg(
        long,
        value_name = "N",
        env = "DUCK_FLIGHT_THREADS",
        value_parser = threads,
        allow_negative_numbers = true
    )]
    pub threads: Option<NonZeroUsize>,

    /// DuckDB's memory limit, such as 4GB [default: 80% of the machine's memory]
    #[arg(long, value_name = "SIZE", env = "DUCK_FLIGHT_MEMORY_LIMIT", value_parser = size)]
    pub memory_limit: Option<ByteSize>,

    /// The format of a new database file: this version of DuckDB and later ones can open it
    #[arg(
        long,
        value_name = "VERSION",
        env = "DUCK_FLIGHT_STORAGE_VERSION",
        value_parser = STORAGE_VERSIONS,
        default_value = DEFAULT_STORAGE_VERSION
    )]
    pub storage_version: String,

    /// The most rows of a row group in a new database file: small groups make loading faster, large ones the file smaller
    #[arg(
        long,
        value_name = "ROWS",
        env = "DUCK_FLIGHT_ROW_GROUP_SIZE",
        value_parser = row_group_rows,
        allow_negative_numbers = true,
        default_value_t = DEFAULT_ROW_GROUP_ROWS
    )]
    pub row_group_size: u64,

    /// Cut a damaged write-ahead log behind its last whole commit before the damage, keep a copy of it, and go on
    /// without the rows it has lost
    #[arg(long, env = "DUCK_FLIGHT_SALVAGE_LOG", value_parser = BoolishValueParser::new())]
    pub salvage_log: bool,

    /// How many statements run at the same time, at most 4096; 64 times as many may wait
    #[arg(
        long,
        value_name = "N",
        env = "DUCK_FLIGHT_MAX_QUERIES",
        value_parser = queries,
        allow_negative_numbers = true,
        default_value = "32"
    )]
    pub max_queries: NonZeroUsize,

    /// How long a client may stand still in the middle of a result or an ingest while others wait for its place, and a `CREATE INDEX` or `ALTER ... TYPE` waits for older transactions
    #[arg(
        long,
        value_name = "TIME",
        env = "DUCK_FLIGHT_STALL_TIMEOUT",
        value_parser = humantime::parse_duration,
        default_value = "30s"
    )]
    pub stall_timeout: Duration,

    /// How much memory rows may take while they wait for their commit
    #[arg(
        long,
        value_name = "SIZE",
        env = "DUCK_FLIGHT_INGEST_BUFFER",
        value_parser = size,
        default_value = "256MiB"
    )]
    pub ingest_buffer: ByteSize,

    /// How much of the disk stays free: puts are slowed down before, and refused from then on
    #[arg(
        long,
        value_name = "SIZE",
        env = "DUCK_FLIGHT_MIN_FREE_DISK",
        value_parser = size,
        default_value = "256MiB"
    )]
    pub min_free_disk: ByteSize,

    /// How much of the disk may be taken by what does not fit into DuckDB's memory [default: half of what is free at the start beyond what stays free]
    #[arg(long, value_name = "SIZE", env = "DUCK_FLIGHT_SPILL_LIMIT", value_parser = size)]
    pub spill_limit: Option<ByteSize>,

    /// The largest message a client may send
    #[arg(
        long,
        value_name = "SIZE",
        env = "DUCK_FLIGHT_MAX_MESSAGE_SIZE",
        value_parser = size,
        default_value = "64MiB"
    )]
    pub max_message_size: ByteSize,

    /// How long a session or a prepared statement lasts that nobody uses
    #[arg(
        long,
        value_name = "TIME",
        env = "DUCK_FLIGHT_SESSION_TIMEOUT",
        value_parser = humantime::parse_duration,
        default_value = "1h"
    )]
    pub session_timeout: Duration,

    /// How long a transaction lasts in which nothing is run
    #[arg(
        long,
        value_name = "TIME",
        env = "DUCK_FLIGHT_TRANSACTION_TIMEOUT",
        value_parser = humantime::parse_duration,
        default_value = "5m"
    )]
    pub transaction_timeout: Duration,

    /// How long what is in flight may go on after SIGTERM or SIGINT
    #[arg(
        long,
        value_name = "TIME",
        env = "DUCK_FLIGHT_SHUTDOWN_GRACE",
        value_parser = humantime::parse_duration,
        default_value = "20s"
    )]
    pub shutdown_grace: Duration,

    /// How log lines on stderr are written; RUST_LOG says which (default: info)
    #[arg(
        long,
        value_name = "FORMAT",
        env = "DUCK_FLIGHT_LOG_FORMAT",
        value_enum,
        default_value_t
    )]
    pub log_format: LogFormat,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| match text.strip_prefix("localhost:") {
            Some(port) => format!("localhost is a name: give 127.0.0.1:{port}"),
            None => {
                "give an IP address and a port, such as 127.0.0.1:8815 or [::1]:8815".to_owned()
            }
        })
}

fn threads(text: &str) -> Result<NonZeroUsize, String> {
    count(text, MAX_THREADS)
}

fn queries(text: &str) -> Result<NonZeroUsize, String> {
    count(text, MAX_QUERIES)
}

fn count(text: &str, most: usize) -> Result<NonZeroUsize, String> {
    let count: Option<NonZeroUsize> = text.parse().ok();
    count
        .filter(|count| count.get() <= most)
        .ok_or_else(|| format!("give a whole number from 1 to {most}"))
}

fn row_group_rows(text: &str) -> Result<u64, String> {
    let rows = text.parse().ok();
    rows.filter(|rows| (VECTOR_ROWS..=MAX_ROW_GROUP_ROWS).contains(rows) && rows % VECTOR_ROWS == 0)
        .ok_or_else(|| format!("give a multiple of {VECTOR_ROWS} up to {MAX_ROW_GROUP_ROWS}"))
}

fn size(text: &str) -> Result<ByteSize, &'static str> {
    text.parse().map_err(|_| match text.ends_with('%') {
        true => {
            "it takes no percentage: give a number of bytes with its unit, such as 512MB or 4GiB, or leave the flag out for \
             its default"
        }
        false => "give a number of bytes with its unit, such as 512MB or 4GiB",
    })
}
