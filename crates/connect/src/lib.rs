//! `$connect`: stores the connection for the site that it watches.

use lambda_http::http::StatusCode;
use lambda_http::{Body, Request, Response};
use logstream_core::api_gateway::{Query, connection_id, with_body};
use logstream_core::{Connections, Error};

/// Answers 200 once the row is stored. Anything else refuses the handshake:
/// 400 without a proper `site`, 503 when the table cannot be reached.
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
    let query = Query::of(request);
    let site = query.site()?;
    let connection_id = connection_id(request)
        .filter(|id| !id.is_empty())
        .ok_or_else(|| Error::Invalid("The event has no connectionId; expected one.".to_owned()))?;
    connections.add(site, connection_id).await
}
