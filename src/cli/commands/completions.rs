//! `recoup completions`.

use crate::{
    cli::{Context, Help, command, output},
    core::failure::{Code, Failure},
};
use clap::Args;
use clap_complete::Shell;

/// Help beyond the flags.
pub const HELP: Help = Help {
    command: "completions",
    description: "Prints a script that completes commands and flags in a shell.",
    examples: &[
        ("for bash", "recoup completions bash > /etc/bash_completion.d/recoup"),
        ("for zsh", "recoup completions zsh > /usr/local/share/zsh/site-functions/_recoup"),
    ],
    exit_codes: &[(0, "done"), (64, "bad usage")],
};

/// What `completions` is told.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Complete in this shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Runs it.
pub fn run(arguments: &Arguments, _context: &Context) -> Result<Code, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command(), "recoup", &mut script);
    let script = String::from_utf8(script).map_err(|_| Failure::internal("the completion script is not text"))?;
    output::print(&script)?;
    Ok(Code::Done)
}
