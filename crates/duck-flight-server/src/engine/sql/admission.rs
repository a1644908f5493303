//! What a client may run: DuckDB takes SQL for trusted input, so this boundary is ours.
//!
//! A statement is judged by its kind, as DuckDB parsed it. What the kind does not tell is judged by the tokens of its script,
//! for DuckDB does not tell either which part of a script a statement is. What is in doubt is refused.

pub(super) mod explained;
mod functions;
mod own_tables;
mod replayed;

use std::cell::RefCell;

use explained::explained;
pub(super) use functions::called;
pub(in crate::engine) use replayed::{
    check_beside, check_replay, remember_server_zone, warn_of_indexes,
};

use super::deed::{Asked, Deed};
use super::tokens::{Token, Tokens, contains_word, count_pairs, is_certain, statements};
use crate::engine::ffi::StatementKind;
use crate::error::{Error, Result};

/// Why the server's own tables are left alone.
pub(in crate::engine) const OWN_TABLES: &str = "the schema duck_flight is the server's own: its tables can be read, and rows of duck_flight.rejects deleted; \
     a producer is forgotten by the action forget_producers, or by duck-load --forget";

/// Why no database gets another name.
const RENAMES: &str = "ALTER DATABASE would rename it for every client";

const COMMENTS_ON_INDEX: &str = "DuckDB 1.5.5 may take an index away with a comment on it, and could not open the database again: comment on its table, \
     or on a column";

const DISGUISED: &str = "DuckDB 1.5.5 takes this for an alteration of a table: write ALTER TABLE. Of a view there is RENAME TO only, and of a \
     sequence OWNED BY";
const UNREADABLE: &str = "it cannot be told which table is altered: send the ALTER alone, without white space beyond ASCII, and put names in double \
     quotes that end a statement with a letter beyond ASCII";

const FILES: &str = "COPY, EXPORT and IMPORT use files of the server, which clients cannot: save a result on your side \
     (duck-query --format csv 'FROM t' > FILE), and load a file by a put (the README shows how)";
const ATTACHES: &str = "ATTACH and DETACH would change every client's databases";
const SEEDS: &str = "a definition that calls setseed() would set the seed of clients that do not know; call it in a query";
const SECRETS: &str = "CREATE SECRET would keep it for every client, and there is nothing on the server to use it for";
const PRAGMAS: &str =
    "this PRAGMA changes the server or writes on it; use SET for settings of the session";
const SETS_GLOBAL: &str = "SET GLOBAL would change every client's results; use SET SESSION";
const PROGRESS_BAR: &str =
    "the progress bar would be printed on the server; poll for a query to see how far it is";
/// DuckDB plans with a table's statistics, and runs the plan again whatever has been committed since.
const PREPARES: &str = "PREPARE would keep a plan that leaves out rows of later commits; use a prepared statement of Flight SQL, as drivers do, or \
     run the statement itself";

/// Whether a statement that is admitted may leave something behind in the session, or why it is not admitted.
type Verdict = std::result::Result<bool, &'static str>;

/// Refuses a script for what DuckDB would do before it can be asked of what kind a statement is: to plan one that reads a
/// file opens the file, and some functions do their work when they are planned; and of a secret DuckDB would say to load an
/// extension for it.
pub(in crate::engine) fn check_before_planning(sql: &str) -> Result<()> {
    let refusal = functions::refusal(sql)
        .or_else(|| refused_when_planned(sql))
        .or_else(|| creates_secret(sql).then_some(SECRETS));
    refusal.map_or(Ok(()), |reason| Err(Error::Forbidden(reason)))
}

/// Admits the statements of a script that was checked before, or refuses them.
pub(in crate::engine) struct Gate<'a> {
    sql: &'a str,
    /// The verdicts on the kinds of statement that were asked about.
    verdicts: RefCell<Vec<(StatementKind, Verdict)>>,
}

impl<'a> Gate<'a> {
    pub(in crate::engine) fn new(sql: &'a str) -> Self {
        Self {
            sql,
            verdicts: RefCell::default(),
        }
    }

    /// Refuses what one client must not do to all others. Answers whether the statement may leave something behind in
    /// the session.
    pub(in crate::engine) fn admit(&self, kind: StatementKind) -> Result<bool> {
        let mut verdicts = self.verdicts.borrow_mut();
        let known = verdicts.iter().find(|(of, _)| *of == kind);
        let verdict = match known {
            Some((_, verdict)) => *verdict,
            None => {
                let verdict = judge(kind, self.sql);
                verdicts.push((kind, verdict));
                verdict
            }
        };
        verdict.map_err(Error::Forbidden)
    }
}

fn judge(kind: StatementKind, sql: &str) -> Verdict {
    if kind != StatementKind::Select && own_tables::may_be_changed(sql) {
        return Err(OWN_TABLES);
    }
    let sets_seed = functions::sets_seed(sql);
    if kind != StatementKind::Explain {
        return judge_kind(kind, sql, sets_seed);
    }
    let mut leaves_traces = sets_seed;
    for kind in explained::kinds(sql)? {
        judge_kind(kind, sql, sets_seed)?;
        leaves_traces |= kind != StatementKind::Select;
    }
    Ok(leaves_traces)
}

fn judge_kind(kind: StatementKind, sql: &str, sets_seed: bool) -> Verdict {
    match kind {
        StatementKind::Select | StatementKind::Rows => Ok(sets_seed),
        StatementKind::Explain | StatementKind::Pragma => Err(PRAGMAS),
        StatementKind::Copy => Err(FILES),
        StatementKind::Prepare => Err(PREPARES),
        StatementKind::Attach => Err(ATTACHES),
        StatementKind::Definition | StatementKind::Alteration if sets_seed => Err(SEEDS),
        StatementKind::Definition if may_create_secret(sql) => Err(SECRETS),
        StatementKind::Alteration if may_rename_database(sql) => Err(RENAMES),
        StatementKind::Definition => functions::refused_drop(sql).map_or(Ok(true), Err),
        StatementKind::Alteration | StatementKind::Transaction => Ok(true),
        StatementKind::Set if may_contain(sql, "global") => Err(SETS_GLOBAL),
        StatementKind::Set if sql.to_ascii_lowercase().contains("progress_bar") => {
            Err(PROGRESS_BAR)
        }
        StatementKind::Set => Ok(true),
        StatementKind::Call | StatementKind::Other => judge_others(sql),
    }
}

/// Judges a script for a CALL, which a CHECKPOINT is, too, and for what DuckDB does not call by a kind that we know: EXECUTE,
/// VACUUM, LOAD.
fn judge_others(sql: &str) -> Verdict {
    for mut statement in statements(sql) {
        if statement.accept(&["force"]) && statement.accept(&["checkpoint"]) {
            return Err(functions::FORCED_CHECKPOINT);
        }
    }
    if contains_word(sql, "copy_database") {
        return Err(FILES);
    }
    if !is_certain(sql) && may_contain(sql, "force") {
        return Err(functions::FORCED_CHECKPOINT);
    }
    Ok(true)
}

/// Why a script is refused for a COPY, EXPORT or IMPORT, which open files when they are planned, for a PRAGMA that is turned into
/// one when it is parsed, or for a PREPARE, which may plan one; explained ones included. In doubt it may hold one.
fn refused_when_planned(sql: &str) -> Option<&'static str> {
    let refusal = |mut statement: Tokens<'_>| {
        if let Some(explained) = explained(statement.clone()) {
            statement = explained.statement;
        }
        if statement.accept(&["prepare"]) {
            return Some(PREPARES);
        }
        if statement.accept(&["pragma"]) {
            let name = statement.next().and_then(Token::name);
            return name.is_some_and(is_file_pragma).then_some(FILES);
        }
        let copies = statement.accept(&["copy", "export", "import"]);
        copies.then_some(FILES)
    };
    let in_doubt = || {
        let may_be_one = |word: &&str| may_contain(sql, word);
        let may_open = may_contain(sql, "copy") || FILE_PRAGMAS.iter().any(may_be_one);
        (!is_certain(sql) && may_open).then_some(FILES)
    };
    statements(sql).find_map(refusal).or_else(in_doubt)
}

/// The PRAGMAs that open files: to parse the first one reads `schema.sql` and `load.sql`.
const FILE_PRAGMAS: &[&str] = &["import_database", "copy_database"];

fn is_file_pragma(name: &str) -> bool {
    let mut pragmas = FILE_PRAGMAS.iter();
    pragmas.any(|pragma| pragma.eq_ignore_ascii_case(name))
}

/// Whether the text of a view or a macro calls functions that read files, or may do so.
pub(super) fn may_read_files(definition: &str) -> bool {
    functions::may_read_files(definition)
}

/// Whether a word is part of a script outside of texts and comments; in doubt, whether it stands in it at all, between whatever
/// cannot be part of a keyword.
pub(super) fn may_contain(sql: &str, word: &str) -> bool {
    match is_certain(sql) {
        true => contains_word(sql, word),
        false => {
            let is_escaped = sql.to_ascii_lowercase().contains("u&\"");
            is_escaped || ascii_words(sql).any(|found| found.eq_ignore_ascii_case(word))
        }
    }
}

/// What may be a keyword in a script that is in doubt: what stands before and behind ASCII letters may be part of a name, or
/// white space.
fn ascii_words(sql: &str) -> impl Iterator<Item = &str> {
    let words = sql.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    // A word may begin where a number ends.
    words.map(|word| word.trim_start_matches(|c: char| c.is_ascii_digit()))
}

/// Whether a script may create a secret.
fn may_create_secret(sql: &str) -> bool {
    creates_secret(sql) || !is_certain(sql) && may_contain(sql, "secret")
}

/// Whether a script creates a secret, as far as that is certain.
fn creates_secret(sql: &str) -> bool {
    let creates_one = |mut statement: Tokens<'_>| {
        let creates = statement.accept(&["create"]);
        while statement.accept(&["or", "replace", "persistent", "temp", "temporary"]) {}
        creates && statement.accept(&["secret"])
    };
    statements(sql).any(creates_one)
}

/// Refuses a comment on an index. Where it is rolled back, be it because its commit fails, DuckDB 1.5.5 takes the index away
/// (`DuckIndexEntry::Rollback`), and after the next checkpoint the database cannot be opened any more.
pub(in crate::engine) fn check_comment(asked: Asked<'_>) -> Result<()> {
    match may_comment_on_index(asked) {
        true => Err(Error::Unimplemented(COMMENTS_ON_INDEX.to_owned())),
        false => Ok(()),
    }
}

fn may_comment_on_index(asked: Asked<'_>) -> bool {
    match asked.deed {
        Deed::CommentsOnIndex => true,
        Deed::Doubt => {
            let is_alteration = asked.kind == StatementKind::Alteration;
            is_alteration && asked.says("comment") && asked.says("index")
        }
        _ => false,
    }
}

/// Refuses to alter a table where it cannot be told which one, for others must be kept from it, and to do so by the word for
/// something else.
pub(in crate::engine) fn check_altered(asked: Asked<'_>) -> Result<()> {
    let is_unreadable = match asked.deed {
        Deed::Disguised => return Err(Error::Unimplemented(DISGUISED.to_owned())),
        Deed::Alters { table, .. } => table.is_none(),
        Deed::Doubt if asked.kind == StatementKind::Explain => may_explain_alteration(asked.script),
        Deed::Doubt => asked.kind == StatementKind::Alteration && asked.says("alter"),
        _ => false,
    };
    match is_unreadable {
        true => Err(Error::Forbidden(UNREADABLE)),
        false => Ok(()),
    }
}

/// Whether a script may give a database another name.
fn may_rename_database(sql: &str) -> bool {
    match count_pairs(sql, "alter", "database") {
        Some((_, pairs)) => pairs > 0,
        None => may_contain(sql, "database"),
    }
}

/// Whether a script that is in doubt may make something temporary.
pub(in crate::engine) fn may_create_temporary(sql: &str) -> bool {
    let is_any = |word: &str, of: &[&str]| of.iter().any(|it| word.eq_ignore_ascii_case(it));
    let mut last = "";
    let mut words = ascii_words(sql).filter(|word| !word.is_empty());
    words.any(|word| {
        let before = std::mem::replace(&mut last, word);
        is_any(word, &["temp", "temporary"])
            && is_any(before, &["create", "replace", "local", "global"])
    })
}

/// Whether a script explains a statement that defines or alters something, or may do so.
pub(in crate::engine) fn may_explain_definition(sql: &str) -> bool {
    may_explain(sql, &[StatementKind::Definition, StatementKind::Alteration])
}

/// Whether a script explains a statement that alters something, or may do so.
pub(in crate::engine) fn may_explain_alteration(sql: &str) -> bool {
    may_explain(sql, &[StatementKind::Alteration])
}

fn may_explain(sql: &str, wanted: &[StatementKind]) -> bool {
    let is_wanted = |kind: &StatementKind| wanted.contains(kind);
    explained::kinds(sql).map_or(true, |kinds| kinds.iter().any(is_wanted))
}

#[cfg(test)]
mod tests {
    use super::super::tokens::reads_of_each;
    use super::*;

    fn admitted(kind: StatementKind, sql: &str) -> bool {
        check_before_planning(sql).is_ok() && Gate::new(sql).admit(kind).is_ok()
    }

    #[test]
    fn what_changes_others_is_refused() {
        use StatementKind::{
            Alteration, Call, Copy, Definition, Explain, Other, Prepare, Rows, Set,
        };
        for (kind, sql) in [
            (Other, "FORCE CHECKPOINT"),
            (Other, "SELECT 1; /* */ force checkpoint"),
            (Other, "\u{a0}FORCE CHECKPOINT"),
            (Prepare, "PREPARE p AS COPY t TO 'x'"),
            (Prepare, "PREPARE p AS SELECT 1"),
            (Prepare, "SELECT é; PREPARE p AS SELECT 1"),
            (Other, "SELECT 1; /* */ prepare \"as\" AS CALL f()"),
            (Explain, "EXPLAIN PREPARE p AS SELECT 1"),
            (Other, "COPY FROM DATABASE a TO b"),
            (Other, "PRAGMA copy_database('a', 'b')"),
            (Other, "PRAGMA import_database('x')"),
            (Other, "SELECT 1; pragma \"Import_Database\"('x')"),
            (Other, "SELECT é; PRAGMA import_database('x')"),
            (Call, "CALL f(); FORCE CHECKPOINT"),
            (Copy, "SELECT é; écopy t TO 'x'"),
            (Copy, "SELECT é;1copy t TO 'x'"),
            (Copy, "SELECT é; \u{a0}Copy\u{a0}t TO 'x'"),
            (Other, "PREPARE p AS SELECT é; COPY FROM DATABASE a TO b"),
            (Other, "EXECUTE p(query('x'))"),
            (Copy, "COPY t TO 'x'"),
            (Copy, "/* */ Copy (SELECT 1) TO 'x'"),
            (Copy, "SELECT 1; EXPORT DATABASE 'x'"),
            (Rows, "SELECT é; COPY t FROM 'x'"),
            (Explain, "EXPLAIN (ANALYZE) COPY t FROM 'x'"),
            (Explain, "EXPLAIN VERBOSE COPY t FROM 'x'"),
            (Explain, "EXPLAIN ANALYZE VERBOSE COPY t FROM 'x'"),
            (Set, "SET GLOBAL x = 1"),
            (Set, "RESET /* */ Global x"),
            (Set, "é; SET global\u{a0}x = 1"),
            (Set, "SET enable_progress_bar = true"),
            (Definition, "CREATE SECRET s (TYPE http)"),
            (Definition, "create or replace temporary Secret (TYPE http)"),
            (Definition, "SELECT é; CREATE SECRET s (TYPE http)"),
            (Definition, "CREATE VIEW v AS SELECT setseed(1)"),
            (Alteration, "ALTER DATABASE a SET ALIAS TO b"),
            (Alteration, "SELECT é; ALTER DATABASE a SET ALIAS TO b"),
            (Rows, "DELETE FROM ONLY duck_flight.sequences"),
        ] {
            assert!(!admitted(kind, sql), "{sql}");
        }
    }

    #[test]
    fn what_only_has_such_words_is_admitted() {
        use StatementKind::{Alteration, Call, Definition, Explain, Rows, Select, Set};
        for (kind, sql) in [
            (Call, "CHECKPOINT"),
            (Call, "CALL f('copy', 'force checkpoint', 'prepare')"),
            (
                Select,
                "SELECT prénom FROM livres WHERE genre = 'photocopy'",
            ),
            (Select, "SELECT größe, copyright FROM bilder"),
            (Definition, "CREATE TABLE größen (secretary INTEGER)"),
            (Alteration, "ALTER TABLE database_log ADD größe INTEGER"),
            (Set, "SET VARIABLE größe = 'globally'"),
            (Explain, "EXPLAIN SELECT größe, 'explained' FROM t"),
            (Rows, "INSERT INTO t SELECT 'pragma import_database'"),
            (Rows, "INSERT INTO copy SELECT prepare FROM prepare"),
            (Set, "SET VARIABLE x = 'global'"),
            (Definition, "CREATE TABLE secret (secret INTEGER)"),
            (Definition, "CREATE VIEW v AS SELECT 'setseed(1)' AS e"),
            (Alteration, "COMMENT ON TABLE t IS 'alter database'"),
            (Alteration, "ALTER TABLE t ADD COLUMN größe INTEGER"),
            (Rows, "INSERT INTO log VALUES ('query (12s)')"),
            (Rows, "INSERT INTO copy SELECT export AS copy FROM import"),
        ] {
            assert!(admitted(kind, sql), "{sql}");
        }
    }

    #[test]
    fn what_explain_runs_leaves_what_it_would_leave_itself() {
        for (sql, leaves_traces) in [
            ("EXPLAIN ANALYZE SELECT 1", false),
            ("EXPLAIN ANALYZE SELECT setseed(1)", true),
            ("EXPLAIN ANALYZE INSERT INTO t VALUES (1)", true),
            ("EXPLAIN ANALYZE CREATE TEMP TABLE t (i INTEGER)", true),
        ] {
            let verdict = Gate::new(sql).admit(StatementKind::Explain);
            assert_eq!(verdict.unwrap(), leaves_traces, "{sql}");
        }
        assert!(!admitted(
            StatementKind::Explain,
            "EXPLAIN ANALYZE SET x = 1"
        ));
        let seeds = "EXPLAIN ANALYZE CREATE VIEW v AS SELECT setseed(1)";
        assert!(!admitted(StatementKind::Explain, seeds));
    }

    /// What could make each statement, or each word, of a script look through what follows.
    const REPEATED: &[&str] = &[
        "explain(;",
        "explain(",
        "explain (a) (b) (",
        "explain analyze(;explain;",
        "prepare p(;",
        "prepare p(",
        "prepare;",
        "explain prepare p(;",
        "update.",
        "t; update t.",
        "delete from only(a.",
        "into only",
        "with ",
        "explain with a;",
        "create or replace ",
        "create secret;",
        "alter database;",
        "comment on column a.b.",
        "drop schema 'a'",
        "explain drop macro a;",
        "force checkpoint;",
        "set x = f(1);",
        "a.b(",
        ";",
        "(",
        "/**/ e'\\'' $$;$$",
    ];

    #[test]
    fn a_long_script_is_looked_through_no_more_often_than_a_short_one() {
        use StatementKind::{
            Alteration, Attach, Call, Copy, Definition, Explain, Other, Pragma, Prepare, Rows,
            Select, Set, Transaction,
        };
        let kinds = [
            Alteration,
            Attach,
            Call,
            Copy,
            Definition,
            Explain,
            Other,
            Pragma,
            Prepare,
            Rows,
            Select,
            Set,
            Transaction,
        ];
        for part in REPEATED {
            // With the doubt, and without it.
            for end in ["", "\u{a0} force checkpoint"] {
                let sql = format!("{}{end}", part.repeat(1 << 12));
                let reads = reads_of_each(&sql, || {
                    check_before_planning(&sql).ok();
                    for kind in kinds {
                        Gate::new(&sql).admit(kind).ok();
                    }
                    may_create_temporary(&sql);
                    may_explain_definition(&sql);
                    may_read_files(&sql);
                });
                assert!(reads < 400, "{part}: {reads}");
            }
        }
    }

    #[test]
    fn a_comment_on_an_index_is_told_from_others() {
        for (sql, is_one) in [
            ("COMMENT ON INDEX i IS 'x'", true),
            ("comment /* */ on\nIndex s.i is null", true),
            ("COMMENT ON INDEX größe IS 'x'", true),
            (";\u{a0}COMMENT ON INDEX i IS 'x'", true),
            ("COMMENT ON TABLE index IS 'comment on index i'", false),
            ("COMMENT ON COLUMN t.größe IS 'of an index'", false),
            ("ALTER TABLE comment RENAME COLUMN on TO index", false),
        ] {
            let deed = Deed::of(sql);
            let asked = Asked {
                kind: StatementKind::Alteration,
                deed: &deed,
                script: sql,
            };
            assert_eq!(may_comment_on_index(asked), is_one, "{sql}");
        }
        let in_doubt = Asked {
            kind: StatementKind::Alteration,
            deed: &Deed::Doubt,
            script: "COMMENT ON TABLE é IS 'x'; COMMENT ON INDEX i IS 'y'",
        };
        assert!(may_comment_on_index(in_doubt));
    }

    #[test]
    fn an_alter_is_refused_where_it_cannot_be_told_of_which_table() {
        use StatementKind::{Alteration, Explain};
        for (kind, sql, is_let) in [
            (
                Alteration,
                "ALTER TABLE größe ADD COLUMN länge INTEGER",
                true,
            ),
            (Alteration, ";ALTER TABLE t ADD\u{a0}COLUMN i INTEGER", true),
            (
                Alteration,
                "\u{feff} ALTER TABLE t ADD COLUMN i INTEGER",
                true,
            ),
            (Alteration, "ALTER VIEW größe RENAME TO w", true),
            (Alteration, "ALTER SEQUENCE s OWNED BY t", true),
            (Alteration, "COMMENT ON TABLE größe IS 'alter'", true),
            (Explain, "EXPLAIN ALTER TABLE t\u{a0}u DROP i", true),
            (
                Explain,
                "EXPLAIN ANALYZE WITH c AS (SELECT größe, \"alter\" FROM t) FROM c",
                true,
            ),
            (Alteration, "ALTER TABLE t\u{a0}ADD COLUMN i INTEGER", false),
            (
                Alteration,
                "ALTER TABLE t\u{a0}u ADD COLUMN i INTEGER",
                false,
            ),
            (
                Alteration,
                "ALTER TABLE s\u{a0}.t ADD COLUMN i INTEGER",
                false,
            ),
            (
                Explain,
                "EXPLAIN ANALYZE ALTER TABLE t\u{a0}u DROP i",
                false,
            ),
            (Alteration, "ALTER VIEW t ALTER c SET NOT NULL", false),
            (Alteration, "ALTER INDEX t ADD PRIMARY KEY (c)", false),
        ] {
            let asked = Asked {
                kind,
                deed: &Deed::of(sql),
                script: sql,
            };
            assert_eq!(check_altered(asked).is_ok(), is_let, "{sql}");
        }
    }

    #[test]
    fn a_create_that_is_in_doubt_may_be_temporary_where_its_words_say_so() {
        for (sql, may_be) in [
            ("\u{a0}CREATE TEMP TABLE t (i INTEGER)", true),
            ("create or\u{a0}replace temporary view v AS SELECT 1", true),
            ("CREATE\u{a0}LOCAL TEMP TABLE t (i INTEGER)", true),
            ("\u{feff}CREATE TABLE weather (temp DOUBLE)", false),
            ("CREATE\u{a0}TABLE temp (i INTEGER)", false),
        ] {
            assert_eq!(may_create_temporary(sql), may_be, "{sql}");
        }
    }
}
