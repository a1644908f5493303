//! The floor: a Flight server with Duck Flight's transport and nothing behind it, so that what it comes to is what
//! clients and the transport cost by themselves.
//!
//! It knows two statements, whose answers are made beforehand, and takes puts of which it reads only how many rows
//! they have. Nothing is kept: the handle of a prepared statement, and the ticket of a flight, is the SQL text.

mod answer;

use std::future::ready;

use anyhow::Context;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::{ActionCreatePreparedStatementRequest, Any, Command, ProstMessageExt};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use duck_flight_protocol::{Ack, Commit, PreparedStatementResult, PutOptions};
use duck_flight_server::serve_flight;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use prost::Message;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, Streaming};

use self::answer::Answer;

/// The statement with a small answer.
const SMALL: &str = "SELECT 42";

/// The statement with the large answer, the whole of the table that reads are measured with.
const LARGE: &str = "SELECT * FROM readings";

/// The largest message it takes, as Duck Flight unless told otherwise.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rows of the large answer.
    #[arg(long, default_value_t = 0)]
    rows: usize,
}

/// Prints its address, and serves until it is interrupted.
pub(crate) async fn serve(args: &Args) -> anyhow::Result<()> {
    let floor = Floor {
        small: Answer::small(SMALL)?,
        large: Answer::large(LARGE, args.rows)?,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.context("listen")?;
    println!("listening on {}", listener.local_addr()?);
    let interrupted = async {
        // Where there are no signals to listen for, it ends at once.
        tokio::signal::ctrl_c().await.ok();
    };
    serve_flight(listener, floor, MAX_MESSAGE_BYTES, interrupted).await?;
    Ok(())
}

struct Floor {
    small: Answer,
    large: Answer,
}

type Answers<T> = BoxStream<'static, Result<T, Status>>;

impl Floor {
    /// What is answered to a statement.
    fn answer(&self, sql: &[u8]) -> Result<&Answer, Status> {
        [&self.small, &self.large]
            .into_iter()
            .find(|answer| answer.sql.as_bytes() == sql)
            .ok_or_else(|| {
                let sql = String::from_utf8_lossy(sql);
                Status::not_found(format!(
                    "the floor knows only `{SMALL}` and `{LARGE}`, not `{sql}`"
                ))
            })
    }

    fn prepare(&self, body: &[u8]) -> Result<arrow_flight::Result, Status> {
        let request: Option<ActionCreatePreparedStatementRequest> = Any::decode(body)
            .map_err(|error| invalid(&error))?
            .unpack()
            .map_err(|error| invalid(&error))?;
        let sql = request.map(|request| request.query).unwrap_or_default();
        let answer = self.answer(sql.as_bytes())?;
        let prepared = PreparedStatementResult {
            prepared_statement_handle: sql.into(),
            dataset_schema: answer.info.schema.clone(),
            is_update: Some(false),
            ..PreparedStatementResult::default()
        };
        Ok(arrow_flight::Result::new(prepared.as_any().encode_to_vec()))
    }
}

#[tonic::async_trait]
impl FlightService for Floor {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoExchangeStream = Answers<FlightData>;
    type DoActionStream = Answers<arrow_flight::Result>;
    type ListActionsStream = Answers<ActionType>;

    async fn get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let any = Any::decode(request.into_inner().cmd).map_err(|error| invalid(&error))?;
        let answer = match Command::try_from(any) {
            Ok(Command::CommandStatementQuery(command)) => self.answer(command.query.as_bytes()),
            Ok(Command::CommandPreparedStatementQuery(command)) => {
                self.answer(&command.prepared_statement_handle)
            }
            // Also what a driver asks about the server, when it connects; it can do without an answer.
            _ => Err(not_here("this command")),
        };
        Ok(Response::new(answer?.info.clone()))
    }

    async fn do_get(
        &self,
        request: Request<Ticket>,
    ) -> Result<Response<Self::DoGetStream>, Status> {
        let answer = self.answer(&request.into_inner().ticket)?;
        Ok(Response::new(answer.messages().map(Ok).boxed()))
    }

    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        let mut messages = request.into_inner();
        let schema = messages.message().await?.unwrap_or_default();
        let descriptor = schema.flight_descriptor.unwrap_or_default();
        let options = PutOptions::from_descriptor(&descriptor).map_err(|error| invalid(&error))?;
        if options.producer.is_some() {
            return Err(not_here("exactly once"));
        }
        let rows = messages.and_then(|message| ready(rows_of(&message)));
        let acks = match options.commit {
            Commit::Stream => {
                let all = rows.try_fold(0, |all, rows| ready(Ok(all + rows))).await?;
                stream::iter([Ok(ack(all))]).boxed()
            }
            Commit::Batch => rows.map_ok(ack).boxed(),
        };
        Ok(Response::new(acks))
    }

    /// Prepares a statement. Any other action is over before it has begun: a table is made, a statement is closed.
    async fn do_action(
        &self,
        request: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        let action = request.into_inner();
        let result = match action.r#type.as_str() {
            "CreatePreparedStatement" => Some(Ok(self.prepare(&action.body)?)),
            _ => None,
        };
        Ok(Response::new(stream::iter(result).boxed()))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        Err(not_here("Handshake"))
    }

    async fn list_flights(
        &self,
        _: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        Err(not_here("ListFlights"))
    }

    async fn poll_flight_info(
        &self,
        _: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        Err(not_here("PollFlightInfo"))
    }

    async fn get_schema(
        &self,
        _: Request<FlightDescriptor>,
    ) -> Result<Response<SchemaResult>, Status> {
        Err(not_here("GetSchema"))
    }

    async fn do_exchange(
        &self,
        _: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(not_here("DoExchange"))
    }

    async fn list_actions(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        Err(not_here("ListActions"))
    }
}

fn not_here(what: &str) -> Status {
    Status::unimplemented(format!("the floor does nothing, and has no {what}"))
}

fn invalid(error: &dyn std::error::Error) -> Status {
    Status::invalid_argument(error.to_string())
}

/// How many rows a message has, by its head.
fn rows_of(message: &FlightData) -> Result<u64, Status> {
    let head = arrow_ipc::root_as_message(&message.data_header)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    let batch = head
        .header_as_record_batch()
        .ok_or_else(|| Status::invalid_argument("a message after the schema has no rows"))?;
    u64::try_from(batch.length()).map_err(|error| invalid(&error))
}

fn ack(rows: u64) -> PutResult {
    let ack = Ack {
        rows,
        ..Ack::default()
    };
    PutResult {
        app_metadata: ack.to_json().into(),
    }
}
