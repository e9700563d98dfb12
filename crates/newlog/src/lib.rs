//! `POST /newlog` and the WebSocket route `newlog`: stores a message, or over
//! HTTP up to a hundred in order. The broadcast follows from the table's
//! stream.

use lambda_http::http::StatusCode;
use lambda_http::{Body, Request, Response};
use logstream_core::api_gateway::{connection_id, empty, with_body};
use logstream_core::message::error_frame;
use logstream_core::{Error, ManagementApi, Message, Messages, Publishers, SortKey};

/// Stores the message of a request, or all of its messages. Success means that
/// they are durable; a mistake in one of them, that none is stored.
///
/// HTTP: 200, `text/plain`; an error is 400, 401, 403, 413 or 503 with
/// `{"message": "…"}`. WebSocket: the response has no body, and an error goes
/// to the sender as a frame.
pub async fn handle(
    messages: &Messages,
    management_api: &ManagementApi,
    publishers: &Publishers,
    request: Request,
) -> Response<Body> {
    let stored = store(messages, publishers, &request).await;
    match (stored, connection_id(&request)) {
        (Ok(()), None) => with_body(
            StatusCode::OK,
            "text/plain",
            "Successfully added new log message.".to_owned(),
        ),
        (Ok(()), Some(_)) => empty(StatusCode::OK),
        (Err(error), None) => error.into_response(),
        (Err(error), Some(connection_id)) => {
            error.log();
            let frame = error_frame(request.body(), &error.to_string());
            management_api.answer(connection_id, frame).await;
            empty(error.status())
        }
    }
}

async fn store(
    messages: &Messages,
    publishers: &Publishers,
    request: &Request,
) -> Result<(), Error> {
    let permission = publishers.authenticate(request)?;
    let arrival = SortKey::now();
    if connection_id(request).is_some() {
        let message = Message::from_json(request.body(), arrival)?;
        permission.may_send_to(&message.site)?;
        return messages.put(&message).await;
    }
    let is_allowed = |message: &Message| permission.may_send_to(&message.site);
    let all = Message::all_from_json(request.body(), arrival, is_allowed)?;
    messages.put_all(&all).await
}
