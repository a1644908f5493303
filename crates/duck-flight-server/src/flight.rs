//! The front door: every Flight call comes in here and is told apart, plain Flight or Flight SQL.
//!
//! Flight SQL is what decodes as a protobuf `Any` with a type of `arrow.flight.protocol.sql`; all else is
//! plain Flight. Handlers are thin: who asks, one call, wrap.

mod action;
mod columns;
mod cut;
mod decode;
mod dictionaries;
mod get;
mod headers;
mod intervals;
mod list;
mod messages;
mod parse;
mod put;
mod size;
mod sql;
mod stages;
mod upload;
mod views;
mod visit;

use std::task::Poll;

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use futures::future::{BoxFuture, Fuse};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, stream};
use tonic::{Request, Response, Status, Streaming};

use self::decode::MAX_EXPANSION;
use self::messages::Messages;
pub(crate) use self::messages::RequestBytes;
use self::sql::FlightSql;
pub use self::stages::{Decoded, Fetched, Stages};
use self::upload::Upload;
use self::visit::Visit;
use crate::drain::{Drain, Stage};
use crate::engine::Place;
use crate::error::Error;
use crate::session::Sessions;
use crate::unpacking::Unpacking;

/// What a call streams to its client.
type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// The Flight service.
pub(crate) struct FrontDoor {
    sessions: Sessions,
    sql: FlightSql,
    max_message_bytes: usize,
    unpacking: Unpacking,
    drain: Drain,
}

impl FrontDoor {
    pub(crate) fn new(sessions: Sessions, max_message_bytes: usize, drain: Drain) -> Self {
        Self {
            sql: FlightSql::new(sessions.clone()),
            sessions,
            max_message_bytes,
            unpacking: Unpacking::new(max_message_bytes.saturating_mul(MAX_EXPANSION)),
            drain,
        }
    }

    /// Ends what clients have left behind once it has expired, for as long as it is polled.
    pub(crate) fn sweep(&self) -> impl Future<Output = ()> + Send + use<> {
        let (sessions, polls) = (self.sessions.clone(), self.sql.sweep());
        async move { sessions.sweep(polls).await }
    }

    /// Who is asking.
    fn visit<T>(&self, request: &Request<T>) -> Result<Visit, Error> {
        Visit::new(&self.sessions, request)
    }

    /// Where a plain request's statements run.
    async fn place(&self, visit: &Visit) -> Result<Place, Error> {
        self.sessions.place(&visit.caller, None).await
    }

    /// Where a ticket's rows come from, wrapped as an answer.
    async fn rows(
        &self,
        visit: &Visit,
        ticket: &[u8],
    ) -> Result<Response<Answers<FlightData>>, Error> {
        if let Some(command) = sql::command(ticket)? {
            let rows = self.sql.get(&visit.caller, command).await?;
            return Ok(visit.answer(&self.sessions, rows));
        }
        let place = self.place(visit).await?;
        let rows = get::get(self.sessions.engine(), &place, ticket).await?;
        Ok(Response::new(rows))
    }
}

#[tonic::async_trait]
impl FlightService for FrontDoor {
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoActionStream = Answers<arrow_flight::Result>;
    type ListFlightsStream = Answers<FlightInfo>;
    type ListActionsStream = Answers<ActionType>;
    type HandshakeStream = Answers<HandshakeResponse>;
    type DoExchangeStream = Answers<FlightData>;

    #[tracing::instrument(skip_all)]
    async fn do_get(
        &self,
        request: Request<Ticket>,
    ) -> Result<Response<Self::DoGetStream>, Status> {
        let visit = self.visit(&request)?;
        let ticket = request.into_inner().ticket;
        let mut end = self.drain.reaches(Stage::Ending).boxed().fuse();
        let rows = tokio::select! {
            biased;
            rows = self.rows(&visit, &ticket) => rows?,
            () = &mut end => return Err(Error::ShuttingDown.into()),
        };
        Ok(rows.map(|rows| until(end, rows)))
    }

    #[tracing::instrument(skip_all)]
    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        let visit = self.visit(&request)?;
        let messages = Messages::of(request, self.max_message_bytes, &self.drain);
        let (descriptor, upload) = Upload::open(messages, &self.unpacking).await?;
        let Some(command) = sql::command(&descriptor.cmd)? else {
            let acks = put::put(self.sessions.engine(), descriptor, upload).await?;
            return Ok(Response::new(acks));
        };
        // The descriptor keeps its whole message in memory, and the command is a copy.
        drop(descriptor);
        let acks = self.sql.put(&visit.caller, command, upload).await?;
        Ok(visit.answer(&self.sessions, acks))
    }

    #[tracing::instrument(skip_all)]
    async fn do_action(
        &self,
        request: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        let mut visit = self.visit(&request)?;
        let action = request.into_inner();
        let found = self.sql.action(&mut visit, &action.r#type, &action.body);
        if let Some(results) = found.await {
            return Ok(visit.answer(&self.sessions, results?));
        }
        let results = action::run(&self.sessions, &visit.caller, action).await?;
        Ok(Response::new(results))
    }

    async fn list_actions(
        &self,
        _request: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        Ok(Response::new(action::list()))
    }

    #[tracing::instrument(skip_all)]
    async fn get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let visit = self.visit(&request)?;
        let descriptor = request.into_inner();
        if let Some(command) = sql::command(&descriptor.cmd)? {
            let info = self.sql.flight_info(&visit.caller, command, descriptor);
            return Ok(visit.answer(&self.sessions, info.await?));
        }
        let place = self.place(&visit).await?;
        let info = get::flight_info(self.sessions.engine(), &place, descriptor).await?;
        Ok(Response::new(info))
    }

    #[tracing::instrument(skip_all)]
    async fn poll_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        let visit = self.visit(&request)?;
        let descriptor = request.into_inner();
        let command = match sql::command(&descriptor.cmd)? {
            Some(command) => command,
            None => get::as_statement(&descriptor)?,
        };
        let info = self.sql.poll(&visit.caller, command, descriptor).await?;
        Ok(visit.answer(&self.sessions, info))
    }

    #[tracing::instrument(skip_all)]
    async fn get_schema(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<SchemaResult>, Status> {
        let visit = self.visit(&request)?;
        let descriptor = request.into_inner();
        if let Some(command) = sql::command(&descriptor.cmd)? {
            let schema = self.sql.schema(&visit.caller, &command).await?;
            return Ok(visit.answer(&self.sessions, get::schema_result(&schema)?));
        }
        let place = self.place(&visit).await?;
        let schema = get::schema(self.sessions.engine(), &place, &descriptor).await?;
        Ok(Response::new(schema))
    }

    #[tracing::instrument(skip_all)]
    async fn list_flights(
        &self,
        request: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        let criteria = request.into_inner();
        let flights = list::flights(self.sessions.engine(), &criteria).await?;
        Ok(Response::new(flights))
    }

    /// Opens a session for whoever asks: there are no passwords yet, so any are taken.
    #[tracing::instrument(skip_all)]
    async fn handshake(
        &self,
        _request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        visit::handshake(&self.sessions).map_err(Status::from)
    }

    async fn do_exchange(
        &self,
        _request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(unimplemented(
            "DoExchange is not supported; use DoPut and DoGet",
        ))
    }
}

/// A result, which fails where the server ends it. Its statement is stopped there.
fn until(
    mut end: Fuse<BoxFuture<'static, ()>>,
    mut rows: Answers<FlightData>,
) -> Answers<FlightData> {
    let answers = stream::poll_fn(move |context| {
        if end.poll_unpin(context).is_ready() {
            let error = Status::from(Error::ShuttingDown);
            rows = stream::empty().boxed();
            return Poll::Ready(Some(Err(error)));
        }
        rows.poll_next_unpin(context)
    });
    answers.boxed()
}

fn unimplemented(message: &str) -> Status {
    Error::Unimplemented(message.to_owned()).into()
}
