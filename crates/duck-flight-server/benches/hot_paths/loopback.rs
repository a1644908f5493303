//! The whole way: a server in this process, and a client over loopback that has as little to do as a client can.

use std::ffi::OsStr;
use std::path::Path;

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{Action, FlightData, Ticket};
use clap::Parser;
use duck_flight_protocol::{ACTION_QUERY, ConnectOptions};
use duck_flight_server::{Args, Config, Engine, Stages, serve};
use futures::TryStreamExt;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

/// A server in this process, and a connection to it.
pub(crate) struct Server {
    /// What the server is made of, on the same database.
    pub(crate) stages: Stages,
    client: FlightServiceClient<Channel>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(database: &Path) -> Self {
        let args = [
            "duck-flight-server",
            "--listen",
            "127.0.0.1:0",
            "--database",
        ]
        .map(OsStr::new);
        let args = Args::parse_from(args.into_iter().chain([database.as_os_str()]));
        let config = Config::try_from(args).expect("the flags make a configuration");
        let listener = TcpListener::bind(config.listen).await.expect("listen");
        let listen = listener.local_addr().expect("an address");
        let engine = Engine::open(&config.engine).expect("open the database");
        let stages = Stages::new(engine.clone(), config.max_message_bytes);
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            serve(listener, engine, &config, shutdown)
                .await
                .expect("serve");
        });
        let server = ConnectOptions {
            server: listen.to_string(),
        };
        let client = server.connect().await.expect("connect").into_inner();
        Self {
            stages,
            client,
            stop,
            serving,
        }
    }

    pub(crate) async fn execute(&self, sql: String) {
        let action = Action::new(ACTION_QUERY, sql);
        let answer = self.client.clone().do_action(action).await;
        let answer = answer.expect("run").into_inner();
        answer
            .try_collect::<Vec<_>>()
            .await
            .expect("run to the end");
    }

    /// Sends a put and waits for all acks; answers with how many came.
    pub(crate) async fn put(&self, messages: Vec<FlightData>) -> usize {
        let messages = futures::stream::iter(messages);
        let acks = self.client.clone().do_put(messages).await;
        let acks = acks.expect("put").into_inner();
        acks.try_collect::<Vec<_>>().await.expect("ack").len()
    }

    /// Asks, and answers with how many bytes came.
    pub(crate) async fn get(&self, sql: &'static str) -> usize {
        let result = self.client.clone().do_get(Ticket::new(sql)).await;
        let result = result.expect("get").into_inner();
        result
            .try_fold(
                0,
                async |bytes, message| Ok(bytes + message.data_body.len()),
            )
            .await
            .expect("read to the end")
    }

    pub(crate) async fn stop(self) {
        // The server waits for its connections.
        drop(self.client);
        drop(self.stages);
        let _ = self.stop.send(());
        self.serving.await.expect("stop");
    }
}
