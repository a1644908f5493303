//! A stream takes over from one whose unit is being committed on a disk that stands still.

use duck_tests::{Client, OpenPut, ints, options, soon};
use tonic::Code;

use crate::faults::new_directory;
use crate::shim::{Disk, LOG};

/// Opens a put of a producer; it is answered once it knows where to go on.
async fn open(client: &Client, producer: &str) -> OpenPut {
    let options = options(&format!(
        r#"{{"table":"t","commit":"batch","producer":"{producer}"}}"#
    ));
    client.open_put(&options, &ints([]).schema()).await
}

/// A loader that goes on from there with other batches would otherwise store rows twice.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_committed_behind_the_sequence_to_go_on_after() {
    let disk = Disk::new();
    let server = disk.start(new_directory());
    let client = server.client().await;
    let mut old = open(&client, "p").await;
    assert_eq!(old.resume_after().await.unwrap(), 0);
    old.send_sequenced(&ints([1]), 1).await;
    soon("an ack", old.ack()).await.unwrap().unwrap();
    disk.fail("sync", LOG, "hold");
    old.send_sequenced(&ints([2]), 2).await;
    let held = async {
        while disk.failures() == 0 {
            client.ping().await;
        }
    };
    soon("a commit that is held", held).await;
    let mut new = open(&client, "p").await;
    let (resume_after, ()) = tokio::join!(new.resume_after(), async {
        // These are opened later, and wait for nobody: where the new stream did not wait either it would be answered by now.
        for other in ["q", "r", "s"] {
            open(&client, other).await.resume_after().await.unwrap();
        }
        disk.heal();
    });
    assert_eq!(resume_after.unwrap(), 2);
    assert!(soon("an ack", old.ack()).await.unwrap().is_ok());
    old.send_sequenced(&ints([3]), 3).await;
    let fenced = soon("a refusal", old.ack()).await.unwrap().unwrap_err();
    assert_eq!(fenced.code(), Code::Aborted, "{fenced:?}");
    new.send_sequenced(&ints([3, 4]), 4).await;
    new.finish().await.unwrap();
    let rows = client
        .rows("SELECT count(*), count(DISTINCT i) FROM t")
        .await;
    assert_eq!(rows, ["4|4"]);
}
