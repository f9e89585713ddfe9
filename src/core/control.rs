//! The state of a repository that its control records fold to: holds, proven recipients, drills, open starts.
//!
//! The fold does not depend on the order in which chains are read: a release names its hold, an end its start.

use super::{
    evidence::{Action, ChainHead, Control, HoldCause, HoldId, Measured, Phase, Record, Verdict, WriterId},
    id::{Sha256, SnapshotId, SourceName},
    lost::LostRecords,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How far the clocks of hosts that are well may differ.
const SLACK_SECONDS: f64 = 300.0;

/// A hold: snapshots that must not be deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Whose snapshots.
    pub source: SourceName,
    /// Which; all of the source where none is named.
    pub snapshots: BTreeSet<SnapshotId>,
    /// Why.
    pub cause: HoldCause,
    /// When it was added, by the writer's clock.
    pub added_at: Timestamp,
    /// Where it was recorded: the sealed body there says who added it, and why.
    pub record: (WriterId, u64),
}

impl Hold {
    /// Whether it keeps a snapshot of its source.
    pub fn keeps(&self, snapshot: SnapshotId) -> bool {
        self.snapshots.is_empty() || self.snapshots.contains(&snapshot)
    }
}

/// One drill, begun and perhaps ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drill {
    /// Whose chain it is recorded in.
    pub writer: WriterId,
    /// The number of its start.
    pub start: u64,
    /// The number of its end; `None` while it has none.
    pub end: Option<u64>,
    /// The source.
    pub source: SourceName,
    /// When it began, by the writer's clock.
    pub started_at: Timestamp,
    /// When its end was recorded.
    pub ended_at: Option<Timestamp>,
    /// What came of it; pending while it has no end.
    pub verdict: Verdict,
    /// The snapshot that was restored.
    pub snapshot: Option<SnapshotId>,
    /// SHA-256 of that snapshot's inventory.
    pub inventory_sha256: Option<Sha256>,
    /// SHA-256 of the policy it was judged by.
    pub policy_sha256: Option<Sha256>,
    /// What it measured.
    pub measured: Option<Measured>,
}

/// The fewest stores that made a snapshot of a source durable, and whose record says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FewestStores {
    /// So many, 1 at least.
    pub min_stores: u64,
    /// The writer of the record.
    pub writer: WriterId,
    /// Its number.
    pub number: u64,
    /// Who signed the newest record of that writer.
    pub signer: Option<String>,
}

/// The fold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ControlState {
    /// The newest record of each writer that is folded in.
    pub heads: BTreeMap<WriterId, ChainHead>,
    /// Holds that were added, released or not.
    added: BTreeMap<HoldId, Hold>,
    /// Holds that were released, and when.
    released: BTreeMap<HoldId, Timestamp>,
    /// Drills, in the order of their starts within each chain.
    drills: Vec<Drill>,
    /// Restores that were begun and have no end, by writer and number.
    open_restores: BTreeSet<(WriterId, u64)>,
    /// When each recipient was last proven.
    pub proven_recipients: BTreeMap<String, Timestamp>,
    /// Where that is recorded, by writer and number: the sealed body there says who showed it.
    pub proof_records: BTreeMap<String, (WriterId, u64)>,
    /// SHA-256 of the configuration that each writer recorded last.
    pub configurations: BTreeMap<WriterId, Sha256>,
    /// Records that were acknowledged as lost.
    #[serde(default)]
    pub lost: LostRecords,
    /// How many stores made a snapshot of a source durable, by writer, from which of its records on.
    #[serde(default)]
    min_stores: BTreeMap<SourceName, BTreeMap<WriterId, BTreeMap<u64, u64>>>,
    /// Who signed the newest record of each writer.
    #[serde(default)]
    signers: BTreeMap<WriterId, String>,
    /// Up to which record each writer has seen each other, and the first record of its own that says so.
    #[serde(default)]
    seen_by: BTreeMap<WriterId, BTreeMap<WriterId, (u64, u64)>>,
    /// The newest record of each writer that another has seen on more than half of the stores.
    #[serde(default)]
    pub seen: BTreeMap<WriterId, u64>,
    /// The records that a signer was revoked.
    #[serde(default)]
    revocations: BTreeMap<String, BTreeSet<(WriterId, u64)>>,
}

impl ControlState {
    /// Adds a record, whose bytes have the digest `sha256`. Those of a chain come in order.
    pub fn add(&mut self, record: &Record, sha256: Sha256) {
        self.heads.insert(record.writer, record.head(sha256));
        self.signers.insert(record.writer, record.signer.clone());
        self.add_seen(record);
        match (record.action, record.phase) {
            (Action::Drill, phase) => self.add_drill(record, phase),
            (_, Phase::Start) => drop(self.open_restores.insert((record.writer, record.number))),
            (_, Phase::End) => {
                let start = record.closes.unwrap_or_default();
                self.open_restores.remove(&(record.writer, start));
            }
            _ => {}
        }
        self.add_change(record);
    }

    /// Adds what a record changes, but not the record: another one will say the same in its place.
    pub fn add_change(&mut self, record: &Record) {
        if let Some(control) = &record.control {
            self.add_control(record, control);
        }
    }

    fn add_seen(&mut self, record: &Record) {
        let of_writer = self.seen_by.entry(record.writer).or_default();
        for seen in &record.seen {
            let known = of_writer.entry(seen.writer).or_default();
            if seen.number > known.0 {
                *known = (seen.number, record.number);
            }
        }
        // Whoever acknowledges a loss names the newest record that anybody saw, on however few stores.
        let is_lost =
            |of: WriterId| matches!(record.control, Some(Control::RecordsLost { writer, .. }) if writer == of);
        for seen in record.seen.iter().filter(|seen| !is_lost(seen.writer)) {
            let newest = self.seen.entry(seen.writer).or_default();
            *newest = (*newest).max(seen.number);
        }
    }

    fn add_drill(&mut self, record: &Record, phase: Phase) {
        let Some(subject) = record.subjects.first() else { return };
        if phase == Phase::End {
            let start = record.closes.unwrap_or_default();
            let of_start = |drill: &&mut Drill| (drill.writer, drill.start) == (record.writer, start);
            if let Some(drill) = self.drills.iter_mut().rev().find(of_start) {
                drill.end = Some(record.number);
                drill.ended_at = Some(record.recorded_at);
                drill.verdict = record.verdict;
                drill.snapshot = subject.snapshot.or(drill.snapshot);
                drill.inventory_sha256 = subject.inventory_sha256.or(drill.inventory_sha256);
                drill.measured = record.measured.clone().or(drill.measured.take());
            }
            return;
        }
        self.drills.push(Drill {
            writer: record.writer,
            start: record.number,
            end: (phase == Phase::Whole).then_some(record.number),
            source: subject.source.clone(),
            started_at: record.started_at,
            ended_at: (phase == Phase::Whole).then_some(record.recorded_at),
            verdict: record.verdict,
            snapshot: subject.snapshot,
            inventory_sha256: subject.inventory_sha256,
            policy_sha256: subject.policy_sha256,
            measured: record.measured.clone(),
        });
    }

    fn add_control(&mut self, record: &Record, control: &Control) {
        match control {
            Control::HoldAdded { hold, source, snapshots, cause } => {
                let (source, snapshots) = (source.clone(), snapshots.iter().copied().collect());
                let (added_at, at) = (record.recorded_at, (record.writer, record.number));
                // The first to use an id has it: nobody takes a hold away by adding another over it.
                self.added.entry(*hold).or_insert(Hold { source, snapshots, cause: *cause, added_at, record: at });
            }
            Control::HoldReleased { hold } => {
                self.released.entry(*hold).or_insert(record.recorded_at);
            }
            Control::Configuration { sha256, min_stores, .. } => {
                self.configurations.insert(record.writer, *sha256);
                for (source, min_stores) in min_stores {
                    let of_writer =
                        self.min_stores.entry(source.clone()).or_default().entry(record.writer).or_default();
                    let of_record = of_writer.entry(record.number).or_insert(*min_stores);
                    *of_record = (*of_record).min(*min_stores);
                }
            }
            Control::RecipientProven { recipient } => {
                let newest = self.proven_recipients.entry(recipient.clone()).or_insert(record.recorded_at);
                if record.recorded_at >= *newest {
                    *newest = record.recorded_at;
                    self.proof_records.insert(recipient.clone(), (record.writer, record.number));
                }
            }
            Control::RecordsLost { .. } => self.lost.add_acknowledged(record),
            Control::SignerRevoked { signer, .. } => {
                self.revocations.entry(signer.clone()).or_default().insert((record.writer, record.number));
            }
            Control::RecipientAdded { .. } | Control::RecipientRemoved { .. } | Control::SignerAdded { .. } => {}
        }
    }

    /// The fewest stores that made a snapshot of a source durable for any writer, with what was in force after the
    /// records `since`, by writer, and later; as far as anybody has recorded it. A writer whose signer was revoked by
    /// then, and is not trusted, counts no more; nor does one that another writer of the same signer follows.
    pub fn fewest_stores(
        &self,
        source: &SourceName,
        since: &BTreeMap<WriterId, u64>,
        is_trusted: impl Fn(&str) -> bool,
    ) -> Option<FewestStores> {
        let in_force = |(writer, of_writer): (&WriterId, &BTreeMap<u64, u64>)| {
            let since = since.get(writer).copied().unwrap_or(0);
            let then = of_writer.range(..=since).next_back();
            let counted = of_writer.range(since + 1..).chain(then);
            counted.map(|(number, fewest)| ((*fewest).max(1), *writer, *number)).min()
        };
        let has_ended = |writer: WriterId| {
            let signer = self.signers.get(&writer);
            let is_gone = |signer: &String| !is_trusted(signer) && self.has_ended(writer, signer, since);
            signer.is_some_and(is_gone) || self.is_followed(source, writer, since)
        };
        let of_source = self.min_stores.get(source)?.iter().filter(|(writer, _)| !has_ended(**writer));
        let (min_stores, writer, number) = of_source.filter_map(in_force).min()?;
        Some(FewestStores { min_stores, writer, number, signer: self.signers.get(&writer).cloned() })
    }

    /// Whether nothing that a writer does counts any more: who signed its newest record was revoked, and the records
    /// `since` have that in them, and all of its own.
    fn has_ended(&self, writer: WriterId, signer: &str, since: &BTreeMap<WriterId, u64>) -> bool {
        let is_in = |(of, number): &(WriterId, u64)| has(since, *of, *number);
        self.revocations.get(signer).is_some_and(|records| records.iter().any(is_in))
            && self.heads.get(&writer).is_some_and(|head| has(since, writer, head.number))
    }

    /// Whether another writer of the same signer goes on in the place of one, as after the state directory was lost, or
    /// its chain was given up: it has seen all that the writer ever recorded, and says how many stores it wants itself;
    /// and the records `since` have all of that in them. One host has a key, and one state directory at a time.
    fn is_followed(&self, source: &SourceName, writer: WriterId, since: &BTreeMap<WriterId, u64>) -> bool {
        let Some(head) = self.heads.get(&writer) else { return false };
        let says = |of: WriterId| {
            let of_writer = self.min_stores.get(source).and_then(|of_source| of_source.get(&of));
            of_writer.and_then(|of_writer| of_writer.keys().next()).is_some_and(|first| has(since, of, *first))
        };
        // Of two that have seen each other to the end, which honest ones never have, neither is gone.
        let is_mutual = |other: WriterId| {
            let end = self.heads.get(&other).map_or(0, |head| head.number);
            let seen = self.seen_by.get(&writer).and_then(|seen| seen.get(&other));
            seen.is_some_and(|(number, _)| *number >= end)
        };
        let mut successors = self.successors(writer);
        has(since, writer, head.number)
            && successors.any(|(other, record)| has(since, other, record) && says(other) && !is_mutual(other))
    }

    /// Whether whoever began a drill can never end it: its signer goes on in another chain, which has seen all of the
    /// drill's, as after the state directory was lost.
    pub fn is_abandoned(&self, drill: &Drill) -> bool {
        drill.end.is_none() && self.successors(drill.writer).next().is_some()
    }

    /// Other writers of the same signer that have seen all that one ever recorded, each with its first record that says so.
    fn successors(&self, writer: WriterId) -> impl Iterator<Item = (WriterId, u64)> {
        let newest = self.heads.get(&writer).map(|head| head.number);
        let others = self
            .signers
            .iter()
            .filter(move |(other, signer)| **other != writer && self.signers.get(&writer) == Some(*signer));
        others.filter_map(move |(other, _)| {
            let (number, record) = self.seen_by.get(other)?.get(&writer)?;
            (*number >= newest?).then_some((*other, *record))
        })
    }

    /// The signers that were revoked.
    pub fn revoked_signers(&self) -> impl Iterator<Item = &String> {
        self.revocations.keys()
    }

    /// Whether a signer was revoked.
    pub fn is_revoked(&self, signer: &str) -> bool {
        self.revocations.contains_key(signer)
    }

    /// The holds that were not released.
    pub fn holds(&self) -> impl Iterator<Item = (HoldId, &Hold)> {
        self.added.iter().filter(|(id, _)| !self.released.contains_key(id)).map(|(id, hold)| (*id, hold))
    }

    /// The holds of a source that were not released.
    pub fn holds_of<'a>(&'a self, source: &'a SourceName) -> impl Iterator<Item = (HoldId, &'a Hold)> {
        self.holds().filter(move |(_, hold)| hold.source == *source)
    }

    /// A hold, and when it was released, if it was.
    pub fn hold(&self, id: HoldId) -> Option<(&Hold, Option<Timestamp>)> {
        self.added.get(&id).map(|hold| (hold, self.released.get(&id).copied()))
    }

    /// The drills of a source.
    pub fn drills_of<'a>(&'a self, source: &'a SourceName) -> impl Iterator<Item = &'a Drill> {
        self.drills.iter().filter(move |drill| drill.source == *source)
    }

    /// The drill of a source that passed last, by when it began. One that has yet to begin has not passed: its clock was
    /// wrong, or its writer lies, and it would outshine every later failure.
    pub fn last_passed_drill<'a>(&'a self, source: &'a SourceName, now: Timestamp) -> Option<&'a Drill> {
        let passed = |drill: &&Drill| {
            matches!(drill.verdict, Verdict::Passed | Verdict::Warning)
                && drill.started_at.seconds_since(now) <= SLACK_SECONDS
        };
        self.drills_of(source).filter(passed).max_by_key(|drill| drill.started_at)
    }

    /// The snapshots of a source that drills have proven to restore, each with the digest of its inventory.
    pub fn proven<'a>(&'a self, source: &'a SourceName) -> impl Iterator<Item = (SnapshotId, Option<Sha256>)> + 'a {
        let passed = |drill: &&Drill| matches!(drill.verdict, Verdict::Passed | Verdict::Warning);
        self.drills_of(source).filter(passed).filter_map(|drill| Some((drill.snapshot?, drill.inventory_sha256)))
    }

    /// Restores that were begun and never ended, by writer and number.
    pub fn open_restores(&self) -> &BTreeSet<(WriterId, u64)> {
        &self.open_restores
    }
}

/// Whether the records up to those of `since` have one of a writer in them.
fn has(since: &BTreeMap<WriterId, u64>, of: WriterId, number: u64) -> bool {
    since.get(&of).is_some_and(|newest| *newest >= number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{evidence::SeenHead, id::RunId};

    /// What a record says, whose it is, which one, and who signed it.
    fn add(state: &mut ControlState, of: (u8, u64), signer: &str, control: Control) {
        add_after(state, of, signer, control, &[]);
    }

    /// The same, of a writer that has seen so much of others.
    fn add_after(
        state: &mut ControlState,
        (writer, number): (u8, u64),
        signer: &str,
        control: Control,
        seen: &[(u8, u64)],
    ) {
        let seen = seen.iter().map(|(writer, number)| SeenHead {
            writer: RunId::from_random([*writer; 16]),
            number: *number,
            sha256: Sha256([*number as u8; 32]),
        });
        let record = Record {
            writer: RunId::from_random([writer; 16]),
            number,
            seen: seen.collect(),
            signer: signer.to_owned(),
            action: Action::Configuration,
            control: Some(control),
            ..Record::example()
        };
        state.add(&record, Sha256([number as u8; 32]));
    }

    fn wants(min_stores: u64) -> Control {
        Control::Configuration {
            sha256: Sha256([0; 32]),
            stores: Vec::new(),
            recipients: Vec::new(),
            policies: BTreeMap::new(),
            min_stores: [("ledger".parse().unwrap(), min_stores)].into(),
        }
    }

    #[test]
    fn the_fewest_stores_that_count() {
        let mut state = ControlState::default();
        add(&mut state, (1, 1), "old", wants(0));
        add(&mut state, (1, 2), "old", wants(3));
        add(&mut state, (2, 1), "own", wants(2));
        add(&mut state, (3, 1), "gone", wants(1));
        let revoked =
            Control::SignerRevoked { signer: "gone".into(), evidence: Vec::new(), inventories_sha256: Sha256([0; 32]) };
        add(&mut state, (2, 2), "own", revoked);
        type Case<'a> = (&'a [(u8, u64)], &'a str, (u64, u8, u64));
        let cases: &[Case] = &[
            // Nothing makes a snapshot durable on no store at all.
            (&[], "", (1, 1, 1)),
            (&[(1, 1)], "", (1, 1, 1)),
            (&[(1, 2)], "", (1, 3, 1)),
            // Whose signer is revoked counts until all was level after that; where it is trusted again, for ever.
            (&[(1, 2), (3, 1), (2, 1)], "", (1, 3, 1)),
            (&[(1, 2), (2, 2)], "", (1, 3, 1)),
            (&[(1, 2), (3, 1), (2, 2)], "gone", (1, 3, 1)),
            (&[(1, 2), (3, 1), (2, 2)], "", (2, 2, 1)),
        ];
        for (since, trusted, (min_stores, writer, number)) in cases {
            let level = since.iter().map(|(writer, number)| (RunId::from_random([*writer; 16]), *number)).collect();
            let source = "ledger".parse().unwrap();
            let fewest = state.fewest_stores(&source, &level, |signer| signer == *trusted).unwrap();
            let found = (fewest.min_stores, fewest.writer, fewest.number);
            assert_eq!(found, (*min_stores, RunId::from_random([*writer; 16]), *number), "{since:?} {trusted}");
        }
    }

    #[test]
    fn a_writer_that_another_of_the_same_key_follows() {
        let mut state = ControlState::default();
        add(&mut state, (1, 1), "own", wants(1));
        add(&mut state, (1, 2), "own", wants(2));
        // It began without knowing, and has read what there was since.
        add(&mut state, (2, 1), "own", wants(2));
        add_after(&mut state, (2, 2), "own", wants(2), &[(1, 1)]);
        add_after(&mut state, (2, 3), "own", wants(2), &[(1, 2)]);
        add_after(&mut state, (2, 4), "own", wants(2), &[(1, 2)]);
        let source: SourceName = "ledger".parse().unwrap();
        let fewest = |state: &ControlState, since: &[(u8, u64)]| {
            let level = since.iter().map(|(writer, number)| (RunId::from_random([*writer; 16]), *number)).collect();
            let fewest = state.fewest_stores(&source, &level, |_| true).unwrap();
            (fewest.min_stores, fewest.writer, fewest.number)
        };
        let [one, two] = [1, 2].map(|writer| RunId::from_random([writer; 16]));
        for (since, expected) in [
            (&[][..], (1, one, 1)),
            (&[(1, 2)], (2, one, 2)),
            (&[(1, 2), (2, 2)], (2, one, 2)),
            // All of the old one, and the record that has seen all of it.
            (&[(1, 2), (2, 3)], (2, two, 3)),
            (&[(1, 1), (2, 3)], (1, one, 1)),
        ] {
            assert_eq!(fewest(&state, since), expected, "{since:?}");
        }
        // It is there after all.
        let mut back = state.clone();
        add(&mut back, (1, 3), "own", wants(1));
        assert_eq!(fewest(&back, &[(1, 2), (2, 4)]), (1, one, 3));
        // Another host that has seen all of it follows nobody.
        let mut other = ControlState::default();
        add(&mut other, (1, 1), "own", wants(1));
        add_after(&mut other, (2, 1), "others", wants(2), &[(1, 1)]);
        assert_eq!(fewest(&other, &[(1, 1), (2, 1)]), (1, one, 1));
    }
}
