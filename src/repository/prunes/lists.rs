//! The runs of a log that an executed plan has deleted. There may be very many in the life of a repository, so only the
//! plan itself lists them, and that is read where a store still shows something that may be of them.

use super::{Holders, RefusedPrune, SignedPrune};
use crate::{
    core::{
        id::{RunId, Sha256, SourceName},
        log::{HistoryId, LogFile, SegmentName},
        prune::{CondemnedLog, PruneRecord, Stage, end_of, list_runs},
    },
    repository::{
        Repository,
        catalogue::{Catalogue, Refusal, StoreListing},
        layout,
    },
};
use std::collections::BTreeMap;
use tokio::sync::Semaphore;

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

/// Completes a record of an executed plan from that plan, and from no other that bears its name.
pub fn complete(record: &mut PruneRecord, plan: &SignedPrune) {
    if record.plan_sha256 == Some(plan.sha256) {
        list_runs(&mut record.condemned.log, &plan.record.condemned.log);
        list_runs(&mut record.dropped.log, &plan.record.condemned.log);
    }
}

/// Whether a record names files of a log without listing the runs.
pub(super) fn is_unlisted(record: &PruneRecord) -> bool {
    parts_of(record).any(|part| part.runs.is_empty())
}

impl Repository {
    /// Completes the records of an executed plan where a store may still show what it has deleted of a log. Without the
    /// plan they say nothing of it: what still lies there is condemned again.
    pub(super) async fn complete_records(
        &self,
        source: &SourceName,
        (plan, records): (RunId, &mut [SignedPrune]),
        shown: &Shown,
        planned: &Holders,
    ) -> Vec<RefusedPrune> {
        let may_be_shown = |part: &CondemnedLog| part.runs.is_empty() && shown.may_be_of(part);
        if !records.iter().flat_map(|signed| parts_of(&signed.record)).any(may_be_shown) {
            return Vec::new();
        }
        let stores = planned.get(&plan).cloned().unwrap_or_default();
        let large = Semaphore::new(1);
        let (found, refused) = self.read_prune_record(source, plan, Stage::Planned, stores, &large).await;
        for plan in &found {
            records.iter_mut().for_each(|signed| complete(&mut signed.record, plan));
        }
        refused
    }

    /// What the stores show of a plan that is executed, which lists what that has deleted of a log; each store that shows
    /// another under its name is among those that are refused.
    pub async fn executed_plan(
        &self,
        catalogue: &Catalogue,
        (plan, sha256): (RunId, Sha256),
    ) -> (Option<SignedPrune>, Vec<RefusedPrune>) {
        let name = layout::prune_object(plan, Stage::Planned);
        let stores = catalogue.ready().filter(|at| catalogue.listings[*at].objects.contains_key(&name)).collect();
        let (found, mut refused) =
            self.read_prune_record(&catalogue.source, plan, Stage::Planned, stores, &Semaphore::new(1)).await;
        let (right, other): (Vec<_>, Vec<_>) = found.into_iter().partition(|signed| signed.sha256 == sha256);
        for at in other.iter().flat_map(|signed| &signed.stores) {
            let why = Refusal::Damaged("it is not the plan that was executed".to_owned());
            refused.push(RefusedPrune { store: self.stores[*at].name().to_owned(), plan, stage: Stage::Planned, why });
        }
        (right.into_iter().next(), refused)
    }

    /// Completes a record of an executed plan from whichever store has the plan; says whether one had.
    pub(super) async fn complete_record(&self, source: &SourceName, record: &mut PruneRecord) -> bool {
        for at in 0..self.stores.len() {
            if !is_unlisted(record) {
                break;
            }
            if let Ok(plan) = self.read_prune(at, source, record.plan, Stage::Planned).await {
                complete(record, &plan);
            }
        }
        !is_unlisted(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::{log::Lsn, prune::LogBound},
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
}
