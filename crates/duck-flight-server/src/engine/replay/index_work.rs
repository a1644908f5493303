//! Indexes that a transaction makes beside other things.
//!
//! DuckDB 1.5.5 finds an index of a table by its name alone, and leaves one that is dropped with the table up to the commit. So where a
//! transaction drops an index and makes another one of its name, it is the old one whose keys are logged for the new one, and that
//! a roll back takes away; and one that nobody has used since the start ends the process then (`SerializeIndex`,
//! `TableIndexList::RemoveIndex`).
//!
//! An index is made of rows that its own transaction has deleted, too, and logged before the commit takes those out of it
//! (`DuckTransaction::WriteToWAL`). To replay that leaves their keys in it (`WriteAheadLogReplayer::ReplayLog` adds the index last),
//! which then refuses them for good. To update a row is to delete it where its place cannot be kept: in a column of an index, or
//! with a list.
//!
//! In each case one of the two is refused, before it runs. So is one beside which its table [keeps](super::kept_indexes) others.
//! What others have open beside it is for [`open_transactions`](super::open_transactions).

use duck_flight_protocol::quote;

use super::alterations::Step;
use super::claim::altered;
use super::kept_indexes::{self, Made, Shared};
use super::named::{self, Table};
use super::{FIRST_NEW_ROW, may_make_index, targets};
use crate::engine::catalog::texts;
use crate::engine::ffi::{Connection, StatementKind};
use crate::engine::ingest::unit::TEMPORARY;
use crate::engine::rows::types::same_name;
use crate::engine::sql::admission::{makes_index, run_by};
use crate::engine::sql::tokens::{Token, contains_any_word, contains_word};
use crate::error::{Error, Result};

/// How many names are told apart; where there are more, any name may be among them.
const MAX_NAMES: usize = 256;

/// Words of which one is in each statement that deletes or changes rows.
const CHANGING: &[&str] = &["delete", "merge", "replace", "truncate", "update"];

/// What a statement begins with that changes rows.
const BEFORE_CHANGE: &[&str] = &["delete", "insert", "merge", "truncate", "update", "with"];

/// What may stand between CREATE and INDEX, or TABLE.
const BEFORE_KIND: &[&str] = &["or", "replace", "local", "temp", "temporary", "unique"];

/// What a client's transaction has done to indexes, and to rows that may be in them. [`Names`] of two tables or indexes in different
/// schemas may be the same: they are taken for one.
#[derive(Debug, Default)]
pub(in crate::engine) struct IndexWork {
    /// The indexes that it has dropped.
    dropped: Names,
    /// The indexes that may have had the names in `dropped`, as the transaction saw them before.
    seen: Vec<Made>,
    /// The tables that it has made indexes for, or dropped indexes of.
    changed: Vec<Shared>,
    /// The tables that it has made indexes or keys for.
    indexed: Names,
    /// The tables of which it has deleted rows.
    deleted: Names,
    /// The tables of which it has updated rows, in their places or not.
    updated: Names,
    /// The tables that it has made. The rows of those are deleted before they are in any index.
    made: Vec<Table>,
}

/// A statement of a script.
#[derive(Clone, Copy)]
pub(in crate::engine) struct Asked<'a> {
    pub(in crate::engine) kind: StatementKind,
    /// Its own text, where that is certain.
    pub(in crate::engine) text: Option<&'a str>,
    pub(in crate::engine) script: &'a str,
}

impl<'a> Asked<'a> {
    /// Its text, or that of the whole script.
    fn any_text(self) -> &'a str {
        self.text.unwrap_or(self.script)
    }
}

impl IndexWork {
    /// Refuses a statement that must not follow in the transaction, and takes note of any other. To be asked before it runs.
    pub(in crate::engine) fn check(
        &mut self,
        connection: &Connection,
        asked: Asked<'_>,
    ) -> Result<()> {
        if let Some(step) = IndexStep::of(asked) {
            return self.check_index(connection, step);
        }
        match change(asked) {
            Some(change) => self.check_rows(connection, change, asked.any_text()),
            None => Ok(()),
        }
    }

    /// Whether a statement makes an index, or a primary key, of a table that others also see, or may do so.
    pub(in crate::engine) fn makes_for_others(
        &self,
        connection: &Connection,
        asked: Asked<'_>,
    ) -> Result<bool> {
        match IndexStep::of(asked) {
            Some(IndexStep {
                makes: true, table, ..
            }) => Ok(!self.is_own(connection, table.as_deref())?),
            _ => Ok(false),
        }
    }

    /// Refuses a statement about an index that must not follow in the transaction, whatever others do meanwhile.
    pub(in crate::engine) fn check_possible(
        &self,
        connection: &Connection,
        asked: Asked<'_>,
    ) -> Result<()> {
        match IndexStep::of(asked) {
            Some(step) => self.changed_by(connection, &step).map(drop),
            None => Ok(()),
        }
    }

    /// Refuses to alter a table of which the transaction has deleted or changed rows: those are of its old storage then, and DuckDB
    /// 1.5.5 would take that for another transaction's doing when it commits them.
    pub(in crate::engine) fn check_alteration(
        &self,
        connection: &Connection,
        asked: Asked<'_>,
    ) -> Result<()> {
        let Step::Alters(table) = Step::of(asked) else {
            return Ok(());
        };
        let name = table.as_ref().and_then(|parts| parts.last());
        let name = name.map(String::as_str);
        if !connection.changes().may_have_changed(name) {
            return Ok(());
        }
        let found = match &table {
            Some(table) => found(connection, table)?,
            None => None,
        };
        match found.is_some_and(|table| self.made.contains(&table)) {
            true => Ok(()),
            false => Err(Error::AlterationBesideChanges),
        }
    }

    /// Records the table that a statement has made, and forgets all of them where one may have been dropped.
    pub(in crate::engine) fn note_made(
        &mut self,
        connection: &Connection,
        asked: Asked<'_>,
    ) -> Result<()> {
        if !matches!(
            asked.kind,
            StatementKind::Definition | StatementKind::Explain
        ) {
            return Ok(());
        }
        if contains_word(asked.any_text(), "drop") {
            self.made.clear();
        } else if let Some(name) = asked.text.and_then(made_table)
            && self.made.len() < MAX_NAMES
        {
            // Now, for the session may look elsewhere later.
            self.made.extend(found(connection, &name)?);
        }
        Ok(())
    }

    fn check_index(&mut self, connection: &Connection, step: IndexStep) -> Result<()> {
        for table in self.changed_by(connection, &step)? {
            let table = table.filter(|_| self.changed.len() < MAX_NAMES);
            if !self.changed.contains(&table) {
                self.changed.push(table);
            }
        }
        if step.drops {
            // What is not noted here is taken for one that stays.
            if self.seen.len() < MAX_NAMES {
                self.seen.extend(kept_indexes::seen(connection, &step)?);
            }
            self.dropped.add(step.name);
        }
        if step.makes {
            self.indexed.add(step.table.and_then(|mut name| name.pop()));
        }
        Ok(())
    }

    /// The tables whose indexes a step changes, of those that others also see.
    ///
    /// # Errors
    /// Where the step must not follow, or its table keeps indexes beside it that others also see.
    fn changed_by(&self, connection: &Connection, step: &IndexStep) -> Result<Vec<Shared>> {
        if step.makes && self.dropped.has(step.name.as_deref()) {
            return Err(Error::IndexMadeAgain);
        }
        if step.makes && self.has_deleted(connection, step.table.as_deref())? {
            return Err(Error::IndexBesideChanges);
        }
        if step.is_of_key() || self.is_own(connection, step.table.as_deref())? {
            return Ok(Vec::new());
        }
        kept_indexes::check_inside(connection, step, &self.seen)
    }

    /// Refuses to commit the transaction where others have made indexes meanwhile that must not be beside its own. To be called while
    /// nobody else makes any, until the commit.
    pub(super) fn check_commit(&self, connection: &Connection) -> Result<()> {
        kept_indexes::check_commit(connection, &self.changed, &self.seen)
    }

    fn check_rows(&mut self, connection: &Connection, change: Change, text: &str) -> Result<()> {
        let tables = changed_tables(text);
        for table in &tables {
            let is_indexed = self.indexed.has(table.as_deref());
            if is_indexed && !self.are_own(connection, table.as_deref())? {
                return Err(Error::IndexBesideChanges);
            }
        }
        let changed = match change {
            Change::Deletes => &mut self.deleted,
            Change::Updates => &mut self.updated,
        };
        tables.into_iter().for_each(|table| changed.add(table));
        Ok(())
    }

    /// Whether the transaction may have deleted rows of a table that others also see.
    fn has_deleted(&self, connection: &Connection, table: Option<&[String]>) -> Result<bool> {
        let name = table.and_then(|parts| parts.last().map(String::as_str));
        let may_have = self.deleted.has(name)
            || self.updated.has(name)
                && table.map_or(Ok(true), |table| has_new_rows(connection, table))?;
        Ok(may_have && !self.is_own(connection, table)?)
    }

    /// Whether the table that DuckDB finds by a name is one that the transaction has made, or is temporary.
    pub(in crate::engine) fn is_own(
        &self,
        connection: &Connection,
        name: Option<&[String]>,
    ) -> Result<bool> {
        let found = match name {
            Some(name) => found(connection, name)?,
            None => None,
        };
        Ok(found.is_some_and(|table| self.has_made(&table)))
    }

    /// Whether there are tables of this name, and the transaction has made all of them, or they are temporary.
    fn are_own(&self, connection: &Connection, name: Option<&str>) -> Result<bool> {
        let Some(name) = name else {
            return Ok(false);
        };
        let tables = named::tables(connection, &[name.to_owned()])?;
        Ok(!tables.is_empty() && tables.iter().all(|table| self.has_made(table)))
    }

    fn has_made(&self, table: &Table) -> bool {
        table[0] == TEMPORARY || self.made.contains(table)
    }
}

/// The table that DuckDB finds by a name.
fn found(connection: &Connection, name: &[String]) -> Result<Option<Table>> {
    Ok(named::tables(connection, name)?.into_iter().next())
}

/// Whether a script that changes rows may take some away that are there.
pub(in crate::engine) fn may_delete(sql: &str) -> bool {
    contains_any_word(sql, CHANGING)
}

/// The names of the tables of which a script may change rows, without their qualifiers; where that is not certain, any.
pub(in crate::engine) fn changed_tables(sql: &str) -> Vec<Option<String>> {
    match targets(sql) {
        Some(names) => names
            .into_iter()
            .map(|name| Some(name.replace("\"\"", "\"")))
            .collect(),
        None => vec![None],
    }
}

/// Whether a table has rows that the open transaction has not committed yet, as it has where an UPDATE has deleted some.
fn has_new_rows(connection: &Connection, table: &[String]) -> Result<bool> {
    let name: Vec<_> = table.iter().map(|part| quote(part)).collect();
    let name = name.join(".");
    let sql =
        format!("SELECT CAST(rowid AS VARCHAR) FROM {name} WHERE rowid >= {FIRST_NEW_ROW} LIMIT 1");
    Ok(!texts::<1>(connection, &sql)?.is_empty())
}

/// Names without their qualifiers.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: Vec<String>,
    /// Whether there may be any others.
    may_be_more: bool,
}

impl Names {
    pub(super) fn is_empty(&self) -> bool {
        !self.may_be_more && self.known.is_empty()
    }

    pub(super) fn add(&mut self, name: Option<String>) {
        match name {
            Some(name) if self.has(Some(&name)) => {}
            Some(name) if self.known.len() < MAX_NAMES => self.known.push(name),
            _ => self.may_be_more = true,
        }
    }

    /// Whether a name may be among them. `None` is a name that could not be read: it may be any.
    pub(super) fn has(&self, name: Option<&str>) -> bool {
        let is_it = |known: &String| name.is_none_or(|name| same_name(known, name));
        self.may_be_more || self.known.iter().any(is_it)
    }
}

/// What a statement does to indexes: in doubt, both.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct IndexStep {
    /// Whether it makes one, or a primary key.
    pub(super) makes: bool,
    pub(super) drops: bool,
    /// The index's own name. One that a key gets is nobody else's.
    pub(super) name: Option<String>,
    /// The table that it is made for, with its qualifiers.
    pub(super) table: Option<Vec<String>>,
}

impl IndexStep {
    /// Whether it is about an index of this name.
    pub(super) fn is_of(&self, name: &str) -> bool {
        self.name.as_deref().is_some_and(|own| same_name(own, name))
    }

    /// Whether it makes a primary key.
    pub(super) fn is_of_key(&self) -> bool {
        self.name.as_deref() == Some("")
    }

    pub(super) fn of(asked: Asked<'_>) -> Option<Self> {
        let is_at_hand = matches!(
            asked.kind,
            StatementKind::Definition | StatementKind::Alteration | StatementKind::Explain
        );
        if !is_at_hand {
            return None;
        }
        let may_alter = asked.kind != StatementKind::Definition;
        let may_add_key = may_alter && contains_word(asked.any_text(), "primary");
        let in_script = || may_make_index(asked.script);
        let may_be_index = asked.kind != StatementKind::Alteration
            && asked.text.map_or_else(in_script, makes_index);
        if !may_add_key && !may_be_index {
            return None;
        }
        asked.text.map_or_else(|| Some(Self::any()), Self::read)
    }

    /// Of a statement that has the words of one.
    fn read(statement: &str) -> Option<Self> {
        let mut rest = run_by(statement)?;
        let own_name = |name: Option<Vec<String>>| name.and_then(|mut parts| parts.pop());
        if rest.accept(&["alter"]) {
            return Some(Self {
                makes: true,
                drops: false,
                name: Some(String::new()),
                table: altered(statement),
            });
        }
        if rest.accept_all(&["drop", "index"]) {
            rest.accept_all(&["if", "exists"]);
            return Some(Self {
                makes: false,
                drops: true,
                name: own_name(rest.qualified_name()),
                table: None,
            });
        }
        let creates = rest.accept(&["create"]);
        while rest.accept(BEFORE_KIND) {}
        if creates && rest.accept(&["index"]) {
            rest.accept(&["concurrently"]);
            rest.accept_all(&["if", "not", "exists"]);
            let name = rest.qualified_name();
            let has_table = name.is_some() && rest.accept(&["on"]);
            rest.accept(&["only"]);
            return Some(Self {
                makes: true,
                drops: false,
                name: own_name(name),
                table: has_table.then(|| rest.qualified_name()).flatten(),
            });
        }
        (rest.peek() == Some(Token::Doubt)).then(Self::any)
    }

    fn any() -> Self {
        Self {
            makes: true,
            drops: true,
            name: None,
            table: None,
        }
    }
}

/// How a statement may take rows away that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Deletes,
    /// Leaves rows in their places where no column of an index is changed.
    Updates,
}

/// What DuckDB makes an UPDATE of for a new column's default leaves all rows in their places.
fn change(asked: Asked<'_>) -> Option<Change> {
    if !matches!(asked.kind, StatementKind::Rows | StatementKind::Explain) {
        return None;
    }
    let Some(statement) = asked.text else {
        return contains_any_word(asked.script, CHANGING).then_some(Change::Deletes);
    };
    let mut rest = run_by(statement)?;
    if rest.accept(&["alter"]) {
        return None;
    }
    if rest.accept(&["update"]) {
        return Some(Change::Updates);
    }
    if rest.accept(&["insert"]) {
        let changes = rest.accept_all(&["or", "replace"])
            || contains_word(statement, "conflict") && contains_word(statement, "update");
        return changes.then_some(Change::Deletes);
    }
    contains_any_word(statement, CHANGING).then_some(Change::Deletes)
}

/// Whether a statement may change rows that are there, or delete some, as far as its words tell; `text` is its own, where that is
/// certain. It is asked before DuckDB has told what kind it is.
pub(in crate::engine) fn may_change_rows(text: Option<&str>, script: &str) -> bool {
    let begins_so = |text: &str| {
        let first = run_by(text).and_then(|tokens| tokens.peek());
        first.is_some_and(|first| {
            matches!(first, Token::Doubt | Token::Symbol(';')) || first.is_any(BEFORE_CHANGE)
        })
    };
    let kind = StatementKind::Rows;
    text.is_none_or(begins_so) && change(Asked { kind, text, script }).is_some()
}

/// The table that a statement has made, if it has made one for certain.
fn made_table(statement: &str) -> Option<Vec<String>> {
    let mut rest = run_by(statement)?;
    let creates = rest.accept(&["create"]);
    while rest.accept(BEFORE_KIND) {}
    let makes_one =
        creates && rest.accept(&["table"]) && !rest.accept_all(&["if", "not", "exists"]);
    makes_one.then(|| rest.qualified_name()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The only statement of a script.
    fn only(kind: StatementKind, script: &str) -> Asked<'_> {
        let text = Some(script);
        Asked { kind, text, script }
    }

    #[test]
    fn what_a_statement_does_to_indexes_is_found() {
        use StatementKind::{Alteration, Definition, Explain, Rows};
        let makes = |name: &str, table: &[&str]| {
            let table: Vec<_> = table.iter().map(|&part| part.to_owned()).collect();
            Some(IndexStep {
                makes: true,
                drops: false,
                name: Some(name.to_owned()),
                table: (!table.is_empty()).then_some(table),
            })
        };
        let drops = |name: Option<&str>| {
            Some(IndexStep {
                makes: false,
                drops: true,
                name: name.map(str::to_owned),
                table: None,
            })
        };
        for (kind, sql, expected) in [
            (Definition, "CREATE INDEX i ON t (c)", makes("i", &["t"])),
            (
                Definition,
                "create unique index IF NOT EXISTS \"I x\" on s.t using art (c)",
                makes("I x", &["s", "t"]),
            ),
            (
                Definition,
                "CREATE INDEX größe ON straße (c)",
                makes("größe", &["straße"]),
            ),
            (Definition, "CREATE INDEX i ON 🦆 (c)", makes("i", &[])),
            (Definition, "DROP INDEX IF EXISTS db.s.i", drops(Some("i"))),
            (Definition, "DROP INDEX 🦆", drops(None)),
            (Definition, "é DROP INDEX i", Some(IndexStep::any())),
            (
                Definition,
                "CREATE TABLE t (index INTEGER PRIMARY KEY)",
                None,
            ),
            (Definition, "DROP TABLE index", None),
            (
                Alteration,
                "ALTER TABLE s.t ADD PRIMARY KEY (c)",
                makes("", &["s", "t"]),
            ),
            (Alteration, "ALTER TABLE t ADD COLUMN größe INTEGER", None),
            (
                Explain,
                "EXPLAIN ANALYZE CREATE INDEX i ON t (c)",
                makes("i", &["t"]),
            ),
            (
                Explain,
                "EXPLAIN ANALYZE ALTER TABLE t ADD PRIMARY KEY (c)",
                makes("", &["t"]),
            ),
            (Explain, "EXPLAIN CREATE INDEX i ON t (c)", None),
            (
                Explain,
                "EXPLAIN ANALYZE CREATE TABLE t (i INTEGER PRIMARY KEY)",
                None,
            ),
            (
                Explain,
                "EXPLAIN ANALYZE SELECT primary, index FROM t",
                None,
            ),
            (Rows, "INSERT INTO t SELECT 'create index i on t (c)'", None),
        ] {
            assert_eq!(IndexStep::of(only(kind, sql)), expected, "{sql}");
        }
        let in_doubt = Asked {
            text: None,
            ..only(
                Definition,
                "CREATE TABLE é (i INTEGER); CREATE INDEX i ON t (c)",
            )
        };
        assert_eq!(IndexStep::of(in_doubt), Some(IndexStep::any()));
    }

    #[test]
    fn a_statement_that_takes_rows_away_is_told_from_one_that_adds_some() {
        use Change::{Deletes, Updates};
        use StatementKind::{Explain, Rows, Select};
        for (kind, sql, expected) in [
            (Rows, "DELETE FROM t", Some(Deletes)),
            (Rows, "TRUNCATE t", Some(Deletes)),
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
                "ALTER TABLE t ADD COLUMN c INTEGER DEFAULT random()",
                None,
            ),
            (Explain, "EXPLAIN DELETE FROM t", None),
            (Select, "SELECT 'update', replace(c, 'a', 'b') FROM t", None),
        ] {
            assert_eq!(change(only(kind, sql)), expected, "{sql}");
        }
        let in_doubt = Asked {
            text: None,
            ..only(Rows, "SELECT é; UPDATE t SET c = 1")
        };
        assert_eq!(change(in_doubt), Some(Deletes));
    }

    #[test]
    fn a_statement_that_changes_rows_is_told_before_its_kind_is_known() {
        for (sql, may_change) in [
            ("DELETE FROM t", true),
            ("; /* */ truncate t", true),
            ("\u{a0}DELETE FROM t", true),
            ("WITH c AS (SELECT 1) UPDATE t SET c = 1", true),
            ("EXPLAIN ANALYZE DELETE FROM t", true),
            (
                "INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET c = 1",
                true,
            ),
            ("EXPLAIN DELETE FROM t", false),
            ("INSERT INTO t SELECT replace(c, 'a', 'b') FROM s", false),
            ("CREATE OR REPLACE TABLE t AS SELECT 1 AS \"update\"", false),
            ("SELECT replace(c, 'a', 'b') AS update FROM t", false),
            (
                "ALTER TABLE \"delete\" ADD COLUMN c INTEGER DEFAULT random()",
                false,
            ),
        ] {
            assert_eq!(may_change_rows(Some(sql), sql), may_change, "{sql}");
        }
        assert!(may_change_rows(None, "SELECT é; UPDATE t SET c = 1"));
        assert!(!may_change_rows(None, "SELECT é; SELECT 1"));
    }

    #[test]
    fn a_table_that_may_have_been_there_is_not_taken_for_one_that_was_made() {
        for (sql, table) in [
            ("CREATE TABLE t (c INTEGER)", Some(&["t"][..])),
            (
                "create or replace temp table s.\"T x\" as select 1",
                Some(&["s", "T x"]),
            ),
            ("CREATE TABLE IF NOT EXISTS t (c INTEGER)", None),
            ("CREATE VIEW t AS SELECT 1", None),
            ("CREATE INDEX t ON table (c)", None),
        ] {
            let table = table.map(|parts| parts.iter().map(|&part| part.to_owned()).collect());
            assert_eq!(made_table(sql), table, "{sql}");
        }
    }

    #[test]
    fn names_beyond_so_many_may_be_any() {
        let mut names = Names::default();
        for name in 0..MAX_NAMES {
            names.add(Some(format!("t{name}")));
            names.add(Some(format!("T{name}")));
        }
        assert!(names.has(Some("T0")) && names.has(None) && !names.has(Some("t")));
        names.add(Some("t".to_owned()));
        assert!(names.has(Some("u")));
    }
}
