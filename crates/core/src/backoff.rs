//! The waits between tries.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};

/// Waits without an end: the first, doubled with each up to the longest, and
/// to each a random part of it is added, so that those who failed together
/// do not try again together.
pub fn backoff(first: Duration, longest: Duration) -> impl Iterator<Item = Duration> {
    ExponentialBuilder::new()
        .with_min_delay(first)
        .with_max_delay(longest)
        .without_max_times()
        .with_jitter()
        // Without its feature `std` the crate starts from the same number.
        .with_jitter_seed(fastrand::u64(..))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_waits_double_up_to_the_longest_and_never_end() {
        let waits = backoff(Duration::from_millis(100), Duration::from_millis(300));
        let expected = [100, 200, 300, 300, 300];
        for (wait, shortest) in waits.zip(expected) {
            let shortest = Duration::from_millis(shortest);
            assert!((shortest..=shortest * 2).contains(&wait), "{wait:?}");
        }
    }
}
