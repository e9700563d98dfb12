//! How many posts are in flight at the same time.
//!
//! The number grows by one with each delivered post until the gateway answers
//! 429 for the first time, and by a tenth from then on; each 429 takes a
//! twentieth of it away. So it settles where about one post in fifty is
//! throttled, whatever the account may send, and a single client that is
//! throttled for itself does not slow the others down.

use std::sync::{Mutex, MutexGuard, PoisonError};

use logstream_core::management_api::Outcome;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The number at first. Each post in flight needs a TLS connection of its own
/// (HTTP/1.1), and the first batch pays for their handshakes.
const FIRST: f64 = 64.0;

/// Enough to tell a fault of the gateway from that of a connection
/// ([`crate::blame`]), and to go on while most posts are throttled.
const LEAST: f64 = 16.0;

/// At 12.8 ms a post this is the 10,000 requests/s of an account ("Amazon API
/// Gateway quotas"). With 256 a first batch to 1,000 connections took twice as
/// long at 0.29 of a core, for the TLS handshakes.
const MOST: f64 = 128.0;

/// What a 429 leaves.
const SHRINKING: f64 = 0.95;

/// What a delivered post adds, before and after the first 429.
const GROWING: f64 = 1.0;
const GROWING_AFTER_429: f64 = 0.1;

/// The number of posts in flight, kept from batch to batch.
#[derive(Debug)]
pub struct Pace {
    permits: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// How many there may be.
    limit: f64,
    /// How many permits there are. It follows the limit with the posts that
    /// end, because a permit in use cannot be taken away.
    permits: usize,
    is_throttled: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            permits: Semaphore::new(FIRST as usize),
            state: Mutex::new(State {
                limit: FIRST,
                permits: FIRST as usize,
                is_throttled: false,
            }),
        }
    }
}

impl Pace {
    /// Waits until a post may begin. `None` never happens.
    pub async fn begin(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.acquire().await.ok()
    }

    /// A post ended; `None` if it was not answered.
    pub fn end(&self, permit: SemaphorePermit<'_>, outcome: Option<&Outcome>) {
        let mut state = self.lock();
        match outcome {
            Some(Outcome::Done) if state.is_throttled => state.limit += GROWING_AFTER_429,
            Some(Outcome::Done) => state.limit += GROWING,
            Some(Outcome::Throttled) => {
                state.is_throttled = true;
                state.limit *= SHRINKING;
            }
            // Says nothing about the rate.
            _ => {}
        }
        state.limit = state.limit.clamp(LEAST, MOST);
        let limit = state.limit as usize;
        if state.permits > limit {
            state.permits -= 1;
            permit.forget();
        } else if state.permits < limit {
            state.permits += 1;
            self.permits.add_permits(1);
        }
    }

    /// How many posts may be in flight.
    pub fn limit(&self) -> usize {
        self.lock().limit as usize
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn post(pace: &Pace, outcome: &Outcome) {
        let permit = pace.begin().await.unwrap();
        pace.end(permit, Some(outcome));
    }

    #[tokio::test]
    async fn it_grows_to_its_bound_while_nothing_pushes_back() {
        let pace = Pace::default();
        for _ in 0..1000 {
            post(&pace, &Outcome::Done).await;
        }
        assert_eq!(pace.limit(), MOST as usize);
        assert_eq!(pace.permits.available_permits(), MOST as usize);
    }

    #[tokio::test]
    async fn it_shrinks_to_its_bound_while_everything_is_throttled_and_grows_again() {
        let pace = Pace::default();
        for _ in 0..1000 {
            post(&pace, &Outcome::Throttled).await;
        }
        assert_eq!(pace.limit(), LEAST as usize);
        assert_eq!(pace.permits.available_permits(), LEAST as usize);
        for _ in 0..1000 {
            post(&pace, &Outcome::Done).await;
        }
        assert!(pace.limit() > 100, "{}", pace.limit());
    }

    #[tokio::test]
    async fn one_client_that_is_throttled_for_itself_takes_little() {
        let pace = Pace::default();
        for number in 0..5000 {
            let is_throttled = number % 100 == 0;
            post(
                &pace,
                if is_throttled {
                    &Outcome::Throttled
                } else {
                    &Outcome::Done
                },
            )
            .await;
        }
        assert!(pace.limit() > 64, "{}", pace.limit());
    }

    #[tokio::test]
    async fn permits_in_use_are_taken_back_as_their_posts_end() {
        let pace = Pace::default();
        let mut in_use = Vec::new();
        for _ in 0..FIRST as usize {
            in_use.push(pace.begin().await.unwrap());
        }
        for permit in in_use {
            pace.end(permit, Some(&Outcome::Throttled));
        }
        let limit = pace.limit();
        assert_eq!(limit, LEAST as usize);
        for _ in 0..FIRST as usize {
            post(&pace, &Outcome::ServerError(String::new())).await;
        }
        assert_eq!(pace.permits.available_permits(), limit);
    }
}
