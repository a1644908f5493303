//! The places of `--max-queries`: a client that stands still keeps one until it is cancelled, or in the way of others.

use std::time::Duration;

use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::sql::{ActionCancelQueryRequest, ActionCancelQueryResult, Any, ProstMessageExt};
use arrow_flight::{Action, CancelStatus, FlightDescriptor, FlightInfo};
use duck_flight_protocol::PutOptions;
use duck_tests::{
    Answer, Client, ENDLESS_ROWS, Setup, SqlClient, TestServer, assert_refused, ingest_into, ints,
    messages, soon, status,
};
use futures::future::select_all;
use futures::{FutureExt, StreamExt, TryStreamExt};
use prost::Message;
use tokio::task::JoinHandle;
use tonic::Code;

use super::statement::{cancel, poll, query};

/// A server with so many places, that bears with clients that stand still for so long.
async fn server(max_queries: usize, stall_timeout: Duration) -> TestServer {
    let setup = Setup {
        max_queries,
        stall_timeout,
        ..Setup::default()
    };
    setup.start().await
}

const FOR_GOOD: Duration = Duration::from_secs(24 * 60 * 60);

/// Fetches the first rows of a result, and reads no further.
async fn stall(sql: &mut SqlClient, info: &FlightInfo) -> FlightRecordBatchStream {
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let mut rows = sql.raw().do_get(ticket).await.unwrap();
    assert!(rows.next().await.unwrap().is_ok());
    rows
}

/// A query that waits for a place.
fn waiting(client: &Client) -> JoinHandle<Vec<String>> {
    let client = client.clone();
    tokio::spawn(async move { client.rows("SELECT 1").await })
}

/// Reads a result to its end.
async fn read_on(mut rows: FlightRecordBatchStream) -> Answer<usize> {
    let mut count = 0;
    while let Some(batch) = rows.try_next().await.map_err(status)? {
        count += batch.num_rows();
    }
    Ok(count)
}

async fn cancel_query(client: &Client, info: &FlightInfo) -> CancelStatus {
    let request = ActionCancelQueryRequest {
        info: info.encode_to_vec().into(),
    };
    let action = Action::new("CancelQuery", request.as_any().encode_to_vec());
    let answers = client.flight().do_action(action).await.unwrap();
    let answers: Vec<_> = answers.try_collect().await.unwrap();
    let result = Any::decode(&*answers[0]).unwrap();
    let result: ActionCancelQueryResult = result.unpack().unwrap().unwrap();
    CancelStatus::try_from(result.result).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_whose_reader_stands_still_gives_its_place_back_when_it_is_cancelled() {
    let server = server(1, FOR_GOOD).await;
    let client = server.client().await;
    let mut session = client.session().await;
    // From here on it has a connection of its own.
    session
        .update("CREATE TEMP TABLE own AS SELECT 1", None)
        .await
        .unwrap();
    for mut sql in [client.sql(), session] {
        for way in ["CancelFlightInfo", "CancelQuery", "dropped"] {
            let info = sql.info(ENDLESS_ROWS, None).await.unwrap();
            let mut rows = Some(stall(&mut sql, &info).await);
            let waiting = waiting(&client);
            client.until_kept("running", 2).await;
            match way {
                "CancelFlightInfo" => {
                    assert_eq!(cancel(&client, info).await, CancelStatus::Cancelled);
                }
                "CancelQuery" => {
                    assert_eq!(cancel_query(&client, &info).await, CancelStatus::Cancelled);
                }
                _ => rows = None,
            }
            assert_eq!(soon("a free place", waiting).await.unwrap(), ["1"], "{way}");
            // The connection is free, too.
            assert_eq!(sql.rows("SELECT 2", None).await, ["2"], "{way}");
            if let Some(rows) = rows {
                assert_refused(read_on(rows).await, Code::Cancelled, &["cancelled"]);
            }
        }
    }
    server.shutdown().await;
}

/// Sees that a result was ended because it was in the way.
fn assert_stalled<T: std::fmt::Debug>(answer: Answer<T>) {
    let words = ["others waited", "--stall-timeout"];
    assert_refused(answer, Code::ResourceExhausted, &words);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_nobody_reads_ends_once_others_have_waited_too_long() {
    let server = server(1, Duration::ZERO).await;
    let client = server.client().await;
    let mut sql = client.sql();
    let info = sql.info(ENDLESS_ROWS, None).await.unwrap();
    let rows = stall(&mut sql, &info).await;
    assert_eq!(soon("a free place", waiting(&client)).await.unwrap(), ["1"]);
    assert_stalled(soon("an error", read_on(rows)).await);

    // Only the reading ends, not the transaction.
    let transaction = sql.begin().await.unwrap();
    sql.update("CREATE TABLE t AS SELECT 1 AS i", Some(&transaction))
        .await
        .unwrap();
    let info = sql.info(ENDLESS_ROWS, Some(&transaction)).await.unwrap();
    let rows = stall(&mut sql, &info).await;
    assert_eq!(soon("a free place", waiting(&client)).await.unwrap(), ["1"]);
    assert_stalled(soon("an error", read_on(rows)).await);
    sql.commit(&transaction).await.unwrap();
    assert_eq!(client.count("t").await, 1);

    // One that is not even fetched.
    let polled = poll(&client, query(ENDLESS_ROWS)).await.info.unwrap();
    assert_eq!(soon("a free place", waiting(&client)).await.unwrap(), ["1"]);
    assert_stalled(soon("an error", sql.fetch(&polled)).await);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_fits_into_memory_makes_room_for_others_and_stays_whole() {
    let server = server(1, FOR_GOOD).await;
    let client = server.client().await;
    let mut sql = client.sql();
    let info = sql.info("SELECT range AS i FROM range(4000000)", None);
    let info = info.await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let rows = sql.raw().do_get(ticket).await.unwrap();
    assert_eq!(soon("a free place", waiting(&client)).await.unwrap(), ["1"]);
    assert_eq!(read_on(rows).await.unwrap(), 4_000_000);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingest_that_stands_still_in_its_transaction_ends_once_others_have_waited_too_long() {
    let server = server(1, Duration::ZERO).await;
    let client = server.client().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    let mut sql = client.sql();
    let transaction = sql.begin().await.unwrap();
    sql.update("INSERT INTO t VALUES (1)", Some(&transaction))
        .await
        .unwrap();
    let mut ingest = sql.open_raw_put().await;
    let command = ingest_into("t", Some(&transaction))
        .as_any()
        .encode_to_vec();
    let command = FlightDescriptor::new_cmd(command);
    for message in messages(command, &ints([]).schema(), &[ints([2])], None) {
        ingest.send(message).await;
    }
    let ended = soon("the end of the ingest", async {
        loop {
            tokio::select! {
                ended = ingest.result() => return ended,
                _ = client.rows("SELECT 1") => {}
            }
        }
    });
    let ended = ended.await.expect("an answer");
    assert_refused(ended, Code::ResourceExhausted, &["--stall-timeout"]);
    let commit = sql.commit(&transaction).await;
    assert_refused(commit, Code::FailedPrecondition, &["rolled back instead"]);
    assert_eq!(client.count("t").await, 0);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_put_that_stands_still_ends_once_others_have_waited_too_long() {
    let setup = Setup {
        // A unit larger than this has a transaction of its own.
        ingest_buffer_bytes: 1 << 20,
        stall_timeout: Duration::ZERO,
        ..Setup::default()
    };
    let server = setup.start().await;
    let client = server.client().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    let batches: Vec<_> = (0..4_i64)
        .map(|batch| ints(batch * 100_000..(batch + 1) * 100_000))
        .collect();
    // As many as are written at a time.
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let put = client
            .open_put(&PutOptions::new("t"), &ints([]).schema())
            .await;
        for batch in &batches {
            put.send_batch(batch).await;
        }
        stalled.push(put);
    }
    let ended = soon("the end of one", async {
        loop {
            let ends = stalled.iter_mut().map(|put| put.result().boxed());
            tokio::select! {
                (ended, ..) = select_all(ends) => return ended,
                rows = client.append("t", &batches) => assert_eq!(rows.unwrap(), 400_000),
            }
        }
    });
    assert_stalled(ended.await.expect("an answer"));
    let appended = soon("room for another one", client.append("t", &batches));
    assert_eq!(appended.await.unwrap(), 400_000);
    for put in stalled {
        put.cancel().await;
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_puts_that_stand_still_end_once_others_have_waited_too_long_for_their_memory() {
    let setup = Setup {
        ingest_buffer_bytes: 4 << 20,
        stall_timeout: Duration::ZERO,
        ..Setup::default()
    };
    let server = setup.start().await;
    let client = server.client().await;
    client.execute("CREATE TABLE t (i BIGINT)").await;
    // 1.6 MB: after two of them there is no room for a third.
    let batch = ints(0..200_000);
    let mut stalled = Vec::new();
    for _ in 0..2 {
        let put = client
            .open_put(&PutOptions::new("t"), &batch.schema())
            .await;
        put.send_batch(&batch).await;
        stalled.push(put);
    }
    let batches = [batch];
    let ended = soon("the end of one", async {
        loop {
            let ends = stalled.iter_mut().map(|put| put.result().boxed());
            tokio::select! {
                (ended, ..) = select_all(ends) => return ended,
                // Until both of them hold their memory.
                rows = client.append("t", &batches) => assert_eq!(rows.unwrap(), 200_000),
            }
        }
    });
    assert_stalled(ended.await.expect("an answer"));
    let appended = soon("room for another one", client.append("t", &batches));
    assert_eq!(appended.await.unwrap(), 200_000);
    for put in stalled {
        put.cancel().await;
    }
    server.shutdown().await;
}
