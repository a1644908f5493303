//! Checkpoints that are cut off one after the other. DuckDB marks in the log that a checkpoint has begun, writes what is
//! committed meanwhile into a second log, and puts the two together at the next start. The marks, and the second log,
//! may outlive the start for which they were meant.

use std::path::PathBuf;

use duck_tests::{Client, ServerProcess, numbered, soon};
use tempfile::TempDir;

use crate::shim::{DATABASE, Disk, EIO, Ledger};

/// The log of what is committed while a checkpoint runs.
pub(crate) const SECOND_LOG: &str = ".wal.checkpoint";

/// Enough rows for a checkpoint that takes a while.
const BULK_UNITS: i64 = 8;
const BULK_ROWS: i64 = 100_000;

/// What a commit ends with in DuckDB's log: an entry of this kind, and nothing in it.
const COMMIT_END: [u8; 5] = [100, 0, 100, 0xff, 0xff];

/// How often a checkpoint is cut off at most until something was committed meanwhile.
const TRIES: usize = 20;

async fn loaded(disk: &Disk, directory: TempDir, ledger: &mut Ledger) -> (ServerProcess, Client) {
    let server = disk.start(directory);
    let client = server.client().await;
    ledger.assert_kept(&client).await;
    ledger.append_all(&client, 3, 100).await;
    (server, client)
}

/// Cuts off a checkpoint during which nothing is committed: the log keeps its mark.
async fn cut_off_alone(disk: &Disk, directory: TempDir, ledger: &mut Ledger) -> TempDir {
    let (mut server, client) = loaded(disk, directory, ledger).await;
    disk.fail("sync", DATABASE, "kill");
    client.try_execute("CHECKPOINT").await.ok();
    server.wait();
    disk.heal();
    server.kill()
}

/// Cuts off a checkpoint during which units are committed: there is a second log.
async fn cut_off_with_units(disk: &Disk, directory: TempDir, ledger: &mut Ledger) -> TempDir {
    cut_off_by(&[("sync", DATABASE, "kill")], disk, directory, ledger).await
}

/// As [`cut_off_with_units`], by these rules of the disk, one of which ends every checkpoint.
pub(crate) async fn cut_off_by(
    rules: &[(&str, &str, &str)],
    disk: &Disk,
    mut directory: TempDir,
    ledger: &mut Ledger,
) -> TempDir {
    for _ in 0..TRIES {
        let (mut server, client) = loaded(disk, directory, ledger).await;
        for unit in 0..BULK_UNITS {
            let batch = numbered(unit, BULK_ROWS);
            client.append("bulk", &[batch]).await.expect("a good disk");
        }
        disk.fail_all(rules);
        let other = server.client().await;
        let checkpoint = tokio::spawn(async move { other.try_execute("CHECKPOINT").await });
        while ledger.append(&client, 10).await.is_ok() {}
        soon("the kill", checkpoint).await.expect("no panic").ok();
        server.wait();
        disk.heal();
        directory = server.kill();
        if holds_commit(&directory) {
            return directory;
        }
    }
    panic!("nothing is ever committed while a checkpoint runs");
}

fn second_log(directory: &TempDir) -> PathBuf {
    directory.path().join(format!("{DATABASE}{SECOND_LOG}"))
}

fn has_second_log(directory: &TempDir) -> bool {
    second_log(directory).exists()
}

/// Whether the second log has a whole commit, which the kill may have overtaken on the way to its ack.
fn holds_commit(directory: &TempDir) -> bool {
    let log = std::fs::read(second_log(directory)).unwrap_or_default();
    log.windows(COMMIT_END.len()).any(|end| end == COMMIT_END)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mark_of_a_checkpoint_that_was_cut_off_does_not_stop_a_later_start() {
    let disk = Disk::new();
    let mut ledger = Ledger::default();
    let mut directory = tempfile::tempdir().expect("a temporary directory");
    directory = cut_off_alone(&disk, directory, &mut ledger).await;
    directory = cut_off_with_units(&disk, directory, &mut ledger).await;
    let (server, client) = loaded(&disk, directory, &mut ledger).await;
    ledger.assert_kept(&client).await;
    let server = disk.start(server.kill());
    ledger.assert_kept(&server.client().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_log_that_was_read_already_is_never_read_again() {
    let disk = Disk::new();
    let mut ledger = Ledger::default();
    let mut directory = tempfile::tempdir().expect("a temporary directory");
    directory = cut_off_with_units(&disk, directory, &mut ledger).await;
    // The two logs are one now, and the second one is about to be removed.
    disk.fail("unlink", SECOND_LOG, "kill");
    directory = match disk.try_start(directory) {
        Err((directory, _)) => directory,
        Ok(server) => server.kill(),
    };
    assert!(has_second_log(&directory), "the shim sees nothing");
    disk.heal();
    let (mut server, client) = loaded(&disk, directory, &mut ledger).await;
    // The next checkpoint removes what is left of it, just after it has left its mark.
    disk.fail("unlink", SECOND_LOG, "kill");
    if client.try_execute("CHECKPOINT").await.is_err() {
        server.wait();
    }
    disk.heal();
    let (_server, client) = loaded(&disk, server.kill(), &mut ledger).await;
    ledger.assert_kept(&client).await;
}

/// A start that fails may have made one log of the two: nothing of it is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_once_the_logs_are_one_does_not_stop_the_next_one() {
    let disk = Disk::new();
    let mut ledger = Ledger::default();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let directory = cut_off_with_units(&disk, directory, &mut ledger).await;
    disk.fail("unlink", SECOND_LOG, EIO);
    let Err((directory, exit)) = disk.try_start(directory) else {
        panic!("the shim sees nothing");
    };
    assert!(exit.stderr.contains(SECOND_LOG), "{exit:?}");
    disk.heal();
    let (_server, client) = loaded(&disk, directory, &mut ledger).await;
    ledger.assert_kept(&client).await;
}
