//! A macro may have the name of a function: what clients define so is not for the server's own queries.

use arrow_flight::Action;
use arrow_flight::sql::CommandGetTables;
use duck_flight_protocol::ProducerState;
use duck_tests::{ServerProcess, ints, options};
use futures::TryStreamExt;

/// Macros over functions that the server's queries call.
const MACROS: &str = "
    CREATE MACRO lower(text) AS 'nothing';
    CREATE MACRO max(value) AS 0;
    CREATE MACRO count(value) AS 0;
    CREATE MACRO duck_flight_handed_rows() AS TABLE SELECT 666::BIGINT AS i;
    CREATE MACRO min(value) AS 0;
    CREATE MACRO now() AS 0;
    CREATE MACRO list_value(one) AS 0, (one, two) AS 0, (one, two, three, four) AS 0,
        (one, two, three, four, five, six) AS 0;
    CREATE MACRO epoch(value) AS 0;
    CREATE MACRO ilike_escape(text, pattern, sign) AS false;
    CREATE MACRO \"~~\"(text, pattern) AS false;
    CREATE MACRO \"~~*\"(text, pattern) AS false;
    CREATE MACRO \"-\"(one, other) AS 0;
    CREATE MACRO strftime(moment, format) AS 'nothing';
    CREATE MACRO make_timestamp(value) AS NULL;
    CREATE MACRO epoch_us(value) AS 0;
    CREATE MACRO chr(code) AS '';
    CREATE MACRO array_to_string(list, separator) AS 'nothing';
    CREATE MACRO len(list) AS 0, (list, other) AS 0;
    CREATE MACRO list_aggr(list, name) AS 'nothing', (list, name, separator) AS 'nothing';
    CREATE MACRO list_aggregate(list, name) AS 'nothing', (list, name, separator) AS 'nothing';
    CREATE MACRO string_agg(text) AS 'nothing', (text, separator) AS 'nothing';
    CREATE MACRO current_database() AS 'nothing';
    CREATE MACRO duckdb_tables() AS TABLE SELECT 1 AS nothing;
    CREATE MACRO duckdb_views() AS TABLE SELECT 1 AS nothing;
    CREATE MACRO duckdb_constraints() AS TABLE SELECT 1 AS nothing;";

#[tokio::test(flavor = "multi_thread")]
async fn macros_of_a_client_are_not_for_the_servers_own_queries() {
    let server = ServerProcess::start(&[]);
    let client = server.client().await;
    client.execute(MACROS).await;
    client
        .execute("CREATE TABLE keyed (i BIGINT PRIMARY KEY CHECK (i < 100))")
        .await;
    // The table's own key is looked up.
    let upsert = options(r#"{"table":"keyed","mode":"upsert"}"#);
    client.put(&upsert, &[ints([1, 2])]).await.unwrap();
    client.put(&upsert, &[ints([2, 3])]).await.unwrap();
    assert_eq!(client.count("keyed").await, 3);
    // Rows at fault are found by the table's constraints, and put aside with their time.
    let rejecting = options(r#"{"table":"keyed","on_error":"reject"}"#);
    let acks = client.put(&rejecting, &[ints([3, 4, 100])]).await.unwrap();
    assert_eq!((acks[0].rows, acks[0].rejected), (1, 2));
    let delete = options(r#"{"table":"keyed","mode":"delete"}"#);
    client.put(&delete, &[ints([1, 7])]).await.unwrap();
    assert_eq!(client.count("keyed").await, 3);
    // Tables are found by a pattern.
    let listed = client.flight().list_flights("key%").await.unwrap();
    assert_eq!(listed.try_collect::<Vec<_>>().await.unwrap().len(), 1);
    let mut sql = client.sql();
    let tables = CommandGetTables {
        catalog: None,
        db_schema_filter_pattern: None,
        table_name_filter_pattern: Some("KEY%".into()),
        table_types: Vec::new(),
        include_schema: false,
    };
    let info = sql.raw().get_tables(tables).await.unwrap();
    assert_eq!(sql.fetch(&info).await.unwrap().len(), 1);
    // A producer is remembered, also by the next server.
    let sequenced = options(r#"{"table":"t","producer":"p","sequence":7}"#);
    client.put(&sequenced, &[ints([1])]).await.unwrap();
    let server = ServerProcess::start_in(server.kill(), &[]);
    let client = server.client().await;
    let acks = client.put(&sequenced, &[ints([1])]).await.unwrap();
    assert!(acks[0].duplicate, "{acks:?}");
    client.put(&upsert, &[ints([4, 5])]).await.unwrap();
    assert_eq!(client.count("keyed").await, 4);
    let mut flight = client.flight();
    let states = flight.do_action(Action::new("producers", "")).await;
    let states: Vec<_> = states.unwrap().try_collect().await.unwrap();
    let state: ProducerState = serde_json::from_slice(&states[0]).unwrap();
    let this_century = state.last_commit_at.starts_with("20");
    assert!(this_century && state.last_sequence == 7, "{state:?}");
    let idle = Action::new("forget_producers", r#"{"idle_seconds":3600}"#);
    let forgotten = flight.do_action(idle).await.unwrap();
    let forgotten: Vec<_> = forgotten.try_collect().await.unwrap();
    assert_eq!(forgotten, [r#"{"forgotten":0}"#]);
    assert_eq!(client.count("t").await, 1);
    server.stop();
}
