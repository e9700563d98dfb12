//! Posting to a connection, and closing it, through API Gateway's management
//! API.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_sdk_apigatewaymanagement::Client;
use aws_sdk_apigatewaymanagement::config::Builder;
use aws_sdk_apigatewaymanagement::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_apigatewaymanagement::primitives::Blob;
use tokio::time::sleep;

use crate::error::chain;

/// The management API of one stage of the WebSocket API.
#[derive(Clone, Debug)]
pub struct Gateway {
    client: Client,
}

/// What became of a post, or of a close. That the client is gone is an
/// ordinary outcome, not an error.
#[derive(Debug)]
pub enum Outcome {
    /// The gateway took it.
    Done,
    /// 410: there is no such connection, no longer or not yet (until the
    /// gateway has finished the handshake, after `$connect` returned).
    Gone,
    /// 429: the account's rate is used up, or the client does not read.
    Throttled,
    /// Any other failure, such as 5xx.
    Failed(String),
}

impl Gateway {
    /// The management API at the config's endpoint, which must name the
    /// stage: `https://{api}.execute-api.{region}.amazonaws.com/{stage}`.
    pub fn new(config: &SdkConfig) -> Self {
        // One attempt a call. The SDK's retries share one budget among all
        // calls of a client, so the failures of a few connections would take
        // those of the others; who posts decides what to try again.
        let config = Builder::from(config)
            .retry_config(RetryConfig::disabled())
            .build();
        Self {
            client: Client::from_conf(config),
        }
    }

    /// Posts a frame to a connection, once.
    pub async fn post(&self, connection_id: &str, frame: Blob) -> Outcome {
        outcome(
            self.client
                .post_to_connection()
                .connection_id(connection_id)
                .data(frame)
                .send()
                .await,
        )
    }

    /// Closes a connection, once.
    pub async fn close(&self, connection_id: &str) -> Outcome {
        outcome(
            self.client
                .delete_connection()
                .connection_id(connection_id)
                .send()
                .await,
        )
    }

    /// Tells one client what was wrong with its own frame, best effort: three
    /// tries. What remains is logged, unless the client is gone.
    pub async fn answer(&self, connection_id: &str, frame: String) {
        let frame = Blob::new(frame);
        let mut failure = String::new();
        for attempt in 0..3 {
            if attempt > 0 {
                sleep(Duration::from_millis(100).mul_f64(fastrand::f64())).await;
            }
            match self.post(connection_id, frame.clone()).await {
                Outcome::Done | Outcome::Gone => return,
                Outcome::Throttled => failure = "throttled".to_owned(),
                Outcome::Failed(cause) => failure = cause,
            }
        }
        tracing::error!(
            connection_id,
            cause = failure,
            "the sender could not be told of its error"
        );
    }
}

fn outcome<T, E>(result: Result<T, SdkError<E>>) -> Outcome
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    let error = match result {
        Ok(_) => return Outcome::Done,
        Err(error) => error,
    };
    // By the status alone: the error's name is missing from some answers.
    match error
        .raw_response()
        .map(|response| response.status().as_u16())
    {
        Some(410) => Outcome::Gone,
        Some(429) => Outcome::Throttled,
        Some(status) => Outcome::Failed(format!("{status}: {}", chain(&error))),
        None => Outcome::Failed(chain(&error)),
    }
}
