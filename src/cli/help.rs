//! Help and manual pages: examples and exit codes of every command, from one place.

use super::{arguments::CommandLine, commands};
use clap::CommandFactory;

/// What help and manual page of a command say beyond its flags.
#[derive(Clone, Copy, Debug)]
pub struct Help {
    /// The command, as in `config show`.
    pub command: &'static str,
    /// What it does and what to know about it, in whole paragraphs; for the manual page.
    pub description: &'static str,
    /// Examples: what it does, and the line to type.
    pub examples: &'static [(&'static str, &'static str)],
    /// Exit codes: number and meaning.
    pub exit_codes: &'static [(u8, &'static str)],
}

impl Help {
    fn text(&self) -> String {
        let mut text = String::new();
        for (at, (what, line)) in self.examples.iter().enumerate() {
            text.push_str(if at == 0 { "Examples:\n" } else { "" });
            text.push_str(&format!("  # {what}\n  {line}\n"));
        }
        text.push_str("\nExit codes:\n");
        for (code, meaning) in self.exit_codes {
            text.push_str(&format!("  {code:<4}{meaning}\n"));
        }
        text
    }
}

/// The definition of the whole command line.
pub fn command() -> clap::Command {
    commands::HELP.iter().fold(CommandLine::command(), |command, help| {
        let path: Vec<&str> = help.command.split(' ').filter(|name| !name.is_empty()).collect();
        with_help(command, &path, help)
    })
}

fn with_help(command: clap::Command, path: &[&str], help: &Help) -> clap::Command {
    match path {
        [] => command.after_help(help.text()),
        [name, inner @ ..] => command.mut_subcommand(name, |command| with_help(command, inner, help)),
    }
}
