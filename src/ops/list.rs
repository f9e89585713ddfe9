//! Lists the snapshots on the stores.

use super::{evidence, state::Known};
use crate::{
    core::{
        failure::{Code, Failure},
        id::SourceName,
        policy::{Copies, is_durable},
        result::{Durability, ListResult, ListSchema, SnapshotEntry},
    },
    repository::{
        Repository,
        catalogue::{Catalogue, Committed, Refusal},
        head::{self, StoreStatus},
        layout,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

/// What a list is made from.
#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    /// This source only; all on the stores where it is not said.
    pub source: Option<SourceName>,
    /// When a snapshot of each configured source is durable; of the others nobody here knows.
    pub copies: BTreeMap<SourceName, Copies>,
    /// What this host knows, by source.
    pub known: BTreeMap<SourceName, Known>,
    /// This host's state directory, where what was read of the control log is kept.
    pub state_dir: Option<PathBuf>,
}

/// The sources that have something on the stores. Fails when no store can be read.
pub async fn sources_on_stores(repository: &Repository) -> Result<BTreeSet<SourceName>, Failure> {
    let (sources, down) = sources_and_silent_stores(repository).await;
    if down.len() == repository.stores.len() { Err(head::none_usable(&down)) } else { Ok(sources) }
}

/// The same, with the stores that could not be asked, and why.
pub(super) async fn sources_and_silent_stores(
    repository: &Repository,
) -> (BTreeSet<SourceName>, Vec<(String, StoreStatus)>) {
    let mut sources = BTreeSet::new();
    let mut down = Vec::new();
    for store in &repository.stores {
        let mut status = head::status(store, repository.id).await;
        if status == StoreStatus::Ready {
            match store.list_directories(layout::SOURCES).await {
                Ok(names) => {
                    sources.extend(names.iter().filter_map(|name| name.parse().ok()));
                    continue;
                }
                Err(error) => status = StoreStatus::Down(head::reason(&error)),
            }
        }
        down.push((store.name().to_owned(), status));
    }
    (sources, down)
}

/// Refuses a name that is neither configured nor on any store.
pub(super) fn check_known(
    wanted: &SourceName,
    on_stores: &BTreeSet<SourceName>,
    configured: &BTreeSet<SourceName>,
) -> Result<(), Failure> {
    if on_stores.contains(wanted) || configured.contains(wanted) {
        return Ok(());
    }
    let known: Vec<&str> = on_stores.union(configured).map(SourceName::as_str).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Err(Failure::new(Code::Usage, format!("there is no source {wanted}"))
        .cause(format!("the stores that answer and the configuration have: {known}"))
        .safe("nothing was changed")
        .next_step("recoup list"))
}

/// One snapshot as it is listed.
fn entry(
    repository: &Repository,
    catalogue: &Catalogue,
    committed: &Committed,
    copies: Option<&Copies>,
) -> SnapshotEntry {
    let complete = catalogue.names(&catalogue.complete_on(committed));
    let durability = durability(repository, catalogue, &complete, copies);
    SnapshotEntry::of(&committed.inventory, complete.into_iter().collect(), durability)
}

/// Whether enough stores hold a snapshot; those that do not answer may hold it all.
pub(super) fn durability(
    repository: &Repository,
    catalogue: &Catalogue,
    complete: &BTreeSet<String>,
    copies: Option<&Copies>,
) -> Durability {
    let Some(copies) = copies else { return Durability::Unknown };
    let places = repository.places();
    if is_durable(copies, &places, complete) {
        return Durability::Durable;
    }
    // What does not answer may hold it all.
    let may_hold = |status: &StoreStatus| !matches!(status, StoreStatus::Ready | StoreStatus::Foreign(_));
    let unasked = catalogue.listings.iter().filter(|listing| may_hold(&listing.status));
    let at_most = complete.iter().cloned().chain(unasked.map(|listing| listing.store.clone())).collect();
    if is_durable(copies, &places, &at_most) { Durability::Unknown } else { Durability::NotDurable }
}

/// Lists the snapshots of one source, or of every source on the stores.
pub async fn list(repository: &Repository, request: &ListRequest) -> Result<ListResult, Failure> {
    let on_stores = sources_on_stores(repository).await?;
    if let Some(wanted) = &request.source {
        check_known(wanted, &on_stores, &request.copies.keys().cloned().collect())?;
    }
    // A source of which this host knows a snapshot is looked for also where every trace of it is gone.
    let known = request.known.iter().filter(|(_, known)| known.head.is_some()).map(|(name, _)| name.clone());
    let mut sources: BTreeSet<SourceName> = on_stores.into_iter().chain(known).collect();
    sources.retain(|name| request.source.as_ref().is_none_or(|wanted| wanted == name));
    let mut catalogues = Vec::new();
    for name in &sources {
        catalogues.push(repository.catalogue(name).await);
    }
    let mut snapshots = Vec::new();
    let (mut warnings, mut missing) = (Vec::new(), Vec::new());
    let nobody_trusted = is_nobody_trusted(&catalogues);
    for catalogue in &catalogues {
        let copies = request.copies.get(&catalogue.source);
        let entries = catalogue.snapshots.values().map(|committed| entry(repository, catalogue, committed, copies));
        snapshots.extend(entries);
        warnings.extend(warnings_of(catalogue, nobody_trusted));
        missing.extend(request.known.get(&catalogue.source).and_then(|known| missing_head(catalogue, known)));
    }
    warnings.extend(add_holds(repository, request, &mut snapshots, nobody_trusted).await);
    if catalogues.is_empty() {
        // Nobody has asked the stores one by one yet.
        for (store, found) in repository.stores.iter().zip(head::survey(&repository.stores, repository.id).await) {
            let problem = found.err().and_then(|status| status.problem());
            warnings.extend(problem.map(|problem| format!("store {}: {problem}", store.name())));
        }
    }
    if nobody_trusted {
        let claims: BTreeSet<_> =
            catalogues.iter().flat_map(|all| all.refused.iter().map(|refused| (&all.source, refused.id))).collect();
        warnings.push(format!("none of the snapshots that the stores show ({}) has a trusted signer", claims.len()));
    }
    let known_missing = !missing.is_empty();
    warnings.extend(missing);
    let mut said = BTreeSet::new();
    warnings.retain(|warning| said.insert(warning.clone()));
    snapshots.sort_by(|a, b| (&a.source, a.seq, a.run).cmp(&(&b.source, b.seq, b.run)));
    Ok(ListResult { schema: ListSchema, snapshots, warnings, nobody_trusted, known_missing, notes: Vec::new() })
}

/// Says of each snapshot what holds it. What keeps something is said also where it may not be all.
async fn add_holds(
    repository: &Repository,
    request: &ListRequest,
    snapshots: &mut [SnapshotEntry],
    nobody_trusted: bool,
) -> Vec<String> {
    let control = evidence::read_control(repository, request.state_dir.as_deref()).await;
    for snapshot in snapshots.iter_mut() {
        let holds = control.state.holds_of(&snapshot.source).filter(|(_, hold)| hold.keeps(snapshot.id()));
        snapshot.holds = holds.map(|(id, _)| id.to_string()).collect();
    }
    let mut warnings = Vec::new();
    if !control.complete {
        warnings.push("the control log cannot be read whole: there may be holds that are not shown".to_owned());
    }
    // Where nobody is trusted, one line says it for all of them.
    for refused in control.refused.iter().filter(|_| !nobody_trusted) {
        let (number, writer, why) = (refused.number, refused.writer, &refused.why);
        warnings.push(format!("refused: record {number} of writer {writer} on store {}: {why}", refused.store));
    }
    warnings
}

/// Whether there are snapshots, and not one of them is signed by anybody who is trusted: the signers are the wrong
/// ones, more likely than every snapshot being a forgery.
fn is_nobody_trusted(catalogues: &[Catalogue]) -> bool {
    let mut refused = catalogues.iter().flat_map(|catalogue| &catalogue.refused).peekable();
    refused.peek().is_some()
        && refused.all(|refused| matches!(refused.why, Refusal::Untrusted(_)))
        && catalogues.iter().all(|catalogue| catalogue.snapshots.is_empty())
}

/// That the stores do not show what this host knows to be the newest snapshot.
fn missing_head(catalogue: &Catalogue, known: &Known) -> Option<String> {
    let head = known.head?;
    let all_asked = catalogue.ready().count() == catalogue.listings.len();
    let shown = catalogue.snapshots.get(&head.id).is_some_and(|committed| committed.sha256 == head.sha256);
    let refused = catalogue.refused.iter().any(|refused| refused.id == head.id);
    (all_asked && !shown && !refused && !catalogue.is_settled(head.id)).then(|| {
        format!(
            "snapshot {} of {}, which this host has committed, is on no store: deleted, or the stores were rolled back",
            head.id, catalogue.source
        )
    })
}

fn warnings_of(catalogue: &Catalogue, nobody_trusted: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    for listing in &catalogue.listings {
        if let Some(problem) = listing.status.problem() {
            warnings.push(format!("store {}: {problem}", listing.store));
        }
    }
    // Where nobody is trusted, one line says it for all of them.
    for refused in catalogue.refused.iter().filter(|_| !nobody_trusted) {
        warnings.push(format!(
            "refused: {} of {} on store {}: {}",
            refused.id, catalogue.source, refused.store, refused.why
        ));
    }
    for (seq, ids) in catalogue.forks() {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        warnings.push(format!(
            "fork: {} has {} snapshots with number {seq}: {}",
            catalogue.source,
            ids.len(),
            ids.join(", ")
        ));
    }
    warnings
}
