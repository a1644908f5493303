//! Producers: what makes a unit that is sent again count once.
//!
//! A producer numbers the units it sends to a table. The last sequence is committed with the rows, in a table
//! of ours; since commits are made one at a time, each in its [turn](super::queue::Turn), a unit is checked
//! against it in its turn, and the state in memory follows each commit before the next turn begins.
//!
//! The table only grows between two compactions: rows that are updated in place would hold up checkpoints.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::array::{
    ArrayRef, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, UInt64Type};
use duck_flight_protocol::{ForgetProducers, ProducerState, TableName, quote};
use parking_lot::Mutex;

use super::own_table::OwnTable;
use super::target::TableKey;
use super::unit::Unit;
use crate::engine::catalog::{literal, rows, text};
use crate::engine::ffi::Connection;
use crate::engine::rows::insert::Inserts;
use crate::engine::sql_error::SqlError;
use crate::engine::{Lossless, transaction};
use crate::error::{Error, Result};

/// The schema of our own tables and views.
pub(in crate::engine) const OWN_SCHEMA: &str = "duck_flight";

/// What the engine keeps in the database for producers. The view names no schema, for DuckDB looks in the view's own first:
/// so it can be read where the file is attached as `duck_flight`, too.
pub(in crate::engine) const CREATE_SQL: &str = "
    CREATE SCHEMA IF NOT EXISTS duck_flight;
    CREATE TABLE IF NOT EXISTS duck_flight.sequences (
        producer VARCHAR NOT NULL,
        \"schema\" VARCHAR NOT NULL,
        \"table\" VARCHAR NOT NULL,
        sequence UBIGINT NOT NULL,
        committed_at TIMESTAMP WITH TIME ZONE NOT NULL
    );
    CREATE VIEW IF NOT EXISTS duck_flight.producers AS
        SELECT producer, \"schema\", \"table\", system.main.max(sequence) AS last_sequence,
            system.main.max(committed_at) AS last_commit_at
        FROM sequences GROUP BY ALL;";

/// Rows that are no producer's last, which the engine deletes once there are many.
const COMPACT_SQL: &str = "
    DELETE FROM duck_flight.sequences AS old
    USING (SELECT producer, \"schema\", \"table\", system.main.max(sequence) AS last FROM duck_flight.sequences GROUP BY ALL) AS new
    WHERE old.producer = new.producer AND old.\"schema\" = new.\"schema\" AND old.\"table\" = new.\"table\"
        AND old.sequence < new.last";

/// From this many rows on that are no producer's last, they are deleted.
const COMPACT_ROWS: u64 = 20_000;

/// All producers, each with how far it has come.
#[derive(Clone)]
pub(in crate::engine) struct Producers(Arc<Inner>);

struct Inner {
    states: Mutex<HashMap<ProducerKey, Arc<Mutex<State>>>>,
    /// Rows written since the last compaction.
    written: AtomicU64,
    /// Held by whoever deletes rows: two at once could be in each other's way.
    deleting: Mutex<()>,
    sequences: OwnTable,
    batch_schema: SchemaRef,
}

/// A producer and a table of the server's own database.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ProducerKey {
    producer: String,
    table: TableKey,
}

#[derive(Debug, Default)]
struct State {
    /// The last sequence that is durable; 0 where there is none.
    last: u64,
    /// The number of the stream that was opened last: all others are fenced.
    stream: u64,
    /// Streams that are open.
    open: usize,
}

/// An open stream's claim to be its producer.
pub(in crate::engine) struct Claim {
    producers: Producers,
    key: ProducerKey,
    state: Arc<Mutex<State>>,
    stream: u64,
}

impl Claim {
    /// The last sequence of the producer that is durable; 0 where there is none.
    pub(super) fn last_sequence(&self) -> u64 {
        self.state.lock().last
    }

    /// Whether another stream of the producer is open, or has units that are not answered yet. It is fenced, or this one is.
    pub(in crate::engine) fn has_others(&self) -> bool {
        self.state.lock().open > 1
    }

    /// The producer's name.
    pub(super) fn producer(&self) -> &str {
        &self.key.producer
    }

    /// Where a unit stands that this stream sends now.
    pub(super) fn standing(&self, sequence: u64) -> Standing {
        let state = self.state.lock();
        if state.stream != self.stream {
            Standing::Fenced
        } else if sequence <= state.last {
            Standing::Duplicate
        } else {
            Standing::New
        }
    }

    /// The error of a fenced stream's unit.
    pub(super) fn fenced_error(&self) -> Error {
        Error::Fenced(self.key.producer.clone())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut states = self.producers.0.states.lock();
        let mut state = self.state.lock();
        state.open -= 1;
        // Nothing is known of a producer that has committed nothing; and one that was forgotten is another's by now.
        let is_kept = |kept: &Arc<_>| Arc::ptr_eq(kept, &self.state);
        if state.open == 0 && state.last == 0 && states.get(&self.key).is_some_and(is_kept) {
            states.remove(&self.key);
        }
    }
}

/// Where a unit of a producer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is to be committed.
    New,
    /// It was committed before.
    Duplicate,
    /// Another stream has taken over.
    Fenced,
}

impl Producers {
    /// Reads how far all producers have come.
    pub(in crate::engine) fn load(connection: &Connection, lossless: &Lossless) -> Result<Self> {
        let found = rows(
            connection,
            lossless,
            "SELECT producer, \"schema\", \"table\", last_sequence FROM duck_flight.producers",
        )?;
        let states = (0..found.num_rows()).map(|row| {
            let key = ProducerKey::read(&found, row);
            let state = State {
                last: found.column(3).as_primitive::<UInt64Type>().value(row),
                ..State::default()
            };
            (key, Arc::new(Mutex::new(state)))
        });
        let states: HashMap<_, _> = states.collect();
        let field = |name, data_type| Field::new(name, data_type, false);
        let batch_schema = Arc::new(Schema::new(vec![
            field("producer", DataType::Utf8),
            field("schema", DataType::Utf8),
            field("table", DataType::Utf8),
            field("sequence", DataType::UInt64),
            field(
                "committed_at",
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            ),
        ]));
        Ok(Self(Arc::new(Inner {
            // So many that a compaction is due at once: it finds out how many there are.
            written: AtomicU64::new(COMPACT_ROWS + states.len() as u64),
            states: Mutex::new(states),
            deleting: Mutex::default(),
            sequences: OwnTable::open(connection, "sequences", &batch_schema)?,
            batch_schema,
        })))
    }

    /// Opens a stream of a producer; the one before it, if any, is fenced.
    pub(in crate::engine) fn claim(&self, producer: &str, table: &TableKey) -> Result<Claim> {
        if table.catalog.is_some() {
            return Err(Error::Columns(
                "a producer needs a table of the server's own database, for its sequence is kept there".into(),
            ));
        }
        let key = ProducerKey {
            producer: producer.to_owned(),
            table: table.clone(),
        };
        // Under both locks, so that a producer is not forgotten between them.
        let mut states = self.0.states.lock();
        let state = states.entry(key.clone()).or_default().clone();
        let mut open = state.lock();
        open.stream += 1;
        open.open += 1;
        let stream = open.stream;
        drop(open);
        drop(states);
        Ok(Claim {
            producers: self.clone(),
            key,
            state,
            stream,
        })
    }

    /// Whether all units of a group are new, in the turn of the group. One that is not fails the group, which is
    /// then taken apart.
    pub(super) fn check(units: &[Unit]) -> Result<()> {
        let mut last: HashMap<&ProducerKey, u64> = HashMap::new();
        for (claim, sequence) in units.iter().filter_map(Unit::identity) {
            let last = last.entry(&claim.key).or_default();
            match claim.standing(sequence) {
                Standing::New if sequence > *last => *last = sequence,
                Standing::New | Standing::Duplicate => return Err(Error::Resent(sequence)),
                Standing::Fenced => return Err(claim.fenced_error()),
            }
        }
        Ok(())
    }

    /// Writes the last sequences of a group into its transaction.
    pub(super) fn write<'u>(
        &self,
        connection: &Connection,
        units: impl IntoIterator<Item = (&'u Claim, u64)>,
    ) -> Result<()> {
        self.write_with(units, |table, batch| table.append(connection, batch))
    }

    /// Writes the last sequences of a group into the transaction that is open where these INSERTs are prepared.
    pub(super) fn insert<'u>(
        &self,
        inserts: &mut Inserts<'_>,
        units: impl IntoIterator<Item = (&'u Claim, u64)>,
    ) -> Result<()> {
        self.write_with(units, |table, batch| table.insert(inserts, batch))
    }

    fn write_with<'u>(
        &self,
        units: impl IntoIterator<Item = (&'u Claim, u64)>,
        write: impl FnOnce(&OwnTable, &RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let last: HashMap<&ProducerKey, u64> = units
            .into_iter()
            .map(|(claim, sequence)| (&claim.key, sequence))
            .collect();
        if last.is_empty() {
            return Ok(());
        }
        let column = |of: fn(&ProducerKey) -> &str| {
            let values: StringArray = last.keys().map(|key| Some(of(key))).collect();
            Arc::new(values) as ArrayRef
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_us = now.map_or(0, |now| i64::try_from(now.as_micros()).unwrap_or(i64::MAX));
        let committed_at = TimestampMicrosecondArray::from_value(now_us, last.len());
        let columns = vec![
            column(|key| &key.producer),
            column(|key| &key.table.schema),
            column(|key| &key.table.table),
            Arc::new(UInt64Array::from_iter_values(last.values().copied())),
            Arc::new(committed_at.with_timezone("UTC")),
        ];
        let batch = RecordBatch::try_new(self.0.batch_schema.clone(), columns)
            .map_err(|error| SqlError::internal(error.to_string()))?;
        write(&self.0.sequences, &batch)?;
        self.0
            .written
            .fetch_add(last.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Takes note of sequences that are durable now, still in the turn of their commit.
    pub(super) fn advance<'u>(units: impl IntoIterator<Item = (&'u Claim, u64)>) {
        for (claim, sequence) in units {
            let mut state = claim.state.lock();
            state.last = state.last.max(sequence);
        }
    }

    /// Whether there are many rows that tell nothing any more.
    pub(super) fn want_compaction(&self) -> bool {
        let written = self.0.written.load(Ordering::Relaxed);
        written >= COMPACT_ROWS && written >= COMPACT_ROWS + self.0.states.lock().len() as u64
    }

    /// Deletes rows that tell nothing any more, where there are many.
    pub(in crate::engine) fn compact(&self, connection: &Connection) -> Result<()> {
        if self.want_compaction() {
            let _deleting = self.0.deleting.lock();
            let written = self.0.written.load(Ordering::Relaxed);
            connection.execute_unindexed(COMPACT_SQL)?;
            self.0.written.fetch_sub(written, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Forgets producers, or none where that fails, and answers with how many pairs of a producer and a table. To be called in
    /// a turn.
    pub(in crate::engine) fn forget(
        &self,
        connection: &Connection,
        lossless: &Lossless,
        which: &ForgetProducers,
        own_catalog: &str,
    ) -> Result<u64> {
        let condition = condition(which, own_catalog);
        let _deleting = self.0.deleting.lock();
        // In one transaction `now()` is the same, and so are the rows.
        let forgotten = transaction(connection, |connection| {
            let sql = format!(
                "SELECT producer, \"schema\", \"table\" FROM duck_flight.producers WHERE {condition}"
            );
            let found = rows(connection, lossless, &sql)?;
            let (kept, forgotten) = self.part(&found, which);
            connection.execute_unindexed(&forget_sql(&condition, &kept))?;
            Ok(forgotten)
        })?;
        let mut states = self.0.states.lock();
        for key in &forgotten {
            if let Some(state) = states.remove(key) {
                // A stream that is open, or was opened meanwhile, keeps its claim to a state that nobody looks at any more.
                state.lock().stream += 1;
            }
        }
        Ok(forgotten.len() as u64)
    }

    /// Parts the producers that were found: first those that must be kept, for they have open streams, then the others.
    fn part(
        &self,
        found: &RecordBatch,
        which: &ForgetProducers,
    ) -> (Vec<ProducerKey>, Vec<ProducerKey>) {
        let must_be_idle = matches!(which, ForgetProducers::Idle { .. });
        let states = self.0.states.lock();
        let is_open =
            |key: &ProducerKey| states.get(key).is_some_and(|state| state.lock().open > 0);
        (0..found.num_rows())
            .map(|row| ProducerKey::read(found, row))
            .partition(|key| must_be_idle && is_open(key))
    }
}

/// What the producers to forget meet, in SQL.
fn condition(which: &ForgetProducers, own_catalog: &str) -> String {
    match which {
        ForgetProducers::Named { producer, table } => {
            let mut condition = format!("producer = {}", literal(producer));
            if let Some(table) = table {
                let key = TableKey::new(table, own_catalog);
                let (schema, table) = (literal(&key.schema), literal(&key.table));
                // Tables of other databases have no producers.
                let is_own = key.catalog.is_none();
                condition.push_str(&format!(
                    " AND {is_own} AND \"schema\" = {schema} AND \"table\" = {table}"
                ));
            }
            condition
        }
        ForgetProducers::Idle { idle_seconds } => format!(
            "system.main.\"-\"(system.main.epoch(system.main.now()), system.main.epoch(last_commit_at)) >= {idle_seconds}"
        ),
    }
}

/// A statement that updates no row of the database that has our schema.
pub(in crate::engine) fn update_nothing_sql(catalog: &str) -> String {
    let catalog = quote(catalog);
    format!("UPDATE {catalog}.duck_flight.sequences SET sequence = sequence WHERE false")
}

/// Deletes what is kept of the producers that meet a condition, but for these: by one statement, however many they are.
fn forget_sql(condition: &str, kept: &[ProducerKey]) -> String {
    let kept: Vec<_> = kept.iter().map(ProducerKey::to_sql).collect();
    let but_for = match kept.is_empty() {
        true => String::new(),
        false => format!(
            "ANTI JOIN (VALUES {}) AS kept(producer, \"schema\", \"table\") USING (producer, \"schema\", \"table\")",
            kept.join(", ")
        ),
    };
    format!(
        "DELETE FROM duck_flight.sequences AS old
         USING (SELECT producer, \"schema\", \"table\" FROM duck_flight.producers {but_for} WHERE {condition}) AS forgotten
         WHERE old.producer = forgotten.producer AND old.\"schema\" = forgotten.\"schema\"
             AND old.\"table\" = forgotten.\"table\""
    )
}

impl ProducerKey {
    /// Reads the first three columns of a row: producer, schema, table.
    fn read(rows: &RecordBatch, row: usize) -> Self {
        Self {
            producer: text(rows.column(0), row),
            table: TableKey {
                catalog: None,
                schema: text(rows.column(1), row),
                table: text(rows.column(2), row),
            },
        }
    }

    /// A row of the same three.
    fn to_sql(&self) -> String {
        let values = [&self.producer, &self.table.schema, &self.table.table];
        format!("({})", values.map(|value| literal(value)).join(", "))
    }
}

/// Lists all producers with their tables.
pub(in crate::engine) fn list(
    connection: &Connection,
    lossless: &Lossless,
) -> Result<Vec<ProducerState>> {
    let found = rows(
        connection,
        lossless,
        "SELECT producer, \"schema\", \"table\", last_sequence,
             system.main.strftime(
                 system.main.make_timestamp(system.main.epoch_us(last_commit_at)), '%Y-%m-%dT%H:%M:%S.%fZ')
         FROM duck_flight.producers ORDER BY ALL",
    )?;
    let state = |row| ProducerState {
        producer: text(found.column(0), row),
        table: TableName {
            catalog: None,
            schema: Some(text(found.column(1), row)),
            table: text(found.column(2), row),
        },
        last_sequence: found.column(3).as_primitive::<UInt64Type>().value(row),
        last_commit_at: text(found.column(4), row),
    };
    Ok((0..found.num_rows()).map(state).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ffi::Database;
    use crate::engine::storage::open::lossless;

    const OWN_CATALOG: &str = "memory";

    const IDLE: ForgetProducers = ForgetProducers::Idle { idle_seconds: 60 };

    /// A database in which 100 producers have put into a table, and have been idle since.
    fn idle_producers() -> (Database, Connection, Lossless, Producers) {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        connection.execute(CREATE_SQL).unwrap();
        connection
            .execute(
                "INSERT INTO duck_flight.sequences
                 SELECT 'it''s ' || range, 'main', 't', 7, to_timestamp(0) FROM range(100)",
            )
            .unwrap();
        let lossless = lossless(&database).unwrap();
        let producers = Producers::load(&connection, &lossless).unwrap();
        (database, connection, lossless, producers)
    }

    fn claim(producers: &Producers, number: u64) -> Claim {
        let table = TableKey {
            catalog: None,
            schema: "main".into(),
            table: "t".into(),
        };
        producers.claim(&format!("it's {number}"), &table).unwrap()
    }

    #[test]
    fn producers_are_forgotten_all_together_or_not_at_all() {
        let (database, connection, lossless, producers) = idle_producers();
        let other = database.connect().unwrap();
        other
            .execute("BEGIN; DELETE FROM duck_flight.sequences WHERE producer LIKE '% 50'")
            .unwrap();
        let refused = producers.forget(&connection, &lossless, &IDLE, OWN_CATALOG);
        assert!(refused.is_err_and(|error| error.is_conflict()));
        other.roll_back();
        assert_eq!(list(&connection, &lossless).unwrap().len(), 100);
        assert_eq!(claim(&producers, 3).last_sequence(), 7);
        let forgotten = producers
            .forget(&connection, &lossless, &IDLE, OWN_CATALOG)
            .unwrap();
        assert_eq!(forgotten, 100);
        assert_eq!(list(&connection, &lossless).unwrap().len(), 0);
        assert_eq!(claim(&producers, 3).last_sequence(), 0);
    }

    #[test]
    fn a_producer_with_an_open_stream_is_not_idle() {
        let (_database, connection, lossless, producers) = idle_producers();
        let open = [3, 50].map(|number| claim(&producers, number));
        let forgotten = producers
            .forget(&connection, &lossless, &IDLE, OWN_CATALOG)
            .unwrap();
        assert_eq!(forgotten, 98);
        for claim in &open {
            assert_eq!(claim.last_sequence(), 7);
            assert_eq!(claim.standing(8), Standing::New);
        }
        let by_name = |table: Option<&str>| ForgetProducers::Named {
            producer: "it's 3".into(),
            table: table.map(Into::into),
        };
        let forget =
            |which: ForgetProducers| producers.forget(&connection, &lossless, &which, OWN_CATALOG);
        assert_eq!(forget(by_name(Some("another"))).unwrap(), 0);
        assert_eq!(forget(by_name(Some("T"))).unwrap(), 1);
        assert_eq!(forget(by_name(None)).unwrap(), 0);
        assert_eq!(open[0].standing(8), Standing::Fenced);
        assert_eq!(open[1].standing(8), Standing::New);
        assert_eq!(list(&connection, &lossless).unwrap().len(), 1);
    }

    /// Compactions run at any time, one of them right after the start: an index would wait for every transaction beside it.
    #[test]
    fn no_index_waits_for_transactions_that_are_older_than_a_compaction() {
        let (database, connection, lossless, producers) = idle_producers();
        let earlier = "INSERT INTO duck_flight.sequences
             SELECT producer, \"schema\", \"table\", 6, committed_at FROM duck_flight.sequences";
        connection.execute(earlier).unwrap();
        let older = database.connect().unwrap();
        older.begin().unwrap();
        older.execute("FROM duck_flight.producers LIMIT 1").unwrap();
        producers.compact(&connection).unwrap();
        let sql = "SELECT producer FROM duck_flight.sequences";
        let kept = rows(&connection, &lossless, sql).unwrap();
        assert_eq!(kept.num_rows(), 100);
        let forgotten = producers.forget(&connection, &lossless, &IDLE, OWN_CATALOG);
        assert_eq!(forgotten.unwrap(), 100);
        assert!(!connection.older_transactions().others);
        connection
            .execute("DELETE FROM duck_flight.sequences")
            .unwrap();
        assert!(connection.older_transactions().others);
    }

    #[test]
    fn no_checkpoint_runs_beside_the_commit_of_a_transaction_that_has_deleted_rows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        let database = Database::open(path.to_str().unwrap(), &[]).unwrap();
        let [own, other] = [database.connect().unwrap(), database.connect().unwrap()];
        own.execute(CREATE_SQL).unwrap();
        own.execute("CREATE TABLE t AS FROM range(10) AS r(i)")
            .unwrap();
        database
            .set_update_nothing(&update_nothing_sql("test"))
            .unwrap();
        for (sql, deletes) in [
            ("DELETE FROM t WHERE i = 1", true),
            ("INSERT INTO t VALUES (1)", false),
        ] {
            own.begin().unwrap();
            own.execute(sql).unwrap();
            other.execute("CHECKPOINT").unwrap();
            own.keep_checkpoints_out().unwrap();
            assert_eq!(other.execute("CHECKPOINT").is_err(), deletes, "{sql}");
            own.commit().unwrap();
            other.execute("CHECKPOINT").unwrap();
        }
    }
}
