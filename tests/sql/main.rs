//! SQL logic tests over the wire: every `cases/*.slt` against a server and a database of its own, once for each
//! [`Way`] to run SQL.
//!
//! A line of a result is a row, its values separated by ` | `. A value is the text that duck-query shows, in which a
//! line break is `\n` and a backslash `\\`; no text at all is `(empty)`, and NULL is `NULL`. The letters of a query's
//! types are those of [`ColumnType`]. An error is its gRPC code and its message: `NotFound: Catalog Error: ...`.
//!
//! What the cases call a connection is a session. A file that needs sessions says so in its first line, and is left
//! out where SQL runs without.

mod column_type;
mod connection;
mod cookies;

use std::path::Path;

use duck_tests::TestServer;
use sqllogictest::harness::{Arguments, Failed, Trial};
use sqllogictest::{Normalizer, Runner, strict_column_validator};

use column_type::ColumnType;
use connection::{Connection, Way};

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/cases/*.slt");

/// The first line of a file whose cases go on from what was done before on the same connection.
const NEEDS_SESSIONS: &str = "# sessions";

fn main() {
    let arguments = Arguments::from_args();
    let trials = files()
        .into_iter()
        .flat_map(|path| {
            let cases = std::fs::read_to_string(&path).expect("a file of cases");
            let needs_sessions = cases.lines().next() == Some(NEEDS_SESSIONS);
            let ways = Way::ALL
                .into_iter()
                .filter(move |way| way.has_sessions() || !needs_sessions);
            ways.map(move |way| (path.clone(), way))
        })
        .map(|(path, way)| {
            let name = path.file_stem().expect("a file").to_string_lossy();
            Trial::test(format!("{name} by {way:?}"), move || run(&path, way))
        })
        .collect();
    sqllogictest::harness::run(&arguments, trials).exit();
}

fn files() -> Vec<std::path::PathBuf> {
    let files = sqllogictest::harness::glob(CASES).expect("a pattern");
    let files: Vec<_> = files.map(|path| path.expect("a file")).collect();
    assert!(!files.is_empty(), "no cases in {CASES}");
    files
}

/// Runs the cases of a file.
#[tokio::main]
async fn run(path: &Path, way: Way) -> Result<(), Failed> {
    let server = TestServer::start().await;
    let address = server.address().to_owned();
    let mut runner = Runner::new(move || Connection::open(way, address.clone()));
    runner.with_validator(is_same);
    runner.with_column_validator(strict_column_validator::<ColumnType>);
    let outcome = runner.run_file_async(path).await;
    runner.shutdown_async().await;
    drop(runner);
    server.shutdown().await;
    outcome.map_err(|error| Failed::from(error.display(false).to_string()))
}

/// Whether every row is the line that is expected. Nothing is normalized: white space counts.
fn is_same(_: Normalizer, actual: &[Vec<String>], expected: &[String]) -> bool {
    actual.iter().flatten().eq(expected)
}
