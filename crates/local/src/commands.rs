//! The commands, and what they share.

mod client;
mod key;
mod online;
mod options;
mod output;
mod pages;
mod profiles;
mod recent;
mod send;
mod serve;
mod signals;
mod smoke;
mod tail;

use std::io::{Write as _, stderr};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  logstream --data-dir data
  logstream send --site tst 'Dome opened'
  logstream tail --site tst --since 2h

Exit codes:
  0    done
  1    failed: not reachable, refused, or not all of it was done
  2    wrong arguments or settings
  130  ended by Ctrl-C, 143 by SIGTERM; the server and `tail` then end with 0

Environment:
  LOGSTREAM_KEY      the key to send with
  LOGSTREAM_PROFILE  the profile, like --profile
  LOGSTREAM_CONFIG   the file of the profiles; else logstream/config.toml in
                     ~/.config ($XDG_CONFIG_HOME), on Windows in %APPDATA%";

/// Runs the message backend on this machine, or sends to any deployment and
/// shows its messages. Without a command: serves.
#[derive(Parser)]
#[command(name = "logstream", version, after_help = EXAMPLES)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    serve: serve::Options,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Options),
    Send(send::Options),
    Tail(tail::Options),
    Recent(recent::Options),
    Online(online::Options),
    Smoke(smoke::Options),
    /// Keys with which messages may be sent.
    Key {
        #[command(subcommand)]
        command: key::Command,
    },
    Completion(pages::CompletionOptions),
    Man(pages::ManOptions),
}

/// Why a command ends without success.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Wrong arguments or settings.
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
    /// What is wrong was said when it happened.
    #[error("")]
    Told,
    /// Whoever read the output has gone, and needs no more.
    #[error("")]
    OutputClosed,
}

pub async fn run(arguments: Arguments) -> ExitCode {
    let result = match arguments.command {
        None => return serve::run(arguments.serve).await,
        Some(Command::Serve(options)) => return serve::run(options).await,
        Some(Command::Send(options)) => send::run(options).await,
        Some(Command::Tail(options)) => tail::run(options).await,
        Some(Command::Recent(options)) => recent::run(options).await,
        Some(Command::Online(options)) => online::run(options).await,
        Some(Command::Smoke(options)) => smoke::run(options).await,
        Some(Command::Key { command }) => key::run(command),
        Some(Command::Completion(options)) => pages::completion(&options),
        Some(Command::Man(options)) => pages::man(&options),
    };
    match result {
        Ok(()) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(Failure::Told) => ExitCode::FAILURE,
        Err(Failure::Usage(text)) => {
            tell(&text);
            ExitCode::from(2)
        }
        Err(Failure::Failed(text)) => {
            tell(&text);
            ExitCode::FAILURE
        }
    }
}

/// One line on stderr. If that is closed, the exit code still says enough.
fn tell(text: &str) {
    let _ = writeln!(stderr(), "logstream: {}", output::printable(text));
}
