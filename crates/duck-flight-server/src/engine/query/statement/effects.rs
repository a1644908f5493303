//! What a statement may do, as far as its kind and its words tell.

use super::Statement;
use crate::engine::catalog::references::References;
use crate::engine::connections::commits::Alone;
use crate::engine::ffi::StatementKind;
use crate::engine::ingest::queue::holds::{Hold, Reach, Tables};
use crate::engine::ingest::target::{TEMPORARY, TableKey};
use crate::engine::replay::claim::{claim_name, claim_renamed};
use crate::engine::replay::index_work::IndexWork;
use crate::engine::replay::named::MAIN;
use crate::engine::replay::rename::may_rename_table;
use crate::engine::replay::{kept_indexes, may_make_index, named};
use crate::engine::sql::admission::{may_explain_alteration, may_explain_definition};
use crate::engine::sql::deed::{Asked, Change, Deed, How, What};
use crate::engine::sql::tokens::{contains_word, statements};
use crate::error::{Error, Result};

const EXPLAINS_RENAME: &str =
    "EXPLAIN ANALYZE would rename the table, which is not explained: run the statement itself";

const DOUBTFUL_CHECKPOINT: &str = "it is in doubt where the statements of the script end, and so which one of them is the CHECKPOINT: send it by itself";

impl<'a> Statement<'a> {
    /// Its text, or that of the whole script.
    pub(super) fn text(&self) -> &'a str {
        self.text.unwrap_or(&self.sql.text)
    }

    /// What it does, as far as its own words tell.
    fn deed(&self) -> &Deed {
        let read = || self.text.map_or(Deed::Doubt, Deed::of);
        self.deed.get_or_init(read)
    }

    /// The statement, for those who must know what it does, where it is of this kind.
    pub(super) fn asked(&self, kind: StatementKind) -> Asked<'_> {
        Asked {
            kind,
            deed: self.deed(),
            script: &self.sql.text,
        }
    }

    /// Whether it may define anything, alter or drop it.
    pub(super) fn defines(&self, kind: StatementKind) -> bool {
        match kind {
            StatementKind::Definition | StatementKind::Alteration => true,
            // With ANALYZE it runs the statement.
            StatementKind::Explain => match self.deed() {
                Deed::Nothing | Deed::Writes { .. } => false,
                Deed::Doubt => may_explain_definition(self.text()),
                _ => true,
            },
            _ => false,
        }
    }

    /// Whether it may alter anything.
    pub(super) fn alters(&self, kind: StatementKind) -> bool {
        match kind {
            StatementKind::Alteration => true,
            // With ANALYZE it runs the statement.
            StatementKind::Explain => match self.deed() {
                Deed::Alters { .. } => true,
                Deed::Doubt => may_explain_alteration(self.text()),
                _ => false,
            },
            _ => false,
        }
    }

    /// Whether it may make a schema.
    pub(super) fn makes_schema(&self, kind: StatementKind) -> bool {
        let asked = self.asked(kind);
        match asked.deed {
            Deed::Creates {
                what: What::Schema, ..
            } => true,
            Deed::Doubt => asked.may_define() && asked.says("schema"),
            _ => false,
        }
    }

    /// Whether it may make an index, or drop one.
    pub(super) fn may_make_index(&self) -> bool {
        match self.deed() {
            Deed::MakesIndex { .. }
            | Deed::Drops {
                what: What::Index, ..
            } => true,
            Deed::Doubt => may_make_index(&self.sql.text),
            _ => false,
        }
    }

    /// Keeps others from committing anything where the statement may make an index or alter a table. DuckDB 1.5.5 reads the table
    /// first and then adds the index, and what is committed in between is never found by it. Where it changes a type, it reads the
    /// table and then puts a new one in its place (and locks the new one's `append_lock`, not the old one's): what is committed in
    /// between is lost, or makes it fail.
    pub(super) fn alone(&self, kind: StatementKind) -> Option<Alone<'a>> {
        let may_make_index = matches!(kind, StatementKind::Definition | StatementKind::Explain)
            && self.may_make_index();
        let leaves_out = may_make_index || self.alters(kind);
        (leaves_out && !self.is_of_swap).then(|| self.connection.commits().alone())
    }

    /// Keeps the units of loaders waiting that change rows of the tables of which the statement may change or delete some, and other
    /// such statements. DuckDB 1.5.5 takes it for no conflict where one transaction deletes a row that another one updates in its
    /// place: both are committed, and the row is gone, though a DELETE would not have found it after the update. Nor does it find a row
    /// that another transaction adds and that refers to one which this deletes, or the other way round: so whoever adds rows and
    /// whoever changes those that they refer to wait for each other, too. To be called before
    /// the statement's transaction begins; what is given back must live until after its commit. `is_as_new` where nothing was left
    /// behind on the connection.
    pub(super) fn hold_changed(&self, is_as_new: bool) -> Result<Option<Hold>> {
        // While a swap runs nobody commits, so what waits here for others' commits would wait for ever.
        if self.is_of_swap {
            return Ok(None);
        }
        // DuckDB has not told yet what kind it is.
        let Some((change, table)) = self.asked(StatementKind::Rows).write() else {
            return Ok(None);
        };
        let references = References::seen(self.connection)?;
        let only_adds = change == Change::Adds;
        if only_adds && references.is_empty() {
            return Ok(None);
        }
        let Some(name) = table else {
            let reach = match only_adds {
                true => Reach::refers(references.all()),
                false => Reach::changes(Tables::All),
            };
            return self.connection.hold(reach, self.cancel);
        };
        let tables = match is_as_new {
            true => places(name),
            false => self.place(name)?.into_iter().collect(),
        };
        let referred = tables.iter().flat_map(|table| references.of(table));
        let mut reach = Reach::refers(referred.cloned().collect());
        if !only_adds {
            reach.changed = Tables::These(tables);
        }
        match reach.is_empty() {
            true => Ok(None),
            false => self.connection.hold(reach, self.cancel),
        }
    }

    /// The table of this name that DuckDB finds, unless it is a temporary one, or there is none.
    fn place(&self, name: &[String]) -> Result<Option<TableKey>> {
        let found = named::tables(self.connection, name)?.into_iter().next();
        let found = found.filter(|[database, ..]| database != TEMPORARY);
        // Clients attach no databases: what is not temporary is in the server's own.
        Ok(found.map(|[_, schema, table]| TableKey::in_own_catalog(&schema, &table)))
    }

    /// Whether it may give a column of a table that others see, too, another type, in a client's transaction that has done this.
    pub(super) fn changes_type(&self, kind: StatementKind, work: &IndexWork) -> Result<bool> {
        if !self.alters(kind) {
            return Ok(false);
        }
        let table = match self.deed() {
            Deed::Alters {
                table,
                how: How::ChangesType | How::Any,
            } => table.as_deref(),
            // Of a field, no word tells.
            Deed::Doubt if self.asked(kind).says("alter") => None,
            _ => return Ok(false),
        };
        Ok(!work.is_own(self.connection, table)?)
    }

    /// As [`alone`](Self::alone), inside a client's transaction; `work` is what it has done to indexes so far. Where the statement
    /// makes an index, or changes a type, waits for transactions to end that are too old for it. Others commit meanwhile, and the wait has a limit. The
    /// client's own transaction gets no younger: where the index must not be made in it, nothing is waited for.
    pub(super) fn alone_inside(
        &self,
        kind: StatementKind,
        work: &IndexWork,
    ) -> Result<Option<Alone<'a>>> {
        let makes_index = work.makes_for_others(self.connection, self.asked(kind))?;
        if !makes_index && !self.changes_type(kind, work)? {
            return Ok(self.alone(kind));
        }
        // That does not change while others end.
        work.check_possible(self.connection, self.asked(kind))?;
        let wait = self.connection.wait_for_older();
        loop {
            let alone = self.alone(kind);
            let older = self.connection.older_transactions();
            if !older.own && !older.others {
                if makes_index {
                    self.connection.finish_deletions()?;
                }
                return Ok(alone);
            }
            if kept_indexes::is_there(self.connection, self.asked(kind))? {
                return Ok(alone);
            }
            drop(alone);
            if older.own || !wait.goes_on(self.cancel)? {
                return Err(match makes_index {
                    true => Error::IndexBesideOlder,
                    false => Error::TypeBesideOlder,
                });
            }
        }
    }

    /// Whether it may give a table another name.
    pub(super) fn renames_table(&self, kind: StatementKind) -> Result<bool> {
        if !self.alters(kind) {
            return Ok(false);
        }
        let renames = match self.deed() {
            Deed::Alters {
                how: How::Renames, ..
            } => true,
            Deed::Alters { how: How::Any, .. } => may_rename_table(self.text()),
            // What is no ALTER may be a COMMENT.
            Deed::Doubt => self.asked(kind).says("alter") && may_rename_table(self.text()),
            _ => false,
        };
        match kind {
            _ if !renames => Ok(false),
            StatementKind::Explain => Err(Error::Forbidden(EXPLAINS_RENAME)),
            _ => Ok(true),
        }
    }

    /// Claims the table that it alters, or `renames`, where it does.
    pub(super) fn claim(&self, renames: bool, kind: StatementKind) -> Result<()> {
        match self.deed() {
            _ if renames => {
                self.gate.admit(kind)?;
                claim_renamed(self.connection, self.text)
            }
            Deed::Alters {
                table: Some(name), ..
            } if self.alters(kind) => claim_name(self.connection, name),
            _ => Ok(()),
        }
    }

    /// The rows that a statement may have written, where it has changed so many as far as DuckDB tells. It does not tell
    /// of what runs another statement, or makes a table of a query.
    pub(super) fn rows_written(&self, kind: StatementKind, rows_changed: u64) -> u64 {
        let says = |word| contains_word(&self.sql.text, word);
        let is_untold = match (kind, self.deed()) {
            (StatementKind::Explain, Deed::Doubt | Deed::Writes { .. }) => true,
            (
                StatementKind::Explain | StatementKind::Definition,
                Deed::Creates { is_filled, .. },
            ) => *is_filled,
            (StatementKind::Definition, Deed::Doubt) => says("table") && says("as"),
            (StatementKind::Call | StatementKind::Other, _) => says("execute") || says("copy"),
            _ => false,
        };
        if is_untold { u64::MAX } else { rows_changed }
    }

    /// Whether it runs in a transaction of ours where the client has none. A SET does, for a variable may be given what a
    /// query finds, and so does a CALL, which is planned as a query. But a CHECKPOINT, which DuckDB makes a CALL, does not.
    pub(super) fn belongs_in_transaction(&self, kind: StatementKind) -> bool {
        match kind {
            StatementKind::Select
            | StatementKind::Rows
            | StatementKind::Explain
            | StatementKind::Definition
            | StatementKind::Alteration
            | StatementKind::Set => true,
            StatementKind::Call => !self.is_checkpoint(kind),
            _ => false,
        }
    }

    /// Whether it is a CHECKPOINT.
    pub(super) fn is_checkpoint(&self, kind: StatementKind) -> bool {
        kind == StatementKind::Call && self.text.is_some_and(begins_with_checkpoint)
    }

    /// Refuses what may be a CHECKPOINT, where nobody can tell: it is not run as other statements are.
    pub(super) fn check_checkpoint(&self, kind: StatementKind) -> Result<()> {
        match kind {
            StatementKind::Call
                if self.text.is_none() && contains_word(&self.sql.text, "checkpoint") =>
            {
                Err(Error::Forbidden(DOUBTFUL_CHECKPOINT))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a statement is a CHECKPOINT. A CALL of its function is refused.
fn begins_with_checkpoint(text: &str) -> bool {
    let first = statements(text).next();
    first.is_some_and(|mut statement| statement.accept(&["checkpoint"]))
}

/// The tables of which one has this name, for a connection that is as new: it has no temporary tables, and looks in the server's own
/// database, and there in `main`. The first of two parts is a schema or a database.
fn places(name: &[String]) -> Vec<TableKey> {
    match name {
        [table] => vec![TableKey::in_own_catalog(MAIN, table)],
        [one, table] => vec![
            TableKey::in_own_catalog(one, table),
            TableKey::in_own_catalog(MAIN, table),
        ],
        [_, schema, table] => vec![TableKey::in_own_catalog(schema, table)],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineOptions;
    use crate::engine::catalog::texts;
    use crate::engine::ffi::Connection;
    use crate::engine::storage::open::open_database;

    /// Makes a table whose only row says where it is.
    fn make(connection: &Connection, schema: &str) {
        let sql = format!("CREATE TABLE {schema}.t AS SELECT '{schema}' AS place");
        connection.execute(&sql).unwrap();
    }

    #[test]
    fn a_connection_that_is_as_new_finds_a_table_where_its_name_says() {
        let directory = tempfile::tempdir().unwrap();
        let options = EngineOptions {
            database: directory.path().join("test.db"),
            ..EngineOptions::in_memory()
        };
        let database = open_database(&options).unwrap().database;
        let connection = database.connect().unwrap();
        connection.make_file_refusal().unwrap();
        connection.execute("CREATE SCHEMA s").unwrap();
        for schema in ["main", "s"] {
            make(&connection, schema);
        }
        for (parts, place) in [
            (&["t"][..], "main"),
            (&["T"], "main"),
            (&["main", "t"], "main"),
            (&["S", "t"], "s"),
            (&["test", "t"], "main"),
            (&["test", "s", "T"], "s"),
        ] {
            let clients = database.connect_for_clients().unwrap();
            let sql = format!("SELECT place FROM {}", parts.join("."));
            let found = texts::<1>(&clients, &sql).unwrap();
            assert_eq!(found, [[place.to_owned()]], "{parts:?}");
            let name: Vec<_> = parts.iter().map(|&part| part.to_owned()).collect();
            let places = places(&name);
            assert!(
                places.contains(&TableKey::in_own_catalog(place, "t")),
                "{parts:?}"
            );
        }
        assert!(places(&["a", "b", "c", "d"].map(str::to_owned)).is_empty());
    }

    #[test]
    fn a_checkpoint_is_told_by_its_first_word() {
        for text in ["CHECKPOINT", ";/* now */ checkpoint a"] {
            assert!(begins_with_checkpoint(text), "{text}");
        }
        for text in [
            "CALL m((SELECT max(step) FROM checkpoint))",
            "CALL checkpoint()",
            "SELECT checkpoint",
        ] {
            assert!(!begins_with_checkpoint(text), "{text}");
        }
    }
}
