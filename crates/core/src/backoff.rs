//! The waits between attempts.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};

/// Endless waits that double from `first` to `longest`. Each is made longer
/// by a random part of itself, so that clients which failed together do not
/// try again together: a wait of 40 ms takes 40 to 80 ms.
pub fn backoff(first: Duration, longest: Duration) -> impl Iterator<Item = Duration> {
    ExponentialBuilder::new()
        .with_min_delay(first)
        .with_max_delay(longest)
        .without_max_times()
        .with_jitter()
        .build()
}
