//! `send`: a message, or the lines of the standard input.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, IsTerminal as _, Write as _, stderr, stdin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use logstream_core::message::MAX_MESSAGES;
use logstream_core::{Level, backoff, text};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::client::{Client, Trouble};
use super::options::{LevelParser, Target, duration, sites};
use super::{Failure, signals};

const EXAMPLES: &str = "\
Examples:
  logstream send --site tst 'Dome opened'
  logstream send --site tst --level warning Clouds from the west
  logstream send --site tst -- '-5 degrees outside'
  tail -F telescope.log | logstream send --site tst

The key is better in LOGSTREAM_KEY or in a profile: other users of the machine
can see the arguments of a command.

Exits with 0 once all is stored, else with 1.";

/// How many lines are read ahead.
const READ_AHEAD: usize = 1000;

/// The most bytes of texts in one request, so that the server stores it well
/// within its time. A longer text has a request of its own.
const MAX_BYTES: usize = 1_000_000;

/// After so many failures one after the other they are told.
const WORTH_TELLING: u32 = 3;

/// So many lines deserve a progress bar.
const MANY: u64 = 200;

/// Sends a message, or each line of the standard input as a message.
///
/// Empty lines are left out. What cannot be sent now is tried again, with the
/// same timestamp, so that it is stored once.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// The text; without it, or with `-`, the lines of the standard input.
    #[arg(value_name = "TEXT")]
    words: Vec<String>,

    /// The site, if it is not the profile's only one.
    #[arg(long)]
    site: Option<String>,

    /// The level of all messages.
    #[arg(long, default_value = "info", value_parser = LevelParser)]
    level: Level,

    /// The key to send with, if the deployment needs one.
    #[arg(long, env = "LOGSTREAM_KEY", hide_env_values = true)]
    key: Option<String>,

    /// How long to try at the end of the input without success.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    timeout: Duration,

    #[command(flatten)]
    target: Target,
}

/// A message and where it came from.
struct Line {
    /// Counted from 1; 0 is the text of the arguments.
    number: u64,
    /// Of the input, its end too.
    bytes: u64,
    text: String,
    /// Microseconds since the Unix epoch.
    time: u64,
}

/// What the tasks share.
#[derive(Default)]
struct State {
    /// When the input ended.
    ended: OnceLock<Instant>,
    /// The last line that is stored.
    stored: AtomicU64,
}

pub async fn run(options: Options) -> Result<(), Failure> {
    let (client, of_profile) = options.target.sender(options.key)?;
    let sites = sites(options.site.into_iter().collect(), of_profile)?;
    let [site] = sites.as_slice() else {
        let text = "the profile has several sites; name one with --site";
        return Err(Failure::Usage(text.to_owned()));
    };
    let state = Arc::new(State::default());
    let (lines, received) = mpsc::channel(READ_AHEAD);
    // An empty text is one too.
    let reads_input = options.words.is_empty() || options.words == ["-"];
    let bar = if reads_input {
        progress()
    } else {
        ProgressBar::hidden()
    };
    let at_end = (Arc::clone(&state), bar.clone());
    signals::on_either(move |code| {
        let (state, bar) = at_end;
        bar.finish_and_clear();
        let stored = state.stored.load(Ordering::Relaxed);
        if reads_input {
            super::tell(&format!("stopped; {}", up_to(stored)));
        }
        std::process::exit(code)
    })?;
    if reads_input {
        let state = Arc::clone(&state);
        // Not a task: a read of the standard input cannot be given up.
        std::thread::spawn(move || read(&lines, &state));
    } else {
        let line = Line {
            number: 0,
            bytes: 0,
            text: options.words.join(" "),
            time: now(),
        };
        // There is room.
        let _ = lines.try_send(Ok(line));
        drop(lines);
        let _ = state.ended.set(Instant::now());
    }
    let sender = Sender {
        client,
        site: site.clone(),
        level: options.level,
        timeout: options.timeout,
        bar,
        state,
    };
    let result = sender.send_all(received).await;
    sender.bar.finish_and_clear();
    result
}

/// Reads the lines until the end of the input.
fn read(lines: &mpsc::Sender<std::io::Result<Line>>, state: &State) {
    if stdin().is_terminal() {
        let _ = writeln!(stderr(), "logstream: each line is a message; Ctrl-D ends");
    }
    let mut last = 0;
    for (number, bytes) in (1..).zip(stdin().lock().split(b'\n')) {
        let line = bytes.map(|bytes| {
            // Later than the one before, so that equal lines stay two messages.
            last = now().max(last + 1);
            Line {
                number,
                bytes: bytes.len() as u64 + 1,
                // As the server reads bodies that are not UTF-8.
                text: text::decode(&bytes).trim_end_matches('\r').to_owned(),
                time: last,
            }
        });
        let is_over = line.is_err();
        if line.as_ref().is_ok_and(|line| line.text.is_empty()) {
            continue;
        }
        if lines.blocking_send(line).is_err() || is_over {
            break;
        }
    }
    let _ = state.ended.set(Instant::now());
}

struct Sender {
    client: Client,
    site: String,
    level: Level,
    timeout: Duration,
    bar: ProgressBar,
    state: Arc<State>,
}

impl Sender {
    async fn send_all(
        &self,
        mut lines: mpsc::Receiver<std::io::Result<Line>>,
    ) -> Result<(), Failure> {
        let mut waiting: VecDeque<Line> = VecDeque::new();
        // How many messages a request has; fewer while they are too many for
        // the server's time.
        let mut size = MAX_MESSAGES;
        let mut is_complete = true;
        let mut outage = Outage::default();
        loop {
            // Whatever is there goes at once.
            let next = if waiting.is_empty() {
                lines.recv().await
            } else {
                lines.try_recv().ok()
            };
            match next {
                Some(line) => {
                    let line = line.map_err(|error| {
                        Failure::Failed(format!("cannot read the input: {error}"))
                    })?;
                    waiting.push_back(line);
                    if waiting.len() < size {
                        continue;
                    }
                }
                None if waiting.is_empty() => break,
                None => {}
            }
            let count = count(&waiting, size);
            match self
                .client
                .post(self.body(waiting.iter().take(count)))
                .await
            {
                Ok(()) => {
                    if outage.is_told {
                        self.tell("sending again");
                    }
                    outage = Outage::default();
                    self.done(waiting.drain(..count));
                    size = (size * 2).min(MAX_MESSAGES);
                }
                Err(Trouble {
                    again: Some(pause),
                    text,
                    status,
                }) => {
                    if status == Some(503) {
                        size = (size / 2).max(1);
                    }
                    outage.tries += 1;
                    let mut wait = pause + outage.wait();
                    if let Some(&ended) = self.state.ended.get() {
                        let end = ended.max(outage.since) + self.timeout;
                        let left = end.saturating_duration_since(Instant::now());
                        if left.is_zero() {
                            return Err(not_stored(waiting.front(), &text));
                        }
                        // The last try is at the end of the time.
                        wait = wait.min(left);
                    }
                    if !outage.is_told && outage.tries >= WORTH_TELLING {
                        outage.is_told = true;
                        self.tell(&format!("{text}; trying again"));
                    }
                    sleep(wait).await;
                }
                // A message that cannot be stored; the others can.
                Err(Trouble {
                    status: Some(400 | 413),
                    text,
                    ..
                }) => {
                    let Some(index) = index(&text).or((count == 1).then_some(0)) else {
                        if count > 1 {
                            size = 1;
                            continue;
                        }
                        return Err(Failure::Failed(text));
                    };
                    if let Some(line) = waiting.remove(index) {
                        is_complete = false;
                        let text = text.replacen(&format!("Message {index}: "), "", 1);
                        self.tell(&match line.number {
                            0 => format!("not stored: {text}"),
                            number => format!("line {number} is not stored: {text}"),
                        });
                    }
                }
                Err(trouble) => return Err(not_stored(waiting.front(), &trouble.text)),
            }
        }
        if is_complete {
            Ok(())
        } else {
            Err(Failure::Told)
        }
    }

    fn body<'a>(&self, lines: impl Iterator<Item = &'a Line>) -> String {
        #[derive(Serialize)]
        struct Message<'a> {
            site: &'a str,
            log_message: &'a str,
            log_level: &'a str,
            timestamp: String,
        }
        let messages: Vec<_> = lines
            .map(|line| Message {
                site: &self.site,
                log_message: &line.text,
                log_level: self.level.name(),
                // A string keeps all digits.
                timestamp: format!("{}.{:06}", line.time / 1_000_000, line.time % 1_000_000),
            })
            .collect();
        // Strings always are JSON.
        serde_json::to_string(&messages).unwrap_or_default()
    }

    fn done(&self, lines: impl Iterator<Item = Line>) {
        // A file's bar counts bytes.
        let counts_bytes = self.bar.length().is_some();
        let mut done = 0;
        let mut last = 0;
        for line in lines {
            done += if counts_bytes { line.bytes } else { 1 };
            last = line.number;
        }
        self.state.stored.store(last, Ordering::Relaxed);
        if last > MANY && self.bar.is_hidden() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.inc(done);
    }

    fn tell(&self, text: &str) {
        self.bar.suspend(|| super::tell(text));
    }
}

/// The end before all is stored; `first` is the first that is not.
fn not_stored(first: Option<&Line>, text: &str) -> Failure {
    Failure::Failed(match first {
        Some(&Line { number, .. }) if number > 0 => {
            format!("line {number} and those after it are not stored: {text}")
        }
        _ => format!("not stored: {text}"),
    })
}

/// Failures one after the other.
struct Outage {
    since: Instant,
    tries: u32,
    is_told: bool,
    waits: Box<dyn Iterator<Item = Duration> + Send>,
}

impl Default for Outage {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            tries: 0,
            is_told: false,
            waits: Box::new(backoff(Duration::from_millis(250), Duration::from_secs(30))),
        }
    }
}

impl Outage {
    fn wait(&mut self) -> Duration {
        self.waits.next().unwrap_or_default()
    }
}

/// How many of the first lines are one request.
fn count(waiting: &VecDeque<Line>, size: usize) -> usize {
    let mut bytes = 0;
    let fitting = waiting.iter().take(size).take_while(|line| {
        bytes += line.text.len();
        bytes <= MAX_BYTES
    });
    fitting.count().max(1)
}

/// The index in `Message 3: …`, which says which message of an array is wrong.
fn index(text: &str) -> Option<usize> {
    let (_, rest) = text.split_once("Message ")?;
    rest.split_once(':')?.0.parse().ok()
}

fn up_to(stored: u64) -> String {
    match stored {
        0 => "nothing is stored for certain".to_owned(),
        line => format!("all up to line {line} is stored"),
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

/// Not shown until there is much to send, and never unless stderr is a
/// terminal.
fn progress() -> ProgressBar {
    let (length, template) = match input_bytes() {
        Some(length) => (Some(length), "{wide_bar} {bytes}/{total_bytes}, {eta} left"),
        None => (None, "{spinner} {human_pos} messages stored"),
    };
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::hidden());
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// The length of the input, if it is a file.
fn input_bytes() -> Option<u64> {
    #[cfg(unix)]
    let input = std::os::fd::AsFd::as_fd(&stdin()).try_clone_to_owned();
    #[cfg(windows)]
    let input = std::os::windows::io::AsHandle::as_handle(&stdin()).try_clone_to_owned();
    let input = File::from(input.ok()?).metadata().ok()?;
    input.is_file().then_some(input.len())
}
