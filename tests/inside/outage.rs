//! What callers see when the tables cannot be reached.

use std::time::Duration;

use aws_config::SdkConfig;
use local::{CONNECTIONS_TABLE, MESSAGES_TABLE};
use logstream_core::{Connections, ManagementApi, Messages, Publishers};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::slow::slow;
use crate::support::{Deployment, elsewhere, invoke, server, texts};

/// Settings whose calls reach nothing.
async fn away() -> SdkConfig {
    elsewhere(&server().await, "http://127.0.0.1:1")
}

fn http_event(query: &str, body: Option<&str>) -> Value {
    json!({
        "version": "2.0",
        "rawQueryString": query,
        "body": body,
        "isBase64Encoded": false,
        "requestContext": {"http": {"method": "GET"}},
    })
}

fn websocket_event(route: &str) -> Value {
    json!({
        "requestContext": {"routeKey": route, "connectionId": "L0SM9cOFvHcCIhw=", "connectedAt": 1, "requestTimeEpoch": 1},
        "queryStringParameters": {"site": "tst"},
        "body": "{}",
    })
}

/// Checks a 503, which must not reveal its cause.
fn is_unavailable(answer: &Value) {
    assert_eq!(answer["statusCode"], 503, "{answer}");
    // A WebSocket route's response has the other form.
    let once = &answer["headers"]["retry-after"] == "1";
    let listed = answer["multiValueHeaders"]["retry-after"] == json!(["1"]);
    assert!(once || listed, "{answer}");
    let body: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
    let message = body["message"].as_str().unwrap();
    assert!(message.contains("again"), "{message}");
    for secret in ["127.0.0.1", "photonranch", "PutItem", "Query", "dispatch"] {
        assert!(!message.contains(secret), "{message}");
    }
}

#[tokio::test]
async fn newlog_tries_for_three_seconds_and_answers_503() {
    let away = away().await;
    let messages = Messages::new(&away, MESSAGES_TABLE.to_owned());
    let management_api = ManagementApi::new(&away);
    let event = http_event("", Some(r#"{"site":"tst","log_message":"x"}"#));
    let started = Instant::now();
    let everybody = Publishers::default();
    let handler = |request| newlog::handle(&messages, &management_api, &everybody, request);
    let response = invoke(handler, &event).await;
    let took = started.elapsed().as_secs_f32();
    is_unavailable(&response);
    // Its callers give up after 5 s.
    assert!((2.5..4.5).contains(&took), "{took}");
}

#[tokio::test]
async fn an_array_has_three_seconds_in_all_and_its_retry_stores_the_rest_in_order() {
    let server = server().await;
    let config = slow(&server, Duration::from_millis(50));
    let messages = Messages::new(&config, MESSAGES_TABLE.to_owned());
    let management_api = ManagementApi::new(&config);
    let deployment = Deployment::of(server);
    let mut viewer = deployment.connect("tst").await;
    let message =
        |index: usize| json!({"site": "tst", "log_message": index.to_string(), "timestamp": 1});
    let body = Value::from_iter((0..100).map(message)).to_string();

    let started = Instant::now();
    let everybody = Publishers::default();
    let handler = |request| newlog::handle(&messages, &management_api, &everybody, request);
    let answer = invoke(handler, &http_event("", Some(&body))).await;
    let took = started.elapsed().as_secs_f32();
    is_unavailable(&answer);
    assert!((2.5..4.5).contains(&took), "{took}");
    let stored = deployment.recent("tst").await.len();
    assert!((5..61).contains(&stored), "{stored}");

    assert_eq!(deployment.post(body).await.status, 200);
    let frames = deployment.frames_until_now("tst", &mut viewer).await;
    let expected: Vec<_> = (0..100).map(|index| index.to_string()).collect();
    assert_eq!(texts(&frames), expected);
}

#[tokio::test]
async fn the_reading_functions_answer_503() {
    let away = away().await;
    let messages = Messages::new(&away, MESSAGES_TABLE.to_owned());
    let connections = Connections::new(&away, CONNECTIONS_TABLE.to_owned());
    let event = http_event("site=tst", None);
    let handler = |request| recent_logs::handle(&messages, request);
    is_unavailable(&invoke(handler, &event).await);
    let handler = |request| online_users::handle(&connections, request);
    is_unavailable(&invoke(handler, &event).await);
}

#[tokio::test]
async fn connect_refuses_the_handshake_with_503() {
    let connections = Connections::new(&away().await, CONNECTIONS_TABLE.to_owned());
    let event = websocket_event("$connect");
    let handler = |request| connect::handle(&connections, request);
    is_unavailable(&invoke(handler, &event).await);
}
