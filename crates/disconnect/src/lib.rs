//! `$disconnect`: forgets the connection.

use aws_lambda_events::apigw::{ApiGatewayProxyResponse, ApiGatewayWebsocketProxyRequest};
use aws_lambda_events::encodings::Body;
use logstream_core::Connections;
use logstream_core::http::websocket;

/// Deletes every row of the connection; 200 also for one that is unknown.
/// When the table is away: 503, which nobody sees but the log, and the rows
/// are left for their expiry or for the broadcaster.
pub async fn handle(
    connections: &Connections,
    event: ApiGatewayWebsocketProxyRequest,
) -> ApiGatewayProxyResponse {
    if let Some(id) = event
        .request_context
        .connection_id
        .filter(|id| !id.is_empty())
        && let Err(error) = connections.remove_all(&id).await
    {
        return error.into_handshake();
    }
    websocket(200, Some(Body::Text("Disconnect successful.".to_owned())))
}
