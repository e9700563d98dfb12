//! The log. If it cannot be written, nothing else fails.

use std::io::{self, Write};

/// Starts the functions' log on stdout, like lambda_runtime's default, but
/// ignores a stdout that cannot be written.
pub fn init() {
    lambda_runtime::tracing::init_default_subscriber_with_writer(|| BestEffort(io::stdout()));
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
