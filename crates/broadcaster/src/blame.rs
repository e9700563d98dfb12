//! Whose fault a failure is.
//!
//! 1. A connection's failures are its own while the posts of most others go
//!    through at the first attempt; while most others fail too, or need
//!    several attempts, the fault is shared: the account's, the gateway's or
//!    this machine's.
//! 2. With too few others to tell, only silence and 429 are its own.
//! 3. What says nothing about the connection (403, no network) never is.
//! 4. Nor is 429 while others, too, go through only after some: the account is
//!    throttled, and some connections are less lucky than others.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use logstream_core::management_api::Outcome;

/// Others are the connections that were first posted to last, up to this many,
/// and fewer than twice the posts in flight: when everything in flight begins
/// to fail, it outnumbers what went through before.
const OTHERS: usize = 100;

/// With fewer others than this there is no "most".
const FEW: usize = 5;

/// A post that has waited this long for its answer counts as failing.
const SLOW: Duration = Duration::from_millis(300);

/// Once nobody else was served for this long, the attempts that others needed
/// before say nothing about now. Without this limit a connection that keeps
/// failing after an outage would hold up its batch until the deadline.
const QUIET: Duration = Duration::from_secs(3);

/// Others of which more than one in so many needed a second attempt are not
/// going through.
const RETRIED: usize = 4;

/// Of the frames that were delivered since a connection began to fail, one in
/// so many was throttled first: then the account is throttled. A connection
/// that meets 429 at one attempt in ten meets eight in a row once in 100
/// million times.
const THROTTLED: u64 = 10;

/// Who has to bear a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The connection: it is closed.
    Own,
    /// Not the connection, and the others are served: it is left, and its
    /// message reported as failed.
    Left,
    /// Everybody: nobody is closed, everything slows down.
    Shared,
}

/// Why a post was not delivered.
#[derive(Debug)]
pub enum Failure {
    /// No answer in time.
    NoAnswer,
    /// The gateway's answer, or why there was none.
    Answer(Outcome),
}

/// How the posts to one connection go.
#[derive(Default, Debug)]
pub struct Progress(Mutex<State>);

#[derive(Clone, Copy, Default, Debug)]
struct State {
    in_flight_since: Option<Instant>,
    last: Option<Last>,
    /// When that was.
    ended: Option<Instant>,
}

/// How the latest post ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Last {
    DeliveredAtOnce,
    DeliveredAfterRetries,
    Failed,
}

impl Progress {
    pub fn posting(&self) {
        self.lock().in_flight_since = Some(Instant::now());
    }

    pub fn delivered(&self, is_retried: bool) {
        self.ended(Some(if is_retried {
            Last::DeliveredAfterRetries
        } else {
            Last::DeliveredAtOnce
        }));
    }

    pub fn failed(&self) {
        self.ended(Some(Last::Failed));
    }

    /// The connection is gone or closed and says nothing any more.
    pub fn settled(&self) {
        self.ended(None);
    }

    fn ended(&self, last: Option<Last>) {
        *self.lock() = State {
            in_flight_since: None,
            last,
            ended: Some(Instant::now()),
        };
    }

    /// How the latest post ended, and when.
    fn now(&self, now: Instant) -> Option<(Last, Instant)> {
        let state = *self.lock();
        match state.in_flight_since {
            Some(since) if now - since >= SLOW => Some((Last::Failed, now)),
            _ => state.last.zip(state.ended),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connections of an invocation by which a failure is judged.
#[derive(Default)]
pub struct Others {
    last: Mutex<VecDeque<Arc<Progress>>>,
    delivered: AtomicU64,
    delivered_after_429: AtomicU64,
}

/// How many frames were delivered until a moment.
#[derive(Clone, Copy, Debug)]
pub struct Delivered {
    all: u64,
    after_429: u64,
}

/// How the others are doing.
#[derive(Clone, Copy, Default, Debug)]
pub struct Census {
    pub served: usize,
    pub retried: usize,
    pub failing: usize,
    pub is_throttled: bool,
}

impl Others {
    /// A connection is about to be posted to for the first time, while so many
    /// posts may be in flight.
    pub fn join(&self, progress: &Arc<Progress>, in_flight: usize) {
        let most = OTHERS.min(2 * in_flight - 1);
        let mut others = self.lock();
        while others.len() > most {
            others.pop_front();
        }
        others.push_back(progress.clone());
    }

    /// A frame was delivered, to any connection.
    pub fn count(&self, is_after_429: bool) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
        if is_after_429 {
            self.delivered_after_429.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many frames were delivered until now.
    pub fn delivered(&self) -> Delivered {
        Delivered {
            all: self.delivered.load(Ordering::Relaxed),
            after_429: self.delivered_after_429.load(Ordering::Relaxed),
        }
    }

    /// How all but this one are doing. `began` is what had been delivered when
    /// this one began to fail.
    pub fn census(&self, but: &Arc<Progress>, began: Delivered) -> Census {
        let now = Instant::now();
        let ended = self.delivered();
        let after_429 = ended.after_429 - began.after_429;
        let mut census = Census {
            is_throttled: after_429 * THROTTLED > ended.all - began.all,
            ..Census::default()
        };
        let mut is_quiet = true;
        for other in self.lock().iter().filter(|other| !Arc::ptr_eq(other, but)) {
            match other.now(now) {
                None => {}
                Some((Last::Failed, _)) => census.failing += 1,
                Some((last, ended)) => {
                    census.served += 1;
                    census.retried += usize::from(last == Last::DeliveredAfterRetries);
                    is_quiet &= now - ended >= QUIET;
                }
            }
        }
        if is_quiet {
            census.retried = 0;
        }
        census
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Progress>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Census {
    /// Judges a connection whose budget is used up, by how the others are
    /// doing.
    pub fn verdict(self, failure: &Failure) -> Verdict {
        let go_through = self.served > self.failing && self.retried * RETRIED <= self.served;
        let are_few = self.served + self.failing < FEW;
        match failure {
            Failure::Answer(Outcome::NotSent(_)) if go_through => Verdict::Left,
            Failure::Answer(Outcome::NotSent(_)) => Verdict::Shared,
            Failure::Answer(Outcome::Throttled) if self.is_throttled => Verdict::Shared,
            _ if go_through => Verdict::Own,
            Failure::NoAnswer | Failure::Answer(Outcome::Throttled) if are_few => Verdict::Own,
            _ => Verdict::Shared,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_429_is_shared_while_more_than_a_tenth_of_the_others_get_through_only_after_one() {
        for (after_429, verdict) in [(3, Verdict::Shared), (2, Verdict::Own), (0, Verdict::Own)] {
            let others = Others::default();
            let own = Arc::<Progress>::default();
            // What was before does not count.
            others.count(true);
            let began = others.delivered();
            for number in 0..20 {
                let other = Arc::<Progress>::default();
                others.join(&other, 64);
                // Their later posts went through at once.
                other.delivered(false);
                others.count(number < after_429);
            }
            let census = others.census(&own, began);
            let throttled = Failure::Answer(Outcome::Throttled);
            assert_eq!(census.verdict(&throttled), verdict, "{after_429} of 20");
            assert_eq!(census.verdict(&Failure::NoAnswer), Verdict::Own);
        }
    }
}
