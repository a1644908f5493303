//! The way of a query: a script runs statement by statement, and the last result streams out.
//!
//! [`statement`] runs the script, [`pump`] gathers what comes of it into messages, in types that every client can read
//! ([`readable`], [`interval`]), and [`frames`] leads them to the client. What is small goes by the [`express`] lane, beside which
//! [`lookout`] watches. What a script answers is in [`results`]; what is known of it before it runs, in [`description`].

pub(super) mod description;
pub(super) mod expansion;
pub(super) mod express;
pub(super) mod frames;
pub(super) mod interval;
pub(super) mod lookout;
pub(super) mod parameters;
pub(super) mod pivots;
pub(super) mod progress;
pub(super) mod pump;
pub(super) mod readable;
pub(super) mod results;
pub(super) mod statement;

use std::sync::Arc;

use tokio::sync::oneshot;

use super::connections::cancel::{Cancel, CancelOnDrop};
use super::connections::lease::{Held, Place, Seat, Traces};
use super::connections::pool::Session;
use super::holdings::HeldBytes;
use super::ingest::shared::Shared;
use super::sql::admission::check_before_planning;
use super::sql_error::SqlErrorKind;
use super::{Engine, Inner};
use crate::error::{Error, Result};
use description::Description;
use frames::channel;
use parameters::Parameters;
use progress::Progress;
use pump::{Frame, Pump};
use results::{Collected, Outcome, ResultStream};
use statement::{drain, run_script};

/// Texts of statements up to this size count nowhere: as many as may wait take little.
const SHORT_TEXT_BYTES: usize = 16 << 10;

/// What a client asks to be run: a script, with values for the parameters of its one statement.
#[derive(Debug, Clone)]
pub(crate) struct Sql {
    pub(crate) text: String,
    pub(crate) parameters: Parameters,
    /// Where to tell how far it is, where somebody wants to know.
    pub(super) progress: Option<Progress>,
    /// The memory of a long text, for as long as anybody keeps it.
    _held: Option<Arc<HeldBytes>>,
}

impl Sql {
    pub(crate) fn new(text: String, parameters: Parameters) -> Self {
        Self {
            text,
            parameters,
            progress: None,
            _held: None,
        }
    }

    /// Adds the memory that its text takes, to be held as long as the script lives.
    fn held_by(self, held: HeldBytes) -> Self {
        Self {
            _held: Some(Arc::new(held)),
            ..self
        }
    }

    /// Adds where its progress is told, for somebody who asks.
    pub(crate) fn watched_by(self, progress: &Progress) -> Self {
        Self {
            progress: Some(progress.clone()),
            ..self
        }
    }
}

impl From<String> for Sql {
    fn from(text: String) -> Self {
        Self::new(text, Parameters::default())
    }
}

impl Engine {
    /// Runs a script; the last statement's result streams out. Dropping the stream stops it.
    pub(crate) async fn query(&self, place: &Place, sql: impl Into<Sql>) -> Result<ResultStream> {
        let sql = self.hold_text(sql)?;
        let runs = self.0.running.enter();
        let result = self.start_query(place, sql).await;
        result.map(|stream| stream.counted_by(runs))
    }

    /// Runs a script; answers with the first rows of its last statement, or all where they are few.
    async fn start_query(&self, place: &Place, sql: Sql) -> Result<ResultStream> {
        let Inner {
            queries,
            express,
            patience,
            shared,
            ..
        } = &*self.0;
        let in_use = place.in_use();
        let mut seat = place.seat().await?;
        if matches!(seat, Seat::Shared(_))
            && let Some(all) = express.query(queries, &shared.lossless, &sql)
        {
            return Ok(ResultStream::new(
                all,
                None,
                CancelOnDrop::default(),
                in_use,
            ));
        }
        let sql = Arc::new(sql);
        loop {
            let guard = CancelOnDrop::default();
            let cancel = guard.cancel();
            let (sender, mut frames) =
                channel(place.requests(), queries.read_ahead(), patience.clone());
            cancel.closes(frames.places());
            let (sql, shared) = (sql.clone(), shared.clone());
            queries.submit(move |thread| {
                let mut pump = Pump::new(sender);
                let outcome = seat.run(thread, &cancel, |session, traces| {
                    run_script(session, traces, &sql, &cancel, |result| {
                        pump.send_batches(result, &shared.lossless.options, &cancel)
                    })
                });
                pump.finish(told(outcome, &cancel, &shared).map(|_| ()));
            })?;
            match frames.recv().await.ok_or(Error::WorkerLost)? {
                Err(Error::NeedsConnection) => seat = place.own_seat().await?,
                Err(error) => return Err(error),
                Ok(Frame::Start(start)) => {
                    return Ok(ResultStream::new(start, Some(frames), guard, in_use));
                }
                Ok(Frame::Batch(_) | Frame::End) => return Err(Error::WorkerLost),
            }
        }
    }

    /// Runs a script to its end, and keeps its last result in memory.
    pub(crate) async fn run(&self, place: &Place, sql: impl Into<Sql>) -> Result<Outcome> {
        let sql = self.hold_text(sql)?;
        let _runs = self.0.running.enter();
        let (lossless, holdings) = (self.0.shared.lossless.clone(), self.0.holdings.clone());
        self.run_on(place, move |session, traces, cancel| {
            let mut gathered = Collected::new(&holdings);
            let rows_changed = run_script(session, traces, &sql, cancel, |result| {
                gathered.add(result, &lossless, cancel)
            })?;
            let rows = gathered.rows;
            Ok(Outcome { rows_changed, rows })
        })
        .await
    }

    /// Runs a script for its effect and answers with the number of rows that all its statements changed.
    pub(crate) async fn execute(&self, place: &Place, sql: impl Into<Sql>) -> Result<u64> {
        let sql = self.hold_text(sql)?;
        let _runs = self.0.running.enter();
        self.run_on(place, move |session, traces, cancel| {
            run_script(session, traces, &sql, cancel, |result| {
                drain(result, cancel)
            })
        })
        .await
    }

    /// What is known of a script, without running any of it.
    pub(crate) async fn describe(&self, place: &Place, sql: String) -> Result<Description> {
        let Inner {
            queries,
            express,
            shared,
            ..
        } = &*self.0;
        let sql = self.hold_text(sql)?;
        if place.is_shared()
            && let Some(described) = express.describe(queries, &shared.lossless, &sql.text)
        {
            return Ok(described);
        }
        let lossless = shared.lossless.clone();
        self.run_on(place, move |session, _, cancel| {
            let sql = &sql.text;
            // Not before, on a thread of the network: a script may be long.
            check_before_planning(sql)?;
            let _watch = cancel.watch(&session.connection);
            let moment = session.connection.commits().quiet();
            let script = session.connection.parse(sql)?;
            let count = script.len();
            let described = script
                .last_statement()
                .ok_or(Error::NoStatement)?
                .map_err(Error::from)
                .and_then(|statement| Description::of(&statement, &lossless, sql, count, moment));
            match described {
                // What the last statement names may be made by the ones before it.
                Err(Error::Sql(error)) if count > 1 => Err(Error::UnknownSchema(error)),
                described => described,
            }
        })
        .await
    }

    /// Whether what was known of a script is so still: nothing was committed since, and the client's own connection
    /// does not see things that others do not.
    pub(crate) fn is_current(&self, description: &Description, place: &Place) -> bool {
        place.is_shared() && description.is_current(&self.0.commits)
    }

    /// How many statements run, or wait for their turn.
    pub(crate) fn running(&self) -> usize {
        self.0.running.count()
    }

    /// Takes memory for a statement's text for as long as it is kept, unless it is short.
    fn hold_text(&self, sql: impl Into<Sql>) -> Result<Sql> {
        let sql = sql.into();
        if sql.text.len() <= SHORT_TEXT_BYTES {
            return Ok(sql);
        }
        // As it came, and as it is to run.
        let held = self.hold_bytes(sql.text.len().saturating_mul(2))?;
        Ok(sql.held_by(held))
    }

    /// Runs a job on the connection that a client's statements run on, and waits for its answer. One that was refused,
    /// for it would leave something behind, runs on the client's own. When the caller stops waiting, the job is cancelled.
    pub(super) async fn run_on<T: Send + 'static>(
        &self,
        place: &Place,
        job: impl Fn(&mut Session, Traces, &Cancel) -> Result<T> + Clone + Send + 'static,
    ) -> Result<T> {
        let Inner {
            queries, shared, ..
        } = &*self.0;
        let _in_use = place.in_use();
        let mut seat = place.seat().await?;
        loop {
            let (job, shared) = (job.clone(), shared.clone());
            let outcome = queries.run(move |thread, cancel| {
                let outcome = seat.run(thread, cancel, |session, traces| {
                    job(session, traces, cancel)
                });
                told(outcome, cancel, &shared)
            });
            match outcome.await {
                Err(Error::NeedsConnection) => seat = place.own_seat().await?,
                outcome => return outcome,
            }
        }
    }

    /// Begins or ends the transaction of a client's own connection, and calls `done` once that has succeeded. It runs to its
    /// end, whether or not anybody waits for the answer.
    pub(super) fn control(
        &self,
        mut held: Held,
        sql: &'static str,
        done: impl FnOnce() + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<()>>> {
        let (answer, waiting) = oneshot::channel();
        let shared = self.0.shared.clone();
        self.0.queries.submit(move |thread| {
            let outcome = held.session(thread).and_then(|session| {
                let cancel = Cancel::default();
                let sql = sql.to_owned().into();
                session.attempt(|session| {
                    run_script(session, Traces::Kept, &sql, &cancel, |result| {
                        drain(result, &cancel)
                    })
                })
            });
            let outcome = outcome.map_err(|error| shared.observe(error));
            answer.send(outcome.map(|_| done())).ok();
        })?;
        Ok(waiting)
    }
}

/// What a client is told: that an interrupt of its own was one. Note is taken of what ends the server, whether or not the
/// client still waits.
fn told<T>(outcome: Result<T>, cancel: &Cancel, shared: &Shared) -> Result<T> {
    outcome.map_err(|error| match error {
        Error::Sql(sql) if sql.kind == SqlErrorKind::Interrupted && cancel.is_cancelled() => {
            Error::Cancelled
        }
        error => shared.observe(error),
    })
}
