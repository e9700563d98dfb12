//! `$default`: a frame whose action is unknown or missing, or that is not
//! JSON.

use aws_lambda_events::apigw::{ApiGatewayProxyResponse, ApiGatewayWebsocketProxyRequest};
use logstream_core::Gateway;
use logstream_core::http::{body, websocket};
use logstream_core::message::error_frame;

/// Tells the sender, and nobody else, that its action is not recognised.
pub async fn handle(
    gateway: &Gateway,
    event: ApiGatewayWebsocketProxyRequest,
) -> ApiGatewayProxyResponse {
    if let Some(connection_id) = event.request_context.connection_id {
        let sent = body(event.body.as_deref(), event.is_base64_encoded).unwrap_or_default();
        let frame = error_frame(&sent, "Unrecognized WebSocket action.");
        gateway.answer(&connection_id, frame).await;
    }
    websocket(200, None)
}
