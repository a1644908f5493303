//! Commits that DuckDB would refuse in their middle, which ends the process: they are refused before, and the server goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use duck_tests::{Client, ServerProcess, SqlClient, assert_refused, options};
use futures::future::join_all;
use tonic::Code;

/// A table with a key, and one for others to define anew.
const MAKE: &str = "
    DROP TABLE IF EXISTS renamed;
    CREATE OR REPLACE TABLE pk (id BIGINT PRIMARY KEY, v INTEGER);
    INSERT INTO pk VALUES (1, 1);
    CREATE OR REPLACE TABLE other AS SELECT range AS k, range AS v FROM range(10)";

/// Begins a transaction that has looked at the database.
async fn begin(sql: &mut SqlClient) -> Bytes {
    let transaction = sql.begin().await.unwrap();
    let found = sql.rows("SELECT count(*) FROM other", Some(&transaction));
    assert_eq!(found.await, ["10"]);
    transaction
}

/// Deletes a key and inserts it again, in that order of their entries, and runs another statement.
async fn change(sql: &mut SqlClient, transaction: &Bytes, last: &str) {
    for statement in [
        "DELETE FROM pk WHERE id = 1",
        "INSERT INTO pk VALUES (1, 2)",
        last,
    ] {
        let changed = sql.update(statement, Some(transaction)).await;
        changed.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
}

/// Sees that the key has this value, however it is found.
async fn assert_value(client: &Client, value: i32, what: &str) {
    for found in ["FROM pk WHERE id = 1", "FROM pk WHERE id + 0 = 1"] {
        let expected = format!("1|{value}");
        assert_eq!(client.rows(found).await, [expected], "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_table_that_another_client_has_defined_anew_are_aborted_and_the_server_goes_on()
 {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    let mut sql = server.client().await.sql();
    for definition in [
        "ALTER TABLE other ADD COLUMN x INTEGER",
        "ALTER TABLE other RENAME TO renamed",
        "CREATE OR REPLACE TABLE other AS SELECT 1 AS k",
        "CREATE OR REPLACE UNLOGGED TABLE other AS SELECT 1 AS k",
        "DROP TABLE other",
        ";DROP TABLE other",
        "BEGIN; ALTER TABLE other RENAME TO renamed; DROP TABLE renamed; COMMIT",
    ] {
        for is_late in [false, true] {
            client.execute(MAKE).await;
            let transaction = begin(&mut sql).await;
            if !is_late {
                client.execute(definition).await;
            }
            change(&mut sql, &transaction, "DELETE FROM other WHERE k = 1").await;
            if is_late {
                client.execute(definition).await;
            }
            let committed = sql.commit(&transaction).await;
            assert_refused(committed, Code::Aborted, &["\"other\"", "try again"]);
            assert_value(&client, 1, definition).await;
        }
    }
    // By statements it is the same, and what comes next is in no transaction.
    client.execute(MAKE).await;
    let mut session = client.session().await;
    session.update("BEGIN", None).await.unwrap();
    for statement in [
        "DELETE FROM other WHERE k = 1",
        "DELETE FROM pk WHERE id = 1",
        "INSERT INTO pk VALUES (1, 2)",
        "DELETE FROM other WHERE k = 2",
    ] {
        session.update(statement, None).await.unwrap();
    }
    client
        .execute("ALTER TABLE other ADD COLUMN x INTEGER")
        .await;
    let committed = session.update("COMMIT", None).await;
    assert_refused(committed, Code::Aborted, &["\"other\"", "try again"]);
    assert_value(&client, 1, "by statements").await;
    session.update("UPDATE pk SET v = 3", None).await.unwrap();
    assert_value(&client, 3, "in no transaction").await;
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_beside_an_alteration_that_is_not_committed_are_aborted_until_that_ends() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    let mut sql = server.client().await.sql();
    let mut altering = client.sql();
    for commits in [false, true] {
        client.execute(MAKE).await;
        let alteration = altering.begin().await.unwrap();
        altering
            .update("ALTER TABLE other ADD COLUMN x INTEGER", Some(&alteration))
            .await
            .unwrap();
        let transaction = begin(&mut sql).await;
        change(&mut sql, &transaction, "DELETE FROM other WHERE k = 1").await;
        let committed = sql.commit(&transaction).await;
        assert_refused(committed, Code::Aborted, &["\"other\"", "try again"]);
        assert_value(&client, 1, "beside it").await;
        match commits {
            true => altering.commit(&alteration).await.unwrap(),
            false => altering.roll_back(&alteration).await.unwrap(),
        }
        let transaction = begin(&mut sql).await;
        change(&mut sql, &transaction, "DELETE FROM other WHERE k = 1").await;
        sql.commit(&transaction).await.unwrap();
        assert_value(&client, 2, "after its end").await;
    }
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_other_tables_and_roll_backs_go_on_beside_definitions() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    let mut sql = server.client().await.sql();
    for (last, definition) in [
        (
            "INSERT INTO pk VALUES (2, 2)",
            "ALTER TABLE other ADD COLUMN x INTEGER",
        ),
        (
            "DELETE FROM other WHERE k = 1",
            "CREATE TABLE renamed (i INTEGER)",
        ),
        (
            "DELETE FROM other WHERE k = 1",
            "CREATE TEMP TABLE other (i INTEGER); DROP TABLE other",
        ),
    ] {
        client.execute(MAKE).await;
        let transaction = begin(&mut sql).await;
        change(&mut sql, &transaction, last).await;
        client.execute(definition).await;
        sql.commit(&transaction).await.unwrap();
        assert_value(&client, 2, definition).await;
    }
    client.execute(MAKE).await;
    let transaction = begin(&mut sql).await;
    change(&mut sql, &transaction, "DELETE FROM other WHERE k = 1").await;
    client
        .execute("ALTER TABLE other ADD COLUMN x INTEGER")
        .await;
    sql.roll_back(&transaction).await.unwrap();
    assert_value(&client, 1, "rolled back").await;
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_does_not_alter_a_table_of_which_it_has_changed_rows() {
    const ADD: &str = "ALTER TABLE other ADD COLUMN x INTEGER";
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    let mut sql = client.sql();
    for last in [
        "DELETE FROM other WHERE k = 1",
        "UPDATE other SET v = 3 WHERE k = 1",
    ] {
        client.execute(MAKE).await;
        let transaction = begin(&mut sql).await;
        change(&mut sql, &transaction, last).await;
        let altered = sql.update(ADD, Some(&transaction)).await;
        assert_refused(altered, Code::FailedPrecondition, &["commit in between"]);
        // Nothing of it has happened, and the rows stay where they are.
        sql.update("ALTER TABLE other RENAME COLUMN v TO w", Some(&transaction))
            .await
            .unwrap();
        sql.commit(&transaction).await.unwrap();
        assert_value(&client, 2, last).await;
        client.execute(ADD).await;
    }
    // Before its changes it may, and so it may where it has made the table.
    client.execute(MAKE).await;
    let transaction = begin(&mut sql).await;
    for statement in [
        ADD,
        "CREATE TABLE made (k BIGINT)",
        "INSERT INTO made VALUES (1), (2)",
        "DELETE FROM made WHERE k = 1",
        "ALTER TABLE made ADD COLUMN x INTEGER",
    ] {
        sql.update(statement, Some(&transaction)).await.unwrap();
    }
    change(&mut sql, &transaction, "DELETE FROM other WHERE k = 1").await;
    sql.commit(&transaction).await.unwrap();
    assert_value(&client, 2, "altered before").await;
    assert_eq!(client.count("made").await, 1);
    server.stop();
}

/// DuckDB makes new values of a column for that, as for another type.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_does_not_alter_fields_of_a_table_of_which_it_has_changed_rows() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    let mut sql = client.sql();
    for alter in [
        "ALTER TABLE other RENAME COLUMN s.a TO c",
        "ALTER TABLE other ADD COLUMN s.c INTEGER",
        "ALTER TABLE other DROP COLUMN s.a",
    ] {
        client.execute(MAKE).await;
        client
            .execute(
                "CREATE OR REPLACE TABLE other AS
                 SELECT range AS k, {'a': range, 'b': range} AS s FROM range(10)",
            )
            .await;
        let transaction = begin(&mut sql).await;
        change(&mut sql, &transaction, "DELETE FROM other WHERE k = 1").await;
        let altered = sql.update(alter, Some(&transaction)).await;
        assert_refused(altered, Code::FailedPrecondition, &["commit in between"]);
        sql.commit(&transaction).await.unwrap();
        assert_value(&client, 2, alter).await;
        client.execute(alter).await;
        let found = "SELECT count(*), count(s.b) FROM other";
        assert_eq!(client.rows(found).await, ["9|9"], "{alter}");
    }
    server.stop();
}

/// DuckDB makes an UPDATE of a default that is no literal.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_does_not_alter_a_table_behind_a_new_column_with_a_computed_default() {
    const ADD: &str = "ALTER TABLE other ADD COLUMN x DOUBLE DEFAULT random()";
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    let mut sql = client.sql();
    client.execute(MAKE).await;
    let transaction = begin(&mut sql).await;
    change(&mut sql, &transaction, ADD).await;
    for again in [
        "ALTER TABLE other ADD COLUMN y INTEGER",
        "ALTER TABLE other ADD COLUMN y DOUBLE DEFAULT random()",
        "ALTER TABLE other DROP COLUMN v",
    ] {
        let altered = sql.update(again, Some(&transaction)).await;
        assert_refused(altered, Code::FailedPrecondition, &["commit in between"]);
    }
    // What leaves the rows where they are may follow, and so may another table.
    for statement in [
        "ALTER TABLE other ALTER x SET DEFAULT 1",
        "ALTER TABLE other RENAME COLUMN x TO z",
        "CREATE TABLE made (k BIGINT)",
        "ALTER TABLE made ADD COLUMN x DOUBLE DEFAULT random()",
        "ALTER TABLE made ADD COLUMN y INTEGER",
    ] {
        sql.update(statement, Some(&transaction))
            .await
            .expect(statement);
    }
    sql.commit(&transaction).await.unwrap();
    assert_value(&client, 2, ADD).await;
    let found = "SELECT count(*), count(z) FROM other";
    assert_eq!(client.rows(found).await, ["10|10"]);
    client
        .execute("ALTER TABLE other ADD COLUMN y INTEGER")
        .await;
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_beside_changes_is_aborted_where_another_client_has_taken_its_ground() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    let mut sql = server.client().await.sql();
    client.execute(MAKE).await;
    client.execute("CREATE SCHEMA s").await;
    let transaction = begin(&mut sql).await;
    change(&mut sql, &transaction, "CREATE TABLE s.made (i INTEGER)").await;
    client.execute("DROP SCHEMA s").await;
    let committed = sql.commit(&transaction).await;
    assert_refused(committed, Code::Aborted, &["define", "try again"]);
    assert_value(&client, 1, "no schema").await;
    server.stop();
}

/// Rows with keys of a loader's own, and a list: DuckDB deletes and inserts them where it changes them.
fn lists(loader: i64, round: i64) -> RecordBatch {
    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(loader * 10..loader * 10 + 10));
    let values = (0..10).map(|_| Some(vec![Some(round)]));
    let values: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(values));
    RecordBatch::try_from_iter([("k", keys), ("l", values)]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn upserts_into_two_tables_go_on_beside_a_client_that_alters_one_of_them() {
    const LOADERS: i64 = 16;
    const ROUNDS: i64 = 40;
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    for table in ["t0", "t1"] {
        let create = format!("CREATE TABLE {table} (k BIGINT PRIMARY KEY, l BIGINT[])");
        client.execute(&create).await;
    }
    let over = Arc::new(AtomicBool::new(false));
    let altering = tokio::spawn({
        let (client, over) = (server.client().await, over.clone());
        async move {
            let mut altered = 0;
            while !over.load(Ordering::Acquire) {
                for alter in [
                    "ADD COLUMN IF NOT EXISTS x INTEGER",
                    "DROP COLUMN IF EXISTS x",
                ] {
                    match client.try_execute(format!("ALTER TABLE t1 {alter}")).await {
                        Ok(_) => altered += 1,
                        Err(error) => assert_eq!(error.code(), Code::Aborted, "{error:?}"),
                    }
                }
            }
            altered
        }
    });
    let mut loaders = Vec::new();
    for loader in 0..LOADERS {
        let client = server.client().await;
        let json = format!(r#"{{"table":"t{}","mode":"upsert"}}"#, loader % 2);
        let upsert = options(&json);
        loaders.push(tokio::spawn(async move {
            for round in 0..ROUNDS {
                // A conflict that lasts is told, and tried again.
                while let Err(error) = client.put(&upsert, &[lists(loader, round)]).await {
                    assert_eq!(error.code(), Code::Aborted, "{error:?}");
                }
            }
        }));
    }
    for loader in join_all(loaders).await {
        loader.unwrap();
    }
    over.store(true, Ordering::Release);
    assert!(altering.await.unwrap() > 0);
    for table in ["t0", "t1"] {
        let found = format!("SELECT count(*), min(l[1]), max(l[1]) FROM {table}");
        let last = ROUNDS - 1;
        let expected = format!("{}|{last}|{last}", LOADERS / 2 * 10);
        assert_eq!(client.rows(&found).await, [expected], "{table}");
    }
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_beside_rows_that_are_updated_is_refused_with_advice_that_can_be_followed() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    client.execute("CREATE TABLE t AS SELECT 1 AS i").await;
    let mut sql = server.client().await.sql();
    let transaction = sql.begin().await.unwrap();
    let update = sql.update("UPDATE t SET i = 2", Some(&transaction));
    assert_eq!(update.await.unwrap(), 1);
    let refused = client.try_execute("CHECKPOINT").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let message = refused.message();
    let says = |words: &str| message.contains(words);
    assert!(
        says("write transactions active") && says("by itself"),
        "{message}"
    );
    assert!(!says("FORCE"), "{message}");
    sql.commit(&transaction).await.unwrap();
    client.checkpoint().await;
    server.stop();
}
