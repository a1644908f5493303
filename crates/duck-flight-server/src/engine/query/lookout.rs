//! Looks after statements that run on threads of the network, where they hold up what else these threads have to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::engine::connections::cancel::Cancel;
use crate::engine::thread;
use crate::error::Result;

/// How often it is looked whether a statement still runs: one that is seen twice is overdue.
const LOOK: Duration = Duration::from_millis(2);

/// After this many looks at which no statement ran, nobody looks until there is one again.
const LOOKS_IN_VAIN: u32 = 50;

/// A thread that looks after one statement at a time. It sleeps where there are none, so that to say that there is one
/// wakes it once, and not for every statement.
pub(super) struct Lookout {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    is_asleep: AtomicBool,
    is_stopped: AtomicBool,
}

#[derive(Default)]
struct State {
    /// How many statements there have been.
    count: u64,
    running: Option<Running>,
}

struct Running {
    cancel: Arc<Cancel>,
    runtime: Handle,
}

/// While it lives, the statement is looked after.
pub(super) struct Watched<'w>(&'w Lookout);

impl Lookout {
    /// Starts the thread.
    pub(super) fn start() -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let looks = shared.clone();
        let thread = thread::start("lookout", move || looks.look())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Looks after a statement that runs on a thread of this runtime until the guard is dropped. Once it is overdue, it is
    /// cancelled, and the other threads are roused.
    pub(super) fn watch(&self, cancel: &Arc<Cancel>, runtime: Handle) -> Watched<'_> {
        let mut state = self.shared.state.lock();
        state.count += 1;
        state.running = Some(Running {
            cancel: cancel.clone(),
            runtime,
        });
        drop(state);
        if self.shared.is_asleep.swap(false, Ordering::SeqCst) {
            self.wake();
        }
        Watched(self)
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let running = self.0.shared.state.lock().running.take();
        drop(running);
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::SeqCst);
        self.wake();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Shared {
    fn look(&self) {
        let (mut seen, mut looks_in_vain) = (0, 0);
        while !self.is_stopped.load(Ordering::SeqCst) {
            let state = self.state.lock();
            if state.count != seen {
                (seen, looks_in_vain) = (state.count, 0);
            } else if let Some(running) = &state.running {
                running.end();
            } else {
                looks_in_vain += 1;
            }
            // Under the lock, so that the next statement finds it asleep.
            let sleeps = looks_in_vain > LOOKS_IN_VAIN;
            self.is_asleep.store(sleeps, Ordering::SeqCst);
            drop(state);
            if sleeps {
                std::thread::park();
                looks_in_vain = 0;
            } else {
                std::thread::park_timeout(LOOK);
            }
        }
    }
}

impl Running {
    /// Cancels the statement. A task from outside wakes a thread that sleeps, and that looks what has come in afterwards:
    /// the one that slept in its place is the one that is busy.
    fn end(&self) {
        self.cancel.cancel();
        drop(self.runtime.spawn(async {}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_cancelled_however_long_there_was_nothing_before() {
        let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
        let lookout = Lookout::start().unwrap();
        for _ in 0..2 {
            let cancel = Arc::<Cancel>::default();
            let watched = lookout.watch(&cancel, runtime.handle().clone());
            while !cancel.is_cancelled() {
                std::thread::yield_now();
            }
            drop(watched);
            while !lookout.shared.is_asleep.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }
    }
}
