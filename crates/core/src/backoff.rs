//! The waits between attempts.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::sleep;

/// The waits before the next attempts, without end. Each is random, between a
/// length and its double. The length starts at `first` and doubles each time,
/// up to half of `longest`, so that no wait exceeds `longest`. Random, so that
/// those who failed together do not try again together.
pub fn backoff(first: Duration, longest: Duration) -> impl Iterator<Item = Duration> {
    // backon's jitter adds up to the whole length, also to the maximum.
    let maximum = longest / 2;
    ExponentialBuilder::new()
        .with_min_delay(first.min(maximum))
        .with_max_delay(maximum)
        .without_max_times()
        .with_jitter()
        .build()
}

/// Makes a call until it succeeds, three times at most.
///
/// # Errors
/// The last attempt's.
pub async fn three_times<T, E, F>(call: impl Fn() -> F) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waits = backoff(Duration::from_millis(50), Duration::from_secs(1)).take(2);
    loop {
        match (call().await, waits.next()) {
            (Err(_), Some(wait)) => sleep(wait).await,
            (result, _) => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_millis(200);

    #[test]
    fn each_wait_is_between_its_length_and_its_double_and_at_most_the_longest() {
        for _ in 0..100 {
            let waits: Vec<_> = backoff(FIRST, LONGEST).take(8).collect();
            for (wait, length) in waits.iter().zip([10, 20, 40, 80, 100, 100, 100, 100]) {
                let length = Duration::from_millis(length);
                assert!((length..=2 * length).contains(wait), "{waits:?}");
            }
        }
    }

    #[test]
    fn the_first_wait_does_not_exceed_the_longest_either() {
        assert!(
            backoff(LONGEST, LONGEST)
                .take(100)
                .all(|wait| wait <= LONGEST)
        );
    }

    // Without its feature `std`, backon draws the same numbers every time.
    #[test]
    fn two_that_fail_together_wait_differently() {
        let waits = || backoff(FIRST, LONGEST).take(8).collect::<Vec<_>>();
        assert_ne!(waits(), waits());
    }
}
