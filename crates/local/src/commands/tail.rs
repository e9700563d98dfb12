//! `tail`: the messages as they come, and those before.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Args;
use futures_util::{SinkExt as _, StreamExt as _};
use logstream_core::{Level, backoff};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_tungstenite::tungstenite::Message as Frame;

use super::client::{Client, Socket, Trouble};
use super::options::{LevelParser, Target, duration, sites};
use super::output::{Message, Printer};
use super::{Failure, signals, tell};

const EXAMPLES: &str = "\
Examples:
  logstream tail --site tst --since 2h
  logstream tail --site saf --site mrc --level warning
  logstream tail --site tst --json | jq -r .message

Each message is shown once, those that came during a reconnect too. Ends with 0
by Ctrl-C, by SIGTERM, or when nobody reads its output.";

/// After so much silence the server is asked for a sign of life, long before
/// its 10 minutes are over.
const SILENCE: Duration = Duration::from_secs(240);
const ANSWER: Duration = Duration::from_secs(15);

/// How long new messages wait for the older ones of the history.
const HOLD: Duration = Duration::from_secs(3);

/// The waits before another try.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Shows messages as they come, and those of the last hour first.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// A site, instead of the profile's; may be given again.
    #[arg(long = "site", value_name = "SITE")]
    sites: Vec<String>,

    /// Only messages of this level or above.
    #[arg(long, default_value = "debug", value_parser = LevelParser)]
    level: Level,

    /// How far back to begin: 90s, 15m, 2h, 7d.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    since: Duration,

    /// Prints a JSON object in a line for each message.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    target: Target,
}

pub async fn run(options: Options) -> Result<(), Failure> {
    let (client, of_profile) = options.target.reader()?;
    let sites = sites(options.sites, of_profile)?;
    signals::on_either(|_| std::process::exit(0))?;
    let mut tail = Tail {
        printer: Printer::new(options.json, &sites),
        shown: Shown::default(),
        client: Arc::new(client),
        sites,
        level: options.level,
        since: options.since,
        began: (Instant::now(), SystemTime::now()),
    };
    tokio::select! {
        result = tail.follow() => result,
        () = output_closed() => Ok(()),
    }
}

/// Waits until nobody reads the output, which a write would tell only with the
/// next message.
#[cfg(unix)]
async fn output_closed() {
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;
    // Neither a file nor a closed output can be watched.
    #[expect(deprecated, reason = "its successor is unsafe; stdout stays open")]
    let output = AsyncFd::with_interest(std::io::stdout(), Interest::ERROR);
    let is_closed = match &output {
        Ok(output) => output.ready(Interest::ERROR).await.is_ok(),
        Err(_) => false,
    };
    if !is_closed {
        std::future::pending().await
    }
}

#[cfg(not(unix))]
async fn output_closed() {
    std::future::pending().await
}

struct Tail {
    client: Arc<Client>,
    sites: Vec<String>,
    level: Level,
    since: Duration,
    /// By both clocks: the first goes on when the second is set back, and the
    /// second when the machine sleeps.
    began: (Instant, SystemTime),
    printer: Printer,
    shown: Shown,
}

impl Tail {
    /// Shows what comes, over all reconnections.
    async fn follow(&mut self) -> Result<(), Failure> {
        let mut waits = new_waits();
        let mut was_connected = false;
        // An outage is one line.
        let mut is_told = false;
        loop {
            match self.client.connect(&self.sites, self.level).await {
                Ok(socket) => {
                    if std::mem::take(&mut is_told) {
                        tell("connected again");
                    }
                    let since = Instant::now();
                    let reason = self.watch(socket, was_connected).await?;
                    was_connected = true;
                    tell(&format!("{reason}; connecting again"));
                    is_told = true;
                    // One that is closed at once each time is no connection.
                    if since.elapsed() > LONGEST_WAIT {
                        waits = new_waits();
                    }
                }
                Err(Trouble {
                    again: None, text, ..
                }) if !was_connected => {
                    return Err(Failure::Failed(text));
                }
                Err(Trouble { text, .. }) => {
                    if !is_told {
                        tell(&format!("{text}; trying again"));
                        is_told = true;
                    }
                }
            }
            sleep(waits.next().unwrap_or(LONGEST_WAIT)).await;
        }
    }

    /// Shows the history and what comes over a connection, until that ends.
    async fn watch(&mut self, mut socket: Socket, is_again: bool) -> Result<String, Failure> {
        // The connection is open, so there is no gap between it and what the
        // history has now.
        let client = Arc::clone(&self.client);
        let sites = self.sites.clone();
        let history = catch_up(client, sites, self.level, self.age(), is_again);
        tokio::pin!(history);
        let mut has_history = false;
        let mut held: Option<Vec<Message>> = Some(Vec::new());
        let hold = sleep(HOLD);
        tokio::pin!(hold);
        let mut heard = Instant::now();
        let mut is_asked = false;
        loop {
            let silence = heard + if is_asked { SILENCE + ANSWER } else { SILENCE };
            tokio::select! {
                frame = socket.next() => {
                    heard = Instant::now();
                    is_asked = false;
                    let end = match frame {
                        Some(Ok(Frame::Text(text))) => {
                            match (message(&text), &mut held) {
                                (Some(message), Some(held)) => held.push(message),
                                (Some(message), None) => self.show(vec![message])?,
                                (None, _) => {}
                            }
                            continue;
                        }
                        Some(Ok(Frame::Close(Some(close)))) => {
                            format!("the connection was closed with {}", close.code)
                        }
                        Some(Ok(Frame::Close(None))) | None => {
                            "the connection was closed".to_owned()
                        }
                        Some(Ok(_)) => continue,
                        Some(Err(error)) => format!("the connection is lost: {error}"),
                    };
                    self.show(held.unwrap_or_default())?;
                    return Ok(end);
                }
                messages = &mut history, if !has_history => {
                    has_history = true;
                    let messages = messages?;
                    self.shown.keep(&messages);
                    self.show(messages)?;
                    self.show(held.take().unwrap_or_default())?;
                }
                () = &mut hold, if held.is_some() => {
                    self.show(held.take().unwrap_or_default())?;
                }
                () = sleep_until(silence) => {
                    if is_asked {
                        return Ok("the connection does not answer".to_owned());
                    }
                    is_asked = true;
                    // An error comes as the connection's end too.
                    let _ = socket.send(Frame::text(r#"{"action":"ping"}"#)).await;
                }
            }
        }
    }

    /// The time that is shown: from before the start until now.
    fn age(&self) -> Duration {
        let (instant, time) = self.began;
        let asleep_too = time.elapsed().unwrap_or_default();
        // A second, because the server cuts off fractions.
        self.since + instant.elapsed().max(asleep_too) + Duration::from_secs(1)
    }

    fn show(&mut self, mut messages: Vec<Message>) -> Result<(), Failure> {
        messages.retain(|message| self.shown.is_new(message));
        if messages.is_empty() {
            return Ok(());
        }
        self.printer.print(&messages)
    }
}

/// The message of a frame. The answer to a ping is none.
fn message(text: &str) -> Option<Message> {
    serde_json::from_str(text).ok()
}

/// Fetches the history, again and again while that may help: after any
/// failure, if it was there before.
async fn catch_up(
    client: Arc<Client>,
    sites: Vec<String>,
    level: Level,
    age: Duration,
    is_again: bool,
) -> Result<Vec<Message>, Failure> {
    let mut waits = new_waits();
    let mut is_told = false;
    loop {
        let trouble = match client.recent(&sites, level, age, None).await {
            Ok(messages) => return Ok(messages),
            Err(trouble) => trouble,
        };
        let pause = match trouble.again {
            Some(pause) => pause,
            None if is_again => Duration::ZERO,
            None => return Err(trouble.into()),
        };
        if !is_told {
            is_told = true;
            let text = trouble.text;
            tell(&format!("the history is missing: {text}; trying again"));
        }
        sleep(pause + waits.next().unwrap_or(LONGEST_WAIT)).await;
    }
}

fn new_waits() -> impl Iterator<Item = Duration> {
    backoff(FIRST_WAIT, LONGEST_WAIT)
}

/// Which messages were shown: site and id.
#[derive(Default)]
struct Shown {
    /// Since the last catch-up.
    new: HashSet<(String, String)>,
    /// Those of the catch-up, and what was new before it.
    old: HashSet<(String, String)>,
}

impl Shown {
    /// Whether a message is shown for the first time. One without an id always
    /// is.
    fn is_new(&mut self, message: &Message) -> bool {
        let Some(id) = &message.id else { return true };
        let key = (message.site.clone(), id.clone());
        !self.old.contains(&key) && self.new.insert(key)
    }

    /// Forgets what is no longer in the history, and came before the
    /// connection before this one: nobody sends it again.
    fn keep(&mut self, history: &[Message]) {
        let kept = history.iter().filter_map(|message| {
            let key = (message.site.clone(), message.id.clone()?);
            (self.old.contains(&key) || self.new.contains(&key)).then_some(key)
        });
        let kept: HashSet<_> = kept.collect();
        self.old = kept;
        self.old.extend(self.new.drain());
    }
}
