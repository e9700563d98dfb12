//! Sending a batch's messages to the connections of their sites.
//!
//! The rule: each connection gets its frames one after another, side by side
//! with all other connections, and a frame that was delivered costs it
//! nothing, however long that took. A frame that fails is tried again for
//! 0.6 s; if the posts of most others go through meanwhile, the connection is
//! closed, so that its client reconnects and catches up, and its row deleted.
//! If most others fail too, nobody is closed: everything slows down, one ERROR
//! is logged, and what is not delivered 5 s before the function's deadline is
//! reported as failed. A connection that is gone (410) loses its row at once,
//! unless it connected less than 2 s ago: then it is tried again for 0.3 s and
//! left alone, because it may not be open yet.
//!
//! [`crate::blame`] says what "most others" means.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_apigatewaymanagement::primitives::Blob;
use futures_util::future::join_all;
use logstream_core::management_api::Outcome;
use logstream_core::metrics::{self, Broadcast};
use logstream_core::{Connection, Connections, ManagementApi, SortKey, backoff};
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::Instrument as _;

use crate::blame::{Census, Delivered, Failure, Others, Progress, Verdict};
use crate::pace::Pace;
use crate::records::Record;

/// How long one frame of a connection may fail, and how long the connection
/// may wait between attempts in the whole batch. Together with [`ENDING`] this
/// limits the delay one client can cause the others to about a second.
const BUDGET: Duration = Duration::from_millis(600);

/// How long closing a connection and deleting its row may take, unless the
/// gateway is slow for all. If the row is left, the next message finds the
/// connection gone and tries again.
const ENDING: Duration = Duration::from_millis(350);

/// `$connect` stores the row before the gateway has finished the handshake.
/// For this long afterwards a 410 may only mean that the connection is not
/// open yet.
const HANDSHAKE: Duration = Duration::from_secs(2);

/// How long a connection that may not be open yet is tried again.
const OPENING: Duration = Duration::from_millis(300);

/// The waits between attempts, first and longest. The first is short, so that a
/// single failure costs a frame little more than one more post.
const WAITS: (Duration, Duration) = (Duration::from_millis(3), Duration::from_millis(200));

/// While the fault is shared there are few attempts. So many of them must meet
/// 429 before it can be the connection's own.
const SLOW_ATTEMPTS: u32 = 6;

/// The waits while the fault is shared.
const SLOW_WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The longest that an answer is waited for. Less than the SDK's own limit of
/// 2 s, which would look like a failure of this machine.
const LONGEST_ANSWER: Duration = Duration::from_millis(1500);

/// A timer that fires this late tells that the machine was busy, not that the
/// gateway was silent.
const STALL: Duration = Duration::from_millis(100);

/// What one invocation leaves to the next. It is lost with the function's
/// environment and when another batch comes first; then the retry of a batch
/// repeats frames.
#[derive(Default)]
pub struct Memory {
    /// What each connection has of a batch that was reported as failed. So the
    /// retry of the batch sends nothing twice.
    last_frames: Mutex<LastFrames>,
    /// The longest that a delivered post took, in microseconds.
    slowest: AtomicU64,
    /// What the account allows is the same in the next batch.
    pace: Arc<Pace>,
}

/// The sequence number of the last frame, by the connection's id and the site.
type LastFrames = HashMap<(String, Arc<str>), String>;

impl Memory {
    fn take_last_frames(&self) -> LastFrames {
        std::mem::take(&mut self.lock())
    }

    fn keep_last_frames(&self, frames: LastFrames) {
        *self.lock() = frames;
    }

    fn lock(&self) -> MutexGuard<'_, LastFrames> {
        self.last_frames
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The broadcast of one batch.
pub struct FanOut {
    connections: Connections,
    management_api: ManagementApi,
    records: Vec<Record>,
    /// When to stop and report what is left.
    end: Instant,
    started: Instant,
    pace: Arc<Pace>,
    others: Others,
    /// Posts of frames whose first post had failed.
    retried: AtomicU64,
    /// The longest that a delivered post took, in microseconds.
    slowest: AtomicU64,
    /// Whether it was logged that failures are nobody's own.
    is_fault_logged: AtomicBool,
    /// Whether it was logged that a connection could not be closed.
    is_not_closed_logged: AtomicBool,
}

/// A connection with what it is to get.
struct Viewer {
    id: String,
    /// Until when a 410 may mean that it is not open yet.
    young_until: Instant,
    /// Whether it gets its frames under the topic of today's frontend.
    is_userstatus: bool,
    /// Which attempt of `$connect` its row is of, by site.
    started: BTreeMap<Arc<str>, String>,
    /// Places of its records in the batch, in stream order, without those that
    /// it had from an earlier attempt of the batch.
    records: Vec<usize>,
}

/// What became of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It has everything.
    Served,
    /// It is not there, any more or yet.
    Gone,
    /// It was closed.
    Closed,
    /// It was left without some of its records.
    Left,
}

/// A connection that was served, and how.
struct Served {
    viewer: Viewer,
    /// How many of its records it has.
    count: usize,
    end: End,
}

impl FanOut {
    pub fn new(
        connections: &Connections,
        management_api: &ManagementApi,
        memory: &Memory,
        records: Vec<Record>,
        end: Instant,
    ) -> Arc<Self> {
        Arc::new(Self {
            connections: connections.clone(),
            management_api: management_api.clone(),
            records,
            end,
            started: Instant::now(),
            pace: memory.pace.clone(),
            others: Others::default(),
            retried: AtomicU64::new(0),
            slowest: AtomicU64::new(0),
            is_fault_logged: AtomicBool::new(false),
            is_not_closed_logged: AtomicBool::new(false),
        })
    }

    /// Sends the records to the connections of their sites. Returns the
    /// sequence numbers of those from which on some connection was left
    /// without, and remembers who has what.
    pub async fn broadcast(self: Arc<Self>, memory: &Memory) -> BTreeSet<String> {
        // What was ordinary a moment ago is a first guess.
        self.slowest.store(
            memory.slowest.load(Ordering::Relaxed) / 2,
            Ordering::Relaxed,
        );
        let mut last_frames = memory.take_last_frames();
        let (viewers, unread) = self.viewers(&last_frames).await;
        let served = self.serve_all(viewers).await;
        self.report(&served);
        memory
            .slowest
            .store(self.slowest.load(Ordering::Relaxed), Ordering::Relaxed);

        let left = served.iter().filter(|served| served.end == End::Left);
        let left = left.filter_map(|served| served.viewer.records.get(served.count).copied());
        let undelivered: BTreeSet<usize> = left.chain(unread).collect();
        if !undelivered.is_empty() {
            for Served { viewer, count, .. } in served {
                let had = viewer.records.iter().take(count);
                for record in had.filter_map(|place| self.records.get(*place)) {
                    let key = (viewer.id.clone(), record.site.clone());
                    last_frames.insert(key, record.sequence_number.clone());
                }
            }
            memory.keep_last_frames(last_frames);
        }
        let records = undelivered
            .iter()
            .filter_map(|place| self.records.get(*place));
        records
            .map(|record| record.sequence_number.clone())
            .collect()
    }

    /// Reads the connections of all sites. Returns them with their records,
    /// and the first record of each site whose connections cannot be read.
    async fn viewers(&self, last_frames: &LastFrames) -> (Vec<Viewer>, Vec<usize>) {
        let mut sites = BTreeMap::<&Arc<str>, Vec<usize>>::new();
        for (place, record) in self.records.iter().enumerate() {
            sites.entry(&record.site).or_default().push(place);
        }
        let reads = sites.iter().map(|(site, places)| async move {
            (site, places, self.connections.of_site(site).await)
        });
        let mut viewers = HashMap::<String, Viewer>::new();
        let mut unread = Vec::new();
        for (site, places, connections) in join_all(reads).await {
            match connections {
                Ok(connections) => {
                    for connection in connections {
                        let young_until = young_until(&connection);
                        let key = (connection.id, Arc::clone(site));
                        let had = last_frames.get(&key).and_then(|last| {
                            places.iter().position(|place| {
                                let record = self.records.get(*place);
                                record.is_some_and(|record| record.sequence_number == *last)
                            })
                        });
                        let left = places.iter().skip(had.map_or(0, |had| had + 1));
                        let left = left.filter(|place| {
                            let record = self.records.get(**place);
                            record.is_some_and(|record| record.level >= connection.level)
                        });
                        let viewer = viewers.entry(key.0).or_insert_with_key(|id| Viewer {
                            id: id.clone(),
                            young_until,
                            is_userstatus: connection.is_userstatus,
                            started: BTreeMap::new(),
                            records: Vec::new(),
                        });
                        if let Some(started) = connection.started {
                            viewer.started.insert(Arc::clone(site), started);
                        }
                        viewer.records.extend(left);
                    }
                }
                Err(error) => {
                    tracing::error_span!("site", %site).in_scope(|| error.log());
                    unread.extend(places.first());
                }
            }
        }
        let mut viewers: Vec<_> = viewers.into_values().collect();
        // Those whose level is above all of the batch.
        viewers.retain(|viewer| !viewer.records.is_empty());
        for viewer in &mut viewers {
            // A connection that watches several sites gets their messages in
            // the order of the stream.
            viewer.records.sort_unstable();
        }
        (viewers, unread)
    }

    async fn serve_all(self: &Arc<Self>, mut viewers: Vec<Viewer>) -> Vec<Served> {
        // So that, when time runs out, a retry does not starve the same
        // connections again.
        fastrand::shuffle(&mut viewers);
        // A task each: one future for all of them would be polled as a whole
        // and hold up its own timers.
        let mut serving = JoinSet::new();
        for viewer in viewers {
            let fan_out = self.clone();
            let serve = async move { fan_out.serve(viewer).await };
            serving.spawn(serve.in_current_span());
        }
        serving.join_all().await
    }

    async fn serve(&self, viewer: Viewer) -> Served {
        let mut attempts = Attempts::new(self, &viewer);
        let mut count = 0;
        let mut end = End::Served;
        for place in &viewer.records {
            let Some(record) = self.records.get(*place) else {
                continue;
            };
            end = attempts.deliver(record).await;
            if end != End::Served {
                break;
            }
            count += 1;
        }
        if matches!(end, End::Gone | End::Closed) {
            attempts.progress.settled();
        }
        drop(attempts);
        Served { viewer, count, end }
    }

    /// Closes a connection that cannot be served, and only then forgets it: a
    /// client is never left connected with a hole in its stream.
    async fn close(&self, viewer: &Viewer, reason: &Failure) -> End {
        let close = self.management_api.close(&viewer.id);
        let site = self.site_of(viewer);
        let until = Instant::now() + ENDING.max(self.ordinary());
        match timeout_at(until, close).await {
            Ok(Outcome::Done | Outcome::Gone) => {
                let connection_id = &viewer.id;
                tracing::warn!(site, connection_id, ?reason, "connection closed");
                self.forget(viewer, until).await;
                End::Closed
            }
            outcome => {
                // One line for all of them: when closing fails, it fails often.
                if !self.is_not_closed_logged.swap(true, Ordering::Relaxed) {
                    let connection_id = &viewer.id;
                    tracing::error!(
                        site,
                        connection_id,
                        ?reason,
                        ?outcome,
                        "connection can be neither served nor closed, others may follow"
                    );
                }
                End::Left
            }
        }
    }

    /// What a call of the gateway may take before it counts as silent: four
    /// times the slowest delivered post. The gateway or this machine may be
    /// slow.
    fn ordinary(&self) -> Duration {
        let slowest = Duration::from_micros(self.slowest.load(Ordering::Relaxed));
        (4 * slowest).min(LONGEST_ANSWER)
    }

    /// Deletes the connection's rows of the batch's sites.
    async fn forget(&self, viewer: &Viewer, until: Instant) {
        let removes = self.sites_of(viewer).into_iter().map(|site| async move {
            let started = viewer.started.get(site).map(String::as_str);
            let remove = self.connections.remove(site, &viewer.id, started);
            match timeout_at(until, remove).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error_span!("site", site).in_scope(|| error.log()),
                // The next message tries again.
                Err(_) => {
                    tracing::warn!(site, connection_id = viewer.id, "row not deleted in time")
                }
            }
        });
        join_all(removes).await;
    }

    /// Logs once that failures are nobody's own.
    fn log_fault(&self, viewer: &Viewer, reason: &Failure, census: Census) {
        if !self.is_fault_logged.swap(true, Ordering::Relaxed) {
            tracing::error!(
                site = self.site_of(viewer),
                ?reason,
                others_served = census.served,
                others_retried = census.retried,
                others_failing = census.failing,
                "posts fail through no fault of their connections"
            );
        }
    }

    /// Counts and logs what became of the batch, with a line for each site.
    fn report(&self, served: &[Served]) {
        #[derive(Default)]
        struct Counts {
            messages: usize,
            connections: usize,
            broadcast: Broadcast,
        }
        let mut sites = BTreeMap::<&str, Counts>::new();
        for record in &self.records {
            sites.entry(&record.site).or_default().messages += 1;
        }
        for Served { viewer, count, end } in served {
            let had = viewer.records.iter().take(*count);
            for record in had.filter_map(|place| self.records.get(*place)) {
                sites.entry(&record.site).or_default().broadcast.frames += 1;
            }
            for site in self.sites_of(viewer) {
                let counts = sites.entry(site).or_default();
                counts.connections += 1;
                match end {
                    End::Served => {}
                    End::Gone => counts.broadcast.gone += 1,
                    End::Closed => counts.broadcast.closed += 1,
                    End::Left => counts.broadcast.left += 1,
                }
            }
        }
        let took = self.started.elapsed();
        let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        for (site, counts) in sites {
            let Counts {
                messages,
                connections,
                broadcast,
            } = counts;
            broadcast.count();
            let Broadcast {
                frames,
                gone,
                closed,
                left,
            } = broadcast;
            tracing::info!(
                site,
                messages,
                connections,
                frames,
                gone,
                closed,
                left,
                milliseconds,
                "broadcast"
            );
        }
        metrics::retried(self.retried.load(Ordering::Relaxed));
        let now = SortKey::now();
        for record in &self.records {
            let delivered = Duration::from_micros(record.delivered.load(Ordering::Relaxed));
            if let Some(stored_at) = record.stored_at
                && !delivered.is_zero()
            {
                let since = now.since(stored_at);
                metrics::delivered(since.saturating_sub(took.saturating_sub(delivered)));
            }
        }
    }

    /// The sites of a connection's records.
    fn sites_of<'a>(&'a self, viewer: &Viewer) -> BTreeSet<&'a str> {
        let records = viewer.records.iter();
        records
            .filter_map(|place| Some(&*self.records.get(*place)?.site))
            .collect()
    }

    /// One of them, for the log.
    fn site_of(&self, viewer: &Viewer) -> Option<&str> {
        self.sites_of(viewer).first().copied()
    }
}

/// Delivering to one connection.
struct Attempts<'a> {
    fan_out: &'a FanOut,
    viewer: &'a Viewer,
    progress: Arc<Progress>,
    has_joined: bool,
    /// What it has waited between attempts.
    waited: Duration,
    /// What had been delivered to all when this one began to fail.
    began: Option<Delivered>,
    /// How often it has met 429 since.
    throttled: u32,
    /// When a connection that may not be open yet is left alone.
    opening_until: Option<Instant>,
    /// Whether a failure was found to be shared.
    is_slow: bool,
}

impl<'a> Attempts<'a> {
    fn new(fan_out: &'a FanOut, viewer: &'a Viewer) -> Self {
        Self {
            fan_out,
            viewer,
            progress: Arc::default(),
            has_joined: false,
            waited: Duration::ZERO,
            began: None,
            throttled: 0,
            opening_until: None,
            is_slow: false,
        }
    }

    /// Delivers one record.
    async fn deliver(&mut self, record: &Record) -> End {
        let FanOut { end, pace, .. } = self.fan_out;
        let mut waits = None;
        // How long this record has failed.
        let mut failed_for = Duration::ZERO;
        let mut is_retry = false;
        let mut is_after_429 = false;
        loop {
            let Ok(Some(permit)) = timeout_at(*end, pace.begin()).await else {
                return End::Left;
            };
            if Instant::now() >= *end {
                return End::Left;
            }
            if !self.has_joined {
                self.fan_out.others.join(&self.progress, pace.limit());
                self.has_joined = true;
            }
            self.progress.posting();
            self.fan_out
                .retried
                .fetch_add(u64::from(is_retry), Ordering::Relaxed);
            let started = Instant::now();
            let outcome = self
                .post(record.frame(self.viewer.is_userstatus), failed_for)
                .await;
            pace.end(permit, outcome.as_ref());
            if outcome == Some(Outcome::Done) {
                let took = micros(started.elapsed());
                self.fan_out.slowest.fetch_max(took, Ordering::Relaxed);
                self.progress.delivered(is_retry);
                self.fan_out.others.count(is_after_429);
                let since = micros(self.fan_out.started.elapsed());
                record.delivered.fetch_max(since, Ordering::Relaxed);
                return End::Served;
            }
            let wait = waits.get_or_insert_with(|| self.waits()).next();
            let wait = wait.unwrap_or_default();
            let failure = match outcome {
                Some(Outcome::Gone) => match Box::pin(self.gone(wait)).await {
                    Some(end) => return end,
                    None => continue,
                },
                Some(outcome) => Failure::Answer(outcome),
                None => Failure::NoAnswer,
            };
            if Instant::now() >= *end {
                // The deadline cut it off.
                return End::Left;
            }
            self.progress.failed();
            is_retry = true;
            let is_429 = matches!(failure, Failure::Answer(Outcome::Throttled));
            is_after_429 |= is_429;
            self.throttled += u32::from(is_429);
            failed_for += started.elapsed();
            let began = self.began();

            if failed_for + wait >= BUDGET || self.waited + wait >= BUDGET {
                let census = self.fan_out.others.census(&self.progress, began);
                let is_too_early = is_429 && self.is_slow && self.throttled < SLOW_ATTEMPTS;
                match census.verdict(&failure) {
                    Verdict::Own if is_too_early => failed_for = Duration::ZERO,
                    Verdict::Own => {
                        return Box::pin(self.fan_out.close(self.viewer, &failure)).await;
                    }
                    Verdict::Left => {
                        self.fan_out.log_fault(self.viewer, &failure, census);
                        return End::Left;
                    }
                    Verdict::Shared => {
                        self.fan_out.log_fault(self.viewer, &failure, census);
                        self.is_slow = true;
                        self.waited = Duration::ZERO;
                        self.began = None;
                        self.throttled = 0;
                        failed_for = Duration::ZERO;
                        waits = None;
                    }
                }
            }
            let until = Instant::now() + wait;
            if until >= *end {
                return End::Left;
            }
            self.waited += wait;
            failed_for += wait;
            sleep_until(until).await;
        }
    }

    /// Posts a frame; `None` if no answer came in time.
    async fn post(&self, frame: Blob, failed_for: Duration) -> Option<Outcome> {
        let FanOut { end, others, .. } = self.fan_out;
        let started = Instant::now();
        let mut longest = (started + LONGEST_ANSWER).min(*end);
        let patience = BUDGET.saturating_sub(failed_for);
        let patience = patience.max(self.fan_out.ordinary());
        let mut limit = if self.is_slow {
            longest
        } else {
            (started + patience).min(longest)
        };
        // In a box, so that a connection that waits for its turn does not have the
        // room of the SDK's call too: with 10,000 of them it is most of the memory.
        let mut post = Box::pin(self.fan_out.management_api.post(&self.viewer.id, frame));
        loop {
            if let Ok(outcome) = timeout_at(limit, &mut post).await {
                return Some(outcome);
            }
            if limit < *end && limit.elapsed() >= STALL {
                limit = (Instant::now() + STALL).min(*end);
                longest = longest.max(limit);
                continue;
            }
            if limit >= longest {
                return None;
            }
            // To post again while others wait as well would only repeat the
            // frame.
            let census = others.census(&self.progress, others.delivered());
            match census.verdict(&Failure::NoAnswer) {
                Verdict::Own => return None,
                Verdict::Left | Verdict::Shared => limit = longest,
            }
        }
    }

    /// What a 410 means: the end of the connection, or another attempt after
    /// a wait.
    async fn gone(&mut self, wait: Duration) -> Option<End> {
        self.progress.settled();
        let now = Instant::now();
        if now >= self.viewer.young_until {
            self.fan_out.forget(self.viewer, now + ENDING).await;
            return Some(End::Gone);
        }
        let until = *self.opening_until.get_or_insert(now + OPENING);
        if now + wait >= until {
            // Its client fetches recent-logs once it is open.
            return Some(End::Gone);
        }
        sleep_until(now + wait).await;
        None
    }

    /// What had been delivered to all when this one began to fail, which may be
    /// now.
    fn began(&mut self) -> Delivered {
        let others = &self.fan_out.others;
        *self.began.get_or_insert_with(|| others.delivered())
    }

    fn waits(&self) -> impl Iterator<Item = Duration> + use<> {
        let (first, longest) = if self.is_slow { SLOW_WAITS } else { WAITS };
        backoff(first, longest)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Until when a 410 may mean that the connection is not open yet.
fn young_until(connection: &Connection) -> Instant {
    let age = connection
        .started_at()
        .map(|started| OffsetDateTime::now_utc() - started);
    // A clock that was set back shows an age below zero.
    let age = age.map_or(HANDSHAKE, |age| age.try_into().unwrap_or_default());
    Instant::now() + HANDSHAKE.saturating_sub(age)
}

#[cfg(test)]
mod tests;
