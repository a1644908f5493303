//! The `duck-flight-server` command: flags in, exit code out.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use duck_flight_server::{Args, Config, Engine, LogFormat, runtime, serve};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing_subscriber::EnvFilter;

/// Statements allocate on one thread what another frees, which glibc's allocator answers with locks and system
/// calls: with jemalloc a small query takes three quarters of the time. On Linux it serves DuckDB's library too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The exit code of a command line that is wrong, as clap has it.
const EXIT_USAGE: u8 = 2;

/// The exit code of a server that was told twice to stop: what it was doing is not finished.
const EXIT_INTERRUPTED: i32 = 130;

fn main() -> ExitCode {
    let args = Args::parse();
    let log_format = args.log_format;
    let config = match Config::try_from(args) {
        Ok(config) => config,
        Err(error) => {
            tell(&format!("error: {error}"));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    init_tracing(log_format);
    let outcome = runtime()
        .context("start the runtime")
        .and_then(|runtime| runtime.block_on(run(config)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("error: {}", told(&error)));
            ExitCode::FAILURE
        }
    }
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

async fn run(config: Config) -> anyhow::Result<()> {
    let starting = Starting::begin(StopSignals::new().context("listen for signals")?);
    outlive_file_limit().context("listen for signals")?;
    allow_open_files();
    let engine = Engine::open(&config.engine).context("open the database")?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("listen on {}", config.listen))?;
    let address = listener.local_addr()?;
    let signals = starting.end().await?;
    // Whoever started it need not read on to be served.
    writeln!(std::io::stdout(), "listening on {address}").ok();
    serve(listener, engine, &config, signals.first()).await?;
    Ok(())
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

/// Writes log lines to stderr, for as long as somebody reads it: the server does not depend on that.
fn init_tracing(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // It would be told on stderr, too, and panic where nobody reads that.
        .log_internal_errors(false)
        .with_ansi(shows_colors())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().init(),
    }
}
