//! The whole backend on one machine: the HTTP and WebSocket APIs, the
//! functions, the tables and the stream, in one process.
//!
//! The functions are the ones that run on AWS, with the same SDK clients.
//! This crate stands in for what AWS puts around them: it makes the events,
//! calls the functions with them, and behaves as API Gateway, DynamoDB and
//! the event source mapping do where a client can notice.

mod api_gateway;
mod console;
mod database;
mod event_source;
#[cfg(test)]
mod faults;
mod functions;
mod http_api;
mod in_process;
mod management_api;
mod metrics;
mod public_port;
mod sockets;
mod supervise;
mod tables;
mod websocket_api;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_config::{Region, SdkConfig};
use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use axum::Router;
use logstream_core::{Connections, ManagementApi, Messages, Publishers, config};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use database::Database;
use event_source::EventSource;
use functions::{Functions, invoke};
use http_api::Bodies;
use metrics::Progress;
use sockets::Sockets;
use supervise::{again, supervise};

pub use event_source::{MAX_AGE, MAX_RETRIES};
pub use functions::Function;
pub use http_api::ROUTES as HTTP_ROUTES;
pub use websocket_api::ROUTES as WEBSOCKET_ROUTES;

/// The messages table's name, as the stage `local` would have it.
pub const MESSAGES_TABLE: &str = "photonranch-logstream-messages-local";
/// The connections table's name, as the stage `local` would have it.
pub const CONNECTIONS_TABLE: &str = "photonranch-logstream-websocket-connections-local";

/// How long a stop waits for requests and sockets to end.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Where and how to serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address of the HTTP and WebSocket APIs. Nothing else listens.
    pub host: IpAddr,
    /// The port of both APIs; 0 picks a free one.
    pub port: u16,
    /// The folder for the tables; `None` keeps them in memory.
    pub data_dir: Option<PathBuf>,
    /// How long a connection may be idle: 10 min on API Gateway.
    pub idle_timeout: Duration,
    /// How long a connection may live: 2 h on API Gateway, and at most that:
    /// its row expires soon after.
    pub max_connection_age: Duration,
    /// Who may send messages: everybody by default.
    pub publishers: Publishers,
    /// How often clients are pinged. One that has not answered by the next
    /// ping is closed.
    pub ping: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            host: Ipv4Addr::LOCALHOST.into(),
            port: 3000,
            data_dir: None,
            idle_timeout: Duration::from_secs(10 * 60),
            max_connection_age: Duration::from_secs(2 * 60 * 60),
            publishers: Publishers::default(),
            // Proxies cut a connection on which nothing moves for 60 s.
            ping: Duration::from_secs(25),
        }
    }
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is in use, or not one of this machine's.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        error: io::Error,
    },
    /// The database could not be opened.
    #[error("cannot open the database: {0}")]
    Database(String),
}

/// A server that is ready.
pub struct Server {
    address: SocketAddr,
    app: Arc<App>,
}

/// What the parts of the server share: everything but the port.
struct App {
    database: Database,
    functions: Functions,
    sockets: Arc<Sockets>,
    progress: Progress,
    /// The permits of connections to the public port.
    connections: Arc<Semaphore>,
    bodies: Bodies,
    options: Options,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl App {
    /// Opens the database, with both tables. `between` gets each HTTP client
    /// of the functions and may wrap it: tests put faults there.
    async fn new(
        options: Options,
        between: impl Fn(SharedHttpClient) -> SharedHttpClient,
    ) -> Result<Arc<Self>, StartError> {
        metrics::start();
        let database = Database::open(options.data_dir.as_deref())
            .await
            .map_err(StartError::Database)?;
        tables::create_missing(&database)
            .await
            .map_err(StartError::Database)?;
        let sockets = Arc::<Sockets>::default();
        let to_database = sdk_config(between(in_process::client(database.api())));
        let to_management = sdk_config(between(in_process::client(management_api::api(
            sockets.clone(),
        ))));
        Ok(Arc::new(Self {
            functions: Functions {
                messages: Messages::new(&to_database, MESSAGES_TABLE.to_owned()),
                connections: Connections::new(&to_database, CONNECTIONS_TABLE.to_owned()),
                management_api: ManagementApi::new(&to_management),
                publishers: options.publishers.clone(),
                memory: broadcaster::Memory::default(),
                places: Arc::new(Semaphore::new(functions::PLACES)),
            },
            database,
            sockets,
            progress: Progress::default(),
            connections: Arc::new(Semaphore::new(public_port::most_connections())),
            bodies: Bodies::default(),
            options,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }))
    }

    /// Starts what the APIs need: the event source, the sweep and the watch
    /// over the clock.
    async fn start(self: &Arc<Self>) -> Result<(), StartError> {
        let stream = self.database.stream(MESSAGES_TABLE).await;
        let stream = stream.map_err(StartError::Database)?;
        let (tasks, stop) = (&self.tasks, &self.stop);
        let task = {
            let (app, mut source) = (self.clone(), EventSource::new(stream));
            async move || {
                let broadcast = |event: Value| {
                    let app = app.clone();
                    async move { invoke(&app, Function::Broadcaster, &event).await }
                };
                let written = &app.database.written;
                source
                    .run(&app.stop, written, &app.sockets, &app.progress, broadcast)
                    .await
            }
        };
        tasks.spawn(supervise("event source", stop.clone(), task));
        let app = self.clone();
        let task = async move || {
            database::sweep(&app.database, &app.stop).await;
            Ok(())
        };
        tasks.spawn(supervise("sweep", stop.clone(), task));
        let app = self.clone();
        let task = async move || {
            let max_age = app.options.max_connection_age;
            app.sockets.close_too_old(max_age, &app.stop).await;
            Ok(())
        };
        tasks.spawn(supervise("clock", stop.clone(), task));
        let app = self.clone();
        let task = async move || {
            metrics::keep_up(&app.stop).await;
            Ok(())
        };
        tasks.spawn(supervise("metrics", stop.clone(), task));
        Ok(())
    }
}

impl Server {
    /// Starts every part. Requests are answered once this returns.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(options: Options) -> Result<Self, StartError> {
        // First, so that a second server on the same port changes nothing.
        let listener = listen(SocketAddr::new(options.host, options.port)).await?;
        let address = listener.local_addr().map_err(|error| StartError::Listen {
            address: SocketAddr::new(options.host, options.port),
            error,
        })?;
        let app = App::new(options, |client| client).await?;
        app.start().await?;
        let task = {
            let app = app.clone();
            async move || public_port::serve(app.clone(), again(&listener)?).await
        };
        app.tasks
            .spawn(supervise("public port", app.stop.clone(), task));
        Ok(Self { address, app })
    }

    /// The address of the HTTP and WebSocket APIs.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of the HTTP API, without a final slash. The WebSocket API's has
    /// `ws` in place of `http`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// SDK settings whose calls reach this server's tables.
    pub fn database(&self) -> SdkConfig {
        sdk_config(in_process::client(self.app.database.api()))
    }

    /// SDK settings whose calls reach this server's management API.
    pub fn management_api(&self) -> SdkConfig {
        let api = management_api::api(self.app.sockets.clone());
        sdk_config(in_process::client(api))
    }

    /// Closes the sockets with 1001, lets requests end, and stops.
    pub async fn stop(self) {
        self.app.stop.cancel();
        self.app.tasks.close();
        if tokio::time::timeout(SHUTDOWN, self.app.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("stopped before every request had ended");
        }
        self.app.database.release();
    }
}

impl Drop for Server {
    /// A server dropped without [`Self::stop`] ends without waiting.
    fn drop(&mut self) {
        self.app.stop.cancel();
    }
}

/// DynamoDB's API over the database of a folder, or a new one in memory, with
/// both tables: for functions that run elsewhere.
///
/// # Errors
/// [`StartError`].
pub async fn tables_api(data_dir: Option<&Path>) -> Result<Router, StartError> {
    let database = Database::open(data_dir).await;
    let database = database.map_err(StartError::Database)?;
    let created = tables::create_missing(&database).await;
    created.map_err(StartError::Database)?;
    Ok(database.api())
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let listening = tokio::net::TcpListener::bind(address).await;
    listening
        .and_then(tokio::net::TcpListener::into_std)
        .map_err(|error| StartError::Listen { address, error })
}

/// The settings that a function has on AWS, with a way to this process. The
/// environment is not read: no variable of the user's may send the calls
/// elsewhere.
fn sdk_config(http_client: SharedHttpClient) -> SdkConfig {
    config::builder()
        .region(Region::from_static("local"))
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
            "local", "local", None, None, "local",
        )))
        .http_client(http_client)
        // Only signed and parsed.
        .endpoint_url("http://local")
        .build()
}
