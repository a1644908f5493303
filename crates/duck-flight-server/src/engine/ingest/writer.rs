//! The writers: group commit.
//!
//! DuckDB commits one transaction at a time and waits for the disk in each, so small units share commits.
//! A writer is a thread with a connection. It takes all units that wait, appends them in one transaction,
//! commits, and answers; meanwhile the next group gathers. There is no delay that somebody chose: an idle
//! writer commits a lone unit at once.
//!
//! A second writer appends while the first one commits, but only where much waits: two small groups would
//! wait for the disk twice. Groups commit in the order in which they were taken, so the units of a stream
//! commit in theirs. A group that fails is rolled back and halved until the offender stands alone.
//!
//! Whatever could get in another group's way is done in the group's turn, when no other group is open: making
//! and altering tables, changing rows that are there, and adding rows that refer to others.

mod apart;
mod append;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use duck_flight_protocol::{SchemaMode, TableName};
use parking_lot::Mutex;

use super::producers::Producers;
use super::queue::{Queue, SECOND_WRITER_ROWS, Turn};
use super::shared::Shared;
use super::tables::{ALTERATIONS_AT_ONCE, alter_table};
use super::target::TableKey;
use super::unit::Unit;
use crate::engine::ffi::{Connection, Database};
use crate::engine::replay::{self, Steady};
use crate::engine::rows::effect::Effect;
use crate::engine::rows::insert::Inserts;
use crate::engine::rows::plan::Plan;
use crate::engine::sql_error::SqlError;
use crate::engine::storage::mark::Before;
use crate::engine::thread;
use crate::engine::{STOP_PATIENCE, transaction};
use crate::error::{Error, Result};

/// All writers.
pub(in crate::engine) struct Writers {
    queue: Arc<Queue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Writers {
    /// Starts `count` writers.
    pub(in crate::engine) fn start(
        count: usize,
        database: &Database,
        shared: &Arc<Shared>,
    ) -> Result<Self> {
        let mut threads = Vec::with_capacity(count);
        for index in 0..count {
            let connection = database.connect()?;
            let writer = Writer {
                connection,
                shared: shared.clone(),
            };
            threads.push(thread::start(format!("writer-{index}"), move || {
                writer.run()
            })?);
        }
        Ok(Self {
            queue: shared.queue.clone(),
            threads: Mutex::new(threads),
        })
    }

    /// Commits what waits and ends the threads. Blocks. Answers whether all have ended. They have time up to the deadline, and more
    /// for as long as group after group is committed; those that have not ended then go on, and keep their connections.
    pub(in crate::engine) fn stop(&self, mut deadline: Instant) -> bool {
        self.queue.close();
        let threads = std::mem::take(&mut *self.threads.lock());
        let mut turns_ended = self.queue.turns_ended();
        thread::all_end(threads, || {
            let ended_before = std::mem::replace(&mut turns_ended, self.queue.turns_ended());
            if turns_ended > ended_before {
                deadline = deadline.max(Instant::now() + STOP_PATIENCE);
            }
            Instant::now() >= deadline
        })
    }
}

struct Writer {
    connection: Connection,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(self) {
        let mut inserts = Inserts::new(&self.connection);
        while let Some((turn, group)) = self.shared.queue.take() {
            // In a commit, or after it: whoever waits for these units is told that their worker is lost.
            let write = AssertUnwindSafe(|| self.write(&mut inserts, &turn, group));
            if catch_unwind(write).is_err() {
                tracing::error!("a writer panicked; its group is rolled back");
                self.connection.roll_back();
                inserts = Inserts::new(&self.connection);
            }
        }
    }

    /// Commits a group and answers its units.
    fn write(&self, inserts: &mut Inserts<'_>, turn: &Turn, group: Vec<Unit>) {
        let mut group: Vec<_> = group.into_iter().filter_map(Unit::screen).collect();
        if group.is_empty() {
            return;
        }
        let inserted = self.insert(inserts, turn, &group);
        let outcome = inserted.and_then(|before| match before {
            Some(before) => Ok(before),
            None if group.iter().any(must_be_alone) => self.commit_in_turn(turn, &mut group),
            None => self.commit(turn, &mut group),
        });
        match outcome {
            Ok(before) => self.acknowledge(group, before),
            Err(error) => {
                // A group before this one may have been in the way; from here on none is.
                turn.wait();
                self.take_apart(turn, group, error);
            }
        }
    }

    /// Commits a group of rows for one table by an INSERT that is prepared. `None` where the group needs more than that.
    fn insert(
        &self,
        inserts: &mut Inserts<'_>,
        turn: &Turn,
        group: &[Unit],
    ) -> Result<Option<Before>> {
        let Some(plan) = single_insert(group) else {
            return Ok(None);
        };
        let table = &group[0].put.table;
        let rows: u64 = group.iter().map(|unit| unit.rows).sum();
        let batches = group
            .iter()
            .flat_map(|unit| &unit.cast)
            .flat_map(|(_, batches)| batches);
        if !guarded(|| inserts.load(table, plan, batches, rows))? {
            return Ok(None);
        }
        let mut identities = group.iter().filter_map(Unit::identity).peekable();
        let may_be_filed = rows >= inserts.connection.fewest_filed_rows();
        if identities.peek().is_none() && rows < SECOND_WRITER_ROWS && !may_be_filed {
            // The INSERT alone is a transaction in itself, and cheaper than one that is begun and committed.
            turn.wait();
            // Before the check: it may wait for whoever finds the log to end with half an entry.
            let _under_way = inserts.connection.commits().under_way();
            self.check(group).inspect_err(|_| inserts.unload(table))?;
            let before = self.before_commit();
            inserts.run(table)?;
            return Ok(Some(before));
        }
        if group.iter().any(must_be_alone) {
            turn.wait();
        }
        let steady = inserts.connection.indexes().steady();
        let outcome = transaction(inserts.connection, |_| {
            guarded(|| {
                inserts.run(table)?;
                self.secure(inserts.connection, group, &steady)?;
                turn.wait();
                self.check(group)?;
                self.shared.producers.insert(inserts, identities)?;
                Ok(self.before_commit())
            })
        });
        // After a panic they may still be there.
        let before = outcome.inspect_err(|_| inserts.unload(table))?;
        Ok(Some(before))
    }

    /// Appends a group in its turn, its tables altered before where they are to be, and commits it.
    fn commit_in_turn(&self, turn: &Turn, group: &mut [Unit]) -> Result<Before> {
        turn.wait();
        self.alter_tables(group)?;
        self.commit(turn, group)
    }

    /// Gives tables room for the rows of puts that may change them: in transactions of their own, in turn.
    fn alter_tables(&self, group: &[Unit]) -> Result<()> {
        for unit in group {
            let put = &unit.put;
            if put.schema_mode == SchemaMode::Match {
                continue;
            }
            for _ in 0..=put.schema.fields().len() / ALTERATIONS_AT_ONCE {
                // Until the commit: what others commit while DuckDB 1.5.5 changes a type is lost, or makes it fail.
                let mut alone = None;
                let keep_out = || alone = Some(self.connection.commits().alone());
                let has_altered = transaction(&self.connection, |connection| {
                    guarded(|| alter_table(connection, unit, keep_out))
                });
                if !has_altered? {
                    break;
                }
                self.shared.seen.forget(&put.table);
            }
        }
        Ok(())
    }

    /// Appends a group while the one before it commits, and commits it in its turn.
    fn commit(&self, turn: &Turn, group: &mut [Unit]) -> Result<Before> {
        let steady = self.connection.indexes().steady();
        let times_forgotten = self.shared.seen.times_forgotten();
        transaction(&self.connection, |connection| {
            guarded(|| {
                self.append(connection, group, turn, times_forgotten)?;
                self.secure(connection, group, &steady)?;
                turn.wait();
                self.finish(connection, group)
            })
        })
    }

    /// Makes sure that a group's transaction can be replayed.
    fn secure(&self, connection: &Connection, group: &[Unit], steady: &Steady<'_>) -> Result<()> {
        let all: u64 = group.iter().map(|unit| unit.rows).sum();
        if all < connection.fewest_filed_rows() {
            return Ok(());
        }
        // By their keys, for what DuckDB logs are the rows of a table, however each put spells its name.
        let mut tables: HashMap<&TableKey, (&TableName, u64, bool)> = HashMap::new();
        for unit in group {
            let put = &unit.put;
            let (_, rows, is_keyed) = tables.entry(&put.key).or_insert((&put.table, 0, false));
            *rows += unit.rows;
            *is_keyed |= put.effect.is_keyed();
        }
        tables
            .into_values()
            .try_for_each(|(table, rows, is_keyed)| {
                replay::secure_put(connection, table, rows, is_keyed, steady)
            })
    }

    /// The end of a group's transaction, up to its commit, in its turn.
    fn finish(&self, connection: &Connection, group: &[Unit]) -> Result<Before> {
        self.check(group)?;
        for unit in group.iter().filter(|unit| unit.put.effect.is_keyed()) {
            connection
                .changes()
                .note_rows(Some(unit.put.table.table.clone()));
        }
        let identities = group.iter().filter_map(Unit::identity);
        self.shared.producers.write(connection, identities)?;
        Ok(self.before_commit())
    }

    /// Whether a group may be committed, in its turn.
    fn check(&self, group: &[Unit]) -> Result<()> {
        self.shared.health.check()?;
        check_puts(group)?;
        Producers::check(group)
    }

    /// What a commit is marked with. Looked at last, in its turn: after a checkpoint between the two it could not be marked.
    fn before_commit(&self) -> Before {
        // The commit of rows that fill row groups would wait for it.
        self.connection.wait_for_checkpoint();
        self.shared.mark.before()
    }

    /// Answers units whose commit has returned.
    fn acknowledge(&self, group: Vec<Unit>, before: Before) {
        for unit in group.iter().filter(|unit| unit.makes_anew()) {
            // Until the commit others have seen what was there before.
            self.shared.seen.forget_made(&unit.put.key);
        }
        let log_bytes = self.shared.mark.write(before);
        let commit = group.iter().map(|unit| (&unit.put.key, unit.rows));
        self.shared.bell.ring(log_bytes, commit);
        if self.shared.producers.want_compaction() {
            self.shared.bell.ring_at_once();
        }
        for unit in group {
            Producers::advance(unit.identity());
            unit.acknowledge();
        }
    }
}

/// The plan by which all units of a group become one INSERT, where they do.
fn single_insert(group: &[Unit]) -> Option<&Arc<Plan>> {
    let first = group.first()?;
    let (plan, _) = first.cast.as_ref()?;
    let alike = |unit: &Unit| {
        unit.put.table == first.put.table
            && unit.rejects.is_empty()
            && unit.put.effect == Effect::Append
            && unit
                .cast
                .as_ref()
                .is_some_and(|(other, _)| other.is_same(plan))
    };
    group.iter().all(alike).then_some(plan)
}

/// Whether a unit is written only in its turn: one that makes or changes its table, or rows that are there, or that refers to rows which
/// a group before it may delete.
fn must_be_alone(unit: &Unit) -> bool {
    unit.cast.is_none() || unit.put.effect.is_keyed() || !unit.referred.is_empty()
}

/// Refuses units that follow a failed one in their stream: batches are committed in order, without gaps.
fn check_puts(group: &[Unit]) -> Result<()> {
    if group.iter().any(|unit| unit.put.has_failed()) {
        Err(Error::EarlierBatchFailed)
    } else {
        Ok(())
    }
}

/// Runs what comes before a commit. A panic there is an error of its group, which is then taken apart: what of a client's rows has made
/// it is told of their unit alone.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        tracing::error!("a writer panicked before a commit; its group is taken apart");
        let message = "the server failed at these rows, so nothing of them was committed; its log may say why";
        Err(SqlError::internal(message).into())
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use crossbeam_channel::{Sender, unbounded};
    use duck_flight_protocol::PutOptions;
    use tokio::sync::oneshot::{Receiver, channel};

    use super::*;
    use crate::engine::ingest::target::Target;
    use crate::engine::ingest::unit::{Answer, Committed};
    use crate::engine::{Engine, EngineOptions};

    /// Writers of which one is in its turn to commit until its other end is dropped.
    fn busy_writers() -> (Writers, Sender<()>) {
        let queue = Arc::new(Queue::new(Duration::MAX));
        let (end, ended) = unbounded::<()>();
        let turn = queue.turn();
        let busy = thread::start("busy", move || {
            ended.recv().ok();
            drop(turn);
        });
        let writers = Writers {
            queue,
            threads: Mutex::new(vec![busy.unwrap()]),
        };
        (writers, end)
    }

    #[test]
    fn a_writer_that_does_not_end_is_left_behind() {
        let (writers, end) = busy_writers();
        assert!(!writers.stop(Instant::now()));
        drop(end);
        writers.queue.turn().wait();
    }

    #[test]
    fn a_writer_that_ends_is_waited_for() {
        let (writers, end) = busy_writers();
        drop(end);
        assert!(writers.stop(Instant::now() + STOP_PATIENCE));
    }

    /// Rows with one column of numbers for each of these names.
    fn rows(names: &[&str]) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        RecordBatch::try_from_iter(names.iter().map(|&name| (name, numbers.clone()))).unwrap()
    }

    /// A unit of a put whose stream has the columns of `told`, but whose rows are `sent`.
    fn unit(
        engine: &Engine,
        table: &str,
        told: &RecordBatch,
        sent: RecordBatch,
    ) -> (Unit, Receiver<Result<Committed>>) {
        let options = PutOptions::new(table);
        let key = TableKey::new(&options.table, "");
        let put = Target::new(&options, key, Effect::Append, None, told.schema());
        let put = Arc::new(put);
        let (sender, answer) = channel();
        let unit = Unit {
            put: put.clone(),
            sequence: None,
            rows: sent.num_rows() as u64,
            sent: vec![sent],
            cast: None,
            rejects: Vec::new(),
            is_first: true,
            referred: Vec::new(),
            answer: Answer::new(put, sender, None),
            share: engine.budget().share(),
        };
        (unit, answer)
    }

    async fn writer(engine: &Engine) -> Writer {
        let connection = engine.0.lookups.run(|session, _| {
            let another = session.connection.another()?;
            Ok(another)
        });
        Writer {
            connection: connection.await.unwrap(),
            shared: engine.shared().clone(),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rows_whose_cast_panics_are_refused_alone() {
        let engine = Engine::open(&EngineOptions::in_memory()).unwrap();
        let writer = writer(&engine).await;
        let (one, two) = (rows(&["i"]), rows(&["i", "j"]));
        let (innocent, mut committed) = unit(&engine, "t", &one, one.clone());
        let (faulty, mut refused) = unit(&engine, "u", &two, one.clone());
        let turn = writer.shared.queue.turn();
        let mut inserts = Inserts::new(&writer.connection);
        writer.write(&mut inserts, &turn, vec![faulty, innocent]);
        assert_eq!(committed.try_recv().unwrap().unwrap().rows, 2);
        let refused = refused.try_recv().unwrap();
        assert!(matches!(refused, Err(Error::Malformed(_))), "{refused:?}");
    }

    #[test]
    fn a_panic_before_a_commit_is_an_error_and_leaves_no_transaction_open() {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        let failed: Result<()> = transaction(&connection, |connection| {
            guarded(|| {
                connection.execute("CREATE TABLE t (i BIGINT)")?;
                panic!("as a bug would")
            })
        });
        assert!(failed.unwrap_err().to_string().contains("nothing of them"));
        let made = transaction(&connection, |connection| {
            Ok(connection.table_columns(&TableName::from("t"))?.is_some())
        });
        assert!(!made.unwrap());
    }

    /// Rows go into two tables, so that they are appended before their turn.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_commit_is_marked_although_a_checkpoint_was_made_while_it_waited_for_its_turn() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        let engine = Engine::open(&EngineOptions {
            database: path,
            ..EngineOptions::in_memory()
        });
        let engine = engine.unwrap();
        let writer = writer(&engine).await;
        let other = writer.connection.another().unwrap();
        let tables = "CREATE TABLE t (i BIGINT); CREATE TABLE u (i BIGINT)";
        other.execute(tables).unwrap();
        let sent = rows(&["i"]);
        let mut group = Vec::new();
        for table in ["t", "u"] {
            let (mut unit, _) = unit(&engine, table, &sent, sent.clone());
            let columns = other.table_columns(&unit.put.table).unwrap().unwrap();
            let plan = Arc::new(unit.put.plan(&columns.into()).unwrap());
            unit.replan(&plan, true).unwrap();
            group.push(unit);
        }
        let queue = writer.shared.queue.clone();
        let (earlier, turn) = (queue.turn(), queue.turn());
        let shared = writer.shared.clone();
        let before = std::thread::scope(|scope| {
            let commits = scope.spawn(move || writer.commit(&turn, &mut group));
            while !other.is_beside_others() && !commits.is_finished() {
                std::thread::yield_now();
            }
            other.execute("CHECKPOINT").unwrap();
            drop(earlier);
            commits.join().unwrap().unwrap()
        });
        assert!(before == shared.mark.before());
    }
}
