//! The log, which fails nothing that is logged.

use std::io::{self, Write};

/// Starts the functions' log on stdout: as lambda_runtime's default, but for
/// a stdout that cannot be written.
pub fn init() {
    lambda_runtime::tracing::init_default_subscriber_with_writer(|| BestEffort(io::stdout()));
}

/// A writer that takes everything, also what it cannot write. An error that
/// tracing's formatter is told of goes to stderr by `eprintln!`, which panics
/// when that cannot be written either.
#[derive(Debug)]
pub struct BestEffort<W>(pub W);

impl<W: Write> Write for BestEffort<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A part of a line is worth no error.
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
    fn a_disk_that_is_full_is_no_error() {
        let mut full = [0; 3];
        let mut writer = BestEffort(&mut full[..]);
        assert!(writer.write_all(b"five!").is_ok());
        assert!(writer.flush().is_ok());
    }
}
