//! `key`: publishers' keys.

use std::io::{Write as _, stderr, stdout};

use clap::Subcommand;
use logstream_core::publishers::Publisher;

use super::Failure;

const EXAMPLES: &str = "\
Example, after which the file `keys` has the entry and the terminal the key:
  logstream key new camera --site tst >> keys";

#[derive(Subcommand)]
pub enum Command {
    /// Makes a key. It is printed on stderr, this once; the entry by which a
    /// deployment knows it goes to stdout.
    #[command(after_help = EXAMPLES)]
    New {
        /// Whose key it is: letters, digits, '-', '.' and '_'.
        name: String,
        /// A site that it may send to; may be given again.
        #[arg(long = "site", required_unless_present = "all_sites")]
        sites: Vec<String>,
        /// It may send to all sites.
        #[arg(long, conflicts_with = "sites")]
        all_sites: bool,
    },
}

pub fn run(command: Command) -> Result<(), Failure> {
    new(command).map_err(|error| Failure::Failed(error.to_string()))
}

fn new(command: Command) -> Result<(), Box<dyn std::error::Error>> {
    let Command::New {
        name,
        sites,
        all_sites,
    } = command;
    let mut random = [0; 32];
    getrandom::fill(&mut random)?;
    let (publisher, key) = Publisher::new(name, (!all_sites).then_some(sites), random)?;
    writeln!(stdout(), "{publisher}")?;
    writeln!(stderr(), "key: {key}")?;
    Ok(())
}
