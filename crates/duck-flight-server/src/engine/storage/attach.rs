//! The database file: attached with small row groups, where that is safe.
//!
//! A transaction that has filled a row group compresses it and writes it into the file at once; only its last one
//! waits for the commit, where all other commits wait too. So the smaller the groups, the less a commit has to do.
//!
//! Only `ATTACH` takes their size. DuckDB is opened without a file, and the file attached in the place of the database
//! in memory, under the name that DuckDB gives a file it opens itself. But for `duck_flight.db`: a database with the name of
//! our own schema would make `duck_flight.producers` ambiguous.
//!
//! A file with larger groups than it is attached with loses rows: after an `ALTER TABLE`, DuckDB 1.5.5 appends to the
//! last group and takes the room in it for `size - rows` (`RowGroupCollection::FinalizeAppend`), which underflows. Any
//! other DuckDB that had the file may have written larger ones, so it is looked through first.

use std::path::{Path, PathBuf};

use duck_flight_protocol::{TableName, quote};

use super::mark;
use super::open::remove_second_log;
use crate::engine::EngineOptions;
use crate::engine::catalog::{literal, texts};
use crate::engine::ffi::Connection;
use crate::engine::ingest::producers::OWN_SCHEMA;
use crate::error::{Error, Result, in_a_line};

/// The rows of DuckDB's own row groups, which it takes for granted where nothing else is said.
pub(crate) const MAX_ROW_GROUP_ROWS: u64 = 122_880;

/// Row groups have whole vectors.
pub(crate) const VECTOR_ROWS: u64 = 2048;

/// The blocks of new files with small row groups, in bytes. Each transaction begins new ones, so that DuckDB's own of
/// 256 KiB make files twice as large; and text has a dictionary for each block, so that half of this takes checkpoints
/// of text 1.5 times as long. Other block sizes tell a file of another kind, which keeps DuckDB's row groups.
pub const BLOCK_BYTES: i64 = 131_072;

/// The oldest format, whose DuckDB knows blocks of one size only.
const ONE_BLOCK_SIZE: &str = "v1.0.0";

/// What a file is called while it is looked through.
const SCAN_ALIAS: &str = "duck_flight_look";

/// Puts the database file in the place of the database in memory that the connection's DuckDB was opened with. Answers
/// with the rows of its row groups.
pub(super) fn attach(connection: &Connection, options: &EngineOptions, path: &str) -> Result<u64> {
    let size = options.row_group_rows;
    let file = literal(path);
    let is_new = !options.database.exists();
    let mut not_looked = None;
    let mut is_beside_log = false;
    let size = if is_new && options.storage_version == ONE_BLOCK_SIZE {
        MAX_ROW_GROUP_ROWS
    } else if is_new || size == MAX_ROW_GROUP_ROWS {
        size
    } else {
        let with_log = |error| match has_log(&options.database) {
            true => {
                is_beside_log = true;
                largest_group_beside_log(connection, &options.database, &file)
            }
            false => Err(error),
        };
        let largest = largest_group(connection, &file).or_else(with_log);
        let largest = largest.unwrap_or_else(|error| {
            not_looked = Some(error);
            None
        });
        let whole = |rows: u64| rows.next_multiple_of(VECTOR_ROWS).min(MAX_ROW_GROUP_ROWS);
        largest.map_or(MAX_ROW_GROUP_ROWS, |rows| size.max(whole(rows)))
    };
    let how = match (size, is_new) {
        (MAX_ROW_GROUP_ROWS, _) => String::new(),
        (_, true) => format!("(ROW_GROUP_SIZE {size}, BLOCK_SIZE {BLOCK_BYTES})"),
        (_, false) => format!("(ROW_GROUP_SIZE {size})"),
    };
    let name = name_of(&options.database);
    let has_it = name.eq_ignore_ascii_case("memory");
    let name = quote(&name);
    if !has_it {
        connection.execute(&format!("ALTER DATABASE memory SET ALIAS TO {name}"))?;
    }
    connection.execute(&format!("ATTACH OR REPLACE {file} AS {name} {how}"))?;
    // Where it is the file that is at fault, attaching it has told.
    if let Some(error) = not_looked {
        tracing::warn!(error = %in_a_line(&error), "the database file could not be looked through");
    }
    if is_beside_log && size > options.row_group_rows {
        // The file's own cannot be told from those that the replay has made just now.
        tracing::warn!(
            rows = size,
            asked_for = options.row_group_rows,
            "row groups of the file or its log are larger than asked for, and so are new ones"
        );
    }
    Ok(size)
}

fn has_log(database: &Path) -> bool {
    let has_entries = |log: PathBuf| log.metadata().is_ok_and(|log| log.len() > 0);
    mark::logs(database).into_iter().any(has_entries)
}

/// The rows of the largest row group in a file; `None` where it is not of the kind that has small ones, or where that
/// cannot be told.
fn largest_group(connection: &Connection, file: &str) -> Result<Option<u64>> {
    connection.execute(&format!("ATTACH {file} AS {SCAN_ALIAS} (READ_ONLY)"))?;
    let found = look_through(connection);
    connection.execute(&format!("DETACH {SCAN_ALIAS}"))?;
    found
}

/// As [`largest_group`], where an index is in the log: its replay writes the index to the file, for which a file that is only read
/// is not enough. The log stays, for a checkpoint would merge the row groups of all tables, as large as DuckDB makes them by itself.
fn largest_group_beside_log(
    connection: &Connection,
    database: &Path,
    file: &str,
) -> Result<Option<u64>> {
    connection.execute(&format!("ATTACH {file} AS {SCAN_ALIAS}"))?;
    let found = remove_second_log(database).and_then(|()| look_through(connection));
    // That makes no checkpoint.
    connection.execute(&format!("DETACH {SCAN_ALIAS}"))?;
    found
}

fn look_through(connection: &Connection) -> Result<Option<u64>> {
    let number = |sql: &str| {
        let found = texts::<1>(connection, sql)?.pop();
        Ok::<_, Error>(found.and_then(|[number]| number.parse::<i64>().ok()))
    };
    let block_size = number(&format!(
        "SELECT block_size::VARCHAR FROM pragma_database_size() WHERE database_name = '{SCAN_ALIAS}'"
    ))?;
    if block_size != Some(BLOCK_BYTES) {
        return Ok(None);
    }
    let mut largest = 0;
    let sql = format!(
        "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = '{SCAN_ALIAS}'"
    );
    for [schema, table] in texts(connection, &sql)? {
        let table = TableName {
            catalog: Some(SCAN_ALIAS.to_owned()),
            schema: Some(schema),
            table,
        };
        // The pragma reads a quote in a name as none, and would tell of another table.
        if table.to_sql().contains("\"\"") {
            return Ok(None);
        }
        // The validity of the first column: every group has it once, in parts. What is not in the file yet is written
        // anew when the log is read.
        let rows = number(&format!(
            "SELECT coalesce(max(coalesce(rows, {MAX_ROW_GROUP_ROWS})), 0)::BIGINT::VARCHAR FROM (
                 SELECT sum(count) FILTER (column_path = '[0, 0]') AS rows
                 FROM pragma_storage_info({}) WHERE persistent GROUP BY row_group_id
             )",
            literal(&table.to_sql())
        ))?;
        let rows = rows.and_then(|rows| u64::try_from(rows).ok());
        largest = largest.max(rows.unwrap_or(MAX_ROW_GROUP_ROWS));
    }
    Ok(Some(largest))
}

/// What a database is called: as DuckDB calls it, the file's name up to its first dot, unless that is a name of DuckDB's
/// own or the name of our schema.
fn name_of(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    // As DuckDB splits, empty parts do not count.
    let first = |text: &str, at| {
        text.split(at)
            .find(|part| !part.is_empty())
            .map(str::to_owned)
    };
    let name = first(&name, '.').and_then(|name| first(&name, '?'));
    let name = name.as_deref().unwrap_or(OWN_SCHEMA);
    let is_name = |reserved: &str| name.eq_ignore_ascii_case(reserved);
    if ["main", "temp", "system", OWN_SCHEMA]
        .into_iter()
        .any(is_name)
    {
        format!("{name}_db")
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_its_database_the_name_that_duckdb_gives_it_but_never_that_of_our_schema() {
        for (file, name) in [
            ("events.db", "events"),
            ("/data/a b.tar.duckdb", "a b"),
            ("plain", "plain"),
            ("main.db", "main_db"),
            ("temp", "temp_db"),
            ("Memory.db", "Memory"),
            (".hidden.db", "hidden"),
            (".main.db", "main_db"),
            ("Temp.db", "Temp_db"),
            ("duck_flight.db", "duck_flight_db"),
            ("Duck_Flight.duckdb", "Duck_Flight_db"),
            ("duck_flight_2.db", "duck_flight_2"),
            ("..", "duck_flight_db"),
        ] {
            assert_eq!(name_of(Path::new(file)), name);
        }
    }
}
