//! Threads and connections for them: a fixed number of both, fed from one bounded [`queue`]. A connection that serves is a
//! [`Session`].

mod queue;
mod session;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::cancel::{Cancel, CancelOnDrop};
use crate::engine::ffi::Database;
use crate::engine::query::frames::ReadAhead;
use crate::engine::thread;
use crate::error::{Error, Result};
use queue::Queue;

pub(in crate::engine) use session::{ClientTransaction, Session, Work};

/// What a pool runs.
#[derive(Clone, Copy)]
pub(in crate::engine) struct Jobs {
    /// What its threads are called.
    pub(in crate::engine) name: &'static str,
    /// What waits for them, and what to do where too much does.
    pub(in crate::engine) what: &'static str,
    pub(in crate::engine) remedy: &'static str,
}

/// A fixed set of threads, one connection more, and the requests that wait for a thread. Whoever runs something takes
/// the connection that was used last: its plans and caches are warm.
pub(in crate::engine) struct Pool {
    queue: Arc<Queue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    read_ahead: ReadAhead,
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
        self.0.longest_wait()
    }
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
        let sessions = sessions.collect::<Result<Vec<_>>>()?;
        let queue = Arc::new(Queue::new(jobs, size, max_waiting, sessions));
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::queue::{CROWDED_FOR, MANY_AT_ONCE};
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
