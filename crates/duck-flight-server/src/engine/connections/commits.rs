//! Whether anything is committed between two moments, and who may commit.

use std::cell::Cell;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

/// How long a commit waits for statements that are starting. That takes some microseconds, unless DuckDB plans one anew when
/// it starts, as it does with `now()` in it and with values for its parameters: then it takes as long as the plan does.
const START_PATIENCE: Duration = Duration::from_millis(2);

thread_local! {
    /// How many commits this thread has under way, and whether it keeps others from beginning any.
    static UNDER_WAY: Cell<usize> = const { Cell::new(0) };
    static IS_ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Counts the commits of a database. Whoever commits a change holds [`Commits::under_way`] meanwhile.
#[derive(Default)]
pub(in crate::engine) struct Commits {
    state: Mutex<State>,
    all_started: Condvar,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    begun: u64,
    under_way: usize,
    /// Whether somebody keeps others from committing, or waits to do so.
    is_alone: bool,
    /// Statements that take their view of the database at present, and that no commit has overtaken.
    starting: usize,
    /// How often a commit has overtaken those that were starting.
    overtaken: u64,
}

/// A moment at which no commit was under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Moment(u64);

/// A commit that is under way until this is dropped, by the thread that has begun it.
pub(in crate::engine) struct UnderWay<'a> {
    commits: &'a Commits,
    _thread: PhantomData<*const ()>,
}

/// While it lives nobody else commits anything.
pub(in crate::engine) struct Alone<'a> {
    commits: &'a Commits,
    _thread: PhantomData<*const ()>,
}

/// While it lives no commit begins, unless it lives for long.
pub(in crate::engine) struct Starting<'a> {
    commits: &'a Commits,
    overtaken: u64,
}

impl Commits {
    /// Says that something may be committed until the guard is dropped. Waits for statements that are starting, but
    /// not for long: those that it overtakes learn of it, and later ones see that they are too late.
    pub(in crate::engine) fn under_way(&self) -> UnderWay<'_> {
        let is_let_in = UNDER_WAY.get() > 0 || IS_ALONE.get();
        let mut state = self.state.lock();
        while state.is_alone && !is_let_in {
            self.changed.wait(&mut state);
        }
        state.begun += 1;
        state.under_way += 1;
        if state.starting > 0 {
            self.let_start(&mut state);
        }
        UNDER_WAY.set(UNDER_WAY.get() + 1);
        UnderWay {
            commits: self,
            _thread: PhantomData,
        }
    }

    /// Waits for the commits that are under way, of which none may be this thread's, and keeps other threads from beginning
    /// any.
    pub(in crate::engine) fn alone(&self) -> Alone<'_> {
        let mut state = self.state.lock();
        while state.is_alone {
            self.changed.wait(&mut state);
        }
        state.is_alone = true;
        while state.under_way > 0 {
            self.changed.wait(&mut state);
        }
        IS_ALONE.set(true);
        Alone {
            commits: self,
            _thread: PhantomData,
        }
    }

    fn let_start(&self, state: &mut MutexGuard<'_, State>) {
        let until = Instant::now() + START_PATIENCE;
        while state.starting > 0 {
            if self.all_started.wait_until(state, until).timed_out() {
                state.starting = 0;
                state.overtaken += 1;
                self.all_started.notify_all();
            }
        }
    }

    /// The present moment, or `None` while a commit is under way.
    pub(in crate::engine) fn quiet(&self) -> Option<Moment> {
        let state = self.state.lock();
        (state.under_way == 0).then_some(Moment(state.begun))
    }

    /// Keeps commits from beginning while a statement starts, or `None` when one has begun since the moment.
    pub(in crate::engine) fn still(&self, moment: Moment) -> Option<Starting<'_>> {
        let mut state = self.state.lock();
        (state.begun == moment.0).then(|| {
            state.starting += 1;
            Starting {
                commits: self,
                overtaken: state.overtaken,
            }
        })
    }
}

impl Starting<'_> {
    /// Lets commits begin, and answers whether none has done so before: otherwise the statement's view of the database may be
    /// of another moment than its plan.
    #[must_use]
    pub(in crate::engine) fn end(self) -> bool {
        self.commits.state.lock().overtaken == self.overtaken
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        UNDER_WAY.set(UNDER_WAY.get() - 1);
        let mut state = self.commits.state.lock();
        state.under_way -= 1;
        if state.is_alone && state.under_way == 0 {
            self.commits.changed.notify_all();
        }
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        IS_ALONE.set(false);
        self.commits.state.lock().is_alone = false;
        self.commits.changed.notify_all();
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        let mut state = self.commits.state.lock();
        if state.overtaken != self.overtaken {
            return;
        }
        state.starting -= 1;
        if state.starting == 0 {
            self.commits.all_started.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::engine::storage::open::open_database;
    use crate::engine::{EngineOptions, transaction};

    #[test]
    fn a_commit_parts_the_moments_before_and_after_it() {
        let commits = Commits::default();
        let before = commits.quiet().unwrap();
        assert!(commits.still(before).is_some());
        let first = commits.under_way();
        let second = commits.under_way();
        assert!(commits.still(before).is_none());
        drop(first);
        assert!(commits.quiet().is_none());
        drop(second);
        assert!(commits.still(before).is_none());
        assert!(commits.still(commits.quiet().unwrap()).is_some());
    }

    #[test]
    fn nobody_else_commits_beside_whoever_is_alone() {
        let commits = Commits::default();
        let committing = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _outer = commits.under_way();
                        committing.store(true, Ordering::SeqCst);
                        let _inner = commits.under_way();
                        committing.store(false, Ordering::SeqCst);
                    }
                });
            }
            for _ in 0..50 {
                let _alone = commits.alone();
                assert!(!committing.load(Ordering::SeqCst));
                drop(commits.under_way());
                assert!(commits.quiet().is_some());
            }
        });
        assert!(commits.quiet().is_some());
    }

    #[test]
    fn what_runs_in_a_transaction_is_committed_at_its_end() {
        let opened = open_database(&EngineOptions::in_memory()).unwrap();
        let connection = opened.database.connect().unwrap();
        let moment = connection.commits().quiet().unwrap();
        transaction(&connection, |connection| {
            connection.execute("CREATE TEMP TABLE t (i INTEGER)")?;
            assert_eq!(connection.commits().quiet(), Some(moment));
            Ok(())
        })
        .unwrap();
        let committed = connection.commits().quiet().unwrap();
        assert_ne!(committed, moment);
        connection.execute("DROP TABLE t").unwrap();
        assert_ne!(connection.commits().quiet(), Some(committed));
    }

    #[test]
    fn a_commit_waits_for_what_is_starting() {
        let commits = Commits::default();
        for _ in 0..100 {
            let moment = commits.quiet().unwrap();
            let starting = commits.still(moment).unwrap();
            let has_begun = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let _under_way = commits.under_way();
                    has_begun.store(true, Ordering::SeqCst);
                });
                while commits.quiet() == Some(moment) {
                    std::thread::yield_now();
                }
                assert!(commits.still(moment).is_none());
                let had_begun = has_begun.load(Ordering::SeqCst);
                assert!(!(starting.end() && had_begun));
            });
        }
        assert!(commits.quiet().is_some());
    }

    #[test]
    fn a_commit_overtakes_what_takes_long_to_start() {
        let commits = Commits::default();
        let moment = commits.quiet().unwrap();
        let long = [(); 2].map(|()| commits.still(moment).unwrap());
        drop(commits.under_way());
        let [first, second] = long;
        assert!(!first.end());
        let brief = commits.still(commits.quiet().unwrap()).unwrap();
        drop(second);
        assert_eq!(commits.state.lock().starting, 1);
        assert!(brief.end());
        assert_eq!(commits.state.lock().starting, 0);
    }
}
