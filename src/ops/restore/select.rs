//! Choosing the snapshot, and refusing what must not be restored in silence.

use super::RestoreRequest;
use crate::{
    core::{
        failure::{Code, Failure, shell_word},
        id::SnapshotId,
        plan::restore::{Candidate, NoChoice, choose},
        policy::is_durable,
        target::Target,
    },
    repository::{
        Repository,
        catalogue::{Catalogue, Refusal, StoreListing},
        head::StoreStatus,
        layout,
    },
};

/// The snapshot that the request means, and what the operator should know about the choice.
pub(super) async fn select(
    repository: &Repository,
    catalogue: &Catalogue,
    request: &RestoreRequest,
) -> Result<(SnapshotId, Vec<String>), Failure> {
    if catalogue.ready().next().is_none() {
        return Err(unreachable_stores(catalogue));
    }
    let candidates: Vec<Candidate> = catalogue
        .snapshots
        .iter()
        .map(|(id, committed)| Candidate {
            id: *id,
            read_started_at: committed.inventory.read_started_at,
            durable: was_durable(repository, catalogue, request, *id),
        })
        .collect();
    check_heads(catalogue, request)?;
    let chosen = choose(&candidates, &request.target);
    check_refused(catalogue, request, chosen.as_ref().ok())?;
    let id = match chosen {
        Ok(id) => id,
        // What is there can be restored, durable or not; the operator is told.
        Err(NoChoice::NoneDurable(id)) => id,
        Err(no_choice) => return Err(no_point(catalogue, request, no_choice)),
    };
    let mut notes = Vec::new();
    let committed = &catalogue.snapshots[&id].inventory;
    if !catalogue.is_durable(repository, &request.copies, &catalogue.snapshots[&id]) {
        notes.push(format!("snapshot {id} is not held by enough stores to be durable"));
    }
    if let Target::Time(moment) = request.target {
        let distance = moment.seconds_since(committed.read_started_at);
        notes.push(format!("the snapshot was read {distance:.1} s before the time asked for"));
    }
    if request.target == Target::Latest && request.known_head.is_none() && request.head.is_none() {
        notes.push(format!(
            "the newest position is of {}; nothing here can show whether later snapshots were deleted",
            committed.read_started_at
        ));
    }
    if let Some(newer) =
        candidates.iter().filter(|candidate| candidate.id.seq > id.seq && !candidate.durable).max_by_key(|c| c.id)
        && request.target == Target::Latest
    {
        notes.push(format!("a newer snapshot is not durable: restore it with --target snapshot:{}", newer.id));
    }
    Ok((id, notes))
}

/// Whether a snapshot was durable once, as far as can be told: enough stores have committed it, or may have.
///
/// What became of its objects since must not decide which point is the latest: a damaged one is said to be damaged,
/// and not passed over in silence.
fn was_durable(repository: &Repository, catalogue: &Catalogue, request: &RestoreRequest, id: SnapshotId) -> bool {
    let name = layout::snapshot_object(id, layout::INVENTORY);
    let may_hold = |listing: &&StoreListing| match listing.status {
        StoreStatus::Ready => listing.objects.contains_key(&name),
        StoreStatus::Down(_) | StoreStatus::Damaged(_) | StoreStatus::Newer(_) | StoreStatus::Empty => true,
        StoreStatus::Foreign(_) => false,
    };
    if request.known_head.is_some_and(|head| head.id == id) {
        // This host has seen it durable.
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

/// Refuses stores that were rolled back behind a head that somebody knows of.
fn check_heads(catalogue: &Catalogue, request: &RestoreRequest) -> Result<(), Failure> {
    let refuse = |id: SnapshotId, who: &str| {
        let newest = catalogue.snapshots.keys().next_back();
        let next_step = match newest {
            Some(newest) => format!(
                "find out who removed it; to restore what is there: recoup restore {} --to {} --target snapshot:{newest}",
                request.source,
                shell_word(request.to.display())
            ),
            None => "run `recoup verify` to see what the stores hold".to_owned(),
        };
        let claim = catalogue.refused.iter().find(|refused| refused.id == id);
        let cause = claim.map_or_else(
            || "it was deleted, the stores were rolled back, or the stores that have it do not answer".to_owned(),
            |refused| format!("what store {} shows as it is refused: {}", refused.store, refused.why),
        );
        Err(Failure::new(Code::Refused, format!("the stores do not show snapshot {id}, which {who}"))
            .cause(cause)
            .safe("nothing was written")
            .next_step(next_step))
    };
    if let Some(head) = request.head
        && !catalogue.snapshots.contains_key(&head)
    {
        return refuse(head, "--head names");
    }
    // A time after everything that is shown would, too, be answered with what an attacker has left.
    let asks_for_the_end = match request.target {
        Target::Latest => true,
        Target::Time(moment) => {
            catalogue.snapshots.values().all(|committed| committed.inventory.read_started_at <= moment)
        }
        Target::Snapshot(_) | Target::SnapshotId(_) => false,
    };
    match request.known_head {
        Some(known) if asks_for_the_end => match catalogue.snapshots.get(&known.id) {
            Some(committed) if committed.sha256 == known.sha256 => Ok(()),
            _ => refuse(known.id, "this host has committed"),
        },
        _ => Ok(()),
    }
}

/// Refuses to pass over something that claims to be the snapshot asked for.
fn check_refused(catalogue: &Catalogue, request: &RestoreRequest, chosen: Option<&SnapshotId>) -> Result<(), Failure> {
    let claims = catalogue.refused.iter().filter(|refused| !catalogue.snapshots.contains_key(&refused.id));
    let asked_for = |id: SnapshotId| match request.target {
        Target::Latest => chosen.is_none_or(|chosen| id.seq > chosen.seq),
        Target::Snapshot(seq) => id.seq == seq && chosen.is_none(),
        Target::SnapshotId(wanted) => id == wanted,
        Target::Time(_) => false,
    };
    let Some(refused) = claims.filter(|refused| asked_for(refused.id)).max_by_key(|refused| refused.id) else {
        return Ok(());
    };
    let code = match refused.why {
        Refusal::Untrusted(_) => Code::Refused,
        Refusal::Damaged(_) => Code::Damaged,
        Refusal::Newer(_) => Code::Failed,
        Refusal::Unreadable(_) => Code::Store,
    };
    let good = chosen.copied().or_else(|| catalogue.snapshots.keys().next_back().copied());
    let next_step = match good {
        Some(good) => format!(
            "the newest good one is {good}: recoup restore {} --to {} --target snapshot:{good}",
            request.source,
            shell_word(request.to.display())
        ),
        None => "run `recoup verify` to see what the stores hold".to_owned(),
    };
    Err(Failure::new(code, format!("snapshot {} on store {} is refused", refused.id, refused.store))
        .cause(&refused.why)
        .safe("nothing was written")
        .next_step(next_step))
}

fn no_point(catalogue: &Catalogue, request: &RestoreRequest, no_choice: NoChoice) -> Failure {
    let command = |target: String| {
        format!("recoup restore {} --to {} --target {target}", request.source, shell_word(request.to.display()))
    };
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
                .cause(format!("the first one, {}, was read from {}", first.id, first.read_started_at))
                .next_step(command(format!("snapshot:{}", first.id.seq)))
        }
        NoChoice::NoSuchNumber { before, after } => {
            let nearest: Vec<String> =
                [before, after].into_iter().flatten().map(|id| command(format!("snapshot:{}", id.seq))).collect();
            let target = request.target.to_string();
            let wanted = target.strip_prefix("snapshot:").unwrap_or(&target);
            failure(format!("source {} has no snapshot {wanted}", request.source)).next_step(if nearest.is_empty() {
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
