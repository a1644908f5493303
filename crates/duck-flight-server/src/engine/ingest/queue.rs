//! The units that wait for a writer, and whose turn it is to commit.
//!
//! Each put has a lane of its own, and a group takes one unit of each lane in turn: a put that floods the
//! queue fills its own lane, and another one's unit is in the next group all the same.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use duck_flight_protocol::Create;
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::Notify;

use super::budget::Budget;
use super::unit::{PutId, TableKey, Target, Unit};
use crate::engine::connections::cancel::Cancel;
use crate::engine::ffi::{Connection, Filling};
use crate::error::{Error, Result};

/// A group is full at this many rows: DuckDB's own row group, or several of the smaller ones of new files. Larger
/// groups load no faster, and are answered later.
const GROUP_ROWS: u64 = 122_880;

/// From this many waiting rows on a second writer joins in: one and a half row groups of new files, so that it
/// compresses one and writes it into the file while the group before it commits.
pub(super) const SECOND_WRITER_ROWS: u64 = 30_720;

/// How often writers look whether a unit has waited for large ones for long enough, statements whether they were cancelled, and units
/// without memory whether there is more of it.
const LOOK: Duration = Duration::from_millis(100);

/// How many turns a large unit gives away, at most, because a checkpoint runs in them.
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
    /// Since when there have been some.
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
            let filling = connection.try_fill();
            if filling.is_some() {
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
            _filling: None,
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

    /// Keeps other units waiting that are in the way of what changes these tables, and waits for those that were taken before.
    pub(super) fn hold(self: &Arc<Self>, reach: Reach, others: Others) -> Hold {
        let mut state = self.state.lock();
        while state.are_held(&reach) {
            self.changed.wait(&mut state);
        }
        let hold = self.keep(&mut state, reach, others, false);
        self.await_turns(&mut state);
        hold
    }

    /// Keeps units waiting that change rows of these tables, or refer to those which are changed, and waits for those that were
    /// taken before. All of the tables are held at once: whoever waits for some holds none.
    ///
    /// # Errors
    /// When the statement for which they are held is cancelled meanwhile.
    pub(in crate::engine) fn hold_for_statement(
        self: &Arc<Self>,
        reach: Reach,
        cancel: &Cancel,
    ) -> Result<Hold> {
        let mut state = self.wait_while(cancel, |state| state.are_held(&reach))?;
        let before = state.next_turn;
        let hold = self.keep(&mut state, reach, Others::Changing, true);
        // The hold takes the lock when it ends.
        drop(state);
        drop(self.wait_while(cancel, |state| state.turn < before)?);
        Ok(hold)
    }

    /// Lets go what statements hold. To be called once those that do not end are left behind: they were cancelled, so they commit
    /// nothing any more.
    pub(in crate::engine) fn leave_statements(&self) {
        let mut state = self.state.lock();
        state.held.retain(|held| !held.is_for_statement);
        self.tell_if_ready(&state);
        drop(state);
        self.tell_of_end();
    }

    /// Tells all who wait for the end of a hold.
    fn tell_of_end(&self) {
        self.changed.notify_all();
        self.let_go.notify_waiters();
    }

    fn keep(
        self: &Arc<Self>,
        state: &mut State,
        reach: Reach,
        others: Others,
        is_for_statement: bool,
    ) -> Hold {
        let number = state.next_hold;
        state.next_hold += 1;
        state.held.push(Held {
            number,
            reach,
            others,
            is_for_statement,
        });
        Hold {
            queue: self.clone(),
            number,
        }
    }

    /// Waits for as long as this is so.
    fn wait_while(
        &self,
        cancel: &Cancel,
        is_so: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        while is_so(&state) {
            cancel.check()?;
            self.changed.wait_for(&mut state, LOOK);
        }
        Ok(state)
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

    /// Waits while units of a put, whose rows may refer to these tables, would wait for one that is held, and memory is scarce: what they
    /// took of it until then, the units of all other tables would lack.
    pub(super) async fn await_table(&self, put: &Target, referred: &[TableKey], budget: &Budget) {
        loop {
            // Before it looks, so that no end of a hold is missed.
            let let_go = self.let_go.notified();
            if !budget.is_scarce() || !self.state.lock().is_kept(put, referred) {
                return;
            }
            tokio::time::timeout(LOOK, let_go).await.ok();
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

    /// Whether any of these tables is held.
    fn are_held(&self, reach: &Reach) -> bool {
        self.held.iter().any(|held| reach.meets(&held.reach))
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

    /// Whether units of a put, whose rows may refer to these tables, must wait for whoever holds a table.
    fn is_kept(&self, put: &Target, referred: &[TableKey]) -> bool {
        let mut held = self.held.iter();
        held.any(|held| held.keeps_waiting(put, referred))
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
    _filling: Option<Filling<'c>>,
    _turn: Turn,
}

/// Tables, by their keys.
#[derive(Debug)]
pub(in crate::engine) enum Tables {
    These(Vec<TableKey>),
    /// Where it is in doubt which.
    All,
}

impl Tables {
    fn have(&self, table: &TableKey) -> bool {
        match self {
            Self::These(tables) => tables.contains(table),
            Self::All => true,
        }
    }

    /// Whether any of them is one of the others.
    fn meet(&self, others: &Self) -> bool {
        match self {
            Self::These(tables) => tables.iter().any(|table| others.have(table)),
            Self::All => true,
        }
    }
}

/// The tables that somebody writes to, as far as others must not be in the way.
#[derive(Debug)]
pub(in crate::engine) struct Reach {
    /// Those of which rows that are there are changed.
    pub(in crate::engine) changed: Tables,
    /// Those to which new rows refer by foreign keys. DuckDB 1.5.5 sees no conflict where one transaction deletes a row and another one
    /// adds one that refers to it.
    pub(in crate::engine) referred: Vec<TableKey>,
}

impl Reach {
    /// That of who changes rows of these tables, which refer to none.
    pub(in crate::engine) fn changes(changed: Tables) -> Self {
        Self {
            changed,
            referred: Vec::new(),
        }
    }

    /// That of who adds rows that refer to these tables.
    pub(in crate::engine) fn refers(referred: Vec<TableKey>) -> Self {
        Self {
            changed: Tables::These(Vec::new()),
            referred,
        }
    }

    /// Whether nobody can be in the way.
    pub(in crate::engine) fn is_empty(&self) -> bool {
        self.referred.is_empty()
            && matches!(&self.changed, Tables::These(tables) if tables.is_empty())
    }

    /// Whether one changes what the other one changes, too, or refers to; or both refer to the same. They would not harm each other then, but
    /// where they came by turns, whoever changes that table would wait for ever.
    fn meets(&self, other: &Self) -> bool {
        let are_both_referring = |table: &TableKey| other.referred.contains(table);
        self.changed.meet(&other.changed)
            || self.referred.iter().any(are_both_referring)
            || self.changes_any(&other.referred)
            || other.changes_any(&self.referred)
    }

    fn changes_any(&self, tables: &[TableKey]) -> bool {
        tables.iter().any(|table| self.changed.have(table))
    }
}

/// Tables that are held.
struct Held {
    number: u64,
    reach: Reach,
    others: Others,
    is_for_statement: bool,
}

impl Held {
    /// Whether a unit of a put, whose rows may refer to these tables, must wait for its end.
    fn keeps_waiting(&self, put: &Target, referring_to: &[TableKey]) -> bool {
        let Reach { changed, referred } = &self.reach;
        let is_keyed = put.effect.is_keyed();
        (is_keyed || self.others == Others::All) && changed.have(&put.key)
            || is_keyed && referred.contains(&put.key)
            || self.reach.changes_any(referring_to)
    }
}

/// Which other units of a table wait for a large one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// Units that change rows which are there.
    Changing,
    /// All units.
    All,
}

/// While it lives, other units of its tables wait, and whoever else holds one of them.
pub(in crate::engine) struct Hold {
    queue: Arc<Queue>,
    number: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        state.held.retain(|held| held.number != self.number);
        self.queue.tell_if_ready(&state);
        drop(state);
        self.queue.tell_of_end();
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

#[cfg(test)]
mod tests {
    use std::thread;

    use duck_flight_protocol::TableName;

    use super::*;
    use crate::engine::ffi::Database;
    use crate::engine::storage::images::{Images, PATIENCE};

    fn queue() -> Arc<Queue> {
        Arc::new(Queue::new(Duration::MAX))
    }

    fn key(name: &str) -> TableKey {
        TableKey::new(&TableName::from(name), "")
    }

    fn keys(names: &[&str]) -> Vec<TableKey> {
        names.iter().map(|name| key(name)).collect()
    }

    fn these(names: &[&str]) -> Reach {
        Reach::changes(Tables::These(keys(names)))
    }

    fn all() -> Reach {
        Reach::changes(Tables::All)
    }

    fn is_free(queue: &Queue) -> bool {
        queue.state.lock().held.is_empty()
    }

    #[test]
    fn a_statement_that_is_cancelled_waits_no_longer_and_holds_nothing() {
        let queue = queue();
        let cancel = Cancel::default();
        let hold = queue.hold(these(&["t"]), Others::Changing);
        for reach in [these(&["u", "t"]), all()] {
            let cancel = Cancel::default();
            thread::scope(|scope| {
                let waits = scope.spawn(|| queue.hold_for_statement(reach, &cancel).err());
                // What it waits for does not end before it.
                cancel.cancel();
                let refused = waits.join().unwrap();
                assert!(matches!(refused, Some(Error::Cancelled)), "{refused:?}");
            });
            // One that waits holds nothing that others want.
            drop(queue.hold(these(&["u"]), Others::Changing));
        }
        drop(hold);
        assert!(is_free(&queue));
        // Nor does one that has all it is to hold, but waits for what was taken before.
        let turn = queue.turn();
        thread::scope(|scope| {
            let waits = scope.spawn(|| queue.hold_for_statement(these(&["t"]), &cancel).err());
            while is_free(&queue) {
                thread::yield_now();
            }
            cancel.cancel();
            let refused = waits.join().unwrap();
            assert!(matches!(refused, Some(Error::Cancelled)), "{refused:?}");
        });
        drop(turn);
        assert!(is_free(&queue));
    }

    #[test]
    fn a_statement_waits_for_its_tables_and_for_what_was_taken_before_only() {
        let queue = queue();
        let cancel = Cancel::default();
        let other = queue.hold_for_statement(these(&["u"]), &cancel).unwrap();
        let turn = queue.turn();
        thread::scope(|scope| {
            let waits = scope.spawn(|| queue.hold_for_statement(these(&["t"]), &cancel));
            let has_all = || queue.state.lock().held.len() == 2;
            while !has_all() {
                thread::yield_now();
            }
            assert!(!waits.is_finished());
            // A turn that is taken now ends after it.
            let later = queue.turn();
            drop(turn);
            let hold = waits.join().unwrap().unwrap();
            drop(later);
            drop((hold, other));
        });
        drop(queue.hold_for_statement(all(), &cancel).unwrap());
        assert!(is_free(&queue));
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
        let queue = queue();
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

    #[test]
    fn what_a_statement_holds_that_is_left_behind_keeps_nobody_waiting() {
        let queue = queue();
        let cancel = Cancel::default();
        let left = queue.hold_for_statement(all(), &cancel).unwrap();
        queue.leave_statements();
        let hold = queue.hold(these(&["t"]), Others::Changing);
        queue.leave_statements();
        drop(left);
        assert!(!is_free(&queue), "a large unit goes on");
        drop(hold);
        assert!(is_free(&queue));
    }

    #[test]
    fn who_refers_to_a_table_is_in_the_way_of_who_changes_it_or_refers_to_it() {
        let refers = |names: &[&str]| Reach::refers(keys(names));
        for (one, other, expected) in [
            (refers(&["p"]), these(&["p"]), true),
            (refers(&["p", "q"]), these(&["c", "q"]), true),
            (refers(&["p"]), all(), true),
            (refers(&["p"]), refers(&["p", "q"]), true),
            (refers(&["p"]), refers(&["q"]), false),
            (refers(&["p"]), these(&["c"]), false),
            (these(&["p"]), these(&["p"]), true),
        ] {
            assert_eq!(one.meets(&other), expected, "{one:?}, {other:?}");
            assert_eq!(other.meets(&one), expected, "{other:?}, {one:?}");
        }
        assert!(refers(&[]).is_empty() && !refers(&["p"]).is_empty() && !all().is_empty());
    }
}
