//! Opening the database: its settings, what a start settles, and what is closed before the first client comes.

use std::num::NonZeroUsize;
use std::path::Path;

use parking_lot::Mutex;

use super::attach::attach;
use super::images::PATIENCE;
use super::mark;
use super::spilled::spill_directory;
use crate::engine::catalog::literal;
use crate::engine::ffi::allocator::keep_freed_memory_briefly;
use crate::engine::ffi::{ArrowOptions, Connection, Database};
use crate::engine::{EngineOptions, IN_MEMORY, Lossless};
use crate::error::{Error, Result};

/// The settings a client may change for its session, and how many of them a DuckDB without ICU knows.
pub(crate) const SESSION_SETTINGS: &[&str] = &["search_path", "schema", "TimeZone", "Calendar"];
const SETTINGS_WITHOUT_ICU: usize = 2;

/// What the engine itself sets for statements whose progress somebody asks for.
const PROGRESS_SETTINGS: &[&str] = &["enable_progress_bar", "enable_progress_bar_print"];

/// Checkpoints have a thread of their own: no log is so long that a commit makes one, for which nothing would be ready.
const NO_SUCH_LOG: &str = "1000TB";

/// An open database, and the options by which results are exported without loss.
pub(in crate::engine) struct Opened {
    pub(in crate::engine) database: Database,
    pub(in crate::engine) lossless: Lossless,
}

/// What the server sets so that texts are not compressed. Those that are have their NULLs with them, where the replay of DuckDB 1.5.5 does not look for them once rows were
/// appended behind (`ValidityColumnData::UpdateWithBase`): a text that was put in the place of a NULL is NULL again. In the
/// formats that have this compression there is no other one for texts.
pub const DISABLE_COMPRESSION_SQL: &str = "SET GLOBAL disabled_compression_methods = 'dict_fsst'";

pub(in crate::engine) fn open_database(options: &EngineOptions) -> Result<Opened> {
    let path = options.database.to_str().ok_or_else(|| {
        let path = options.database.display();
        Error::Malformed(format!("the database's path is not UTF-8: {path}"))
    })?;
    let mut settings = vec![
        ("autoinstall_known_extensions", "false".to_owned()),
        ("autoload_known_extensions", "false".to_owned()),
        ("allow_community_extensions", "false".to_owned()),
        ("allow_persistent_secrets", "false".to_owned()),
        ("checkpoint_threshold", NO_SUCH_LOG.to_owned()),
        // Above it a commit would write a checkpoint under the lock that all commits need.
        (
            "auto_checkpoint_skip_wal_threshold",
            (1_u64 << 60).to_string(),
        ),
        // For an `ORDER BY ... LIMIT` it leaves row groups out by their smallest and largest values, and in DuckDB 1.5.5 counts
        // on rows that have been deleted or updated since (`AddRowGroups` in `row_group_reorderer.cpp`): it finds wrong rows, or none.
        ("disabled_optimizers", "row_group_pruner".to_owned()),
        // Where a `VARIANT` is kept as the fields that its rows have in common, as in row groups of 30,000 rows or more, DuckDB 1.5.5 gives the
        // database up when a query reads one of them (`VariantColumnData::PushdownShreddedFieldExtract`). Nothing more is
        // kept so; what another DuckDB has written to the file stays.
        ("variant_minimum_shredding_size", "-1".to_owned()),
        // A row group that is full goes into the file at once, not with four others.
        ("write_buffer_row_group_count", "1".to_owned()),
        // A file that is there keeps its format.
        (
            "storage_compatibility_version",
            options.storage_version.clone(),
        ),
    ];
    let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = options.threads.unwrap_or_else(cores);
    // All of them ours, so that it starts none: those that run statements, and helpers.
    settings.push(("threads", threads.to_string()));
    settings.push(("external_threads", threads.to_string()));
    settings.extend(
        options
            .memory_limit
            .clone()
            .map(|limit| ("memory_limit", limit)),
    );
    if path != IN_MEMORY {
        let directory = spill_directory(&options.database);
        settings.push(("temp_directory", directory.display().to_string()));
    }
    let database = Database::open(IN_MEMORY, &settings)?;
    keep_freed_memory_briefly();
    database.start_helpers(threads - 1)?;
    let connection = database.connect()?;
    // DuckDB takes no notice of it before it is open.
    connection.execute(DISABLE_COMPRESSION_SQL)?;
    // The one at the end is ours, too.
    connection.execute("PRAGMA disable_checkpoint_on_shutdown")?;
    let lossless = lossless(&database)?;
    if path != IN_MEMORY {
        let rows = attach(&database.connect()?, options, path)
            .map_err(|error| in_use(&options.database, error))
            .map_err(|error| of_log(options, error))?;
        database.set_row_group_rows(rows);
    }
    Ok(Opened { database, lossless })
}

/// Leaves nothing of a checkpoint that was cut off, before anything is written.
///
/// DuckDB marks in the log that a checkpoint has begun, and logs what is committed meanwhile in a second file; the next
/// start puts the two together at the mark. A mark that stays in the log, or a second file that was read already, makes
/// a start after the next such accident lose rows, read them twice, or refuse the log.
pub(in crate::engine) fn settle_logs(connection: &Connection, database: &Path) -> Result<()> {
    remove_second_log(database)?;
    let [log, _] = mark::logs(database);
    if log.metadata().is_ok_and(|log| log.len() > 0) {
        connection.checkpoint(PATIENCE)?;
    }
    Ok(())
}

/// Removes the log of a checkpoint that was cut off, once DuckDB has read it.
pub(super) fn remove_second_log(database: &Path) -> Result<()> {
    let [_, second] = mark::logs(database);
    match std::fs::remove_file(second) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::Io {
            doing: "remove the log of a checkpoint that was cut off",
            source,
        }),
        _ => Ok(()),
    }
}

/// Tells a database that another process has open apart from other reasons.
fn in_use(path: &Path, error: Error) -> Error {
    let message = error.to_string();
    if !message.contains("Could not set lock on file") {
        return error;
    }
    let holder = message
        .split_once("Conflicting lock is held in ")
        .map(|(_, rest)| {
            let end = rest.find(')').map_or(rest.len(), |end| end + 1);
            format!(": {}", &rest[..end])
        });
    Error::DatabaseInUse {
        path: path.to_owned(),
        holder: holder.unwrap_or_default(),
    }
}

/// Tells a log that cannot be read apart from other reasons: one that is damaged, and one that goes with another moment of the
/// database file, mostly that of a file in whose place a copy was put.
fn of_log(options: &EngineOptions, error: Error) -> Error {
    let path = &options.database;
    let said = error.to_string();
    if said.contains("WAL checkpoint iteration does not match") {
        let [log, _] = mark::logs(path);
        let mark = mark::mark_path(path);
        Error::LogOfAnotherMoment { said, log, mark }
    } else if said.contains("Failure while replaying WAL") || said.contains("Corrupt WAL file") {
        match options.salvage_log {
            true => {
                let [log, _] = mark::logs(path);
                Error::LogNotReplayed { said, log }
            }
            false => Error::LogUnreadable(said),
        }
    } else {
        error
    }
}

/// The error of a database that another server has, named where DuckDB can tell which one.
pub(super) fn held_by_another(path: &Path) -> Error {
    let read_only = [("access_mode", "READ_ONLY".to_owned())];
    let opened = path
        .to_str()
        .map(|file| Database::open(file, &read_only).map(drop));
    let told = match opened {
        Some(Err(error)) => in_use(path, error.into()),
        _ => Error::ReasonLost,
    };
    match told {
        told @ Error::DatabaseInUse { .. } => told,
        _ => Error::DatabaseInUse {
            path: path.to_owned(),
            holder: String::new(),
        },
    }
}

pub(in crate::engine) fn lossless(database: &Database) -> Result<Lossless> {
    let connection = database.connect()?;
    connection.execute("SET SESSION arrow_lossless_conversion = true")?;
    let options = ArrowOptions::of(&connection);
    Ok(Lossless {
        options,
        _connection: Mutex::new(connection),
    })
}

/// Closes DuckDB towards the machine: no files, no extensions, and of the settings only a session's own.
pub(in crate::engine) fn lock_down(connection: &Connection) -> Result<()> {
    let allow = |names: &[&str]| {
        let names = names.iter().chain(PROGRESS_SETTINGS);
        let names: Vec<_> = names.map(|name| literal(name)).collect();
        // A client's macro may be called as the function of a list in brackets is.
        let names = names.join(", ");
        connection.execute(&format!(
            "SET allowed_configs = system.main.list_value({names})"
        ))
    };
    // A DuckDB compiled without ICU knows no time zones, and refuses names it does not know.
    allow(SESSION_SETTINGS).or_else(|_| allow(&SESSION_SETTINGS[..SETTINGS_WITHOUT_ICU]))?;
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_asked_to_salvage_a_log_is_not_told_to() {
        let told = |salvage_log| {
            let options = EngineOptions {
                database: "d.db".into(),
                salvage_log,
                ..EngineOptions::in_memory()
            };
            let said = "Failure while replaying WAL file \"d.db.wal\": no such table";
            of_log(&options, Error::Malformed(said.into())).to_string()
        };
        assert!(told(false).contains("where the log is damaged"));
        let again = told(true);
        assert!(again.contains("the log is not damaged"), "{again}");
        assert!(again.contains("move d.db.wal away"), "{again}");
    }
}
