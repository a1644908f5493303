//! What a statement may do, as far as its kind and its words tell.

use duck_flight_protocol::TableName;

use super::Statement;
use crate::engine::connections::commits::Alone;
use crate::engine::ffi::StatementKind;
use crate::engine::ingest::queue::{Hold, Tables};
use crate::engine::ingest::unit::{TEMPORARY, TableKey};
use crate::engine::replay::claim::{altered, claim_altered, claim_renamed, may_change_type};
use crate::engine::replay::index_work::{Asked, IndexWork, may_change_rows};
use crate::engine::replay::rename::{alters_view, may_rename_table};
use crate::engine::replay::{full_targets, may_make_index};
use crate::engine::replay::{kept_indexes, named};
use crate::engine::sql::admission::{
    makes_index, may_explain_alteration, may_explain_definition, run_by,
};
use crate::engine::sql::tokens::contains_word;
use crate::error::{Error, Result};

const EXPLAINS_RENAME: &str =
    "EXPLAIN ANALYZE would rename the table, which is not explained: run the statement itself";

impl<'a> Statement<'a> {
    /// Its text, or that of the whole script.
    pub(super) fn text(&self) -> &'a str {
        self.text.unwrap_or(&self.sql.text)
    }

    /// Whether it may define anything, alter or drop it.
    pub(super) fn defines(&self, kind: StatementKind) -> bool {
        match kind {
            StatementKind::Definition | StatementKind::Alteration => true,
            // With ANALYZE it runs the statement.
            StatementKind::Explain => may_explain_definition(self.text()),
            _ => false,
        }
    }

    /// Whether it is an ALTER, or what DuckDB makes of one.
    pub(super) fn is_of_alteration(&self) -> bool {
        let text = self.text.and_then(run_by);
        text.is_some_and(|mut text| text.accept(&["alter"]))
    }

    /// Whether it may make an index, or drop one.
    pub(super) fn may_make_index(&self) -> bool {
        let in_script = || may_make_index(&self.sql.text);
        self.text.map_or_else(in_script, makes_index)
    }

    /// Keeps others from committing anything where the statement may make an index or alter a table. DuckDB 1.5.5 reads the table
    /// first and then adds the index, and what is committed in between is never found by it. Where it changes a type, it reads the
    /// table and then puts a new one in its place (and locks the new one's `append_lock`, not the old one's): what is committed in
    /// between is lost, or makes it fail.
    pub(super) fn alone(&self, kind: StatementKind) -> Option<Alone<'a>> {
        let leaves_out = match kind {
            StatementKind::Alteration => true,
            StatementKind::Definition => self.may_make_index(),
            // With ANALYZE it runs the statement.
            StatementKind::Explain => self.may_make_index() || may_explain_alteration(self.text()),
            _ => false,
        };
        (leaves_out && !self.is_of_swap).then(|| self.connection.commits().alone())
    }

    /// Keeps the units of loaders waiting that change rows of the tables of which the statement may change or delete some, and other
    /// such statements. DuckDB 1.5.5 takes it for no conflict where one transaction deletes a row that another one updates in its
    /// place: both are committed, and the row is gone, though a DELETE would not have found it after the update. To be called before
    /// the statement's transaction begins; what is given back must live until after its commit.
    pub(super) fn hold_changed(&self) -> Result<Option<Hold>> {
        // While a swap runs nobody commits, so what waits here for others' commits would wait for ever.
        if self.is_of_swap || !may_change_rows(self.text, &self.sql.text) {
            return Ok(None);
        }
        let Some(names) = full_targets(self.text()) else {
            return self.connection.hold(Tables::All, self.cancel);
        };
        let mut tables = Vec::new();
        for name in names {
            let found = named::tables(self.connection, &name)?.into_iter().next();
            // Clients attach no databases: what is not temporary is in the server's own.
            if let Some([database, schema, table]) = found
                && database != TEMPORARY
            {
                let name = TableName {
                    catalog: None,
                    schema: Some(schema),
                    table,
                };
                tables.push(TableKey::new(&name, &database));
            }
        }
        match tables.is_empty() {
            true => Ok(None),
            false => self.connection.hold(Tables::These(tables), self.cancel),
        }
    }

    /// The statement, as it is asked what it does to indexes.
    pub(super) fn asked(&self, kind: StatementKind) -> Asked<'a> {
        Asked {
            kind,
            text: self.text,
            script: &self.sql.text,
        }
    }

    /// Whether it may give a column of a table that others see, too, another type, in a client's transaction that has done this.
    pub(super) fn changes_type(&self, kind: StatementKind, work: &IndexWork) -> Result<bool> {
        let text = self.text();
        let alters = match kind {
            StatementKind::Alteration => true,
            // With ANALYZE it runs the statement.
            StatementKind::Explain => may_explain_alteration(text),
            _ => false,
        };
        if !alters || !may_change_type(text) {
            return Ok(false);
        }
        let table = self.text.and_then(altered);
        Ok(!work.is_own(self.connection, table.as_deref())?)
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
        let text = self.text();
        match kind {
            StatementKind::Alteration => {
                Ok(may_rename_table(text) && !self.text.is_some_and(alters_view))
            }
            StatementKind::Explain if may_explain_alteration(text) && may_rename_table(text) => {
                Err(Error::Forbidden(EXPLAINS_RENAME))
            }
            _ => Ok(false),
        }
    }

    /// Claims the table that it alters, or `renames`, where it does.
    pub(super) fn claim(&self, renames: bool, kind: StatementKind) -> Result<()> {
        let alters = matches!(kind, StatementKind::Alteration | StatementKind::Explain);
        match self.text {
            _ if renames => {
                self.gate.admit(kind)?;
                claim_renamed(self.connection, self.text)
            }
            Some(text) if alters => claim_altered(self.connection, text),
            _ => Ok(()),
        }
    }

    /// The rows that a statement may have written, where it has changed so many as far as DuckDB tells. It does not tell
    /// of what runs another statement, or makes a table of a query.
    pub(super) fn rows_written(&self, kind: StatementKind, rows_changed: u64) -> u64 {
        let says = |word| contains_word(&self.sql.text, word);
        let is_untold = match kind {
            StatementKind::Explain => says("analyze") || says("analyse"),
            StatementKind::Call | StatementKind::Other => says("execute") || says("copy"),
            StatementKind::Definition => says("table") && says("as"),
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
            StatementKind::Call => !contains_word(&self.sql.text, "checkpoint"),
            _ => false,
        }
    }
}
