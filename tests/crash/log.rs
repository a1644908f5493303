//! The log is damaged between two runs. A server that cannot know all that was acknowledged does not start, says
//! why, and leaves the log as it is. Told to salvage the log, it goes on with what stands before the damage.

use std::path::{Path, PathBuf};

use duck_tests::{Client, Exit, ServerProcess, eventually, numbered, options, soon};
use tempfile::TempDir;

use crate::any_step::copy_of;
use crate::cut_off::{SECOND_LOG, cut_off_by};
use crate::shim::{DATABASE, Disk, LOG, Ledger};

const UNITS: u64 = 20;
const ROWS: i64 = 200;

const SALVAGE: &str = "--salvage-log";

fn log_of(directory: &Path) -> PathBuf {
    directory.join("test.db.wal")
}

/// A directory whose server was killed, with rows in the database file and rows in the log.
async fn killed() -> (TempDir, Ledger) {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    let mut ledger = Ledger::default();
    ledger.append_all(&client, UNITS, ROWS).await;
    client.checkpoint().await;
    ledger.append_all(&client, UNITS, ROWS).await;
    (server.kill(), ledger)
}

/// What came of a start on a damaged log.
enum Outcome {
    Refused(TempDir, Exit),
    /// With what is wrong with the rows, if anything is.
    Served(TempDir, Option<String>),
}

async fn start(directory: TempDir, ledger: &Ledger) -> Outcome {
    match ServerProcess::try_start_in(directory, &[], &[]) {
        Err((directory, exit)) => Outcome::Refused(directory, exit),
        Ok(server) => {
            let client = server.client().await;
            let difference = ledger.difference(&client).await;
            let difference = difference.unwrap_or_else(|status| Some(format!("{status:?}")));
            Outcome::Served(server.kill(), difference)
        }
    }
}

/// What is done to the bytes of a log.
type Damage = fn(&mut Vec<u8>);

/// Asserts that a start is refused with a reason that names the log, which stays as it is; and that the good
/// log, put back, serves everything.
async fn assert_refused(damage: &[(&str, Damage)]) {
    let (mut directory, ledger) = killed().await;
    let path = log_of(directory.path());
    let good = std::fs::read(&path).expect("a log");
    let database = std::fs::read(directory.path().join(DATABASE)).expect("a database");
    let mut served = Vec::new();
    for (name, damage) in damage {
        let mut bad = good.clone();
        damage(&mut bad);
        std::fs::write(&path, &bad).expect("a good disk");
        match start(directory, &ledger).await {
            Outcome::Served(back, difference) => {
                served.push(format!("{name}: {difference:?}"));
                directory = back;
                std::fs::write(directory.path().join(DATABASE), &database).expect("a good disk");
            }
            Outcome::Refused(back, exit) => {
                directory = back;
                assert!(exit.code.is_some_and(|code| code != 0), "{name}: {exit:?}");
                let says = exit.stderr.contains(LOG) || exit.stderr.contains("log");
                assert!(says, "{name}: no word of the log: {exit:?}");
                assert!(exit.stderr.contains(SALVAGE), "{name}: {exit:?}");
                let kept = std::fs::read(&path).ok();
                assert!(kept.as_ref() == Some(&bad), "{name}: the log was changed");
            }
        }
    }
    std::fs::write(&path, &good).expect("a good disk");
    match start(directory, &ledger).await {
        Outcome::Served(_, difference) => assert_eq!(difference, None),
        Outcome::Refused(_, exit) => panic!("the good log is refused: {exit:?}"),
    }
    assert!(served.is_empty(), "served instead of refused: {served:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_torn_by_a_kill_keeps_what_was_acknowledged() {
    for action in ["tear", "kill"] {
        for rows in [1, 50, 5000, 50_000] {
            let disk = Disk::new();
            let mut server = disk.start(tempfile::tempdir().expect("a temporary directory"));
            let client = server.client().await;
            let mut ledger = Ledger::default();
            ledger.append_all(&client, 3, ROWS).await;
            disk.fail("write", LOG, action);
            let cut = ledger.append(&client, rows).await;
            cut.expect_err("the server is killed in the middle of it");
            server.wait();
            disk.heal();
            let server = disk.start(server.kill());
            ledger.assert_kept(&server.client().await).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_a_sync_keeps_what_was_acknowledged() {
    let disk = Disk::new();
    let mut directory = tempfile::tempdir().expect("a temporary directory");
    let mut ledger = Ledger::default();
    for suffix in [LOG, DATABASE, LOG, DATABASE] {
        let mut server = disk.start(directory);
        let client = server.client().await;
        ledger.assert_kept(&client).await;
        ledger.append_all(&client, 3, ROWS).await;
        disk.fail("sync", suffix, "kill");
        ledger.append(&client, ROWS).await.ok();
        client.try_execute("CHECKPOINT").await.ok();
        server.wait();
        disk.heal();
        directory = server.kill();
    }
    let server = disk.start(directory);
    ledger.assert_kept(&server.client().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_cut_below_what_was_acknowledged_is_refused() {
    assert_refused(&[
        ("one byte", |log| log.truncate(log.len() - 1)),
        ("ten bytes", |log| log.truncate(log.len() - 10)),
        ("a hundred bytes", |log| log.truncate(log.len() - 100)),
        ("a unit", |log| log.truncate(log.len() - log.len() / 20)),
        ("half", |log| log.truncate(log.len() / 2)),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_tail_is_zeroed_is_refused() {
    assert_refused(&[
        ("a hundred bytes", |log| {
            let from = log.len() - 100;
            log[from..].fill(0);
        }),
        ("half", |log| {
            let from = log.len() / 2;
            log[from..].fill(0);
        }),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_log_is_refused() {
    assert_refused(&[("emptied", Vec::clear)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_gone_is_refused() {
    let (directory, ledger) = killed().await;
    let path = log_of(directory.path());
    let good = std::fs::read(&path).expect("a log");
    std::fs::remove_file(&path).expect("a good disk");
    let directory = match start(directory, &ledger).await {
        Outcome::Refused(directory, exit) => {
            assert!(exit.code.is_some_and(|code| code != 0), "{exit:?}");
            directory
        }
        Outcome::Served(_, difference) => panic!("served: {difference:?}"),
    };
    std::fs::write(path, good).expect("a good disk");
    let server = ServerProcess::start_in(directory, &[]);
    ledger.assert_kept(&server.client().await).await;
}

/// What a large unit writes to the log is marked like any other commit, whatever was done while its rows came in.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_with_a_large_unit_is_missed_though_a_checkpoint_was_made_while_that_came_in() {
    for more in [
        "",
        r#","mode":"upsert","key":["batch","row"]"#,
        r#","create":"replace""#,
    ] {
        // With so little memory for rows a unit is soon a large one.
        let server = ServerProcess::start(&["--ingest-buffer", "1MiB"]);
        let client = server.client().await;
        let before = client.append("t", &[numbered(0, ROWS)]).await;
        assert_eq!(before.expect("a good disk"), ROWS.unsigned_abs());
        let batch = numbered(1, 30_000);
        let options = options(&format!(r#"{{"table":"t"{more}}}"#));
        let put = soon("an open put", client.open_put(&options, &batch.schema())).await;
        put.fill(&batch).await;
        client.checkpoint().await;
        put.finish().await.expect("a good disk");
        let rows = client.count("t").await;
        let directory = server.kill();
        let path = log_of(directory.path());
        let good = std::fs::read(&path).expect("a log");
        std::fs::remove_file(&path).expect("a good disk");
        let refused = ServerProcess::try_start_in(directory, &[], &[]);
        let Err((directory, exit)) = refused else {
            panic!("{more}: served");
        };
        assert!(exit.stderr.contains(SALVAGE), "{more}: {exit:?}");
        std::fs::write(&path, good).expect("a good disk");
        let server = ServerProcess::start_in(directory, &[]);
        assert_eq!(server.client().await.count("t").await, rows, "{more}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_header_is_damaged_is_refused() {
    assert_refused(&[
        ("byte 0", |log| log[0] ^= 0xff),
        ("byte 2", |log| log[2] ^= 0x01),
        ("byte 8", |log| log[8] ^= 0xff),
        ("byte 12", |log| log[12] ^= 0x10),
        ("byte 20", |log| log[20] ^= 0xff),
        ("all of it", |log| log[..24].fill(0)),
    ])
    .await;
}

/// A flipped bit may hit a byte that does not matter; it never changes what is served.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_the_log_is_refused_or_does_not_matter() {
    let (mut directory, ledger) = killed().await;
    let path = log_of(directory.path());
    let database_path = directory.path().join(DATABASE);
    let good = std::fs::read(&path).expect("a log");
    let database = std::fs::read(&database_path).expect("a database");
    let mut wrong = Vec::new();
    for step in 1..20 {
        let at = good.len() * step / 20 + step;
        let mut bad = good.clone();
        bad[at] ^= 1 << (step % 8);
        std::fs::write(&path, &bad).expect("a good disk");
        directory = match start(directory, &ledger).await {
            Outcome::Refused(directory, exit) => {
                assert!(exit.code.is_some_and(|code| code != 0), "{exit:?}");
                assert!(exit.stderr.contains(SALVAGE), "{exit:?}");
                assert!(std::fs::read(&path).is_ok_and(|log| log == bad));
                directory
            }
            Outcome::Served(directory, difference) => {
                wrong.extend(difference.map(|difference| format!("byte {at}: {difference}")));
                std::fs::write(&database_path, &database).expect("a good disk");
                directory
            }
        };
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Sends units up to this one, as a loader with a producer does; answers with the one after which it went on.
async fn deliver(client: &Client, last: u64) -> u64 {
    let options = options(r#"{"table":"t","commit":"batch","producer":"p"}"#);
    let schema = numbered(0, 0).schema();
    let mut put = soon("an open put", client.open_put(&options, &schema)).await;
    let resume_after = put.resume_after().await.expect("where to go on");
    for sequence in resume_after + 1..=last {
        let batch = numbered(sequence.cast_signed(), ROWS);
        put.send_sequenced(&batch, sequence).await;
        let ack = soon("an ack", put.ack()).await.expect("an ack");
        assert!(!ack.expect("a good disk").duplicate);
    }
    assert!(put.finish().await.expect("an end").is_empty());
    resume_after
}

/// How many units there are, which must be the first ones, and each of them whole.
async fn delivered(client: &Client) -> u64 {
    let sql =
        "SELECT batch, count(*), count(DISTINCT \"row\") FROM t GROUP BY batch ORDER BY batch";
    let found = client.rows(sql).await;
    let wanted = (1..=found.len()).map(|unit| format!("{unit}|{ROWS}|{ROWS}"));
    assert_eq!(found, wanted.collect::<Vec<_>>());
    found.len() as u64
}

/// What copies of damaged logs hold, by their names.
fn copies_in(directory: &Path) -> Vec<Vec<u8>> {
    let names = std::fs::read_dir(directory).expect("a directory");
    let names = names.map(|entry| entry.expect("a good disk").path());
    let mut names: Vec<_> = names
        .filter(|path| path.to_string_lossy().contains(".damaged-"))
        .collect();
    names.sort_unstable();
    let copies = names.iter().map(std::fs::read);
    copies
        .collect::<Result<_, _>>()
        .expect("copies of damaged logs")
}

fn flip_in_the_middle(log: &mut [u8]) {
    log[log.len() / 2] ^= 0x10;
}

/// A loader with a producer sends again what was lost, and every row is there once.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_salvaged_up_to_the_damage_and_kept() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    deliver(&client, UNITS).await;
    client.execute("CHECKPOINT").await;
    deliver(&client, 2 * UNITS).await;
    let killed = server.kill();
    let cases: [(&str, Damage, bool); 5] = [
        (
            "zeroed",
            |log| {
                let from = log.len() / 2;
                log[from..].fill(0);
            },
            true,
        ),
        ("a bit", |log| flip_in_the_middle(log), true),
        ("cut", |log| log.truncate(log.len() / 2), true),
        ("header", |log| log[0] ^= 0xff, false),
        ("emptied", Vec::clear, false),
    ];
    for (name, damage, leaves_some) in cases {
        let directory = copy_of(&killed);
        let path = log_of(directory.path());
        let mut bad = std::fs::read(&path).expect("a log");
        damage(&mut bad);
        std::fs::write(&path, &bad).expect("a good disk");
        let Err((directory, exit)) = ServerProcess::try_start_in(directory, &[], &[]) else {
            panic!("{name}: served");
        };
        assert!(exit.stderr.contains(SALVAGE), "{name}: {exit:?}");
        let mut server = ServerProcess::start_in(directory, &[SALVAGE]);
        let left = delivered(&server.client().await).await;
        assert_eq!(left > UNITS, leaves_some, "{name}: {left}");
        assert!((UNITS..2 * UNITS).contains(&left), "{name}: {left}");
        let mut kept = vec![bad];
        kept.retain(|log| !log.is_empty());
        assert!(copies_in(server.directory()) == kept, "{name}: no copy");
        server.signal("KILL");
        let said = server.wait().stderr;
        assert!(said.contains("WARN"), "{name}: {said}");
        assert_eq!(said.contains(".damaged-"), !kept.is_empty(), "{said}");
        let server = ServerProcess::start_in(server.kill(), &[SALVAGE]);
        let client = server.client().await;
        assert_eq!(delivered(&client).await, left, "{name}");
        assert!(copies_in(server.directory()) == kept, "{name}: another");
        assert_eq!(deliver(&client, 2 * UNITS).await, left, "{name}");
        assert_eq!(delivered(&client).await, 2 * UNITS, "{name}");
    }
}

/// Damages the first log of a checkpoint that was cut off; answers with both.
fn damage_first(directory: &Path) -> [Vec<u8>; 2] {
    let second = std::fs::read(directory.join(format!("{DATABASE}{SECOND_LOG}")));
    let path = log_of(directory);
    let mut first = std::fs::read(&path).expect("a log");
    flip_in_the_middle(&mut first);
    std::fs::write(&path, &first).expect("a good disk");
    [first, second.expect("a second log")]
}

/// What was committed during a checkpoint came behind what the damage has taken.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_second_log_behind_a_damaged_one() {
    let disk = Disk::new();
    let mut ledger = Ledger::default();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let rules = [("sync", DATABASE, "kill")];
    let directory = cut_off_by(&rules, &disk, directory, &mut ledger).await;
    let [first, second] = damage_first(directory.path());
    let Outcome::Refused(directory, exit) = start(directory, &ledger).await else {
        panic!("served");
    };
    assert!(exit.stderr.contains(SALVAGE), "{exit:?}");
    let server = ServerProcess::start_in(directory, &[SALVAGE]);
    let client = server.client().await;
    // All units that are there are whole, and come before those that are lost.
    let difference = ledger.difference(&client).await.expect("a good disk");
    let difference = difference.expect("what the second log held is lost");
    let lost = difference.strip_prefix("acknowledged and lost: [");
    let first_lost: Option<i64> = lost.and_then(|lost| lost.split([',', ']']).next()?.parse().ok());
    let last = client.value::<i64>("SELECT max(batch) FROM t").await;
    assert!(first_lost.is_some_and(|unit| last < unit), "{difference}");
    // The copy of the second log comes first by its name. A commit that the kill has cut is not in it any more.
    let copies = copies_in(server.directory());
    assert!(second.starts_with(&copies[0]) && copies[1..] == [first]);
}

/// The second log has taken the place of the first one, all of which is in the database.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_by_damage_to_a_log_that_a_checkpoint_was_done_with() {
    let disk = Disk::new();
    let mut ledger = Ledger::default();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let rules = [("rename", SECOND_LOG, "kill"), ("unlink", LOG, "kill")];
    let directory = cut_off_by(&rules, &disk, directory, &mut ledger).await;
    let [first, _] = damage_first(directory.path());
    let Outcome::Refused(directory, _) = start(directory, &ledger).await else {
        panic!("served");
    };
    let server = ServerProcess::start_in(directory, &[SALVAGE]);
    ledger.assert_kept(&server.client().await).await;
    assert!(copies_in(server.directory()) == [first]);
    let server = ServerProcess::start_in(server.kill(), &[SALVAGE]);
    ledger.assert_kept(&server.client().await).await;
}

/// A database file is checked block by block: rows of a damaged one are refused, never wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_the_database_is_never_served() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    let mut ledger = Ledger::default();
    ledger.append_all(&client, 5, 20_000).await;
    let mut directory = server.stop();
    let path = directory.path().join(DATABASE);
    let good = std::fs::read(&path).expect("a database");
    let mut wrong = Vec::new();
    for step in 0..20 {
        let at = good.len() * step / 20 + step;
        let mut bad = good.clone();
        bad[at] ^= 1 << (step % 8);
        std::fs::write(&path, &bad).expect("a good disk");
        std::fs::remove_file(log_of(directory.path())).ok();
        directory = match ServerProcess::try_start_in(directory, &[], &[]) {
            Err((directory, exit)) => {
                assert!(exit.code.is_some_and(|code| code != 0), "{exit:?}");
                directory
            }
            Ok(server) => {
                let client = server.client().await;
                // An error is as good as the right rows.
                if let Ok(Some(difference)) = ledger.difference(&client).await {
                    wrong.push(format!("byte {at}: {difference}"));
                }
                server.kill()
            }
        };
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Whatever the server reads beside DuckDB, DuckDB's lock on the file stays.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_opens_a_database_that_is_put_into() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    Ledger::default().append_all(&client, 3, ROWS).await;
    let Err(error) = duckdb::Connection::open(server.directory().join(DATABASE)) else {
        panic!("another process has opened the database");
    };
    assert!(error.to_string().contains("lock"), "{error}");
}

/// Statements write to the log as puts do, and nobody need put for it to be kept short.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_statements_fill_is_checkpointed() {
    const LONG_BYTES: u64 = 16 << 20;
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    let bytes = || std::fs::metadata(log_of(server.directory())).map_or(0, |log| log.len());
    client
        .execute("CREATE TABLE t AS SELECT 0 AS i, '' AS text")
        .await;
    // Fewer rows than a group each, for those of a full one are not written to the log.
    for _ in 0..3 {
        client
            .execute("INSERT INTO t SELECT range, repeat('x', 100) || range FROM range(60_000)")
            .await;
    }
    let checkpoint = async {
        while bytes() > LONG_BYTES {
            tokio::task::yield_now().await;
        }
    };
    eventually("a checkpoint", checkpoint).await;
    assert_eq!(client.count("t").await, 180_001);
}
