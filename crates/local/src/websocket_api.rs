//! The WebSocket API: API Gateway's side of a connection, from `$connect` to
//! `$disconnect`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::App;
use crate::api_gateway::{
    internal_error, joined_headers, message, millis, request_id, request_time, response,
};
use crate::functions::{Function, invoke};
use crate::public_port::{Peer, Rest};
use crate::sockets::{Details, Outbox};

/// The routes of the WebSocket API: `$connect`, `$disconnect` and, for what
/// clients send, the others, by `$request.body.action`.
pub const ROUTES: [(&str, Function); 6] = [
    ("$connect", Function::Connect),
    ("$disconnect", Function::Disconnect),
    ("$default", Function::Default),
    ("newlog", Function::Newlog),
    ("subscribe", Function::Subscribe),
    ("updatesubscribersite", Function::Subscribe),
];

/// "Quotas for configuring and running a WebSocket API": 128 KB a message,
/// 32 KB a frame. A larger one closes the connection with 1009.
const MAX_MESSAGE: usize = 128 * 1024;
const MAX_FRAME: usize = 32 * 1024;

/// How many bytes of frames are written at once, if so many wait.
const TOGETHER: usize = 16 * 1024;

/// How long a close waits for the other side.
const CLOSING: Duration = Duration::from_secs(1);

/// A connection, with what its events report.
struct Connection {
    app: Arc<App>,
    id: String,
    peer: Peer,
    headers: HeaderMap,
    query: Vec<(String, String)>,
    connected_at: SystemTime,
}

/// Runs `$connect` and finishes the handshake, or refuses it.
pub async fn connect(app: Arc<App>, peer: &Peer, request: Request) -> Response {
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY);
    let version = request.headers().get(header::SEC_WEBSOCKET_VERSION);
    let is_version_13 = version.is_some_and(|version| version == "13");
    let (Some(key), true) = (key, is_version_13) else {
        return message(StatusCode::BAD_REQUEST, "Bad Request");
    };
    let accept = derive_accept_key(key.as_bytes());
    let query = request.uri().query().unwrap_or_default();
    let connection = Connection {
        id: request_id(),
        peer: peer.clone(),
        headers: request.headers().clone(),
        query: form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect(),
        connected_at: SystemTime::now(),
        app: app.clone(),
    };
    // In a task of its own: a client that hangs up during `$connect` ends this
    // function, but its `$disconnect` must still run.
    let (answer, answered) = oneshot::channel();
    app.tasks
        .spawn(async move { connection.run(&accept, answer).await });
    answered.await.unwrap_or_else(|_| internal_error())
}

/// Why a connection ends.
enum End {
    /// The client closed it or is gone.
    Client,
    /// This side closes it.
    Close(CloseCode, &'static str),
    /// This side closes it as the gateway does, which tells no client why.
    GoingAway(&'static str),
}

impl End {
    /// What the log says.
    fn cause(&self) -> &'static str {
        match self {
            Self::Client => "the client",
            Self::Close(CloseCode::Normal, _) => "closed through the management API",
            Self::Close(_, cause) | Self::GoingAway(cause) => cause,
        }
    }
}

const IDLE: End = End::GoingAway("idle");
const TOO_OLD: End = End::GoingAway("too old");
const NO_PONG: End = End::GoingAway("no answer to pings");
const STOPPING: End = End::GoingAway("the server stops");

/// The end that an error of the library means (RFC 6455, section 7.4.1).
fn wrong(error: &Error) -> End {
    match error {
        Error::Capacity(_) => End::Close(CloseCode::Size, "Message too long"),
        Error::Utf8(_) => End::Close(CloseCode::Invalid, "Not UTF-8"),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Client,
        Error::Protocol(_) => End::Close(CloseCode::Protocol, "Protocol error"),
        _ => End::Client,
    }
}

/// The instant after this time. A time beyond the clock's range means never.
fn after(time: Duration) -> Instant {
    const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    Instant::now() + time.min(NEVER)
}

impl Connection {
    async fn run(self, accept: &str, answer: oneshot::Sender<Response>) {
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
        let switching = switching.unwrap_or_else(|_| internal_error());
        let upgrade = self.peer.upgrade();
        if answer.send(switching).is_ok()
            && let Ok(rest) = upgrade.await
        {
            self.serve(rest).await;
        }
        let event = self.handshake_event("$disconnect", "DISCONNECT");
        // A failure is logged, not retried: API Gateway too runs `$disconnect`
        // once.
        let _ = invoke(&self.app, Function::Disconnect, &event).await;
    }

    async fn run_connect(&self) -> Result<(), Response> {
        let answer = invoke(&self.app, Function::Connect, &self.connect_event())
            .await
            .map_err(|_| internal_error())?;
        let answer = response(answer);
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(answer)
        }
    }

    /// Serves an open connection until it ends.
    async fn serve(&self, rest: Rest) {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_FRAME));
        let mut socket = WebSocketStream::from_partially_read(
            rest.stream,
            rest.received.into(),
            Role::Server,
            Some(config),
        )
        .await;
        let user_agent = self.headers.get(header::USER_AGENT);
        let mut outbox = self.app.sockets.open(
            &self.id,
            Details {
                connected_at: self.connected_at,
                source_ip: self.peer.address.ip().to_string(),
                user_agent: user_agent
                    .map(|agent| String::from_utf8_lossy(agent.as_bytes()).into_owned())
                    .unwrap_or_default(),
            },
        );
        self.log_opened();
        let end = self.exchange(&mut socket, &mut outbox).await;
        tracing::info!(
            connection_id = self.id,
            cause = end.cause(),
            "connection ended"
        );
        // From here on a post to this connection is answered with 410.
        self.app.sockets.remove(&self.id);
        let close = match end {
            End::Client => None,
            End::Close(code, reason) => Some((code, reason)),
            End::GoingAway(_) => Some((CloseCode::Away, "Going away")),
        };
        if let Some((code, reason)) = close {
            let frame = CloseFrame {
                code,
                reason: reason.into(),
            };
            // The client may be gone, or may not read.
            let _ = timeout(CLOSING, socket.close(Some(frame))).await;
            let _ = timeout(CLOSING, drain(socket.into_inner())).await;
        }
    }

    /// Says who it is, so that a line about its end can be understood.
    fn log_opened(&self) {
        let sites = self.query.iter().filter(|(name, _)| name == "site");
        let sites: Vec<_> = sites.map(|(_, site)| site.as_str()).collect();
        let forwarded = self.headers.get("x-forwarded-for");
        tracing::info!(
            connection_id = self.id,
            ?sites,
            address = %self.peer.address.ip(),
            forwarded_for = forwarded.and_then(|value| value.to_str().ok()),
            "connection opened"
        );
    }

    async fn exchange(&self, socket: &mut WebSocketStream<TcpStream>, outbox: &mut Outbox) -> End {
        let options = &self.app.options;
        let too_old = after(options.max_connection_age);
        let mut idle = after(options.idle_timeout);
        let close = outbox.close.clone();
        let mut ping = after(options.ping);
        // Whether the client sent anything since the last ping.
        let mut is_alive = true;
        loop {
            tokio::select! {
                received = socket.next() => {
                    is_alive = true;
                    match received {
                        Some(Ok(Message::Text(text))) => self.route(socket, text.as_str(), false).await,
                        Some(Ok(Message::Binary(bytes))) => self.route(socket, &STANDARD.encode(bytes), true).await,
                        // Only answers this side's pings, which must not keep a
                        // connection from being idle.
                        Some(Ok(Message::Pong(_))) => continue,
                        // The library answers pings and closes.
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return wrong(&error),
                        None => return End::Client,
                    }
                }
                Some(frame) = outbox.next() => {
                    tokio::select! {
                        sent = self.send(socket, outbox, frame) => if sent.is_err() { return End::Client },
                        // Even while the client does not read.
                        () = close.cancelled() => return self.closed(),
                        () = self.app.stop.cancelled() => return STOPPING,
                        () = sleep_until(too_old) => return TOO_OLD,
                        // It could not answer a ping either.
                        () = sleep_until(after(options.ping.saturating_mul(2))) => return End::Client,
                    }
                }
                () = sleep_until(ping) => {
                    if !is_alive {
                        return NO_PONG;
                    }
                    is_alive = false;
                    // A client that does not read is found by the next frame or
                    // the next ping.
                    let _ = timeout(CLOSING, socket.send(Message::Ping(Default::default()))).await;
                    ping = after(options.ping);
                    continue;
                }
                () = close.cancelled() => return self.closed(),
                () = self.app.stop.cancelled() => return STOPPING,
                () = sleep_until(idle) => return IDLE,
                () = sleep_until(too_old) => return TOO_OLD,
            }
            idle = after(options.idle_timeout);
        }
    }

    /// Sends a frame, and those that have come behind it: together, because
    /// each write to a socket costs as much as many frames.
    async fn send(
        &self,
        socket: &mut WebSocketStream<TcpStream>,
        outbox: &mut Outbox,
        frame: String,
    ) -> Result<(), Error> {
        let mut next = Some(frame);
        let mut bytes = 0;
        while let Some(frame) = next {
            bytes += frame.len();
            socket.feed(Message::text(frame)).await?;
            next = if bytes < TOGETHER {
                outbox.try_next()
            } else {
                None
            };
        }
        socket.flush().await?;
        outbox.sent(bytes);
        Ok(())
    }

    /// The end when the connection was closed from outside.
    fn closed(&self) -> End {
        match self.connected_at.elapsed() {
            Ok(age) if age > self.app.options.max_connection_age => TOO_OLD,
            _ => End::Close(CloseCode::Normal, ""),
        }
    }

    /// Calls the function of a message's route. The response is not sent to the
    /// client: no route has a route response.
    async fn route(
        &self,
        socket: &mut WebSocketStream<TcpStream>,
        body: &str,
        is_base64_encoded: bool,
    ) {
        let parsed = serde_json::from_str::<Value>(body).unwrap_or_default();
        let action = parsed.get("action").and_then(Value::as_str);
        let route = ROUTES
            .into_iter()
            .find(|(route, _)| action == Some(route) && !route.starts_with('$'));
        let (route, function) = route.unwrap_or(("$default", Function::Default));
        let event = Event {
            body: Some(body),
            is_base64_encoded,
            ..self.event(route, "MESSAGE")
        };
        if invoke(&self.app, function, &event).await.is_err() {
            let failure = json!({
                "message": "Internal server error",
                "connectionId": self.id,
                "requestId": event.request_context.get("requestId"),
            });
            // If the client is gone, the next read ends the connection.
            let _ = socket.send(Message::text(failure.to_string())).await;
        }
    }

    /// The fields that every route's event has. A message's event has neither
    /// headers nor a query string.
    fn event(&self, route: &str, event_type: &str) -> Event<'static> {
        let user_agent = self.headers.get(header::USER_AGENT);
        let host = self.headers.get(header::HOST);
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        Event {
            request_context: json!({
                "routeKey": route,
                "eventType": event_type,
                "messageId": (event_type == "MESSAGE").then(request_id),
                "extendedRequestId": request_id(),
                "requestTime": request_time(),
                "messageDirection": "IN",
                "stage": "local",
                "connectedAt": millis(self.connected_at),
                "requestTimeEpoch": millis(SystemTime::now()),
                "identity": {
                    "sourceIp": self.peer.address.ip(),
                    "userAgent": user_agent.map(text),
                },
                "requestId": request_id(),
                "domainName": host.map(text),
                "connectionId": self.id,
                "apiId": "local",
            }),
            headers: None,
            multi_value_headers: None,
            query_string_parameters: None,
            multi_value_query_string_parameters: None,
            body: None,
            is_base64_encoded: false,
        }
    }

    /// The event of `$connect` or `$disconnect`.
    fn handshake_event(&self, route: &str, event_type: &str) -> Event<'static> {
        let headers = joined_headers(&self.headers);
        let multi_value_headers = headers
            .iter()
            .map(|(name, value)| (name.clone(), vec![value.clone()]))
            .collect();
        Event {
            headers: Some(headers),
            multi_value_headers: Some(multi_value_headers),
            ..self.event(route, event_type)
        }
    }

    fn connect_event(&self) -> Event<'static> {
        let mut last = BTreeMap::new();
        let mut all = BTreeMap::<String, Vec<String>>::new();
        for (name, value) in &self.query {
            last.insert(name.clone(), value.clone());
            all.entry(name.clone()).or_default().push(value.clone());
        }
        let is_given = !all.is_empty();
        Event {
            query_string_parameters: is_given.then_some(last),
            multi_value_query_string_parameters: is_given.then_some(all),
            ..self.handshake_event("$connect", "CONNECT")
        }
    }
}

/// An event of the WebSocket API's Lambda proxy integration.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    multi_value_headers: Option<BTreeMap<String, Vec<String>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_string_parameters: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    multi_value_query_string_parameters: Option<BTreeMap<String, Vec<String>>>,
    request_context: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    is_base64_encoded: bool,
}

/// Reads what is still on its way. Closing with unread data would reset the
/// connection, and the client would not see why it was closed.
async fn drain(mut stream: TcpStream) {
    let mut buffer = [0_u8; 8192];
    while matches!(stream.read(&mut buffer).await, Ok(read) if read > 0) {}
}
