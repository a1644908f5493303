//! Whether anything is committed between two moments.

use parking_lot::{Condvar, Mutex};

/// Counts the commits of a database. Whoever commits a change holds [`Commits::under_way`] meanwhile.
#[derive(Default)]
pub(super) struct Commits {
    state: Mutex<State>,
    all_started: Condvar,
}

#[derive(Default)]
struct State {
    begun: u64,
    under_way: usize,
    /// Statements that take their view of the database at present.
    starting: usize,
}

/// A moment at which no commit was under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment(u64);

/// A commit that is under way until this is dropped.
pub(super) struct UnderWay<'a>(&'a Commits);

/// While it lives, no commit begins.
pub(super) struct Starting<'a>(&'a Commits);

impl Commits {
    /// Says that something may be committed until the guard is dropped. Waits for statements that are starting,
    /// which takes some microseconds; later ones see that they are too late.
    pub(super) fn under_way(&self) -> UnderWay<'_> {
        let mut state = self.state.lock();
        state.begun += 1;
        state.under_way += 1;
        while state.starting > 0 {
            self.all_started.wait(&mut state);
        }
        UnderWay(self)
    }

    /// The present moment, or `None` while a commit is under way.
    pub(super) fn quiet(&self) -> Option<Moment> {
        let state = self.state.lock();
        (state.under_way == 0).then_some(Moment(state.begun))
    }

    /// Keeps commits from beginning while a statement starts, or `None` when one has begun since the moment.
    pub(super) fn still(&self, moment: Moment) -> Option<Starting<'_>> {
        let mut state = self.state.lock();
        (state.begun == moment.0).then(|| {
            state.starting += 1;
            Starting(self)
        })
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.state.lock().under_way -= 1;
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.starting -= 1;
        if state.starting == 0 {
            self.0.all_started.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_commit_waits_for_what_is_starting() {
        let commits = Commits::default();
        let moment = commits.quiet().unwrap();
        let starting = commits.still(moment).unwrap();
        std::thread::scope(|scope| {
            let commit = scope.spawn(|| drop(commits.under_way()));
            while commits.quiet().is_some() {
                std::thread::yield_now();
            }
            assert!(!commit.is_finished());
            assert!(commits.still(moment).is_none());
            drop(starting);
        });
        assert!(commits.quiet().is_some());
    }
}
