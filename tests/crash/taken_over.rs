//! What is between a checkpoint that is done and the log that it has made void.

use std::time::Duration;

use duck_flight_protocol::PutOptions;
use duck_tests::{ints, soon};

use crate::shim::{Disk, EIO, LOG};

/// How often a disk that should hang is looked at.
const LOOK: Duration = Duration::from_millis(3);

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_that_wrote_nothing_says_nothing_of_a_log_that_is_about_to_be_removed() {
    let disk = Disk::new();
    let server = disk.start(tempfile::tempdir().expect("a temporary directory"));
    let client = server.client().await;
    let unit = r#"{"table":"t","producer":"p","sequence":7}"#;
    let unit: PutOptions = serde_json::from_str(unit).expect("options");
    let rows = [ints(0..1000)];
    client.put(&unit, &rows).await.expect("a good disk");
    disk.fail("unlink", LOG, "hang");
    let checkpoint = tokio::spawn({
        let client = client.clone();
        // One of the server's own transactions may be in the way at first.
        async move { while client.try_execute("CHECKPOINT").await.is_err() {} }
    });
    let hanging = async {
        while disk.failures() == 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    soon("the end of the checkpoint", hanging).await;
    let again = soon("an ack", client.put(&unit, &rows)).await;
    assert!(again.expect("an ack")[0].duplicate);
    let nothing = soon("an ack", client.append("t", &[ints([])])).await;
    assert_eq!(nothing.expect("an ack"), 0);
    let directory = server.kill();
    checkpoint.abort();
    // What DuckDB was about to do.
    std::fs::remove_file(directory.path().join("test.db.wal")).expect("a log");
    disk.heal();
    let server = disk.start(directory);
    let client = server.client().await;
    assert_eq!(client.count("t").await, 1000);
    server.stop();
}

/// A statement's commit writes to the log as that of a put does.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_statement_that_cannot_be_cut_off_the_log_ends_the_server() {
    let disk = Disk::new();
    let mut server = disk.start(tempfile::tempdir().expect("a temporary directory"));
    let client = server.client().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    client.execute("INSERT INTO t FROM range(10)").await;
    disk.fail_all(&[("write", LOG, "short"), ("truncate", LOG, EIO)]);
    let insert = client.try_execute("INSERT INTO t FROM range(10, 1000)");
    soon("an error", insert).await.expect_err("a bad disk");
    disk.heal();
    let exit = server.wait();
    assert!(exit.code.is_some_and(|code| code != 0), "{exit:?}");
    assert!(exit.stderr.contains("ends with half"), "{exit:?}");
    let server = disk.start(server.kill());
    let client = server.client().await;
    assert_eq!(client.count("t").await, 10);
    server.stop();
}
