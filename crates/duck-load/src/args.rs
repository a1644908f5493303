//! The flags of `duck-load`, as typed.

use std::ffi::OsString;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::time::Duration;

use clap::builder::{BoolishValueParser, NonEmptyStringValueParser};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches};
use duck_flight_protocol::ConnectArgs;

use crate::{Commit, Plan};

/// So far below the last id that no run comes to its end.
const MAX_FIRST_BATCH_ID: u64 = 1 << 62;

/// Load random batches into a Duck Flight server, and report what it acknowledged.
///
/// Every row of a batch carries the batch's id, and no two batches share one, however many loaders run at the
/// same time. Exits with 0 when all was sent and every batch acknowledged (and, with --verify, found in the table), 1
/// when one was not or is known to be lost, 2 on bad usage; and, when nothing failed but it was stopped before the end,
/// with 130 after Ctrl-C and 143 after SIGTERM.
#[derive(Debug, clap::Parser)]
#[command(name = "duck-load", version)]
pub struct Args {
    /// Where the server is.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// The table to load; created when missing. A name is taken as it is: dots and quotes are part of it.
    #[arg(long, env = "DUCK_LOAD_TABLE", value_name = "NAME", default_value = Plan::DEFAULT_TABLE)]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub table: String,
    /// Rows of each batch, at most 1,000,000.
    #[arg(long, env = "DUCK_LOAD_ROWS", value_name = "N", default_value_t = Plan::DEFAULT_ROWS)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(Plan::MAX_ROWS)))]
    #[arg(allow_negative_numbers = true)]
    pub rows: u32,
    /// Batches each writer sends [default: 100, or no limit with --duration]. With --resume, all batches of the
    /// writer's producer: those that earlier processes sent count.
    #[arg(long, env = "DUCK_LOAD_BATCHES", value_name = "N", value_parser = batches)]
    #[arg(allow_negative_numbers = true)]
    pub batches: Option<NonZeroU64>,
    /// How long to send, such as `30s` or `5m`; with --batches too, whichever ends first.
    #[arg(long, env = "DUCK_LOAD_DURATION", value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Send each writer's batches at this fixed pace, such as `500ms`, timing each from its planned start;
    /// without it, each writer sends as fast as it is answered.
    #[arg(long, env = "DUCK_LOAD_INTERVAL", value_name = "TIME", value_parser = duration)]
    pub interval: Option<Duration>,
    /// Writers in this process, each with a stream of its own; up to 64 have a connection of their own, more
    /// share those.
    #[arg(long, env = "DUCK_LOAD_WRITERS", value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024), allow_negative_numbers = true)]
    pub writers: u16,
    /// What is committed as a whole: with `stream` each batch is a put of its own, with `batch` each writer keeps one long
    /// put, in which each batch is committed and acknowledged by itself.
    #[arg(long, env = "DUCK_LOAD_COMMIT", value_enum, default_value_t)]
    pub commit: Commit,
    /// With --commit batch: batches a writer may have sent before the first of them is acknowledged; fewer where they would
    /// take more than 256 MiB of a writer's memory, at 60 bytes a row.
    #[arg(
        long,
        env = "DUCK_LOAD_IN_FLIGHT",
        value_name = "N",
        default_value_t = 32
    )]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=4096), allow_negative_numbers = true)]
    pub in_flight: u16,
    /// Make the values and categories repeatable. Batch ids stay unique all the same. A producer has a fixed seed
    /// unless given another, which its restarts must then be given too.
    #[arg(
        long,
        env = "DUCK_LOAD_SEED",
        value_name = "N",
        allow_negative_numbers = true
    )]
    pub seed: Option<u64>,
    /// Count batch ids up from this one, instead of from a random place (a producer: from one that its name
    /// says); loaders running side by side must then be given ranges of their own. At most 4611686018427387904.
    #[arg(
        long,
        env = "DUCK_LOAD_FIRST_BATCH_ID",
        value_name = "N",
        allow_negative_numbers = true
    )]
    #[arg(value_parser = clap::value_parser!(u64).range(..=MAX_FIRST_BATCH_ID))]
    pub first_batch_id: Option<u64>,
    /// Load exactly once, as this producer; several writers are the producers NAME-1, NAME-2 and so on. A batch is
    /// numbered, may be sent again after any failure, and is applied once. Without --resume every run begins with
    /// batch 1: what an earlier run loaded is sent again, acknowledged as duplicate and not applied.
    #[arg(long, env = "DUCK_LOAD_PRODUCER", value_name = "NAME", value_parser = producer)]
    pub producer: Option<String>,
    /// Go on where the producer stopped, in this process after any failure or restart of the server, and in the
    /// next process with the same --producer, --writers and --rows. Run again when all is loaded, it sends nothing.
    #[arg(long, env = "DUCK_LOAD_RESUME", value_parser = BoolishValueParser::new())]
    pub resume: bool,
    /// Load nothing, and make the server forget what the producer (with the same --writers) has loaded into the table, which
    /// another run then loads again. For after the table was dropped: rows that are still there would be there twice.
    #[arg(long, env = "DUCK_LOAD_FORGET", value_parser = BoolishValueParser::new())]
    pub forget: bool,
    /// With --resume: end after failures for so long without a batch acknowledged. With --verify: how long to wait
    /// for the table's answer, however often it has to be asked.
    #[arg(
        long,
        env = "DUCK_LOAD_GIVE_UP_AFTER",
        value_name = "TIME",
        default_value = "5m"
    )]
    #[arg(value_parser = duration)]
    pub give_up_after: Duration,
    /// Prove afterwards, with SQL, that the table holds every acknowledged batch once, whole and as it was sent, and
    /// no other batch of this run (with --resume: of this producer) more than once.
    #[arg(long, env = "DUCK_LOAD_VERIFY", value_parser = BoolishValueParser::new())]
    pub verify: bool,
    /// How often to send a batch again after failures that certainly committed nothing of it; with --producer,
    /// after any failure that may pass. With --resume there is no such limit, but for a batch that the server answers with an
    /// error of its own (`INTERNAL`) each time. What was behind such a batch is sent again with it, and keeps its own retries.
    #[arg(long, env = "DUCK_LOAD_RETRIES", value_name = "N", default_value_t = 7)]
    #[arg(value_parser = clap::value_parser!(u32).range(..=100), allow_negative_numbers = true)]
    pub retries: u32,
    /// How long to wait for an answer, from the one before, until counting the batch as unknown.
    #[arg(
        long,
        env = "DUCK_LOAD_ACK_TIMEOUT",
        value_name = "TIME",
        default_value = "60s"
    )]
    #[arg(value_parser = duration)]
    pub ack_timeout: Duration,
    /// How to print the summary. A load that cannot connect at the start has none, in no format: it exits with 1 and says why on
    /// stderr.
    #[arg(long, env = "DUCK_LOAD_FORMAT", value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// How the summary is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Lines for people.
    Text,
    /// One JSON object.
    Json,
}

impl Args {
    /// Reads the arguments as they were given.
    ///
    /// # Errors
    /// When they are wrong or do not go together, and when they ask for help; the message says what to do.
    pub fn read<T: Into<OsString> + Clone>(
        given: impl IntoIterator<Item = T>,
    ) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(given)?;
        let args = Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        let is_typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        args.check(is_typed)?;
        Ok(args)
    }

    /// Finds flags that do not go together. A flag that the environment sets to false is not given; nor is one that would be
    /// of no use, for it may be meant for other runs.
    fn check(&self, is_typed: impl Fn(&str) -> bool) -> Result<(), clap::Error> {
        let (kind, message) = if self.resume && self.producer.is_none() {
            (
                ErrorKind::MissingRequiredArgument,
                "--resume needs --producer NAME",
            )
        } else if self.forget && self.producer.is_none() {
            (
                ErrorKind::MissingRequiredArgument,
                "--forget needs --producer NAME",
            )
        } else if self.forget && (self.resume || self.verify) {
            (
                ErrorKind::ArgumentConflict,
                "--forget loads nothing: leave --resume and --verify out",
            )
        } else if is_typed("in_flight") && self.commit != Commit::Batch {
            (
                ErrorKind::MissingRequiredArgument,
                "--in-flight needs --commit batch: with --commit stream a writer waits for the ack of each batch",
            )
        } else if is_typed("give_up_after") && !self.resume && !self.verify {
            (
                ErrorKind::MissingRequiredArgument,
                "--give-up-after needs --resume or --verify: without them --retries says when to give up",
            )
        } else {
            return Ok(());
        };
        Err(Self::command().error(kind, message))
    }
}

impl From<&Args> for Plan {
    fn from(args: &Args) -> Self {
        let defaults = Self::new(args.table.as_str());
        let default_batches = match args.duration {
            Some(_) => None,
            None => defaults.batches,
        };
        Self {
            rows: NonZeroU32::new(args.rows).unwrap_or(defaults.rows),
            batches: args.batches.or(default_batches),
            duration: args.duration,
            interval: args.interval,
            writers: NonZeroUsize::new(args.writers.into()).unwrap_or(defaults.writers),
            commit: args.commit,
            in_flight: NonZeroUsize::new(args.in_flight.into()).unwrap_or(defaults.in_flight),
            seed: args.seed,
            first_batch_id: args.first_batch_id,
            producer: args.producer.clone(),
            resume: args.resume,
            give_up_after: args.give_up_after,
            verify: args.verify,
            retries: args.retries,
            ack_timeout: args.ack_timeout,
            ..defaults
        }
    }
}

/// Reads the name of a producer, which must be one with a writer's number behind it too.
fn producer(text: &str) -> Result<String, String> {
    const MAX_BYTES: usize = 256 - "-1024".len();
    if text.is_empty() || text.len() > MAX_BYTES {
        return Err(format!("a name has 1 to {MAX_BYTES} bytes"));
    }
    if text.contains('\0') {
        return Err("a name cannot hold the character NUL".into());
    }
    Ok(text.to_owned())
}

/// Reads a time as the server's flags do: `250us`, `500ms`, `1.5s`, `2h 30m` or `1d`.
fn duration(text: &str) -> Result<Duration, String> {
    // So that every deadline can be reckoned.
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
    match humantime::parse_duration(text) {
        Ok(time) if time.is_zero() => Err("it must be longer than zero".into()),
        Ok(time) if time > LONGEST => Err("it must be at most a year".into()),
        Ok(time) => Ok(time),
        Err(error) => Err(error.to_string()),
    }
}

fn batches(text: &str) -> Result<NonZeroU64, &'static str> {
    text.parse().map_err(|_| "give a whole number, 1 or more")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn plan(flags: &[&str]) -> Plan {
        let args = Args::parse_from([&["duck-load"], flags].concat());
        Plan::from(&args)
    }

    #[test]
    fn the_flags_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn no_flags_mean_the_default_plan() {
        assert_eq!(plan(&[]), Plan::new("concurrent_test"));
    }

    #[test]
    fn a_duration_lifts_the_default_limit_of_batches_but_not_a_given_one() {
        assert_eq!(plan(&["--duration", "1s"]).batches, None);
        let both = plan(&["--duration", "1s", "--batches", "5"]);
        assert_eq!(both.batches, NonZeroU64::new(5));
        assert_eq!(both.duration, Some(Duration::from_secs(1)));
    }

    #[test]
    fn the_writers_of_a_producer_are_numbered_when_there_are_several() {
        let plan = plan(&["--producer", "p", "--resume", "--give-up-after", "1m"]);
        assert_eq!(plan.give_up_after, Duration::from_secs(60));
        assert!(plan.resume && !plan.verify);
        assert_eq!(plan.producer_of(0, 1).as_deref(), Some("p"));
        assert_eq!(plan.producer_of(1, 2).as_deref(), Some("p-2"));
    }

    #[test]
    fn a_flag_that_needs_a_producer_needs_it_only_where_it_is_set() {
        let check = |flags: &[&str]| {
            let args = Args::read([&["duck-load"], flags].concat());
            args.map(drop).map_err(|error| error.kind())
        };
        let missing = Err(ErrorKind::MissingRequiredArgument);
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&["--resume"]), missing);
        assert_eq!(check(&["--forget"]), missing);
        let forget = ["--forget", "--producer", "p"];
        assert_eq!(check(&forget), Ok(()));
        let both = check(&[&forget[..], &["--resume"]].concat());
        assert_eq!(both, Err(ErrorKind::ArgumentConflict));
    }

    #[test]
    fn a_flag_that_would_be_of_no_use_is_refused() {
        let read = |flags: &[&str]| Args::read([&["duck-load"], flags].concat());
        let error = read(&["--in-flight", "32"]).unwrap_err().to_string();
        assert!(error.contains("--commit batch"), "{error}");
        assert!(read(&["--in-flight", "32", "--commit", "batch"]).is_ok());
        let error = read(&["--give-up-after", "5m"]).unwrap_err().to_string();
        assert!(error.contains("--resume or --verify"), "{error}");
        assert!(read(&["--give-up-after", "5m", "--verify"]).is_ok());
        let resume = ["--resume", "--producer", "p", "--give-up-after", "5m"];
        assert!(read(&resume).is_ok());
    }

    #[test]
    fn batch_ids_do_not_run_over() {
        let read = |first: &str| Args::read(["duck-load", "--first-batch-id", first]);
        for wrong in ["9223372036854775807", "4611686018427387905", "-1"] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains("--first-batch-id"), "{error}");
            assert!(!error.contains("unexpected argument"), "{error}");
        }
        assert!(read("4611686018427387904").is_ok());
    }

    #[test]
    fn a_producer_has_a_name_that_fits() {
        assert!(producer(&"p".repeat(251)).is_ok());
        for bad in ["", "\0", &"p".repeat(252)] {
            assert!(producer(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_duration_is_a_number_with_a_unit() {
        assert_eq!(duration("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5 s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("2h 30m"), Ok(Duration::from_secs(9000)));
        assert_eq!(duration("1d"), Ok(Duration::from_secs(24 * 3600)));
        for bad in ["", "s", "10", "0s", "-1s", "1..5s", "3 parsecs", "9999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
