//! `recent`: the history, once.

use std::time::Duration;

use clap::Args;
use logstream_core::Level;

use super::Failure;
use super::options::{LevelParser, Target, duration, sites};
use super::output::Printer;

const EXAMPLES: &str = "\
Examples:
  logstream recent --site tst --since 7d --level warning
  logstream recent --site tst --json | jq -r .message";

/// Shows the messages of the past, the oldest first.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// A site, instead of the profile's; may be given again.
    #[arg(long = "site", value_name = "SITE")]
    sites: Vec<String>,

    /// Only messages of this level or above.
    #[arg(long, default_value = "debug", value_parser = LevelParser)]
    level: Level,

    /// How far back: 90s, 15m, 2h, 7d.
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = duration)]
    since: Duration,

    /// Only the newest so many messages.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// Prints a JSON object in a line for each message.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    target: Target,
}

pub async fn run(options: Options) -> Result<(), Failure> {
    let (client, of_profile) = options.target.reader()?;
    let sites = sites(options.sites, of_profile)?;
    let limit = options.limit.and_then(|limit| usize::try_from(limit).ok());
    let messages = client
        .recent(&sites, options.level, options.since, limit)
        .await?;
    Printer::new(options.json, &sites).print(&messages)
}
