//! The broadcaster with a management API that fails. The tables and the
//! sockets are real; the management API is an HTTP server of the test's own,
//! because no client can make a real one fail on demand. The rule itself is
//! tested on a paused clock, beside the fan-out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Method, Response};
use axum::routing::any;
use broadcaster::{Memory, StreamEvent};
use lambda_runtime::{Context, LambdaEvent};
use local::{CONNECTIONS_TABLE, Server};
use logstream_core::{Connections, ManagementApi};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::tables::Tables;
use crate::support::{elsewhere, now, server, unique};

/// What the gateway does with the posts to one connection, in their order;
/// the last is repeated.
type Script = Vec<Reply>;

#[derive(Clone, Copy)]
enum Reply {
    /// Answer with this status.
    Status(u16),
    /// Never answer.
    Hang,
}

const OK: Reply = Reply::Status(200);

/// A gateway's memory.
#[derive(Default)]
struct Gate {
    posts: HashMap<String, Script>,
    closes: HashMap<String, Reply>,
    /// Texts that were delivered, by connection.
    delivered: Mutex<HashMap<String, Vec<String>>>,
    /// How often each connection was posted to.
    tries: Mutex<HashMap<String, usize>>,
    closed: Mutex<Vec<String>>,
}

/// A broadcaster between real tables and a gateway of the test's own.
struct Stage {
    server: Server,
    connections: Connections,
    management_api: ManagementApi,
    gate: Arc<Gate>,
    request_id: String,
}

impl Stage {
    async fn new(posts: &[(&str, &[Reply])]) -> Self {
        Self::with_closes(posts, &[]).await
    }

    async fn with_closes(posts: &[(&str, &[Reply])], closes: &[(&str, Reply)]) -> Self {
        let gate = Arc::new(Gate {
            posts: posts
                .iter()
                .map(|(id, script)| ((*id).to_owned(), script.to_vec()))
                .collect(),
            closes: closes
                .iter()
                .map(|(id, reply)| ((*id).to_owned(), *reply))
                .collect(),
            ..Gate::default()
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/@connections/{id}", any(management_api))
            .with_state(gate.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });

        let server = server().await;
        let connections = Connections::new(&server.database(), CONNECTIONS_TABLE.to_owned());
        let management_api = elsewhere(&server, &endpoint);
        Self {
            server,
            connections,
            management_api: ManagementApi::new(&management_api),
            gate,
            request_id: unique("request"),
        }
    }

    /// Stores a connection's row that is `age` seconds old.
    async fn connect(&self, site: &str, id: &str, age: i64) {
        let tables = Tables::of(&self.server);
        tables.put_connection(site, id, age, now() + 7200).await;
    }

    /// Broadcasts with 30 s of time; returns the failed sequence numbers.
    async fn broadcast(&self, records: Value) -> Vec<String> {
        self.broadcast_within(records, Duration::from_secs(30))
            .await
    }

    async fn broadcast_within(&self, records: Value, time: Duration) -> Vec<String> {
        self.broadcast_event(json!({"Records": records}), time)
            .await
    }

    async fn broadcast_event(&self, event: Value, time: Duration) -> Vec<String> {
        let event: StreamEvent = serde_json::from_value(event).unwrap();
        let mut context = Context::default();
        let deadline = SystemTime::now() + time;
        context.deadline = deadline.duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        context.request_id = self.request_id.clone();
        let event = LambdaEvent::new(event, context);
        let memory = Memory::default();
        let (connections, management_api) = (&self.connections, &self.management_api);
        let answer = broadcaster::handle(connections, management_api, &memory, event).await;
        let failures = answer.batch_item_failures.into_iter();
        failures
            .map(|failure| failure.item_identifier.unwrap())
            .collect()
    }

    fn delivered(&self, id: &str) -> Vec<String> {
        self.gate
            .delivered
            .lock()
            .unwrap()
            .get(id)
            .cloned()
            .unwrap_or_default()
    }

    fn tries(&self, id: &str) -> usize {
        self.gate
            .tries
            .lock()
            .unwrap()
            .get(id)
            .copied()
            .unwrap_or_default()
    }

    fn closed(&self) -> Vec<String> {
        self.gate.closed.lock().unwrap().clone()
    }

    async fn online(&self, site: &str) -> Vec<String> {
        let connections = self.connections.of_site(site).await.unwrap();
        connections
            .into_iter()
            .map(|connection| connection.id)
            .collect()
    }
}

async fn management_api(
    State(gate): State<Arc<Gate>>,
    Path(id): Path<String>,
    method: Method,
    body: String,
) -> Response<Body> {
    let reply = if method == Method::DELETE {
        gate.closed.lock().unwrap().push(id.clone());
        gate.closes.get(&id).copied().unwrap_or(Reply::Status(204))
    } else {
        let mut tries = gate.tries.lock().unwrap();
        let count = tries.entry(id.clone()).or_default();
        *count += 1;
        let script = gate.posts.get(&id).map_or(&[OK][..], Vec::as_slice);
        *script.get(*count - 1).or(script.last()).unwrap()
    };
    let status = match reply {
        Reply::Status(status) => status,
        Reply::Hang => std::future::pending().await,
    };
    if method == Method::POST && status == 200 {
        let frame: Value = serde_json::from_str(&body).unwrap();
        let text = frame["message"].as_str().unwrap().to_owned();
        gate.delivered
            .lock()
            .unwrap()
            .entry(id)
            .or_default()
            .push(text);
    }
    // Without a body and an error's name: some gateways send neither.
    Response::builder()
        .status(status)
        .body(Body::empty())
        .unwrap()
}

/// A record as the stream gives it, with the text as its sequence number too.
fn insert(site: &str, text: &str) -> Value {
    json!({
        "eventID": text,
        "eventName": "INSERT",
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "us-east-1",
        "dynamodb": {
            "ApproximateCreationDateTime": 1604514063.0,
            "Keys": {"site": {"S": site}, "timestamp": {"N": "1604514063"}},
            "NewImage": {
                "site": {"S": site},
                "timestamp": {"N": "1604514063"},
                "message": {"S": text},
                "log_level": {"S": "info"},
                "TimeToLive": {"N": "1605118863"},
            },
            "SequenceNumber": text,
            "SizeBytes": 60,
            "StreamViewType": "NEW_IMAGE",
        },
        "eventSourceARN": "arn:aws:dynamodb:us-east-1:123456789012:table/messages/stream/2020-10-21T21:47:47.149",
    })
}

fn changed(mut record: Value, pointer: &str, value: Value) -> Value {
    *record.pointer_mut(pointer).unwrap() = value;
    record
}

#[tokio::test]
async fn a_gone_connection_is_forgotten_and_the_others_still_get_the_message() {
    let stage = Stage::new(&[("gone=", &[Reply::Status(410)])]).await;
    for id in ["a=", "gone=", "z="] {
        stage.connect("tst", id, 60).await;
        stage.connect("other", id, 60).await;
    }
    assert!(
        stage
            .broadcast(json!([insert("tst", "1"), insert("tst", "2")]))
            .await
            .is_empty()
    );
    assert_eq!(stage.delivered("a="), ["1", "2"]);
    assert_eq!(stage.delivered("z="), ["1", "2"]);
    assert_eq!(stage.tries("gone="), 1, "not tried again");
    assert_eq!(stage.online("tst").await, ["a=", "z="]);
    assert_eq!(
        stage.online("other").await,
        ["a=", "gone=", "z="],
        "only that row goes"
    );
    assert!(stage.closed().is_empty());
}

// `$connect` stores the row before the gateway has finished the handshake.
#[tokio::test]
async fn a_connection_whose_handshake_is_not_finished_is_tried_again_and_kept() {
    let gone = Reply::Status(410);
    let stage = Stage::new(&[("soon", &[gone, gone, OK]), ("never", &[gone])]).await;
    stage.connect("tst", "soon", 0).await;
    stage.connect("tst", "never", 0).await;
    assert!(
        stage
            .broadcast(json!([insert("tst", "1"), insert("tst", "2")]))
            .await
            .is_empty()
    );
    assert_eq!(stage.delivered("soon"), ["1", "2"]);
    assert!(stage.tries("never") > 1);
    assert_eq!(stage.online("tst").await, ["never", "soon"]);
    assert!(stage.closed().is_empty());
}

#[tokio::test]
async fn failures_that_pass_are_tried_again_in_order() {
    let stage = Stage::new(&[
        (
            "a",
            &[
                Reply::Status(500),
                OK,
                Reply::Status(429),
                Reply::Status(503),
                OK,
                OK,
            ],
        ),
        ("b", &[OK]),
    ])
    .await;
    stage.connect("tst", "a", 60).await;
    stage.connect("tst", "b", 60).await;
    let records = json!([insert("tst", "1"), insert("tst", "2"), insert("tst", "3")]);
    assert!(stage.broadcast(records).await.is_empty());
    assert_eq!(stage.delivered("a"), ["1", "2", "3"]);
    assert_eq!(stage.delivered("b"), ["1", "2", "3"]);
    assert_eq!(stage.online("tst").await, ["a", "b"]);
}

#[tokio::test]
async fn a_connection_that_cannot_be_served_is_closed_and_then_forgotten() {
    for reply in [Reply::Status(429), Reply::Status(500), Reply::Hang] {
        let stage = Stage::new(&[("bad", &[OK, reply])]).await;
        stage.connect("tst", "bad", 60).await;
        stage.connect("tst", "good", 60).await;
        let started = Instant::now();
        let records = json!([insert("tst", "1"), insert("tst", "2"), insert("tst", "3")]);
        assert!(stage.broadcast(records).await.is_empty());
        // A second by the contract; the rest is for slow machines.
        assert!(
            started.elapsed() < Duration::from_secs(3),
            "{:?}",
            started.elapsed()
        );
        assert_eq!(stage.delivered("good"), ["1", "2", "3"]);
        assert_eq!(stage.delivered("bad"), ["1"], "nothing behind a hole");
        assert_eq!(stage.closed(), ["bad"]);
        assert_eq!(stage.online("tst").await, ["good"]);
    }
}

#[tokio::test]
async fn a_connection_that_is_gone_when_it_is_closed_is_forgotten() {
    let stage = Stage::with_closes(
        &[("bad", &[Reply::Status(429)])],
        &[("bad", Reply::Status(410))],
    )
    .await;
    stage.connect("tst", "bad", 60).await;
    assert!(
        stage
            .broadcast(json!([insert("tst", "1")]))
            .await
            .is_empty()
    );
    assert!(stage.online("tst").await.is_empty());
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_skipped_and_blocks_nothing() {
    let stage = Stage::new(&[]).await;
    stage.connect("tst", "a", 60).await;
    let good = insert("tst", "good");
    let image = "/dynamodb/NewImage";
    let mut no_image = good.clone();
    no_image["dynamodb"]
        .as_object_mut()
        .unwrap()
        .remove("NewImage");
    let records = json!([
        changed(good.clone(), &format!("{image}/message"), json!({"N": "5"})),
        changed(
            good.clone(),
            &format!("{image}/message"),
            json!({"M": {"a": {"L": []}}})
        ),
        changed(
            good.clone(),
            &format!("{image}/timestamp"),
            json!({"S": "x"})
        ),
        changed(
            good.clone(),
            &format!("{image}/timestamp"),
            json!({"N": "-1.5"})
        ),
        changed(
            good.clone(),
            &format!("{image}/message"),
            json!({"S": "x".repeat(140_000)})
        ),
        changed(good.clone(), image, json!({"site": {"S": "tst"}})),
        changed(good.clone(), image, json!("nothing")),
        changed(good.clone(), "/dynamodb", Value::Null),
        changed(good.clone(), "/dynamodb/SequenceNumber", Value::Null),
        no_image,
        "no object",
        Value::Null,
        good,
    ]);
    assert!(stage.broadcast(records).await.is_empty());
    assert_eq!(stage.delivered("a"), ["good"]);
}

#[tokio::test]
async fn only_inserts_are_broadcast() {
    let stage = Stage::new(&[]).await;
    stage.connect("tst", "a", 60).await;
    let record = insert("tst", "1");
    let mut no_name = record.clone();
    no_name.as_object_mut().unwrap().remove("eventName");
    let records = json!([
        changed(record.clone(), "/eventName", json!("MODIFY")),
        changed(record.clone(), "/eventName", json!("REMOVE")),
        no_name,
    ]);
    assert!(stage.broadcast(records).await.is_empty());
    for event in [json!({}), json!({"Records": []})] {
        let time = Duration::from_secs(30);
        assert!(stage.broadcast_event(event, time).await.is_empty());
    }
    assert_eq!(stage.tries("a"), 0);
}

#[tokio::test]
async fn connections_past_their_expiry_are_left_out() {
    let stage = Stage::new(&[]).await;
    stage.connect("tst", "live", 60).await;
    let tables = Tables::of(&stage.server);
    tables.put_connection("tst", "expired", 60, now() - 1).await;
    assert!(
        stage
            .broadcast(json!([insert("tst", "1")]))
            .await
            .is_empty()
    );
    assert_eq!(stage.delivered("live"), ["1"]);
    assert_eq!(stage.tries("expired"), 0);
    assert_eq!(stage.online("tst").await, ["live"]);
}

#[tokio::test]
async fn each_site_gets_its_own_records_in_the_order_of_the_stream() {
    let stage = Stage::new(&[]).await;
    stage.connect("one", "a", 60).await;
    stage.connect("two", "b", 60).await;
    let records = json!([
        insert("one", "1"),
        insert("two", "2"),
        insert("one", "3"),
        insert("none", "4"),
        insert("two", "5")
    ]);
    assert!(stage.broadcast(records).await.is_empty());
    assert_eq!(stage.delivered("a"), ["1", "3"]);
    assert_eq!(stage.delivered("b"), ["2", "5"]);
}

#[tokio::test]
async fn a_site_whose_connections_cannot_be_read_reports_its_first_record() {
    let stage = Stage::new(&[]).await;
    let away = elsewhere(&stage.server, "http://127.0.0.1:1");
    let connections = Connections::new(&away, CONNECTIONS_TABLE.to_owned());
    let stage = Stage {
        connections,
        ..stage
    };
    let records = json!([insert("one", "1"), insert("two", "2"), insert("one", "3")]);
    let mut failed = stage.broadcast(records).await;
    failed.sort();
    assert_eq!(failed, ["1", "2"]);
}

// A lost permission: an alarm counts the one ERROR.
#[tokio::test]
async fn a_batch_is_logged_with_its_request_id_and_site_and_without_its_texts() {
    let forbidden: &[Reply] = &[Reply::Status(403)];
    // So many that an answer which a busy machine delays is not taken for the
    // silence of one client.
    let ids = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let stage = Stage::new(&ids.map(|id| (id, forbidden))).await;
    let site = unique("site");
    for id in ids {
        stage.connect(&site, id, 60).await;
    }
    let log = Log::default();
    let writer = log.clone();
    // For the whole process: a callsite that another thread has met first may
    // never ask a subscriber of this thread's.
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_env_filter("broadcaster=info")
        .with_writer(move || writer.clone())
        .init();
    let record = changed(
        insert(&site, "1"),
        "/dynamodb/NewImage/message",
        json!({"S": "a secret text"}),
    );
    let failed = stage
        .broadcast_within(json!([record]), Duration::from_secs(7))
        .await;
    assert_eq!(failed, ["1"]);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(&site)).collect();
    let [error, summary] = lines[..] else {
        panic!("{lines:?}");
    };
    assert!(
        error.contains(" ERROR ") && error.contains("403"),
        "{error}"
    );
    let counts = "connections=8 frames=0 gone=0 closed=0 left=8";
    assert!(summary.contains(counts), "{summary}");
    for line in lines {
        assert!(line.contains("request_id="), "{line}");
        assert!(line.contains(&stage.request_id), "{line}");
        assert!(!line.contains("secret"), "{line}");
    }
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
