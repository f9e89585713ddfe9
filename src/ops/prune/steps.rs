//! What a prune would do, and what it did, in words.

use super::{PruneRequest, gather::Gathered};
use crate::{
    core::{
        id::SnapshotId,
        prune::{Because, Condemned, PruneRecord},
        result::{PrunedLog, PrunedSource},
        retention::Rule,
        size::size_text,
        time::format_duration,
    },
    ops::host::Protected,
};

/// How many snapshots are named one by one.
const NAMED: usize = 8;

/// What would be done, in order.
pub(super) fn steps(
    protected: &Protected,
    gathered: &Gathered,
    request: &PruneRequest,
    plan: Option<&PruneRecord>,
) -> Vec<String> {
    let name = &protected.name;
    let prunes = &gathered.catalogue.prunes;
    if let Some(plan) = request.cancel {
        return vec![format!("{name}: drop plan {plan}: nothing that it condemns is deleted by it")];
    }
    let mut steps = Vec::new();
    let mut pending: Vec<_> = prunes.pending.values().map(|signed| &signed.record).collect();
    pending.sort_by_key(|record| (record.created_at, record.plan));
    for record in pending {
        let (condemned, dropped) = gathered.second_look(&record.condemned, &gathered.kept());
        let what = condemned_text(&condemned);
        steps.push(format!("{name}: execute plan {} of {}: delete {what}", record.plan, record.created_at));
        if !dropped.snapshots.is_empty() {
            steps.push(format!("{name}: keep {}, which plan {} condemns", snapshots_text(&dropped), record.plan));
        }
        for part in &dropped.log {
            let kept = log_text(&PrunedLog::of(part));
            steps.push(format!("{name}: keep {kept}, which plan {} condemns", record.plan));
        }
    }
    for at in gathered.catalogue.ready() {
        let listing = &gathered.catalogue.listings[at];
        let left = listing.objects.keys().filter(|object| gathered.catalogue.tombstones.has_object(object)).count();
        if left > 0 {
            steps.push(format!(
                "{name}: delete {left} objects that store {} still has of executed plans",
                listing.store
            ));
        }
    }
    if let Some(record) = plan {
        let what = condemned_text(&record.condemned);
        if !record.confirmed.is_empty() {
            let ids: Vec<SnapshotId> = record.confirmed.iter().map(|at| at.id).collect();
            let text = ids_text(&ids);
            steps.push(format!(
                "{name}: note that {text}, from the future, is confirmed, and ask no more because of it"
            ));
        }
        match (record.condemned.is_empty(), request.now) {
            (true, _) if record.orphans_seen.is_empty() => {}
            (true, _) => {
                let seen = record.orphans_seen.len();
                steps.push(format!("{name}: note {seen} unfinished runs, which a later prune may delete"));
            }
            (false, false) => steps.push(format!("{name}: condemn {what}; the next prune deletes it")),
            (false, true) => steps.push(format!("{name}: condemn and delete {what}")),
        }
        steps.extend(reasons(record).into_iter().map(|reason| format!("{name}: {reason}")));
    }
    steps
}

/// Why snapshots go, where it is not the rule.
fn reasons(record: &PruneRecord) -> Vec<String> {
    let of = |because: Because| {
        let snapshots = record.condemned.snapshots.iter().filter(|one| one.because == because).cloned().collect();
        Condemned { snapshots, ..Condemned::default() }
    };
    let mut reasons = Vec::new();
    let spoilt = of(Because::UsesPruned);
    if !spoilt.snapshots.is_empty() {
        reasons.push(format!("{} never became durable and use what is pruned", snapshots_text(&spoilt)));
    }
    let forgotten = of(Because::Forgotten);
    if !forgotten.snapshots.is_empty() {
        reasons.push(format!("{} is given up: no store has it whole", snapshots_text(&forgotten)));
    }
    reasons
}

fn condemned_text(condemned: &Condemned) -> String {
    let whole = condemned.runs.iter().filter(|run| run.whole).count();
    let packs: u64 = condemned.runs.iter().filter(|run| !run.whole).map(|run| run.packs.count()).sum();
    let mut parts = Vec::new();
    if !condemned.snapshots.is_empty() {
        parts.push(snapshots_text(condemned));
    }
    for (count, one, many) in [
        (whole as u64, "whole run", "whole runs"),
        (packs, "pack of other runs", "packs of other runs"),
        (condemned.folders.len() as u64, "snapshot folder without inventory", "snapshot folders without inventory"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {}", if count == 1 { one } else { many }));
        }
    }
    parts.extend(condemned.log.iter().map(|part| log_text(&PrunedLog::of(part))));
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}

/// Files of a history of the log.
fn log_text(of: &PrunedLog) -> String {
    let PrunedLog { history, files, .. } = of;
    let size = size_text(of.bytes);
    let files = format!("{files} {}", if *files == 1 { "file" } else { "files" });
    match of.before {
        Some(at) => format!("{files} of log {history} before {at} ({size})"),
        None => format!("all {files} of log {history} ({size})"),
    }
}

fn log_texts(parts: &[PrunedLog]) -> Vec<String> {
    parts.iter().map(log_text).collect()
}

fn snapshots_text(condemned: &Condemned) -> String {
    let ids: Vec<SnapshotId> = condemned.snapshots.iter().map(|snapshot| snapshot.id).collect();
    ids_text(&ids)
}

/// A few by name, many by their number and the first and the last.
fn ids_text(ids: &[SnapshotId]) -> String {
    match ids {
        [] => "no snapshot".to_owned(),
        [id] => format!("snapshot {id}"),
        [first, .., last] if ids.len() > NAMED => format!("{} snapshots, {first} to {last}", ids.len()),
        _ => format!("snapshots {}", ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// The rule, and what keeps snapshots beyond it.
pub(super) fn notes(protected: &Protected, gathered: &Gathered) -> Vec<String> {
    let rule = Rule::of(&protected.policy);
    let name = &protected.name;
    if rule.keeps_all() {
        return vec![format!("{name}: its policy has no [retention], so every snapshot is kept")];
    }
    let parts: Vec<String> = [
        rule.keep_within.map(|within| format!("those of the last {}", format_duration(within))),
        rule.keep_last.map(|last| format!("the last {last}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    vec![format!("{name}: of {} snapshots, {} are kept", gathered.catalogue.snapshots.len(), parts.join(" and "))]
}

/// What was done, in a line.
pub(super) fn summary(result: &PrunedSource, planned: Option<&PruneRecord>) -> String {
    let mut parts = Vec::new();
    let snapshots = Some(ids_text(&result.pruned)).filter(|_| !result.pruned.is_empty());
    let deleted: Vec<String> = snapshots.into_iter().chain(log_texts(&result.pruned_log)).collect();
    if !deleted.is_empty() {
        parts.push(format!("deleted {}", deleted.join(", ")));
    } else if !result.executed.is_empty() && result.dropped.is_empty() && result.dropped_log.is_empty() {
        let plans: Vec<String> = result.executed.iter().map(ToString::to_string).collect();
        parts.push(format!("executed {}", plans.join(", ")));
    }
    let snapshots = Some(ids_text(&result.dropped)).filter(|_| !result.dropped.is_empty());
    let kept: Vec<String> = snapshots.into_iter().chain(log_texts(&result.dropped_log)).collect();
    if !kept.is_empty() {
        parts.push(format!("kept {} after all", kept.join(", ")));
    }
    if let Some(plan) = result.plan.filter(|plan| !result.executed.contains(plan)) {
        let snapshots = Some(ids_text(&result.condemned)).filter(|_| !result.condemned.is_empty());
        let condemned: Vec<String> = snapshots.into_iter().chain(log_texts(&result.condemned_log)).collect();
        parts.push(match &condemned[..] {
            [] if planned.is_some_and(|record| !record.confirmed.is_empty()) => {
                format!("noted in plan {plan} what was confirmed")
            }
            [] => format!("noted unfinished runs in plan {plan}"),
            what => format!("condemned {} in plan {plan}; the next prune deletes it", what.join(", ")),
        });
    }
    for store in result.stores.iter() {
        if let Some(cause) = &store.cause {
            parts.push(match store.kept_objects {
                0 => format!("store {} lags: {cause}", store.store),
                kept => format!("store {} keeps {kept} of what it should delete: {cause}", store.store),
            });
        }
    }
    if parts.is_empty() { "nothing to prune".to_owned() } else { parts.join("; ") }
}
