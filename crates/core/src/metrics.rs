//! What is counted, under one name everywhere: CloudWatch's metrics of a
//! deployment and `GET /metrics` of the local server.
//!
//! On Lambda the counts of an event are a line of the log, in CloudWatch's
//! embedded metric format: no call, and nothing that can fail. The site is no
//! dimension, because each value of a dimension is a metric that costs; the
//! lines of the log name it.

use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};
use metrics_cloudwatch_embedded::{Builder, Collector};
use tower::util::MapResponseLayer;

use crate::config::{ConfigError, variable};
use crate::logging::BestEffort;

/// The environment variable with CloudWatch's namespace.
const NAMESPACE_VARIABLE: &str = "METRICS_NAMESPACE";

const MESSAGES: &str = "logstream_messages_total";
const REFUSED: &str = "logstream_refused_total";
const FRAMES: &str = "logstream_frames_total";
const RETRIED: &str = "logstream_retried_total";
const GONE: &str = "logstream_gone_total";
const CLOSED: &str = "logstream_closed_total";
const NOT_SERVED: &str = "logstream_not_served_total";

/// From the moment a message is stored until the last viewer has it, in
/// seconds.
pub const DELIVERY: &str = "logstream_delivery_seconds";

/// Where the counts of this function go; unset in the local server.
static COLLECTOR: OnceLock<&'static Collector> = OnceLock::new();

/// Starts counting in a Lambda function.
///
/// # Errors
/// [`ConfigError`] when the environment names no namespace.
pub fn init() -> Result<(), ConfigError> {
    let namespace = variable(NAMESPACE_VARIABLE)?;
    // It fails when there is a recorder already, which then goes on.
    if let Ok(collector) = Builder::new().cloudwatch_namespace(namespace).init() {
        let _ = COLLECTOR.set(collector);
        describe();
    }
    Ok(())
}

/// Says what each count is and its unit, to whoever records them.
pub fn describe() {
    describe_counter!(MESSAGES, Unit::Count, "Messages stored.");
    describe_counter!(REFUSED, Unit::Count, "Requests refused, by reason.");
    describe_counter!(FRAMES, Unit::Count, "Frames delivered to viewers.");
    describe_counter!(
        RETRIED,
        Unit::Count,
        "Posts of a frame after the first one failed."
    );
    describe_counter!(
        GONE,
        Unit::Count,
        "Connections that were not there any more, or not yet."
    );
    describe_counter!(
        CLOSED,
        Unit::Count,
        "Connections closed because they could not be served."
    );
    describe_counter!(
        NOT_SERVED,
        Unit::Count,
        "Connections without all of a batch, which is then tried again."
    );
    // So that they are there before the first of their kind.
    for name in [MESSAGES, FRAMES, RETRIED, GONE, CLOSED, NOT_SERVED] {
        counter!(name).increment(0);
    }
    describe_histogram!(
        DELIVERY,
        Unit::Seconds,
        "From storing a message until its last viewer had it."
    );
}

/// Writes what an event counted to the log, once its response is on its way, so
/// that no caller waits for it.
pub fn layer() -> MapResponseLayer<fn(())> {
    MapResponseLayer::new(|()| {
        if let Some(collector) = COLLECTOR.get() {
            // A lost line is not worth an error.
            let _ = collector.flush(BestEffort(io::stdout().lock()));
        }
    })
}

/// Counts a stored message.
pub(crate) fn stored() {
    counter!(MESSAGES).increment(1);
}

/// Counts a refused request.
pub(crate) fn refused(reason: &'static str) {
    counter!(REFUSED, "reason" => reason).increment(1);
}

/// What became of a batch, or of one site's part of it.
#[derive(Clone, Copy, Default, Debug)]
pub struct Broadcast {
    /// Frames that were delivered.
    pub frames: u64,
    /// Connections that were not there any more, or not yet.
    pub gone: u64,
    /// Connections that were closed because they could not be served.
    pub closed: u64,
    /// Connections that did not get everything.
    pub left: u64,
}

impl Broadcast {
    /// Adds it to the counts.
    pub fn count(&self) {
        counter!(FRAMES).increment(self.frames);
        counter!(GONE).increment(self.gone);
        counter!(CLOSED).increment(self.closed);
        counter!(NOT_SERVED).increment(self.left);
    }
}

/// Counts posts of frames whose first post had failed.
pub fn retried(posts: u64) {
    counter!(RETRIED).increment(posts);
}

/// Notes how long a message took from being stored to its last viewer.
pub fn delivered(after: Duration) {
    histogram!(DELIVERY).record(after.as_secs_f64());
}
