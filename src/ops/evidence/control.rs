//! Reads the control log and folds it. What was read once, checked, is kept as local state and read on from there.

use super::{
    acknowledge::Lost,
    journal::{Chain, Journal},
};
use crate::{
    core::{
        control::ControlState,
        evidence::WriterId,
        id::{RepositoryId, Sha256},
        lost::LostRecords,
    },
    format::{self, signature::SignerFingerprint},
    repository::{
        Repository,
        chains::{Followed, KnownChains},
        evidence::RefusedRecord,
    },
    stores::Store,
    world::files,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// The state of the repository's control log.
#[derive(Clone, Debug, Default)]
pub struct ControlView {
    /// The fold of its records.
    pub state: ControlState,
    /// The stores that answered, by name.
    pub answered: BTreeSet<String>,
    /// Whether enough of them did, so that nothing which was acknowledged is missed.
    pub complete: bool,
    /// What was not accepted.
    pub refused: Vec<RefusedRecord>,
    /// What no store that answered has, and somebody has acknowledged as lost.
    pub lost: LostRecords,
    /// The numbers that any store lists, by writer, whatever lies there.
    pub listed: BTreeMap<WriterId, BTreeSet<u64>>,
}

impl ControlView {
    /// The stores that did not give the control log.
    pub fn silent<'r>(&self, repository: &'r Repository) -> Vec<&'r str> {
        let names = repository.stores.iter().map(|store| store.name());
        names.filter(|name| !self.answered.contains(*name)).collect()
    }

    /// Records that were on more than half of the stores, as others have recorded or this host knows, and that lie beyond
    /// what was read; but for those that were acknowledged as lost.
    pub fn unshown(&self) -> Vec<Lost> {
        let mut unshown = Vec::new();
        for (writer, newest) in &self.state.seen {
            let next = self.state.heads.get(writer).map_or(0, |head| head.number) + 1;
            let others = if *newest < next { Vec::new() } else { self.state.lost.others(*writer, next, *newest) };
            unshown.extend(others.into_iter().map(|(first, last)| Lost { writer: *writer, first, last }));
        }
        unshown
    }

    /// Records that were on stores, as this host knows, and that none shows any more, but for those that were acknowledged
    /// as lost. None as long as a store is silent: it may have them.
    pub fn missing(&self, repository: &Repository, own: Option<&Chain>) -> Vec<Lost> {
        if !self.silent(repository).is_empty() {
            return Vec::new();
        }
        let mut newest: BTreeMap<WriterId, u64> =
            self.state.heads.iter().map(|(writer, head)| (*writer, head.number)).collect();
        if let Some(own) = own {
            let names = repository.stores.iter().map(|store| store.name());
            let acknowledged = names.filter_map(|name| own.acknowledged.get(name).copied()).max();
            newest.insert(own.writer, acknowledged.unwrap_or(0).min(own.number()));
        }
        for (writer, seen) in &self.state.seen {
            let newest = newest.entry(*writer).or_default();
            *newest = (*newest).max(*seen);
        }
        let mut missing = Vec::new();
        for (writer, newest) in newest {
            let mut next = 1;
            let listed = self.listed.get(&writer).into_iter().flatten().copied();
            for number in listed.filter(|number| *number <= newest).chain([newest + 1]) {
                if number > next {
                    let others = self.state.lost.others(writer, next, number - 1);
                    missing.extend(others.into_iter().map(|(first, last)| Lost { writer, first, last }));
                }
                next = number + 1;
            }
        }
        missing
    }
}

/// What is kept: the fold of records that more than half of the stores have shown, or that others follow which they have.
/// What fewer have shown may turn out to be one branch of a fork: the other one, which is durable, would be hidden by it.
#[derive(Serialize, Deserialize)]
struct Kept {
    repository: RepositoryId,
    /// More than half of the stores, then. With other stores, what was kept says nothing of what these show.
    shown_by: usize,
    /// Of the trusted signers and what each may sign: what one of them signed counts no more once it may not.
    signers_sha256: Sha256,
    state: ControlState,
    /// What was acknowledged as lost, and was passed over: one that turns up counts. What was kept without it is read
    /// again: it took every acknowledgement at its word.
    passed: LostRecords,
}

/// Reads the control log from the stores. `state_dir` is this host's, where it has one.
pub async fn read_control(repository: &Repository, state_dir: Option<&Path>) -> ControlView {
    let view = read_once(repository, state_dir).await;
    // The stores are not listed at one moment: who has seen a record may be seen before it.
    if !view.complete || view.unshown().is_empty() {
        return view;
    }
    read_once(repository, state_dir).await
}

async fn read_once(repository: &Repository, state_dir: Option<&Path>) -> ControlView {
    let journal = state_dir.map(|directory| Journal::new(directory, repository.id));
    let (mut state, mut passed) = journal.as_ref().map(|journal| kept(repository, journal)).unwrap_or_default();
    let mut followed = follow(repository, &state, &passed).await;
    if followed.turned_up {
        (state, passed) = Default::default();
        followed = follow(repository, &state, &passed).await;
    }
    let troubled = troubled(&followed, &state);
    let (sound, passing): (Vec<_>, Vec<_>) = followed.records.iter().partition(|signed| {
        let (writer, number) = (signed.record.writer, signed.record.number);
        let is_settled = followed.settled.get(&writer).is_some_and(|newest| number <= *newest);
        is_settled && !troubled.contains(&writer)
    });
    sound.iter().for_each(|signed| state.add(&signed.record, signed.sha256));
    passed.add_up_to(&followed.lost, |writer| state.heads.get(&writer).map_or(0, |head| head.number));
    if let Some(journal) = &journal
        && !sound.is_empty()
    {
        keep(repository, journal, &state, &passed);
    }
    passing.iter().for_each(|signed| state.add(&signed.record, signed.sha256));
    if let Some(journal) = &journal {
        add_own(repository, journal, &mut state);
    }
    let mut lost = passed;
    lost.add_up_to(&followed.lost, |_| u64::MAX);
    let complete = followed.answered.len() >= repository.control_read_quorum();
    let Followed { answered, refused, listed, .. } = followed;
    ControlView { state, answered, complete, refused, lost, listed }
}

async fn follow(repository: &Repository, state: &ControlState, passed: &LostRecords) -> Followed {
    let (heads, lost) = (state.heads.clone(), state.lost.clone());
    repository.follow_evidence(&KnownChains { heads, lost, passed: passed.clone() }).await
}

/// The chains that have a fork or worse in what was followed. They are read again each time: it is no matter of one
/// store's answer, or of one command. What lies beyond the end of a chain is seen again from there.
fn troubled(followed: &Followed, state: &ControlState) -> BTreeSet<WriterId> {
    let mut heads: BTreeMap<WriterId, u64> = state.heads.iter().map(|(writer, head)| (*writer, head.number)).collect();
    for signed in &followed.records {
        let head = heads.entry(signed.record.writer).or_default();
        *head = (*head).max(signed.record.number);
    }
    let is_within = |writer: WriterId, number: u64| heads.get(&writer).is_some_and(|head| number <= *head);
    let refused = followed.refused.iter().filter(|refused| is_within(refused.writer, refused.number));
    refused.map(|refused| refused.writer).collect()
}

/// Adds this host's own records that the stores do not show. Where some are missing between, the chain's end stays before
/// the gap: what is missing there may matter.
fn add_own(repository: &Repository, journal: &Journal, state: &mut ControlState) {
    let Some(chain) = journal.chain() else { return };
    journal.unsaid().iter().for_each(|record| state.add_change(record));
    let acknowledged = |store: &Store| chain.acknowledged.get(store.name()).copied().unwrap_or(0);
    let mut acknowledged: Vec<u64> = repository.stores.iter().map(acknowledged).collect();
    acknowledged.sort_unstable_by(|a, b| b.cmp(a));
    if let Some(durable) = acknowledged.get(repository.control_write_quorum() - 1) {
        let seen = state.seen.entry(chain.writer).or_default();
        *seen = (*seen).max((*durable).min(chain.number()));
    }
    let mut head = state.heads.get(&chain.writer).copied();
    for (record, sha256) in journal.records_after(head.map_or(0, |head| head.number)) {
        state.add(&record, sha256);
        let next = head.map_or(1, |head| head.number + 1);
        if state.lost.others(chain.writer, next, record.number - 1).is_empty() {
            head = Some(record.head(sha256));
        }
    }
    match head {
        Some(head) => drop(state.heads.insert(chain.writer, head)),
        None => drop(state.heads.remove(&chain.writer)),
    }
}

/// What was read before.
pub(super) fn cached(repository: &Repository, journal: &Journal) -> ControlState {
    kept(repository, journal).0
}

/// What was read before, and what of it was passed over.
fn kept(repository: &Repository, journal: &Journal) -> (ControlState, LostRecords) {
    let kept = files::read(journal.directory().join("control.json")).ok();
    let kept: Option<Kept> = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let is_right = |kept: &Kept| {
        kept.repository == repository.id
            && kept.shown_by == repository.control_write_quorum()
            && kept.signers_sha256 == signers_sha256(repository)
    };
    kept.filter(is_right).map(|kept| (kept.state, kept.passed)).unwrap_or_default()
}

/// Losing it costs reading everything again.
fn keep(repository: &Repository, journal: &Journal, state: &ControlState, passed: &LostRecords) {
    let kept = Kept {
        repository: repository.id,
        shown_by: repository.control_write_quorum(),
        signers_sha256: signers_sha256(repository),
        state: state.clone(),
        passed: passed.clone(),
    };
    let bytes = serde_json::to_vec(&kept).expect("the fold has no map with odd keys");
    // A reader need not have a state directory of its own making.
    if files::create_private_directories(journal.directory()).is_ok() {
        let _ = files::write_atomic(&journal.directory().join("control.json"), &bytes, 0o600);
    }
}

fn signers_sha256(repository: &Repository) -> Sha256 {
    let line = |(signer, principals, namespaces): (SignerFingerprint, &str, Option<&str>)| {
        format!("{signer} {principals} {namespaces:?}\n")
    };
    format::sha256(repository.signers.lines().map(line).collect::<String>().as_bytes())
}
