//! The WebSocket routes `subscribe` and `updatesubscribersite`: has an open
//! connection watch other sites.

use lambda_http::http::StatusCode;
use lambda_http::{Body, Request, Response};
use logstream_core::api_gateway::{connection_id, empty, requested_at};
use logstream_core::message::error_frame;
use logstream_core::{Connections, Error, ManagementApi, Subscription};

/// Tells the sender, and nobody else, what it watches now
/// ([`Subscription::to_frame`]), or what was wrong. The frames of the new sites
/// may begin before the answer does; all that is stored after it comes.
pub async fn handle(
    connections: &Connections,
    management_api: &ManagementApi,
    request: Request,
) -> Response<Body> {
    let Some(connection_id) = connection_id(&request) else {
        return empty(StatusCode::OK);
    };
    let (status, frame) = match subscribe(connections, connection_id, &request).await {
        Ok(subscription) => (StatusCode::OK, subscription.to_frame()),
        Err(error) => {
            error.log();
            let frame = error_frame(request.body(), &error.to_string());
            (error.status(), frame)
        }
    };
    management_api.answer(connection_id, frame).await;
    empty(status)
}

async fn subscribe(
    connections: &Connections,
    connection_id: &str,
    request: &Request,
) -> Result<Subscription, Error> {
    let subscription = Subscription::from_json(request.body())?;
    let chosen_at = requested_at(request);
    connections
        .change(connection_id, &subscription, chosen_at)
        .await
}
