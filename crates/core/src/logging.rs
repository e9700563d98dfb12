//! The log. If it cannot be written, nothing else fails.

use std::io::{self, Write};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Where lambda_runtime opens the span of an event, which has the request's
/// id. It is at INFO and writes no line of its own.
const SPAN: &str = "lambda_runtime::layers::trace";

/// Starts the functions' log: a JSON object a line on stdout, from the level
/// that `AWS_LAMBDA_LOG_LEVEL` names (by default `INFO`). lambda_runtime's own
/// would compile regular expressions at each cold start, and its lines have no
/// timestamp, without which Lambda takes each for INFO ("Log level filtering").
pub fn init() {
    let level = std::env::var("AWS_LAMBDA_LOG_LEVEL");
    let level: Option<LevelFilter> = level.ok().and_then(|level| level.parse().ok());
    let level = level.unwrap_or(LevelFilter::INFO);
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .with_target(false)
        .with_writer(|| BestEffort(io::stdout()))
        .log_internal_errors(false);
    // So that an ERROR has its request's id at any level.
    let filter = Targets::new()
        .with_default(level)
        .with_target(SPAN, level.max(LevelFilter::INFO));
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .init();
}

/// A writer that hides its errors. tracing's formatter would report them with
/// `eprintln!`, which panics if stderr cannot be written either.
#[derive(Debug)]
pub struct BestEffort<W>(pub W);

impl<W: Write> Write for BestEffort<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A lost line is not worth an error.
        let _ = self.0.write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_not_an_error() {
        let mut full = [0; 3];
        let mut writer = BestEffort(&mut full[..]);
        assert!(writer.write_all(b"five!").is_ok());
        assert!(writer.flush().is_ok());
    }
}
