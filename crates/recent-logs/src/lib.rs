//! `GET /recent-logs`: the messages of the last days, newest first.

use lambda_http::http::header::LINK;
use lambda_http::http::{HeaderValue, StatusCode};
use lambda_http::{Request, Response};
use logstream_core::api_gateway::{Query, with_body};
use logstream_core::sort_key::whole_seconds;
use logstream_core::{Error, Messages, SortKey};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// The most messages that a request may ask for.
const MAX_LIMIT: usize = 10_000;

/// The longest body, in bytes, once encoded as a string in the function's JSON
/// response. Lambda limits a response to 6 MB ("Lambda quotas").
const MAX_ENCODED_BYTES: usize = 5_000_000;

/// Answers with a JSON array of `{"message", "log_level", "timestamp", "id"}`;
/// if more is left, with the header `Link: <?…&before=<id>>; rel="next"`.
pub async fn handle(messages: &Messages, request: Request) -> Response<lambda_http::Body> {
    recent_logs(messages, &Query::of(&request))
        .await
        .unwrap_or_else(Error::into_response)
}

async fn recent_logs(
    messages: &Messages,
    query: &Query,
) -> Result<Response<lambda_http::Body>, Error> {
    let site = query.site()?;
    let low = match query.get("after_time")? {
        None => SortKey::MIN,
        // Strictly later, compared in whole seconds.
        Some(text) => SortKey::first_of_second(parse_after_time(text)?.saturating_add(1)),
    };
    let high = match query.get("before")? {
        None => Some(SortKey::MAX),
        Some(id) => parse_before(id)?.previous(),
    };
    let limit = query
        .get("limit")?
        .map(parse_limit)
        .transpose()?
        .unwrap_or(usize::MAX);

    let mut body = Array::new();
    let mut oldest = None;
    let mut is_more_left = false;
    let mut next = high;
    // One extra row tells whether more is left.
    let mut rows = limit.saturating_add(1);
    'pages: while let Some(high) = next {
        let page = messages.newest_first(site, low, high, rows).await?;
        // Any number of expired rows may come before the next message. Large
        // pages pass them with the fewest calls.
        rows = usize::MAX;
        for message in page.messages {
            if body.count == limit || !body.push(&message.to_recent()) {
                is_more_left = true;
                break 'pages;
            }
            oldest = Some(message.key);
        }
        next = page.next;
    }

    let mut response = with_body(StatusCode::OK, "application/json", body.end());
    if let (true, Some(oldest)) = (is_more_left, oldest)
        && let Ok(link) = HeaderValue::try_from(next_link(query, oldest))
    {
        response.headers_mut().insert(LINK, link);
    }
    Ok(response)
}

fn parse_after_time(text: &str) -> Result<i64, Error> {
    whole_seconds(text).ok_or_else(|| {
        Error::Invalid(
            "Query string param 'after_time' is not a number; expected Unix seconds.".to_owned(),
        )
    })
}

fn parse_before(text: &str) -> Result<SortKey, Error> {
    SortKey::from_stored(text).ok_or_else(|| {
        Error::Invalid(
            "Query string param 'before' is not an id; expected one such as 1604514063.418301."
                .to_owned(),
        )
    })
}

fn parse_limit(text: &str) -> Result<usize, Error> {
    text.parse()
        .ok()
        .filter(|limit| (1..=MAX_LIMIT).contains(limit))
        .filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
        .ok_or_else(|| {
            Error::Invalid(format!(
                "Query string param 'limit' is not usable; expected a whole number from 1 to {MAX_LIMIT}."
            ))
        })
}

/// The JSON array under construction.
struct Array {
    json: String,
    encoded_bytes: usize,
    count: usize,
}

impl Array {
    fn new() -> Self {
        Self {
            json: "[".to_owned(),
            encoded_bytes: 2,
            count: 0,
        }
    }

    /// Appends a message; `false` if it does not fit.
    fn push(&mut self, message: &str) -> bool {
        let escapes = message
            .bytes()
            .filter(|byte| matches!(byte, b'"' | b'\\'))
            .count();
        let encoded_bytes = message.len() + escapes + 1;
        if self.encoded_bytes + encoded_bytes > MAX_ENCODED_BYTES {
            return false;
        }
        if self.count > 0 {
            self.json.push(',');
        }
        self.json.push_str(message);
        self.encoded_bytes += encoded_bytes;
        self.count += 1;
        true
    }

    fn end(mut self) -> String {
        self.json.push(']');
        self.json
    }
}

/// A relative reference, because a custom domain's path has a prefix that the
/// function does not know.
fn next_link(query: &Query, oldest: SortKey) -> String {
    let mut link = "<?".to_owned();
    for (name, value) in query.without("before") {
        link.extend(utf8_percent_encode(name, NON_ALPHANUMERIC));
        link.push('=');
        link.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
        link.push('&');
    }
    link.push_str("before=");
    link.push_str(&oldest.to_string());
    link.push_str(">; rel=\"next\"");
    link
}
