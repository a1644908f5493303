//! Panics that the server outlives, as its log tells them.

use std::ffi::OsStr;

use arrow_flight::FlightData;
use arrow_ipc::{
    Field, FieldArgs, Int, IntArgs, Message, MessageArgs, MessageHeader, MetadataVersion, Schema,
    SchemaArgs, Type,
};
use bytes::Bytes;
use duck_flight_protocol::PutOptions;
use duck_tests::{ServerProcess, assert_refused};
use flatbuffers::FlatBufferBuilder;
use serde_json::Value;
use tonic::Code;

/// The header of a schema with a column of integers of 7 bits, at which Arrow's reader panics.
fn unheard_of() -> Bytes {
    let mut builder = FlatBufferBuilder::new();
    let int = IntArgs {
        bitWidth: 7,
        is_signed: true,
    };
    let int = Int::create(&mut builder, &int).as_union_value();
    let name = builder.create_string("i");
    let field = FieldArgs {
        name: Some(name),
        nullable: true,
        type_type: Type::Int,
        type_: Some(int),
        ..Default::default()
    };
    let field = Field::create(&mut builder, &field);
    let fields = builder.create_vector(&[field]);
    let schema = SchemaArgs {
        fields: Some(fields),
        ..Default::default()
    };
    let schema = Schema::create(&mut builder, &schema).as_union_value();
    let message = MessageArgs {
        version: MetadataVersion::V5,
        header_type: MessageHeader::Schema,
        header: Some(schema),
        ..Default::default()
    };
    let message = Message::create(&mut builder, &message);
    builder.finish(message, None);
    Bytes::copy_from_slice(builder.finished_data())
}

/// All that a server says on stderr that meets a panic in a put, with these settings of its log.
async fn told_of_a_panic(format: &str, log: &str, backtrace: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let environment = [
        ("RUST_LOG", OsStr::new(log)),
        ("RUST_BACKTRACE", OsStr::new(backtrace)),
    ];
    let flags = ["--log-format", format];
    let started = ServerProcess::try_start_in(directory, &flags, &environment);
    let mut server = started.expect("it starts");
    let client = server.client().await;
    let first = FlightData {
        flight_descriptor: Some(PutOptions::new("t").descriptor()),
        data_header: unheard_of(),
        ..Default::default()
    };
    assert_refused(
        client.put_messages(vec![first]).await,
        Code::InvalidArgument,
        &["not valid Arrow IPC"],
    );
    assert_eq!(client.rows("SELECT 1").await, ["1"]);
    drop(client);
    server.signal("TERM");
    let exit = server.wait();
    assert_eq!(exit.code, Some(0), "{exit:?}");
    exit.stderr
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_a_line_of_json_where_that_is_asked_for() {
    for backtrace in ["0", "1"] {
        let said = told_of_a_panic("json", "info", backtrace).await;
        let lines = said.lines();
        let lines = lines.map(|line| serde_json::from_str::<Value>(line).expect(line));
        let panics: Vec<_> = lines.filter(|line| line["level"] == "ERROR").collect();
        assert_eq!(panics.len(), 1, "{said}");
        let fields = &panics[0]["fields"];
        assert_eq!(fields["message"], "a thread panicked");
        assert_eq!(fields["thread"], "tokio-rt-worker");
        for (field, words) in [("panic", "bit width of 7"), ("location", "convert.rs:")] {
            let found = fields[field].as_str().expect(field);
            assert!(found.contains(words), "{found}");
        }
        assert_eq!(fields["backtrace"].is_string(), backtrace == "1", "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_a_line_of_text_and_rusts_own_text_where_the_log_does_not_take_it() {
    let logged = told_of_a_panic("text", "info", "1").await;
    let panics: Vec<_> = logged
        .lines()
        .filter(|it| it.contains("panicked"))
        .collect();
    assert_eq!(panics.len(), 1, "{logged}");
    for words in ["ERROR", "a thread panicked", "bit width of 7"] {
        assert!(panics[0].contains(words), "{logged}");
    }
    // The backtrace is in the same line.
    assert!(logged.lines().all(|it| it.starts_with("20")), "{logged}");
    let unlogged = told_of_a_panic("text", "off", "0").await;
    assert!(unlogged.contains("panicked at"), "{unlogged}");
}
