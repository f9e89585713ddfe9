//! Findings: what was missed, what failed, what cannot be told.

use super::{
    Derived, DrillEntry, Finding, Report,
    derive::SlotState,
    verdict::{Outcome, rpo_met, rto_met},
    words::{count, duration, percent},
};
use crate::core::{
    evidence::Verdict as EvidenceVerdict,
    result::Severity::{self, Critical, Note, Warning},
    time::Timestamp,
};
use std::collections::{BTreeMap, BTreeSet};

/// Findings of one kind that are listed one by one; the rest are counted.
const EACH_MAX: usize = 50;

#[derive(Default)]
struct List(Vec<Finding>);

impl List {
    fn add(&mut self, id: &str, severity: Severity, at: Option<Timestamp>, text: impl Into<String>) {
        self.0.push(Finding { id: id.to_owned(), severity, at, text: text.into() });
    }
}

pub(super) fn findings(report: &Report, derived: &Derived) -> Vec<Finding> {
    let mut list = List::default();
    drills(report, &mut list);
    calendar(derived, &mut list);
    snapshots(report, derived, &mut list);
    backups(report, &mut list);
    policy(report, &mut list);
    evidence(report, &mut list);
    say_once(&mut list.0);
    // The worst first, then as they happened.
    list.0.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.at));
    list.0
}

/// What is wrong with the way in which drills are done is wrong with each of them: it is said once, of the last.
fn say_once(findings: &mut Vec<Finding>) {
    const OF_EACH_DRILL: [&str; 3] = ["drill-exception", "drill-unannounced", "drill-went-round"];
    let mut times: BTreeMap<(String, String), (u64, Option<Timestamp>)> = BTreeMap::new();
    let key = |finding: &Finding| (finding.id.clone(), finding.text.clone());
    for finding in findings.iter().filter(|finding| OF_EACH_DRILL.contains(&finding.id.as_str())) {
        let (number, last) = times.entry(key(finding)).or_default();
        (*number, *last) = (*number + 1, finding.at.max(*last));
    }
    findings.retain_mut(|finding| match times.get(&key(finding)) {
        Some((number, last)) if finding.at == *last => {
            if *number > 1 {
                finding.text.push_str(&format!(" ({number} drills)"));
            }
            true
        }
        other => other.is_none(),
    });
}

fn drills(report: &Report, list: &mut List) {
    if !report.drills.iter().any(|drill| Outcome::of(drill) == Outcome::Passed) {
        list.add(
            "no-drill",
            Critical,
            None,
            "no drill of this source passed in the period: that it restores is not proven",
        );
    }
    for drill in &report.drills {
        let at = Some(drill.clear.started_at);
        let objective = |what: &str, measured: Option<f64>, policy: Option<u64>| {
            let (measured, policy) = (measured.unwrap_or_default(), policy.unwrap_or_default() as f64);
            format!("{what} {}, and the policy permits {}", duration(measured), duration(policy))
        };
        if rpo_met(drill) == Some(false) {
            let text = objective("a drill lost", drill.clear.rpo_seconds, drill.rpo_policy_seconds);
            list.add("objective-missed-rpo", Critical, at, text);
        }
        if rto_met(drill) == Some(false) {
            let text = objective("a drill took", drill.clear.rto_seconds, drill.rto_policy_seconds);
            list.add("objective-missed-rto", Critical, at, text);
        }
        outcome(drill, list);
    }
}

fn outcome(drill: &DrillEntry, list: &mut List) {
    let at = Some(drill.clear.started_at);
    let why = drill.detail.as_ref().and_then(|detail| detail.failure.clone());
    let with_why = |text: &str| why.as_ref().map_or_else(|| text.to_owned(), |why| format!("{text}: {why}"));
    match (Outcome::of(drill), drill.clear.verdict) {
        (Outcome::Integrity, _) => {
            list.add("drill-failed", Critical, at, with_why("what a drill restored is not what it should be"));
        }
        (Outcome::Completeness, _) => {
            list.add("drill-failed", Critical, at, with_why("a drill did not get everything back"));
        }
        (Outcome::Open, _) => {
            list.add("drill-without-end", Critical, at, "a drill began, and no end of it is on record");
        }
        (Outcome::NoResult, EvidenceVerdict::Refused) => {
            list.add("drill-refused", Warning, at, with_why("a drill was refused before it came to a result"));
        }
        (Outcome::NoResult, _) => list.add("drill-aborted", Warning, at, with_why("a drill came to no result")),
        (Outcome::Passed, EvidenceVerdict::Warning) => {
            list.add("drill-went-round", Warning, at, "a drill passed and had to go round damage, or warned otherwise");
        }
        (Outcome::Passed | Outcome::Objective, _) => {}
    }
    if drill.clear.end.as_ref() == Some(&drill.clear.start) {
        let text =
            "a drill is on record only as a whole: nothing shows that it was announced before its result was known";
        list.add("drill-unannounced", Warning, at, text);
    }
    if let Some(exceptions) = drill.detail.as_ref().map(|detail| &detail.exceptions).filter(|list| !list.is_empty()) {
        list.add(
            "drill-exception",
            Warning,
            at,
            format!("a drill was done otherwise than it should be: {}", exceptions.join("; ")),
        );
    }
}

fn calendar(derived: &Derived, list: &mut List) {
    let Some(calendar) = &derived.calendar else { return };
    for (number, slot) in calendar.slots.iter().filter(|slot| slot.state == SlotState::Missed).enumerate() {
        if number == EACH_MAX {
            let rest = calendar.missed - EACH_MAX as u64;
            list.add(
                "drill-missed",
                Critical,
                None,
                format!("{rest} more drills were due and missed; the calendar lists them"),
            );
            break;
        }
        list.add(
            "drill-missed",
            Critical,
            Some(slot.due_at),
            "a drill was due by then, and none passed within another cadence",
        );
    }
    for slot in calendar.slots.iter().filter(|slot| slot.state == SlotState::Late).take(EACH_MAX) {
        let delay = duration(slot.delay_seconds.unwrap_or_default());
        list.add(
            "drill-late",
            Warning,
            Some(slot.due_at),
            format!("the drill that was due by then began {delay} late"),
        );
    }
}

fn snapshots(report: &Report, derived: &Derived, list: &mut List) {
    let exposure = &derived.exposure;
    if exposure.snapshots == 0 {
        list.add("no-snapshot", Critical, None, "no snapshot was committed in the period");
    }
    if let (Some(share), Some(largest), Some(gaps), Some(rpo)) = (
        exposure.within_rpo_share,
        exposure.largest_seconds,
        exposure.gaps_count.filter(|gaps| *gaps > 0),
        report.authority.rpo_seconds,
    ) {
        let text = format!(
            "more than the RPO of {} could have been lost: {}, up to {}; within it for {} of the time. A source that \
             did not change in such a time lost nothing, which snapshots do not tell",
            duration(rpo as f64),
            count(gaps, "time", "times"),
            duration(largest),
            percent(share),
        );
        list.add("exposure-exceeded", Critical, exposure.largest_until, text);
    }
    if let (Some(over), Some(schedule)) =
        (exposure.intervals_over_schedule.filter(|over| *over > 0), exposure.schedule_seconds)
    {
        let text = format!(
            "a snapshot is due every {}; {} between two reads {} longer than that by more than a tenth",
            duration(schedule as f64),
            count(over, "time", "times"),
            if over == 1 { "was" } else { "were" },
        );
        list.add("schedule-exceeded", Warning, None, text);
    }
    let newest = report.snapshots.iter().max_by_key(|line| (line.created_at, line.snapshot));
    if let Some(newest) = newest.filter(|newest| newest.durable == Some(false)) {
        let text = format!("the newest snapshot {} is on fewer stores than the policy asks for", newest.snapshot);
        list.add("not-durable", Critical, Some(newest.created_at), text);
    } else if exposure.not_durable > 0 {
        let text = format!(
            "{} on fewer stores than the policy asks for",
            count(exposure.not_durable, "snapshot is", "snapshots are")
        );
        list.add("not-durable", Warning, None, text);
    }
}

fn backups(report: &Report, list: &mut List) {
    for failed in report.failed_backups.iter().take(EACH_MAX) {
        list.add(
            "backup-failed",
            Warning,
            Some(failed.recorded_at),
            format!(
                "a backup was {}",
                match failed.verdict {
                    EvidenceVerdict::Refused => "refused",
                    EvidenceVerdict::Aborted => "broken off",
                    _ => "not done, or not durable",
                }
            ),
        );
    }
    let rest = report.failed_backups.len().saturating_sub(EACH_MAX);
    if rest > 0 {
        list.add("backup-failed", Warning, None, format!("{rest} more backups failed; they are listed below"));
    }
}

fn policy(report: &Report, list: &mut List) {
    let authority = &report.authority;
    for (what, missing) in [("RPO", authority.rpo_seconds.is_none()), ("RTO", authority.rto_seconds.is_none())] {
        if missing {
            list.add(
                "no-objective",
                Warning,
                None,
                format!("the policy {:?} sets no {what}: there is nothing to judge by", authority.policy),
            );
        }
    }
    if authority.drill_every_seconds.is_none_or(|seconds| seconds == 0) {
        list.add(
            "no-cadence",
            Warning,
            None,
            format!("the policy {:?} does not say how often a drill is due", authority.policy),
        );
    }
    let policies: BTreeSet<_> = report.drills.iter().filter_map(|drill| drill.clear.policy_sha256).collect();
    let others = policies.iter().filter(|sha256| Some(**sha256) != authority.policy_sha256).count() as u64;
    if others > 0 {
        let text = format!(
            "{} in force for drills of the period than is now",
            count(others, "other policy was", "other policies were")
        );
        list.add("policy-changed", Note, None, text);
    }
}

fn evidence(report: &Report, list: &mut List) {
    let evidence = &report.evidence;
    for copies in &report.copies {
        if let Some(problem) = &copies.problem {
            list.add("store-down", Warning, None, format!("store {}: {problem}", copies.store));
        }
    }
    for copies in report.copies.iter().filter(|copies| copies.refused > 0) {
        let text = format!(
            "store {} shows {} that {} not accepted: damaged, or signed by nobody who is trusted",
            copies.store,
            count(copies.refused, "snapshot", "snapshots"),
            if copies.refused == 1 { "was" } else { "were" },
        );
        list.add("snapshot-refused", Warning, None, text);
    }
    if !evidence.complete {
        let text = "too few stores answered: records that were acknowledged may be missing from this report";
        list.add("evidence-incomplete", Critical, None, text);
    }
    for refused in evidence.refused.iter().take(EACH_MAX) {
        let text = format!(
            "record {} of writer {} on store {} was refused: {}",
            refused.number, refused.writer, refused.store, refused.why
        );
        list.add("evidence-refused", Critical, None, text);
    }
    for writer in &evidence.shortened {
        let text = format!(
            "this host has seen later records of writer {writer} than the stores show: they were removed, or their stores do not answer"
        );
        list.add("evidence-shortened", Critical, None, text);
    }
}
