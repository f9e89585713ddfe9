//! Windows, gaps and exposure of whatever segments and snapshots there are.

use super::*;

const BYTES: u64 = 1 << 20;

fn time(minute: u64) -> ServerTime {
    format!("2026-11-22T09:{minute:02}:00Z").parse().unwrap()
}

fn name(timeline: u32, number: u64) -> SegmentName {
    SegmentName::of_number(timeline, number, BYTES)
}

/// Segments by `timeline:number`, each with a commit in the minute of its number; a `-` stands for too few stores.
/// `history:child<parent@number` is a timeline that grew out of another in the middle of a segment.
fn log(files: &str) -> StoredLog {
    let mut log = StoredLog { system: 7, segment_bytes: BYTES, files: BTreeMap::new() };
    for word in files.split_whitespace() {
        let (word, durable) = word.strip_suffix('-').map_or((word, true), |word| (word, false));
        let stores: &[&str] = if durable { &["a", "b"] } else { &["a"] };
        let mut stored = StoredFile {
            stores: stores.iter().map(|name| (*name).to_owned()).collect(),
            durable,
            facts: LogFacts::default(),
        };
        let file = match word.split_once('<') {
            Some((child, rest)) => {
                let (parent, number) = rest.split_once('@').unwrap();
                let until = Lsn(number.parse::<u64>().unwrap() * BYTES + BYTES / 2);
                stored.facts.grew_from = Some(Ancestor { timeline: parent.parse().unwrap(), until });
                LogFile::History(child.parse().unwrap())
            }
            None => {
                let (timeline, number) = word.split_once(':').unwrap();
                let (number, partial) = number.strip_suffix('p').map_or((number, false), |number| (number, true));
                let (timeline, number): (u32, u64) = (timeline.parse().unwrap(), number.parse().unwrap());
                let ends = if partial { number * BYTES + BYTES / 2 } else { (number + 1) * BYTES };
                stored.facts.ends = Some(Lsn(ends));
                (stored.facts.first_time, stored.facts.last_time) = (Some(time(number)), Some(time(number)));
                stored.facts.last_commit = Some(time(number));
                let name = name(timeline, number);
                if partial { LogFile::Partial(name) } else { LogFile::Segment(name) }
            }
        };
        log.files.insert(file, stored);
    }
    log
}

/// A snapshot that begins and ends in segments of these numbers.
fn range(timeline: u32, first: u64, last: u64) -> LogRange {
    LogRange {
        history: HistoryId { system: 7, timeline },
        segment_bytes: BYTES,
        start: Lsn(first * BYTES + 40),
        stop: Lsn(last * BYTES + 500),
        stopped_at: time(last),
        next_transaction: None,
    }
}

fn anchors(ranges: &[(u32, u64, u64)]) -> Vec<Anchor> {
    let anchor = |(seq, (timeline, first, last)): (u64, &(u32, u64, u64))| Anchor {
        snapshot: SnapshotId { seq, run: "aaaaaaaaaaaaaaaa".parse().unwrap() },
        range: range(*timeline, *first, *last),
    };
    (1..).zip(ranges).map(anchor).collect()
}

/// What there is, in short: `timeline window.. !gap.. ?thin..`, windows by minute.
fn shown(files: &str, snapshots: &[(u32, u64, u64)]) -> String {
    let minute = |time: ServerTime| time.to_string()[14..16].trim_start_matches('0').to_owned();
    let mut words = Vec::new();
    for history in log(files).histories(&anchors(snapshots)) {
        words.push(format!("{}", history.history.timeline));
        words.extend(history.windows.iter().map(|window| {
            assert!(window.from <= window.to && window.from_position <= window.to_position, "{window:?}");
            format!("{}-{}", minute(window.from), minute(window.to))
        }));
        words.extend(history.gaps.iter().map(|gap| {
            let number = |name: SegmentName| format!("{}:{}", name.timeline, name.number(BYTES).unwrap());
            assert_eq!(gap.last.number(BYTES).unwrap() + 1 - gap.first.number(BYTES).unwrap(), gap.segments, "{gap:?}");
            let sign = if gap.since_newest_snapshot { "!!" } else { "!" };
            format!("{sign}{}..{}", number(gap.first), number(gap.last))
        }));
        words.extend(history.thin.iter().map(|thin| format!("?{}x{}", thin.files, thin.stores.join("+"))));
    }
    words.join(" ")
}

#[test]
fn windows_and_gaps() {
    for (files, snapshots, expected) in [
        ("1:3 1:4 1:5", &[(1, 3, 3)][..], "1 3-5"),
        // Nothing to replay it over, and nothing to lose.
        ("1:3 1:5", &[], "1"),
        ("1:1 1:3 1:4", &[(1, 3, 3)], "1 3-4"),
        // A hole: each side has what its own snapshots reach.
        ("1:3 1:4 1:7 1:8", &[(1, 3, 3)], "1 3-4 !!1:5..1:6"),
        ("1:3 1:4 1:7 1:8", &[(1, 3, 3), (1, 7, 8)], "1 3-4 8-8 !1:5..1:6"),
        ("1:3 1:4 1:6 1:7 1:9", &[(1, 3, 3), (1, 6, 6)], "1 3-4 6-7 !1:5..1:5 !!1:8..1:8"),
        // What a snapshot itself needs.
        ("1:3", &[(1, 3, 5)], "1 !!1:4..1:5"),
        ("", &[(1, 3, 3)], "1 !!1:3..1:3"),
        // On too few stores, yet there.
        ("1:3 1:4- 1:5- 1:6", &[(1, 3, 3)], "1 3-6 ?2xa"),
        ("1:3 1:4- 1:5 1:6-", &[(1, 3, 3)], "1 3-6 ?1xa ?1xa"),
        // A promotion in the middle of segment 5, whose beginning both timelines have.
        ("1:3 1:4 1:5p 2<1@5 2:5 2:6", &[(1, 3, 3)], "1 3-5 2 3-6"),
        ("1:3 1:4 2<1@5 2:5 2:6 1:5 1:6", &[(1, 3, 3), (2, 6, 6)], "1 3-6 2 3-6"),
        // The ancestor lost its last segments, and nobody names the hole twice.
        ("1:3 2<1@5 2:5 2:6", &[(1, 3, 3)], "1 3-3 2 !!1:4..1:4"),
        ("1:3 1:5 2<1@6 2:6", &[(1, 3, 3)], "1 3-3 !!1:4..1:4 2"),
        // The newest snapshot is on the child: what the ancestor lacks is older.
        ("1:3 1:5 1:6 2<1@5 2:5 2:6", &[(1, 3, 3), (2, 6, 6)], "1 3-3 !1:4..1:4 2 6-6"),
        // What a timeline grew out of is not known: it stands alone.
        ("1:3 1:4 2:5 2:6", &[(1, 3, 3), (2, 5, 5)], "1 3-4 2 5-6"),
        // A snapshot from after the fork is no way to the child.
        ("1:3 1:6 2<1@5 2:5 2:6", &[(1, 6, 6)], "1 6-6 2"),
    ] {
        assert_eq!(shown(files, snapshots), expected, "{files} {snapshots:?}");
    }
}

#[test]
fn a_history_that_lies_about_its_past_ends() {
    let mut lying = log("3:1");
    lying.files.extend(log("3<3@1").files);
    assert_eq!(lying.histories(&anchors(&[(3, 1, 1)])).len(), 1);
}

#[test]
fn exposure_ends_with_the_first_segment_that_is_on_too_few_stores() {
    for (files, (timeline, first, last), live, expected) in [
        ("1:3 1:4 1:5", (1, 3, 3), None, Some((1, 6, 5))),
        ("1:3 1:4- 1:5", (1, 3, 3), None, Some((1, 4, 3))),
        ("1:3 1:5", (1, 3, 3), None, Some((1, 4, 3))),
        // Without its own part of the log the snapshot is none.
        ("1:3- 1:4", (1, 3, 3), None, None),
        ("1:4 1:5", (1, 3, 4), None, None),
        ("", (1, 3, 3), None, None),
        // The server's timeline, else the newest that leads on.
        ("1:3 1:4 2<1@4 2:4 2:5 3<1@4 3:4", (1, 3, 3), Some(2), Some((2, 6, 5))),
        ("1:3 1:4 2<1@4 2:4 2:5 3<1@4 3:4", (1, 3, 3), None, Some((3, 5, 4))),
        ("1:3 1:4 1:5 2<1@2 2:2", (1, 3, 3), Some(2), Some((1, 6, 5))),
    ] {
        let covered = log(files).covered(&range(timeline, first, last), live);
        let found = covered.as_ref().map(|covered| (covered.timeline, covered.at.0 / BYTES, covered.time));
        assert_eq!(found, expected.map(|(timeline, at, minute)| (timeline, at, time(minute))), "{files} {live:?}");
        assert!(covered.is_none_or(|covered| covered.is_whole && !covered.segments.is_empty()));
    }
    // The beginning of a segment counts as far as its whole records go.
    let covered = log("1:3 1:4p").covered(&range(1, 3, 3), None).unwrap();
    assert_eq!((covered.at, covered.time), (Lsn(4 * BYTES + BYTES / 2), time(4)));
}
