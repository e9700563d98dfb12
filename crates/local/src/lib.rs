//! The whole backend on one machine: the HTTP and WebSocket APIs, the
//! functions, the tables and the stream, in one process.
//!
//! The functions are the ones that run on AWS, with the same SDK clients.
//! This crate stands in for what AWS puts around them: it makes the events,
//! calls the functions with them, and behaves as API Gateway, DynamoDB and
//! the event source mapping do where a client can notice.

mod api_gateway;
mod database;
mod event_source;
mod functions;
mod http_api;
mod management_api;
mod public_port;
mod sockets;
mod supervise;
mod tables;
mod websocket_api;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_config::{Region, SdkConfig};
use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};
use aws_sdk_dynamodb::error::DisplayErrorContext;
use logstream_core::{Connections, ManagementApi, Messages, config, connections, messages};
use serde_json::Value;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use database::Database;
use event_source::EventSource;
use functions::{Functions, invoke};
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
    /// The address of the HTTP and WebSocket APIs. The database and the
    /// management API always listen on loopback.
    pub host: IpAddr,
    /// The port of both APIs; 0 picks a free one.
    pub port: u16,
    /// The folder for the tables; `None` keeps them in memory.
    pub data_dir: Option<PathBuf>,
    /// How long a connection may be idle: 10 min on API Gateway.
    pub idle_timeout: Duration,
    /// How long a connection may live: 2 h on API Gateway.
    pub max_connection_age: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            host: Ipv4Addr::LOCALHOST.into(),
            port: 3000,
            data_dir: None,
            idle_timeout: Duration::from_secs(10 * 60),
            max_connection_age: Duration::from_secs(2 * 60 * 60),
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
    management: SocketAddr,
    database: Database,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What the parts of the server share.
struct App {
    functions: Functions,
    sockets: Sockets,
    options: Options,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    /// Starts every part. Requests are answered once this returns.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let listener = listen(SocketAddr::new(options.host, options.port)).await?;
        let address = local_address(&listener)?;
        let management_listener = listen((Ipv4Addr::LOCALHOST, 0).into()).await?;
        let management = local_address(&management_listener)?;

        let database = Database::open(options.data_dir.as_deref())
            .await
            .map_err(StartError::Database)?;
        let aws = sdk_config(&database.url());
        for (definition, name) in [
            (&messages::TABLE, MESSAGES_TABLE),
            (&connections::TABLE, CONNECTIONS_TABLE),
        ] {
            if !database.has_table(name).map_err(StartError::Database)? {
                let client = aws_sdk_dynamodb::Client::new(&aws);
                tables::create(&client, name, definition)
                    .await
                    .map_err(|error| {
                        StartError::Database(format!("{name}: {}", DisplayErrorContext(error)))
                    })?;
            }
        }

        let app = Arc::new(App {
            functions: Functions {
                messages: Messages::new(&aws, MESSAGES_TABLE.to_owned()),
                connections: Connections::new(&aws, CONNECTIONS_TABLE.to_owned()),
                management_api: ManagementApi::new(&sdk_config(&format!("http://{management}"))),
                memory: broadcaster::Memory::default(),
                places: Arc::new(Semaphore::new(functions::PLACES)),
                stored: Notify::new(),
            },
            sockets: Sockets::default(),
            options,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });

        let stream = database
            .stream(MESSAGES_TABLE)
            .map_err(StartError::Database)?;
        let (tasks, stop) = (&app.tasks, &app.stop);
        let task = {
            let (app, mut source) = (app.clone(), EventSource::new(stream));
            async move || {
                let broadcast = |event: Value| {
                    let app = app.clone();
                    async move { invoke(&app, Function::Broadcaster, &event).await }
                };
                let stored = &app.functions.stored;
                source.run(&app.stop, stored, broadcast).await
            }
        };
        tasks.spawn(supervise("event source", stop.clone(), task));
        let task = {
            let (database, stop) = (database.clone(), app.stop.clone());
            async move || {
                database::sweep(&database, &stop).await;
                Ok(())
            }
        };
        tasks.spawn(supervise("sweep", stop.clone(), task));
        let task = {
            let app = app.clone();
            async move || management_api::serve(app.clone(), again(&management_listener)?).await
        };
        tasks.spawn(supervise("management API", stop.clone(), task));
        let task = {
            let app = app.clone();
            async move || public_port::serve(app.clone(), again(&listener)?).await
        };
        tasks.spawn(supervise("public port", stop.clone(), task));

        Ok(Self {
            address,
            management,
            database,
            stop: app.stop.clone(),
            tasks: app.tasks.clone(),
        })
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

    /// The endpoint of the management API.
    pub fn management_url(&self) -> String {
        format!("http://{}", self.management)
    }

    /// The endpoint of the database.
    pub fn database_url(&self) -> String {
        self.database.url()
    }

    /// The functions' SDK settings for the database.
    pub fn sdk_config(&self) -> SdkConfig {
        sdk_config(&self.database.url())
    }

    /// Closes the sockets with 1001, lets requests end, and stops.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(SHUTDOWN, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("stopped before every request had ended");
        }
        self.database.clone().close().await;
    }
}

impl Drop for Server {
    /// A server dropped without [`Self::stop`] ends without waiting.
    fn drop(&mut self) {
        self.stop.cancel();
        self.database.abandon();
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let listening = tokio::net::TcpListener::bind(address).await;
    listening
        .and_then(tokio::net::TcpListener::into_std)
        .map_err(|error| StartError::Listen { address, error })
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|error| StartError::Listen {
        address: (Ipv4Addr::LOCALHOST, 0).into(),
        error,
    })
}

/// The settings that a function has on AWS, with an endpoint on this machine.
/// The environment is not read: no variable of the user's may send the calls
/// elsewhere.
fn sdk_config(endpoint: &str) -> SdkConfig {
    SdkConfig::builder()
        .behavior_version(config::behavior_version())
        .timeout_config(config::timeouts())
        .region(Region::from_static("local"))
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
            "local", "local", None, None, "local",
        )))
        .endpoint_url(endpoint)
        .build()
}
