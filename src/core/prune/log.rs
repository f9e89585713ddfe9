//! What a plan condemns of a log: whole runs, each with a bound that it certainly does not reach beyond.
//!
//! A run is named by its id, so that a file of the same name that is stored later is none of it. The bound is what the
//! second look is about: nothing at or behind it is deleted by the plan, whatever runs it names.

use crate::core::{
    id::RunId,
    log::{HistoryId, LogFile, LogRange, LogRecord, Lsn, SegmentName, segment_bytes_are_valid},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The most runs of a log that one plan condemns; the next run condemns the rest.
pub const MAX_LOG_RUNS: usize = 200_000;
/// The most parts that they are listed in.
pub const MAX_LOG_PARTS: usize = 4_096;

/// Which files of its runs a part condemns: those that lie wholly before a place. Histories of timelines lie nowhere, and
/// stay: they are small, and a server that comes back asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogBound {
    /// What no snapshot that stays needs.
    Before(Lsn),
    /// All that there was, which ended at that place: no snapshot of the system is left.
    Everything(Lsn),
}

impl LogBound {
    /// The place: nothing that ends behind it is within.
    pub fn place(&self) -> Lsn {
        match self {
            LogBound::Before(at) | LogBound::Everything(at) => *at,
        }
    }

    /// Whether a file with segments of this size is within.
    pub fn covers(&self, file: LogFile, segment_bytes: u64) -> bool {
        end_of(file, segment_bytes).is_some_and(|end| end <= self.place())
    }
}

/// Where the segment begins that a file is of, or is a part of; `None` for the history of a timeline, and for a name
/// that no segment of this size has.
pub fn start_of(file: LogFile, segment_bytes: u64) -> Option<Lsn> {
    let start = |name: SegmentName| name.start(segment_bytes);
    match file {
        LogFile::Segment(name) | LogFile::Partial(name) => start(name),
        LogFile::BackupNote(name, _) | LogFile::Piece(name, _) => start(name),
        LogFile::History(_) => None,
    }
}

/// Where it ends.
pub fn end_of(file: LogFile, segment_bytes: u64) -> Option<Lsn> {
    start_of(file, segment_bytes)?.0.checked_add(segment_bytes).map(Lsn)
}

/// What is condemned of one history of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CondemnedLog {
    /// The history.
    pub history: HistoryId,
    /// Bytes of its segments.
    pub segment_bytes: u64,
    /// Which files of the runs.
    pub bound: LogBound,
    /// How many files that are.
    pub files: u64,
    /// How many sealed bytes, on one store.
    pub bytes: u64,
    /// The runs, each with its record and all that this names. The record of an executed plan has none: they are in the
    /// [`LogList`] beside it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub runs: Vec<RunId>,
}

/// What makes a part of a plan the same as one of the record of its execution.
type PartKey = (HistoryId, u64, LogBound);

impl CondemnedLog {
    fn key(&self) -> PartKey {
        (self.history, self.segment_bytes, self.bound)
    }

    /// The same without the list of its runs.
    #[must_use]
    pub fn unlisted(&self) -> Self {
        CondemnedLog { runs: Vec::new(), ..self.clone() }
    }

    /// Why what a record condemns, and what it drops, cannot be right, if so.
    pub fn contradiction(condemned: &[CondemnedLog], dropped: &[CondemnedLog]) -> Option<&'static str> {
        let too_much = |parts: &[CondemnedLog]| {
            parts.len() > MAX_LOG_PARTS || parts.iter().map(|part| part.runs.len()).sum::<usize>() > MAX_LOG_RUNS
        };
        let parts = || condemned.iter().chain(dropped);
        // Which runs an executed part is about, only this tells: a twin would carry the other's past the second look.
        let mut seen = BTreeSet::new();
        if too_much(condemned) || too_much(dropped) {
            Some("it condemns more of a log than any plan does")
        } else if !parts().all(|part| segment_bytes_are_valid(part.segment_bytes)) {
            Some("it condemns a log whose segments are of no size that segments have")
        } else if !parts().all(|part| seen.insert(part.key())) {
            Some("two of its parts are of one history, size and bound")
        } else {
            None
        }
    }
}

/// The value of `format` in every list that this version reads and writes.
pub const LIST_FORMAT: &str = "recoup-prune-log/1";

/// The runs of a log that an executed plan names, as `log.json` beside its record holds them.
///
/// There may be very many in the life of a repository, and records of executed plans are read by every command: so they
/// are apart, and read only where they matter. What the plan says itself is not enough: once it is executed, a store in
/// the place of one that was lost is not brought it any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogList {
    /// [`LIST_FORMAT`].
    pub format: String,
    /// The plan.
    pub plan: RunId,
    /// All that it condemned of a log; what of it went, and what was dropped, the record says.
    pub log: Vec<CondemnedLog>,
}

impl LogList {
    /// The list of a plan.
    pub fn of(plan: RunId, condemned: &[CondemnedLog]) -> Self {
        LogList { format: LIST_FORMAT.to_owned(), plan, log: condemned.to_vec() }
    }

    /// Why it cannot be what it claims to be, if so.
    pub fn contradiction(&self) -> Option<&'static str> {
        if self.format != LIST_FORMAT {
            Some("its format is not the one this version reads")
        } else {
            CondemnedLog::contradiction(&self.log, &[])
        }
    }
}

/// Fills in the runs that a record does not list itself.
pub fn list_runs(parts: &mut [CondemnedLog], list: &[CondemnedLog]) {
    for part in parts.iter_mut().filter(|part| part.runs.is_empty()) {
        let same = list.iter().filter(|listed| listed.key() == part.key());
        part.runs = same.flat_map(|listed| listed.runs.iter().copied()).collect();
    }
}

/// What some records condemn of the logs of a source.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CondemnedLogs(BTreeMap<HistoryId, OfHistory>);

#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct OfHistory {
    /// By the size of segments and the bound: the runs. None are known where the record of an executed plan has no list,
    /// or none that matters; then the bound tells how far it reached.
    parts: BTreeMap<(u64, LogBound), BTreeSet<RunId>>,
}

impl OfHistory {
    fn has(&self, file: LogFile, run: RunId) -> bool {
        self.parts.iter().any(|((bytes, bound), runs)| bound.covers(file, *bytes) && runs.contains(&run))
    }

    fn reach(&self) -> Lsn {
        self.parts.keys().map(|(_, bound)| bound.place()).max().unwrap_or_default()
    }
}

impl CondemnedLogs {
    pub(super) fn add(&mut self, parts: &[CondemnedLog]) {
        for part in parts {
            let of = self.0.entry(part.history).or_default();
            of.parts.entry((part.segment_bytes, part.bound)).or_default().extend(&part.runs);
        }
    }

    /// Adds what another set condemns.
    pub fn extend(&mut self, other: CondemnedLogs) {
        for (history, other) in other.0 {
            let of = self.0.entry(history).or_default();
            for (bound, runs) in other.parts {
                of.parts.entry(bound).or_default().extend(runs);
            }
        }
    }

    /// What both sets condemn.
    #[must_use]
    pub fn intersection(&self, other: &CondemnedLogs) -> CondemnedLogs {
        let both = |(history, of): (&HistoryId, &OfHistory)| {
            let others = other.0.get(history)?;
            let common = |(bound, runs): (&(u64, LogBound), &BTreeSet<RunId>)| {
                Some((*bound, runs.intersection(others.parts.get(bound)?).copied().collect()))
            };
            let parts: BTreeMap<_, _> = of.parts.iter().filter_map(common).collect();
            (!parts.is_empty()).then_some((*history, OfHistory { parts }))
        };
        CondemnedLogs(self.0.iter().filter_map(both).collect())
    }

    /// Whether all of a part is condemned.
    pub fn has_part(&self, part: &CondemnedLog) -> bool {
        let runs = self.0.get(&part.history).and_then(|of| of.parts.get(&(part.segment_bytes, part.bound)));
        runs.is_some_and(|runs| part.runs.iter().all(|run| runs.contains(run)))
    }

    /// What of it a replay from a snapshot may need: what does not lie wholly before the place where that begins.
    #[must_use]
    pub fn behind(&self, range: &LogRange) -> CondemnedLogs {
        let mut behind = self.clone();
        behind.0.retain(|history, of| {
            of.parts.retain(|(_, bound), _| bound.place() > range.start);
            history.system == range.history.system && !of.parts.is_empty()
        });
        behind
    }

    /// Takes the runs of a part out again.
    pub fn spare(&mut self, part: &CondemnedLog) {
        let spared: BTreeSet<RunId> = part.runs.iter().copied().collect();
        for runs in self.0.get_mut(&part.history).into_iter().flat_map(|of| of.parts.values_mut()) {
            runs.retain(|run| !spared.contains(run));
        }
    }

    /// Whether a record is condemned: it goes with all files that it names, or it stays.
    pub fn has_record(&self, record: &LogRecord) -> bool {
        let of = self.0.get(&record.history);
        let has = |file: LogFile| {
            let mut parts = of.into_iter().flat_map(|of| &of.parts);
            parts.any(|((bytes, bound), runs)| {
                *bytes == record.segment_bytes && bound.covers(file, *bytes) && runs.contains(&record.run)
            })
        };
        record.files.iter().all(|entry| has(entry.file))
    }

    /// Whether a file that a run has stored is condemned. Of the record that is named after it
    /// [`CondemnedLogs::has_record`] tells.
    pub fn has(&self, history: HistoryId, file: LogFile, run: RunId) -> bool {
        self.0.get(&history).is_some_and(|of| of.has(file, run))
    }

    /// The same by the names of a history's folder and of an object in it.
    pub(super) fn has_object(&self, folder: &str, object: &str) -> bool {
        let named = || {
            let of = self.0.get(&HistoryId::from_key(folder)?)?;
            let name = object.strip_suffix(".age").or_else(|| object.strip_suffix(".json"))?;
            let (file, run) = name.rsplit_once('-')?;
            Some(of.has(LogFile::from_key(file)?, run.parse().ok()?))
        };
        !self.0.is_empty() && named().unwrap_or(false)
    }

    /// Up to where something is condemned that a replay from a snapshot may need: of its timeline, or of one that may have
    /// grown out of it, whose numbers are greater. `None` where all of it lies before the snapshot.
    pub fn reach(&self, range: &LogRange) -> Option<Lsn> {
        let leads_on = |of: &HistoryId| of.system == range.history.system && of.timeline >= range.history.timeline;
        let reach = self.0.iter().filter(|(history, _)| leads_on(history)).map(|(_, of)| of.reach()).max();
        reach.filter(|reach| *reach >= range.first_ends())
    }

    /// Up to where anything of a history is condemned.
    pub fn reach_of(&self, history: HistoryId) -> Option<Lsn> {
        self.0.get(&history).map(OfHistory::reach)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(number: u8) -> RunId {
        RunId::from_random([number; 16])
    }

    fn history(timeline: u32) -> HistoryId {
        HistoryId { system: 7, timeline }
    }

    fn part(bound: LogBound, runs: &[u8]) -> CondemnedLog {
        let runs = runs.iter().map(|number| run(*number)).collect();
        CondemnedLog { history: history(1), segment_bytes: 1 << 20, bound, files: 1, bytes: 1, runs }
    }

    fn set(parts: &[CondemnedLog]) -> CondemnedLogs {
        let mut set = CondemnedLogs::default();
        set.add(parts);
        set
    }

    const SEGMENT: &str = "000000010000000000000004";
    const PARTIAL: &str = "000000010000000000000004.partial";
    const NOTE: &str = "000000010000000000000004.00000028.backup";
    const PIECE: &str = "000000010000000000000004.00000000-00000010.piece";
    const HISTORY: &str = "00000002.history";

    #[test]
    fn nothing_beyond_its_bound_is_condemned() {
        use LogBound::{Before, Everything};
        let (end, within) = (Lsn(5 << 20), Lsn((5 << 20) - 1));
        for (bound, covered) in [
            (Before(end), &[SEGMENT, PARTIAL, NOTE, PIECE][..]),
            (Before(within), &[]),
            (Everything(end), &[SEGMENT, PARTIAL, NOTE, PIECE]),
            (Everything(within), &[]),
        ] {
            let set = set(&[part(bound, &[1])]);
            for name in [SEGMENT, PARTIAL, NOTE, PIECE, HISTORY] {
                let file: LogFile = name.parse().unwrap();
                assert_eq!(set.has(history(1), file, run(1)), covered.contains(&name), "{bound:?}: {name}");
                assert!(!set.has(history(1), file, run(2)), "of another run: {name}");
                assert!(!set.has(history(2), file, run(1)), "of another history: {name}");
            }
        }
        // With segments of 16 MiB it lies elsewhere, and a name that they cannot have nowhere.
        let larger = CondemnedLog { segment_bytes: 16 << 20, ..part(Before(end), &[1]) };
        assert!(!set(&[larger]).has(history(1), SEGMENT.parse().unwrap(), run(1)));
        assert_eq!(end_of("0000000100000000000001FF".parse().unwrap(), 16 << 20), None);
        assert_eq!(end_of("00000001FFFFFFFF00000FFF".parse().unwrap(), 1 << 20), None);
    }

    #[test]
    fn names_of_objects() {
        let condemned = set(&[part(LogBound::Before(Lsn(5 << 20)), &[1])]);
        let (run, other) = (run(1), run(2));
        for (folder, object, expected) in [
            ("7-00000001", format!("000000010000000000000004-{run}.age"), true),
            ("7-00000001", format!("000000010000000000000004-{run}.json"), true),
            ("7-00000001", format!("000000010000000000000004.00000000-00000010.piece-{run}.json"), true),
            ("7-00000001", format!("000000010000000000000005-{run}.age"), false),
            ("7-00000001", format!("000000010000000000000004-{other}.age"), false),
            ("7-00000001", format!("000000010000000000000004-{run}"), false),
            ("7-00000001", format!("00000002.history-{run}.age"), false),
            ("7-00000002", format!("000000010000000000000004-{run}.age"), false),
            ("07-00000001", format!("000000010000000000000004-{run}.age"), false),
            ("7-00000001", format!("../../x/000000010000000000000004-{run}.age"), false),
        ] {
            assert_eq!(condemned.has_object(folder, &object), expected, "{folder}/{object}");
        }
    }

    #[test]
    fn which_snapshots_have_to_look_closer() {
        let range = |timeline, start: u64| LogRange {
            history: history(timeline),
            segment_bytes: 1 << 20,
            start: Lsn(start),
            stop: Lsn(start + 5),
            stopped_at: "2026-11-22T10:00:00Z".parse().unwrap(),
            next_transaction: None,
        };
        let place = Lsn(5 << 20);
        let of = |bound, timeline| set(&[CondemnedLog { history: history(timeline), ..part(bound, &[1]) }]);
        for bound in [LogBound::Before(place), LogBound::Everything(place)] {
            let reach = |timeline, start| of(bound, 2).reach(&range(timeline, start));
            assert_eq!([reach(2, 0), reach(2, (5 << 20) - 1)], [Some(place); 2], "{bound:?}");
            // What ends behind the place is not condemned.
            assert_eq!(reach(2, 5 << 20), None);
            assert_eq!(of(LogBound::Before(Lsn(place.0 - 1)), 2).reach(&range(2, 4 << 20)), None);
            // It may grow into the timeline that is condemned; a later one did not grow out of that behind it.
            assert_eq!((reach(1, 0), reach(3, 0)), (Some(place), None));
            let other = LogRange { history: HistoryId { system: 8, timeline: 2 }, ..range(2, 0) };
            assert_eq!(of(bound, 2).reach(&other), None);
            assert_eq!([1, 2].map(|timeline| of(bound, 2).reach_of(history(timeline))), [None, Some(place)]);
        }
    }

    #[test]
    fn only_what_both_of_two_records_condemn_counts() {
        let (before, all) = (LogBound::Before(Lsn(1 << 30)), LogBound::Everything(Lsn(1 << 30)));
        let one = set(&[part(before, &[1, 2]), part(all, &[3])]);
        let other = set(&[part(before, &[2, 3])]);
        let segment: LogFile = SEGMENT.parse().unwrap();
        let both = one.intersection(&other);
        let has = |number| both.has(history(1), segment, run(number));
        assert_eq!([has(1), has(2), has(3)], [false, true, false]);
        assert!(!both.has(history(1), PIECE.parse().unwrap(), run(3)));
        assert_eq!(both, other.intersection(&one));
        let mut either = one.clone();
        either.extend(other.clone());
        assert_eq!((either.intersection(&one), either.intersection(&other)), (one.clone(), other));
        either.spare(&part(before, &[2]));
        assert!(either.has(history(1), segment, run(1)) && !either.has(history(1), segment, run(2)));
    }

    #[test]
    fn a_part_is_condemned_as_a_whole() {
        let (before, further) = (LogBound::Before(Lsn(1 << 30)), LogBound::Before(Lsn(2 << 30)));
        let unlisted = part(further, &[]);
        let both = set(&[part(before, &[1, 2]), unlisted.clone()]);
        for (part, expected) in [
            (part(before, &[1, 2]), true),
            (part(before, &[2]), true),
            (part(before, &[2, 3]), false),
            (part(LogBound::Everything(Lsn(1 << 30)), &[1]), false),
            (CondemnedLog { segment_bytes: 2 << 20, ..part(before, &[1]) }, false),
            (CondemnedLog { history: history(2), ..part(before, &[1]) }, false),
            // Of one whose runs nobody lists it is known that it is condemned, and of no run.
            (unlisted, true),
            (part(further, &[1]), false),
        ] {
            assert_eq!(both.has_part(&part), expected, "{part:?}");
        }
        assert_eq!(both.intersection(&both), both);
        assert_eq!(both.intersection(&set(&[part(before, &[1, 2])])), set(&[part(before, &[1, 2])]));
        assert_eq!(both.intersection(&set(&[part(further, &[7])])), set(&[part(further, &[])]));
    }

    #[test]
    fn what_a_replay_may_need_of_it() {
        let range = |system, start| LogRange {
            history: HistoryId { system, timeline: 3 },
            segment_bytes: 1 << 20,
            start: Lsn(start),
            stop: Lsn(start + 5),
            stopped_at: "2026-11-22T10:00:00Z".parse().unwrap(),
            next_transaction: None,
        };
        let (near, far) = (part(LogBound::Before(Lsn(100)), &[1]), part(LogBound::Everything(Lsn(200)), &[2]));
        let both = set(&[near.clone(), far.clone()]);
        for (of, expected) in [
            (range(7, 99), set(&[near, far.clone()])),
            (range(7, 100), set(std::slice::from_ref(&far))),
            (range(7, 199), set(&[far])),
            (range(7, 200), CondemnedLogs::default()),
            (range(8, 0), CondemnedLogs::default()),
        ] {
            assert_eq!(both.behind(&of), expected, "{of:?}");
        }
    }

    #[test]
    fn a_record_goes_with_all_that_it_names() {
        let condemned = set(&[part(LogBound::Before(Lsn(5 << 20)), &[1])]);
        let entry = |name: &str| crate::core::log::LogEntry {
            file: name.parse().unwrap(),
            bytes_raw: 1,
            size: 1,
            sha256: crate::core::id::Sha256([0; 32]),
            content_tag: None,
            facts: crate::core::log::LogFacts::default(),
        };
        let record = |names: &[&str]| LogRecord {
            format: crate::core::log::FORMAT.into(),
            repository: run(9),
            source: "ledger".parse().unwrap(),
            history: history(1),
            segment_bytes: 1 << 20,
            run: run(1),
            writer: "x".into(),
            created_at: "2026-11-22T10:00:00Z".parse().unwrap(),
            recipients: Vec::new(),
            files: names.iter().map(|name| entry(name)).collect(),
        };
        assert!(condemned.has_record(&record(&["000000010000000000000003", SEGMENT])));
        assert!(!condemned.has_record(&record(&[SEGMENT, "000000010000000000000005"])));
        // Where its segments are larger than the plan says, they lie elsewhere.
        let larger = LogRecord { segment_bytes: 16 << 20, ..record(&[SEGMENT]) };
        assert!(!condemned.has_record(&larger));
    }

    #[test]
    fn parts_that_cannot_be_told_apart_are_refused() {
        let bound = LogBound::Before(Lsn(5 << 20));
        let (one, twin) = (part(bound, &[1]), part(bound, &[2]));
        let larger = CondemnedLog { segment_bytes: 2 << 20, ..twin.clone() };
        let elsewhere = CondemnedLog { history: history(2), ..twin.clone() };
        let further = part(LogBound::Before(Lsn(6 << 20)), &[2]);
        let all = [one.clone(), larger, elsewhere, further];
        assert_eq!(CondemnedLog::contradiction(&all, &[]), None);
        assert!(CondemnedLog::contradiction(&[one.clone(), twin.clone()], &[]).is_some());
        // One that went and was dropped, too.
        assert!(CondemnedLog::contradiction(&[one.unlisted()], &[twin.unlisted()]).is_some());
    }

    #[test]
    fn an_executed_record_takes_its_runs_from_the_list() {
        let bound = LogBound::Before(Lsn(100));
        let plan = [part(bound, &[1, 2]), part(LogBound::Everything(Lsn(100)), &[3])];
        let mut executed = [plan[0].unlisted()];
        list_runs(&mut executed, &plan);
        assert_eq!(executed[0], plan[0]);
        let mut other = [part(LogBound::Before(Lsn(101)), &[])];
        list_runs(&mut other, &plan);
        assert_eq!(other[0].runs, Vec::new(), "nothing else is taken for it");
    }
}
