//! What the tests share: a deployment, its clients, and waiting for things.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_config::SdkConfig;
use futures_util::{SinkExt, StreamExt};
use lambda_http::{Body, Request, Response};
use local::{Options, Server};
use logstream_core::{config, lambda};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

#[path = "asyncapi.rs"]
pub mod asyncapi;

use asyncapi::Description;

/// The longest wait for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A deployment under test.
pub struct Deployment {
    http: String,
    pub websocket: String,
    client: reqwest::Client,
    /// The server, if the test started one.
    _server: Option<Server>,
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Deployment {
    /// The deployment that the environment names, else a server of its own.
    pub async fn start() -> Self {
        let named = |name| std::env::var(name).ok().filter(|url| !url.is_empty());
        match (named("LOGSTREAM_HTTP_URL"), named("LOGSTREAM_WS_URL")) {
            (Some(http), Some(websocket)) => Self::at(http, websocket, None),
            (None, None) => Self::of(server().await),
            _ => panic!("LOGSTREAM_HTTP_URL and LOGSTREAM_WS_URL go together"),
        }
    }

    /// The APIs of a server, which ends with this value.
    pub fn of(server: Server) -> Self {
        let http = server.url();
        let websocket = http.replace("http://", "ws://");
        Self::at(http, websocket, Some(server))
    }

    /// APIs that are served elsewhere.
    pub fn at(http: String, websocket: String, server: Option<Server>) -> Self {
        // reqwest brings none. A second call changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            http: http.trim_end_matches('/').to_owned(),
            websocket: websocket.trim_end_matches('/').to_owned(),
            client: reqwest::Client::builder()
                .timeout(PATIENCE)
                .build()
                .unwrap(),
            _server: server,
        }
    }

    /// Posts a message as a script does: with no Content-Type.
    pub async fn post(&self, body: impl Into<String>) -> Answer {
        self.send(self.client.post(self.url("/newlog")).body(body.into()))
            .await
    }

    /// Posts a message that must be accepted.
    pub async fn log(&self, site: &str, text: &str, timestamp: Value) {
        let body =
            json!({"site": site, "log_message": text, "log_level": "INFO", "timestamp": timestamp});
        let answer = self.post(body.to_string()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Posts a message with a timestamp, and again while the answer is 503, as
    /// when too many messages of one second hold each other up. It is stored
    /// once.
    pub async fn log_until_taken(&self, site: &str, text: &str, timestamp: Value) {
        let body = json!({"site": site, "log_message": text, "timestamp": timestamp}).to_string();
        for _ in 0..10 {
            let answer = self.post(body.clone()).await;
            if answer.status != 503 {
                assert_eq!(answer.status, 200, "{answer:?}");
                return;
            }
        }
        panic!("{text} was never taken");
    }

    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> Answer {
        self.send(self.client.get(self.url(path)).query(query))
            .await
    }

    /// A request that the test builds itself.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method.parse().unwrap(), self.url(path))
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.text().await.unwrap(),
        }
    }

    /// All of a site's messages, newest first.
    pub async fn recent(&self, site: &str) -> Vec<Value> {
        let answer = self.get("/recent-logs", &[("site", site)]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json().as_array().unwrap().clone()
    }

    /// The texts of all of a site's messages, newest first.
    pub async fn recent_texts(&self, site: &str) -> Vec<String> {
        texts(&self.recent(site).await)
    }

    /// A client that watches a site, and gets what is broadcast from now on.
    pub async fn connect(&self, site: &str) -> Client {
        let query = [("site", site)];
        self.try_connect(&query).await.unwrap()
    }

    pub async fn try_connect(&self, query: &[(&str, &str)]) -> Result<Client, Error> {
        let url = reqwest::Url::parse_with_params(&self.websocket, query).unwrap();
        self.connect_to(url.as_str()).await
    }

    pub async fn connect_to(&self, url: &str) -> Result<Client, Error> {
        let connected = timeout(PATIENCE, connect_async(url))
            .await
            .expect("a handshake in time");
        Ok(Client {
            socket: connected?.0,
        })
    }

    /// The ids of the connections to a site.
    pub async fn online(&self, site: &str) -> Vec<String> {
        let answer = self.get("/onlineusers", &[("site", site)]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let users = answer.json();
        let users = users.as_array().unwrap().iter();
        users
            .map(|user| user["ConnectionID"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits until a message sent now reaches the client, and returns the
    /// frames that came before it. Frames that have not come by then never
    /// will.
    pub async fn frames_until_now(&self, site: &str, client: &mut Client) -> Vec<Value> {
        let marker = unique("marker");
        self.log(site, &marker, Value::Null).await;
        let mut frames = Vec::new();
        loop {
            let frame = client.next().await;
            if frame["message"] == marker.as_str() {
                return frames;
            }
            frames.push(frame);
        }
    }

    /// Checks that no message came before one that is sent now.
    pub async fn no_frame_until_now(&self, site: &str, client: &mut Client) {
        let frames = self.frames_until_now(site, client).await;
        assert!(frames.is_empty(), "{frames:?}");
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.http)
    }
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Checks an error's shape and returns its text.
    pub fn error(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            Some("application/json"),
            "{self:?}"
        );
        let body = self.json();
        assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
        body["message"].as_str().unwrap().to_owned()
    }
}

/// A WebSocket client.
pub struct Client {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Client {
    /// The next frame.
    pub async fn next(&mut self) -> Value {
        let frame = timeout(PATIENCE, self.try_next())
            .await
            .expect("a frame in time");
        let text = frame.unwrap_or_else(|close| panic!("closed: {close:?}"));
        serde_json::from_str(&text).unwrap()
    }

    /// The next frame's text, or how the connection was closed. A frame that
    /// docs/asyncapi.yaml does not describe fails the test.
    pub async fn try_next(&mut self) -> Result<String, Option<CloseFrame>> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    Description::get().check_received(text.as_str());
                    return Ok(text.as_str().to_owned());
                }
                Some(Ok(Message::Close(frame))) => return Err(frame),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    /// The code with which the server closes the connection.
    pub async fn closed(&mut self) -> Option<u16> {
        let wait = async {
            loop {
                if let Err(frame) = self.try_next().await {
                    return frame.map(|frame| frame.code.into());
                }
            }
        };
        timeout(PATIENCE, wait).await.expect("a close in time")
    }

    pub async fn send(&mut self, text: impl Into<String>) {
        self.socket.send(Message::text(text.into())).await.unwrap();
    }
}

/// A server of the test's own, in memory. It does not ping: a test's client
/// reads only when it expects something, and would not answer.
pub async fn server() -> Server {
    server_with(Options {
        ping: Duration::MAX,
        ..Options::default()
    })
    .await
}

/// The same with options; it always picks a free port.
pub async fn server_with(options: Options) -> Server {
    Server::start(Options { port: 0, ..options }).await.unwrap()
}

/// The settings of a server's functions, with calls that go over the network to
/// another endpoint.
pub fn elsewhere(server: &Server, endpoint: &str) -> SdkConfig {
    let mut settings = server.database().into_builder();
    settings.set_http_client(Some(config::http_client()));
    settings.endpoint_url(endpoint).build()
}

/// Calls a function's handler with an event, as Lambda would, and returns its
/// response.
pub async fn invoke<H, F>(handler: H, event: &Value) -> Value
where
    H: Fn(Request) -> F,
    F: Future<Output = Response<Body>> + Send,
{
    let response = lambda::call(handler, &event.to_string()).await.unwrap();
    serde_json::from_str(&response).unwrap()
}

/// A name that no other test, and no earlier run, has used.
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let started = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_micros();
    format!(
        "{name}-{started:x}-{}",
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// The current Unix second.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

pub fn texts(messages: &[Value]) -> Vec<String> {
    messages
        .iter()
        .map(|message| message["message"].as_str().unwrap().to_owned())
        .collect()
}

/// Asks until the condition holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = tokio::time::interval(Duration::from_millis(10));
    while !is_so().await {
        assert!(Instant::now() < deadline, "never came: {what}");
        pause.tick().await;
    }
}
