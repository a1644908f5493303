//! Names of tables: each part is what the client says it is, whatever else has its name.

use arrow::array::RecordBatch;
use duck_flight_protocol::{Create, PutOptions, TableName};
use duck_tests::{Setup, assert_refused, ints, start};
use tonic::Code;

fn name(catalog: Option<&str>, schema: Option<&str>) -> TableName {
    TableName {
        catalog: catalog.map(str::to_owned),
        schema: schema.map(str::to_owned),
        table: "orders".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_may_have_the_name_of_the_database() {
    let (server, client) = start().await;
    let catalog: String = client.value("SELECT current_database()").await;
    client.execute(&format!("CREATE SCHEMA {catalog}")).await;
    let (in_schema, in_main) = (name(None, Some(&catalog)), name(Some(&catalog), None));
    for mode in ["append", "upsert", "changes", "delete"] {
        for (number, table) in [&in_schema, &in_main].into_iter().enumerate() {
            let ids = 0..i64::try_from(number).unwrap() + 1;
            let json = serde_json::json!({
                "table": table, "mode": mode, "key": (mode != "append").then_some(["i"]),
                "op": (mode == "changes").then_some("o"),
            });
            let options: PutOptions = serde_json::from_value(json).unwrap();
            let mut rows = ints(ids);
            if mode == "changes" {
                rows = with_ops(&rows);
            }
            client.put(&options, &[rows]).await.unwrap();
        }
        let expected = match mode {
            "delete" => [0, 0],
            _ => [1, 2],
        };
        let counts = [
            client.count(&format!("{catalog}.{catalog}.orders")).await,
            client.count("orders").await,
        ];
        assert_eq!(counts, expected, "{mode}");
    }
    let mut sql = server.client().await.session().await;
    let mut command = duck_tests::ingest_into("orders", None);
    command.schema = Some(catalog.clone());
    let rows = futures::stream::iter([Ok(ints(0..5))]);
    let put = sql.raw().execute_ingest(command, rows).await;
    assert_eq!(put.unwrap(), 5);
    let count = client.count(&format!("{catalog}.{catalog}.orders")).await;
    assert_eq!(count, 5);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_put_that_makes_its_table_is_told_which_names_the_server_uses() {
    const NAME: &str = "Duck_Flight_Ordinal";
    let setup = Setup {
        ingest_buffer_bytes: 1 << 20,
        ..Setup::default()
    };
    let server = setup.start().await;
    let client = server.client().await;
    let rows = ints(0..50_000);
    let rows = RecordBatch::try_from_iter([(NAME, rows.column(0).clone())]).unwrap();
    for create in [Create::Always, Create::Replace] {
        let put = PutOptions {
            create,
            ..PutOptions::new("t")
        };
        assert_refused(
            client.put(&put, &vec![rows.clone(); 8]).await,
            Code::InvalidArgument,
            &[&format!("`{NAME}`"), "rename the column"],
        );
    }
    // A put that need not gather its rows has that column.
    let put = PutOptions {
        create: Create::Always,
        ..PutOptions::new("t")
    };
    client.put(&put, &[rows.slice(0, 10)]).await.unwrap();
    client.append("t", &vec![rows; 8]).await.unwrap();
    assert_eq!(client.count("t").await, 400_010);
    server.shutdown().await;
}

/// The rows with a column `o` that says that each is added or replaces one.
fn with_ops(rows: &RecordBatch) -> RecordBatch {
    let ops = std::iter::repeat_n("U", rows.num_rows());
    let ops = arrow::array::StringArray::from_iter_values(ops);
    let columns = [
        ("i", rows.column(0).clone()),
        ("o", std::sync::Arc::new(ops) as arrow::array::ArrayRef),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}
