//! Configuration: environment variables and the AWS SDK's settings.

use std::fmt;
use std::time::Duration;

use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::SharedCredentialsProvider;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_types::sdk_config::Builder;
use aws_types::service_config::{LoadServiceConfig, ServiceConfigKey};
use tokio::time::timeout;

use crate::dns::Names;

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
    /// Not of the form that it must have, and why.
    #[error("the environment variable {0} cannot be read: {1}")]
    Malformed(&'static str, String),
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

/// What all settings of the SDK begin with. The version of its defaults is
/// pinned, so that an update of the SDK changes none of its behaviour.
pub fn builder() -> Builder {
    // A caller of newlog gives up after 5 s and the function after 3 s, so a
    // call that hangs must leave time for another.
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(1))
        .operation_attempt_timeout(Duration::from_secs(2))
        .build();
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .timeout_config(timeouts)
        // It watches how fast each body moves. These are short, and an attempt
        // has its time limit.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
}

/// An HTTP client for AWS's endpoints.
pub fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_with_resolver(Names::default())
}

/// The SDK's settings inside a Lambda function, from its environment
/// ("Defined runtime environment variables"): region, credentials, and the
/// endpoints that `AWS_ENDPOINT_URL` and its like name. Nothing else is looked
/// for. The SDK's own loader links the code that reads profiles, instance
/// metadata and tokens, which is a megabyte that no function uses.
pub fn from_env() -> SdkConfig {
    let mut config = builder()
        .http_client(http_client())
        .credentials_provider(SharedCredentialsProvider::new(
            EnvironmentVariableCredentialsProvider::new(),
        ))
        .service_config(Environment);
    config.set_region(std::env::var("AWS_REGION").ok().map(Region::new));
    config.build()
}

/// Makes a call while the function starts, so that its first event waits for
/// no TLS handshake: a start has a whole core, an event only the share that
/// belongs to the function's memory. What becomes of the call does not matter,
/// and it takes 2 s at most.
pub async fn warm_up<T>(call: impl Future<Output = T>) {
    let _ = timeout(Duration::from_secs(2), call).await;
}

/// The settings of single services.
#[derive(Debug)]
struct Environment;

impl LoadServiceConfig for Environment {
    /// `AWS_ENDPOINT_URL_DYNAMODB` before `AWS_ENDPOINT_URL`.
    fn load_config(&self, key: ServiceConfigKey<'_>) -> Option<String> {
        let service = key.service_id().to_uppercase().replace(' ', "_");
        let value = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        value(&format!("{}_{service}", key.env())).or_else(|| value(key.env()))
    }
}
