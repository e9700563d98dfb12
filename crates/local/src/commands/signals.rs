//! Ctrl-C and SIGTERM.

use std::io;

#[cfg(unix)]
use tokio::signal::unix;
#[cfg(windows)]
use tokio::signal::windows;

use super::Failure;

/// The exit codes of what these signals end, as shells count.
pub const INTERRUPTED: i32 = 130;
pub const TERMINATED: i32 = 143;

/// Calls `end` with the exit code that a signal asks for. In a task of its own:
/// a command may be stuck writing to a pipe that nobody reads.
pub fn on_either(end: impl FnOnce(i32) + Send + 'static) -> Result<(), Failure> {
    let (mut interrupt, mut terminate) =
        both().map_err(|error| Failure::Failed(error.to_string()))?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => end(INTERRUPTED),
            _ = terminate.recv() => end(TERMINATED),
        }
    });
    Ok(())
}

#[cfg(unix)]
pub fn both() -> io::Result<(unix::Signal, unix::Signal)> {
    let interrupt = unix::signal(unix::SignalKind::interrupt())?;
    let terminate = unix::signal(unix::SignalKind::terminate())?;
    Ok((interrupt, terminate))
}

/// Ctrl-C, and the end of the console, which is as close as Windows comes to
/// SIGTERM.
#[cfg(windows)]
pub fn both() -> io::Result<(windows::CtrlC, windows::CtrlClose)> {
    Ok((windows::ctrl_c()?, windows::ctrl_close()?))
}
