//! Connections: many of them, and the ways to ask over one.

use anyhow::Context;
use arrow::array::{Int64Array, RecordBatch};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::sql::client::{FlightSqlServiceClient, PreparedStatement};
use arrow_flight::{FlightClient, FlightInfo, Ticket};
use clap::ValueEnum;
use duck_flight_protocol::{ConnectArgs, ConnectOptions};
use futures::TryStreamExt;
use serde_json::{Value, json};
use tonic::transport::Channel;

/// How many connections are made at a time: a listening socket's queue is short.
const CONNECTING_AT_ONCE: usize = 64;

#[derive(clap::Args)]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// How many.
    #[arg(long)]
    connections: usize,
}

/// How a statement reaches the server.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Via {
    /// Plain Flight: the ticket is the SQL text.
    Plain,
    /// Flight SQL: `GetFlightInfo`, then `DoGet`.
    FlightSql,
    /// A prepared statement of Flight SQL, its parameter bound anew for each query.
    Prepared,
}

/// A statement, and the ways it is asked. A `?` in it stands for a key.
#[derive(Clone)]
pub(crate) struct Statement {
    pub(crate) sql: String,
    pub(crate) via: Via,
}

impl Statement {
    fn takes_key(&self) -> bool {
        self.sql.contains('?')
    }

    fn with_key(&self, key: i64) -> String {
        self.sql.replace('?', &key.to_string())
    }
}

/// A connection that a statement is asked over again and again.
pub(crate) struct Asker {
    statement: Statement,
    client: Client,
}

enum Client {
    Plain(FlightClient),
    Sql(FlightSqlServiceClient<Channel>),
    Prepared(
        FlightSqlServiceClient<Channel>,
        Box<PreparedStatement<Channel>>,
    ),
}

impl Asker {
    pub(crate) async fn connect(
        server: &ConnectOptions,
        statement: Statement,
    ) -> anyhow::Result<Self> {
        let plain = server.connect().await?;
        let client = match statement.via {
            Via::Plain => Client::Plain(plain),
            Via::FlightSql => Client::Sql(flight_sql(plain)),
            Via::Prepared => {
                let mut client = flight_sql(plain);
                let prepared = client.prepare(statement.sql.clone(), None).await;
                Client::Prepared(client, Box::new(prepared.context("prepare")?))
            }
        };
        Ok(Self { statement, client })
    }

    /// Asks, and answers with the rows as they come.
    pub(crate) async fn ask(&mut self, key: i64) -> anyhow::Result<FlightRecordBatchStream> {
        match &mut self.client {
            Client::Plain(client) => {
                let ticket = Ticket::new(self.statement.with_key(key));
                Ok(client.do_get(ticket).await?)
            }
            Client::Sql(client) => {
                let info = client.execute(self.statement.with_key(key), None).await?;
                Ok(client.do_get(ticket_of(info)?).await?)
            }
            Client::Prepared(client, prepared) => {
                if self.statement.takes_key() {
                    let keys = Int64Array::from(vec![key]);
                    let bound = RecordBatch::try_from_iter([("1", std::sync::Arc::new(keys) as _)]);
                    prepared.set_parameters(bound?)?;
                }
                let info = prepared.execute().await?;
                Ok(client.do_get(ticket_of(info)?).await?)
            }
        }
    }

    /// Asks and reads the whole result; answers with how many rows it has.
    pub(crate) async fn rows(&mut self, key: i64) -> anyhow::Result<usize> {
        let batches: Vec<_> = self.ask(key).await?.try_collect().await?;
        Ok(batches.iter().map(RecordBatch::num_rows).sum())
    }
}

fn flight_sql(client: FlightClient) -> FlightSqlServiceClient<Channel> {
    FlightSqlServiceClient::new_from_inner(client.into_inner())
}

fn ticket_of(info: FlightInfo) -> anyhow::Result<Ticket> {
    let endpoint = info.endpoint.into_iter().next();
    endpoint
        .and_then(|endpoint| endpoint.ticket)
        .context("the flight has no ticket")
}

/// As many connections as asked for, each ready to ask.
pub(crate) async fn askers(
    server: &ConnectOptions,
    statement: &Statement,
    connections: usize,
) -> anyhow::Result<Vec<Asker>> {
    let mut askers = Vec::with_capacity(connections);
    while askers.len() < connections {
        let count = CONNECTING_AT_ONCE.min(connections - askers.len());
        let more = (0..count).map(|_| Asker::connect(server, statement.clone()));
        askers.extend(futures::future::try_join_all(more).await?);
    }
    Ok(askers)
}

/// Connects, prints that it has, and holds the connections until standard input ends.
pub(crate) async fn idle(args: IdleArgs) -> anyhow::Result<Value> {
    let statement = Statement {
        sql: "SELECT 42".to_owned(),
        via: Via::Plain,
    };
    let mut held = askers(&args.connect.into(), &statement, args.connections).await?;
    for asker in &mut held {
        asker.rows(0).await?;
    }
    println!("connected");
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()))
        .await??;
    Ok(json!({ "connections": held.len() }))
}
