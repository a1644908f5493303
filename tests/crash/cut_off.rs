//! Checkpoints that are cut off one after the other. DuckDB marks in the log that a checkpoint has begun, writes what is
//! committed meanwhile into a second log, and puts the two together at the next start. The marks, and the second log,
//! may outlive the start for which they were meant.

use std::path::Path;

use duck_tests::{Answer, Client, ServerProcess, numbered, soon};
use tempfile::TempDir;
use tokio::task::JoinHandle;

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

/// Begins a checkpoint, which the disk holds where it has written all but its header.
async fn held_checkpoint(
    disk: &Disk,
    server: &ServerProcess,
    client: &Client,
    ledger: &mut Ledger,
) -> JoinHandle<Answer<u64>> {
    // Otherwise the checkpoint would vacuum, and nothing could be committed meanwhile.
    let mut old = client.session().await;
    old.rows("BEGIN", None).await;
    old.rows("FROM t LIMIT 0", None).await;
    ledger.append_all(client, 1, 10).await;
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
    checkpoint
}

/// As [`cut_off_with_units`], by these rules of the disk, one of which ends every checkpoint.
pub(crate) async fn cut_off_by(
    rules: &[(&str, &str, &str)],
    disk: &Disk,
    directory: TempDir,
    ledger: &mut Ledger,
) -> TempDir {
    let (mut server, client) = loaded(disk, directory, ledger).await;
    let checkpoint = held_checkpoint(disk, &server, &client, ledger).await;
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

/// By the time it syncs the file for its header, a checkpoint has given away the blocks that it has replaced. The header before still
/// needs them.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_checkpoint_has_replaced_is_there_until_it_is_done() {
    let disk = Disk::new();
    let mut ledger = Ledger::default();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (server, client) = loaded(&disk, directory, &mut ledger).await;
    client
        .execute(
            "CREATE TABLE u AS SELECT range AS i, hash(range) AS h FROM range(400_000); \
             CREATE TABLE v AS FROM u LIMIT 0",
        )
        .await;
    let one = [numbered(0, 1)];
    client.append("w", &one).await.expect("a good disk");
    client.checkpoint().await;
    client
        .execute("UPDATE u SET h = hash(h) WHERE i % 2 = 0")
        .await;
    let sum = "SELECT bit_xor(h), count(*) FROM u";
    let before = client.rows(sum).await;
    let checkpoint = held_checkpoint(&disk, &server, &client, &mut ledger).await;
    let (first, second) = (server.client().await, server.client().await);
    let by_sql = tokio::spawn(async move {
        let sql = "INSERT INTO v SELECT range, 7 * range FROM range(1_000_000)";
        first.try_execute(sql).await.ok();
    });
    // Time enough for it to write all of its rows, if it does not wait; and for the other one, behind which units wait, too.
    ledger.append_all(&client, 300, 10).await;
    let by_put = tokio::spawn(async move {
        let many = [numbered(1, 1_000_000)];
        second.append("w", &many).await.ok();
    });
    for _ in 0..1000 {
        client.ping().await;
    }
    let directory = server.kill();
    disk.heal();
    for load in [by_sql, by_put] {
        soon("the end of the server", load).await.expect("no panic");
    }
    checkpoint.await.expect("no panic").ok();
    let (_server, client) = loaded(&disk, directory, &mut ledger).await;
    assert_eq!(client.rows(sum).await, before);
}
