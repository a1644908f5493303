//! The engine's way up: the database is opened and looked through, and the threads are started.

use std::sync::Arc;

use parking_lot::Mutex;

use super::connections::patience::{Others, Patience};
use super::connections::pool::{Jobs, Pool};
use super::ffi::Connection;
use super::holdings::Holdings;
use super::ingest::budget::Budget;
use super::ingest::large::LargeUnits;
use super::ingest::producers::{self, Producers};
use super::ingest::queue::Queue;
use super::ingest::rejects::{self, Rejects, Sieves};
use super::ingest::shared::Shared;
use super::ingest::writer::Writers;
use super::query::express::Express;
use super::sql::{admission, frozen};
use super::storage::bell::CheckpointBell;
use super::storage::checkpoint::Checkpointer;
use super::storage::facts::Facts;
use super::storage::images::{self, Images};
use super::storage::mark::Mark;
use super::storage::open::{lock_down, open_database, settle_logs};
use super::storage::room::{HeldUp, RoomWatch};
use super::storage::spilled::{limit_spilling, remove_left_behind};
use super::{Engine, EngineOptions, Inner, Lossless, catalog, ingest, replay};
use crate::error::{Error, Result};
use crate::gauge::Gauge;

/// How many statements may wait for each connection.
const WAITING_PER_CONNECTION: usize = 64;
const STATEMENTS: Jobs = Jobs {
    name: "query",
    what: "statements",
    remedy: "try again, or have the server's --max-queries raised",
};

/// How many writers share the commits: one appends while another waits for the disk.
const WRITERS: usize = 2;

/// How many look-ups of tables may wait for the catalog thread.
const LOOKUPS_WAITING: usize = 65_536;
const LOOKUPS: Jobs = Jobs {
    name: "catalog",
    what: "look-ups of tables",
    remedy: "try again",
};

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
}

/// What the engine keeps in the database, made where it is not there.
fn own_tables(connection: &Connection, lossless: &Lossless) -> Result<(Producers, Rejects)> {
    connection.execute(producers::CREATE_SQL)?;
    connection.execute(rejects::CREATE_SQL)?;
    Ok((
        Producers::load(connection, lossless)?,
        Rejects::open(connection)?,
    ))
}
