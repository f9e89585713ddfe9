//! Which snapshot a target means.

use crate::core::{
    id::SnapshotId,
    log::{Ancestor, LogRange, Lsn},
    target::Target,
    time::Timestamp,
};
use chrono::{DateTime, Utc};

/// A snapshot that could be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: SnapshotId,
    /// When its read began.
    pub read_started_at: Timestamp,
    /// Whether enough stores hold all of it.
    pub durable: bool,
    /// What it needs of the log, where its source has one.
    pub log: Option<LogRange>,
}

impl Candidate {
    /// The first moment that it can be restored to. Without a log that is the only one, and what was committed before
    /// it is in it.
    pub fn earliest(&self) -> DateTime<Utc> {
        let read = self.read_started_at.as_datetime();
        self.log.as_ref().map_or(read, |log| log.stopped_at.as_datetime())
    }
}

/// Those of the snapshots from which a timeline can be reached: they were taken on it, or on one that it grew out of,
/// before that was left. `grew_from` tells what a timeline of a system grew out of directly.
pub fn leading_to(
    candidates: &[Candidate],
    timeline: u32,
    grew_from: impl Fn(u64, u32) -> Option<Ancestor>,
) -> Vec<Candidate> {
    let leads = |log: &LogRange| {
        let (mut of, mut until) = (timeline, Lsn(u64::MAX));
        while of != log.history.timeline {
            match grew_from(log.history.system, of) {
                // A timeline grows out of an older one; what says otherwise leads nowhere.
                Some(ancestor) if ancestor.timeline < of => (of, until) = (ancestor.timeline, ancestor.until),
                _ => return false,
            }
        }
        log.stop <= until
    };
    candidates.iter().filter(|candidate| candidate.log.as_ref().is_some_and(leads)).cloned().collect()
}

/// Why no snapshot was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoChoice {
    /// There is no snapshot at all.
    Nothing,
    /// What is asked for is before the first one.
    BeforeFirst(Candidate),
    /// The source has no log, so it knows no such target.
    NoLog,
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
/// A time selects the newest snapshot whose read began at or before it, or, where a log goes on from there, which was
/// consistent by then; a place in the log or a transaction likewise. `latest` is the newest durable one; among snapshots
/// of one number (a fork) the one whose read began last. A restore point must have been looked up: it is asked for by its
/// place.
pub fn choose(candidates: &[Candidate], target: &Target) -> Result<SnapshotId, NoChoice> {
    let mut sorted: Vec<&Candidate> = candidates.iter().collect();
    sorted.sort_by_key(|candidate| (candidate.id.seq, candidate.read_started_at, candidate.id.run));
    let Some(newest) = sorted.last() else {
        return Err(NoChoice::Nothing);
    };
    if target.needs_log() && newest.log.is_none() {
        return Err(NoChoice::NoLog);
    }
    match target {
        Target::Latest | Target::Immediate => {
            let durable = sorted.iter().rev().find(|candidate| candidate.durable);
            durable.map(|candidate| candidate.id).ok_or(NoChoice::NoneDurable(newest.id))
        }
        Target::Time(moment) => newest_reaching(&sorted, |candidate| candidate.earliest() <= moment.as_datetime()),
        Target::Position(at) => {
            newest_reaching(&sorted, |candidate| candidate.log.as_ref().is_some_and(|log| log.stop <= *at))
        }
        Target::Transaction(number) => newest_reaching(&sorted, |candidate| {
            let next = candidate.log.as_ref().and_then(|log| log.next_transaction);
            // Numbers come round again after four thousand million: half of them lie ahead.
            next.is_some_and(|next| number.wrapping_sub(next) < 1 << 31)
        }),
        Target::Point(_) => Err(NoChoice::NoLog),
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

/// The newest of those that can be restored to what is asked for.
fn newest_reaching(sorted: &[&Candidate], reaches: impl Fn(&Candidate) -> bool) -> Result<SnapshotId, NoChoice> {
    let reaching = sorted.iter().filter(|candidate| reaches(candidate));
    let by_time = |candidate: &&&Candidate| (candidate.earliest(), candidate.id.seq, candidate.id.run);
    if let Some(chosen) = reaching.clone().filter(|candidate| candidate.durable).max_by_key(by_time) {
        return Ok(chosen.id);
    }
    if let Some(chosen) = reaching.max_by_key(by_time) {
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
    use crate::core::{id::RunId, log::Lsn};

    fn id(seq: u64, run: u8) -> SnapshotId {
        SnapshotId { seq, run: RunId::from_random([run; 16]) }
    }

    fn candidate(seq: u64, run: u8, minute: u32, durable: bool) -> Candidate {
        let read_started_at = format!("2026-11-22T09:{minute:02}:00Z").parse().unwrap();
        Candidate { id: id(seq, run), read_started_at, durable, log: None }
    }

    /// One whose log goes on: consistent half a minute after its read began.
    fn logged(seq: u64, minute: u32, stop: u64, next_transaction: u32) -> Candidate {
        let log = LogRange {
            history: "7301234567890123456-00000001".parse().unwrap(),
            segment_bytes: 16 << 20,
            start: Lsn(stop - 1),
            stop: Lsn(stop),
            stopped_at: format!("2026-11-22T09:{minute:02}:30.000001Z").parse().unwrap(),
            next_transaction: Some(next_transaction),
        };
        Candidate { log: Some(log), ..candidate(seq, seq as u8, minute, true) }
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
        for target in ["immediate", "lsn:0/7", "xid:7", "name:x"] {
            assert_eq!(choose(&snapshots, &target.parse().unwrap()), Err(NoChoice::NoLog), "{target}");
        }
        assert_eq!(choose(&[], &Target::Latest), Err(NoChoice::Nothing));
        assert_eq!(choose(&snapshots[4..], &Target::Latest), Err(NoChoice::NoneDurable(id(5, 5))));
    }
    #[test]
    fn choices_where_a_log_goes_on() {
        let snapshots =
            [logged(1, 10, 0x100, 4_000_000_000), logged(2, 20, 0x200, 4_294_967_290), logged(3, 30, 0x300, 20)];
        let first = || Err(NoChoice::BeforeFirst(snapshots[0].clone()));
        let cases = [
            ("latest", Ok(id(3, 3))),
            ("immediate", Ok(id(3, 3))),
            ("2026-11-22T09:20:30.000001Z", Ok(id(2, 2))),
            ("2026-11-22T09:20:30Z", Ok(id(1, 1))),
            ("2026-11-22T09:10:29Z", first()),
            ("lsn:0/200", Ok(id(2, 2))),
            ("lsn:0/1FF", Ok(id(1, 1))),
            ("lsn:0/FF", first()),
            ("xid:25", Ok(id(3, 3))),
            ("xid:19", Ok(id(2, 2))),
            ("xid:4294967290", Ok(id(2, 2))),
            ("xid:4294967289", Ok(id(1, 1))),
        ];
        for (target, expected) in cases {
            assert_eq!(choose(&snapshots, &target.parse().unwrap()), expected, "{target}");
        }
    }
    #[test]
    fn timelines_are_reached_from_what_they_grew_out_of() {
        let on = |timeline: u32, candidate: Candidate| {
            let mut log = candidate.log.clone().unwrap();
            log.history.timeline = timeline;
            Candidate { log: Some(log), ..candidate }
        };
        let all = [
            on(1, logged(1, 10, 0x100, 7)),
            on(1, logged(2, 20, 0x200, 7)),
            on(2, logged(3, 30, 0x300, 7)),
            on(3, logged(4, 40, 0x180, 7)),
            candidate(5, 5, 50, true),
        ];
        // The second grew out of the first at 0x200, the third at 0x150; the fourth out of the second.
        let grew_from = |_: u64, timeline: u32| match timeline {
            2 => Some(Ancestor { timeline: 1, until: Lsn(0x200) }),
            3 => Some(Ancestor { timeline: 1, until: Lsn(0x150) }),
            4 => Some(Ancestor { timeline: 2, until: Lsn(0x250) }),
            6 => Some(Ancestor { timeline: 7, until: Lsn(0x250) }),
            7 => Some(Ancestor { timeline: 6, until: Lsn(0x250) }),
            _ => None,
        };
        for (timeline, seqs) in
            [(1, &[1, 2][..]), (2, &[1, 2, 3]), (3, &[1, 4]), (4, &[1, 2]), (5, &[]), (6, &[]), (7, &[])]
        {
            let found = leading_to(&all, timeline, grew_from);
            assert_eq!(found.iter().map(|candidate| candidate.id.seq).collect::<Vec<_>>(), seqs, "{timeline}");
        }
    }
}
