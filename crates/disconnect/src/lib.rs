//! `$disconnect`: forgets the connection.

use lambda_http::http::StatusCode;
use lambda_http::{Body, Request, Response};
use logstream_core::Connections;
use logstream_core::api_gateway::{connection_id, with_body};

/// Deletes every row of the connection, and answers 200 even if there is
/// none. When the table cannot be reached the answer is 503, which only the
/// log shows; the rows stay until they expire or the broadcaster finds that
/// the connection is gone.
pub async fn handle(connections: &Connections, request: Request) -> Response<Body> {
    if let Some(id) = connection_id(&request).filter(|id| !id.is_empty())
        && let Err(error) = connections.remove_all(id).await
    {
        return error.into_response();
    }
    with_body(
        StatusCode::OK,
        "text/plain",
        "Disconnect successful.".to_owned(),
    )
}
