//! A function under a Runtime API, as on Lambda ("Lambda runtime API").

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::Result;
use crate::process::{Process, Share};

/// Longer than any call may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// The time limit that the function is told, in milliseconds.
const LIMIT: u128 = 280_000;

/// A function that is ready.
pub struct Function {
    pub process: Process,
    /// From its start until it asked for the first event.
    pub ready: Duration,
    events: mpsc::Sender<String>,
    answers: mpsc::Receiver<(Instant, Bytes)>,
    api: JoinHandle<()>,
}

struct Runtime {
    events: Mutex<mpsc::Receiver<String>>,
    asked: mpsc::Sender<Instant>,
    answers: mpsc::Sender<(Instant, Bytes)>,
}

impl Function {
    pub async fn start(
        binary: &Path,
        environment: &[(&str, String)],
        share: Option<&Share>,
    ) -> Result<Self> {
        let (events, from_events) = mpsc::channel(1);
        let (answered, answers) = mpsc::channel(1);
        let (asked, mut is_asked) = mpsc::channel(1);
        let runtime = Arc::new(Runtime {
            events: Mutex::new(from_events),
            asked,
            answers: answered,
        });
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route(
                "/2018-06-01/runtime/invocation/{id}/response",
                post(response),
            )
            .route("/2018-06-01/runtime/invocation/{id}/error", post(response))
            .with_state(runtime);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let api = tokio::spawn(async move {
            // It ends with this process at the latest.
            let _ = axum::serve(listener, router).await;
        });

        let mut command = Command::new(binary);
        command.env_clear();
        for (name, value) in [
            ("AWS_LAMBDA_RUNTIME_API", address.to_string()),
            ("AWS_LAMBDA_FUNCTION_NAME", "bench".to_owned()),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256".to_owned()),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "bench".to_owned()),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "bench".to_owned()),
            ("AWS_LAMBDA_LOG_FORMAT", "JSON".to_owned()),
            ("AWS_LAMBDA_LOG_LEVEL", "INFO".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "bench".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "bench".to_owned()),
            // As long as a role's.
            ("AWS_SESSION_TOKEN", "bench".repeat(160)),
        ] {
            command.env(name, value);
        }
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let started = Instant::now();
        let process = Process::start(command, Stdio::null(), share)?;
        let asked = timeout(PATIENCE, is_asked.recv()).await?;
        let ready = asked.ok_or("the function did not start")? - started;
        Ok(Self {
            process,
            ready,
            events,
            answers,
            api,
        })
    }

    /// Calls it with an event. Returns how long that took, and the answer.
    pub async fn call(&mut self, event: String) -> Result<(Duration, Bytes)> {
        let started = Instant::now();
        self.events.send(event).await?;
        let answer = timeout(PATIENCE, self.answers.recv()).await?;
        let (ended, answer) = answer.ok_or("the function did not answer")?;
        Ok((ended - started, answer))
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        // First, so that it does not complain about the missing API.
        let _ = self.process.child.start_kill();
        self.api.abort();
    }
}

async fn next(State(runtime): State<Arc<Runtime>>) -> impl IntoResponse {
    // Only the first time is of interest.
    let _ = runtime.asked.try_send(Instant::now());
    let event = runtime.events.lock().await.recv().await.unwrap_or_default();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let headers = [
        (
            "lambda-runtime-aws-request-id",
            "8476a536-e9f4-11e8-9739-2dfe598c3fcd".to_owned(),
        ),
        (
            "lambda-runtime-deadline-ms",
            (now.as_millis() + LIMIT).to_string(),
        ),
        (
            "lambda-runtime-invoked-function-arn",
            "arn:aws:lambda:us-east-1:123456789012:function:bench".to_owned(),
        ),
        (
            "lambda-runtime-trace-id",
            "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700".to_owned(),
        ),
        ("content-type", "application/json".to_owned()),
    ];
    (headers, event)
}

async fn response(State(runtime): State<Arc<Runtime>>, answer: Bytes) -> StatusCode {
    // Nobody waits for it any more if this fails.
    let _ = runtime.answers.send((Instant::now(), answer)).await;
    StatusCode::ACCEPTED
}
