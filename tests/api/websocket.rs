//! The WebSocket API: handshake, routes, and what goes back to a sender.

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::{Client, Deployment, now, unique};

/// The next frame, which must be an error frame for this site.
pub async fn error(client: &mut Client, site: &str) -> String {
    let frame = client.next().await;
    let fields = frame.as_object().unwrap();
    assert_eq!(fields.len(), 4, "no id: {frame}");
    assert_eq!(frame["log_level"], "error");
    assert_eq!(frame["site"], site, "{frame}");
    let timestamp: u64 = frame["timestamp"].as_str().unwrap().parse().unwrap();
    assert!(timestamp.abs_diff(now()) < 60, "{frame}");
    frame["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_handshake_without_a_proper_site_is_refused() {
    let deployment = Deployment::start().await;
    let long = "s".repeat(1025);
    for query in [
        &[][..],
        &[("site", "")],
        &[("user", "bob")],
        &[("site", &long)],
    ] {
        match deployment.try_connect(query).await {
            Err(Error::Http(refusal)) => assert!(refusal.status().is_client_error(), "{refusal:?}"),
            other => panic!("{query:?}: {:?}", other.map(|_| "connected")),
        }
    }
    let site = unique("no such site / é");
    let mut client = deployment
        .try_connect(&[("site", &site), ("user", "bob")])
        .await
        .unwrap();
    deployment.no_frame_until_now(&site, &mut client).await;
}

#[tokio::test]
async fn a_ping_is_answered_to_its_sender_alone() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let mut sender = deployment.connect(&site).await;
    let mut other = deployment.connect(&site).await;
    for ping in [
        json!({"action": "ping"}),
        json!({"site": "x", "action": "ping", "more": {"a": [1]}}),
    ] {
        sender.send(ping.to_string()).await;
        assert_eq!(sender.next().await, json!({"action": "pong"}));
    }
    for wrong in [
        r#"{"action": "PING"}"#,
        r#"{"action": ["ping"]}"#,
        r#""ping""#,
    ] {
        sender.send(wrong).await;
        let text = error(&mut sender, "").await;
        assert_eq!(text, "Unrecognized WebSocket action.");
    }
    deployment.no_frame_until_now(&site, &mut other).await;
}

#[tokio::test]
async fn a_message_sent_over_the_socket_is_broadcast_and_gets_no_other_answer() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let mut sender = deployment.connect(&site).await;
    let mut other = deployment.connect(&site).await;
    let message = json!({"action": "newlog", "site": site, "log_message": "hello", "log_level": "WARN", "timestamp": 1604514063});
    sender.send(message.to_string()).await;
    let frame = json!({"site": site, "message": "hello", "log_level": "warning", "timestamp": "1604514063", "id": "1604514063.000000"});
    assert_eq!(other.next().await, frame);
    assert_eq!(
        deployment.frames_until_now(&site, &mut sender).await,
        [frame]
    );
    assert_eq!(
        deployment.recent_texts(&site).await.last().unwrap(),
        "hello"
    );
}

#[tokio::test]
async fn a_message_may_be_for_a_site_that_its_sender_does_not_watch() {
    let deployment = Deployment::start().await;
    let (here, there) = (unique("here"), unique("there"));
    let mut sender = deployment.connect(&here).await;
    let mut watcher = deployment.connect(&there).await;
    sender
        .send(json!({"action": "newlog", "site": there, "log_message": "x"}).to_string())
        .await;
    assert_eq!(watcher.next().await["message"], "x");
    deployment.no_frame_until_now(&here, &mut sender).await;
}

#[tokio::test]
async fn only_the_sender_gets_the_error_for_an_unknown_action() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let mut sender = deployment.connect(&site).await;
    let mut other = deployment.connect(&site).await;
    for (sent, told) in [
        (
            json!({"action": "nothing", "site": site}).to_string(),
            site.as_str(),
        ),
        (json!({"site": site}).to_string(), &site),
        (json!({"action": 5}).to_string(), ""),
        ("not json".to_owned(), ""),
        ("[]".to_owned(), ""),
        ("5".to_owned(), ""),
        (json!({"action": "x", "site": 5}).to_string(), ""),
    ] {
        sender.send(sent.clone()).await;
        assert_eq!(
            error(&mut sender, told).await,
            "Unrecognized WebSocket action.",
            "{sent}"
        );
    }
    deployment.no_frame_until_now(&site, &mut other).await;
}

#[tokio::test]
async fn only_the_sender_gets_the_error_for_a_refused_message() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let mut sender = deployment.connect(&site).await;
    let mut other = deployment.connect(&site).await;
    for (sent, told, named) in [
        (json!({"action": "newlog"}), "", "'site'"),
        (
            json!({"action": "newlog", "site": site}),
            site.as_str(),
            "'log_message'",
        ),
        (
            json!({"action": "newlog", "site": site, "log_message": null}),
            &site,
            "'log_message'",
        ),
        (
            json!({"action": "newlog", "site": site, "log_message": "x", "log_level": 5}),
            &site,
            "'log_level'",
        ),
        (
            json!({"action": "newlog", "site": site, "log_message": "x", "timestamp": "now"}),
            &site,
            "'timestamp'",
        ),
    ] {
        sender.send(sent.to_string()).await;
        let text = error(&mut sender, told).await;
        assert!(text.contains(named), "{sent}: {text}");
    }
    deployment.no_frame_until_now(&site, &mut other).await;
    assert!(
        deployment.frames_until_now(&site, &mut sender).await.len() <= 1,
        "no other frame came"
    );
}

#[tokio::test]
async fn a_message_too_large_for_a_frame_is_refused_over_the_socket_too() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let mut client = deployment.connect(&site).await;
    let text = "x".repeat(130_990);
    let message = json!({"action": "newlog", "site": site, "log_message": text}).to_string();
    assert!(message.len() < 131_072);
    send_in_frames(&mut client, &message, 32_000).await;
    assert!(error(&mut client, &site).await.contains("'log_message'"));
}

#[tokio::test]
async fn a_message_in_several_frames_is_one_message() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let mut client = deployment.connect(&site).await;
    let text = "é".repeat(40_000);
    let message =
        json!({"action": "newlog", "site": site, "log_message": text, "timestamp": 7}).to_string();
    send_in_frames(&mut client, &message, 30_000).await;
    assert_eq!(client.next().await["message"], text.as_str());
}

#[tokio::test]
async fn a_client_gets_the_frames_of_its_own_site_only() {
    let deployment = Deployment::start().await;
    let (one, two) = (unique("one"), unique("two"));
    let mut client = deployment.connect(&one).await;
    deployment.log(&two, "not for you", Value::Null).await;
    deployment
        .log(&one.to_uppercase(), "nor this", Value::Null)
        .await;
    deployment.no_frame_until_now(&one, &mut client).await;
}

/// Sends a text message in frames of at most `size` bytes.
async fn send_in_frames(client: &mut Client, text: &str, size: usize) {
    let pieces: Vec<_> = text.as_bytes().chunks(size).collect();
    for (index, piece) in pieces.iter().enumerate() {
        let kind = if index == 0 {
            Data::Text
        } else {
            Data::Continue
        };
        let frame = Frame::message(
            piece.to_vec(),
            OpCode::Data(kind),
            index + 1 == pieces.len(),
        );
        client.socket.send(Message::Frame(frame)).await.unwrap();
    }
}
