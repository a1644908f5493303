//! What a plan decides once for all its runs, so that the plan is not kept.
//!
//! DuckDB takes the local time when it plans (`now()` and the others it takes anew each time), and draws a sample by the
//! plan. A view or a macro may do so without a word of it in the query.

use std::sync::atomic::{AtomicBool, Ordering};

use super::Lossless;
use super::catalog::{rows, text};
use super::ffi::Connection;
use super::tokens::contains_any_word;
use crate::error::Result;

const WORDS: &[&str] = &[
    "sample",
    "tablesample",
    "localtime",
    "localtimestamp",
    "current_localtime",
    "current_localtimestamp",
];

/// The views and macros of clients.
const DEFINITIONS_SQL: &str = "
    SELECT sql FROM system.main.duckdb_views() WHERE NOT internal
    UNION ALL
    SELECT macro_definition FROM system.main.duckdb_functions() WHERE NOT internal AND macro_definition IS NOT NULL";

/// Whether a plan of the text decides what each run should.
pub(super) fn is_frozen_by_plan(sql: &str) -> bool {
    contains_any_word(sql, WORDS)
}

/// Whether any view or macro may be of that kind. Once it is so it stays so.
#[derive(Default)]
pub(super) struct FrozenDefinitions(AtomicBool);

impl FrozenDefinitions {
    /// Whether there may be one.
    pub(super) fn may_be(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Takes note of a script that may define one. To be called before it runs.
    pub(super) fn note(&self, sql: &str) {
        if is_frozen_by_plan(sql) {
            self.0.store(true, Ordering::Release);
        }
    }
}

/// Looks at what is defined already.
pub(super) fn look(connection: &Connection, lossless: &Lossless) -> Result<()> {
    let found = rows(connection, lossless, DEFINITIONS_SQL)?;
    for row in 0..found.num_rows() {
        let definition = text(found.column(0), row);
        connection.frozen_definitions().note(&definition);
    }
    Ok(())
}
