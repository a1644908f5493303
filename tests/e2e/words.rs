//! What DuckDB says of an error may quote a client: its values, its names, its SQL. What a client writes decides nothing.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use duck_flight_protocol::PutOptions;
use duck_tests::{assert_refused, start};
use tonic::Code;

/// What DuckDB says when it has given a database up, and what comes close to that.
const LAST_WORDS: &[&str] = &[
    "database has been invalidated",
    "FATAL Error: Failed: database has been invalidated because of a previous fatal error.",
    "IO Error: Checkpoint failed for database \"test\". The database has been invalidated.",
    "Database \"test\" has been invalidated because checkpointing failed.",
];

/// What DuckDB says where it would be worth trying again, or where something is named that is not there or is there.
const TELLING_WORDS: &[&str] = &[
    "TransactionContext Error: Failed to commit: Conflict on update!",
    "Catalog write-write conflict on create with \"t\"",
    "INTERRUPT Error: Interrupted!",
    "Table with name t does not exist!",
    "Table with name \"t\" already exists!",
];

/// Values of one text column.
fn texts<const N: usize>(values: [&str; N]) -> RecordBatch {
    let values: ArrayRef = Arc::new(StringArray::from_iter_values(values));
    RecordBatch::try_from_iter([("v", values)]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_text_of_a_client_ends_the_server_or_is_taken_for_duckdbs_own() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE keyed (v VARCHAR PRIMARY KEY); CREATE TABLE ids (v UUID)")
        .await;
    for words in [LAST_WORDS, TELLING_WORDS].concat() {
        for sql in [
            format!("SELECT error('{words}')"),
            format!("SELECT '{words}'::INTEGER"),
            format!("SELECT no_such FROM range(1) WHERE '{words}' LIKE '{words}'"),
        ] {
            let refused = client.try_rows(&sql).await;
            assert_refused(refused, Code::InvalidArgument, &[]);
        }
        for (table, batch) in [("keyed", texts([words, words])), ("ids", texts([words]))] {
            let refused = client.put(&PutOptions::new(table), &[batch]).await;
            assert_refused(refused, Code::InvalidArgument, &[]);
        }
    }
    assert_eq!(client.count("keyed").await, 0);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_comes_too_late_for_its_key_is_a_conflict_whatever_the_key() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE keyed (v VARCHAR PRIMARY KEY)")
        .await;
    let mut sql = client.sql();
    for words in LAST_WORDS {
        let insert = format!("INSERT INTO keyed VALUES ('{words}')");
        let (first, second) = (sql.begin().await.unwrap(), sql.begin().await.unwrap());
        for transaction in [&first, &second] {
            sql.update(&insert, Some(transaction)).await.unwrap();
        }
        sql.commit(&first).await.unwrap();
        assert_refused(sql.commit(&second).await, Code::Aborted, &[words]);
    }
    server.shutdown().await;
}
