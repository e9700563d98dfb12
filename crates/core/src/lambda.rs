//! A function as Lambda runs it: from the event's JSON to the response's.
//!
//! lambda_http panics on some events instead of refusing them. [`repair`]
//! changes those events before they reach it, so that the function itself
//! answers them with 400.

use std::convert::Infallible;
use std::future::Future;

use aws_lambda_events::query_map::QueryMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lambda_http::http::header::HOST;
use lambda_http::request::LambdaRequest;
use lambda_http::{Adapter, Body, Context, Error, LambdaEvent, Request, Response, service_fn};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;
use tower::util::MapRequest;
use tower::{Service, ServiceExt as _};

/// What the query of a URI must not hold as it is: lambda_http passes it to
/// `http::Uri`, which refuses these bytes, and panics. `#` would end the
/// query. The same set as the URL standard's "query percent-encode set".
const QUERY: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>');

/// The longest query string that is read, in bytes. `http::Uri` takes 65,534
/// for the whole URI. API Gateway passes on at most 10,240 ("Quotas for HTTP
/// APIs": request line and header values).
const MAX_QUERY_BYTES: usize = 60_000;

/// Runs a function on Lambda until its environment ends.
///
/// # Errors
/// When the Lambda runtime cannot be reached.
pub async fn run<H, F>(handler: H) -> Result<(), Error>
where
    H: Fn(Request) -> F,
    F: Future<Output = Response<Body>> + Send,
{
    lambda_http::lambda_runtime::run(service(handler)).await
}

/// Calls a function once, as Lambda would: with the JSON of an event of either
/// API. Returns the JSON of the response.
///
/// # Errors
/// When the event is not of either API's shape.
pub async fn call<H, F>(handler: H, event: &str) -> serde_json::Result<String>
where
    H: Fn(Request) -> F,
    F: Future<Output = Response<Body>> + Send,
{
    let event = LambdaEvent::new(serde_json::from_str(event)?, Context::default());
    let Ok(response) = service(handler).oneshot(event).await;
    serde_json::to_string(&response)
}

fn service<'a, H, F>(
    handler: H,
) -> impl Service<LambdaEvent<LambdaRequest>, Response = impl Serialize, Error = Infallible, Future: Send>
where
    H: Fn(Request) -> F,
    F: Future<Output = Response<Body>> + Send + 'a,
{
    let handler = service_fn(move |request| {
        let response = handler(request);
        async { Ok::<_, Infallible>(response.await) }
    });
    MapRequest::new(Adapter::from(handler), repair)
}

/// Changes what lambda_http would panic on. The host, the domain name, the
/// stage and the path go as well: lambda_http joins them to a URI, and no
/// function reads them.
fn repair(mut event: LambdaEvent<LambdaRequest>) -> LambdaEvent<LambdaRequest> {
    match &mut event.payload {
        LambdaRequest::ApiGatewayV2(request) => {
            request.headers.remove(HOST);
            request.request_context.domain_name = None;
            request.request_context.stage = None;
            request.raw_path = None;
            request.raw_query_string = request.raw_query_string.take().map(|query| {
                let query = utf8_percent_encode(&query, QUERY).to_string();
                if query.len() > MAX_QUERY_BYTES {
                    String::new()
                } else {
                    query
                }
            });
            request.is_base64_encoded &= is_base64(request.body.as_deref());
        }
        LambdaRequest::WebSocket(request) => {
            request.headers.remove(HOST);
            request.request_context.domain_name = None;
            request.request_context.stage = None;
            request.path = None;
            for query in [
                &mut request.query_string_parameters,
                &mut request.multi_value_query_string_parameters,
            ] {
                if query.to_query_string().len() > MAX_QUERY_BYTES {
                    *query = QueryMap::default();
                }
            }
            request.is_base64_encoded &= is_base64(request.body.as_deref());
        }
        _ => {}
    }
    event
}

/// Whether a body is what `isBase64Encoded` says. One that is not is left as
/// it is, and refused by the function because it is no JSON.
fn is_base64(body: Option<&str>) -> bool {
    STANDARD.decode(body.unwrap_or_default()).is_ok()
}
