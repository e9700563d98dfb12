//! `$connect`: stores the connection for the sites that it watches.

use lambda_http::http::StatusCode;
use lambda_http::{Body, Request, Response};
use logstream_core::api_gateway::{Query, connection_id, requested_at, with_body};
use logstream_core::{Connections, Error, Subscription};

/// Answers 200 once the rows are stored. Anything else refuses the handshake:
/// 400 without a proper `site`, or with a wrong `level` or `topic`; 503 when the table cannot be reached.
pub async fn handle(connections: &Connections, request: Request) -> Response<Body> {
    match connect(connections, &request).await {
        Ok(()) => with_body(
            StatusCode::OK,
            "text/plain",
            "Connect successful.".to_owned(),
        ),
        Err(error) => error.into_response(),
    }
}

async fn connect(connections: &Connections, request: &Request) -> Result<(), Error> {
    let subscription = Subscription::from_query(&Query::of(request))?;
    let connection_id = connection_id(request)
        .filter(|id| !id.is_empty())
        .ok_or_else(|| Error::Invalid("The event has no connectionId; expected one.".to_owned()))?;
    connections
        .add(connection_id, &subscription, requested_at(request))
        .await
}
