//! The WebSocket API: API Gateway's side of a connection, from `$connect` to
//! `$disconnect`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::App;
use crate::functions::{Function, invoke};
use crate::http_api::{joined_headers, message, millis, request_id, request_time};
use crate::sockets::{Details, Outbox};

/// The routes of the WebSocket API: `$connect` and `$disconnect`, and for
/// what clients send, by `$request.body.action`, `newlog` or `$default`.
pub const ROUTES: [(&str, Function); 4] = [
    ("$connect", Function::Connect),
    ("$disconnect", Function::Disconnect),
    ("$default", Function::Default),
    ("newlog", Function::Newlog),
];

/// "Quotas for configuring and running a WebSocket API": 128 KB a message,
/// 32 KB a frame; what is larger closes the connection with 1009.
const MAX_MESSAGE: usize = 128 * 1024;
const MAX_FRAME: usize = 32 * 1024;

/// How long the other side is waited for when a connection is closed.
const CLOSING: Duration = Duration::from_secs(1);

pub fn is_upgrade(request: &Request) -> bool {
    let upgrade = request.headers().get(header::UPGRADE);
    upgrade.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// One connection, as its events tell of it.
struct Connection {
    app: Arc<App>,
    id: String,
    peer: SocketAddr,
    headers: HeaderMap,
    query: Vec<(String, String)>,
    connected_at: SystemTime,
}

/// Runs `$connect` and finishes the handshake, or refuses it.
pub async fn connect(app: Arc<App>, peer: SocketAddr, mut request: Request) -> Response {
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY);
    let version = request.headers().get(header::SEC_WEBSOCKET_VERSION);
    let is_version_13 = version.is_some_and(|version| version == "13");
    let (Some(upgrade), Some(key), true) = (upgrade, key, is_version_13) else {
        return message(StatusCode::BAD_REQUEST, "Bad Request");
    };
    let accept = derive_accept_key(key.as_bytes());
    let query = request.uri().query().unwrap_or_default();
    let connection = Connection {
        id: request_id(),
        peer,
        headers: request.headers().clone(),
        query: form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect(),
        connected_at: SystemTime::now(),
        app: app.clone(),
    };
    // In a task of its own: a client that hangs up during `$connect` ends
    // this function, and its `$disconnect` must run all the same.
    let (answer, answered) = oneshot::channel();
    app.tasks
        .spawn(async move { connection.run(upgrade, &accept, answer).await });
    answered
        .await
        .unwrap_or_else(|_| message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"))
}

/// Why a connection ends.
enum End {
    /// The client closed it or is gone.
    Client,
    /// It is closed from this side.
    Close(CloseCode, &'static str),
}

impl Connection {
    async fn run(self, upgrade: OnUpgrade, accept: &str, answer: oneshot::Sender<Response>) {
        if let Err(refusal) = self.run_connect().await {
            // The client may have hung up meanwhile.
            let _ = answer.send(refusal);
            return;
        }
        let switching = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_ACCEPT, accept)
            .body(Body::empty());
        let switching = switching.unwrap_or_else(|_| {
            message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
        });
        let _ = answer.send(switching);
        if let Ok(upgraded) = upgrade.await {
            self.serve(upgraded).await;
        }
        let event = self.event("$disconnect", json!({}));
        // A failure was logged; API Gateway runs it once, best effort.
        let _ = invoke(&self.app, Function::Disconnect, &event).await;
    }

    async fn run_connect(&self) -> Result<(), Response> {
        let event = self.event("$connect", json!({}));
        let answer = invoke(&self.app, Function::Connect, &event)
            .await
            .map_err(|_| message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"))?;
        let status = answer["statusCode"]
            .as_u64()
            .and_then(|status| u16::try_from(status).ok());
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        match status {
            Some(status) if status.is_success() => Ok(()),
            status => {
                let body = answer["body"].as_str().unwrap_or_default().to_owned();
                let mut refusal = Response::new(Body::from(body));
                *refusal.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                Err(refusal)
            }
        }
    }

    /// Serves an open connection until it ends.
    async fn serve(&self, upgraded: Upgraded) {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_FRAME));
        let mut socket =
            WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config))
                .await;
        let user_agent = self.headers.get(header::USER_AGENT);
        let mut outbox = self.app.sockets.open(
            &self.id,
            Details {
                connected_at: self.connected_at,
                source_ip: self.peer.ip().to_string(),
                user_agent: user_agent
                    .map(|agent| String::from_utf8_lossy(agent.as_bytes()).into_owned())
                    .unwrap_or_default(),
            },
        );
        let end = self.exchange(&mut socket, &mut outbox).await;
        // From here on a post to it is answered with 410.
        self.app.sockets.remove(&self.id);
        if let End::Close(code, reason) = end {
            let frame = CloseFrame {
                code,
                reason: reason.into(),
            };
            // The client may be gone, or may not read.
            let _ = timeout(CLOSING, socket.close(Some(frame))).await;
            let _ = timeout(CLOSING, drain(socket.into_inner())).await;
        }
    }

    async fn exchange(
        &self,
        socket: &mut WebSocketStream<TokioIo<Upgraded>>,
        outbox: &mut Outbox,
    ) -> End {
        let options = &self.app.options;
        let too_old = Instant::now() + options.max_connection_age;
        let mut idle = Instant::now() + options.idle_timeout;
        let close = outbox.close.clone();
        loop {
            tokio::select! {
                received = socket.next() => match received {
                    Some(Ok(Message::Text(text))) => self.route(socket, text.as_str(), false).await,
                    Some(Ok(Message::Binary(bytes))) => self.route(socket, &STANDARD.encode(bytes), true).await,
                    // Pings are answered, and a close is, by the library.
                    Some(Ok(_)) => {}
                    Some(Err(Error::Capacity(_))) => return End::Close(CloseCode::Size, "Message too long"),
                    Some(Err(_)) | None => return End::Client,
                },
                Some(frame) = outbox.next() => {
                    let bytes = frame.len();
                    tokio::select! {
                        sent = socket.send(Message::text(frame)) => if sent.is_err() { return End::Client },
                        // Also while a client does not read.
                        () = close.cancelled() => return End::Close(CloseCode::Normal, ""),
                        () = self.app.stop.cancelled() => return End::Close(CloseCode::Away, "Going away"),
                        () = sleep_until(too_old) => return End::Close(CloseCode::Away, "Going away"),
                    }
                    outbox.sent(bytes);
                }
                () = close.cancelled() => return End::Close(CloseCode::Normal, ""),
                () = self.app.stop.cancelled() => return End::Close(CloseCode::Away, "Going away"),
                () = sleep_until(idle) => return End::Close(CloseCode::Away, "Going away"),
                () = sleep_until(too_old) => return End::Close(CloseCode::Away, "Going away"),
            }
            idle = Instant::now() + options.idle_timeout;
        }
    }

    /// Calls the function of a message's route. Its answer is not sent to the
    /// client: no route has a route response.
    async fn route(
        &self,
        socket: &mut WebSocketStream<TokioIo<Upgraded>>,
        body: &str,
        is_base64: bool,
    ) {
        let parsed = serde_json::from_str::<Value>(body).unwrap_or_default();
        let action = parsed["action"].as_str().unwrap_or_default();
        let route = ROUTES
            .into_iter()
            .find(|(route, _)| *route == action && !route.starts_with('$'));
        let (route, function) = route.unwrap_or(("$default", Function::Default));
        let request = json!({"body": body, "isBase64Encoded": is_base64});
        let event = self.event(route, request);
        if invoke(&self.app, function, &event).await.is_err() {
            let failure = json!({
                "message": "Internal server error",
                "connectionId": self.id,
                "requestId": event["requestContext"]["requestId"],
            });
            // A client that is gone is met by the next read.
            let _ = socket.send(Message::text(failure.to_string())).await;
        }
    }

    /// The event of a route. Those of messages have neither headers nor a
    /// query string.
    fn event(&self, route: &str, request: Value) -> Value {
        let event_type = match route {
            "$connect" => "CONNECT",
            "$disconnect" => "DISCONNECT",
            _ => "MESSAGE",
        };
        let headers = joined_headers(&self.headers);
        let mut event = json!({
            "requestContext": {
                "routeKey": route,
                "eventType": event_type,
                "extendedRequestId": request_id(),
                "requestTime": request_time(),
                "messageDirection": "IN",
                "stage": "local",
                "connectedAt": millis(self.connected_at),
                "requestTimeEpoch": millis(SystemTime::now()),
                "identity": {
                    "sourceIp": self.peer.ip(),
                    "userAgent": headers.get("user-agent"),
                },
                "requestId": request_id(),
                "domainName": headers.get("host"),
                "connectionId": self.id,
                "apiId": "local",
            },
            "isBase64Encoded": false,
        });
        if event_type == "MESSAGE" {
            event["requestContext"]["messageId"] = request_id().into();
            event["body"] = request["body"].clone();
            event["isBase64Encoded"] = request["isBase64Encoded"].clone();
        } else {
            let multi_headers: BTreeMap<_, _> = headers
                .iter()
                .map(|(name, value)| (name, [value]))
                .collect();
            event["multiValueHeaders"] = json!(multi_headers);
            event["headers"] = json!(headers);
        }
        if event_type == "CONNECT" && !self.query.is_empty() {
            let mut multi = BTreeMap::<&str, Vec<&str>>::new();
            for (name, value) in &self.query {
                multi.entry(name).or_default().push(value);
            }
            let last: BTreeMap<_, _> = multi
                .iter()
                .map(|(name, values)| (name, values.last()))
                .collect();
            event["queryStringParameters"] = json!(last);
            event["multiValueQueryStringParameters"] = json!(multi);
        }
        event
    }
}

/// Reads what is still on its way. Closing with unread data would reset the
/// connection, and the client would not see why it was closed.
async fn drain(mut stream: TokioIo<Upgraded>) {
    let mut buffer = [0_u8; 8192];
    while matches!(stream.read(&mut buffer).await, Ok(read) if read > 0) {}
}
