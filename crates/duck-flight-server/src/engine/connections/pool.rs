//! Threads and connections for them: a fixed number of both, fed from one bounded queue.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use duck_flight_protocol::TableName;
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;

use super::cancel::{Cancel, CancelOnDrop};
use crate::engine::catalog;
use crate::engine::ffi::{Connection, Database};
use crate::engine::query::frames::ReadAhead;
use crate::engine::replay::SeenIndexes;
use crate::engine::replay::index_work::IndexWork;
use crate::engine::thread;
use crate::error::{Error, Result};

/// Where a job comes while `MANY_AT_ONCE` others wait or run, more are expected for a time of `CROWDED_FOR`: then threads of the pool get
/// more done than one of the network, which would better read what they ask.
const MANY_AT_ONCE: usize = 2;
const CROWDED_FOR: Duration = Duration::from_millis(10);

/// What a pool runs.
#[derive(Clone, Copy)]
pub(in crate::engine) struct Jobs {
    /// What its threads are called.
    pub(in crate::engine) name: &'static str,
    /// What waits for them, and what to do where too much does.
    pub(in crate::engine) what: &'static str,
    pub(in crate::engine) remedy: &'static str,
}

type Job = Box<dyn FnOnce(&mut Session) + Send>;

/// A fixed set of threads, one connection more, and the requests that wait for a thread. Whoever runs something takes
/// the connection that was used last: its plans and caches are warm.
pub(in crate::engine) struct Pool {
    queue: Arc<Queue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    read_ahead: ReadAhead,
}

/// The jobs that wait. The thread that became idle last is woken first: its caches are warm.
struct Queue {
    state: Mutex<QueueState>,
    /// One for each thread.
    wake: Vec<Condvar>,
    /// Whoever had the connections to itself has given its own back.
    alone_ended: Condvar,
    jobs: Jobs,
    max_waiting: usize,
}

#[derive(Default)]
struct QueueState {
    /// Each with the time since which it waits.
    jobs: VecDeque<(Instant, Job)>,
    idle: Vec<usize>,
    /// The connections that nobody uses; the one that was used last is the last.
    sessions: Vec<Session>,
    /// When a job came last while [`MANY_AT_ONCE`] others were there.
    crowded: Option<Instant>,
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
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock()
    }

    fn push(&self, job: Job) -> Result<()> {
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

    /// Takes back the connection of the job before, and waits for the next job; `None` when there will be no more.
    fn pop(&self, thread: usize, done: Option<Session>) -> Option<(Job, Session)> {
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
    fn take_alone(&self) -> Option<Session> {
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

    fn end_alone(&self, session: Session) {
        let mut state = self.lock();
        state.give_back(session);
        state.is_alone = false;
        // Nobody waits before that, and to notify is a system call.
        if state.closed {
            self.alone_ended.notify_all();
        }
    }

    fn close(&self) {
        self.lock().closed = true;
        for thread in &self.wake {
            thread.notify_all();
        }
    }

    /// Closes the connections. The threads have ended.
    fn close_sessions(&self) {
        let mut state = self.lock();
        while state.is_alone {
            self.alone_ended.wait(&mut state);
        }
        state.sessions.clear();
    }
}

/// A connection of a pool in which nothing else runs, until it is dropped. Jobs that come meanwhile find others.
pub(in crate::engine) struct Alone<'p> {
    queue: &'p Queue,
    session: Option<Session>,
}

impl Alone<'_> {
    /// Runs `work` on the connection. `None` where it panics: then the connection is replaced.
    pub(in crate::engine) fn run<T>(
        mut self,
        work: impl FnOnce(&Session) -> Option<T>,
    ) -> Option<T> {
        let session = self.session.as_mut()?;
        run_unless_panic(session, |session| work(session)).flatten()
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        if let Some(mut session) = self.session.take() {
            session.renew();
            self.queue.end_alone(session);
        }
    }
}

/// Tells how long jobs wait for a thread. Clones tell of the same ones.
#[derive(Clone)]
pub(in crate::engine) struct Waits(Arc<Queue>);

impl Waits {
    /// How long the oldest job that waits has done so.
    pub(super) fn longest(&self) -> Duration {
        let state = self.0.lock();
        let oldest = state.jobs.front();
        oldest.map_or(Duration::ZERO, |(since, _)| since.elapsed())
    }
}

/// A connection, and what a client's statements have done on it. In the pool it is as new; a lease keeps it from one request to
/// the next.
pub(in crate::engine) struct Session {
    pub(in crate::engine) connection: Connection,
    /// Whether the request may have left something behind (a temporary table, a setting, a transaction).
    pub(in crate::engine) dirty: bool,
    pub(in crate::engine) transaction: ClientTransaction,
    /// What the client's transaction has done.
    pub(in crate::engine) work: Work,
    /// Whether a PIVOT may have left types behind.
    pub(in crate::engine) has_pivoted: bool,
    database: Database,
}

/// What a transaction that a client has begun has done so far.
#[derive(Debug)]
pub(in crate::engine) struct Work {
    /// How many rows it has written, as far as it is known; more where it is not.
    pub(in crate::engine) rows_written: u64,
    /// Whether it may have made an index.
    pub(in crate::engine) makes_index: bool,
    /// Whether it may have made a schema.
    pub(in crate::engine) makes_schema: bool,
    /// Whether it may have defined anything, altered or dropped it.
    pub(in crate::engine) defines: bool,
    /// The indexes of others that it sees.
    pub(in crate::engine) seen_indexes: SeenIndexes,
    /// What it has done to indexes, and to rows that may be in them.
    pub(in crate::engine) indexes: IndexWork,
}

impl Work {
    /// What a transaction has done that begins afterwards.
    pub(in crate::engine) fn none(connection: &Connection) -> Self {
        Self {
            rows_written: 0,
            makes_index: false,
            makes_schema: false,
            defines: false,
            seen_indexes: connection.indexes().seen(),
            indexes: IndexWork::default(),
        }
    }
}

/// A transaction that a client has begun, and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum ClientTransaction {
    None,
    Open,
    /// Open, and something may have failed in it. It may be that DuckDB lets it be rolled back only.
    Doubtful,
}

impl Pool {
    /// Starts `size` threads; `max_waiting` requests may wait for one.
    pub(in crate::engine) fn start(
        jobs: Jobs,
        size: usize,
        max_waiting: usize,
        database: &Database,
    ) -> Result<Self> {
        let sessions = (0..=size).map(|_| Session::open(database));
        let queue = Arc::new(Queue {
            state: Mutex::new(QueueState {
                sessions: sessions.collect::<Result<_>>()?,
                ..QueueState::default()
            }),
            wake: (0..size).map(|_| Condvar::new()).collect(),
            alone_ended: Condvar::new(),
            jobs,
            max_waiting,
        });
        let mut threads = Vec::with_capacity(size);
        for index in 0..size {
            let queue = queue.clone();
            let work = move || work(&queue, index);
            threads.push(thread::start(format!("{}-{index}", jobs.name), work)?);
        }
        Ok(Self {
            queue,
            threads: Mutex::new(threads),
            read_ahead: ReadAhead::default(),
        })
    }

    /// The memory for results that are read ahead.
    pub(in crate::engine) fn read_ahead(&self) -> ReadAhead {
        self.read_ahead.clone()
    }

    /// Tells how long jobs wait for a thread.
    pub(in crate::engine) fn waits(&self) -> Waits {
        Waits(self.queue.clone())
    }

    /// Queues a job for the next free thread.
    pub(in crate::engine) fn submit(
        &self,
        job: impl FnOnce(&mut Session) + Send + 'static,
    ) -> Result<()> {
        self.queue.push(Box::new(job))
    }

    /// A connection for something that ends at once, where nothing waits for a thread or runs on one.
    pub(in crate::engine) fn alone(&self) -> Option<Alone<'_>> {
        self.queue.take_alone().map(|session| Alone {
            queue: &self.queue,
            session: Some(session),
        })
    }

    /// Runs a job on the next free thread and waits for its answer. When the caller stops waiting, the
    /// job is cancelled.
    pub(in crate::engine) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Session, &Arc<Cancel>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let guard = CancelOnDrop::default();
        let cancel = guard.cancel();
        let (answer, waiting) = oneshot::channel();
        self.submit(move |session| {
            if !cancel.is_cancelled() {
                answer.send(job(session, &cancel)).ok();
            }
        })?;
        waiting.await.map_err(|_| Error::WorkerLost)?
    }

    /// Finishes the queued jobs, ends the threads and closes the connections. Blocks. Answers whether all had ended by the
    /// deadline, where there is one; those that had not go on, and keep their connections.
    pub(in crate::engine) fn stop(&self, deadline: Option<Instant>) -> bool {
        self.queue.close();
        let threads = std::mem::take(&mut *self.threads.lock());
        let is_too_late = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let have_ended = thread::all_end(threads, is_too_late);
        if have_ended {
            self.queue.close_sessions();
        }
        have_ended
    }
}

fn work(queue: &Queue, thread: usize) {
    let mut done = None;
    while let Some((job, mut session)) = queue.pop(thread, done) {
        // On one that may hold something of the last client no other runs: dropped, the job fails.
        if session.renew() {
            run_unless_panic(&mut session, job);
            session.renew();
        }
        done = Some(session);
    }
}

/// Runs a job. `None` where it panics: then the connection must be renewed.
fn run_unless_panic<T>(session: &mut Session, job: impl FnOnce(&mut Session) -> T) -> Option<T> {
    let outcome = catch_unwind(AssertUnwindSafe(|| job(session)));
    if outcome.is_err() {
        tracing::error!("a job panicked; its connection is replaced");
        session.dirty = true;
    }
    outcome.ok()
}

impl Session {
    fn open(database: &Database) -> Result<Self> {
        let connection = database.connect_for_clients()?;
        Ok(Self {
            dirty: false,
            transaction: ClientTransaction::None,
            work: Work::none(&connection),
            has_pivoted: false,
            connection,
            database: database.clone(),
        })
    }

    /// Records that something runs in the client's transaction whose failures are not all told.
    pub(in crate::engine) fn doubt(&mut self) {
        if self.transaction == ClientTransaction::Open {
            self.transaction = ClientTransaction::Doubtful;
        }
    }

    /// Runs `work` on a client's own connection. Whatever fails inside of its transaction, be it a question about a statement,
    /// may have left nothing possible in it but to roll it back; where `work` panics, nothing else is.
    pub(in crate::engine) fn attempt<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let outcome = catch_unwind(AssertUnwindSafe(|| work(self))).unwrap_or_else(|panic| {
            self.give_up();
            resume_unwind(panic)
        });
        if outcome.is_err() {
            self.doubt();
        }
        outcome
    }

    /// Gives up what was done halfway.
    fn give_up(&mut self) {
        // A client's transaction may have ended on the way, and what is none of its own is open for this work only.
        if self.transaction == ClientTransaction::None || self.connection.begin().is_ok() {
            self.connection.roll_back();
            self.transaction = ClientTransaction::None;
        } else {
            self.connection.spoil_transaction();
            self.transaction = ClientTransaction::Doubtful;
        }
    }

    /// Rolls back what a script has left open that failed between its BEGIN and its COMMIT.
    pub(super) fn end_transaction(&mut self) {
        if self.transaction != ClientTransaction::None {
            self.connection.roll_back();
            self.transaction = ClientTransaction::None;
        }
    }

    /// Opens another connection to the same database.
    pub(super) fn another(&self) -> Result<Self> {
        Self::open(&self.database)
    }

    /// The name of a table in full, as the session looks up names.
    pub(in crate::engine) fn full_name(&self, table: TableName) -> Result<TableName> {
        let TableName {
            catalog,
            schema,
            table,
        } = table;
        let (own_catalog, own_schema) = catalog::current(&self.connection)?;
        Ok(TableName {
            schema: schema.or_else(|| catalog.is_none().then_some(own_schema)),
            catalog: catalog.or(Some(own_catalog)),
            table,
        })
    }

    /// Replaces a connection that may hold something of the last request. Answers whether it is as new.
    fn renew(&mut self) -> bool {
        if self.dirty {
            match self.another() {
                Ok(new) => *self = new,
                Err(error) => {
                    tracing::error!(%error, "no new connection; the next request tries again");
                }
            }
        }
        !self.dirty
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const MAX_WAITING: usize = 8;

    fn pool(size: usize) -> Pool {
        let database = Database::open(":memory:", &[]).unwrap();
        database.connect().unwrap().make_file_refusal().unwrap();
        let jobs = Jobs {
            name: "test",
            what: "jobs",
            remedy: "let one end",
        };
        Pool::start(jobs, size, MAX_WAITING, &database).unwrap()
    }

    /// Waits until nothing runs.
    fn settle(pool: &Pool) {
        while pool.alone().is_none() {
            std::thread::yield_now();
        }
    }

    /// Runs a job to its end.
    fn run<T: Send + 'static>(pool: &Pool, job: fn(&mut Session) -> T) -> T {
        let (answer, answers) = channel();
        pool.submit(move |session| answer.send(job(session)).unwrap())
            .unwrap();
        let answer = answers.recv().unwrap();
        settle(pool);
        answer
    }

    /// Begins a job that ends when it is told to, and waits until it runs.
    fn begin(pool: &Pool) -> Sender<()> {
        let (end, ended): (_, Receiver<()>) = channel();
        let (begun, begins) = channel();
        pool.submit(move |_| {
            begun.send(()).unwrap();
            ended.recv().ok();
        })
        .unwrap();
        begins.recv().unwrap();
        end
    }

    #[test]
    fn whoever_comes_takes_the_connection_that_was_used_last() {
        let pool = pool(4);
        run(&pool, |session| {
            session.connection.execute("CREATE TEMP TABLE mark (i INT)")
        })
        .unwrap();
        let is_marked = |session: &Session| session.connection.execute("FROM mark").is_ok();
        for _ in 0..20 {
            assert!(run(&pool, |session| session
                .connection
                .execute("FROM mark")
                .is_ok()));
            let alone = pool.alone().unwrap();
            assert_eq!(alone.run(|session| Some(is_marked(session))), Some(true));
        }
        assert!(pool.stop(None));
    }

    #[test]
    fn one_at_a_time_is_alone_and_only_where_no_job_runs() {
        let pool = pool(2);
        let alone = pool.alone().unwrap();
        assert!(pool.alone().is_none());
        let end = begin(&pool);
        drop(alone);
        assert!(pool.alone().is_none());
        drop(end);
        settle(&pool);
        assert!(pool.stop(None));
        assert!(pool.alone().is_none());
    }

    #[test]
    fn jobs_find_threads_and_connections_while_somebody_is_alone() {
        let pool = pool(2);
        let alone = pool.alone().unwrap();
        drop([begin(&pool), begin(&pool)]);
        drop(alone);
        assert!(pool.stop(None));
    }

    #[test]
    fn nobody_is_alone_for_a_while_once_many_have_come_at_once() {
        let pool = pool(4);
        let jobs: Vec<_> = (0..=MANY_AT_ONCE).map(|_| begin(&pool)).collect();
        let came = pool.queue.lock().crowded.unwrap();
        drop(jobs);
        settle(&pool);
        assert!(came.elapsed() >= CROWDED_FOR);
        assert!(pool.stop(None));
    }

    #[test]
    fn a_job_that_finds_too_many_waiting_is_refused_with_what_they_are_and_what_to_do() {
        let pool = pool(1);
        let end = begin(&pool);
        for _ in 0..MAX_WAITING {
            pool.submit(|_| ()).unwrap();
        }
        let refused = pool.submit(|_| ()).unwrap_err().to_string();
        let told = "8 jobs are waiting already, the limit: let one end";
        assert_eq!(refused, told);
        drop(end);
        assert!(pool.stop(None));
    }

    #[test]
    fn a_job_that_does_not_end_is_left_behind() {
        let pool = pool(2);
        let end = begin(&pool);
        assert!(!pool.stop(Some(Instant::now())));
        drop(end);
    }

    #[test]
    fn nothing_runs_on_a_connection_that_could_not_be_replaced() {
        let pool = pool(1);
        run(&pool, |session| {
            session.dirty = true;
            // On which there is no connection for clients.
            session.database = Database::open(":memory:", &[]).unwrap();
        });
        // One that can be used is left, and serves first.
        let alone = pool.alone().unwrap();
        let (answer, answers) = channel();
        pool.submit(move |_| answer.send(()).unwrap()).unwrap();
        assert!(answers.recv().is_err(), "the job was dropped");
        drop(alone);
        run(&pool, |session| assert!(!session.dirty));
        assert!(pool.stop(None));
    }

    #[test]
    fn a_connection_is_replaced_after_a_panic() {
        let pool = pool(1);
        let alone = pool.alone().unwrap();
        let outcome = alone.run(|session| {
            session
                .connection
                .execute("CREATE TEMP TABLE mark (i INT)")
                .unwrap();
            panic!("on purpose")
        });
        assert_eq!(outcome, None::<()>);
        assert!(
            run(&pool, |session| session.connection.execute("FROM mark")).is_err(),
            "it is another one"
        );
        assert!(pool.stop(None));
    }
}
