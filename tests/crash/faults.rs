//! The disk fails under the server. Nothing acknowledged is lost; the client is told to try again, or the server ends
//! and says why; once the disk is good again, a restart serves everything.

use duck_tests::{Answer, Client, Exit, ServerProcess, soon};
use tempfile::TempDir;
use tonic::Code;

use crate::shim::{DATABASE, Disk, EACCES, EIO, ENOSPC, EROFS, LOG, Ledger};

/// More units than any fault lets through.
const UNITS: usize = 20;

/// Rows that go into the log, and rows that a commit writes into the database file.
const SMALL: i64 = 1000;
const FULL_GROUP: i64 = 130_000;

fn new_directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// A server on a good disk, with some rows in its log.
async fn loaded(disk: &Disk) -> (ServerProcess, Client, Ledger) {
    let server = disk.start(new_directory());
    let client = server.client().await;
    let mut ledger = Ledger::default();
    ledger.append_all(&client, 5, SMALL).await;
    (server, client, ledger)
}

/// Appends until a unit is refused, and answers with the refusal.
async fn refusal(ledger: &mut Ledger, client: &Client, rows: i64) -> tonic::Status {
    for _ in 0..UNITS {
        if let Err(status) = ledger.append(client, rows).await {
            return status;
        }
    }
    panic!("the disk fails, and {UNITS} units were acknowledged");
}

/// Asserts that a refusal tells a loader to try again, and why.
fn assert_retriable(status: &tonic::Status, server: &ServerProcess) {
    let codes = [Code::Unavailable, Code::ResourceExhausted, Code::Aborted];
    assert!(
        codes.contains(&status.code()) && !status.message().is_empty(),
        "not a code to try again after: {status:?}\n{}",
        server.stderr()
    );
}

/// Asserts that a server has ended by itself, and said why.
fn assert_ended_with_reason(exit: &Exit) {
    assert!(exit.code.is_some_and(|code| code != 0), "{exit:?}");
    let last = exit.stderr.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("error: "),
        "no reason at the end: {exit:?}"
    );
}

/// Restarts a server on a disk that is good again, and finds everything.
async fn assert_restart_serves_everything(disk: &Disk, server: ServerProcess, ledger: &mut Ledger) {
    disk.heal();
    let server = disk.start(server.kill());
    let client = server.client().await;
    ledger.assert_kept(&client).await;
    ledger.append_all(&client, 2, SMALL).await;
    ledger.assert_kept(&client).await;
    let server = disk.start(server.stop());
    ledger.assert_kept(&server.client().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_synced_ends_the_server_and_loses_nothing() {
    let disk = Disk::new();
    let (mut server, client, mut ledger) = loaded(&disk).await;
    disk.fail("sync", LOG, EIO);
    let refused = refusal(&mut ledger, &client, SMALL).await;
    assert!(disk.failures() > 0);
    // After a failed sync nobody knows what the disk has: only a new process that reads the log does.
    assert_ended_with_reason(&server.wait());
    assert_retriable(&refused, &server);
    assert_restart_serves_everything(&disk, server, &mut ledger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_too_full_for_the_log_refuses_units_until_there_is_room() {
    let disk = Disk::new();
    let (mut server, client, mut ledger) = loaded(&disk).await;
    for _ in 0..3 {
        disk.fail("write", LOG, ENOSPC);
        let refused = refusal(&mut ledger, &client, SMALL).await;
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert!(refused.message().contains("space"), "{refused:?}");
        ledger.assert_kept(&client).await;
        disk.heal();
        ledger.append_all(&client, 3, SMALL).await;
    }
    assert!(server.is_alive());
    ledger.assert_kept(&client).await;
    assert_restart_serves_everything(&disk, server, &mut ledger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_with_a_bad_block_refuses_units_or_ends_the_server() {
    let disk = Disk::new();
    let (mut server, client, mut ledger) = loaded(&disk).await;
    disk.fail("write", LOG, EIO);
    let refused = refusal(&mut ledger, &client, SMALL).await;
    assert_retriable(&refused, &server);
    disk.heal();
    if let Err(status) = ledger.append(&client, SMALL).await {
        assert_retriable(&status, &server);
        assert_ended_with_reason(&server.wait());
    }
    assert_restart_serves_everything(&disk, server, &mut ledger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_cut_back_after_a_full_disk_loses_nothing() {
    let disk = Disk::new();
    let (server, client, mut ledger) = loaded(&disk).await;
    // What a refused unit has written already is cut off again; here that fails.
    disk.fail("truncate", LOG, EIO);
    let mut refused = Ok(0);
    for _ in 0..3 {
        refused = refused.and(ledger.append(&client, SMALL).await);
    }
    disk.fail("write", LOG, ENOSPC);
    let status = refusal(&mut ledger, &client, SMALL).await;
    assert_retriable(&status, &server);
    assert_restart_serves_everything(&disk, server, &mut ledger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_too_full_for_a_full_group_refuses_it_or_ends_the_server() {
    let disk = Disk::new();
    let (mut server, client, mut ledger) = loaded(&disk).await;
    disk.fail("write", DATABASE, ENOSPC);
    let refused = refusal(&mut ledger, &client, FULL_GROUP).await;
    assert!(disk.failures() > 0);
    assert_retriable(&refused, &server);
    disk.heal();
    if let Err(status) = ledger.append(&client, FULL_GROUP).await {
        assert_retriable(&status, &server);
        assert_ended_with_reason(&server.wait());
    }
    assert_restart_serves_everything(&disk, server, &mut ledger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_on_a_full_disk_loses_nothing() {
    for (call, action) in [("write", ENOSPC), ("sync", EIO), ("truncate", EIO)] {
        let disk = Disk::new();
        let (mut server, client, mut ledger) = loaded(&disk).await;
        disk.fail(call, DATABASE, action);
        let checkpoint: Answer<u64> = client.try_execute("CHECKPOINT").await;
        if disk.failures() > 0 {
            let refused = checkpoint.expect_err("the disk failed");
            assert_retriable(&refused, &server);
            assert_ended_with_reason(&server.wait());
        } else {
            assert_eq!(
                call, "truncate",
                "a checkpoint that writes or syncs nothing"
            );
        }
        assert_restart_serves_everything(&disk, server, &mut ledger).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_the_servers_own_that_fails_ends_the_server() {
    let disk = Disk::new();
    let (mut server, client, mut ledger) = loaded(&disk).await;
    disk.fail("write", DATABASE, ENOSPC);
    // Groups that are just too small for the database file fill the log until the server checkpoints it.
    let filled = async {
        while disk.failures() == 0 {
            if ledger.append(&client, 100_000).await.is_err() {
                break;
            }
        }
    };
    soon("a checkpoint", filled).await;
    // Nobody asks it anything any more: it has to notice by itself.
    assert_ended_with_reason(&server.wait());
    assert_restart_serves_everything(&disk, server, &mut ledger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_files_cannot_be_written_says_so_and_does_not_start() {
    for action in [EACCES, EROFS] {
        let disk = Disk::new();
        let (server, client, mut ledger) = loaded(&disk).await;
        client.execute("CHECKPOINT").await;
        ledger.append_all(&client, 3, SMALL).await;
        let mut directory = server.kill();
        disk.fail("open", DATABASE, action);
        let exit;
        (directory, exit) = disk
            .try_start(directory)
            .expect_err("it cannot write its database");
        assert_ended_with_reason(&exit);
        assert!(exit.stderr.contains(DATABASE), "{exit:?}");
        disk.heal();
        let server = disk.start(directory);
        assert_restart_serves_everything(&disk, server, &mut ledger).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_opened_refuses_units_and_loses_nothing() {
    let disk = Disk::new();
    let (server, client, mut ledger) = loaded(&disk).await;
    // After a checkpoint the log is a new file.
    client.execute("CHECKPOINT").await;
    disk.fail("open", LOG, EROFS);
    let refused = ledger.append(&client, SMALL).await;
    if disk.failures() > 0 {
        let refused = refused.expect_err("there is no log");
        assert_retriable(&refused, &server);
    }
    assert_restart_serves_everything(&disk, server, &mut ledger).await;
}
