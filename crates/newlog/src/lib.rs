//! `POST /newlog` and the WebSocket route `newlog`: stores a message. The
//! broadcast follows from the table's stream.

use aws_lambda_events::apigw::{
    ApiGatewayProxyResponse, ApiGatewayV2httpRequest, ApiGatewayV2httpResponse,
    ApiGatewayWebsocketProxyRequest,
};
use logstream_core::http::{body, websocket, with_body};
use logstream_core::message::error_frame;
use logstream_core::{Error, Gateway, Message, Messages, SortKey};
use serde::{Deserialize, Serialize};

/// The event of either API.
#[derive(Deserialize)]
#[serde(untagged)]
#[expect(clippy::large_enum_variant, reason = "one lives at a time")]
pub enum Event {
    /// Of the HTTP API: it has `requestContext.http`.
    Http(ApiGatewayV2httpRequest),
    /// Of the WebSocket API.
    WebSocket(ApiGatewayWebsocketProxyRequest),
}

/// The answer to either.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Response {
    /// 200, `text/plain`; an error is 400, 413 or 503 with `{"message": "…"}`.
    Http(ApiGatewayV2httpResponse),
    /// No body: an error goes to the sender as a frame of its own.
    WebSocket(ApiGatewayProxyResponse),
}

/// Stores the message of an event. Success means that it is durable.
pub async fn handle(messages: &Messages, gateway: &Gateway, event: Event) -> Response {
    match event {
        Event::Http(event) => Response::Http(
            match store(messages, event.body.as_deref(), event.is_base64_encoded).await {
                Ok(()) => with_body(
                    200,
                    "text/plain",
                    "Successfully added new log message.".to_owned(),
                ),
                Err(error) => error.into_http(),
            },
        ),
        Event::WebSocket(event) => {
            Response::WebSocket(from_websocket(messages, gateway, event).await)
        }
    }
}

async fn from_websocket(
    messages: &Messages,
    gateway: &Gateway,
    event: ApiGatewayWebsocketProxyRequest,
) -> ApiGatewayProxyResponse {
    let sent = event.body.as_deref();
    let Err(error) = store(messages, sent, event.is_base64_encoded).await else {
        return websocket(200, None);
    };
    error.log();
    if let Some(connection_id) = event.request_context.connection_id {
        let sent = body(sent, event.is_base64_encoded).unwrap_or_default();
        let frame = error_frame(&sent, &error.to_string());
        gateway.answer(&connection_id, frame).await;
    }
    websocket(error.status(), None)
}

async fn store(messages: &Messages, sent: Option<&str>, is_base64: bool) -> Result<(), Error> {
    let message = Message::from_json(&body(sent, is_base64)?, SortKey::now())?;
    messages.put(&message).await
}
