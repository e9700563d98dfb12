//! The HTTP API: API Gateway's side of `POST /newlog`, `GET /recent-logs` and
//! `GET /onlineusers`, and the page that shows them at work.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::net::TcpListener;
use tower_http::cors::{Any, CorsLayer};

use crate::App;
use crate::functions::{Function, FunctionError, invoke};
use crate::websocket_api;

/// The routes of the HTTP API.
pub const ROUTES: [(Method, &str, Function); 3] = [
    (Method::POST, "/newlog", Function::Newlog),
    (Method::GET, "/recent-logs", Function::RecentLogs),
    (Method::GET, "/onlineusers", Function::OnlineUsers),
];

/// The largest body, in bytes ("Quotas for HTTP APIs": payload size, 10 MB).
const MAX_BODY: usize = 10 * 1024 * 1024;

/// What is read of a larger body, so that its sender gets to the answer.
const MAX_DISCARDED: usize = 10 * MAX_BODY;

pub async fn serve(app: Arc<App>, listener: TcpListener) {
    let stop = app.stop.clone();
    // On AWS the API's CORS configuration: the gateway answers preflights.
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::POST, Method::OPTIONS])
        .allow_headers([header::CONTENT_TYPE])
        .expose_headers([header::LINK, header::RETRY_AFTER]);
    let router = Router::new()
        .route("/", get(page_or_socket))
        .fallback(route)
        .layer(cors)
        .with_state(app)
        .into_make_service_with_connect_info::<SocketAddr>();
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the HTTP API ended");
    }
}

async fn page_or_socket(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    if websocket_api::is_upgrade(&request) {
        return websocket_api::connect(app, peer, request).await;
    }
    Html(include_str!("page.html")).into_response()
}

async fn route(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    if websocket_api::is_upgrade(&request) {
        return websocket_api::connect(app, peer, request).await;
    }
    let (parts, body) = request.into_parts();
    let found = ROUTES
        .iter()
        .find(|(method, path, _)| parts.method == *method && parts.uri.path() == *path);
    let Some((_, _, function)) = found else {
        return message(StatusCode::NOT_FOUND, "Not Found");
    };
    let body = match read(body).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    match call(&app, *function, &parts, peer, &body).await {
        Ok(answer) => response(answer),
        Err(_) => message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"),
    }
}

async fn read(body: Body) -> Result<Vec<u8>, Response> {
    let mut bytes = Vec::new();
    let mut discarded = 0;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| message(StatusCode::BAD_REQUEST, "Bad Request"))?;
        if discarded == 0 && bytes.len() + chunk.len() <= MAX_BODY {
            bytes.extend_from_slice(&chunk);
            continue;
        }
        discarded += chunk.len();
        if discarded > MAX_DISCARDED {
            break;
        }
    }
    if discarded > 0 {
        return Err(message(
            StatusCode::PAYLOAD_TOO_LARGE,
            "Request Entity Too Large",
        ));
    }
    Ok(bytes)
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

/// Whether the gateway hands on a body as it is, by its Content-Type.
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

/// The part of a function's answer that an HTTP API reads.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    status_code: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    multi_value_headers: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    body: Option<String>,
}

/// A function's answer as the client gets it; also the refusal of a handshake.
pub fn response(answer: Value) -> Response {
    let Ok(answer) = serde_json::from_value::<Answer>(answer) else {
        return message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error");
    };
    let mut response = Response::new(Body::from(answer.body.unwrap_or_default()));
    *response.status_mut() =
        StatusCode::from_u16(answer.status_code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let lists = answer.multi_value_headers.iter();
    let lists = lists.flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
    for (name, value) in answer.headers.iter().chain(lists) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// An answer of the gateway's own.
pub fn message(status: StatusCode, text: &str) -> Response {
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    (status, content_type, json!({"message": text}).to_string()).into_response()
}

/// Headers by their names in lower case, repeated ones joined with commas.
pub fn joined_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    joined(headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.as_str().to_owned(), value)
    }))
}

fn joined(pairs: impl Iterator<Item = (String, String)>) -> BTreeMap<String, String> {
    let mut joined = BTreeMap::<String, String>::new();
    for (name, value) in pairs {
        joined
            .entry(name)
            .and_modify(|known| {
                known.push(',');
                known.push_str(&value);
            })
            .or_insert(value);
    }
    joined
}

/// An id of AWS's form: eleven bytes in base64, `L0SM9cOFvHcCIhw=`. Its `=`
/// must be encoded in a URL, which clients of AWS have to get right.
pub fn request_id() -> String {
    let mut bytes = [0_u8; 11];
    fastrand::Rng::new().fill(&mut bytes);
    base64::engine::general_purpose::URL_SAFE.encode(bytes)
}

/// The time as in a request context: `04/Nov/2020:18:21:03 +0000`.
pub fn request_time() -> String {
    let format = format_description!(
        version = 2,
        "[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000"
    );
    OffsetDateTime::now_utc()
        .format(&format)
        .unwrap_or_default()
}

pub fn millis(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
