//! Checkpoints that are cut off one after the other. DuckDB marks in the log that a checkpoint has begun, writes what is
//! committed meanwhile into a second log, and puts the two together at the next start. The marks, and the second log,
//! may outlive the start for which they were meant.

use std::path::Path;

use duck_tests::{Client, ServerProcess, soon};
use tempfile::TempDir;

use crate::shim::{DATABASE, Disk, EIO, Ledger};

/// The log of what is committed while a checkpoint runs.
pub(crate) const SECOND_LOG: &str = ".wal.checkpoint";

/// So many units are committed while a checkpoint runs.
const UNITS_BESIDE: u64 = 3;

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
    directory: TempDir,
    ledger: &mut Ledger,
) -> TempDir {
    let (mut server, client) = loaded(disk, directory, ledger).await;
    // Otherwise the checkpoint would vacuum, and nothing could be committed meanwhile.
    let mut old = client.session().await;
    old.rows("BEGIN", None).await;
    old.rows("FROM t LIMIT 0", None).await;
    ledger.append_all(&client, 1, 10).await;
    let failures = disk.failures();
    disk.fail("sync", DATABASE, "hold");
    let other = server.client().await;
    let checkpoint = tokio::spawn(async move { other.try_execute("CHECKPOINT").await });
    let begins = async {
        while disk.failures() == failures {
            tokio::task::yield_now().await;
        }
    };
    soon("the checkpoint", begins).await;
    ledger.append_all(&client, UNITS_BESIDE, 10).await;
    disk.fail_all(rules);
    soon("the kill", checkpoint).await.expect("no panic").ok();
    server.wait();
    disk.heal();
    server.kill()
}

fn has_second_log(directory: &Path) -> bool {
    directory.join(format!("{DATABASE}{SECOND_LOG}")).exists()
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
    assert!(has_second_log(directory.path()), "the shim sees nothing");
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
