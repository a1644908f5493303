//! The command `duck-query`: arguments in, results out, and an exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use duck_flight_protocol::escape_controls_in_lines;
use duck_query::args::Args;
use duck_query::{Format, OutputOptions, Summary, run};

/// The SQL or the server is at fault.
const FAILED: u8 = 1;

/// The command line is at fault.
const USAGE: u8 = 2;

/// Stopped by Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let args = Args::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let timing = args.timing;
    let query = match args.into_query() {
        Ok(query) => query,
        Err(error) => return fail(&error, USAGE),
    };
    let runtime = match tokio::runtime::Runtime::new().context("start the runtime") {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, FAILED),
    };
    let most = first_rows_only(&query.output);
    let outcome = runtime.block_on(async {
        tokio::select! {
            result = run(query, Box::new(io::stdout())) => Some(result),
            _ = tokio::signal::ctrl_c() => None,
        }
    });
    // The printing thread may wait for a reader that never comes.
    runtime.shutdown_background();
    match outcome {
        Some(Ok(summary)) => {
            if timing {
                report(summary);
            }
            if let Some(most) = most
                && most < summary.rows
            {
                let rows = summary.rows;
                let printed = match most {
                    1 => format!("the first of {rows} rows is printed"),
                    _ => format!("the first {most} of {rows} rows are printed"),
                };
                tell(&format!("{printed}; --max-rows all prints every row"));
            }
            ExitCode::SUCCESS
        }
        Some(Err(error)) => fail(&error.into(), FAILED),
        None => ExitCode::from(INTERRUPTED),
    }
}

/// How many rows are printed at most in a format that has no place to say so.
fn first_rows_only(output: &OutputOptions) -> Option<usize> {
    match output.format {
        // Its last line tells.
        Format::Table | Format::Plain => None,
        Format::Csv | Format::Json | Format::Ndjson | Format::Markdown => output.max_rows,
    }
}

fn report(Summary { rows, elapsed }: Summary) {
    let unit = if rows == 1 { "row" } else { "rows" };
    tell(&format!("{rows} {unit} in {:.3} s", elapsed.as_secs_f64()));
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    tell(&format!("error: {error:#}"));
    ExitCode::from(code)
}

/// Writes to stderr what a terminal shows and does not obey; nobody is left to hear that even this fails.
fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{}", escape_controls_in_lines(text));
}
