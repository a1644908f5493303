//! `duck-load` as README runs it is killed and run again, and so is the server.
//!
//! `DUCK_CRASH_SEED` says with which dice.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use duck_tests::{Client, ServerProcess, binary, soon};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use crate::kill;
use crate::table::rows_if_there;

/// The loaders by the names of their producers, and how each commits.
const LOADERS: [(&str, &str); 2] = [("events", "batch"), ("orders", "stream")];

/// Who is killed, one after the other: the server, or one of the loaders.
const KILLED: [Option<usize>; 6] = [None, Some(0), None, Some(1), None, Some(0)];

/// What each loader sends.
const WRITERS: u64 = 4;
const BATCHES: u64 = 200;
const ROWS: u64 = 100;

/// The pace of each writer: what is sent takes longer than the kills.
const INTERVAL: &str = "10ms";

/// How often a child is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// A loader that goes on where it was, run by the same command each time. It is killed when this is dropped.
struct Load {
    command: Command,
    child: Child,
    /// The file of all that it has said.
    said: PathBuf,
    /// How often it was killed in the middle of its load.
    kills: u32,
}

impl Load {
    fn start(directory: &TempDir, server: &str, producer: &str, commit: &str) -> Self {
        let said = directory.path().join(producer);
        let file = File::create(&said).expect("a file");
        let mut command = Command::new(binary("duck-load"));
        command
            .args(["--server", server, "--producer", producer])
            .args(["--commit", commit, "--resume", "--verify"])
            .args(["--interval", INTERVAL])
            .args(["--writers", &WRITERS.to_string()])
            .args(["--batches", &BATCHES.to_string()])
            .args(["--rows", &ROWS.to_string()])
            .stdout(file.try_clone().expect("a file"))
            .stderr(file);
        Self {
            child: command.spawn().expect("the binary runs"),
            command,
            said,
            kills: 0,
        }
    }

    fn kill_and_run_again(&mut self) {
        self.child.kill().expect("it is ours");
        let status = self.child.wait().expect("it is ours");
        // It may have come to its end just before.
        self.kills += u32::from(status.code().is_none());
        self.child = self.command.spawn().expect("the binary runs");
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.said).expect("a file")
    }

    /// Whether it has come to its end, which must be a good one.
    fn is_over(&mut self) -> bool {
        let Some(status) = self.child.try_wait().expect("it is ours") else {
            return false;
        };
        assert_eq!(status.code(), Some(0), "{}", self.said());
        true
    }

    /// Waits for its end, and for its word that every batch is there once.
    async fn end(&mut self) {
        let over = async {
            while !self.is_over() {
                tokio::time::sleep(LOOK).await;
            }
        };
        soon("the end of a load", over).await;
        let (batches, rows) = (WRITERS * BATCHES, WRITERS * BATCHES * ROWS);
        let verified = format!(
            "verified   {batches} of {batches} acknowledged batches found once; 0 missing, 0 doubled, 0 damaged\n\
             found      {rows} rows, of {rows} acknowledged\n"
        );
        let said = self.said();
        assert!(said.ends_with(&verified), "{said}");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Starts a server on the file of the one before.
fn start(directory: &TempDir, listen: &str) -> ServerProcess {
    let database = directory.path().join("test.db").display().to_string();
    let server = ServerProcess::try_start(&["--database", &database, "--listen", listen]);
    server.expect("it listens")
}

/// Waits until the table has so many rows.
async fn until_there_are(rows: u64, client: &Client, loads: &mut [Load]) {
    let enough = async {
        let count = "SELECT count(*) FROM concurrent_test";
        loop {
            let found = rows_if_there(client, count).await.expect("an answer");
            let found = found.first().map_or("0", String::as_str);
            if found.parse::<u64>().expect("a count") >= rows {
                return;
            }
            for load in &mut *loads {
                load.is_over();
            }
        }
    };
    soon(&format!("{rows} rows"), enough).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_batch_of_loads_that_resume_is_there_once_whoever_is_killed() {
    let seed = kill::seed();
    eprintln!("resumed: DUCK_CRASH_SEED={seed}");
    let mut dice = Xoshiro256PlusPlus::seed_from_u64(seed);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut server = start(&directory, "127.0.0.1:0");
    let address = server.address().to_owned();
    let mut loads =
        LOADERS.map(|(producer, commit)| Load::start(&directory, &address, producer, commit));
    let producers = LOADERS.len() as u64 * WRITERS;
    let batches = producers * BATCHES;
    // Each kill falls into a part of its own, and the last part is left in peace.
    let part = batches * ROWS / (KILLED.len() as u64 + 1);
    for (number, killed) in (0..).zip(KILLED) {
        let rows = number * part + dice.random_range(0..part);
        until_there_are(rows, &server.client().await, &mut loads).await;
        match killed {
            Some(loader) => loads[loader].kill_and_run_again(),
            None => {
                server.signal("KILL");
                server.wait();
                server = start(&directory, &address);
            }
        }
    }
    for load in &mut loads {
        load.end().await;
        assert!(load.said().contains("retrying in"), "{}", load.said());
    }
    let kills: u32 = loads.iter().map(|load| load.kills).sum();
    assert!(kills > 0, "no load was killed before its end");
    let client = server.client().await;
    let counts = "SELECT count(*), count(DISTINCT batch_id) FROM concurrent_test";
    let expected = format!("{}|{batches}", batches * ROWS);
    assert_eq!(client.rows(counts).await, [expected]);
    let torn =
        format!("SELECT batch_id FROM concurrent_test GROUP BY batch_id HAVING count(*) <> {ROWS}");
    assert_eq!(client.rows(&torn).await, [""; 0]);
    let last = "SELECT count(*), min(last_sequence), max(last_sequence) FROM duck_flight.producers";
    let expected = format!("{producers}|{BATCHES}|{BATCHES}");
    assert_eq!(client.rows(last).await, [expected]);
}
