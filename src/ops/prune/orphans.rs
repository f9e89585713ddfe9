//! Unfinished runs that no run can still be working on: what they say themselves, and what earlier plans have seen.

use super::gather::Gathered;
use crate::{
    core::{
        id::RunId,
        plan::prune::{NamedWriters, Orphans},
        prune::PruneRecord,
    },
    format::run::{self, RunWriter},
    ops::host::Host,
    repository::layout,
};
use futures_util::{StreamExt, stream};
use std::collections::BTreeSet;

/// How many notes are read at once.
const CONCURRENT_READS: usize = 16;
/// What stands for the writer of a run whose note cannot be read: nobody, who never moves on.
const NOBODY: &str = "";

/// The orphans that a plan may condemn.
pub(super) async fn abandoned(
    host: &Host,
    gathered: &Gathered,
    orphans: &Orphans,
    records: &[&PruneRecord],
) -> Orphans {
    let perhaps = orphans.abandoned(records, &gathered.writers, &NamedWriters::new());
    let notes = stream::iter(perhaps.all_runs()).map(|run| async move { (run, named(host, gathered, run).await) });
    let named: NamedWriters = notes.buffer_unordered(CONCURRENT_READS).collect().await;
    orphans.abandoned(records, &gathered.writers, &named)
}

/// The writers that the stores name for a run. One whose key was revoked goes on with no run.
async fn named(host: &Host, gathered: &Gathered, run: RunId) -> BTreeSet<String> {
    let catalogue = &gathered.catalogue;
    let name = layout::run_object(run, layout::WRITER);
    let key = format!("{}{name}", layout::source_folder(&catalogue.source));
    let (mut named, mut is_unreadable) = (BTreeSet::new(), false);
    for at in catalogue.ready().filter(|at| catalogue.listings[*at].objects.contains_key(&name)) {
        match host.repository.stores[at].get(&key, run::MAX_BYTES).await {
            Ok(bytes) => match RunWriter::parse(&bytes) {
                Ok(note) if is_of(&note, host, gathered, run) => drop(named.insert(note.writer)),
                _ => is_unreadable = true,
            },
            Err(error) => is_unreadable |= !error.is_missing(),
        }
    }
    if named.is_empty() && is_unreadable {
        named.insert(NOBODY.to_owned());
    }
    named.retain(|writer| !gathered.is_revoked(writer));
    named
}

fn is_of(note: &RunWriter, host: &Host, gathered: &Gathered, run: RunId) -> bool {
    note.repository == host.repository.id && note.source == gathered.catalogue.source && note.run == run
}
