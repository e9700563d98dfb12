//! The function's binary: clients once, then one event after the other.

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use logstream_core::{Gateway, Messages, config};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    logstream_core::logging::init();
    let aws = config::from_env().await;
    let messages = Messages::new(&aws, config::variable(config::MESSAGES_TABLE)?)
        .with_retention(config::days(config::RETENTION_DAYS)?);
    config::variable(config::GATEWAY_ENDPOINT)?;
    let gateway = Gateway::new(&aws);
    run(service_fn(async |event: LambdaEvent<_>| {
        Ok::<_, Error>(newlog::handle(&messages, &gateway, event.payload).await)
    }))
    .await
}
