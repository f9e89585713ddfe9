//! `recoup doctor`.

use super::verdict;
use crate::ops::doctor;
use crate::{
    cli::{Context, Help, Job, human},
    config::Settings,
    core::{
        failure::{Code, Failure},
        result::{DoctorResult, Severity},
    },
};
use clap::Args;

/// Help beyond the flags.
pub const HELP: Help = Help {
    command: "doctor",
    description: "Checks how this host is set up: configuration, keys and their modes, local state, sources, and what each \
        store can and cannot do. It changes nothing.\n\
        It answers as a monitoring plug-in does, also for bad usage and configuration.",
    examples: &[("check this host", "recoup doctor"), ("for a monitor", "recoup doctor --json")],
    exit_codes: &[
        (0, "all is well; there may be notes"),
        (1, "something deserves a look"),
        (2, "something must be put right"),
        (3, "no verdict, bad usage or configuration"),
    ],
};

/// What `doctor` is told.
#[derive(Args, Debug)]
pub struct Arguments {}

/// Runs it.
pub fn run(_arguments: &Arguments, context: &Context) -> Result<Code, Failure> {
    let settings = context.settings()?;
    let mut result = context.run(async |job| job.until_cancelled(perform(&settings, job.clone())).await)?;
    for next_step in result.findings.iter_mut().filter_map(|finding| finding.next_step.as_mut()) {
        *next_step = context.output().completed(next_step);
    }
    verdict(context.output().result(&result, text), result.status)
}

async fn perform(settings: &Settings, job: Job) -> Result<DoctorResult, Failure> {
    Ok(doctor::doctor(settings, &job.world).await)
}

pub(super) fn text(result: &DoctorResult) -> String {
    let mut findings: Vec<_> = result.findings.iter().collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let mut text = String::new();
    for finding in findings {
        let store = finding.store.as_ref().map_or_else(String::new, |store| format!("store {store}: "));
        let severity = finding.severity.word();
        text.push_str(&format!("{severity:<8}  {store}{} [{}]\n", human::line(&finding.message), finding.id));
        if let Some(next_step) = finding.next_step.as_ref().filter(|_| finding.severity > Severity::Note) {
            text.push_str(&format!("          next: {}\n", human::line(next_step)));
        }
    }
    text.push_str(&format!("{}\n", result.status));
    text
}
