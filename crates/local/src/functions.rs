//! The Lambda functions, called as Lambda calls them: with the JSON of an
//! event. Each call has its own task, so that a panic costs one event.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use broadcaster::Memory;
use lambda_http::{Body, Request, Response};
use lambda_runtime::{Context, LambdaEvent};
use logstream_core::{Connections, ManagementApi, Messages, Publishers, lambda};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::Instrument as _;

use crate::App;
use crate::api_gateway::request_id;

/// The time limit of a call, like a function's timeout on Lambda.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The largest response of a function, in bytes ("Lambda quotas": 6 MB).
const MAX_ANSWER: usize = 6 * 1024 * 1024;

/// The most concurrent calls by requests; further ones wait, so that the memory
/// of their answers is bounded, and so that a broadcast finds few calls before
/// its own at the database. On Lambda the account's concurrency limits them.
pub const PLACES: usize = 16;

/// The clients and the memory of the functions. On Lambda each has its own.
pub struct Functions {
    pub messages: Messages,
    pub connections: Connections,
    pub management_api: ManagementApi,
    pub publishers: Publishers,
    pub memory: Memory,
    /// The permits of calls by requests: [`PLACES`].
    pub places: Arc<Semaphore>,
}

/// The functions, by the names of their binaries (`recent-logs`).
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Function {
    Connect,
    Disconnect,
    Default,
    Subscribe,
    Newlog,
    RecentLogs,
    OnlineUsers,
    Broadcaster,
}

/// The function failed: its event or its response had the wrong shape, it took
/// too long, or it panicked.
#[derive(Debug)]
pub struct FunctionError;

/// Calls a function with an event and returns its response.
pub async fn invoke(
    app: &Arc<App>,
    function: Function,
    event: &impl Serialize,
) -> Result<Value, FunctionError> {
    let event = serde_json::to_string(event).map_err(|_| FunctionError)?;
    let places = app.functions.places.clone();
    // A broadcast must not wait for requests.
    let place = match function {
        Function::Broadcaster => None,
        _ => Some(places.acquire_owned().await.map_err(|_| FunctionError)?),
    };
    let call = {
        let app = app.clone();
        async move {
            // Held until the call ends, even if nobody waits for it any more.
            let _place = place;
            call(&app.functions, function, &event).await
        }
    };
    isolated(function, call).await
}

/// Runs a call in a task of its own, so that a panic costs one event.
async fn isolated(
    function: Function,
    call: impl Future<Output = Result<Value, String>> + Send + 'static,
) -> Result<Value, FunctionError> {
    let call =
        timeout(TIMEOUT, call).instrument(tracing::error_span!("function", name = ?function));
    // A panic is logged where it happens.
    let ended = tokio::spawn(call).await.map_err(|_| FunctionError)?;
    let answer = ended.unwrap_or_else(|_| Err("timed out".to_owned()));
    answer.map_err(|error| {
        tracing::error!(?function, error, "function failed");
        FunctionError
    })
}

async fn call(functions: &Functions, function: Function, event: &str) -> Result<Value, String> {
    let Functions {
        messages,
        connections,
        management_api,
        publishers,
        memory,
        ..
    } = functions;
    match function {
        Function::Connect => request(|request| connect::handle(connections, request), event).await,
        Function::Disconnect => {
            request(|request| disconnect::handle(connections, request), event).await
        }
        Function::Default => {
            request(|request| default::handle(management_api, request), event).await
        }
        Function::Subscribe => {
            request(
                |request| subscribe::handle(connections, management_api, request),
                event,
            )
            .await
        }
        Function::Newlog => {
            request(
                |request| newlog::handle(messages, management_api, publishers, request),
                event,
            )
            .await
        }
        Function::RecentLogs => {
            request(|request| recent_logs::handle(messages, request), event).await
        }
        Function::OnlineUsers => {
            request(|request| online_users::handle(connections, request), event).await
        }
        Function::Broadcaster => {
            let mut context = Context::default();
            context.request_id = request_id();
            let deadline = SystemTime::now() + TIMEOUT;
            let deadline = deadline.duration_since(UNIX_EPOCH).unwrap_or_default();
            context.deadline = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
            let event = serde_json::from_str(event).map_err(unreadable)?;
            let event = LambdaEvent::new(event, context);
            let response = broadcaster::handle(connections, management_api, memory, event).await;
            answer(&serde_json::to_string(&response).map_err(unreadable)?)
        }
    }
}

async fn request<H, F>(handler: H, event: &str) -> Result<Value, String>
where
    H: Fn(Request) -> F,
    F: Future<Output = Response<Body>> + Send,
{
    answer(&lambda::call(handler, event).await.map_err(unreadable)?)
}

fn answer(json: &str) -> Result<Value, String> {
    if json.len() > MAX_ANSWER {
        return Err("the response is too large".to_owned());
    }
    serde_json::from_str(json).map_err(unreadable)
}

fn unreadable(error: serde_json::Error) -> String {
    format!("not the expected JSON: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_that_panics_costs_one_event() {
        let panics = isolated(Function::Newlog, async { panic!("in a function") });
        assert!(panics.await.is_err());
        let works = isolated(Function::Newlog, async { Ok(Value::Null) });
        assert_eq!(works.await.unwrap(), Value::Null);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_never_ends_fails_when_its_time_is_up() {
        let hangs = isolated(Function::Newlog, std::future::pending());
        assert!(hangs.await.is_err());
    }
}
