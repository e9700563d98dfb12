//! The waits between tries.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// Waits before the next tries, without end. Each lies by chance between a
/// length and its double; the length is `first` and doubles with each wait,
/// until no wait can be longer than `longest`: from then on each lies between
/// half of `longest` and `longest`. By chance, so that those who failed
/// together do not try again together.
pub fn backoff(first: Duration, longest: Duration) -> impl Iterator<Item = Duration> {
    // backon adds up to the whole length to a length, also to its maximum.
    let maximum = longest / 2;
    ExponentialBuilder::new()
        .with_min_delay(first.min(maximum))
        .with_max_delay(maximum)
        .without_max_times()
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_millis(200);

    #[test]
    fn a_wait_lies_between_its_length_and_the_double_and_none_passes_the_longest() {
        for _ in 0..100 {
            let waits: Vec<_> = backoff(FIRST, LONGEST).take(8).collect();
            for (wait, length) in waits.iter().zip([10, 20, 40, 80, 100, 100, 100, 100]) {
                let length = Duration::from_millis(length);
                assert!((length..=2 * length).contains(wait), "{waits:?}");
            }
        }
    }

    #[test]
    fn the_first_wait_too_is_no_longer_than_the_longest() {
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
