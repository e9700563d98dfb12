//! The whole backend on one machine.

use std::io::{IsTerminal, Write as _, stderr, stdout};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use local::{Options, Server};
use logstream_core::Publishers;
use logstream_core::logging::BestEffort;
use logstream_core::publishers::{EntryError, Publisher};
#[cfg(unix)]
use tokio::signal::unix;
#[cfg(windows)]
use tokio::signal::windows;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The most log lines kept while stderr is stuck. Further lines are lost, so
/// that nothing waits for them.
const KEPT_LINES: usize = 1000;

/// How long the end waits for the log's last lines.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Runs the message backend on this machine: HTTP and WebSocket APIs,
/// functions, tables and stream.
#[derive(Parser)]
#[command(name = "logstream", version)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

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

#[derive(Subcommand)]
enum Command {
    /// Keys with which messages may be sent.
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Makes a key. It is printed on stderr, this once; the entry by which a
    /// deployment knows it goes to stdout.
    New {
        /// Whose key it is: letters, digits, '-', '.' and '_'.
        name: String,
        /// A site that it may send to; may be given again.
        #[arg(long = "site", required_unless_present = "all_sites")]
        sites: Vec<String>,
        /// It may send to all sites.
        #[arg(long, conflicts_with = "sites")]
        all_sites: bool,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Command::Key { command }) = arguments.command {
        return match new_key(command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let _ = writeln!(stderr(), "logstream: {error}");
                ExitCode::FAILURE
            }
        };
    }
    // Each client takes a descriptor, and many systems give only 256 or 1,024
    // until they are asked for more. Best effort.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let log = start_log();
    let code = match run(arguments).await {
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

fn new_key(command: KeyCommand) -> Result<(), Box<dyn std::error::Error>> {
    let KeyCommand::New {
        name,
        sites,
        all_sites,
    } = command;
    let mut random = [0; 32];
    getrandom::fill(&mut random)?;
    let (publisher, key) = Publisher::new(name, (!all_sites).then_some(sites), random)?;
    writeln!(stdout(), "{publisher}")?;
    writeln!(stderr(), "key: {key}")?;
    Ok(())
}

/// Reads a file of entries.
fn publishers(file: &Path) -> Result<Publishers, Box<dyn std::error::Error>> {
    let place = file.display();
    let entries = std::fs::read_to_string(file).map_err(|error| format!("{place}: {error}"))?;
    let publishers: Publishers = entries
        .parse()
        .map_err(|error: EntryError| format!("{place}: {error}"))?;
    if publishers.is_empty() {
        // Whoever names a file means to let in nobody else.
        return Err(format!("{place} has no entry").into());
    }
    Ok(publishers)
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    // Installed before the server starts, so that either signal always ends it
    // cleanly.
    let (mut interrupt, mut terminate) = signals()?;
    let publishers = match &arguments.publisher_keys {
        Some(file) => publishers(file)?,
        None => Publishers::default(),
    };
    let server = Server::start(Options {
        host: arguments.host,
        port: arguments.port,
        data_dir: arguments.data_dir,
        idle_timeout: Duration::from_secs(arguments.idle_timeout),
        max_connection_age: Duration::from_secs(arguments.max_connection_age),
        publishers,
        ..Options::default()
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

#[cfg(unix)]
fn signals() -> std::io::Result<(unix::Signal, unix::Signal)> {
    let interrupt = unix::signal(unix::SignalKind::interrupt())?;
    let terminate = unix::signal(unix::SignalKind::terminate())?;
    Ok((interrupt, terminate))
}

/// Ctrl-C, and the end of the console, which is as close as Windows comes to
/// SIGTERM.
#[cfg(windows)]
fn signals() -> std::io::Result<(windows::CtrlC, windows::CtrlClose)> {
    Ok((windows::ctrl_c()?, windows::ctrl_close()?))
}
