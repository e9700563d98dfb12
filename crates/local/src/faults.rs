//! The promises of `docs/contract.md`, kept in a faulty world.

mod poison;
mod promises;
mod speed;
mod world;

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::subscriber::DefaultGuard;

use crate::functions::{Function, invoke};
use crate::sockets::{Details, Outbox};
use crate::{App, http_api};

/// Sends a request to the HTTP API.
async fn request(app: &Arc<App>, request: Request) -> (StatusCode, HeaderMap, String) {
    let peer = ([127, 0, 0, 1], 1).into();
    let answer = http_api::answer(app.clone(), peer, request).await;
    let (head, body) = answer.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let body = String::from_utf8(body.into()).unwrap();
    (head.status, head.headers, body)
}

/// Posts a message, as a script does.
async fn post(app: &Arc<App>, body: String) -> StatusCode {
    let post = Request::post("/newlog").body(Body::from(body)).unwrap();
    request(app, post).await.0
}

/// Calls `$connect` or `$disconnect`, and says whether it succeeded.
async fn handshake(app: &Arc<App>, function: Function, id: &str, site: &str) -> bool {
    let event = json!({
        "headers": {},
        "multiValueHeaders": {},
        "queryStringParameters": {"site": site},
        "multiValueQueryStringParameters": {"site": [site]},
        "requestContext": {
            "routeKey": match function {
                Function::Connect => "$connect",
                _ => "$disconnect",
            },
            "eventType": match function {
                Function::Connect => "CONNECT",
                _ => "DISCONNECT",
            },
            "connectionId": id,
            "requestId": id,
            "requestTimeEpoch": 0,
            "connectedAt": 0,
            "messageDirection": "IN",
            "stage": "local",
            "identity": {},
            "apiId": "local",
        },
        "isBase64Encoded": false,
    });
    let answer = invoke(app, function, &event).await;
    answer.is_ok_and(|answer| answer.get("statusCode") == Some(&Value::from(200)))
}

/// Connects; `None` if the handshake is refused.
async fn connect(app: &Arc<App>, id: &str, site: &str) -> Option<Outbox> {
    handshake(app, Function::Connect, id, site).await.then(|| {
        let details = Details {
            connected_at: SystemTime::now(),
            source_ip: String::new(),
            user_agent: String::new(),
        };
        app.sockets.open(id, details)
    })
}

/// What a test needs to know about a frame.
#[derive(serde::Deserialize)]
struct Frame {
    site: String,
    message: String,
    id: String,
}

/// A frame that came, and when.
struct Received {
    number: usize,
    id: String,
    at: Instant,
}

impl Received {
    fn read(frame: &str, site: &str) -> Self {
        let frame: Frame = serde_json::from_str(frame).unwrap();
        assert_eq!(frame.site, site, "a frame of another site came");
        Self {
            number: number(&frame.message),
            id: frame.id,
            at: Instant::now(),
        }
    }
}

/// The number with which each text begins.
fn number(text: &str) -> usize {
    let (number, _) = text.split_once(' ').unwrap_or((text, ""));
    number.parse().unwrap()
}

/// Fetches what is stored, page after page; `None` if that fails.
async fn history(app: Arc<App>, site: String) -> Option<Vec<usize>> {
    #[derive(serde::Deserialize)]
    struct Stored {
        message: String,
    }
    let site = form_urlencoded::byte_serialize(site.as_bytes()).collect::<String>();
    let mut query = Some(format!("?site={site}&limit=300"));
    let mut numbers = Vec::new();
    while let Some(page) = query {
        let get = Request::get(format!("/recent-logs{page}"));
        let (status, headers, body) = request(&app, get.body(Body::empty()).unwrap()).await;
        if status != 200 {
            assert_eq!(status, 503);
            return None;
        }
        let page: Vec<Stored> = serde_json::from_str(&body).unwrap();
        numbers.extend(page.iter().map(|stored| number(&stored.message)));
        query = headers.get(header::LINK).map(|link| {
            let link = link.to_str().unwrap();
            let (link, _) = link.trim_start_matches('<').split_once('>').unwrap();
            link.to_owned()
        });
    }
    Some(numbers)
}

/// What the product logged.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    /// Begins to capture what this thread logs.
    fn capture() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The sequence numbers of the records that were given up.
    fn given_up(&self) -> HashSet<String> {
        let text = self.text();
        let lines = text
            .lines()
            .filter(|line| line.contains("records given up"));
        lines
            .flat_map(|line| {
                assert!(line.contains(" ERROR "), "{line}");
                let (_, numbers) = line.split_once("sequence_numbers=[").unwrap();
                let (numbers, _) = numbers.split_once(']').unwrap();
                numbers
                    .split(", ")
                    .map(|number| number.trim_matches('"').to_owned())
            })
            .collect()
    }
}
