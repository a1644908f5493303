//! Values that Arrow has and DuckDB has not: they are refused by row and column, and nobody else is harmed.

use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Fields, UnionFields};
use duck_tests::{ServerProcess, assert_refused, options, start};
use tonic::Code;

/// A batch of one column `v`.
fn batch(values: impl Array + 'static) -> RecordBatch {
    let field = Field::new("v", values.data_type().clone(), true);
    let schema = Arc::new(arrow::datatypes::Schema::new(vec![field]));
    RecordBatch::try_new(schema, vec![Arc::new(values)]).unwrap()
}

fn list(values: impl Array + 'static) -> ListArray {
    let field = Field::new("item", values.data_type().clone(), true);
    let offsets = OffsetBuffer::from_lengths(vec![1; values.len()]);
    ListArray::new(Arc::new(field), offsets, Arc::new(values), None)
}

#[tokio::test(flavor = "multi_thread")]
async fn times_that_are_none_never_reach_a_query() {
    const DAY_NANOS: i64 = 86_400_000_000_000;
    let (server, client) = start().await;
    let mut sql = server.client().await.sql();
    for bad in [i64::MAX, -i64::MAX, i64::MIN, -1, DAY_NANOS + 1] {
        let nanos = || Time64NanosecondArray::from(vec![0, DAY_NANOS, bad]);
        let micros = || Time64MicrosecondArray::from(vec![0, bad]);
        assert_refused(
            client.append("nanos", &[batch(nanos())]).await,
            Code::InvalidArgument,
            &["row 3", "`v`", &bad.to_string()],
        );
        assert_refused(
            client.append("micros", &[batch(micros())]).await,
            Code::InvalidArgument,
            &["row 2", "`v`"],
        );
        assert_refused(
            client.append("nested", &[batch(list(nanos()))]).await,
            Code::InvalidArgument,
            &["row 3", "`v`"],
        );
        assert_refused(
            sql.ingest("ingested", None, vec![batch(nanos())]).await,
            Code::InvalidArgument,
            &["row 3", "`v`"],
        );
        let reject = options(r#"{"table":"kept","on_error":"reject"}"#);
        let acks = client.put(&reject, &[batch(nanos())]).await.unwrap();
        assert_eq!((acks[0].rows, acks[0].rejected), (2, 1));
    }
    let kept = "SELECT DISTINCT v::VARCHAR FROM kept ORDER BY ALL";
    assert_eq!(client.rows(kept).await, ["00:00:00", "24:00:00"]);
    let seconds = batch(Time32SecondArray::from(vec![86_400, -1]));
    assert_refused(
        client.append("kept", &[seconds]).await,
        Code::InvalidArgument,
        &["row 2", "`v`", "-1"],
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn decimals_have_no_more_digits_than_they_say() {
    let (server, client) = start().await;
    client.execute("CREATE TABLE wide (v DECIMAL(18, 1))").await;
    client.execute("CREATE TABLE texts (v VARCHAR)").await;
    client.execute("CREATE TABLE huge (v HUGEINT)").await;
    for bad in [10_000, 12_345_678, -10_i128.pow(20)] {
        let decimals = Decimal128Array::from(vec![9999, bad]);
        let decimals = decimals.with_data_type(DataType::Decimal128(4, 1));
        for table in ["new", "wide", "texts"] {
            assert_refused(
                client.append(table, &[batch(decimals.clone())]).await,
                Code::InvalidArgument,
                &["row 2", "`v`", "more digits than its type Decimal128(4, 1)"],
            );
        }
    }
    // All of a HUGEINT goes the way back that it came.
    let largest = Decimal128Array::from(vec![i128::MAX, i128::MIN]);
    let largest = largest.with_data_type(DataType::Decimal128(38, 0));
    client.append("huge", &[batch(largest)]).await.unwrap();
    assert_eq!(
        client
            .rows("SELECT min(v)::VARCHAR, max(v)::VARCHAR FROM huge")
            .await,
        [format!("{}|{}", i128::MIN, i128::MAX)]
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_that_of_the_table_and_not_of_one_with_a_similar_name() {
    let (server, client) = start().await;
    client
        .execute(
            "CREATE TABLE \"é\" (grp INTEGER PRIMARY KEY, id INTEGER);
             CREATE TABLE \"É\" (id INTEGER, grp INTEGER);
             INSERT INTO \"É\" VALUES (1, 7), (2, 7), (3, 7)",
        )
        .await;
    let row = RecordBatch::try_from_iter([
        ("id", Arc::new(Int32Array::from(vec![9])) as ArrayRef),
        ("grp", Arc::new(Int32Array::from(vec![7]))),
    ]);
    let row = row.unwrap();
    for mode in ["upsert", "delete"] {
        let put = options(&format!(r#"{{"table":"É","mode":"{mode}"}}"#));
        assert_refused(
            client.put(&put, std::slice::from_ref(&row)).await,
            Code::InvalidArgument,
            &["has no primary key"],
        );
    }
    assert_eq!(client.count("\"É\"").await, 3);
    let put = options(r#"{"table":"é","mode":"upsert"}"#);
    assert_eq!(client.put(&put, &[row]).await.unwrap()[0].rows, 1);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_missing_is_not_one_without_a_key() {
    let (server, client) = start().await;
    client
        .execute("CREATE TABLE t (v INTEGER); CREATE VIEW seen AS FROM t")
        .await;
    let rows = || [batch(Int32Array::from(vec![1]))];
    for (put, code, words) in [
        (
            r#"{"table":"no","mode":"delete"}"#,
            Code::NotFound,
            "deletes",
        ),
        (
            r#"{"table":"no","mode":"delete","key":["v"]}"#,
            Code::NotFound,
            "deletes",
        ),
        (r#"{"table":"no","mode":"upsert"}"#, Code::NotFound, "`key`"),
        (
            r#"{"table":"no","mode":"changes"}"#,
            Code::NotFound,
            "`key`",
        ),
        (
            r#"{"table":"t","mode":"upsert"}"#,
            Code::InvalidArgument,
            "no primary key",
        ),
        (r#"{"table":"seen"}"#, Code::InvalidArgument, "is a view"),
        (
            r#"{"table":"seen","mode":"upsert"}"#,
            Code::InvalidArgument,
            "is a view",
        ),
    ] {
        assert_refused(client.put(&options(put), &rows()).await, code, &[words]);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_union_with_codes_of_its_own_arrives_as_it_was_sent() {
    let (server, client) = start().await;
    let fields = [
        Field::new("i", DataType::Int64, true),
        Field::new("s", DataType::Utf8, true),
    ];
    let union = UnionArray::try_new(
        UnionFields::try_new([9, 5], fields).unwrap(),
        ScalarBuffer::from(vec![5, 9, 5]),
        None,
        vec![
            Arc::new(Int64Array::from(vec![None, Some(7), None])),
            Arc::new(StringArray::from(vec![Some("a"), None, None])),
        ],
    );
    client.append("t", &[batch(union.unwrap())]).await.unwrap();
    let rows = client
        .rows("SELECT union_tag(v)::VARCHAR, v::VARCHAR FROM t")
        .await;
    assert_eq!(rows[..2], ["s|a", "i|7"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_with_a_key_twice_is_a_row_that_does_not_fit() {
    let (server, client) = start().await;
    let pair = Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Int64, true),
    ]);
    let keys = StringArray::from(vec!["a", "a", "a", "b"]);
    let values = Int64Array::from(vec![1, 2, 3, 4]);
    let entries = StructArray::new(pair.clone(), vec![Arc::new(keys), Arc::new(values)], None);
    let field = Field::new("entries", DataType::Struct(pair), false);
    let offsets = OffsetBuffer::from_lengths([1, 2, 1]);
    let maps = batch(MapArray::new(
        Arc::new(field),
        offsets,
        entries,
        None,
        false,
    ));
    assert_refused(
        client.append("t", std::slice::from_ref(&maps)).await,
        Code::InvalidArgument,
        &["row 2", "`v`", "`a` twice"],
    );
    let reject = options(r#"{"table":"t","on_error":"reject"}"#);
    let acks = client.put(&reject, &[maps]).await.unwrap();
    assert_eq!((acks[0].rows, acks[0].rejected), (2, 1));
    assert_eq!(
        client.rows("SELECT v::VARCHAR FROM t").await,
        ["{a=1}", "{b=4}"]
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_table_with_a_variant_the_other_columns_work() {
    let server = ServerProcess::start(&["--storage-version", "v1.5.0"]);
    let client = server.client().await;
    client
        .execute(
            "CREATE TABLE t (v INTEGER, w VARIANT); INSERT INTO t VALUES (1, {'a': 5}::VARIANT)",
        )
        .await;
    client
        .append("t", &[batch(Int32Array::from(vec![2]))])
        .await
        .unwrap();
    assert_eq!(client.rows("SELECT v FROM t ORDER BY v").await, ["1", "2"]);
    assert_refused(
        client.try_rows("FROM t").await,
        Code::Unimplemented,
        &["`w`", "VARIANT", "cast it"],
    );
    let texts =
        RecordBatch::try_from_iter([("w", Arc::new(StringArray::from(vec!["x"])) as ArrayRef)]);
    assert_refused(
        client.append("t", &[texts.unwrap()]).await,
        Code::InvalidArgument,
        &["`w`", "VARIANT", "leave it out"],
    );
    let mut flights = client.flight();
    let listed = flights.list_flights("").await.unwrap();
    let listed: Vec<_> = futures::TryStreamExt::try_collect(listed).await.unwrap();
    let [info] = <[arrow_flight::FlightInfo; 1]>::try_from(listed).unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let schema = info.try_decode_schema().unwrap();
    assert_eq!(schema.field(1).data_type(), &DataType::Utf8);
    let mut rows = client
        .rows(std::str::from_utf8(&ticket.ticket).unwrap())
        .await;
    rows.sort();
    assert_eq!(rows, ["1|{'a': 5}", "2|NULL"]);
    server.stop();
}

/// DuckDB 1.5.5 gives the database up where it finds such a field in a row group of so many rows.
#[tokio::test(flavor = "multi_thread")]
async fn fields_of_a_variant_are_read_however_large_its_row_groups_are() {
    let server =
        ServerProcess::start(&["--storage-version", "v1.5.0", "--row-group-size", "122880"]);
    let client = server.client().await;
    client
        .execute(
            "CREATE TABLE t (i BIGINT, v VARIANT); INSERT INTO t SELECT range, NULL FROM range(200000)",
        )
        .await;
    client.checkpoint().await;
    let sql = "SELECT count(*) FROM t WHERE (v.a)::BIGINT = i";
    assert_eq!(client.rows(sql).await, ["0"]);
    for sql in [
        "SET GLOBAL variant_minimum_shredding_size = 1",
        "RESET GLOBAL variant_minimum_shredding_size",
    ] {
        client.try_execute(sql).await.expect_err(sql);
    }
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_table_with_a_union_too_large_for_arrow_the_other_columns_work() {
    let (server, client) = start().await;
    for members in [128, 129] {
        let last = members - 1;
        let members: Vec<_> = (0..members).map(|n| format!("m{n} INTEGER")).collect();
        let members = members.join(", ");
        client
            .execute(&format!(
                "CREATE TABLE t{last} (v INTEGER, w UNION({members}));
                 INSERT INTO t{last} VALUES (1, union_value(m{last} := 5))"
            ))
            .await;
        let number = batch(Int32Array::from(vec![2]));
        client.append(&format!("t{last}"), &[number]).await.unwrap();
    }
    let largest = client.query("FROM t127").await.unwrap();
    client.append("copy", &largest).await.unwrap();
    let same = "SELECT count(*) FROM (SELECT v, w::VARCHAR FROM t127 INTERSECT SELECT v, w::VARCHAR FROM copy)";
    assert_eq!(client.rows(same).await, ["2"]);
    assert_refused(
        client.try_rows("FROM t128").await,
        Code::Unimplemented,
        &["`w`", "UNION", "cast it"],
    );
    let texts = client.rows("SELECT v, w::VARCHAR FROM t128 ORDER BY v");
    assert_eq!(texts.await, ["1|5", "2|NULL"]);
    let texts = StringArray::from(vec!["x"]);
    let texts = RecordBatch::try_from_iter([("w", Arc::new(texts) as ArrayRef)]);
    assert_refused(
        client.append("t128", &[texts.unwrap()]).await,
        Code::InvalidArgument,
        &["`w`", "128 members", "leave it out"],
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_geometry_comes_back_as_the_bytes_or_the_text_that_it_is() {
    let server = ServerProcess::start(&["--storage-version", "v1.5.0"]);
    let client = server.client().await;
    client
        .execute("CREATE TABLE t (v GEOMETRY); INSERT INTO t VALUES ('POINT (1 2)'), (NULL), ('LINESTRING Z (0 0 0, 1 2 3)')")
        .await;
    let read = client.query("FROM t").await.unwrap();
    client.execute("CREATE TABLE copy (v GEOMETRY)").await;
    client.append("copy", &read).await.unwrap();
    let texts = StringArray::from(vec!["POLYGON ((0 0, 1 0, 1 1, 0 0))"]);
    client.append("copy", &[batch(texts)]).await.unwrap();
    assert_eq!(
        client.rows("SELECT v::VARCHAR FROM copy").await,
        [
            "POINT (1 2)",
            "NULL",
            "LINESTRING Z (0 0 0, 1 2 3)",
            "POLYGON ((0 0, 1 0, 1 1, 0 0))"
        ]
    );
    let bytes = BinaryArray::from(vec![b"no geometry".as_slice()]);
    assert_refused(
        client.append("copy", &[batch(bytes)]).await,
        Code::InvalidArgument,
        &["row 1", "`v`", "WKB"],
    );
    server.stop();
}
