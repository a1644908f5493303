//! The disk fails under the server. Nothing acknowledged is lost; the client is told to try again, or the server ends
//! and says why; once the disk is good again, a restart serves everything.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use duck_tests::{Answer, Client, Exit, ServerProcess, soon};
use tempfile::TempDir;
use tonic::Code;

use crate::shim::{DATABASE, Disk, EACCES, EIO, ENOSPC, EROFS, LOG, Ledger, MARK};
use crate::ways::Way;

/// More units than any fault lets through.
const UNITS: usize = 20;

/// Rows that go into the log, as many as do so at most, and rows that a commit writes into the database file.
pub(crate) const SMALL: i64 = 1000;
const ALMOST_FULL_GROUP: i64 = 20_000;
const FULL_GROUP: i64 = 130_000;

/// How often a disk that should fail is looked at.
const LOOK: Duration = Duration::from_millis(3);

pub(crate) fn new_directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// A server on a good disk, with some rows in its log.
pub(crate) async fn loaded(disk: &Disk) -> (ServerProcess, Client, Ledger) {
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

/// Asserts that a refusal tells a loader to try again, and why; or that the server has ended, which leaves the unit's fate
/// open, and says why.
pub(crate) fn assert_retriable(status: &tonic::Status, server: &mut ServerProcess) {
    if is_broken_connection(status) || status.code() == Code::Unknown {
        assert_ended_with_reason(&server.wait());
        return;
    }
    let codes = [Code::Unavailable, Code::ResourceExhausted, Code::Aborted];
    assert!(
        codes.contains(&status.code()) && !status.message().is_empty(),
        "not a code to try again after: {status:?}\n{}",
        server.stderr()
    );
}

/// Whether a client lost its server in the middle of a call.
fn is_broken_connection(status: &tonic::Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// Asserts that a server has ended by itself, and said why.
pub(crate) fn assert_ended_with_reason(exit: &Exit) {
    assert!(exit.code.is_some_and(|code| code != 0), "{exit:?}");
    let reason = exit.stderr.lines().any(|line| line.starts_with("error: "));
    assert!(reason, "no reason: {exit:?}");
}

/// Asserts that a unit was accepted on a disk that is good again, unless the server has ended and said why; answers with
/// its end.
pub(crate) fn assert_accepted_or_ended<T>(
    answer: Answer<T>,
    server: &mut ServerProcess,
) -> Option<Exit> {
    assert_retriable(&answer.err()?, server);
    let exit = server.wait();
    assert_ended_with_reason(&exit);
    Some(exit)
}

/// Restarts a server on a disk that is good again, and finds everything.
pub(crate) async fn assert_restart_serves_everything(
    disk: &Disk,
    server: ServerProcess,
    ledger: &mut Ledger,
) {
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
    assert_retriable(&refused, &mut server);
    assert_restart_serves_everything(&disk, server, &mut ledger).await;
}

/// Units of several loaders share the commit whose sync fails: what is there after a restart, no loader may have been told
/// that it is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_could_not_be_synced_is_not_said_to_be_refused() {
    let disk = Disk::new();
    let (mut server, client, mut ledger) = loaded(&disk).await;
    let load = |index: i64| {
        let (client, mut ledger) = (client.clone(), Ledger::starting_at(index * 1_000_000));
        tokio::spawn(async move {
            loop {
                if let Err(status) = ledger.append(&client, 10).await {
                    return (ledger, status);
                }
            }
        })
    };
    let loaders: Vec<_> = (1..=8).map(load).collect();
    ledger.append_all(&client, 20, 10).await;
    disk.fail("sync", LOG, EIO);
    for loader in loaders {
        let (others, end) = soon("the end", loader).await.expect("no panic");
        assert_retriable(&end, &mut server);
        ledger.merge(others);
    }
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
    refuse_and_go_on(Way::Put, &[("write", LOG, EIO)]).await;
}

/// Refuses units in the middle of a write, and goes on once the disk is good again, or ends; answers with that end.
async fn refuse_and_go_on(way: Way, rules: &[(&str, &str, &str)]) -> Option<Exit> {
    let disk = Disk::new();
    let (mut server, client, mut ledger) = loaded(&disk).await;
    let mut end = None;
    for _ in 0..3 {
        disk.fail_all(rules);
        let refused = ledger.append_by(way, &client, SMALL).await;
        assert_retriable(&refused.expect_err("a bad disk"), &mut server);
        disk.heal();
        end = assert_accepted_or_ended(ledger.append(&client, SMALL).await, &mut server);
        if end.is_some() {
            break;
        }
    }
    assert_restart_serves_everything(&disk, server, &mut ledger).await;
    end
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_in_the_middle_of_a_write_loses_nothing_that_comes_later() {
    refuse_and_go_on(Way::Put, &[("write", LOG, "short")]).await;
}

/// What is acknowledged behind half a unit that could not be cut off again is never read again. A statement's commit writes
/// to the log as that of a put does.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_unit_that_cannot_be_cut_off_the_log_ends_the_server() {
    for way in [Way::Put, Way::Statement] {
        let rules = [("write", LOG, "short"), ("truncate", LOG, EIO)];
        let end = refuse_and_go_on(way, &rules).await.expect("an end");
        assert!(end.stderr.contains("ends with half"), "{way:?}: {end:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_now_and_then_harms_nobody() {
    let disk = Disk::new();
    let (server, client, mut ledger) = loaded(&disk).await;
    let refusals = Arc::new(AtomicU64::new(0));
    let is_over = Arc::new(AtomicBool::new(false));
    let load = |index: i64| {
        let (client, is_over) = (client.clone(), is_over.clone());
        let (refusals, mut ledger) = (refusals.clone(), Ledger::starting_at(index * 1_000_000));
        // Commits of statements take no turn.
        let (way, rows) = match index % 2 {
            0 => (Way::Put, 10),
            _ => (Way::Statement, 300),
        };
        tokio::spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                if let Err(status) = ledger.append_by(way, &client, rows).await {
                    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                    refusals.fetch_add(1, Ordering::Relaxed);
                }
            }
            ledger
        })
    };
    let loaders: Vec<_> = (1..=8).map(load).collect();
    for turn in 1..=20 {
        disk.fail("write", LOG, if turn % 2 == 0 { ENOSPC } else { "short" });
        let refused = async {
            while refusals.load(Ordering::Relaxed) < turn * 10 {
                tokio::time::sleep(LOOK).await;
            }
        };
        soon("refusals", refused).await;
        disk.heal();
        ledger.append_all(&client, 3, 10).await;
    }
    is_over.store(true, Ordering::Relaxed);
    for loader in loaders {
        ledger.merge(loader.await.expect("no other error"));
    }
    ledger.assert_kept(&client).await;
    assert_restart_serves_everything(&disk, server, &mut ledger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_too_full_for_a_full_group_refuses_it_or_ends_the_server() {
    let disk = Disk::new();
    let (mut server, client, mut ledger) = loaded(&disk).await;
    disk.fail("write", DATABASE, ENOSPC);
    let refused = refusal(&mut ledger, &client, FULL_GROUP).await;
    assert!(disk.failures() > 0);
    assert_retriable(&refused, &mut server);
    disk.heal();
    assert_accepted_or_ended(ledger.append(&client, FULL_GROUP).await, &mut server);
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
            assert_retriable(&refused, &mut server);
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
    let failure = async {
        while disk.failures() == 0 {
            // The last ones may come to a server that has ended.
            ledger.append(&client, ALMOST_FULL_GROUP).await.ok();
        }
    };
    soon("a checkpoint", failure).await;
    // Nobody asks it for anything any more: it has to notice by itself.
    assert_ended_with_reason(&server.wait());
    assert_restart_serves_everything(&disk, server, &mut ledger).await;
}

/// Without its mark a server would not see that its log was cut.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_files_cannot_be_used_says_so_and_does_not_start() {
    for (call, file, action) in [
        ("open", DATABASE, EACCES),
        ("open", DATABASE, EROFS),
        ("open", MARK, EACCES),
        ("read", MARK, EIO),
        ("read", LOG, EIO),
    ] {
        let disk = Disk::new();
        let (server, client, mut ledger) = loaded(&disk).await;
        client.checkpoint().await;
        ledger.append_all(&client, 3, SMALL).await;
        let mut directory = server.kill();
        let log = directory.path().join("test.db.wal");
        let before = std::fs::read(&log).expect("a log");
        disk.fail(call, file, action);
        let exit;
        (directory, exit) = disk
            .try_start(directory)
            .expect_err("it cannot use its files");
        assert!(disk.failures() > 0);
        assert_ended_with_reason(&exit);
        assert!(exit.stderr.contains(file), "{call} {file}: {exit:?}");
        disk.heal();
        assert!(std::fs::read(&log).is_ok_and(|log| log == before));
        let server = disk.start(directory);
        assert_restart_serves_everything(&disk, server, &mut ledger).await;
    }
}

/// What cannot be read is an error, never fewer rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_of_rows_that_cannot_be_read_fails_until_they_can_be() {
    let disk = Disk::new();
    let (server, client, mut ledger) = loaded(&disk).await;
    ledger.append_all(&client, 2, FULL_GROUP).await;
    let mut server = disk.start(server.stop());
    let client = server.client().await;
    disk.fail("read", DATABASE, EIO);
    let error = ledger.difference(&client).await.expect_err("a bad disk");
    assert!(
        disk.failures() > 0 && !error.message().is_empty(),
        "{error:?}"
    );
    disk.heal();
    if server.is_alive() {
        ledger.assert_kept(&client).await;
    } else {
        assert_ended_with_reason(&server.wait());
    }
    assert_restart_serves_everything(&disk, server, &mut ledger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_opened_refuses_units_and_loses_nothing() {
    let disk = Disk::new();
    let (mut server, client, mut ledger) = loaded(&disk).await;
    // After a checkpoint the log is a new file.
    client.checkpoint().await;
    disk.fail("open", LOG, EROFS);
    let refused = ledger.append(&client, SMALL).await;
    assert!(disk.failures() > 0);
    assert_retriable(&refused.expect_err("there is no log"), &mut server);
    assert_restart_serves_everything(&disk, server, &mut ledger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_at_the_end_leaves_everything_to_the_next_start() {
    let disk = Disk::new();
    let (mut server, _client, mut ledger) = loaded(&disk).await;
    disk.fail_all(&[("write", DATABASE, ENOSPC), ("write", LOG, ENOSPC)]);
    server.signal("TERM");
    let exit = server.wait();
    assert!(disk.failures() > 0, "{exit:?}");
    assert_eq!(exit.code, Some(3), "{exit:?}");
    assert!(exit.stderr.contains("no checkpoint at the end"), "{exit:?}");
    assert_restart_serves_everything(&disk, server, &mut ledger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_on_a_full_disk_or_says_why_not() {
    for suffix in [DATABASE, LOG] {
        let disk = Disk::new();
        let (server, _client, mut ledger) = loaded(&disk).await;
        let directory = server.kill();
        disk.fail("write", suffix, ENOSPC);
        let server = match disk.try_start(directory) {
            Ok(server) => {
                ledger.assert_kept(&server.client().await).await;
                server
            }
            Err((directory, exit)) => {
                assert_ended_with_reason(&exit);
                disk.heal();
                disk.start(directory)
            }
        };
        assert!(disk.failures() > 0);
        assert_restart_serves_everything(&disk, server, &mut ledger).await;
    }
}

/// A start may take as long as a log of gigabytes does, and whoever starts the server must be able to end that.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_a_start_at_once_and_the_next_one_serves_everything() {
    let disk = Disk::new();
    let (server, _, ledger) = loaded(&disk).await;
    let mut directory = server.kill();
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        disk.fail("open", DATABASE, "hang");
        let hits = disk.failures();
        let mut start = disk.command(directory.path());
        let start = start
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let hanging = async {
            while disk.failures() == hits {
                tokio::time::sleep(LOOK).await;
            }
        };
        soon("the hanging call", hanging).await;
        let id = start.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.expect("kill runs").success());
        let waiting = tokio::task::spawn_blocking(move || start.wait_with_output());
        let output = soon("the end", waiting).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains("stopped before it listened"), "{said}");
        disk.heal();
        let server = disk.start(directory);
        ledger.assert_kept(&server.client().await).await;
        directory = server.kill();
    }
}
