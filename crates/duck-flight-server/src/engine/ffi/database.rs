//! A database: how it is opened, and what all of its connections share.

use std::cell::{Cell, OnceCell, RefCell};
use std::ffi::CString;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use duckdb::ffi;
use parking_lot::{Mutex, RwLock};

use super::tasks::Tasks;
use super::{
    Connection, Interrupter, RawConnection, Result, SqlError, SqlErrorKind, c_string, text,
};
use crate::engine::catalog::SeenTables;
use crate::engine::connections::commits::Commits;
use crate::engine::connections::helpers::Helpers;
use crate::engine::ingest::queue::Queue;
use crate::engine::replay::Indexes;
use crate::engine::replay::open_transactions::OpenTransactions;
use crate::engine::sql::files::macros;
use crate::engine::sql::frozen::FrozenDefinitions;
use crate::engine::storage::health::Health;
use crate::engine::storage::images::Images;

/// An open database. Clones share it; it closes, and checkpoints, when the last clone and connection are gone.
#[derive(Clone)]
pub(crate) struct Database(pub(super) Arc<DatabaseHandle>);

pub(super) struct DatabaseHandle {
    raw: ffi::duckdb_database,
    pub(super) helpers: OnceLock<Helpers>,
    pub(super) definitions: RwLock<()>,
    pub(super) frozen_definitions: FrozenDefinitions,
    pub(super) indexes: Indexes,
    pub(super) definitions_read_files: AtomicBool,
    pub(super) commits: Arc<Commits>,
    pub(super) open_transactions: Arc<OpenTransactions>,
    /// Not for the database to keep: units that wait there may keep it open.
    pub(super) queue: OnceLock<Weak<Queue>>,
    pub(super) health: Health,
    pub(super) seen_tables: Arc<SeenTables>,
    pub(super) row_group_rows: OnceLock<u64>,
    pub(super) zone: OnceLock<Vec<[String; 2]>>,
    pub(super) update_nothing: OnceLock<CString>,
    /// After `drop` has closed the database, so is the file that it reads.
    pub(super) images: OnceLock<Images>,
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
                seen_tables: Arc::default(),
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
    pub(in crate::engine) fn set_queue(&self, queue: &Arc<Queue>) {
        self.0.queue.set(Arc::downgrade(queue)).ok();
    }

    /// Says how many rows a row group of the database file has. To be called once.
    pub(in crate::engine) fn set_row_group_rows(&self, rows: u64) {
        self.0.row_group_rows.set(rows).ok();
    }

    /// Gives connections a statement that updates no row of the database, see [`Connection::keep_checkpoints_out`]. To be called once.
    pub(in crate::engine) fn set_update_nothing(&self, sql: &str) -> Result<()> {
        self.0.update_nothing.set(c_string(sql)?).ok();
        Ok(())
    }

    /// Has images kept before checkpoints. To be called once.
    pub(in crate::engine) fn set_images(&self, images: Images) {
        self.0.images.set(images).ok();
    }

    /// The commits that connections tell of.
    pub(in crate::engine) fn commits(&self) -> Arc<Commits> {
        self.0.commits.clone()
    }

    /// The transactions that its connections have open.
    pub(in crate::engine) fn open_transactions(&self) -> &OpenTransactions {
        &self.0.open_transactions
    }

    /// Where it is noted that the database cannot be used any more.
    pub(in crate::engine) fn health(&self) -> Health {
        self.0.health.clone()
    }

    /// What is known of its tables, as they were last seen.
    pub(in crate::engine) fn seen_tables(&self) -> Arc<SeenTables> {
        self.0.seen_tables.clone()
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
