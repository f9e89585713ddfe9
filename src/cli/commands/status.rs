//! `recoup status`.

use super::{check::finding_text, complete, verdict};
use crate::{
    cli::{Context, Help, human},
    core::{
        failure::{Code, Failure},
        result::{Checked, CheckedSource, CheckedStore, Severity, StatusReport, StatusSchema},
        time::Timestamp,
    },
    ops::check,
};
use clap::Args;

/// Help beyond the flags.
pub const HELP: Help = Help {
    command: "status",
    description: "Shows on one screen how every source and every store stands, and what is wrong, worst first, each with \
        the next command. It finds out what recoup check finds out, and ends as that does.\n\
        LOSS is what would be lost if the source were lost now, and RPO what its policy permits. COPIES are the \
        stores that hold the newest snapshot, and how many the policy asks for.",
    examples: &[("one screen", "recoup status"), ("for scripts", "recoup status --json")],
    exit_codes: &[
        (0, "what is promised holds; there may be notes"),
        (1, "something deserves a look"),
        (2, "a promise is broken, or something must be put right"),
        (3, "no verdict, bad usage or configuration"),
    ],
};

/// The most findings that are shown: more do not fit on a screen.
const SHOWN_MAX: usize = 6;

/// What `status` is told.
#[derive(Args, Debug)]
pub struct Arguments {}

/// Runs it.
pub fn run(_arguments: &Arguments, context: &Context) -> Result<Code, Failure> {
    let settings = context.settings()?;
    let work = async |job: crate::cli::Job| job.until_cancelled(check::check(&settings, &job.world, &[])).await;
    let mut checked = context.run(work)?;
    complete(&mut checked, context);
    let report = StatusReport { schema: StatusSchema, checked };
    let printed = context.output().painted_result(&report, |report| text(&report.checked));
    verdict(printed, report.checked.status)
}

pub(super) fn text(checked: &Checked) -> String {
    let now = checked.checked_at;
    let mut rows = vec![
        ["SOURCE", "STATE", "LOSS", "RPO", "NEWEST", "AGE", "COPIES", "DRILL", "HOLDS"].map(str::to_owned).to_vec(),
    ];
    rows.extend(checked.sources.iter().map(|source| source_row(source, now)));
    let mut text = human::table(&rows, &[]);
    let mut rows = vec![["STORE", "STATE", "BEHIND", "FREE"].map(str::to_owned).to_vec()];
    rows.extend(checked.stores.iter().map(store_row));
    text.push_str(&format!("\n{}\n", human::table(&rows, &[])));
    let (notes, wrong): (Vec<_>, Vec<_>) =
        checked.findings.iter().partition(|finding| finding.severity == Severity::Note);
    wrong.iter().take(SHOWN_MAX).for_each(|finding| text.push_str(&finding_text(finding)));
    let hidden = wrong.len().saturating_sub(SHOWN_MAX) as u64;
    let more: Vec<String> = [(hidden, "more finding"), (notes.len() as u64, "note")]
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, noun)| human::count(number, noun))
        .collect();
    if !more.is_empty() {
        text.push_str(&format!("{}: recoup check shows them\n", more.join(" and ")));
    }
    text.push_str(&format!("{} at {}\n", checked.status, human::moment(now)));
    text
}

fn source_row(source: &CheckedSource, now: Timestamp) -> Vec<String> {
    let none = || "-".to_owned();
    vec![
        source.source.to_string(),
        source.status.to_string(),
        source.exposure_seconds.map_or_else(|| "unknown".to_owned(), human::short),
        source.rpo_seconds.map_or_else(none, human::short),
        source.head.as_ref().map_or_else(none, |head| head.snapshot.seq.to_string()),
        source.newest_at.map_or_else(none, |at| age(now, at)),
        format!("{}/{}", source.copies, source.copies_wanted),
        source.last_drill.map_or_else(none, |drill| format!("{} {}", drill.verdict, age(now, drill.started_at))),
        source.holds.to_string(),
    ]
}

fn age(now: Timestamp, at: Timestamp) -> String {
    let seconds = now.seconds_since(at);
    if seconds <= -1.0 { "ahead".to_owned() } else { human::short(seconds.max(0.0) as u64) }
}

fn store_row(store: &CheckedStore) -> Vec<String> {
    vec![
        store.store.clone(),
        store.state.to_string(),
        store.snapshots_behind.map_or_else(|| "?".to_owned(), |behind| behind.to_string()),
        store.free_bytes.map_or_else(|| "-".to_owned(), human::size),
    ]
}
