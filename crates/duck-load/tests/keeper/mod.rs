//! A Flight service that keeps what it is sent, as the protocol says and as its faults let it.

mod answers;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow_flight::decode::{DecodedPayload, FlightDataDecoder};
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use duck_flight_protocol::{
    ACTION_PRODUCERS, Ack, BatchMetadata, Commit, ConnectOptions, PutOptions, Resume,
};
use duck_load::{Plan, Progress, Report, Stop};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// Changes what the table holds.
pub(crate) type Spoil = fn(&mut Vec<RecordBatch>);

/// What happens to a unit in place of an ack.
#[derive(Clone, Copy)]
pub(crate) enum Fault {
    /// It is turned down for now.
    Refuse,
    /// All connections break before it is committed.
    Cut,
    /// It is committed, and all connections break before its ack.
    LoseAck,
    /// The server fails at it, and says so: nothing of it is committed.
    Fail,
    /// Another stream of the producer has taken the place of this one.
    Fence,
    /// All connections break before it is committed, and another server answers: with an older copy, in which the one
    /// producer has so many units.
    Restore(usize),
    /// It is committed, and its ack waits for [`Kept::go_on`].
    Pause,
}

/// Keeps the batches it is sent.
#[derive(Clone)]
pub(crate) struct Keeper {
    kept: Arc<Mutex<Kept>>,
    /// Ends all connections whenever it changes.
    cut: Arc<watch::Sender<u64>>,
}

#[derive(Default)]
pub(crate) struct Kept {
    /// What happens to the units that come, counted from 1; the others are committed.
    pub(crate) faults: HashMap<usize, Fault>,
    /// What is done to the table before it is read.
    pub(crate) spoil: Option<Spoil>,
    /// Is told that the proof was asked for; whoever asks gets no answer then.
    pub(crate) asked: Option<Arc<Notify>>,
    /// Lets the ack go that waits.
    pub(crate) go_on: Arc<Notify>,
    /// The units that came.
    pub(crate) units: usize,
    /// The options of all puts.
    pub(crate) puts: Vec<PutOptions>,
    /// The table.
    pub(crate) batches: Vec<RecordBatch>,
    /// The sequences committed of each producer, in order.
    pub(crate) producers: BTreeMap<String, Vec<u64>>,
    /// What each producer sent first under each sequence.
    sent: HashMap<(String, u64), Vec<RecordBatch>>,
    /// Units that were sent again with other content.
    pub(crate) altered: usize,
}

/// Rows that are committed as a whole.
struct Unit {
    producer: Option<String>,
    sequence: Option<u64>,
    batches: Vec<RecordBatch>,
}

impl Keeper {
    pub(crate) fn new(faults: impl IntoIterator<Item = (usize, Fault)>) -> Self {
        let kept = Kept {
            faults: faults.into_iter().collect(),
            ..Kept::default()
        };
        Self {
            kept: Arc::new(Mutex::new(kept)),
            cut: Arc::new(watch::channel(0).0),
        }
    }

    pub(crate) fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }

    /// The rows kept of each batch id.
    pub(crate) fn rows_by_id(&self) -> HashMap<i64, usize> {
        let mut rows = HashMap::new();
        for batch in &self.kept().batches {
            let ids = batch.column(0).as_primitive::<Int64Type>().values();
            assert!(ids.iter().all(|id| *id == ids[0]));
            *rows.entry(ids[0]).or_default() += ids.len();
        }
        rows
    }

    pub(crate) async fn serve(&self) -> ConnectOptions {
        self.serve_on(TcpListener::bind("127.0.0.1:0").await.unwrap())
            .await
    }

    /// Serves behind a proxy whose connections can be cut.
    pub(crate) async fn serve_on(&self, front: TcpListener) -> ConnectOptions {
        let back = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let back_address = back.local_addr().unwrap();
        let server = front.local_addr().unwrap().to_string();
        // Without it, acks wait for the client's TCP to confirm the ones before: up to 40 ms each.
        let incoming = TcpIncoming::from(back).with_nodelay(Some(true));
        let service = FlightServiceServer::new(self.clone());
        let server_task = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming);
        tokio::spawn(server_task);
        let keeper = self.clone();
        tokio::spawn(async move {
            loop {
                let (mut client, _) = front.accept().await.unwrap();
                let mut cut = keeper.cut.subscribe();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(back_address).await.unwrap();
                    for end in [&client, &server] {
                        end.set_nodelay(true).unwrap();
                    }
                    tokio::select! {
                        _ = cut.changed() => {}
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    }
                });
            }
        });
        ConnectOptions { server }
    }

    pub(crate) async fn load(&self, plan: &Plan) -> Report {
        let server = self.serve().await;
        duck_load::load(&server, plan, Progress::silent(), Stop::never())
            .await
            .unwrap()
    }

    /// Takes a unit as its fault says; what is cut off gets no answer.
    async fn take(&self, unit: Unit) -> Result<Ack, Status> {
        let (fault, ack) = self.take_now(unit);
        match fault {
            None => Ok(ack),
            Some(Fault::Refuse) => Err(Status::resource_exhausted("the queue is full\u{7}")),
            Some(Fault::Fail) => Err(Status::internal("a writer panicked")),
            Some(Fault::Fence) => Err(Status::aborted("fenced: by a later stream")),
            Some(Fault::Pause) => {
                let go_on = self.kept().go_on.clone();
                go_on.notified().await;
                Ok(ack)
            }
            Some(Fault::Cut | Fault::LoseAck | Fault::Restore(_)) => {
                self.cut.send_modify(|cuts| *cuts += 1);
                std::future::pending().await
            }
        }
    }

    fn take_now(&self, unit: Unit) -> (Option<Fault>, Ack) {
        let mut kept = self.kept();
        kept.units += 1;
        let fault = kept.faults.get(&kept.units).copied();
        if let (Some(producer), Some(sequence)) = (&unit.producer, unit.sequence) {
            let key = (producer.clone(), sequence);
            let first = kept.sent.entry(key).or_insert_with(|| unit.batches.clone());
            let altered = *first != unit.batches;
            kept.altered += usize::from(altered);
        }
        let ack = match fault {
            None | Some(Fault::LoseAck | Fault::Pause) => kept.commit(unit),
            Some(Fault::Restore(units)) => {
                kept.restore(units);
                Ack::default()
            }
            Some(Fault::Refuse | Fault::Cut | Fault::Fail | Fault::Fence) => Ack::default(),
        };
        (fault, ack)
    }
}

impl Kept {
    fn commit(&mut self, unit: Unit) -> Ack {
        let rows: usize = unit.batches.iter().map(RecordBatch::num_rows).sum();
        let mut ack = Ack {
            rows: rows.try_into().unwrap(),
            sequence: unit.sequence,
            ..Ack::default()
        };
        if let Some(producer) = unit.producer {
            let sequence = unit.sequence.expect("a producer numbers its units");
            let committed = self.producers.entry(producer).or_default();
            ack.duplicate = committed.last().is_some_and(|last| sequence <= *last);
            if !ack.duplicate {
                committed.push(sequence);
            }
        }
        if !ack.duplicate {
            self.batches.extend(unit.batches);
        }
        ack
    }

    /// Leaves so many units of the one producer, each of which is one batch.
    fn restore(&mut self, units: usize) {
        assert_eq!(self.producers.len(), 1);
        for committed in self.producers.values_mut() {
            committed.truncate(units);
        }
        self.batches.truncate(units);
    }

    fn last_sequence(&self, producer: &str) -> u64 {
        let committed = self.producers.get(producer);
        committed.and_then(|all| all.last()).copied().unwrap_or(0)
    }
}

fn put_result(json: Vec<u8>) -> PutResult {
    PutResult {
        app_metadata: json.into(),
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
        self.kept().puts.push(options.clone());
        let keeper = self.clone();
        let producer = options.producer.clone();
        let batches = FlightDataDecoder::new(messages.map_err(Into::into).boxed())
            .map_err(Status::from)
            .try_filter_map(async |message| match message.payload {
                DecodedPayload::RecordBatch(batch) => Ok(Some((message.inner, batch))),
                _ => Ok(None),
            });
        if options.commit == Commit::Stream {
            let batches = batches.map_ok(|(_, batch)| batch).try_collect().await?;
            let sequence = options.sequence;
            let unit = Unit {
                producer,
                sequence,
                batches,
            };
            let ack = keeper.take(unit).await?;
            let answer = stream::once(async move { Ok(put_result(ack.to_json())) });
            return Ok(Response::new(answer.boxed()));
        }
        let resume = producer.as_ref().map(|name| {
            let resume_after = self.kept().last_sequence(name);
            Ok(put_result(Resume { resume_after }.to_json()))
        });
        let acks = batches.and_then(move |(message, batch)| {
            let (keeper, producer) = (keeper.clone(), producer.clone());
            async move {
                let metadata = BatchMetadata::from_json(&message.app_metadata).unwrap();
                let unit = Unit {
                    producer,
                    sequence: metadata.sequence,
                    batches: vec![batch],
                };
                Ok(put_result(keeper.take(unit).await?.to_json()))
            }
        });
        Ok(Response::new(stream::iter(resume).chain(acks).boxed()))
    }

    async fn do_get(
        &self,
        request: Request<Ticket>,
    ) -> Result<Response<Self::DoGetStream>, Status> {
        let ticket = request.into_inner().ticket;
        let query = std::str::from_utf8(&ticket).unwrap();
        let is_look = query.starts_with("SELECT 1 ");
        let asked = self.kept().asked.clone();
        if let Some(asked) = asked
            && !is_look
        {
            asked.notify_one();
            return std::future::pending().await;
        }
        let mut batches = self.kept().batches.clone();
        if let Some(spoil) = self.kept().spoil {
            spoil(&mut batches);
        }
        Ok(Response::new(match is_look {
            true => answers::first_held(&batches, query),
            false => answers::digests(&batches),
        }))
    }

    async fn do_action(
        &self,
        request: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        if request.into_inner().r#type != ACTION_PRODUCERS {
            return Err(Status::unimplemented("action"));
        }
        let kept = self.kept();
        let Some(table) = kept.puts.first().map(|options| options.table.clone()) else {
            return Ok(Response::new(stream::empty().boxed()));
        };
        let names: Vec<_> = kept.producers.keys().collect();
        let states = names
            .into_iter()
            .map(|name| answers::state(name, &table, kept.last_sequence(name)))
            .collect::<Vec<_>>();
        Ok(Response::new(stream::iter(states).map(Ok).boxed()))
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

    async fn do_exchange(
        &self,
        _: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(Status::unimplemented("exchange"))
    }

    async fn list_actions(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        Err(Status::unimplemented("list actions"))
    }
}
