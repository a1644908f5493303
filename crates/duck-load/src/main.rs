//! The command `duck-load`: flags in, a run of the library, a summary and an exit code out.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use duck_flight_protocol::ConnectOptions;
use duck_load::args::{Args, Format};
use duck_load::{Plan, Progress, Report, Stop};

/// The exit code of a process that Ctrl-C ended.
const EXIT_INTERRUPTED: i32 = 130;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run(args).await {
        Ok(report) if report.is_success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<Report> {
    let plan = Plan::from(&args);
    let format = args.format;
    let server = ConnectOptions::from(args.connect);
    let progress = Progress::on_stderr(&plan);
    let targets = duck_load::FlightTarget::connect_all(&server, &plan, &progress).await?;
    // Not before the connections stand, so that Ctrl-C ends a hanging attempt at once.
    let stop = Stop::on(interrupt(progress.clone()));
    let report = duck_load::load_over(&server, targets, &plan, progress, stop).await;
    print(&report, format).context("write the summary")?;
    Ok(report)
}

fn print(report: &Report, format: Format) -> io::Result<()> {
    let summary = match format {
        Format::Text => report.to_string(),
        Format::Json => report.to_json(),
    };
    match writeln!(io::stdout(), "{summary}") {
        // Whoever read the summary has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Waits for the first Ctrl-C or SIGTERM; from then on, another one ends the process at once.
async fn interrupt(progress: Progress) {
    signal().await;
    progress.say("stopping: waiting for outstanding acks; once more to end at once");
    tokio::spawn(async {
        signal().await;
        std::process::exit(EXIT_INTERRUPTED);
    });
}

#[cfg(unix)]
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};

    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return ctrl_c().await;
    };
    tokio::select! {
        () = ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(not(unix))]
async fn signal() {
    ctrl_c().await;
}

async fn ctrl_c() {
    // Where signals cannot be had, the process ends as the system would have it.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
