//! Choosing the snapshot, and refusing what must not be restored in silence.

use super::{RestoreRequest, lineage};
use crate::{
    core::{
        failure::{Code, Failure, shell_word},
        id::{Sha256, SnapshotId},
        plan::restore::{Candidate, NoChoice, choose},
        policy::is_durable,
        target::{KnownHead, Target},
    },
    repository::{
        Repository,
        catalogue::{Catalogue, Committed, Refusal, StoreListing},
        head::StoreStatus,
    },
};
use std::collections::BTreeSet;

/// The snapshot that the request means.
pub(super) struct Selected {
    pub(super) id: SnapshotId,
    /// What the operator should know about the choice.
    pub(super) notes: Vec<String>,
    /// What has its part in the exit code.
    pub(super) warnings: Vec<String>,
}

/// Chooses the snapshot, or says why none is.
pub(super) async fn select(
    repository: &Repository,
    catalogue: &Catalogue,
    request: &RestoreRequest,
) -> Result<Selected, Failure> {
    if catalogue.ready().next().is_none() {
        return Err(unreachable_stores(catalogue));
    }
    let was_there = |committed: &Committed| {
        let has_log = committed.inventory.log.is_some();
        request.as_of.is_none_or(|as_of| !has_log || committed.inventory.created_at <= as_of)
    };
    // Where none was there by then, the first one says since when there is something.
    let none_was = !catalogue.snapshots.values().any(was_there);
    let candidates: Vec<Candidate> = catalogue
        .snapshots
        .iter()
        .filter(|(_, committed)| none_was || was_there(committed))
        .map(|(id, committed)| Candidate {
            id: *id,
            read_started_at: committed.inventory.read_started_at,
            durable: was_durable(repository, catalogue, request, *id),
            log: committed.inventory.log.clone(),
        })
        .collect();
    let candidates = lineage::candidates(repository, catalogue, request, candidates).await?;
    let mut notes = request.notes.clone();
    notes.extend(check_heads(catalogue, request)?);
    let chosen = match &request.target {
        Target::Point(name) => choose(&candidates, &point(repository, catalogue, request, name).await?),
        target => choose(&candidates, target),
    };
    check_refused(catalogue, request, chosen.as_ref().ok())?;
    let id = match chosen {
        Ok(id) => id,
        // What is there can be restored, durable or not; the operator is told.
        Err(NoChoice::NoneDurable(id)) => id,
        Err(no_choice) => return Err(no_point(catalogue, request, no_choice)),
    };
    notes.extend(notes_on(repository, catalogue, request, id));
    notes.extend(newer_not_durable(&candidates, request, id));
    Ok(Selected { id, notes, warnings: other_histories(&candidates, catalogue, request, id) })
}

/// The place of a restore point, the newest of its name.
async fn point(
    repository: &Repository,
    catalogue: &Catalogue,
    request: &RestoreRequest,
    name: &str,
) -> Result<Target, Failure> {
    let survey = repository.survey_log(catalogue).await;
    let entries = survey.records.values().flat_map(|held| &held.signed.record.files);
    let points = entries.flat_map(|entry| &entry.facts.points).filter(|point| point.name == *name);
    match points.max_by_key(|point| (point.time, point.at)) {
        Some(point) => Ok(Target::Position(point.at)),
        None => {
            Err(Failure::new(Code::NoRecoveryPoint, format!("no restore point of {} is named {name}", request.source))
                .cause("none of the files of its log that the stores show has one")
                .safe("nothing was written")
                .next_step(command(request, "latest")))
        }
    }
}

fn notes_on(repository: &Repository, catalogue: &Catalogue, request: &RestoreRequest, id: SnapshotId) -> Vec<String> {
    let mut notes = Vec::new();
    let inventory = &catalogue.snapshots[&id].inventory;
    if !catalogue.is_durable(repository, &request.copies, &catalogue.snapshots[&id]) {
        let holders = catalogue.names(&catalogue.complete_on(&catalogue.snapshots[&id]));
        let holders = if holders.is_empty() { "none".to_owned() } else { Vec::from_iter(holders).join(", ") };
        notes.push(match catalogue.ready().count() == catalogue.listings.len() {
            true => format!("snapshot {id} is not held by enough stores to be durable (whole on {holders})"),
            false => format!("of the stores that answer, {holders} hold all of snapshot {id}"),
        });
    }
    if let (Target::Time(moment), None) = (&request.target, &inventory.log) {
        let distance = format_seconds(moment.seconds_since(inventory.read_started_at));
        notes.push(format!("snapshot {id} was read {distance} before the time asked for"));
    }
    if request.target == Target::Latest && request.known_head.is_none() && request.head.is_none() {
        notes.push(format!(
            "the newest position is of {}; nothing here can show whether later snapshots were deleted",
            inventory.read_started_at
        ));
    }
    notes
}

/// A span as a person reads it: exact while it is short.
fn format_seconds(seconds: f64) -> String {
    let whole = seconds as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60);
    match whole {
        0..=119 => format!("{seconds:.1} s"),
        120..=7_199 => format!("{minutes} min {} s", whole % 60),
        7_200..=86_399 => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// A newer snapshot within what was asked for that was passed over because it is not durable.
fn newer_not_durable(candidates: &[Candidate], request: &RestoreRequest, id: SnapshotId) -> Option<String> {
    let in_target = |candidate: &&Candidate| match request.target {
        Target::Latest | Target::Immediate => true,
        Target::Time(moment) => candidate.earliest() <= moment.as_datetime(),
        _ => false,
    };
    let passed_over = |candidate: &&Candidate| candidate.id.seq > id.seq && !candidate.durable;
    let newer = candidates.iter().filter(in_target).filter(passed_over).max_by_key(|candidate| candidate.id)?;
    Some(format!("a newer snapshot is not durable: {}", command(request, &format!("snapshot:{}", newer.id))))
}

/// Histories that the chosen snapshot knows nothing of: two hosts, or one that lost its state, wrote to this source.
fn other_histories(
    candidates: &[Candidate],
    catalogue: &Catalogue,
    request: &RestoreRequest,
    id: SnapshotId,
) -> Vec<String> {
    if matches!(request.target, Target::Snapshot(_) | Target::SnapshotId(_)) {
        return Vec::new();
    }
    let is_durable = |id: SnapshotId| candidates.iter().any(|candidate| candidate.id == id && candidate.durable);
    let heads = catalogue.heads().into_iter().map(|head| head.id);
    // What was written after the moment asked for is no other history of that moment.
    let concurrent = |head: &SnapshotId| match request.target {
        Target::Time(moment) => catalogue.snapshots[head].inventory.read_started_at <= moment,
        _ => true,
    };
    heads
        .filter(|head| *head != id && is_durable(*head) && concurrent(head))
        .filter(|head| !descends(catalogue, *head, id) && !descends(catalogue, id, *head))
        .map(|head| {
            format!(
                "the history is forked: {id} was chosen, {head} is of another history; make sure which one is right, \
                 or restore both: {}",
                command(request, &format!("snapshot:{head}"))
            )
        })
        .collect()
}

/// Whether one snapshot comes after another in the history that the inventories tell.
fn descends(catalogue: &Catalogue, from: SnapshotId, ancestor: SnapshotId) -> bool {
    let mut pending = vec![from];
    let mut seen = BTreeSet::new();
    while let Some(id) = pending.pop() {
        if id == ancestor {
            return true;
        }
        if !seen.insert(id) {
            continue;
        }
        match catalogue.snapshots.get(&id) {
            Some(committed) => pending.extend(committed.inventory.parents.iter().map(|parent| parent.id)),
            // What was pruned between the two is no sign of another history.
            None if id.seq > ancestor.seq && catalogue.tombstones.leaves_nothing_of(id) => return true,
            None => {}
        }
    }
    false
}

/// The command that restores another target of the same request.
pub(super) fn command(request: &RestoreRequest, target: &str) -> String {
    let mut command = format!("recoup restore {} --to {}", request.source, shell_word(request.to.display()));
    for place in &request.server.tablespaces {
        let place = format!("{}={}", place.tablespace, place.directory.display());
        command.push_str(&format!(" --tablespace {}", shell_word(place)));
    }
    if request.server.delta {
        command.push_str(&format!(" --delta --confirm={}", request.source));
    }
    format!("{command} --target {target}")
}

/// Whether a snapshot was durable once, as far as can be told: enough stores have committed it, or may have.
///
/// What became of its objects since must not decide which point is the latest: a damaged one is said to be damaged,
/// and not passed over in silence.
fn was_durable(repository: &Repository, catalogue: &Catalogue, request: &RestoreRequest, id: SnapshotId) -> bool {
    let may_hold = |listing: &&StoreListing| match listing.status {
        StoreStatus::Ready => listing.has_inventory(id),
        StoreStatus::Down(_) | StoreStatus::Damaged(_) | StoreStatus::Newer(_) | StoreStatus::Empty => true,
        StoreStatus::Foreign(_) => false,
    };
    if request.known_head.is_some_and(|head| head.id == id) || request.head.is_some_and(|head| head.id == id) {
        // This host, or whoever named it, has seen it durable.
        return true;
    }
    let stores = catalogue.listings.iter().filter(may_hold).map(|listing| listing.store.clone()).collect();
    is_durable(&request.copies, &repository.places(), &stores)
}

fn unreachable_stores(catalogue: &Catalogue) -> Failure {
    let mut failures: Vec<Failure> =
        catalogue.listings.iter().map(|listing| listing.status.failure(&listing.store)).collect();
    failures.sort_by_key(|failure| failure.code);
    failures.into_iter().next().unwrap_or_else(|| Failure::new(Code::Usage, "no store is named"))
}

/// Refuses stores that were rolled back behind a head that somebody knows of; says so where that is no reason to refuse.
fn check_heads(catalogue: &Catalogue, request: &RestoreRequest) -> Result<Option<String>, Failure> {
    if let Some(head) = request.head
        && !is_vouched_for(catalogue, head)
    {
        return Err(behind(catalogue, request, head.id, "--head names"));
    }
    let Some(known) = request.known_head else { return Ok(None) };
    let known = KnownHead { id: known.id, sha256: Some(known.sha256) };
    if is_vouched_for(catalogue, known) {
        return Ok(None);
    }
    // A time after everything that is shown would, too, be answered with what an attacker has left.
    let asks_for_the_end = match request.target {
        Target::Latest | Target::Immediate => true,
        // What is after the newest snapshot that is shown may have been after one that is not.
        Target::Position(_) | Target::Transaction(_) | Target::Point(_) => true,
        Target::Time(moment) => {
            catalogue.snapshots.values().all(|committed| committed.inventory.read_started_at <= moment)
        }
        Target::Snapshot(_) | Target::SnapshotId(_) => false,
    };
    if asks_for_the_end {
        return Err(behind(catalogue, request, known.id, "this host has committed"));
    }
    Ok(Some(format!(
        "the stores do not show snapshot {}, which this host has committed: it was deleted, they were rolled back, or \
         the stores that have it do not answer",
        known.id
    )))
}

/// Whether the stores show a snapshot, or one that names it as its parent.
fn is_vouched_for(catalogue: &Catalogue, head: KnownHead) -> bool {
    let is_it = |sha256: Sha256| head.sha256.is_none_or(|wanted| wanted == sha256);
    match catalogue.snapshots.get(&head.id) {
        Some(committed) => is_it(committed.sha256),
        None => {
            // Deleted by a plan that is signed: nobody has rolled it back.
            if catalogue.is_settled(head.id) {
                return true;
            }
            let mut parents = catalogue.snapshots.values().flat_map(|committed| &committed.inventory.parents);
            parents.any(|parent| parent.id == head.id && is_it(parent.sha256))
        }
    }
}

fn behind(catalogue: &Catalogue, request: &RestoreRequest, id: SnapshotId, who: &str) -> Failure {
    let next_step = match catalogue.snapshots.keys().next_back() {
        Some(newest) => format!(
            "find out who removed it; to restore what is there: {}",
            command(request, &format!("snapshot:{newest}"))
        ),
        None => "run `recoup verify` to see what the stores hold".to_owned(),
    };
    let claim = catalogue.refused.iter().find(|refused| refused.id == id);
    let cause = match (catalogue.snapshots.get(&id), claim) {
        (Some(committed), _) => format!("what they show under that name is another, with SHA-256 {}", committed.sha256),
        (None, Some(refused)) => format!("what store {} shows as it is refused: {}", refused.store, refused.why),
        (None, None) => {
            "it was deleted, the stores were rolled back, or the stores that have it do not answer".to_owned()
        }
    };
    Failure::new(Code::Refused, format!("the stores do not show snapshot {id}, which {who}"))
        .cause(cause)
        .safe("nothing was written")
        .next_step(next_step)
}

/// Refuses to pass over something that claims to be the snapshot asked for.
fn check_refused(catalogue: &Catalogue, request: &RestoreRequest, chosen: Option<&SnapshotId>) -> Result<(), Failure> {
    let claims = catalogue.refused.iter().filter(|refused| !catalogue.snapshots.contains_key(&refused.id));
    let asked_for = |id: SnapshotId| match request.target {
        Target::Latest | Target::Immediate => chosen.is_none_or(|chosen| id.seq > chosen.seq),
        Target::Snapshot(seq) => id.seq == seq && chosen.is_none(),
        Target::SnapshotId(wanted) => id == wanted,
        _ => false,
    };
    let Some(refused) = claims.filter(|refused| asked_for(refused.id)).max_by_key(|refused| refused.id) else {
        return Ok(());
    };
    let code = match refused.why {
        Refusal::Untrusted(_) => Code::Refused,
        Refusal::Damaged(_) | Refusal::Misplaced(_) => Code::Damaged,
        Refusal::Newer(_) => Code::Failed,
        Refusal::Unreadable(_) => Code::Store,
    };
    let good = chosen.copied().or_else(|| catalogue.snapshots.keys().next_back().copied());
    let next_step = match good {
        Some(good) => format!("the newest good one is {good}: {}", command(request, &format!("snapshot:{good}"))),
        None => "run `recoup verify` to see what the stores hold".to_owned(),
    };
    Err(Failure::new(code, format!("snapshot {} on store {} is refused", refused.id, refused.store))
        .cause(&refused.why)
        .safe("nothing was written")
        .next_step(next_step))
}

/// That what was asked for was pruned: when, and by which plan.
pub(super) fn what_became_of(catalogue: &Catalogue, target: &Target) -> Option<String> {
    let is_it = |id: &&SnapshotId| match target {
        Target::Snapshot(seq) => id.seq == *seq,
        Target::SnapshotId(wanted) => *id == wanted,
        _ => false,
    };
    if let Some(pruned) = catalogue.all_pruned().find(|id| is_it(&id)).and_then(|id| catalogue.pruned(id)) {
        return Some(format!("was pruned at {} by plan {}", pruned.at, pruned.plan));
    }
    let (_, (_, part)) = catalogue.spoilt.iter().find(|(id, _)| is_it(id))?;
    Some(format!("was never acknowledged, and a prune has deleted {part}, which it uses"))
}

/// Where what can be restored begins, and whether there was more.
fn before_first(catalogue: &Catalogue, first: &Candidate) -> String {
    let begins = match &first.log {
        Some(log) => format!("; its log leads on from {} at {}", log.stopped_at, log.stop),
        None => String::new(),
    };
    let was_pruned = catalogue.all_pruned().any(|id| id.seq < first.id.seq);
    let pruned = if was_pruned { "; what came before it was pruned" } else { "" };
    format!("the first one, {}, was read from {}{begins}{pruned}", first.id, first.read_started_at)
}

fn no_point(catalogue: &Catalogue, request: &RestoreRequest, no_choice: NoChoice) -> Failure {
    let command = |target: String| command(request, &target);
    let failure = |message: String| Failure::new(Code::NoRecoveryPoint, message).safe("nothing was written");
    match no_choice {
        NoChoice::Nothing => {
            let down: Vec<&str> = catalogue
                .listings
                .iter()
                .filter(|listing| listing.status.problem().is_some())
                .map(|listing| listing.store.as_str())
                .collect();
            let failure = failure(format!("source {} has no snapshot", request.source));
            if down.is_empty() {
                failure
                    .next_step(format!("take one: recoup backup {}; or see what there is: recoup list", request.source))
            } else {
                failure
                    .cause(format!("on the stores that answer; {} cannot be read", down.join(", ")))
                    .next_step("run `recoup doctor`")
            }
        }
        NoChoice::BeforeFirst(first) => {
            failure(format!("{} lies before the first snapshot of {}", request.target, request.source))
                .cause(before_first(catalogue, &first))
                .next_step(command(format!("snapshot:{}", first.id.seq)))
        }
        NoChoice::NoLog => Failure::new(Code::Usage, format!("{} knows no target {}", request.source, request.target))
            .cause("places, transactions and restore points are found in a log, and this source has none")
            .safe("nothing was written")
            .next_step("name latest, a time, or snapshot:NUMBER; see what there is: recoup list"),
        NoChoice::NoSuchNumber { before, after } => {
            let gone = what_became_of(catalogue, &request.target);
            let nearest: Vec<String> =
                [before, after].into_iter().flatten().map(|id| command(format!("snapshot:{}", id.seq))).collect();
            let target = request.target.to_string();
            let wanted = target.strip_prefix("snapshot:").unwrap_or(&target);
            let message = match gone {
                Some(gone) => format!("snapshot {wanted} of {} {gone}", request.source),
                None => format!("source {} has no snapshot {wanted}", request.source),
            };
            failure(message).next_step(if nearest.is_empty() {
                "recoup list".to_owned()
            } else {
                format!("the nearest: {}", nearest.join("   or   "))
            })
        }
        NoChoice::Forked(ids) => {
            let named: Vec<String> = ids.iter().map(|id| command(format!("snapshot:{id}"))).collect();
            Failure::new(
                Code::Refused,
                format!("{} of {} is forked: {} snapshots have this number", request.target, request.source, ids.len()),
            )
            .cause("two hosts, or one host that lost its state, wrote it")
            .safe("all of them are kept and can be restored")
            .next_step(format!("name one of them: {}", named.join("   or   ")))
        }
        NoChoice::NoneDurable(id) => failure(format!("no snapshot is durable, the newest is {id}")),
    }
}
