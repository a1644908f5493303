//! Statements that run for a ticket, so that whoever holds the ticket can cancel them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Handle;
use crate::engine::Cancel;
use crate::error::{Error, Result};

/// How many tickets that were cancelled before they were fetched are remembered.
const MAX_CANCELLED: usize = 10_000;

/// Statements that run, by the ids of their tickets. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Running(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    statements: HashMap<Handle, Vec<Stop>>,
    /// Tickets that were cancelled before they were fetched; the oldest are forgotten.
    cancelled: VecDeque<Handle>,
}

/// What stops a statement: before its first rows are there, and then.
#[derive(Clone, Default)]
struct Stop(Arc<StopState>);

#[derive(Default)]
struct StopState {
    starting: Notify,
    is_stopped: AtomicBool,
    started: OnceLock<Arc<Cancel>>,
}

impl Stop {
    fn stop(&self) {
        self.0.is_stopped.store(true, Ordering::SeqCst);
        self.0.starting.notify_one();
        if let Some(cancel) = self.0.started.get() {
            cancel.cancel();
        }
    }

    /// From now on, stopping does this: also where it was stopped between its start and now.
    fn stops(&self, cancel: Arc<Cancel>) {
        let cancel = self.0.started.get_or_init(|| cancel);
        if self.0.is_stopped.load(Ordering::SeqCst) {
            cancel.cancel();
        }
    }
}

impl Running {
    /// Takes note of a statement, until the guard is dropped.
    pub(super) fn begin(&self, ticket: Handle) -> Result<RunningGuard> {
        let mut state = self.0.lock();
        if state.cancelled.contains(&ticket) {
            return Err(Error::Cancelled);
        }
        let stop = Stop::default();
        let runs = state.statements.entry(ticket).or_default();
        runs.push(stop.clone());
        Ok(RunningGuard {
            running: self.clone(),
            ticket,
            stop,
        })
    }

    /// Stops the statements of a ticket. One that does not run yet never will.
    pub(super) fn cancel(&self, ticket: Handle) {
        let mut state = self.0.lock();
        if let Some(runs) = state.statements.get(&ticket) {
            runs.iter().for_each(Stop::stop);
            return;
        }
        if state.cancelled.len() >= MAX_CANCELLED {
            state.cancelled.pop_front();
        }
        state.cancelled.push_back(ticket);
    }
}

/// Forgets a statement once it has ended.
pub(crate) struct RunningGuard {
    running: Running,
    ticket: Handle,
    stop: Stop,
}

impl RunningGuard {
    /// Waits for a statement's first rows, and gives it up when its ticket is cancelled.
    pub(crate) async fn start<T>(&self, starting: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            started = starting => started,
            () = self.stop.0.starting.notified() => Err(Error::Cancelled),
        }
    }

    /// From now on, cancelling the ticket does this.
    pub(crate) fn cancel_by(&self, cancel: Arc<Cancel>) {
        self.stop.stops(cancel);
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        let mut state = self.running.0.lock();
        if let Some(runs) = state.statements.get_mut(&self.ticket) {
            runs.retain(|run| !Arc::ptr_eq(&run.0, &self.stop.0));
            if runs.is_empty() {
                state.statements.remove(&self.ticket);
            }
        }
    }
}
