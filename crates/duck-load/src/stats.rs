//! What a writer records.

use std::time::Duration;

use chrono::{DateTime, Utc};
use hdrhistogram::Histogram;
use tokio::time::Instant;

/// Latencies are recorded from a microsecond to an hour, to three digits.
const MAX_LATENCY_MICROS: u64 = 3_600_000_000;
const DIGITS: u8 = 3;

/// What one writer, or several merged, did and waited for.
#[derive(Debug, Clone)]
pub(crate) struct Stats {
    /// Rows acknowledged.
    pub(crate) rows: u64,
    /// Batches acknowledged.
    pub(crate) batches: u64,
    /// Batches that were certainly not committed, and given up; and streams that ended badly after all their acks.
    pub(crate) errors: u64,
    /// Batches sent again.
    pub(crate) retries: u64,
    /// Batches acknowledged as ones that the server had already.
    pub(crate) duplicates: u64,
    /// Batches of a producer that were durable before the run, and were therefore not sent.
    pub(crate) resumed: u64,
    /// Batches of a producer that had been acknowledged, and that the server has lost since.
    pub(crate) lost: u64,
    /// Of those, the ones that had not been acknowledged again at the end.
    pub(crate) still_lost: u64,
    /// Batches sent whose answer got lost: they may have been committed or not.
    pub(crate) unknown: u64,
    /// The first of all failures that were not mended by a retry.
    pub(crate) first_error: Option<String>,
    /// When the writer started and ended.
    span: Option<(Instant, Instant)>,
    /// Latencies of acknowledged batches in microseconds.
    latency: Histogram<u64>,
    /// The longest latency, and when its ack came.
    longest: Option<(Duration, DateTime<Utc>)>,
}

impl Default for Stats {
    fn default() -> Self {
        let latency = Histogram::new_with_bounds(1, MAX_LATENCY_MICROS, DIGITS)
            .expect("the bounds of the histogram are valid");
        Self {
            rows: 0,
            batches: 0,
            errors: 0,
            retries: 0,
            duplicates: 0,
            resumed: 0,
            lost: 0,
            still_lost: 0,
            unknown: 0,
            first_error: None,
            span: None,
            latency,
            longest: None,
        }
    }
}

impl Stats {
    /// Records a batch that was acknowledged `latency` after it was due.
    pub(crate) fn acknowledge(&mut self, rows: u64, latency: Duration) {
        self.rows += rows;
        self.batches += 1;
        if self.longest.is_none_or(|(longest, _)| latency > longest) {
            self.longest = Some((latency, Utc::now()));
        }
        let micros = u64::try_from(latency.as_micros()).unwrap_or(MAX_LATENCY_MICROS);
        self.latency.saturating_record(micros.max(1));
    }

    /// Records when the writer started and ended.
    pub(crate) fn ran(&mut self, started: Instant, ended: Instant) {
        self.span = Some((started, ended));
    }

    /// The latency in milliseconds that `quantile` (0 to 1) of the acknowledged batches did not exceed.
    pub(crate) fn latency_ms(&self, quantile: f64) -> Option<f64> {
        // The histogram answers with the upper end of a bucket, which may lie above the largest of all.
        let micros = self.latency.value_at_quantile(quantile) as f64;
        let most = self.max_latency_ms()?;
        Some((micros / 1e3).min(most))
    }

    /// The longest latency in milliseconds.
    pub(crate) fn max_latency_ms(&self) -> Option<f64> {
        self.longest.map(|(latency, _)| latency.as_secs_f64() * 1e3)
    }

    /// When the ack came that took longest.
    pub(crate) fn max_latency_at(&self) -> Option<DateTime<Utc>> {
        self.longest.map(|(_, at)| at)
    }

    /// From the first writer's start to the last one's end.
    pub(crate) fn elapsed(&self) -> Duration {
        self.span.map_or(Duration::ZERO, |(start, end)| end - start)
    }

    /// What both did together.
    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.rows += other.rows;
        self.batches += other.batches;
        self.errors += other.errors;
        self.retries += other.retries;
        self.duplicates += other.duplicates;
        self.resumed += other.resumed;
        self.lost += other.lost;
        self.still_lost += other.still_lost;
        self.unknown += other.unknown;
        self.first_error = self.first_error.or(other.first_error);
        self.span = match (self.span, other.span) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (one, another) => one.or(another),
        };
        self.latency
            .add(&other.latency)
            .expect("the histograms have the same bounds");
        self.longest = self.longest.max(other.longest);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(millis: impl IntoIterator<Item = u64>) -> Stats {
        let mut stats = Stats::default();
        for latency in millis {
            stats.acknowledge(10, Duration::from_millis(latency));
        }
        stats
    }

    #[test]
    fn merged_percentiles_are_those_of_all_batches() {
        let merged = stats(1..=50).merge(stats(51..=100));
        assert_eq!((merged.rows, merged.batches), (1000, 100));
        for (quantile, expected) in [(0.5, 50.0), (0.95, 95.0), (0.99, 99.0), (1.0, 100.0)] {
            let found = merged.latency_ms(quantile).unwrap();
            assert!((found / expected - 1.0).abs() < 1e-3, "{found}");
        }
        assert_eq!(merged.max_latency_ms(), Some(100.0));
    }

    #[test]
    fn without_acks_there_is_no_latency() {
        assert_eq!(Stats::default().latency_ms(0.5), None);
        assert_eq!(Stats::default().max_latency_ms(), None);
        assert_eq!(Stats::default().max_latency_at(), None);
    }

    #[test]
    fn the_longest_latency_of_all_comes_with_the_time_of_its_own_ack() {
        let before = Utc::now();
        let longest = stats([10, 30]);
        let between = Utc::now();
        let merged = longest.merge(stats([20]));
        assert_eq!(merged.max_latency_ms(), Some(30.0));
        assert!((before..=between).contains(&merged.max_latency_at().unwrap()));
    }

    #[test]
    fn the_time_elapsed_runs_from_the_first_start_to_the_last_end() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (mut one, mut other) = (Stats::default(), Stats::default());
        one.ran(at(1), at(3));
        other.ran(at(2), at(7));
        assert_eq!(one.merge(other).elapsed(), Duration::from_secs(6));
    }
}
