//! `smoke`: whether a deployment works from end to end.

use std::time::Duration;

use clap::Args;
use futures_util::StreamExt as _;
use logstream_core::{Level, SortKey};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::client::{Client, Socket};
use super::options::{Target, duration};
use super::output::{self, Message};
use super::{Failure, signals};

const EXAMPLES: &str = "\
Examples:
  logstream smoke
  logstream smoke --http https://abc.execute-api.us-east-1.amazonaws.com \\
    --ws wss://def.execute-api.us-east-1.amazonaws.com/dev

Exits with 0 if all is well, else with 1.";

/// Checks a deployment: a viewer connects, a message is sent, arrives, and is
/// in the history.
///
/// The message goes to a site of its own, which nobody watches, and expires
/// like every other.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// The site, where the key is not for all; its viewers see the message.
    #[arg(long)]
    site: Option<String>,

    /// The key to send with, if the deployment needs one.
    #[arg(long, env = "LOGSTREAM_KEY", hide_env_values = true)]
    key: Option<String>,

    /// The longest time that each step may take.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    timeout: Duration,

    #[command(flatten)]
    target: Target,
}

struct Smoke {
    client: Client,
    site: String,
    text: String,
    viewer: Option<Socket>,
    sent: Option<Instant>,
    id: Option<String>,
}

const STEPS: [&str; 5] = [
    "a viewer connects",
    "onlineusers lists it",
    "a message is taken",
    "the viewer gets it",
    "recent-logs has it with the same id",
];

pub async fn run(options: Options) -> Result<(), Failure> {
    let (client, _) = options.target.sender(options.key)?;
    signals::on_either(|code| std::process::exit(code))?;
    let unique = || format!("{:012x}", fastrand::u64(..1 << 48));
    let mut smoke = Smoke {
        client,
        site: options
            .site
            .unwrap_or_else(|| format!("smoke-{}", unique())),
        text: format!("Test message {}", unique()),
        viewer: None,
        sent: None,
        id: None,
    };
    let started = Instant::now();
    for (index, name) in STEPS.iter().enumerate() {
        let before = Instant::now();
        let result = match timeout(options.timeout, smoke.step(index)).await {
            Ok(result) => result,
            Err(_) => Err(format!("not within {} s", options.timeout.as_secs())),
        };
        match result {
            Ok(()) => {
                let took = before.elapsed().as_millis();
                output::write(&format!("pass  {name} ({took} ms)\n"))?;
            }
            Err(error) => {
                let error = output::printable(&error);
                let left = STEPS.len() - index - 1;
                output::write(&format!("FAIL  {name}: {error}\n"))?;
                output::write(&format!(
                    "smoke test FAILED at check {} of {}; {left} not made\n",
                    index + 1,
                    STEPS.len()
                ))?;
                return Err(Failure::Told);
            }
        }
    }
    let took = started.elapsed().as_secs_f64();
    let count = STEPS.len();
    output::write(&format!("smoke test passed: {count} checks, {took:.1} s\n"))
}

impl Smoke {
    async fn step(&mut self, index: usize) -> Result<(), String> {
        match index {
            0 => self.connect().await,
            1 => self.online().await,
            2 => self.newlog().await,
            3 => self.broadcast().await,
            _ => self.recent().await,
        }
    }

    async fn connect(&mut self) -> Result<(), String> {
        let sites = std::slice::from_ref(&self.site);
        let viewer = self.client.connect(sites, Level::Debug).await;
        self.viewer = Some(viewer.map_err(|trouble| trouble.text)?);
        Ok(())
    }

    async fn online(&mut self) -> Result<(), String> {
        let online = self.client.online(&self.site).await;
        match online.map_err(|trouble| trouble.text)?.len() {
            0 => Err("it lists nobody".to_owned()),
            _ => Ok(()),
        }
    }

    async fn newlog(&mut self) -> Result<(), String> {
        self.sent = Some(Instant::now());
        let body = json!({
            "site": self.site,
            "log_message": self.text,
            "log_level": "info",
            "timestamp": SortKey::now().to_string(),
        });
        let posted = self.client.post(body.to_string()).await;
        posted.map_err(|trouble| trouble.text)
    }

    async fn broadcast(&mut self) -> Result<(), String> {
        let viewer = self.viewer.as_mut().ok_or("there is no viewer")?;
        while let Some(frame) = viewer.next().await {
            let frame = frame.map_err(|error| error.to_string())?;
            let message = frame
                .to_text()
                .ok()
                .and_then(|text| serde_json::from_str(text).ok());
            // Others may send to a site that is known.
            if let Some(Message { message, id, .. }) = message
                && message == self.text
            {
                self.id = id;
                return Ok(());
            }
        }
        Err("the connection was closed".to_owned())
    }

    async fn recent(&mut self) -> Result<(), String> {
        let age = self.sent.map_or(Duration::ZERO, |sent| sent.elapsed());
        // A clock may be wrong by a minute.
        let age = age + Duration::from_secs(60);
        let sites = [self.site.clone()];
        let recent = self.client.recent(&sites, Level::Debug, age, None).await;
        let recent = recent.map_err(|trouble| trouble.text)?;
        let found = recent.iter().find(|message| message.message == self.text);
        match found {
            None => Err("it is missing".to_owned()),
            Some(found) if found.id != self.id => Err(format!(
                "its id is {:?}, the frame's is {:?}",
                found.id, self.id
            )),
            Some(_) => Ok(()),
        }
    }
}
