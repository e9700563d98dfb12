//! The local server itself.

use local::{MESSAGES_TABLE, Options};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;

use super::tables::Tables;
use crate::support::{Deployment, now, server, server_with};

/// Sends raw bytes and returns the status line of the answer.
async fn raw(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 1024];
    let read = stream.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn the_page_is_served_at_the_root() {
    let deployment = Deployment::of(server().await);
    let answer = deployment.send(deployment.request("GET", "/")).await;
    assert_eq!(answer.status, 200);
    assert!(
        answer
            .header("content-type")
            .unwrap()
            .starts_with("text/html")
    );
    assert!(answer.body.contains("</html>"));
}

#[tokio::test]
async fn a_body_over_10_mb_is_413() {
    let deployment = Deployment::of(server().await);
    let answer = deployment.post("x".repeat(10 * 1024 * 1024 + 1)).await;
    assert_eq!(answer.status, 413);
    assert!(!answer.error().is_empty());
    let answer = deployment.post("x".repeat(10 * 1024 * 1024)).await;
    assert_eq!(answer.status, 400);
}

#[tokio::test]
async fn requests_that_no_client_library_would_send_do_no_harm() {
    let server = server().await;
    let address = server.address();
    for (request, status) in [
        (
            "GET /recent-logs?site=%ff%00%zz HTTP/1.1\r\nHost: x\r\n\r\n",
            "HTTP/1.1 200 OK",
        ),
        (
            "GET /recent-logs?site=a&&=&limit HTTP/1.1\r\nHost: a b\r\nX-\u{e9}: 1\r\n\r\n",
            "HTTP/1.1 400 Bad Request",
        ),
        (
            "GET /recent-logs?site=a HTTP/1.1\r\nHost: a b\r\nCookie: \u{e9}\r\n\r\n",
            "HTTP/1.1 200 OK",
        ),
        (
            "GET /?site=a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            "HTTP/1.1 400 Bad Request",
        ),
        (
            "GET /?site=a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 12\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            "HTTP/1.1 400 Bad Request",
        ),
        ("nonsense\r\n\r\n", "HTTP/1.1 400 Bad Request"),
    ] {
        assert_eq!(raw(address, request).await, status, "{request}");
    }
    let deployment = Deployment::of(server);
    deployment.log("tst", "still here", json!(1)).await;
}

#[tokio::test]
async fn a_websocket_is_opened_on_any_path() {
    let server = server().await;
    let url = format!("ws://{}/prod?site=tst", server.address());
    let (socket, answer) = tokio_tungstenite::connect_async(url).await.unwrap();
    assert_eq!(answer.status(), 101);
    let deployment = Deployment::of(server);
    let mut client = crate::support::Client { socket };
    deployment.no_frame_until_now("tst", &mut client).await;
}

#[tokio::test]
async fn a_folder_keeps_the_messages_and_a_restart_deletes_the_expired() {
    let folder = tempfile::tempdir().unwrap();
    let options = || Options {
        data_dir: Some(folder.path().join("new/data")),
        ..Options::default()
    };
    let first = server_with(options()).await;
    let tables = Tables::of(&first);
    tables.put_message("tst", "1", "expired", now() - 10).await;
    tables.put_message("tst", "2", "kept", now() + 1000).await;
    first.stop().await;

    let second = server_with(options()).await;
    let tables = Tables::of(&second);
    let deployment = Deployment::of(second);
    let mut client = deployment.connect("tst").await;
    assert_eq!(deployment.recent_texts("tst").await, ["kept"]);
    assert_eq!(tables.rows(MESSAGES_TABLE).await.len(), 1);
    let frames: Vec<Value> = deployment.frames_until_now("tst", &mut client).await;
    assert!(
        frames.is_empty(),
        "neither the old message nor the sweep is broadcast: {frames:?}"
    );
}

#[tokio::test]
async fn an_address_in_use_is_reported_in_one_line() {
    let first = server().await;
    let options = Options {
        port: first.address().port(),
        ..Options::default()
    };
    let error = local::Server::start(options)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.starts_with(&format!("cannot listen on {}", first.address())),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1);
}

#[tokio::test]
async fn the_public_port_does_not_serve_the_management_api() {
    let deployment = Deployment::of(server().await);
    let mut client = deployment.connect("tst").await;
    let id = deployment.online("tst").await.remove(0);
    let request = deployment.request("POST", &format!("/@connections/{id}"));
    assert_eq!(deployment.send(request.body("{}")).await.status, 404);
    deployment.no_frame_until_now("tst", &mut client).await;
}

#[tokio::test]
async fn a_client_cannot_call_the_gateways_own_routes() {
    let deployment = Deployment::of(server().await);
    let mut client = deployment.connect("tst").await;
    for action in ["$connect", "$disconnect", "$default"] {
        client.send(json!({"action": action}).to_string()).await;
        let frame = client.next().await;
        assert_eq!(
            frame["message"], "Unrecognized WebSocket action.",
            "{action}"
        );
    }
    assert_eq!(deployment.online("tst").await.len(), 1);
}

#[tokio::test]
async fn invalid_utf8_is_refused_even_as_json() {
    let deployment = Deployment::of(server().await);
    let request = deployment.request("POST", "/newlog");
    let request = request.header("content-type", "application/json");
    let body = b"{\"site\":\"tst\",\"log_message\":\"\xff\"}".to_vec();
    assert_eq!(deployment.send(request.body(body)).await.status, 400);
}

#[tokio::test]
async fn a_handshake_with_two_sites_is_refused_with_400_as_http_does() {
    let deployment = Deployment::of(server().await);
    let query = [("site", "a"), ("site", "b")];
    let Err(Error::Http(refusal)) = deployment.try_connect(&query).await else {
        panic!("not refused");
    };
    assert_eq!(refusal.status(), 400);
    let over_http = deployment.get("/recent-logs", &query).await;
    assert_eq!(over_http.status, 400);
    let body = String::from_utf8(refusal.into_body().unwrap()).unwrap();
    assert_eq!(body, over_http.body);
}
