//! `completion` and `man`: what packages install beside the binary.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Arguments, Failure, output};

const COMPLETION_EXAMPLES: &str = "\
Examples:
  logstream completion bash > ~/.local/share/bash-completion/completions/logstream
  logstream completion fish > ~/.config/fish/completions/logstream.fish";

const MAN_EXAMPLES: &str = "\
Examples:
  logstream man > logstream.1
  logstream man key new | man -l -";

/// Prints the completions for a shell.
#[derive(Args)]
#[command(after_help = COMPLETION_EXAMPLES)]
pub struct CompletionOptions {
    shell: Shell,
}

/// Prints the manual page, of one command or of all.
#[derive(Args)]
#[command(after_help = MAN_EXAMPLES)]
pub struct ManOptions {
    /// The command; without it, the page that lists them.
    command: Vec<String>,
}

pub fn completion(options: &CompletionOptions) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(
        options.shell,
        &mut Arguments::command(),
        "logstream",
        &mut text,
    );
    output::write(&String::from_utf8_lossy(&text))
}

pub fn man(options: &ManOptions) -> Result<(), Failure> {
    let mut command = Arguments::command();
    // Without it the parts have no names of their own.
    command.build();
    for name in &options.command {
        let found = command.find_subcommand(name).cloned();
        command = found.ok_or_else(|| Failure::Usage(format!("there is no command '{name}'")))?;
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut text)
        .map_err(|error| Failure::Failed(error.to_string()))?;
    output::write(&String::from_utf8_lossy(&text))
}
