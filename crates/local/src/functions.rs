//! The Lambda functions, called as Lambda calls them: with the JSON of an
//! event, each call in its own task, so that a panic costs one event.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lambda_runtime::{Context, LambdaEvent};
use logstream_core::{Connections, Gateway, Messages};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tracing::Instrument as _;

use crate::App;

/// The time that a function has, in Lambda's configuration.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The largest answer of a function, in bytes ("Lambda quotas": 6 MB).
const MAX_ANSWER: usize = 6 * 1024 * 1024;

/// Calls that requests may have at the same time; others wait for them. On
/// Lambda the account's concurrency bounds them. Each takes two descriptors for
/// its connection to the database, whose both ends are here, and the SDK keeps
/// connections for 90 s.
pub const PLACES: usize = 64;

/// The functions, with what each of them would have as clients of its own.
pub struct Functions {
    pub messages: Messages,
    pub connections: Connections,
    pub gateway: Gateway,
    /// Of the calls by requests, [`PLACES`].
    pub places: Arc<Semaphore>,
    /// Told when newlog has ended, so that the stream is read at once.
    pub stored: Notify,
}

#[derive(Clone, Copy, Debug)]
pub enum Function {
    Connect,
    Disconnect,
    Default,
    Newlog,
    RecentLogs,
    OnlineUsers,
    Broadcaster,
}

/// The function failed: its event or its answer was not of the right shape,
/// it took too long, or it panicked.
#[derive(Debug)]
pub struct FunctionError;

/// Calls a function with an event and returns its answer.
pub async fn invoke(
    app: &Arc<App>,
    function: Function,
    event: &impl Serialize,
) -> Result<Value, FunctionError> {
    let event = serde_json::to_string(event).map_err(|_| FunctionError)?;
    let places = app.functions.places.clone();
    // A broadcast waits for no request.
    let place = match function {
        Function::Broadcaster => None,
        _ => Some(places.acquire_owned().await.map_err(|_| FunctionError)?),
    };
    let call = {
        let app = app.clone();
        async move {
            // Also when nobody waits for the answer any more.
            let _place = place;
            call(&app.functions, function, &event).await
        }
    };
    let answer = isolated(function, call).await;
    if matches!(function, Function::Newlog) {
        app.functions.stored.notify_one();
    }
    answer
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
        gateway,
        ..
    } = functions;
    match function {
        Function::Connect => answer(connect::handle(connections, read(event)?).await),
        Function::Disconnect => answer(disconnect::handle(connections, read(event)?).await),
        Function::Default => answer(default::handle(gateway, read(event)?).await),
        Function::Newlog => answer(newlog::handle(messages, gateway, read(event)?).await),
        Function::RecentLogs => answer(recent_logs::handle(messages, read(event)?).await),
        Function::OnlineUsers => answer(online_users::handle(connections, read(event)?).await),
        Function::Broadcaster => {
            let mut context = Context::default();
            let deadline = SystemTime::now() + TIMEOUT;
            let deadline = deadline.duration_since(UNIX_EPOCH).unwrap_or_default();
            context.deadline = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
            let event = LambdaEvent::new(read(event)?, context);
            answer(broadcaster::handle(connections, gateway, event).await)
        }
    }
}

fn read<T: DeserializeOwned>(event: &str) -> Result<T, String> {
    serde_json::from_str(event).map_err(|error| format!("the event cannot be read: {error}"))
}

fn answer(answer: impl Serialize) -> Result<Value, String> {
    let json = serde_json::to_string(&answer).map_err(|error| error.to_string())?;
    if json.len() > MAX_ANSWER {
        return Err("the answer is too large".to_owned());
    }
    serde_json::from_str(&json).map_err(|error| error.to_string())
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
