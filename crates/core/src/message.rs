//! The wire types and their validation. Nothing else knows the JSON field
//! names.

use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::subscription::USERSTATUS;
use crate::text::{decode, form_fields};
use crate::{Error, SortKey};

/// The longest `site`, in bytes: the limit of a key in the connections
/// table's index ("Quotas", DynamoDB guide: sort key values, 1,024 bytes).
pub const MAX_SITE_BYTES: usize = 1024;

/// The longest frame, in bytes: 128 KiB, API Gateway's limit for a WebSocket
/// message ("Quotas for configuring and running a WebSocket API").
pub const MAX_FRAME_BYTES: usize = 131_072;

/// The most messages in one newlog request. Stored one after another, at some
/// 5 ms each, they take half a second of newlog's three.
pub const MAX_MESSAGES: usize = 100;

/// How serious a message is, in the names of Python's `logging`. The least
/// serious is the lowest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// `debug`
    Debug,
    /// `info`
    Info,
    /// `warning`
    Warning,
    /// `error`
    Error,
    /// `critical`
    Critical,
}

/// What loggers call the levels: Python's `logging`, syslog, Java's
/// `java.util.logging` and log4j, and .NET. The contract has this table too.
const LEVEL_NAMES: [(Level, &[&str]); 5] = [
    (
        Level::Debug,
        &["debug", "trace", "verbose", "fine", "finer", "finest"],
    ),
    (
        Level::Info,
        &["info", "information", "informational", "notice", "config"],
    ),
    (Level::Warning, &["warning", "warn"]),
    (Level::Error, &["error", "err", "severe"]),
    (
        Level::Critical,
        &[
            "critical",
            "crit",
            "fatal",
            "alert",
            "emerg",
            "emergency",
            "panic",
        ],
    ),
];

impl Level {
    /// All levels, the least serious first.
    pub const ALL: [Self; 5] = [
        Self::Debug,
        Self::Info,
        Self::Warning,
        Self::Error,
        Self::Critical,
    ];

    /// The level that a logger calls so, in any case and with any white space
    /// around; `None` for an unknown name.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.trim();
        LEVEL_NAMES
            .iter()
            .find(|(_, names)| names.iter().any(|known| known.eq_ignore_ascii_case(name)))
            .map(|(level, _)| *level)
    }

    /// The name that is stored and sent.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }
}

/// A message, from its arrival to the frontends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The site as sent, the partition key: 1 to 1,024 bytes.
    pub site: String,
    /// The text, which may be empty.
    pub text: String,
    /// The level; `info` if the caller sent none or an unknown one.
    pub level: Level,
    /// The time, which gives the timestamp and the id. Before the message is
    /// stored, the key it asks for; afterwards, its sort key.
    pub key: SortKey,
}

impl Message {
    /// Reads the body of a newlog request, from HTTP or a WebSocket:
    /// `{"site": "…", "log_message": "…", "log_level": "…", "timestamp": …}`,
    /// or the same fields as a form. [`decode`] says which encodings are read.
    /// `arrival` is the time of a message without a timestamp.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field that is missing or malformed;
    /// [`Error::TooLarge`] if the message is too large for a WebSocket frame.
    pub fn from_json(body: &[u8], arrival: SortKey) -> Result<Self, Error> {
        Self::of(Fields::of(&decode(body))?, arrival)
    }

    /// Reads the body of a newlog request over HTTP: one message as in
    /// [`Self::from_json`], or a JSON array of 1 to [`MAX_MESSAGES`] of them.
    /// Those of an array that have no timestamp get the time of `arrival`, each
    /// a microsecond after the one before. So they keep their order, and equal
    /// texts are not taken for retries. `check` is asked about each message.
    ///
    /// # Errors
    /// As for [`Self::from_json`], or the error of `check`; for a message of an
    /// array, the text begins with its index.
    pub fn all_from_json(
        body: &[u8],
        arrival: SortKey,
        check: impl Fn(&Self) -> Result<(), Error>,
    ) -> Result<Vec<Self>, Error> {
        let body = decode(body);
        if body.trim_start().starts_with('[') {
            return array(&body, arrival, check);
        }
        let message = Self::of(Fields::of(&body)?, arrival)?;
        check(&message)?;
        Ok(vec![message])
    }

    /// Checks the fields.
    fn of(fields: Fields, arrival: SortKey) -> Result<Self, Error> {
        let site = string("site", fields.site)?;
        if site.is_empty() {
            return Err(Error::Invalid(
                "'site' is empty; expected a string of 1 to 1024 bytes.".to_owned(),
            ));
        }
        if site.len() > MAX_SITE_BYTES {
            return Err(Error::Invalid(format!(
                "'site' is {} bytes long; expected at most {MAX_SITE_BYTES}.",
                site.len()
            )));
        }
        let message = Self {
            text: string("log_message", fields.log_message)?,
            level: level(fields.log_level, &site)?,
            site,
            key: timestamp(fields.timestamp, arrival)?,
        };
        let frame_bytes = message.to_frame().len();
        if frame_bytes > MAX_FRAME_BYTES {
            return Err(Error::TooLarge(format!(
                "'log_message' is too long: the message takes {frame_bytes} bytes as a WebSocket frame; expected at most {MAX_FRAME_BYTES}."
            )));
        }
        Ok(message)
    }

    /// The JSON of its WebSocket frame: `site`, `message`, `log_level`,
    /// `timestamp` (whole seconds, a string) and `id`.
    pub fn to_frame(&self) -> String {
        to_json(&Frame {
            site: &self.site,
            message: &self.text,
            log_level: self.level,
            timestamp: self.key.seconds().to_string(),
            id: Some(self.key.to_string()),
        })
    }

    /// The JSON of its entry in recent-logs: `message`, `log_level`,
    /// `timestamp` (seconds with their fraction, a number) and `id`.
    pub fn to_recent(&self) -> String {
        self.to_entry("")
    }

    /// The same among the messages of several sites: `site` comes first.
    pub fn to_recent_with_site(&self) -> String {
        self.to_entry(&format!(r#""site":{},"#, to_json(&self.site)))
    }

    fn to_entry(&self, first: &str) -> String {
        // By hand, because a float cannot hold all digits of the timestamp.
        format!(
            r#"{{{first}"message":{},"log_level":"{}","timestamp":{},"id":"{}"}}"#,
            to_json(&self.text),
            self.level.name(),
            self.key.to_json(),
            self.key
        )
    }
}

/// A message's frame as today's frontend expects it, which has its messages from
/// a general data stream: `{"site", "topic": "userstatus", "data": {"site",
/// "message", "log_level", "timestamp"}}`. `None` if it would be larger than
/// [`MAX_FRAME_BYTES`].
pub fn to_userstatus(frame: &[u8]) -> Option<String> {
    #[derive(Deserialize, Serialize)]
    struct Data<'a> {
        #[serde(borrow)]
        site: &'a RawValue,
        message: &'a RawValue,
        log_level: &'a RawValue,
        timestamp: &'a RawValue,
    }
    #[derive(Serialize)]
    struct Envelope<'a> {
        site: &'a RawValue,
        topic: &'static str,
        data: Data<'a>,
    }
    let data: Data = serde_json::from_slice(frame).ok()?;
    let envelope = to_json(&Envelope {
        site: data.site,
        topic: USERSTATUS,
        data,
    });
    (envelope.len() <= MAX_FRAME_BYTES).then_some(envelope)
}

/// The JSON of the frame that tells a client what was wrong with its own frame:
/// `log_level` `error`, the current time, and no `id`, so that it is always
/// shown. `site` is the one named in the client's frame, if any.
pub fn error_frame(sent: &[u8], text: &str) -> String {
    let site = Fields::of(&decode(sent))
        .ok()
        .and_then(|fields| string("site", fields.site).ok())
        .filter(|site| site.len() <= MAX_SITE_BYTES)
        .unwrap_or_default();
    to_json(&Frame {
        site: &site,
        message: text,
        log_level: Level::Error,
        timestamp: SortKey::now().seconds().to_string(),
        id: None,
    })
}

/// Whether a client's frame is `{"action": "ping"}`, with which it asks for a sign
/// of life.
pub fn is_ping(sent: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Action<'a> {
        #[serde(borrow)]
        action: std::borrow::Cow<'a, str>,
    }
    serde_json::from_slice(sent).is_ok_and(|Action { action }| action == "ping")
}

/// The publisher's key in the body of a newlog request, its field `key`.
/// `None` if there is no such string.
pub(crate) fn key(body: &[u8]) -> Option<String> {
    let body = decode(body);
    string("key", Fields::of(&body).ok()?.key).ok()
}

/// A frame sent to a client.
#[derive(Serialize)]
struct Frame<'a> {
    site: &'a str,
    message: &'a str,
    log_level: Level,
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
}

pub(crate) fn to_json(value: &impl Serialize) -> String {
    // Serialising to a string can fail only for maps with non-string keys;
    // these types have none.
    serde_json::to_string(value).unwrap_or_default()
}

/// The unchecked fields of a newlog request. `Deserialize` is hand-written
/// because the derived one rejects duplicate keys; most JSON parsers keep the
/// last.
#[derive(Default)]
struct Fields<'a> {
    site: Option<Field<'a>>,
    log_message: Option<Field<'a>>,
    log_level: Option<Field<'a>>,
    timestamp: Option<Field<'a>>,
    key: Option<Field<'a>>,
}

/// A field as it was sent.
enum Field<'a> {
    /// Raw, so that a number keeps all its digits.
    Json(&'a RawValue),
    Form(String),
}

impl<'a> Fields<'a> {
    /// Reads a form if the body begins like one, else JSON.
    fn of(body: &'a str) -> Result<Self, Error> {
        if !is_form(body) {
            return serde_json::from_str(body).map_err(|error| not_an_object(&error));
        }
        let mut fields = Self::default();
        for (name, value) in form_fields(body.trim()) {
            if let Some(field) = fields.named(&name) {
                *field = Some(Field::Form(value));
            }
        }
        Ok(fields)
    }

    fn named(&mut self, name: &str) -> Option<&mut Option<Field<'a>>> {
        match name {
            "site" => Some(&mut self.site),
            "log_message" => Some(&mut self.log_message),
            "log_level" => Some(&mut self.log_level),
            "timestamp" => Some(&mut self.timestamp),
            "key" => Some(&mut self.key),
            _ => None,
        }
    }
}

/// Whether a body is `name=value…`. Not told by the Content-Type, because curl
/// calls every body a form.
fn is_form(body: &str) -> bool {
    let name = body.split_once('=').map(|(name, _)| name.trim_start());
    name.is_some_and(|name| {
        !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-._*+%&[]".contains(c))
            && !name.starts_with('[')
    })
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut fields = Fields::default();
                while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    match fields.named(&name) {
                        Some(field) => *field = Some(Field::Json(map.next_value()?)),
                        None => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// Reads an array of messages, each checked as it comes, so that an array of
/// any length takes no more memory than [`MAX_MESSAGES`].
fn array(
    body: &str,
    arrival: SortKey,
    check: impl Fn(&Message) -> Result<(), Error>,
) -> Result<Vec<Message>, Error> {
    struct Array<'a, C> {
        messages: &'a mut Vec<Message>,
        /// Why a message was refused. serde's own errors hold only texts.
        refusal: &'a mut Option<Error>,
        arrival: SortKey,
        check: C,
    }

    impl<'de, C: Fn(&Message) -> Result<(), Error>> Visitor<'de> for Array<'_, C> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON array of objects")
        }

        fn visit_seq<S: SeqAccess<'de>>(mut self, mut seq: S) -> Result<(), S::Error> {
            while let Some(fields) = seq.next_element::<Fields>()? {
                let index = self.messages.len();
                let message = if index == MAX_MESSAGES {
                    Err(wrong_count(&format!(
                        "an array of more than {MAX_MESSAGES}"
                    )))
                } else {
                    Message::of(fields, self.arrival)
                        .and_then(|message| (self.check)(&message).map(|()| message))
                        .map_err(|error| error.of_message(index))
                };
                match message {
                    Ok(message) => self.messages.push(message),
                    Err(refusal) => {
                        *self.refusal = Some(refusal);
                        return Err(S::Error::custom("refused"));
                    }
                }
                self.arrival = self.arrival.next();
            }
            Ok(())
        }
    }

    let mut messages = Vec::new();
    let mut refusal = None;
    let mut json = serde_json::Deserializer::from_str(body);
    let read = json.deserialize_seq(Array {
        messages: &mut messages,
        refusal: &mut refusal,
        arrival,
        check,
    });
    match (read.and_then(|()| json.end()), refusal) {
        (Ok(()), _) if messages.is_empty() => Err(wrong_count("an empty array")),
        (Ok(()), _) => Ok(messages),
        (Err(_), Some(refusal)) => Err(refusal),
        (Err(error), None) if error.is_data() => Err(Error::Invalid(format!(
            "Message {}: not a JSON object; expected {{\"site\": …, \"log_message\": …}}.",
            messages.len()
        ))),
        (Err(error), None) => Err(not_an_object(&error)),
    }
}

fn wrong_count(what: &str) -> Error {
    Error::Invalid(format!(
        "The body is {what}; expected a JSON object or an array of 1 to {MAX_MESSAGES}."
    ))
}

/// What was wrong with a body as a whole. Never serde's own text, which may
/// quote what was sent.
fn not_an_object(error: &serde_json::Error) -> Error {
    Error::Invalid(match error.classify() {
        serde_json::error::Category::Data => {
            "The body is not a JSON object; expected {\"site\": …, \"log_message\": …}.".to_owned()
        }
        _ => format!(
            "The body is not valid JSON at line {}, column {}; expected {{\"site\": …, \"log_message\": …}}.",
            error.line(),
            error.column()
        ),
    })
}

fn string(name: &str, value: Option<Field>) -> Result<String, Error> {
    let raw = match value {
        Some(Field::Form(text)) => return Ok(text),
        Some(Field::Json(raw)) => raw.get(),
        None => {
            return Err(Error::Invalid(format!(
                "'{name}' is missing; expected a string."
            )));
        }
    };
    serde_json::from_str(raw).map_err(|_| {
        Error::Invalid(if raw.starts_with('"') {
            format!("'{name}' is not valid Unicode; expected a string without lone surrogates.")
        } else {
            format!("'{name}' is {}; expected a string.", kind(raw))
        })
    })
}

fn level(value: Option<Field>, site: &str) -> Result<Level, Error> {
    let name = match value {
        None => return Ok(Level::Info),
        Some(Field::Json(raw)) if raw.get() == "null" => return Ok(Level::Info),
        Some(_) => string("log_level", value)?,
    };
    if name.trim().is_empty() {
        return Ok(Level::Info);
    }
    Ok(Level::from_name(&name).unwrap_or_else(|| {
        let name: String = name.chars().take(40).collect();
        tracing::warn!(site, log_level = name, "unknown log_level, stored as info");
        Level::Info
    }))
}

fn timestamp(value: Option<Field>, arrival: SortKey) -> Result<SortKey, Error> {
    // One rule reads all: a string holds exactly the number's text.
    let text = match value {
        None => return Ok(arrival),
        Some(Field::Json(raw)) if raw.get() == "null" => return Ok(arrival),
        // A form cannot say null.
        Some(Field::Form(text)) if text.is_empty() => return Ok(arrival),
        Some(Field::Form(text)) => text,
        Some(Field::Json(raw)) => {
            serde_json::from_str(raw.get()).unwrap_or_else(|_| raw.get().to_owned())
        }
    };
    SortKey::from_seconds(&text).map_err(|error| Error::Invalid(format!("'timestamp': {error}.")))
}

fn kind(raw: &str) -> &'static str {
    match raw.bytes().next() {
        Some(b'n') => "null",
        Some(b't' | b'f') => "a boolean",
        Some(b'[') => "an array",
        Some(b'{') => "an object",
        _ => "a number",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn read(body: impl AsRef<[u8]>) -> Result<Message, Error> {
        Message::from_json(body.as_ref(), SortKey::from_seconds("7.5").unwrap())
    }

    fn refusal(body: impl AsRef<[u8]>) -> String {
        let error = read(body).unwrap_err();
        assert_eq!(error.status().as_u16(), 400);
        error.to_string()
    }

    #[test]
    fn a_scripts_message_is_read() {
        let message = read(
            r#"{"site":"tst","log_message":"a\nb","log_level":"WARN","timestamp":1604514063.987}"#,
        );
        assert_eq!(
            message.unwrap(),
            Message {
                site: "tst".into(),
                text: "a\nb".into(),
                level: Level::Warning,
                key: SortKey::from_seconds("1604514063.987").unwrap(),
            }
        );
    }

    #[test]
    fn every_loggers_name_of_a_level_is_known_and_a_typo_is_stored_as_info() {
        let level = |level: Value| {
            read(json!({"site": "t", "log_message": "", "log_level": level}).to_string())
                .map(|m| m.level)
        };
        for (kept, names) in [
            (
                Level::Debug,
                &["DEBUG", "Trace", "verbose", "FINE", "FINER", "FINEST"][..],
            ),
            (
                Level::Info,
                &[
                    "Info",
                    "Information",
                    "informational",
                    "notice",
                    "CONFIG",
                    "wraning",
                    "3",
                    "",
                    " ",
                ],
            ),
            (Level::Warning, &["WARNING", "warn", "WARNING ", "\tWarn\n"]),
            (Level::Error, &["error", "ERR", "SEVERE"]),
            (
                Level::Critical,
                &[
                    "critical",
                    "crit",
                    "FATAL",
                    "alert",
                    "emerg",
                    "Emergency",
                    "panic",
                ],
            ),
        ] {
            for name in names {
                assert_eq!(level(json!(name)).unwrap(), kept, "{name:?}");
            }
        }
        assert_eq!(level(Value::Null).unwrap(), Level::Info);
        for wrong in [json!(5), json!(true), json!(["info"]), json!({})] {
            let error = level(wrong.clone()).unwrap_err().to_string();
            assert!(error.contains("'log_level'"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_missing_timestamp_is_the_time_of_arrival() {
        for body in [
            r#"{"site":"t","log_message":""}"#,
            r#"{"site":"t","log_message":"","timestamp":null}"#,
        ] {
            assert_eq!(read(body).unwrap().key.to_string(), "7.500000");
        }
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (body, field) in [
            (r#"{"log_message":"x"}"#, "'site' is missing"),
            (r#"{"site":null,"log_message":"x"}"#, "'site' is null"),
            (r#"{"site":5,"log_message":"x"}"#, "'site' is a number"),
            (r#"{"site":"","log_message":"x"}"#, "'site' is empty"),
            (r#"{"site":"t"}"#, "'log_message' is missing"),
            (r#"{"site":"t","message":"x"}"#, "'log_message' is missing"),
            (
                r#"{"site":"t","log_message":null}"#,
                "'log_message' is null",
            ),
            (
                r#"{"site":"t","log_message":42}"#,
                "'log_message' is a number",
            ),
            (
                r#"{"site":"t","log_message":{"a":1}}"#,
                "'log_message' is an object",
            ),
            (
                r#"{"site":"t","log_message":"\ud83d"}"#,
                "'log_message' is not valid Unicode",
            ),
            (
                r#"{"site":"t","log_message":"x","timestamp":true}"#,
                "'timestamp'",
            ),
            (
                r#"{"site":"t","log_message":"x","timestamp":""}"#,
                "'timestamp'",
            ),
            (
                r#"{"site":"t","log_message":"x","timestamp":"12 "}"#,
                "'timestamp'",
            ),
            (
                r#"{"site":"t","log_message":"x","timestamp":"1_604"}"#,
                "'timestamp'",
            ),
            (
                r#"{"site":"t","log_message":"x","timestamp":1604514063000}"#,
                "seconds",
            ),
            (
                r#"{"site":"t","log_message":"x","timestamp":NaN}"#,
                "not valid JSON",
            ),
            (r#"["site"]"#, "not a JSON object"),
            (r#""site""#, "not a JSON object"),
            ("null", "not a JSON object"),
            ("", "not valid JSON"),
            ("{'site': 'tst'}", "not valid JSON"),
            (&"[".repeat(100_000), "not a JSON object"),
            ("[1]=2", "not a JSON object"),
            ("'{site=", "not valid JSON"),
            ("name=tst", "'site' is missing"),
            ("site=&log_message=x", "'site' is empty"),
            ("site=t", "'log_message' is missing"),
            ("log%5Fmessage=x", "'site' is missing"),
            ("site=t&log_message=x&timestamp=None", "'timestamp'"),
        ] {
            let refusal = refusal(body);
            assert!(refusal.contains(field), "{body:.80}: {refusal}");
        }
        let long = json!({"site": "é".repeat(513), "log_message": ""}).to_string();
        assert!(refusal(long).contains("'site' is 1026 bytes"));
    }

    #[test]
    fn the_last_of_duplicate_keys_wins_and_unknown_fields_are_ignored() {
        let body = format!(
            r#"{{"site":5,"x":{}{},"site":"b","log_message":"x"}}"#,
            "[".repeat(1000),
            "]".repeat(1000)
        );
        assert_eq!(read(body).unwrap().site, "b");
    }

    #[test]
    fn a_form_is_read_like_an_object_with_strings() {
        let form = "\n&log_level=WARN&timestamp=7&levelno=30&a%5B%5D=1&timestamp=1604514063.25&site=t&log_message=%C2%B0+%25%20%26\r\n";
        let expected = Message {
            site: "t".into(),
            text: "° % &".into(),
            level: Level::Warning,
            key: SortKey::from_seconds("1604514063.25").unwrap(),
        };
        assert_eq!(read(form).unwrap(), expected);
        let latin = form.replace("%C2%B0", "%B0");
        assert_eq!(read(latin).unwrap(), expected);
        let utf16: Vec<u8> = form.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(read(utf16).unwrap(), expected);

        let bare = read("log_message&site=t&log_level=&timestamp=").unwrap();
        assert_eq!(bare.text, "");
        assert_eq!(bare.level, Level::Info);
        assert_eq!(bare.key.to_string(), "7.500000");
    }

    fn read_all(body: impl AsRef<[u8]>) -> Result<Vec<Message>, Error> {
        let arrival = SortKey::from_seconds("7.5").unwrap();
        Message::all_from_json(body.as_ref(), arrival, |message| {
            if message.site == "forbidden" {
                return Err(Error::Forbidden("not this site".into()));
            }
            Ok(())
        })
    }

    #[test]
    fn an_array_is_read_in_order_and_what_has_no_time_gets_one_each() {
        let body = r#" [ {"site":"a","log_message":"x"},
            {"site":"b","log_message":"x","timestamp":3},
            {"site":"a","log_message":"x","timestamp":null}]
            "#;
        let utf16: Vec<u8> = body.encode_utf16().flat_map(u16::to_le_bytes).collect();
        for body in [body.as_bytes(), &utf16] {
            let read = read_all(body).unwrap();
            let read: Vec<_> = read.iter().map(|m| (&*m.site, m.key.to_string())).collect();
            let expected = [("a", "7.500000"), ("b", "3.000000"), ("a", "7.500002")];
            assert_eq!(read, expected.map(|(site, key)| (site, key.to_owned())));
        }
        for one in [
            r#"{"site":"a","log_message":"x"}"#,
            "site=a&log_message=x&other=[",
        ] {
            assert_eq!(read_all(one).unwrap(), [read(one).unwrap()]);
        }
    }

    #[test]
    fn the_first_mistake_in_an_array_is_named_by_its_index() {
        let good = r#"{"site":"t","log_message":"="}"#;
        let array = |elements: &[&str]| format!("[{}]", elements.join(","));
        let long = json!({"site": "t", "log_message": "x".repeat(MAX_FRAME_BYTES)}).to_string();
        for (body, status, text) in [
            (array(&[]), 400, "The body is an empty array"),
            (
                array(&[good; 101]),
                400,
                "The body is an array of more than 100;",
            ),
            (
                array(&[good, good, r#"{"site":"t"}"#, "5"]),
                400,
                "Message 2: 'log_message' is missing; expected",
            ),
            (
                array(&[good, "5", r#"{"site":"t"}"#]),
                400,
                "Message 1: not a JSON object; expected",
            ),
            ("[".repeat(100_000), 400, "Message 0: not a JSON object"),
            ("[1]=2".to_owned(), 400, "Message 0: not a JSON object"),
            (array(&[good, &long]), 413, "Message 1: 'log_message' is"),
            (
                array(&[good, r#"{"site":"forbidden","log_message":""}"#]),
                403,
                "Message 1: not this site",
            ),
            (
                array(&[r#"{"site":"forbidden"}"#]),
                400,
                "Message 0: 'log_message'",
            ),
            (format!("[{good}"), 400, "not valid JSON"),
            (format!("[{good},]"), 400, "not valid JSON"),
            (format!("[{good}{good}]"), 400, "not valid JSON"),
            (format!("[{good}] {good}"), 400, "not valid JSON"),
            (
                format!("[{good},{{\"site\":"),
                400,
                "not valid JSON at line 1",
            ),
        ] {
            let error = read_all(&body).unwrap_err();
            assert_eq!(error.status().as_u16(), status, "{body:.80}: {error}");
            assert!(error.to_string().contains(text), "{body:.80}: {error}");
        }
        assert_eq!(read_all(array(&[good; 100])).unwrap().len(), 100);
        // A key is for one site, whatever the body's form.
        let error = read_all(r#"{"site":"forbidden","log_message":""}"#).unwrap_err();
        assert_eq!(error.to_string(), "not this site");
    }

    #[test]
    fn a_message_too_large_for_a_frame_is_refused_and_one_byte_less_is_not() {
        let body = |length: usize| {
            json!({"site": "t", "log_message": "x".repeat(length), "timestamp": 1604514063})
                .to_string()
        };
        let overhead = read(body(0)).unwrap();
        let room = MAX_FRAME_BYTES - overhead.to_frame().len();
        assert!(read(body(room)).is_ok());
        assert_eq!(read(body(room + 1)).unwrap_err().status().as_u16(), 413);
    }

    #[test]
    fn the_two_published_shapes_are_exact() {
        let message = Message {
            site: "tst".into(),
            text: "<b>\u{1f52d}\"".into(),
            level: Level::Info,
            key: SortKey::from_seconds("1604514063.987").unwrap(),
        };
        assert_eq!(
            message.to_frame(),
            r#"{"site":"tst","message":"<b>🔭\"","log_level":"info","timestamp":"1604514063","id":"1604514063.987000"}"#
        );
        assert_eq!(
            message.to_recent(),
            r#"{"message":"<b>🔭\"","log_level":"info","timestamp":1604514063.987,"id":"1604514063.987000"}"#
        );
        assert_eq!(
            message.to_recent_with_site(),
            r#"{"site":"tst","message":"<b>🔭\"","log_level":"info","timestamp":1604514063.987,"id":"1604514063.987000"}"#
        );
    }

    #[test]
    fn todays_frontend_gets_a_frame_under_its_topic_unless_that_is_too_large() {
        let frame = r#"{"site":"t\"st","message":"Dome \n","log_level":"info","timestamp":"7","id":"7.000000"}"#;
        assert_eq!(
            to_userstatus(frame.as_bytes()).unwrap(),
            r#"{"site":"t\"st","topic":"userstatus","data":{"site":"t\"st","message":"Dome \n","log_level":"info","timestamp":"7"}}"#
        );
        let long = frame.replace("Dome", &"x".repeat(MAX_FRAME_BYTES - 100));
        assert!(long.len() <= MAX_FRAME_BYTES);
        assert_eq!(to_userstatus(long.as_bytes()), None);
    }

    #[test]
    fn an_error_frame_has_the_senders_site_and_no_id() {
        let frame: Value = serde_json::from_str(&error_frame(br#"{"site":"tst"}"#, "no")).unwrap();
        assert_eq!(frame["site"], "tst");
        assert_eq!(frame["log_level"], "error");
        assert!(frame.get("id").is_none());
        let latin = error_frame(b"{\"site\":\"t\xfcr\"}", "no");
        let frame: Value = serde_json::from_str(&latin).unwrap();
        assert_eq!(frame["site"], "tür");
        let frame: Value = serde_json::from_str(&error_frame(b"not json", "no")).unwrap();
        assert_eq!(frame["site"], "");
    }

    proptest! {
        #[test]
        fn no_body_panics_and_every_refusal_says_what_is_expected(body in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Err(error) = read(&body) {
                prop_assert!(error.to_string().contains("expected"));
            }
        }

        #[test]
        fn an_array_is_read_if_each_of_its_messages_is(
            elements in prop::collection::vec(prop_oneof![
                4 => any::<(String, String, u32)>().prop_map(|(site, text, time)|
                    json!({"site": site, "log_message": text, "timestamp": time})),
                1 => any::<Option<u8>>().prop_map(|other| json!(other)),
            ], 0..110),
        ) {
            let each: Vec<_> = elements.iter().map(|element| read(element.to_string())).collect();
            let wrong = each.iter().position(Result::is_err);
            match (read_all(Value::from(elements).to_string()), wrong) {
                (Ok(messages), wrong) => {
                    prop_assert_eq!(wrong, None);
                    prop_assert!((1..=MAX_MESSAGES).contains(&messages.len()));
                    let each: Result<Vec<_>, _> = each.into_iter().collect();
                    prop_assert_eq!(messages, each.unwrap());
                }
                (Err(error), Some(index)) if index < MAX_MESSAGES => {
                    let start = format!("Message {index}: ");
                    prop_assert!(error.to_string().starts_with(&start), "{}", error);
                }
                (Err(_), _) => prop_assert!(each.is_empty() || each.len() > MAX_MESSAGES),
            }
        }

        #[test]
        fn any_object_is_read_as_its_fields_say_or_refused(
            site in prop::option::of(any::<String>()),
            text in prop::option::of(any::<String>()),
            level in prop::option::of(any::<String>()),
            time in prop::option::of(0_u32..),
        ) {
            let mut body = serde_json::Map::new();
            if let Some(site) = &site { body.insert("site".into(), json!(site)); }
            if let Some(text) = &text { body.insert("log_message".into(), json!(text)); }
            if let Some(level) = &level { body.insert("log_level".into(), json!(level)); }
            if let Some(time) = &time { body.insert("timestamp".into(), json!(time)); }
            match read(Value::from(body).to_string()) {
                Ok(message) => {
                    prop_assert_eq!(Some(message.site), site);
                    prop_assert_eq!(Some(message.text), text);
                    prop_assert_eq!(message.key.seconds(), time.map_or(7, u64::from));
                }
                Err(error) => {
                    prop_assert_eq!(error.status().as_u16(), 400);
                    let site_is_wrong = site.is_none_or(|site| site.is_empty() || site.len() > MAX_SITE_BYTES);
                    prop_assert!(site_is_wrong || text.is_none(), "{}", error);
                }
            }
        }
    }
}
