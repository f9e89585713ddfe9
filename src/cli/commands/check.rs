//! `recoup check`.

use super::{complete, verdict};
use crate::{
    cli::{Context, Help, human},
    core::{
        failure::{Code, Failure},
        id::SourceName,
        result::{CheckFinding, CheckReport, CheckSchema, Checked, CheckedSource, StoreState},
    },
    ops::check,
    world,
};
use clap::Args;
use std::path::PathBuf;

/// Help beyond the flags.
pub const HELP: Help = Help {
    command: "check",
    description: "Checks whether what the policies promise holds now: how much would be lost, whether snapshots, full \
        snapshots and drills come when they are due, whether every store answers and is level, and whether \
        anything looks altered, forked or rolled back. It opens no database, asks a server for a few seconds at most, and \
        needs no decryption key.\n\
        What would be lost is 0 while the source is provably unchanged since the read for its newest durable \
        snapshot began, else the time since then; of a source with a log, the time since the last moment until \
        which everything that was committed is durable. A schedule has some play: what is due every hour is overdue \
        after 75 minutes. A promise has none.\n\
        It answers as a monitoring plug-in does, also for bad usage and configuration: one line with \
        performance data, then what was found with its next step, worst first, and the newest snapshot of \
        every source.",
    examples: &[
        ("everything", "recoup check"),
        ("one source, for scripts", "recoup check ledger --json"),
        (
            "for the textfile collector of Prometheus' node exporter",
            "recoup check --textfile /var/lib/node_exporter/recoup.prom",
        ),
    ],
    exit_codes: &[
        (0, "what is promised holds; there may be notes"),
        (1, "something deserves a look"),
        (2, "a promise is broken, or something must be put right"),
        (3, "no verdict, bad usage or configuration"),
    ],
};

/// What `check` is told.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Check these sources [default: all]
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<SourceName>,
    /// Write what was found as Prometheus metrics to this file, replacing it in one step
    #[arg(long, value_name = "FILE")]
    pub textfile: Option<PathBuf>,
}

/// Runs it.
pub fn run(arguments: &Arguments, context: &Context) -> Result<Code, Failure> {
    let settings = context.settings()?;
    let work =
        async |job: crate::cli::Job| job.until_cancelled(check::check(&settings, &job.world, &arguments.sources)).await;
    let mut checked = context.run(work)?;
    if let Some(file) = &arguments.textfile {
        check::write_metrics(&mut checked, &world::absolute(file));
    }
    complete(&mut checked, context);
    let report = CheckReport { schema: CheckSchema, checked };
    verdict(context.output().result(&report, |report| text(&report.checked)), report.checked.status)
}

/// What is in the way of plug-ins: a bar begins their data, a line ends their message.
fn plain(text: &str) -> String {
    human::line(text).replace('|', "/")
}

/// What a monitor is told where there is no verdict.
pub(in crate::cli) fn unknown(failure: &Failure) -> String {
    format!("RECOUP UNKNOWN - {}\n", plain(&failure.to_string()))
}

/// As plug-ins of Nagios print it.
pub(super) fn text(checked: &Checked) -> String {
    let status = checked.status.to_string().to_uppercase();
    let mut text = format!("RECOUP {status} - {} | {}\n", plain(&summary(checked)), performance(checked));
    for finding in &checked.findings {
        text.push_str(&finding_text(finding));
    }
    for source in &checked.sources {
        if let Some(head) = &source.head {
            text.push_str(&format!("{}: head {} sha256 {}\n", source.source, head.snapshot, head.sha256));
        }
    }
    text
}

/// A finding on one line, and its next step on another.
pub(super) fn finding_text(finding: &CheckFinding) -> String {
    let mut text =
        format!("{:<8}  {} [{}]\n", finding.severity.word(), plain(&subject_and_message(finding)), finding.id);
    if let Some(next_step) = &finding.next_step {
        text.push_str(&format!("          next: {}\n", plain(next_step)));
    }
    text
}

fn subject_and_message(finding: &CheckFinding) -> String {
    let source = finding.source.iter().map(|source| format!("{source}: "));
    let store = finding.store.iter().map(|store| format!("store {store}: "));
    let subject: String = source.chain(store).collect();
    format!("{subject}{}", finding.message)
}

fn summary(checked: &Checked) -> String {
    use crate::core::result::Severity;
    let wrong: Vec<&CheckFinding> =
        checked.findings.iter().filter(|finding| finding.severity > Severity::Note).collect();
    if let Some(first) = wrong.first() {
        let more = if wrong.len() > 1 { format!(" (and {} more)", wrong.len() - 1) } else { String::new() };
        return format!("{}{more}", subject_and_message(first));
    }
    let sources = human::count(checked.sources.len() as u64, "source");
    match checked.sources.iter().max_by_key(|source| pressing(source)) {
        Some(source) => format!("{sources}, exposure {}", loss_text(source)),
        None => sources,
    }
}

/// How near a source is to what its policy permits to be lost, in millionths.
fn pressing(source: &CheckedSource) -> u128 {
    let exposure = u128::from(source.exposure_seconds.unwrap_or(0));
    exposure * 1_000_000 / u128::from(source.rpo_seconds.unwrap_or(u64::MAX).max(1))
}

fn loss_text(source: &CheckedSource) -> String {
    let exposure = source.exposure_seconds.map_or("unknown".to_owned(), human::short);
    match source.rpo_seconds {
        Some(rpo) => format!("{exposure} of {}", human::short(rpo)),
        None => format!("{exposure}, no rpo promised"),
    }
}

/// Performance data: `'label'=value[unit];[warning];[critical];[least];[most]`.
fn performance(checked: &Checked) -> String {
    let mut data: Vec<String> = Vec::new();
    for source in &checked.sources {
        if let Some(exposure) = source.exposure_seconds {
            let rpo = source.rpo_seconds.map_or_else(String::new, |rpo| format!(";;{rpo}"));
            data.push(format!("'{}.exposure'={exposure}s{rpo}", source.source));
        }
    }
    let up = checked.stores.iter().filter(|store| store.state != StoreState::Down).count();
    data.push(format!("'stores.up'={up};;;0;{}", checked.stores.len()));
    data.join(" ")
}
