//! The tables in a process of their own, and filling them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

const BATCH_WRITE: &str = "DynamoDB_20120810.BatchWriteItem";

#[derive(Clone)]
struct Tables {
    router: Router,
    delay: Duration,
    /// The last body of each operation, for the floor to send again.
    last: Arc<Mutex<HashMap<String, Bytes>>>,
}

pub async fn serve(options: Endpoint) -> Result<()> {
    let tables = Tables {
        router: local::tables_api(None).await?,
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

/// Stores connections to a site.
pub async fn add_connections(world: &World, site: &str, count: usize) -> Result<()> {
    let rows = (0..count).map(|number| {
        json!({
            "site": {"S": site},
            "ConnectionID": {"S": format!("L0{site}{number:06}FvHcCIhw=")},
            "ConnectionStartedUTC": {"S": "2020-11-04 11:05:58.123456"},
            "ExpiresAt": {"N": "4102444800"},
        })
    });
    add(world, local::CONNECTIONS_TABLE, rows).await
}

/// Stores messages of a site.
pub async fn add_messages(world: &World, site: &str, count: usize) -> Result<()> {
    let rows = (0..count).map(|number| row(site, &format!("1604514063.{number:06}"), number));
    add(world, local::MESSAGES_TABLE, rows).await
}

async fn add(world: &World, table: &str, rows: impl Iterator<Item = Value>) -> Result<()> {
    for body in batches(table, rows) {
        let answer = world
            .client
            .call(&world.tables, Some(BATCH_WRITE), body.into(), None);
        answer.await?;
    }
    Ok(())
}

/// Stores messages of the last five days in the folder of a local server that
/// does not run. Through the server it would take an hour.
pub async fn fill(folder: &std::path::Path, sites: usize, count: usize) -> Result<()> {
    let tables = local::tables_api(Some(folder)).await?;
    let days = Duration::from_secs(5 * 24 * 60 * 60);
    let first = (SystemTime::now() - days).duration_since(UNIX_EPOCH)?;
    let step = days.as_secs_f64() / count as f64;
    let rows = (0..count).map(|number| {
        let seconds = first.as_secs_f64() + number as f64 * step;
        let site = format!("site{}", number % sites);
        row(&site, &format!("{seconds:.6}"), number)
    });
    for body in batches(local::MESSAGES_TABLE, rows) {
        let request = Request::post("/").header("x-amz-target", BATCH_WRITE);
        let Ok(answer) = tables
            .clone()
            .oneshot(request.body(Body::from(body))?)
            .await;
        if !answer.status().is_success() {
            return Err(answer.status().to_string().into());
        }
    }
    Ok(())
}

fn row(site: &str, timestamp: &str, number: usize) -> Value {
    json!({
        "site": {"S": site},
        "timestamp": {"N": timestamp},
        "message": {"S": format!("Slewing to target {number}, airmass 1.27, 42 s")},
        "log_level": {"S": "info"},
        "TimeToLive": {"N": "4102444800"},
    })
}

/// The bodies of DynamoDB's largest batches.
fn batches(table: &str, rows: impl Iterator<Item = Value>) -> impl Iterator<Item = String> {
    let mut rows = rows.map(|row| json!({"PutRequest": {"Item": row}}));
    std::iter::from_fn(move || {
        let batch: Vec<_> = rows.by_ref().take(25).collect();
        (!batch.is_empty()).then(|| json!({"RequestItems": {table: batch}}).to_string())
    })
}
