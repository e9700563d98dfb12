//! Prints, as JSON, what a deployment must give the code: the tables, the
//! routes, the stream's mapping, and for each function the AWS calls that it
//! makes. The calls are observed, not declared: each function is run through
//! everything it does. `tests/deployed/template_test.py` compares this with
//! the template.

#[path = "inside/recorder.rs"]
mod recorder;
#[path = "inside/tables.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::Path;
use axum::http::{Method, StatusCode};
use axum::routing::any;
use lambda_runtime::{Context, LambdaEvent};
use local::{CONNECTIONS_TABLE, MESSAGES_TABLE, Options, Server};
use logstream_core::table::{Key, TableDefinition};
use logstream_core::{
    Connections, ManagementApi, Messages, Publishers, config, connections, lambda, messages,
};
use recorder::Recorder;
use serde_json::{Value, json};
use tables::Tables;

#[tokio::main]
async fn main() {
    let deployment = json!({
        "tables": {
            "messages": table(&messages::TABLE),
            "connections": table(&connections::TABLE),
        },
        "routes": {
            "http": local::HTTP_ROUTES.map(|(method, path, function)| json!([method.as_str(), path, function])),
            "websocket": local::WEBSOCKET_ROUTES,
        },
        "mapping": {
            "BatchSize": broadcaster::BATCH_SIZE,
            "MaximumRetryAttempts": local::MAX_RETRIES,
            "MaximumRecordAgeInSeconds": local::MAX_AGE.as_secs(),
        },
        "calls": calls().await,
    });
    println!("{deployment:#}");
}

fn table(definition: &TableDefinition) -> Value {
    let key =
        |key: &Key| [&key.partition, &key.sort].map(|(name, kind)| json!([name, kind.as_str()]));
    json!({
        "key": key(&definition.key),
        "index": definition.index.as_ref().map(|(name, index)| json!([name, key(index)])),
        "time_to_live": definition.time_to_live,
        "stream": definition.stream,
    })
}

/// The functions with recording clients.
struct Functions {
    server: Server,
    messages: Messages,
    connections: Connections,
    management_api: ManagementApi,
    tables: [(&'static str, Recorder); 2],
    posts: Arc<Mutex<BTreeSet<String>>>,
    calls: BTreeMap<&'static str, BTreeSet<String>>,
}

impl Functions {
    /// Notes what was called since the last time as a function's calls.
    fn note(&mut self, function: &'static str) {
        let calls = self.calls.entry(function).or_default();
        let posts = std::mem::take(&mut *self.posts.lock().unwrap());
        calls.extend(posts);
        for (table, recorder) in &self.tables {
            let operations = recorder.take().into_iter();
            calls.extend(operations.map(|operation| format!("{table} dynamodb:{operation}")));
        }
        assert!(!calls.is_empty(), "{function} has called nothing");
    }
}

async fn calls() -> BTreeMap<&'static str, BTreeSet<String>> {
    let options = Options {
        port: 0,
        ..Options::default()
    };
    let server = Server::start(options).await.unwrap();
    let (messages_recorder, to_messages) = Recorder::before(&server);
    let (connections_recorder, to_connections) = Recorder::before(&server);
    let posts = Arc::default();
    let endpoint = management_api(Arc::clone(&posts)).await;
    let mut to_management = server.management_api().into_builder();
    to_management.set_http_client(Some(config::http_client()));
    let to_management = to_management.endpoint_url(endpoint).build();
    let mut functions = Functions {
        messages: Messages::new(&to_messages, MESSAGES_TABLE.to_owned()),
        connections: Connections::new(&to_connections, CONNECTIONS_TABLE.to_owned()),
        management_api: ManagementApi::new(&to_management),
        tables: [
            ("messages", messages_recorder),
            ("connections", connections_recorder),
        ],
        posts,
        calls: BTreeMap::new(),
        server,
    };

    // A message that finds its second taken, and one that is wrong.
    for body in [
        json!({"site": "tst", "log_message": "a", "timestamp": 7}),
        json!({"site": "tst", "log_message": "b", "timestamp": 7}),
        json!({}),
    ] {
        let (messages, management_api) = (&functions.messages, &functions.management_api);
        let everybody = Publishers::default();
        let handler = |request| newlog::handle(messages, management_api, &everybody, request);
        let event = websocket_event("newlog", &body.to_string());
        lambda::call(handler, &event).await.unwrap();
    }
    functions.note("newlog");

    let messages = &functions.messages;
    let handler = |request| recent_logs::handle(messages, request);
    let query_event =
        json!({"rawQueryString": "site=tst", "requestContext": {"http": {"method": "GET"}}});
    let found = lambda::call(handler, &query_event.to_string())
        .await
        .unwrap();
    assert!(found.contains("log_level"), "{found}");
    functions.note("recent-logs");

    let handler = |request| connect::handle(&functions.connections, request);
    lambda::call(handler, &websocket_event("$connect", ""))
        .await
        .unwrap();
    functions.note("connect");

    // Its rows are written, and one is deleted.
    let (connections, management_api) = (&functions.connections, &functions.management_api);
    let handler = |request| subscribe::handle(connections, management_api, request);
    let body = json!({"action": "subscribe", "site": ["other"]});
    let event = websocket_event("subscribe", &body.to_string());
    lambda::call(handler, &event).await.unwrap();
    functions.note("subscribe");

    let handler = |request| connect::handle(&functions.connections, request);
    lambda::call(handler, &websocket_event("$connect", ""))
        .await
        .unwrap();
    functions.note("connect");

    let connections = &functions.connections;
    let handler = |request| online_users::handle(connections, request);
    let found = lambda::call(handler, &query_event.to_string())
        .await
        .unwrap();
    assert!(found.contains("ConnectionID"), "{found}");
    functions.note("online-users");

    let handler = |request| default::handle(&functions.management_api, request);
    lambda::call(handler, &websocket_event("$default", "{}"))
        .await
        .unwrap();
    functions.note("default");

    let handler = |request| disconnect::handle(&functions.connections, request);
    lambda::call(handler, &websocket_event("$disconnect", ""))
        .await
        .unwrap();
    functions.note("disconnect");

    // A connection that is gone, and one that cannot be served, beside others.
    // They watch a site of their own: the server's own broadcaster is sending
    // the message above, and would find these connections gone.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let rows = Tables::of(&functions.server);
    for id in ["gone", "full", "a", "b"] {
        rows.put_connection("viewed", id, 60, now.as_secs() + 1000)
            .await;
    }
    let record = json!({
        "eventID": "1",
        "eventName": "INSERT",
        "awsRegion": "local",
        "dynamodb": {
            "ApproximateCreationDateTime": 1.0,
            "Keys": {"site": {"S": "viewed"}, "timestamp": {"N": "7"}},
            "SequenceNumber": "1",
            "SizeBytes": 60,
            "StreamViewType": "NEW_IMAGE",
            "NewImage": {
                "site": {"S": "viewed"},
                "timestamp": {"N": "7"},
                "message": {"S": "x"},
                "log_level": {"S": "info"},
            },
        },
    });
    let event = serde_json::from_value(json!({"Records": [record]})).unwrap();
    let mut context = Context::default();
    let deadline = now + Duration::from_secs(30);
    context.deadline = u64::try_from(deadline.as_millis()).unwrap();
    let failed = broadcaster::handle(
        &functions.connections,
        &functions.management_api,
        &broadcaster::Memory::default(),
        LambdaEvent::new(event, context),
    )
    .await;
    assert!(failed.batch_item_failures.is_empty(), "{failed:?}");
    functions.note("broadcaster");
    functions.calls
}

fn websocket_event(route: &str, body: &str) -> String {
    json!({
        "requestContext": {"routeKey": route, "connectionId": "L0SM9cOFvHcCIhw=", "connectedAt": 1, "requestTimeEpoch": 1},
        "queryStringParameters": {"site": "tst"},
        "body": body,
    })
    .to_string()
}

/// A management API that knows no connection `gone`, has no room for `full`,
/// and remembers how it was called. Returns its endpoint.
async fn management_api(calls: Arc<Mutex<BTreeSet<String>>>) -> String {
    let answer = move |method: Method, Path(id): Path<String>| {
        let call = format!("management execute-api:ManageConnections {method}");
        calls.lock().unwrap().insert(call);
        async move {
            match (method, id.as_str()) {
                (Method::POST, "gone") => StatusCode::GONE,
                (Method::POST, "full") => StatusCode::TOO_MANY_REQUESTS,
                _ => StatusCode::OK,
            }
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/@connections/{id}", any(answer));
    tokio::spawn(async { axum::serve(listener, router).await });
    endpoint
}
