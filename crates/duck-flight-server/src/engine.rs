//! The engine: the only way in to DuckDB.
//!
//! [`Engine::query`], [`Engine::execute`] and [`Engine::describe`] run on a fixed pool of threads, fed from a bounded
//! queue, and what is small at once where it can; [`Engine::put`] leads to the writers, which share commits; a catalog
//! thread answers look-ups, so that no put waits behind a query.
//!
//! A put goes through [`ingest`] and [`rows`], a query through [`query`]; both use [`connections`], and look tables up in the
//! [`catalog`]. [`sql`] reads what statements say, [`replay`] keeps a log from holding what DuckDB cannot replay, and [`storage`] cares
//! for the files. All of them reach DuckDB by [`ffi`].

mod catalog;
mod connections;
mod ffi;
mod holdings;
mod ingest;
mod options;
mod query;
mod replay;
mod rows;
mod sql;
mod sql_error;
mod storage;
mod thread;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use duck_flight_protocol::{ForgetProducers, ProducerState, PutOptions, TableName};
use parking_lot::Mutex;

pub(crate) use catalog::metadata::{CatalogRequest, TableRef, TablesFilter, sql_type_metadata};
pub(crate) use catalog::{Relation, literal};
pub(crate) use connections::cancel::Cancel;
pub(crate) use connections::lease::{Held, InUse, Lease, Place, TransactionLease};
pub(crate) use holdings::HeldBytes;
pub(crate) use ingest::large::Large;
pub(crate) use ingest::unit::{Committed, TEMPORARY};
pub(crate) use ingest::{Committing, Put, SentBatch};
pub(crate) use options::IN_MEMORY;
pub use options::{DEFAULT_ROW_GROUP_ROWS, DEFAULT_STORAGE_VERSION, EngineOptions};
pub(crate) use query::Sql;
pub(crate) use query::description::Description;
pub(crate) use query::parameters::Parameters;
pub(crate) use query::progress::Progress;
pub(crate) use query::results::{ResultStream, Rows};
pub(crate) use rows::row_bytes::row_bytes;
pub use sql_error::{SqlError, SqlErrorKind};
pub use storage::attach::BLOCK_BYTES;
pub(crate) use storage::attach::{MAX_ROW_GROUP_ROWS, VECTOR_ROWS};
pub use storage::facts::Facts;
pub use storage::open::DISABLE_COMPRESSION_SQL;
pub(crate) use storage::open::SESSION_SETTINGS;
pub(crate) use storage::spilled::MIN_SPILL_BYTES;
pub(crate) use thread::STACK_BYTES;

use crate::error::{Error, Result, in_a_line};
use crate::gauge::Gauge;
use catalog::Columns;
use catalog::references::References;
use connections::commits::Commits;
use connections::patience::{Others, Patience};
use connections::pool::{Jobs, Pool};
use ffi::{ArrowOptions, Connection, Database};
use holdings::Holdings;
use ingest::budget::Budget;
use ingest::large::LargeUnits;
use ingest::producers::{self, Claim, Producers};
use ingest::queue::Queue;
use ingest::rejects::{self, Rejects, Sieves};
use ingest::unit::{TableKey, Unit};
use ingest::writer::{Shared, Writers};
use query::express::Express;
use rows::evolve::Alteration;
use rows::{constraints, fixed};
use sql::{admission, frozen};
use storage::bell::CheckpointBell;
use storage::checkpoint::Checkpointer;
use storage::images::{self, Images, PATIENCE};
use storage::mark::Mark;
use storage::open::{lock_down, open_database, settle_logs};
use storage::room::{HeldUp, RoomWatch};
use storage::spilled::{limit_spilling, remove_left_behind};

/// How many statements may wait for each connection.
const WAITING_PER_CONNECTION: usize = 64;
const STATEMENTS: Jobs = Jobs {
    name: "query",
    what: "statements",
    remedy: "try again, or have the server's --max-queries raised",
};

/// How long statements that were cancelled may take to end before the server ends without them, and then whoever writes rows: DuckDB
/// does not look everywhere whether it was interrupted.
pub(crate) const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// How many writers share the commits: one appends while another waits for the disk.
const WRITERS: usize = 2;

/// How many look-ups of tables may wait for the catalog thread.
const LOOKUPS_WAITING: usize = 65_536;
const LOOKUPS: Jobs = Jobs {
    name: "catalog",
    what: "look-ups of tables",
    remedy: "try again",
};

/// What the engine keeps in the database, made where it is not there.
fn own_tables(connection: &Connection, lossless: &Lossless) -> Result<(Producers, Rejects)> {
    connection.execute(producers::CREATE_SQL)?;
    connection.execute(rejects::CREATE_SQL)?;
    Ok((
        Producers::load(connection, lossless)?,
        Rejects::open(connection)?,
    ))
}

/// What an end without a checkpoint means for whoever copies the database.
const LOG_LEFT: &str = "what was acknowledged last is in the log alone, which the next start replays: until then the database \
                        file, its .wal*, its .mark and its .metadata belong together, in a backup, too";

/// How a database was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// All of it is in its file, and no log is left.
    Checkpointed,
    /// What was committed last may be in its log alone, which the next start replays.
    LogLeft,
}

/// One open database and the threads that work on it. Clones share it.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    queries: Pool,
    express: Express,
    /// With clients that keep the threads of `queries` busy.
    patience: Patience,
    lookups: Pool,
    large_units: LargeUnits,
    budget_patience: Patience,
    holdings: Holdings,
    /// Statements that run, those included that wait for their turn.
    running: Gauge,
    writers: Writers,
    checkpointer: Mutex<Option<Checkpointer>>,
    shared: Arc<Shared>,
    budget: Budget,
    /// For large units that wait for a thread: beside the budget, so that small ones find room in it.
    growing: Budget,
    sieves: Sieves,
    room: RoomWatch,
    /// The name of the server's own database in SQL.
    catalog: String,
    facts: Facts,
    commits: Arc<Commits>,
    database: Mutex<Option<Database>>,
}

/// The export options for types that Arrow has no plain equal for.
struct Lossless {
    options: ArrowOptions,
    /// The options belong to it. Behind a lock, for a connection is not for sharing.
    _connection: Mutex<Connection>,
}

impl Engine {
    /// Opens the database and starts the threads. Blocks.
    ///
    /// # Errors
    /// When the file cannot be opened, or another process has it; the message names the file and the process.
    pub fn open(options: &EngineOptions) -> Result<Self> {
        let mark = Mark::open(&options.database, options.salvage_log)?;
        remove_left_behind(&options.database);
        images::mend(&options.database).inspect_err(|_| mark.restore())?;
        let opened = open_database(options).inspect_err(|_| mark.restore())?;
        mark.keep_locked();
        let (database, lossless) = (opened.database, Arc::new(opened.lossless));
        if let Some(images) = Images::of(&options.database)? {
            database.set_images(images);
        }
        let set_up = database.connect()?;
        set_up.make_handover()?;
        set_up.make_file_refusal()?;
        settle_logs(&set_up, &options.database)?;
        limit_spilling(&set_up, options)?;
        let catalog = catalog::current(&set_up)?.0;
        let (producers, rejects) = own_tables(&set_up, &lossless).map_err(Error::of_own_schema)?;
        database.set_update_nothing(&producers::update_nothing_sql(&catalog))?;
        frozen::note_existing_definitions(&set_up, &lossless)?;
        replay::note_existing_indexes(&set_up)?;
        admission::remember_server_zone(&set_up)?;
        database
            .open_transactions()
            .set_patience(options.stall_timeout);
        let queue = Arc::new(Queue::new(options.stall_timeout));
        database.set_queue(&queue);
        let (bell, rings) = CheckpointBell::new(set_up.row_group_rows());
        let shared = Arc::new(Shared {
            queue,
            producers,
            rejects,
            seen: database.seen_tables(),
            health: database.health(),
            lossless,
            mark,
            bell,
            commits: database.commits(),
            held_up: HeldUp::default(),
        });
        let checkpointer = Checkpointer::start(&database, &options.database, &shared, rings)?;
        let writers = Writers::start(WRITERS, &database, &shared)?;
        let waiting = options.max_queries.saturating_mul(WAITING_PER_CONNECTION);
        let queries = Pool::start(STATEMENTS, options.max_queries, waiting, &database)?;
        let large_units = LargeUnits::start(&database, options.stall_timeout)?;
        let budget = Budget::new(options.ingest_buffer_bytes);
        let inner = Inner {
            patience: Patience::new(Others::Jobs(queries.waits()), options.stall_timeout),
            queries,
            express: Express::start()?,
            lookups: Pool::start(LOOKUPS, 1, LOOKUPS_WAITING, &database)?,
            budget_patience: Patience::new(Others::Units(budget.clone()), options.stall_timeout),
            large_units,
            writers,
            checkpointer: Mutex::new(Some(checkpointer)),
            budget,
            growing: Budget::new(options.ingest_buffer_bytes.max(ingest::GROWING_BYTES)),
            sieves: Sieves::default(),
            holdings: Holdings::default(),
            running: Gauge::default(),
            room: RoomWatch::new(
                &options.database,
                options.min_free_disk_bytes,
                &shared.held_up,
            ),
            catalog,
            facts: Facts::read(&set_up)?,
            commits: database.commits(),
            shared,
            database: Mutex::new(Some(database)),
        };
        // Last, for after it the connections above could not be set up.
        lock_down(&set_up)?;
        admission::warn_of_indexes(&set_up);
        Ok(Self(Arc::new(inner)))
    }

    /// What DuckDB says of itself.
    pub fn facts(&self) -> &Facts {
        &self.0.facts
    }

    /// Takes memory for what waits for its client.
    ///
    /// # Errors
    /// When all clients would hold too much.
    pub(crate) fn hold_bytes(&self, bytes: usize) -> Result<HeldBytes> {
        self.0.holdings.take(bytes)
    }

    /// The client's own connection, where rows must go in by it: into a temporary table, or in its transaction.
    pub(crate) async fn own_connection(
        &self,
        place: &Place,
        is_temporary: bool,
    ) -> Result<Option<Held>> {
        match place {
            Place::Transaction(transaction) => transaction.hold().await.map(Some),
            Place::Own(lease) if is_temporary || lease.is_open() => lease.hold().await.map(Some),
            Place::Any if is_temporary => Err(Error::NoSession),
            _ => Ok(None),
        }
    }

    /// Opens a put on a client's own connection: in its transaction, or as one of its own.
    pub(crate) fn put_on(
        &self,
        held: Held,
        options: PutOptions,
        schema: SchemaRef,
    ) -> Result<Large> {
        let key = self.table_key(&options.table);
        Put::check_table(&key)?;
        Large::start_on(self, held, options, key, schema)
    }

    /// Begins a transaction, unless that is done. It begins even if the caller stops waiting.
    pub(crate) async fn begin(&self, transaction: &TransactionLease) -> Result<()> {
        if transaction.has_begun() {
            return Ok(());
        }
        let held = transaction.hold().await?;
        // Another request may have been faster.
        if transaction.has_begun() {
            return Ok(());
        }
        // Begun by a statement, it would be ended by ours failing.
        if held.is_in_transaction() {
            return Err(Error::TransactionOpen);
        }
        let begun = transaction.clone();
        let done = move || begun.set_begun();
        let answer = self.control(held, "BEGIN TRANSACTION", done)?;
        answer.await.map_err(|_| Error::WorkerLost)?
    }

    /// Waits until a transaction can be ended: until no statement runs in it.
    pub(crate) async fn hold(&self, transaction: &TransactionLease) -> Result<Held> {
        transaction.hold().await
    }

    /// Begins to end a transaction that is held; from then on nothing runs in it. Where a commit fails, it is rolled
    /// back.
    ///
    /// # Errors
    /// When too many statements wait; the transaction then stays open.
    pub(crate) fn end(
        &self,
        held: Held,
        transaction: &TransactionLease,
        commit: bool,
    ) -> Result<impl Future<Output = Result<()>> + use<>> {
        let answer = if transaction.has_begun() {
            let sql = if commit { "COMMIT" } else { "ROLLBACK" };
            Some(self.control(held, sql, || ())?)
        } else {
            None
        };
        transaction.set_ended();
        Ok(async move {
            match answer {
                Some(answer) => answer.await.map_err(|_| Error::WorkerLost)?,
                None => Ok(()),
            }
        })
    }

    /// The connection of a transaction in which nothing runs.
    pub(crate) fn try_hold(&self, transaction: &TransactionLease) -> Option<Held> {
        transaction.try_hold()
    }

    /// Closes a client's own connection for good, whatever is open in it; a statement that runs there is cancelled.
    pub(crate) async fn close_lease(&self, lease: &Lease) {
        if let Ok(mut held) = lease.end().await
            && lease.is_open()
        {
            // On a thread of the pool, for a roll back may take long. Without one, it is closed here.
            self.0.queries.submit(move |_| held.close()).ok();
        }
    }

    /// Opens a put into a table.
    pub(crate) async fn put(&self, options: &PutOptions, schema: SchemaRef) -> Result<Put> {
        Put::open(self, options, schema).await
    }

    /// Lists producers, with the last sequence of each in each of its tables.
    pub(crate) async fn producers(&self) -> Result<Vec<ProducerState>> {
        let lossless = self.0.shared.lossless.clone();
        self.0
            .lookups
            .run(move |session, _| producers::list(&session.connection, &lossless))
            .await
    }

    /// Forgets producers; answers with how many pairs of a producer and a table.
    pub(crate) async fn forget_producers(&self, which: ForgetProducers) -> Result<u64> {
        let shared = self.0.shared.clone();
        let own_catalog = self.own_catalog().to_owned();
        self.0
            .large_units
            .appends
            .run(move |session, _| {
                let turn = shared.queue.turn();
                turn.wait();
                let Shared {
                    producers,
                    lossless,
                    ..
                } = &*shared;
                let outcome = producers.forget(&session.connection, lossless, &which, &own_catalog);
                // Still in its turn: what others commit behind half an entry of the log is never read again.
                outcome.map_err(|error| shared.observe(error))
            })
            .await
    }

    /// Waits until the database has become unusable, and says why.
    pub(crate) async fn failed(&self) -> String {
        self.0.shared.health.failed().await
    }

    /// Finishes what was begun, checkpoints and closes the database. Blocks. Where a statement goes on although it was
    /// cancelled, or a writer does not end, the database stays as it is: what was acknowledged is in the log.
    pub(crate) fn close(&self) -> Closed {
        let have_statements_ended = self.0.queries.stop(Some(Instant::now() + STOP_PATIENCE));
        if !have_statements_ended {
            // Units that wait for one would keep the writers from ending.
            self.0.shared.queue.leave_statements();
        }
        let deadline = Instant::now() + STOP_PATIENCE;
        let mut have_units_ended = self.0.large_units.stop(deadline);
        have_units_ended &= self.0.lookups.stop(Some(deadline));
        have_units_ended &= self.0.writers.stop(deadline);
        if !have_units_ended {
            // The checkpoint thread may wait for one.
            tracing::warn!(
                "a put that is being written does not end, so it is left behind, and no checkpoint is made; {LOG_LEFT}"
            );
            return Closed::LogLeft;
        }
        let checkpointer = self.0.checkpointer.lock().take();
        if let Some(checkpointer) = checkpointer {
            checkpointer.stop();
        }
        if !have_statements_ended {
            tracing::warn!(
                "a statement that was cancelled does not end, so it is left behind, and no checkpoint is made; {LOG_LEFT}"
            );
            return Closed::LogLeft;
        }
        let database = self.0.database.lock().take();
        let checkpoint = database.map(|database| database.connect()?.checkpoint(PATIENCE));
        if let Some(Err(error)) = checkpoint {
            tracing::warn!(error = %in_a_line(&error), "no checkpoint at the end; {LOG_LEFT}");
            return Closed::LogLeft;
        }
        let mark = &self.0.shared.mark;
        if mark.has_log() {
            tracing::warn!("the last checkpoint has left a log; {LOG_LEFT}");
            return Closed::LogLeft;
        }
        mark.remove();
        Closed::Checkpointed
    }

    /// The columns of a table as they were last seen, or as they are.
    async fn columns(&self, table: &TableName) -> Result<Option<Columns>> {
        let seen = &self.0.shared.seen;
        if let Some(columns) = seen.columns(table) {
            return Ok(Some(columns));
        }
        let times_forgotten = seen.times_forgotten();
        let name = table.clone();
        let columns = self
            .0
            .lookups
            .run(move |session, _| {
                let mut columns = session.connection.table_columns(&name)?;
                if let Some(columns) = &mut columns {
                    session.connection.mark_generated(&name, columns);
                }
                Ok(columns)
            })
            .await?
            .map(Columns::from);
        if let Some(columns) = &columns {
            seen.set_columns(table, columns, times_forgotten);
        }
        Ok(columns)
    }

    /// Which tables refer to which, as it was last seen, or as it is.
    async fn references(&self) -> Result<Arc<References>> {
        if let Some(references) = self.0.shared.seen.references() {
            return Ok(references);
        }
        self.0
            .lookups
            .run(|session, _| References::seen(&session.connection))
            .await
    }

    fn forget_columns(&self, table: &TableName) {
        self.0.shared.seen.forget(table);
    }

    /// The columns of a table's primary key.
    async fn primary_key(&self, table: &TableName) -> Result<Option<Vec<String>>> {
        let table = table.clone();
        self.0
            .lookups
            .run(move |session, _| constraints::primary_key(&session.connection, &table))
            .await
    }

    /// Those of the changes of a table that DuckDB makes, as [`fixed::without_fixed_columns`] tells them.
    async fn without_fixed_columns(
        &self,
        table: &TableName,
        alterations: Vec<Alteration>,
    ) -> Result<Vec<Alteration>> {
        if alterations.is_empty() {
            return Ok(alterations);
        }
        let table = table.clone();
        self.0
            .lookups
            .run(move |session, _| {
                fixed::without_fixed_columns(&session.connection, &table, alterations)
            })
            .await
    }

    fn table_key(&self, table: &TableName) -> TableKey {
        TableKey::new(table, &self.0.catalog)
    }

    /// What DuckDB calls the server's own database.
    fn own_catalog(&self) -> &str {
        &self.0.catalog
    }

    /// Opens a stream of a producer; the one before it is fenced, and nothing of it is being committed any more.
    async fn claim(&self, producer: &str, table: &TableKey) -> Result<Claim> {
        let shared = self.0.shared.clone();
        let claim = shared.producers.claim(producer, table)?;
        if claim.has_others() {
            // Units that were found to be new before have their turns by now; those that come to one later find the fence.
            let catching_up = tokio::task::spawn_blocking(move || shared.queue.catch_up());
            catching_up.await.map_err(|_| Error::WorkerLost)?;
        }
        Ok(claim)
    }

    /// Hands a unit to the writers.
    fn submit(&self, unit: Unit) -> Result<()> {
        self.0.shared.queue.push(unit)
    }

    fn room(&self) -> &RoomWatch {
        &self.0.room
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    fn sieves(&self) -> &Sieves {
        &self.0.sieves
    }

    fn budget(&self) -> Budget {
        self.0.budget.clone()
    }

    fn queries(&self) -> &Pool {
        &self.0.queries
    }

    fn patience(&self) -> &Patience {
        &self.0.patience
    }

    fn growing(&self) -> &Budget {
        &self.0.growing
    }

    fn budget_patience(&self) -> &Patience {
        &self.0.budget_patience
    }

    fn large_units(&self) -> &LargeUnits {
        &self.0.large_units
    }
}

/// Runs `work` in a transaction: committed when it succeeds, rolled back when it fails.
fn transaction<'c, T>(
    connection: &'c Connection,
    work: impl FnOnce(&'c Connection) -> Result<T>,
) -> Result<T> {
    transaction_that(|_| true, connection, work)
}

/// Runs `work` in a transaction, of whose outcome `changes` says whether plans of others may be out of date.
fn transaction_that<'c, T>(
    changes: impl FnOnce(&T) -> bool,
    connection: &'c Connection,
    work: impl FnOnce(&'c Connection) -> Result<T>,
) -> Result<T> {
    connection.begin_work()?;
    let outcome = work(connection).and_then(|value| {
        connection.keep_checkpoints_out()?;
        Ok(value)
    });
    connection.set_commits_later(false);
    let outcome = outcome.and_then(|value| {
        if changes(&value) {
            connection.commit()?;
        } else {
            connection.commit_unchanged()?;
        }
        Ok(value)
    });
    if outcome.is_err() {
        // A commit that failed has rolled back already.
        connection.roll_back();
    }
    outcome
}
