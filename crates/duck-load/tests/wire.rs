//! The loader against a Flight service that keeps what it is sent, over a real connection.

use std::collections::{HashMap, HashSet};
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::sync::{Arc, Mutex};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use duck_flight_protocol::{Ack, Commit, ConnectOptions, PutOptions};
use duck_load::{Plan, Progress, Report, Stop};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// Keeps the batches it is sent, and turns down the first `refusals` of them.
#[derive(Clone, Default)]
struct Keeper(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    refusals: usize,
    puts: Vec<PutOptions>,
    batches: Vec<RecordBatch>,
}

impl Keeper {
    fn refusing(refusals: usize) -> Self {
        let keeper = Self::default();
        keeper.0.lock().unwrap().refusals = refusals;
        keeper
    }

    fn keep(&self, batch: RecordBatch) -> Result<u64, Status> {
        let mut kept = self.0.lock().unwrap();
        if kept.refusals > 0 {
            kept.refusals -= 1;
            return Err(Status::resource_exhausted("the queue is full"));
        }
        let rows = u64::try_from(batch.num_rows()).unwrap();
        kept.batches.push(batch);
        Ok(rows)
    }

    /// The rows kept of each batch id.
    fn rows_by_id(&self) -> HashMap<i64, usize> {
        let mut rows = HashMap::new();
        for batch in &self.0.lock().unwrap().batches {
            let ids = batch.column(0).as_primitive::<Int64Type>().values();
            assert!(ids.iter().all(|id| *id == ids[0]));
            *rows.entry(ids[0]).or_default() += ids.len();
        }
        rows
    }

    async fn serve(&self) -> ConnectOptions {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap().to_string();
        // Without it, acks wait for the client's TCP to confirm the ones before: up to 40 ms each.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let service = FlightServiceServer::new(self.clone());
        let server_task = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming);
        tokio::spawn(server_task);
        ConnectOptions { server }
    }

    async fn load(&self, plan: &Plan) -> Report {
        let server = self.serve().await;
        duck_load::load(&server, plan, Progress::silent(), Stop::never())
            .await
            .unwrap()
    }
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

#[tonic::async_trait]
impl FlightService for Keeper {
    type DoPutStream = Answers<PutResult>;
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoActionStream = Answers<arrow_flight::Result>;
    type ListActionsStream = Answers<ActionType>;
    type DoExchangeStream = Answers<FlightData>;

    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        let mut messages = request.into_inner().peekable();
        let first = std::pin::Pin::new(&mut messages).peek().await;
        let Some(Ok(FlightData {
            flight_descriptor: Some(descriptor),
            ..
        })) = first
        else {
            return Err(Status::invalid_argument("no descriptor"));
        };
        let options = PutOptions::from_descriptor(descriptor).unwrap();
        self.0.lock().unwrap().puts.push(options.clone());
        let batches = FlightRecordBatchStream::new_from_flight_data(messages.map_err(Into::into));
        let keeper = self.clone();
        let mut acks = batches
            .map_err(Status::from)
            .map(move |batch| batch.and_then(|batch| keeper.keep(batch)))
            .boxed();
        if options.commit == Commit::Stream {
            let rows = acks.try_fold(0, async |sum, rows| Ok(sum + rows)).await?;
            acks = futures::stream::once(async move { Ok(rows) }).boxed();
        }
        Ok(Response::new(acks.map_ok(ack).boxed()))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        Err(Status::unimplemented("handshake"))
    }

    async fn list_flights(
        &self,
        _: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        Err(Status::unimplemented("list flights"))
    }

    async fn get_flight_info(
        &self,
        _: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        Err(Status::unimplemented("get flight info"))
    }

    async fn poll_flight_info(
        &self,
        _: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        Err(Status::unimplemented("poll flight info"))
    }

    async fn get_schema(
        &self,
        _: Request<FlightDescriptor>,
    ) -> Result<Response<SchemaResult>, Status> {
        Err(Status::unimplemented("get schema"))
    }

    async fn do_get(&self, _: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        Err(Status::unimplemented("get"))
    }

    async fn do_exchange(
        &self,
        _: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(Status::unimplemented("exchange"))
    }

    async fn do_action(
        &self,
        _: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        Err(Status::unimplemented("action"))
    }

    async fn list_actions(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        Err(Status::unimplemented("list actions"))
    }
}

fn plan(commit: Commit) -> Plan {
    Plan {
        writers: NonZeroUsize::new(4).unwrap(),
        batches: NonZeroU64::new(50),
        commit,
        ..Plan::new("odd \"name\".x")
    }
}

#[tokio::test]
async fn every_acknowledged_batch_arrives_whole_and_once() {
    for commit in [Commit::Stream, Commit::Batch] {
        let keeper = Keeper::default();
        let report = keeper.load(&plan(commit)).await;
        assert!(report.is_success(), "{report}");
        assert_eq!((report.rows, report.batches), (200_000, 200));
        let rows = keeper.rows_by_id();
        assert_eq!(rows.len(), 200);
        assert!(rows.values().all(|rows| *rows == 1000));
    }
}

#[tokio::test]
async fn stream_commit_is_a_put_per_batch_and_batch_commit_a_put_per_writer() {
    for (commit, puts) in [(Commit::Stream, 200), (Commit::Batch, 4)] {
        let keeper = Keeper::default();
        keeper.load(&plan(commit)).await;
        let kept = keeper.0.lock().unwrap();
        assert_eq!(kept.puts.len(), puts);
        for options in &kept.puts {
            assert_eq!(options.table, "odd \"name\".x".into());
            assert_eq!(options.commit, commit);
        }
    }
}

#[tokio::test]
async fn what_the_server_turns_down_for_now_is_sent_again() {
    for commit in [Commit::Stream, Commit::Batch] {
        let keeper = Keeper::refusing(2);
        let plan = Plan {
            writers: NonZeroUsize::MIN,
            in_flight: NonZeroUsize::MIN,
            ..plan(commit)
        };
        let report = keeper.load(&plan).await;
        assert!(report.is_success(), "{report}");
        assert_eq!((report.batches, report.retries), (50, 2));
        assert_eq!(keeper.rows_by_id().len(), 50);
    }
}

#[tokio::test]
async fn a_large_batch_goes_into_one_put_as_several_messages() {
    let keeper = Keeper::default();
    let plan = Plan {
        rows: NonZeroU32::new(200_000).unwrap(),
        batches: NonZeroU64::new(1),
        writers: NonZeroUsize::MIN,
        ..plan(Commit::Stream)
    };
    let report = keeper.load(&plan).await;
    assert!(report.is_success(), "{report}");
    let rows: Vec<_> = keeper.rows_by_id().into_values().collect();
    assert_eq!(rows, [200_000]);
    assert_eq!(keeper.0.lock().unwrap().batches.len(), 4);
}

#[tokio::test]
async fn loaders_started_together_never_share_an_id_even_with_one_seed() {
    let keeper = Keeper::default();
    let server = keeper.serve().await;
    let plan = Plan {
        seed: Some(1),
        ..plan(Commit::Batch)
    };
    let loads = (0..8).map(|_| duck_load::load(&server, &plan, Progress::silent(), Stop::never()));
    let reports = futures::future::try_join_all(loads).await.unwrap();
    assert!(reports.iter().all(Report::is_success));
    let ids: HashSet<_> = keeper.rows_by_id().into_keys().collect();
    assert_eq!(ids.len(), 8 * 200);
}
