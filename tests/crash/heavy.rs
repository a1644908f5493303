//! The disk fails in the middle of more than a small append: of large units, of changes by key, of what clients of Flight
//! SQL commit, of a query that spills; and the mark of the log cannot be written.

use std::path::Path;

use duck_tests::{ServerProcess, eventually, soon};
use tonic::Code;

use crate::faults::{
    SMALL, assert_accepted_or_ended, assert_ended_with_reason, assert_restart_serves_everything,
    assert_retriable, loaded, new_directory,
};
use crate::latest::{Latest, Replacing};
use crate::shim::{DATABASE, Disk, EACCES, EIO, ENOSPC, LOG, Ledger, MARK, SPILLED};
use crate::ways::Way;

/// So many rows fill a row group, and so many are written in a transaction of their own.
const FULL_GROUP: i64 = 25_000;
const LARGE: i64 = 1_050_000;

/// A rule of the shim.
type Rule = (&'static str, &'static str, &'static str);

#[tokio::test(flavor = "multi_thread")]
async fn a_large_unit_on_a_bad_disk_is_refused_or_ends_the_server() {
    for (call, file, action) in [
        ("write", DATABASE, ENOSPC),
        ("write", DATABASE, EIO),
        ("sync", DATABASE, EIO),
        ("write", LOG, ENOSPC),
        ("sync", LOG, EIO),
    ] {
        let disk = Disk::new();
        let (mut server, client, mut ledger) = loaded(&disk).await;
        disk.fail(call, file, action);
        let refused = ledger.append(&client, LARGE).await.expect_err("a bad disk");
        assert!(disk.failures() > 0);
        assert_retriable(&refused, &mut server);
        disk.heal();
        assert_accepted_or_ended(ledger.append(&client, SMALL).await, &mut server);
        assert_restart_serves_everything(&disk, server, &mut ledger).await;
    }
}

/// What is acknowledged behind half a unit is never read again: whoever waits for its turn must not have it. An upsert is gathered
/// first.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_behind_half_a_large_unit() {
    for way in [Way::Put, Way::Upsert] {
        let disk = Disk::new();
        let (mut server, client, mut ledger) = loaded(&disk).await;
        let mut behind = Ledger::starting_at(1_000_000);
        disk.fail_all(&[("write", LOG, "short"), ("truncate", LOG, "hold")]);
        let (large, _) = tokio::join!(ledger.append_by(way, &client, LARGE), async {
            let held = async {
                // One write is half done, the next one finds the disk full, and then the half is to be cut off.
                while disk.failures() < 3 {
                    client.ping().await;
                }
            };
            eventually("half a unit in the log", held).await;
            let release = async {
                client.ping().await;
                disk.fail("truncate", LOG, EIO);
            };
            tokio::join!(behind.append(&client, SMALL), release)
        });
        large.expect_err("a bad disk");
        assert_ended_with_reason(&server.wait());
        ledger.merge(behind);
        assert_restart_serves_everything(&disk, server, &mut ledger).await;
    }
}

/// Fails while a unit takes the place of the one before it: the table is one of them.
async fn assert_one_of_both(replacing: Replacing, rows: i64, rule: Rule) {
    let disk = Disk::new();
    let mut server = disk.start(new_directory());
    let client = server.client().await;
    let mut latest = Latest::new("t", replacing, rows);
    for _ in 0..2 {
        latest.send(&client).await.expect("a good disk");
    }
    disk.fail_all(&[rule]);
    let refused = latest.send(&client).await.expect_err("a bad disk");
    assert!(disk.failures() > 0);
    assert_retriable(&refused, &mut server);
    disk.heal();
    assert_accepted_or_ended(latest.send(&client).await, &mut server);
    // Twice, for the first start makes a checkpoint of the log.
    let mut directory = server.kill();
    for _ in 0..2 {
        let server = disk.start(directory);
        let client = server.client().await;
        latest.assert_kept(&client).await;
        latest.send(&client).await.expect("a good disk");
        directory = server.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_replaced_as_a_whole_or_not_at_all_on_a_bad_disk() {
    for replacing in [Replacing::Table, Replacing::Upsert, Replacing::Changes] {
        for (call, action) in [("write", ENOSPC), ("write", "short"), ("sync", EIO)] {
            assert_one_of_both(replacing, FULL_GROUP, (call, LOG, action)).await;
        }
        // To the log a small unit is no other than those of `faults`, but for what it replaces.
        assert_one_of_both(replacing, SMALL, ("write", LOG, "short")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_unit_replaces_rows_as_a_whole_or_not_at_all_on_a_bad_disk() {
    assert_one_of_both(Replacing::Upsert, LARGE, ("write", LOG, ENOSPC)).await;
    assert_one_of_both(Replacing::Table, LARGE, ("write", DATABASE, ENOSPC)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_of_flight_sql_commit_on_a_bad_disk_is_refused_or_ends_the_server() {
    for way in [Way::Statement, Way::Ingest, Way::Transaction, Way::Prepared] {
        for (call, action) in [("write", ENOSPC), ("write", "short"), ("sync", EIO)] {
            let disk = Disk::new();
            let (mut server, client, mut ledger) = loaded(&disk).await;
            disk.fail(call, LOG, action);
            let refused = ledger.append_by(way, &client, SMALL).await;
            assert!(disk.failures() > 0);
            assert_retriable(&refused.expect_err("a bad disk"), &mut server);
            disk.heal();
            assert_accepted_or_ended(ledger.append(&client, SMALL).await, &mut server);
            assert_restart_serves_everything(&disk, server, &mut ledger).await;
        }
    }
}

/// What a query has no memory for goes to files beside the database.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_cannot_spill_fails_alone() {
    const DISTINCT: &str =
        "SELECT count(*) FROM (SELECT DISTINCT range, hash(range) FROM range(5_000_000))";
    for (call, action) in [("write", ENOSPC), ("open", EACCES)] {
        let disk = Disk::new();
        let started = disk.try_start_with(new_directory(), &["--memory-limit", "100MiB"]);
        let server = started.map_err(|(_, exit)| exit).expect("a good disk");
        let client = server.client().await;
        let mut ledger = Ledger::default();
        ledger.append_all(&client, 3, SMALL).await;
        disk.fail(call, SPILLED, action);
        let error = client
            .try_rows(DISTINCT)
            .await
            .expect_err("no room to spill");
        assert!(disk.failures() > 0, "{error:?}");
        assert_eq!(error.code(), Code::ResourceExhausted, "{error:?}");
        ledger.append_all(&client, 3, SMALL).await;
        disk.heal();
        assert_eq!(client.rows(DISTINCT).await, ["5000000"]);
        ledger.assert_kept(&client).await;
        assert_restart_serves_everything(&disk, server, &mut ledger).await;
    }
}

/// The names of the files in a directory, if it is there.
fn names_in(directory: &Path) -> Vec<String> {
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    names.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_server_has_spilled_is_gone_after_the_next_start() {
    let server = ServerProcess::start(&["--memory-limit", "100MiB"]);
    let client = server.client().await;
    let mut ledger = Ledger::default();
    ledger.append_all(&client, 3, SMALL).await;
    let spilled = server.directory().join("test.db.tmp");
    let spilling = tokio::spawn({
        let client = client.clone();
        async move {
            let sql =
                "SELECT count(*) FROM (SELECT DISTINCT range, hash(range) FROM range(50_000_000))";
            client.try_rows(sql).await
        }
    });
    let is_there = async {
        while names_in(&spilled).is_empty() {
            client.ping().await;
        }
    };
    soon("a file that is spilled", is_there).await;
    let mut directory = server.kill();
    spilling.await.unwrap().expect_err("its server was killed");
    assert!(!names_in(&spilled).is_empty());

    // Not those of somebody else.
    let others = spilled.join("notes");
    std::fs::write(&others, "mine").expect("a good disk");
    for left in [&["notes"][..], &[]] {
        let server = ServerProcess::start_in(directory, &[]);
        assert_eq!(names_in(&spilled), left);
        ledger.assert_kept(&server.client().await).await;
        directory = server.kill();
        std::fs::remove_file(&others).ok();
    }
    assert!(!spilled.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_process_has_spilled_stays_where_it_has_the_database() {
    let directory = ServerProcess::start(&[]).stop();
    let other = duckdb::Connection::open(directory.path().join(DATABASE)).expect("a database");
    let spilled = directory.path().join("test.db.tmp");
    std::fs::create_dir(&spilled).expect("a good disk");
    std::fs::write(spilled.join("duckdb_temp_block-1.block"), "its own").expect("a good disk");
    let refused = ServerProcess::try_start_in(directory, &[], &[]);
    let (_directory, exit) = refused.expect_err("another process has the database");
    assert!(exit.stderr.contains("in use"), "{exit:?}");
    assert_eq!(names_in(&spilled), ["duckdb_temp_block-1.block"]);
    drop(other);
}

/// A mark that cannot be written is an older one: it holds still for what it was written for.
#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_cannot_be_written_loses_nothing() {
    for action in [ENOSPC, "short"] {
        let disk = Disk::new();
        let (server, client, mut ledger) = loaded(&disk).await;
        disk.fail("write", MARK, action);
        ledger.append_all(&client, 5, SMALL).await;
        assert!(disk.failures() > 0);
        let mut directory = server.kill();
        disk.heal();
        let log = directory.path().join("test.db.wal");
        let whole = std::fs::read(&log).expect("a log");
        std::fs::write(&log, &whole[..whole.len() / 4]).expect("a good disk");
        let refused = disk.try_start(directory);
        (directory, _) = refused.expect_err("less than was acknowledged");
        std::fs::write(&log, &whole).expect("a good disk");
        let server = disk.start(directory);
        assert_restart_serves_everything(&disk, server, &mut ledger).await;
    }
}
