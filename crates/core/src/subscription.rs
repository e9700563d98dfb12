//! What a connection watches.

use serde_json::{Map, Value};

use crate::api_gateway::Query;
use crate::message::{MAX_SITE_BYTES, to_json};
use crate::text::decode;
use crate::{Error, Level};

/// The most sites of a connection, and of a query.
pub const MAX_SITES: usize = 10;

/// The topic under which today's frontend expects messages, because it has them
/// from a general data stream.
pub const USERSTATUS: &str = "userstatus";

/// The action of today's frontend: one site, whose messages come under the topic
/// [`USERSTATUS`] from then on.
pub const UPDATE_SUBSCRIBER_SITE: &str = "updatesubscribersite";

/// The sites that a connection watches, and what of them it gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subscription {
    /// 1 to [`MAX_SITES`] different sites.
    pub sites: Vec<String>,
    /// The least level.
    pub level: Level,
    /// Whether frames come under the topic [`USERSTATUS`].
    pub is_userstatus: bool,
}

impl Subscription {
    /// Reads the query string of a handshake:
    /// `?site=saf&site=mrc&level=warning&topic=userstatus`. Only `site` is
    /// required.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the parameter.
    pub fn from_query(query: &Query) -> Result<Self, Error> {
        let is_userstatus = match query.get("topic")? {
            None => false,
            Some(USERSTATUS) => true,
            Some(_) => {
                return Err(Error::Invalid(
                    "Query string param 'topic' is not known; expected userstatus.".to_owned(),
                ));
            }
        };
        Ok(Self {
            sites: query.sites()?.into_iter().map(str::to_owned).collect(),
            level: query.level()?,
            is_userstatus,
        })
    }

    /// Reads a frame with the action `subscribe`:
    /// `{"action": "subscribe", "site": ["saf", "mrc"], "level": "warning"}`, or
    /// [`UPDATE_SUBSCRIBER_SITE`]. One site need not be in an array; `level` may
    /// be missing.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field.
    pub fn from_json(body: &[u8]) -> Result<Self, Error> {
        let invalid = |text: &str| Error::Invalid(text.to_owned());
        // Of repeated keys the last one counts.
        let mut fields: Map<String, Value> = serde_json::from_str(&decode(body)).map_err(|_| {
            invalid(r#"The frame is not a JSON object; expected {"action": …, "site": …}."#)
        })?;
        let mut take = |name| fields.remove(name).unwrap_or_default();
        let is_userstatus = take("action") == UPDATE_SUBSCRIBER_SITE;
        let sites = match take("site") {
            Value::Null if is_userstatus => {
                return Err(invalid("'site' is missing; expected one."));
            }
            Value::Null => return Err(invalid("'site' is missing; expected one, or an array.")),
            Value::String(site) => vec![site],
            Value::Array(sites) if !is_userstatus => {
                if sites.is_empty() || sites.len() > MAX_SITES {
                    return Err(Error::Invalid(format!(
                        "'site' has {} entries; expected 1 to {MAX_SITES}.",
                        sites.len()
                    )));
                }
                let mut different = Vec::with_capacity(sites.len());
                for (index, site) in sites.into_iter().enumerate() {
                    match site {
                        Value::String(site) if !different.contains(&site) => different.push(site),
                        Value::String(_) => {
                            return Err(Error::Invalid(format!(
                                "'site', entry {index}, is there already; expected different sites."
                            )));
                        }
                        _ => {
                            return Err(Error::Invalid(format!(
                                "'site', entry {index}, is not a string; expected the name of a site."
                            )));
                        }
                    }
                }
                different
            }
            _ if is_userstatus => return Err(invalid("'site' is not a string; expected one.")),
            _ => {
                return Err(invalid(
                    "'site' is neither a string nor an array; expected one.",
                ));
            }
        };
        for site in &sites {
            if site.is_empty() || site.len() > MAX_SITE_BYTES {
                return Err(Error::Invalid(format!(
                    "'site' is {} bytes long; expected 1 to {MAX_SITE_BYTES}.",
                    site.len()
                )));
            }
        }
        let level = match take("level") {
            _ if is_userstatus => Level::Debug,
            Value::Null => Level::Debug,
            Value::String(name) => Level::from_name(&name).ok_or_else(|| {
                invalid("'level' is not a level; expected debug, info, warning, error or critical.")
            })?,
            _ => return Err(invalid("'level' is not a string; expected one.")),
        };
        Ok(Self {
            sites,
            level,
            is_userstatus,
        })
    }

    /// The JSON of the frame that tells a client what it watches now:
    /// `{"action": "subscribed", "site": ["saf", "mrc"], "level": "warning"}`.
    pub fn to_frame(&self) -> String {
        format!(
            r#"{{"action":"subscribed","site":{},"level":"{}"}}"#,
            to_json(&self.sites),
            self.level.name()
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(frame: &Value) -> Result<Subscription, String> {
        Subscription::from_json(frame.to_string().as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_frame_names_one_site_or_several_and_perhaps_a_level() {
        let subscription = |sites: &[&str], level, is_userstatus| Subscription {
            sites: sites.iter().map(ToString::to_string).collect(),
            level,
            is_userstatus,
        };
        for (frame, expected) in [
            (
                json!({"action": "subscribe", "site": "saf"}),
                subscription(&["saf"], Level::Debug, false),
            ),
            (
                json!({"action": "subscribe", "site": ["saf", "mrc"], "level": " WARN"}),
                subscription(&["saf", "mrc"], Level::Warning, false),
            ),
            (
                json!({"action": "subscribe", "site": ["saf"], "level": null, "more": 1}),
                subscription(&["saf"], Level::Debug, false),
            ),
            (
                json!({"action": "updatesubscribersite", "site": "mrc1", "level": 7}),
                subscription(&["mrc1"], Level::Debug, true),
            ),
        ] {
            assert_eq!(read(&frame), Ok(expected), "{frame}");
        }
        let repeated = br#"{"site": 7, "site": "saf"}"#;
        assert_eq!(Subscription::from_json(repeated).unwrap().sites, ["saf"]);
    }

    #[test]
    fn a_mistake_is_named() {
        let many: Vec<_> = (0..11).map(|site| site.to_string()).collect();
        for (frame, expected) in [
            (json!([]), "The frame is not a JSON object"),
            (json!("x"), "The frame is not a JSON object"),
            (json!({"action": "subscribe"}), "'site' is missing"),
            (json!({"site": null}), "'site' is missing"),
            (
                json!({"site": 7}),
                "'site' is neither a string nor an array",
            ),
            (
                json!({"site": []}),
                "'site' has 0 entries; expected 1 to 10.",
            ),
            (json!({"site": many}), "'site' has 11 entries"),
            (
                json!({"site": ["a", 7]}),
                "'site', entry 1, is not a string",
            ),
            (
                json!({"site": ["a", "a"]}),
                "'site', entry 1, is there already",
            ),
            (json!({"site": ""}), "'site' is 0 bytes long"),
            (
                json!({"site": ["a", "x".repeat(1025)]}),
                "'site' is 1025 bytes long",
            ),
            (
                json!({"site": "a", "level": "loud"}),
                "'level' is not a level",
            ),
            (json!({"site": "a", "level": 30}), "'level' is not a string"),
            (
                json!({"action": "updatesubscribersite", "site": ["a"]}),
                "'site' is not a string",
            ),
        ] {
            let refusal = read(&frame).unwrap_err();
            assert!(refusal.starts_with(expected), "{frame}: {refusal}");
        }
    }

    #[test]
    fn the_answer_says_what_is_watched() {
        let frame = json!({"site": ["s\"af", "mrc"], "level": "error"});
        assert_eq!(
            read(&frame).unwrap().to_frame(),
            r#"{"action":"subscribed","site":["s\"af","mrc"],"level":"error"}"#
        );
    }

    proptest! {
        #[test]
        fn no_frame_panics_and_every_refusal_says_what_is_expected(frame in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Err(error) = Subscription::from_json(&frame) {
                let text = error.to_string();
                prop_assert!(text.contains("expected"), "{text}");
            }
        }
    }
}
