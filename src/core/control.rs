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
    /// Who signed the newest record of each writer.
    #[serde(default)]
    signers: BTreeMap<WriterId, String>,
    /// Up to which record each writer has seen each other.
    #[serde(default)]
    seen_by: BTreeMap<WriterId, BTreeMap<WriterId, u64>>,
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
            let newest = of_writer.entry(seen.writer).or_default();
            *newest = (*newest).max(seen.number);
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
            Control::Configuration { sha256, .. } => drop(self.configurations.insert(record.writer, *sha256)),
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

    /// Whether whoever began a drill can never end it: its signer goes on in another chain, which has seen all of the
    /// drill's, as after the state directory was lost.
    pub fn is_abandoned(&self, drill: &Drill) -> bool {
        let Some(head) = self.heads.get(&drill.writer) else { return false };
        let goes_on = |other: &WriterId| {
            let seen = self.seen_by.get(other).and_then(|seen| seen.get(&drill.writer));
            *other != drill.writer
                && self.signers.get(other) == self.signers.get(&drill.writer)
                && seen.is_some_and(|number| *number >= head.number)
        };
        drill.end.is_none() && self.signers.keys().any(goes_on)
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

    /// Whether any hold has ever named a snapshot, released or not.
    pub fn was_held(&self, source: &SourceName, snapshot: SnapshotId) -> bool {
        self.added.values().any(|hold| hold.source == *source && hold.snapshots.contains(&snapshot))
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
