//! The tables in a process of their own, and filling them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::get;
use serde_json::{Value, json};
use tokio::time::sleep;
use tower::ServiceExt as _;

use crate::Result;
use crate::endpoint::{self, Endpoint};
use crate::functions::World;

#[derive(Clone)]
struct Tables {
    router: Router,
    delay: Duration,
    /// The last body of each operation, for the floor to send again.
    last: Arc<Mutex<HashMap<String, Bytes>>>,
}

pub async fn serve(options: Endpoint) -> Result<()> {
    let tables = Tables {
        router: local::tables_api().await?,
        delay: Duration::from_millis(options.delay),
        last: Arc::default(),
    };
    let router = Router::new()
        .route("/last/{operation}", get(last))
        .fallback(call)
        .with_state(tables);
    endpoint::serve(router, &options).await
}

async fn call(State(tables): State<Tables>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let target = head
        .headers
        .get("x-amz-target")
        .and_then(|target| target.to_str().ok());
    if let Some(operation) = target.and_then(|target| target.rsplit('.').next()) {
        let mut last = tables.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.insert(operation.to_owned(), body.clone());
    }
    if !tables.delay.is_zero() {
        sleep(tables.delay).await;
    }
    let request = Request::from_parts(head, Body::from(body));
    let Ok(answer) = tables.router.oneshot(request).await;
    answer
}

async fn last(State(tables): State<Tables>, Path(operation): Path<String>) -> Bytes {
    let last = tables.last.lock().unwrap_or_else(PoisonError::into_inner);
    last.get(&operation).cloned().unwrap_or_default()
}

/// Stores connections to a site, in DynamoDB's largest batches.
pub async fn add_connections(world: &World, site: &str, count: usize) -> Result<()> {
    let rows = (0..count).map(|number| {
        json!({
            "site": {"S": site},
            "ConnectionID": {"S": format!("L0SM9c{number:06}FvHcCIhw=")},
            "ConnectionStartedUTC": {"S": "2020-11-04 11:05:58.123456"},
            "ExpiresAt": {"N": "4102444800"},
        })
    });
    add(world, local::CONNECTIONS_TABLE, rows).await
}

/// Stores messages of a site.
pub async fn add_messages(world: &World, site: &str, count: usize) -> Result<()> {
    let rows = (0..count).map(|number| {
        json!({
            "site": {"S": site},
            "timestamp": {"N": format!("1604514063.{number:06}")},
            "message": {"S": format!("Slewing to target {number}, airmass 1.27, 42 s")},
            "log_level": {"S": "info"},
            "TimeToLive": {"N": "4102444800"},
        })
    });
    add(world, local::MESSAGES_TABLE, rows).await
}

async fn add(world: &World, table: &str, rows: impl Iterator<Item = Value>) -> Result<()> {
    let rows: Vec<_> = rows
        .map(|row| json!({"PutRequest": {"Item": row}}))
        .collect();
    for batch in rows.chunks(25) {
        let body = json!({"RequestItems": {table: batch}}).to_string();
        world
            .client
            .call(
                &world.tables,
                Some("DynamoDB_20120810.BatchWriteItem"),
                body.into(),
                None,
            )
            .await?;
    }
    Ok(())
}
