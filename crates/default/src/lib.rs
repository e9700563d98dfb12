//! `$default`: the action `ping`, and a frame whose action is unknown or missing,
//! or that is not JSON.

use lambda_http::http::StatusCode;
use lambda_http::{Body, Request, Response};
use logstream_core::ManagementApi;
use logstream_core::api_gateway::{connection_id, empty};
use logstream_core::message::{error_frame, is_ping};

/// Answers a ping to its sender, which costs no call of a table, or tells the
/// sender, and nobody else, that its action is not recognised.
pub async fn handle(management_api: &ManagementApi, request: Request) -> Response<Body> {
    if let Some(connection_id) = connection_id(&request) {
        let frame = if is_ping(request.body()) {
            r#"{"action":"pong"}"#.to_owned()
        } else {
            error_frame(request.body(), "Unrecognized WebSocket action.")
        };
        management_api.answer(connection_id, frame).await;
    }
    empty(StatusCode::OK)
}
