//! The whole backend on one machine.

use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use local::{Options, Server};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Runs the message backend on this machine: HTTP and WebSocket APIs,
/// functions, tables and stream.
#[derive(Parser)]
#[command(name = "logstream", version)]
struct Arguments {
    /// Port of the HTTP and WebSocket APIs; 0 picks a free one.
    #[arg(long, default_value_t = 3000)]
    port: u16,

    /// Address they listen on. The database and the management API stay on
    /// loopback.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,

    /// Folder to keep the tables in; without it they are in memory.
    #[arg(long)]
    data_dir: Option<PathBuf>,

    /// Seconds after which an idle connection is closed.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    idle_timeout: u64,

    /// Seconds after which any connection is closed.
    #[arg(long, default_value_t = 7200, value_parser = clap::value_parser!(u64).range(1..))]
    max_connection_age: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // The database warns of each put whose condition fails, and those are the
    // ordinary case of messages in one second.
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,dynoxide=error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("logstream: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    // Before the server is ready: from then on either ends it cleanly.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let server = Server::start(Options {
        host: arguments.host,
        port: arguments.port,
        data_dir: arguments.data_dir,
        idle_timeout: Duration::from_secs(arguments.idle_timeout),
        max_connection_age: Duration::from_secs(arguments.max_connection_age),
    })
    .await?;
    println!("listening on {}", server.url());
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    server.stop().await;
    Ok(())
}
