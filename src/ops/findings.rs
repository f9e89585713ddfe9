//! What is wrong on the stores, each thing once.

use crate::core::{
    id::{SnapshotId, SourceName},
    result::{Problem, StoreFinding},
};
use crate::repository::layout;
use std::collections::{BTreeMap, BTreeSet};

/// Findings by store, object and problem.
#[derive(Clone, Debug, Default)]
pub struct Findings(BTreeMap<Key, Detail>);

/// Store, object and problem.
type Key = (String, Option<String>, Problem);

#[derive(Clone, Debug, Default)]
struct Detail {
    snapshots: BTreeSet<SnapshotId>,
    cause: Option<String>,
}

impl Findings {
    /// Adds one; what was known of it already stays.
    pub fn add(
        &mut self,
        store: &str,
        object: Option<String>,
        problem: Problem,
        snapshots: impl IntoIterator<Item = SnapshotId>,
        cause: Option<String>,
    ) {
        let detail = self.0.entry((store.to_owned(), object, problem)).or_default();
        detail.snapshots.extend(snapshots);
        if detail.cause.is_none() {
            detail.cause = cause;
        }
    }

    /// Adds that an object cannot be had whole; as what it was found to be already, where it was.
    pub fn add_object(&mut self, store: &str, object: &str, problem: Problem, snapshot: SnapshotId) {
        let key = |problem: &Problem| (store.to_owned(), Some(object.to_owned()), *problem);
        let known = Problem::ALL.into_iter().find(|known| self.0.contains_key(&key(known)));
        let problem = known.unwrap_or(problem);
        self.add(store, Some(object.to_owned()), problem, [snapshot], None);
    }

    /// Keeps what `keep` wants of store, object and problem.
    pub fn retain(&mut self, keep: impl Fn(&str, Option<&str>, Problem) -> bool) {
        self.0.retain(|(store, object, problem), _| keep(store, object.as_deref(), *problem));
    }

    /// The object is right now.
    pub fn settle(&mut self, store: &str, object: &str) {
        for problem in Problem::ALL {
            self.0.remove(&(store.to_owned(), Some(object.to_owned()), problem));
        }
    }

    /// The store has all of the snapshot now.
    pub fn caught_up(&mut self, store: &str, snapshot: SnapshotId) {
        let key = (store.to_owned(), None, Problem::Behind);
        if let Some(detail) = self.0.get_mut(&key) {
            detail.snapshots.remove(&snapshot);
            if detail.snapshots.is_empty() {
                self.0.remove(&key);
            }
        }
    }

    /// The snapshots that something is wrong with.
    pub fn snapshots(&self) -> BTreeSet<SnapshotId> {
        self.0.values().flat_map(|detail| detail.snapshots.iter().copied()).collect()
    }

    /// Forgets snapshots, and what concerns nothing else.
    pub fn forget(&mut self, snapshots: &BTreeSet<SnapshotId>) {
        self.0.retain(|_, detail| {
            let concerned_any = !detail.snapshots.is_empty();
            detail.snapshots.retain(|id| !snapshots.contains(id));
            !(concerned_any && detail.snapshots.is_empty())
        });
    }

    /// Forgets objects, where nothing is known that needs them.
    pub fn forget_objects(&mut self, is_gone: impl Fn(&str) -> bool) {
        let is_forgotten = |(_, object, _): &Key, detail: &Detail| {
            detail.snapshots.is_empty() && object.as_deref().is_some_and(&is_gone)
        };
        self.0.retain(|key, detail| !is_forgotten(key, detail));
    }

    /// Whether anything is known of an object that is one of these.
    pub fn name_any(&self, is_one: impl Fn(&str) -> bool) -> bool {
        self.0.keys().any(|(_, name, _)| name.as_deref().is_some_and(&is_one))
    }

    /// Whether anything is known of the object on any store.
    pub fn names(&self, object: &str) -> bool {
        self.0.keys().any(|(_, name, _)| name.as_deref() == Some(object))
    }

    /// All of them, in order.
    pub fn list(&self) -> Vec<StoreFinding> {
        let all = self.0.iter().map(|((store, object, problem), detail)| StoreFinding {
            store: store.clone(),
            object: object.clone(),
            problem: *problem,
            snapshots: detail.snapshots.iter().copied().collect(),
            cause: detail.cause.clone(),
        });
        all.collect()
    }
}

/// What decides about the way out: which of the findings no store can mend.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    /// Full names of objects that no store that answers has whole.
    pub objects: BTreeSet<String>,
    /// Stores that do not answer, and may have what the others lack.
    pub unasked: BTreeSet<String>,
    /// The newest snapshot of each source that can be restored all the same.
    pub newest_whole: BTreeMap<SourceName, SnapshotId>,
}

impl Losses {
    /// Whether copying cannot mend a finding.
    pub fn concern(&self, finding: &StoreFinding, all: &[StoreFinding]) -> bool {
        match &finding.object {
            Some(object) => self.objects.contains(object),
            // A store that lacks a snapshot gets it unless something of it is lost.
            None => {
                let lost: BTreeSet<SnapshotId> = all
                    .iter()
                    .filter(|other| other.object.as_ref().is_some_and(|object| self.objects.contains(object)))
                    .flat_map(|other| other.snapshots.iter().copied())
                    .collect();
                finding.problem == Problem::Behind && finding.snapshots.iter().all(|id| lost.contains(id))
            }
        }
    }

    /// What to do about the findings; `copied` says that a copy has just done what it could.
    pub fn next_steps(&self, findings: &[StoreFinding], copied: bool) -> Vec<String> {
        use Problem::{Behind, Damaged, Foreign, Full, Hidden, Missing, Unreachable};
        let with = |problems: &[Problem]| -> Vec<&StoreFinding> {
            findings.iter().filter(|finding| problems.contains(&finding.problem)).collect()
        };
        let (lost, curable): (Vec<_>, Vec<_>) =
            with(&[Missing, Damaged, Behind, Hidden]).into_iter().partition(|found| self.concern(found, findings));
        let mut steps = Vec::new();
        if !curable.is_empty() && !copied {
            steps.push("recoup copy".to_owned());
        }
        let full: BTreeSet<&str> = with(&[Full]).iter().map(|finding| finding.store.as_str()).collect();
        for store in &full {
            steps.push(format!("make room on store {store}, then recoup copy again"));
        }
        let stuck = copied && !curable.is_empty() && full.is_empty();
        if stuck || steps.is_empty() && !with(&[Unreachable]).is_empty() {
            steps.push(if copied { "recoup doctor, then recoup copy again" } else { "recoup doctor" }.to_owned());
        }
        if !lost.is_empty() {
            steps.extend(self.next_steps_of_losses(&lost));
        }
        let foreign = with(&[Foreign]);
        if foreign.iter().any(|finding| finding.object.as_deref() == Some(layout::REPOSITORY)) {
            steps.push("correct the url of the store that is another repository's in recoup.toml".to_owned());
        } else if !foreign.is_empty() {
            steps.push("find out who wrote what nobody trusted signed; allowed_signers says who is trusted".to_owned());
        }
        steps
    }

    fn next_steps_of_losses(&self, lost: &[&StoreFinding]) -> Vec<String> {
        if !self.unasked.is_empty() {
            let stores: Vec<&str> = self.unasked.iter().map(String::as_str).collect();
            let step =
                format!("bring back {}, which may have what the others lack, then recoup copy", stores.join(", "));
            return vec![step];
        }
        let source_of = |finding: &&StoreFinding| -> Option<SourceName> {
            finding.object.as_deref()?.strip_prefix(layout::SOURCES)?.split('/').next()?.parse().ok()
        };
        let sources: BTreeSet<SourceName> = lost.iter().filter_map(source_of).collect();
        let step = |source: &SourceName| match self.newest_whole.get(source) {
            Some(id) => format!(
                "find out what became of it, no store has it; the newest that is whole: \
                 recoup restore {source} --target snapshot:{id} --identity FILE --to DIRECTORY"
            ),
            None => format!("find out what became of it, no store has it; take a new snapshot: recoup backup {source}"),
        };
        sources.iter().map(step).collect()
    }
}
