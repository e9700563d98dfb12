//! The limits of a connection, as API Gateway has them.

use std::time::Duration;

use aws_sdk_apigatewaymanagement::primitives::Blob;
use futures_util::SinkExt;
use local::Options;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Deployment, eventually, server, server_with};

#[tokio::test]
async fn a_message_over_128_kib_or_a_frame_over_32_kib_closes_with_1009() {
    let deployment = Deployment::of(server().await);
    let mut client = deployment.connect("tst").await;
    client.send("x".repeat(32 * 1024 + 1)).await;
    assert_eq!(client.closed().await, Some(1009));
    eventually("its row goes", || async {
        deployment.online("tst").await.is_empty()
    })
    .await;

    let mut client = deployment.connect("tst").await;
    // The close may come while this is still being sent.
    let _ = client
        .socket
        .send(Message::text("x".repeat(1024 * 1024)))
        .await;
    assert_eq!(client.closed().await, Some(1009));
}

#[tokio::test]
async fn a_connection_that_is_idle_or_too_old_is_closed_with_1001() {
    let idle = Options {
        idle_timeout: Duration::from_secs(1),
        ..Options::default()
    };
    let deployment = Deployment::of(server_with(idle).await);
    let opened = Instant::now();
    let mut client = deployment.connect("tst").await;
    assert_eq!(client.closed().await, Some(1001));
    assert!(opened.elapsed() >= Duration::from_secs(1));
    eventually("its row goes", || async {
        deployment.online("tst").await.is_empty()
    })
    .await;

    let old = Options {
        max_connection_age: Duration::from_secs(1),
        ..Options::default()
    };
    let deployment = Deployment::of(server_with(old).await);
    let mut client = deployment.connect("tst").await;
    client.send("{}").await;
    client.next().await;
    assert_eq!(client.closed().await, Some(1001));
}

#[tokio::test]
async fn a_ping_keeps_a_connection_from_being_idle() {
    let idle = Options {
        idle_timeout: Duration::from_secs(2),
        ..Options::default()
    };
    let deployment = Deployment::of(server_with(idle).await);
    let mut client = deployment.connect("tst").await;
    let opened = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    while opened.elapsed() < Duration::from_secs(4) {
        tick.tick().await;
        client
            .socket
            .send(Message::Ping(Default::default()))
            .await
            .unwrap();
    }
    deployment.no_frame_until_now("tst", &mut client).await;
}

#[tokio::test]
async fn stopping_the_server_closes_every_connection_with_1001() {
    let server = server().await;
    let websocket = server.url().replace("http", "ws");
    let deployment = Deployment::at(server.url(), websocket, None);
    let mut clients = [
        deployment.connect("one").await,
        deployment.connect("two").await,
    ];
    let stop = tokio::spawn(server.stop());
    for client in &mut clients {
        assert_eq!(client.closed().await, Some(1001));
    }
    stop.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_delays_nobody_and_is_closed_in_the_end() {
    let deployment = Deployment::of(server().await);
    let mut client = deployment.connect("tst").await;
    let mut deaf = deployment.connect("tst").await;
    let text = "x".repeat(100_000);
    let mut slowest = Duration::ZERO;
    let mut sent = 0;
    while deployment.online("tst").await.len() > 1 {
        assert!(sent < 500, "the client that does not read is never closed");
        let posted = Instant::now();
        deployment
            .log("tst", &format!("{sent} {text}"), Value::Null)
            .await;
        client.next().await;
        slowest = slowest.max(posted.elapsed());
        sent += 1;
    }
    // The contract says a second; 3 s allow for slow machines.
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    // What it finally reads has no gap; it only ends early.
    let mut read = 0;
    while let Ok(frame) = deaf.try_next().await {
        let frame: Value = serde_json::from_str(&frame).unwrap();
        assert!(
            frame["message"]
                .as_str()
                .unwrap()
                .starts_with(&format!("{read} "))
        );
        read += 1;
    }
    assert!(read < sent, "{read} of {sent}");
}

#[tokio::test]
async fn the_management_api_posts_to_describes_and_closes_a_connection() {
    let server = server().await;
    let management_api = aws_sdk_apigatewaymanagement::Client::new(&server.management_api());
    let deployment = Deployment::of(server);
    let mut client = deployment.connect("tst").await;
    let id = deployment.online("tst").await.remove(0);
    let post = |frame: Vec<u8>| {
        let post = management_api.post_to_connection().connection_id(&id);
        post.data(Blob::new(frame)).send()
    };

    let frame = json!({"action": "pong"});
    post(frame.to_string().into()).await.unwrap();
    assert_eq!(client.next().await, frame);
    let too_large = post(vec![b'x'; 131_073]).await.unwrap_err();
    assert!(
        too_large
            .into_service_error()
            .is_payload_too_large_exception()
    );
    let details = management_api.get_connection().connection_id(&id);
    let identity = details.send().await.unwrap().identity.unwrap();
    assert_eq!(identity.source_ip.as_deref(), Some("127.0.0.1"));

    let close = || management_api.delete_connection().connection_id(&id).send();
    close().await.unwrap();
    assert_eq!(client.closed().await, Some(1000));
    let gone = post(vec![b'x']).await.unwrap_err();
    assert!(gone.into_service_error().is_gone_exception());
    assert!(
        close()
            .await
            .unwrap_err()
            .into_service_error()
            .is_gone_exception()
    );
    let details = management_api.get_connection().connection_id(&id);
    let gone = details.send().await.unwrap_err();
    assert!(gone.into_service_error().is_gone_exception());
}

#[tokio::test]
async fn a_client_is_pinged_and_closed_when_it_does_not_answer() {
    let options = Options {
        ping: Duration::from_millis(500),
        ..Options::default()
    };
    let deployment = Deployment::of(server_with(options).await);
    // Reads, and so answers the pings.
    let mut client = deployment.connect("tst").await;
    let silent = deployment.connect("tst").await;
    let opened = Instant::now();
    tokio::select! {
        end = client.try_next() => panic!("{end:?}"),
        () = eventually("the silent one's row goes", || async {
            deployment.online("tst").await.len() == 1
        }) => {}
    }
    assert!(opened.elapsed() >= Duration::from_millis(900));
    deployment.no_frame_until_now("tst", &mut client).await;
    drop(silent);
}

#[tokio::test]
async fn answers_to_pings_do_not_keep_a_connection_from_being_idle() {
    let options = Options {
        ping: Duration::from_millis(100),
        idle_timeout: Duration::from_secs(1),
        ..Options::default()
    };
    let deployment = Deployment::of(server_with(options).await);
    let mut client = deployment.connect("tst").await;
    assert_eq!(client.closed().await, Some(1001));
}

#[tokio::test]
async fn times_beyond_the_range_of_the_clock_mean_never() {
    let options = Options {
        idle_timeout: Duration::MAX,
        ping: Duration::MAX,
        ..Options::default()
    };
    let deployment = Deployment::of(server_with(options).await);
    let mut client = deployment.connect("tst").await;
    deployment.no_frame_until_now("tst", &mut client).await;
}
