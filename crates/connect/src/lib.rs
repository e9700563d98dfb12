//! `$connect`: stores the connection for the site that it watches.

use aws_lambda_events::apigw::{ApiGatewayProxyResponse, ApiGatewayWebsocketProxyRequest};
use aws_lambda_events::encodings::Body;
use logstream_core::http::{check_site, websocket};
use logstream_core::{Connections, Error};

/// Answers 200 once the row is stored. Anything else refuses the handshake:
/// 400 without a proper `site`, 503 when the table is away.
pub async fn handle(
    connections: &Connections,
    event: ApiGatewayWebsocketProxyRequest,
) -> ApiGatewayProxyResponse {
    match connect(connections, &event).await {
        Ok(()) => websocket(200, Some(Body::Text("Connect successful.".to_owned()))),
        Err(error) => error.into_handshake(),
    }
}

async fn connect(
    connections: &Connections,
    event: &ApiGatewayWebsocketProxyRequest,
) -> Result<(), Error> {
    let site = check_site(event.query_string_parameters.first("site"))?;
    let connection_id = event.request_context.connection_id.as_deref();
    let connection_id = connection_id
        .filter(|id| !id.is_empty())
        .ok_or_else(|| Error::Invalid("The event has no connectionId; expected one.".to_owned()))?;
    connections.add(site, connection_id).await
}
