//! The function's binary: clients once, then one event after the other.

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use logstream_core::{Connections, config};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    logstream_core::logging::init();
    let aws = config::from_env().await;
    let connections = Connections::new(&aws, config::variable(config::CONNECTIONS_TABLE)?);
    run(service_fn(async |event: LambdaEvent<_>| {
        Ok::<_, Error>(connect::handle(&connections, event.payload).await)
    }))
    .await
}
