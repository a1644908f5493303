//! Tables that somebody holds: who changes rows of them, or refers to these, is in the way of others, who wait meanwhile.

use std::sync::Arc;

use parking_lot::MutexGuard;

use super::{LOOK, Queue, State};
use crate::engine::connections::cancel::Cancel;
use crate::engine::ingest::budget::Budget;
use crate::engine::ingest::target::{TableKey, Target};
use crate::error::Result;

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

    /// Whether two holders must wait for each other: one changes a table that the other one changes or refers to. Two that only refer to the
    /// same table would do no harm, but with a stream of them whoever wants to change that table would never get it.
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
pub(super) struct Held {
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
pub(in crate::engine::ingest) enum Others {
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
pub(in crate::engine::ingest) struct Appending {
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

impl Queue {
    /// Keeps other units waiting that are in the way of what changes these tables, and waits for those that were taken before.
    pub(in crate::engine::ingest) fn hold(self: &Arc<Self>, reach: Reach, others: Others) -> Hold {
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
    pub(in crate::engine::ingest) fn append_to(self: &Arc<Self>, table: &TableKey) -> Appending {
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
    pub(in crate::engine::ingest) async fn await_table(
        &self,
        put: &Target,
        referred: &[TableKey],
        budget: &Budget,
    ) {
        loop {
            // Before it looks, so that no end of a hold is missed.
            let let_go = self.let_go.notified();
            if !budget.is_scarce() || !self.state.lock().is_kept(put, referred) {
                return;
            }
            tokio::time::timeout(LOOK, let_go).await.ok();
        }
    }
}

impl State {
    /// Whether any of these tables is held.
    fn are_held(&self, reach: &Reach) -> bool {
        self.held.iter().any(|held| reach.meets(&held.reach))
    }

    /// Whether units of a put, whose rows may refer to these tables, must wait for whoever holds a table.
    pub(super) fn is_kept(&self, put: &Target, referred: &[TableKey]) -> bool {
        let mut held = self.held.iter();
        held.any(|held| held.keeps_waiting(put, referred))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use duck_flight_protocol::TableName;

    use super::*;
    use crate::error::Error;

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
