//! Requests that API Gateway hands to a function, and the responses.
//!
//! One shape serves both APIs: [`crate::lambda`] turns the events of the HTTP
//! API (payload format 2.0) and of the WebSocket API (Lambda proxy
//! integration) into a [`Request`].

use lambda_http::http::header::CONTENT_TYPE;
use lambda_http::http::{HeaderValue, StatusCode};
use lambda_http::request::RequestContext;
use lambda_http::{Body, Request, Response};
use serde::Serialize;

use crate::subscription::MAX_SITES;
use crate::text::form_fields;
use crate::{Error, Level, message};

/// When the gateway got the request of an event of the WebSocket API, in Unix
/// milliseconds; 0 for a request of the HTTP API.
pub fn requested_at(request: &Request) -> i64 {
    match request.extensions().get() {
        Some(RequestContext::WebSocket(context)) => context.request_time_epoch,
        _ => 0,
    }
}

/// The id of the connection that an event of the WebSocket API belongs to;
/// `None` for a request of the HTTP API.
pub fn connection_id(request: &Request) -> Option<&str> {
    match request.extensions().get() {
        Some(RequestContext::WebSocket(context)) => context.connection_id.as_deref(),
        _ => None,
    }
}

/// The parameters of a query string, in the order they were sent.
///
/// Read from the URI, because the gateway's own map joins a repeated
/// parameter with commas, which a site's name may hold too.
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes a request's query string (`application/x-www-form-urlencoded`).
    /// A client that adds `?site=tst` to an address that has a query already
    /// means `site`, not `?site`.
    pub fn of(request: &Request) -> Self {
        let mut fields: Vec<_> = form_fields(request.uri().query().unwrap_or_default()).collect();
        for (name, _) in &mut fields {
            if let Some(meant) = name.strip_prefix('?') {
                *name = meant.to_owned();
            }
        }
        Self(fields)
    }

    /// The value of a parameter; an empty one counts as missing.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is given twice.
    pub fn get(&self, name: &str) -> Result<Option<&str>, Error> {
        let mut values = self.0.iter().filter(|(key, _)| key == name);
        let first = values.next();
        if values.next().is_some() {
            return Err(Error::Invalid(format!(
                "Query string param '{name}' is given more than once; expected once."
            )));
        }
        Ok(first
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty()))
    }

    /// The required parameter `site`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is missing, empty, given twice or longer
    /// than [`message::MAX_SITE_BYTES`].
    pub fn site(&self) -> Result<&str, Error> {
        let site = self
            .get("site")?
            .ok_or_else(|| Error::Invalid("Requires query string param 'site'.".to_owned()))?;
        check_length(site)?;
        Ok(site)
    }

    /// The parameter `site`, which may be given up to [`MAX_SITES`] times, in
    /// the order they were sent.
    ///
    /// # Errors
    /// [`Error::Invalid`] as for [`Self::site`], and when a site is given twice
    /// or one of several is empty.
    pub fn sites(&self) -> Result<Vec<&str>, Error> {
        let given = self.0.iter().filter(|(key, _)| key == "site");
        let sites: Vec<_> = given.map(|(_, value)| value.as_str()).collect();
        if sites.len() < 2 {
            return Ok(vec![self.site()?]);
        }
        if sites.len() > MAX_SITES {
            return Err(Error::Invalid(format!(
                "Query string param 'site' is given {} times; expected at most {MAX_SITES}.",
                sites.len()
            )));
        }
        for (index, site) in sites.iter().enumerate() {
            check_length(site)?;
            if site.is_empty() || sites.iter().take(index).any(|other| other == site) {
                return Err(Error::Invalid(
                    "Query string param 'site' is given more than once, and one is empty or repeated; expected different sites."
                        .to_owned(),
                ));
            }
        }
        Ok(sites)
    }

    /// The parameter `level`, by any name of a level; the lowest if it is missing.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is no level or given twice.
    pub fn level(&self) -> Result<Level, Error> {
        let Some(name) = self.get("level")? else {
            return Ok(Level::Debug);
        };
        Level::from_name(name).ok_or_else(|| {
            Error::Invalid(
                "Query string param 'level' is not a level; expected debug, info, warning, error or critical."
                    .to_owned(),
            )
        })
    }

    /// All parameters except the one named.
    pub fn without<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0
            .iter()
            .filter(move |(key, _)| key != name)
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

fn check_length(site: &str) -> Result<(), Error> {
    if site.len() > message::MAX_SITE_BYTES {
        return Err(Error::Invalid(format!(
            "Query string param 'site' is {} bytes long; expected at most {}.",
            site.len(),
            message::MAX_SITE_BYTES
        )));
    }
    Ok(())
}

/// A JSON response. CORS headers are the gateway's.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // Serialising can fail only for maps with non-string keys; no response
    // has one.
    let body = serde_json::to_string(value).unwrap_or_default();
    with_body(status, "application/json", body)
}

/// A response with a body of the given Content-Type.
pub fn with_body(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::Text(body));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// A response without a body. What a WebSocket route other than `$connect`
/// returns is for the gateway alone, but some emulators send the body on to
/// the client.
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    response
}
