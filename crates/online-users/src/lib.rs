//! `GET /onlineusers`: who is connected to a site.

use lambda_http::http::StatusCode;
use lambda_http::{Body, Request, Response};
use logstream_core::api_gateway::{Query, json};
use logstream_core::{Connection, Connections, Error};
use serde::Serialize;

#[derive(Serialize)]
struct OnlineUser {
    #[serde(rename = "ConnectionID")]
    connection_id: String,
}

/// Answers with `[{"ConnectionID": "…"}]`, in the order of the ids.
pub async fn handle(connections: &Connections, request: Request) -> Response<Body> {
    match online_users(connections, &Query::of(&request)).await {
        Ok(users) => json(StatusCode::OK, &users),
        Err(error) => error.into_response(),
    }
}

async fn online_users(connections: &Connections, query: &Query) -> Result<Vec<OnlineUser>, Error> {
    let user = |connection: Connection| OnlineUser {
        connection_id: connection.id,
    };
    let connections = connections.of_site(query.site()?).await?;
    Ok(connections.into_iter().map(user).collect())
}
