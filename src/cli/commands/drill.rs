//! `recoup drill`.

use crate::{
    cli::{Context, Help, Job, human},
    config::{self, IdentityInput, Settings},
    core::{
        failure::{Code, Failure},
        id::SourceName,
        result::{CheckStatus, DrillResult, Outcome, Verdict},
        time::Timestamp,
    },
    ops::{
        drill::{self, DrillRequest, Drilled},
        open,
    },
};
use clap::Args;
use std::path::PathBuf;

/// Help beyond the flags.
pub const HELP: Help = Help {
    command: "drill",
    description: "Proves that a source can be restored: declares it lost at a moment, restores the newest durable snapshot \
        that was read before into a scratch directory, compares every block, runs the database's own checks and \
        the policy's assertions, and measures what was lost (RPO) and how long it took (RTO). The plaintext is \
        removed at the end.\n\
        The moment is drawn at random from the time since the read of the fifth newest durable snapshot began, and at \
        least from one interval of the policy's schedule, so that no drill can be timed just after a backup. \
        --disaster-at declares one instead, and the result says so.\n\
        A signed record of the start, with that moment, is on more than half of the stores before anything of the \
        snapshot is fetched; every start gets a signed end, also when the drill fails, is refused or is interrupted. \
        What a killed drill left is closed and removed by the next command, which names it.\n\
        The time of the RTO begins when the start is on the stores, and ends when the last check has; its parts are \
        locate, manifest, restore, publish, fingerprints, check and assert.\n\
        Of a server, what the stores had at that moment is restored, and its log is replayed as far as it goes. Where the \
        policy had fingerprints taken with the snapshot, the replay stops at the place that they belong to, and they are \
        compared. What was committed after what came back is counted, where the log tells.\n\
        Everything is read from one store, drawn at random, so that in time each store is proven; --store names one. What \
        that store cannot give is read from another, and named, and the exit code is 1. The result and the signed end say \
        which stores were read from.\n\
        Drills belong on a host of their own, with its own signing key and identity: see DRILL DAY in \
        recoup-runbook(7). It answers as a monitoring plug-in does, also for bad usage and configuration.",
    examples: &[
        ("a drill, with the identity that the policy or the environment names", "recoup drill ledger"),
        ("with an identity from a file", "recoup drill ledger --identity /media/key/drill.age"),
        ("that the store named offsite can give everything alone", "recoup drill ledger --store offsite"),
        (
            "as if the ledger had been lost at half past nine, keeping what was restored",
            "recoup drill ledger --disaster-at 2026-11-22T09:30:00+01:00 --to /srv/drilled --keep",
        ),
    ],
    exit_codes: &[
        (0, "passed: everything held, and the objectives of the policy were met"),
        (1, "passed; something was damaged, missing or out of reach in a store, and read from another (it is named)"),
        (2, "fail-objective, fail-integrity or fail-completeness: it took too long, lost too much, or is not right"),
        (3, "inconclusive or refused; bad usage or configuration"),
        (130, "aborted by SIGINT"),
        (143, "aborted by SIGTERM"),
    ],
};

/// What `drill` is told.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Try out a restore of this source
    #[arg(value_name = "SOURCE")]
    pub source: SourceName,
    /// Read snapshots with the identity in this file [default: as the policy's [drill] says, then
    /// $RECOUP_IDENTITY_FILE]
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Declare the source lost at this moment, a time with an offset [default: drawn at random]
    #[arg(long, value_name = "TIME")]
    pub disaster_at: Option<Timestamp>,
    /// Read everything from this store that it can give [default: one drawn at random]
    #[arg(long, value_name = "NAME")]
    pub store: Option<String>,
    /// Write the plaintext below this directory [default: scratch in the state directory]
    #[arg(long, value_name = "DIR", conflicts_with = "to")]
    pub scratch: Option<PathBuf>,
    /// Restore into this directory, which must not exist or be empty, and keep what was restored
    #[arg(long, value_name = "DIR", requires = "keep")]
    pub to: Option<PathBuf>,
    /// Keep the restored plaintext; the records say so
    #[arg(long)]
    pub keep: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs it.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Code, Failure> {
    let settings = context.settings()?;
    let request = DrillRequest {
        source: arguments.source.clone(),
        disaster_at: arguments.disaster_at,
        scratch: arguments.scratch.clone(),
        to: arguments.to.clone(),
        keep: arguments.keep,
        store: arguments.store.clone(),
        identity: identity(arguments, &settings)?,
    };
    match context.run(async |job| perform(&settings, &request, arguments.dry_run, job).await)? {
        Outcome::Planned(plan) => {
            context.output().plan(&plan)?;
            Ok(Code::Done)
        }
        Outcome::Done(drilled) => report(&drilled, context),
    }
}

/// The flag, then the policy, then the environment.
fn identity(arguments: &Arguments, settings: &Settings) -> Result<IdentityInput, Failure> {
    let policy = drill::configured_policy(settings, &arguments.source);
    let file = policy.and_then(|policy| policy.drill_identity_file.clone());
    let command = policy.and_then(|policy| policy.drill_identity_command.clone());
    match (&arguments.identity, file, command) {
        (None, Some(file), _) => Ok(IdentityInput::File(file)),
        (None, None, Some(command)) => Ok(IdentityInput::Command(command)),
        (flag, _, _) => config::find_identity(flag.as_deref()),
    }
}

async fn perform(
    settings: &Settings,
    request: &DrillRequest,
    dry_run: bool,
    job: Job,
) -> Result<Outcome<Drilled>, Failure> {
    let host = open::open_host(settings, &job.world)?;
    if dry_run {
        return job.until_cancelled(drill::plan(&host, settings, request)).await.map(Outcome::Planned);
    }
    let made_again = open::provide_state_dir(settings)?;
    let progress = job.progress.as_ref();
    let mut drilled = drill::drill(&host, settings, request, progress, &job.cancellation).await?;
    if made_again {
        let directory = settings.host.state_dir.display();
        let note =
            format!("the state directory {directory} was gone and was made again; its records go on as a new chain");
        drilled.notes.push(note);
    }
    Ok(Outcome::Done(drilled))
}

fn report(drilled: &Drilled, context: &Context) -> Result<Code, Failure> {
    let (output, result) = (context.output(), &drilled.result);
    let printed = output.result(result, text);
    if let Some(failure) = &drilled.failure {
        output.explain(failure);
    }
    for round in &result.went_round {
        let line = format!("store {}: {} is {}; taken from another store", round.store, round.object, round.problem);
        output.warning(&line);
    }
    for check in drill::failed_checks(result) {
        let line = format!("check {:?} did not hold: expected {}, found {}", check.name, check.expected, check.actual);
        output.warning(&line);
    }
    output.notes(&drilled.notes);
    if !result.went_round.is_empty() {
        output.next_step("recoup copy");
    }
    match printed {
        Ok(()) => Ok(drilled.code()),
        // What was seen is not lost over that.
        Err(failure) if drilled.code() == Code::Failed => Err(Failure { code: Code::Damaged, ..failure }),
        Err(failure) => Err(failure),
    }
}

pub(super) fn text(result: &DrillResult) -> String {
    let mut text = format!("{}: {}\n", result.verdict, headline(result));
    let drawn = if result.drawn_at_random { "drawn at random" } else { "as declared" };
    text.push_str(&format!("  disaster   {} ({drawn})\n", human::moment(result.disaster_at)));
    if let (Some(id), Some(read)) = (result.snapshot, result.read_started_at) {
        text.push_str(&format!("  snapshot   {id}, read from {}\n", human::moment(read)));
    }
    let files = human::count(result.files, "file");
    if result.files > 0 {
        text.push_str(&format!("  restored   {files}, {}\n", human::size(result.bytes)));
    }
    if let Some(lost) = result.lost_transactions {
        text.push_str(&format!("  lost       {}\n", human::count(lost, "transaction")));
    }
    if !result.stores_used.is_empty() {
        text.push_str(&format!("  read from  {}\n", result.stores_used.join(", ")));
    }
    for phase in &result.phases {
        text.push_str(&format!("  {:<9}  {:.3} s\n", phase.name, phase.seconds));
    }
    for check in &result.checks {
        let status = if check.status == CheckStatus::Passed { "passed" } else { "FAILED" };
        text.push_str(&format!("  {status}     {}\n", human::line(&check.name)));
    }
    for exception in &result.exceptions {
        text.push_str(&format!("  exception  {}\n", human::line(exception)));
    }
    for limit in &result.limits {
        text.push_str(&format!("  not shown  {}\n", human::line(limit)));
    }
    let evidence = &result.evidence;
    let end = evidence.end.map(|end| format!(" and {end}")).unwrap_or_default();
    text.push_str(&format!("  evidence   records {}{end} of writer {}\n", evidence.start, evidence.writer));
    text
}

/// A span, exact while it is short.
fn exactly(seconds: f64) -> String {
    if seconds < 120.0 { format!("{seconds:.1} s") } else { human::span(seconds) }
}

/// What was lost and how long it took, each beside what the policy permits.
fn headline(result: &DrillResult) -> String {
    let permitted = |limit: Option<u64>| match limit {
        Some(seconds) => format!("{} permitted", human::span(seconds as f64)),
        None => "nothing promised".to_owned(),
    };
    match (result.rpo_seconds, result.rto_seconds) {
        (Some(lost), Some(took)) => format!(
            "{} lost {} ({}), came back in {} ({})",
            result.source,
            exactly(lost),
            permitted(result.rpo_policy_seconds),
            exactly(took),
            permitted(result.rto_policy_seconds)
        ),
        _ if result.verdict == Verdict::Aborted => format!("the drill of {} was broken off", result.source),
        _ => format!("nothing of {} came back", result.source),
    }
}
