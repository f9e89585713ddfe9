//! Segments, whole and cut short, and bytes that are none.

use super::{
    ReplayEnd, WalError,
    commits::{Commits, commits},
    read_growing, read_history, read_partial, read_segment,
    synthetic::Synthetic,
    tablespaces_made,
};
use crate::core::{
    log::ServerTime,
    log::{LogFacts, Lsn, SegmentName},
};

const SYSTEM: u64 = 7_301_234_567_890_123_456;
const BYTES: u64 = 1 << 20;

fn name(number: u64) -> SegmentName {
    SegmentName::of_number(1, number, BYTES)
}

fn time(text: &str) -> ServerTime {
    format!("2026-11-22T{text}Z").parse().unwrap()
}

fn facts(segment: &Synthetic, number: u64) -> LogFacts {
    read_segment(segment.bytes(), name(number)).unwrap().1
}

#[test]
fn times_commits_and_points_are_found() {
    let segment = Synthetic::new(SYSTEM, name(3), BYTES)
        .record(10, 0, &[7; 30_000])
        .commit(time("10:00:00.500"))
        .commit(time("09:00:00"))
        .point("before-the-migration", time("10:00:01"))
        .record(10, 0, &[1; 100]);
    let end = segment.place();
    let (header, found) = read_segment(segment.bytes(), name(3)).unwrap();
    assert_eq!((header.major, header.system, header.segment_bytes), (15, SYSTEM, BYTES));
    assert_eq!((found.commits, found.ends), (2, Some(end)));
    assert!(found.last_begins.is_some_and(|last| last < end && end.0 - last.0 < 200));
    assert_eq!((found.first_time, found.last_time), (Some(time("09:00:00")), Some(time("10:00:01"))));
    assert_eq!(found.last_commit, Some(time("10:00:00.500")));
    assert_eq!(found.points.len(), 1);
    assert_eq!(found.points[0].name, "before-the-migration");
    assert!(found.points[0].at > Lsn(3 * BYTES) && found.points[0].at < end);
}

#[test]
fn tablespaces_are_counted_and_read() {
    let before = Synthetic::new(SYSTEM, name(3), BYTES).commit(time("10:00:00"));
    let (first, segment) = (before.place(), before.tablespace("/srv/fast"));
    let segment = segment.commit(time("10:00:01")).tablespace("").record(5, 0x10, &[0; 4]);
    let (second, segment) = (segment.place(), segment.tablespace("/srv/slow"));
    assert_eq!(facts(&segment, 3).tablespaces, 3);
    let made = |start: Lsn, end: ReplayEnd| -> Vec<String> {
        let made = tablespaces_made(&segment.bytes(), name(3), start, end).unwrap().into_iter();
        made.map(|made| String::from_utf8(made.directory.unwrap()).unwrap()).collect()
    };
    let (all, none) = (["/srv/fast", "/srv/slow"].as_slice(), Lsn(0));
    assert_eq!(made(none, ReplayEnd::default()), all);
    // What a snapshot has already is not replayed.
    assert_eq!(made(second, ReplayEnd::default()), all[1..]);
    assert_eq!(made(Lsn(second.0 + 1), ReplayEnd::default()), all[2..]);
    // The record at the place that is wanted is the last.
    for (at, expected) in [(first.0 - 1, 1), (first.0, 1), (first.0 + 1, 1), (second.0, 2)] {
        assert_eq!(made(none, ReplayEnd { at: Some(Lsn(at)), after: None }), all[..expected], "{at}");
    }
    assert_eq!(made(none, ReplayEnd { at: Some(Lsn(3 * BYTES)), after: None }), all[..0]);
    for (after, expected) in [("09:59:59", 0), ("10:00:00", 1), ("10:00:01", 2)] {
        assert_eq!(made(none, ReplayEnd { at: None, after: Some(time(after)) }), all[..expected], "{after}");
    }
}

#[test]
fn a_tablespace_whose_record_goes_over_the_end_is_counted() {
    let mut segment = Synthetic::new(SYSTEM, name(3), BYTES);
    while segment.room() > 200 {
        segment = segment.record(10, 0, &[1; 60]);
    }
    let (place, long) = (segment.place(), format!("/srv/{}", "x".repeat(300)));
    let whole = segment.clone().record(10, 0, &[1; 300]);
    assert_eq!(facts(&whole, 3).tablespaces, 0);
    let segment = segment.tablespace(&long);
    assert_eq!(facts(&segment, 3).tablespaces, 1);
    let made = tablespaces_made(&segment.bytes(), name(3), Lsn(0), ReplayEnd::default()).unwrap();
    assert_eq!(made.len(), 1);
    assert_eq!((made[0].at, &made[0].directory), (place, &None));
    assert_eq!(tablespaces_made(&segment.bytes(), name(3), Lsn(place.0 + 1), ReplayEnd::default()).unwrap(), []);
}

#[test]
fn a_switch_ends_the_segment() {
    let segment = Synthetic::new(SYSTEM, name(3), BYTES).commit(time("10:00:00")).switch();
    assert_eq!(facts(&segment, 3).ends, Some(Lsn(4 * BYTES)));
}

#[test]
fn what_grows_is_told_from_where_it_was() {
    let first = Synthetic::new(SYSTEM, name(3), BYTES).record(10, 0, &[7; 30_000]).commit(time("10:00:00"));
    let middle = first.place();
    let second = first.clone().commit(time("10:00:01")).record(10, 0, &[7; 9_000]);
    let offset = |place: Lsn| place.0 - 3 * BYTES;
    let told = |bytes: &[u8], from| read_growing(bytes, name(3), from).map(|(_, facts, to)| (facts, to)).unwrap();
    let (facts, to) = told(first.bytes(), 0);
    assert_eq!((facts.commits, facts.ends, to), (1, Some(middle), offset(middle)));
    let (facts, to) = told(second.bytes(), offset(middle));
    assert_eq!((facts.commits, facts.first_time, to), (1, Some(time("10:00:01")), offset(second.place())));
    assert!(facts.last_begins.is_some_and(|last| last > middle));
    // Nothing new, and a last record of which the end is not there yet.
    assert_eq!(told(first.bytes(), offset(middle)), (LogFacts::default(), offset(middle)));
    let mut torn = second.bytes().to_vec();
    torn[offset(second.place()) as usize - 100..].fill(0);
    let (facts, to) = told(&torn, offset(middle));
    assert!(facts.commits == 1 && to < offset(second.place()) - 100, "{to}");
    // A switch is a record like others; what it leaves empty is no part of a piece.
    let switched = first.switch();
    let (facts, to) = told(switched.bytes(), offset(middle));
    assert!(facts.ends == Some(Lsn(4 * BYTES)) && to < BYTES, "{to}");
}

#[test]
fn a_record_that_a_killed_server_never_finished_is_passed_over() {
    for bytes in [9_000, 40_000] {
        let before = Synthetic::new(SYSTEM, name(3), BYTES).commit(time("10:00:00"));
        let torn = before.clone().torn(&vec![7; bytes]);
        assert_eq!(facts(&torn, 3).ends, Some(before.place()), "{bytes}");
        let after = torn.record(10, 0, &[1; 10_000]).commit(time("10:00:01"));
        let found = facts(&after, 3);
        assert_eq!((found.commits, found.ends), (2, Some(after.place())), "{bytes}");
    }
    // Without the mark, what stands on the next page is nothing that follows.
    let mut plain = Synthetic::new(SYSTEM, name(3), BYTES).torn(&[7; 9_000]).commit(time("10:00:01")).bytes().to_vec();
    plain[8192 + 2] &= !8;
    assert_eq!(read_segment(&plain, name(3)).unwrap().1.commits, 0);
}

#[test]
fn the_rest_of_an_earlier_record_is_passed_over() {
    for remaining in [1, 8, 100, 8152, 8153, 20_000] {
        let segment = Synthetic::new(SYSTEM, name(3), BYTES).continuing(remaining).commit(time("10:00:00"));
        let found = facts(&segment, 3);
        assert_eq!((found.commits, found.ends), (1, Some(segment.place())), "{remaining}");
    }
}

#[test]
fn a_record_that_goes_on_in_the_next_segment_is_not_counted() {
    let mut segment = Synthetic::new(SYSTEM, name(3), BYTES).commit(time("10:00:00"));
    while segment.room() > 9000 {
        segment = segment.record(10, 0, &[1; 4000]);
    }
    let end = segment.place();
    let segment = segment.record(1, 0, &[1; 20_000]);
    assert_eq!((facts(&segment, 3).commits, facts(&segment, 3).ends), (1, Some(end)));
}

#[test]
fn damage_ends_the_walk() {
    let first = Synthetic::new(SYSTEM, name(3), BYTES).commit(time("10:00:00"));
    let end = first.place();
    let segment = first.record(10, 0, &[1; 500]).commit(time("11:00:00"));
    let mut bytes = segment.bytes().to_vec();
    bytes[(end.0 - 3 * BYTES) as usize + 100] ^= 1;
    let found = read_segment(&bytes, name(3)).unwrap().1;
    assert_eq!((found.commits, found.ends), (1, Some(end)));
    // What a recycled file held before: whole records that follow none of these.
    let other = Synthetic::new(SYSTEM, name(3), BYTES).record(10, 0, &[2; 200]).commit(time("12:00:00"));
    let mut mixed = other.bytes().to_vec();
    let kept = (end.0 - 3 * BYTES) as usize;
    mixed[..kept].copy_from_slice(&segment.bytes()[..kept]);
    assert_eq!(read_segment(&mixed, name(3)).unwrap().1.last_commit, Some(time("10:00:00")));
}

#[test]
fn what_is_wrong_is_named() {
    type Spoil = fn(&mut Vec<u8>);
    let cases: [(Spoil, &str); 9] = [
        (|bytes| bytes.truncate(30), "only 30 bytes"),
        (|bytes| bytes.clear(), "only 0 bytes"),
        (|bytes| bytes[0] = 0x0D, "D10D"),
        (|bytes| bytes[2] = 0, "flags"),
        (|bytes| bytes[8] ^= 1, "its first page is at"),
        (|bytes| bytes[4] = 9, "timeline 9"),
        (|bytes| bytes[24..32].fill(0), "no system"),
        (|bytes| bytes[32] = 1, "size"),
        (|bytes| bytes.truncate(8192), "it has 8192 bytes"),
    ];
    let segment = Synthetic::new(SYSTEM, name(3), BYTES);
    for (spoil, said) in cases {
        let mut bytes = segment.bytes().to_vec();
        spoil(&mut bytes);
        let error = read_segment(&bytes, name(3)).unwrap_err().to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
    assert!(matches!(read_segment(segment.bytes(), name(4)), Err(WalError::Place { .. })));
    assert!(read_partial(&segment.bytes()[..8192], name(3)).is_ok());
}

#[test]
fn rubbish_never_panics() {
    let segment = Synthetic::new(SYSTEM, name(3), BYTES)
        .continuing(9000)
        .point("p", time("10:00:00"))
        .record(10, 0, &[3; 20_000])
        .commit(time("10:00:00"));
    let used = (segment.place().0 - 3 * BYTES) as usize;
    let mut random = blake3::Hasher::new().update(b"rubbish").finalize_xof();
    let mut draw = [0; 8];
    for _ in 0..3000 {
        let mut bytes = segment.bytes()[..used + 8192].to_vec();
        for _ in 0..4 {
            random.fill(&mut draw);
            let [at, with @ ..] = draw.map(usize::from);
            let at = (at * 997 + with[0] * 256 + with[1]) % used;
            bytes[at] = with[2] as u8;
        }
        let cut = bytes.len() - usize::from(draw[7]) * 8;
        drop(read_partial(&bytes[..cut], name(3)));
    }
    // Right sums over wrong records.
    for data in [&[][..], &[255], &[1; 7], &[0xFF; 72]] {
        for (manager, info) in [(0, 0x70), (0, 0), (0, 0x90), (1, 0), (1, 0x30), (1, 0x20)] {
            let odd = Synthetic::new(SYSTEM, name(3), BYTES).record(manager, info, data);
            assert_eq!(facts(&odd, 3).ends, Some(odd.place()));
        }
    }
}

#[test]
fn histories_are_read() {
    let text = b"1\t0/3000000\tno recovery target specified\n\n# said by hand\n2\t0/5000000\tbefore 2026\n";
    let history = read_history(text, 3).unwrap();
    let ancestors: Vec<_> = history.ancestors.iter().map(|of| (of.timeline, of.until.0)).collect();
    assert_eq!(ancestors, [(1, 0x300_0000), (2, 0x500_0000)]);
    for bad in [&b""[..], b"x", b"1", b"1 0", b"3\t0/0\tx", b"0\t0/0", b"2\t0/5\n1\t0/6", b"1\t0/6\n2\t0/5", b"\xFF"] {
        assert!(read_history(bad, 3).is_err(), "{bad:?}");
    }
}

#[test]
fn commits_are_counted_until_a_moment_and_over_the_end() {
    let first = Synthetic::new(SYSTEM, name(3), BYTES).commit(time("10:00:00"));
    let from = first.place();
    let second = first.commit(time("10:00:01")).commit(time("10:00:02"));
    let end = second.place();
    let count = |from, until: &str| commits(&second.bytes(), name(3), from, time(until)).unwrap();
    assert_eq!(count(Lsn(0), "10:00:02"), Commits { count: 3, is_past: false, ends: end });
    assert_eq!(count(from, "10:00:01.5"), Commits { count: 1, is_past: true, ends: end });
    assert_eq!(count(end, "10:00:05"), Commits { count: 0, is_past: false, ends: end });
    assert_eq!(commits(&second.bytes(), name(4), from, time("10:00:01")), None);
    assert_eq!(commits(&&[7; 100][..], name(3), from, time("10:00:01")), None);

    // The last commit goes over the end: it is counted where the next segment is there, and only once.
    let mut filled = Synthetic::new(SYSTEM, name(3), BYTES).commit(time("10:00:00"));
    while filled.room() > 8192 {
        filled = filled.record(10, 0, &[7; 3000]);
    }
    // The header of the record before takes some of it, too.
    let left = filled.room() - 8 - 29;
    let filled = filled.record(10, 0, &vec![7; left]);
    assert_eq!(filled.room(), 8);
    let over = filled.commit(time("10:00:01"));
    let next = over.next(SYSTEM).commit(time("10:00:02"));
    let alone = commits(&over.bytes(), name(3), Lsn(0), time("10:00:05")).unwrap();
    assert_eq!((alone.count, alone.ends), (1, Lsn(4 * BYTES - 8)));
    let both = [over.bytes(), &next.bytes()[..16384]].concat();
    let counted = commits(&both.as_slice(), name(3), Lsn(0), time("10:00:05")).unwrap();
    assert!(counted.count == 2 && counted.ends > Lsn(4 * BYTES), "{counted:?}");
    let behind = commits(&next.bytes(), name(4), Lsn(0), time("10:00:05")).unwrap();
    assert_eq!((behind.count, behind.ends), (1, next.place()));
}
