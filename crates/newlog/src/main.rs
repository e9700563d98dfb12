//! Lambda entry point: creates the clients once, then handles one event at a
//! time.

use lambda_http::Error;
use logstream_core::{ManagementApi, Messages, Publishers, config, lambda};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    logstream_core::logging::init();
    logstream_core::metrics::init()?;
    let aws = config::from_env();
    let messages = Messages::from_env(&aws)?.with_retention_from_env()?;
    let management_api = ManagementApi::from_env(&aws)?;
    let publishers = Publishers::from_env()?;
    messages.warm_up().await;
    lambda::run(|request| newlog::handle(&messages, &management_api, &publishers, request)).await
}
