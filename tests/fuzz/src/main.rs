//! Fuzz targets for whatever reads what others wrote. The variable
//! `FUZZ_TARGET` picks one:
//!
//! - `newlog`: the body of a message, in any encoding, as JSON or a form, or of
//!   an array of messages. What is accepted must survive every way in which it
//!   is written down.
//! - `event`: the JSON of an event, for every function that API Gateway calls.
//! - `request`: a query string and a body in a well-formed event.
//! - `stream`: a batch of records for the broadcaster.
//!
//! AWS is an HTTP client in this process that answers every call with success,
//! so a 5xx can only be the input's doing. The clock is paused: waits take no
//! time.

#![no_main]

use std::time::{Duration, SystemTime};

use aws_config::Region;
use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use broadcaster::{Memory, StreamEvent};
use lambda_http::{Body, Request, Response};
use lambda_runtime::{Context, LambdaEvent};
use libfuzzer_sys::fuzz_target;
use logstream_core::message::{MAX_FRAME_BYTES, MAX_SITE_BYTES, error_frame};
use logstream_core::messages::{from_item, to_item};
use logstream_core::{
    Connections, Error, ManagementApi, Message, Messages, Publishers, SortKey, config, lambda,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

thread_local! {
    static WORLD: World = World::new();
}

fuzz_target!(|data: &[u8]| {
    WORLD.with(|world| (world.target)(world, data));
});

/// What a target needs, made once.
struct World {
    target: fn(&Self, &[u8]),
    runtime: Runtime,
    connections: Connections,
    messages: Messages,
    management_api: ManagementApi,
    publishers: Publishers,
}

impl World {
    fn new() -> Self {
        let target = match std::env::var("FUZZ_TARGET").as_deref() {
            Ok("newlog") => newlog,
            Ok("event") => event,
            Ok("request") => request,
            Ok("stream") => stream,
            _ => panic!("FUZZ_TARGET names no target"),
        };
        let credentials = Credentials::new("test", "test", None, None, "test");
        let aws = config::builder()
            .region(Region::from_static("test"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .endpoint_url("http://aws")
            .http_client(SharedHttpClient::new(Aws))
            .build();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        Self {
            target,
            runtime: runtime
                .enable_time()
                .start_paused(true)
                .build()
                .expect("a runtime"),
            connections: Connections::new(&aws, "connections".to_owned()),
            messages: Messages::new(&aws, "messages".to_owned()),
            management_api: ManagementApi::new(&aws),
            publishers: Publishers::default(),
        }
    }

    /// Calls one of the functions of the APIs with an event. `None` if it is
    /// not an event, else the status.
    fn call(&self, function: u8, event: &str) -> Option<u64> {
        let (connections, messages, management_api) =
            (&self.connections, &self.messages, &self.management_api);
        let answer = match function % 7 {
            0 => self.run(
                |request| newlog::handle(messages, management_api, &self.publishers, request),
                event,
            ),
            1 => self.run(|request| default::handle(management_api, request), event),
            2 => self.run(|request| connect::handle(connections, request), event),
            3 => self.run(|request| disconnect::handle(connections, request), event),
            4 => self.run(
                |request| subscribe::handle(connections, management_api, request),
                event,
            ),
            5 => self.run(|request| recent_logs::handle(messages, request), event),
            _ => self.run(|request| online_users::handle(connections, request), event),
        };
        let answer: Value = serde_json::from_str(&answer?).expect("JSON");
        let status = answer["statusCode"].as_u64().expect("a status");
        assert!((200..500).contains(&status), "{answer}");
        if status != 200 {
            let body = answer["body"].as_str().unwrap_or_default();
            // A WebSocket's sender gets the error as a frame.
            if !body.is_empty() {
                let body: Value = serde_json::from_str(body).expect("JSON");
                assert!(body["message"].is_string(), "{body}");
            }
        }
        Some(status)
    }

    fn run<H, F>(&self, handler: H, event: &str) -> Option<String>
    where
        H: Fn(Request) -> F,
        F: Future<Output = Response<Body>> + Send,
    {
        self.runtime.block_on(lambda::call(handler, event)).ok()
    }
}

fn newlog(_: &World, body: &[u8]) {
    is_frame(error_frame(body, "no").as_bytes());
    match read_all(body) {
        Ok(all) => all.iter().for_each(survives),
        Err(error) => {
            assert!(matches!(error.status().as_u16(), 400 | 413), "{error}");
            assert!(error.to_string().contains("expected"), "{error}");
        }
    }
    // What is one message is the same to both.
    if let Ok(message) = read(body) {
        assert_eq!(read_all(body).ok(), Some(vec![message]));
    }
}

fn survives(message: &Message) {
    assert!((1..=MAX_SITE_BYTES).contains(&message.site.len()));
    let mut row = to_item(message, message.key, message.key, 7);
    assert_eq!(from_item(&mut row).as_ref(), Some(message), "as a row");

    let time = message.key.to_string();
    let level = message.level.name();
    let fields = [
        ("site", message.site.as_str()),
        ("log_message", &message.text),
        ("log_level", level),
        ("timestamp", &time),
    ];
    let object = Value::Object(
        fields
            .map(|(name, value)| (name.to_owned(), json!(value)))
            .into_iter()
            .collect(),
    );
    let object = object.to_string();
    let marked: Vec<u8> = std::iter::once(0xfeff)
        .chain(object.encode_utf16())
        .flat_map(u16::to_be_bytes)
        .collect();
    let form = fields.map(|(name, value)| {
        let value = value.bytes().map(|byte| format!("%{byte:02x}"));
        format!("{name}={}", value.collect::<String>())
    });
    for body in [object.as_bytes(), &marked, form.join("&").as_bytes()] {
        assert_eq!(read(body).ok().as_ref(), Some(message));
    }
    let array = format!("[{object},{object}]");
    let twice = read_all(array.as_bytes()).ok();
    assert_eq!(twice, Some(vec![message.clone(); 2]));

    let frame = is_frame(message.to_frame().as_bytes());
    let recent: Value = serde_json::from_str(&message.to_recent()).expect("JSON");
    let of_site: Value = serde_json::from_str(&message.to_recent_with_site()).expect("JSON");
    assert_eq!(of_site["site"], message.site.as_str());
    for entry in [frame, recent, of_site] {
        assert_eq!(entry["message"], message.text.as_str());
        assert_eq!(entry["log_level"], level);
        assert_eq!(entry["id"], time.as_str());
    }
}

fn read(body: &[u8]) -> Result<Message, Error> {
    Message::from_json(body, SortKey::first_of_second(7))
}

fn read_all(body: &[u8]) -> Result<Vec<Message>, Error> {
    Message::all_from_json(body, SortKey::first_of_second(7), |_| Ok(()))
}

fn event(world: &World, data: &[u8]) {
    if let Some((function, event)) = data.split_first()
        && let Ok(event) = std::str::from_utf8(event)
    {
        world.call(*function, event);
    }
}

/// The function, how the body is written, a line with the query, and the body.
fn request(world: &World, data: &[u8]) {
    let [function, form, data @ ..] = data else {
        return;
    };
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let query = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let body = parts.next().unwrap_or_default();
    let is_base64 = form & 1 != 0;
    let written = if is_base64 {
        STANDARD.encode(body)
    } else {
        String::from_utf8_lossy(body).into_owned()
    };
    let is_websocket = form & 2 != 0;
    let mut event = if is_websocket {
        let mut all = serde_json::Map::new();
        for (name, value) in logstream_core::text::form_fields(&query) {
            let values = all.entry(name).or_insert(json!([]));
            values.as_array_mut().expect("a list").push(json!(value));
        }
        json!({
            "multiValueQueryStringParameters": all,
            "requestContext": {"connectionId": "a=", "connectedAt": 1, "requestTimeEpoch": 1},
        })
    } else {
        json!({
            "version": "2.0",
            "rawQueryString": query,
            "requestContext": {"http": {"method": "POST"}},
        })
    };
    event["headers"] = json!({});
    event["body"] = json!(written);
    event["isBase64Encoded"] = json!(is_base64);
    let status = world.call(*function, &event.to_string()).expect("an event");
    if function % 7 == 0 && is_base64 {
        let is_read = if is_websocket {
            read(body).is_ok()
        } else {
            read_all(body).is_ok()
        };
        assert_eq!(status == 200, is_read, "{status}");
    }
}

fn stream(world: &World, data: &[u8]) {
    let Ok(event) = serde_json::from_slice::<StreamEvent>(data) else {
        return;
    };
    let mut context = Context::default();
    let deadline = SystemTime::now() + Duration::from_secs(30);
    let deadline = deadline.duration_since(SystemTime::UNIX_EPOCH);
    context.deadline = deadline.map_or(0, |deadline| deadline.as_millis() as u64);
    let memory = Memory::default();
    let response = world.runtime.block_on(broadcaster::handle(
        &world.connections,
        &world.management_api,
        &memory,
        LambdaEvent::new(event, context),
    ));
    // Whatever it is, it does not hold up the stream.
    assert!(response.batch_item_failures.is_empty());
}

/// Checks what is sent to a client.
fn is_frame(frame: &[u8]) -> Value {
    assert!(frame.len() <= MAX_FRAME_BYTES, "{}", frame.len());
    let frame: Value = serde_json::from_slice(frame).expect("JSON");
    let fields = frame.as_object().expect("an object");
    assert!(fields.values().all(Value::is_string), "{frame}");
    for name in ["site", "message", "log_level", "timestamp"] {
        assert!(fields.contains_key(name), "{frame}");
    }
    frame
}

/// Answers every call with success, and every query with one row, which is
/// that of a connection and that of a message.
#[derive(Clone, Debug)]
struct Aws;

impl HttpClient for Aws {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Aws {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        if request.headers().get("x-amz-target").is_none() && request.method() == "POST" {
            is_frame(request.body().bytes().expect("a frame"));
        }
        let answer = json!({"Items": [{
            "site": {"S": "tst"},
            "ConnectionID": {"S": "a="},
            "ConnectionStartedUTC": {"S": "2020-11-04 11:05:58.123456"},
            "ExpiresAt": {"N": "99999999999"},
            "timestamp": {"N": "1604514063"},
            "message": {"S": "x"},
            "log_level": {"S": "info"},
            "TimeToLive": {"N": "99999999999"},
        }]});
        let status = 200.try_into().expect("a status");
        HttpConnectorFuture::ready(Ok(HttpResponse::new(
            status,
            SdkBody::from(answer.to_string()),
        )))
    }
}
