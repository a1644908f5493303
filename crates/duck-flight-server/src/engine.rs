//! The engine: the only way in to DuckDB.
//!
//! [`Engine::query`], [`Engine::execute`] and [`Engine::describe`] run on a fixed pool of threads, fed from a bounded
//! queue, and what is small at once where it can; [`Engine::put`] leads to the writers, which share commits; a catalog
//! thread answers look-ups, so that no put waits behind a query.
//!
//! A put goes through [`ingest`] and [`rows`], a query through [`query`]; both use [`connections`], and look tables up in the
//! [`catalog`]. [`sql`] reads what statements say, [`replay`] keeps a log from holding what DuckDB cannot replay, and [`storage`] cares
//! for the files. All of them reach DuckDB by [`ffi`].
//!
//! What the engine can do stands where it is done, in blocks of [`Engine`] that read its parts: the way up and the way down
//! in [`open`] and [`close`], queries in [`query`], look-ups in the [`catalog`], and what clients keep in [`clients`].

mod catalog;
mod clients;
mod close;
mod connections;
mod ffi;
mod holdings;
mod ingest;
mod open;
mod options;
mod query;
mod replay;
mod rows;
mod sql;
mod sql_error;
mod storage;
mod thread;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use duck_flight_protocol::{ForgetProducers, ProducerState, PutOptions, TableName};
use parking_lot::Mutex;

pub(crate) use catalog::metadata::{CatalogRequest, TableRef, TablesFilter, sql_type_metadata};
pub(crate) use catalog::{Relation, literal};
pub use close::Closed;
pub(crate) use close::STOP_PATIENCE;
pub(crate) use connections::cancel::Cancel;
pub(crate) use connections::lease::{Held, InUse, Lease, Place, TransactionLease};
pub(crate) use holdings::HeldBytes;
pub(crate) use ingest::large::Large;
pub(crate) use ingest::target::TEMPORARY;
pub(crate) use ingest::unit::Committed;
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

use crate::error::{Error, Result};
use crate::gauge::Gauge;
use connections::commits::Commits;
use connections::patience::Patience;
use connections::pool::Pool;
use ffi::{ArrowOptions, Connection, Database};
use holdings::Holdings;
use ingest::budget::Budget;
use ingest::large::LargeUnits;
use ingest::producers::{self, Claim};
use ingest::rejects::Sieves;
use ingest::shared::Shared;
use ingest::target::TableKey;
use ingest::unit::Unit;
use ingest::writer::Writers;
use query::express::Express;
use storage::checkpoint::Checkpointer;
use storage::room::RoomWatch;

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
