//! What `GET /metrics` reports, in Prometheus' text format: the counts that
//! CloudWatch has of a deployment, and what only this process knows.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use logstream_core::metrics::{DELIVERY, describe};
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

const LAG: &str = "logstream_stream_lag_seconds";
const CONNECTIONS: &str = "logstream_connections";
const GIVEN_UP: &str = "logstream_records_given_up_total";

/// The upper ends of the histogram of delivery times, in seconds.
const BUCKETS: [f64; 9] = [0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 60.0];

/// What was counted since the start. Counts belong to the process, and so to
/// all of its servers, of which only tests have more than one.
fn counts() -> &'static PrometheusHandle {
    static COUNTS: OnceLock<PrometheusHandle> = OnceLock::new();
    COUNTS.get_or_init(|| {
        let buckets = Matcher::Full(DELIVERY.to_owned());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(buckets, &BUCKETS)
            // Only without a bucket.
            .unwrap_or_default()
            .build_recorder();
        let counts = recorder.handle();
        // Only if there is one already, which then goes on.
        let _ = metrics::set_global_recorder(recorder);
        describe();
        describe_gauge!(
            LAG,
            Unit::Seconds,
            "Age of the oldest message that is not yet sent to every client."
        );
        describe_gauge!(CONNECTIONS, Unit::Count, "Open WebSocket connections.");
        describe_counter!(
            GIVEN_UP,
            Unit::Count,
            "Messages that could not be sent to every client; viewers find them in the history."
        );
        counts
    })
}

/// Starts counting.
pub fn start() {
    counts();
}

/// Takes the delivery times into their histogram every 10 s, because each is
/// kept until then.
pub async fn keep_up(stop: &CancellationToken) {
    let mut timer = interval(Duration::from_secs(10));
    while stop.run_until_cancelled(timer.tick()).await.is_some() {
        counts().run_upkeep();
    }
}

/// How far the stream has been delivered.
#[derive(Default)]
pub struct Progress {
    /// When the record that is being delivered was written, in Unix seconds; 0
    /// if none is.
    delivering: AtomicU64,
    /// Records that were given up.
    pub given_up: AtomicU64,
}

impl Progress {
    /// Notes when the oldest record that is not yet delivered was written;
    /// `None` at the stream's end.
    pub fn delivering(&self, written: Option<u64>) {
        self.delivering
            .store(written.unwrap_or_default(), Ordering::Relaxed);
    }

    fn lag(&self) -> Duration {
        let written = self.delivering.load(Ordering::Relaxed);
        let written = UNIX_EPOCH.checked_add(Duration::from_secs(written));
        match written {
            Some(written) if written > UNIX_EPOCH => {
                let lag = SystemTime::now().duration_since(written);
                lag.unwrap_or_default()
            }
            _ => Duration::ZERO,
        }
    }
}

/// The text, with the number of open connections.
pub fn text(progress: &Progress, connections: usize) -> String {
    gauge!(LAG).set(progress.lag().as_secs() as f64);
    gauge!(CONNECTIONS).set(connections as f64);
    counter!(GIVEN_UP).absolute(progress.given_up.load(Ordering::Relaxed));
    counts().render()
}
