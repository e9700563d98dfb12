//! The one error type and its one mapping to a response.

use std::error::Error as StdError;

use aws_lambda_events::apigw::{ApiGatewayProxyResponse, ApiGatewayV2httpResponse};
use aws_lambda_events::encodings::Body;
use aws_lambda_events::http::HeaderValue;

use crate::http;

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's mistake: 400. The text names the field and says what is
    /// expected.
    #[error("{0}")]
    Invalid(String),

    /// A message that no WebSocket frame could carry: 413.
    #[error("{0}")]
    TooLarge(String),

    /// Our own fault, for which a retry is safe: 503. The cause goes to the
    /// log, never to the caller.
    #[error("The service is not available at the moment; send the request again.")]
    Unavailable {
        /// The call that failed, such as `PutItem`.
        operation: &'static str,
        /// What it failed with, without the texts of messages.
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

    /// The HTTP status code.
    pub fn status(&self) -> u16 {
        match self {
            Self::Invalid(_) => 400,
            Self::TooLarge(_) => 413,
            Self::Unavailable { .. } => 503,
        }
    }

    /// Logs what is our own fault, as an error, which an alarm counts. A
    /// caller's mistake is not logged. Call it once, where the error ends.
    pub fn log(&self) {
        if let Self::Unavailable { operation, cause } = self {
            tracing::error!(operation, cause, "request failed");
        }
    }

    /// Logs the error and turns it into the answer of an HTTP function:
    /// `{"message": "…"}`.
    pub fn into_http(self) -> ApiGatewayV2httpResponse {
        self.log();
        let mut response = http::json(self.status(), &ErrorBody::from(&self));
        if matches!(self, Self::Unavailable { .. }) {
            response
                .headers
                .insert("retry-after", HeaderValue::from_static("1"));
        }
        response
    }

    /// Logs the error and turns it into the answer of `$connect`, which
    /// refuses the handshake with it.
    pub fn into_handshake(self) -> ApiGatewayProxyResponse {
        self.log();
        let body = serde_json::to_string(&ErrorBody::from(&self)).unwrap_or_default();
        let mut response = http::websocket(self.status(), Some(Body::Text(body)));
        let json = HeaderValue::from_static("application/json");
        response.headers.insert("content-type", json);
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
