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

use duck_flight_protocol::TableName;

use super::kept_indexes::{self, Made, Shared};
use super::named::{self, Table};
use super::{FIRST_NEW_ROW, hides_row_numbers, may_make_index};
use crate::engine::catalog::texts;
use crate::engine::ffi::{Connection, StatementKind};
use crate::engine::ingest::target::TEMPORARY;
use crate::engine::rows::types::same_name;
use crate::engine::sql::deed::{Asked, CHANGING, Change, Deed, How, What, own_name};
use crate::engine::sql::tokens::contains_any_word;
use crate::error::{Error, Result};

/// How many names are told apart; where there are more, any name may be among them.
const MAX_NAMES: usize = 256;

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
    /// The tables of which DuckDB has updated rows for the default of a new column. Nobody else alters those meanwhile.
    expanded: Names,
    /// The tables that it has made. The rows of those are deleted before they are in any index.
    made: Vec<Table>,
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
        if let Some((change, table)) = asked.change() {
            return self.check_rows(connection, change, own_name(table));
        }
        if asked.kind == StatementKind::Rows
            && let Deed::Alters { table, .. } = asked.deed
        {
            let table = own_name(table.as_deref());
            self.expanded.add(table.map(str::to_owned));
        }
        Ok(())
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
    /// 1.5.5 would take that for another transaction's doing when it commits them. `is_behind_own` where DuckDB has changed them for
    /// the statement itself, which leaves them where they are.
    pub(in crate::engine) fn check_alteration(
        &self,
        connection: &Connection,
        asked: Asked<'_>,
        is_behind_own: bool,
    ) -> Result<()> {
        let (table, how) = match asked.deed {
            Deed::Alters { table, how } => (table.as_deref(), *how),
            Deed::Doubt
                if matches!(
                    asked.kind,
                    StatementKind::Alteration | StatementKind::Explain
                ) && asked.says("alter") =>
            {
                (None, How::Any)
            }
            _ => return Ok(()),
        };
        // What DuckDB makes of it beside the ALTER itself alters nothing.
        let moves_rows = asked.may_define() && !matches!(how, How::Renames | How::Keeps);
        let name = own_name(table);
        let has_changed = connection.changes().may_have_changed(name)
            || !is_behind_own && self.expanded.has(name);
        if !moves_rows || !has_changed {
            return Ok(());
        }
        let found = match table {
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
        match asked.deed {
            _ if !asked.may_define() => {}
            Deed::Creates {
                what: What::Table,
                name: Some(name),
                may_be_there: false,
                ..
            } if self.made.len() < MAX_NAMES => {
                // Now, for the session may look elsewhere later.
                self.made.extend(found(connection, name)?);
            }
            Deed::Drops { .. } => self.made.clear(),
            Deed::Doubt if asked.says("drop") => self.made.clear(),
            _ => {}
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

    fn check_rows(
        &mut self,
        connection: &Connection,
        change: Change,
        table: Option<&str>,
    ) -> Result<()> {
        if self.indexed.has(table) && !self.are_own(connection, table)? {
            return Err(Error::IndexBesideChanges);
        }
        let changed = match change {
            Change::Updates => &mut self.updated,
            Change::Adds | Change::Deletes => &mut self.deleted,
        };
        changed.add(table.map(str::to_owned));
        Ok(())
    }

    /// Whether the transaction may have deleted rows of a table that others also see.
    fn has_deleted(&self, connection: &Connection, table: Option<&[String]>) -> Result<bool> {
        let name = own_name(table);
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

/// Whether a script of the server's own may take rows away that are there.
pub(in crate::engine) fn may_delete(sql: &str) -> bool {
    contains_any_word(sql, CHANGING)
}

/// Whether a table has rows that the open transaction has not committed yet, as it has where an UPDATE has deleted some.
fn has_new_rows(connection: &Connection, table: &[String]) -> Result<bool> {
    let mut parts = table.iter().rev().cloned();
    let name = TableName {
        table: parts.next().unwrap_or_default(),
        schema: parts.next(),
        catalog: parts.next(),
    };
    if let Some(columns) = connection.table_columns(&name)?
        && hides_row_numbers(&columns)
    {
        return Ok(true);
    }
    let name = name.to_sql();
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
        let key_of = |table: &Option<Vec<String>>| Self {
            makes: true,
            drops: false,
            name: Some(String::new()),
            table: table.clone(),
        };
        match asked.deed {
            // What DuckDB makes of a statement beside it, such as an UPDATE.
            _ if !asked.may_define() => None,
            Deed::Alters {
                table,
                how: How::AddsKey,
            } => Some(key_of(table)),
            Deed::Alters {
                table,
                how: How::Any,
            } if asked.says("primary") => Some(key_of(table)),
            Deed::MakesIndex { name, table } => Some(Self {
                makes: true,
                drops: false,
                name: name.clone(),
                table: table.clone(),
            }),
            Deed::Drops {
                what: What::Index,
                name,
                ..
            } => Some(Self {
                makes: false,
                drops: true,
                name: own_name(name.as_deref()).map(str::to_owned),
                table: None,
            }),
            Deed::Doubt => {
                let may_add_key = asked.kind != StatementKind::Definition && asked.says("primary");
                let may_be_index =
                    asked.kind != StatementKind::Alteration && may_make_index(asked.script);
                (may_add_key || may_be_index).then(Self::any)
            }
            _ => None,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What the only statement of a script does to indexes.
    fn step(kind: StatementKind, script: &str) -> Option<IndexStep> {
        IndexStep::of(Asked {
            kind,
            deed: &Deed::of(script),
            script,
        })
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
            (Definition, "; CREATE INDEX i ON t (c)", makes("i", &["t"])),
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
            (
                Definition,
                "CREATE INDEX i ON t\u{a0}u (c)",
                makes("i", &[]),
            ),
            (Definition, "DROP INDEX IF EXISTS db.s.i", drops(Some("i"))),
            (Definition, "DROP INDEX t\u{a0}u", drops(None)),
            (Definition, ";\u{a0}DROP INDEX i", Some(IndexStep::any())),
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
                Alteration,
                "ALTER TABLE t ADD COLUMN \"primary\" INTEGER",
                None,
            ),
            (
                Alteration,
                "ALTER TABLE t ADD\u{a0}PRIMARY KEY (c)",
                makes("", &["t"]),
            ),
            (Alteration, "ALTER TABLE t ADD\u{a0}COLUMN c INTEGER", None),
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
            assert_eq!(step(kind, sql), expected, "{sql}");
        }
        let doubt = Deed::Doubt;
        let in_doubt = |kind| Asked {
            kind,
            deed: &doubt,
            script: "CREATE TABLE é (i INTEGER); CREATE INDEX i ON t (c)",
        };
        assert_eq!(IndexStep::of(in_doubt(Definition)), Some(IndexStep::any()));
        assert_eq!(IndexStep::of(in_doubt(Rows)), None);
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
