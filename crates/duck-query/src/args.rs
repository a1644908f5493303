//! The command line as typed, and what it means.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use duck_flight_protocol::ConnectArgs;
use terminal_size::{Width, terminal_size};

use crate::format::has_special;
use crate::{Format, OutputOptions, Query};

/// How many rows a table at a terminal shows unless told otherwise.
const TERMINAL_ROWS: usize = 40;

/// The width of a terminal that does not tell its own.
const TERMINAL_WIDTH: usize = 80;

/// The name that means stdin.
const STDIN: &str = "-";

/// What to do about SQL that is not there.
const TRY_THIS: &str = "try `duck-query 'SELECT 42'`, or `duck-query --help`";

/// What to do about SQL that the shell has taken apart.
const IN_QUOTES: &str = "give the SQL as one argument, in quotes: duck-query 'SELECT 42'";

const AFTER_HELP: &str = "\
Results go to stdout, everything else to stderr. Exit codes: 0 success (also when the reader of stdout \
closes it early), 1 the SQL or the server failed, 2 wrong usage, 130 stopped by Ctrl-C, which cancels the \
query.

Examples:
  duck-query 'SELECT category, avg(value) FROM concurrent_test GROUP BY ALL'
  duck-query --format csv 'FROM concurrent_test' > rows.csv
  duck-query --server grpc://db.example:8815 -f report.sql
  echo 'SELECT 42' | duck-query";

/// Runs SQL on a Duck Flight server and prints the result.
///
/// A script may hold several statements; the last one's result is printed.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
pub struct Args {
    /// Where the server is.
    #[command(flatten)]
    pub connect: ConnectArgs,

    /// SQL to run, in quotes; `-` or nothing reads it from stdin
    #[arg(value_name = "SQL", conflicts_with_all = ["command", "file"])]
    pub sql: Option<String>,

    /// SQL to run, as an option
    #[arg(short, long, value_name = "SQL", conflicts_with = "file")]
    pub command: Option<String>,

    /// File with the SQL to run; `-` is stdin
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// How to print rows [default: table at a terminal, plain elsewhere]; the plan of EXPLAIN is printed as it is drawn, but in
    /// CSV and JSON
    #[arg(long, value_enum, env = "DUCK_QUERY_FORMAT")]
    pub format: Option<Format>,

    /// Print at most this many rows; `all` or 0 prints every row [default: 40 for tables at a terminal,
    /// all otherwise]
    ///
    /// The others are still counted. A table shows the first and the last rows, the other formats the
    /// first, and stderr tells how many of them there are.
    #[arg(
        long,
        value_name = "N",
        value_parser = parse_max_rows,
        env = "DUCK_QUERY_MAX_ROWS",
        allow_negative_numbers = true
    )]
    pub max_rows: Option<usize>,

    /// Text for NULL [default: NULL in tables, empty in CSV, where it must need no quotes]; JSON always has null
    #[arg(long, value_name = "TEXT", env = "DUCK_QUERY_NULL")]
    pub null: Option<String>,

    /// Print the number of rows and the time taken on stderr
    #[arg(long)]
    pub timing: bool,
}

/// Where the SQL comes from.
enum Source<'a> {
    Text(&'a str),
    File(&'a Path),
    Stdin,
}

/// What is known about the terminal that shows the output.
struct Terminal {
    width: usize,
    color: bool,
}

impl Args {
    /// Reads the arguments as they were given.
    ///
    /// # Errors
    /// When they are wrong, and when they ask for help; the message says what to do.
    pub fn read(given: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(arguments(given)).map_err(with_tip)
    }

    /// What the command line asks for. Reads the SQL from its file or from stdin.
    ///
    /// # Errors
    /// When there is no SQL, or it cannot be read, or the text for NULL would be other fields.
    pub fn into_query(self) -> anyhow::Result<Query> {
        let output = self.output(Terminal::of_stdout());
        // In quotes it would be a string.
        if output.format == Format::Csv && output.null.as_deref().is_some_and(has_special) {
            bail!("--null: in CSV it can hold no comma, quote or line break");
        }
        let sql = read_sql(self.source())?;
        if sql.trim().is_empty() {
            bail!("the SQL is empty; {TRY_THIS}");
        }
        Ok(Query {
            sql,
            output,
            connect: self.connect.into(),
        })
    }

    fn source(&self) -> Source<'_> {
        let text = self.sql.as_deref().filter(|sql| *sql != STDIN);
        match (text.or(self.command.as_deref()), &self.file) {
            (Some(text), _) => Source::Text(text),
            (None, Some(file)) if file.as_os_str() != STDIN => Source::File(file),
            _ => Source::Stdin,
        }
    }

    fn output(&self, terminal: Option<Terminal>) -> OutputOptions {
        let format = self.format.unwrap_or(match terminal {
            Some(_) => Format::Table,
            None => Format::Plain,
        });
        let is_table = matches!(format, Format::Table | Format::Plain);
        let terminal = terminal.filter(|_| is_table);
        let max_rows = match self.max_rows {
            Some(0) => None,
            Some(rows) => Some(rows),
            None => terminal.as_ref().map(|_| TERMINAL_ROWS),
        };
        OutputOptions {
            format,
            null: self.null.clone(),
            max_rows,
            width: terminal.as_ref().map(|terminal| terminal.width),
            color: terminal.is_some_and(|terminal| terminal.color),
        }
    }
}

/// The error of a second text, which is no option, with what to do about it.
fn with_tip(mut error: clap::Error) -> clap::Error {
    let is_text = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => !argument.starts_with('-'),
        _ => false,
    };
    if error.kind() == ErrorKind::UnknownArgument && is_text {
        let tip = ContextValue::StyledStrs(vec![IN_QUOTES.into()]);
        error.insert(ContextKind::Suggested, tip);
    }
    error
}

/// Arguments as they were given, but for SQL that begins with a comment, which looks like an option: it gets a space before
/// it.
fn arguments(given: impl IntoIterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    given.into_iter().map(|argument| {
        let is_sql = argument.to_str().is_some_and(begins_with_comment);
        match is_sql {
            true => [OsStr::new(" "), &argument].into_iter().collect(),
            false => argument,
        }
    })
}

/// Whether a text is SQL that begins with a comment: the name of an option holds neither spaces nor lines.
fn begins_with_comment(text: &str) -> bool {
    let Some(comment) = text.strip_prefix("--") else {
        return false;
    };
    let name = comment.split('=').next().unwrap_or_default();
    comment.starts_with(char::is_whitespace) || name.contains('\n')
}

fn parse_max_rows(text: &str) -> Result<usize, String> {
    if text.eq_ignore_ascii_case("all") {
        return Ok(0);
    }
    text.parse()
        .map_err(|_| "give a number of rows, or `all`".to_owned())
}

fn read_sql(source: Source<'_>) -> anyhow::Result<String> {
    match source {
        Source::Text(text) => Ok(text.to_owned()),
        Source::File(file) => std::fs::read_to_string(file)
            .with_context(|| format!("read SQL from {}", file.display())),
        Source::Stdin => {
            let mut stdin = std::io::stdin();
            if stdin.is_terminal() {
                bail!("no SQL given; {TRY_THIS}");
            }
            let mut sql = String::new();
            stdin
                .read_to_string(&mut sql)
                .context("read SQL from stdin")?;
            Ok(sql)
        }
    }
}

impl Terminal {
    /// The terminal behind stdout, where there is one.
    fn of_stdout() -> Option<Self> {
        let stdout = std::io::stdout();
        if !stdout.is_terminal() {
            return None;
        }
        let width = terminal_size().map(|(Width(width), _)| usize::from(width));
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Some(Self {
            width: width.filter(|width| *width > 0).unwrap_or(TERMINAL_WIDTH),
            color: !is_set("NO_COLOR") && !is_dumb,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(arguments: &[&str], terminal: Option<Terminal>) -> OutputOptions {
        let arguments = [&["duck-query", "SELECT 1"], arguments].concat();
        Args::try_parse_from(arguments).unwrap().output(terminal)
    }

    fn terminal() -> Option<Terminal> {
        Some(Terminal {
            width: 100,
            color: true,
        })
    }

    #[test]
    fn a_terminal_gets_a_fitted_table_of_forty_rows() {
        let options = output(&[], terminal());
        assert_eq!(options.format, Format::Table);
        assert_eq!((options.max_rows, options.width), (Some(40), Some(100)));
        assert!(options.color);
    }

    #[test]
    fn anything_else_gets_every_row_without_boxes_at_full_width() {
        let options = output(&[], None);
        assert_eq!(options.format, Format::Plain);
        assert_eq!((options.max_rows, options.width), (None, None));
        assert!(!options.color);
    }

    #[test]
    fn a_format_for_programs_is_never_cut_unless_asked_for() {
        let options = output(&["--format", "csv"], terminal());
        assert_eq!((options.max_rows, options.width), (None, None));
        let options = output(&["--format", "csv", "--max-rows", "7"], terminal());
        assert_eq!(options.max_rows, Some(7));
    }

    fn sql(given: &[&str]) -> Result<String, clap::Error> {
        let given = ["duck-query"].iter().chain(given).map(OsString::from);
        let args = Args::read(given)?;
        Ok(args.sql.or(args.command).unwrap_or_default())
    }

    #[test]
    fn sql_that_begins_with_a_comment_is_no_option() {
        for text in [
            "-- why\nSELECT 1",
            "--why\nSELECT 1",
            "--\nSELECT 1",
            "-- a=b\nSELECT 1",
        ] {
            for given in [
                &[text][..],
                &["-c", text],
                &["--command", text],
                &["--", text],
            ] {
                assert_eq!(sql(given).unwrap().trim_start(), text, "{given:?}");
            }
        }
    }

    #[test]
    fn an_option_that_is_not_known_is_an_error() {
        for option in ["--formt", "--formt=csv", "--formt=a\nb", "-x", "--SELECT"] {
            assert!(sql(&[option]).is_err(), "{option}");
        }
        assert_eq!(sql(&["--null=-- x", "SELECT 1"]).unwrap(), "SELECT 1");
    }

    #[test]
    fn sql_that_is_not_in_quotes_is_told_what_to_do() {
        let error = sql(&["SELECT", "42"]).unwrap_err();
        assert!(error.to_string().contains(IN_QUOTES), "{error}");
        let error = sql(&["SELECT", "--formt"]).unwrap_err();
        assert!(!error.to_string().contains(IN_QUOTES), "{error}");
    }

    #[test]
    fn all_rows_are_asked_for_by_word_or_by_zero() {
        for all in ["all", "0"] {
            assert_eq!(output(&["--max-rows", all], terminal()).max_rows, None);
        }
    }
}
