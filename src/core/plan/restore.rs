//! Which snapshot a target means.

use crate::core::{id::SnapshotId, target::Target, time::Timestamp};

/// A snapshot that could be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: SnapshotId,
    /// When its read began.
    pub read_started_at: Timestamp,
    /// Whether enough stores hold all of it.
    pub durable: bool,
}

/// Why no snapshot was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoChoice {
    /// There is no snapshot at all.
    Nothing,
    /// The moment is before the first one.
    BeforeFirst(Candidate),
    /// No snapshot has this number; the nearest on either side.
    NoSuchNumber {
        /// The nearest before.
        before: Option<SnapshotId>,
        /// The nearest after.
        after: Option<SnapshotId>,
    },
    /// Several snapshots have this number.
    Forked(Vec<SnapshotId>),
    /// None is durable; the newest that is there all the same.
    NoneDurable(SnapshotId),
}

/// Chooses the snapshot that `target` means. `candidates` may come in any order.
///
/// A time selects the newest snapshot whose read began at or before it. `latest` is the newest durable one; among
/// snapshots of one number (a fork) the one whose read began last.
pub fn choose(candidates: &[Candidate], target: &Target) -> Result<SnapshotId, NoChoice> {
    let mut sorted: Vec<&Candidate> = candidates.iter().collect();
    sorted.sort_by_key(|candidate| (candidate.id.seq, candidate.read_started_at, candidate.id.run));
    let Some(newest) = sorted.last() else {
        return Err(NoChoice::Nothing);
    };
    match target {
        Target::Latest => {
            let durable = sorted.iter().rev().find(|candidate| candidate.durable);
            durable.map(|candidate| candidate.id).ok_or(NoChoice::NoneDurable(newest.id))
        }
        Target::Time(moment) => choose_by_time(&sorted, *moment),
        Target::SnapshotId(id) if sorted.iter().any(|candidate| candidate.id == *id) => Ok(*id),
        Target::SnapshotId(SnapshotId { seq, .. }) => Err(no_such_number(&sorted, *seq)),
        Target::Snapshot(seq) => {
            let named: Vec<SnapshotId> =
                sorted.iter().filter(|candidate| candidate.id.seq == *seq).map(|candidate| candidate.id).collect();
            match named[..] {
                [] => Err(no_such_number(&sorted, *seq)),
                [id] => Ok(id),
                _ => Err(NoChoice::Forked(named)),
            }
        }
    }
}

fn choose_by_time(sorted: &[&Candidate], moment: Timestamp) -> Result<SnapshotId, NoChoice> {
    let in_time = sorted.iter().filter(|candidate| candidate.read_started_at <= moment);
    let by_time = |candidate: &&&Candidate| (candidate.read_started_at, candidate.id.seq, candidate.id.run);
    if let Some(chosen) = in_time.clone().filter(|candidate| candidate.durable).max_by_key(by_time) {
        return Ok(chosen.id);
    }
    if let Some(chosen) = in_time.max_by_key(by_time) {
        return Err(NoChoice::NoneDurable(chosen.id));
    }
    let first = sorted.iter().min_by_key(by_time).expect("there is at least one");
    Err(NoChoice::BeforeFirst((**first).clone()))
}

fn no_such_number(sorted: &[&Candidate], seq: u64) -> NoChoice {
    NoChoice::NoSuchNumber {
        before: sorted.iter().rev().find(|candidate| candidate.id.seq < seq).map(|candidate| candidate.id),
        after: sorted.iter().find(|candidate| candidate.id.seq > seq).map(|candidate| candidate.id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::id::RunId;

    fn id(seq: u64, run: u8) -> SnapshotId {
        SnapshotId { seq, run: RunId::from_random([run; 16]) }
    }

    fn candidate(seq: u64, run: u8, minute: u32, durable: bool) -> Candidate {
        let read_started_at = format!("2026-11-22T09:{minute:02}:00Z").parse().unwrap();
        Candidate { id: id(seq, run), read_started_at, durable }
    }

    #[test]
    fn choices() {
        let snapshots = [
            candidate(1, 1, 10, true),
            candidate(2, 2, 20, true),
            candidate(4, 3, 30, true),
            candidate(4, 4, 31, true),
            candidate(5, 5, 40, false),
        ];
        let cases = [
            ("latest", Ok(id(4, 4))),
            ("snapshot:2", Ok(id(2, 2))),
            ("snapshot:5", Ok(id(5, 5))),
            ("snapshot:4", Err(NoChoice::Forked(vec![id(4, 3), id(4, 4)]))),
            ("snapshot:3", Err(NoChoice::NoSuchNumber { before: Some(id(2, 2)), after: Some(id(4, 3)) })),
            ("snapshot:9", Err(NoChoice::NoSuchNumber { before: Some(id(5, 5)), after: None })),
            ("2026-11-22T09:20:00Z", Ok(id(2, 2))),
            ("2026-11-22T09:19:59.999Z", Ok(id(1, 1))),
            ("2026-11-22T09:59:00Z", Ok(id(4, 4))),
            ("2026-11-22T09:09:00Z", Err(NoChoice::BeforeFirst(snapshots[0].clone()))),
        ];
        for (target, expected) in cases {
            assert_eq!(choose(&snapshots, &target.parse().unwrap()), expected, "{target}");
        }
        assert_eq!(choose(&snapshots, &format!("snapshot:{}", id(4, 3)).parse().unwrap()), Ok(id(4, 3)));
        assert_eq!(choose(&[], &Target::Latest), Err(NoChoice::Nothing));
        assert_eq!(choose(&snapshots[4..], &Target::Latest), Err(NoChoice::NoneDurable(id(5, 5))));
    }
}
