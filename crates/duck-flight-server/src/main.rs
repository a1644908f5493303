//! The `duck-flight-server` command: flags in, exit code out.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use duck_flight_server::{Args, Config, Engine, LogFormat, runtime, serve};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{self, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Statements allocate on one thread what another frees, which glibc's allocator answers with locks and system
/// calls: with jemalloc a small query takes three quarters of the time. On Linux it serves DuckDB's library too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The exit code of a server that was told twice to stop: what it was doing is not finished.
const EXIT_INTERRUPTED: i32 = 130;

fn main() -> ExitCode {
    let args = Args::parse();
    init_tracing(args.log_format);
    let outcome = runtime()
        .context("start the runtime")
        .and_then(|runtime| runtime.block_on(run(args)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", told(&error));
            ExitCode::FAILURE
        }
    }
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

async fn run(args: Args) -> anyhow::Result<()> {
    let config = Config::try_from(args)?;
    let signals = StopSignals::new().context("listen for signals")?;
    outlive_file_limit().context("listen for signals")?;
    allow_open_files();
    let engine = Engine::open(&config.engine).context("open the database")?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("listen on {}", config.listen))?;
    println!("listening on {}", listener.local_addr()?);
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

/// SIGINT and SIGTERM: the first asks to finish, the second ends the process at once.
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

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Whether stderr shows colours: a file or a collector of logs would show noise.
fn shows_colors() -> bool {
    let is_refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && !is_refused
}

fn init_tracing(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(shows_colors())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().init(),
    }
}
