//! What `GET /metrics` reports, in Prometheus' text format.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The counters since the start.
#[derive(Default)]
pub struct Metrics {
    /// When the record that is being delivered was written, in Unix seconds; 0
    /// if none is.
    delivering: AtomicU64,
    /// Frames that were written to clients.
    pub frames: AtomicU64,
    /// Records that were given up.
    pub given_up: AtomicU64,
}

impl Metrics {
    /// Notes when the oldest record that is not yet delivered was written;
    /// `None` at the stream's end.
    pub fn delivering(&self, written: Option<u64>) {
        self.delivering
            .store(written.unwrap_or_default(), Ordering::Relaxed);
    }

    /// The text, with the number of open connections.
    pub fn text(&self, connections: usize) -> String {
        let written = self.delivering.load(Ordering::Relaxed);
        let written = UNIX_EPOCH.checked_add(Duration::from_secs(written));
        let lag = match written {
            Some(written) if written > UNIX_EPOCH => {
                let lag = SystemTime::now().duration_since(written);
                lag.unwrap_or_default().as_secs()
            }
            _ => 0,
        };
        let mut text = String::new();
        for (name, kind, help, value) in [
            (
                "logstream_stream_lag_seconds",
                "gauge",
                "Age of the oldest message that is not yet sent to every client.",
                lag,
            ),
            (
                "logstream_connections",
                "gauge",
                "Open WebSocket connections.",
                connections as u64,
            ),
            (
                "logstream_frames_total",
                "counter",
                "Frames written to clients.",
                self.frames.load(Ordering::Relaxed),
            ),
            (
                "logstream_records_given_up_total",
                "counter",
                "Messages that could not be sent to every client; viewers find them in the history.",
                self.given_up.load(Ordering::Relaxed),
            ),
        ] {
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
            );
        }
        text
    }
}
