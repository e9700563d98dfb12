//! The events of the functions.

use serde_json::{Value, json};

/// A request to the HTTP API, payload format 2.0.
pub fn http(method: &str, path: &str, query: &str, body: Option<&str>) -> String {
    json!({
        "version": "2.0",
        "routeKey": format!("{method} {path}"),
        "rawPath": path,
        "rawQueryString": query,
        "headers": {"host": "x", "content-type": "application/json", "user-agent": "python-requests/2.32.3"},
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "bench",
            "domainName": "bench.example.org",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "python-requests/2.32.3"},
            "requestId": "id",
            "routeKey": format!("{method} {path}"),
            "stage": "$default",
            "time": "01/Jan/2026:00:00:00 +0000",
            "timeEpoch": 1_767_225_600_000_u64,
        },
        "body": body,
        "isBase64Encoded": false,
    })
    .to_string()
}

/// An event of the WebSocket API.
pub fn websocket(
    route: &str,
    event_type: &str,
    connection: &str,
    query: &Value,
    body: Option<&str>,
) -> String {
    json!({
        "headers": {"Host": "x"},
        "multiValueHeaders": {"Host": ["x"]},
        "queryStringParameters": query,
        "requestContext": {
            "routeKey": route,
            "eventType": event_type,
            "connectionId": connection,
            "connectedAt": 1_767_225_600_000_u64,
            "requestTimeEpoch": 1_767_225_600_000_u64,
            "identity": {"sourceIp": "192.0.2.1"},
            "stage": "dev",
            "domainName": "bench.example.org",
            "apiId": "bench",
            "requestId": "id",
            "messageDirection": "IN",
        },
        "body": body,
        "isBase64Encoded": false,
    })
    .to_string()
}

/// The body of a message, as a script posts it.
pub fn message(site: &str, number: usize) -> String {
    json!({
        "site": site,
        "log_message": format!("Slewing to target {number}, airmass 1.27, 42 s"),
        "log_level": "INFO",
        "timestamp": seconds(number),
    })
    .to_string()
}

/// A time of its own for each number, within the last days.
fn seconds(number: usize) -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64().floor() - 100_000.0 + number as f64 / 1000.0
}

/// A batch of the messages table's stream.
pub fn stream(sites: &[String], first: usize, count: usize) -> String {
    let records: Vec<_> = (first..first + count)
        .map(|number| {
            let site = &sites[number % sites.len()];
            json!({
                "eventID": format!("event{number}"),
                "eventName": "INSERT",
                "eventVersion": "1.1",
                "eventSource": "aws:dynamodb",
                "awsRegion": "us-east-1",
                "eventSourceARN": "arn:aws:dynamodb:us-east-1:123456789012:table/bench/stream/1",
                "dynamodb": {
                    "ApproximateCreationDateTime": 1_767_225_600,
                    "Keys": {"site": {"S": site}, "timestamp": {"N": "1767225600.1"}},
                    "NewImage": {
                        "site": {"S": site},
                        "timestamp": {"N": format!("{:.6}", seconds(number))},
                        "message": {"S": format!("Slewing to target {number}, airmass 1.27, 42 s")},
                        "log_level": {"S": "info"},
                        "TimeToLive": {"N": "4102444800"},
                    },
                    "SequenceNumber": format!("{:030}", number + 1),
                    "SizeBytes": 120,
                    "StreamViewType": "NEW_IMAGE",
                },
            })
        })
        .collect();
    json!({"Records": records}).to_string()
}
