//! Commits that DuckDB would refuse in their middle.
//!
//! DuckDB 1.5.5 commits what a transaction has done bit by bit (`UndoBuffer::Commit`). Only then it refuses rows that were deleted or
//! updated of a table that another one has altered or dropped (`DataTable::IsMainTable`), and definitions that another one has taken
//! the ground from (`VerifyExistenceOfDependency`, `VerifyCommitDrop`). It takes back what it has committed before
//! (`UndoBuffer::RevertCommit`); and where the transaction has deleted a key and inserted it again, it puts the old key beside the
//! new one: that fails where nobody catches it, and the process ends.
//!
//! So a transaction that has deleted or updated rows is refused before its commit. An ALTER counts from the moment at which it runs,
//! for it puts the rows into another storage then; anything else from its own commit on. Both count until their transaction has
//! ended, and for those that have begun before that. What only adds rows needs none of this: DuckDB refuses that before the first
//! bit is committed.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use duck_flight_protocol::quote;
use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard};

use super::index_work::Names;
use super::named;
use crate::engine::ffi::{Connection, StatementKind};
use crate::engine::ingest::target::TEMPORARY;
use crate::engine::sql::deed::{Asked, Deed, How, What, own_name};
use crate::engine::sql_error::{SqlError, SqlErrorKind};
use crate::error::Result;

/// How many definitions are told apart: of an open transaction, and of all that have ended.
const MAX_DEFINITIONS: usize = 256;

/// What the transactions of a database define that others may stumble over.
#[derive(Default)]
pub(super) struct Alterations {
    /// Shared by whoever commits changed rows, from the look at what others define to the end of the commit. Nobody waits for
    /// anything of ours meanwhile, but for a checkpoint.
    commits: RwLock<()>,
    /// How many transactions have ended that have defined something.
    ended: AtomicU64,
    connections: AtomicU64,
    definitions: Mutex<Definitions>,
    /// Held by whoever commits a macro or an index of those that must not be there together, from the look at what others have committed
    /// to the end of the commit. Taken before `commits`.
    pairs: Mutex<()>,
}

#[derive(Default)]
struct Definitions {
    /// The definitions of transactions that have not ended, by the numbers of their connections.
    open: HashMap<u64, Vec<Definition>>,
    /// The last definitions of transactions that have ended, each with the number of that end.
    ended: VecDeque<(u64, Definition)>,
    /// Transactions that ended up to this number may have defined anything.
    forgotten: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Definition {
    /// Leaves the rows of all tables where they are.
    Plain,
    /// Moves the rows of a table of this name, or has them found by another name from then on. `None` may be any table.
    OfTable(Option<String>),
}

/// What the transaction of a connection has done so far.
pub(in crate::engine) struct Changes {
    all: Arc<Alterations>,
    connection: u64,
    /// How many others had ended before it began.
    since: Cell<u64>,
    /// The tables of which it may have deleted or updated rows.
    rows: RefCell<Names>,
    /// The tables to which it may have written rows.
    written: RefCell<Names>,
    /// What counts for others from its commit on.
    defined: RefCell<Vec<Definition>>,
    /// Whether anything counts already.
    is_open: Cell<bool>,
    /// Whether it may make a macro with the name of one of DuckDB's own functions.
    shadows: Cell<bool>,
    /// Whether it may make an index of an expression.
    binds: Cell<bool>,
}

impl Alterations {
    /// The changes of a new connection.
    pub(super) fn of_connection(self: &Arc<Self>) -> Changes {
        Changes {
            all: self.clone(),
            connection: self.connections.fetch_add(1, Ordering::Relaxed),
            since: Cell::default(),
            rows: RefCell::default(),
            written: RefCell::default(),
            defined: RefCell::default(),
            is_open: Cell::default(),
            shadows: Cell::default(),
            binds: Cell::default(),
        }
    }
}

impl Definitions {
    /// What is in the way of a transaction's commit.
    fn in_way(&self, changes: &Changes, rows: &Names) -> Option<Definition> {
        let since = changes.since.get();
        if since < self.forgotten {
            return Some(Definition::OfTable(None));
        }
        let defines = changes.is_open.get();
        let others = self.open.iter();
        let others = others.filter(|(connection, _)| **connection != changes.connection);
        let ended = self.ended.iter().filter(|(end, _)| *end > since);
        others
            .flat_map(|(_, definitions)| definitions)
            .chain(ended.map(|(_, definition)| definition))
            .find(|definition| match definition {
                Definition::Plain => defines,
                Definition::OfTable(name) => rows.has(name.as_deref()),
            })
            .cloned()
    }
}

impl Changes {
    /// Records that the transaction begins. To be called before it looks at the database.
    pub(super) fn begin(&self) {
        self.since.set(self.all.ended.load(Ordering::SeqCst));
    }

    /// Records that the transaction may delete or update rows of this table; `None` is any.
    pub(in crate::engine) fn note_rows(&self, table: Option<String>) {
        self.rows.borrow_mut().add(table);
    }

    /// Whether the transaction may have deleted or updated rows of this table; `None` is any.
    pub(super) fn may_have_changed(&self, table: Option<&str>) -> bool {
        self.rows.borrow().has(table)
    }

    /// Records that the transaction may write rows to this table; `None` is any.
    pub(in crate::engine) fn note_new_rows(&self, table: Option<String>) {
        self.written.borrow_mut().add(table);
    }

    /// Whether the transaction may have written rows to a table of this name.
    pub(super) fn may_have_written(&self, table: &str) -> bool {
        self.written.borrow().has(Some(table))
    }

    /// Records that the transaction defines something.
    pub(in crate::engine) fn note_definition(&self) {
        add(&mut self.defined.borrow_mut(), Definition::Plain);
    }

    /// Whether the transaction defines anything. To be asked before its commit.
    pub(in crate::engine) fn define(&self) -> bool {
        !self.defined.borrow().is_empty()
    }

    /// Records that a table of this name, or any, is dropped or gets another name when the transaction is committed.
    pub(in crate::engine) fn note_drop(&self, table: Option<String>) {
        self.note_definition();
        let definition = Definition::OfTable(table);
        add(&mut self.defined.borrow_mut(), definition);
    }

    /// Records that the transaction alters a table of this name, or any, from now on.
    pub(in crate::engine) fn note_alteration(&self, table: Option<String>) {
        self.note_definition();
        self.open([Definition::OfTable(table)]);
    }

    /// Records that the transaction may make a macro with the name of one of DuckDB's own functions.
    pub(in crate::engine) fn note_shadow(&self) {
        self.shadows.set(true);
    }

    /// Whether it may.
    pub(in crate::engine) fn shadows(&self) -> bool {
        self.shadows.get()
    }

    /// Records that the transaction may make an index of an expression.
    pub(in crate::engine) fn note_binding(&self) {
        self.binds.set(true);
    }

    /// Whether it may.
    pub(in crate::engine) fn binds(&self) -> bool {
        self.binds.get()
    }

    /// Keeps others from committing such macros and indexes, until the guard is dropped.
    pub(in crate::engine) fn alone_with_pairs(&self) -> MutexGuard<'_, ()> {
        self.all.pairs.lock()
    }

    /// Marks the transaction as being committed, until the guard is dropped.
    ///
    /// # Errors
    /// Where DuckDB would refuse that in its middle. Then it must be rolled back.
    pub(in crate::engine) fn begin_commit(
        &self,
    ) -> std::result::Result<Option<RwLockReadGuard<'_, ()>>, SqlError> {
        let defined = self.defined.take();
        if !defined.is_empty() {
            self.open(defined);
        }
        let rows = self.rows.borrow();
        if rows.is_empty() {
            return Ok(None);
        }
        let committing = self.all.commits.read();
        match self.all.definitions.lock().in_way(self, &rows) {
            None => Ok(Some(committing)),
            Some(definition) => Err(refusal(&definition)),
        }
    }

    /// Records that the transaction has ended.
    pub(super) fn end(&self) {
        self.rows.take();
        self.written.take();
        self.defined.take();
        self.shadows.set(false);
        self.binds.set(false);
        if !self.is_open.take() {
            return;
        }
        let mut definitions = self.all.definitions.lock();
        let number = self.all.ended.load(Ordering::SeqCst) + 1;
        let own = definitions.open.remove(&self.connection);
        for definition in own.into_iter().flatten() {
            definitions.ended.retain(|(_, other)| *other != definition);
            definitions.ended.push_back((number, definition));
        }
        while definitions.ended.len() > MAX_DEFINITIONS
            && let Some((first, _)) = definitions.ended.pop_front()
        {
            definitions.forgotten = first;
        }
        self.all.ended.store(number, Ordering::SeqCst);
    }

    fn open(&self, new: impl IntoIterator<Item = Definition>) {
        self.is_open.set(true);
        let mut definitions = self.all.definitions.lock();
        let own = definitions.open.entry(self.connection).or_default();
        for definition in new {
            add(own, definition);
        }
        drop(definitions);
        // Whoever has not seen it is done after that.
        drop(self.all.commits.write());
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        // A connection that is closed has rolled back.
        self.end();
    }
}

fn add(definitions: &mut Vec<Definition>, definition: Definition) {
    let definition = match definitions.len() < MAX_DEFINITIONS {
        true => definition,
        false => Definition::OfTable(None),
    };
    if !definitions.contains(&definition) {
        definitions.push(definition);
    }
}

fn refusal(definition: &Definition) -> SqlError {
    let why = match definition {
        Definition::OfTable(Some(name)) => format!(
            "change rows of table {}, but another transaction has altered, replaced, renamed or dropped it",
            quote(name)
        ),
        Definition::OfTable(None) => {
            "change rows of a table, but another transaction may have altered, replaced, renamed or dropped it".to_owned()
        }
        Definition::Plain => {
            "define something beside changes of rows, but another transaction has defined something, too".to_owned()
        }
    };
    let message = format!("Transaction conflict: attempting to {why}: try again");
    SqlError::new(SqlErrorKind::Conflict, message)
}

/// What counts of a statement for others, and from when on. Tables have their names with their qualifiers; `None` is any.
#[derive(Debug, PartialEq, Eq)]
enum Effect<'a> {
    Nothing,
    /// Something that leaves the rows of all tables where they are.
    Plain,
    /// Puts the rows of a table into another storage when it runs.
    AtOnce(Option<&'a [String]>),
    /// Drops a table, replaces it, or gives it another name, when it is committed.
    AtCommit(Option<&'a [String]>),
}

impl<'a> Effect<'a> {
    fn of(asked: Asked<'a>) -> Self {
        match asked.deed {
            // Such as a PIVOT, of which DuckDB makes a temporary type.
            Deed::Nothing | Deed::Writes { .. } => Self::Nothing,
            Deed::Doubt => match asked.kind {
                StatementKind::Definition => Self::AtCommit(None),
                StatementKind::Alteration | StatementKind::Explain => Self::AtOnce(None),
                _ => Self::Nothing,
            },
            Deed::Disguised => Self::AtOnce(None),
            Deed::Alters { table, how } => match how {
                How::Keeps => Self::Plain,
                How::Renames => Self::AtCommit(table.as_deref()),
                How::ChangesType | How::AddsKey | How::Moves | How::Any => {
                    Self::AtOnce(table.as_deref())
                }
            },
            Deed::Creates {
                is_temporary: true, ..
            } => Self::Nothing,
            Deed::Creates {
                what: What::Table,
                name,
                replaces: true,
                ..
            }
            | Deed::Drops {
                what: What::Table,
                name,
                cascades: false,
            } => Self::AtCommit(name.as_deref()),
            Deed::Creates {
                what: What::Schema,
                replaces: true,
                ..
            }
            | Deed::Drops { cascades: true, .. } => Self::AtCommit(None),
            Deed::Creates { .. }
            | Deed::MakesIndex { .. }
            | Deed::Drops { .. }
            | Deed::CommentsOnIndex
            | Deed::Defines => Self::Plain,
        }
    }
}

/// Takes note of what a statement defines. To be called right before it runs; where it is an ALTER, while nobody else commits
/// anything.
pub(in crate::engine) fn note(connection: &Connection, asked: Asked<'_>) -> Result<()> {
    let effect = Effect::of(asked);
    if let Effect::AtOnce(Some(name)) | Effect::AtCommit(Some(name)) = effect
        // What takes the place of a table is none that is temporary.
        && !matches!(asked.deed, Deed::Creates { .. })
    {
        let found = named::tables(connection, name)?;
        if found.first().is_some_and(|table| table[0] == TEMPORARY) {
            return Ok(());
        }
    }
    let changes = connection.changes();
    let own = |table| own_name(table).map(str::to_owned);
    match effect {
        Effect::Nothing => {}
        Effect::Plain => changes.note_definition(),
        Effect::AtOnce(table) => changes.note_alteration(own(table)),
        Effect::AtCommit(table) => changes.note_drop(own(table)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes() -> [Changes; 2] {
        let all = Arc::<Alterations>::default();
        [all.of_connection(), all.of_connection()]
    }

    fn some(name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    /// Whether a commit may go on; the transaction has ended then.
    fn commits(changes: &Changes) -> bool {
        let is_let = changes.begin_commit().is_ok();
        changes.end();
        is_let
    }

    #[test]
    fn a_table_that_another_transaction_drops_is_in_the_way_from_its_commit_on() {
        let [one, other] = changes();
        for (table, is_in_way) in [(some("T"), true), (None, true), (some("u"), false)] {
            one.begin();
            one.note_rows(some("t"));
            other.begin();
            other.note_drop(table.clone());
            assert!(one.begin_commit().is_ok(), "it is not committed");
            assert!(other.begin_commit().is_ok());
            assert_eq!(one.begin_commit().is_err(), is_in_way, "{table:?}");
            other.end();
            assert_eq!(commits(&one), !is_in_way, "{table:?}");
            one.begin();
            one.note_rows(some("t"));
            assert!(commits(&one), "it has begun afterwards");
        }
    }

    #[test]
    fn a_table_that_another_transaction_has_altered_is_in_the_way_until_that_ends() {
        let [one, other] = changes();
        other.begin();
        other.note_alteration(some("t"));
        for (table, is_let) in [("t", false), ("u", true)] {
            one.begin();
            one.note_rows(some(table));
            assert_eq!(commits(&one), is_let, "{table}");
        }
        other.note_rows(some("t"));
        assert!(other.begin_commit().is_ok(), "it is its own");
        one.begin();
        one.note_rows(some("t"));
        assert!(one.begin_commit().is_err());
        other.end();
        assert!(!commits(&one), "it has begun before");
        one.begin();
        one.note_rows(some("t"));
        assert!(commits(&one));
    }

    #[test]
    fn what_others_define_is_in_the_way_of_changes_beside_definitions() {
        let [one, other] = changes();
        for (changes_rows, defines, is_let) in [
            (true, true, false),
            (true, false, true),
            (false, true, true),
        ] {
            one.begin();
            if changes_rows {
                one.note_rows(some("t"));
            }
            if defines {
                one.note_definition();
            }
            other.begin();
            other.note_definition();
            assert!(commits(&other));
            assert_eq!(commits(&one), is_let, "{changes_rows} {defines}");
        }
    }

    #[test]
    fn a_connection_that_is_closed_is_in_nobodys_way() {
        let [one, other] = changes();
        other.note_alteration(None);
        drop(other);
        one.begin();
        one.note_rows(None);
        assert!(commits(&one));
    }

    #[test]
    fn definitions_beyond_so_many_may_be_of_any_table() {
        let [one, other] = changes();
        for (count, is_let) in [(MAX_DEFINITIONS / 2, true), (2 * MAX_DEFINITIONS, false)] {
            one.begin();
            one.note_rows(some("t"));
            for number in 0..count {
                other.begin();
                other.note_drop(Some(format!("u{number}")));
                assert!(commits(&other));
            }
            assert_eq!(commits(&one), is_let, "{count}");
        }
        one.begin();
        one.note_rows(some("t"));
        for number in 0..=MAX_DEFINITIONS {
            other.note_alteration(Some(format!("v{number}")));
        }
        assert!(!commits(&one));
    }

    #[test]
    fn what_a_statement_defines_is_found() {
        let name = |parts: &[&str]| Some(parts.iter().map(|&part| part.to_owned()).collect());
        let plain = || ("plain", None);
        let at_once = |parts: &[&str]| ("at once", name(parts));
        let at_commit = |parts: &[&str]| ("at commit", name(parts));
        for (sql, expected) in [
            ("ALTER TABLE s.t ADD COLUMN i INTEGER", at_once(&["s", "t"])),
            (
                "alter table IF EXISTS \"T x\" alter c type BIGINT",
                at_once(&["T x"]),
            ),
            ("ALTER TABLE t ALTER COLUMN c SET NOT NULL", at_once(&["t"])),
            ("ALTER TABLE t ALTER COLUMN c SET DEFAULT 1", plain()),
            ("ALTER TABLE t ALTER c DROP NOT NULL", plain()),
            ("ALTER TABLE t RENAME COLUMN c TO d", plain()),
            ("ALTER TABLE t RENAME COLUMN s.a TO b", at_once(&["t"])),
            ("; ALTER TABLE t RENAME TO u", at_commit(&["t"])),
            ("ALTER TABLE t\u{a0}u DROP i", ("at once", None)),
            ("ALTER VIEW v RENAME TO w", plain()),
            ("COMMENT ON TABLE t IS 'drop table t'", plain()),
            ("EXPLAIN ANALYZE ALTER TABLE t DROP i", at_once(&["t"])),
            ("EXPLAIN ALTER TABLE t DROP i", ("nothing", None)),
            ("DROP TABLE IF EXISTS s.t", at_commit(&["s", "t"])),
            ("DROP SEQUENCE s CASCADE", ("at commit", None)),
            ("DROP VIEW v", plain()),
            ("CREATE OR REPLACE TABLE t AS FROM u", at_commit(&["t"])),
            (
                "CREATE OR REPLACE UNLOGGED TABLE t AS FROM u",
                at_commit(&["t"]),
            ),
            ("CREATE OR REPLACE SCHEMA s", ("at commit", None)),
            (
                "CREATE OR REPLACE TEMP TABLE t (i INTEGER)",
                ("nothing", None),
            ),
            ("CREATE OR REPLACE VIEW v AS FROM t", plain()),
            ("CREATE TABLE t (i INTEGER)", plain()),
            ("CREATE INDEX i ON t (c)", plain()),
            ("PIVOT t ON c USING sum(i)", ("nothing", None)),
            ("DELETE FROM t", ("nothing", None)),
        ] {
            let asked = Asked {
                kind: StatementKind::Definition,
                deed: &Deed::of(sql),
                script: sql,
            };
            let (when, table): (_, Option<Vec<String>>) = expected;
            let effect = match when {
                "nothing" => Effect::Nothing,
                "plain" => Effect::Plain,
                "at once" => Effect::AtOnce(table.as_deref()),
                _ => Effect::AtCommit(table.as_deref()),
            };
            assert_eq!(Effect::of(asked), effect, "{sql}");
        }
    }

    #[test]
    fn a_statement_of_which_the_text_is_in_doubt_may_define_anything() {
        for (kind, effect) in [
            (StatementKind::Definition, Effect::AtCommit(None)),
            (StatementKind::Alteration, Effect::AtOnce(None)),
            (StatementKind::Explain, Effect::AtOnce(None)),
            (StatementKind::Rows, Effect::Nothing),
        ] {
            let asked = Asked {
                kind,
                deed: &Deed::Doubt,
                script: "SELECT é; CREATE TABLE t (i INTEGER)",
            };
            assert_eq!(Effect::of(asked), effect, "{kind:?}");
        }
    }
}
