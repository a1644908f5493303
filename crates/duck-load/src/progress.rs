//! What a person sees while a run goes on, on stderr.

use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use duck_flight_protocol::escape_controls_in_lines;
use indicatif::{HumanFloatCount, ProgressBar, ProgressState, ProgressStyle};

use crate::Plan;

/// How often the bar is drawn.
const TICK: Duration = Duration::from_millis(100);

/// Shows how far a run is and says what goes wrong, on stderr. The bar appears only at a terminal.
#[derive(Debug, Clone)]
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Says nothing: for runs inside another program.
    pub fn silent() -> Self {
        Self { bar: None }
    }

    /// Shows the progress of `plan` on stderr.
    pub fn on_stderr(plan: &Plan) -> Self {
        let total = plan.total_rows().filter(|_| plan.duration.is_none());
        let (bar, template) = match total {
            Some(rows) => (
                ProgressBar::new(rows),
                "{wide_bar} {human_pos}/{human_len} rows  {rate} rows/s  {eta}",
            ),
            None => (
                ProgressBar::no_length(),
                "{spinner} {human_pos} rows  {rate} rows/s  {elapsed}",
            ),
        };
        let style = ProgressStyle::with_template(template)
            .expect("the template is valid")
            .with_key("rate", write_rate);
        let bar = bar.with_style(style);
        if !bar.is_hidden() {
            bar.enable_steady_tick(TICK);
        }
        Self { bar: Some(bar) }
    }

    /// Says one line, above the bar, which a terminal shows and does not obey. Where nobody reads stderr any more, the run goes on
    /// all the same.
    pub fn say(&self, line: &str) {
        let line = escape_controls_in_lines(line);
        match &self.bar {
            None => {}
            // A hidden bar would swallow the line.
            Some(bar) if bar.is_hidden() => drop(writeln!(io::stderr(), "{line}")),
            Some(bar) => bar.println(line),
        }
    }

    /// Counts rows the server has acknowledged.
    pub(crate) fn acknowledged(&self, rows: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(rows);
        }
    }

    /// Leaves out rows that need not be sent any more.
    pub(crate) fn skipped(&self, rows: u64) {
        if let Some(bar) = &self.bar
            && let Some(length) = bar.length()
        {
            bar.set_length(length.saturating_sub(rows));
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The rows per second so far, as a whole number.
fn write_rate(state: &ProgressState, line: &mut dyn fmt::Write) {
    // A progress bar that cannot be written is no reason to stop.
    let _ = write!(line, "{}", HumanFloatCount(state.per_sec().round()));
}
