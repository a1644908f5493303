//! The `duck-flight-server` command: flags in, exit code out.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use duck_flight_server::{
    Args, Closed, Config, Engine, Facts, LogFormat, log_panics, runtime, serve,
};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

/// Statements allocate on one thread what another frees, which glibc's allocator answers with locks and system
/// calls: with jemalloc a small query takes three quarters of the time. On Linux it serves DuckDB's library too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The exit code of a command line that is wrong, as clap has it.
const EXIT_USAGE: u8 = 2;

/// The exit code of a server that stopped as it was told, but left a log beside its database.
const EXIT_LOG_LEFT: u8 = 3;

/// The exit code of a server that was told twice to stop: what it was doing is not finished.
const EXIT_INTERRUPTED: i32 = 130;

/// How long what the runtime still does may take to end, once nobody is served any more.
const LEAVE_AFTER: Duration = Duration::from_secs(5);

/// How many connections the system may keep until they are let in, as tokio's own listeners have it.
const BACKLOG: u32 = 1024;

/// What the log tells unless `RUST_LOG` says otherwise.
const DEFAULT_LOG: &str = "info";

/// What carries the calls tells of each frame: only where it is asked for by its name.
const TRANSPORT_LOG: &str = "h2=info,hyper=info,tower=info";

fn main() -> ExitCode {
    let args = Args::parse();
    let log_format = args.log_format;
    let config = match Config::try_from(args) {
        Ok(config) => config,
        Err(error) => return wrong_usage(&error),
    };
    let asked = std::env::var_os("RUST_LOG").unwrap_or_default();
    match log_filter(&asked.to_string_lossy()) {
        Ok(filter) => {
            init_tracing(filter, log_format);
            log_panics();
        }
        Err(error) => return wrong_usage(&error),
    }
    let outcome = runtime().context("start the runtime").and_then(|runtime| {
        let outcome = runtime.block_on(run(config));
        // What waits for something that was left behind does not end by itself.
        runtime.shutdown_timeout(LEAVE_AFTER);
        outcome
    });
    match outcome {
        Ok(Closed::Checkpointed) => ExitCode::SUCCESS,
        Ok(Closed::LogLeft) => ExitCode::from(EXIT_LOG_LEFT),
        Err(error) => {
            tell(&format!("error: {}", told(&error)));
            ExitCode::FAILURE
        }
    }
}

fn wrong_usage(error: &dyn Display) -> ExitCode {
    tell(&format!("error: {error}"));
    ExitCode::from(EXIT_USAGE)
}

/// Writes a line to stderr; nobody is left to hear that even this fails.
fn tell(line: &str) {
    writeln!(std::io::stderr(), "{line}").ok();
}

/// The error and its causes. One that the error before it tells already is not told again.
fn told(error: &anyhow::Error) -> String {
    let mut told = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !told.ends_with(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    told
}

async fn run(config: Config) -> anyhow::Result<Closed> {
    let starting = Starting::begin(StopSignals::new().context("listen for signals")?);
    outlive_file_limit().context("listen for signals")?;
    allow_open_files();
    // Before the database: a port that is taken leaves nothing behind.
    let port = Port::take(config.listen)?;
    let engine = Engine::open(&config.engine).context("open the database")?;
    let address = port.address;
    let listener = port.listen()?;
    let signals = starting.end().await?;
    log_start(&config, engine.facts(), address);
    // Whoever started it need not read on to be served.
    writeln!(std::io::stdout(), "listening on {address}").ok();
    Ok(serve(listener, engine, &config, signals.first()).await?)
}

/// Says what was started: with the settings that were not given, too.
fn log_start(config: &Config, duckdb: &Facts, address: SocketAddr) {
    tracing::info!(
        version = %env!("CARGO_PKG_VERSION"),
        database = %config.engine.database.display(),
        duckdb = %duckdb.version,
        threads = %duckdb.threads,
        memory_limit = %duckdb.memory_limit,
        %address,
        "serving"
    );
}

/// A port that is taken and not open yet: connections are refused until it listens.
struct Port {
    socket: TcpSocket,
    address: SocketAddr,
}

impl Port {
    fn take(address: SocketAddr) -> anyhow::Result<Self> {
        let take = || -> std::io::Result<Self> {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            // Connections of the server before this one, which the system keeps for a while, do not count.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let address = socket.local_addr()?;
            Ok(Self { socket, address })
        };
        take().map_err(|error| not_listening(address, &error))
    }

    /// Opens it. Another process that was starting, too, may have been faster.
    fn listen(self) -> anyhow::Result<TcpListener> {
        let Self { socket, address } = self;
        let listening = socket.listen(BACKLOG);
        listening.map_err(|error| not_listening(address, &error))
    }
}

fn not_listening(address: SocketAddr, error: &std::io::Error) -> anyhow::Error {
    let remedy = match error.kind() {
        ErrorKind::AddrInUse => {
            "; stop the process that has it, or give another --listen (port 0 picks a free one)"
        }
        ErrorKind::AddrNotAvailable => "; give an address of this machine to --listen",
        ErrorKind::PermissionDenied => "; give a port above 1023 to --listen",
        _ => "",
    };
    anyhow::anyhow!("listen on {address}: {error}{remedy}")
}

/// Makes a file that would outgrow the process's limit (`ulimit -f`) an error of its write, like a disk that is full: by
/// itself, SIGXFSZ ends the process.
fn outlive_file_limit() -> std::io::Result<()> {
    // Once somebody listens, it is so for good.
    signal(SignalKind::from_raw(Signal::XFSZ.as_raw())).map(drop)
}

/// Lets the process have as many open files as it is allowed to ask for: each connection is one.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// The time from the start until the database is open, which may have to replay a long log first. Nobody is served, and
/// nothing is promised that the log does not hold: a signal ends the process at once.
struct Starting {
    /// Dropped at the end.
    running: oneshot::Sender<()>,
    signals: JoinHandle<StopSignals>,
}

impl Starting {
    /// Listens in a task of its own, for opening the database blocks.
    fn begin(mut signals: StopSignals) -> Self {
        let (running, over) = oneshot::channel::<()>();
        let signals = tokio::spawn(async move {
            tokio::select! {
                code = signals.next() => {
                    tell("stopped before it listened; the next start begins where this one did");
                    std::process::exit(code);
                }
                _ = over => signals,
            }
        });
        Self { running, signals }
    }

    /// Answers with the signals, which from now on ask to finish.
    async fn end(self) -> anyhow::Result<StopSignals> {
        drop(self.running);
        self.signals.await.context("listen for signals")
    }
}

/// SIGINT and SIGTERM: once it serves, the first asks to finish, the second ends the process at once.
struct StopSignals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl StopSignals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn first(mut self) {
        self.next().await;
        tracing::info!("finishing what is in flight; a second signal ends at once");
        tokio::spawn(async move {
            self.next().await;
            std::process::exit(EXIT_INTERRUPTED);
        });
    }

    /// Waits for the next one, and answers with the exit code of a process that it ends, as shells have it.
    async fn next(&mut self) -> i32 {
        let signal = tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
        };
        128 + signal.as_raw()
    }
}

/// Whether stderr shows colours: a file or a collector of logs would show noise.
fn shows_colors() -> bool {
    let is_refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && !is_refused
}

/// Which lines the log has, as `RUST_LOG` asks for them.
fn log_filter(asked: &str) -> anyhow::Result<EnvFilter> {
    let directives = asked.split(',').map(str::trim);
    let directives: Vec<_> = directives.filter(|asked| !asked.is_empty()).collect();
    if directives.is_empty() {
        return Ok(EnvFilter::new(DEFAULT_LOG));
    }
    let is_of_all = |directive: &&str| {
        let level = directive.parse::<LevelFilter>();
        level.is_ok_and(|level| level > LevelFilter::INFO)
    };
    let mut filter = directives.join(",");
    if directives.iter().any(is_of_all) {
        // Of two for the same target the later one counts.
        filter = format!("{TRANSPORT_LOG},{filter}");
    }
    EnvFilter::try_new(filter).map_err(|error| {
        anyhow::anyhow!(
            "RUST_LOG={asked}: {error}; give a level, such as warn, or levels of modules, such as \
             info,duck_flight_server=debug"
        )
    })
}

/// Writes log lines to stderr, for as long as somebody reads it: the server does not depend on that.
fn init_tracing(filter: EnvFilter, format: LogFormat) {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // It would be told on stderr, too, and panic where nobody reads that; a panic that is logged would end the process.
        .log_internal_errors(false)
        .with_ansi(shows_colors())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().init(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_port_is_open_once_it_listens_and_not_before() {
        let port = Port::take(([127, 0, 0, 1], 0).into()).unwrap();
        let address = port.address;
        assert!(TcpStream::connect(address).await.is_err());
        let listener = port.listen().unwrap();
        assert!(TcpStream::connect(address).await.is_ok());
        assert!(Port::take(address).is_err());
        drop(listener);
        assert!(Port::take(address).is_ok());
    }

    #[test]
    fn the_transport_is_told_of_only_where_it_is_asked_for() {
        let cases = [
            ("", "info"),
            (" , ", "info"),
            ("warn", "warn"),
            ("debug", "tower=info,hyper=info,h2=info,debug"),
            ("trace, h2=debug", "tower=info,hyper=info,h2=debug,trace"),
            (
                "warn,duck_flight_server=debug",
                "duck_flight_server=debug,warn",
            ),
        ];
        for (asked, filter) in cases {
            let mut told = parts(&log_filter(asked).unwrap().to_string());
            let mut wanted = parts(filter);
            told.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(told, wanted, "{asked}");
        }
        assert!(log_filter("duck_flight_server=debgu").is_err());
    }

    fn parts(filter: &str) -> Vec<String> {
        filter.split(',').map(str::to_owned).collect()
    }
}
