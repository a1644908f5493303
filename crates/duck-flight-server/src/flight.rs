//! The front door: every Flight call comes in here and is told apart, plain Flight or Flight SQL.
//!
//! Flight SQL is what decodes as a protobuf `Any` with a type of `arrow.flight.protocol.sql`; all else is
//! plain Flight. Handlers are thin: who asks, one call, wrap.

mod action;
mod decode;
mod get;
mod list;
mod put;
mod size;
mod sql;

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use futures::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use crate::engine::Engine;
use crate::error::Error;

/// What a call streams to its client.
type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// The Flight service.
pub(crate) struct FrontDoor {
    engine: Engine,
    max_message_bytes: usize,
}

impl FrontDoor {
    pub(crate) fn new(engine: Engine, max_message_bytes: usize) -> Self {
        Self {
            engine,
            max_message_bytes,
        }
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
        let ticket = request.into_inner().ticket;
        sql::refuse(&ticket)?;
        Ok(Response::new(get::get(&self.engine, &ticket).await?))
    }

    #[tracing::instrument(skip_all)]
    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        let acks = put::put(&self.engine, request.into_inner(), self.max_message_bytes).await?;
        Ok(Response::new(acks))
    }

    #[tracing::instrument(skip_all)]
    async fn do_action(
        &self,
        request: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        Ok(Response::new(
            action::run(&self.engine, request.into_inner()).await?,
        ))
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
        let descriptor = request.into_inner();
        sql::refuse(&descriptor.cmd)?;
        Ok(Response::new(
            get::flight_info(&self.engine, descriptor).await?,
        ))
    }

    #[tracing::instrument(skip_all)]
    async fn get_schema(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<SchemaResult>, Status> {
        let descriptor = request.into_inner();
        sql::refuse(&descriptor.cmd)?;
        Ok(Response::new(get::schema(&self.engine, &descriptor).await?))
    }

    #[tracing::instrument(skip_all)]
    async fn list_flights(
        &self,
        request: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        Ok(Response::new(
            list::flights(&self.engine, &request.into_inner()).await?,
        ))
    }

    async fn handshake(
        &self,
        _request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        Err(unimplemented(
            "this server asks for no credentials: connect without them",
        ))
    }

    async fn poll_flight_info(
        &self,
        _request: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        Err(unimplemented(
            "PollFlightInfo is not supported yet; use GetFlightInfo",
        ))
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

fn unimplemented(message: &str) -> Status {
    Error::Unimplemented(message.to_owned()).into()
}
