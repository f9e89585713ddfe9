//! Builds a report from gathered facts.

use super::{
    Authority, ChainLine, Change, Derived, DrillClear, DrillDetail, DrillEntry, EvidenceBase, FORMAT, FromRecords,
    Head, PreviousReport, QuotedLine, RecordRef, RefusedLine, Report, SeenIn, SnapshotLine, StoreCopies, Tool, changes,
    derive,
    drills::{Digested, has_passed, is_within},
    exposure::round,
};
use crate::core::{
    evidence::{Action, Body, Phase, Record, WriterId},
    id::Sha256,
    result::DrillResult,
};
use std::collections::{BTreeMap, BTreeSet};

/// The most phases, checks and other lists of one drill that a report repeats.
const LIST_MAX: usize = 200;
/// The most characters of a text from a sealed body that a report repeats.
const TEXT_MAX: usize = 1_000;

/// What a report is built from.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What it is about; `previous` is filled in from the records.
    pub head: Head,
    /// What is promised.
    pub authority: Authority,
    /// What makes the report.
    pub tool: Tool,
    /// Whether enough stores answered.
    pub complete: bool,
    /// The stores whose records were read.
    pub answered: Vec<String>,
    /// Records that were not accepted.
    pub refused: Vec<RefusedLine>,
    /// Chains of which more was known.
    pub shortened: Vec<WriterId>,
    /// Every record, those of a chain in order.
    pub records: Vec<RecordFact>,
    /// Every snapshot of the source that the stores hold.
    pub snapshots: Vec<SnapshotLine>,
    /// What each store holds.
    pub copies: Vec<StoreCopies>,
}

/// A record that was read and checked.
#[derive(Clone, Debug)]
pub struct RecordFact {
    /// What it says.
    pub record: Record,
    /// SHA-256 of its bytes.
    pub sha256: Sha256,
    /// Its body.
    pub body: OpenedBody,
}

/// The sealed body of a record.
#[derive(Clone, Debug)]
pub enum OpenedBody {
    /// Nobody looked.
    NotRead,
    /// It was opened.
    Opened(Box<Body>),
    /// It was not, and why.
    NotOpened(String),
}

impl OpenedBody {
    fn body(&self) -> Option<&Body> {
        match self {
            OpenedBody::Opened(body) => Some(body),
            _ => None,
        }
    }
}

/// Whether a report needs the body of a record.
pub fn needs_body(record: &Record, head: &Head) -> bool {
    match record.action {
        Action::Backup => false,
        Action::Drill => {
            let is_of_source = record.subjects.first().is_some_and(|subject| subject.source == head.source);
            record.phase != Phase::Start && is_of_source && record.recorded_at >= head.from
        }
        Action::Report => changes::concerns(record, head),
        _ => is_within(record, head) && changes::concerns(record, head),
    }
}

impl Report {
    /// The report that the facts come to.
    pub fn build(facts: Facts) -> Report {
        let digested: Vec<Digested<'_>> = facts.records.iter().map(|fact| (&fact.record, fact.sha256)).collect();
        let from_records = FromRecords::of(&digested, &facts.head);
        let bodies: BTreeMap<(WriterId, u64), &OpenedBody> =
            facts.records.iter().map(|fact| ((fact.record.writer, fact.record.number), &fact.body)).collect();
        let drills = from_records.drills.iter().map(|clear| drill(clear, &bodies, &facts.authority)).collect();
        let with_body = |change: &Change| with_body(change, &bodies);
        let previous = previous(&facts);
        let quoted = quoted(&facts, &from_records, previous.as_ref());
        let mut report = Report {
            format: FORMAT.to_owned(),
            drills,
            drill_before: from_records.drill_before.clone(),
            snapshots: snapshots(&facts),
            failed_backups: from_records.failed_backups.clone(),
            changes: from_records.changes.iter().map(with_body).collect(),
            evidence: EvidenceBase {
                complete: facts.complete,
                answered: facts.answered.clone(),
                chains: chains(&facts.records),
                refused: facts.refused.iter().take(1_000).cloned().collect(),
                shortened: facts.shortened.clone(),
                quoted,
            },
            head: Head { previous, ..facts.head },
            authority: facts.authority,
            tool: facts.tool,
            copies: facts.copies,
            derived: Derived::default(),
        };
        report.derived = derive(&report);
        report
    }
}

fn chains(records: &[RecordFact]) -> Vec<ChainLine> {
    let mut chains: BTreeMap<WriterId, ChainLine> = BTreeMap::new();
    for fact in records {
        let (writer, records) = (fact.record.writer, fact.record.number);
        chains.insert(writer, ChainLine { writer, records, head_sha256: fact.sha256 });
    }
    chains.into_values().collect()
}

fn drill(clear: &DrillClear, bodies: &BTreeMap<(WriterId, u64), &OpenedBody>, authority: &Authority) -> DrillEntry {
    let mut entry = DrillEntry {
        clear: clear.clone(),
        rpo_policy_seconds: None,
        rto_policy_seconds: None,
        detail: None,
        not_opened: None,
    };
    if clear.policy_sha256.is_some() && clear.policy_sha256 == authority.policy_sha256 {
        (entry.rpo_policy_seconds, entry.rto_policy_seconds) = (authority.rpo_seconds, authority.rto_seconds);
    }
    let Some(end) = &clear.end else { return entry };
    let opened = match bodies.get(&(end.writer, end.number)) {
        Some(OpenedBody::Opened(body)) => result_of(body, clear).map(|result| (body, result)),
        Some(OpenedBody::NotOpened(why)) => Err(why.clone()),
        Some(OpenedBody::NotRead) | None => Err("it was not read".to_owned()),
    };
    match opened {
        Ok((body, result)) => {
            entry.rpo_policy_seconds = result.rpo_policy_seconds;
            entry.rto_policy_seconds = result.rto_policy_seconds;
            entry.detail = Some(detail(body, result));
        }
        Err(why) => entry.not_opened = Some(cut(&why)),
    }
    entry
}

/// The result of a drill, if the body holds one that says the same as the clear part.
fn result_of(body: &Body, clear: &DrillClear) -> Result<DrillResult, String> {
    if body.result.is_null() {
        return Err("its body holds no result".to_owned());
    }
    let result: DrillResult = serde_json::from_value(body.result.clone())
        .map_err(|error| format!("its body holds no result that this version reads: {error}"))?;
    let rounded = |seconds: Option<f64>| seconds.map(|seconds| round(seconds, 3));
    let same = rounded(result.rpo_seconds) == clear.rpo_seconds && rounded(result.rto_seconds) == clear.rto_seconds;
    if same { Ok(result) } else { Err("its body contradicts what the record says in clear".to_owned()) }
}

fn detail(body: &Body, mut result: DrillResult) -> DrillDetail {
    result.phases.truncate(LIST_MAX);
    for phase in &mut result.phases {
        (phase.name, phase.seconds) = (cut(&phase.name), round(phase.seconds, 3));
    }
    result.checks.truncate(LIST_MAX);
    for check in &mut result.checks {
        (check.name, check.expected, check.actual) = (cut(&check.name), cut(&check.expected), cut(&check.actual));
    }
    result.went_round.truncate(LIST_MAX);
    let texts = |texts: Vec<String>| texts.iter().take(LIST_MAX).map(|text| cut(text)).collect();
    DrillDetail {
        verdict: result.verdict,
        files: result.files,
        bytes: result.bytes,
        phases: result.phases,
        checks: result.checks,
        went_round: result.went_round,
        exceptions: texts(result.exceptions),
        limits: texts(result.limits),
        failure: result.failure.as_deref().map(cut),
        version: cut(&body.version),
        host: cut(&body.host),
    }
}

/// A text of bearable length.
fn cut(text: &str) -> String {
    if text.chars().count() <= TEXT_MAX {
        return text.to_owned();
    }
    text.chars().take(TEXT_MAX).chain(['…']).collect()
}

fn with_body(change: &Change, bodies: &BTreeMap<(WriterId, u64), &OpenedBody>) -> Change {
    let body = bodies.get(&(change.record.writer, change.record.number)).and_then(|opened| opened.body());
    let user = |body: &Body| match &body.login_user {
        Some(login) => format!("{login} as {} on {}", body.os_user, body.host),
        None => format!("{} on {}", body.os_user, body.host),
    };
    let reason = body.and_then(|body| body.reason.as_deref()).map(cut);
    let is = |key: &str| body.is_some_and(|body| body.result.get(key) == Some(&serde_json::Value::Bool(true)));
    let how = match change.action {
        Action::Restore if is("delta") => ", over the files that were there",
        Action::Restore if is("standby") => ", as a standby",
        _ => "",
    };
    let what = format!("{}{how}", change.what);
    Change { by: body.map(|body| cut(&user(body))), reason, what, ..change.clone() }
}

/// The report of the source that was made last.
fn previous(facts: &Facts) -> Option<PreviousReport> {
    let is_report = |fact: &&RecordFact| {
        let record = &fact.record;
        record.action == Action::Report && record.subjects.iter().any(|subject| subject.source == facts.head.source)
    };
    let made = |fact: &&RecordFact| (fact.record.recorded_at, fact.record.writer, fact.record.number);
    let newest = facts.records.iter().filter(is_report).max_by_key(made)?;
    let sha256 = |body: &Body| body.result.get("report_sha256")?.as_str()?.parse().ok();
    Some(PreviousReport { record: reference(newest), report_sha256: newest.body.body().and_then(sha256) })
}

fn reference(fact: &RecordFact) -> RecordRef {
    RecordRef { writer: fact.record.writer, number: fact.record.number, sha256: fact.sha256 }
}

/// Everything that the report rests on, and the newest record of every chain.
fn quoted(facts: &Facts, from_records: &FromRecords, previous: Option<&PreviousReport>) -> Vec<QuotedLine> {
    let mut wanted: BTreeSet<(WriterId, u64)> = BTreeSet::new();
    let place = |record: &RecordRef| (record.writer, record.number);
    for drill in &from_records.drills {
        wanted.insert(place(&drill.start));
        wanted.extend(drill.end.as_ref().map(place));
    }
    if let Some(before) = &from_records.drill_before {
        wanted.insert(place(&before.start));
        let closes = |fact: &&RecordFact| {
            fact.record.writer == before.start.writer && fact.record.closes == Some(before.start.number)
        };
        wanted.extend(facts.records.iter().find(closes).map(|fact| place(&reference(fact))));
    }
    wanted.extend(from_records.failed_backups.iter().map(|failed| place(&failed.record)));
    wanted.extend(from_records.changes.iter().map(|change| place(&change.record)));
    wanted.extend(previous.map(|previous| place(&previous.record)));
    wanted.extend(chains(&facts.records).iter().map(|chain| (chain.writer, chain.records)));
    let is_wanted = |fact: &&RecordFact| wanted.contains(&(fact.record.writer, fact.record.number));
    let line = |fact: &RecordFact| QuotedLine {
        record: reference(fact),
        signer: fact.record.signer.clone(),
        action: fact.record.action,
        phase: fact.record.phase,
        recorded_at: fact.record.recorded_at,
    };
    let mut quoted: Vec<QuotedLine> = facts.records.iter().filter(is_wanted).map(line).collect();
    quoted.sort_by(|a, b| a.record.cmp(&b.record));
    quoted
}

/// The snapshots of the period, from the stores and, where those hold them no more, from evidence; and the newest before.
fn snapshots(facts: &Facts) -> Vec<SnapshotLine> {
    let held: BTreeSet<_> = facts.snapshots.iter().map(|line| line.snapshot).collect();
    let mut lines = facts.snapshots.clone();
    let mut gone = BTreeSet::new();
    for fact in facts.records.iter().filter(|fact| fact.record.action == Action::Backup) {
        let record = &fact.record;
        let of_source = record.subjects.iter().filter(|subject| subject.source == facts.head.source);
        for subject in of_source.filter(|subject| has_passed(subject.verdict)) {
            let Some(snapshot) = subject.snapshot.filter(|id| !held.contains(id) && gone.insert(*id)) else { continue };
            lines.push(SnapshotLine {
                snapshot,
                kind: None,
                // The read began no earlier than the backup: exposure is not understated.
                read_started_at: record.started_at,
                created_at: record.recorded_at,
                durable: Some(true),
                stores: Vec::new(),
                inventory_sha256: subject.inventory_sha256,
                seen_in: SeenIn::Evidence,
            });
        }
    }
    lines.retain(|line| line.created_at < facts.head.to);
    lines.sort_by_key(|line| (line.created_at, line.snapshot));
    let before = lines.iter().rposition(|line| line.created_at < facts.head.from && line.durable != Some(false));
    let first_within = lines.iter().position(|line| line.created_at >= facts.head.from).unwrap_or(lines.len());
    let within = lines.split_off(first_within);
    before.map(|at| lines.swap_remove(at)).into_iter().chain(within).collect()
}
