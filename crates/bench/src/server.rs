//! The local server.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use futures_util::StreamExt as _;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::process::Process;
use crate::raw::Client;
use crate::report::{Report, Times};
use crate::{Plan, Result, events, tables};

const WORK: &str = "local server";

const SITES: usize = 20;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often a message is sent again.
const ATTEMPTS: usize = 5;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

struct Server {
    process: Process,
    /// Until it listens.
    ready: Duration,
    url: String,
    client: Client,
}

impl Server {
    async fn start(plan: &Plan, build: usize, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(plan.binary(build, "logstream"));
        command.args(["--port", "0"]).args(arguments);
        let started = Instant::now();
        let mut process = Process::start(command, Stdio::piped(), None)?;
        let line = process.line().await?;
        let url = line
            .strip_prefix("listening on ")
            .ok_or("the server did not start")?;
        Ok(Self {
            url: url.to_owned(),
            ready: started.elapsed(),
            process,
            client: Client::new()?,
        })
    }

    async fn post(&self, site: &str, number: usize) -> Result<()> {
        let body = Bytes::from(events::message(site, number));
        let url = format!("{}/newlog", self.url);
        // A busy machine may answer 503, and a sender then sends again.
        for _ in 0..ATTEMPTS {
            let answer = self.client.call(&url, None, body.clone(), None).await;
            if answer.is_ok() {
                return Ok(());
            }
        }
        self.client.call(&url, None, body, None).await?;
        Ok(())
    }

    async fn watch(&self, site: &str) -> Result<Socket> {
        let url = format!("{}/?site={site}", self.url.replace("http://", "ws://"));
        Ok(connect_async(url).await?.0)
    }

    /// Posts from some senders until they have posted so many. Returns the
    /// messages of a second.
    async fn post_all(
        self: &Arc<Self>,
        sites: usize,
        senders: usize,
        first: usize,
        count: usize,
    ) -> Result<f64> {
        let started = Instant::now();
        let next = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..senders {
            let (server, next) = (self.clone(), next.clone());
            tasks.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return Result::Ok(());
                    }
                    server
                        .post(&format!("site{}", number % sites), first + number)
                        .await?;
                }
            });
        }
        for task in tasks.join_all().await {
            task?;
        }
        Ok(count as f64 / started.elapsed().as_secs_f64())
    }

    /// Posts one message after another, while one viewer watches.
    async fn post_to_frame(
        &self,
        site: &str,
        first: usize,
        count: usize,
    ) -> Result<(Times, Times)> {
        let mut socket = self.watch(site).await?;
        let (mut posts, mut frames) = (Times::new()?, Times::new()?);
        for number in 0..count {
            let started = Instant::now();
            let (post, frame) = tokio::join!(
                async {
                    self.post(site, first + number).await?;
                    Result::Ok(started.elapsed())
                },
                async {
                    frame(&mut socket).await?;
                    Result::Ok(started.elapsed())
                }
            );
            // The first ones warm it up.
            if number >= count / 10 {
                posts.add(post?)?;
                frames.add(frame?)?;
            }
        }
        Ok((posts, frames))
    }
}

async fn frame(socket: &mut Socket) -> Result<()> {
    loop {
        let message = timeout(PATIENCE, socket.next()).await?;
        if let Message::Text(_) = message.ok_or("the server closed a connection")?? {
            return Ok(());
        }
    }
}

/// Viewers that count what they get.
struct Viewers {
    frames: Arc<AtomicUsize>,
    is_closed: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    changed: mpsc::Receiver<()>,
}

impl Viewers {
    async fn open(server: &Server, sites: usize, count: usize) -> Result<Self> {
        let frames = Arc::new(AtomicUsize::new(0));
        let is_closed = Arc::new(AtomicBool::new(false));
        let (change, changed) = mpsc::channel(1);
        let mut tasks = Vec::new();
        for number in 0..count {
            let mut socket = server.watch(&format!("site{}", number % sites)).await?;
            let (frames, is_closed, change) = (frames.clone(), is_closed.clone(), change.clone());
            tasks.push(tokio::spawn(async move {
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_text() {
                        frames.fetch_add(1, Ordering::Relaxed);
                        let _ = change.try_send(());
                    }
                }
                is_closed.store(true, Ordering::Relaxed);
            }));
        }
        Ok(Self {
            frames,
            is_closed,
            tasks,
            changed,
        })
    }

    /// Waits until they have so many frames together.
    async fn have(&mut self, count: usize) -> Result<()> {
        let all = async {
            while self.frames.load(Ordering::Relaxed) < count {
                self.changed.recv().await;
            }
        };
        timeout(PATIENCE, all).await?;
        if self.is_closed.load(Ordering::Relaxed) {
            return Err("a viewer was closed".into());
        }
        Ok(())
    }
}

impl Drop for Viewers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

pub async fn measure(plan: &Plan, report: &mut Report) -> Result<()> {
    for run in 0..plan.runs {
        eprintln!("local server, run {} of {}", run + 1, plan.runs);
        for build in 0..plan.builds.len() {
            idle(plan, report, build).await?;
            work(plan, report, build).await?;
            burst(plan, report, build).await?;
        }
    }
    Ok(())
}

/// What it uses while nobody wants anything, with ten viewers.
async fn idle(plan: &Plan, report: &mut Report, build: usize) -> Result<()> {
    let seconds = if plan.is_short { 1 } else { 10 };
    let server = Server::start(plan, build, &[]).await?;
    let _viewers = Viewers::open(&server, 1, 10).await?;
    sleep(Duration::from_secs(2)).await;
    let cpu = server.process.cpu();
    sleep(Duration::from_secs(seconds)).await;
    let cpu = server.process.cpu().saturating_sub(cpu).as_secs_f64();
    report.add(build, WORK, "start", "ms", server.ready.as_secs_f64() * 1e3);
    report.add(
        build,
        WORK,
        "share of a core when idle",
        "%",
        cpu / seconds as f64 * 100.0,
    );
    Ok(())
}

async fn work(plan: &Plan, report: &mut Report, build: usize) -> Result<()> {
    let part = if plan.is_short { 20 } else { 1 };
    let server = Arc::new(Server::start(plan, build, &[]).await?);
    let (posts, frames) = server.post_to_frame("light", 0, 500 / part).await?;
    report.add(build, WORK, "POST to 200, p50", "ms", posts.at(0.5));
    report.add(build, WORK, "POST to frame, p50", "ms", frames.at(0.5));
    report.add(build, WORK, "POST to frame, p99", "ms", frames.at(0.99));
    let rate = server.post_all(SITES, 100, 0, 20_000 / part).await?;
    report.add(build, WORK, "messages/s of 100 senders", "", rate);

    let server = Arc::new(Server::start(plan, build, &[]).await?);
    let (viewers, messages) = (1000 / part, 60 / part);
    let mut audience = Viewers::open(&server, 1, viewers).await?;
    let started = Instant::now();
    server.post_all(1, 4, 0, messages).await?;
    audience.have(viewers * messages).await?;
    let rate = (viewers * messages) as f64 / started.elapsed().as_secs_f64();
    report.add(
        build,
        WORK,
        "frames/s of 1,000 viewers of one site",
        "",
        rate,
    );
    Ok(())
}

/// 3,000 messages/s for 3 s over 20 sites with 150 viewers.
async fn burst(plan: &Plan, report: &mut Report, build: usize) -> Result<()> {
    const VIEWERS: usize = 150;
    let (rate, seconds) = if plan.is_short { (100, 1) } else { (3000, 3) };
    let server = Arc::new(Server::start(plan, build, &[]).await?);
    let mut viewers = Viewers::open(&server, SITES, VIEWERS).await?;
    let started = tokio::time::Instant::now();
    let mut senders = JoinSet::new();
    for sender in 0..50 {
        let server = server.clone();
        senders.spawn(async move {
            for number in (sender..rate * seconds).step_by(50) {
                sleep_until(started + Duration::from_secs_f64(number as f64 / rate as f64)).await;
                server
                    .post(&format!("site{}", number % SITES), number)
                    .await?;
            }
            Result::Ok(())
        });
    }
    for sender in senders.join_all().await {
        sender?;
    }
    let posted = started.elapsed().as_secs_f64();
    let frames = (0..VIEWERS).map(|viewer| {
        let messages = rate * seconds;
        messages / SITES + usize::from(viewer % SITES < messages % SITES)
    });
    viewers.have(frames.sum()).await?;
    let lag = started.elapsed().as_secs_f64() - posted;
    report.add(
        build,
        WORK,
        "burst of 3,000/s for 3 s, POSTs took",
        "s",
        posted,
    );
    report.add(
        build,
        WORK,
        "burst of 3,000/s for 3 s, frames after the last POST",
        "s",
        lag,
    );
    report.add(
        build,
        WORK,
        "most memory",
        "MB",
        server.process.peak_memory() as f64 / 1e6,
    );
    Ok(())
}

/// With more and more stored messages.
pub async fn measure_rows(plan: &Plan, report: &mut Report) -> Result<()> {
    let steps: &[usize] = if plan.is_short {
        &[50, 200]
    } else {
        &[10_000, 100_000, 1_000_000]
    };
    for build in 0..plan.builds.len() {
        for rows in steps {
            eprintln!("local server with {rows} messages");
            let folder = tempfile::tempdir()?;
            tables::fill(folder.path(), SITES, *rows).await?;
            let path = folder.path().display().to_string();
            let server = Server::start(plan, build, &["--data-dir", &path]).await?;
            let name = format!("local server, {rows} messages stored");
            let (posts, frames) = server.post_to_frame("site0", 50_000_000, 200).await?;
            report.add(
                build,
                &name,
                "start",
                "ms",
                server.ready.as_secs_f64() * 1e3,
            );
            report.add(build, &name, "POST to 200, p50", "ms", posts.at(0.5));
            report.add(build, &name, "POST to frame, p50", "ms", frames.at(0.5));
            let mut times = Times::new()?;
            let recent = format!("{}/recent-logs?site=site0&limit=200", server.url);
            for _ in 0..20 {
                let started = Instant::now();
                server.client.get(&recent).await?;
                times.add(started.elapsed())?;
            }
            report.add(
                build,
                &name,
                "recent-logs, 200 messages, p50",
                "ms",
                times.at(0.5),
            );
            report.add(
                build,
                &name,
                "memory",
                "MB",
                server.process.memory() as f64 / 1e6,
            );
            let files = std::fs::read_dir(folder.path())?.flatten();
            let bytes: u64 = files
                .filter_map(|file| Some(file.metadata().ok()?.len()))
                .sum();
            report.add(build, &name, "disk", "MB", bytes as f64 / 1e6);
            server.process.terminate().await?;
        }
    }
    Ok(())
}
