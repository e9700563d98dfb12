//! A management API that takes every frame after a delay, and counts them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use tokio::time::sleep;

use crate::Result;
use crate::endpoint::{self, Endpoint};

#[derive(Default)]
struct Gateway {
    delay: Duration,
    posts: AtomicU64,
}

pub async fn serve(options: Endpoint) -> Result<()> {
    let gateway = Arc::new(Gateway {
        delay: Duration::from_millis(options.delay),
        ..Gateway::default()
    });
    let router = Router::new()
        .route(
            "/dev/@connections/{id}",
            post(take).delete(async || StatusCode::NO_CONTENT),
        )
        .route(
            "/posts",
            get(async |State(gateway): State<Arc<Gateway>>| {
                gateway.posts.load(Ordering::Relaxed).to_string()
            }),
        )
        .with_state(gateway);
    endpoint::serve(router, &options).await
}

async fn take(State(gateway): State<Arc<Gateway>>) -> StatusCode {
    gateway.posts.fetch_add(1, Ordering::Relaxed);
    if !gateway.delay.is_zero() {
        sleep(gateway.delay).await;
    }
    StatusCode::OK
}
