//! API Gateway's management API: `/@connections/{id}`.
//!
//! On AWS its requests are signed. Here nobody outside this process can reach
//! it.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use logstream_core::message::MAX_FRAME_BYTES;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::sockets::{Posted, Sockets};

/// The API of these connections.
pub fn api(sockets: Arc<Sockets>) -> Router {
    let connection = post(post_to_connection)
        .get(get_connection)
        .delete(delete_connection);
    Router::new()
        .route("/@connections/{id}", connection)
        .layer(DefaultBodyLimit::max(1024 * 1024))
        .with_state(sockets)
}

async fn post_to_connection(
    State(sockets): State<Arc<Sockets>>,
    Path(id): Path<String>,
    frame: Bytes,
) -> Response {
    if frame.len() > MAX_FRAME_BYTES {
        return error(StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLargeException");
    }
    let Ok(frame) = String::from_utf8(frame.into()) else {
        return error(StatusCode::BAD_REQUEST, "BadRequestException");
    };
    match sockets.post(&id, frame) {
        Posted::Queued => StatusCode::OK.into_response(),
        Posted::Gone => gone(),
        Posted::Full => error(StatusCode::TOO_MANY_REQUESTS, "LimitExceededException"),
    }
}

async fn get_connection(State(sockets): State<Arc<Sockets>>, Path(id): Path<String>) -> Response {
    let Some(details) = sockets.details(&id) else {
        return gone();
    };
    let connected_at = OffsetDateTime::from(details.connected_at).format(&Rfc3339);
    let body = json!({
        "connectedAt": connected_at.unwrap_or_default(),
        "identity": {"sourceIp": details.source_ip, "userAgent": details.user_agent},
    });
    json_body(StatusCode::OK, body)
}

async fn delete_connection(
    State(sockets): State<Arc<Sockets>>,
    Path(id): Path<String>,
) -> Response {
    if sockets.close(&id) {
        StatusCode::NO_CONTENT.into_response()
    } else {
        gone()
    }
}

fn gone() -> Response {
    error(StatusCode::GONE, "GoneException")
}

fn error(status: StatusCode, name: &'static str) -> Response {
    let mut response = json_body(status, json!({"message": name}));
    response
        .headers_mut()
        .insert("x-amzn-errortype", header::HeaderValue::from_static(name));
    response
}

fn json_body(status: StatusCode, body: serde_json::Value) -> Response {
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    (status, content_type, body.to_string()).into_response()
}
