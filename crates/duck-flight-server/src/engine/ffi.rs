//! Safe wrappers over DuckDB's C API: the one place with unsafe code.
//!
//! The `duckdb` crate's own wrappers stand in the way here: its streaming iterators panic on an error in
//! the middle of a result, its `prepare` runs all statements of a script but the last, its Arrow appender
//! loses the nulls of intervals, and a statement's schema is known only after it has run. So this module
//! takes the crate's bindings and wraps the calls the engine needs:
//!
//! - [`Database`] and [`Connection`]: opened once, closed when the last user is gone;
//! - [`query::Script`], [`Prepared`], [`QueryResult`]: one statement at a time, results chunk by chunk;
//! - [`Appender`], [`ArrowImporter`], [`append::DataChunk`]: Arrow in, rows appended;
//! - [`insert::Insert`]: the same by a statement that is planned once;
//! - [`tasks::Tasks`]: the tasks of all statements, for threads of ours;
//! - [`lock`]: a lock on the database file that outlives what DuckDB does with the file.
//!
//! A wrapper owns what it wraps and frees it once. Whatever borrows from a connection says so with a
//! lifetime, and a connection belongs to one thread at a time; only its [`Interrupter`] is shared.

#![expect(unsafe_code, reason = "this module is where the C API is called")]

pub(crate) mod append;
mod arrow_type;
mod columns;
mod files;
pub(crate) mod insert;
pub(crate) mod lock;
mod logical_type;
mod nulls;
mod plans;
pub(crate) mod query;
mod result;
mod tasks;
pub(crate) mod value;

use std::cell::{Cell, OnceCell, RefCell};
use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use duckdb::ffi;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

pub(crate) use append::{Appender, ArrowImporter, ColumnShape};
pub(crate) use columns::PlainColumns;
pub(crate) use files::FILES_REFUSED;
pub(crate) use logical_type::MAX_MEMBERS;
pub(crate) use query::{Parameter, Pending, Prepared, StatementKind};
pub(crate) use result::{Batches, QueryResult, ResultChunk};

use logical_type::LogicalType;
use tasks::Tasks;

use super::catalog::SeenColumns;
use super::connections::cancel::Cancel;
use super::connections::commits::{Commits, UnderWay};
use super::connections::helpers::{Helpers, Stay};
use super::ingest::queue::{Hold, Queue, Reach, Turn};
use super::replay::Indexes;
use super::replay::alterations::Changes;
use super::replay::index_work::may_delete;
use super::replay::open_transactions::{Older, OpenTransaction, OpenTransactions, WaitForOlder};
use super::sql::files::macros;
use super::sql::frozen::FrozenDefinitions;
use super::sql_error::{SqlError, SqlErrorKind};
use super::storage::attach::MAX_ROW_GROUP_ROWS;
use super::storage::checkpoint::LOOK_SQL;
use super::storage::health::Health;
use super::storage::images::{Images, Kept};

pub(crate) type Result<T> = std::result::Result<T, SqlError>;

/// How often whoever waits for a checkpoint looks whether it was cancelled.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// An open database. Clones share it; it closes, and checkpoints, when the last clone and connection are gone.
#[derive(Clone)]
pub(crate) struct Database(Arc<DatabaseHandle>);

struct DatabaseHandle {
    raw: ffi::duckdb_database,
    helpers: OnceLock<Helpers>,
    definitions: RwLock<()>,
    frozen_definitions: FrozenDefinitions,
    indexes: Indexes,
    definitions_read_files: AtomicBool,
    commits: Arc<Commits>,
    open_transactions: Arc<OpenTransactions>,
    /// Not for the database to keep: units that wait there may keep it open.
    queue: OnceLock<Weak<Queue>>,
    health: Health,
    seen_columns: Arc<SeenColumns>,
    row_group_rows: OnceLock<u64>,
    zone: OnceLock<Vec<[String; 2]>>,
    update_nothing: OnceLock<CString>,
    /// After `drop` has closed the database, so is the file that it reads.
    images: OnceLock<Images>,
}

// SAFETY: DuckDB's database object is made for use from many threads; only opening and closing are
// exclusive, and those happen in `open` and in `drop`.
unsafe impl Send for DatabaseHandle {}
// SAFETY: as above.
unsafe impl Sync for DatabaseHandle {}

impl Drop for DatabaseHandle {
    fn drop(&mut self) {
        // They work on the database, and end here.
        self.helpers.take();
        // SAFETY: the handle came from a successful duckdb_open_ext and is closed only here.
        unsafe { ffi::duckdb_close(&raw mut self.raw) };
    }
}

impl Database {
    /// Opens the database at `path` (`:memory:` for one without a file) with these settings.
    pub(crate) fn open(path: &str, settings: &[(&str, String)]) -> Result<Self> {
        let path = c_string(path)?;
        let config = Config::new(settings)?;
        let mut database = ptr::null_mut();
        let mut message = ptr::null_mut();
        // SAFETY: all pointers are valid for the call; on failure the message is ours to free.
        let state = unsafe {
            ffi::duckdb_open_ext(path.as_ptr(), &raw mut database, config.0, &raw mut message)
        };
        if state == ffi::DuckDBSuccess {
            return Ok(Self(Arc::new(DatabaseHandle {
                raw: database,
                helpers: OnceLock::new(),
                definitions: RwLock::default(),
                frozen_definitions: FrozenDefinitions::default(),
                indexes: Indexes::default(),
                definitions_read_files: AtomicBool::default(),
                commits: Arc::default(),
                open_transactions: Arc::default(),
                queue: OnceLock::new(),
                health: Health::default(),
                seen_columns: Arc::default(),
                row_group_rows: OnceLock::new(),
                zone: OnceLock::new(),
                update_nothing: OnceLock::new(),
                images: OnceLock::new(),
            })));
        }
        // SAFETY: a failed open leaves a NUL-terminated message, or null, allocated by DuckDB.
        let error = unsafe {
            let error = SqlError::from_message(&text(message));
            ffi::duckdb_free(message.cast());
            error
        };
        Err(error)
    }

    /// Starts `count` threads that help with statements of many tasks. To be called once.
    pub(crate) fn start_helpers(&self, count: usize) -> crate::error::Result<()> {
        // SAFETY: the helpers end before the database is closed.
        let tasks = unsafe { Tasks::of(self.0.raw) };
        let helpers = Helpers::start(count, move || tasks.run())?;
        // A second set would end at once.
        self.0.helpers.set(helpers).ok();
        Ok(())
    }

    /// Says whose turn it is to commit. To be called once.
    pub(super) fn set_queue(&self, queue: &Arc<Queue>) {
        self.0.queue.set(Arc::downgrade(queue)).ok();
    }

    /// Says how many rows a row group of the database file has. To be called once.
    pub(super) fn set_row_group_rows(&self, rows: u64) {
        self.0.row_group_rows.set(rows).ok();
    }

    /// Gives connections a statement that updates no row of the database, see [`Connection::keep_checkpoints_out`]. To be called once.
    pub(super) fn set_update_nothing(&self, sql: &str) -> Result<()> {
        self.0.update_nothing.set(c_string(sql)?).ok();
        Ok(())
    }

    /// Has images kept before checkpoints. To be called once.
    pub(super) fn set_images(&self, images: Images) {
        self.0.images.set(images).ok();
    }

    /// The commits that connections tell of.
    pub(super) fn commits(&self) -> Arc<Commits> {
        self.0.commits.clone()
    }

    /// The transactions that its connections have open.
    pub(super) fn open_transactions(&self) -> &OpenTransactions {
        &self.0.open_transactions
    }

    /// Where it is noted that the database cannot be used any more.
    pub(super) fn health(&self) -> Health {
        self.0.health.clone()
    }

    /// The columns of its tables as they were last seen.
    pub(super) fn seen_columns(&self) -> Arc<SeenColumns> {
        self.0.seen_columns.clone()
    }

    /// Opens a connection for the statements of clients, which read no files.
    pub(crate) fn connect_for_clients(&self) -> Result<Connection> {
        let connection = self.connect()?;
        let are_all = self.0.definitions_read_files.load(Ordering::Acquire);
        connection.run(&macros(are_all))?;
        Ok(connection)
    }

    /// Opens a connection: a session of its own.
    pub(crate) fn connect(&self) -> Result<Connection> {
        let mut raw = ptr::null_mut();
        // SAFETY: the database is open for as long as `self.0` lives.
        let state = unsafe { ffi::duckdb_connect(self.0.raw, &raw mut raw) };
        if state != ffi::DuckDBSuccess {
            return Err(SqlError::internal("DuckDB gives no connection"));
        }
        let interrupter = Interrupter(Arc::new(Mutex::new(Some(RawConnection(raw)))));
        Ok(Connection {
            raw,
            interrupter,
            begin: OnceCell::new(),
            commit: OnceCell::new(),
            update_nothing: OnceCell::new(),
            plans: RefCell::default(),
            chunks_fetched: Cell::default(),
            rows_fetched: Cell::default(),
            commits_later: Cell::default(),
            rows_written: Cell::default(),
            makes_checkpoint: Cell::default(),
            is_filling: Cell::default(),
            open_transaction: self.0.open_transactions.of_connection(),
            database: self.clone(),
        })
    }
}

struct Config(ffi::duckdb_config);

impl Config {
    fn new(settings: &[(&str, String)]) -> Result<Self> {
        let mut config = Self(ptr::null_mut());
        // SAFETY: the pointer is valid; the config is freed by `drop`.
        unsafe { ffi::duckdb_create_config(&raw mut config.0) };
        for (name, value) in settings {
            let (c_name, c_value) = (c_string(name)?, c_string(value)?);
            // SAFETY: the config is live and both strings are NUL-terminated.
            let state =
                unsafe { ffi::duckdb_set_config(config.0, c_name.as_ptr(), c_value.as_ptr()) };
            if state != ffi::DuckDBSuccess {
                let message = format!("DuckDB refuses the setting {name} = {value}");
                return Err(SqlError::new(SqlErrorKind::Invalid, message));
            }
        }
        Ok(config)
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        // SAFETY: made by duckdb_create_config, freed only here.
        unsafe { ffi::duckdb_destroy_config(&raw mut self.0) };
    }
}

/// A connection: one session, used by one thread at a time.
pub(crate) struct Connection {
    raw: ffi::duckdb_connection,
    interrupter: Interrupter,
    /// `BEGIN` and `COMMIT`, prepared when they are first needed: to parse them takes longer than to run them. Freed
    /// by `drop`.
    begin: OnceCell<ffi::duckdb_prepared_statement>,
    commit: OnceCell<ffi::duckdb_prepared_statement>,
    update_nothing: OnceCell<ffi::duckdb_prepared_statement>,
    plans: RefCell<plans::Plans>,
    /// Of the last result.
    chunks_fetched: Cell<u64>,
    rows_fetched: Cell<u64>,
    /// Whether a transaction is open whose end commits what runs here.
    commits_later: Cell<bool>,
    /// How many rows the open transaction may have written.
    rows_written: Cell<u64>,
    makes_checkpoint: Cell<bool>,
    /// Whether a [`Filling`] of its own keeps checkpoints out.
    is_filling: Cell<bool>,
    open_transaction: OpenTransaction,
    // After `raw`, so that the database outlives the connection.
    database: Database,
}

/// A checkpoint can be made by this connection, as long as this lives.
pub(super) struct Ready<'a> {
    connection: &'a Connection,
    _kept: Kept<'a>,
}

impl Drop for Ready<'_> {
    fn drop(&mut self) {
        self.connection.makes_checkpoint.set(false);
    }
}

/// No checkpoint runs, and nothing on this connection waits for one, as long as this lives.
pub(super) struct Filling<'a> {
    connection: &'a Connection,
    /// `None` where nothing there would wait for one.
    guard: Option<RwLockReadGuard<'a, ()>>,
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        if self.guard.is_some() {
            self.connection.is_filling.set(false);
        }
    }
}

// SAFETY: a connection may move between threads, and its statements with it; it is not Sync, so only one uses it at a time.
unsafe impl Send for Connection {}

impl Connection {
    /// Shared by statements that define something while they run and commit; whoever holds it alone knows that
    /// none of them gets in the way.
    pub(crate) fn definitions(&self) -> &RwLock<()> {
        &self.database.0.definitions
    }

    /// Whether views and macros of the database decide by their plan what each run should.
    pub(super) fn frozen_definitions(&self) -> &FrozenDefinitions {
        &self.database.0.frozen_definitions
    }

    /// The settings of a new connection that times depend on, once they are known.
    pub(super) fn zone(&self) -> &OnceLock<Vec<[String; 2]>> {
        &self.database.0.zone
    }

    /// Whether the database may have indexes that statements have made.
    pub(super) fn indexes(&self) -> &Indexes {
        &self.database.0.indexes
    }

    /// Records that views or macros of the database call functions that read files. To be called before there are connections
    /// for clients.
    pub(super) fn note_definitions_that_read_files(&self) {
        let noted = &self.database.0.definitions_read_files;
        noted.store(true, Ordering::Release);
    }

    /// The commits of the database, of which every connection tells.
    pub(super) fn commits(&self) -> &Commits {
        &self.database.0.commits
    }

    /// Whether transactions are open that are too old for an index to be made, or a type to be changed. To be asked while nobody else
    /// commits anything.
    pub(super) fn older_transactions(&self) -> Older {
        self.open_transaction.older()
    }

    /// Whether other connections have transactions open.
    pub(super) fn is_beside_others(&self) -> bool {
        self.open_transaction.is_beside_others()
    }

    /// Makes DuckDB clean up deleted rows that no open transaction needs. DuckDB does so when a transaction ends while no checkpoint
    /// runs; the end of a checkpoint itself does not do it.
    pub(super) fn finish_deletions(&self) -> Result<()> {
        self.another()?.execute(LOOK_SQL)
    }

    /// Makes ready for a checkpoint here, until the answer is dropped, having waited so long at most for what writes rows. `None` of a
    /// database in memory.
    ///
    /// # Errors
    /// When none is possible at present.
    pub(super) fn ready_checkpoint(
        &self,
        patience: Duration,
    ) -> crate::error::Result<Option<Ready<'_>>> {
        let Some(images) = self.database.0.images.get() else {
            return Ok(None);
        };
        let kept = images.keep(&self.another()?, patience)?;
        self.makes_checkpoint.set(true);
        Ok(Some(Ready {
            connection: self,
            _kept: kept,
        }))
    }

    /// Makes a checkpoint, having waited so long at most for what writes rows. Answers with how long it took, without that wait.
    ///
    /// # Errors
    /// When none is possible at present.
    pub(super) fn checkpoint(&self, patience: Duration) -> crate::error::Result<Duration> {
        // First of all: who waits here for somebody who is alone must not hold what that one waits for.
        let _committing = self.committing();
        let _ready = self.ready_checkpoint(patience)?;
        let start = Instant::now();
        self.run("CHECKPOINT")?;
        Ok(start.elapsed())
    }

    /// Another connection to the database, in the state of a new one.
    pub(super) fn another(&self) -> Result<Self> {
        self.database.connect()
    }

    /// Waits for a turn to commit: in it no writer has a transaction open that changes rows. `None` where there are no writers.
    pub(super) fn turn(&self) -> Option<Turn> {
        let turn = self.database.0.queue.get()?.upgrade()?.turn();
        turn.wait();
        Some(turn)
    }

    /// Holds these tables for a statement that changes their rows, or adds some that refer to theirs. `None` where there are no writers.
    ///
    /// # Errors
    /// When it is cancelled before they are held.
    pub(super) fn hold(&self, reach: Reach, cancel: &Cancel) -> crate::error::Result<Option<Hold>> {
        let queue = self.database.0.queue.get().and_then(Weak::upgrade);
        let hold = queue.map(|queue| queue.hold_for_statement(reach, cancel));
        hold.transpose()
    }

    /// Begins to wait for transactions to end that are too old for a new index (see [`older_transactions`](Self::older_transactions)).
    pub(super) fn wait_for_older(&self) -> WaitForOlder {
        self.database.0.open_transactions.wait_for_older()
    }

    /// Records that what runs next may take rows away that are there.
    pub(super) fn note_deletion(&self) {
        self.open_transaction.note_deletion();
    }

    /// What the open transaction has changed and defined.
    pub(super) fn changes(&self) -> &Changes {
        self.open_transaction.changes()
    }

    /// An error of DuckDB's, with note taken of one after which the database cannot be used any more: not everybody who meets
    /// that tells of it.
    fn noted(&self, error: SqlError) -> SqlError {
        if error.is_fatal() {
            self.database.0.health.fail(&error.message);
        }
        error
    }

    /// The columns of the database's tables as they were last seen.
    pub(super) fn seen_columns(&self) -> &SeenColumns {
        &self.database.0.seen_columns
    }

    /// The most rows of a row group.
    pub(super) fn row_group_rows(&self) -> u64 {
        let given = self.database.0.row_group_rows.get();
        given.copied().unwrap_or(MAX_ROW_GROUP_ROWS)
    }

    /// The fewest rows of a table of which a transaction may write some to the database file before its commit. Most ways of inserting
    /// wait for a whole row group; but of what several threads read in an order DuckDB 1.5.5 writes batches from nine tenths of one on
    /// (`BatchInsertGlobalState::ReadyToMerge`).
    pub(super) fn fewest_filed_rows(&self) -> u64 {
        self.row_group_rows() / 10 * 9
    }

    /// Calls the helpers: what runs here takes longer.
    fn call_helpers(&self) {
        if let Some(helpers) = self.database.0.helpers.get() {
            helpers.call();
        }
    }

    /// Keeps the helpers at hand for what runs until the guard is dropped.
    fn keep_helpers(&self) -> Option<Stay<'_>> {
        self.database.0.helpers.get().map(Helpers::stay)
    }

    /// What stops this connection's statement from another thread.
    pub(crate) fn interrupter(&self) -> Interrupter {
        self.interrupter.clone()
    }

    /// Says that what runs here may be committed at once, until the guard is dropped. `None` where the end of the open
    /// transaction commits it.
    fn committing(&self) -> Option<UnderWay<'_>> {
        (!self.commits_later.get()).then(|| self.commits().under_way())
    }

    /// Takes note of rows that are about to be written in the open transaction.
    pub(super) fn note_written(&self, rows: u64) {
        let written = self.rows_written.get();
        self.rows_written.set(written.saturating_add(rows));
    }

    /// Counts anew where no transaction is open that lasts: what ran is committed by now, or undone. To be called once it has ended.
    fn forget_written(&self) {
        if !self.open_transaction.lasts() {
            self.rows_written.set(0);
        }
    }

    /// Keeps checkpoints from running until the guard is dropped, and waits for the one that runs. `None` where the open transaction
    /// has too few rows to write any to the database file before a checkpoint does. See [`Images`].
    fn filling(&self) -> Option<RwLockReadGuard<'_, ()>> {
        self.to_fill().map(Images::filling)
    }

    /// As [`filling`](Self::filling), but waits no longer once it is cancelled.
    fn filling_unless(
        &self,
        cancel: &Cancel,
    ) -> crate::error::Result<Option<RwLockReadGuard<'_, ()>>> {
        let Some(images) = self.to_fill() else {
            return Ok(None);
        };
        loop {
            cancel.check()?;
            let filling = images.try_filling(LOOK_EVERY);
            if filling.is_some() {
                return Ok(filling);
            }
        }
    }

    /// As [`filling`](Self::filling), for all that runs here until the answer is dropped, and without a wait. `None` where a checkpoint runs,
    /// or waits.
    pub(super) fn try_fill(&self) -> Option<Filling<'_>> {
        let guard = match self.to_fill() {
            Some(images) => Some(images.try_filling(Duration::ZERO)?),
            None => None,
        };
        if guard.is_some() {
            self.is_filling.set(true);
        }
        Some(Filling {
            connection: self,
            guard,
        })
    }

    /// Waits for the checkpoint that runs, or waits, where what runs here would do so.
    pub(super) fn wait_for_checkpoint(&self) {
        drop(self.filling());
    }

    /// What keeps checkpoints apart from what runs here, where that may write row groups. `None` also for the connection that has it: it would
    /// wait for itself.
    fn to_fill(&self) -> Option<&Images> {
        let images = self.database.0.images.get()?;
        let fills = self.rows_written.get() >= self.fewest_filed_rows();
        let is_kept_apart = self.makes_checkpoint.get() || self.is_filling.get();
        (fills && !is_kept_apart).then_some(images)
    }

    /// Records whether an outer transaction is open. Then a statement here is no commit of its own, and only the outer COMMIT is
    /// announced to others.
    pub(super) fn set_commits_later(&self, commits_later: bool) {
        self.commits_later.set(commits_later);
    }

    /// Begins a transaction. It sees what is committed when it first looks at the database.
    pub(crate) fn begin(&self) -> Result<()> {
        self.run_often(c"BEGIN TRANSACTION", &self.begin)?;
        // Not where it is refused, for another one is open: that has written them.
        self.rows_written.set(0);
        self.open_transaction.begun();
        Ok(())
    }

    /// Begins a transaction of ours, whose commit alone is announced to others.
    pub(super) fn begin_work(&self) -> Result<()> {
        self.begin()?;
        self.set_commits_later(true);
        Ok(())
    }

    /// Gives up what the open transaction of ours has done, and begins anew: as young as what others have committed.
    pub(super) fn restart_work(&self) -> Result<()> {
        self.roll_back();
        self.begin_work()
    }

    /// Commits the open transaction.
    pub(crate) fn commit(&self) -> Result<()> {
        let _begun = self.begin_commit()?;
        self.run_commit()
    }

    /// Marks the open transaction as being committed, until what comes back is dropped.
    ///
    /// # Errors
    /// Where DuckDB would refuse that in its middle. Then it must be rolled back.
    pub(super) fn begin_commit(&self) -> Result<(UnderWay<'_>, Option<RwLockReadGuard<'_, ()>>)> {
        // Before the other: who waits here for somebody who alters a table must not hold what that one waits for.
        let under_way = self.commits().under_way();
        let committing = self.changes().begin_commit()?;
        Ok((under_way, committing))
    }

    /// Commits a transaction that has changed nothing plans rely on: no rows and no definitions.
    pub(crate) fn commit_unchanged(&self) -> Result<()> {
        self.run_commit()
    }

    fn run_commit(&self) -> Result<()> {
        let filling = self.filling();
        self.run_often(c"COMMIT", &self.commit)?;
        drop(filling);
        self.rows_written.set(0);
        self.open_transaction.ended();
        Ok(())
    }

    /// Whether the open transaction may have deleted rows, its own among them.
    pub(super) fn may_have_deleted(&self) -> bool {
        self.open_transaction.may_have_deleted()
    }

    /// Where the open transaction may have deleted rows, waits for the checkpoint that runs, and keeps the next one from running until
    /// the transaction ends, as DuckDB does for one that updates rows. To be called before its commit.
    ///
    /// While a checkpoint runs DuckDB 1.5.5 takes each NULL in an index for one that it has removed (`ART::DeleteKeys`), and gives the
    /// database up where a commit has deleted rows with NULLs and rows without (`RowGroupCollection::RemoveFromIndexes`).
    pub(super) fn keep_checkpoints_out(&self) -> Result<()> {
        match self.database.0.update_nothing.get() {
            Some(sql) if self.may_have_deleted() => self.run_often(sql, &self.update_nothing),
            _ => Ok(()),
        }
    }

    /// Rolls back the open transaction, or the statement that stopped halfway outside of one.
    pub(crate) fn roll_back(&self) {
        self.set_commits_later(false);
        self.rows_written.set(0);
        // Without a transaction it fails, having closed the statement.
        self.run("ROLLBACK").ok();
        self.open_transaction.ended();
    }

    /// Leaves nothing possible in the open transaction but to roll it back, as an error in a statement does.
    pub(crate) fn spoil_transaction(&self) {
        // Fails on purpose: DuckDB then refuses every statement but ROLLBACK, and quotes this text.
        self.run("SELECT 'rows of a put are missing'::INTEGER").ok();
    }

    /// Fails when the open transaction can be rolled back only.
    pub(crate) fn check_transaction(&self) -> Result<()> {
        self.run("SELECT 1")
    }

    /// Runs a script for its effect and drops its results: for the engine's own statements, whose results
    /// are small. One call, where preparing each statement costs a transaction more.
    pub(crate) fn execute(&self, sql: &str) -> Result<()> {
        if may_delete(sql) {
            self.note_deletion();
        }
        self.execute_unindexed(sql)
    }

    /// As [`execute`](Self::execute), for what deletes rows only of tables that have no index and never get one: an index of
    /// another table may be made beside transactions that are older than that.
    pub(super) fn execute_unindexed(&self, sql: &str) -> Result<()> {
        let _committing = self.committing();
        let _helpers = self.keep_helpers();
        self.run(sql)
    }

    fn run(&self, sql: &str) -> Result<()> {
        let text = c_string(sql)?;
        let _filling = self.filling();
        self.open_transaction.touch();
        // SAFETY: the connection is open and the text NUL-terminated.
        let outcome =
            self.outcome(|result| unsafe { ffi::duckdb_query(self.raw, text.as_ptr(), result) });
        self.open_transaction.settle();
        outcome
    }

    /// Runs a statement that is prepared once.
    fn run_often(
        &self,
        sql: &CStr,
        prepared: &OnceCell<ffi::duckdb_prepared_statement>,
    ) -> Result<()> {
        let Some(prepared) = prepared.get().copied().or_else(|| {
            let mut new = ptr::null_mut();
            // SAFETY: the connection is open and the text NUL-terminated; what could not be prepared is freed here,
            // and all else by `drop`.
            unsafe {
                let state = ffi::duckdb_prepare(self.raw, sql.as_ptr(), &raw mut new);
                if state != ffi::DuckDBSuccess {
                    ffi::duckdb_destroy_prepare(&raw mut new);
                    return None;
                }
            }
            Some(*prepared.get_or_init(|| new))
        }) else {
            // The transaction may be past preparing anything, and says so.
            return self.run(&sql.to_string_lossy());
        };
        // SAFETY: the statement is live until the connection is dropped.
        self.outcome(|result| unsafe { ffi::duckdb_execute_prepared(prepared, result) })
    }

    /// Runs a statement for its effect and drops its result.
    fn outcome(
        &self,
        run: impl FnOnce(*mut ffi::duckdb_result) -> ffi::duckdb_state,
    ) -> Result<()> {
        // SAFETY: an all-zero duckdb_result is what the C API expects to fill in.
        let mut result: ffi::duckdb_result = unsafe { std::mem::zeroed() };
        let state = run(&raw mut result);
        // SAFETY: the result holds the message, which is copied, and is freed here, also after a failure.
        let message = unsafe {
            let message = text(ffi::duckdb_result_error(&raw mut result));
            ffi::duckdb_destroy_result(&raw mut result);
            message
        };
        if state == ffi::DuckDBSuccess {
            return Ok(());
        }
        Err(self.noted(SqlError::from_message(&message)))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Under the interrupter's lock, so that nobody interrupts a connection that is gone.
        let mut shared = self.interrupter.0.lock();
        *shared = None;
        self.plans.take();
        let prepared = [&mut self.begin, &mut self.commit, &mut self.update_nothing];
        for mut prepared in prepared.into_iter().filter_map(OnceCell::take) {
            // SAFETY: made by duckdb_prepare, freed only here; null is allowed.
            unsafe { ffi::duckdb_destroy_prepare(&raw mut prepared) };
        }
        // SAFETY: made by duckdb_connect, closed only here.
        unsafe { ffi::duckdb_disconnect(&raw mut self.raw) };
    }
}

/// Stops whatever a connection is running, from any thread. Harmless once the connection is gone.
#[derive(Debug, Clone)]
pub(crate) struct Interrupter(Arc<Mutex<Option<RawConnection>>>);

#[derive(Debug)]
struct RawConnection(ffi::duckdb_connection);

// SAFETY: the pointer is used only for duckdb_interrupt and duckdb_query_progress, which set and read atomic
// values, and only under the lock that `Connection::drop` takes before it closes the connection.
unsafe impl Send for RawConnection {}

impl Interrupter {
    /// Stops the statement that is running, if any; one that starts later is not touched.
    pub(crate) fn interrupt(&self) {
        let connection = self.0.lock();
        if let Some(RawConnection(raw)) = *connection {
            // SAFETY: under the lock the connection is open.
            unsafe { ffi::duckdb_interrupt(raw) };
        }
    }

    /// How far the running statement has come, from 0 to 1; `None` where DuckDB does not tell.
    pub(crate) fn progress(&self) -> Option<f64> {
        let connection = self.0.lock();
        let RawConnection(raw) = connection.as_ref()?;
        // SAFETY: under the lock the connection is open; what is read are atomic counters.
        let progress = unsafe { ffi::duckdb_query_progress(*raw) };
        (progress.percentage >= 0.0).then(|| (progress.percentage / 100.0).min(1.0))
    }
}

/// How values are exported to Arrow, captured from a connection's settings. It must not outlive that
/// connection, so whoever makes one keeps the connection beside it.
pub(crate) struct ArrowOptions(ffi::duckdb_arrow_options);

// SAFETY: the options are plain values that are only read; the conversion registry they lead to is
// guarded by a lock of its own.
unsafe impl Send for ArrowOptions {}
// SAFETY: as above.
unsafe impl Sync for ArrowOptions {}

impl ArrowOptions {
    /// The options as the connection's settings are now.
    pub(crate) fn of(connection: &Connection) -> Self {
        let mut options = ptr::null_mut();
        // SAFETY: the connection is open; the options are freed by `drop`.
        unsafe { ffi::duckdb_connection_get_arrow_options(connection.raw, &raw mut options) };
        Self(options)
    }
}

impl Drop for ArrowOptions {
    fn drop(&mut self) {
        // SAFETY: made by DuckDB, freed only here.
        unsafe { ffi::duckdb_destroy_arrow_options(&raw mut self.0) };
    }
}

/// Turns DuckDB's error data into a result, and frees it.
///
/// # Safety
/// `error` is null or error data that nobody else frees.
unsafe fn check(mut error: ffi::duckdb_error_data) -> Result<()> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    unsafe {
        let outcome = if ffi::duckdb_error_data_has_error(error) {
            let kind = SqlErrorKind::from_code(ffi::duckdb_error_data_error_type(error));
            let message = text(ffi::duckdb_error_data_message(error));
            Err(SqlError::from_data(kind, &message))
        } else {
            Ok(())
        };
        ffi::duckdb_destroy_error_data(&raw mut error);
        outcome
    }
}

/// Copies a C string of DuckDB's; empty for null.
///
/// # Safety
/// `pointer` is null or NUL-terminated.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(pointer) }
        .to_string_lossy()
        .into_owned()
}

/// Copies a string that DuckDB allocated for us, and frees it.
///
/// # Safety
/// `pointer` is null or NUL-terminated and allocated by DuckDB for us.
unsafe fn take_text(pointer: *mut c_char) -> String {
    // SAFETY: the caller's promise.
    unsafe {
        let text = text(pointer);
        ffi::duckdb_free(pointer.cast());
        text
    }
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| {
        SqlError::new(
            SqlErrorKind::Invalid,
            "the character NUL (0x00) cannot stand in SQL",
        )
    })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// A database of whose file images are kept, with row groups of 20,480 rows and a table `t` of numbers.
    pub(super) fn with_images() -> (TempDir, Database, Connection) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        let database = Database::open(path.to_str().unwrap(), &[]).unwrap();
        database.set_row_group_rows(20_480);
        let connection = database.connect().unwrap();
        let made = "CREATE TABLE t (i BIGINT); CHECKPOINT";
        connection.execute(made).unwrap();
        database.set_images(Images::of(&path).unwrap().unwrap());
        (directory, database, connection)
    }

    #[test]
    fn a_begin_that_is_refused_forgets_nothing_of_what_the_open_transaction_has_written() {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        connection.begin().unwrap();
        connection.note_written(7);
        assert!(connection.begin().is_err());
        assert_eq!(connection.rows_written.get(), 7);
        connection.roll_back();
        assert_eq!(connection.rows_written.get(), 0);
    }

    #[test]
    fn a_checkpoint_takes_as_long_as_duckdb_does_and_not_as_what_it_waits_for() {
        let (_directory, database, connection) = with_images();
        let images = database.0.images.get().unwrap();
        let filling = images.filling();
        std::thread::scope(|scope| {
            let long = Duration::from_secs(600);
            let checkpoint = scope.spawn(move || connection.checkpoint(long).unwrap());
            // Until it waits.
            while images.try_filling(Duration::ZERO).is_some() {
                std::thread::yield_now();
            }
            let freed = Instant::now();
            drop(filling);
            let took = checkpoint.join().unwrap();
            assert!(took <= freed.elapsed());
        });
    }
}
