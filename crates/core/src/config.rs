//! Configuration: environment variables and the AWS SDK's settings.

use std::error::Error;
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};

/// Name of the environment variable that holds the messages table's name.
pub const MESSAGES_TABLE: &str = "MESSAGES_TABLE";
/// Name of the environment variable that holds the connections table's name.
pub const CONNECTIONS_TABLE: &str = "CONNECTIONS_TABLE";
/// The SDK's own variable for the management API's endpoint. There is no
/// usable default: the address names the WebSocket API and its stage.
pub const GATEWAY_ENDPOINT: &str = "AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI";

/// Name of the environment variable with the days for which messages are kept.
pub const RETENTION_DAYS: &str = "RETENTION_DAYS";

/// A function was started without a variable that it needs.
#[derive(Debug, thiserror::Error)]
#[error("the environment variable {0} is not set")]
pub struct MissingVariable(&'static str);

/// A function was started with a variable that it cannot use.
#[derive(Debug, thiserror::Error)]
#[error("the environment variable {0} is not a whole number of days")]
pub struct NotDays(&'static str);

/// Reads an environment variable.
///
/// # Errors
/// [`MissingVariable`], which names it, when it is unset, empty or not Unicode.
pub fn variable(name: &'static str) -> Result<String, MissingVariable> {
    std::env::var(name)
        .ok()
        .filter(|value| !value.is_empty())
        .ok_or(MissingVariable(name))
}

/// Reads an environment variable that holds a number of days.
///
/// # Errors
/// [`MissingVariable`] or [`NotDays`], which name it.
pub fn days(name: &'static str) -> Result<Duration, Box<dyn Error + Send + Sync>> {
    let days: u32 = variable(name)?.parse().map_err(|_| NotDays(name))?;
    Ok(Duration::from_secs(u64::from(days) * 24 * 60 * 60))
}

/// The version of the SDK's defaults, pinned so that an update of the SDK
/// changes none of its behaviour.
pub fn behavior_version() -> BehaviorVersion {
    BehaviorVersion::v2026_01_12()
}

/// The time limits of every AWS call. A caller of newlog gives up after 5 s
/// and the function after 3 s, so a call that hangs must leave time for
/// another.
pub fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(1))
        .operation_attempt_timeout(Duration::from_secs(2))
        .build()
}

/// The SDK's settings inside a Lambda function: region, credentials and
/// endpoints come from the environment.
pub async fn from_env() -> SdkConfig {
    aws_config::defaults(behavior_version())
        .timeout_config(timeouts())
        .load()
        .await
}
