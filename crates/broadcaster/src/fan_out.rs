//! Delivering a site's messages to its connections, side by side.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use logstream_core::gateway::Outcome;
use logstream_core::{Connection, Connections, Gateway};
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::records::SiteRecords;

/// Connections that are posted to at the same time, of all sites. At 10 ms a
/// post this is 6,400 frames/s, of the 10,000 requests/s that an account has
/// for everything.
const SIDE_BY_SIDE: usize = 64;

/// What one connection may take for all messages of an invocation beyond
/// what every connection takes: failed posts, the waits after them, and posts
/// that are slower than those of others. With the ordinary posts of a batch
/// and [`CLOSING`] it makes the second by which a client may delay the next
/// message of the others.
const SERVING: Duration = Duration::from_millis(600);

/// A post that takes no longer is ordinary, and so is one of up to four times
/// the mean of the other connections' posts: when all are slow, on a busy
/// machine or a small function, no client is to blame, and to close them
/// would help nobody.
const ORDINARY: Duration = Duration::from_millis(30);

/// What closing a connection may take.
const CLOSING: Duration = Duration::from_millis(200);

/// `$connect` stores the row before the gateway has finished the handshake.
/// For so long after it, a connection that is gone may only be not open yet.
const HANDSHAKE: time::Duration = time::Duration::seconds(30);

/// The first wait before a post is tried again; doubled with each, a random
/// part of it is waited.
const FIRST_BACKOFF: Duration = Duration::from_millis(40);

/// The longest wait while single connections fail.
const MAX_BACKOFF: Duration = Duration::from_millis(200);

/// The longest wait while the account is throttled.
const MAX_BACKOFF_THROTTLED: Duration = Duration::from_secs(1);

/// Up to so many throttled connections are the clients' own fault, however
/// few others there are: one client of three that does not read is a third.
/// Closing so few is not the mass reconnect that must not happen.
const MIN_THROTTLED: usize = 10;

/// One invocation's deliveries.
pub struct FanOut {
    pub connections: Connections,
    gateway: Gateway,
    /// When to stop and report what is left.
    end: Instant,
    places: Semaphore,
    /// Connections that were posted to.
    tried: AtomicUsize,
    /// Those of them whose last post was answered with 429, or not in time.
    throttled: AtomicUsize,
    /// Posts that were delivered, and what they took in microseconds.
    delivered: AtomicU64,
    delivered_micros: AtomicU64,
}

/// How the service of one connection ended.
enum Served {
    /// It has all messages, or is no longer there, or was closed.
    Settled,
    /// It has not, from this one of the site's records on.
    UndeliveredFrom(usize),
}

impl FanOut {
    pub fn new(connections: &Connections, gateway: &Gateway, end: Instant) -> Self {
        Self {
            connections: connections.clone(),
            gateway: gateway.clone(),
            end,
            places: Semaphore::new(SIDE_BY_SIDE),
            tried: AtomicUsize::new(0),
            throttled: AtomicUsize::new(0),
            delivered: AtomicU64::new(0),
            delivered_micros: AtomicU64::new(0),
        }
    }

    /// Delivers a site's records to its connections, each in stream order.
    /// Returns the first record that one of them was left without.
    pub async fn deliver(
        self: &Arc<Self>,
        site: &Arc<SiteRecords>,
        mut connections: Vec<Connection>,
    ) -> Option<usize> {
        // If time runs out, a retry does not leave the same ones until last.
        fastrand::shuffle(&mut connections);
        // A task each: one future for all of them would be polled as a whole
        // and hold up its own timers.
        let mut serving = JoinSet::new();
        for connection in connections {
            let (fan_out, site) = (self.clone(), site.clone());
            serving.spawn(async move { fan_out.serve(&site, &connection).await });
        }
        let served = serving.join_all().await;
        served
            .into_iter()
            .filter_map(|served| match served {
                Served::Settled => None,
                Served::UndeliveredFrom(index) => Some(index),
            })
            .min()
    }

    async fn serve(&self, site: &SiteRecords, connection: &Connection) -> Served {
        // Never closed, so there is always a permit to wait for.
        let Ok(_place) = self.places.acquire().await else {
            return Served::UndeliveredFrom(0);
        };
        if Instant::now() >= self.end {
            return Served::UndeliveredFrom(0);
        }
        self.tried.fetch_add(1, Ordering::Relaxed);
        let mut pace = Pace::new(self);
        pace.hold_back().await;

        for (index, record) in site.records.iter().enumerate() {
            loop {
                let started = Instant::now();
                let post = self.gateway.post(&connection.id, record.frame.clone());
                // A post that timed out counts as not delivered.
                let post = timeout_at(pace.limit(), post).await;
                pace.note(post.as_ref().ok(), started.elapsed());
                let outcome = post.unwrap_or_else(|_| Outcome::Failed("timed out".to_owned()));
                match outcome {
                    Outcome::Done => break,
                    Outcome::Gone if !is_young(connection) => {
                        self.forget(site, connection).await;
                        return Served::Settled;
                    }
                    Outcome::Gone | Outcome::Throttled | Outcome::Failed(_) => {}
                }
                match (pace.wait().await, outcome) {
                    (Wait::TryAgain, _) => {}
                    (Wait::InvocationEnds, _) => return Served::UndeliveredFrom(index),
                    // Not open yet. Its client fetches recent-logs once it is.
                    (Wait::GiveUp, Outcome::Gone) => return Served::Settled,
                    (Wait::GiveUp, outcome) => {
                        return self.close(site, connection, index, &outcome).await;
                    }
                }
            }
        }
        Served::Settled
    }

    /// Closes a connection that cannot be served, so that its client
    /// reconnects and catches up, and only then forgets it: a client is never
    /// left connected with a hole in its stream.
    async fn close(
        &self,
        site: &SiteRecords,
        connection: &Connection,
        index: usize,
        reason: &Outcome,
    ) -> Served {
        let close = self.gateway.close(&connection.id);
        match timeout_at(Instant::now() + CLOSING, close).await {
            Ok(Outcome::Done | Outcome::Gone) => {
                tracing::warn!(
                    connection_id = connection.id,
                    ?reason,
                    "connection closed, it could not be served"
                );
                self.forget(site, connection).await;
                Served::Settled
            }
            outcome => {
                tracing::error!(
                    connection_id = connection.id,
                    ?reason,
                    ?outcome,
                    "connection could be neither served nor closed"
                );
                Served::UndeliveredFrom(index)
            }
        }
    }

    /// Deletes the connection's row of this site. If that fails the row is
    /// met again with the next message.
    async fn forget(&self, site: &SiteRecords, connection: &Connection) {
        if let Err(error) = self.connections.remove(&site.site, &connection.id).await {
            error.log();
        }
    }

    /// Whether it is the account that is throttled and not single clients:
    /// more than a tenth of the connections get 429 at the moment.
    fn is_account_throttled(&self) -> bool {
        let throttled = self.throttled.load(Ordering::Relaxed);
        throttled > MIN_THROTTLED && throttled * 10 > self.tried.load(Ordering::Relaxed)
    }
}

fn is_young(connection: &Connection) -> bool {
    connection
        .started
        .is_some_and(|started| OffsetDateTime::now_utc() - started < HANDSHAKE)
}

/// What comes after a post that failed.
enum Wait {
    /// The next try.
    TryAgain,
    /// The connection has used up its time.
    GiveUp,
    /// The invocation has.
    InvocationEnds,
}

/// One connection's time: when to give it up, and how long to wait.
struct Pace<'a> {
    fan_out: &'a FanOut,
    /// What it has used of [`SERVING`].
    spent: Duration,
    backoff: Duration,
    is_throttled: bool,
    delivered: u64,
    delivered_micros: u64,
}

impl<'a> Pace<'a> {
    fn new(fan_out: &'a FanOut) -> Self {
        Self {
            fan_out,
            spent: Duration::ZERO,
            backoff: FIRST_BACKOFF,
            is_throttled: false,
            delivered: 0,
            delivered_micros: 0,
        }
    }

    /// Slows down a connection's first post while the account is throttled.
    async fn hold_back(&self) {
        if self.fan_out.is_account_throttled() {
            let until = Instant::now() + MAX_BACKOFF_THROTTLED.mul_f64(fastrand::f64());
            sleep_until(until.min(self.fan_out.end)).await;
        }
    }

    /// When a post that starts now is given up.
    fn limit(&self) -> Instant {
        let ordinary = self.ordinary();
        (Instant::now() + ordinary + SERVING.saturating_sub(self.spent)).min(self.fan_out.end)
    }

    /// What a post may take without being charged.
    fn ordinary(&self) -> Duration {
        let posts = self.fan_out.delivered.load(Ordering::Relaxed);
        let posts = posts.saturating_sub(self.delivered);
        let micros = self.fan_out.delivered_micros.load(Ordering::Relaxed);
        let micros = micros.saturating_sub(self.delivered_micros);
        let mean = micros.checked_div(posts).unwrap_or(0);
        Duration::from_micros(4 * mean).max(ORDINARY)
    }

    /// Keeps account of a post. `None`: it timed out, which, when it happens
    /// to many, is no client's fault either.
    fn note(&mut self, outcome: Option<&Outcome>, took: Duration) {
        let is_throttled = matches!(outcome, None | Some(Outcome::Throttled));
        if is_throttled != self.is_throttled {
            self.is_throttled = is_throttled;
            if is_throttled {
                self.fan_out.throttled.fetch_add(1, Ordering::Relaxed);
            } else {
                self.fan_out.throttled.fetch_sub(1, Ordering::Relaxed);
            }
        }
        if let Some(Outcome::Done) = outcome {
            self.spent += took.saturating_sub(self.ordinary());
            self.backoff = FIRST_BACKOFF;
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            self.delivered += 1;
            self.delivered_micros += micros;
            self.fan_out.delivered.fetch_add(1, Ordering::Relaxed);
            self.fan_out
                .delivered_micros
                .fetch_add(micros, Ordering::Relaxed);
        } else {
            self.spent += took;
        }
    }

    /// Waits before the next try, if there is time for one.
    async fn wait(&mut self) -> Wait {
        let is_account = self.fan_out.is_account_throttled();
        let longest = if is_account {
            // What the account's throttling takes is not the client's fault.
            self.spent = Duration::ZERO;
            MAX_BACKOFF_THROTTLED
        } else {
            MAX_BACKOFF
        };
        let pause = self
            .backoff
            .min(longest)
            .mul_f64(0.5 + fastrand::f64() / 2.0);
        self.backoff = (self.backoff * 2).min(longest);
        let until = Instant::now() + pause;
        if until >= self.fan_out.end {
            return Wait::InvocationEnds;
        }
        if !is_account {
            self.spent += pause;
            if self.spent >= SERVING {
                return Wait::GiveUp;
            }
        }
        sleep_until(until).await;
        Wait::TryAgain
    }
}
