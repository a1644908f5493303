//! Flags as meant: checked values.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;

use crate::args::Args;
use crate::engine::{EngineOptions, IN_MEMORY, MIN_SPILL_BYTES};
use crate::session::Expiry;

/// The least memory DuckDB does useful work with.
const MIN_MEMORY_LIMIT: ByteSize = ByteSize::mib(64);

/// The least that lets a put of one ordinary batch through.
const MIN_INGEST_BUFFER: ByteSize = ByteSize::mib(1);

/// With less, nothing could be spilled.
const MIN_SPILL_LIMIT: ByteSize = ByteSize::b(MIN_SPILL_BYTES);

/// A message holds at least one batch of ordinary rows.
const MIN_MESSAGE_SIZE: ByteSize = ByteSize::kib(64);

/// HTTP/2 and Arrow count a message's bytes in 31 bits.
const MAX_MESSAGE_SIZE: ByteSize = ByteSize::gib(1);

/// The most of a size that has no other limit: what a process can address.
const NO_LIMIT: ByteSize = ByteSize::b(isize::MAX as u64);

/// What a server needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What its engine needs to know.
    pub engine: EngineOptions,
    /// The largest message it takes from a client, in bytes.
    pub max_message_bytes: usize,
    /// When what clients leave behind expires.
    pub expiry: Expiry,
    /// How long what is in flight may go on once it is to stop.
    pub shutdown_grace: Duration,
}

/// Why flags do not make a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Anyone on the network could read and write the database.
    #[error(
        "--listen {0} can be reached from other machines, without TLS and without a password: listen on \
         127.0.0.1, or say --insecure if that is what you want"
    )]
    Exposed(SocketAddr),
    /// DuckDB would not find the file's log.
    #[error(
        "--database {} has a `?` in it, from which on DuckDB takes a path for options: use another name",
        .0.display()
    )]
    QuestionMark(PathBuf),
    /// DuckDB would take what is before the colon for the name of an extension, a protocol or a database without a file.
    #[error(
        "--database {file} begins with {prefix}, which DuckDB does not take for a part of a file's name: write \
         ./{file} for the file of that name, or {in_memory} for a database without a file",
        file = .path.display(),
        in_memory = IN_MEMORY
    )]
    Prefix {
        /// The path as given.
        path: PathBuf,
        /// What it begins with.
        prefix: String,
    },
    /// What is there can hold no database, and a pipe would be waited for.
    #[error("--database {} is no file, but something else of that name: use another name", .0.display())]
    NoFile(PathBuf),
    /// A size is outside its range.
    #[error(
        "--{flag} is {value}, and {needed} is needed; a number without a unit counts bytes",
        needed = range(*min, *max)
    )]
    Size {
        /// The flag's name.
        flag: &'static str,
        /// The value given.
        value: ByteSize,
        /// The least allowed.
        min: ByteSize,
        /// The most allowed.
        max: ByteSize,
    },
}

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Self, ConfigError> {
        if !args.listen.ip().is_loopback() && !args.insecure {
            return Err(ConfigError::Exposed(args.listen));
        }
        if args.database.to_string_lossy().contains('?') {
            return Err(ConfigError::QuestionMark(args.database));
        }
        check_file(&args.database)?;
        let memory_limit = args
            .memory_limit
            .map(|value| within("memory-limit", value, MIN_MEMORY_LIMIT, NO_LIMIT))
            .transpose()?;
        let ingest_buffer = within(
            "ingest-buffer",
            args.ingest_buffer,
            MIN_INGEST_BUFFER,
            NO_LIMIT,
        )?;
        let spill_limit = args
            .spill_limit
            .map(|value| within("spill-limit", value, MIN_SPILL_LIMIT, NO_LIMIT))
            .transpose()?;
        let max_message = within(
            "max-message-size",
            args.max_message_size,
            MIN_MESSAGE_SIZE,
            MAX_MESSAGE_SIZE,
        )?;
        Ok(Self {
            listen: args.listen,
            engine: EngineOptions {
                database: args.database,
                threads: args.threads.map(Into::into),
                memory_limit: memory_limit.map(|bytes| format!("{bytes}B")),
                storage_version: args.storage_version,
                salvage_log: args.salvage_log,
                row_group_rows: args.row_group_size,
                max_queries: args.max_queries.into(),
                stall_timeout: args.stall_timeout,
                ingest_buffer_bytes: ingest_buffer,
                min_free_disk_bytes: args.min_free_disk.as_u64(),
                spill_limit_bytes: spill_limit.map(|bytes| bytes as u64),
            },
            max_message_bytes: max_message,
            expiry: Expiry {
                session: args.session_timeout,
                transaction: args.transaction_timeout,
            },
            shutdown_grace: args.shutdown_grace,
        })
    }
}

/// Sees that the path of a database is that of a file, there or not.
fn check_file(path: &Path) -> Result<(), ConfigError> {
    let text = path.to_string_lossy();
    if text == IN_MEMORY {
        return Ok(());
    }
    if let Some(prefix) = prefix(&text) {
        return Err(ConfigError::Prefix {
            path: path.to_owned(),
            prefix: prefix.to_owned(),
        });
    }
    match path.metadata() {
        Ok(metadata) if !metadata.is_file() => Err(ConfigError::NoFile(path.to_owned())),
        // Where it cannot be asked, opening it says why.
        _ => Ok(()),
    }
}

/// What a path begins with that DuckDB does not take for a part of it.
fn prefix(path: &str) -> Option<&str> {
    if path.starts_with(IN_MEMORY) {
        return Some(IN_MEMORY);
    }
    let (name, _) = path.split_once(':')?;
    let is_word = |char: char| char.is_ascii_alphanumeric() || char == '_';
    (!name.is_empty() && name.chars().all(is_word)).then(|| &path[..=name.len()])
}

/// What a size has to be, in words.
fn range(min: ByteSize, max: ByteSize) -> String {
    match max == NO_LIMIT {
        true => format!("at least {min}"),
        false => format!("{min} to {max}"),
    }
}

fn within(
    flag: &'static str,
    value: ByteSize,
    min: ByteSize,
    max: ByteSize,
) -> Result<usize, ConfigError> {
    let out_of_range = ConfigError::Size {
        flag,
        value,
        min,
        max,
    };
    if value < min || value > max {
        return Err(out_of_range);
    }
    usize::try_from(value.as_u64()).map_err(|_| out_of_range)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn config(flags: &[&str]) -> Result<Config, ConfigError> {
        let flags = ["duck-flight-server"].iter().chain(flags);
        Config::try_from(Args::try_parse_from(flags).unwrap())
    }

    #[test]
    fn no_flags_make_a_server_on_loopback() {
        let config = config(&[]).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8815");
        assert_eq!(config.engine.database.to_str(), Some("duck_flight.db"));
    }

    #[test]
    fn an_address_others_can_reach_needs_insecure() {
        let error = config(&["--listen", "0.0.0.0:1"]).unwrap_err().to_string();
        assert!(
            error.contains("--insecure") && error.contains("0.0.0.0:1"),
            "{error}"
        );
        assert!(config(&["--listen", "0.0.0.0:1", "--insecure"]).is_ok());
        assert!(config(&["--listen", "[::1]:1"]).is_ok());
    }

    #[test]
    fn a_file_whose_log_duckdb_would_not_find_is_refused() {
        let error = config(&["--database", "d/q?x.db"]).unwrap_err().to_string();
        assert!(error.contains("--database d/q?x.db"), "{error}");
    }

    #[test]
    fn a_path_that_duckdb_would_not_take_for_a_file_is_refused() {
        for (path, prefix) in [
            ("md:foo", "md:"),
            ("file:abc.db", "file:"),
            ("s3://bucket/x.db", "s3:"),
            ("duckdb:x.db", "duckdb:"),
            (":memory:x", ":memory:"),
        ] {
            let error = config(&["--database", path]).unwrap_err().to_string();
            let expected = format!("--database {path} begins with {prefix},");
            assert!(error.starts_with(&expected), "{error}");
            let file = format!("./{path}");
            assert!(error.contains(&file), "{error}");
            assert!(config(&["--database", &file]).is_ok(), "{file}");
        }
        for path in [":memory:", "d/x:y.db", "a-b:c.db", "x.db", ":x"] {
            assert!(config(&["--database", path]).is_ok(), "{path}");
        }
    }

    #[test]
    fn what_is_there_and_is_no_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe.db");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        for path in [directory.path(), pipe.as_path()] {
            let path = path.to_str().unwrap();
            let error = config(&["--database", path]).unwrap_err().to_string();
            assert!(error.contains("is no file"), "{error}");
        }
        let file = directory.path().join("x.db");
        let file = file.to_str().unwrap();
        assert!(config(&["--database", file]).is_ok());
        std::fs::write(file, "").unwrap();
        assert!(config(&["--database", file]).is_ok());
    }

    #[test]
    fn a_size_outside_its_range_is_refused_by_name() {
        for (flag, value, words) in [
            ("--max-message-size", "1KiB", "64.0 KiB to 1.0 GiB"),
            ("--memory-limit", "4", "4 B, and at least 64.0 MiB"),
        ] {
            let error = config(&[flag, value]).unwrap_err().to_string();
            assert!(error.contains(flag) && error.contains(words), "{error}");
        }
    }
}
