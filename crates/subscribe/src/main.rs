//! Lambda entry point: creates the clients once, then handles one event at a
//! time.

use lambda_http::Error;
use logstream_core::{Connections, ManagementApi, config, lambda};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    logstream_core::logging::init();
    logstream_core::metrics::init()?;
    let aws = config::from_env();
    let connections = Connections::from_env(&aws)?;
    let management_api = ManagementApi::from_env(&aws)?;
    lambda::run(|request| subscribe::handle(&connections, &management_api, request)).await
}
