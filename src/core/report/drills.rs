//! What signed records say in clear: drills with their ends or without, failed backups, changes.
//!
//! A verifier makes the same from the records that lie beside a report.

use super::{Change, DrillBefore, DrillClear, FailedBackup, Head, RecordRef, changes, exposure::round};
use crate::core::{
    control::{ControlState, Drill},
    evidence::{Action, Phase, Record, Verdict},
    id::{Sha256, SnapshotId},
};
use std::collections::BTreeMap;

/// A record and the digest of its bytes.
pub(super) type Digested<'r> = (&'r Record, Sha256);

/// What records say of a source in a period.
#[derive(Clone, Debug, PartialEq)]
pub struct FromRecords {
    /// Drills that began in it.
    pub drills: Vec<DrillClear>,
    /// The one that passed last before it.
    pub drill_before: Option<DrillBefore>,
    /// Backups that did not do what they should.
    pub failed_backups: Vec<FailedBackup>,
    /// Everything else, without what only the sealed bodies say.
    pub changes: Vec<Change>,
}

impl FromRecords {
    /// Reads records, those of a chain in order.
    pub fn of(records: &[Digested<'_>], head: &Head) -> Self {
        let mut state = ControlState::default();
        records.iter().for_each(|(record, sha256)| state.add(record, *sha256));
        let digests: BTreeMap<_, _> =
            records.iter().map(|(record, sha256)| ((record.writer, record.number), *sha256)).collect();
        let reference = |drill: &Drill, number: u64| {
            let sha256 = *digests.get(&(drill.writer, number))?;
            Some(RecordRef { writer: drill.writer, number, sha256 })
        };
        let mut drills: Vec<DrillClear> = Vec::new();
        let mut drill_before: Option<DrillBefore> = None;
        for drill in state.drills_of(&head.source) {
            let Some(start) = reference(drill, drill.start) else { continue };
            if drill.started_at >= head.from && drill.started_at < head.to {
                drills.push(clear(drill, start, drill.end.and_then(|end| reference(drill, end))));
            } else if drill.started_at < head.from
                && has_passed(drill.verdict)
                && drill_before.as_ref().is_none_or(|before| before.started_at < drill.started_at)
            {
                drill_before = Some(DrillBefore { start, started_at: drill.started_at });
            }
        }
        drills.sort_by_key(|drill| (drill.started_at, drill.start.clone()));
        let within = || records.iter().filter(|(record, _)| is_within(record, head));
        let mut failed_backups: Vec<FailedBackup> =
            within().filter_map(|(record, sha256)| failed_backup(record, *sha256, head)).collect();
        failed_backups.sort_by_key(|failed| (failed.recorded_at, failed.record.clone()));
        let mut changes: Vec<Change> =
            within().filter_map(|(record, sha256)| changes::change(record, *sha256, head)).collect();
        changes.sort_by_key(|change| (change.recorded_at, change.record.clone()));
        FromRecords { drills, drill_before, failed_backups, changes }
    }
}

/// Whether a record was made in the period.
pub(super) fn is_within(record: &Record, head: &Head) -> bool {
    record.recorded_at >= head.from && record.recorded_at < head.to
}

/// Whether a drill did what it should.
pub(super) fn has_passed(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Passed | Verdict::Warning)
}

fn clear(drill: &Drill, start: RecordRef, end: Option<RecordRef>) -> DrillClear {
    let measured = drill.measured.as_ref();
    DrillClear {
        start,
        end,
        started_at: drill.started_at,
        ended_at: drill.ended_at,
        disaster_at: measured.map(|measured| measured.disaster_at),
        drawn_at_random: measured.map(|measured| measured.drawn_at_random),
        verdict: drill.verdict,
        snapshot: drill.snapshot,
        inventory_sha256: drill.inventory_sha256,
        policy_sha256: drill.policy_sha256,
        rpo_seconds: measured.and_then(|measured| measured.rpo_seconds).map(|seconds| round(seconds, 3)),
        rto_seconds: measured.and_then(|measured| measured.rto_seconds).map(|seconds| round(seconds, 3)),
        stores_used: measured.map(|measured| measured.stores_used.clone()).unwrap_or_default(),
    }
}

fn failed_backup(record: &Record, sha256: Sha256, head: &Head) -> Option<FailedBackup> {
    if record.action != Action::Backup || record.phase == Phase::Start {
        return None;
    }
    let subject = record.subjects.iter().find(|subject| subject.source == head.source)?;
    if has_passed(subject.verdict) {
        return None;
    }
    let snapshot: Option<SnapshotId> = subject.snapshot;
    let record_ref = RecordRef { writer: record.writer, number: record.number, sha256 };
    Some(FailedBackup { record: record_ref, recorded_at: record.recorded_at, verdict: subject.verdict, snapshot })
}
