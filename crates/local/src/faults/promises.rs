//! Random senders and viewers in random bad weather; afterwards every promise
//! is checked.
//!
//! The seeds of a run are set by the environment: `FAULT_SEEDS=1000` runs the
//! seeds below 1,000, `FAULT_SEED=7` runs that one and prints every fault, and
//! `FAULT_MESSAGES` is the number of messages for each seed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::StatusCode;
use fastrand::Rng;
use logstream_core::{Connections, Messages, SortKey};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::world::{Fault, Part, Plan, Sickness, World};
use super::{Received, Written, connect, handshake, history, number, post};
use crate::functions::Function;
use crate::{App, CONNECTIONS_TABLE, MESSAGES_TABLE, Options, in_process, sdk_config};

/// The seeds and the messages of each in a run of the whole test suite.
const SEEDS: u64 = 8;
const MESSAGES: usize = 100;

/// Messages a second, of all senders.
const RATE: usize = 25;

/// The time at which the senders' clocks start.
const EPOCH: f64 = 1_604_514_063.0;

/// After the last fault: the SDK's waits of up to 3 s between three attempts,
/// 2 s before the batch is given again, 1.5 s for a post without an answer, 1 s
/// until the next post, and a second for chance.
const RECOVERY: Duration = Duration::from_millis(8500);

/// Without a fault that everybody has: a batch that is given two more times
/// because of one client, then another batch.
const HELD_UP: Duration = Duration::from_secs(5);

/// newlog's own limit, and something for the rest of the call.
const ANSWER: Duration = Duration::from_millis(3100);

/// The shortest time for which every attempt of a batch can fail: the waits
/// between them.
const GIVING_UP: Duration = Duration::from_millis(2500);

/// A message that was sent.
#[derive(Clone, Default)]
struct Sent {
    site: usize,
    first_post: Option<Instant>,
    /// When a post of it was answered with 200.
    stored: Option<Instant>,
}

/// What the senders did, by the number of the message.
type Log = Arc<Mutex<Vec<Sent>>>;

/// How a sender tells the time.
#[derive(Clone, Copy, Debug)]
enum Clock {
    Fractional,
    WholeSeconds,
    /// It jumps, back and forth.
    Jumping,
    Stuck,
    /// It sends no timestamp, so it must not send again.
    None,
}

impl Clock {
    fn timestamp(self, rng: &mut Rng, now: Duration) -> Option<f64> {
        let now = EPOCH + now.as_secs_f64();
        match self {
            Self::Fractional => Some(now),
            Self::WholeSeconds => Some(now.floor()),
            Self::Jumping => Some((now + 3600.0 * (rng.f64() - 0.5)).floor()),
            Self::Stuck => Some(EPOCH),
            Self::None => None,
        }
    }
}

/// A connection of a client.
struct Session {
    id: String,
    site: usize,
    opened: Instant,
    frames: Vec<Received>,
    end: End,
    /// Whether its posts failed by its own fault, or it did not read.
    is_at_fault: bool,
    /// Whether it took its time for each frame.
    is_slow: bool,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    /// It was open when the run ended.
    Open,
    /// The client ended it, or it broke.
    Left,
    /// It was closed by the broadcaster.
    Closed(Instant),
}

/// A client's connections, and what it has shown.
struct Client {
    site: usize,
    sessions: Vec<Session>,
    shown: HashSet<usize>,
}

/// What a run did.
#[derive(Default, Clone, Debug)]
struct Figures {
    messages: u64,
    posts: u64,
    frames: u64,
    repeated: u64,
    connections: u64,
    closed: u64,
    healthy_closed_in_storms: u64,
    given_up: u64,
    missed_live: u64,
    virtual_seconds: u64,
    slowest_after_calm_ms: u64,
    faults: BTreeMap<(Part, Fault), u64>,
}

impl AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.messages += other.messages;
        self.posts += other.posts;
        self.frames += other.frames;
        self.repeated += other.repeated;
        self.connections += other.connections;
        self.closed += other.closed;
        self.healthy_closed_in_storms += other.healthy_closed_in_storms;
        self.given_up += other.given_up;
        self.missed_live += other.missed_live;
        self.virtual_seconds += other.virtual_seconds;
        self.slowest_after_calm_ms = self.slowest_after_calm_ms.max(other.slowest_after_calm_ms);
        for (fault, count) in other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().expect("a number"))
}

#[test]
fn the_promises_hold_in_a_faulty_world() {
    let messages = variable("FAULT_MESSAGES").map_or(MESSAGES, |messages| messages as usize);
    let only = variable("FAULT_SEED");
    let seeds = match only {
        Some(seed) => seed..seed + 1,
        None => 0..variable("FAULT_SEEDS").unwrap_or(SEEDS),
    };
    let started = std::time::Instant::now();
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new(Figures::default());
    let failed = Mutex::new(BTreeSet::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !seeds.contains(&seed) {
                        return;
                    }
                    match catch_unwind(AssertUnwindSafe(|| run(seed, messages, only.is_some()))) {
                        Ok(figures) => *total.lock().unwrap() += figures,
                        Err(_) => {
                            println!(
                                "Seed {seed} failed. Again: FAULT_SEED={seed} \
                                 FAULT_MESSAGES={messages}"
                            );
                            failed.lock().unwrap().insert(seed);
                        }
                    }
                    if seed % 50 == 49 {
                        println!("{} seeds, {:?}", seed + 1, started.elapsed());
                    }
                }
            });
        }
    });
    println!("{:#?}", total.into_inner().unwrap());
    println!(
        "{seeds:?}, {messages} messages each: {:?}",
        started.elapsed()
    );
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "failed seeds: {failed:?}");
}

/// Runs one seed on this thread.
fn run(seed: u64, messages: usize, is_verbose: bool) -> Figures {
    // Also the product's waits are random.
    fastrand::seed(seed);
    let (log, _guard) = Written::capture();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let time = Duration::from_secs_f64(messages as f64 / RATE as f64);
        let world = World::new(seed, Plan::new(seed, time));
        let scenario = Scenario::new(seed, messages, world.clone(), log.clone());
        let checked = AssertUnwindSafe(scenario.await.play());
        let checked = futures_util::FutureExt::catch_unwind(checked).await;
        if is_verbose || checked.is_err() {
            let lines = world.log();
            let shown = if is_verbose { lines.len() } else { 40 };
            println!("seed {seed}: {:#?}", world.plan);
            for line in &lines[lines.len().saturating_sub(shown)..] {
                println!("{line}");
            }
        }
        if is_verbose {
            println!("{}", log.text());
        }
        checked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// One run.
struct Scenario {
    app: Arc<App>,
    world: Arc<World>,
    rng: Rng,
    sites: Vec<String>,
    messages: usize,
    log: Written,
    stored: Log,
    posts: Arc<AtomicU64>,
}

impl Scenario {
    async fn new(seed: u64, messages: usize, world: Arc<World>, log: Written) -> Self {
        let app = App::new(Options::default(), |client| world.around(client));
        let mut rng = Rng::with_seed(seed ^ 0xace);
        let sites = ["tst", "TST", "an/other site?", "ü"];
        Self {
            app: app.await.unwrap(),
            sites: sites[..rng.usize(1..=4)]
                .iter()
                .map(ToString::to_string)
                .collect(),
            world,
            rng,
            messages,
            log,
            stored: Arc::default(),
            posts: Arc::default(),
        }
    }

    async fn play(mut self) -> Figures {
        let mut order = self.app.database.stream(MESSAGES_TABLE).await.unwrap();
        self.app.start().await.unwrap();
        self.world.begin();

        // One in four runs has messages that fill the queues of those
        // who do not read.
        let has_large = self.rng.u8(..4) == 0;
        let finish = CancellationToken::new();
        let mut clients = JoinSet::new();
        for number in 0..self.rng.usize(4..=14) {
            let client = Watcher {
                app: self.app.clone(),
                world: self.world.clone(),
                rng: self.rng.fork(),
                name: format!("client{number}"),
                site: self.rng.usize(..self.sites.len()),
                sites: self.sites.clone(),
                has_large,
                finish: finish.clone(),
            };
            clients.spawn(client.run());
        }
        let senders = self.rng.usize(3..=8);
        let mut sending = JoinSet::new();
        let numbers: Vec<_> = (0..self.messages).collect();
        self.stored
            .lock()
            .unwrap()
            .resize(self.messages, Sent::default());
        for numbers in numbers.chunks(self.messages.div_ceil(senders)) {
            let clocks = [
                Clock::Fractional,
                Clock::WholeSeconds,
                Clock::Jumping,
                Clock::Stuck,
                Clock::None,
            ];
            let sender = Sender {
                app: self.app.clone(),
                world: self.world.clone(),
                clock: clocks[self.rng.usize(..clocks.len())],
                rng: self.rng.fork(),
                sites: self.sites.clone(),
                log: self.stored.clone(),
                posts: self.posts.clone(),
                pause: Duration::from_secs_f64(senders as f64 / RATE as f64),
                has_large,
            };
            sending.spawn(sender.run(numbers.to_vec()));
        }
        sending.join_all().await;
        let calm_at = self.world.plan.calm_at;
        sleep(calm_at.saturating_sub(self.world.now()) + self.recovery()).await;
        // Finds those that are gone or sick; then everybody is connected.
        self.send_to_all_sites().await;
        sleep(Duration::from_secs(6)).await;
        self.send_to_all_sites().await;
        sleep(Duration::from_secs(4)).await;
        finish.cancel();
        let clients = clients.join_all().await;

        let mut records = Vec::new();
        loop {
            let page = order.next(1000).await.unwrap();
            if page.is_empty() {
                break;
            }
            records.extend(page);
        }
        let figures = self.check(&clients, &records).await;
        self.app.stop.cancel();
        self.app.tasks.close();
        self.app.tasks.wait().await;
        figures
    }

    /// How long everything may take after the last fault. A fault may last
    /// until nearly all messages have piled up, and a connection gets them one
    /// after another.
    fn recovery(&self) -> Duration {
        let takes = &self.world.plan.management_takes;
        let mean = Duration::from_millis(takes.start() + takes.end()) / 2;
        RECOVERY + mean * u32::try_from(self.messages).unwrap()
    }

    /// Sends one more message to each site.
    async fn send_to_all_sites(&self) {
        for site in 0..self.sites.len() {
            let number = {
                let mut log = self.stored.lock().unwrap();
                log.push(Sent {
                    site,
                    first_post: Some(Instant::now()),
                    stored: None,
                });
                log.len() - 1
            };
            let body = json!({"site": self.sites[site], "log_message": number.to_string()});
            let status = post(&self.app, body.to_string()).await;
            self.posts.fetch_add(1, Ordering::Relaxed);
            assert_eq!(status, 200, "in calm weather");
            self.stored.lock().unwrap()[number].stored = Some(Instant::now());
        }
    }

    async fn check(&self, clients: &[Client], records: &[Value]) -> Figures {
        let stream = Stream::new(records, &self.sites, &self.log.given_up());
        self.check_stored(&stream).await;
        self.check_given_up(&stream);
        let mut figures = Figures {
            messages: self.stored.lock().unwrap().len() as u64,
            posts: self.posts.load(Ordering::Relaxed),
            given_up: stream.given_up.len() as u64,
            virtual_seconds: self.world.now().as_secs(),
            faults: self.world.counts(),
            ..Figures::default()
        };
        for client in clients {
            for session in &client.sessions {
                self.check_session(session, &stream, &mut figures);
            }
            // History and frames together have everything, besides what was
            // given up while it was connected.
            for number in &stream.order[client.site] {
                if !client.shown.contains(number) {
                    figures.missed_live += 1;
                    assert!(
                        stream.given_up.contains(number),
                        "a client was never shown message {number}"
                    );
                }
            }
        }
        self.check_rows(clients).await;
        figures
    }

    /// Every 200 is stored once, a retry too, and in the order of the senders.
    async fn check_stored(&self, stream: &Stream) {
        let reader = sdk_config(in_process::client(self.app.database.api()));
        let table = Messages::new(&reader, MESSAGES_TABLE.to_owned());
        let sent = self.stored.lock().unwrap().clone();
        let mut copies = vec![0; sent.len()];
        for (site, name) in self.sites.iter().enumerate() {
            let mut next = Some(SortKey::MAX);
            while let Some(high) = next {
                let page = table.newest_first(name, SortKey::MIN, high, usize::MAX);
                let page = page.await.unwrap();
                for message in page.messages {
                    let number = number(&message.text);
                    copies[number] += 1;
                    assert_eq!(sent[number].site, site, "message {number}");
                    let id = &stream.ids[&number];
                    assert_eq!(*id, message.key.to_string(), "message {number}");
                }
                next = page.next;
            }
        }
        for (number, (sent, copies)) in sent.iter().zip(&copies).enumerate() {
            assert!(*copies <= 1, "message {number} is stored {copies} times");
            if sent.stored.is_some() {
                assert_eq!(
                    *copies, 1,
                    "message {number} was acknowledged and is not stored"
                );
            }
        }
        assert_eq!(copies.iter().sum::<usize>(), stream.ids.len());
        for order in &stream.order {
            // One that was acknowledged before another was sent is before it.
            let mut latest = None;
            for number in order {
                let Sent {
                    first_post, stored, ..
                } = sent[*number];
                assert!(
                    stored.is_none() || latest.is_none_or(|latest| Some(latest) <= stored),
                    "message {number} is stored behind a later one"
                );
                latest = latest.max(first_post);
            }
        }
    }

    /// Records are given up only in a fault that outlasts their retries.
    fn check_given_up(&self, stream: &Stream) {
        let given_up = stream.given_up.len() as u64;
        let counted = self.app.progress.given_up.load(Ordering::Relaxed);
        assert_eq!(counted, given_up, "records given up that are not logged");
        if self.world.plan.longest_storm() < GIVING_UP {
            assert_eq!(given_up, 0, "records were given up without a reason");
        }
    }

    /// Promise 2, for one connection.
    fn check_session(&self, session: &Session, stream: &Stream, figures: &mut Figures) {
        let Session { id, site, end, .. } = session;
        let plan = &self.world.plan;
        let sent = self.stored.lock().unwrap();
        let order = &stream.order[*site];
        let must_have = |missed: &[usize], at_the_latest: &str| {
            for missed in missed {
                let is_given_up = stream.given_up.contains(missed);
                assert!(is_given_up, "{id} has no message {missed} {at_the_latest}");
            }
        };

        // The messages that must come: from the first that was sent after the
        // connection was open.
        let must_come = order.iter().position(|number| {
            sent[*number]
                .first_post
                .is_some_and(|first_post| first_post >= session.opened)
        });
        let mut last: Option<usize> = None;
        let mut seen = HashSet::new();
        for Received {
            number,
            id: key,
            at,
        } in &session.frames
        {
            let place = stream.places[number];
            assert_eq!(order[place], *number, "{id} got a frame of another site");
            assert_eq!(stream.ids[number], *key, "the id of message {number}");
            figures.frames += 1;
            if !seen.insert(*number) {
                figures.repeated += 1;
                continue;
            }
            let from = match last {
                Some(last) => {
                    assert!(last < place, "{id} got message {number} after a later one");
                    last + 1
                }
                None => must_come.unwrap_or(place).min(place),
            };
            must_have(&order[from..place], "before a later one");
            last = Some(place);
            if let (Some(stored), false) =
                (sent[*number].stored, session.is_slow || session.is_at_fault)
            {
                let is_held_up = plan.storms.is_empty() && plan.database == 0.0;
                let (since, limit) = if is_held_up {
                    (stored.max(session.opened), HELD_UP)
                } else {
                    let calm = *at - self.world.since_start(*at) + plan.calm_at;
                    (stored.max(session.opened).max(calm), self.recovery())
                };
                let late = at.saturating_duration_since(since);
                assert!(late <= limit, "{id} got message {number} {late:?} late");
                figures.slowest_after_calm_ms =
                    figures.slowest_after_calm_ms.max(late.as_millis() as u64);
            }
        }
        if plan.is_calm() {
            assert_eq!(seen.len(), session.frames.len(), "{id} got a frame twice");
        }
        figures.connections += 1;
        match end {
            End::Open => {
                let from = last.map_or(must_come, |last| Some(last + 1));
                must_have(&order[from.unwrap_or(order.len())..], "at the end");
            }
            End::Left => {}
            End::Closed(at) => {
                figures.closed += 1;
                if !session.is_at_fault {
                    let at = self.world.since_start(*at);
                    assert!(
                        plan.has_stormed(Part::Management, at),
                        "{id} was closed though only others were at fault"
                    );
                    figures.healthy_closed_in_storms += 1;
                }
            }
        }
    }

    /// After a broadcast in calm weather there are rows of open connections
    /// only.
    async fn check_rows(&self, clients: &[Client]) {
        let reader = sdk_config(in_process::client(self.app.database.api()));
        let table = Connections::new(&reader, CONNECTIONS_TABLE.to_owned());
        for (site, name) in self.sites.iter().enumerate() {
            let rows = table.of_site(name).await.unwrap();
            let rows: BTreeSet<_> = rows.into_iter().map(|row| row.id).collect();
            let sessions = clients.iter().flat_map(|client| &client.sessions);
            let open = sessions.filter(|session| session.site == site && session.end == End::Open);
            let open: BTreeSet<_> = open.map(|session| session.id.clone()).collect();
            assert_eq!(rows, open, "the rows of {name}, and who is connected");
        }
    }
}

/// What the stream had, in its order.
struct Stream {
    /// The numbers of the messages, by site.
    order: Vec<Vec<usize>>,
    /// Where a message is in its site's order.
    places: HashMap<usize, usize>,
    ids: HashMap<usize, String>,
    given_up: HashSet<usize>,
}

impl Stream {
    fn new(records: &[Value], sites: &[String], given_up: &HashSet<String>) -> Self {
        let mut stream = Self {
            order: vec![Vec::new(); sites.len()],
            places: HashMap::new(),
            ids: HashMap::new(),
            given_up: HashSet::new(),
        };
        for record in records {
            let record = &record["dynamodb"];
            let text = |name: &str| record["NewImage"][name]["S"].as_str().unwrap();
            let number = number(text("message"));
            let site = sites.iter().position(|site| site == text("site")).unwrap();
            let id = record["NewImage"]["timestamp"]["N"].as_str().unwrap();
            let id = SortKey::from_stored(id).unwrap().to_string();
            assert_eq!(stream.ids.insert(number, id), None, "message {number}");
            stream.places.insert(number, stream.order[site].len());
            stream.order[site].push(number);
            if given_up.contains(record["SequenceNumber"].as_str().unwrap()) {
                stream.given_up.insert(number);
            }
        }
        stream
    }
}

/// Sends its messages one after another.
struct Sender {
    app: Arc<App>,
    world: Arc<World>,
    clock: Clock,
    rng: Rng,
    sites: Vec<String>,
    log: Log,
    posts: Arc<AtomicU64>,
    /// The mean time between two messages.
    pause: Duration,
    has_large: bool,
}

impl Sender {
    async fn run(mut self, numbers: Vec<usize>) {
        for number in numbers {
            // Every tenth time there is a burst.
            let is_burst = number / 10 % 10 == 0;
            if !is_burst {
                sleep(self.pause.mul_f64(2.2 * self.rng.f64())).await;
            }
            self.send(number).await;
        }
    }

    async fn send(&mut self, number: usize) {
        let site = self.rng.usize(..self.sites.len());
        let padding = match self.has_large && self.rng.u8(..6) == 0 {
            true => "x".repeat(100_000),
            false => "Slewing to target".to_owned(),
        };
        let timestamp = self.clock.timestamp(&mut self.rng, self.world.now());
        let body = json!({
            "site": self.sites[site],
            "log_message": format!("{number} {padding}"),
            "log_level": "INFO",
            "timestamp": timestamp,
        });
        let body = body.to_string();
        self.log.lock().unwrap()[number] = Sent {
            site,
            first_post: Some(Instant::now()),
            stored: None,
        };
        // Some give up at the first failure, and so must who has no clock.
        let is_patient = timestamp.is_some() && self.rng.u8(..10) > 0;
        loop {
            self.posts.fetch_add(1, Ordering::Relaxed);
            let started = Instant::now();
            let status = if is_patient && self.rng.u8(..10) == 0 {
                // The answer is lost, or comes after the sender's own limit.
                let patience = Duration::from_millis(self.rng.u64(1..40));
                timeout(patience, post(&self.app, body.clone())).await.ok()
            } else {
                Some(post(&self.app, body.clone()).await)
            };
            let took = started.elapsed();
            assert!(
                took <= ANSWER,
                "message {number} was answered after {took:?}"
            );
            match status {
                Some(StatusCode::OK) => {
                    self.log.lock().unwrap()[number].stored = Some(Instant::now());
                    return;
                }
                Some(status) => assert_eq!(status, 503),
                None => {}
            }
            if !is_patient {
                return;
            }
            let wait = self.rng.u64(..1000);
            sleep(Duration::from_millis(wait)).await;
        }
    }
}

/// What a client does with one connection.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Habit {
    Stays,
    /// It takes up to 0.1 s for each frame.
    Slow,
    /// It closes the connection.
    Leaves,
    /// It is gone without a word, and the gateway finds out later.
    Dies,
    /// It does not read for a while.
    Stuck,
    FallsSick,
}

/// A client that does what `docs/contract.md` says: it connects, then fetches
/// what is stored, and connects again after every close.
struct Watcher {
    app: Arc<App>,
    world: Arc<World>,
    rng: Rng,
    name: String,
    site: usize,
    sites: Vec<String>,
    has_large: bool,
    finish: CancellationToken,
}

impl Watcher {
    async fn run(mut self) -> Client {
        let mut client = Client {
            site: self.site,
            sessions: Vec::new(),
            shown: HashSet::new(),
        };
        sleep(Duration::from_millis(self.rng.u64(..3000))).await;
        for count in 0.. {
            let id = format!("{}-{count}", self.name);
            if self.session(id, &mut client).await {
                return client;
            }
            let wait = 1000 + self.rng.u64(..1000);
            let wait = sleep(Duration::from_millis(wait));
            assert!(
                self.finish.run_until_cancelled(wait).await.is_some(),
                "{} is not connected at the end",
                self.name
            );
        }
        client
    }

    /// Runs one connection; `true` if it was open at the end.
    async fn session(&mut self, id: String, client: &mut Client) -> bool {
        let site = self.sites[self.site].clone();
        let Some(mut outbox) = connect(&self.app, &id, &site).await else {
            self.world.note(|| format!("{id} is refused"));
            return false;
        };
        self.world.note(|| format!("{id} is open"));
        let habit = self.habit();
        let mut session = Session {
            id: id.clone(),
            site: self.site,
            opened: Instant::now(),
            frames: Vec::new(),
            end: End::Open,
            is_at_fault: match habit {
                Habit::Stuck | Habit::FallsSick | Habit::Dies => true,
                // It may read less than comes.
                Habit::Slow => self.has_large,
                Habit::Stays | Habit::Leaves => false,
            },
            is_slow: habit == Habit::Slow,
        };
        let life = Duration::from_millis(self.rng.u64(500..15_000));
        let mut turn = Some(session.opened + life);
        let history = history(self.app.clone(), site.clone());
        let mut history = std::pin::pin!(history);
        let mut has_history = false;
        let close = outbox.close.clone();
        loop {
            tokio::select! {
                biased;
                () = close.cancelled() => {
                    self.world.note(|| format!("{id} was closed"));
                    session.end = End::Closed(Instant::now());
                    break;
                }
                () = sleep_until(turn.unwrap_or(session.opened)), if turn.is_some() => {
                    turn = None;
                    match habit {
                        Habit::Stays | Habit::Slow => {}
                        Habit::Leaves => {
                            session.end = End::Left;
                            break;
                        }
                        Habit::Dies => {
                            // Until the gateway finds out, it accepts frames.
                            let wait = Duration::from_millis(self.rng.u64(..5000));
                            sleep(wait).await;
                            session.end = End::Left;
                            break;
                        }
                        Habit::Stuck => {
                            let wait = Duration::from_secs(self.rng.u64(5..20));
                            let _ = timeout(wait, close.cancelled()).await;
                        }
                        Habit::FallsSick => {
                            let kinds = [
                                Sickness::Silent,
                                Sickness::Throttled,
                                Sickness::Flapping,
                                Sickness::Forbidden,
                            ];
                            self.world.falls_sick(&id, kinds[self.rng.usize(..kinds.len())]);
                        }
                    }
                }
                Some(frame) = outbox.next() => {
                    if habit == Habit::Slow {
                        let wait = Duration::from_millis(self.rng.u64(..100));
                        sleep(wait).await;
                    }
                    outbox.sent(frame.len());
                    let frame = Received::read(&frame, &site);
                    client.shown.insert(frame.number);
                    session.frames.push(frame);
                }
                stored = &mut history, if !has_history => match stored {
                    Some(stored) => {
                        has_history = true;
                        client.shown.extend(stored);
                    }
                    None => {
                        self.world.note(|| format!("{id} cannot read the history"));
                        session.end = End::Left;
                        break;
                    }
                },
                () = self.finish.cancelled() => break,
            }
        }
        let is_open = session.end == End::Open;
        client.sessions.push(session);
        if !is_open {
            self.app.sockets.remove(&id);
            // AWS does not promise that `$disconnect` is called.
            if habit != Habit::Dies {
                handshake(&self.app, Function::Disconnect, &id, &site).await;
            }
        }
        is_open
    }

    fn habit(&mut self) -> Habit {
        if self.world.is_calm() {
            return Habit::Stays;
        }
        let habit = match self.rng.u8(..12) {
            0..4 => Habit::Stays,
            4..6 => Habit::Slow,
            6..8 => Habit::Leaves,
            8..10 => Habit::Dies,
            10 => Habit::Stuck,
            _ => Habit::FallsSick,
        };
        match habit {
            Habit::Stuck | Habit::FallsSick if !self.world.plan.has_sick_clients => Habit::Stays,
            habit => habit,
        }
    }
}
