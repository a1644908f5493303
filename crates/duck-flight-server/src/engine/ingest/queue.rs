//! The units that wait for a writer, and whose turn it is to commit.
//!
//! Each put has a lane of its own, and a group takes one unit of each lane in turn: a put that floods the
//! queue fills its own lane, and another one's unit is in the next group all the same.

pub(in crate::engine) mod holds;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use duck_flight_protocol::Create;
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::Notify;

use super::target::{PutId, TableKey};
use super::unit::Unit;
use crate::engine::ffi::{Connection, Filling};
use crate::error::{Error, Result};
use holds::Held;

/// A group is full at this many rows: DuckDB's own row group, or several of the smaller ones of new files. Larger
/// groups load no faster, and are answered later.
const GROUP_ROWS: u64 = 122_880;

/// From this many waiting rows on a second writer joins in: one and a half row groups of new files, so that it
/// compresses one and writes it into the file while the group before it commits.
pub(super) const SECOND_WRITER_ROWS: u64 = 30_720;

/// How often writers look whether a unit has waited for large ones for long enough, statements whether they were cancelled, and units
/// without memory whether there is more of it.
const LOOK: Duration = Duration::from_millis(100);

/// How often a large unit gives up its turn because a checkpoint is running; after that it keeps its turn and waits in it.
const TURNS_BESIDE_CHECKPOINTS: usize = 3;

/// The units that wait, and whose turn it is to commit.
pub(in crate::engine) struct Queue {
    state: Mutex<State>,
    /// Writers wait for units that are theirs to take: one at a time is told.
    ready: Condvar,
    /// Whoever waits for a turn, or for the end of a hold.
    changed: Condvar,
    /// Units that wait for the end of a hold before they take memory.
    let_go: Notify,
}

#[derive(Default)]
struct State {
    /// The waiting units of each put.
    lanes: HashMap<PutId, Lane>,
    /// The puts that have waiting units; the first one is served next.
    order: VecDeque<PutId>,
    rows: u64,
    closed: bool,
    /// Writers that have taken a group and not answered it yet.
    busy: usize,
    /// The number of the next one to take a turn, and of the one whose turn it is.
    next_turn: u64,
    turn: u64,
    /// Tables that large units make or change, or statements change, or that rows of these refer to, and who waits for them.
    held: Vec<Held>,
    /// The number of the next hold.
    next_hold: u64,
    /// The tables for which rows of large units come in, each once for every such unit.
    appended: Vec<TableKey>,
    /// How long a unit that may alter a table of `appended` waits for the large units there.
    patience: Duration,
}

/// The waiting units of a put, in their order.
struct Lane {
    units: VecDeque<Unit>,
    rows: u64,
    /// Since when the first of them has been the first.
    since: Instant,
}

impl Queue {
    /// A queue in which units that may alter a table wait for `patience` at most for large units that append to it.
    pub(in crate::engine) fn new(patience: Duration) -> Self {
        let state = State {
            patience,
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            ready: Condvar::new(),
            changed: Condvar::new(),
            let_go: Notify::new(),
        }
    }

    /// Queues a unit. The queue is bounded by the budget that every unit holds a part of.
    pub(in crate::engine) fn push(&self, unit: Unit) -> Result<()> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Error::ShuttingDown);
        }
        state.push(unit);
        self.tell_if_ready(&state);
        Ok(())
    }

    /// Lets the writers end once nothing waits.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        self.tell_if_ready(&state);
    }

    /// Wakes one writer where there is a group to take, or where one can be taken later by the passing of time alone; wakes all of
    /// them once the queue is closed, for they may end.
    fn tell_if_ready(&self, state: &State) {
        if state.closed {
            self.ready.notify_all();
        } else if state.is_ready() || state.any_may_alter_appended() {
            self.ready.notify_one();
        }
    }

    /// Waits for units that are this writer's to take, and takes all that may share a transaction. `None`
    /// when there will be no more.
    pub(super) fn take(self: &Arc<Self>) -> Option<(Turn, Vec<Unit>)> {
        let mut state = self.state.lock();
        while !state.is_ready() {
            if state.closed && state.order.is_empty() {
                return None;
            }
            if state.any_may_alter_appended() {
                self.ready.wait_for(&mut state, LOOK);
            } else {
                self.ready.wait(&mut state);
            }
        }
        let group = state.take_group();
        state.busy += 1;
        self.tell_if_ready(&state);
        Some((self.enter(&mut state, true), group))
    }

    /// How many who had a place in the order of commits have ended.
    pub(super) fn turns_ended(&self) -> u64 {
        self.state.lock().turn
    }

    /// Takes a place in the order of commits, behind all groups that were taken before.
    pub(in crate::engine) fn turn(self: &Arc<Self>) -> Turn {
        self.enter(&mut self.state.lock(), false)
    }

    /// Takes a turn to commit row groups, and waits for it. Where a checkpoint runs by then it takes another one behind that, for in the turn
    /// all others would wait for it, too; but not for ever.
    pub(super) fn turn_to_fill<'c>(self: &Arc<Self>, connection: &'c Connection) -> TurnToFill<'c> {
        for _ in 0..TURNS_BESIDE_CHECKPOINTS {
            let turn = self.turn();
            turn.wait();
            if let Some(filling) = connection.try_fill() {
                return TurnToFill {
                    _filling: filling,
                    _turn: turn,
                };
            }
            drop(turn);
            connection.wait_for_checkpoint();
        }
        let turn = self.turn();
        turn.wait();
        TurnToFill {
            _filling: connection.fill(),
            _turn: turn,
        }
    }

    fn enter(self: &Arc<Self>, state: &mut State, is_group: bool) -> Turn {
        state.next_turn += 1;
        Turn {
            queue: self.clone(),
            number: state.next_turn - 1,
            is_group,
        }
    }

    /// Waits until all have finished that have a place in the order of commits. Takes none.
    pub(in crate::engine) fn catch_up(&self) {
        self.await_turns(&mut self.state.lock());
    }

    fn await_turns(&self, state: &mut MutexGuard<'_, State>) {
        let before = state.next_turn;
        while state.turn < before {
            self.changed.wait(state);
        }
    }
}

impl State {
    fn push(&mut self, unit: Unit) {
        self.rows += unit.rows;
        let id = unit.put.id;
        let lane = self.lanes.entry(id).or_insert_with(|| {
            self.order.push_back(id);
            Lane {
                units: VecDeque::new(),
                rows: 0,
                since: Instant::now(),
            }
        });
        lane.rows += unit.rows;
        lane.units.push_back(unit);
    }

    fn is_ready(&self) -> bool {
        if self.busy == 0 {
            return self.order.iter().any(|id| !self.is_held(*id));
        }
        // Lane by lane only where all of them have enough: those that are held nobody may take.
        let mut rows = 0;
        self.rows >= SECOND_WRITER_ROWS
            && self.order.iter().any(|id| {
                if !self.is_held(*id) {
                    rows += self.lanes[id].rows;
                }
                rows >= SECOND_WRITER_ROWS
            })
    }

    /// Whether the first unit of a lane must wait for a large unit, or a statement.
    fn is_held(&self, id: PutId) -> bool {
        if self.held.is_empty() && self.appended.is_empty() {
            return false;
        }
        let lane = &self.lanes[&id];
        lane.units.front().is_some_and(|unit| {
            self.is_kept(&unit.put, &unit.referred)
                || self.may_alter_appended(unit) && lane.since.elapsed() < self.patience
        })
    }

    /// Whether a unit may alter a table to which large units append.
    fn may_alter_appended(&self, unit: &Unit) -> bool {
        unit.may_alter() && self.appended.contains(&unit.put.key)
    }

    /// Whether the first unit of any lane may alter a table of `appended`. Nobody wakes the writers when its wait is over, so they
    /// must look.
    fn any_may_alter_appended(&self) -> bool {
        let mut lanes = self.order.iter().map(|id| &self.lanes[id]);
        !self.appended.is_empty()
            && lanes.any(|lane| {
                let first = lane.units.front();
                first.is_some_and(|unit| self.may_alter_appended(unit))
            })
    }

    fn take_group(&mut self) -> Vec<Unit> {
        let mut group: Vec<Unit> = Vec::new();
        let mut touched = Touched::default();
        let mut passed_over = Vec::new();
        let mut rows = 0;
        while rows < GROUP_ROWS
            && let Some(id) = self.order.pop_front()
        {
            let may_join = |unit: &Unit| {
                group.first().is_none_or(|first| may_join(first, unit)) && touched.leave_room(unit)
            };
            if self.is_held(id) || !self.lanes[&id].units.front().is_some_and(may_join) {
                passed_over.push(id);
                continue;
            }
            if let Some(unit) = self.pop(id) {
                rows += unit.rows;
                touched.add(&unit);
                group.push(unit);
            }
        }
        for id in passed_over.into_iter().rev() {
            self.order.push_front(id);
        }
        self.rows -= rows;
        group
    }

    /// Takes the first unit of a lane, which goes to the end of the order.
    fn pop(&mut self, id: PutId) -> Option<Unit> {
        let lane = self.lanes.get_mut(&id)?;
        let unit = lane.units.pop_front();
        if lane.units.is_empty() {
            self.lanes.remove(&id);
        } else {
            lane.rows -= unit.as_ref().map_or(0, |unit| unit.rows);
            lane.since = Instant::now();
            self.order.push_back(id);
        }
        unit
    }
}

/// Whether two units may share a transaction: DuckDB writes one database in each, and a unit that makes
/// its table anew stands alone.
fn may_join(first: &Unit, unit: &Unit) -> bool {
    let stands_alone =
        |unit: &Unit| unit.is_first && matches!(unit.put.create, Create::Always | Create::Replace);
    first.put.key.catalog == unit.put.key.catalog && !stands_alone(first) && !stands_alone(unit)
}

/// The tables that the units of a group change, and those that their rows refer to. No table is both: DuckDB 1.5.5 takes a row that refers to
/// one which its own transaction has deleted.
#[derive(Default)]
struct Touched {
    changed: HashSet<TableKey>,
    referred: HashSet<TableKey>,
}

impl Touched {
    fn leave_room(&self, unit: &Unit) -> bool {
        let is_changed = |table: &TableKey| self.changed.contains(table);
        let is_in_danger = unit.referred.iter().any(is_changed);
        let endangers = unit.put.effect.is_keyed() && self.referred.contains(&unit.put.key);
        !is_in_danger && !endangers
    }

    fn add(&mut self, unit: &Unit) {
        let key = &unit.put.key;
        if unit.put.effect.is_keyed() && !self.changed.contains(key) {
            self.changed.insert(key.clone());
        }
        self.referred.extend(unit.referred.iter().cloned());
    }
}

/// A place in the order of commits. Dropped, it is the next one's turn.
pub(in crate::engine) struct Turn {
    queue: Arc<Queue>,
    number: u64,
    is_group: bool,
}

impl Turn {
    /// Waits until all that took a place before have finished.
    pub(in crate::engine) fn wait(&self) {
        let mut state = self.queue.state.lock();
        while state.turn != self.number {
            self.queue.changed.wait(&mut state);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.wait();
        let mut state = self.queue.state.lock();
        state.turn += 1;
        state.busy -= usize::from(self.is_group);
        self.queue.tell_if_ready(&state);
        drop(state);
        self.queue.changed.notify_all();
    }
}

/// A turn in which row groups are committed. It ends when this is dropped, and before that what keeps checkpoints out.
pub(super) struct TurnToFill<'c> {
    _filling: Filling<'c>,
    _turn: Turn,
}

#[cfg(test)]
mod tests {
    use std::thread;

    use arrow::datatypes::Schema;
    use duck_flight_protocol::{PutOptions, TableName};
    use tokio::sync::oneshot;

    use super::holds::{Others, Reach, Tables};
    use super::*;
    use crate::engine::ffi::Database;
    use crate::engine::ingest::budget::Budget;
    use crate::engine::ingest::target::Target;
    use crate::engine::ingest::unit::Answer;
    use crate::engine::rows::effect::Effect;
    use crate::engine::storage::images::{Images, PATIENCE};

    fn key(table: &str) -> TableKey {
        TableKey::new(&TableName::from(table), "")
    }

    fn put(table: &str) -> Arc<Target> {
        let (options, schema) = (PutOptions::new(table), Arc::new(Schema::empty()));
        let put = Target::new(&options, key(table), Effect::Append, None, schema);
        Arc::new(put)
    }

    fn unit(put: &Arc<Target>, rows: u64) -> Unit {
        let (sender, _) = oneshot::channel();
        Unit {
            put: put.clone(),
            sequence: None,
            sent: Vec::new(),
            rows,
            cast: None,
            rejects: Vec::new(),
            is_first: false,
            referred: Vec::new(),
            answer: Answer::new(put.clone(), sender, None),
            share: Budget::new(1).share(),
        }
    }

    #[test]
    fn a_second_writer_does_not_join_for_rows_that_nobody_may_take() {
        let queue = Arc::new(Queue::new(Duration::MAX));
        let (held, free) = (put("held"), put("free"));
        let reach = Reach::changes(Tables::These(vec![key("held")]));
        let hold = queue.hold(reach, Others::All);
        queue.push(unit(&free, 1)).unwrap();
        let taken = queue.take().unwrap();
        queue.push(unit(&held, SECOND_WRITER_ROWS)).unwrap();
        queue.push(unit(&free, 1)).unwrap();
        assert!(!queue.state.lock().is_ready());
        drop(hold);
        assert!(queue.state.lock().is_ready());
        drop(taken);
    }

    #[test]
    fn each_unit_of_a_put_has_a_time_of_its_own_to_wait() {
        let (put, mut state) = (put("t"), State::default());
        state.push(unit(&put, 1));
        state.push(unit(&put, 1));
        let later = Instant::now();
        let id = state.order.pop_front().unwrap();
        assert!(state.pop(id).is_some());
        assert!(state.lanes[&id].since >= later);
        assert_eq!(state.lanes[&id].rows, 1);
    }

    #[test]
    fn a_turn_to_commit_row_groups_is_given_away_while_a_checkpoint_runs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        let database = Database::open(path.to_str().unwrap(), &[]).unwrap();
        let (writing, other) = (database.connect().unwrap(), database.connect().unwrap());
        let made = "CREATE TABLE t (i BIGINT); CHECKPOINT";
        other.execute(made).unwrap();
        database.set_images(Images::of(&path).unwrap().unwrap());
        writing.note_written(u64::MAX);
        let queue = Arc::new(Queue::new(Duration::MAX));
        let own = queue.clone();
        let checkpoint = other.ready_checkpoint(PATIENCE).unwrap();
        let writing = thread::scope(|scope| {
            let waits = scope.spawn(move || {
                drop(own.turn_to_fill(&writing));
                writing
            });
            // It has had a turn, and given it away.
            while queue.state.lock().turn == 0 {
                thread::yield_now();
            }
            queue.turn().wait();
            assert!(!waits.is_finished());
            drop(checkpoint);
            waits.join().unwrap()
        });
        // Once it has one, no checkpoint comes until it ends.
        let turn = queue.turn_to_fill(&writing);
        assert!(other.ready_checkpoint(Duration::ZERO).is_err());
        writing.wait_for_checkpoint();
        drop(turn);
        assert!(other.ready_checkpoint(PATIENCE).is_ok());
    }
}
