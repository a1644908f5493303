//! The table function that stands for those that read files: nobody can call it.

use std::ffi::CStr;

use duckdb::ffi;

use super::table_function::TableFunction;
use super::{Connection, LogicalType, Result};
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
        self.make_table_function(&TableFunction {
            name: FUNCTION,
            parameters: &[any],
            bind,
            start,
            read,
        })
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
