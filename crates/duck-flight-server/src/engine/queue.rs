//! The units that wait for a writer, and whose turn it is to commit.
//!
//! Each put has a lane of its own, and a group takes one unit of each lane in turn: a put that floods the
//! queue fills its own lane, and another one's unit is in the next group all the same.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use duck_flight_protocol::Create;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::unit::{PutId, TableKey, Unit};
use crate::error::{Error, Result};

/// A group is full at this many rows: DuckDB's own row group, or several of the smaller ones of new files. Larger
/// groups load no faster, and are answered later.
const GROUP_ROWS: u64 = 122_880;

/// From this many waiting rows on a second writer joins in: one and a half row groups of new files, so that it
/// compresses one and writes it into the file while the group before it commits.
pub(super) const SECOND_WRITER_ROWS: u64 = 30_720;

/// How often writers look whether a unit has waited for large ones for long enough.
const LOOK: Duration = Duration::from_millis(100);

/// The units that wait, and whose turn it is to commit.
pub(super) struct Queue {
    state: Mutex<State>,
    /// Writers wait for units that are theirs to take: one at a time is told.
    ready: Condvar,
    /// Whoever waits for a turn, or for the end of a hold.
    changed: Condvar,
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
    /// Tables that a large unit makes or changes, and who waits for it.
    held: Vec<(TableKey, Others)>,
    /// The tables for which rows of large units come in, each once for every such unit.
    appended: Vec<TableKey>,
    /// How long those of a put that may alter such a table wait.
    patience: Duration,
}

/// The waiting units of a put, in their order.
struct Lane {
    units: VecDeque<Unit>,
    /// Since when there have been some.
    since: Instant,
}

impl Queue {
    /// A queue in which units that may alter a table wait so long for large units that append to it.
    pub(super) fn new(patience: Duration) -> Self {
        let state = State {
            patience,
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            ready: Condvar::new(),
            changed: Condvar::new(),
        }
    }

    /// Queues a unit. The queue is bounded by the budget that every unit holds a part of.
    pub(super) fn push(&self, unit: Unit) -> Result<()> {
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

    /// Wakes a writer, where there is something to take, or will be without a word; or all, for they may have come to their
    /// end.
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

    /// Takes a place in the order of commits, behind all groups that were taken before.
    pub(super) fn turn(self: &Arc<Self>) -> Turn {
        self.enter(&mut self.state.lock(), false)
    }

    fn enter(self: &Arc<Self>, state: &mut State, is_group: bool) -> Turn {
        state.next_turn += 1;
        Turn {
            queue: self.clone(),
            number: state.next_turn - 1,
            is_group,
        }
    }

    /// Keeps other units of this table waiting, and waits for those that were taken before.
    pub(super) fn hold(self: &Arc<Self>, table: &TableKey, others: Others) -> Hold {
        let mut state = self.state.lock();
        while state.held.iter().any(|(held, _)| held == table) {
            self.changed.wait(&mut state);
        }
        state.held.push((table.clone(), others));
        self.await_turns(&mut state);
        Hold {
            queue: self.clone(),
            table: table.clone(),
        }
    }

    /// Keeps units waiting that may alter this table, for which rows of a large unit come in, and waits for those that were taken
    /// before: DuckDB refuses the rows of a transaction whose table another one has altered meanwhile, and those that have
    /// come in, be they appended or gathered, are not there any more as they were sent, to try again. For a client that takes too
    /// long nobody waits without an end.
    pub(super) fn append_to(self: &Arc<Self>, table: &TableKey) -> Appending {
        let mut state = self.state.lock();
        state.appended.push(table.clone());
        self.await_turns(&mut state);
        Appending {
            queue: self.clone(),
            table: table.clone(),
        }
    }

    /// Waits until all have finished that have a place in the order of commits. Takes none.
    pub(super) fn catch_up(&self) {
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
                since: Instant::now(),
            }
        });
        lane.units.push_back(unit);
    }

    fn is_ready(&self) -> bool {
        let enough = if self.busy == 0 {
            0
        } else {
            SECOND_WRITER_ROWS
        };
        self.rows >= enough && self.order.iter().any(|id| !self.is_held(*id))
    }

    /// Whether the first unit of a lane must wait for a large unit.
    fn is_held(&self, id: PutId) -> bool {
        if self.held.is_empty() && self.appended.is_empty() {
            return false;
        }
        let lane = &self.lanes[&id];
        lane.units.front().is_some_and(|unit| {
            let put = &unit.put;
            let must_wait = |others: Others| others == Others::All || put.effect.is_keyed();
            let mut held = self.held.iter();
            held.any(|(table, others)| *table == put.key && must_wait(*others))
                || self.may_alter_appended(unit) && lane.since.elapsed() < self.patience
        })
    }

    /// Whether a unit may alter a table to which large units append.
    fn may_alter_appended(&self, unit: &Unit) -> bool {
        unit.may_alter() && self.appended.contains(&unit.put.key)
    }

    /// Whether the first unit of any lane may, and is to be taken without a word once it has waited for long enough.
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
        let mut passed_over = Vec::new();
        let mut rows = 0;
        while rows < GROUP_ROWS
            && let Some(id) = self.order.pop_front()
        {
            let may_join = |unit: &Unit| group.first().is_none_or(|first| may_join(first, unit));
            if self.is_held(id) || !self.lanes[&id].units.front().is_some_and(may_join) {
                passed_over.push(id);
                continue;
            }
            if let Some(unit) = self.pop(id) {
                rows += unit.rows;
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

/// A place in the order of commits. Dropped, it is the next one's turn.
pub(super) struct Turn {
    queue: Arc<Queue>,
    number: u64,
    is_group: bool,
}

impl Turn {
    /// Waits until all that took a place before have finished.
    pub(super) fn wait(&self) {
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

/// Which other units of a table wait for a large one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// Those that change rows which are there.
    Changing,
    /// All of them.
    All,
}

/// While it lives, other units of its table wait.
pub(super) struct Hold {
    queue: Arc<Queue>,
    table: TableKey,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        state.held.retain(|(table, _)| *table != self.table);
        self.queue.tell_if_ready(&state);
        drop(state);
        self.queue.changed.notify_all();
    }
}

/// While it lives, units that may alter its table wait, but not for too long.
pub(super) struct Appending {
    queue: Arc<Queue>,
    table: TableKey,
}

impl Drop for Appending {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        let place = state.appended.iter().position(|table| *table == self.table);
        if let Some(place) = place {
            state.appended.swap_remove(place);
        }
        self.queue.tell_if_ready(&state);
    }
}
