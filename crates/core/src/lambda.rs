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
use lambda_http::lambda_runtime::Runtime;
use lambda_http::lambda_runtime::layers::TracingLayer;
use lambda_http::request::LambdaRequest;
use lambda_http::{Adapter, Body, Context, Error, LambdaEvent, Request, Response, service_fn};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;
use tower::util::MapRequest;
use tower::{Service, ServiceExt as _};

use crate::metrics;

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
    Runtime::new(service(handler))
        .layer(TracingLayer::new())
        .layer(metrics::layer())
        .run()
        .await
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api_gateway::{Query, json};
    use lambda_http::http::StatusCode;

    /// Calls a function that answers with its site and body. Panics where
    /// lambda_http does.
    async fn echo(event: Value) -> Value {
        let handler = async |request: Request| {
            let body = String::from_utf8_lossy(request.body()).into_owned();
            let query = Query::of(&request);
            match query.site() {
                Ok(site) => json(StatusCode::OK, &json!([site, body])),
                Err(error) => error.into_response(),
            }
        };
        let response = call(handler, &event.to_string()).await;
        serde_json::from_str(&response.unwrap()).unwrap()
    }

    fn http(query: &str) -> Value {
        json!({
            "rawPath": "/",
            "rawQueryString": query,
            "headers": {},
            "requestContext": {"http": {"method": "GET"}},
            "body": "x",
        })
    }

    fn websocket(site: &str) -> Value {
        json!({
            "requestContext": {"connectionId": "a=", "connectedAt": 1, "requestTimeEpoch": 1},
            "headers": {},
            "queryStringParameters": {"site": site},
            "body": "x",
        })
    }

    fn with(mut event: Value, pointer: &str, name: &str, value: Value) -> Value {
        event.pointer_mut(pointer).unwrap()[name] = value;
        event
    }

    fn echoed(response: &Value) -> Value {
        assert_eq!(response["statusCode"], 200, "{response}");
        serde_json::from_str(response["body"].as_str().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn every_character_of_a_query_reaches_the_function() {
        let characters = (0..0x80_u8).map(char::from).chain(['é', '🔭', '\u{80}']);
        for character in characters.filter(|character| !"&+%".contains(*character)) {
            let site = format!("a{character}b");
            let response = echo(http(&format!("site={site}"))).await;
            assert_eq!(echoed(&response), json!([site, "x"]));
            let response = echo(websocket(&site)).await;
            assert_eq!(echoed(&response), json!([site, "x"]));
        }
        for (query, site) in [("site=%", "%"), ("site=%zz", "%zz"), ("site=a+b&", "a b")] {
            assert_eq!(echoed(&echo(http(query)).await), json!([site, "x"]));
        }
    }

    #[tokio::test]
    async fn a_query_that_no_uri_can_hold_is_400() {
        for site in ["a".repeat(70_000), "\"".repeat(30_000), "é".repeat(30_000)] {
            let response = echo(http(&format!("site={site}"))).await;
            assert_eq!(response["statusCode"], 400);
            let response = echo(websocket(&site)).await;
            assert_eq!(response["statusCode"], 400);
        }
    }

    #[tokio::test]
    async fn a_host_stage_or_path_that_is_no_part_of_a_uri_does_no_harm() {
        for strange in ["a b", "[", "a:b:c", "\u{0}", "é", "//", "?#", ""] {
            for (event, path) in [(http("site=a"), "rawPath"), (websocket("a"), "path")] {
                for (pointer, name) in [
                    ("/requestContext", "domainName"),
                    ("/requestContext", "stage"),
                    ("", path),
                ] {
                    let event = with(event.clone(), pointer, name, json!(strange));
                    assert_eq!(echoed(&echo(event).await), json!(["a", "x"]));
                }
            }
        }
        for headers in [
            json!({"host": "a b"}),
            json!({"host": "["}),
            json!({"host": "x", "x-forwarded-proto": "no scheme"}),
        ] {
            for event in [http("site=a"), websocket("a")] {
                let event = with(event, "", "headers", headers.clone());
                assert_eq!(echoed(&echo(event).await), json!(["a", "x"]));
            }
        }
    }

    #[tokio::test]
    async fn a_body_is_decoded_only_if_it_is_the_base64_that_it_says() {
        for (body, decoded) in [
            ("eA==", "x"),
            ("%%%", "%%%"),
            ("=", "="),
            ("é", "é"),
            ("", ""),
        ] {
            for event in [http("site=a"), websocket("a")] {
                let event = with(event, "", "body", json!(body));
                let event = with(event, "", "isBase64Encoded", json!(true));
                assert_eq!(echoed(&echo(event).await), json!(["a", decoded]));
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_event_of_an_api_is_an_error() {
        for event in ["{}", "[]", "null", "1", "", "{\"requestContext\": 1}"] {
            let handler = async |_: Request| Response::new(Body::Empty);
            assert!(call(handler, event).await.is_err(), "{event}");
        }
    }
}
