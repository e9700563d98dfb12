//! The whole backend on one machine, and the command line for any deployment.

mod commands;

use std::process::ExitCode;

use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    commands::run(commands::Arguments::parse()).await
}
