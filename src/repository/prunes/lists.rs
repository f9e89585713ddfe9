//! The runs of a log that an executed plan has deleted. There may be very many in the life of a repository, so they are
//! listed in an object of their own, which is read where a store still shows something that may be of them.

use super::{Prunes, SignedPrune, deleted_by};
use crate::{
    core::{
        id::{RunId, Sha256, SourceName},
        log::{HistoryId, LogFile, SegmentName},
        prune::{CondemnedLog, CondemnedSet, LogList, PruneRecord, end_of, list_runs},
    },
    format::{self, prune as prune_format},
    repository::{
        Repository,
        catalogue::{Refusal, StoreListing},
        layout,
    },
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// The first segment of the log that the stores show anything of, by history.
#[derive(Debug)]
pub(super) struct Shown(BTreeMap<HistoryId, Option<Place>>);

#[derive(Clone, Copy, Debug)]
enum Place {
    Segment(SegmentName),
    Unknown,
}

impl Shown {
    pub(super) fn of(listings: &[StoreListing]) -> Self {
        // Names sort as the numbers in them do, and only the first of each folder is read: there may be very many.
        let mut first: BTreeMap<&str, Option<&str>> = BTreeMap::new();
        for name in listings.iter().flat_map(|listing| listing.objects.keys()) {
            let Some((folder, object)) = name.strip_prefix(layout::LOG).and_then(|rest| rest.split_once('/')) else {
                continue;
            };
            let known = first.entry(folder).or_default();
            if !object.contains(".history-") {
                *known = Some(known.map_or(object, |known| object.min(known)));
            }
        }
        // What is no name of a file may lie anywhere.
        let place = |object: &str| {
            let segment = object.get(..24).and_then(|name| name.to_ascii_uppercase().parse().ok());
            segment.map_or(Place::Unknown, Place::Segment)
        };
        let of_history =
            |(folder, object): (&str, Option<&str>)| Some((HistoryId::from_key(folder)?, object.map(place)));
        Shown(first.into_iter().filter_map(of_history).collect())
    }

    /// Whether something may be of what a part condemns.
    fn may_be_of(&self, part: &CondemnedLog) -> bool {
        let Some(first) = self.0.get(&part.history) else { return false };
        match first {
            Some(Place::Unknown) => true,
            Some(Place::Segment(name)) => {
                end_of(LogFile::Segment(*name), part.segment_bytes).is_none_or(|end| end <= part.bound.place())
            }
            // Histories of timelines stay.
            None => false,
        }
    }
}

fn parts_of(record: &PruneRecord) -> impl Iterator<Item = &CondemnedLog> {
    record.condemned.log.iter().chain(&record.dropped.log)
}

/// Whether a record names files of a log without listing the runs.
pub(super) fn is_unlisted(record: &PruneRecord) -> bool {
    parts_of(record).any(|part| part.runs.is_empty())
}

/// The list of the runs of a log that a plan names, as it lies beside the record of its execution.
#[derive(Clone, Debug)]
pub struct PruneList {
    /// What it says.
    pub list: LogList,
    /// The exact bytes.
    pub bytes: Bytes,
    /// SHA-256 of them.
    pub sha256: Sha256,
}

impl PruneList {
    /// The list that belongs to a plan, if that names files of a log.
    pub fn of(plan: &PruneRecord) -> Option<Self> {
        plan.names_log().then(|| {
            let list = LogList::of(plan.plan, &plan.condemned.log);
            let bytes = Bytes::from(prune_format::list_to_bytes(&list));
            PruneList { sha256: format::sha256(&bytes), list, bytes }
        })
    }

    /// Nobody signs a list: it is the one that a record names by its SHA-256, or none.
    fn accept(bytes: Bytes, plan: RunId, sha256: Sha256) -> Result<Self, Refusal> {
        if format::sha256(&bytes) != sha256 {
            return Err(Refusal::Damaged("it is not what the record of the execution names".to_owned()));
        }
        let list = prune_format::parse_list(&bytes)?;
        if list.plan != plan {
            return Err(Refusal::Damaged("it is of another plan".to_owned()));
        }
        Ok(PruneList { list, bytes, sha256 })
    }

    /// Completes a record that names this list, and no other.
    pub fn complete(&self, record: &mut PruneRecord) {
        if record.log_sha256 == Some(self.sha256) {
            list_runs(&mut record.condemned.log, &self.list.log);
            list_runs(&mut record.dropped.log, &self.list.log);
        }
    }
}

impl Repository {
    /// Completes the records of an executed plan where a store may still show what it has deleted of a log. Without the
    /// list they say nothing of it: what still lies there is condemned again. Says whether one of them lacks it.
    pub(super) async fn complete_records(
        &self,
        source: &SourceName,
        records: &mut [SignedPrune],
        shown: &Shown,
        listings: &[StoreListing],
    ) -> bool {
        let may_be_shown = |part: &CondemnedLog| part.runs.is_empty() && shown.may_be_of(part);
        let mut is_unknown = false;
        for signed in records {
            if let Some(sha256) = signed.record.log_sha256
                && parts_of(&signed.record).any(may_be_shown)
            {
                let list = self.find_list(source, (signed.record.plan, sha256), listings).await;
                list.iter().for_each(|list| list.complete(&mut signed.record));
                is_unknown |= parts_of(&signed.record).any(may_be_shown);
            }
        }
        is_unknown
    }

    /// The list that a record of an executed plan names, from the first store that shows it and has it right.
    pub async fn find_list(
        &self,
        source: &SourceName,
        (plan, sha256): (RunId, Sha256),
        listings: &[StoreListing],
    ) -> Option<PruneList> {
        let name = layout::prune_list(plan);
        let holders = listings.iter().enumerate().filter(|(_, listing)| listing.objects.contains_key(&name));
        for (at, _) in holders {
            if let Ok(list) = self.read_list(at, source, (plan, sha256)).await {
                return Some(list);
            }
        }
        None
    }

    async fn read_list(
        &self,
        store: usize,
        source: &SourceName,
        (plan, sha256): (RunId, Sha256),
    ) -> Result<PruneList, Refusal> {
        let key = format!("{}{}", layout::source_folder(source), layout::prune_list(plan));
        let bytes = self.stores[store].get(&key, prune_format::MAX_BYTES).await.map_err(Refusal::of_store)?;
        PruneList::accept(bytes, plan, sha256)
    }

    /// Completes records of an executed plan from whichever store has the list. All that name the same are completed alike,
    /// or none: otherwise they would seem to differ.
    pub async fn list_runs_of(&self, source: &SourceName, records: &mut [SignedPrune]) {
        let named: BTreeSet<(RunId, Sha256)> = records
            .iter()
            .filter(|signed| is_unlisted(&signed.record))
            .filter_map(|signed| Some((signed.record.plan, signed.record.log_sha256?)))
            .collect();
        for (plan, sha256) in named {
            for at in 0..self.stores.len() {
                if let Ok(list) = self.read_list(at, source, (plan, sha256)).await {
                    records.iter_mut().for_each(|signed| list.complete(&mut signed.record));
                    break;
                }
            }
        }
    }

    /// What plans delete that were executed since the stores were looked at, whether any store still shows something of it or
    /// not.
    pub async fn deleted_since(&self, source: &SourceName, before: &Prunes, now: &Prunes) -> CondemnedSet {
        let mut deleted = CondemnedSet::default();
        for (_, records) in now.executed.iter().filter(|(plan, _)| !before.executed.contains_key(plan)) {
            let mut records = records.clone();
            self.list_runs_of(source, &mut records).await;
            deleted.extend(deleted_by(&records));
        }
        deleted
    }

    /// Completes a record of an executed plan from whichever store has the list; says whether one had.
    pub(super) async fn complete_record(&self, source: &SourceName, record: &mut PruneRecord) -> bool {
        let Some(sha256) = record.log_sha256 else { return !is_unlisted(record) };
        for at in 0..self.stores.len() {
            if !is_unlisted(record) {
                break;
            }
            if let Ok(list) = self.read_list(at, source, (record.plan, sha256)).await {
                list.complete(record);
            }
        }
        !is_unlisted(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::{
            log::Lsn,
            prune::{Condemned, LogBound, Stage},
        },
        repository::head::StoreStatus,
    };

    fn shown(names: &[&str]) -> Shown {
        let objects = names.iter().map(|name| (format!("log/7-00000001/{name}"), 1)).collect();
        Shown::of(&[StoreListing { store: "a".into(), status: StoreStatus::Ready, objects }])
    }

    #[test]
    fn what_may_still_be_shown() {
        let bytes = 1 << 20;
        let part = |bound, timeline| CondemnedLog {
            history: HistoryId { system: 7, timeline },
            segment_bytes: bytes,
            bound,
            files: 1,
            bytes: 1,
            runs: Vec::new(),
        };
        let before = |segment: u64| LogBound::Before(Lsn(segment * bytes));
        let (file, history) =
            ("000000010000000000000004-aaaaaaaaaaaaaaaa.age", "00000002.history-aaaaaaaaaaaaaaaa.age");
        let piece = "000000010000000000000006.00000000-00000010.piece-aaaaaaaaaaaaaaaa.json";
        for (names, bound, expected) in [
            (&[file, piece, history][..], before(5), true),
            (&[file, piece, history], before(4), false),
            (&[piece, history], before(7), true),
            (&[piece], before(6), false),
            (&[history], before(1 << 20), false),
            (&[history], LogBound::Everything(Lsn(9 * bytes)), false),
            (&[file], LogBound::Everything(Lsn(5 * bytes)), true),
            (&[piece], LogBound::Everything(Lsn(5 * bytes)), false),
            // Nobody can say where it lies.
            (&["rubbish"], before(1), true),
        ] {
            let shown = shown(names);
            assert_eq!(shown.may_be_of(&part(bound, 1)), expected, "{names:?} {bound:?}");
            assert!(!shown.may_be_of(&part(bound, 2)), "another history");
        }
    }
    #[test]
    fn no_other_list_is_taken_for_the_one_that_a_record_names() {
        let plan = RunId::from_random([8; 16]);
        let part = |run: u8| CondemnedLog {
            history: HistoryId { system: 7, timeline: 1 },
            segment_bytes: 1 << 20,
            bound: LogBound::Before(Lsn(5 << 20)),
            files: 1,
            bytes: 1,
            runs: vec![RunId::from_random([run; 16])],
        };
        let bytes = |plan, run| Bytes::from(prune_format::list_to_bytes(&LogList::of(plan, &[part(run)])));
        let (right, other) = (bytes(plan, 1), bytes(plan, 2));
        let sha256 = format::sha256(&right);
        assert_eq!(PruneList::accept(right.clone(), plan, sha256).unwrap().list.log, [part(1)]);
        assert!(matches!(PruneList::accept(other, plan, sha256), Err(Refusal::Damaged(_))));
        let of_another = bytes(RunId::from_random([9; 16]), 1);
        let named = format::sha256(&of_another);
        assert!(matches!(PruneList::accept(of_another, plan, named), Err(Refusal::Damaged(_))));
        // Nor does it complete a record that names another.
        let list = PruneList::accept(right, plan, sha256).unwrap();
        let record = |log_sha256| PruneRecord {
            format: crate::core::prune::FORMAT.into(),
            stage: Stage::Executed,
            repository: plan,
            source: "ledger".parse().unwrap(),
            plan,
            writer: "x".into(),
            created_at: "2026-11-22T10:00:00Z".parse().unwrap(),
            policy_sha256: None,
            keep_within_seconds: None,
            keep_last: None,
            condemned: Condemned { log: vec![part(1).unlisted()], ..Condemned::default() },
            dropped: Condemned::default(),
            log_sha256,
            orphans_seen: Vec::new(),
            writers_seen: Vec::new(),
            confirmed: Vec::new(),
        };
        for (named, is_completed) in [(Some(sha256), true), (Some(named), false), (None, false)] {
            let mut record = record(named);
            list.complete(&mut record);
            assert_eq!(!is_unlisted(&record), is_completed, "{named:?}");
        }
    }
}
