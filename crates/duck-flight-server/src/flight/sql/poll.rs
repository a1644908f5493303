//! `PollFlightInfo`: a statement runs in the background, and its client asks how far it has come.

use std::sync::Arc;
use std::time::Duration;

use arrow_flight::sql::{Command, ProstMessageExt, TicketStatementQuery};
use arrow_flight::{FlightDescriptor, FlightInfo, PollInfo};
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt, TryFutureExt};
use parking_lot::Mutex;
use prost::Message;
use tokio::task::{JoinError, JoinHandle};

use super::statement::{info, run_now};
use super::ticket::StatementTicket;
use super::{cancel_tickets, flight_info, prepared};
use crate::engine::{HeldBytes, Place, Progress, Sql};
use crate::error::{Error, Result};
use crate::flight::columns::with_types;
use crate::flight::get::{encoding, sql_text};
use crate::session::{Caller, Handle, Handles, Sessions};

/// How long a poll waits for the end before it tells how far the statement is.
const POLL_WAIT: Duration = Duration::from_millis(500);

/// A statement that runs in the background. Dropped, it is cancelled.
pub(super) struct Poll {
    descriptor: FlightDescriptor,
    progress: Progress,
    outcome: Shared<BoxFuture<'static, Arc<Result<FlightInfo>>>>,
    task: tokio::task::AbortHandle,
    rows: Arc<Mutex<PolledRows>>,
    sessions: Sessions,
    /// The memory of the descriptor.
    _held: HeldBytes,
}

/// The rows of a polled statement.
enum PolledRows {
    /// Nobody has been told of them; there may be none yet.
    Untold(Option<FlightInfo>),
    /// A client knows where they are.
    Told,
    /// Nobody wants to know.
    GivenUp,
}

impl Poll {
    fn told(&self) {
        *self.rows.lock() = PolledRows::Told;
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        self.task.abort();
        let mut rows = self.rows.lock();
        if let PolledRows::Untold(info) = &mut *rows {
            let info = info.take();
            *rows = PolledRows::GivenUp;
            drop(rows);
            cancel_tickets(&self.sessions, &info.unwrap_or_default());
        }
    }
}

/// Starts a statement, or says how one goes that was started by an earlier poll.
pub(super) async fn poll(
    sessions: &Sessions,
    polls: &Handles<Arc<Poll>>,
    caller: &Caller,
    command: Command,
    descriptor: FlightDescriptor,
) -> Result<PollInfo> {
    let progress = Progress::default();
    let (sql, transaction) = match &command {
        Command::TicketStatementQuery(ticket) => {
            let (id, poll) = polls.find(&ticket.statement_handle)?;
            return answer(polls, id, &poll).await;
        }
        Command::CommandStatementQuery(query) => {
            let sql = sql_text(query.query.as_bytes(), "statement")?;
            (Sql::from(sql), query.transaction_id.clone().map(Vec::from))
        }
        Command::CommandPreparedStatementQuery(query) => {
            let handle = &query.prepared_statement_handle;
            let execution = sessions.prepared(caller, handle).await?;
            let statement = &execution.statement;
            let sql = prepared::sql_of(statement);
            if prepared::runs_never(statement, &sql.parameters)? {
                return complete(prepared::nothing(sessions, statement, descriptor)?);
            }
            (sql, execution.transaction)
        }
        // All else is there at once.
        _ => {
            let info = flight_info(sessions, caller, command, descriptor).await?;
            return complete(info);
        }
    };
    let place = sessions.place(caller, transaction.as_deref()).await?;
    let held = sessions.hold(descriptor.encoded_len())?;
    let sql = sql.watched_by(&progress);
    let rows = Arc::new(Mutex::new(PolledRows::Untold(None)));
    let running = run(sessions.clone(), place, sql, descriptor.clone());
    let task: JoinHandle<Result<FlightInfo>> = tokio::spawn({
        let (sessions, rows) = (sessions.clone(), rows.clone());
        running.inspect_ok(move |info| match &mut *rows.lock() {
            PolledRows::GivenUp => {
                cancel_tickets(&sessions, info);
            }
            untold => *untold = PolledRows::Untold(Some(info.clone())),
        })
    });
    let abort = task.abort_handle();
    let outcome = task.map(|outcome| {
        let outcome = outcome.unwrap_or_else(|ended| Err(without_outcome(&ended)));
        Arc::new(outcome)
    });
    let poll = Arc::new(Poll {
        descriptor,
        progress,
        outcome: outcome.boxed().shared(),
        task: abort,
        rows,
        sessions: sessions.clone(),
        _held: held,
    });
    let id = Handle::new();
    polls.insert(id, poll.clone())?;
    answer(polls, id, &poll).await
}

/// What is said of a statement whose task has ended before it: one that has panicked may have been committed.
fn without_outcome(ended: &JoinError) -> Error {
    match ended.is_panic() {
        true => Error::WorkerLost,
        false => Error::Cancelled,
    }
}

/// Runs a statement up to its first rows, which then wait to be fetched.
async fn run(
    sessions: Sessions,
    place: Place,
    sql: Sql,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo> {
    let engine = sessions.engine();
    match engine.describe(&place, sql.text.clone()).await {
        Ok(described) if described.is_query => {
            let result = engine.query(&place, sql).await?;
            let schema = with_types(result.schema(), result.type_names());
            let ticket = StatementTicket::waiting(sessions.keep_stream(result)?);
            info(descriptor, Some(&schema), &ticket, -1)
        }
        Ok(_) | Err(Error::UnknownSchema(_)) => run_now(&sessions, &place, sql, descriptor).await,
        Err(error) => Err(error),
    }
}

async fn answer(polls: &Handles<Arc<Poll>>, id: Handle, poll: &Poll) -> Result<PollInfo> {
    match tokio::time::timeout(POLL_WAIT, poll.outcome.clone()).await {
        Ok(outcome) => {
            polls.remove(id);
            match &*outcome {
                Ok(info) => {
                    poll.told();
                    complete(info.clone())
                }
                Err(error) => Err(Error::Again(error.code(), error.to_string())),
            }
        }
        Err(_) => {
            let handle = id.to_bytes();
            let next = TicketStatementQuery {
                statement_handle: handle.clone().into(),
            };
            let info = FlightInfo::new()
                .with_descriptor(poll.descriptor.clone())
                .with_app_metadata(handle);
            let answer = PollInfo::new()
                .with_info(info)
                .with_descriptor(FlightDescriptor::new_cmd(next.as_any().encode_to_vec()));
            match poll.progress.get() {
                Some(progress) => answer.try_with_progress(progress).map_err(encoding),
                None => Ok(answer),
            }
        }
    }
}

fn complete(info: FlightInfo) -> Result<PollInfo> {
    let answer = PollInfo::new().with_info(info);
    answer.try_with_progress(1.0).map_err(encoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn panics() {
        panic!("on purpose")
    }

    #[tokio::test]
    async fn who_polls_a_statement_that_has_panicked_is_not_told_that_it_was_cancelled() {
        let ended = tokio::spawn(panics()).await.unwrap_err();
        assert!(matches!(without_outcome(&ended), Error::WorkerLost));
        let task = tokio::spawn(std::future::pending::<()>());
        task.abort();
        let ended = task.await.unwrap_err();
        assert!(matches!(without_outcome(&ended), Error::Cancelled));
    }
}
