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

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use duck_flight_protocol::{Create, SchemaMode, TableName};
use parking_lot::Mutex;

use super::producers::Producers;
use super::queue::{Queue, SECOND_WRITER_ROWS, Turn};
use super::rejects::Rejects;
use super::target::{TEMPORARY, TableKey, Target};
use super::unit::{Unit, offence_error};
use crate::engine::catalog::{Columns, SeenTables};
use crate::engine::connections::commits::Commits;
use crate::engine::ffi::{Connection, Database};
use crate::engine::replay::claim::claim;
use crate::engine::replay::referred;
use crate::engine::replay::widened;
use crate::engine::replay::{self, Steady};
use crate::engine::rows::appender::TableWriter;
use crate::engine::rows::effect::Effect;
use crate::engine::rows::evolve::{Alteration, alterations};
use crate::engine::rows::fixed::without_fixed_columns;
use crate::engine::rows::insert::Inserts;
use crate::engine::rows::keys::{Keys, Refusals};
use crate::engine::rows::offences::{offences, tell_unfound};
use crate::engine::rows::plan::Plan;
use crate::engine::rows::sql_type::create_table_sql;
use crate::engine::sql_error::SqlError;
use crate::engine::storage::bell::CheckpointBell;
use crate::engine::storage::health::Health;
use crate::engine::storage::mark::{Before, Mark};
use crate::engine::storage::room::HeldUp;
use crate::engine::thread;
use crate::engine::{Lossless, STOP_PATIENCE, transaction};
use crate::error::{Error, Result};

/// How often a unit is tried again when a client's DDL got in its way, and how long it waits each time for the
/// DDL that runs. More than that, and a long statement would hold up all writers.
const CONFLICT_TRIES: u32 = 20;
const CONFLICT_WAIT: Duration = Duration::from_millis(20);

/// How often the rows of a unit are looked for that are at fault: nobody else commits meanwhile.
const MAX_SEARCHES: u32 = 5;

/// How many changes of a table share a transaction: DuckDB keeps a whole table of column objects for each until its end.
const ALTERATIONS_AT_ONCE: usize = 32;

/// What writers, large units, queries and the checkpoint thread share.
pub(in crate::engine) struct Shared {
    pub(in crate::engine) queue: Arc<Queue>,
    pub(in crate::engine) producers: Producers,
    pub(in crate::engine) rejects: Rejects,
    pub(in crate::engine) seen: Arc<SeenTables>,
    pub(in crate::engine) health: Health,
    pub(in crate::engine) lossless: Arc<Lossless>,
    pub(in crate::engine) mark: Mark,
    pub(in crate::engine) bell: CheckpointBell,
    pub(in crate::engine) commits: Arc<Commits>,
    pub(in crate::engine) held_up: HeldUp,
}

impl Shared {
    /// Takes note of an error after which the database must be opened again: DuckDB's fatal ones, and a log that
    /// ends with half of an entry. DuckDB would go on behind it, and the next start could not read that. To be called where
    /// no commit of this thread's is under way, and before its turn, if it has one, is given away.
    pub(in crate::engine) fn observe(&self, error: Error) -> Error {
        if error.is_failed_commit() && self.mark.is_torn() {
            // Somebody may be writing it. Whoever is alone waits for commits, and lets nobody else commit before the failure is noted.
            let _alone = self.commits.alone();
            if self.mark.is_torn() {
                self.health.fail(&format!(
                    "the write-ahead log ends with half of what a failed commit wrote: {error}"
                ));
            }
        }
        self.health.observe(error)
    }
}

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

    /// Appends a group in its turn, its tables altered before where they are to be, and commits it.
    fn commit_in_turn(&self, turn: &Turn, group: &mut [Unit]) -> Result<Before> {
        turn.wait();
        self.alter_tables(group)?;
        self.commit(turn, group)
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

    /// What a commit is marked with. Looked at last, in its turn: after a checkpoint between the two it could not be marked.
    fn before_commit(&self) -> Before {
        // The commit of rows that fill row groups would wait for it.
        self.connection.wait_for_checkpoint();
        self.shared.mark.before()
    }

    /// Whether a group may be committed, in its turn.
    fn check(&self, group: &[Unit]) -> Result<()> {
        self.shared.health.check()?;
        check_puts(group)?;
        Producers::check(group)
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

    /// A group that failed: its halves are tried, down to the unit at fault.
    fn take_apart(&self, turn: &Turn, mut group: Vec<Unit>, error: Error) {
        let error = self.shared.observe(error);
        if let Error::Undecided(reason) = &error {
            // All of them may be durable, and nothing can be tried any more.
            let undecided = || Error::Undecided(reason.clone());
            return group.into_iter().for_each(|unit| unit.refuse(undecided()));
        }
        let second = group.split_off(group.len().div_ceil(2));
        if second.is_empty() {
            if let Some(unit) = group.pop() {
                self.retry_or_refuse(turn, unit, error);
            }
            return;
        }
        for half in [group, second] {
            let mut half: Vec<_> = half.into_iter().filter_map(Unit::screen).collect();
            if half.is_empty() {
                continue;
            }
            match self.commit_in_turn(turn, &mut half) {
                Ok(before) => self.acknowledge(half, before),
                Err(error) => self.take_apart(turn, half, error),
            }
        }
    }

    /// A lone unit that failed: tried again where only the moment was wrong, or without the rows at fault.
    fn retry_or_refuse(&self, turn: &Turn, unit: Unit, mut error: Error) {
        let Some(mut unit) = unit.screen() else {
            return;
        };
        let evolves = unit.put.schema_mode != SchemaMode::Match;
        let mut was_alone = false;
        let (mut searches, mut may_be_gone) = (0, true);
        for _ in 0..CONFLICT_TRIES {
            // A table that evolves may have lost a column again, for as long as anybody could take it away.
            let may_lack_column = evolves && !was_alone && matches!(error, Error::Columns(_));
            let is_overtaken = may_lack_column || error.is_conflict();
            // While it is held no DDL begins.
            let alone = match is_overtaken {
                true => self.connection.definitions().try_write_for(CONFLICT_WAIT),
                false => None,
            };
            was_alone = alone.is_some();
            if !is_overtaken {
                if searches == MAX_SEARCHES {
                    break;
                }
                searches += 1;
                let found = guarded(|| self.without_offences(&mut unit, error, may_be_gone));
                // After a panic the transaction in which they were looked for may be open.
                self.connection.roll_back();
                match found {
                    Ok(found_some) => may_be_gone = found_some,
                    Err(last) => return unit.refuse(last),
                }
            }
            let outcome = self.commit_in_turn(turn, std::slice::from_mut(&mut unit));
            drop(alone);
            match outcome {
                Ok(before) => return self.acknowledge(vec![unit], before),
                Err(again) => error = self.shared.observe(again),
            }
        }
        unit.refuse(error.of_put());
    }

    /// Puts the rows aside that do not fit, where the put says so; false where there are none, if what was in their way `may_be_gone`
    /// since. The error comes back, with the first such row named, where the unit is not worth another try.
    fn without_offences(&self, unit: &mut Unit, error: Error, may_be_gone: bool) -> Result<bool> {
        let Some((plan, batches)) = &unit.cast else {
            return Err(error);
        };
        // Values that DuckDB casts itself are found out only when they are appended.
        let is_misfit = unit.put.rejects && matches!(error, Error::Value { .. });
        if !error.is_constraint() && !is_misfit {
            return Err(error);
        }
        let lossless = &self.shared.lossless;
        let offences = offences(&self.connection, lossless, &unit.put, plan, batches);
        let offences = match offences {
            Ok(offences) if !offences.is_empty() => offences,
            Ok(_) if may_be_gone => return Ok(false),
            Ok(_) => return Err(error),
            Err(failure @ Error::TooManyRejects(_)) if unit.put.rejects => return Err(failure),
            Err(failure) => {
                tell_unfound(&failure);
                return Err(error);
            }
        };
        if unit.put.rejects {
            unit.put_aside(&offences).map(|()| true)
        } else {
            let aside = unit.rejects.iter().map(|reject| reject.row);
            Err(offence_error(aside, &offences[0], &error))
        }
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

    /// Appends a group within the open transaction: table by table, and there put by put, each put's units in
    /// their order. `turn` is waited for before a table is made. `times_forgotten` is the counter as it was before the
    /// transaction: what is learnt in it is remembered only if nothing was forgotten since.
    fn append(
        &self,
        connection: &Connection,
        group: &mut [Unit],
        turn: &Turn,
        times_forgotten: u64,
    ) -> Result<()> {
        let mut order: Vec<usize> = (0..group.len()).collect();
        order.sort_by(|&one, &other| {
            let key = |index: usize| (&group[index].put.table, group[index].put.id);
            key(one).cmp(&key(other))
        });
        let is_same_table =
            |one: &usize, other: &usize| group[*one].put.table == group[*other].put.table;
        let tables: Vec<Vec<usize>> = order.chunk_by(is_same_table).map(<[_]>::to_vec).collect();
        for units in tables {
            self.plan_for_table(connection, group, &units, turn)?;
            self.append_to_table(connection, group, &units, times_forgotten)?;
        }
        Ok(())
    }

    /// Makes the table of these units where it is missing, and casts those again that were cast for another one.
    fn plan_for_table(
        &self,
        connection: &Connection,
        group: &mut [Unit],
        units: &[usize],
        turn: &Turn,
    ) -> Result<()> {
        let mut columns: Option<Columns> = None;
        let is_alone = group.len() == 1;
        for &index in units {
            let unit = &mut group[index];
            let columns = match &columns {
                Some(columns) => columns,
                None => columns.insert(resolve(connection, &unit.put, unit.is_first, Some(turn))?),
            };
            if !unit
                .cast
                .as_ref()
                .is_some_and(|(plan, _)| plan.fits(columns))
            {
                // Not remembered: what this transaction sees may be of its own making, and undone.
                self.shared.seen.forget(&unit.put.table);
                let plan = unit.put.plan(columns)?;
                unit.replan(&Arc::new(plan), is_alone)?;
            }
        }
        Ok(())
    }

    /// Appends units of one table.
    fn append_to_table(
        &self,
        connection: &Connection,
        group: &[Unit],
        units: &[usize],
        times_forgotten: u64,
    ) -> Result<()> {
        let table: &TableName = &group[units[0]].put.table;
        let rows = units.iter().map(|&index| group[index].rows).sum();
        let mut open: Option<TableWriter<'_>> = None;
        let mut keys: Option<Keys> = None;
        for unit in units.iter().map(|&index| &group[index]) {
            let (put, rejects) = (&unit.put, &unit.rejects);
            self.shared
                .rejects
                .write(connection, put, unit.sequence, rejects)?;
            let Some((plan, batches)) = unit.cast.as_ref().filter(|_| unit.rows > 0) else {
                continue;
            };
            if TableWriter::is_too_large(plan, unit.rows) {
                open.take().map_or(Ok(()), TableWriter::finish)?;
                TableWriter::apply_unit(connection, table, plan, batches, unit.rows)?;
                continue;
            }
            let takes = |writer: &TableWriter<'_>| writer.takes(plan, unit.rows);
            let goes_along = open.as_ref().is_some_and(takes)
                && keys.as_mut().is_none_or(|keys| keys.add(plan, batches));
            let writer = match open.take() {
                Some(writer) if goes_along => open.insert(writer),
                other => {
                    other.map_or(Ok(()), TableWriter::finish)?;
                    keys = match put.effect.is_keyed() && units.len() > 1 {
                        true => self.keys(connection, put, plan, times_forgotten)?,
                        false => None,
                    };
                    // The first ones.
                    if let Some(keys) = &mut keys {
                        keys.add(plan, batches);
                    }
                    open.insert(TableWriter::open(connection, table, plan, rows)?)
                }
            };
            writer.append_unit(batches)?;
        }
        open.map_or(Ok(()), TableWriter::finish)
    }

    /// What tells units apart that must not be applied by one statement: of the rows with one key it would see only the last, and a unit
    /// whose row the table refuses would be taken for one that has been applied. `None` where the table refuses none, or all of them.
    fn keys(
        &self,
        connection: &Connection,
        put: &Target,
        plan: &Plan,
        times_forgotten: u64,
    ) -> Result<Option<Keys>> {
        let (seen, table, key) = (&self.shared.seen, &put.table, put.effect.key());
        let refusals = match seen.refusals(table, key) {
            Some(refusals) => refusals,
            None => {
                let refusals = plan.refusals(connection, table)?;
                seen.set_refusals(table, key, refusals, times_forgotten);
                refusals
            }
        };
        Ok(match refusals {
            Refusals::Never => None,
            Refusals::OfKeys => Some(Keys::new(plan, false)),
            Refusals::OfCollatedKeys => Some(Keys::new(plan, true)),
        })
    }
}

/// Gives the table of a unit that may change it room for its rows, or a part of that; true where it has altered anything.
/// Calls `before` before the first change; from then on nobody else may commit anything.
fn alter_table(connection: &Connection, unit: &Unit, before: impl FnOnce()) -> Result<bool> {
    if lacking(connection, unit)?.is_empty() {
        return Ok(false);
    }
    before();
    // The transaction is older than what others have committed since it looked, and would undo that where it changes a type.
    connection.restart_work()?;
    let alterations = lacking(connection, unit)?;
    if alterations.is_empty() {
        return Ok(false);
    }
    let table = &unit.put.table;
    claim(connection, table)?;
    connection
        .changes()
        .note_alteration(Some(table.table.clone()));
    let count = alterations.len().min(ALTERATIONS_AT_ONCE);
    widened::alter(connection, table, &alterations[..count])?;
    Ok(true)
}

/// What the table of a unit lacks for its rows and can be given, as the open transaction sees it; nothing where there is no table.
fn lacking(connection: &Connection, unit: &Unit) -> Result<Vec<Alteration>> {
    let Target {
        table,
        schema,
        effect,
        schema_mode,
        ..
    } = &*unit.put;
    let Some(columns) = connection.table_columns(table)? else {
        return Ok(Vec::new());
    };
    let cast = unit.cast.as_ref();
    if cast.is_some_and(|(plan, _)| plan.fits(&columns)) {
        return Ok(Vec::new());
    }
    let alterations = alterations(table, &columns, schema, effect, *schema_mode)?;
    without_fixed_columns(connection, table, alterations)
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

/// Whether a unit is written only in its turn: one that makes or changes its table, or rows that are there, or that refers to rows which
/// a group before it may delete.
fn must_be_alone(unit: &Unit) -> bool {
    unit.cast.is_none() || unit.put.effect.is_keyed() || !unit.referred.is_empty()
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

/// Refuses units that follow a failed one in their stream: batches are committed in order, without gaps.
fn check_puts(group: &[Unit]) -> Result<()> {
    if group.iter().any(|unit| unit.put.has_failed()) {
        Err(Error::EarlierBatchFailed)
    } else {
        Ok(())
    }
}

/// How a table that others also see is made in the place of another one.
const REPLACE: &str = "CREATE OR REPLACE TABLE";

/// The columns of a put's table as this transaction sees it, made first where the put says so. `turn` is waited
/// for before.
pub(super) fn resolve(
    connection: &Connection,
    put: &Target,
    is_first: bool,
    turn: Option<&Turn>,
) -> Result<Columns> {
    let Target {
        table,
        create,
        schema,
        effect,
        schema_mode,
        ..
    } = put;
    let columns = connection.table_columns(table)?;
    let makes_anew = is_first && put.makes_anew();
    let is_temporary = table.catalog.as_deref() == Some(TEMPORARY);
    let verb = match (columns, create) {
        (Some(_), Create::Always) if makes_anew => return Err(Error::TableExists(table.clone())),
        (Some(_), Create::Replace) if makes_anew && is_temporary => "CREATE OR REPLACE TEMP TABLE",
        (Some(_), Create::Replace) if makes_anew => REPLACE,
        (Some(columns), _) => return Ok(columns.into()),
        (None, _) if matches!(effect, Effect::Delete { .. }) => {
            return Err(Error::NothingToDelete(table.clone()));
        }
        (None, Create::Never) => return Err(Error::NoTable(table.clone())),
        (None, _) if is_temporary => "CREATE TEMP TABLE",
        (None, _) => "CREATE TABLE",
    };
    if let Some(turn) = turn {
        turn.wait();
    }
    if verb == REPLACE {
        referred::check_replaced(connection, table)?;
        connection.changes().note_drop(Some(table.table.clone()));
    } else if !is_temporary {
        connection.changes().note_definition();
    }
    let sql = create_table_sql(verb, &table.to_sql(), schema, effect, *schema_mode)?;
    connection.execute(&sql)?;
    let columns = connection.table_columns(table)?;
    Ok(columns.ok_or_else(|| Error::NoTable(table.clone()))?.into())
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use crossbeam_channel::{Sender, unbounded};
    use duck_flight_protocol::PutOptions;
    use tokio::sync::oneshot::{Receiver, channel};

    use super::*;
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

    /// A put of rows like these.
    fn target(options: &PutOptions, rows: &RecordBatch, effect: Effect) -> Target {
        let key = TableKey::new(&options.table, "");
        Target::new(options, key, effect, None, rows.schema())
    }

    /// A unit of a put whose stream has the columns of `told`, but whose rows are `sent`.
    fn unit(
        engine: &Engine,
        table: &str,
        told: &RecordBatch,
        sent: RecordBatch,
    ) -> (Unit, Receiver<Result<Committed>>) {
        let put = Arc::new(target(&PutOptions::new(table), told, Effect::Append));
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

    #[test]
    fn who_deletes_from_a_table_that_is_gone_is_not_told_to_have_it_made() {
        let database = Database::open(":memory:", &[]).unwrap();
        let connection = database.connect().unwrap();
        let delete = Effect::Delete {
            key: vec!["i".to_owned()],
        };
        for create in [Create::IfMissing, Create::Never] {
            let options = PutOptions {
                create,
                ..PutOptions::new("t")
            };
            let put = target(&options, &rows(&["i"]), delete.clone());
            let refused = resolve(&connection, &put, true, None).err();
            assert!(
                matches!(refused, Some(Error::NothingToDelete(_))),
                "{create:?}: {refused:?}"
            );
        }
    }
}
