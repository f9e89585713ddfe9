//! `recoup demo`.

use crate::{
    cli::{Context, Help, Job, human},
    core::{
        failure::{Code, Failure},
        result::DemoResult,
    },
    ops::demo,
    world,
};
use clap::Args;
use std::path::{Path, PathBuf};

/// Help beyond the flags.
pub const HELP: Help = Help {
    command: "demo",
    description: "Plays a disaster from beginning to end: makes a ledger of bets with a writer that keeps writing, three \
        stores and keys; takes a full and an incremental snapshot; loses the ledger, destroys a store and \
        damages an object in another; restores; checks that every transfer balances; heals the stores; tries a \
        drill; and signs a summary and a report of what was restored and proven. A compliance log is altered on the \
        way, caught, and brought back as it was. Everything stays in one directory, whose path is \
        printed, and nothing else is touched.",
    examples: &[("in a temporary directory", "recoup demo"), ("somewhere else", "recoup demo --dir /mnt/big/demo")],
    exit_codes: &[(0, "all of it held"), (2, "something did not hold"), (17, "the directory is not empty")],
};

/// What `demo` is told.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Play in this directory, which must not exist or be empty [default: a new temporary one]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Runs it.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Code, Failure> {
    let dir = arguments.dir.as_deref().map(world::absolute);
    let result = context.run_telling(async |job| perform(dir.as_deref(), job).await)?;
    context.output().result(&result, text)?;
    Ok(result.code())
}

/// The story is told through the job's progress; its messages go to standard output.
async fn perform(dir: Option<&Path>, job: Job) -> Result<DemoResult, Failure> {
    demo::demo(&job.world, dir, &job.progress, &job.cancellation).await
}

pub(super) fn text(result: &DemoResult) -> String {
    format!(
        "\n\
         verdict     {}: {} of {} checks held\n\
         lost        {:.1} s of business, {} (RPO, as measured)\n\
         back        {:.1} s after the disaster, checked (RTO, as measured)\n\
         summary     {}, signed\n\
         report      {}, signed\n\
         \n\
         Check the signature of the summary, from anywhere:\n\
         {}\n\
         The report's README.txt says the same for the report.\n",
        result.verdict,
        result.checks_held,
        result.checks,
        result.rpo_seconds,
        human::count(result.transfers_lost, "transfer"),
        result.rto_seconds,
        result.summary,
        result.report,
        result.check_command,
    )
}
