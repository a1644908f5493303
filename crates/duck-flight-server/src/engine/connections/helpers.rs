//! Helpers: threads that take tasks of statements that have more of them than their own thread gets done.
//!
//! DuckDB's own threads wake for every task, also for the only one of a small statement. Its thread, which would have
//! run it at once, then asks again and again whether it is done, and keeps a core busy with that: half of what a
//! checkpoint took on two cores went that way. So DuckDB starts no threads, and whoever finds that a statement takes
//! longer calls these. They look for tasks for as long as there may be some, and sleep otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::engine::thread;
use crate::error::Result;

/// How long a helper that finds no task waits before it looks again.
const POLL: Duration = Duration::from_micros(100);

/// How long after a call, or after the last task, a helper still looks.
const PATIENCE: Duration = Duration::from_millis(5);

/// Threads that work through tasks when they are called.
pub(in crate::engine) struct Helpers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// The one that a call wakes.
    first: Option<Thread>,
}

#[derive(Default)]
struct Shared {
    calls: AtomicU64,
    staying: AtomicUsize,
    stopped: AtomicBool,
    /// For each helper, whether it sleeps.
    sleeping: Vec<AtomicBool>,
}

/// While it lives, the helpers keep looking for tasks.
pub(crate) struct Stay<'h>(&'h Helpers);

impl Helpers {
    /// Starts `count` threads. `work` runs all tasks that wait, and answers with how many those were.
    pub(in crate::engine) fn start(
        count: usize,
        work: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            sleeping: (0..count).map(|_| AtomicBool::new(false)).collect(),
            ..Shared::default()
        });
        let work = Arc::new(work);
        let mut helpers = Self {
            shared: shared.clone(),
            threads: Vec::with_capacity(count),
            first: None,
        };
        // From the last to the first, for each wakes the one after it.
        for index in (0..count).rev() {
            let helper = Helper {
                index,
                shared: shared.clone(),
                next: helpers.first.take(),
            };
            let work = work.clone();
            let thread = thread::start(format!("helper-{index}"), move || helper.run(&*work))?;
            helpers.first = Some(thread.thread().clone());
            helpers.threads.push(thread);
        }
        Ok(helpers)
    }

    /// Tells the helpers that there may be tasks now. Costs next to nothing where the helpers are at work already.
    pub(in crate::engine) fn call(&self) {
        self.shared.calls.fetch_add(1, Ordering::SeqCst);
        if let Some(first) = &self.first {
            self.shared.wake(0, first);
        }
    }

    /// Keeps the helpers looking for tasks until the guard is dropped.
    pub(in crate::engine) fn stay(&self) -> Stay<'_> {
        self.shared.staying.fetch_add(1, Ordering::SeqCst);
        self.call();
        Stay(self)
    }
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        self.0.shared.staying.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Helpers {
    /// Ends the threads, after the tasks they are at.
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            thread.join().ok();
        }
    }
}

impl Shared {
    fn wake(&self, index: usize, thread: &Thread) {
        if self.sleeping[index].swap(false, Ordering::SeqCst) {
            thread.unpark();
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }
}

/// One of the threads.
struct Helper {
    index: usize,
    shared: Arc<Shared>,
    /// The one it wakes when it finds tasks: there may be more than it gets done.
    next: Option<Thread>,
}

impl Helper {
    fn run(&self, work: &impl Fn() -> u64) {
        let mut calls = 0;
        while !self.shared.is_stopped() {
            self.sleep(calls);
            calls = self.look(work);
        }
    }

    /// Sleeps until it is woken, unless there was another call meanwhile.
    fn sleep(&self, calls: u64) {
        let sleeping = &self.shared.sleeping[self.index];
        sleeping.store(true, Ordering::SeqCst);
        let is_called = self.index == 0 && self.shared.calls.load(Ordering::SeqCst) != calls;
        while !is_called && sleeping.load(Ordering::SeqCst) && !self.shared.is_stopped() {
            std::thread::park();
        }
        sleeping.store(false, Ordering::SeqCst);
    }

    /// Runs tasks until there are none for a while; answers with the number of the last call that it knows of.
    fn look(&self, work: &impl Fn() -> u64) -> u64 {
        let mut last = Instant::now();
        let mut calls = self.shared.calls.load(Ordering::SeqCst);
        while !self.shared.is_stopped() {
            if work() > 0 {
                last = Instant::now();
                if let Some(next) = &self.next {
                    self.shared.wake(self.index + 1, next);
                }
                continue;
            }
            let now = self.shared.calls.load(Ordering::SeqCst);
            if now != calls || self.shared.staying.load(Ordering::SeqCst) > 0 {
                calls = now;
                last = Instant::now();
            } else if last.elapsed() > PATIENCE {
                break;
            }
            std::thread::park_timeout(POLL);
        }
        calls
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn all_help_while_there_are_tasks_and_sleep_afterwards() {
        let (done, ended) = channel();
        let tasks = Arc::new(Mutex::new(0));
        let work = {
            let tasks = tasks.clone();
            move || {
                let mut run = 0;
                while *tasks.lock() > 0 {
                    *tasks.lock() -= 1;
                    done.send(std::thread::current().id()).unwrap();
                    run += 1;
                    std::thread::yield_now();
                }
                run
            }
        };
        let helpers = Helpers::start(3, work).unwrap();
        for _ in 0..3 {
            let mut seen = Vec::new();
            while seen.len() < 3 {
                *tasks.lock() = 100;
                helpers.call();
                let thread = ended.recv().unwrap();
                if !seen.contains(&thread) {
                    seen.push(thread);
                }
            }
            *tasks.lock() = 0;
            let asleep = |sleeping: &AtomicBool| sleeping.load(Ordering::SeqCst);
            while !helpers.shared.sleeping.iter().all(asleep) {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn none_sleeps_while_somebody_asks_them_to_stay() {
        let (looked, looks) = channel();
        let helpers = Helpers::start(1, move || {
            looked.send(Instant::now()).ok();
            0
        })
        .unwrap();
        let stay = helpers.stay();
        let first = looks.recv().unwrap();
        // Far longer than they look by themselves.
        while looks.recv().unwrap() - first < 10 * PATIENCE {}
        drop(stay);
        while !helpers.shared.sleeping[0].load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
    }
}
