//! Lambda entry point: creates the clients once, then handles one batch at a
//! time.

use broadcaster::Memory;
use lambda_runtime::layers::TracingLayer;
use lambda_runtime::{Error, LambdaEvent, Runtime, service_fn};
use logstream_core::{Connections, ManagementApi, config, metrics};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    logstream_core::logging::init();
    metrics::init()?;
    let aws = config::from_env();
    let connections = Connections::from_env(&aws)?;
    let management_api = ManagementApi::from_env(&aws)?;
    let memory = Memory::default();
    let tables = config::warm_up(connections.of_site("-"));
    tokio::join!(tables, management_api.warm_up());
    let broadcast = service_fn(async |event: LambdaEvent<_>| {
        let response = broadcaster::handle(&connections, &management_api, &memory, event);
        Ok::<_, Error>(response.await)
    });
    Runtime::new(broadcast)
        .layer(TracingLayer::new())
        .layer(metrics::layer())
        .run()
        .await
}
