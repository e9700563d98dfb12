//! The way from the SDK clients to the parts of this process that they call:
//! the same requests and responses as over HTTP, without a socket. So no proxy
//! of the environment, no web page and no other user is in between.

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use tower::ServiceExt as _;

/// An HTTP client whose every request goes to this part.
pub fn client(part: Router) -> SharedHttpClient {
    SharedHttpClient::new(InProcess(part))
}

#[derive(Clone, Debug)]
struct InProcess(Router);

impl HttpClient for InProcess {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for InProcess {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let part = self.0.clone();
        HttpConnectorFuture::new(async move {
            let wrong = |error| ConnectorError::user(Box::new(error));
            let request = request.try_into_http1x().map_err(wrong)?;
            // No request of these clients is streamed.
            let request = request.map(|body| {
                Body::from(body.bytes().map(Bytes::copy_from_slice).unwrap_or_default())
            });
            let Ok(response) = part.oneshot(request).await;
            let (head, body) = response.into_parts();
            let body = to_bytes(body, usize::MAX).await;
            let body = body.map_err(|error| ConnectorError::io(Box::new(error)))?;
            let response = axum::http::Response::from_parts(head, SdkBody::from(body));
            HttpResponse::try_from(response).map_err(wrong)
        })
    }
}
