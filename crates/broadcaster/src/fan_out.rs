//! Delivering a site's messages to its connections, side by side.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use logstream_core::gateway::Outcome;
use logstream_core::{Connection, Connections, Gateway};
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::records::SiteRecords;

/// Connections that are posted to at the same time, of all sites. At 10 ms a
/// post this is the rate of an account, 10,000 requests/s.
const SIDE_BY_SIDE: usize = 100;

/// What one connection may take for all messages of an invocation, retries
/// included. With [`CLOSING`] it is less than the second by which a client
/// may delay the next message of the others.
const SERVING: Duration = Duration::from_millis(750);

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
pub struct FanOut<'a> {
    pub connections: &'a Connections,
    gateway: &'a Gateway,
    /// When to stop and report what is left.
    end: Instant,
    places: Semaphore,
    /// Connections that were posted to.
    tried: AtomicUsize,
    /// Those of them whose last post was answered with 429.
    throttled: AtomicUsize,
}

/// How the service of one connection ended.
enum Served {
    /// It has all messages, or is no longer there, or was closed.
    Settled,
    /// It has not, from this one of the site's records on.
    UndeliveredFrom(usize),
}

impl<'a> FanOut<'a> {
    pub fn new(connections: &'a Connections, gateway: &'a Gateway, end: Instant) -> Self {
        Self {
            connections,
            gateway,
            end,
            places: Semaphore::new(SIDE_BY_SIDE),
            tried: AtomicUsize::new(0),
            throttled: AtomicUsize::new(0),
        }
    }

    /// Delivers a site's records to its connections, each in stream order.
    /// Returns the first record that one of them was left without.
    pub async fn deliver(&self, site: &SiteRecords, connections: Vec<Connection>) -> Option<usize> {
        let served = connections
            .iter()
            .map(|connection| self.serve(site, connection));
        join_all(served)
            .await
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
                let post = self.gateway.post(&connection.id, record.frame.clone());
                // A post that timed out counts as not delivered.
                let outcome = timeout_at(pace.limit(), post)
                    .await
                    .unwrap_or_else(|_| Outcome::Failed("timed out".to_owned()));
                pace.note(&outcome);
                match outcome {
                    Outcome::Done => break,
                    Outcome::Gone if !is_young(connection) => {
                        self.forget(site, connection).await;
                        return Served::Settled;
                    }
                    Outcome::Gone | Outcome::Throttled | Outcome::Failed(_) => {}
                }
                if pace.wait().await {
                    continue;
                }
                return match outcome {
                    // Not open yet. Its client fetches recent-logs once it is.
                    Outcome::Gone => Served::Settled,
                    _ if self.is_account_throttled() || Instant::now() >= self.end => {
                        Served::UndeliveredFrom(index)
                    }
                    outcome => self.close(site, connection, index, &outcome).await,
                };
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

/// One connection's time: when to give it up, and how long to wait.
struct Pace<'a> {
    fan_out: &'a FanOut<'a>,
    give_up: Instant,
    backoff: Duration,
    is_throttled: bool,
}

impl<'a> Pace<'a> {
    fn new(fan_out: &'a FanOut<'a>) -> Self {
        Self {
            fan_out,
            give_up: Instant::now() + SERVING,
            backoff: FIRST_BACKOFF,
            is_throttled: false,
        }
    }

    /// Slows down a connection's first post while the account is throttled.
    async fn hold_back(&mut self) {
        if self.fan_out.is_account_throttled() {
            let until = Instant::now() + MAX_BACKOFF_THROTTLED.mul_f64(fastrand::f64());
            sleep_until(until.min(self.fan_out.end)).await;
            self.give_up = Instant::now() + SERVING;
        }
    }

    /// When a post under way is given up.
    fn limit(&self) -> Instant {
        let give_up = if self.fan_out.is_account_throttled() {
            Instant::now() + SERVING
        } else {
            self.give_up
        };
        give_up.min(self.fan_out.end)
    }

    /// Keeps count of how many connections are throttled.
    fn note(&mut self, outcome: &Outcome) {
        let is_throttled = matches!(outcome, Outcome::Throttled);
        if is_throttled != self.is_throttled {
            self.is_throttled = is_throttled;
            if is_throttled {
                self.fan_out.throttled.fetch_add(1, Ordering::Relaxed);
            } else {
                self.fan_out.throttled.fetch_sub(1, Ordering::Relaxed);
            }
        }
        if matches!(outcome, Outcome::Done) {
            self.backoff = FIRST_BACKOFF;
        }
    }

    /// Waits before the next try; `false` if there is no time for one.
    async fn wait(&mut self) -> bool {
        let is_account = self.fan_out.is_account_throttled();
        let longest = if is_account {
            MAX_BACKOFF_THROTTLED
        } else {
            MAX_BACKOFF
        };
        let until = Instant::now() + self.backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.backoff = (self.backoff * 2).min(longest);
        let limit = if is_account {
            self.fan_out.end
        } else {
            self.give_up.min(self.fan_out.end)
        };
        if until >= limit {
            return false;
        }
        sleep_until(until).await;
        if is_account {
            // What the account's throttling took is not the client's fault.
            self.give_up = Instant::now() + SERVING;
        }
        true
    }
}
