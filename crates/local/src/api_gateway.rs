//! What the HTTP API and the WebSocket API have in common: parts of their
//! events, the functions' responses, and the gateway's own.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

/// The part of a function's response that reaches a client. A header may be in
/// either map: in the first with one value, in the second with all.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    status_code: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    multi_value_headers: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    body: Option<String>,
}

/// A function's response as the client gets it, also when it refuses a
/// handshake.
pub fn response(answer: Value) -> Response {
    let Ok(answer) = serde_json::from_value::<Answer>(answer) else {
        return internal_error();
    };
    let mut response = Response::new(Body::from(answer.body.unwrap_or_default()));
    *response.status_mut() =
        StatusCode::from_u16(answer.status_code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let lists = answer.multi_value_headers;
    // "Set up Lambda proxy integrations": a value in both maps is sent once.
    let is_in_list =
        |name: &String, value| lists.get(name).is_some_and(|list| list.contains(value));
    let singles = answer.headers.iter();
    let singles = singles.filter(|(name, value)| !is_in_list(name, value));
    let listed = lists
        .iter()
        .flat_map(|(name, list)| list.iter().map(move |value| (name, value)));
    for (name, value) in singles.chain(listed) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// A response of the gateway's own.
pub fn message(status: StatusCode, text: &str) -> Response {
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    (status, content_type, json!({"message": text}).to_string()).into_response()
}

/// The response when a function failed.
pub fn internal_error() -> Response {
    message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
}

/// Headers by their names in lower case, repeated ones joined with commas.
pub fn joined_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    joined(headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.as_str().to_owned(), value)
    }))
}

/// Values by their names; values of the same name are joined with commas.
pub fn joined(pairs: impl Iterator<Item = (String, String)>) -> BTreeMap<String, String> {
    let mut joined = BTreeMap::<String, String>::new();
    for (name, value) in pairs {
        joined
            .entry(name)
            .and_modify(|known| {
                known.push(',');
                known.push_str(&value);
            })
            .or_insert(value);
    }
    joined
}

/// An id shaped like AWS's: eleven bytes in base64, `L0SM9cOFvHcCIhw=`. Its `=`
/// must be encoded in a URL, which clients of AWS have to get right.
pub fn request_id() -> String {
    let mut bytes = [0_u8; 11];
    fastrand::Rng::new().fill(&mut bytes);
    URL_SAFE.encode(bytes)
}

/// The time as in a request context: `04/Nov/2020:18:21:03 +0000`.
pub fn request_time() -> String {
    let format = format_description!(
        version = 2,
        "[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000"
    );
    OffsetDateTime::now_utc()
        .format(&format)
        .unwrap_or_default()
}

pub fn millis(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_may_be_in_either_map_or_in_both() {
        let answer = json!({
            "statusCode": 503,
            "headers": {"content-type": "application/json", "retry-after": "1"},
            "multiValueHeaders": {"retry-after": ["1"], "x-list": ["a", "b"]},
            "body": "{}",
        });
        let response = response(answer);
        assert_eq!(response.status(), 503);
        let values = |name| response.headers().get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(values("content-type"), ["application/json"]);
        assert_eq!(values("retry-after"), ["1"]);
        assert_eq!(values("x-list"), ["a", "b"]);
    }
}
