//! A server inside the test's process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use duck_flight_server::{
    Closed, Config, DEFAULT_ROW_GROUP_ROWS, DEFAULT_STORAGE_VERSION, Engine, EngineOptions, Expiry,
    ServeError, runtime, serve,
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::{Client, eventually};

/// The settings of a [`TestServer`].
#[derive(Debug, Clone)]
pub struct Setup {
    /// How many statements run at the same time.
    pub max_queries: usize,
    /// How long a client may stand still in the middle of a statement that others wait for.
    pub stall_timeout: Duration,
    /// DuckDB's memory limit, as DuckDB reads it.
    pub memory_limit: Option<String>,
    /// How many bytes of rows may wait for their commit.
    pub ingest_buffer_bytes: usize,
    /// The largest message, in bytes.
    pub max_message_bytes: usize,
    /// When what clients leave behind expires.
    pub expiry: Expiry,
    /// How long what is in flight may go on once it is to stop.
    pub shutdown_grace: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            max_queries: 8,
            stall_timeout: Duration::from_secs(30),
            memory_limit: Some("1GiB".into()),
            ingest_buffer_bytes: 64 << 20,
            max_message_bytes: 64 << 20,
            expiry: Expiry {
                session: Duration::from_secs(3600),
                transaction: Duration::from_secs(300),
            },
            shutdown_grace: Duration::from_secs(20),
        }
    }
}

impl Setup {
    /// Starts a server with these settings on a new database.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(self) -> TestServer {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let database = directory.path().join("test.db");
        let config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            engine: EngineOptions {
                database: database.clone(),
                threads: None,
                memory_limit: self.memory_limit,
                storage_version: DEFAULT_STORAGE_VERSION.to_owned(),
                salvage_log: false,
                row_group_rows: DEFAULT_ROW_GROUP_ROWS,
                max_queries: self.max_queries,
                stall_timeout: self.stall_timeout,
                ingest_buffer_bytes: self.ingest_buffer_bytes,
                min_free_disk_bytes: 0,
                spill_limit_bytes: None,
            },
            max_message_bytes: self.max_message_bytes,
            expiry: self.expiry,
            shutdown_grace: self.shutdown_grace,
        };
        let engine = Engine::open(&config.engine).expect("a new database opens");
        let listener = TcpListener::bind(config.listen).await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        let (served, serving) = oneshot::channel();
        // A runtime of its own, as the binary has: nothing a test does holds the server back.
        std::thread::spawn(move || {
            let runtime = runtime().expect("a runtime");
            let listener = listener.into_std().expect("a listener");
            served.send(runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                let stopped = async { drop(stopped.await) };
                serve(listener, engine, &config, stopped).await
            }))
        });
        TestServer {
            address,
            database,
            stop,
            serving,
            directory,
        }
    }
}

/// A server inside the test's process, on a port and in a directory of its own.
#[derive(Debug)]
pub struct TestServer {
    address: String,
    database: PathBuf,
    stop: oneshot::Sender<()>,
    serving: oneshot::Receiver<Result<Closed, ServeError>>,
    directory: TempDir,
}

impl TestServer {
    /// Starts one with the default settings.
    pub async fn start() -> Self {
        Setup::default().start().await
    }

    /// Starts one on which `max_queries` statements run at the same time.
    pub async fn with_max_queries(max_queries: usize) -> Self {
        let setup = Setup {
            max_queries,
            ..Setup::default()
        };
        setup.start().await
    }

    /// Where it listens: `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A new connection.
    pub async fn client(&self) -> Client {
        Client::connect(&self.address).await
    }

    /// Stops it; once that is done, everything that was begun is finished. Answers with its directory, in
    /// which the database is `test.db`.
    ///
    /// # Panics
    /// When it does not end, or ends with an error.
    pub async fn shutdown(self) -> TempDir {
        self.stop.send(()).expect("it serves");
        let served = eventually("the server's end", self.serving).await;
        served.expect("no panic").expect("a clean end");
        assert!(self.database.exists());
        self.directory
    }
}

/// Starts a [`TestServer`] with the default settings, and connects to it.
pub async fn start() -> (TestServer, Client) {
    let server = TestServer::start().await;
    let client = server.client().await;
    (server, client)
}

/// The rows of a table in the database `test.db` of a directory, which no server has open any more.
///
/// # Panics
/// When they cannot be counted.
pub fn rows_at_rest(directory: &Path, table: &str) -> u64 {
    let database = duckdb::Connection::open(directory.join("test.db")).expect("a database");
    let sql = format!("SELECT count(*) FROM {table}");
    database
        .query_row(&sql, [], |row| row.get(0))
        .expect("a table")
}
