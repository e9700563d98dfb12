//! The HTTP API: API Gateway's side of `POST /newlog`, `GET /recent-logs` and
//! `GET /onlineusers`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::App;
use crate::api_gateway::{
    internal_error, joined, joined_headers, message, millis, request_id, request_time, response,
};
use crate::functions::{Function, FunctionError, invoke};
use crate::public_port::{REQUEST_TIMEOUT, SILENCE};

/// The routes of the HTTP API.
pub const ROUTES: [(Method, &str, Function); 3] = [
    (Method::POST, "/newlog", Function::Newlog),
    (Method::GET, "/recent-logs", Function::RecentLogs),
    (Method::GET, "/onlineusers", Function::OnlineUsers),
];

/// The largest body, in bytes ("Quotas for HTTP APIs": payload size, 10 MB).
const MAX_BODY: usize = 10 * 1024 * 1024;

/// The size from which bodies are read one at a time, so that their memory is
/// bounded however many come. Messages are smaller.
const LARGE_BODY: usize = 256 * 1024;

/// How much of an oversized body is read and dropped, so that its sender gets
/// to see the 413.
const MAX_DISCARDED: usize = 10 * MAX_BODY;

/// Whether a path is that of a route: with any prefix, as the mapping of a
/// custom domain takes it off, and with a slash at the end.
fn is_at(path: &str, route: &str) -> bool {
    path.trim_end_matches('/').ends_with(route)
}

/// Whether a path is that of any route.
pub fn is_route(path: &str) -> bool {
    ROUTES.iter().any(|(_, route, _)| is_at(path, route))
}

/// Answers a request with the response of its route's function.
pub async fn answer(app: Arc<App>, peer: SocketAddr, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let found = ROUTES
        .iter()
        .find(|(method, route, _)| parts.method == *method && is_at(parts.uri.path(), route));
    let Some((_, _, function)) = found else {
        return message(StatusCode::NOT_FOUND, "Not Found");
    };
    let received = app.bodies.read(body, &app.stop);
    let body = match timeout(REQUEST_TIMEOUT, received).await {
        Ok(Ok(body)) => body,
        Ok(Err(refusal)) => return refusal,
        Err(_) => return message(StatusCode::REQUEST_TIMEOUT, "Request Timeout"),
    };
    match call(&app, *function, &parts, peer, &body.bytes).await {
        Ok(answer) => response(answer),
        Err(_) => internal_error(),
    }
}

/// The requests' bodies on their way in.
pub struct Bodies {
    /// The permit of large ones: one at a time, which takes about ten times its
    /// size while it is decoded and parsed.
    large: Semaphore,
}

impl Default for Bodies {
    fn default() -> Self {
        Self {
            large: Semaphore::new(1),
        }
    }
}

/// A body, with its permit if it is large.
struct Received<'a> {
    bytes: Vec<u8>,
    _large: Option<SemaphorePermit<'a>>,
}

impl Bodies {
    async fn read(&self, body: Body, stop: &CancellationToken) -> Result<Received<'_>, Response> {
        let mut bytes = Vec::new();
        let mut discarded = 0;
        let mut large = None;
        let mut chunks = body.into_data_stream();
        let is_stopped = async {
            stop.cancelled().await;
            sleep(SILENCE).await;
        };
        tokio::pin!(is_stopped);
        loop {
            let chunk = tokio::select! {
                chunk = chunks.next() => chunk,
                () = &mut is_stopped => {
                    return Err(message(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable"));
                }
            };
            let Some(chunk) = chunk else { break };
            let chunk = chunk.map_err(|_| message(StatusCode::BAD_REQUEST, "Bad Request"))?;
            if discarded > 0 || bytes.len() + chunk.len() > MAX_BODY {
                bytes = Vec::new();
                discarded += chunk.len();
                if discarded > MAX_DISCARDED {
                    break;
                }
                continue;
            }
            if large.is_none() && bytes.len() + chunk.len() > LARGE_BODY {
                large = self.large.acquire().await.ok();
            }
            bytes.extend_from_slice(&chunk);
        }
        if discarded > 0 {
            return Err(message(
                StatusCode::PAYLOAD_TOO_LARGE,
                "Request Entity Too Large",
            ));
        }
        Ok(Received {
            bytes,
            _large: large,
        })
    }
}

/// An event of payload format 2.0.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    version: &'static str,
    route_key: &'a str,
    raw_path: &'a str,
    raw_query_string: &'a str,
    headers: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    query_string_parameters: BTreeMap<String, String>,
    request_context: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Cow<'a, str>>,
    is_base64_encoded: bool,
}

/// Calls the route's function with the event of a request.
async fn call(
    app: &Arc<App>,
    function: Function,
    parts: &Parts,
    peer: SocketAddr,
    body: &[u8],
) -> Result<Value, FunctionError> {
    let headers = joined_headers(&parts.headers);
    let path = parts.uri.path();
    let query = parts.uri.query().unwrap_or_default();
    let route_key = format!("{} {path}", parts.method);
    let text = std::str::from_utf8(body)
        .ok()
        .filter(|_| body.is_empty() || is_text(&parts.headers));
    let event = Event {
        version: "2.0",
        route_key: &route_key,
        raw_path: path,
        raw_query_string: query,
        query_string_parameters: joined(form_urlencoded::parse(query.as_bytes()).into_owned()),
        request_context: json!({
            "accountId": "000000000000",
            "apiId": "local",
            "domainName": headers.get("host"),
            "domainPrefix": "local",
            "http": {
                "method": parts.method.as_str(),
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": peer.ip(),
                "userAgent": headers.get("user-agent").map_or("", String::as_str),
            },
            "requestId": request_id(),
            "routeKey": route_key,
            "stage": "$default",
            "time": request_time(),
            "timeEpoch": millis(SystemTime::now()),
        }),
        headers: &headers,
        is_base64_encoded: text.is_none(),
        body: match text {
            Some("") => None,
            Some(text) => Some(Cow::Borrowed(text)),
            None => Some(Cow::Owned(STANDARD.encode(body))),
        },
    };
    invoke(app, function, &event).await
}

/// Whether the gateway passes on a body of this Content-Type unencoded.
fn is_text(headers: &HeaderMap) -> bool {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let media_type = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    media_type.starts_with("text/")
        || [
            "application/json",
            "application/xml",
            "application/javascript",
        ]
        .contains(&media_type.as_str())
}
