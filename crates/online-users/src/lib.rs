//! `GET /onlineusers`: who is connected to a site.

use aws_lambda_events::apigw::{ApiGatewayV2httpRequest, ApiGatewayV2httpResponse};
use logstream_core::http::{Query, json};
use logstream_core::{Connection, Connections, Error};
use serde::Serialize;

#[derive(Serialize)]
struct OnlineUser {
    #[serde(rename = "ConnectionID")]
    connection_id: String,
}

/// Answers `[{"ConnectionID": "…"}]`, in the order of the ids.
pub async fn handle(
    connections: &Connections,
    event: ApiGatewayV2httpRequest,
) -> ApiGatewayV2httpResponse {
    match online_users(connections, event.raw_query_string.as_deref()).await {
        Ok(users) => json(200, &users),
        Err(error) => error.into_http(),
    }
}

async fn online_users(
    connections: &Connections,
    raw_query: Option<&str>,
) -> Result<Vec<OnlineUser>, Error> {
    let query = Query::parse(raw_query);
    let user = |connection: Connection| OnlineUser {
        connection_id: connection.id,
    };
    let connections = connections.of_site(query.site()?).await?;
    Ok(connections.into_iter().map(user).collect())
}
