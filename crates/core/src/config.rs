//! Configuration: environment variables and the AWS SDK's settings.

use std::fmt;
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};

/// A function was started without a variable that it needs, or with a value
/// that it cannot use.
#[derive(thiserror::Error)]
pub enum ConfigError {
    /// Unset, empty or not Unicode.
    #[error("the environment variable {0} is not set")]
    Missing(&'static str),
    /// Not a whole number of days.
    #[error("the environment variable {0} is not a whole number of days")]
    NotDays(&'static str),
}

impl fmt::Debug for ConfigError {
    /// The same sentence as [`fmt::Display`]: Rust prints the debug form of an
    /// error that `main` returns.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads an environment variable.
///
/// # Errors
/// [`ConfigError::Missing`], which names it.
pub fn variable(name: &'static str) -> Result<String, ConfigError> {
    std::env::var(name)
        .ok()
        .filter(|value| !value.is_empty())
        .ok_or(ConfigError::Missing(name))
}

/// Reads an environment variable that holds a number of days.
///
/// # Errors
/// [`ConfigError`], which names it.
pub fn days(name: &'static str) -> Result<Duration, ConfigError> {
    let days = variable(name)?.parse();
    let days: u32 = days.map_err(|_| ConfigError::NotDays(name))?;
    Ok(Duration::from_secs(u64::from(days) * 24 * 60 * 60))
}

/// The version of the SDK's defaults. Pinned, so that an update of the SDK
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
