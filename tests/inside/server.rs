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
async fn the_console_is_served_at_the_root_and_under_any_prefix() {
    let deployment = Deployment::of(server().await);
    for (path, content_type, part) in [
        ("/", "text/html; charset=utf-8", "</html>"),
        ("/logs/", "text/html; charset=utf-8", "</html>"),
        ("/console.css", "text/css; charset=utf-8", "#log"),
        (
            "/console.js",
            "text/javascript; charset=utf-8",
            "./logstream.js",
        ),
        (
            "/logs/logstream.js",
            "text/javascript; charset=utf-8",
            "export function watch",
        ),
    ] {
        let answer = deployment.send(deployment.request("GET", path)).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("content-type"), Some(content_type));
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
        assert!(
            answer
                .header("content-security-policy")
                .unwrap()
                .starts_with("default-src 'none'; script-src 'self'")
        );
        assert!(answer.body.contains(part), "{path}");
    }
    // Neither a route with a slash at the end, nor another method.
    for (method, path) in [("GET", "/newlog/"), ("POST", "/"), ("GET", "/logs")] {
        let answer = deployment.send(deployment.request(method, path)).await;
        assert_eq!(answer.status, 404, "{method} {path}");
    }
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
async fn a_route_has_any_prefix_and_may_end_with_a_slash() {
    let deployment = Deployment::of(server().await);
    for prefix in ["", "/logs", "/dev", "/a/b"] {
        for end in ["", "/"] {
            let post = deployment.request("POST", &format!("{prefix}/newlog{end}"));
            let body = json!({"site": "tst", "log_message": format!("{prefix}{end}")});
            let answer = deployment.send(post.body(body.to_string())).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            for route in ["recent-logs", "onlineusers"] {
                let path = format!("{prefix}/{route}{end}");
                assert_eq!(deployment.get(&path, &[("site", "tst")]).await.status, 200);
            }
        }
    }
    assert_eq!(deployment.recent("tst").await.len(), 8);
    for path in ["/newlogs", "/xnewlog", "/newlog/x", "/logs"] {
        let post = deployment.request("POST", path).body("{}");
        assert_eq!(deployment.send(post).await.status, 404, "{path}");
    }
}

/// Opens a WebSocket, sends these bytes behind the handshake, and returns the
/// last two bytes of what the server sends before it ends the connection.
async fn close_code(address: std::net::SocketAddr, frame: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let handshake = "GET /?site=tst HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // At once, so that the frame comes together with the handshake.
    let bytes = [handshake.as_bytes(), frame].concat();
    stream.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let head = answer
        .windows(4)
        .position(|end| end == b"\r\n\r\n")
        .unwrap()
        + 4;
    // The first byte of a close frame (RFC 6455, section 5.5.1).
    assert_eq!(answer[head], 0x88, "{:?}", &answer[head..]);
    u16::from_be_bytes([answer[head + 2], answer[head + 3]])
}

#[tokio::test]
async fn a_frame_against_the_protocol_is_closed_with_its_code() {
    let address = server().await;
    let address = address.address();
    let mask = [0_u8; 4];
    let masked = |head: &[u8], payload: &[u8]| [head, &mask, payload].concat();
    for (what, frame, code) in [
        ("invalid UTF-8", masked(&[0x81, 0x82], b"\xc3\x28"), 1007),
        ("not masked", vec![0x81, 0x01, b'x'], 1002),
        ("a reserved bit", masked(&[0xC1, 0x81], b"x"), 1002),
        ("an unknown opcode", masked(&[0x83, 0x81], b"x"), 1002),
        (
            "an oversized ping",
            masked(&[0x89, 0xFE, 0, 126], &[b'x'; 126]),
            1002,
        ),
        ("a fragmented ping", masked(&[0x09, 0x81], b"x"), 1002),
        (
            "a continuation of nothing",
            masked(&[0x80, 0x81], b"x"),
            1002,
        ),
    ] {
        assert_eq!(close_code(address, &frame).await, code, "{what}");
    }
}

// Python's and other clients that shut their sending side after the request.
#[tokio::test]
async fn a_half_closed_client_is_answered() {
    let server = server().await;
    let body = r#"{"site":"tst","log_message":"x"}"#;
    for _ in 0..20 {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let request = format!(
            "POST /newlog HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    let deployment = Deployment::of(server);
    assert_eq!(deployment.recent("tst").await.len(), 20);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_half_a_request() {
    let server = server().await;
    let mut halves = Vec::new();
    for half in [
        "",
        "POST /new",
        "POST /newlog HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc",
    ] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(half.as_bytes()).await.unwrap();
        halves.push(stream);
    }
    // All three were accepted before this one, which is answered.
    raw(server.address(), "nonsense\r\n\r\n").await;
    let stopping = std::time::Instant::now();
    server.stop().await;
    assert!(stopping.elapsed().as_secs() < 3, "{:?}", stopping.elapsed());
}

#[tokio::test]
async fn two_servers_cannot_share_a_folder_but_one_can_follow_another() {
    let folder = tempfile::tempdir().unwrap();
    let options = || Options {
        port: 0,
        data_dir: Some(folder.path().to_owned()),
        ..Options::default()
    };
    let first = server_with(options()).await;
    let second = local::Server::start(options()).await.err().unwrap();
    let error = second.to_string();
    assert!(error.ends_with("is in use by another server"), "{error}");
    assert_eq!(error.lines().count(), 1);
    first.stop().await;
    server_with(options()).await;
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
    let websocket = first.url().replace("http", "ws");
    let deployment = Deployment::at(first.url(), websocket, None);
    let mut client = deployment.connect("tst").await;
    tables.put_message("tst", "1", "expired", now() - 10).await;
    tables.put_message("tst", "2", "kept", now() + 1000).await;
    for text in ["expired", "kept"] {
        assert_eq!(client.next().await["message"], text);
    }
    // The second server would send again what this one had sent when it stopped
    // but not noted.
    deployment.log("other", "x", json!(1)).await;
    deployment.log("other", "y", json!(1)).await;
    first.stop().await;

    let second = server_with(options()).await;
    let tables = Tables::of(&second);
    let deployment = Deployment::of(second);
    let mut client = deployment.connect("tst").await;
    assert_eq!(deployment.recent_texts("tst").await, ["kept"]);
    // Without the expired one, which is deleted.
    assert_eq!(tables.rows(MESSAGES_TABLE).await.len(), 3);
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
async fn windows_1252_is_read_even_as_json() {
    let deployment = Deployment::of(server().await);
    let request = deployment.request("POST", "/newlog");
    let request = request.header("content-type", "application/json");
    let body = b"{\"site\":\"tst\",\"log_message\":\"12 \xb0C\"}".to_vec();
    assert_eq!(deployment.send(request.body(body)).await.status, 200);
    assert_eq!(deployment.recent_texts("tst").await, ["12 °C"]);
}

#[tokio::test]
async fn a_handshake_without_a_site_is_refused_with_400_as_http_does() {
    let deployment = Deployment::of(server().await);
    let query = [("user", "bob")];
    let Err(Error::Http(refusal)) = deployment.try_connect(&query).await else {
        panic!("not refused");
    };
    assert_eq!(refusal.status(), 400);
    let over_http = deployment.get("/onlineusers", &query).await;
    assert_eq!(over_http.status, 400);
    let body = String::from_utf8(refusal.into_body().unwrap()).unwrap();
    assert_eq!(body, over_http.body);
}
