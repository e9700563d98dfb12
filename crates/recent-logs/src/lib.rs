//! `GET /recent-logs`: the messages of the last days, newest first.

mod history;

use history::{History, Next, Wanted};
use lambda_http::http::header::LINK;
use lambda_http::http::{HeaderValue, StatusCode};
use lambda_http::{Request, Response};
use logstream_core::api_gateway::{Query, with_body};
use logstream_core::sort_key::whole_seconds;
use logstream_core::{Error, Message, Messages, SortKey};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// The most messages that a request may ask for.
const MAX_LIMIT: usize = 10_000;

/// The longest body, in bytes, once encoded as a string in the function's JSON
/// response. Lambda limits a response to 6 MB ("Lambda quotas").
const MAX_ENCODED_BYTES: usize = 5_000_000;

/// The most pages that are read for an answer, each 1 MB at most. 5 MB of
/// messages take fewer, but any number of rows may be expired or below `level`.
const MAX_PAGES: usize = 20;

/// Answers with a JSON array of `{"message", "log_level", "timestamp", "id"}`,
/// each with `site` in front if several sites are asked for; if more may be
/// left, with the header `Link: <?…&before=<id>>; rel="next"`.
pub async fn handle(messages: &Messages, request: Request) -> Response<lambda_http::Body> {
    recent_logs(messages, &Query::of(&request))
        .await
        .unwrap_or_else(Error::into_response)
}

async fn recent_logs(
    messages: &Messages,
    query: &Query,
) -> Result<Response<lambda_http::Body>, Error> {
    let sites = query.sites()?;
    let after_time = query.get("after_time")?.map(parse_after_time).transpose()?;
    let began = query.get("max_age_seconds")?.map(parse_age).transpose()?;
    let low = match after_time.max(began) {
        None => SortKey::MIN,
        // Strictly later, compared in whole seconds.
        Some(second) => SortKey::first_of_second(second.saturating_add(1)),
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
    let level = query.level()?;

    let to_json = if sites.len() == 1 {
        Message::to_recent
    } else {
        Message::to_recent_with_site
    };
    let mut body = Array::new();
    let mut pages = MAX_PAGES;
    let mut oldest = None;
    // One extra row tells whether more is left.
    let rows = limit.saturating_add(1);
    let mut history = History::new(messages, sites, Wanted { low, high, level }, rows);
    let before = loop {
        match history.next() {
            Next::End => break None,
            Next::Unread(key) => {
                // If the answer is full, one more page at most is read to tell
                // whether more is left.
                if body.length.messages >= limit {
                    pages = pages.min(1);
                }
                if pages == 0 {
                    break Some(key.next());
                }
                pages = pages.saturating_sub(history.read().await?);
            }
            // Messages of several sites may have the same id. `before` would
            // lose one if an answer ended between them. So an answer has all of
            // them or none, and if it began with more than `limit`, it has them.
            Next::Messages(key) => {
                let before_them = body.length;
                for message in history.take(key) {
                    body.push(&to_json(&message));
                }
                if oldest.is_some() && body.is_longer_than(limit) {
                    body.cut(before_them);
                    break oldest;
                }
                oldest = Some(key);
            }
        }
    };

    let mut response = with_body(StatusCode::OK, "application/json", body.end());
    if let Some(before) = before
        && let Ok(link) = HeaderValue::try_from(next_link(query, before))
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

fn parse_age(text: &str) -> Result<i64, Error> {
    SortKey::now().second_before(text).ok_or_else(|| {
        Error::Invalid(
            "Query string param 'max_age_seconds' is not a number of seconds; expected 0 or more."
                .to_owned(),
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
    length: Length,
}

#[derive(Clone, Copy)]
struct Length {
    messages: usize,
    bytes: usize,
    encoded_bytes: usize,
}

impl Array {
    fn new() -> Self {
        let json = "[".to_owned();
        let length = Length {
            messages: 0,
            bytes: json.len(),
            encoded_bytes: 2,
        };
        Self { json, length }
    }

    fn push(&mut self, message: &str) {
        let escapes = message
            .bytes()
            .filter(|byte| matches!(byte, b'"' | b'\\'))
            .count();
        if self.length.messages > 0 {
            self.json.push(',');
        }
        self.json.push_str(message);
        self.length.messages += 1;
        self.length.bytes = self.json.len();
        self.length.encoded_bytes += message.len() + escapes + 1;
    }

    fn is_longer_than(&self, limit: usize) -> bool {
        self.length.messages > limit || self.length.encoded_bytes > MAX_ENCODED_BYTES
    }

    /// Takes back what was appended since it was this long.
    fn cut(&mut self, length: Length) {
        self.json.truncate(length.bytes);
        self.length = length;
    }

    fn end(mut self) -> String {
        self.json.push(']');
        self.json
    }
}

/// A relative reference, because a custom domain's path has a prefix that the
/// function does not know.
fn next_link(query: &Query, before: SortKey) -> String {
    let mut link = "<?".to_owned();
    for (name, value) in query.without("before") {
        link.extend(utf8_percent_encode(name, NON_ALPHANUMERIC));
        link.push('=');
        link.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
        link.push('&');
    }
    link.push_str("before=");
    link.push_str(&before.to_string());
    link.push_str(">; rel=\"next\"");
    link
}
