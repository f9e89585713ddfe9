//! Tables of what goes of a log.

use super::*;
use crate::core::{
    id::{Sha256, SourceName},
    inventory::{FORMAT, Kind, ObjectRef},
    log::{LogRange, SegmentName},
};

const BYTES: u64 = 1 << 20;

fn run(number: u64) -> RunId {
    RunId::from_random([number as u8; 16])
}

/// `7/1:5` is a snapshot of system 7 on timeline 1 whose replay begins within segment 5; `-` one without a log.
fn inventory(short: &str) -> Inventory {
    let log = short.split_once(':').map(|(history, at)| {
        let (system, timeline) = history.split_once('/').unwrap();
        let history = HistoryId { system: system.parse().unwrap(), timeline: timeline.parse().unwrap() };
        let start = Lsn(at.parse::<u64>().unwrap() * BYTES + 40);
        let (stop, stopped_at) = (Lsn(start.0 + BYTES), "2026-11-22T10:00:00Z".parse().unwrap());
        LogRange { history, segment_bytes: BYTES, start, stop, stopped_at, next_transaction: None }
    });
    Inventory {
        format: FORMAT.into(),
        repository: run(31),
        source: "ledger".parse::<SourceName>().unwrap(),
        source_kind: "postgres".into(),
        source_identity: "x".into(),
        seq: 1,
        run: run(1),
        writer: "writer".into(),
        kind: Kind::Full,
        parents: Vec::new(),
        created_at: "2026-11-22T10:00:00Z".parse().unwrap(),
        read_started_at: "2026-11-22T10:00:00Z".parse().unwrap(),
        history: "h".into(),
        position: "p".into(),
        bytes_raw: 0,
        bytes_stored: 0,
        recipients: Vec::new(),
        manifest: ObjectRef { name: "snapshots/x/manifest.age".into(), size: 1, sha256: Sha256([0; 32]) },
        uses: Vec::new(),
        log,
        altered_since: None,
    }
}

fn needs(kept: &str, newest: &str) -> LogNeeds {
    let kept: Vec<Inventory> = kept.split_whitespace().map(inventory).collect();
    let newest = (!newest.is_empty()).then(|| inventory(newest));
    LogNeeds::of(&kept, newest.as_ref())
}

fn file(short: &str, timeline: u32) -> LogFile {
    let (kind, number) = short.split_at(1);
    let number: u64 = number.parse().unwrap();
    let name = SegmentName::of_number(timeline, number, BYTES);
    match kind {
        "s" => LogFile::Segment(name),
        "p" => LogFile::Partial(name),
        "n" => LogFile::BackupNote(name, 40),
        "c" => format!("{name}.00000000-00000010.piece").parse().unwrap(),
        "h" => LogFile::History(timeline),
        _ => panic!("{short}"),
    }
}

fn stored(of_run: &str, number: u64, timeline: u32) -> StoredRun {
    StoredRun {
        history: HistoryId { system: 7, timeline },
        segment_bytes: BYTES,
        run: run(number),
        files: of_run.split(',').map(|short| file(short, timeline)).collect(),
        bytes: 10,
    }
}

/// Which of these runs go if each is the only one: `s1,s2` is one with two segments.
fn going(bound: Option<LogBound>, timeline: u32, runs: &str) -> String {
    let goes = |of_run: &&str| {
        let (mut system, mut condemned) = (RunsOfSystem::default(), CondemnedRuns::default());
        system.add(&stored(of_run, 1, timeline));
        bound.into_iter().for_each(|bound| system.clone().condemn(bound, &mut condemned));
        !condemned.into_parts().is_empty()
    };
    runs.split_whitespace().filter(goes).collect::<Vec<_>>().join(" ")
}

/// Which go of runs that are all there, by their numbers, and up to where; `+` is one that stays whatever it is, `?`
/// what no record vouches for, `2/` is of the second timeline.
fn going_together(bound: LogBound, runs: &str) -> (String, Option<u64>) {
    let (mut system, mut condemned) = (RunsOfSystem::default(), CondemnedRuns::default());
    for (at, short) in runs.split_whitespace().enumerate() {
        let (timeline, short) = short.split_once('/').map_or((1, short), |(of, short)| (of.parse().unwrap(), short));
        match short.strip_prefix('+') {
            Some(stays) => system.stays_from(start_of(file(stays, timeline), BYTES).unwrap()),
            None => match short.strip_prefix('?') {
                Some(loose) => system.add_loose(&stored(loose, at as u64, timeline)),
                None => system.add(&stored(short, at as u64, timeline)),
            },
        }
    }
    system.condemn(bound, &mut condemned);
    let parts = condemned.into_parts();
    let number = |wanted: &RunId| (0..32).find(|number| run(*number) == *wanted).unwrap();
    let mut gone: Vec<u64> = parts.iter().flat_map(|part| part.runs.iter().map(number)).collect();
    gone.sort_unstable();
    let before: BTreeSet<u64> = parts.iter().map(|part| part.bound.place().0 / BYTES).collect();
    assert!(before.len() <= 1, "one place for all timelines");
    (gone.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), before.first().copied())
}

#[test]
fn what_lies_before_the_first_replay_goes() {
    let all = "s1 s4 s5 s6 s3,s4 s4,s5 p4 p5 n4 n5 c4 c5 h1";
    let before_five = "s1 s4 s3,s4 p4 n4 c4";
    for (kept, newest, timeline, expected) in [
        ("7/1:5", "7/1:5", 1, before_five),
        // The first one counts, whoever took it, and whichever timeline it is on.
        ("7/1:9 7/1:5", "7/1:9", 1, before_five),
        ("7/1:5 7/2:9", "7/2:9", 2, before_five),
        // A standby that lags behind, or a snapshot that is held: what it replays may lead to any timeline.
        ("7/2:9 7/1:1", "7/2:9", 2, ""),
        ("7/2:5", "7/2:5", 1, before_five),
        // What another system has says nothing about this one, nor does what has no log.
        ("7/1:5 8/1:1", "8/1:1", 1, before_five),
        ("- 7/1:5", "7/1:5", 1, before_five),
        // Nothing is durable, or the system has no snapshot: it was opened just now, or nobody knows.
        ("7/1:5", "", 1, ""),
        ("8/1:5", "8/1:5", 1, ""),
        ("", "", 1, ""),
    ] {
        let bound = needs(kept, newest).bound(7, &BTreeSet::new());
        assert_eq!(going(bound, timeline, all), expected, "{kept:?} on {timeline}");
    }
}

#[test]
fn all_of_a_system_goes_with_its_last_snapshot() {
    let all = "s1 s9 s3,s4 p9 c9";
    let gone: BTreeSet<u64> = [7].into();
    for (kept, newest, expected) in [
        ("8/1:5", "8/1:5", all),
        // No other has a durable one yet, or it is not the newest.
        ("8/1:5", "", ""),
        ("", "", ""),
        ("8/1:5", "7/1:9", ""),
        // One is left.
        ("8/1:5 7/1:2", "8/1:5", "s1"),
    ] {
        let bound = needs(kept, newest).bound(7, &gone);
        assert_eq!(going(bound, 2, &format!("{all} h2")), expected, "{kept:?}, {newest:?}");
    }
}

#[test]
fn the_second_look_spares_what_is_needed_now() {
    let part = |bound| CondemnedLog {
        history: HistoryId { system: 7, timeline: 1 },
        segment_bytes: BYTES,
        bound,
        files: 1,
        bytes: 1,
        runs: vec![run(1)],
    };
    let place = Lsn(5 * BYTES + 40);
    let (before, all) = (LogBound::Before(place), LogBound::Everything(place));
    for (bound, kept, newest, goes) in [
        (before, "7/1:5", "7/1:5", true),
        (before, "7/1:6 7/2:5", "7/1:6", true),
        // A backup has committed meanwhile that began earlier: on a standby, on another timeline, or of another host.
        (before, "7/1:5 7/1:4", "7/1:5", false),
        (before, "7/1:5 7/9:4", "7/1:5", false),
        (before, "8/1:1", "8/1:1", true),
        // Of a system without a snapshot nothing goes before another has the newest durable one.
        (before, "", "", false),
        (before, "8/1:1", "7/1:1", false),
        (all, "8/1:1", "8/1:1", true),
        (all, "8/1:1", "", false),
        (all, "", "7/1:1", false),
        // It came back, behind all that there was, or before that.
        (all, "8/1:1 7/1:9", "8/1:1", true),
        (all, "8/1:1 7/1:4", "8/1:1", false),
    ] {
        assert_eq!(needs(kept, newest).spare(&part(bound)), goes, "{bound:?}, {kept:?}, {newest:?}");
    }
}

#[test]
fn nothing_goes_behind_what_stays() {
    let before = LogBound::Before(Lsn(9 * BYTES));
    for (runs, gone, limit) in [
        ("s1 s2 s3 s8", "0 1 2 3", Some(9)),
        // One whose record cannot be read; on whichever timeline.
        ("s1 s2 +s3 s4 s8", "0 1", Some(3)),
        ("s1 2/s2 2/+s3 s4 2/s8 s2", "0 1 5", Some(3)),
        ("+s1 s2", "", None),
        // One that reaches beyond the bound stays as a whole, and so does what reaches into that.
        ("s1 s2 s3,s9 s4", "0 1", Some(3)),
        ("s1 s2,s4 s3,s9 s4", "0", Some(2)),
        ("s9,s10 s8", "1", Some(9)),
        // So do the histories of timelines, which lie nowhere and keep nothing else.
        ("h2 s1 s2", "1 2", Some(9)),
        ("s1 h2,s2 s3", "0", Some(2)),
        // Copies of one segment, pieces, what lies beside it.
        ("s1 c1 p1 n1 s1 s2", "0 1 2 3 4 5", Some(9)),
        ("s1 s2 +c2 c2 s3", "0", Some(2)),
        // What no record vouches for goes with the rest, and keeps nothing, wherever it is said to lie.
        ("?s1 s2 ?s3,s9 s4 ?h1 s8", "0 1 3 5", Some(9)),
        ("s1 +s3 ?s2 ?s4", "0 2", Some(3)),
    ] {
        assert_eq!(going_together(before, runs), (gone.to_owned(), limit), "{runs}");
    }
    let all = LogBound::Everything(NOWHERE);
    for (runs, gone, limit) in [
        ("s1 h2 2/s9", "0 2", Some(10)),
        ("s1 h2 +s2 2/s9", "0", Some(2)),
        ("s1,h1 s2 s3", "", None),
        ("s1 ?s7", "0 1", Some(8)),
    ] {
        assert_eq!(going_together(all, runs), (gone.to_owned(), limit), "{runs}");
    }
}

#[test]
fn runs_are_put_together_by_history_and_bound() {
    let bound = LogBound::Before(Lsn(5 * BYTES));
    let (mut system, mut condemned) = (RunsOfSystem::default(), CondemnedRuns::default());
    for (number, timeline) in [(1, 1), (2, 1), (3, 2)] {
        system.add(&stored("s1,s2", number, timeline));
    }
    system.condemn(bound, &mut condemned);
    let parts = condemned.into_parts();
    let short = |part: &CondemnedLog| (part.history.timeline, part.runs.len(), part.files, part.bytes);
    assert_eq!(parts.iter().map(short).collect::<Vec<_>>(), [(1, 2, 4, 20), (2, 1, 2, 10)]);
    assert!(parts.iter().all(|part| part.bound == bound));
    // A run with pieces of several segments is listed once.
    let (mut system, mut condemned) = (RunsOfSystem::default(), CondemnedRuns::default());
    ["c1", "c2", "c7"].into_iter().for_each(|pieces| system.add(&stored(pieces, 1, 1)));
    system.condemn(bound, &mut condemned);
    let parts = condemned.into_parts();
    assert_eq!((parts.len(), parts[0].files, &parts[0].runs[..]), (1, 2, &[run(1)][..]));
}

/// Whoever can write to a store can put any names there: a plan that nobody would read ends every later one.
#[test]
fn a_plan_takes_no_more_than_a_reader_accepts() {
    let bound = LogBound::Before(Lsn(5 * BYTES));
    let (mut system, mut condemned) = (RunsOfSystem::default(), CondemnedRuns::default());
    for timeline in 1..=MAX_LOG_PARTS as u32 + 7 {
        system.add(&stored("s1", 1, timeline));
    }
    system.add(&stored("s2", 1, 1));
    system.condemn(bound, &mut condemned);
    let mut other = RunsOfSystem::default();
    other.add(&StoredRun { history: HistoryId { system: 8, timeline: 1 }, ..stored("s1", 1, 1) });
    other.condemn(bound, &mut condemned);
    let parts = condemned.into_parts();
    assert_eq!(parts.len(), MAX_LOG_PARTS);
    assert_eq!(CondemnedLog::contradiction(&parts, &[]), None);
    // What found no room stays, and with it all that lies behind it.
    assert!(parts.iter().all(|part| part.bound == LogBound::Before(Lsn(2 * BYTES)) && part.runs.len() == 1));

    let (mut system, mut condemned) = (RunsOfSystem::default(), CondemnedRuns::default());
    for number in 0..MAX_LOG_RUNS as u64 + 1 {
        system.add(&stored(if number % 2 == 0 { "s1" } else { "s3" }, number, 1));
    }
    system.condemn(bound, &mut condemned);
    assert_eq!(condemned.runs, MAX_LOG_RUNS);
    let parts = condemned.into_parts();
    assert_eq!(parts[0].bound, LogBound::Before(Lsn(4 * BYTES)));
}
