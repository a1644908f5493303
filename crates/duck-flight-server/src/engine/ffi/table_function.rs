//! Table functions of ours, which DuckDB calls where a statement names them.

use std::ffi::CStr;

use duckdb::ffi;

use super::{Connection, LogicalType, Result, SqlError};

/// A table function, by what DuckDB calls of it.
pub(super) struct TableFunction<'a> {
    pub(super) name: &'a CStr,
    pub(super) parameters: &'a [LogicalType],
    /// Binds a call of it.
    pub(super) bind: extern "C" fn(ffi::duckdb_bind_info),
    /// Begins a run of the statement.
    pub(super) start: extern "C" fn(ffi::duckdb_init_info),
    /// Fills the next chunk.
    pub(super) read: extern "C" fn(ffi::duckdb_function_info, ffi::duckdb_data_chunk),
}

impl Connection {
    /// Makes a table function, for all connections of the database.
    pub(super) fn make_table_function(&self, function: &TableFunction<'_>) -> Result<()> {
        // SAFETY: the connection and the types are live, the name NUL-terminated, and the callbacks have the types DuckDB
        // calls them by; the function object is copied, and freed here.
        let state = unsafe {
            let mut raw = ffi::duckdb_create_table_function();
            ffi::duckdb_table_function_set_name(raw, function.name.as_ptr());
            for parameter in function.parameters {
                ffi::duckdb_table_function_add_parameter(raw, parameter.0);
            }
            ffi::duckdb_table_function_set_bind(raw, Some(function.bind));
            ffi::duckdb_table_function_set_init(raw, Some(function.start));
            ffi::duckdb_table_function_set_function(raw, Some(function.read));
            let state = ffi::duckdb_register_table_function(self.raw, raw);
            ffi::duckdb_destroy_table_function(&raw mut raw);
            state
        };
        if state == ffi::DuckDBSuccess {
            return Ok(());
        }
        Err(SqlError::internal("DuckDB takes no table function"))
    }
}
