//! No function reads a file for a client.
//!
//! What DuckDB needs itself it lets everybody open, however it is locked down: the database, its log, and what is
//! spilled. A client would read there what others have spilled; and once a file that was read is closed, POSIX gives up
//! DuckDB's lock on it, so that another process may write to the same database.
//!
//! Calls are refused by their name. But where a query names a table that is not there, DuckDB takes that for the name of
//! a file, and calls such a function itself; the name may stand in a text, be put together, or be a pattern. So each
//! connection that clients use has temporary macros, which DuckDB finds before its own functions of these names.

use crate::engine::ffi::FILES_REFUSED;

/// DuckDB's functions that open files, or that take an address for a table.
pub(super) const FILE_FUNCTIONS: &[&str] = &[
    "arrow_scan",
    "arrow_scan_dumb",
    "glob",
    "parquet_bloom_probe",
    "parquet_file_metadata",
    "parquet_full_metadata",
    "parquet_kv_metadata",
    "parquet_metadata",
    "parquet_scan",
    "parquet_schema",
    "read_blob",
    "read_csv",
    "read_csv_auto",
    "read_duckdb",
    "read_json",
    "read_json_auto",
    "read_json_objects",
    "read_json_objects_auto",
    "read_ndjson",
    "read_ndjson_auto",
    "read_ndjson_objects",
    "read_parquet",
    "read_text",
    "sniff_csv",
];

/// Functions that read files, and that DuckDB calls by itself for the name of a table.
const CALLED_FOR_TABLES: &[&str] = &[
    "parquet_scan",
    "read_csv_auto",
    "read_duckdb",
    "read_json_auto",
];

/// Whether a function is one that opens files.
pub(super) fn is_file_function(name: &str) -> bool {
    let mut names = FILE_FUNCTIONS.iter();
    names.any(|function| function.eq_ignore_ascii_case(name))
}

/// What makes the macros. Views and macros that another DuckDB has left in the file may call any of the functions; where
/// there are such, each has its macro.
pub(in crate::engine) fn macros(are_all: bool) -> String {
    let names = if are_all {
        FILE_FUNCTIONS
    } else {
        CALLED_FOR_TABLES
    };
    let macros = names.iter().map(|name| {
        format!("CREATE TEMP MACRO \"{name}\"(path) AS TABLE FROM {FILES_REFUSED}(path);")
    });
    macros.collect()
}
