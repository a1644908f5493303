//! What a plan decides once for all its runs, so that the plan is not kept.
//!
//! DuckDB takes the local time when it plans (`now()` and the others it takes anew each time), and the numbers of transaction
//! and query, and draws a sample by the plan. A view, a macro or a generated column may do so without a word of it in the query.

use std::sync::atomic::{AtomicBool, Ordering};

use super::admission::{called, may_read_files};
use super::tokens::{Token, contains_any_word, contains_word, stands_anywhere, tokens};
use crate::engine::Lossless;
use crate::engine::catalog::{rows, text, texts};
use crate::engine::ffi::Connection;
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

/// Words of which one is in each statement that defines a view or a macro.
const DEFINING: &[&str] = &["function", "macro", "view"];

/// The views and macros of clients.
const DEFINITIONS_SQL: &str = "
    SELECT sql FROM system.main.duckdb_views() WHERE NOT internal
    UNION ALL
    SELECT macro_definition FROM system.main.duckdb_functions() WHERE NOT internal AND macro_definition IS NOT NULL";

/// The tables of clients that have generated columns.
const GENERATING_SQL: &str = "
    SELECT sql FROM system.main.duckdb_tables() WHERE NOT internal AND system.main.contains(sql, 'GENERATED')";

/// Whether a plan of the text decides what each run should.
pub(in crate::engine) fn is_frozen_by_plan(sql: &str) -> bool {
    contains_any_word(sql, WORDS)
        || stands_anywhere(sql, AGE) && called(sql, [AGE].into_iter()).is_some()
}

/// Whether a script may define what stands in queries of others for something else. In doubt it may where the words stand in it.
fn may_define(sql: &str) -> bool {
    contains_any_word(sql, DEFINING) || contains_word(sql, "table") && may_generate(sql)
}

/// Whether a script has what each generated column has: AS, and then its expression in parentheses.
fn may_generate(sql: &str) -> bool {
    let mut is_after_as = false;
    for token in tokens(sql) {
        if token == Token::Doubt {
            return stands_anywhere(sql, "as");
        }
        if is_after_as && token == Token::Symbol('(') {
            return true;
        }
        is_after_as = token.is("as");
    }
    false
}

/// Whether any view, macro or generated column may be of that kind. Once it is so it stays so.
#[derive(Default)]
pub(in crate::engine) struct FrozenDefinitions(AtomicBool);

impl FrozenDefinitions {
    /// Whether there may be one.
    pub(in crate::engine) fn may_be(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Records a script that may define one. To be called before it runs.
    pub(in crate::engine) fn note(&self, sql: &str) {
        if may_define(sql) {
            self.add(sql);
        }
    }

    fn add(&self, definition: &str) {
        if is_frozen_by_plan(definition) {
            self.0.store(true, Ordering::Release);
        }
    }
}

/// Notes what definitions that are there already freeze in a plan, and whether they read files.
pub(in crate::engine) fn note_existing_definitions(
    connection: &Connection,
    lossless: &Lossless,
) -> Result<()> {
    let found = rows(connection, lossless, DEFINITIONS_SQL)?;
    for row in 0..found.num_rows() {
        let definition = text(found.column(0), row);
        connection.frozen_definitions().add(&definition);
        if may_read_files(&definition) {
            connection.note_definitions_that_read_files();
        }
    }
    for [table] in texts(connection, GENERATING_SQL)? {
        connection.frozen_definitions().note(&table);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineOptions;
    use crate::engine::storage::open::open_database;

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

    #[test]
    fn only_what_defines_something_freezes_the_plans_of_others() {
        for sql in [
            "CREATE TABLE s (sample INTEGER)",
            "INSERT INTO m (sample) VALUES (1)",
            "CREATE TABLE x AS SELECT * FROM t USING SAMPLE 10%",
            "CREATE TABLE d (c TIME DEFAULT current_localtime())",
            "UPDATE p SET a = age(b)",
            "WITH c AS (SELECT age(b) AS a FROM p) INSERT INTO q FROM c",
            "CREATE VIEW v AS SELECT 1",
            "CREATE TABLE g (b INTEGER, c INTEGER AS (b + 1))",
        ] {
            let frozen = FrozenDefinitions::default();
            frozen.note(sql);
            assert!(!frozen.may_be(), "{sql}");
        }
        for sql in [
            "CREATE VIEW v AS FROM t USING SAMPLE 10%",
            "create or replace temp view v as select age(b) from p",
            "CREATE MACRO m() AS current_localtime()",
            "CREATE FUNCTION f(x) AS TABLE FROM t TABLESAMPLE 5 ROWS",
            "SELECT é; CREATE VIEW v AS SELECT age(b) FROM p",
            "CREATE TABLE g (b TIMESTAMP, a INTERVAL AS (age(b)))",
            "CREATE TABLE g (b INTEGER, a TIME GENERATED ALWAYS AS(current_localtime()) VIRTUAL)",
            "CREATE TABLE größe (b TIMESTAMP, a INTERVAL AS (age(b)))",
        ] {
            let frozen = FrozenDefinitions::default();
            frozen.note(sql);
            assert!(frozen.may_be(), "{sql}");
        }
    }

    #[test]
    fn what_was_defined_before_the_start_is_found() {
        for (sql, expected) in [
            ("CREATE TABLE s (sample INTEGER, c INTEGER)", false),
            ("CREATE TABLE g (b TIMESTAMP, a INTERVAL AS (age(b)))", true),
            ("CREATE MACRO m() AS current_localtime()", true),
            ("CREATE VIEW v AS SELECT age(now()::TIMESTAMP)", true),
        ] {
            let opened = open_database(&EngineOptions::in_memory()).unwrap();
            let connection = opened.database.connect().unwrap();
            connection.execute(sql).unwrap();
            note_existing_definitions(&connection, &opened.lossless).unwrap();
            assert_eq!(connection.frozen_definitions().may_be(), expected, "{sql}");
        }
    }
}
