//! Brings every store level: what is missing is filled in, what is damaged is replaced by intact bytes. Needs no key.
//!
//! Only what a trusted signer signed is shipped. Packs come first, an inventory last, so that no store ever holds a
//! committed inventory whose objects it lacks.

use super::{
    progress::{Progress, Unit},
    verify::{VerifyRequest, examine},
};
use crate::{
    core::{
        failure::Failure,
        id::{SnapshotId, SourceName},
        result::{CopiedStore, CopyResult, CopySchema, Problem, Status, StoreFinding},
    },
    format,
    ops::state::Known,
    repository::{
        Repository,
        catalogue::{Catalogue, Committed, Needed},
        head::{self, StoreStatus},
        heal::BringError,
        layout, recovery,
    },
    stores::Replaced,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// What to bring level.
#[derive(Clone, Debug, Default)]
pub struct CopyRequest {
    /// Sources; empty for all.
    pub sources: Vec<SourceName>,
    /// Only look at presence and sizes; otherwise every byte is read to find damage.
    pub presence_only: bool,
    /// Say what would be done, do nothing.
    pub dry_run: bool,
    /// What this host knows, by source.
    pub known: BTreeMap<SourceName, Known>,
}

/// What a copy came to, and what is level now.
pub struct Copied {
    /// The result.
    pub result: CopyResult,
    /// Snapshots that are complete now, by source and store.
    pub completed: BTreeMap<SourceName, BTreeMap<String, BTreeSet<SnapshotId>>>,
}

/// Brings the stores level.
pub async fn copy(repository: &Repository, request: &CopyRequest, progress: &dyn Progress) -> Result<Copied, Failure> {
    let mut copy = Copying {
        repository,
        request,
        stores: repository.stores.iter().map(|store| new_count(store.name())).collect(),
        findings: BTreeSet::new(),
        notes: Vec::new(),
        completed: BTreeMap::new(),
    };
    copy.seed_stores().await?;
    let examined = VerifyRequest {
        sources: request.sources.clone(),
        all: !request.presence_only,
        known: request.known.clone(),
        copies: BTreeMap::new(),
    };
    let examination = examine(repository, &examined, progress).await?;
    copy.note_what_cannot_be_healed(&examination.findings);
    let mut sources: BTreeSet<SourceName> = super::list::sources_on_stores(repository).await?;
    sources.retain(|name| request.sources.is_empty() || request.sources.contains(name));
    for source in sources {
        let catalogue = repository.catalogue(&source).await;
        let damaged: BTreeSet<(usize, Needed)> = examination
            .to_heal
            .iter()
            .filter(|(of, _, _)| *of == source)
            .map(|(_, store, object)| (*store, object.clone()))
            .collect();
        for (at, listing) in catalogue.listings.iter().enumerate() {
            // It answered a moment ago, perhaps; what it lacks now is not known.
            if let StoreStatus::Down(why) = &listing.status {
                copy.find(at, None, Problem::Unreachable, Some(why.clone()));
            }
        }
        for store in catalogue.ready().collect::<Vec<_>>() {
            copy.level(&catalogue, store, &damaged, progress).await;
        }
    }
    let failed = copy
        .findings
        .iter()
        .any(|finding| finding.problem != Problem::Unreachable && finding.problem != Problem::Foreign);
    let status = if failed {
        Status::Critical
    } else if copy.findings.is_empty() {
        Status::Ok
    } else {
        Status::Warning
    };
    let result = CopyResult {
        schema: CopySchema,
        status,
        stores: copy.stores,
        findings: copy.findings.into_iter().collect(),
        notes: copy.notes,
    };
    Ok(Copied { result, completed: copy.completed })
}

fn new_count(store: &str) -> CopiedStore {
    CopiedStore { store: store.to_owned(), copied_objects: 0, copied_bytes: 0, healed: 0 }
}

struct Copying<'a> {
    repository: &'a Repository,
    request: &'a CopyRequest,
    stores: Vec<CopiedStore>,
    findings: BTreeSet<StoreFinding>,
    notes: Vec<String>,
    completed: BTreeMap<SourceName, BTreeMap<String, BTreeSet<SnapshotId>>>,
}

impl Copying<'_> {
    /// A store that answers and is empty is seeded again; damaged clear files are put right.
    async fn seed_stores(&mut self) -> Result<(), Failure> {
        let mut head_bytes = None;
        let mut unseeded = Vec::new();
        for (at, store) in self.repository.stores.iter().enumerate() {
            match head::status(store, self.repository.id).await {
                StoreStatus::Ready => {
                    if head_bytes.is_none() {
                        head_bytes = store.get(layout::REPOSITORY, 64 * 1024).await.ok();
                    }
                }
                StoreStatus::Empty | StoreStatus::Damaged(_) => unseeded.push(at),
                status => self.find(at, None, Problem::Unreachable, status.problem()),
            }
        }
        let Some(head_bytes) = head_bytes else {
            // Nothing to seed from: say which store has which trouble.
            super::list::sources_on_stores(self.repository).await?;
            return Ok(());
        };
        for at in unseeded {
            let name = self.repository.stores[at].name();
            self.notes.push(format!("store {name} has no usable recoup.json and is seeded again"));
            self.put_clear(at, layout::REPOSITORY, head_bytes.clone()).await;
        }
        for at in 0..self.repository.stores.len() {
            if head::status(&self.repository.stores[at], self.repository.id).await == StoreStatus::Ready {
                for (name, content) in recovery::files() {
                    self.put_clear(at, name, Bytes::from_static(content.as_bytes())).await;
                }
            }
        }
        Ok(())
    }

    async fn put_clear(&mut self, at: usize, key: &str, bytes: Bytes) {
        let store = &self.repository.stores[at];
        if self.request.dry_run {
            return;
        }
        let sha256 = format::sha256(&bytes);
        let size = bytes.len() as u64;
        match store.replace(key, bytes, &sha256).await {
            Ok(replaced) => self.count(at, &replaced, size),
            Err(error) => self.find(at, Some(key.to_owned()), Problem::Unreachable, Some(error.to_string())),
        }
    }

    fn count(&mut self, at: usize, replaced: &Replaced, size: u64) {
        let counts = &mut self.stores[at];
        match replaced {
            Replaced::AlreadyRight => return,
            Replaced::Filled => {}
            Replaced::Healed { quarantined } => {
                counts.healed += 1;
                if let Some(quarantined) = quarantined {
                    self.notes.push(format!("store {}: the damaged bytes are kept as {quarantined}", counts.store));
                }
            }
        }
        counts.copied_objects += 1;
        counts.copied_bytes += size;
    }

    fn find(&mut self, at: usize, object: Option<String>, problem: Problem, why: Option<String>) {
        let store = self.repository.stores[at].name().to_owned();
        if let Some(why) = why {
            self.notes.push(format!("store {store}: {why}"));
        }
        self.findings.insert(StoreFinding { store, object, problem, snapshots: Vec::new() });
    }

    /// What copying does not change: forged snapshots, and stores that do not answer.
    fn note_what_cannot_be_healed(&mut self, findings: &BTreeSet<StoreFinding>) {
        let lasting = findings.iter().filter(|finding| {
            finding.problem == Problem::Foreign || finding.object.is_none() && finding.problem == Problem::Unreachable
        });
        self.findings.extend(lasting.cloned());
    }

    /// Brings one store level with all snapshots of a source, oldest first.
    async fn level(
        &mut self,
        catalogue: &Catalogue,
        store: usize,
        damaged: &BTreeSet<(usize, Needed)>,
        progress: &dyn Progress,
    ) {
        let name = catalogue.listings[store].store.clone();
        progress.begin(
            &format!("levelling {} on {name}", catalogue.source),
            Some(catalogue.snapshots.len() as u64),
            Unit::Items,
        );
        let read = read_already(catalogue, store);
        let mut settled: BTreeMap<String, bool> = BTreeMap::new();
        for (id, committed) in &catalogue.snapshots {
            if self.level_snapshot(catalogue, store, committed, damaged, &read, &mut settled).await {
                let of_source = self.completed.entry(catalogue.source.clone()).or_default();
                of_source.entry(name.clone()).or_default().insert(*id);
            }
            progress.advance(1);
        }
    }

    /// Whether the store holds all of the snapshot in the end.
    async fn level_snapshot(
        &mut self,
        catalogue: &Catalogue,
        store: usize,
        committed: &Committed,
        damaged: &BTreeSet<(usize, Needed)>,
        read: &BTreeSet<String>,
        settled: &mut BTreeMap<String, bool>,
    ) -> bool {
        let folder = layout::source_folder(&catalogue.source);
        let Some(needed) = catalogue.needed(committed) else {
            let lost = committed.inventory.uses.iter().find(|used| catalogue.run(used).is_none());
            let object = lost.map(|used| format!("{folder}{}", layout::run_object(used.run, layout::OBJECTS)));
            self.find(store, object, Problem::Missing, None);
            return false;
        };
        // What lies there though nothing committed needs it: nobody has read it yet, and it is compared with the right
        // bytes before anything is committed over it.
        let reads_leftovers = !self.request.dry_run && !is_committed(catalogue, store, committed);
        let lacking: BTreeSet<&str> =
            catalogue.lacking(store, &needed).into_iter().map(|object| object.name.as_str()).collect();
        let to_bring: Vec<&Needed> = needed
            .iter()
            .filter(|object| !settled.contains_key(&object.name))
            .filter(|object| {
                reads_leftovers && !read.contains(&object.name)
                    || lacking.contains(object.name.as_str())
                    || damaged.contains(&(store, (*object).clone()))
            })
            .collect();
        // The signature and the inventory are the last two, in this order: the commit.
        // What could not be brought for an earlier snapshot is lacking for this one too.
        let mut complete = needed.iter().all(|object| settled.get(&object.name) != Some(&false));
        let commit_from = needed.len() - 2;
        for object in to_bring {
            let is_commit = needed[commit_from..].contains(object);
            if is_commit && !complete {
                continue;
            }
            let brought = self.bring(catalogue, store, committed, object).await;
            complete &= brought;
            settled.insert(object.name.clone(), brought);
        }
        complete
    }

    async fn bring(&mut self, catalogue: &Catalogue, store: usize, committed: &Committed, object: &Needed) -> bool {
        if self.request.dry_run {
            self.stores[store].copied_objects += 1;
            self.stores[store].copied_bytes += object.size.unwrap_or(0);
            return true;
        }
        let key = format!("{}{}", layout::source_folder(&catalogue.source), object.name);
        let own = [(&committed.bytes, layout::INVENTORY), (&committed.signature, layout::SIGNATURE)];
        let id = committed.inventory.id();
        let at_hand = own.into_iter().find(|(_, name)| object.name == layout::snapshot_object(id, name));
        let brought = match at_hand {
            Some((bytes, _)) => {
                let replaced = self.repository.stores[store].replace(&key, bytes.clone(), &object.sha256).await;
                replaced.map(|replaced| (replaced, bytes.len() as u64)).map_err(BringError::Store)
            }
            None => self.repository.bring_one(&catalogue.source, store, object).await,
        };
        match brought {
            Ok((replaced, size)) => {
                self.count(store, &replaced, size);
                true
            }
            Err(BringError::Nowhere(error)) => {
                let problem = if error.unreachable { Problem::Unreachable } else { Problem::Missing };
                self.find(store, Some(key), problem, Some(error.to_string()));
                false
            }
            Err(BringError::Store(error)) => {
                self.find(store, Some(key), Problem::Unreachable, Some(error.to_string()));
                false
            }
        }
    }
}

fn is_committed(catalogue: &Catalogue, store: usize, committed: &Committed) -> bool {
    let [_, _, inventory] = layout::commit_names(&committed.inventory);
    catalogue.listings[store].objects.contains_key(&inventory)
}

/// What snapshots committed on a store need: the examination has looked at it.
fn read_already(catalogue: &Catalogue, store: usize) -> BTreeSet<String> {
    let committed = catalogue.snapshots.values().filter(|committed| is_committed(catalogue, store, committed));
    committed.flat_map(|committed| catalogue.needed(committed).unwrap_or_default()).map(|object| object.name).collect()
}
