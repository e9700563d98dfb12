//! A database that answers late.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use local::Server;
use tokio::time::sleep;

/// Settings whose calls to a server's database are each delayed.
pub fn slow(server: &Server, delay: Duration) -> SdkConfig {
    let config = server.database();
    let client = config.http_client().unwrap();
    let slow = Slow { client, delay };
    config.into_builder().http_client(slow).build()
}

#[derive(Debug)]
struct Slow<C> {
    client: C,
    delay: Duration,
}

impl HttpClient for Slow<SharedHttpClient> {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Slow {
            client: self.client.http_connector(settings, components),
            delay: self.delay,
        })
    }
}

impl HttpConnector for Slow<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (connector, delay) = (self.client.clone(), self.delay);
        HttpConnectorFuture::new(async move {
            sleep(delay).await;
            connector.call(request).await
        })
    }
}
