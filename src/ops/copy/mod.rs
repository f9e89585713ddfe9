//! Brings every store level: what is missing is filled in, what is damaged is replaced by intact bytes. Needs no key.
//!
//! Only what a trusted signer signed is shipped. Packs come first, an inventory last, so that no store ever holds a
//! committed inventory whose objects it lacks. It begins with everything that `verify` finds, and takes away what is
//! mended.

mod evidence;
mod level;
mod logs;
mod prunes;
mod seed;
mod vouches;

use super::{
    findings::{Findings, Losses},
    list,
    progress::Progress,
    verify::{VerifyRequest, examine, prunes::forget_pruned},
};
use crate::{
    core::{
        control::ControlState,
        failure::Failure,
        id::{SnapshotId, SourceName},
        result::{CopiedStore, CopyResult, CopySchema, Problem, Status, StoreFinding},
    },
    format,
    ops::state::Known,
    repository::{
        Repository,
        catalogue::{Catalogue, Needed},
        fetch::problem_of,
        head::{self, StoreStatus},
        layout,
    },
    stores::{Problem as StoreProblem, Replaced, StoreError},
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
};

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
    /// The sources of this host: their names are right also where no store has anything of them.
    pub configured: BTreeSet<SourceName>,
    /// A directory for what is too large for memory.
    pub spool: PathBuf,
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
    let mut copy = Copying::new(repository, request);
    let sources = match list::sources_on_stores(repository).await {
        Ok(sources) => sources,
        // All of them may have lost their recoup.json, which is made again.
        Err(_) => {
            copy.seed_stores().await;
            list::sources_on_stores(repository).await?
        }
    };
    for name in &request.sources {
        list::check_known(name, &sources, &request.configured)?;
    }
    copy.seed_stores().await;
    let examined = VerifyRequest {
        sources: request.sources.clone(),
        all: !request.presence_only,
        known: request.known.clone(),
        ..VerifyRequest::default()
    };
    let examination = examine(repository, &examined, &ControlState::default(), progress).await?;
    copy.findings = examination.findings;
    copy.losses = examination.losses;
    copy.forget_founded();
    copy.level_vouches().await;
    // A store that has its recoup.json again may have sources that no other has.
    let mut sources = list::sources_on_stores(repository).await?;
    sources.retain(|name| request.sources.is_empty() || request.sources.contains(name));
    for source in sources {
        let catalogue = repository.catalogue_with(&source, &copy.founded).await;
        let of_source = examination.to_heal.iter().filter(|(of, _, _)| *of == source);
        let damaged: BTreeSet<(usize, Needed)> = of_source.map(|(_, store, object)| (*store, object.clone())).collect();
        for (at, listing) in catalogue.listings.iter().enumerate() {
            // It answered a moment ago, perhaps; what it lacks now is not known.
            if let StoreStatus::Down(why) = &listing.status {
                copy.losses.unasked.insert(listing.store.clone());
                copy.find_store(at, Problem::Unreachable, why);
            }
        }
        copy.note_snapshots(&catalogue);
        let log = repository.survey_log(&catalogue).await;
        for store in catalogue.ready().collect::<Vec<_>>() {
            // Tombstones first, and before them what lists their runs: a store that has one is never brought what it names.
            copy.carry_lists(&catalogue, store).await;
            copy.carry_prunes(&catalogue, store).await;
            copy.level(&catalogue, store, &damaged, progress).await;
            copy.level_log(&catalogue, &log, store, &damaged).await;
        }
        forget_pruned(repository, &catalogue, &mut copy.findings, false).await;
    }
    if request.sources.is_empty() {
        copy.level_evidence().await;
    }
    Ok(copy.finish())
}

struct Copying<'a> {
    repository: &'a Repository,
    request: &'a CopyRequest,
    stores: Vec<CopiedStore>,
    findings: Findings,
    losses: Losses,
    notes: Vec<String>,
    completed: BTreeMap<SourceName, BTreeMap<String, BTreeSet<SnapshotId>>>,
    /// Stores that a dry run takes for founded, by position.
    founded: BTreeSet<usize>,
    /// Stores that had a snapshot before this run, by position.
    had_snapshots: BTreeSet<usize>,
    /// A store had lost evidence that it had acknowledged. It is there again, and no less alarming.
    evidence_was_removed: bool,
    /// Stores that are left alone for the rest of the run, by position: full, or gone.
    stopped: BTreeMap<usize, Stopped>,
}

/// Why a store is left alone, and which snapshots it lacks because of it.
struct Stopped {
    problem: Problem,
    cause: String,
    lacks: BTreeSet<SnapshotId>,
}

impl<'a> Copying<'a> {
    fn new(repository: &'a Repository, request: &'a CopyRequest) -> Self {
        let new_count = |store: &str| CopiedStore {
            store: store.to_owned(),
            copied_objects: 0,
            copied_bytes: 0,
            healed: 0,
            seeded: false,
        };
        Copying {
            repository,
            request,
            stores: repository.stores.iter().map(|store| new_count(store.name())).collect(),
            findings: Findings::default(),
            losses: Losses::default(),
            notes: Vec::new(),
            completed: BTreeMap::new(),
            founded: BTreeSet::new(),
            had_snapshots: BTreeSet::new(),
            evidence_was_removed: false,
            stopped: BTreeMap::new(),
        }
    }

    fn note_snapshots(&mut self, catalogue: &Catalogue) {
        let listings = catalogue.listings.iter().enumerate();
        let has_any =
            |names: &HashMap<String, u64>| names.keys().any(|name| layout::committed_snapshot(name).is_some());
        self.had_snapshots.extend(listings.filter(|(_, listing)| has_any(&listing.objects)).map(|(at, _)| at));
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

    fn find_store(&mut self, at: usize, problem: Problem, cause: &str) {
        let store = self.stores[at].store.clone();
        self.findings.add(&store, None, problem, [], Some(cause.to_owned()));
    }

    /// Puts objects whose right bytes are known, in this order; says whether the store has all of them now. A dry run
    /// looks only.
    async fn put_all(&mut self, at: usize, objects: &[(String, &Bytes)]) -> bool {
        for (key, bytes) in objects {
            match self.put(at, key, bytes).await {
                Ok(replaced) => self.count(at, &replaced, bytes.len() as u64),
                Err(error) => {
                    self.not_taken(at, &error, None);
                    return false;
                }
            }
        }
        true
    }

    async fn put(&self, at: usize, key: &str, bytes: &Bytes) -> Result<Replaced, StoreError> {
        let store = &self.repository.stores[at];
        if self.request.dry_run {
            let held = store.get(key, bytes.len() as u64).await;
            return Ok(if held.is_ok_and(|held| held == *bytes) { Replaced::AlreadyRight } else { Replaced::Filled });
        }
        store.replace(key, bytes.clone(), &format::sha256(bytes)).await
    }

    /// What a store's error means for the rest of the run: a store that is full or gone takes nothing else either.
    fn not_taken(&mut self, at: usize, error: &StoreError, snapshot: Option<SnapshotId>) {
        let cause = head::reason(error);
        match &error.problem {
            StoreProblem::Full(why) => self.stop(at, Problem::Full, why.clone()),
            StoreProblem::Unreachable(_) => self.stop(at, Problem::Unreachable, cause),
            StoreProblem::Denied(_) => self.find_store(at, Problem::Unreachable, &cause),
            _ => {
                let store = self.stores[at].store.clone();
                self.findings.add(&store, Some(error.key.clone()), problem_of(error), snapshot, Some(cause));
            }
        }
    }

    fn stop(&mut self, at: usize, problem: Problem, cause: String) {
        self.stopped.entry(at).or_insert(Stopped { problem, cause, lacks: BTreeSet::new() });
    }

    fn finish(mut self) -> Copied {
        for (at, stopped) in std::mem::take(&mut self.stopped) {
            let store = self.stores[at].store.clone();
            // One line says it all. What is damaged there stays damaged, and what is lost is no matter of room.
            let lost = &self.losses.objects;
            self.findings.retain(|of, object, problem| {
                let follows = matches!(problem, Problem::Missing | Problem::Behind | Problem::Unreachable);
                of != store || !follows || object.is_some_and(|object| lost.contains(object))
            });
            self.findings.add(&store, None, stopped.problem, stopped.lacks, Some(stopped.cause));
        }
        let findings = self.findings.list();
        let result = CopyResult {
            schema: CopySchema,
            status: self.judge(&findings),
            stores: self.stores,
            next_steps: self.losses.next_steps(&findings, true),
            findings,
            notes: self.notes,
        };
        Copied { result, completed: self.completed }
    }

    /// Critical is what no store has. While some store could not be asked, nobody knows that.
    fn judge(&self, findings: &[StoreFinding]) -> Status {
        let is_lost = |finding: &StoreFinding| {
            matches!(finding.problem, Problem::Missing | Problem::Damaged | Problem::Hidden)
                && finding.object.as_ref().is_some_and(|object| self.losses.objects.contains(object))
        };
        if self.losses.unasked.is_empty() && findings.iter().any(is_lost) {
            Status::Critical
        } else if findings.is_empty() && !self.evidence_was_removed {
            Status::Ok
        } else {
            Status::Warning
        }
    }
}
