//! The client of API Gateway's management API (`@connections`), which posts
//! to a connection and closes it.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_sdk_apigatewaymanagement::Client;
use aws_sdk_apigatewaymanagement::config::Builder;
use aws_sdk_apigatewaymanagement::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_apigatewaymanagement::primitives::Blob;
use tokio::time::sleep;

use crate::backoff;
use crate::config::{self, ConfigError, variable};
use crate::error::chain;

/// The SDK's own variable for the endpoint. There is no usable default: the
/// address names the WebSocket API and its stage.
const ENDPOINT_VARIABLE: &str = "AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI";

/// How often it is tried to answer a sender.
const ANSWER_ATTEMPTS: usize = 3;

/// The management API of one stage of the WebSocket API.
#[derive(Clone, Debug)]
pub struct ManagementApi {
    client: Client,
}

/// What became of a post or of a close.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The gateway took it.
    Done,
    /// 410: there is no such connection. It is closed, or it is not open yet
    /// because the gateway has not finished its handshake.
    Gone,
    /// 429: the account's rate is used up, or the client does not read.
    Throttled,
    /// 5xx.
    ServerError(String),
    /// Anything else says nothing about the connection: a lost permission
    /// (403), no network, no descriptor left.
    NotSent(String),
}

impl ManagementApi {
    /// The management API at the config's endpoint, which must name the
    /// stage: `https://{api}.execute-api.{region}.amazonaws.com/{stage}`.
    pub fn new(config: &SdkConfig) -> Self {
        // One attempt a call. The SDK's retries share one budget among all
        // calls of a client, so a few failing connections would use up
        // everyone's retries. The caller decides what to retry.
        let config = Builder::from(config)
            .retry_config(RetryConfig::disabled())
            .build();
        Self {
            client: Client::from_conf(config),
        }
    }

    /// The management API that the function's environment names.
    ///
    /// # Errors
    /// [`ConfigError`] when the variable is not set.
    pub fn from_env(config: &SdkConfig) -> Result<Self, ConfigError> {
        // The SDK reads the value itself.
        variable(ENDPOINT_VARIABLE)?;
        Ok(Self::new(config))
    }

    /// Opens the first connection to the gateway ([`config::warm_up`]), with a
    /// post to a connection that does not exist.
    pub async fn warm_up(&self) {
        config::warm_up(self.post("-", Blob::new("-"))).await;
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

    /// Answers one client's own frame. Best effort: three
    /// attempts, then the failure is logged, unless the client is gone.
    pub async fn answer(&self, connection_id: &str, frame: String) {
        let frame = Blob::new(frame);
        let mut waits = backoff(Duration::from_millis(50), Duration::from_millis(200))
            .take(ANSWER_ATTEMPTS - 1);
        loop {
            let outcome = self.post(connection_id, frame.clone()).await;
            if matches!(outcome, Outcome::Done | Outcome::Gone) {
                return;
            }
            let Some(wait) = waits.next() else {
                tracing::error!(connection_id, ?outcome, "the sender could not be answered");
                return;
            };
            sleep(wait).await;
        }
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
    let status = error
        .raw_response()
        .map(|response| response.status().as_u16());
    match status {
        Some(410) => Outcome::Gone,
        Some(429) => Outcome::Throttled,
        Some(status @ 500..) => Outcome::ServerError(format!("{status}: {}", chain(&error))),
        Some(status) => Outcome::NotSent(format!("{status}: {}", chain(&error))),
        None => Outcome::NotSent(chain(&error)),
    }
}
