//! What a statement does, read from its words once, for everybody who must know it before it runs.
//!
//! DuckDB tells of what kind a statement is, but not what it is about. So its head is read as DuckDB's grammar has it, up to the word
//! that decides and the name behind that. Where a [`Token::Doubt`] comes first nothing is certain; one that comes later does not matter.

use super::admission::explained::explained;
use super::admission::may_contain;
use super::tokens::{Token, Tokens, statements};
use crate::engine::ffi::StatementKind;

/// A name with its qualifiers, as DuckDB knows them; `None` where it is not certain.
pub(in crate::engine) type Named = Option<Vec<String>>;

/// What may stand between CREATE and the kind of what is made.
const BEFORE_KIND: &[&str] = &[
    "global",
    "local",
    "persistent",
    "recursive",
    "temp",
    "temporary",
    "unique",
    "unlogged",
];

/// Words of which one is in each statement that deletes or changes rows.
pub(in crate::engine) const CHANGING: &[&str] =
    &["delete", "merge", "replace", "truncate", "update"];

/// What ALTER does to a column that leaves the rows where they are.
const KEEPING: &[&[&str]] = &[
    &["set", "default"],
    &["drop", "default"],
    &["drop", "not", "null"],
];

/// What a statement does.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::engine) enum Deed {
    /// It reads, or is only explained, or is about the session.
    Nothing,
    /// Its words do not tell: its kind and its script must do.
    Doubt,
    Alters {
        table: Named,
        how: How,
    },
    /// Alters a table, called a view, an index or a sequence: DuckDB takes that for the table, too.
    Disguised,
    Creates {
        what: What,
        name: Named,
        /// Whether it takes the place of what has the name.
        replaces: bool,
        is_temporary: bool,
        /// Whether it makes nothing where the name is taken.
        may_be_there: bool,
        /// Whether it is a table that a query fills.
        is_filled: bool,
    },
    MakesIndex {
        name: Option<String>,
        table: Named,
    },
    Drops {
        what: What,
        name: Named,
        /// Whether what depends on it goes, too.
        cascades: bool,
    },
    CommentsOnIndex,
    /// Defines something that leaves all rows where they are.
    Defines,
    Writes {
        table: Named,
        change: Change,
    },
}

/// How a table is altered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum How {
    Renames,
    /// Leaves its rows where they are.
    Keeps,
    /// Makes new values of a column, be it for a field of it that comes, goes or gets another name.
    ChangesType,
    /// Makes a primary key.
    AddsKey,
    /// Puts its rows into another storage in another way.
    Moves,
    /// In one of these ways: it is in doubt which.
    Any,
}

/// What is made or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum What {
    Table,
    Schema,
    Index,
    Type,
    Sequence,
    Macro,
    Other,
}

/// How rows are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Change {
    Adds,
    /// Leaves rows in their places where no column of an index is changed.
    Updates,
    /// May take rows away that are there.
    Deletes,
}

impl Deed {
    /// Reads a statement: what it does, or what the one does that it explains, where that is run.
    pub(in crate::engine) fn of(text: &str) -> Self {
        let Some(statement) = statements(text).next() else {
            return Self::Nothing;
        };
        match explained(statement.clone()) {
            None => read(statement),
            Some(explained) if explained.kind.is_none() => Self::Doubt,
            Some(explained) if explained.is_run => read(explained.statement),
            Some(_) => Self::Nothing,
        }
    }
}

/// A statement, as those are asked about it who must know what it does.
#[derive(Clone, Copy)]
pub(in crate::engine) struct Asked<'a> {
    pub(in crate::engine) kind: StatementKind,
    pub(in crate::engine) deed: &'a Deed,
    pub(in crate::engine) script: &'a str,
}

impl<'a> Asked<'a> {
    /// Whether it defines something by its kind, or explains what may.
    pub(in crate::engine) fn may_define(self) -> bool {
        matches!(
            self.kind,
            StatementKind::Definition | StatementKind::Alteration | StatementKind::Explain
        )
    }

    /// Whether a word is part of its script, or may be.
    pub(in crate::engine) fn says(self, word: &str) -> bool {
        may_contain(self.script, word)
    }

    /// Of which table it may delete or change rows that are there, and how; `None` where it does neither.
    pub(in crate::engine) fn change(self) -> Option<(Change, Option<&'a [String]>)> {
        if !matches!(self.kind, StatementKind::Rows | StatementKind::Explain) {
            return None;
        }
        match self.deed {
            Deed::Writes {
                change: Change::Adds,
                ..
            } => None,
            Deed::Writes { table, change } => Some((*change, table.as_deref())),
            Deed::Doubt => {
                let may_change = CHANGING.iter().any(|word| self.says(word));
                may_change.then_some((Change::Deletes, None))
            }
            _ => None,
        }
    }

    /// To which table it may write rows, and how; `None` where it writes none.
    pub(in crate::engine) fn write(self) -> Option<(Change, Option<&'a [String]>)> {
        if let Some(change) = self.change() {
            return Some(change);
        }
        if !matches!(self.kind, StatementKind::Rows | StatementKind::Explain) {
            return None;
        }
        match self.deed {
            Deed::Writes { table, .. } => Some((Change::Adds, table.as_deref())),
            Deed::Doubt => self.says("insert").then_some((Change::Adds, None)),
            _ => None,
        }
    }
}

/// A name without its qualifiers.
pub(in crate::engine) fn own_name(name: Option<&[String]>) -> Option<&str> {
    name?.last().map(String::as_str)
}

fn read(mut statement: Tokens<'_>) -> Deed {
    let before = statement.clone();
    if statement.accept(&["with"]) && !skip_queries(&mut statement) {
        // Only what reads or changes rows has queries before it.
        let change = match CHANGING.iter().any(|word| before.may_say(word)) {
            true => Change::Deletes,
            false => Change::Adds,
        };
        return Deed::Writes {
            table: None,
            change,
        };
    }
    let rest = &mut statement;
    if rest.accept(&["alter"]) {
        return alteration(rest);
    }
    if rest.accept(&["create"]) {
        return creation(rest);
    }
    if rest.accept(&["drop"]) {
        return removal(rest);
    }
    if rest.accept(&["comment"]) {
        return comment(rest);
    }
    if rest.accept(&["insert"]) {
        return insertion(rest);
    }
    if rest.accept(&["update"]) {
        return writes(rest, Change::Updates);
    }
    if rest.accept(&["truncate"]) {
        rest.accept(&["table"]);
        return writes(rest, Change::Deletes);
    }
    for (verb, before_table) in [("delete", "from"), ("merge", "into")] {
        if rest.accept(&[verb]) {
            return match rest.accept(&[before_table]) {
                true => writes(rest, Change::Deletes),
                false => Deed::Doubt,
            };
        }
    }
    match rest.peek() {
        Some(Token::Doubt) => Deed::Doubt,
        // What it runs stands elsewhere.
        Some(first) if first.is("execute") => Deed::Doubt,
        _ => Deed::Nothing,
    }
}

/// Takes the queries that follow WITH. Answers whether it is certain where they end.
fn skip_queries(rest: &mut Tokens<'_>) -> bool {
    let mut depth = 0_usize;
    while let Some(token) = rest.next() {
        match token {
            Token::Doubt => return false,
            Token::Symbol('(') => depth += 1,
            Token::Symbol(')') if depth > 1 => depth -= 1,
            Token::Symbol(')') => {
                depth = 0;
                // Before these stand columns, or a query that another one follows.
                let goes_on =
                    |next: Token<'_>| next == Token::Symbol(',') || next.is_any(&["as", "using"]);
                if !rest.peek().is_some_and(goes_on) {
                    return true;
                }
            }
            _ => {}
        }
    }
    false
}

fn writes(rest: &mut Tokens<'_>, change: Change) -> Deed {
    Deed::Writes {
        table: rest.relation(),
        change,
    }
}

fn insertion(rest: &mut Tokens<'_>) -> Deed {
    let replaces = rest.accept_all(&["or", "replace"]);
    rest.accept_all(&["or", "ignore"]);
    if !rest.accept(&["into"]) {
        return Deed::Doubt;
    }
    let before = rest.clone();
    let table = rest.relation();
    let says = |word| behind(&table, rest, &before).says(word);
    let change = match replaces || says("conflict") && says("update") {
        true => Change::Deletes,
        false => Change::Adds,
    };
    Deed::Writes { table, change }
}

fn creation(rest: &mut Tokens<'_>) -> Deed {
    let Some(replaces) = rest.accept_certain(&["or", "replace"]) else {
        return Deed::Doubt;
    };
    let mut is_temporary = false;
    while let Some(word) = rest.peek().filter(|word| word.is_any(BEFORE_KIND)) {
        is_temporary |= word.is_any(&["temp", "temporary"]);
        rest.next();
    }
    let Some(what) = what(rest) else {
        return Deed::Doubt;
    };
    if what == What::Index {
        return new_index(rest);
    }
    let may_be_there = rest.accept_certain(&["if", "not", "exists"]);
    let before = rest.clone();
    let name = rest.qualified_name().filter(|_| may_be_there.is_some());
    let is_filled = what == What::Table && behind(&name, rest, &before).says("as");
    Deed::Creates {
        what,
        name,
        replaces,
        is_temporary,
        may_be_there: may_be_there.unwrap_or(true),
        is_filled,
    }
}

fn new_index(rest: &mut Tokens<'_>) -> Deed {
    rest.accept(&["concurrently"]);
    let is_certain = rest.accept_certain(&["if", "not", "exists"]).is_some();
    let name = rest.qualified_name().filter(|_| is_certain);
    let has_table = name.is_some() && rest.accept(&["on"]);
    Deed::MakesIndex {
        name: name.and_then(|mut parts| parts.pop()),
        table: has_table.then(|| rest.qualified_name()).flatten(),
    }
}

fn removal(rest: &mut Tokens<'_>) -> Deed {
    let Some(what) = what(rest) else {
        return Deed::Doubt;
    };
    let is_certain = rest.accept_certain(&["if", "exists"]).is_some();
    let before = rest.clone();
    let name = rest.qualified_name().filter(|_| is_certain);
    let cascades = behind(&name, rest, &before).says("cascade");
    Deed::Drops {
        what,
        name,
        cascades,
    }
}

/// What follows a name; in doubt where that ends, the name is a part of it.
fn behind<'a>(name: &Named, rest: &Tokens<'a>, before: &Tokens<'a>) -> Tokens<'a> {
    match name {
        Some(_) => rest.clone(),
        None => before.clone(),
    }
}

/// Takes the word for what is made or dropped. `None` in doubt.
fn what(rest: &mut Tokens<'_>) -> Option<What> {
    match rest.next()? {
        word if word.is("table") => Some(What::Table),
        word if word.is("schema") => Some(What::Schema),
        word if word.is("index") => Some(What::Index),
        word if word.is("type") => Some(What::Type),
        word if word.is("sequence") => Some(What::Sequence),
        word if word.is_any(&["macro", "function"]) => Some(What::Macro),
        Token::Word(_) => Some(What::Other),
        _ => None,
    }
}

fn comment(rest: &mut Tokens<'_>) -> Deed {
    for word in ["on", "index"] {
        match rest.next() {
            Some(Token::Doubt) => return Deed::Doubt,
            Some(token) if token.is(word) => {}
            _ => return Deed::Defines,
        }
    }
    Deed::CommentsOnIndex
}

fn alteration(rest: &mut Tokens<'_>) -> Deed {
    if rest.accept(&["table"]) {
        return Deed::Alters {
            table: rest.altered_table(),
            how: how(rest),
        };
    }
    match rest.next() {
        Some(Token::Doubt) => Deed::Doubt,
        Some(word) if word.is("view") => only(rest, &["rename", "to"]),
        Some(word) if word.is("sequence") => only(rest, &["owned", "by"]),
        Some(word) if word.is("index") => Deed::Disguised,
        _ => Deed::Defines,
    }
}

/// What an ALTER does to a view or a sequence, of which DuckDB alters only this.
fn only(rest: &mut Tokens<'_>, action: &[&str]) -> Deed {
    rest.altered_table();
    match rest.accept_certain(action) {
        Some(true) => Deed::Defines,
        Some(false) if in_doubt_or_moves(rest) == How::Moves => Deed::Disguised,
        _ => Deed::Doubt,
    }
}

/// What is done to a table.
fn how(rest: &mut Tokens<'_>) -> How {
    if rest.accept(&["rename"]) {
        if rest.accept(&["to"]) {
            return How::Renames;
        }
        rest.accept(&["column"]);
        return of_column(rest, How::Keeps);
    }
    if rest.accept(&["add"]) {
        let has_name = rest.accept(&["constraint"]);
        if has_name && rest.qualified_name().is_none() {
            return How::Any;
        }
        if rest.accept(&["primary"]) {
            return How::AddsKey;
        }
        if has_name {
            return in_doubt_or_moves(rest);
        }
        rest.accept(&["column"]);
        return match rest.accept_certain(&["if", "not", "exists"]) {
            Some(_) => of_column(rest, How::Moves),
            None => How::Any,
        };
    }
    if rest.accept(&["drop"]) {
        rest.accept(&["column"]);
        return match rest.accept_certain(&["if", "exists"]) {
            Some(_) => of_column(rest, How::Moves),
            None => How::Any,
        };
    }
    if rest.accept(&["alter"]) {
        rest.accept(&["column"]);
        let of_column = of_column(rest, How::Moves);
        if of_column != How::Moves {
            return of_column;
        }
        if KEEPING.iter().any(|words| rest.accept_all(words)) {
            return How::Keeps;
        }
        if rest.accept(&["set"]) {
            rest.accept(&["data"]);
        }
        if rest.accept(&["type"]) {
            return How::ChangesType;
        }
    }
    in_doubt_or_moves(rest)
}

/// What is done to the column that is named next, where it is this to a whole one.
fn of_column(rest: &mut Tokens<'_>, to_whole: How) -> How {
    match rest.qualified_name().as_deref() {
        Some([_]) => to_whole,
        // DuckDB makes the values of the column anew.
        Some(_) => How::ChangesType,
        None => How::Any,
    }
}

fn in_doubt_or_moves(rest: &Tokens<'_>) -> How {
    match rest.peek() {
        Some(Token::Doubt) | None => How::Any,
        Some(_) => How::Moves,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sql::tokens::reads_of_each;

    fn named(parts: &[&str]) -> Named {
        let parts = parts.iter().map(|&part| part.to_owned());
        Some(parts.collect())
    }

    fn alters(table: &[&str], how: How) -> Deed {
        Deed::Alters {
            table: named(table),
            how,
        }
    }

    /// What a statement makes that is neither temporary nor filled, and takes no place that is taken.
    fn makes(what: What, name: &[&str]) -> Deed {
        Deed::Creates {
            what,
            name: named(name),
            replaces: false,
            is_temporary: false,
            may_be_there: false,
            is_filled: false,
        }
    }

    fn replaces(what: What, name: Named) -> Deed {
        Deed::Creates {
            what,
            name,
            replaces: true,
            is_temporary: false,
            may_be_there: false,
            is_filled: false,
        }
    }

    fn index(name: Option<&str>, table: Named) -> Deed {
        Deed::MakesIndex {
            name: name.map(str::to_owned),
            table,
        }
    }

    fn drops(what: What, name: &[&str], cascades: bool) -> Deed {
        Deed::Drops {
            what,
            name: named(name),
            cascades,
        }
    }

    fn writes(table: &[&str], change: Change) -> Deed {
        Deed::Writes {
            table: named(table),
            change,
        }
    }

    #[track_caller]
    fn assert_deeds(cases: impl IntoIterator<Item = (&'static str, Deed)>) {
        for (sql, deed) in cases {
            assert_eq!(Deed::of(sql), deed, "{sql}");
        }
    }

    #[test]
    fn what_reads_or_is_only_explained_does_nothing() {
        for sql in [
            "",
            ";;",
            "SELECT 1",
            "(SELECT 1)",
            "FROM t",
            "WITH c AS (SELECT 1) SELECT replace('delete from t', 'a', 'b') AS update",
            "WITH c AS (SELECT 1) (SELECT f(1) delete FROM c)",
            "PIVOT t ON c USING sum(i)",
            "SET x = 1",
            "BEGIN",
            "CALL f('insert into t')",
            "SELECT é; DELETE FROM t",
            "'delete from t'",
            "\"delete\" FROM t",
            "EXPLAIN DELETE FROM t",
            "EXPLAIN (FORMAT json) ALTER TABLE t RENAME TO u",
            "EXPLAIN VERBOSE CREATE INDEX i ON t (c)",
            "EXPLAIN ANALYZE SELECT 1",
            "EXPLAIN (ANALYZE) (SELECT 1)",
        ] {
            assert_eq!(Deed::of(sql), Deed::Nothing, "{sql}");
        }
    }

    #[test]
    fn a_doubt_in_front_of_what_decides_is_one() {
        for sql in [
            ";\u{a0}CREATE INDEX i ON t (c)",
            "é; ALTER TABLE t ADD COLUMN i INTEGER",
            "CREATE\u{a0}OR REPLACE TABLE p AS SELECT 1",
            "CREATE OR\u{a0}REPLACE TABLE t (i INTEGER)",
            "CREATE OR REPLACE\u{a0}TABLE t (i INTEGER)",
            "CREATE TEMP\u{a0}TABLE t (i INTEGER)",
            "DROP\u{a0}SCHEMA s CASCADE",
            "DROP\u{a0}INDEX i",
            "INSERT\u{a0}INTO t VALUES (1)",
            "INSERT\u{a0}OR REPLACE INTO t VALUES (1)",
            "INSERT OR\u{a0}REPLACE INTO t VALUES (1)",
            "DELETE\u{a0}FROM t",
            "MERGE\u{a0}INTO t USING s ON true WHEN MATCHED THEN DELETE",
            "ALTER\u{a0}TABLE t RENAME TO u",
            "COMMENT\u{a0}ON INDEX i IS 'x'",
            "COMMENT ON\u{a0}INDEX i IS 'x'",
            "WITH c AS (SELECT 1)\u{a0}DELETE FROM t",
            "EXPLAIN\u{a0}ANALYZE DELETE FROM t",
            "EXPLAIN (ANALYZE, \u{a0}e) DELETE FROM t",
            "EXPLAIN ANALYZE \u{a0}DELETE FROM t",
            "EXECUTE p",
        ] {
            assert_eq!(Deed::of(sql), Deed::Doubt, "{sql}");
        }
    }

    #[test]
    fn what_is_done_to_a_table_is_told_apart() {
        use How::{AddsKey, Any, ChangesType, Keeps, Moves, Renames};
        for (action, how) in [
            ("RENAME TO u", Renames),
            ("rename/**/to \"ü\"", Renames),
            ("RENAME COLUMN c TO d", Keeps),
            ("RENAME \"to\" TO d", Keeps),
            ("RENAME größe TO d", Keeps),
            ("RENAME toé TO d", Keeps),
            ("RENAME COLUMN s.a TO b", ChangesType),
            ("RENAME s /* */ . \"a b\" TO b", ChangesType),
            ("ADD COLUMN c INTEGER", Moves),
            ("ADD c INTEGER DEFAULT random()", Moves),
            ("ADD COLUMN IF NOT EXISTS c INTEGER", Moves),
            ("ADD COLUMN type VARCHAR", Moves),
            ("ADD COLUMN \"s.b\" INTEGER", Moves),
            ("ADD COLUMN \"primary\" INTEGER", Moves),
            ("ADD COLUMN größe INTEGER", Moves),
            ("ADD primaryé INTEGER", Moves),
            ("ADD COLUMN s.b INTEGER", ChangesType),
            ("ADD s.größe INTEGER", ChangesType),
            ("ADD COLUMN IF NOT EXISTS s.b INTEGER", ChangesType),
            ("ADD COLUMN \"s\" -- x\n .\"b\"\"c\".d INTEGER", ChangesType),
            ("ADD PRIMARY KEY (c)", AddsKey),
            ("ADD CONSTRAINT k PRIMARY KEY (größe)", AddsKey),
            ("ADD CONSTRAINT k CHECK (c > 1)", Moves),
            ("DROP COLUMN c", Moves),
            ("DROP type", Moves),
            ("DROP COLUMN IF EXISTS c CASCADE", Moves),
            ("DROP COLUMN s.b", ChangesType),
            ("DROP COLUMN IF EXISTS s.b", ChangesType),
            ("ALTER c TYPE BIGINT", ChangesType),
            ("ALTER COLUMN c SET DATA TYPE BIGINT", ChangesType),
            ("ALTER type SET TYPE BIGINT", ChangesType),
            ("ALTER \"a b\" TYPE VARCHAR USING i || 'x'", ChangesType),
            ("ALTER länge TYPE BIGINT", ChangesType),
            ("ALTER COLUMN c SET NOT NULL", Moves),
            ("ALTER c DROP NOT NULL", Keeps),
            ("ALTER COLUMN c SET DEFAULT 'type'", Keeps),
            ("ALTER c DROP DEFAULT", Keeps),
            ("SET SCHEMA s", Moves),
            // In doubt.
            ("RENAME\u{a0}TO u", Any),
            ("RENAME COLUMN s\u{a0}.a TO b", Any),
            ("ADD\u{a0}COLUMN s.b INTEGER", Any),
            ("ADD COLUMN IF\u{a0}NOT EXISTS s.b INTEGER", Any),
            ("ADD COLUMN t\u{a0}u INTEGER", Any),
            ("ADD CONSTRAINT k\u{a0}PRIMARY KEY (c)", Any),
            ("ALTER c\u{a0}TYPE BIGINT", Any),
            ("ALTER c SET\u{a0}DATA TYPE BIGINT", Any),
            ("\u{a0}ADD COLUMN c INTEGER", Any),
        ] {
            let sql = format!("ALTER TABLE t {action}");
            assert_eq!(Deed::of(&sql), alters(&["t"], how), "{sql}");
        }
    }

    #[test]
    fn the_table_that_is_altered_is_found() {
        let in_doubt = |how| Deed::Alters { table: None, how };
        assert_deeds([
            (";ALTER TABLE t RENAME TO u", alters(&["t"], How::Renames)),
            (
                " ; /* x */ ;; alter table IF EXISTS s.\"T x\" drop i",
                alters(&["s", "T x"], How::Moves),
            ),
            (
                "ALTER TABLE ONLY (db.s.\"a \"\" b\") DROP i",
                alters(&["db", "s", "a \" b"], How::Moves),
            ),
            (
                "ALTER TABLE if ADD COLUMN add INTEGER",
                alters(&["if"], How::Moves),
            ),
            (
                "ALTER TABLE add ALTER type TYPE BIGINT",
                alters(&["add"], How::ChangesType),
            ),
            (
                "ALTER TABLE größe ADD PRIMARY KEY (länge)",
                alters(&["größe"], How::AddsKey),
            ),
            (
                "EXPLAIN ANALYZE ALTER TABLE ONLY t DROP i",
                alters(&["t"], How::Moves),
            ),
            ("ALTER TABLE t\u{a0}u DROP i", in_doubt(How::Any)),
            ("ALTER TABLE t\u{a0}.u DROP i", in_doubt(How::Any)),
            ("ALTER TABLE e't' DROP i", in_doubt(How::Moves)),
            ("ALTER VIEW v RENAME TO w", Deed::Defines),
            (";ALTER VIEW IF EXISTS v RENAME TO w", Deed::Defines),
            ("ALTER VIEW größe RENAME TO w", Deed::Defines),
            ("ALTER SEQUENCE s OWNED BY t", Deed::Defines),
            (
                "EXPLAIN ANALYZE ALTER SEQUENCE IF EXISTS db.s OWNED BY t",
                Deed::Defines,
            ),
            ("ALTER VIEW t ALTER c SET NOT NULL", Deed::Disguised),
            ("ALTER VIEW t ADD PRIMARY KEY (c)", Deed::Disguised),
            (
                "alter index if exists t alter c drop not null",
                Deed::Disguised,
            ),
            ("ALTER SEQUENCE t ALTER c SET NOT NULL", Deed::Disguised),
            ("ALTER VIEW t\u{a0}u RENAME TO w", Deed::Doubt),
            ("ALTER VIEW v RENAME\u{a0}TO w", Deed::Doubt),
            ("ALTER VIEW v\u{a0}RENAME TO w", Deed::Doubt),
            ("ALTER DATABASE a SET ALIAS TO b", Deed::Defines),
            ("COMMENT ON TABLE t IS 'alter table t'", Deed::Defines),
            ("COMMENT ON COLUMN t.\"index\" IS 'x'", Deed::Defines),
            ("COMMENT ON INDEX größe IS 'x'", Deed::CommentsOnIndex),
            (
                "; comment /* */ on\nIndex s.i is null",
                Deed::CommentsOnIndex,
            ),
        ]);
    }

    #[test]
    fn what_is_made_is_told_with_its_name() {
        use What::{Macro, Other, Schema, Sequence, Table, Type};
        let filled = |name, replaces| Deed::Creates {
            what: Table,
            name,
            replaces,
            is_temporary: false,
            may_be_there: false,
            is_filled: true,
        };
        assert_deeds([
            (
                ";CREATE OR REPLACE TABLE p (i INTEGER)",
                replaces(Table, named(&["p"])),
            ),
            (
                "\u{feff}CREATE OR REPLACE TABLE 🦆 (i INTEGER)",
                replaces(Table, named(&["🦆"])),
            ),
            (
                "create or /* */ replace -- x\n unlogged table s.\"T x\" as select 1",
                filled(named(&["s", "T x"]), true),
            ),
            (
                "CREATE OR REPLACE TABLE t\u{a0}u AS SELECT 1",
                filled(None, true),
            ),
            (
                "EXPLAIN (ANALYZE) CREATE TABLE t (a, \"as\") AS FROM u",
                filled(named(&["t"]), false),
            ),
            (
                "CREATE TABLE t (i INTEGER, j INTEGER AS (i + 1))",
                makes(Table, &["t"]),
            ),
            (
                "CREATE TABLE größe (as_is INTEGER)",
                makes(Table, &["größe"]),
            ),
            ("CREATE TABLE temp (temp INTEGER)", makes(Table, &["temp"])),
            ("CREATE SCHEMA db.s", makes(Schema, &["db", "s"])),
            (
                "CREATE OR REPLACE SCHEMA s",
                replaces(Schema, named(&["s"])),
            ),
            (
                "CREATE UNLOGGED TYPE s.t AS ENUM ('a')",
                makes(Type, &["s", "t"]),
            ),
            ("CREATE SEQUENCE s", makes(Sequence, &["s"])),
            (
                "CREATE RECURSIVE VIEW v (i) AS SELECT 1",
                makes(Other, &["v"]),
            ),
            ("CREATE MACRO f(x) AS x", makes(Macro, &["f"])),
            ("CREATE FUNCTION s.f(x) AS x", makes(Macro, &["s", "f"])),
        ]);
    }

    #[test]
    fn what_is_temporary_or_may_be_there_is_told_from_what_is_not() {
        for (sql, temporary, there) in [
            ("CREATE TEMP TABLE t (i INTEGER)", true, Some(false)),
            (";CREATE temporary TABLE t (i INTEGER)", true, Some(false)),
            ("CREATE LOCAL TEMP TABLE t (i INTEGER)", true, Some(false)),
            (
                "CREATE GLOBAL TEMPORARY TABLE t (i INTEGER)",
                true,
                Some(false),
            ),
            (
                "EXPLAIN ANALYZE CREATE TEMP TABLE t (i INTEGER)",
                true,
                Some(false),
            ),
            ("CREATE UNLOGGED TABLE t (i INTEGER)", false, Some(false)),
            (
                "CREATE TABLE IF NOT EXISTS t (i INTEGER)",
                false,
                Some(true),
            ),
            (
                "CREATE TEMP TABLE if not exists t (i INTEGER)",
                true,
                Some(true),
            ),
            ("CREATE TABLE IF NOT\u{a0}EXISTS t (i INTEGER)", false, None),
        ] {
            let expected = Deed::Creates {
                what: What::Table,
                name: there.and_then(|_| named(&["t"])),
                replaces: false,
                is_temporary: temporary,
                may_be_there: there.unwrap_or(true),
                is_filled: false,
            };
            assert_eq!(Deed::of(sql), expected, "{sql}");
        }
    }

    #[test]
    fn an_index_is_told_with_its_table() {
        assert_deeds([
            (";CREATE INDEX i ON t (c)", index(Some("i"), named(&["t"]))),
            (
                "create unique index IF NOT EXISTS \"I \"\"x\"\"\" on s.t using art (c)",
                index(Some("I \"x\""), named(&["s", "t"])),
            ),
            (
                "EXPLAIN ANALYZE CREATE INDEX größe ON straße (c)",
                index(Some("größe"), named(&["straße"])),
            ),
            ("CREATE INDEX i ON t\u{a0}u (c)", index(Some("i"), None)),
            ("CREATE INDEX t\u{a0}u ON t (c)", index(None, None)),
            (
                "CREATE INDEX IF\u{a0}NOT EXISTS i ON t (c)",
                index(None, None),
            ),
            (
                "CREATE TABLE index (i INTEGER)",
                makes(What::Table, &["index"]),
            ),
        ]);
    }

    #[test]
    fn what_is_dropped_is_told_with_its_name() {
        use What::{Index, Macro, Other, Schema, Sequence, Table, Type};
        let in_doubt = |what, cascades| Deed::Drops {
            what,
            name: None,
            cascades,
        };
        assert_deeds([
            (";DROP TABLE t", drops(Table, &["t"], false)),
            (
                "drop table IF EXISTS s.\"T x\" RESTRICT",
                drops(Table, &["s", "T x"], false),
            ),
            ("DROP TABLE cascade", drops(Table, &["cascade"], false)),
            ("DROP TABLE t cascade;", drops(Table, &["t"], true)),
            (";DROP SCHEMA s CASCADE", drops(Schema, &["s"], true)),
            (
                "DROP SCHEMA IF EXISTS db.größe CASCADE",
                drops(Schema, &["db", "größe"], true),
            ),
            ("DROP SCHEMA s -- cascade", drops(Schema, &["s"], false)),
            ("DROP SEQUENCE s CASCADE", drops(Sequence, &["s"], true)),
            ("DROP TYPE e", drops(Type, &["e"], false)),
            ("DROP MACRO f CASCADE", drops(Macro, &["f"], true)),
            (
                "DROP FUNCTION IF EXISTS s.f",
                drops(Macro, &["s", "f"], false),
            ),
            (
                "DROP INDEX IF EXISTS db.s.i",
                drops(Index, &["db", "s", "i"], false),
            ),
            ("EXPLAIN ANALYZE DROP VIEW v", drops(Other, &["v"], false)),
            ("DROP INDEX t\u{a0}u", in_doubt(Index, false)),
            (
                "DROP SCHEMA IF\u{a0}EXISTS s CASCADE",
                in_doubt(Schema, true),
            ),
            ("DROP TABLE s\u{a0}.t", in_doubt(Table, false)),
            ("DROP TABLE t\u{a0}u CASCADE", in_doubt(Table, true)),
        ]);
    }

    #[test]
    fn the_table_that_is_written_to_is_found() {
        use Change::{Adds, Deletes, Updates};
        let in_doubt = |change| Deed::Writes {
            table: None,
            change,
        };
        assert_deeds([
            ("; INSERT INTO t FROM s", writes(&["t"], Adds)),
            (
                "insert or replace into a.b.\"T x\" (i) values (1)",
                writes(&["a", "b", "T x"], Deletes),
            ),
            (
                "INSERT OR IGNORE INTO t SELECT replace(c, 'update', 'b') FROM delete",
                writes(&["t"], Adds),
            ),
            (
                "INSERT INTO t AS x VALUES (1) ON CONFLICT (i) DO UPDATE SET i = 1",
                writes(&["t"], Deletes),
            ),
            (
                "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING",
                writes(&["t"], Adds),
            ),
            (
                "INSERT INTO t SELECT (SELECT conflict FROM update)",
                writes(&["t"], Adds),
            ),
            (
                "INSERT INTO t SELECT \u{a0}e, 'on conflict do update'",
                writes(&["t"], Deletes),
            ),
            ("UPDATE t SET größe = 1", writes(&["t"], Updates)),
            ("UPDATE set SET \"update\" = 1", writes(&["set"], Updates)),
            ("UPDATE if exists SET update = 1", writes(&["if"], Updates)),
            (
                "DELETE FROM s.t WHERE é IN (FROM u)",
                writes(&["s", "t"], Deletes),
            ),
            ("DELETE FROM ONLY (s.t)", writes(&["s", "t"], Deletes)),
            (
                "DELETE FROM \"a \"\" b\" . T USING u WHERE i = 1",
                writes(&["a \" b", "T"], Deletes),
            ),
            ("DELETE FROM 't'", writes(&["t"], Deletes)),
            ("TRUNCATE TABLE ONLY t", writes(&["t"], Deletes)),
            ("TRUNCATE a.b.t;", writes(&["a", "b", "t"], Deletes)),
            ("TRUNCATE tableé", writes(&["tableé"], Deletes)),
            (
                "MERGE INTO main . t USING s USING (i) WHEN MATCHED THEN UPDATE",
                writes(&["main", "t"], Deletes),
            ),
            (
                "EXPLAIN ANALYZE VERBOSE INSERT INTO t VALUES (1)",
                writes(&["t"], Adds),
            ),
            (
                "EXPLAIN (FORMAT json, analyze) DELETE FROM t",
                writes(&["t"], Deletes),
            ),
            (
                "INSERT INTO t\u{a0}u VALUES (1) ON CONFLICT DO UPDATE SET i = 1",
                in_doubt(Deletes),
            ),
            ("INSERT INTO t\u{a0}u VALUES (1)", in_doubt(Adds)),
            ("DELETE FROM t\u{a0}u", in_doubt(Deletes)),
            ("UPDATE\u{a0}t SET i = 1", in_doubt(Updates)),
            ("UPDATE s\u{a0}.t SET i = 1", in_doubt(Updates)),
            ("TRUNCATE TABLE\u{a0}t", in_doubt(Deletes)),
        ]);
    }

    /// How a statement that DuckDB takes for one of this kind changes rows that are there.
    fn change(kind: StatementKind, sql: &str) -> Option<Change> {
        let asked = Asked {
            kind,
            deed: &Deed::of(sql),
            script: sql,
        };
        asked.change().map(|(change, _)| change)
    }

    #[test]
    fn a_statement_that_takes_rows_away_is_told_from_one_that_adds_some() {
        use Change::{Deletes, Updates};
        use StatementKind::{Definition, Explain, Rows, Select};
        for (kind, sql, expected) in [
            (Rows, "DELETE FROM t", Some(Deletes)),
            (Rows, "; /* */ truncate t", Some(Deletes)),
            (Rows, "\u{a0}DELETE FROM t", Some(Deletes)),
            (Rows, ";\u{a0}DELETE FROM t", Some(Deletes)),
            (
                Rows,
                "MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE",
                Some(Deletes),
            ),
            (Rows, "WITH c AS (SELECT 1) DELETE FROM t", Some(Deletes)),
            (Rows, "/* */ update t set c = 1", Some(Updates)),
            (Rows, "INSERT OR REPLACE INTO t VALUES (1)", Some(Deletes)),
            (
                Rows,
                "INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET c = 1",
                Some(Deletes),
            ),
            (
                Rows,
                "INSERT\u{a0}OR REPLACE INTO t VALUES (1)",
                Some(Deletes),
            ),
            (Explain, "EXPLAIN ANALYZE DELETE FROM t", Some(Deletes)),
            (
                Rows,
                "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING",
                None,
            ),
            (
                Rows,
                "INSERT OR IGNORE INTO t SELECT replace(c, 'a', 'b') FROM s",
                None,
            ),
            (Rows, "INSERT INTO t SELECT 'delete from t'", None),
            (
                Rows,
                "ALTER TABLE \"delete\" ADD COLUMN c INTEGER DEFAULT random()",
                None,
            ),
            (Explain, "EXPLAIN DELETE FROM t", None),
            (Select, "SELECT 'update', replace(c, 'a', 'b') FROM t", None),
            (Select, "\u{a0}SELECT replace(c, 'a', 'b') FROM t", None),
            (
                Definition,
                "CREATE OR REPLACE TABLE t AS SELECT 1 AS \"update\"",
                None,
            ),
        ] {
            assert_eq!(change(kind, sql), expected, "{sql}");
        }
        for (script, may_change) in [
            ("SELECT é; UPDATE t SET c = 1", true),
            ("SELECT é; SELECT 1", false),
        ] {
            let in_doubt = Asked {
                kind: Rows,
                deed: &Deed::Doubt,
                script,
            };
            assert_eq!(in_doubt.change().is_some(), may_change, "{script}");
        }
    }

    #[test]
    fn the_verb_behind_a_with_is_found() {
        use Change::{Adds, Deletes, Updates};
        assert_deeds([
            (
                ";WITH c AS (SELECT 1) DELETE FROM t",
                writes(&["t"], Deletes),
            ),
            (
                "with recursive insert (a, \"b)\") as not materialized ((SELECT (1), ')')), delete AS MATERIALIZED (FROM (FROM s))
                 UPDATE s.t SET i = 1",
                writes(&["s", "t"], Updates),
            ),
            (
                "WITH RECURSIVE c(a) USING KEY (a) AS (SELECT 1) INSERT INTO t FROM c",
                writes(&["t"], Adds),
            ),
            (
                "WITH c AS (FROM s) MERGE INTO t USING c ON true WHEN MATCHED THEN DELETE",
                writes(&["t"], Deletes),
            ),
            (
                "EXPLAIN ANALYZE WITH c AS (SELECT 1) DELETE FROM t",
                writes(&["t"], Deletes),
            ),
            (
                "WITH c AS (SELECT 1 /* ) DELETE FROM u */) -- ) DELETE FROM v
                 DELETE FROM t",
                writes(&["t"], Deletes),
            ),
            ("EXPLAIN WITH c AS (SELECT 1) DELETE FROM t", Deed::Nothing),
            (
                "WITH c AS (SELECT 1) SELECT f(1) delete FROM c",
                Deed::Nothing,
            ),
            ("WITH c AS (SELECT 1) FROM c", Deed::Nothing),
            (
                "\u{feff} WITH c AS (SELECT \u{a0}e) DELETE FROM t",
                Deed::Writes {
                    table: None,
                    change: Deletes,
                },
            ),
            (
                "WITH c AS (SELECT \u{a0}e) SELECT type, now() FROM c",
                Deed::Writes {
                    table: None,
                    change: Adds,
                },
            ),
        ]);
    }

    #[test]
    fn a_long_statement_is_looked_through_no_more_often_than_a_short_one() {
        for part in [
            ";",
            "(",
            ")",
            "with c as (",
            "with c as () , ",
            "explain analyze ",
            "explain (analyze) (",
            "a.",
            "update.",
            "update s.",
            "insert into t conflict ",
            "create temp ",
            "create table t (",
            "alter table t add ",
            "drop table t. ",
            "comment on ",
            "only (",
            "if not exists ",
        ] {
            for begin in ["", "with c as (select 1) ", "insert into ", "alter table "] {
                for end in ["", "\u{a0} delete"] {
                    let sql = format!("{begin}{}{end}", part.repeat(1 << 12));
                    let reads = reads_of_each(&sql, || drop(Deed::of(&sql)));
                    assert!(reads < 32, "{begin}{part}{end}: {reads}");
                }
            }
        }
    }
}
