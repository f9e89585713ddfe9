//! The snapshots of one source: which store shows which, and what the newest few say.
//!
//! An inventory is read only where what it says decides something, and believed only with its signature. However many
//! a store shows, no more than a certain number is read.

use super::{known_of, logs::Anchors};
use crate::{
    config::{Settings, SourceSettings},
    core::{
        coverage::Anchor,
        id::{RunId, SnapshotId, SourceName},
        inventory::{Kind, Parent},
        log::LogRange,
        policy::{Copies, Place, is_durable},
        verdicts::{ForeignLog, Lacking, LastFull, RefusedFact, Seen, SourceFacts},
    },
    ops::{archive, runs, state::Known},
    repository::{Repository, catalogue::Refusal, layout, survey::Survey},
    stores::Store,
};
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};

/// The most inventories of one source that are read.
const READ_MAX: usize = 64;
/// The most of the newest that are looked at for one that is durable.
const NEWEST_MAX: usize = 32;
/// The most numbers with several snapshots that are looked into.
const FORKS_MAX: usize = 8;

/// The most steps back to the last full.
const LEAPS_MAX: usize = 16;
/// The most parents that are compared with.
const PARENTS_MAX: usize = 4;

/// What an inventory says, as far as it matters here.
#[derive(Clone)]
struct Summary {
    seen: Seen,
    kind: Kind,
    parents: Vec<Parent>,
    runs: BTreeSet<RunId>,
    log: Option<LogRange>,
}

impl Summary {
    fn anchor(&self) -> Option<Anchor> {
        Some(Anchor { snapshot: self.seen.id, range: self.log.clone()? })
    }
}

/// Who shows what.
struct Shown {
    /// Stores that show a snapshot, by position.
    holders: BTreeMap<SnapshotId, BTreeSet<usize>>,
    /// The names of all stores, and of those that do not answer.
    names: Vec<String>,
    silent: BTreeSet<usize>,
    /// The runs of which each store has anything; `None` where that could not be listed.
    runs: Vec<Option<BTreeSet<RunId>>>,
}

struct Reader<'a> {
    repository: &'a Repository,
    source: &'a SourceName,
    shown: &'a Shown,
    known: &'a Known,
    read: BTreeMap<SnapshotId, Option<Summary>>,
    refused: Vec<RefusedFact>,
}

pub(super) async fn gather(
    repository: &Repository,
    settings: &Settings,
    survey: &Survey<'_>,
    source: &SourceSettings,
) -> (SourceFacts, Option<Anchors>) {
    let (known, why) = match known_of(settings, repository, &source.name) {
        Ok(known) => (known, None),
        Err(why) => (Known::default(), Some(why)),
    };
    let shown = Shown::of(repository, survey, &source.name).await;
    let policy = settings.policy(source).clone();
    let mut reader = Reader {
        repository,
        source: &source.name,
        shown: &shown,
        known: &known,
        read: BTreeMap::new(),
        refused: Vec::new(),
    };
    let places = repository.places();
    let (newest, durable) = reader.newest(&policy.copies, &places).await;
    let last_full = match &newest {
        Some(newest) => reader.last_full(newest.clone()).await,
        None => LastFull::Unknown,
    };
    let later_parents = match &newest {
        Some(newest) => reader.later_parents(newest).await,
        None => Vec::new(),
    };
    let forks = reader.forks().await;
    let lost_head = reader.lost_head().await;
    let anchors = match &durable {
        Some(durable) => reader.anchors(newest.as_ref(), durable).await,
        None => None,
    };
    let mut lacking = shown.lacking(&known, &policy.copies, &places);
    if let Some(Summary { seen, .. }) = &newest {
        // Its inventory came last: they had all of it.
        for store in shown.held_by(seen.id, &known).difference(&seen.held_by) {
            let entry = lacking.entry(store.clone()).or_default();
            (entry.snapshots, entry.once_held) = (entry.snapshots + 1, entry.once_held + 1);
        }
    }
    let nothing_known = known == Known::default() && newest.is_some();
    let facts = SourceFacts {
        name: source.name.clone(),
        unreachable: None,
        unchanged: false,
        log: None,
        server: None,
        shown: shown.holders.len() as u64,
        newest: newest.map(|summary| summary.seen),
        durable: durable.map(|summary| summary.seen),
        last_full,
        later_parents,
        lacking,
        forks,
        lost_head,
        all_shown: shown.silent.is_empty().then(|| shown.holders.keys().copied().collect()),
        damaged: known.damaged.iter().map(|(store, objects)| (store.clone(), objects.len() as u64)).collect(),
        state_lost: why.or_else(|| nothing_known.then(|| "it has no record of any snapshot".to_owned())),
        refused: reader.refused,
        foreign_log: foreign_log(settings, repository, &source.name),
        policy,
    };
    (facts, anchors)
}

/// What was refused as the log of a source on this host.
fn foreign_log(settings: &Settings, repository: &Repository, source: &SourceName) -> Option<ForeignLog> {
    let state = archive::peek(&runs::source_state_dir(settings, source), repository.id)?;
    let foreign = state.foreign?;
    Some(ForeignLog { file: foreign.file, system: foreign.system, expected: state.system, at: foreign.at })
}

/// The runs of which a store has anything.
async fn runs_on(store: &Store, source: &SourceName) -> Option<BTreeSet<RunId>> {
    let folder = format!("{}{}", layout::source_folder(source), layout::PACKS);
    let names = store.list_directories(&folder).await.ok()?;
    Some(names.iter().filter_map(|name| name.parse().ok()).collect())
}

impl Shown {
    async fn of(repository: &Repository, survey: &Survey<'_>, source: &SourceName) -> Self {
        let names = repository.stores.iter().map(|store| store.name().to_owned()).collect();
        let mut shown = Shown { holders: BTreeMap::new(), names, silent: BTreeSet::new(), runs: Vec::new() };
        for (at, committed) in survey.committed(source).await.into_iter().enumerate() {
            match committed {
                Some(ids) => {
                    for id in ids {
                        shown.holders.entry(id).or_default().insert(at);
                    }
                }
                None => drop(shown.silent.insert(at)),
            }
        }
        let answers = |at: usize| !shown.silent.contains(&at);
        let runs = repository
            .stores
            .iter()
            .enumerate()
            .map(|(at, store)| async move { if answers(at) { runs_on(store, source).await } else { None } });
        shown.runs = join_all(runs).await;
        shown
    }

    /// The stores that show a snapshot, and those that do not answer and are known to have it: a store that is down
    /// takes nothing away.
    fn held_by(&self, id: SnapshotId, known: &Known) -> BTreeSet<String> {
        let showing = self.holders.get(&id).into_iter().flatten().map(|at| &self.names[*at]);
        let has = |store: &&String| known.completed.get(*store).is_some_and(|completed| completed.contains(&id));
        let silent = self.silent.iter().map(|at| &self.names[*at]).filter(has);
        showing.chain(silent).cloned().collect()
    }

    /// Those of them that have something of every run that the snapshot uses. Whether all of it is there and right is for
    /// verify to say: it would take a listing of everything.
    fn whole_on(&self, id: SnapshotId, runs: &BTreeSet<RunId>, known: &Known) -> BTreeSet<String> {
        let lacks = |store: &String| {
            let at = self.names.iter().position(|name| name == store);
            at.and_then(|at| self.runs[at].as_ref()).is_some_and(|there| !runs.is_subset(there))
        };
        self.held_by(id, known).into_iter().filter(|store| !lacks(store)).collect()
    }

    /// What each store that answers lacks of what enough others have.
    fn lacking(&self, known: &Known, copies: &Copies, places: &BTreeMap<String, Place>) -> BTreeMap<String, Lacking> {
        let mut lacking: BTreeMap<String, Lacking> = BTreeMap::new();
        for (id, holders) in &self.holders {
            let answering = (0..self.names.len()).filter(|at| !self.silent.contains(at));
            let without: Vec<usize> = answering.filter(|at| !holders.contains(at)).collect();
            if without.is_empty() || !is_durable(copies, places, &self.held_by(*id, known)) {
                continue;
            }
            for store in without.into_iter().map(|at| &self.names[at]) {
                let entry = lacking.entry(store.clone()).or_default();
                entry.snapshots += 1;
                let once = known.completed.get(store).is_some_and(|completed| completed.contains(id));
                entry.once_held += u64::from(once);
            }
        }
        lacking
    }
}

impl Reader<'_> {
    /// What a snapshot says, from the first store that gives it right.
    async fn read(&mut self, id: SnapshotId) -> Option<Summary> {
        if let Some(read) = self.read.get(&id) {
            return read.clone();
        }
        if self.read.len() >= READ_MAX {
            return None;
        }
        let (mut refused, mut summary) = (Vec::new(), None);
        for at in self.shown.holders.get(&id).into_iter().flatten() {
            match self.repository.read_snapshot(*at, self.source, id).await {
                Ok(committed) => {
                    let inventory = committed.inventory;
                    let runs = inventory.uses.iter().map(|used| used.run).collect();
                    let seen = Seen {
                        id,
                        sha256: committed.sha256,
                        created_at: inventory.created_at,
                        read_started_at: inventory.read_started_at,
                        held_by: self.shown.whole_on(id, &runs, self.known),
                        sealed_to: inventory.recipients.into_iter().collect(),
                    };
                    let log = inventory.log;
                    summary = Some(Summary { seen, kind: inventory.kind, parents: inventory.parents, runs, log });
                    break;
                }
                Err(why) => refused.push((self.shown.names[*at].clone(), why)),
            }
        }
        let good_elsewhere = summary.is_some();
        self.refused.extend(refused.into_iter().map(|(store, why)| RefusedFact {
            store,
            id,
            untrusted: matches!(why, Refusal::Untrusted(_)),
            unreadable: matches!(why, Refusal::Unreadable(_) | Refusal::Newer(_)),
            why: why.to_string(),
            good_elsewhere,
        }));
        self.read.insert(id, summary.clone());
        summary
    }

    /// The newest snapshot, and the newest that is durable.
    async fn newest(
        &mut self,
        copies: &Copies,
        places: &BTreeMap<String, Place>,
    ) -> (Option<Summary>, Option<Summary>) {
        let ids: Vec<SnapshotId> = self.shown.holders.keys().rev().take(NEWEST_MAX).copied().collect();
        let mut newest = None;
        for id in ids {
            let Some(summary) = self.read(id).await else { continue };
            let durable = is_durable(copies, places, &summary.seen.held_by);
            newest.get_or_insert_with(|| summary.clone());
            if durable {
                return (newest, Some(summary));
            }
        }
        (newest, None)
    }

    /// Goes back to the last full, by leaps: a snapshot uses nothing that is older than the full before it, so that
    /// none of the snapshots between it and the oldest that it uses is one.
    async fn last_full(&mut self, newest: Summary) -> LastFull {
        let mut current = newest;
        for _ in 0..LEAPS_MAX {
            if current.kind == Kind::Full {
                return LastFull::At(current.seen.created_at);
            }
            let older = self.shown.holders.range(..current.seen.id).map(|(id, _)| *id);
            let (mut used, mut before) = (None, None);
            for id in older {
                before = Some(id);
                if used.is_none() && current.runs.contains(&id.run) {
                    used = Some(id);
                }
            }
            let Some(next) = used.or(before) else { return LastFull::Before(current.seen.created_at) };
            match self.read(next).await {
                Some(summary) => current = summary,
                None => return LastFull::Unknown,
            }
        }
        LastFull::Before(current.seen.created_at)
    }

    /// The snapshots that the log is looked at with, where the newest durable one has a log.
    async fn anchors(&mut self, newest: Option<&Summary>, durable: &Summary) -> Option<Anchors> {
        let range = durable.log.clone()?;
        let oldest = match self.shown.holders.keys().next().copied() {
            Some(oldest) => self.read(oldest).await,
            None => None,
        };
        let all = [oldest.as_ref(), Some(durable), newest].into_iter().flatten().filter_map(Summary::anchor);
        let all: BTreeMap<SnapshotId, Anchor> = all.map(|anchor| (anchor.snapshot, anchor)).collect();
        Some(Anchors { all: all.into_values().collect(), durable: range })
    }

    async fn later_parents(&mut self, newest: &Summary) -> Vec<(SnapshotId, crate::core::time::Timestamp)> {
        let mut later = Vec::new();
        for parent in newest.parents.iter().take(PARENTS_MAX) {
            if let Some(summary) = self.read(parent.id).await
                && summary.seen.created_at > newest.seen.created_at
            {
                later.push((parent.id, summary.seen.created_at));
            }
        }
        later
    }

    /// Numbers that several accepted snapshots share, the newest few.
    async fn forks(&mut self) -> Vec<(u64, Vec<SnapshotId>)> {
        let mut by_seq: BTreeMap<u64, Vec<SnapshotId>> = BTreeMap::new();
        for id in self.shown.holders.keys() {
            by_seq.entry(id.seq).or_default().push(*id);
        }
        let several: Vec<_> = by_seq.into_iter().rev().filter(|(_, ids)| ids.len() > 1).take(FORKS_MAX).collect();
        let mut forks = Vec::new();
        for (seq, ids) in several {
            let mut accepted = Vec::new();
            for id in ids.into_iter().take(FORKS_MAX) {
                accepted.extend(self.read(id).await.map(|summary| summary.seen.id));
            }
            if accepted.len() > 1 {
                forks.push((seq, accepted));
            }
        }
        forks
    }

    /// What this host has made durable, and the stores do not show. A store that does not answer may show it, unless
    /// one that does once had it.
    async fn lost_head(&mut self) -> Option<SnapshotId> {
        let head = self.known.head?;
        if self.shown.holders.contains_key(&head.id) {
            let read = self.read(head.id).await;
            return read.filter(|summary| summary.seen.sha256 != head.sha256).map(|_| head.id);
        }
        let had = |store: &String| self.known.completed.get(store).is_some_and(|ids| ids.contains(&head.id));
        let answering = || (0..self.shown.names.len()).filter(|at| !self.shown.silent.contains(at));
        let is_lost = self.shown.silent.is_empty() || answering().any(|at| had(&self.shown.names[at]));
        (is_lost && answering().next().is_some()).then_some(head.id)
    }
}
