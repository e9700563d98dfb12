//! The public port: both APIs, the operators' console, and the metrics.
//!
//! The connections are served by hyper itself, without axum's server, because
//! API Gateway's time limits, a client that shuts its sending side, and a
//! bounded number of connections need the connection at hand.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Request, State};
use axum::http::{Method, header};
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;
use tower::ServiceExt as _;
use tower_http::cors::{Any, CorsLayer};

use crate::App;
use crate::{console, http_api, metrics, websocket_api};

/// How long a request's headers may take, and its body ("Quotas for HTTP
/// APIs": 30 s for a whole request).
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The most bytes of a request that wait unread in a connection's buffer, and
/// so the most of its headers (10,240 on API Gateway).
const MAX_BUFFER: usize = 64 * 1024;

/// How long a connection may wait for its next request.
const IDLE: Duration = Duration::from_secs(10 * 60);

/// How long a stop waits for a connection on which no function runs.
pub const SILENCE: Duration = Duration::from_millis(300);

/// How long the end of a connection waits for the other side.
const CLOSING: Duration = Duration::from_secs(1);

/// The same for one that is refused: others wait for its place.
const REFUSING: Duration = Duration::from_millis(200);

/// The descriptors that are not connections: files, pipes and the listener,
/// and the connections that are being refused.
const RESERVED: usize = 64;
const REFUSALS: usize = 16;

/// How many connections the limit on open files allows.
pub fn most_connections() -> usize {
    #[cfg(unix)]
    let open_files = rlimit::getrlimit(rlimit::Resource::NOFILE).ok();
    // On Windows sockets are not files.
    #[cfg(not(unix))]
    let open_files: Option<(u64, u64)> = None;
    // Without a limit to read, accepting fails when there are too many.
    let open_files = open_files.map_or(usize::MAX, |(soft, _)| {
        usize::try_from(soft).unwrap_or(usize::MAX)
    });
    open_files
        .saturating_sub(RESERVED)
        .clamp(1, Semaphore::MAX_PERMITS)
}

/// Serves until the server stops.
pub async fn serve(app: Arc<App>, listener: TcpListener) -> Result<(), String> {
    // The API's CORS configuration on AWS, where the gateway answers
    // preflights.
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::POST, Method::OPTIONS])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE])
        .expose_headers([header::LINK, header::RETRY_AFTER]);
    let router = Router::new()
        .fallback(answer)
        .layer(cors)
        .with_state(app.clone());
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    loop {
        let accepted = app.stop.run_until_cancelled(listener.accept()).await;
        let (stream, peer) = match accepted {
            None => return Ok(()),
            Some(Ok(accepted)) => accepted,
            // The client hung up while it waited.
            Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Some(Err(error)) => return Err(format!("cannot accept: {error}")),
        };
        match app.connections.clone().try_acquire_owned() {
            Ok(place) => {
                let (app, router) = (app.clone(), router.clone());
                app.tasks.clone().spawn(async move {
                    converse(&app, &router, stream, &Peer::new(peer, place)).await;
                });
            }
            Err(_) => {
                let Ok(place) = refusals.clone().acquire_owned().await else {
                    continue;
                };
                tokio::spawn(async move {
                    refuse(stream).await;
                    drop(place);
                });
            }
        }
    }
}

/// A connection, for the requests that come over it.
#[derive(Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// Its permit, until the last that serves it has ended.
    _place: Arc<OwnedSemaphorePermit>,
    /// Whether a request is being answered.
    is_busy: Arc<AtomicBool>,
    /// Who gets the connection when the answer turns it into a WebSocket.
    upgrade: Arc<Mutex<Option<oneshot::Sender<Rest>>>>,
}

/// What is left of a connection after its last HTTP request.
pub struct Rest {
    pub stream: TcpStream,
    /// What came behind that request.
    pub received: Bytes,
}

impl Peer {
    fn new(address: SocketAddr, place: OwnedSemaphorePermit) -> Self {
        Self {
            address,
            _place: Arc::new(place),
            is_busy: Arc::default(),
            upgrade: Arc::default(),
        }
    }

    /// The connection, once the answer to this request was sent. Fails if it
    /// ends before.
    pub fn upgrade(&self) -> oneshot::Receiver<Rest> {
        let (give, get) = oneshot::channel();
        *self.lock() = Some(give);
        get
    }

    fn lock(&self) -> MutexGuard<'_, Option<oneshot::Sender<Rest>>> {
        self.upgrade.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves a connection until it ends or becomes a WebSocket.
async fn converse(app: &App, router: &Router, mut stream: TcpStream, peer: &Peer) {
    // Best effort.
    let _ = stream.set_nodelay(true);
    loop {
        // hyper's time limit for headers would count this wait too.
        let mut first = [0];
        let waiting = timeout(IDLE, stream.peek(&mut first));
        match app.stop.run_until_cancelled(waiting).await {
            Some(Ok(Ok(1))) => {}
            _ => return,
        }
        let Some((ended, rest)) = answer_requests(app, router, stream, peer).await else {
            return;
        };
        let is_timeout = ended.as_ref().is_err_and(hyper::Error::is_timeout);
        if is_timeout && rest.received.is_empty() {
            stream = rest.stream;
            continue;
        }
        let upgrade = peer.lock().take();
        match upgrade {
            // The connection ends here if nobody waits for it any more.
            Some(upgrade) if ended.is_ok() => drop(upgrade.send(rest)),
            _ => {
                let answer =
                    is_timeout.then(|| plain_response("408 Request Timeout", "Request Timeout"));
                // The client may be gone.
                let _ = timeout(CLOSING, close(rest.stream, answer)).await;
            }
        }
        return;
    }
}

/// Answers requests until the connection ends, becomes a WebSocket, or lets
/// its next request wait; `None` if a stop cut it off.
async fn answer_requests(
    app: &App,
    router: &Router,
    stream: TcpStream,
    peer: &Peer,
) -> Option<(hyper::Result<()>, Rest)> {
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        peer.is_busy.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(peer.clone());
        let answer = router.clone().oneshot(request.map(Body::new));
        Box::pin(async move {
            let answer: Result<Response, Infallible> = answer.await;
            peer.is_busy.store(false, Ordering::Relaxed);
            answer
        })
    });
    let mut connection = http1::Builder::new()
        // A client may shut its sending side after its request.
        .half_close(true)
        .max_buf_size(MAX_BUFFER)
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let ended = poll_fn(|context| connection.poll_without_shutdown(context));
    let ended = match app.stop.run_until_cancelled(ended).await {
        Some(ended) => ended,
        None => {
            Pin::new(&mut connection).graceful_shutdown();
            let mut ended = poll_fn(|context| connection.poll_without_shutdown(context));
            loop {
                match timeout(SILENCE, &mut ended).await {
                    Ok(ended) => break ended,
                    Err(_) if peer.is_busy.load(Ordering::Relaxed) => {}
                    Err(_) => return None,
                }
            }
        }
    };
    let parts = connection.into_parts();
    let rest = Rest {
        stream: parts.io.into_inner(),
        received: parts.read_buf,
    };
    Some((ended, rest))
}

/// Refuses a connection for which there is no descriptor left.
async fn refuse(mut stream: TcpStream) {
    // The request first: closing with unread data would reset the connection,
    // and the client would not see why.
    let mut request = vec![0; 16 * 1024];
    let _ = timeout(CLOSING, stream.read(&mut request)).await;
    let answer = plain_response(
        "503 Service Unavailable",
        "Too many connections. Try again later.",
    );
    let _ = timeout(REFUSING, close(stream, Some(answer))).await;
}

/// A response of the port's own, after which it closes.
fn plain_response(status: &str, text: &str) -> String {
    let body = json!({"message": text}).to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Access-Control-Allow-Origin: *\r\nRetry-After: 1\r\nConnection: close\r\n\r\n{body}"
    )
}

/// Sends the last answer, and reads what is still on its way: closing with
/// unread data would reset the connection.
async fn close(mut stream: TcpStream, answer: Option<String>) {
    if let Some(answer) = answer
        && stream.write_all(answer.as_bytes()).await.is_err()
    {
        return;
    }
    if stream.shutdown().await.is_ok() {
        let mut unread = [0; 8192];
        while matches!(stream.read(&mut unread).await, Ok(read) if read > 0) {}
    }
}

async fn answer(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Response {
    // On any path: a stage or a custom domain adds a prefix.
    if is_upgrade(&request) {
        return websocket_api::connect(app, &peer, request).await;
    }
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    match request.uri().path() {
        "/metrics" if is_read => {
            // "Exposition formats" of Prometheus.
            let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
            (
                content_type,
                metrics::text(&app.progress, app.sockets.len()),
            )
                .into_response()
        }
        path => match console::file(path).filter(|_| is_read) {
            Some(file) => file,
            None => http_api::answer(app, peer.address, request).await,
        },
    }
}

fn is_upgrade(request: &Request) -> bool {
    let upgrade = request.headers().get(header::UPGRADE);
    upgrade.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}
