//! Types and statements that are deep, long or many: none of them ends the server.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use arrow_flight::{FlightDescriptor, Ticket};
use duck_flight_protocol::PutOptions;
use duck_tests::{ServerProcess, messages, soon, status};
use tonic::{Code, Status};

#[tokio::test(flavor = "multi_thread")]
async fn types_nested_without_end_are_refused() {
    let mut server = ServerProcess::start(&[]);
    let client = server.client().await;
    for depth in [50, 60, 70, 200, 1000] {
        let nested = (0..depth).fold(DataType::Int64, |inner, _| {
            DataType::List(Arc::new(Field::new_list_field(inner, true)))
        });
        let schema = Arc::new(Schema::new(vec![Field::new("c", nested, true)]));
        // Arrow's own encoder goes as deep as the type, on a stack large enough for it.
        let encode = move || {
            messages(
                PutOptions::new(format!("t{depth}")).descriptor(),
                &schema,
                &[],
                None,
            )
        };
        let put = std::thread::Builder::new()
            .stack_size(64 << 20)
            .spawn(encode)
            .unwrap()
            .join()
            .unwrap();
        let outcome = soon("an answer", client.put_messages(put)).await;
        assert!(server.is_alive(), "{depth}: {}", server.stderr());
        match outcome {
            Ok(_) => assert!(depth <= 60, "{depth} levels were accepted"),
            Err(error) => assert_eq!(error.code(), Code::InvalidArgument, "{depth}: {error:?}"),
        }
    }
    server.stop();
}

/// Statements that are deep, long or many, by name.
fn statements_without_measure() -> Vec<(&'static str, String)> {
    let parentheses = |n: usize| format!("SELECT {}1{}", "(".repeat(n), ")".repeat(n));
    vec![
        ("10,000 parentheses", parentheses(10_000)),
        ("100,000 parentheses", parentheses(100_000)),
        (
            "a sum of 100,000",
            format!("SELECT 1{}", " + 1".repeat(100_000)),
        ),
        (
            "100,000 times NOT",
            format!("SELECT {} true", "NOT ".repeat(100_000)),
        ),
        (
            "a CASE of 10,000",
            format!(
                "SELECT {} 1 {}",
                "CASE WHEN true THEN ".repeat(10_000),
                "END ".repeat(10_000)
            ),
        ),
        (
            "10,000 subqueries",
            format!(
                "SELECT * FROM {} SELECT 1 {}",
                "(SELECT * FROM ".repeat(10_000),
                ")".repeat(10_000)
            ),
        ),
        (
            "2,000 unions",
            format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(2_000)),
        ),
        (
            "nested lists",
            format!("SELECT {}1{}", "[".repeat(5_000), "]".repeat(5_000)),
        ),
        (
            "a list of 100,000",
            format!("SELECT [{}1]", "1, ".repeat(100_000)),
        ),
        (
            "an AND of 10,000",
            format!(
                "SELECT true{}",
                " AND range > 1".repeat(10_000) + " FROM range(3)"
            ),
        ),
        (
            "a megabyte of text",
            format!("SELECT length('{}')", "x".repeat(1 << 20)),
        ),
        (
            "a megabyte of comment",
            format!("SELECT 1 /* {} */", "x".repeat(1 << 20)),
        ),
        ("4,000 statements", "SELECT 1;".repeat(4_000)),
        (
            "20,000 columns",
            format!("SELECT 1{}", ", 1".repeat(20_000)),
        ),
        (
            "an open bracket",
            "SELECT ".to_owned() + &"(".repeat(100_000),
        ),
        (
            "macros that call each other",
            "CREATE MACRO f(x) AS x + 1; SELECT ".to_owned()
                + &"f(".repeat(2_000)
                + "1"
                + &")".repeat(2_000),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_without_measure_do_not_end_the_server() {
    let mut server = ServerProcess::start(&[]);
    let client = server.client().await;
    for (name, sql) in statements_without_measure() {
        for run in [true, false] {
            let outcome: Result<(), Status> = if run {
                soon(name, client.query(sql.clone())).await.map(drop)
            } else {
                let call = client.flight();
                let descriptor = FlightDescriptor::new_cmd(sql.clone());
                let info = soon(
                    name,
                    async move { { call }.get_flight_info(descriptor).await },
                )
                .await;
                info.map(drop).map_err(status)
            };
            if outcome.as_ref().is_err_and(|error| {
                error.code() == Code::Unavailable || error.code() == Code::Unknown
            }) {
                let exit = server.wait();
                panic!("{name} ended the server (run: {run}): {exit:?}, {outcome:?}");
            }
            assert!(server.is_alive(), "{name}: {}", server.stderr());
        }
    }
    assert_eq!(client.rows("SELECT 1").await, ["1"]);
    let ticket = Ticket::new("SELECT 2");
    assert!(client.flight().do_get(ticket).await.is_ok());
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_fifty_thousand_levels_do_not_end_the_server() {
    let mut server = ServerProcess::start(&[]);
    let client = server.client().await;
    let objects = "repeat('{\"a\":', 50000) || '1' || repeat('}', 50000)";
    let lists = "repeat('[', 50000) || repeat(']', 50000)";
    client
        .execute(&format!("CREATE TABLE j AS SELECT ({objects})::JSON AS v"))
        .await;
    for sql in [
        "SELECT json_structure(v) FROM j".to_owned(),
        format!("SELECT json_structure({lists})"),
        format!("SELECT json_contains({lists}, '1')"),
        format!("SELECT variant_typeof(({lists})::JSON::VARIANT)"),
        format!("SELECT length(json_merge_patch({objects}, {objects}))"),
        format!("SELECT json_transform({lists}, {lists})"),
    ] {
        client.try_rows(&sql).await.ok();
        assert!(server.is_alive(), "{sql}: {}", server.stderr());
    }
    assert_eq!(client.rows("SELECT 1").await, ["1"]);
    server.stop();
}
