//! `recoup hold`.

use crate::{
    cli::{Context, Help, Job, arguments::StoreArguments, human, usage_failure},
    config::{Access, Settings},
    core::{
        evidence::{HoldCause, HoldId},
        failure::{Code, Failure},
        id::SourceName,
        result::{HoldEntry, HoldsResult},
        target::SnapshotName,
    },
    ops::{
        evidence::{Recorder, deeds},
        hold::{self, HoldRequest},
        open::{self, open_access},
    },
};
use clap::{Args, Subcommand};

/// Help beyond the flags.
pub const HELP: Help = Help {
    command: "hold",
    description: "Keeps snapshots from being pruned, whatever the policy says, until the hold is released. A hold is a \
        signed record of the control log, so every host that prunes sees it.",
    examples: &[
        ("everything of a source, for a litigation", "recoup hold add ledger --reason 'case 2026-114'"),
        ("what is held, and why", "recoup hold list"),
        ("no longer", "recoup hold release HOLD --reason 'case closed'"),
    ],
    exit_codes: &[(0, "done"), (2, "failed")],
};

/// Help beyond the flags of `add`.
pub const HELP_ADD: Help = Help {
    command: "hold add",
    description: "Adds a hold on the named snapshots of a source, or on all that it has, now and later. It is in force \
        once enough stores have its record.",
    examples: &[("one snapshot", "recoup hold add ledger --snapshot 42 --reason 'before the migration'")],
    exit_codes: &[
        (0, "in force"),
        (2, "recorded on this host, and not yet on enough stores"),
        (14, "no store answered"),
        (16, "there is no such snapshot"),
        (64, "no reason was given"),
    ],
};

/// Help beyond the flags of `list`.
pub const HELP_LIST: Help = Help {
    command: "hold list",
    description: "Lists the holds in force, with who added them and why where this host's catalogue key or an identity \
        opens the records.",
    examples: &[("all", "recoup hold list")],
    exit_codes: &[
        (0, "listed"),
        (
            1,
            "listed, and others may be hidden: by stores that do not answer, or by evidence that is lost or not accepted",
        ),
        (14, "no store answered"),
    ],
};

/// Help beyond the flags of `release`.
pub const HELP_RELEASE: Help = Help {
    command: "hold release",
    description: "Releases a hold. One that was added because an append-only log was altered is what keeps check critical: \
        release it once it is known what happened.",
    examples: &[("after it was looked into", "recoup hold release HOLD --reason 'rewritten by vendor, ticket 8813'")],
    exit_codes: &[
        (0, "released"),
        (2, "recorded on this host, and not yet on enough stores"),
        (14, "too few stores answered"),
        (64, "there is no such hold in force, or no reason was given"),
    ],
};

/// What `hold` is told.
#[derive(Args, Debug)]
pub struct Arguments {
    /// What to do with holds.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with holds.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Keep snapshots from being pruned
    Add(AddArguments),
    /// List the holds in force
    List(ListArguments),
    /// Release a hold
    Release(ReleaseArguments),
}

/// What `hold add` is told.
#[derive(Args, Debug)]
pub struct AddArguments {
    /// Hold snapshots of this source
    #[arg(value_name = "SOURCE")]
    pub source: SourceName,
    /// Hold this snapshot, by its number or full id; may be repeated [default: all, now and later]
    #[arg(long = "snapshot", value_name = "SNAPSHOT")]
    pub snapshots: Vec<SnapshotName>,
}

/// What `hold list` is told.
#[derive(Args, Debug)]
pub struct ListArguments {
    /// Only holds of this source
    #[arg(value_name = "SOURCE")]
    pub source: Option<SourceName>,
    /// Which stores to read.
    #[command(flatten)]
    pub stores: StoreArguments,
}

/// What `hold release` is told.
#[derive(Args, Debug)]
pub struct ReleaseArguments {
    /// The hold, as `hold list` shows it
    #[arg(value_name = "HOLD")]
    pub hold: HoldId,
}

impl Arguments {
    /// How `hold list` reaches stores without a configuration.
    pub(super) fn stores(&self) -> Option<&StoreArguments> {
        match &self.action {
            Action::List(arguments) => Some(&arguments.stores),
            _ => None,
        }
    }
}

/// Runs it.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Code, Failure> {
    match &arguments.action {
        Action::List(arguments) => {
            let access = context.access(&arguments.stores, None)?;
            let result = context.run(async |job| job.until_cancelled(list(arguments, &access)).await)?;
            context.output().result(&result, list_text)?;
            result.notes.iter().for_each(|note| context.output().warning(note));
            Ok(if result.notes.is_empty() { Code::Done } else { Code::Warning })
        }
        changing => {
            if context.global().reason.as_deref().is_none_or(|reason| reason.trim().is_empty()) {
                let what = if matches!(changing, Action::Release(_)) { "releasing a hold" } else { "adding a hold" };
                let next_step = "add --reason TEXT: it goes into the evidence record";
                return Err(usage_failure(format!("{what} needs a reason"), next_step));
            }
            let settings = context.settings()?;
            let result = context.run(async |job| change(changing, &settings, job).await)?;
            context.output().summary(&result, |result| result.holds.iter().map(changed_text).collect())?;
            context.output().notes(&result.notes);
            Ok(Code::Done)
        }
    }
}

async fn list(arguments: &ListArguments, access: &Access) -> Result<HoldsResult, Failure> {
    let repository = open_access(access).await?;
    let settings = access.settings();
    let own = settings.and_then(|settings| open::catalogue_identities(settings).ok().flatten());
    let identities: Vec<_> = own.iter().collect();
    let state_dir = settings.map(|settings| settings.host.state_dir.as_path());
    hold::list(&repository, state_dir, arguments.source.as_ref(), &identities).await
}

async fn change(action: &Action, settings: &Settings, job: Job) -> Result<HoldsResult, Failure> {
    let host = open::open_host(settings, &job.world)?;
    let recorder = Recorder::new(&host, settings);
    let mut notes: Vec<String> = recorder.close_dead()?.iter().map(deeds::aborted_note).collect();
    let mut result = match action {
        Action::Add(arguments) => {
            let request = HoldRequest {
                source: arguments.source.clone(),
                snapshots: arguments.snapshots.clone(),
                cause: HoldCause::Operator,
            };
            hold::add(&host.repository, &recorder, &job.world, &request).await?
        }
        Action::Release(arguments) => {
            hold::release(&host.repository, &recorder, &job.world, &host.state_dir, arguments.hold).await?
        }
        Action::List(_) => return Err(Failure::internal("listing changes nothing")),
    };
    notes.append(&mut result.notes);
    result.notes = notes;
    Ok(result)
}

fn kept_text(entry: &HoldEntry) -> String {
    match entry.snapshots.len() {
        0 => "all, now and later".to_owned(),
        1..=3 => entry.snapshots.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        number => human::count(number as u64, "snapshot"),
    }
}

fn changed_text(entry: &HoldEntry) -> String {
    let what = if entry.released_at.is_some() { "released" } else { "in force" };
    format!("hold {} on {} ({}): {what}\n", entry.hold, entry.source, kept_text(entry))
}

fn list_text(result: &HoldsResult) -> String {
    if result.holds.is_empty() {
        return "no hold is in force\n".to_owned();
    }
    let mut rows = vec![["HOLD", "SOURCE", "SNAPSHOTS", "ADDED", "CAUSE", "REASON"].map(str::to_owned).to_vec()];
    rows.extend(result.holds.iter().map(|entry| {
        vec![
            entry.hold.to_string(),
            entry.source.to_string(),
            kept_text(entry),
            human::moment(entry.added_at),
            match entry.cause {
                HoldCause::Operator => "operator".to_owned(),
                HoldCause::LogAltered => "log altered".to_owned(),
            },
            entry.reason.clone().unwrap_or_else(|| "?".to_owned()),
        ]
    }));
    human::table(&rows, &[])
}
