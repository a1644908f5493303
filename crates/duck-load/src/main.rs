//! The command `duck-load`: flags in, a run of the library, a summary and an exit code out.

mod signals;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, anyhow};
use duck_flight_protocol::{ConnectOptions, escape_controls, escape_controls_in_lines};
use duck_load::args::{Args, Format};
use duck_load::{Plan, Progress, Stop};
use tokio::sync::oneshot;

use signals::Signals;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    match run(args).await {
        Ok(code) => code,
        Err(error) => {
            let message = escape_controls_in_lines(&format!("{error:#}"));
            // Nobody is left to hear that even this fails.
            let _ = writeln!(io::stderr(), "error: {message}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let plan = Plan::from(&args);
    let format = args.format;
    let server = ConnectOptions::from(args.connect);
    if args.forget {
        return forget(&server, &plan, format).await;
    }
    let progress = Progress::on_stderr(&plan);
    let targets = duck_load::FlightTarget::connect_all(&server, &plan, &progress).await?;
    // Not before the connections stand, so that Ctrl-C ends a hanging attempt at once.
    let signals = Signals::listen().context("listen for signals")?;
    let (stop, signal) = stop_on(signals, progress.clone());
    let report = duck_load::load_over(&server, targets, &plan, progress, stop).await;
    print(&match format {
        Format::Text => report.to_string(),
        Format::Json => report.to_json(),
    })?;
    Ok(match signal.get() {
        _ if !report.is_success() => ExitCode::FAILURE,
        // Whoever started it must not take it for done.
        Some(code) if report.interrupted => ExitCode::from(*code),
        _ => ExitCode::SUCCESS,
    })
}

async fn forget(server: &ConnectOptions, plan: &Plan, format: Format) -> anyhow::Result<ExitCode> {
    let answer = duck_load::forget(server, plan)
        .await
        .map_err(|failure| anyhow!(failure.message))?;
    print(&match format {
        Format::Text => format!(
            "forgotten  {} of the {} producers asked for, in table {}",
            answer.forgotten,
            plan.writers,
            escape_controls(&plan.table.to_string())
        ),
        Format::Json => serde_json::to_string(&answer).context("encode the answer")?,
    })?;
    Ok(ExitCode::SUCCESS)
}

fn print(summary: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout(), "{summary}") {
        // Whoever read the summary has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("write the summary"),
    }
}

/// Asks the run to end at the first signal, whose exit code is there from then on; another one ends the process at once.
fn stop_on(mut signals: Signals, progress: Progress) -> (Stop, Arc<OnceLock<u8>>) {
    let (ask, asked) = oneshot::channel::<()>();
    let first = Arc::new(OnceLock::new());
    let code = first.clone();
    tokio::spawn(async move {
        let _ = code.set(signals.next().await);
        // First of all: whatever may be said of it comes behind it.
        let _ = ask.send(());
        progress.say("stopping: waiting for outstanding acks; once more to end at once");
        std::process::exit(signals.next().await.into());
    });
    (Stop::on(async { drop(asked.await) }), first)
}
