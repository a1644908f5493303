//! The jobs that wait for a thread of the pool, and the connections that nobody uses.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::Jobs;
use super::session::Session;
use crate::error::{Error, Result};

/// Where a job comes while `MANY_AT_ONCE` others wait or run, more are expected for a time of `CROWDED_FOR`: then threads of the pool get
/// more done than one of the network, which would better read what they ask.
pub(super) const MANY_AT_ONCE: usize = 2;
pub(super) const CROWDED_FOR: Duration = Duration::from_millis(10);

type Job = Box<dyn FnOnce(&mut Session) + Send>;

/// The jobs that wait. The thread that became idle last is woken first: its caches are warm.
pub(super) struct Queue {
    state: Mutex<QueueState>,
    /// One for each thread.
    wake: Vec<Condvar>,
    /// Whoever had the connections to itself has given its own back.
    alone_ended: Condvar,
    jobs: Jobs,
    max_waiting: usize,
}

#[derive(Default)]
pub(super) struct QueueState {
    /// Each with the time since which it waits.
    jobs: VecDeque<(Instant, Job)>,
    idle: Vec<usize>,
    /// The connections that nobody uses; the one that was used last is the last.
    sessions: Vec<Session>,
    /// When a job came last while [`MANY_AT_ONCE`] others were there.
    pub(super) crowded: Option<Instant>,
    /// Whether somebody who is no thread of the pool has one.
    is_alone: bool,
    closed: bool,
}

impl QueueState {
    /// Takes back a connection. One that could not be renewed is the last to be used again.
    fn give_back(&mut self, session: Session) {
        let place = if session.dirty {
            0
        } else {
            self.sessions.len()
        };
        self.sessions.insert(place, session);
    }
}

impl Queue {
    /// For `size` threads, with connections that are as new.
    pub(super) fn new(jobs: Jobs, size: usize, max_waiting: usize, sessions: Vec<Session>) -> Self {
        Self {
            state: Mutex::new(QueueState {
                sessions,
                ..QueueState::default()
            }),
            wake: (0..size).map(|_| Condvar::new()).collect(),
            alone_ended: Condvar::new(),
            jobs,
            max_waiting,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock()
    }

    pub(super) fn push(&self, job: Job) -> Result<()> {
        let mut state = self.lock();
        if state.closed {
            return Err(Error::ShuttingDown);
        }
        if state.jobs.len() >= self.max_waiting {
            let Jobs { what, remedy, .. } = self.jobs;
            return Err(Error::Busy {
                what,
                remedy,
                limit: self.max_waiting,
            });
        }
        let now = Instant::now();
        if state.sessions.len() + MANY_AT_ONCE <= self.wake.len() + 1 + state.jobs.len() {
            state.crowded = Some(now);
        }
        state.jobs.push_back((now, job));
        let idle = state.idle.pop();
        // Without the lock, or the thread would wake only to wait for it.
        drop(state);
        if let Some(thread) = idle {
            self.wake[thread].notify_one();
        }
        Ok(())
    }

    /// How long the oldest job that waits has done so.
    pub(super) fn longest_wait(&self) -> Duration {
        let state = self.lock();
        let oldest = state.jobs.front();
        oldest.map_or(Duration::ZERO, |(since, _)| since.elapsed())
    }

    /// Takes back the connection of the job before, and waits for the next job; `None` when there will be no more.
    pub(super) fn pop(&self, thread: usize, done: Option<Session>) -> Option<(Job, Session)> {
        let mut state = self.lock();
        if let Some(done) = done {
            state.give_back(done);
        }
        loop {
            if !state.jobs.is_empty()
                && let Some(session) = state.sessions.pop()
                && let Some((_, job)) = state.jobs.pop_front()
            {
                state.idle.retain(|idle| *idle != thread);
                return Some((job, session));
            }
            if state.closed {
                return None;
            }
            if !state.idle.contains(&thread) {
                state.idle.push(thread);
            }
            self.wake[thread].wait(&mut state);
        }
    }

    /// Takes a connection where no job waits or runs.
    pub(super) fn take_alone(&self) -> Option<Session> {
        let mut state = self.lock();
        let is_quiet = state.jobs.is_empty() && state.sessions.len() > self.wake.len();
        let is_crowded = || {
            state
                .crowded
                .is_some_and(|since| since.elapsed() < CROWDED_FOR)
        };
        let is_clean = state.sessions.last().is_some_and(|last| !last.dirty);
        if state.closed || !is_quiet || !is_clean || is_crowded() {
            return None;
        }
        state.is_alone = true;
        state.sessions.pop()
    }

    /// Takes it back.
    pub(super) fn end_alone(&self, session: Session) {
        let mut state = self.lock();
        state.give_back(session);
        state.is_alone = false;
        // Nobody waits before that, and to notify is a system call.
        if state.closed {
            self.alone_ended.notify_all();
        }
    }

    /// Takes no more jobs; the threads end once those that wait have run.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        for thread in &self.wake {
            thread.notify_all();
        }
    }

    /// Closes the connections. The threads have ended.
    pub(super) fn close_sessions(&self) {
        let mut state = self.lock();
        while state.is_alone {
            self.alone_ended.wait(&mut state);
        }
        state.sessions.clear();
    }
}
