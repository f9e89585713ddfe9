//! `recoup verify`.

use super::{findings_text, verdict};
use crate::ops::open::open_access;
use crate::ops::runs;
use crate::{
    cli::{Context, Help, Job, arguments::StoreArguments, human},
    config::Access,
    core::{
        failure::{Code, Failure},
        result::VerifyResult,
    },
};
use clap::Args;

/// Help beyond the flags.
pub const HELP: Help = Help {
    command: "verify",
    description: "Judges each store against what it holds committed and what it once completed. Without --all it looks at \
        presence and sizes of every object and at the digests of clear ones; with --all it reads every byte \
        again and compares its digest. No decryption key is needed, so any host with access to the stores can \
        do it.\n\
        It answers as a monitoring plug-in does, also for bad usage and configuration.",
    examples: &[
        ("presence and sizes", "recoup verify"),
        ("every byte", "recoup verify --all"),
        (
            "one store, on another host",
            "recoup verify --all --store file:///mnt/a --signers /media/key/custodian.age.signers",
        ),
    ],
    exit_codes: &[
        (0, "every store is right"),
        (1, "a store is behind or unreachable"),
        (2, "something is damaged or missing"),
        (3, "nothing could be read, bad usage or configuration"),
    ],
};

/// What `verify` is told.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Read every byte again
    #[arg(long)]
    pub all: bool,
    /// Which stores to read.
    #[command(flatten)]
    pub stores: StoreArguments,
}

/// Runs it.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Code, Failure> {
    let access = context.access(&arguments.stores, None)?;
    let result = context.run(async |job| job.until_cancelled(perform(arguments, &access, job.clone())).await)?;
    let printed = context.output().result(&result, text);
    context.output().notes(&result.notes);
    result.next_steps.iter().for_each(|next_step| context.output().next_step(next_step));
    verdict(printed, result.status)
}

async fn perform(arguments: &Arguments, access: &Access, job: Job) -> Result<VerifyResult, Failure> {
    let repository = open_access(access).await?;
    let progress = job.progress.as_ref();
    runs::verify_stores(&repository, access.settings(), Vec::new(), arguments.all, progress).await
}

pub(super) fn text(result: &VerifyResult) -> String {
    format!(
        "{}{}: {} checked, {} read, {}\n",
        findings_text(&result.findings),
        result.status,
        human::count(result.objects, "object"),
        human::size(result.bytes),
        human::count(result.findings.len() as u64, "finding"),
    )
}
