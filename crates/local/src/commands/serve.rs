//! `serve`: the local server.

use std::io::{IsTerminal, Write as _, stderr, stdout};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use clap::Args;
use local::{Options as ServerOptions, Server};
use logstream_core::Publishers;
use logstream_core::logging::BestEffort;
use logstream_core::publishers::EntryError;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use super::signals;

/// The most log lines kept while stderr is stuck. Further lines are lost, so
/// that nothing waits for them.
const KEPT_LINES: usize = 1000;

/// How long the end waits for the log's last lines.
const LAST_LINES: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "\
Examples:
  logstream serve
  logstream serve --port 8080 --data-dir data";

/// Runs the message backend on this machine: HTTP and WebSocket APIs,
/// functions, tables and stream. The same as no command.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Port of the HTTP and WebSocket APIs; 0 picks a free one.
    #[arg(long, default_value_t = 3000)]
    port: u16,

    /// Address of both APIs.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,

    /// Folder of the tables; without it they are kept in memory.
    #[arg(long)]
    data_dir: Option<PathBuf>,

    /// File with the entries of publishers' keys, one in a line: messages are
    /// then taken only with a key. Without it, everybody may send.
    #[arg(long, value_name = "FILE")]
    publisher_keys: Option<PathBuf>,

    /// Seconds after which an idle connection is closed.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    idle_timeout: u64,

    /// Seconds after which any connection is closed: 2 h at most, as on AWS.
    #[arg(long, default_value_t = 7200, value_parser = clap::value_parser!(u64).range(1..=7200))]
    max_connection_age: u64,
}

pub async fn run(options: Options) -> ExitCode {
    // Each client takes a descriptor, and many systems give only 256 or 1,024
    // until they are asked for more. Best effort.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let log = start_log();
    let code = match serve(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If stderr is closed, the exit code still says so.
            let _ = writeln!(stderr(), "logstream: {error}");
            ExitCode::FAILURE
        }
    };
    end_log(log);
    code
}

/// Starts the log on stderr, written by a thread of its own, because stderr
/// may be a pipe that nobody reads.
fn start_log() -> WorkerGuard {
    let (writer, log) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(KEPT_LINES)
        .finish(BestEffort(stderr()));
    // dynoxide warns of each put whose condition fails, which is ordinary when
    // messages share a second.
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,dynoxide=error"));
    // After each 5xx of a table the SDK complains that it knows of no network
    // connection. There is none in one process.
    let filter = match "aws_smithy_runtime::client::http::connection_poisoning=off".parse() {
        Ok(silent) => filter.add_directive(silent),
        Err(_) => filter,
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(stderr().is_terminal())
        .with_writer(writer)
        .log_internal_errors(false)
        .init();
    // Rust's own hook would block on a stuck stderr.
    std::panic::set_hook(Box::new(|panic| {
        let reason = panic.payload_as_str();
        let place = panic.location().map(ToString::to_string);
        tracing::error!(reason, place, "panicked");
    }));
    log
}

/// Writes the last lines of the log, unless stderr is stuck. On a thread of its
/// own, because a guard that gives up says so on stdout, and panics if stdout
/// cannot be written.
fn end_log(log: WorkerGuard) {
    let (ended, end) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        drop(log);
        drop(ended);
    });
    let _ = end.recv_timeout(LAST_LINES);
}

/// Reads a file of entries.
fn publishers(file: &Path) -> Result<Publishers, Box<dyn std::error::Error>> {
    let place = file.display();
    let entries = std::fs::read_to_string(file).map_err(|error| format!("{place}: {error}"))?;
    // A line may be a comment.
    let lines = entries
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let publishers: Publishers = lines
        .collect::<Vec<_>>()
        .join("\n")
        .parse()
        .map_err(|error: EntryError| format!("{place}: {error}"))?;
    if publishers.is_empty() {
        // Whoever names a file means to let in nobody else.
        return Err(format!("{place} has no entry").into());
    }
    Ok(publishers)
}

async fn serve(options: Options) -> Result<(), Box<dyn std::error::Error>> {
    // Installed before the server starts, so that either signal always ends it
    // cleanly.
    let (mut interrupt, mut terminate) = signals::both()?;
    let publishers = match &options.publisher_keys {
        Some(file) => publishers(file)?,
        None => Publishers::default(),
    };
    let server = Server::start(ServerOptions {
        host: options.host,
        port: options.port,
        data_dir: options.data_dir,
        idle_timeout: Duration::from_secs(options.idle_timeout),
        max_connection_age: Duration::from_secs(options.max_connection_age),
        publishers,
        ..ServerOptions::default()
    })
    .await?;
    // Whoever closed stdout knows the port.
    let _ = writeln!(stdout(), "listening on {}", server.url());
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    server.stop().await;
    Ok(())
}
