//! Reading the events of API Gateway and making its answers.
//!
//! Shapes: HTTP API, payload format 2.0; WebSocket API, Lambda proxy
//! ("Working with AWS Lambda proxy integrations" in the API Gateway guide).

use std::borrow::Cow;

use aws_lambda_events::apigw::{ApiGatewayProxyResponse, ApiGatewayV2httpResponse};
use aws_lambda_events::encodings::Body;
use aws_lambda_events::http::HeaderValue;
use base64::Engine as _;
use serde::Serialize;

use crate::{Error, message};

/// The bytes of a body, which the gateway encodes in base64 unless its
/// Content-Type is a text's: also when there is none, as with
/// `requests.post(url, json_string)`.
///
/// # Errors
/// [`Error::Invalid`] when the body says it is base64 and is not.
pub fn body(body: Option<&str>, is_base64_encoded: bool) -> Result<Cow<'_, [u8]>, Error> {
    let body = body.unwrap_or_default();
    if !is_base64_encoded {
        return Ok(Cow::Borrowed(body.as_bytes()));
    }
    base64::engine::general_purpose::STANDARD
        .decode(body)
        .map(Cow::Owned)
        .map_err(|_| Error::Invalid("The body is not valid base64.".to_owned()))
}

/// The parameters of a query string, in the order they were sent.
///
/// Read from the raw string: the gateway's own map joins a repeated parameter
/// with commas, which a site's name may hold too.
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes a raw query string (`application/x-www-form-urlencoded`).
    pub fn parse(raw: Option<&str>) -> Self {
        let raw = raw.unwrap_or_default().as_bytes();
        Self(form_urlencoded::parse(raw).into_owned().collect())
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
    /// [`Error::Invalid`] when it is missing, empty, too long or given twice.
    pub fn site(&self) -> Result<&str, Error> {
        check_site(self.get("site")?)
    }

    /// All parameters but the one named.
    pub fn without<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0
            .iter()
            .filter(move |(key, _)| key != name)
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// Checks a `site` given in a query string, of HTTP or of `$connect`.
///
/// # Errors
/// [`Error::Invalid`] when it is missing, empty or longer than
/// [`message::MAX_SITE_BYTES`].
pub fn check_site(site: Option<&str>) -> Result<&str, Error> {
    match site {
        None | Some("") => Err(Error::Invalid(
            "Requires query string param 'site'.".to_owned(),
        )),
        Some(site) if site.len() > message::MAX_SITE_BYTES => Err(Error::Invalid(format!(
            "Query string param 'site' is {} bytes long; expected at most {}.",
            site.len(),
            message::MAX_SITE_BYTES
        ))),
        Some(site) => Ok(site),
    }
}

/// A JSON answer of an HTTP function. CORS headers are the gateway's.
pub fn json(status: u16, value: &impl Serialize) -> ApiGatewayV2httpResponse {
    // Serialising to a string fails only for maps with keys that are no
    // strings, and no answer has any.
    let body = serde_json::to_string(value).unwrap_or_default();
    with_body(status, "application/json", body)
}

/// An answer of an HTTP function with a body of the given Content-Type.
pub fn with_body(
    status: u16,
    content_type: &'static str,
    body: String,
) -> ApiGatewayV2httpResponse {
    let mut response = ApiGatewayV2httpResponse::default();
    response.status_code = status.into();
    response
        .headers
        .insert("content-type", HeaderValue::from_static(content_type));
    response.body = Some(Body::Text(body));
    response
}

/// An answer of a WebSocket route. The client sees it only as the refusal of
/// a handshake; some emulators send the body of other routes too, so those
/// have none.
pub fn websocket(status: u16, body: Option<Body>) -> ApiGatewayProxyResponse {
    let mut response = ApiGatewayProxyResponse::default();
    response.status_code = status.into();
    response.body = body;
    response
}
