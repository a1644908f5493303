//! Requests that are not what the protocol says: a clear error, the right code, nothing inserted, and a
//! connection that goes on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_flight::sql::{Any, CommandStatementSubstraitPlan, ProstMessageExt};
use arrow_flight::{Action, FlightData, FlightDescriptor};
use arrow_ipc::CompressionType;
use bytes::Bytes;
use duck_flight_protocol::PutOptions;
use duck_tests::{
    Client, ServerProcess, Setup, TestServer, assert_refused, ints, messages, pairs, soon, start,
    status,
};
use prost::Message;
use tonic::codegen::{Body, Service, http};
use tonic::transport::Endpoint;
use tonic::{Code, Status};

#[tokio::test(flavor = "multi_thread")]
async fn a_put_of_nothing_says_what_to_send_instead() {
    let (server, client) = start().await;
    assert_refused(
        client.put_messages(Vec::new()).await,
        Code::InvalidArgument,
        &["empty", "ADBC", "a record batch without rows"],
    );
    server.shutdown().await;
}

fn valid() -> Vec<FlightData> {
    let batch = pairs(&[(1, "one"), (2, "two")]);
    messages(
        PutOptions::new("t").descriptor(),
        &batch.schema(),
        &[batch],
        None,
    )
}

async fn server_with_table() -> (TestServer, Client) {
    let (server, client) = start().await;
    client.execute("CREATE TABLE t (i BIGINT, s VARCHAR)").await;
    (server, client)
}

async fn assert_unharmed(server: TestServer, client: Client) {
    assert_eq!(client.count("t").await, 0);
    client.put_messages(valid()).await.unwrap();
    assert_eq!(
        client.rows("SELECT * FROM t ORDER BY i").await,
        ["1|one", "2|two"]
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_is_not_sql_is_refused() {
    let (server, client) = server_with_table().await;
    let cases: [(&[u8], &str); 6] = [
        (b"SELECT '\xFF\xFE'", "UTF-8"),
        (b"", "empty"),
        (b"  \n\t", "empty"),
        (b"-- a comment alone", "empty"),
        (b";;", "empty"),
        (b"SELECT 1\0; DROP TABLE t", "NUL"),
    ];
    for (ticket, words) in cases {
        assert_refused(
            client.query(ticket.to_vec()).await,
            Code::InvalidArgument,
            &[words],
        );
        assert_refused(
            client.try_execute(ticket.to_vec()).await,
            Code::InvalidArgument,
            &[words],
        );
        let info = client
            .flight()
            .get_flight_info(FlightDescriptor::new_cmd(ticket.to_vec()))
            .await;
        assert_refused(info.map_err(status), Code::InvalidArgument, &[words]);
    }
    assert_refused(
        client.query("SELEC 1").await,
        Code::InvalidArgument,
        &["SELEC"],
    );
    assert_refused(
        client.query("SELECT * FROM missing").await,
        Code::NotFound,
        &["missing"],
    );
    assert_unharmed(server, client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_without_what_its_first_message_must_hold_is_refused() {
    let (server, client) = server_with_table().await;
    let refused = async |put, words: &[&str]| {
        assert_refused(client.put_messages(put).await, Code::InvalidArgument, words);
    };
    refused(vec![], &["empty"]).await;
    refused(valid().split_off(1), &["descriptor"]).await;
    let mut no_descriptor = valid();
    no_descriptor[0].flight_descriptor = None;
    refused(no_descriptor, &["descriptor"]).await;
    let mut no_schema = valid();
    no_schema[0].flight_descriptor = no_schema.remove(0).flight_descriptor;
    refused(no_schema, &["schema"]).await;
    let mut nothing = valid();
    nothing[0].data_header = Default::default();
    refused(nothing, &["hold its schema as well"]).await;
    let mut twice = valid();
    twice.insert(1, twice[0].clone());
    refused(twice, &["schema"]).await;
    let mut unknown = valid();
    unknown[0].flight_descriptor = Some(FlightDescriptor::default());
    refused(unknown, &["path"]).await;
    for path in [
        vec![],
        vec![String::new()],
        vec!["main".into(), String::new()],
        vec!["a\0b".into()],
        vec!["x".into(); 4],
    ] {
        let mut put = valid();
        put[0].flight_descriptor = Some(FlightDescriptor::new_path(path));
        refused(put, &[]).await;
    }
    assert_unharmed(server, client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn put_options_that_cannot_be_read_are_refused_by_name() {
    let (server, client) = server_with_table().await;
    let cases: [(&str, Code, &str); 14] = [
        (r#"{"table":"t","tabel":1}"#, Code::InvalidArgument, "tabel"),
        (r#"{"create":"never"}"#, Code::InvalidArgument, "table"),
        (
            r#"{"table":"t","create":"sometimes"}"#,
            Code::InvalidArgument,
            "sometimes",
        ),
        (
            r#"{"table":"t","commit":"sometimes"}"#,
            Code::InvalidArgument,
            "sometimes",
        ),
        (
            r#"{"table":{"table":"t","database":"d"}}"#,
            Code::InvalidArgument,
            "table",
        ),
        (r#"{"table":7}"#, Code::InvalidArgument, "table"),
        (r#"{"table":""}"#, Code::InvalidArgument, "empty"),
        ("{", Code::InvalidArgument, ""),
        ("[]", Code::InvalidArgument, ""),
        ("17", Code::InvalidArgument, ""),
        ("INSERT INTO t", Code::InvalidArgument, ""),
        ("", Code::InvalidArgument, ""),
        (
            r#"{"table":"t","mode":"upsert","key":[]}"#,
            Code::InvalidArgument,
            "key",
        ),
        (
            r#"{"table":"t","producer":"p"}"#,
            Code::InvalidArgument,
            "sequence",
        ),
    ];
    for (json, code, word) in cases {
        let mut put = valid();
        put[0].flight_descriptor = Some(FlightDescriptor::new_cmd(json.as_bytes().to_vec()));
        assert_refused(client.put_messages(put).await, code, &[word]);
    }
    let mut put = valid();
    put[0].flight_descriptor = Some(FlightDescriptor::new_cmd(vec![0xFF, 0xFE]));
    assert_refused(client.put_messages(put).await, Code::InvalidArgument, &[]);
    let mut put = valid();
    let deep = "[".repeat(100_000);
    put[0].flight_descriptor = Some(FlightDescriptor::new_cmd(
        format!(r#"{{"table":{deep}"#).into_bytes(),
    ));
    assert_refused(client.put_messages(put).await, Code::InvalidArgument, &[]);
    assert_unharmed(server, client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_cut_at_any_byte_is_refused() {
    let (server, client) = server_with_table().await;
    for message in 0..2 {
        let header = valid()[message].data_header.len();
        for len in (1..header).step_by(5) {
            let mut put = valid();
            put[message].data_header.truncate(len);
            assert_refused(client.put_messages(put).await, Code::InvalidArgument, &[]);
        }
    }
    let body = valid()[1].data_body.len();
    for len in 0..body.saturating_sub(64) {
        let mut put = valid();
        put[1].data_body.truncate(len);
        assert_refused(client.put_messages(put).await, Code::InvalidArgument, &[]);
    }
    assert_unharmed(server, client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_does_not_have_the_schema_of_its_put_is_refused() {
    let (server, client) = server_with_table().await;
    let head = valid().swap_remove(0);
    let others = [
        ints([1, 2, 3]),
        RecordBatch::try_from_iter([
            ("i", Arc::new(StringArray::from(vec!["x", "y"])) as ArrayRef),
            ("s", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef),
        ])
        .unwrap(),
    ];
    for other in others {
        let foreign = messages(
            PutOptions::new("t").descriptor(),
            &other.schema(),
            &[other],
            None,
        )
        .swap_remove(1);
        let put = vec![head.clone(), valid().swap_remove(1), foreign];
        assert_refused(client.put_messages(put).await, Code::InvalidArgument, &[]);
    }
    assert_unharmed(server, client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_of_the_wrong_type_are_refused_by_name() {
    let (server, client) = server_with_table().await;
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["7", "seven"]));
    let batch = RecordBatch::try_from_iter([("i", texts)]).unwrap();
    assert_refused(
        client.append("t", &[batch]).await,
        Code::InvalidArgument,
        &["`i`", "seven", "row 2"],
    );
    let list = client.query("SELECT [1, 2] AS i").await.unwrap();
    assert_refused(
        client.append("t", &list).await,
        Code::InvalidArgument,
        &["`i`"],
    );
    assert_unharmed(server, client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_with_fewer_nulls_than_none_or_more_than_values_is_refused() {
    let (server, client) = server_with_table().await;
    for (length, nulls) in [(2_i64, -1_i64), (2, i64::MIN), (2, 3), (-1, 0)] {
        let mut put = valid();
        let mut header = put[1].data_header.to_vec();
        let message = arrow_ipc::root_as_message(&header).unwrap();
        let nodes = message.header_as_record_batch().unwrap().nodes().unwrap();
        let at = nodes.bytes().as_ptr().addr() - header.as_ptr().addr();
        let node = [length.to_le_bytes(), nulls.to_le_bytes()].concat();
        header[at..at + node.len()].copy_from_slice(&node);
        put[1].data_header = header.into();
        let words = format!("{length} values and {nulls} nulls");
        assert_refused(
            client.put_messages(put).await,
            Code::InvalidArgument,
            &[&words],
        );
    }
    assert_unharmed(server, client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dictionaries_before_the_schema_or_for_no_column_are_refused() {
    let (server, client) = server_with_table().await;
    let values: arrow::array::DictionaryArray<arrow::datatypes::Int32Type> =
        ["a", "b"].into_iter().collect();
    let batch = RecordBatch::try_from_iter([("s", Arc::new(values) as ArrayRef)]).unwrap();
    let put = messages(
        PutOptions::new("t").descriptor(),
        &batch.schema(),
        &[batch],
        None,
    );
    assert_eq!(put.len(), 3, "schema, dictionary, batch");
    let mut before = put.clone();
    before.swap(0, 1);
    before[0].flight_descriptor = before[1].flight_descriptor.take();
    assert_refused(
        client.put_messages(before).await,
        Code::InvalidArgument,
        &["schema"],
    );
    let mut missing = put.clone();
    missing.remove(1);
    assert_refused(
        client.put_messages(missing).await,
        Code::InvalidArgument,
        &[],
    );
    let foreign = vec![valid().swap_remove(0), put[1].clone()];
    assert_refused(
        client.put_messages(foreign).await,
        Code::InvalidArgument,
        &[],
    );
    assert_unharmed(server, client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_batches_are_accepted() {
    let (server, client) = start().await;
    let batch = pairs(&[(1, "one one one one one"), (2, "two two two two two")]);
    for codec in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
        let put = messages(
            PutOptions::new("t").descriptor(),
            &batch.schema(),
            std::slice::from_ref(&batch),
            Some(codec),
        );
        assert_eq!(client.put_messages(put).await.unwrap()[0].rows, 2);
    }
    assert_eq!(client.count("t").await, 4);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_refused_and_the_connection_goes_on() {
    let setup = Setup {
        max_message_bytes: 1 << 20,
        ..Setup::default()
    };
    let server = setup.start().await;
    let client = server.client().await;
    client.execute("CREATE TABLE t (i BIGINT, s VARCHAR)").await;
    for commit in ["stream", "batch"] {
        let json = format!(r#"{{"table":"t","commit":"{commit}"}}"#);
        let options: PutOptions = serde_json::from_str(&json).unwrap();
        let outcome = client.put(&options, &[ints(0..1_000_000)]).await;
        assert_refused(outcome, Code::ResourceExhausted, &["limit"]);
    }
    let long = format!("SELECT '{}'", "x".repeat(2 << 20));
    assert_refused(
        client.query(long).await,
        Code::ResourceExhausted,
        &["limit"],
    );
    assert_unharmed(server, client).await;
}

/// A request's bytes, and its end.
struct Whole(Option<Bytes>);

impl Body for Whole {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(http_body::Frame::data(bytes))))
    }
}

/// What a put of these bytes is answered with.
async fn put_bytes(address: &str, bytes: Vec<u8>) -> Status {
    let endpoint = Endpoint::new(format!("http://{address}")).unwrap();
    let mut channel = endpoint.connect().await.unwrap();
    let request = http::Request::post(format!(
        "http://{address}/arrow.flight.protocol.FlightService/DoPut"
    ))
    .header("content-type", "application/grpc")
    .header("te", "trailers")
    .body(tonic::body::Body::new(Whole(Some(bytes.into()))))
    .unwrap();
    std::future::poll_fn(|context| channel.poll_ready(context))
        .await
        .unwrap();
    let response = channel.call(request).await.unwrap();
    Status::from_header_map(response.headers()).expect("an error")
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_messages_are_their_clients_fault_and_not_an_error_of_the_server() {
    let mut server = ServerProcess::start(&[]);
    let framed = |flag: u8, message: &[u8]| {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[flag][..], &length, message].concat()
    };
    let bytes: Vec<_> = valid()
        .iter()
        .flat_map(|message| framed(0, &message.encode_to_vec()))
        .collect();
    let with = |rest: &[u8]| [&bytes[..], rest].concat();
    let cut = |sent: usize| with(&framed(0, &[7; 100])[..sent]);
    for (name, bytes) in [
        ("no protobuf", framed(0, &[0xFF; 20])),
        ("no protobuf behind rows", with(&framed(0, &[0xFF; 20]))),
        ("compressed", framed(1, &[7; 20])),
        ("a flag that there is not", with(&framed(7, &[7; 20]))),
        ("half a message", cut(55)),
        ("a header without its message", cut(5)),
        ("half a header", cut(3)),
        ("half a first message", bytes[..20].to_vec()),
    ] {
        let status = soon(name, put_bytes(server.address(), bytes)).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{name}: {status:?}");
    }
    let client = server.client().await;
    let rows = client.try_rows("FROM t").await;
    assert_refused(rows, Code::NotFound, &["t"]);
    assert_eq!(client.put_messages(valid()).await.unwrap()[0].rows, 2);
    drop(client);
    server.signal("TERM");
    let said = server.wait().stderr;
    assert!(!said.contains("ERROR"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_supported_is_refused_by_its_name() {
    let (server, client) = server_with_table().await;
    let plan = CommandStatementSubstraitPlan::default().as_any();
    let unknown = Any {
        type_url: "type.googleapis.com/arrow.flight.protocol.sql.CommandNew".into(),
        value: vec![].into(),
    };
    for (command, name) in [(plan, "Substrait"), (unknown, "CommandNew")] {
        let bytes = command.encode_to_vec();
        assert_refused(
            client.query(bytes.clone()).await,
            Code::Unimplemented,
            &[name],
        );
        let descriptor = FlightDescriptor::new_cmd(bytes.clone());
        let info = client
            .flight()
            .get_flight_info(descriptor.clone())
            .await
            .map_err(status);
        assert_refused(info, Code::Unimplemented, &[name]);
        let mut put = valid();
        put[0].flight_descriptor = Some(descriptor);
        assert_refused(client.put_messages(put).await, Code::Unimplemented, &[name]);
    }
    for (name, word) in [
        ("BeginSavepoint", "savepoints"),
        ("EndSavepoint", "savepoints"),
        ("CreatePreparedSubstraitPlan", "Substrait"),
        ("healthcheck", "query"),
        ("", "query"),
    ] {
        let answer = client
            .flight()
            .do_action(Action::new(name, ""))
            .await
            .map_err(status);
        assert_refused(answer.map(drop), Code::Unimplemented, &[word]);
    }
    let mut raw = client.clone();
    let exchange = raw.raw().do_exchange(futures::stream::iter(valid())).await;
    assert_refused(exchange.map(drop), Code::Unimplemented, &["DoExchange"]);
    assert_unharmed(server, client).await;
}
