//! API Gateway's management API: `/@connections/{id}`.
//!
//! On AWS its requests are signed. Here it listens on loopback only, on a port
//! of its own.

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
use tokio::net::TcpListener;

use crate::App;
use crate::sockets::Posted;

/// Serves until the server stops.
pub async fn serve(app: Arc<App>, listener: TcpListener) -> Result<(), String> {
    let stop = app.stop.clone();
    let connection = post(post_to_connection)
        .get(get_connection)
        .delete(delete_connection);
    let router = Router::new()
        .route("/@connections/{id}", connection)
        .layer(DefaultBodyLimit::max(1024 * 1024))
        .with_state(app);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .map_err(|error| error.to_string())
}

async fn post_to_connection(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    frame: Bytes,
) -> Response {
    if frame.len() > MAX_FRAME_BYTES {
        return error(StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLargeException");
    }
    let Ok(frame) = String::from_utf8(frame.into()) else {
        return error(StatusCode::BAD_REQUEST, "BadRequestException");
    };
    match app.sockets.post(&id, frame) {
        Posted::Queued => StatusCode::OK.into_response(),
        Posted::Gone => gone(),
        Posted::Full => error(StatusCode::TOO_MANY_REQUESTS, "LimitExceededException"),
    }
}

async fn get_connection(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    let Some(details) = app.sockets.details(&id) else {
        return gone();
    };
    let connected_at = OffsetDateTime::from(details.connected_at).format(&Rfc3339);
    let body = json!({
        "connectedAt": connected_at.unwrap_or_default(),
        "identity": {"sourceIp": details.source_ip, "userAgent": details.user_agent},
    });
    json_body(StatusCode::OK, body)
}

async fn delete_connection(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    if app.sockets.close(&id) {
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
