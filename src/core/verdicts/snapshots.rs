//! Whether the snapshots of a source are what its policy promises.

use super::{
    Answer, CLOCK_SLACK_SECONDS, Concerns, Facts, Findings, LastFull, SourceFacts, count, exposure, overdue_after, span,
};
use crate::core::{
    policy::is_durable,
    result::{FindingId, Severity},
    time::format_duration,
};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn judge(facts: &Facts, source: &SourceFacts, findings: &mut Findings) {
    let about = Concerns::source(&source.name);
    if let Some(why) = &source.unreachable {
        let message = format!("it cannot be seen: {why}");
        findings.add(FindingId::SourceUnreachable, Severity::Critical, about, message, "recoup doctor");
    }
    if let Some(why) = source.state_lost.as_ref().filter(|_| facts.host.state_lost.is_none()) {
        let message =
            format!("what this host knew of it is lost ({why}): stores that were rolled back would not be noticed");
        let next_step = format!("recoup list {0} shows what there is, then recoup backup {0}", source.name);
        findings.add(FindingId::StateLost, Severity::Warning, about, message, next_step);
    }
    judge_log(source, findings);
    judge_places(facts, source, findings);
    if is_nobody_trusted(source) {
        judge_signers(source, findings);
    } else {
        judge_refused(source, findings);
        judge_loss(facts, source, findings);
    }
    judge_schedule(facts, source, findings);
    judge_history(facts, source, findings);
}

/// Whether the server that archives is the one whose log this is. Until somebody decides, nothing is archived.
fn judge_log(source: &SourceFacts, findings: &mut Findings) {
    let Some(foreign) = &source.foreign_log else { return };
    let expected = foreign.expected.map(|system| format!(", not {system}")).unwrap_or_default();
    let message = format!(
        "{} was refused at {}: it is of system {}{expected}, and nothing of that server is archived",
        foreign.file, foreign.at, foreign.system
    );
    let next_step = format!("recoup archive open {} --reason TEXT, if that server replaces the other", source.name);
    findings.add(FindingId::ArchiveForeign, Severity::Critical, Concerns::source(&source.name), message, next_step);
}

/// Whether a snapshot could be durable at all, and could be now.
fn judge_places(facts: &Facts, source: &SourceFacts, findings: &mut Findings) {
    let about = Concerns::source(&source.name);
    let places: BTreeMap<_, _> = facts.stores.iter().map(|store| (store.name.clone(), store.place.clone())).collect();
    let names = |ready: bool| -> BTreeSet<String> {
        let stores = facts.stores.iter().filter(|store| !ready || store.answer == Answer::Ready);
        stores.map(|store| store.name.clone()).collect()
    };
    let (all, ready) = (names(false), names(true));
    if !is_durable(&source.policy.copies, &places, &all) {
        let message = "its policy asks for copies that the configured stores cannot give: nothing is ever durable";
        let next_step = "add stores, or correct [copies]; recoup config check says what is wrong";
        findings.add(FindingId::CopiesImpossible, Severity::Critical, about, message, next_step);
    } else if !is_durable(&source.policy.copies, &places, &ready) {
        let message =
            format!("{} of {} stores can be used: the next snapshot would not be durable", ready.len(), all.len());
        findings.add(FindingId::TooFewStores, Severity::Critical, about, message, "recoup doctor");
    }
}

/// The signers are the wrong ones, more likely than every snapshot being a forgery.
pub(super) fn is_nobody_trusted(source: &SourceFacts) -> bool {
    source.newest.is_none() && !source.refused.is_empty() && source.refused.iter().all(|refused| refused.untrusted)
}

fn judge_signers(source: &SourceFacts, findings: &mut Findings) {
    let ids: BTreeSet<_> = source.refused.iter().map(|refused| refused.id).collect();
    let message = format!("none of {} has a trusted signer", count(ids.len() as u64, "snapshot"));
    let next_step = "name the file that trusts this repository's hosts in [host] allowed_signers";
    let about = Concerns::source(&source.name);
    findings.add(FindingId::NobodyTrusted, Severity::Critical, about, message, next_step);
}

/// Whether what the stores show can be trusted and read.
fn judge_refused(source: &SourceFacts, findings: &mut Findings) {
    for refused in source.refused.iter().filter(|refused| !(refused.unreadable && refused.good_elsewhere)) {
        let (severity, next_step) = if refused.good_elsewhere {
            (Severity::Warning, "recoup copy")
        } else if refused.unreadable {
            (Severity::Warning, "recoup doctor")
        } else {
            (Severity::Critical, "recoup verify --all")
        };
        let about = Concerns { source: Some(&source.name), store: Some(&refused.store) };
        let message = format!("{} is not accepted: {}", refused.id, refused.why);
        findings.add(FindingId::SnapshotRefused, severity, about, message, next_step);
    }
    for (store, objects) in source.damaged.iter().filter(|(_, objects)| **objects > 0) {
        let about = Concerns { source: Some(&source.name), store: Some(store) };
        let message = format!("{} found damaged or missing, and not healed since", count(*objects, "object"));
        findings.add(FindingId::KnownDamage, Severity::Critical, about, message, "recoup copy");
    }
}

/// What would be lost now.
fn judge_loss(facts: &Facts, source: &SourceFacts, findings: &mut Findings) {
    let about = Concerns::source(&source.name);
    let backup = format!("recoup backup {}", source.name);
    let all_asked = facts.stores.iter().all(|store| store.answer == Answer::Ready);
    let wanted = source.policy.copies.required_stores(facts.stores.len());
    let Some(newest) = &source.newest else {
        let none_asked = facts.stores.iter().all(|store| store.answer != Answer::Ready);
        let (id, severity, message) = match (source.shown, all_asked) {
            (0, true) => (FindingId::NoSnapshot, Severity::Critical, "there is no snapshot of it"),
            (0, false) if none_asked => {
                (FindingId::ExposureUnknown, Severity::Warning, "no store can be used: nothing shows its snapshots")
            }
            (0, false) => {
                (FindingId::ExposureUnknown, Severity::Warning, "the stores that answer show no snapshot of it")
            }
            _ => (FindingId::NoSnapshot, Severity::Critical, "there is no snapshot of it that can be trusted and read"),
        };
        // A backup that no store takes helps nobody.
        let next_step = if id == FindingId::ExposureUnknown { "recoup doctor".to_owned() } else { backup };
        return findings.add(id, severity, about, message, next_step);
    };
    if source.durable.as_ref().is_none_or(|durable| durable.id != newest.id) {
        let held = newest.held_by.len();
        let message = format!("the newest snapshot, {}, is on {held} of {wanted} stores that it needs", newest.id);
        let (id, severity) = match (&source.durable, all_asked) {
            (Some(_), _) => (FindingId::NotDurable, Severity::Warning),
            (None, true) => (FindingId::NotDurable, Severity::Critical),
            (None, false) => (FindingId::ExposureUnknown, Severity::Warning),
        };
        let next_step = if all_asked { "recoup copy" } else { "bring the stores back, then recoup copy" };
        findings.add(id, severity, about, message, next_step);
    }
    if let (Some(exposure), Some(rpo)) = (exposure(facts, source), source.policy.rpo)
        && exposure > rpo.as_secs_f64()
    {
        let message = format!("{} would be lost, {} are permitted", span(exposure), format_duration(rpo));
        findings.add(FindingId::RpoExceeded, Severity::Critical, about, message, backup);
    }
}

/// Whether snapshots come as often as they should.
fn judge_schedule(facts: &Facts, source: &SourceFacts, findings: &mut Findings) {
    let (about, Some(newest)) = (Concerns::source(&source.name), &source.newest) else { return };
    let late = |since, interval| facts.now.seconds_since(since) > overdue_after(interval).as_secs_f64();
    if let Some(interval) =
        source.policy.incremental_interval.filter(|interval| late(newest.read_started_at, *interval))
    {
        let age = span(facts.now.seconds_since(newest.read_started_at));
        let message = format!("the newest snapshot is {age} old, one is due every {}", format_duration(interval));
        let next_step = format!("find out why the schedule does not run, then recoup backup {}", source.name);
        findings.add(FindingId::IncrementalOverdue, Severity::Warning, about, message, next_step);
    }
    let Some(interval) = source.policy.full_interval else { return };
    let old = match source.last_full {
        LastFull::At(at) if late(at, interval) => format!("is {} old", span(facts.now.seconds_since(at))),
        LastFull::Before(before) if late(before, interval) => {
            format!("is more than {} old", span(facts.now.seconds_since(before)))
        }
        _ => return,
    };
    let message = format!("the last full snapshot {old}, one is due every {}", format_duration(interval));
    let next_step = format!("recoup backup {} --full", source.name);
    findings.add(FindingId::FullOverdue, Severity::Warning, about, message, next_step);
}

/// Whether what is held is there.
fn judge_held(facts: &Facts, source: &SourceFacts, findings: &mut Findings) {
    let Some(shown) = &source.all_shown else { return };
    for (hold, kept) in facts.control.state.holds_of(&source.name) {
        for id in kept.snapshots.difference(shown) {
            let message = format!("snapshot {id} is held by {hold}, and no store has it");
            let next_step = format!(
                "recoup verify says what became of it; one that is lost for good: recoup hold release {hold} --reason TEXT"
            );
            findings.add(
                FindingId::HeldMissing,
                Severity::Critical,
                Concerns::source(&source.name),
                message,
                next_step,
            );
        }
    }
}

/// Whether there is one history, in the order of time.
fn judge_history(facts: &Facts, source: &SourceFacts, findings: &mut Findings) {
    let about = Concerns::source(&source.name);
    if let Some(head) = source.lost_head {
        let message = format!(
            "{head}, which this host has made durable, is on no store that answers: deleted, or the stores were rolled back"
        );
        findings.add(FindingId::HeadRolledBack, Severity::Critical, about, message, "recoup verify --all");
    }
    judge_held(facts, source, findings);
    for (seq, ids) in &source.forks {
        let names: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let message = format!("{} snapshots have number {seq}: {}", ids.len(), names.join(", "));
        let next_step = "find out which hosts took them: two hosts, or one whose state was lost";
        findings.add(FindingId::Fork, Severity::Warning, about, message, next_step);
    }
    let Some(newest) = &source.newest else { return };
    let next_step = "set the clock (timedatectl), or find out whose clock was wrong";
    if newest.created_at.seconds_since(facts.now) > CLOCK_SLACK_SECONDS {
        let message = format!("{} is dated {}, and it is {} now", newest.id, newest.created_at, facts.now);
        findings.add(FindingId::ClockSuspect, Severity::Warning, about, message, next_step);
    }
    for (parent, dated) in &source.later_parents {
        if dated.seconds_since(newest.created_at) > CLOCK_SLACK_SECONDS {
            let message = format!("{} follows {parent}, which is dated {dated}, later than itself", newest.id);
            findings.add(FindingId::ClockSuspect, Severity::Warning, about, message, next_step);
        }
    }
}
