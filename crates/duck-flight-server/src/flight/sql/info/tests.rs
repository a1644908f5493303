use std::time::Duration;

use arrow::array::{Array, AsArray, UnionArray};
use arrow::datatypes::{Int32Type, Int64Type, UInt32Type};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use futures::TryStreamExt;

use super::types::all as all_types;
use super::*;
use crate::engine::{Engine, EngineOptions, Place};

const EXPIRY: Expiry = Expiry {
    session: Duration::from_secs(3600),
    transaction: Duration::from_secs(300),
};

/// A server's engine over a database in memory.
fn engine() -> Engine {
    Engine::open(&EngineOptions::in_memory()).expect("a database opens")
}

/// The texts of a query's only column.
async fn column(engine: &Engine, sql: &str) -> Vec<String> {
    let result = engine
        .query(&Place::Any, sql.to_owned())
        .await
        .expect("the query runs");
    let batches: Vec<_> = result.try_collect().await.expect("the rows arrive");
    let texts = batches.iter().flat_map(|batch| {
        let column = batch.column(0).as_string::<i32>();
        column.iter().map(|text| text.expect("no null").to_owned())
    });
    texts.collect()
}

fn value(code: SqlInfo) -> (i8, arrow::array::ArrayRef) {
    let code = u32::try_from(code as i32).expect("no code is negative");
    let batch = sql_info(&[code], EXPIRY).expect("there is an answer");
    assert_eq!(
        batch.column(0).as_primitive::<UInt32Type>().values(),
        &[code]
    );
    let union = batch.column(1).as_union();
    (union.type_id(0), union.value(0))
}

fn text(code: SqlInfo) -> String {
    value(code).1.as_string::<i32>().value(0).to_owned()
}

fn texts(code: SqlInfo) -> Vec<String> {
    let (_, list) = value(code);
    let texts = list.as_list::<i32>().value(0);
    let texts = texts.as_string::<i32>().iter().flatten();
    texts.map(str::to_owned).collect()
}

#[test]
fn every_code_has_an_answer() {
    let all = sql_info(&[], EXPIRY).expect("there are answers");
    let answered = all.column(0).as_primitive::<UInt32Type>().values().to_vec();
    let codes: Vec<u32> = (0..1000)
        .filter(|&code| SqlInfo::try_from(code).is_ok())
        .map(|code| u32::try_from(code).expect("it is not negative"))
        .collect();
    assert_eq!(answered, codes);
    assert_eq!(all.schema(), sql_info_schema());
}

#[test]
fn unknown_codes_are_ignored() {
    let some = sql_info(&[99_999, 504, 4], EXPIRY).expect("there are answers");
    assert_eq!(
        some.column(0).as_primitive::<UInt32Type>().values(),
        &[4, 504]
    );
    let none = sql_info(&[99_999], EXPIRY).expect("there is no answer");
    assert_eq!(none.num_rows(), 0);
}

#[test]
fn an_answer_has_the_type_of_its_code() {
    assert_eq!(value(FlightSqlServerName).0, 0);
    assert_eq!(value(FlightSqlServerReadOnly).0, 1);
    assert!(!value(FlightSqlServerReadOnly).1.as_boolean().value(0));
    let (kind, length) = value(SqlMaxTableNameLength);
    assert_eq!((kind, length.as_primitive::<Int64Type>().value(0)), (2, 0));
    let (kind, isolation) = value(SqlSupportedTransactionsIsolationLevels);
    assert_eq!(
        (kind, isolation.as_primitive::<Int32Type>().value(0)),
        (3, 8)
    );
    assert_eq!(value(SqlKeywords).0, 4);
    let (kind, conversions) = value(SqlInfo::SqlSupportsConvert);
    assert_eq!((kind, conversions.as_map().value(0).len()), (5, 20));
}

#[test]
fn answers_survive_the_wire() {
    let sent = sql_info(&[0, 3, 508, 517, 541, 562], EXPIRY).expect("there are answers");
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &sent.schema()).expect("a schema");
    writer.write(&sent).expect("it can be written");
    writer.finish().expect("it ends");
    drop(writer);
    let mut reader = StreamReader::try_new(bytes.as_slice(), None).expect("a schema");
    let received = reader.next().expect("a batch").expect("it can be read");
    assert_eq!(received, sent);
    let values: &UnionArray = received.column(1).as_union();
    values.to_data().validate_full().expect("it is valid");
}

#[tokio::test]
async fn names_and_functions_are_those_of_duckdb() {
    let engine = engine();
    assert_eq!(column(&engine, "SELECT version()").await, [DUCKDB_VERSION]);
    assert!(text(FlightSqlServerVersion).starts_with("duckdb v1.5.5 (duck-flight "));
    let keywords = "SELECT DISTINCT upper(keyword_name) FROM duckdb_keywords() ORDER BY ALL";
    assert_eq!(texts(SqlKeywords), column(&engine, keywords).await);
    let functions = column(&engine, "SELECT function_name FROM duckdb_functions()").await;
    for code in [
        SqlNumericFunctions,
        SqlStringFunctions,
        SqlSystemFunctions,
        SqlDatetimeFunctions,
    ] {
        let told = texts(code);
        assert!(told.len() > 10, "{code:?}");
        for function in told {
            assert!(functions.contains(&function), "{code:?}: {function}");
        }
    }
}

#[tokio::test]
async fn conversions_are_those_of_cast() {
    use SqlSupportsConvert::*;
    let types = [
        (SqlConvertBigint, "BIGINT", "1"),
        (SqlConvertBinary, "BLOB", "1"),
        (SqlConvertBit, "BOOLEAN", "1"),
        (SqlConvertChar, "VARCHAR", "1"),
        (SqlConvertDate, "DATE", "2020-01-01"),
        (SqlConvertDecimal, "DECIMAL(18, 3)", "1"),
        (SqlConvertFloat, "DOUBLE", "1"),
        (SqlConvertInteger, "INTEGER", "1"),
        (SqlConvertIntervalDayTime, "INTERVAL", "1 day"),
        (SqlConvertIntervalYearMonth, "INTERVAL", "1 year"),
        (SqlConvertLongvarbinary, "BLOB", "1"),
        (SqlConvertLongvarchar, "VARCHAR", "1"),
        (SqlConvertNumeric, "DECIMAL(18, 3)", "1"),
        (SqlConvertReal, "FLOAT", "1"),
        (SqlConvertSmallint, "SMALLINT", "1"),
        (SqlConvertTime, "TIME", "12:00:00"),
        (SqlConvertTimestamp, "TIMESTAMP", "2020-01-01"),
        (SqlConvertTinyint, "TINYINT", "1"),
        (SqlConvertVarbinary, "BLOB", "1"),
        (SqlConvertVarchar, "VARCHAR", "1"),
    ];
    let engine = engine();
    let told = conversions();
    for (from, from_type, sample) in types {
        // Not a literal, which would be cast to whatever is asked for.
        let create = format!("CREATE OR REPLACE TABLE t AS SELECT '{sample}'::{from_type} AS x");
        engine
            .execute(&Place::Any, create)
            .await
            .expect("a table is created");
        for (to, to_type, _) in types {
            let cast = engine
                .execute(&Place::Any, format!("SELECT CAST(x AS {to_type}) FROM t"))
                .await;
            let is_possible =
                !cast.is_err_and(|error| error.to_string().contains("Unimplemented type for cast"));
            let is_told = told[&(from as i32)].contains(&(to as i32));
            assert_eq!(is_told, is_possible, "{from_type} to {to_type}");
        }
    }
}

#[test]
fn types_are_in_order_and_filtered_by_their_code() {
    let found = xdbc_type_info(None).expect("there are types");
    assert_eq!(found.schema(), xdbc_type_info_schema());
    assert_eq!(found.num_rows(), all_types().len());
    let codes = found.column(1).as_primitive::<Int32Type>().values();
    let names = found.column(0).as_string::<i32>();
    let order: Vec<_> = codes.iter().zip(names.iter().flatten()).collect();
    assert!(order.is_sorted(), "{order:?}");
    let bigints = xdbc_type_info(Some(-5)).expect("there are types");
    let names: Vec<_> = bigints
        .column(0)
        .as_string::<i32>()
        .iter()
        .flatten()
        .collect();
    assert_eq!(names, ["BIGINT", "UBIGINT"]);
    assert_eq!(xdbc_type_info(Some(4711)).expect("none").num_rows(), 0);
}

#[tokio::test]
async fn types_and_their_literals_are_those_of_duckdb() {
    let engine = engine();
    let types = column(
        &engine,
        "SELECT DISTINCT logical_type FROM duckdb_types() WHERE logical_type NOT IN ('NULL', 'VARIANT', 'TYPE')
         UNION SELECT 'JSON' ORDER BY ALL",
    )
    .await;
    let infos = all_types();
    let mut told: Vec<_> = infos.iter().map(|info| info.type_name.clone()).collect();
    told.sort();
    assert_eq!(told, types);
    for info in infos {
        let Some(prefix) = info.literal_prefix.filter(|_| info.type_name != "ENUM") else {
            continue;
        };
        let sample = match info.type_name.as_str() {
            "UUID" => "b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "TIME" | "TIME_NS" | "TIME WITH TIME ZONE" => "12:00:00",
            "INTERVAL" => "1 day",
            "GEOMETRY" => "POINT (1 2)",
            "BIT" | "BIGNUM" | "JSON" => "1",
            _ => "2020-01-01",
        };
        let suffix = info
            .literal_suffix
            .expect("a literal that begins also ends");
        let sql = format!("SELECT typeof({prefix}{sample}{suffix})");
        assert_eq!(column(&engine, &sql).await, [info.type_name]);
    }
}
