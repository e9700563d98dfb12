//! How fast the functions and the local server are, next to what the machine
//! could do at best: `crates/bench/run`.
//!
//! Each release binary runs as Lambda runs it: a process of its own, under a
//! Runtime API, with the tables and a management endpoint in other processes.
//! Next to each figure stands its floor from the same run, which does the least
//! that any program would have to do. The ratio of the two holds on a noisy
//! machine; the figures do not. It is a report: it passes whatever it finds.

mod broadcaster;
mod endpoint;
mod events;
mod functions;
mod gateway;
mod lambda;
mod process;
mod raw;
mod report;
mod server;
mod simulation;
mod sizes;
mod tables;

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand, ValueEnum};
use report::Report;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Measures the functions and the local server.
#[derive(Parser)]
struct Arguments {
    /// Folder of another build's binaries, to be measured in turns with this
    /// one's.
    #[arg(long)]
    compare: Option<PathBuf>,

    /// Runs of each measurement.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,

    /// Only these parts.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,

    /// A little of everything, once, to see that it works.
    #[arg(long)]
    short: bool,

    /// Where to write the figures as JSON.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,

    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Each function: start, first call, warm calls, memory, size.
    Functions,
    /// The broadcaster: 1 to 10,000 connections.
    Broadcaster,
    /// The functions with each memory size.
    Sizes,
    /// The local server.
    Server,
    /// The local server with many stored messages.
    Rows,
    /// The fan-out beyond one account's limits.
    Simulation,
}

/// The other processes of a run.
#[derive(Subcommand)]
enum Role {
    /// The tables, over HTTP.
    #[command(hide = true)]
    Tables(endpoint::Endpoint),
    /// API Gateway's management API.
    #[command(hide = true)]
    Gateway(endpoint::Endpoint),
    /// The least work: posts the same bytes again and again.
    #[command(hide = true)]
    Raw(raw::Options),
}

/// What is measured, and how often.
pub struct Plan {
    pub builds: Vec<PathBuf>,
    pub runs: u32,
    pub is_short: bool,
}

impl Plan {
    /// The path of a build's binary.
    pub fn binary(&self, build: usize, name: &str) -> PathBuf {
        self.builds
            .get(build)
            .map(|folder| folder.join(name))
            .unwrap_or_default()
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // The functions have one thread too.
    let one_thread = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match arguments.role {
        Some(Role::Tables(options)) => one_thread.block_on(tables::serve(options)),
        Some(Role::Gateway(options)) => one_thread.block_on(gateway::serve(options)),
        Some(Role::Raw(options)) => one_thread.block_on(raw::run(options)),
        None => tokio::runtime::Runtime::new()?.block_on(run(arguments)),
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let own = std::env::current_exe()?;
    let own = own.parent().map(Path::to_owned).unwrap_or_default();
    let plan = Plan {
        builds: std::iter::once(own).chain(arguments.compare).collect(),
        runs: if arguments.short { 1 } else { arguments.runs },
        is_short: arguments.short,
    };
    let mut report = Report::new(plan.builds.len());
    let is_wanted = |part| match arguments.only.is_empty() {
        // Takes some minutes more.
        true => part != Part::Rows || arguments.short,
        false => arguments.only.contains(&part),
    };
    if is_wanted(Part::Functions) {
        functions::measure(&plan, &mut report).await?;
    }
    if is_wanted(Part::Broadcaster) {
        broadcaster::measure(&plan, &mut report).await?;
    }
    if is_wanted(Part::Sizes) {
        sizes::measure(&plan, &mut report).await?;
    }
    if is_wanted(Part::Server) {
        server::measure(&plan, &mut report).await?;
    }
    if is_wanted(Part::Rows) {
        server::measure_rows(&plan, &mut report).await?;
    }
    if !report.is_empty() {
        println!("{}", report.table());
    }
    if is_wanted(Part::Simulation) {
        println!("{}", simulation::table());
    }
    std::fs::write(&arguments.json, report.json()?)?;
    Ok(())
}
