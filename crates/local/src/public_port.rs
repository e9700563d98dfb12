//! The public port: both APIs, and the page that shows them at work.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{Method, header};
use axum::response::{Html, IntoResponse, Response};
use tokio::net::TcpListener;
use tower_http::cors::{Any, CorsLayer};

use crate::App;
use crate::{http_api, websocket_api};

/// Serves until the server stops.
pub async fn serve(app: Arc<App>, listener: TcpListener) -> Result<(), String> {
    let stop = app.stop.clone();
    // The API's CORS configuration on AWS, where the gateway answers
    // preflights.
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::POST, Method::OPTIONS])
        .allow_headers([header::CONTENT_TYPE])
        .expose_headers([header::LINK, header::RETRY_AFTER]);
    let router = Router::new()
        .fallback(answer)
        .layer(cors)
        .with_state(app)
        .into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .map_err(|error| error.to_string())
}

async fn answer(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    // On any path: a stage or a custom domain adds a prefix.
    if is_upgrade(&request) {
        return websocket_api::connect(app, peer, request).await;
    }
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    if is_read && request.uri().path() == "/" {
        return Html(include_str!("page.html")).into_response();
    }
    http_api::answer(app, peer, request).await
}

fn is_upgrade(request: &Request) -> bool {
    let upgrade = request.headers().get(header::UPGRADE);
    upgrade.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}
