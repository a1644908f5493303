//! A Flight server that answers `DoGet` with a result told by the ticket.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use futures::stream::{self, BoxStream, StreamExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// The rows of the result `many rows`.
pub(crate) const MANY_ROWS: i64 = 50_000;

/// The rows of a batch that counts.
const BATCH_ROWS: i64 = 1_000;

/// The server; it stops when dropped.
pub(crate) struct FakeServer {
    /// Where it listens.
    pub(crate) address: String,
    cancelled: Receiver<()>,
    _runtime: Runtime,
}

impl FakeServer {
    /// Starts a server on a free port.
    pub(crate) fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = format!("grpc://{}", listener.local_addr().unwrap());
        let (sender, cancelled) = channel();
        let service = FlightServiceServer::new(Results { cancelled: sender });
        let server = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        runtime.spawn(server);
        Self {
            address,
            cancelled,
            _runtime: runtime,
        }
    }

    /// Waits until a client has given up a result that has no end.
    pub(crate) fn wait_until_cancelled(&self) {
        self.cancelled.recv().unwrap();
    }
}

type Batches = BoxStream<'static, Result<RecordBatch, FlightError>>;

struct Results {
    cancelled: Sender<()>,
}

impl Results {
    fn result(&self, sql: &str) -> Result<Batches, Status> {
        Ok(match sql {
            "two rows" => batches(vec![two_rows()]),
            "no rows" => batches(vec![two_rows().slice(0, 0)]),
            "DROP TABLE t" => batches(vec![empty("Success", DataType::Boolean)]),
            "CREATE TABLE t" => batches(vec![empty("Count", DataType::Int64)]),
            "SELECT Count" => batches(vec![empty("Count", DataType::Int64)]),
            "INSERT" => batches(vec![empty("Count", DataType::Int64), count_of_seven()]),
            "no columns" => batches(vec![no_columns()]),
            "many rows" => batches(
                (0..MANY_ROWS / BATCH_ROWS)
                    .map(|batch| counting(batch * BATCH_ROWS, BATCH_ROWS))
                    .collect(),
            ),
            "endless rows" => {
                self.endless(stream::iter((0..).map(|_| Ok(counting(0, BATCH_ROWS)))))
            }
            "wait after one row" => {
                let row = stream::iter([Ok(counting(0, 1))]);
                self.endless(row.chain(stream::pending()))
            }
            "fail at once" => {
                let message = "Parser Error: no such word\nLINE 1: fail at once\n             ^";
                return Err(Status::invalid_argument(message));
            }
            "fail in red" => {
                return Err(Status::invalid_argument(
                    "\u{1b}[31mred\u{7}\u{202e}\nLINE 1",
                ));
            }
            "fail later" => {
                let error = Status::resource_exhausted("out of luck");
                let error = FlightError::Tonic(Box::new(error));
                stream::iter([Ok(two_rows()), Err(error)]).boxed()
            }
            sql => {
                let sql: ArrayRef = Arc::new(StringArray::from(vec![sql]));
                batches(vec![RecordBatch::try_from_iter([("sql", sql)]).unwrap()])
            }
        })
    }

    /// A result that tells when its client is gone.
    fn endless(
        &self,
        batches: impl stream::Stream<Item = Result<RecordBatch, FlightError>> + Send + 'static,
    ) -> Batches {
        let guard = TellOnDrop(self.cancelled.clone());
        let guarded = batches.map(move |batch| {
            let _held = &guard;
            batch
        });
        guarded.boxed()
    }
}

struct TellOnDrop(Sender<()>);

impl Drop for TellOnDrop {
    fn drop(&mut self) {
        // The test may be over.
        let _ = self.0.send(());
    }
}

fn batches(batches: Vec<RecordBatch>) -> Batches {
    stream::iter(batches.into_iter().map(Ok)).boxed()
}

fn two_rows() -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let words: ArrayRef = Arc::new(StringArray::from(vec![Some("one"), None]));
    RecordBatch::try_from_iter([("n", numbers), ("word", words)]).unwrap()
}

fn counting(from: i64, rows: i64) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + rows));
    RecordBatch::try_from_iter([("n", numbers)]).unwrap()
}

/// No rows of one column.
fn empty(name: &str, data_type: DataType) -> RecordBatch {
    let schema = Schema::new(vec![Field::new(name, data_type, true)]);
    RecordBatch::new_empty(Arc::new(schema))
}

fn count_of_seven() -> RecordBatch {
    let count: ArrayRef = Arc::new(Int64Array::from(vec![7]));
    RecordBatch::try_from_iter_with_nullable([("Count", count, true)]).unwrap()
}

fn no_columns() -> RecordBatch {
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let schema = Arc::new(Schema::empty());
    RecordBatch::try_new_with_options(schema, vec![], &options).unwrap()
}

type Answer<T> = Result<Response<T>, Status>;
type Many<T> = BoxStream<'static, Result<T, Status>>;

fn not_here<T>() -> Answer<T> {
    Err(Status::unimplemented("this server only has DoGet"))
}

#[tonic::async_trait]
impl FlightService for Results {
    type HandshakeStream = Many<HandshakeResponse>;
    type ListFlightsStream = Many<FlightInfo>;
    type DoGetStream = Many<FlightData>;
    type DoPutStream = Many<PutResult>;
    type DoExchangeStream = Many<FlightData>;
    type DoActionStream = Many<arrow_flight::Result>;
    type ListActionsStream = Many<ActionType>;

    async fn do_get(&self, request: Request<Ticket>) -> Answer<Self::DoGetStream> {
        let ticket = request.into_inner().ticket;
        let batches = self.result(std::str::from_utf8(&ticket).unwrap())?;
        let messages = FlightDataEncoderBuilder::new().build(batches);
        Ok(Response::new(
            messages
                .map(|message| message.map_err(Status::from))
                .boxed(),
        ))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Answer<Self::HandshakeStream> {
        not_here()
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Answer<Self::ListFlightsStream> {
        not_here()
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<FlightInfo> {
        not_here()
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<PollInfo> {
        not_here()
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Answer<SchemaResult> {
        not_here()
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Answer<Self::DoPutStream> {
        not_here()
    }

    async fn do_exchange(
        &self,
        _: Request<Streaming<FlightData>>,
    ) -> Answer<Self::DoExchangeStream> {
        not_here()
    }

    async fn do_action(&self, _: Request<Action>) -> Answer<Self::DoActionStream> {
        not_here()
    }

    async fn list_actions(&self, _: Request<Empty>) -> Answer<Self::ListActionsStream> {
        not_here()
    }
}
