//! The one error type and its one mapping to a response.

use std::error::Error as StdError;

use lambda_http::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use lambda_http::http::{HeaderValue, StatusCode};
use lambda_http::{Body, Response};

use crate::api_gateway::json;
use crate::metrics;

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's mistake: 400. The text names the field and says what is
    /// expected.
    #[error("{0}")]
    Invalid(String),

    /// No key or an unknown one, where one is needed: 401.
    #[error("{0}")]
    Unauthorized(String),

    /// The key is not for this site: 403.
    #[error("{0}")]
    Forbidden(String),

    /// A message too large for a WebSocket frame: 413.
    #[error("{0}")]
    TooLarge(String),

    /// Our own fault: 503. A retry is safe. The cause goes to the log, never to
    /// the caller.
    #[error("The service is not available at the moment; send the request again.")]
    Unavailable {
        /// The call that failed, such as `PutItem`.
        operation: &'static str,
        /// The error, without the texts of messages.
        cause: String,
    },
}

impl Error {
    /// An AWS call that failed after all its retries.
    pub fn aws(operation: &'static str, error: &(dyn StdError + 'static)) -> Self {
        Self::Unavailable {
            operation,
            cause: chain(error),
        }
    }

    /// The same for a message of an array: a text for the caller begins with
    /// the message's index.
    #[must_use]
    pub fn of_message(self, index: usize) -> Self {
        let named = |text| format!("Message {index}: {text}");
        match self {
            Self::Invalid(text) => Self::Invalid(named(text)),
            Self::Unauthorized(text) => Self::Unauthorized(named(text)),
            Self::Forbidden(text) => Self::Forbidden(named(text)),
            Self::TooLarge(text) => Self::TooLarge(named(text)),
            // Whichever it was, all are sent again.
            Self::Unavailable { .. } => self,
        }
    }

    /// The HTTP status code.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Counts the refusal, and logs our own faults at ERROR, which the alarm
    /// counts. A caller's mistake is not logged. Call it once, where the error
    /// is handled.
    pub fn log(&self) {
        metrics::refused(self.reason());
        if let Self::Unavailable { operation, cause } = self {
            tracing::error!(operation, cause, "request failed");
        }
    }

    /// The reason in the count of refusals.
    fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid",
            Self::Unauthorized(_) => "no_key",
            Self::Forbidden(_) => "other_site",
            Self::TooLarge(_) => "too_large",
            Self::Unavailable { .. } => "unavailable",
        }
    }

    /// Logs the error and turns it into a response: `{"message": "…"}`. As the
    /// response of `$connect` it refuses the handshake.
    pub fn into_response(self) -> Response<Body> {
        self.log();
        let mut response = json(self.status(), &ErrorBody::from(&self));
        let header = match self {
            Self::Unavailable { .. } => Some((RETRY_AFTER, "1")),
            // A 401 must name the scheme (RFC 9110, 15.5.2).
            Self::Unauthorized(_) => Some((WWW_AUTHENTICATE, "Bearer")),
            _ => None,
        };
        if let Some((name, value)) = header {
            let value = HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
        }
        response
    }
}

#[derive(serde::Serialize)]
struct ErrorBody {
    message: String,
}

impl From<&Error> for ErrorBody {
    fn from(error: &Error) -> Self {
        Self {
            message: error.to_string(),
        }
    }
}

/// An error and its causes on one line. Only their `Display` texts: the
/// `Debug` form of an SDK error holds the raw response, and with it the texts
/// of messages.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
