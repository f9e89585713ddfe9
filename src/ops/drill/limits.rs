//! What a drill does not show, said by the drill itself: reports repeat what they do not say of all drills (`SAID_OF_ALL`
//! in `core::report::limits` knows how those lines begin).

use super::{Drill, configured_policy};
use crate::sources;

/// Everything that a reader might take this drill to show, and it does not.
pub(super) fn limits(drill: &Drill<'_>) -> Vec<String> {
    if drill.attempt.rto_seconds.is_none() {
        return vec![
            "nothing came back: it shows that a drill was begun, and why it ended, and nothing else".to_owned(),
        ];
    }
    let mut limits = Vec::new();
    snapshots(drill, &mut limits);
    stores(drill, &mut limits);
    limits.push(
        "people were not timed: noticing the loss, deciding, fetching the identity and the release are no part of it"
            .to_owned(),
    );
    limits.push(format!(
        "it ran in a scratch directory of host {}: another machine, and starting the application, may take longer",
        drill.host.world.invocation().host
    ));
    if drill.settings.source(drill.request.source.as_str()).is_some_and(|source| source.path.exists()) {
        limits.push(
            "the source is on the same host: that everything needed survives the loss of that host was not tried"
                .to_owned(),
        );
    }
    fingerprints(drill, &mut limits);
    checks(drill, &mut limits);
    objectives(drill, &mut limits);
    limits
}

fn fingerprints(drill: &Drill<'_>, limits: &mut Vec<String>) {
    const ONLY_CHECKS: &str = "what came back is what was archived; that this is what the source held is shown only as \
        far as the checks go";
    limits.push(match &drill.attempt.compared {
        None => format!("no fingerprints of the source were taken with the snapshot: {ONLY_CHECKS}"),
        Some(Err(why)) => format!("no fingerprints of the source were compared: {why}; {ONLY_CHECKS}"),
        Some(Ok(place)) => format!(
            "what the source held was compared at {}, {}, in the tables that fingerprints were taken of; of everything else, \
             and of what was committed after it, only the checks tell",
            place.at, place.moment
        ),
    });
    let has_log = drill.attempt.has_log();
    if has_log && drill.attempt.lost_transactions.is_none() {
        limits.push(
            "how many transactions were lost is not known: neither the stores nor a server on this host show the log up to \
             the moment of the disaster"
                .to_owned(),
        );
    }
}

fn snapshots(drill: &Drill<'_>, limits: &mut Vec<String>) {
    let Ok(gathered) = &drill.gathered else { return };
    limits.push(match gathered.snapshots {
        0 | 1 => "there is only one snapshot, so its age says little about the usual loss".to_owned(),
        number => format!("one of {number} snapshots was restored; the others were not"),
    });
    if gathered.known_head.is_none() {
        limits.push("this host cannot tell whether later snapshots were deleted from every store".to_owned());
    }
    if !drill.drawn_at_random {
        limits.push("the moment of the disaster was chosen, not drawn".to_owned());
    } else if let Some(window) = gathered.window {
        limits.push(format!(
            "the moment of the disaster was drawn from the last {:.1} seconds; a worse one may lie before them",
            window.seconds()
        ));
    }
}

fn stores(drill: &Drill<'_>, limits: &mut Vec<String>) {
    let Ok(gathered) = &drill.gathered else { return };
    let names: Vec<&str> = gathered.repository.stores.iter().map(|store| store.name()).collect();
    let used = drill.attempt.stores_used();
    match (&used[..], &names[..]) {
        (_, [] | [_]) => {}
        ([only], _) => {
            let others: Vec<&str> = names.iter().copied().filter(|name| name != only).collect();
            limits.push(format!("everything was read from {only}: the copies on {} were not read", others.join(", ")));
        }
        _ => limits.push(format!(
            "everything was read from the first store that had it right, in the order {}: no store was shown to have all \
             of it, and further copies were not read",
            names.join(", ")
        )),
    }
}

fn checks(drill: &Drill<'_>, limits: &mut Vec<String>) {
    let Some(located) = &drill.attempt.located else { return };
    let kind = &located.committed().inventory.source_kind;
    if !sources::has_checks(kind) {
        limits.push(format!("sources of kind {kind} have no checks of their own: blocks and files were compared"));
    }
    limits.extend(drill.attempt.unchecked.iter().cloned());
    if drill.policy().is_some_and(|policy| policy.assertions.is_empty()) {
        limits.push("the policy has no assertions: no rule of the data's own was checked".to_owned());
    }
    if configured_policy(drill.settings, &drill.request.source).is_none() {
        limits.push("the policy came from the snapshot, not from this host".to_owned());
    }
}

fn objectives(drill: &Drill<'_>, limits: &mut Vec<String>) {
    let Some(policy) = drill.policy() else { return };
    for (name, promised, what) in [("rpo", policy.rpo, "the loss"), ("rto", policy.rto, "the time")] {
        if promised.is_none() {
            limits.push(format!("the policy promises no {name}: {what} was measured and not judged"));
        }
    }
}
