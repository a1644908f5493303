//! x
use duck_tests::*;
#[tokio::test(flavor = "multi_thread")]
async fn a() {
    let server = TestServer::start().await;
    let client = server.client().await;
    assert_eq!(client.append("t", &[ints(0..10)]).await.unwrap(), 10);
    assert_eq!(client.count("t").await, 10);
    drop(client);
    let d = server.shutdown().await;
    assert_eq!(rows_at_rest(d.path(), "t"), 10);
    let p = ServerProcess::start(&[]);
    let client = p.client().await;
    assert_eq!(client.rows("select 1, 'x', null").await, ["1|x|NULL"]);
    p.stop();
}
