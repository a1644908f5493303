//! Values that are bound to a statement's parameters: nothing of one is lost, and no type ends in a panic.

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Fields, IntervalMonthDayNano, Schema, TimeUnit, i256};
use arrow_flight::FlightDescriptor;
use arrow_flight::sql::{CommandPreparedStatementQuery, ProstMessageExt};
use duck_tests::{Answer, Client, assert_refused, messages, start, status};
use prost::Message;
use tonic::Code;

use super::ticket::prepare;

async fn insert(client: &Client, value: ArrayRef) -> Answer<i64> {
    let sql = "INSERT INTO t VALUES (?::VARCHAR)".to_owned();
    let mut statement = client.sql().raw().prepare(sql, None).await.unwrap();
    let field = Field::new("v", value.data_type().clone(), true);
    let schema = Arc::new(Schema::new(vec![field]));
    let row = RecordBatch::try_new(schema, vec![value]).unwrap();
    statement.set_parameters(row).unwrap();
    statement.execute_update().await.map_err(status)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_type_has_no_place_for_is_refused_and_not_cut_off() {
    const DAY_MILLIS: i64 = 86_400_000;
    let (server, client) = start().await;
    client.execute("CREATE TABLE t (v VARCHAR)").await;
    let zoned = |nanos| -> ArrayRef {
        Arc::new(TimestampNanosecondArray::from(vec![nanos]).with_timezone("UTC"))
    };
    let duration = |nanos| -> ArrayRef { Arc::new(DurationNanosecondArray::from(vec![nanos])) };
    let interval = |nanos| -> ArrayRef {
        let value = IntervalMonthDayNano::new(1, 2, nanos);
        Arc::new(IntervalMonthDayNanoArray::from(vec![value]))
    };
    let date = |millis| -> ArrayRef { Arc::new(Date64Array::from(vec![millis])) };
    let inside = |value: ArrayRef| -> ArrayRef {
        let field = Field::new("a", value.data_type().clone(), true);
        Arc::new(StructArray::from(vec![(Arc::new(field), value)]))
    };
    for (fits, does_not) in [
        (zoned(-1000), zoned(-1001)),
        (zoned(0), zoned(i64::MAX)),
        (duration(5000), duration(5001)),
        (interval(-7000), interval(-7001)),
        (date(-DAY_MILLIS), date(1)),
        (inside(duration(0)), inside(duration(1))),
    ] {
        assert_eq!(insert(&client, fits).await.unwrap(), 1);
        assert_refused(
            insert(&client, does_not).await,
            Code::InvalidArgument,
            &["has"],
        );
    }
    assert_eq!(
        client.rows("FROM t").await[2..5],
        [
            "00:00:00.000005",
            "1 month 2 days -00:00:00.000007",
            "1969-12-31"
        ]
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_of_less_than_a_key_and_a_value_is_refused() {
    let (server, client) = start().await;
    for names in [vec![], vec!["key"], vec!["key", "value", "more"]] {
        let fields = names
            .iter()
            .map(|name| Field::new(*name, DataType::Int32, true));
        let pair = DataType::Struct(fields.collect::<Fields>());
        let entries = Arc::new(Field::new("entries", pair, false));
        let map = Field::new("m", DataType::Map(entries, false), true);
        let schema = Arc::new(Schema::new(vec![map]));
        let command = CommandPreparedStatementQuery {
            prepared_statement_handle: prepare(&client, "SELECT ?").await,
        };
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let put = messages(descriptor, &schema, &[], None);
        assert_refused(
            client.put_messages(put).await,
            Code::InvalidArgument,
            &["a key and a value"],
        );
    }
    server.shutdown().await;
}

/// Drivers bind values by the types that they are told.
#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_is_told_as_its_values_are_read() {
    let (server, client) = start().await;
    client
        .execute(
            "CREATE TABLE t (b BIT, u UHUGEINT, l BIT[], e ENUM ('one', 'two'), h HUGEINT, z TIME WITH TIME ZONE)",
        )
        .await;
    let mut sql = client.sql();
    let insert = "INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)".to_owned();
    let mut insert = sql.raw().prepare(insert, None).await.unwrap();
    let told = insert.parameter_schema().unwrap().clone();
    let read = sql
        .raw()
        .prepare("SELECT * EXCLUDE z FROM t".into(), None)
        .await
        .unwrap();
    let read = read.dataset_schema().unwrap();
    for (told, read) in told.fields().iter().zip(read.fields()) {
        assert_eq!(told.data_type(), read.data_type(), "{read}");
    }
    // But for times, which drivers know only without an offset.
    let time = DataType::Time64(TimeUnit::Microsecond);
    assert_eq!(told.field(5).data_type(), &time);
    let mut bits = ListBuilder::new(StringBuilder::new());
    bits.append_value([Some("1"), Some("00")]);
    let largest = i256::from_parts(u128::MAX, 0);
    let largest = Decimal256Array::from(vec![largest]).with_data_type(DataType::Decimal256(39, 0));
    let least = Decimal128Array::from(vec![-7]).with_data_type(DataType::Decimal128(38, 0));
    let values: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["0101"])),
        Arc::new(largest),
        Arc::new(bits.finish()),
        Arc::new(StringArray::from(vec!["two"])),
        Arc::new(least),
        Arc::new(Time64MicrosecondArray::from(vec![3_600_000_000])),
    ];
    let names = ["1", "2", "3", "4", "5", "6"].into_iter();
    let values = RecordBatch::try_from_iter(names.zip(values)).unwrap();
    insert.set_parameters(values).unwrap();
    assert_eq!(insert.execute_update().await.unwrap(), 1);
    let found = client.rows("SELECT COLUMNS(*)::VARCHAR FROM t").await;
    let row = format!("0101|{}|[1, 00]|two|-7|01:00:00+00", u128::MAX);
    assert_eq!(found, [row]);
    server.shutdown().await;
}
