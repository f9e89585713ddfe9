//! Plans over logs with several timelines, holes and forks.

use super::*;
use crate::core::{
    id::Sha256,
    log::{LogEntry, NamedPoint, Span},
};

const BYTES: u64 = 1 << 20;
const SYSTEM: u64 = 7;

fn time(minute: u64) -> ServerTime {
    format!("2026-11-22T10:{minute:02}:00Z").parse().unwrap()
}

/// Each segment ends with a commit in the minute of its number.
fn entry(file: LogFile) -> LogEntry {
    let number = match file {
        LogFile::Segment(name) | LogFile::Partial(name) | LogFile::Piece(name, _) => name.number(BYTES),
        _ => None,
    };
    let ends = number.map(|number| match file {
        LogFile::Partial(_) => Lsn(number * BYTES + 1000),
        LogFile::Piece(_, span) => Lsn(number * BYTES + u64::from(span.to)),
        _ => Lsn((number + 1) * BYTES),
    });
    let facts = LogFacts {
        last_begins: ends.map(|ends| Lsn(ends.0 - 100)),
        ends,
        last_commit: number.map(time),
        last_time: number.map(time),
        commits: 1,
        points: number
            .map(|number| NamedPoint { name: format!("p{number}"), at: Lsn(0), time: time(0) })
            .into_iter()
            .collect(),
        ..LogFacts::default()
    };
    let bytes_raw = if let LogFile::Piece(_, span) = file { span.bytes() } else { BYTES };
    LogEntry { file, bytes_raw, size: 9, sha256: Sha256([1; 32]), content_tag: Some("t".into()), facts }
}

fn record(file: &str, run: u8) -> LogRecord {
    let file: LogFile = file.parse().unwrap();
    LogRecord {
        format: crate::core::log::FORMAT.into(),
        repository: RunId::from_random([3; 16]),
        source: "ledger".parse().unwrap(),
        history: HistoryId { system: SYSTEM, timeline: file.timeline() },
        segment_bytes: BYTES,
        run: RunId::from_random([run; 16]),
        writer: "SHA256:x".into(),
        created_at: "2026-11-22T10:00:00Z".parse().unwrap(),
        recipients: Vec::new(),
        files: vec![entry(file)],
    }
}

fn records(files: &str) -> Vec<LogRecord> {
    files.split_whitespace().map(|short| record(&long(short), 1)).collect()
}

/// `2:5` for segment 5 of timeline 2, `2:5p` for its beginning, `2:5@0-8` for a piece of it, `2h` for the history.
fn long(short: &str) -> String {
    if let Some(timeline) = short.strip_suffix('h') {
        return format!("{:08X}.history", timeline.parse::<u32>().unwrap());
    }
    let (timeline, number) = short.split_once(':').unwrap();
    let (number, ending) = match number.split_once('@') {
        Some((number, span)) => {
            let (from, to) = span.split_once('-').unwrap();
            (number, format!(".{}.piece", Span::new(from.parse().unwrap(), to.parse().unwrap()).unwrap()))
        }
        None if number.ends_with('p') => (number.trim_end_matches('p'), ".partial".to_owned()),
        None => (number, String::new()),
    };
    let number: u64 = number.parse().unwrap();
    format!("{}{ending}", SegmentName::of_number(timeline.parse().unwrap(), number, BYTES))
}

fn wanted(timeline: u32, goal: Goal) -> Wanted {
    Wanted {
        from: HistoryId { system: SYSTEM, timeline: 1 },
        start: Lsn(3 * BYTES + 40),
        consistent_at: Lsn(3 * BYTES + 400),
        timeline,
        goal,
        segment_bytes: BYTES,
    }
}

fn planned(files: &str, wanted: &Wanted) -> Result<LogPlan, Gap> {
    let records = records(files);
    let history = TimelineHistory { ancestors: vec![Ancestor { timeline: 1, until: Lsn(5 * BYTES + 500) }] };
    let history = (wanted.timeline == 2).then_some(&history);
    let source = "ledger".parse().unwrap();
    plan(RunId::from_random([3; 16]), &source, wanted, history, &LogFiles::of(SYSTEM, &records))
}

fn names(plan: &LogPlan) -> Vec<String> {
    plan.files.iter().map(|object| object.file.to_string()).collect()
}

#[test]
fn plans_list_exactly_what_is_replayed() {
    let all = "1:2 1:3 1:4 1:5 1:6 2h 2:5 2:6 2:7";
    for (files, wanted, expected, passes) in [
        (all, wanted(1, Goal::Latest), "1:3 1:4 1:5 1:6", true),
        (all, wanted(2, Goal::Latest), "1:3 1:4 2:5 2:6 2:7 2h", true),
        (all, wanted(1, Goal::At(Lsn(4 * BYTES + 5))), "1:3 1:4", true),
        (all, wanted(1, Goal::At(Lsn(0))), "1:3", true),
        (all, wanted(1, Goal::At(Lsn(5 * BYTES))), "1:3 1:4 1:5", true),
        (all, wanted(1, Goal::At(Lsn(7 * BYTES))), "1:3 1:4 1:5 1:6", false),
        (all, wanted(1, Goal::Time(time(4))), "1:3 1:4 1:5", true),
        (all, wanted(1, Goal::Time(time(6))), "1:3 1:4 1:5 1:6", false),
        (all, wanted(2, Goal::Point("p6".into())), "1:3 1:4 2:5 2:6 2h", true),
        ("1:3 1:4 1:5p", wanted(1, Goal::Latest), "1:3 1:4 1:5p", true),
        ("1:3 1:4 2h 2:5p", wanted(2, Goal::Latest), "1:3 1:4 2:5p 2h", true),
        // Pieces end a log where the whole segment is not there, and nothing reaches further.
        ("1:3 1:4 1:5@0-800 1:5@800-2000", wanted(1, Goal::Latest), "1:3 1:4 1:5@0-800 1:5@800-2000", true),
        ("1:3 1:4 1:5@0-800 1:5@808-2000", wanted(1, Goal::Latest), "1:3 1:4 1:5@0-800", true),
        ("1:3 1:4 1:5p 1:5@0-800", wanted(1, Goal::Latest), "1:3 1:4 1:5p", true),
        ("1:3 1:4 1:5p 1:5@0-2000", wanted(1, Goal::Latest), "1:3 1:4 1:5@0-2000", true),
        ("1:3 1:4 1:5 1:5@0-2000", wanted(1, Goal::Latest), "1:3 1:4 1:5", true),
        ("1:3 1:4 1:5@0-800 2h 2:5@0-900", wanted(2, Goal::Latest), "1:3 1:4 2:5@0-900 2h", true),
        ("1:3 1:4 1:5@0-800", wanted(1, Goal::Time(time(4))), "1:3 1:4 1:5@0-800", true),
        ("1:3 1:4 1:5@0-800", wanted(1, Goal::At(Lsn(5 * BYTES + 600))), "1:3 1:4 1:5@0-800", true),
        ("1:3 1:4 1:5@0-800 1:6", wanted(1, Goal::Point("p5".into())), "1:3 1:4 1:5@0-800", true),
        // The child's copy is not there yet: the parent's whole segment has the same beginning.
        ("1:3 1:4 1:5 2h 2:6", wanted(2, Goal::Latest), "1:3 1:4 1:5 2:6 2h", true),
        // Nothing is needed of a segment that begins where all ends that is wanted.
        ("1:3 1:5", wanted(1, Goal::At(Lsn(4 * BYTES))), "1:3", false),
        ("1:3 1:4@0-800 1:5", wanted(1, Goal::At(Lsn(4 * BYTES))), "1:3 1:4@0-800", true),
    ] {
        let plan = planned(files, &wanted).unwrap_or_else(|gap| panic!("{wanted:?}: {gap}"));
        let mut expected: Vec<LogFile> = expected.split(' ').map(|short| long(short).parse().unwrap()).collect();
        expected.sort();
        let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
        assert_eq!((names(&plan), plan.end.passes_target), (expected, passes), "{wanted:?}");
        assert_eq!(plan.contradiction(), None);
        let text = serde_json::to_vec(&plan).unwrap();
        assert_eq!(serde_json::from_slice::<LogPlan>(&text).unwrap(), plan);
    }
}

#[test]
fn gaps_are_named() {
    for (files, wanted, said) in [
        ("1:3 1:5", wanted(1, Goal::Latest), "000000010000000000000004 is on no store; the next"),
        ("1:2", wanted(1, Goal::Latest), "000000010000000000000003 is on no store"),
        ("1:3 1:4 2:5", wanted(2, Goal::Latest), "00000002.history is on no store"),
        ("1:3 2h 2:6", wanted(2, Goal::Latest), "000000010000000000000004 is on no store"),
        ("1:3 1:4", wanted(1, Goal::At(Lsn(9 * BYTES))), "ends at 0/500000"),
        ("1:3 1:4", wanted(1, Goal::Time(time(9))), "its last commit is of 2026-11-22T10:04:00.000000Z"),
        ("1:3 1:4", wanted(1, Goal::Point("p9".into())), "ends at 0/500000"),
        ("1:3", wanted(3, Goal::Latest), "did not grow"),
        // What there is of a segment is no bridge to the next one.
        ("1:3 1:4@0-800 1:5", wanted(1, Goal::Latest), "000000010000000000000004 is on no store; the next"),
        ("1:3 1:4p 1:5", wanted(1, Goal::Latest), "000000010000000000000004 is on no store; the next"),
        ("1:3 1:5", wanted(1, Goal::At(Lsn(4 * BYTES + 1))), "000000010000000000000004 is on no store; the next"),
        ("1:3@0-392", wanted(1, Goal::Latest), "000000010000000000000003 is on no store"),
        ("1:3 1:4@0-800", wanted(1, Goal::At(Lsn(4 * BYTES + 900))), "ends at 0/400320"),
    ] {
        let gap = planned(files, &wanted).map(|plan| names(&plan)).unwrap_err().to_string();
        assert!(gap.contains(said), "{said}: {gap}");
    }
    // What ends where a segment does needs all of that one.
    let exact = Wanted { consistent_at: Lsn(4 * BYTES), ..wanted(1, Goal::At(Lsn(4 * BYTES))) };
    assert_eq!(planned("1:3 1:5", &exact).map(|plan| names(&plan)).unwrap().len(), 1);
    assert!(planned("1:2 1:5", &exact).is_err());
    // The timeline left its parent before the snapshot was consistent.
    let late = Wanted { consistent_at: Lsn(6 * BYTES), ..wanted(2, Goal::Latest) };
    assert_eq!(planned("1:3 1:4 1:5 2h 2:5", &late), Err(Gap::Unrelated));
}

#[test]
fn forks_are_never_interleaved() {
    let (one, mut other) = (record(&long("1:3"), 1), record(&long("1:3"), 2));
    let source = "ledger".parse().unwrap();
    let try_plan = |records: [&LogRecord; 2]| {
        plan(RunId::from_random([3; 16]), &source, &wanted(1, Goal::Latest), None, &LogFiles::of(SYSTEM, records))
    };
    assert_eq!(try_plan([&one, &other]).unwrap().files.len(), 1);
    for tag in [Some("other".to_owned()), None] {
        other.files[0].content_tag = tag;
        let gap = try_plan([&one, &other]).unwrap_err();
        assert!(matches!(&gap, Gap::Forked { runs, .. } if runs.len() == 2), "{gap}");
    }
    let elsewhere = LogRecord { history: HistoryId { system: 8, timeline: 1 }, ..other };
    assert!(try_plan([&one, &elsewhere]).is_ok());
}

#[test]
fn a_plan_answers_for_every_file() {
    let plan = planned("1:3 1:4 1:5 2h 2:5 2:6 2:7p", &wanted(2, Goal::Latest)).unwrap();
    let answer = |short: &str| match plan.find(long(short).parse().unwrap()) {
        Planned::Needed(_) => "needed",
        Planned::Beginning(_) => "beginning",
        Planned::Past => "past",
        Planned::Inside => "inside",
    };
    for (short, expected) in [
        ("1:2", "inside"),
        ("2:2", "inside"),
        ("1:3", "needed"),
        ("1:5", "past"),
        ("2:5", "needed"),
        ("2:7", "beginning"),
        ("2:8", "past"),
        ("3:6", "past"),
        ("2h", "needed"),
        ("3h", "past"),
    ] {
        assert_eq!(answer(short), expected, "{short}");
    }
    let pieces = planned("1:3 1:4 1:5@0-800 1:5@800-2000", &wanted(1, Goal::Latest)).unwrap();
    let parts = |plan: &LogPlan, short: &str| match plan.find(long(short).parse().unwrap()) {
        Planned::Beginning(parts) => parts.len(),
        _ => 0,
    };
    assert_eq!((parts(&plan, "2:7"), parts(&pieces, "1:5"), parts(&pieces, "1:4")), (1, 2, 0));
    assert_eq!(pieces.served().values().map(Vec::len).collect::<Vec<_>>(), [1, 1, 2]);
    let mut torn = pieces.clone();
    torn.files.remove(2);
    assert_eq!(torn.contradiction(), Some("its pieces do not follow each other"));
    let mut holed = plan.clone();
    holed.files.retain(|object| object.file.to_string() != long("2:6"));
    assert!(matches!(holed.find(long("2:6").parse().unwrap()), Planned::Inside));
    let next: Vec<String> = plan.after(long("1:4").parse().unwrap()).map(|object| object.file.to_string()).collect();
    assert_eq!(next, [long("2:5"), long("2:6")]);
}
