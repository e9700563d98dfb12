//! The log. If it cannot be written, nothing else fails.

use std::io::{self, Write};

use tracing_subscriber::filter::LevelFilter;

/// Starts the functions' log: a JSON object a line on stdout, from the level
/// that `AWS_LAMBDA_LOG_LEVEL` names (by default `INFO`). lambda_runtime's own
/// would compile regular expressions at each cold start, and its lines have no
/// timestamp, without which Lambda takes each for INFO ("Log level filtering").
pub fn init() {
    let level = std::env::var("AWS_LAMBDA_LOG_LEVEL");
    let level = level.ok().and_then(|level| level.parse().ok());
    tracing_subscriber::fmt()
        .json()
        .with_target(false)
        .with_max_level(level.unwrap_or(LevelFilter::INFO))
        .with_writer(|| BestEffort(io::stdout()))
        .log_internal_errors(false)
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
