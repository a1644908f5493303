//! Serving: the transport's settings, and the way down.

mod body;
mod connection;
mod deadline;
mod door;
mod inflow;

use std::convert::Infallible;
use std::future::Future;
use std::num::NonZeroUsize;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use futures::future::{BoxFuture, Either, MapOk};
use futures::{FutureExt, TryFutureExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::transport::Server;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::config::Config;
use crate::drain::{Drain, Stage};
use crate::engine::{Closed, Engine, STACK_BYTES, STOP_PATIENCE};
use crate::error::Error;
use crate::flight::{FrontDoor, RequestBytes};
use crate::intake::Intake;
use crate::session::Sessions;
use body::RequestBody;
use door::connections;
use inflow::Inflow;

/// How much a client may send on one stream ahead of what was read.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// How much a client may send on one connection ahead of what was read: however many puts are held back, the others have room.
const CONNECTION_WINDOW_BYTES: u32 = MAX_STREAMS * STREAM_WINDOW_BYTES;

/// The largest HTTP/2 frame: large ones save work on large messages and cost small ones nothing.
const FRAME_BYTES: u32 = 1 << 20;

/// A client that answers no ping for this long is gone.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Streams on one connection.
const MAX_STREAMS: u32 = 256;

/// A client may cancel this many streams at once before its connection is closed as an attack.
const MAX_PENDING_RESETS: usize = 1024;

/// Headers hold credentials and what drivers add to them.
const MAX_HEADER_BYTES: u32 = 64 << 10;

/// How long clients have to take their last answers before their connections are cut. It is over once all have, so that only those
/// that take nothing make it last; behind a slow network, or beside much else on the machine, a second is too short to read what is
/// on its way before the answer.
const FAREWELL: Duration = Duration::from_secs(3);

/// The call whose handler may read its request's bytes by itself.
const PUT: &str = "/arrow.flight.protocol.FlightService/DoPut";

/// A server needs two threads of the network at least: one may run a small query while the other one looks what comes in.
const MIN_NETWORK_THREADS: usize = 2;

/// Starts a runtime for [`serve`].
///
/// # Errors
/// When its threads cannot be started.
pub fn runtime() -> std::io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.max(MIN_NETWORK_THREADS))
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
}

/// Why a server stopped before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The transport failed.
    #[error("serve")]
    Transport(#[from] tonic::transport::Error),
    /// The database cannot be used any more; a new process replays its log and can.
    #[error("the database is unusable until it is opened again: {0}")]
    Database(String),
}

/// Serves until `shutdown` completes, then finishes what is in flight, checkpoints and closes the database; answers how that
/// was closed. What has not finished within the configured grace is ended.
///
/// # Errors
/// When the transport fails, or the database becomes unusable.
pub async fn serve(
    listener: TcpListener,
    engine: Engine,
    config: &Config,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<Closed, ServeError> {
    let sessions = Sessions::new(engine.clone(), config.expiry);
    let (stages, drain) = Drain::new();
    let front_door = FrontDoor::new(sessions.clone(), config.max_message_bytes, drain.clone());
    let sweeping = front_door.sweep();
    let inflow = Inflow::new(config.max_message_bytes, config.engine.stall_timeout);
    let serving = transport(listener, front_door, inflow, &drain);
    tokio::select! {
        served = serving => served?,
        never = way_down(shutdown, stages, config.shutdown_grace) => match never {},
        reason = engine.failed() => return Err(ServeError::Database(reason)),
        () = sweeping => {}
    }
    // A statement that does not end keeps its session.
    tokio::time::timeout(STOP_PATIENCE, sessions.end_all())
        .await
        .ok();
    let closing = tokio::task::spawn_blocking(move || engine.close());
    Ok(closing.await.unwrap_or_else(|_| {
        tracing::error!("the engine did not close cleanly");
        Closed::LogLeft
    }))
}

/// Serves any Flight service over this server's transport until `shutdown` completes; what is in flight then is cut.
///
/// The benchmark has a service that does nothing, and so finds what the transport costs by itself.
///
/// # Errors
/// When the transport fails.
pub async fn serve_flight(
    listener: TcpListener,
    service: impl FlightService,
    max_message_bytes: usize,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let (stages, drain) = Drain::new();
    let inflow = Inflow::new(max_message_bytes, Duration::MAX);
    tokio::select! {
        served = transport(listener, service, inflow, &drain) => Ok(served?),
        never = way_down(shutdown, stages, Duration::ZERO) => match never {},
    }
}

/// Serves a Flight service until the way down has begun and all connections have ended.
fn transport<S: FlightService>(
    listener: TcpListener,
    service: S,
    inflow: Inflow,
    drain: &Drain,
) -> impl Future<Output = Result<(), tonic::transport::Error>> + use<S> {
    let service = FlightServiceServer::new(service)
        .max_decoding_message_size(inflow.max_message_bytes())
        .max_encoding_message_size(usize::MAX);
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(RequestsLayer(inflow))
        .add_service(service)
        .serve_with_incoming_shutdown(
            connections(listener, drain),
            drain.reaches(Stage::Finishing),
        )
}

/// Leads the server down once `shutdown` completes. It is down when nothing is served any more, at whatever stage.
async fn way_down(
    shutdown: impl Future<Output = ()>,
    stages: watch::Sender<Stage>,
    grace: Duration,
) -> Infallible {
    shutdown.await;
    stages.send_replace(Stage::Finishing);
    tokio::time::sleep(grace).await;
    tracing::info!("the grace is over: what is still in flight is ended");
    stages.send_replace(Stage::Ending);
    tokio::time::sleep(FAREWELL).await;
    stages.send_replace(Stage::Cut);
    std::future::pending().await
}

/// Looks after requests before tonic reads them: their bytes, and the time they are given.
#[derive(Clone)]
struct RequestsLayer(Inflow);

impl<S> Layer<S> for RequestsLayer {
    type Service = Requests<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Requests {
            inner,
            inflow: self.0.clone(),
        }
    }
}

#[derive(Clone)]
struct Requests<S> {
    inner: S,
    inflow: Inflow,
}

impl<S, B> Service<http::Request<Body>> for Requests<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: Default + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = MapOk<
        Either<S::Future, BoxFuture<'static, Result<S::Response, S::Error>>>,
        fn(S::Response) -> S::Response,
    >;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let time = deadline::of(request.headers());
        let intake = Intake::default();
        let (mut parts, body) = request.into_parts();
        let body = RequestBody::new(body, self.inflow.clone(), intake.clone());
        let mut body = Body::new(body);
        parts.extensions.insert(intake);
        if parts.uri.path() == PUT {
            let bytes = RequestBytes::new(body);
            parts.extensions.insert(bytes.clone());
            body = Body::new(bytes);
        }
        let call = self.inner.call(http::Request::from_parts(parts, body));
        let call = match time {
            None => Either::Left(call),
            Some(time) => Either::Right(deadline::within(time, call).boxed()),
        };
        call.map_ok(name_the_limit)
    }
}

/// tonic calls a request over the message limit OUT_OF_RANGE; by our contract, limits are RESOURCE_EXHAUSTED.
fn name_the_limit<B>(mut response: http::Response<B>) -> http::Response<B> {
    let headers = response.headers_mut();
    if let Some(status) = Status::from_header_map(headers)
        && status.code() == Code::OutOfRange
    {
        let named = Error::MessageTooLarge(status.message().to_owned());
        // What cannot be said in a header is said by its code alone.
        Status::from(named).add_header(headers).ok();
    }
    response
}
