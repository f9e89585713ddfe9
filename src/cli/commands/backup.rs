//! `recoup backup`.

use crate::{
    cli::{Context, Help, Job, human, usage_failure},
    config::Settings,
    core::{
        failure::{Code, Failure},
        id::SourceName,
        result::{BackupResult, Outcome, SnapshotEntry},
    },
    ops::runs,
};
use clap::Args;
use std::collections::BTreeSet;

/// Help beyond the flags.
pub const HELP: Help = Help {
    command: "backup",
    description: "Takes a snapshot of every source, or of those named, and ships the same sealed bytes to every store. A \
        snapshot is incremental where a usable base exists. One is taken also when nothing changed: it proves \
        that the position was current.\n\
        A source or a store that fails does not stop the others. A snapshot is durable once as many stores hold \
        all of it as the policy asks for; recoup copy brings a store that was left behind level again.",
    examples: &[
        ("everything", "recoup backup"),
        ("one source, in full", "recoup backup ledger --full"),
        ("what would be done", "recoup backup --dry-run"),
    ],
    exit_codes: &[
        (0, "durable, and on all stores"),
        (1, "durable, and a store is behind (it is named)"),
        (2, "not durable, or several sources failed differently"),
        (11, "another run has the source"),
        (13, "the source is unreachable or unfit"),
        (14, "no store could be reached"),
        (17, "refused for safety"),
        (18, "an append-only log was altered"),
    ],
};

/// What `backup` is told.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Take a snapshot of these sources [default: all]
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<SourceName>,
    /// Take full snapshots, which refer to no older object
    #[arg(long)]
    pub full: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs it.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Code, Failure> {
    let settings = context.settings()?;
    let sources = chosen_sources(&arguments.sources, &settings)?;
    match context.run(async |job| job.until_cancelled(perform(arguments, &sources, &settings, job.clone())).await)? {
        Outcome::Planned(plan) => {
            context.output().plan(&plan)?;
            Ok(Code::Done)
        }
        Outcome::Done(result) => {
            report_sources(&result, context);
            context.output().notes(&result.notes);
            context.output().summary(&result, text)?;
            Ok(result.code())
        }
    }
}

/// The sources that are named, or all of them.
pub(super) fn chosen_sources(named: &[SourceName], settings: &Settings) -> Result<Vec<SourceName>, Failure> {
    let known: Vec<SourceName> = settings.sources.iter().map(|source| source.name.clone()).collect();
    if let Some(unknown) = named.iter().find(|name| !known.contains(name)) {
        let names: Vec<&str> = known.iter().map(SourceName::as_str).collect();
        let failure = usage_failure(format!("there is no source named {unknown}"), "recoup config show");
        return Err(failure.cause(format!("{} names: {}", settings.file.display(), names.join(", "))));
    }
    let mut chosen: Vec<SourceName> = if named.is_empty() { known } else { named.to_vec() };
    let mut seen = BTreeSet::new();
    chosen.retain(|name| seen.insert(name.clone()));
    if chosen.is_empty() {
        return Err(Failure::new(Code::Configuration, "there is no source to protect")
            .cause(format!("{} has no [[source]]", settings.file.display()))
            .safe("nothing was read or changed")
            .next_step("add a [[source]] with name, kind and path; recoup.toml(5) explains them"));
    }
    Ok(chosen)
}

async fn perform(
    arguments: &Arguments,
    sources: &[SourceName],
    settings: &Settings,
    job: Job,
) -> Result<Outcome<BackupResult>, Failure> {
    if arguments.dry_run {
        return Ok(Outcome::Planned(runs::plan_backup(settings, &job.world, sources, arguments.full).await?));
    }
    let progress = job.progress.as_ref();
    Ok(Outcome::Done(runs::backup_sources(settings, &job.world, sources, arguments.full, progress).await?))
}

/// Each source that did not end well, with its own code.
fn report_sources(result: &BackupResult, context: &Context) {
    for outcome in &result.sources {
        let code = outcome.exit_code;
        let line = format!("{} (exit {}): {}", outcome.source, code.number(), outcome.message);
        match (&outcome.failure, code) {
            (_, Code::Done) => {}
            (Some(failure), _) => {
                let message = format!("{} (exit {}): {}", outcome.source, code.number(), failure.message);
                context.output().explain(&Failure { message, ..failure.clone() });
            }
            (None, Code::Warning) => context.output().warning(&line),
            (None, _) => context.output().explain(
                &Failure::new(code, line)
                    .safe("earlier snapshots are unaffected")
                    .next_step("put the stores right, then run the same command again"),
            ),
        }
    }
    // Once for all sources: it levels every store with all of them.
    let next_steps: BTreeSet<&str> = result.sources.iter().filter_map(|source| source.next_step).collect();
    next_steps.into_iter().for_each(|next_step| context.output().next_step(next_step));
}

fn text(result: &BackupResult) -> String {
    let mut text: String = result.snapshots.iter().map(snapshot_text).collect();
    for outcome in &result.sources {
        if let Some(head) = &outcome.head {
            text.push_str(&format!("{}: head {} sha256 {}\n", outcome.source, head.snapshot, head.sha256));
        }
    }
    text
}

fn snapshot_text(snapshot: &SnapshotEntry) -> String {
    format!(
        "{}: snapshot {} ({}), {} in {} new, on {}, {}\n",
        snapshot.source,
        snapshot.seq,
        snapshot.kind,
        human::size(snapshot.bytes_raw),
        human::size(snapshot.bytes_stored),
        if snapshot.stores.is_empty() { "no store".to_owned() } else { snapshot.stores.join(", ") },
        if snapshot.durable { "durable" } else { "NOT DURABLE" },
    )
}
