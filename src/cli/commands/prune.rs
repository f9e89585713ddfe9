//! `recoup prune`.

use super::backup::chosen_sources;
use crate::{
    cli::{Context, Help, Job, human, usage_failure},
    config::Settings,
    core::{
        failure::{Code, Failure, combine},
        id::{RunId, SnapshotId, SourceName},
        result::{PlanFailure, PlanSchema, PrunePlanResult, PruneResult},
    },
    ops::prune::{PreparedSources, PruneSources, execute_sources, prepare_sources},
};
use clap::Args;

/// Help beyond the flags.
pub const HELP: Help = Help {
    command: "prune",
    description: "Deletes the snapshots that the policy's [retention] keeps no longer, and what nothing uses any more. It \
        happens in two runs: the first publishes a signed plan on the stores, a later one looks again at what is \
        committed, drops from the plan what is in use or held, records what goes, and deletes it. A wrong plan can \
        be stopped in between, with --cancel or by correcting the policy. Each run first finishes what earlier \
        ones have left.\n\
        Never deleted are the newest durable snapshot, the newest one that a drill has proven, held ones, and \
        whatever a kept snapshot uses. The log of a postgres source goes with the snapshots that it leads on from: what lies \
        before the oldest kept one, so that every moment since then can be brought back; see \
        recoup-source-postgres(7). Where the clock is suspect, the newest durable snapshot is overdue, or more \
        than half of the snapshots would go, it refuses until --confirm names the source. Snapshots dated in the future \
        that are confirmed so are on record, and later runs do not ask because of them; nothing goes sooner for it, and \
        --cancel of the plan that says so takes it back until it is executed.\n\
        Without a terminal nothing happens without --yes.",
    examples: &[
        ("what would go", "recoup prune --dry-run"),
        ("unattended", "recoup prune --yes"),
        ("plan and delete in one run", "recoup prune ledger --now --yes"),
        ("stop a plan before the next run executes it", "recoup prune ledger --cancel q6ytsxkzmbrd2h4w --yes"),
        (
            "give up a snapshot that no store has whole",
            "recoup prune ledger --forget 0000000042-q6ytsxkzmbrd2h4w --confirm=ledger --yes",
        ),
    ],
    exit_codes: &[
        (0, "done, or there is nothing to prune"),
        (1, "done, and a store lags or keeps what it should delete (it is named)"),
        (2, "several sources failed differently"),
        (11, "another prune has the source"),
        (14, "a store does not answer; nothing more is deleted"),
        (17, "refused for safety: --yes or --confirm is missing, or what a snapshot uses cannot be read"),
        (78, "this host's key is not trusted to prune"),
    ],
};

/// What `prune` is told.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Prune these sources [default: all]
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<SourceName>,
    /// Delete what this run condemns in this run already
    #[arg(long, conflicts_with = "cancel")]
    pub now: bool,
    /// Do it without asking
    #[arg(long)]
    pub yes: bool,
    /// Go on for this source though its clock, its age or the amount raises doubts; may be repeated
    #[arg(long, value_name = "SOURCE")]
    pub confirm: Vec<SourceName>,
    /// Give up this snapshot (its full id), which no store has whole: nobody misses it from then on
    #[arg(long, value_name = "SEQ-RUN", conflicts_with = "cancel")]
    pub forget: Option<SnapshotId>,
    /// Drop this plan before it is executed
    #[arg(long, value_name = "PLAN")]
    pub cancel: Option<RunId>,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs it.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Code, Failure> {
    let settings = context.settings()?;
    let wanted = wanted(arguments, &settings)?;
    let prepare =
        async |job: Job| job.until_cancelled(prepare_sources(&settings, &job.world, &wanted, !arguments.dry_run)).await;
    let prepared = context.run(prepare)?;
    if arguments.dry_run {
        return show(&prepared, context);
    }
    if !may_go_on(arguments, &prepared, context)? {
        return Ok(Code::Done);
    }
    let execute = async |job: Job| {
        let progress = job.progress.clone();
        job.until_cancelled(async { Ok(execute_sources(prepared, progress.as_ref()).await) }).await
    };
    let result = context.run(execute)?;
    report(&result, context);
    context.output().summary(&result, text)?;
    Ok(result.code())
}

fn wanted(arguments: &Arguments, settings: &Settings) -> Result<PruneSources, Failure> {
    let sources = chosen_sources(&arguments.sources, settings)?;
    if let Some(unknown) = arguments.confirm.iter().find(|name| !sources.contains(name)) {
        let next_step = "name a source that is pruned";
        return Err(usage_failure(format!("--confirm={unknown} confirms nothing"), next_step));
    }
    if arguments.forget.is_some() || arguments.cancel.is_some() {
        let [source] = &arguments.sources[..] else {
            return Err(usage_failure("--forget and --cancel are for one source", "name it before the flag"));
        };
        if arguments.forget.is_some() && !arguments.confirm.contains(source) {
            return Err(Failure::new(Code::Refused, format!("giving up a snapshot of {source} needs a confirmation"))
                .cause("whatever still lies there of it is deleted for good")
                .safe("nothing was planned or deleted")
                .next_step(format!("add --confirm={source}")));
        }
    }
    Ok(PruneSources {
        sources,
        now: arguments.now,
        confirmed: arguments.confirm.clone(),
        forget: arguments.forget,
        cancel: arguments.cancel,
    })
}

/// What `--dry-run` shows. A source that cannot be planned for is no plan.
fn show(prepared: &PreparedSources, context: &Context) -> Result<Code, Failure> {
    let failures = prepared.failures();
    let steps = prepared.steps();
    if let ([(_, failure)], true) = (&failures[..], steps.is_empty()) {
        return Err((*failure).clone());
    }
    let failed = |(source, failure): &(&SourceName, &Failure)| PlanFailure {
        next_step: failure.next_step.as_ref().map(|step| context.output().completed(step)),
        ..PlanFailure::new((*source).clone(), failure)
    };
    let plan = PrunePlanResult {
        schema: PlanSchema,
        command: "prune".to_owned(),
        steps,
        failures: failures.iter().map(failed).collect(),
        notes: prepared.notes(),
    };
    context.output().result(&plan, |plan| plan.steps.iter().map(|step| format!("{step}\n")).collect())?;
    for (source, failure) in &failures {
        let message = format!("{source} (exit {}): {}", failure.code.number(), failure.message);
        context.output().explain(&Failure { message, ..(*failure).clone() });
    }
    context.output().notes(&plan.notes);
    Ok(combine(&failures.iter().map(|(_, failure)| failure.code).collect::<Vec<_>>()))
}

/// Whether somebody wants it: `--yes`, or the answer of a person at a terminal.
fn may_go_on(arguments: &Arguments, prepared: &PreparedSources, context: &Context) -> Result<bool, Failure> {
    let steps = prepared.steps();
    if arguments.yes || steps.is_empty() {
        return Ok(true);
    }
    let answer = context.output().ask(&steps, "Do this?");
    answer.ok_or_else(|| {
        Failure::new(Code::Refused, "nothing is pruned without --yes where nobody can be asked")
            .cause(format!("{} to do, first: {}", human::count(steps.len() as u64, "step"), steps[0]))
            .safe("nothing was planned or deleted")
            .next_step("recoup prune --dry-run shows all of it; add --yes to do it")
    })
}

fn report(result: &PruneResult, context: &Context) {
    for source in &result.sources {
        let line = format!("{} (exit {}): {}", source.source, source.exit_code.number(), source.message);
        match &source.failure {
            Some(failure) => {
                let message = format!("{} (exit {}): {}", source.source, source.exit_code.number(), failure.message);
                context.output().explain(&Failure { message, ..failure.clone() });
            }
            None if source.exit_code != Code::Done => context.output().warning(&line),
            None => {}
        }
        source.warnings.iter().for_each(|warning| context.output().warning(warning));
        context.output().remarks(&source.notes);
    }
    context.output().notes(&result.notes);
}

pub(super) fn text(result: &PruneResult) -> String {
    let mut text = String::new();
    for source in &result.sources {
        text.push_str(&format!("{}: {}\n", source.source, human::line(&source.message)));
        for store in source.stores.iter().filter(|store| store.deleted_objects > 0) {
            text.push_str(&format!(
                "store {}: {} deleted ({})\n",
                store.store,
                human::count(store.deleted_objects, "object"),
                human::size(store.deleted_bytes)
            ));
        }
    }
    text
}
