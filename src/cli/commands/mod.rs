//! One file per command.

pub mod archive;
pub mod backup;
pub mod check;
pub mod completions;
pub mod config;
pub mod copy;
pub mod demo;
pub mod doctor;
pub mod drill;
pub mod evidence;
pub mod hold;
pub mod init;
pub mod key;
pub mod list;
mod main_page;
pub mod points;
pub mod prune;
pub mod report;
pub mod restore;
pub mod status;
pub mod verify;

use super::{Context, Help, arguments::StoreArguments, human};
use crate::config::Access;
use crate::core::{
    failure::{Code, Failure},
    result::{Checked, Status, StoreFinding},
};
use clap::Subcommand;
use std::{collections::BTreeMap, path::Path};

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set up a repository: configuration, keys and stores
    Init(init::Arguments),
    /// Take a snapshot of every source, or of those named
    Backup(backup::Arguments),
    /// Keep a server's write-ahead log on the stores, and give it back
    Archive(archive::Arguments),
    /// List the snapshots on the stores
    List(list::Arguments),
    /// Show the moments that can be brought back, and the gaps between them
    Points(points::Arguments),
    /// Restore a source as it was at a chosen moment
    Restore(restore::Arguments),
    /// Check that the stores hold what they should, without any decryption key
    Verify(verify::Arguments),
    /// Try out a restore, timed and checked, with signed records of its start and its end
    Drill(drill::Arguments),
    /// Check whether what the policies promise holds now, for a monitor
    Check(check::Arguments),
    /// Show on one screen how sources and stores stand, and what to do next
    Status(status::Arguments),
    /// Bring every store level and heal damaged objects, without any decryption key
    Copy(copy::Arguments),
    /// List, show and verify the signed records of what was done
    Evidence(evidence::Arguments),
    /// Keep snapshots from being pruned, or no longer
    Hold(hold::Arguments),
    /// List, add, prove and remove keys: who can read, and whose word counts
    Key(key::Arguments),
    /// Write a signed report on the restores of a source, or check one
    Report(report::Arguments),
    /// Delete the snapshots that the policy keeps no longer
    Prune(prune::Arguments),
    /// Check that this host is set up right
    Doctor(doctor::Arguments),
    /// Show, find, check or rescue the configuration
    Config(config::Arguments),
    /// Print a completion script for a shell
    Completions(completions::Arguments),
    /// Play a disaster and the recovery from it, in a temporary directory
    Demo(demo::Arguments),
}

/// Help beyond the flags, for the program and for every command.
pub const HELP: &[Help] = &[
    main_page::HELP,
    init::HELP,
    backup::HELP,
    archive::HELP,
    archive::HELP_PUSH,
    archive::HELP_FOLLOW,
    archive::HELP_FETCH,
    archive::HELP_OPEN,
    list::HELP,
    points::HELP,
    restore::HELP,
    verify::HELP,
    drill::HELP,
    check::HELP,
    status::HELP,
    copy::HELP,
    evidence::HELP,
    evidence::HELP_LIST,
    evidence::HELP_SHOW,
    evidence::HELP_VERIFY,
    evidence::HELP_ACKNOWLEDGE,
    hold::HELP,
    hold::HELP_ADD,
    hold::HELP_LIST,
    hold::HELP_RELEASE,
    key::HELP,
    key::HELP_LIST,
    key::HELP_PROVE,
    key::HELP_ADD,
    key::HELP_REMOVE,
    key::HELP_SIGNER,
    key::HELP_SIGNER_ADD,
    key::HELP_SIGNER_REVOKE,
    report::HELP,
    prune::HELP,
    doctor::HELP,
    config::HELP,
    config::HELP_SHOW,
    config::HELP_PATH,
    config::HELP_CHECK,
    config::HELP_RESCUE,
    completions::HELP,
    demo::HELP,
];

impl Command {
    /// The command's name.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Init(_) => "init",
            Command::Backup(_) => "backup",
            Command::Archive(arguments) => arguments.action.name(),
            Command::List(_) => "list",
            Command::Points(_) => "points",
            Command::Restore(_) => "restore",
            Command::Verify(_) => "verify",
            Command::Drill(_) => "drill",
            Command::Check(_) => "check",
            Command::Status(_) => "status",
            Command::Copy(_) => "copy",
            Command::Evidence(_) => "evidence",
            Command::Hold(_) => "hold",
            Command::Key(_) => "key",
            Command::Report(_) => "report",
            Command::Prune(_) => "prune",
            Command::Doctor(_) => "doctor",
            Command::Config(_) => "config",
            Command::Completions(_) => "completions",
            Command::Demo(_) => "demo",
        }
    }

    /// How the command reaches stores without a configuration, if it can, and the identity that it was given.
    pub(super) fn access(&self) -> Option<(&StoreArguments, Option<&Path>)> {
        match self {
            Command::List(arguments) => Some((&arguments.stores, None)),
            Command::Points(arguments) => Some((&arguments.stores, None)),
            Command::Verify(arguments) => Some((&arguments.stores, None)),
            Command::Restore(arguments) => Some((&arguments.stores, arguments.identity.as_deref())),
            Command::Archive(arguments) => arguments.action.access(),
            Command::Evidence(arguments) => arguments.access(),
            Command::Hold(arguments) => arguments.stores().map(|stores| (stores, None)),
            Command::Key(arguments) => arguments.access(),
            Command::Config(arguments) => arguments.access(),
            _ => None,
        }
    }

    /// Runs it; what it returns is its exit code.
    pub fn run(&self, context: &Context) -> Result<Code, Failure> {
        match self {
            Command::Init(arguments) => init::run(arguments, context),
            Command::Backup(arguments) => backup::run(arguments, context),
            Command::List(arguments) => list::run(arguments, context),
            Command::Points(arguments) => points::run(arguments, context),
            Command::Restore(arguments) => restore::run(arguments, context),
            Command::Verify(arguments) => verify::run(arguments, context),
            Command::Drill(arguments) => drill::run(arguments, context),
            Command::Check(arguments) => check::run(arguments, context),
            Command::Status(arguments) => status::run(arguments, context),
            Command::Copy(arguments) => copy::run(arguments, context),
            Command::Evidence(arguments) => evidence::run(arguments, context),
            Command::Archive(arguments) => archive::run(arguments, context),
            Command::Hold(arguments) => hold::run(arguments, context),
            Command::Key(arguments) => key::run(arguments, context),
            Command::Report(arguments) => report::run(arguments, context),
            Command::Prune(arguments) => prune::run(arguments, context),
            Command::Doctor(arguments) => doctor::run(arguments, context),
            Command::Config(arguments) => config::run(arguments, context),
            Command::Completions(arguments) => completions::run(arguments, context),
            Command::Demo(arguments) => demo::run(arguments, context),
        }
    }
}

/// The exit code of a verdict, also where it could not be printed: damage that was seen is not lost over that.
fn verdict(printed: Result<(), Failure>, status: Status) -> Result<Code, Failure> {
    match printed {
        Ok(()) => Ok(status.code()),
        Err(failure) if status == Status::Critical => Err(Failure { code: Code::Damaged, ..failure }),
        Err(failure) => Err(failure),
    }
}

/// Completes the next steps with what the current command was given, so that they work as they stand.
fn complete(checked: &mut Checked, context: &Context) {
    for next_step in checked.findings.iter_mut().filter_map(|finding| finding.next_step.as_mut()) {
        *next_step = context.output().completed(next_step);
    }
}

/// What is said beside snapshots that are shown.
struct ListingRemarks<'a> {
    warnings: &'a [String],
    /// The stores do not show a snapshot that this host has committed.
    known_missing: bool,
    /// The stores show snapshots, and nobody who is trusted signed any of them.
    nobody_trusted: bool,
    is_empty: bool,
}

impl ListingRemarks<'_> {
    fn tell(&self, access: &Access, context: &Context) {
        let output = context.output();
        self.warnings.iter().for_each(|warning| output.warning(warning));
        if self.known_missing {
            output.next_step("recoup verify");
        }
        if self.nobody_trusted {
            let signers = access.signers().display();
            output.next_step(&format!(
                "name the file that trusts this repository's hosts (--signers, or [host] allowed_signers): {signers} \
                 does not"
            ));
        } else if self.is_empty && self.warnings.is_empty() && !output.is_json() {
            output.notes(&["there is no snapshot yet".to_owned()]);
        }
    }
}

/// What is wrong, grouped by store.
fn findings_text(findings: &[StoreFinding]) -> String {
    let mut stores: BTreeMap<&str, Vec<&StoreFinding>> = BTreeMap::new();
    for finding in findings {
        stores.entry(&finding.store).or_default().push(finding);
    }
    let mut text = String::new();
    for (store, findings) in stores {
        text.push_str(&format!("store {store}\n"));
        for finding in findings {
            // Padded by hand: a width is lost on a Display that ignores it.
            let problem = format!("{:<11}", finding.problem.to_string());
            let object = human::line(finding.object.as_deref().unwrap_or("the store as a whole"));
            text.push_str(&format!("  {problem} {object}{}\n", snapshots_text(finding)));
        }
    }
    text
}

/// The snapshots that a finding concerns; a few by name, many by their number.
fn snapshots_text(finding: &StoreFinding) -> String {
    match finding.snapshots.len() {
        0 => String::new(),
        number @ 1..=3 => {
            let ids: Vec<String> = finding.snapshots.iter().map(ToString::to_string).collect();
            format!("  (snapshot{} {})", if number == 1 { "" } else { "s" }, ids.join(", "))
        }
        number => format!("  ({number} snapshots)"),
    }
}

#[cfg(test)]
mod tests;
