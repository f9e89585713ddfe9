//! What every command understands.

use super::commands::Command;
use crate::{
    cli::usage_failure,
    config::{self, Access, IDENTITY_FILE, StoreSettings},
    core::{failure::Failure, text::breaks_line},
    world,
};
use clap::{Args, Parser, ValueEnum};
use std::path::{Path, PathBuf};

/// Take sealed snapshots of ledgers, keep them on several stores, and prove that they restore
#[derive(Debug, Parser)]
#[command(
    name = "recoup",
    version,
    propagate_version = false,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
}

/// Flags of every command.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Use this configuration [default: $RECOUP_CONFIG, /etc/recoup/recoup.toml, then XDG's place]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON object on standard output, also on failure
    #[arg(long, global = true)]
    pub json: bool,
    /// Color the output: auto (on a terminal, unless NO_COLOR is set), always or never
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    pub color: Color,
    /// Show progress on standard error: auto (bars on a terminal), plain or json (lines), off
    #[arg(long, global = true, value_name = "HOW", default_value = "auto", hide_possible_values = true)]
    pub progress: ProgressMode,
    /// Say why, for the evidence record that the command leaves
    #[arg(long, global = true, value_name = "TEXT", value_parser = one_line)]
    pub reason: Option<String>,
    /// Print errors only, and the result where it was asked for
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// When to color.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// How to show progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// Bars on a terminal, otherwise nothing
    #[default]
    Auto,
    /// A line every ten seconds
    Plain,
    /// A line of JSON every second
    Json,
    /// Nothing
    Off,
}

/// A text that goes into the record as it is, and from there into lists, reports and what monitors read.
fn one_line(text: &str) -> Result<String, String> {
    match text.chars().find(|char| breaks_line(*char)) {
        None => Ok(text.to_owned()),
        Some(char) => Err(format!("it holds {char:?}: write it on one line, without control characters")),
    }
}

/// How a reading command reaches the stores without a configuration.
#[derive(Args, Clone, Debug, Default)]
pub struct StoreArguments {
    /// Read from this store instead of those in the configuration; may be repeated
    #[arg(long = "store", value_name = "[NAME=]URL", value_parser = config::parse_store_argument)]
    pub stores: Vec<StoreSettings>,
    /// Trust the signers in this file [default with --store: the identity's file, named by a flag or by
    /// $RECOUP_IDENTITY_FILE, with .signers after it]
    #[arg(long, value_name = "FILE")]
    pub signers: Option<PathBuf>,
}

impl StoreArguments {
    /// The configuration, or the stores alone. `identity` is the identity's file, beside which signers may stand.
    pub fn access(&self, global: &Global, identity: Option<&Path>) -> Result<Access, Failure> {
        if self.stores.is_empty() {
            let mut settings = config::load(&config::find(global.config.as_deref())?)?;
            if let Some(signers) = &self.signers {
                settings.host.allowed_signers = world::absolute(signers);
                settings.origins.note("host.allowed_signers".to_owned(), config::Origin::Flag("--signers"));
            }
            return Ok(Access::Configured(Box::new(settings)));
        }
        if global.config.is_some() {
            let next_step = "give either --config or --store";
            return Err(usage_failure("--store stands in place of --config", next_step));
        }
        for (at, store) in self.stores.iter().enumerate() {
            if self.stores[..at].iter().any(|other| other.name == store.name || other.overlaps(store)) {
                let next_step = "name every store once";
                return Err(usage_failure(format!("--store {} is given twice", store.name), next_step));
            }
        }
        let environment = || world::environment(IDENTITY_FILE).map(PathBuf::from);
        let beside = || identity.map(Path::to_owned).or_else(environment).map(|file| config::signers_beside(&file));
        match self.signers.clone().or_else(beside) {
            Some(signers) => Ok(Access::Bare { stores: self.stores.clone(), signers }),
            None => Err(usage_failure(
                "--store needs to know whose snapshots to trust",
                "add --signers FILE: the file that lies beside the custodian's identity, with .signers after its name",
            )),
        }
    }
}
