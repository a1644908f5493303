//! Values that would become others on their way in are refused, and what tells itself otherwise is told so.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use duck_flight_protocol::PutOptions;
use duck_tests::{Client, ServerProcess, assert_refused, start};
use tonic::Code;

/// A batch of one column `v`, of an extension type or of none.
fn batch(values: ArrayRef, extension: Option<&str>) -> RecordBatch {
    let field = Field::new("v", values.data_type().clone(), true);
    let metadata = extension.map(|name| ("ARROW:extension:name".to_owned(), name.to_owned()));
    let field = field.with_metadata(HashMap::from_iter(metadata));
    RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![values]).unwrap()
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn structure(names: &[&str]) -> ArrayRef {
    let value = || Arc::new(Int32Array::from(vec![1])) as ArrayRef;
    let field = |name: &&str| Arc::new(Field::new(*name, DataType::Int32, true));
    let fields = names.iter().map(|name| (field(name), value()));
    Arc::new(StructArray::from(fields.collect::<Vec<_>>()))
}

async fn assert_not_put(client: &Client, sql_type: &str, values: ArrayRef, words: &[&str]) {
    let made = format!("CREATE OR REPLACE TABLE t (v {sql_type})");
    client.execute(&made).await;
    let batch = batch(values, None);
    assert_refused(
        client.append("t", &[batch]).await,
        Code::InvalidArgument,
        words,
    );
    assert_eq!(client.count("t").await, 0, "{sql_type}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_values_are_no_json() {
    let (server, client) = start().await;
    let numbers = || {
        let rows = [Some(vec![Some(1), None]), None];
        ListArray::from_iter_primitive::<Int32Type, _, _>(rows)
    };
    let mut words = ListBuilder::new(StringBuilder::new());
    words.append_value([Some("")]);
    words.append_value([Some("1")]);
    let rows = [Some(vec![Some(5)])];
    let single = FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(rows, 1);
    let keys = Int32Array::from(vec![0]);
    let dictionary = DictionaryArray::new(keys, Arc::new(numbers()) as ArrayRef);
    let nested: [ArrayRef; 5] = [
        Arc::new(numbers()),
        Arc::new(words.finish()),
        Arc::new(single),
        structure(&["a"]),
        Arc::new(dictionary),
    ];
    for values in nested {
        assert_not_put(&client, "JSON", values, &["`v`", "send the JSON as text"]).await;
    }
    // Nor does DuckDB look at JSON inside of what it parses itself.
    for sql_type in ["JSON[]", "STRUCT(a JSON)", "MAP(VARCHAR, JSON[])"] {
        let values = texts(&["[nonsense]"]);
        assert_not_put(&client, sql_type, values, &["`v`", "JSON"]).await;
    }
    client.execute("CREATE OR REPLACE TABLE t (v JSON)").await;
    let json = batch(texts(&["[1, null]", "\"\""]), None);
    assert_eq!(client.append("t", &[json]).await.unwrap(), 2);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_tell_no_number_time_or_day_are_refused() {
    let (server, client) = start().await;
    for (sql_type, good, bad) in [
        ("DECIMAL(10, 2)", "1.50", ""),
        ("DECIMAL(10, 2)", "1.50", " "),
        ("DECIMAL(10, 2)", "1.50", "-"),
        ("DECIMAL(10, 2)", "1.50", "."),
        ("DECIMAL(10, 0)", "1", "+"),
        ("HUGEINT", "1", "-"),
        ("TIME", "09:30:00", "093000"),
        ("TIME_NS", "09:30:00", "093000"),
        ("DATE", "2020-01-01", "2020-01-01 00:00:00 Europe/Berlin"),
    ] {
        let values = texts(&[good, bad]);
        assert_not_put(&client, sql_type, values, &["row 2", "`v`"]).await;
    }
    let wraps = Time64MicrosecondArray::from(vec![1, (1 << 61) / 125 + 1]);
    assert_not_put(&client, "TIME_NS", Arc::new(wraps), &["row 2", "`v`"]).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_without_a_zone_is_one_instant_whatever_it_is_sent_as() {
    let zone = [("TZ", OsStr::new("America/New_York"))];
    let directory = tempfile::tempdir().unwrap();
    let server = ServerProcess::try_start_in(directory, &[], &zone).unwrap();
    let client = server.client().await;
    assert_eq!(
        client.rows("SELECT current_setting('TimeZone')").await,
        ["America/New_York"]
    );
    client.execute("CREATE TABLE t (v TIMESTAMPTZ)").await;
    let keys = Int32Array::from(vec![0]);
    let moments: [ArrayRef; 6] = [
        texts(&["2020-01-01 00:00:00"]),
        texts(&["2020-01-01T01:00:00+01:00"]),
        Arc::new(Date32Array::from(vec![18_262])),
        Arc::new(TimestampSecondArray::from(vec![1_577_836_800])),
        Arc::new(TimestampMicrosecondArray::from(vec![1_577_836_800_000_000])),
        Arc::new(DictionaryArray::new(keys, texts(&["2020-01-01 00:00:00"]))),
    ];
    for moment in moments {
        client.append("t", &[batch(moment, None)]).await.unwrap();
    }
    assert_eq!(
        client.rows("SELECT DISTINCT epoch(v)::BIGINT FROM t").await,
        ["1577836800"]
    );
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_field_of_a_struct_is_dropped_for_another_one_of_its_name() {
    let (server, client) = start().await;
    for (sql_type, names) in [
        ("STRUCT(a INTEGER)", ["a", "A"]),
        ("STRUCT(a INTEGER, b INTEGER)", ["b", "b"]),
        ("MAP(VARCHAR, INTEGER)", ["a", "a"]),
    ] {
        let words = ["`v`", "two fields"];
        assert_not_put(&client, sql_type, structure(&names), &words).await;
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_uuid_in_a_blob_is_its_bytes() {
    let (server, client) = start().await;
    client.execute("CREATE TABLE t (v BLOB)").await;
    let uuid = || Arc::new(FixedSizeBinaryArray::from(vec![b"0123456789abcdef"])) as ArrayRef;
    for extension in [Some("arrow.uuid"), None] {
        client
            .append("t", &[batch(uuid(), extension)])
            .await
            .unwrap();
    }
    assert_eq!(
        client.rows("SELECT DISTINCT decode(v) FROM t").await,
        ["0123456789abcdef"]
    );
    client.execute("CREATE TABLE u (v UUID)").await;
    let row = batch(uuid(), Some("arrow.uuid"));
    client.append("u", &[row]).await.unwrap();
    assert_eq!(
        client.rows("SELECT v::VARCHAR FROM u").await,
        ["30313233-3435-3637-3839-616263646566"]
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_value_is_no_bit_string_and_is_put_aside_alone() {
    let (server, client) = start().await;
    client.execute("CREATE TABLE t (v BIT)").await;
    let reject: PutOptions = serde_json::from_str(r#"{"table":"t","on_error":"reject"}"#).unwrap();
    let bytes = || vec![b"\x05".as_slice(), b"", b"\x06"];
    let values: [ArrayRef; 3] = [
        Arc::new(BinaryArray::from(bytes())),
        Arc::new(LargeBinaryArray::from(bytes())),
        texts(&["101", "", "11"]),
    ];
    for values in values {
        let batch = batch(values, None);
        let acks = client.put(&reject, std::slice::from_ref(&batch)).await;
        let acks = acks.unwrap();
        assert_eq!((acks[0].rows, acks[0].rejected), (2, 1));
        assert_refused(
            client.append("t", &[batch]).await,
            Code::InvalidArgument,
            &["row 2", "`v`", "empty"],
        );
    }
    server.shutdown().await;
}
