//! The table function that stands for those that read files: nobody can call it.

use std::ffi::CStr;

use duckdb::ffi;

use super::{Connection, LogicalType, Result, SqlError};
use crate::engine::sql_error::NO_FILES;

/// How a statement calls it, with anything in parentheses.
pub(crate) const FILES_REFUSED: &str = "system.main.duck_flight_files";

const FUNCTION: &CStr = c"duck_flight_files";

impl Connection {
    /// Makes the table function, for all connections of the database.
    pub(crate) fn make_file_refusal(&self) -> Result<()> {
        // SAFETY: takes a number and gives a type, freed by its wrapper.
        let any = LogicalType(unsafe {
            ffi::duckdb_create_logical_type(ffi::DUCKDB_TYPE_DUCKDB_TYPE_ANY)
        });
        // SAFETY: the connection and the type are live, the name NUL-terminated, and the callbacks have the types DuckDB
        // calls them by; the function object is copied, and freed here.
        let state = unsafe {
            let mut function = ffi::duckdb_create_table_function();
            ffi::duckdb_table_function_set_name(function, FUNCTION.as_ptr());
            ffi::duckdb_table_function_add_parameter(function, any.0);
            ffi::duckdb_table_function_set_bind(function, Some(bind));
            ffi::duckdb_table_function_set_init(function, Some(start));
            ffi::duckdb_table_function_set_function(function, Some(read));
            let state = ffi::duckdb_register_table_function(self.raw, function);
            ffi::duckdb_destroy_table_function(&raw mut function);
            state
        };
        if state == ffi::DuckDBSuccess {
            return Ok(());
        }
        Err(SqlError::internal("DuckDB takes no table function"))
    }
}

extern "C" fn bind(info: ffi::duckdb_bind_info) {
    // SAFETY: DuckDB's info is live during the call, and the text is copied.
    unsafe { ffi::duckdb_bind_set_error(info, NO_FILES.as_ptr()) };
}

/// Never runs, for nothing is ever bound.
extern "C" fn start(_: ffi::duckdb_init_info) {}

/// Never runs, for nothing is ever bound.
extern "C" fn read(_: ffi::duckdb_function_info, output: ffi::duckdb_data_chunk) {
    // SAFETY: the output is live during the call.
    unsafe { ffi::duckdb_data_chunk_set_size(output, 0) };
}
