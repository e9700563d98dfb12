//! Lambda entry point: creates the clients once, then handles one event at a
//! time.

use lambda_http::Error;
use logstream_core::{Messages, config, lambda};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    logstream_core::logging::init();
    logstream_core::metrics::init()?;
    let aws = config::from_env();
    let messages = Messages::from_env(&aws)?;
    messages.warm_up().await;
    lambda::run(|request| recent_logs::handle(&messages, request)).await
}
