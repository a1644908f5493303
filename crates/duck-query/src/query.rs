//! One query: from its SQL to its printed result.

use std::io;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow_flight::Ticket;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use duck_flight_protocol::{ConnectError, ConnectOptions, error_message};
use futures::TryStreamExt;
use tokio::sync::mpsc;
use tokio::task::{JoinError, spawn_blocking};

use crate::format::{OutputOptions, Printer, Sink, printer};

/// How many batches may wait to be printed.
const WAITING_BATCHES: usize = 2;

/// What to run, where, and how to show it.
#[derive(Debug, Clone)]
pub struct Query {
    /// The server.
    pub connect: ConnectOptions,
    /// One statement, or a script of which the last statement's result is shown.
    pub sql: String,
    /// How the result is shown.
    pub output: OutputOptions,
}

/// What a query came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Rows of the result, also those not printed; of a result whose output was closed, those received.
    pub rows: usize,
    /// From sending the SQL to the last row being printed.
    pub elapsed: Duration,
}

/// Why a query failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server refused the query or failed at it, and the message is its own; or the connection broke.
    #[error("{}", error_message(.error, .server))]
    Query {
        /// Where the server is.
        server: String,
        /// What went wrong.
        error: FlightError,
    },
    /// The result cannot be written.
    #[error("write the result")]
    Write(#[source] io::Error),
    /// Formatting panicked: a defect of this program.
    #[error("format the result")]
    Format(#[source] JoinError),
}

/// Runs a query and prints its result. An `output` that is closed early ends the query quietly; dropping
/// the future cancels it.
///
/// # Errors
/// When there is no connection, the server reports an error, or the output cannot be written.
pub async fn run(query: Query, output: Box<dyn io::Write + Send>) -> Result<Summary, Error> {
    let mut client = query.connect.connect().await?;
    let failed = |error| Error::Query {
        server: query.connect.server.clone(),
        error,
    };
    let started = Instant::now();
    let is_query = query.sql.split(';').any(begins_as_query);
    let ticket = Ticket::new(query.sql);
    let stream = client.do_get(ticket).await.map_err(failed)?;

    let (sender, receiver) = mpsc::channel(WAITING_BATCHES);
    let options = query.output;
    let printing = spawn_blocking(move || print(receiver, &options, Sink::new(output)));
    let received = receive(stream, is_query, sender).await;
    let printed = printing.await.map_err(Error::Format)?;

    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        printed => printed.map_err(Error::Write)?,
    }
    Ok(Summary {
        rows: received.map_err(failed)?,
        elapsed: started.elapsed(),
    })
}

/// A result on its way to the printing thread. A channel that closes without [`Frame::End`] tells it that
/// the result was cut short.
enum Frame {
    Schema(SchemaRef),
    Batch(RecordBatch),
    End,
}

/// Passes a result on, and answers how many rows it had. Stops without an error when nobody prints it any
/// more. Nothing is passed on of what stands for no result, unless a query may have it for its own.
async fn receive(
    mut stream: FlightRecordBatchStream,
    is_query: bool,
    frames: mpsc::Sender<Frame>,
) -> Result<usize, FlightError> {
    let mut rows = 0;
    let mut schema_sent = false;
    loop {
        let batch = stream.try_next().await?;
        rows += batch.as_ref().map_or(0, RecordBatch::num_rows);
        if !schema_sent
            && let Some(schema) = stream.schema()
            && (is_query || rows > 0 || !stands_for_no_result(schema))
        {
            schema_sent = true;
            if frames.send(Frame::Schema(schema.clone())).await.is_err() {
                return Ok(rows);
            }
        }
        let Some(batch) = batch else {
            break;
        };
        if frames.send(Frame::Batch(batch)).await.is_err() {
            return Ok(rows);
        }
    }
    // Whether anybody listens does not matter any more.
    let _ = frames.send(Frame::End).await;
    Ok(rows)
}

/// Whether a statement begins as a query does, whose result is one even when it is empty.
fn begins_as_query(sql: &str) -> bool {
    let mut sql = sql.trim_start();
    loop {
        let comment = match sql.get(..2) {
            Some("--") => sql.split_once('\n'),
            Some("/*") => sql.split_once("*/"),
            _ => break,
        };
        sql = comment.map_or("", |(_, rest)| rest.trim_start());
    }
    let sql = sql.trim_start_matches(['(', ' ']);
    let end = sql.find(|next: char| !next.is_ascii_alphabetic());
    let word = &sql[..end.unwrap_or(sql.len())];
    ["SELECT", "FROM", "WITH", "VALUES", "TABLE"]
        .iter()
        .any(|query| word.eq_ignore_ascii_case(query))
}

/// Whether a result without rows and with this schema is what DuckDB answers for a statement that has none, such as CREATE
/// TABLE or CHECKPOINT.
fn stands_for_no_result(schema: &Schema) -> bool {
    match schema.fields().as_ref() {
        [field] => matches!(
            (field.name().as_str(), field.data_type()),
            ("Count", DataType::Int64) | ("Success", DataType::Boolean)
        ),
        _ => false,
    }
}

/// Prints a result until its end; blocks, and so has a thread of its own.
fn print(
    mut frames: mpsc::Receiver<Frame>,
    options: &OutputOptions,
    mut sink: Sink,
) -> io::Result<()> {
    let mut current: Option<Box<dyn Printer>> = None;
    while let Some(frame) = frames.blocking_recv() {
        match (frame, &mut current) {
            // A statement without columns has nothing to show.
            (Frame::Schema(schema), _) if schema.fields().is_empty() => {}
            (Frame::Schema(schema), _) => {
                current.insert(printer(options, &schema)).start(&mut sink)?;
            }
            (Frame::Batch(batch), Some(printer)) => printer.print(&batch, &mut sink)?,
            (Frame::End, Some(printer)) => printer.finish(&mut sink)?,
            (Frame::Batch(_) | Frame::End, None) => {}
        }
        if frames.is_empty() {
            // Nothing else is there to do, so show what there is.
            sink.flush()?;
        }
    }
    sink.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_told_by_its_first_word() {
        for sql in [
            "select 1",
            " ((SELECT 1))",
            "-- why\n/* and\nhow */ FROM t",
            "VALUES(1)",
        ] {
            assert!(begins_as_query(sql), "{sql}");
        }
        for sql in [
            "DROP TABLE t",
            "-- SELECT",
            "/* SELECT",
            "selected",
            "é",
            "",
        ] {
            assert!(!begins_as_query(sql), "{sql}");
        }
    }
}
