//! What a plan decides once for all its runs, so that the plan is not kept.
//!
//! DuckDB takes the local time when it plans (`now()` and the others it takes anew each time), and the numbers of transaction
//! and query, and draws a sample by the plan. A view or a macro may do so without a word of it in the query.

use std::sync::atomic::{AtomicBool, Ordering};

use super::Lossless;
use super::admission::{called, may_read_files};
use super::catalog::{rows, text};
use super::ffi::Connection;
use super::tokens::{contains_any_word, stands_anywhere};
use crate::error::Result;

const WORDS: &[&str] = &[
    "sample",
    "tablesample",
    "localtime",
    "localtimestamp",
    "current_localtime",
    "current_localtimestamp",
    "current_query_id",
    "current_transaction_id",
];

/// Counts from today, where it is given one time. Columns have this name too, so only a call of it counts.
const AGE: &str = "age";

/// The views and macros of clients.
const DEFINITIONS_SQL: &str = "
    SELECT sql FROM system.main.duckdb_views() WHERE NOT internal
    UNION ALL
    SELECT macro_definition FROM system.main.duckdb_functions() WHERE NOT internal AND macro_definition IS NOT NULL";

/// Whether a plan of the text decides what each run should.
pub(super) fn is_frozen_by_plan(sql: &str) -> bool {
    contains_any_word(sql, WORDS)
        || stands_anywhere(sql, AGE) && called(sql, [AGE].into_iter()).is_some()
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
        if may_read_files(&definition) {
            connection.note_definitions_that_read_files();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineOptions;
    use crate::engine::open::open_database;

    /// The functions of DuckDB whose answer is not always the same, or that are about the present: but for those in
    /// [`WORDS`] and [`AGE`], a plan asks them anew, or they tell what is the same for as long as it is kept.
    const ASKED_ANEW: &[&str] = &[
        "current_connection_id",
        "current_database",
        "current_date",
        "current_query",
        "current_schema",
        "current_schemas",
        "current_setting",
        "currval",
        "error",
        "gen_random_uuid",
        "get_current_time",
        "get_current_timestamp",
        "in_search_path",
        "nextval",
        "now",
        "random",
        "setseed",
        "sleep_ms",
        "stats",
        "today",
        "transaction_timestamp",
        "txid_current",
        "uuid",
        "uuidv4",
        "uuidv7",
        "write_log",
    ];

    const VARYING_SQL: &str = "
        SELECT DISTINCT function_name FROM duckdb_functions()
        WHERE function_type = 'scalar'
            AND (stability <> 'CONSISTENT' OR regexp_matches(function_name, '^(age$|current|local|transaction|txid)'))
        ORDER BY ALL";

    #[test]
    fn duckdb_has_no_function_of_which_nobody_knows_whether_a_plan_freezes_it() {
        let opened = open_database(&EngineOptions::in_memory()).unwrap();
        let connection = opened.database.connect().unwrap();
        let found = rows(&connection, &opened.lossless, VARYING_SQL).unwrap();
        let found = (0..found.num_rows()).map(|row| text(found.column(0), row));
        let unknown: Vec<_> = found
            .filter(|name| {
                !is_frozen_by_plan(&format!("{name}()")) && !ASKED_ANEW.contains(&name.as_str())
            })
            .collect();
        assert_eq!(unknown, [""; 0]);
    }

    #[test]
    fn an_age_is_frozen_where_it_is_called_and_a_column_of_that_name_is_not() {
        for sql in [
            "SELECT age(TIMESTAMP '2000-01-01')",
            "SELECT \"AGE\" (t) FROM times",
            "SELECT t.age() FROM times t",
            "CREATE VIEW v AS SELECT main.age(t) FROM times",
        ] {
            assert!(is_frozen_by_plan(sql), "{sql}");
        }
        for sql in [
            "SELECT age, count(*) FROM people WHERE age > 30 GROUP BY age",
            "SELECT 'age()'",
            "SELECT average(i) FROM t",
        ] {
            assert!(!is_frozen_by_plan(sql), "{sql}");
        }
    }
}
