//! `online`: who watches.

use clap::Args;
use serde_json::json;

use super::Failure;
use super::options::{Target, sites};
use super::output;

const EXAMPLES: &str = "\
Examples:
  logstream online --site tst
  logstream online --site tst | wc -l";

/// Lists the connections that watch a site, a line each.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// A site, instead of the profile's; may be given again.
    #[arg(long = "site", value_name = "SITE")]
    sites: Vec<String>,

    /// Prints a JSON object in a line for each connection.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    target: Target,
}

pub async fn run(options: Options) -> Result<(), Failure> {
    let (client, of_profile) = options.target.reader()?;
    let sites = sites(options.sites, of_profile)?;
    let mut lines = String::new();
    for site in &sites {
        for id in client.online(site).await? {
            let line = if options.json {
                json!({"site": site, "ConnectionID": id}).to_string()
            } else if sites.len() > 1 {
                format!("{} {}", output::printable(site), output::printable(&id))
            } else {
                output::printable(&id)
            };
            lines.push_str(&line);
            lines.push('\n');
        }
    }
    output::write(&lines)
}
