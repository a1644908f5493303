//! The server is killed at every single call that changes a file, one after the other, until there are no more of them:
//! in a checkpoint, at its start, at its end, and in a commit that writes to the database file. A write is done by
//! half, so that what is torn is found too.

use duck_tests::{Client, ServerProcess, eventually, soon};
use tempfile::TempDir;

use crate::shim::{DATABASE, Disk, Ledger};

const ROWS: i64 = 300;
const FULL_GROUP: i64 = 130_000;

/// No phase takes that many calls.
const MOST: u32 = 400;

/// Asserts that a phase came to its end only after several kills.
fn assert_many(number: u32) {
    eprintln!("it takes {number} calls");
    assert!(number > 2, "the shim sees nothing");
}

/// Kills at the call of this number, of all calls on the database's files.
fn kill_at(disk: &Disk, number: u32) {
    disk.fail("any", DATABASE, &format!("tear:{number}"));
}

async fn start(disk: &Disk) -> (ServerProcess, Client, Ledger) {
    let server = disk.start(tempfile::tempdir().expect("a temporary directory"));
    let client = server.client().await;
    let mut ledger = Ledger::default();
    ledger.append_all(&client, 3, ROWS).await;
    client.checkpoint().await;
    ledger.append_all(&client, 3, ROWS).await;
    (server, client, ledger)
}

/// Restarts what was killed, and finds everything, twice: also the rows that came in behind what the first start left.
async fn assert_kept(disk: &Disk, directory: TempDir, ledger: &mut Ledger, number: u32) {
    assert_kept_by(2, disk, directory, ledger, number).await;
}

/// As [`assert_kept`], by so many starts.
async fn assert_kept_by(
    starts: u32,
    disk: &Disk,
    mut directory: TempDir,
    ledger: &mut Ledger,
    number: u32,
) {
    disk.heal();
    for _ in 0..starts {
        let server = disk.start(directory);
        let client = server.client().await;
        let difference = ledger.difference(&client).await.expect("a good disk");
        assert_eq!(difference, None, "killed at call {number}");
        ledger.append_all(&client, 1, ROWS).await;
        directory = server.kill();
    }
}

/// A server killed at a call of a checkpoint, or after the checkpoint, while units are committed beside it.
struct KilledCheckpoint {
    directory: TempDir,
    ledger: Ledger,
    was_over: bool,
}

impl KilledCheckpoint {
    async fn at(disk: &Disk, number: u32) -> Self {
        let (server, client, mut ledger) = start(disk).await;
        let mut others = Ledger::starting_at(1000);
        let loading = client.clone();
        let load = tokio::spawn(async move {
            while others.append(&loading, ROWS).await.is_ok() {}
            others
        });
        kill_at(disk, number);
        // Commits are steps as well: there is always a call of this number, before the checkpoint's end or after.
        let checkpoint = client.try_execute("CHECKPOINT").await;
        ledger.merge(eventually("the kill", load).await.expect("no panic"));
        disk.heal();
        Self {
            directory: server.kill(),
            ledger,
            was_over: checkpoint.is_ok(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_step_of_a_checkpoint_loses_nothing() {
    for number in 1..MOST {
        let disk = Disk::new();
        let mut killed = KilledCheckpoint::at(&disk, number).await;
        assert_kept(&disk, killed.directory, &mut killed.ledger, number).await;
        if killed.was_over {
            return assert_many(number);
        }
    }
    panic!("a checkpoint takes more than {MOST} calls");
}

/// Of the blocks that a checkpoint writes over, the database needs parts that stay as they are: with the checksum of what was not
/// written any more they would be lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_first_page_of_any_write_of_a_checkpoint_loses_nothing() {
    for number in 1..MOST {
        let disk = Disk::new();
        let (server, client, mut ledger) = start(&disk).await;
        disk.fail("write", DATABASE, &format!("page:{number}"));
        let is_over = client.try_execute("CHECKPOINT").await.is_ok();
        disk.heal();
        assert_kept(&disk, server.kill(), &mut ledger, number).await;
        if is_over {
            return assert_many(number);
        }
    }
    panic!("a checkpoint takes more than {MOST} calls");
}

/// The start after a checkpoint that was cut off has more to do than to read the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_step_of_the_start_after_a_killed_checkpoint_loses_nothing() {
    let mut calls = 0;
    // Each of these starts takes as many calls as the checkpoint itself: a third of the checkpoint's will do.
    for number in (1..MOST).step_by(3) {
        let disk = Disk::new();
        let mut killed = KilledCheckpoint::at(&disk, number).await;
        calls += kill_every_start(&disk, &killed.directory, &mut killed.ledger, 3).await;
        if killed.was_over {
            return assert_many(calls);
        }
    }
    panic!("a checkpoint takes more than {MOST} calls");
}

/// A part of a commit that is in the log with its row groups is cut off by the start, before it reads the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_step_of_the_start_after_a_torn_commit_loses_nothing() {
    let disk = Disk::new();
    let (server, client, mut ledger) = start(&disk).await;
    // The places of its row groups are in the log while it waits for the database file: so many are not kept in a buffer.
    disk.fail("sync", DATABASE, "kill");
    let torn = ledger.append(&client, 16 * FULL_GROUP).await;
    torn.expect_err("the server is killed in the middle of it");
    let directory = server.kill();
    disk.heal();
    let mut whole = disk.start(copy_of(&directory));
    ledger.assert_kept(&whole.client().await).await;
    whole.signal("TERM");
    let said = whole.wait().stderr;
    assert!(said.contains("a part of a commit is cut off"), "{said}");
    assert_many(kill_every_start(&disk, &directory, &mut ledger, 1).await);
}

/// Kills the start on copies of a directory at every call it makes; answers with their number. Every start after it finds
/// everything; after every so many kills, a second one does.
async fn kill_every_start(
    disk: &Disk,
    directory: &TempDir,
    ledger: &mut Ledger,
    twice_every: u32,
) -> u32 {
    for number in 1..MOST {
        kill_at(disk, number);
        match disk.try_start(copy_of(directory)) {
            Err((copy, _)) => {
                let starts = 1 + u32::from(number.is_multiple_of(twice_every));
                assert_kept_by(starts, disk, copy, &mut ledger.clone(), number).await;
            }
            Ok(server) => {
                disk.heal();
                ledger.assert_kept(&server.client().await).await;
                return number - 1;
            }
        }
        disk.heal();
    }
    panic!("a start takes more than {MOST} calls");
}

pub(crate) fn copy_of(directory: &TempDir) -> TempDir {
    let copy = tempfile::tempdir().expect("a temporary directory");
    for file in directory.path().read_dir().expect("it is there") {
        let file = file.expect("a file");
        std::fs::copy(file.path(), copy.path().join(file.file_name())).expect("a good disk");
    }
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_step_of_the_end_loses_nothing() {
    for number in 1..MOST {
        let disk = Disk::new();
        let (mut server, client, mut ledger) = start(&disk).await;
        drop(client);
        kill_at(&disk, number);
        server.signal("TERM");
        let exit = server.wait();
        assert_kept(&disk, server.kill(), &mut ledger, number).await;
        if exit.code == Some(0) {
            return assert_many(number);
        }
    }
    panic!("an end takes more than {MOST} calls");
}

/// Row groups go to the database file, and what is beside them to the log: through a buffer, which it fills, so that a
/// part of the commit is in the log before its end. DuckDB's order of the tables is by chance, hence several.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_step_of_a_commit_with_full_groups_leaves_all_of_it_or_nothing() {
    const TABLES: [&str; 4] = ["beside_1", "grouped", "beside_2", "beside_3"];
    let rows_of = |table| {
        if table == "grouped" {
            3 * FULL_GROUP
        } else {
            1000
        }
    };
    let inserts = TABLES.map(|table| {
        let rows = rows_of(table);
        format!("INSERT INTO {table} SELECT range, repeat('x', 30) || range FROM range({rows});")
    });
    let script = format!("BEGIN; {} COMMIT", inserts.concat());
    let (mut kept, mut gone) = (0, 0);
    for number in 1..MOST {
        let disk = Disk::new();
        let (server, client, _) = start(&disk).await;
        for table in TABLES {
            let sql = format!("CREATE TABLE {table} AS SELECT -1::BIGINT AS i, '' AS text");
            client.execute(&sql).await;
        }
        kill_at(&disk, number);
        let answer = soon("an answer", client.try_execute(script.clone())).await;
        let directory = server.kill();
        disk.heal();
        let server = disk.start(directory);
        let client = server.client().await;
        let mut found = Vec::new();
        for table in TABLES {
            found.push(i64::try_from(client.count(table).await).expect("few") - 1);
        }
        let all = TABLES.map(rows_of);
        match found.as_slice() {
            [0, 0, 0, 0] => gone += 1,
            rows => {
                assert_eq!(rows, all, "killed at call {number}");
                kept += 1;
            }
        }
        if answer.is_ok() {
            assert!(
                gone > 0 && kept > 0,
                "{gone} times nothing, {kept} times all"
            );
            return assert_many(number);
        }
    }
    panic!("a commit takes more than {MOST} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_step_of_a_full_groups_commit_loses_nothing() {
    for number in 1..MOST {
        let disk = Disk::new();
        let (server, client, mut ledger) = start(&disk).await;
        kill_at(&disk, number);
        let answer = ledger.append(&client, FULL_GROUP).await;
        assert_kept(&disk, server.kill(), &mut ledger, number).await;
        if answer.is_ok() {
            return assert_many(number);
        }
    }
    panic!("a commit takes more than {MOST} calls");
}
