//! How many statements run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the statements that run, those included that wait for their turn. Clones count the same ones.
#[derive(Clone, Default)]
pub(super) struct Running(Arc<AtomicUsize>);

/// A statement runs, until this is dropped.
pub(super) struct Runs(Arc<AtomicUsize>);

impl Running {
    /// Counts one more.
    pub(super) fn begin(&self) -> Runs {
        self.0.fetch_add(1, Ordering::Relaxed);
        Runs(self.0.clone())
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
