//! Loads a deployment for a while and counts what the contract forbids:
//!
//!     cargo run --release --workspace --example soak -- --http URL --ws URL
//!
//! Viewers come and go, and close their gaps as the contract says. Messages are
//! posted at a steady rate, and in a burst each minute. Exits with 1 if a
//! viewer missed an acknowledged message, got one twice over one connection or
//! out of order, or got one of another site.

#[allow(dead_code, reason = "shared with the tests")]
mod support;

use std::collections::{HashMap, HashSet};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use clap::Parser;
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::json;
use support::{now, unique};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

/// A burst comes in the middle of each minute, for this long.
const BURST: Duration = Duration::from_secs(3);

/// The most posts at a time. If they are all waiting for their answers, fewer
/// messages are sent than asked for.
const POSTS: usize = 64;

/// How often a message is posted, in all, until it is acknowledged. The wait
/// in between is the contract's `Retry-After`.
const ATTEMPTS: usize = 10;
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long a request or a handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Viewers come one after another in this time, and not all at once.
const ARRIVAL: Duration = Duration::from_secs(5);

/// A connection stays for a random time of at most this long.
const LONGEST_STAY: Duration = Duration::from_secs(120);

/// The contract's "random wait of a second or two" before a reconnect.
const RECONNECT: Duration = Duration::from_secs(1);

/// How long a client that stopped reading leaves its connection open.
const SILENCE: Duration = Duration::from_secs(60);

/// How much of the past a new viewer shows, in seconds. Longer than a viewer
/// is away between two connections.
const SHOWN: u64 = 60;

/// After the last post, frames are awaited until none comes for this long.
const QUIET: Duration = Duration::from_secs(30);

/// How often a viewer tries to close its last gap.
const LAST_TRIES: usize = 10;

/// After the last viewer has left, its connections' descriptors go in this time.
const AFTERMATH: Duration = Duration::from_secs(5);

/// Puts a deployment under load and checks that every viewer gets every
/// message once and in order.
#[derive(Parser)]
struct Arguments {
    /// The HTTP API's address.
    #[arg(long)]
    http: String,

    /// The WebSocket API's address.
    #[arg(long)]
    ws: String,

    /// How long messages are posted.
    #[arg(long, default_value_t = 600)]
    seconds: u64,

    /// How many sites, with new names.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    sites: u64,

    /// How many viewers at a time, evenly over the sites.
    #[arg(long, default_value_t = 500)]
    clients: usize,

    /// Messages a second, over all sites.
    #[arg(long, default_value_t = 150.0)]
    rate: f64,

    /// By how much the rate is multiplied for 3 s of each minute; 1 for none.
    #[arg(long, default_value_t = 10.0)]
    burst: f64,

    /// A server's process on this machine, whose memory and descriptors are
    /// reported.
    #[arg(long)]
    pid: Option<u32>,
}

/// What all tasks share.
struct Soak {
    http: String,
    websocket: String,
    client: reqwest::Client,
    sites: Vec<Site>,
    acknowledged: AtomicUsize,
    failed_posts: AtomicUsize,
    frames: AtomicUsize,
}

struct Site {
    name: String,
    /// The site's messages. The place in this list is a message's number, which
    /// its text begins with.
    posted: Mutex<Vec<Posted>>,
    /// Which message came directly after which, over any connection.
    successions: Mutex<HashSet<(usize, usize)>>,
}

/// A message.
#[derive(Clone, Copy)]
struct Posted {
    started: Instant,
    /// The whole second of its timestamp.
    second: u64,
    acknowledged: Option<Instant>,
}

/// A message in a frame or in recent-logs.
#[derive(Deserialize)]
struct Received {
    /// Only in a frame.
    site: Option<String>,
    message: String,
}

/// What a viewer's task has seen.
#[derive(Default)]
struct Report {
    connections: usize,
    refused: usize,
    /// Connections that the other side ended.
    closed: usize,
    failed_catch_ups: usize,
    /// The times from the POST to the frame, in microseconds.
    delays: Vec<u32>,
    lost: usize,
    twice: usize,
    out_of_order: usize,
    foreign: usize,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let soak = Arc::new(Soak {
        http: arguments.http.trim_end_matches('/').to_owned(),
        websocket: arguments.ws.trim_end_matches('/').to_owned(),
        client: reqwest::Client::builder()
            .timeout(PATIENCE)
            .build()
            .unwrap(),
        sites: (0..arguments.sites).map(|_| Site::new()).collect(),
        acknowledged: AtomicUsize::new(0),
        failed_posts: AtomicUsize::new(0),
        frames: AtomicUsize::new(0),
    });
    let process = arguments.pid.map(Process::watch);
    let (end, ended) = watch::channel(false);
    let mut viewers = JoinSet::new();
    for index in 0..arguments.clients {
        let site = index % soak.sites.len();
        viewers.spawn(view(soak.clone(), site, ended.clone()));
    }
    let progress = tokio::spawn(print_progress(soak.clone()));
    post_all(&soak, &arguments).await;
    end.send_replace(true);

    let mut report = Report::default();
    for viewer in viewers.join_all().await {
        report.add(viewer);
    }
    progress.abort();
    let resources = match process {
        Some(process) => {
            sleep(AFTERMATH).await;
            Some(process.end())
        }
        None => None,
    };
    if print(&soak, report, resources) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Posts messages to the sites in turn until the time is over, and waits for
/// the last answer.
async fn post_all(soak: &Arc<Soak>, arguments: &Arguments) {
    let posts = Arc::new(Semaphore::new(POSTS));
    let begin = tokio::time::Instant::now();
    let end = begin + Duration::from_secs(arguments.seconds);
    let mut due = begin;
    let mut sites = (0..soak.sites.len()).cycle();
    while due < end {
        sleep_until(due).await;
        let place = posts.clone().acquire_owned().await.unwrap();
        let (soak, site) = (soak.clone(), sites.next().unwrap());
        tokio::spawn(async move {
            soak.post(&soak.sites[site]).await;
            drop(place);
        });
        let into_minute = Duration::from_secs((due - begin).as_secs() % 60);
        let half = Duration::from_secs(30);
        let is_burst = (half..half + BURST).contains(&into_minute);
        let rate = arguments.rate * if is_burst { arguments.burst } else { 1.0 };
        // What could not be sent in time is not made up for.
        let latest = tokio::time::Instant::now() - Duration::from_millis(100);
        due = (due + Duration::from_secs_f64(1.0 / rate)).max(latest);
    }
    let _ = posts.acquire_many(POSTS as u32).await.unwrap();
}

/// The viewers of one place, one after another, until the end.
async fn view(soak: Arc<Soak>, site: usize, mut ended: watch::Receiver<bool>) -> Report {
    let mut report = Report::default();
    sleep(ARRIVAL.mul_f64(fastrand::f64())).await;
    let mut viewer = Viewer::new(&soak, &soak.sites[site]);
    let mut tries_left = LAST_TRIES;
    while !viewer.connection(&mut report, &mut ended).await {
        if *ended.borrow() {
            tries_left -= 1;
            if tries_left == 0 {
                report.lost += viewer.missing(None).len();
                break;
            }
        } else if fastrand::bool() {
            // Else the same viewer comes back, with what it shows already.
            viewer = Viewer::new(&soak, &soak.sites[site]);
        }
        sleep(RECONNECT.mul_f64(1.0 + fastrand::f64())).await;
    }
    report
}

/// Someone who watches a site, over one connection after another.
struct Viewer<'a> {
    soak: &'a Soak,
    site: &'a Site,
    /// It shows messages of later seconds than this one.
    after_time: u64,
    /// Which messages it shows, by their numbers.
    shown: Vec<bool>,
}

impl<'a> Viewer<'a> {
    fn new(soak: &'a Soak, site: &'a Site) -> Self {
        Self {
            soak,
            site,
            after_time: now() - SHOWN,
            shown: Vec::new(),
        }
    }

    /// Opens a connection, closes the gap, and watches until it leaves or the
    /// connection ends. `true` once it has seen all that there will be.
    async fn connection(&mut self, report: &mut Report, ended: &mut watch::Receiver<bool>) -> bool {
        // Smaller than the default, for hundreds of clients.
        let buffers = WebSocketConfig::default().read_buffer_size(8 * 1024);
        let query = [("site", &self.site.name)];
        let url = reqwest::Url::parse_with_params(&self.soak.websocket, query).unwrap();
        let open = connect_async_with_config(url.as_str(), Some(buffers), true);
        let Ok(Ok((mut socket, _))) = timeout(PATIENCE, open).await else {
            report.refused += 1;
            return false;
        };
        report.connections += 1;

        let mut connection = Connection::default();
        let opened = Instant::now();
        let catch_up = self.soak.recent(self.site, self.after_time);
        tokio::pin!(catch_up);
        let (mut is_caught_up, mut is_over) = (false, false);
        let stay = LONGEST_STAY.mul_f64(fastrand::f64());
        let leave = sleep(stay);
        tokio::pin!(leave);
        loop {
            let is_end = *ended.borrow();
            if is_end && is_caught_up && self.missing(None).is_empty() {
                is_over = true;
                break;
            }
            tokio::select! {
                frame = socket.next() => match frame {
                    Some(Ok(Message::Text(text))) => {
                        self.soak.frames.fetch_add(1, Ordering::Relaxed);
                        self.take(text.as_str(), &mut connection, report);
                    }
                    Some(Ok(Message::Close(_)) | Err(_)) | None => {
                        report.closed += 1;
                        break;
                    }
                    Some(Ok(_)) => {}
                },
                found = &mut catch_up, if !is_caught_up => match found {
                    Some(found) => {
                        is_caught_up = true;
                        for message in found {
                            match self.site.number(&message) {
                                Some(number) => mark(&mut self.shown, number),
                                None => { report.foreign += 1; true }
                            };
                        }
                    }
                    None => {
                        report.failed_catch_ups += 1;
                        break;
                    }
                },
                () = &mut leave, if !is_end => break,
                _ = ended.changed(), if !is_end => {}
                () = sleep(QUIET), if is_end => {
                    is_over = is_caught_up;
                    break;
                }
            }
        }

        if is_caught_up {
            // What was acknowledged before the catch-up began is in it. What
            // was acknowledged before the post of a frame's message began was
            // stored before that, so it came before. At the end, all is due.
            let due = connection.latest_start.unwrap_or(opened).max(opened);
            for number in self.missing((!is_over).then_some(due)) {
                report.lost += 1;
                mark(&mut self.shown, number);
            }
        }
        depart(socket, is_over).await;
        is_over
    }

    /// Checks a frame.
    fn take(&mut self, frame: &str, connection: &mut Connection, report: &mut Report) {
        let received: Option<Received> = serde_json::from_str(frame).ok();
        let number = received.and_then(|received| {
            let is_own = received.site.as_ref() == Some(&self.site.name);
            is_own.then(|| self.site.number(&received)).flatten()
        });
        let Some(number) = number else {
            report.foreign += 1;
            return;
        };
        let posted = self.site.posted()[number];
        let delay = posted.started.elapsed().as_micros();
        report.delays.push(u32::try_from(delay).unwrap_or(u32::MAX));
        mark(&mut self.shown, number);
        if !mark(&mut connection.received, number) {
            report.twice += 1;
            return;
        }
        // It was stored before a message that has come already.
        let is_late = |stored: Instant| connection.latest_start.is_some_and(|start| stored < start);
        if posted.acknowledged.is_some_and(is_late) {
            report.out_of_order += 1;
        }
        connection.latest_start = connection.latest_start.max(Some(posted.started));
        if let Some(before) = connection.last.replace(number) {
            self.site
                .successions
                .lock()
                .unwrap()
                .insert((before, number));
        }
    }

    /// The messages that it does not show, of those that were acknowledged,
    /// before a time if one is given.
    fn missing(&self, before: Option<Instant>) -> Vec<usize> {
        let is_due = |posted: &Posted| {
            posted.second > self.after_time
                && posted
                    .acknowledged
                    .is_some_and(|at| before.is_none_or(|before| at < before))
        };
        let posted = self.site.posted();
        let missing = posted.iter().enumerate().filter(|(number, posted)| {
            !self.shown.get(*number).is_some_and(|shown| *shown) && is_due(posted)
        });
        missing.map(|(number, _)| number).collect()
    }
}

/// What came over one connection.
#[derive(Default)]
struct Connection {
    received: Vec<bool>,
    last: Option<usize>,
    /// The latest start of a POST whose message has come.
    latest_start: Option<Instant>,
}

/// Adds a number to a set; `false` if it was there.
fn mark(set: &mut Vec<bool>, number: usize) -> bool {
    if set.len() <= number {
        set.resize(number + 1, false);
    }
    !std::mem::replace(&mut set[number], true)
}

/// Ends a connection in one of the ways in which clients end.
async fn depart(mut socket: Socket, is_over: bool) {
    match fastrand::u8(0..10) {
        kind if is_over || kind < 5 => drop(timeout(PATIENCE, socket.close(None)).await),
        // Its process ends.
        5..9 => drop(socket),
        // Its network dies: it neither reads nor answers.
        _ => {
            tokio::spawn(async move {
                sleep(SILENCE).await;
                drop(socket);
            });
        }
    }
}

impl Soak {
    /// Posts a message until it is acknowledged, the same body each time.
    async fn post(&self, site: &Site) {
        let timestamp = now_micros();
        let number = {
            let mut posted = site.posted();
            posted.push(Posted {
                started: Instant::now(),
                second: timestamp / 1_000_000,
                acknowledged: None,
            });
            posted.len() - 1
        };
        let body = json!({
            "site": site.name,
            "log_message": format!("{} {number} Slewing to target, dome follows, seeing 1.4 arcsec", site.name),
            "log_level": "INFO",
            "timestamp": timestamp as f64 / 1e6,
        })
        .to_string();
        let url = format!("{}/newlog", self.http);
        for _ in 0..ATTEMPTS {
            let answer = self.client.post(&url).body(body.clone()).send().await;
            if let Ok(answer) = answer
                && answer.status() == 200
                && answer.bytes().await.is_ok()
            {
                site.posted()[number].acknowledged = Some(Instant::now());
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
                return;
            }
            self.failed_posts.fetch_add(1, Ordering::Relaxed);
            sleep(RETRY_AFTER).await;
        }
    }

    /// All of a site's messages after a second; `None` if a request fails.
    async fn recent(&self, site: &Site, after_time: u64) -> Option<Vec<Received>> {
        let query = [
            ("site", &site.name),
            ("after_time", &after_time.to_string()),
        ];
        let mut url =
            reqwest::Url::parse_with_params(&format!("{}/recent-logs", self.http), query).ok()?;
        let mut found = Vec::new();
        loop {
            let answer = self.client.get(url.clone()).send().await.ok()?;
            let answer = answer.error_for_status().ok()?;
            let next = answer.headers().get("link").cloned();
            found.extend(answer.json::<Vec<Received>>().await.ok()?);
            let Some(next) = next else {
                return Some(found);
            };
            let next = next.to_str().ok()?.strip_prefix('<')?;
            url = url.join(next.split_once('>')?.0).ok()?;
        }
    }
}

impl Site {
    fn new() -> Self {
        Self {
            name: unique("soak"),
            posted: Mutex::default(),
            successions: Mutex::default(),
        }
    }

    fn posted(&self) -> MutexGuard<'_, Vec<Posted>> {
        self.posted.lock().unwrap()
    }

    /// The number of a message; `None` if it was not sent to this site.
    fn number(&self, received: &Received) -> Option<usize> {
        let text = received.message.strip_prefix(&self.name)?;
        let number = text.strip_prefix(' ')?.split(' ').next()?.parse().ok()?;
        (number < self.posted().len()).then_some(number)
    }

    /// Whether there is one order in which all connections got the messages:
    /// whether what came after what has no circle.
    fn has_one_order(&self) -> bool {
        let successions = self.successions.lock().unwrap();
        let mut after: HashMap<usize, Vec<usize>> = HashMap::new();
        let mut before: HashMap<usize, usize> = HashMap::new();
        for (first, second) in successions.iter() {
            after.entry(*first).or_default().push(*second);
            before.entry(*first).or_default();
            *before.entry(*second).or_default() += 1;
        }
        let mut free: Vec<usize> = before
            .iter()
            .filter_map(|(number, count)| (*count == 0).then_some(*number))
            .collect();
        let mut ordered = 0;
        while let Some(number) = free.pop() {
            ordered += 1;
            for next in after.remove(&number).unwrap_or_default() {
                let count = before.get_mut(&next).unwrap();
                *count -= 1;
                if *count == 0 {
                    free.push(next);
                }
            }
        }
        ordered == before.len()
    }
}

impl Report {
    fn add(&mut self, mut other: Self) {
        self.connections += other.connections;
        self.refused += other.refused;
        self.closed += other.closed;
        self.failed_catch_ups += other.failed_catch_ups;
        self.delays.append(&mut other.delays);
        self.lost += other.lost;
        self.twice += other.twice;
        self.out_of_order += other.out_of_order;
        self.foreign += other.foreign;
    }
}

/// The resources of a process on this machine, measured each second.
struct Process {
    pid: u32,
    start: Resources,
    peak: Arc<Mutex<Resources>>,
}

#[derive(Clone, Copy)]
struct Resources {
    megabytes: f64,
    descriptors: usize,
}

impl Resources {
    /// As `/proc` tells them, on Linux.
    fn of(pid: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
        let status = status.expect("--pid: a process on this machine");
        let memory = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kilobytes = memory.and_then(|line| line.split_whitespace().nth(1));
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"));
        Self {
            megabytes: kilobytes.unwrap().parse::<f64>().unwrap() / 1024.0,
            descriptors: descriptors.expect("--pid: a process of this user").count(),
        }
    }
}

impl Process {
    fn watch(pid: u32) -> Self {
        let start = Resources::of(pid);
        let peak = Arc::new(Mutex::new(start));
        tokio::spawn({
            let peak = peak.clone();
            async move {
                loop {
                    sleep(Duration::from_secs(1)).await;
                    let current = Resources::of(pid);
                    let mut peak = peak.lock().unwrap();
                    peak.megabytes = peak.megabytes.max(current.megabytes);
                    peak.descriptors = peak.descriptors.max(current.descriptors);
                }
            }
        });
        Self { pid, start, peak }
    }

    /// At the start, at most, and now.
    fn end(self) -> [Resources; 3] {
        let peak = *self.peak.lock().unwrap();
        [self.start, peak, Resources::of(self.pid)]
    }
}

async fn print_progress(soak: Arc<Soak>) {
    let begin = Instant::now();
    loop {
        sleep(Duration::from_secs(10)).await;
        eprintln!(
            "{:4} s: {} messages, {} frames",
            begin.elapsed().as_secs(),
            soak.acknowledged.load(Ordering::Relaxed),
            soak.frames.load(Ordering::Relaxed),
        );
    }
}

/// Prints what was found; `false` if the contract was broken, or nothing tried.
fn print(soak: &Soak, mut report: Report, resources: Option<[Resources; 3]>) -> bool {
    let row = |name: &str, value: &dyn std::fmt::Display| println!("{name:36}{value:>12}");
    let posted: usize = soak.sites.iter().map(|site| site.posted().len()).sum();
    let acknowledged = soak.acknowledged.load(Ordering::Relaxed);
    row("messages posted", &posted);
    row("messages acknowledged", &acknowledged);
    row(
        "failed posts, sent again",
        &soak.failed_posts.load(Ordering::Relaxed),
    );
    row("connections", &report.connections);
    row("handshakes refused", &report.refused);
    row("connections closed by the server", &report.closed);
    row("recent-logs failed", &report.failed_catch_ups);
    row("frames", &report.delays.len());
    report.delays.sort_unstable();
    let last = report.delays.len().saturating_sub(1);
    for (name, place) in [
        ("p50", last / 2),
        ("p99", last * 99 / 100),
        ("longest", last),
    ] {
        let micros = report.delays.get(place).copied().unwrap_or_default();
        let millis = format!("{:.1}", f64::from(micros) / 1000.0);
        row(&format!("POST to frame, {name}, ms"), &millis);
    }
    if let Some(resources) = resources {
        for (when, resources) in ["start", "peak", "end"].iter().zip(resources) {
            let megabytes = format!("{:.0}", resources.megabytes);
            row(&format!("memory, {when}, MB"), &megabytes);
            row(&format!("descriptors, {when}"), &resources.descriptors);
        }
    }
    let unordered = soak.sites.iter().filter(|site| !site.has_one_order());
    let faults = [
        ("lost", report.lost),
        ("twice over one connection", report.twice),
        ("out of order", report.out_of_order),
        ("sites with more than one order", unordered.count()),
        ("of another site", report.foreign),
    ];
    for (name, count) in &faults {
        row(name, count);
    }
    acknowledged > 0 && !report.delays.is_empty() && faults.iter().all(|(_, count)| *count == 0)
}

fn now_micros() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(since_epoch.unwrap().as_micros()).unwrap()
}
