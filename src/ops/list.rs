//! Lists the snapshots on the stores.

use crate::{
    core::{
        failure::{Code, Failure},
        id::SourceName,
        policy::Copies,
        result::{ListResult, ListSchema, SnapshotEntry},
    },
    repository::{
        Repository,
        catalogue::{Catalogue, Committed},
        head::StoreStatus,
        layout,
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// The sources that have something on the stores. Fails when no store can be read.
pub async fn sources_on_stores(repository: &Repository) -> Result<BTreeSet<SourceName>, Failure> {
    let mut sources = BTreeSet::new();
    let mut failures: Vec<Failure> = Vec::new();
    for store in &repository.stores {
        let status = crate::repository::head::status(store, repository.id).await;
        if status != StoreStatus::Ready {
            failures.push(status.failure(store.name()));
            continue;
        }
        match store.list_directories(layout::SOURCES).await {
            Ok(names) => sources.extend(names.iter().filter_map(|name| name.parse().ok())),
            Err(error) => failures.push(error.failure()),
        }
    }
    if failures.len() == repository.stores.len() {
        failures.sort_by_key(|failure| failure.code);
        return Err(failures.into_iter().next().unwrap_or_else(|| Failure::new(Code::Usage, "no store is named")));
    }
    Ok(sources)
}

/// One snapshot as it is listed.
pub fn entry(repository: &Repository, catalogue: &Catalogue, committed: &Committed, copies: &Copies) -> SnapshotEntry {
    let inventory = &committed.inventory;
    let complete = catalogue.names(&catalogue.complete_on(committed));
    let durable = crate::core::policy::is_durable(copies, &repository.places(), &complete);
    SnapshotEntry::of(inventory, complete.into_iter().collect(), durable)
}

/// Refuses a source that no store has.
pub fn check_name(wanted: &SourceName, sources: &BTreeSet<SourceName>) -> Result<(), Failure> {
    if sources.contains(wanted) {
        return Ok(());
    }
    let known: Vec<&str> = sources.iter().map(SourceName::as_str).collect();
    Err(Failure::new(Code::Usage, format!("there is no source {wanted}"))
        .cause(format!("the stores have: {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") }))
        .safe("nothing was changed")
        .next_step("recoup list"))
}

/// Lists the snapshots of `source`, or of every source on the stores.
pub async fn list(
    repository: &Repository,
    source: Option<&SourceName>,
    copies: &BTreeMap<SourceName, Copies>,
) -> Result<ListResult, Failure> {
    let sources = sources_on_stores(repository).await?;
    if let Some(wanted) = source
        && !sources.contains(wanted)
        && !copies.contains_key(wanted)
    {
        check_name(wanted, &sources)?;
    }
    let mut snapshots = Vec::new();
    let mut warnings = BTreeSet::new();
    for name in sources.iter().filter(|name| source.is_none_or(|wanted| wanted == *name)) {
        let catalogue = repository.catalogue(name).await;
        let copies = copies.get(name).cloned().unwrap_or_default();
        snapshots
            .extend(catalogue.snapshots.values().map(|committed| entry(repository, &catalogue, committed, &copies)));
        warnings.extend(warnings_of(&catalogue));
    }
    snapshots.sort_by(|a, b| (&a.source, a.seq, a.run).cmp(&(&b.source, b.seq, b.run)));
    Ok(ListResult { schema: ListSchema, snapshots, warnings: warnings.into_iter().collect(), notes: Vec::new() })
}

fn warnings_of(catalogue: &Catalogue) -> Vec<String> {
    let mut notes = Vec::new();
    for listing in &catalogue.listings {
        if let Some(problem) = listing.status.problem() {
            notes.push(format!("store {}: {problem}", listing.store));
        }
    }
    for refused in &catalogue.refused {
        notes.push(format!(
            "refused: {} of {} on store {}: {}",
            refused.id, catalogue.source, refused.store, refused.why
        ));
    }
    for (seq, ids) in catalogue.forks() {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        notes.push(format!(
            "fork: {} has {} snapshots with number {seq}: {}",
            catalogue.source,
            ids.len(),
            ids.join(", ")
        ));
    }
    notes
}
