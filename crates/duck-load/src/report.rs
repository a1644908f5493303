//! What a run came to.

use std::fmt;

use chrono::SecondsFormat;
use duck_flight_protocol::{Commit, TableName, escape_controls, escape_controls_in_lines};
use serde::Serialize;

use crate::stats::Stats;
use crate::{Plan, Verification};

/// What kind of load a run was, which says how to read its latencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// Each writer sent when its answers let it; latency counts from the sending. A slow server slows the load.
    ClosedLoop,
    /// Each writer had a fixed pace; latency counts from the planned moment, waiting behind a slow batch included.
    /// Timers tick in milliseconds, so that these latencies read up to two milliseconds longer than they are.
    FixedPace,
}

/// What a run came to. Serialized, it is the JSON summary of `duck-load`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The table loaded.
    pub table: TableName,
    /// Who sent; absent for a load without exactly-once delivery. Several writers are `NAME-1`, `NAME-2` and so on.
    pub producer: Option<String>,
    /// What was committed as a whole.
    pub commit: Commit,
    /// What kind of load it was.
    pub load: Load,
    /// Writers.
    pub writers: usize,
    /// Rows of each batch.
    pub rows_per_batch: u32,
    /// Rows acknowledged, each once however often it was sent; without those that were durable before the run.
    pub rows: u64,
    /// Batches acknowledged, in the same way.
    pub batches: u64,
    /// Batches of the producers that the server had already when they were sent: because their ack had got lost,
    /// or because an earlier run had loaded them.
    pub duplicates: u64,
    /// Batches of the producers that were durable before the run, and were not sent again for that.
    pub resumed: u64,
    /// Batches of the producers that had been acknowledged, and that the server lost afterwards, as it does where its file is
    /// replaced by an older copy. They are sent again.
    pub lost: u64,
    /// Of those, the ones that had not been acknowledged again when the run ended.
    pub still_lost: u64,
    /// Seconds from the common start to the last writer's end.
    pub elapsed_seconds: f64,
    /// Rows acknowledged per second.
    pub rows_per_second: f64,
    /// The median time to an ack in milliseconds; absent without acks, as are the others.
    pub latency_ms_p50: Option<f64>,
    /// The time in milliseconds within which 95 of 100 acks came.
    pub latency_ms_p95: Option<f64>,
    /// The time in milliseconds within which 99 of 100 acks came.
    pub latency_ms_p99: Option<f64>,
    /// The longest time to an ack in milliseconds.
    pub latency_ms_max: Option<f64>,
    /// When that ack came, in UTC, as in `2026-01-02T03:04:05.000006Z`.
    pub latency_max_at: Option<String>,
    /// Failures of which nothing was committed.
    pub errors: u64,
    /// Batches sent again.
    pub retries: u64,
    /// Batches whose answer got lost: they may be in the table or not.
    pub unknown: u64,
    /// Batches of the plan that were not sent, because a writer gave up or the run was asked to end.
    pub unsent: u64,
    /// The first failure that no retry mended.
    pub first_error: Option<String>,
    /// Whether the run was asked to end before its plan was fulfilled, verification included.
    pub interrupted: bool,
    /// The proof from the table itself, if the plan asked for it and nobody asked for the end meanwhile.
    pub verification: Option<Verification>,
}

impl Report {
    pub(crate) fn new(plan: &Plan, writers: usize, stats: &Stats, interrupted: bool) -> Self {
        let elapsed_seconds = stats.elapsed().as_secs_f64();
        let rows_per_second = match elapsed_seconds {
            0.0 => 0.0,
            seconds => stats.rows as f64 / seconds,
        };
        Self {
            table: plan.table.clone(),
            producer: plan.producer.clone(),
            commit: plan.commit,
            load: match plan.interval {
                Some(_) => Load::FixedPace,
                None => Load::ClosedLoop,
            },
            writers,
            rows_per_batch: plan.rows.get(),
            rows: stats.rows,
            batches: stats.batches,
            duplicates: stats.duplicates,
            resumed: stats.resumed,
            lost: stats.lost,
            still_lost: stats.still_lost,
            elapsed_seconds,
            rows_per_second,
            latency_ms_p50: stats.latency_ms(0.50),
            latency_ms_p95: stats.latency_ms(0.95),
            latency_ms_p99: stats.latency_ms(0.99),
            latency_ms_max: stats.max_latency_ms(),
            latency_max_at: stats
                .max_latency_at()
                .map(|at| at.to_rfc3339_opts(SecondsFormat::Micros, true)),
            errors: stats.errors,
            retries: stats.retries,
            unknown: stats.unknown,
            unsent: 0,
            first_error: stats.first_error.clone(),
            interrupted,
            verification: None,
        }
    }

    /// Whether every batch that was sent was acknowledged and nothing of that is known to be lost, and the proof, if there is
    /// one, holds.
    pub fn is_success(&self) -> bool {
        let verified = self
            .verification
            .as_ref()
            .is_none_or(|proof| proof.verified);
        self.errors + self.unknown + self.still_lost == 0 && verified
    }

    /// The report as one line of JSON.
    ///
    /// # Panics
    /// Never: its parts are always JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers are always JSON")
    }

    fn load_in_words(&self) -> &'static str {
        match self.load {
            Load::ClosedLoop => "closed loop",
            Load::FixedPace => "fixed pace, from the planned start",
        }
    }

    fn writers_in_words(&self) -> String {
        let plural = if self.writers == 1 { "" } else { "s" };
        let puts = match self.commit {
            Commit::Stream => "a put per batch",
            Commit::Batch => "one long put each",
        };
        format!("{} writer{plural}, {puts}", self.writers)
    }

    /// Who sent, and what of it was there already.
    fn write_producer(&self, f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
        let name = escape_controls(name);
        match self.writers {
            1 => writeln!(f, "producer   {name}")?,
            writers => writeln!(f, "producer   {name}-1 to {name}-{writers}")?,
        }
        if self.resumed > 0 {
            writeln!(
                f,
                "resumed    after {} of earlier runs",
                Batches(self.resumed)
            )?;
        }
        Ok(())
    }

    /// What was acknowledged.
    fn write_rows(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rows, batches) = (self.rows, Batches(self.batches));
        writeln!(f, "rows       {rows} acknowledged in {batches}")?;
        if self.duplicates > 0 {
            let duplicates = Batches(self.duplicates);
            writeln!(f, "duplicates {duplicates} that the server had already")?;
        }
        Ok(())
    }

    fn write_speed(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "elapsed    {:.2} s", self.elapsed_seconds)?;
        writeln!(f, "rate       {:.0} rows/s", self.rows_per_second)?;
        let millis = |latency: Option<f64>| match latency {
            None => "-".to_owned(),
            Some(ms) if ms < 1.0 => format!("{ms:.2} ms"),
            Some(ms) => format!("{ms:.1} ms"),
        };
        writeln!(
            f,
            "ack        p50 {}  p95 {}  p99 {}  max {}  ({})",
            millis(self.latency_ms_p50),
            millis(self.latency_ms_p95),
            millis(self.latency_ms_p99),
            millis(self.latency_ms_max),
            self.load_in_words(),
        )
    }

    /// What went wrong, and what to know of it. The last line has no end.
    fn write_failures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unknown = self.unknown;
        write!(
            f,
            "errors     {}   retries {}   unknown {unknown}",
            self.errors, self.retries
        )?;
        if let Some(error) = &self.first_error {
            write!(f, "\nbecause    {}", escape_controls_in_lines(error))?;
        }
        if self.unsent > 0 {
            let unsent = Batches(self.unsent);
            write!(f, "\nnote       {unsent} of the plan not sent")?;
        }
        match unknown {
            0 => {}
            1 => write!(
                f,
                "\nnote       the answer to 1 batch got lost: it may be in the table or not"
            )?,
            _ => {
                let unknown = Batches(unknown);
                write!(
                    f,
                    "\nnote       the answers to {unknown} got lost: they may be in the table or not"
                )?;
            }
        }
        if self.lost > 0 {
            let lost = Batches(self.lost);
            write!(
                f,
                "\nnote       the server lost {lost} that it had acknowledged; "
            )?;
            match self.still_lost {
                0 => write!(f, "they were sent again")?,
                left => write!(f, "{left} of them were not sent again in time")?,
            }
        }
        if self.interrupted {
            write!(f, "\nnote       interrupted before the end of the plan")?;
        }
        Ok(())
    }
}

/// The summary for people, which a terminal shows and does not obey.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table.to_string();
        writeln!(f, "table      {}", escape_controls(&table))?;
        if let Some(name) = &self.producer {
            self.write_producer(f, name)?;
        }
        writeln!(f, "load       {}", self.writers_in_words())?;
        self.write_rows(f)?;
        self.write_speed(f)?;
        self.write_failures(f)?;
        if let Some(proof) = &self.verification {
            write!(f, "\n{proof}")?;
        }
        Ok(())
    }
}

/// A number of batches in words.
pub(crate) struct Batches(pub(crate) u64);

impl fmt::Display for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("1 batch"),
            count => write!(f, "{count} batches"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::{DateTime, Utc};
    use tokio::time::Instant;

    use super::*;

    fn report() -> Report {
        let mut stats = Stats::default();
        for _ in 0..400 {
            stats.acknowledge(1000, Duration::from_micros(2100));
        }
        let start = Instant::now();
        stats.ran(start, start + Duration::from_millis(1250));
        Report::new(&Plan::new("concurrent_test"), 4, &stats, false)
    }

    #[test]
    fn the_summary_is_aligned_and_says_which_load_it_was() {
        let expected = "\
table      concurrent_test
load       4 writers, a put per batch
rows       400000 acknowledged in 400 batches
elapsed    1.25 s
rate       320000 rows/s
ack        p50 2.1 ms  p95 2.1 ms  p99 2.1 ms  max 2.1 ms  (closed loop)
errors     0   retries 0   unknown 0";
        assert_eq!(report().to_string(), expected);
    }

    #[test]
    fn the_summary_of_a_producer_tells_what_was_there_already() {
        let mut stats = Stats::default();
        stats.acknowledge(1000, Duration::from_millis(2));
        stats.duplicates = 3;
        stats.resumed = 40;
        let plan = Plan {
            producer: Some("events".into()),
            ..Plan::new("t")
        };
        let text = Report::new(&plan, 2, &stats, false).to_string();
        let expected = "\
table      t
producer   events-1 to events-2
resumed    after 40 batches of earlier runs
load       2 writers, a put per batch
rows       1000 acknowledged in 1 batch
duplicates 3 batches that the server had already
";
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn what_was_lost_makes_the_run_fail_unless_it_was_sent_again() {
        let mut report = report();
        report.lost = 3;
        assert!(report.is_success());
        let text = report.to_string();
        assert!(
            text.ends_with("acknowledged; they were sent again"),
            "{text}"
        );
        report.still_lost = 2;
        assert!(!report.is_success());
        let text = report.to_string();
        assert!(
            text.ends_with("; 2 of them were not sent again in time"),
            "{text}"
        );
    }

    #[test]
    fn the_summary_says_why_a_run_failed_and_what_it_did_not_come_to() {
        let mut report = report();
        report.errors = 5;
        report.unsent = 995;
        report.first_error = Some("no such column".into());
        let text = report.to_string();
        let expected = "\
errors     5   retries 0   unknown 0
because    no such column
note       995 batches of the plan not sent";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn the_summary_does_not_move_the_cursor_and_the_json_has_everything_as_it_is() {
        let plan = Plan {
            producer: Some("p\u{202E}".into()),
            ..Plan::new("t\u{1b}[31m\n")
        };
        let mut report = Report::new(&plan, 1, &Stats::default(), false);
        report.first_error = Some("no\u{7}\nLINE 1".into());
        report.verification = Some(Verification {
            error: Some("none\u{9b}".into()),
            ..Verification::default()
        });
        let text = report.to_string();
        for expected in [
            "table      t\\x1B[31m\\n\n",
            "producer   p\\u{202E}\n",
            "because    no\\x07\nLINE 1\n",
            "no proof from the table: none\\u{9B}",
        ] {
            assert!(text.contains(expected), "{text}");
        }
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(json["table"], "t\u{1b}[31m\n");
        assert_eq!(json["first_error"], "no\u{7}\nLINE 1");
    }

    #[test]
    fn the_summary_says_of_how_many_batches_the_answer_got_lost() {
        for (unknown, expected) in [
            (
                1,
                "the answer to 1 batch got lost: it may be in the table or not",
            ),
            (
                3,
                "the answers to 3 batches got lost: they may be in the table or not",
            ),
        ] {
            let mut report = report();
            report.unknown = unknown;
            let text = report.to_string();
            assert!(text.ends_with(expected), "{text}");
        }
    }

    #[test]
    fn a_proof_that_fails_makes_the_run_fail() {
        let mut report = report();
        assert!(report.is_success());
        report.verification = Some(Verification::default());
        assert!(!report.is_success());
        assert!(report.to_string().contains("\nFAILED "), "{report}");
    }

    #[test]
    fn the_json_has_the_qualifier_of_a_number_last() {
        let json: serde_json::Value = serde_json::from_str(&report().to_json()).unwrap();
        assert_eq!(json["table"], "concurrent_test");
        assert_eq!(json["commit"], "stream");
        assert_eq!(json["load"], "closed_loop");
        assert_eq!(json["rows"], 400_000);
        assert_eq!(json["latency_ms_p99"], 2.1);
        assert_eq!(json["latency_ms_max"], 2.1);
        let at = json["latency_max_at"].as_str().unwrap();
        assert!(
            at.parse::<DateTime<Utc>>().is_ok() && at.ends_with('Z'),
            "{at}"
        );
        assert_eq!(json["rows_per_second"], 320_000.0);
    }

    #[test]
    fn a_report_without_acks_has_no_latency_and_no_rate() {
        let report = Report::new(&Plan::new("t"), 1, &Stats::default(), true);
        let text = report.to_string();
        assert!(text.contains("p50 -  p95 -"), "{text}");
        assert!(text.contains("rate       0 rows/s"), "{text}");
        assert!(text.ends_with("interrupted before the end of the plan"));
    }
}
