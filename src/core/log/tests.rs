//! Names, places and records, written and read.

use super::*;

#[test]
fn places() {
    for (text, place) in [("0/0", 0), ("0/16B3748", 0x16B_3748), ("16/B374D848", 0x16_B374_D848), ("ff/0", 0xFF << 32)]
    {
        assert_eq!(text.parse::<Lsn>().unwrap(), Lsn(place));
    }
    assert_eq!(Lsn(0x16_B374_D848).to_string(), "16/B374D848");
    for bad in ["", "/", "1", "1/", "/1", "+1/0", "0x1/0", "1/123456789", "1/2/3", "g/0"] {
        assert!(bad.parse::<Lsn>().is_err(), "{bad}");
    }
}

#[test]
fn names_of_files() {
    for text in [
        "000000010000000000000001",
        "0000000A000000FF000000FE.partial",
        "00000001.history",
        "00000002.history",
        "000000010000000000000002.00000028.backup",
        "0000000A0000000000000002.00000000-00012000.piece",
    ] {
        let file: LogFile = text.parse().unwrap();
        assert_eq!((file.to_string().as_str(), LogFile::from_key(&file.key())), (text, Some(file)));
        assert!(file.key() == text.to_lowercase() && (text == file.key() || LogFile::from_key(text).is_none()));
    }
    for bad in [
        "",
        "00000000.history",
        "00000002.History",
        "2.history",
        "00000000000000000000000",
        "000000000000000000000001",
        "00000001000000000000000a",
        "000000010000000000000001.",
        "000000010000000000000001.gz",
        "000000010000000000000001.partial.gz",
        "000000010000000000000001.28.backup",
        "000000010000000000000001.00000010-00000010.piece",
        "000000010000000000000001.piece",
        "../00000001000000000000",
        "archive_status",
    ] {
        assert!(bad.parse::<LogFile>().is_err(), "{bad}");
    }
}

#[test]
fn segments_and_their_places() {
    for megabytes in [1, 16, 64, 1024] {
        let bytes = megabytes << 20;
        for at in [0, 1, bytes - 1, bytes, (1 << 32) - 1, 1 << 32, (7 << 32) + 3 * bytes] {
            let name = SegmentName::holding(3, Lsn(at), bytes);
            let start = name.start(bytes).unwrap();
            assert!(start.0 <= at && at - start.0 < bytes, "{name}");
            assert_eq!(name.next(bytes).unwrap().start(bytes).unwrap().0, start.0 + bytes);
            assert_eq!(name.to_string().parse::<SegmentName>().unwrap(), name);
        }
    }
    let beyond: SegmentName = "000000010000000000000100".parse().unwrap();
    assert_eq!(beyond.number(16 << 20), None);
    assert_eq!(beyond.number(1 << 20), Some(256));
}

#[test]
fn ranges_name_their_segments() {
    let range = |start, stop| LogRange {
        history: "7301234567890123456-00000001".parse().unwrap(),
        segment_bytes: 16 << 20,
        start: Lsn(start),
        stop: Lsn(stop),
        stopped_at: "2026-11-22T10:00:00.000001Z".parse().unwrap(),
        next_transaction: None,
    };
    let names = |range: LogRange| range.segments().map(|name| name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(range(0x200_0028, 0x200_0100)), ["000000010000000000000002"]);
    assert_eq!(names(range(0x200_0028, 0x300_0000)), ["000000010000000000000002"]);
    assert_eq!(names(range(0x200_0028, 0x300_0001)), ["000000010000000000000002", "000000010000000000000003"]);
    assert!(range(2, 1).contradiction().is_some());
    // And those after them that end at a place or before it.
    let until = |place| range(0x200_0028, 0x300_0000).numbers_until(Lsn(place));
    assert_eq!([0, 0x300_0000, 0x3FF_FFFF].map(until), [2..=2, 2..=2, 2..=2]);
    assert_eq!([0x400_0000, 0x500_0001].map(until), [2..=3, 2..=4]);
    assert_eq!([0x200_0028, 0x2FF_FFFF].map(|start| range(start, start + 1).first_ends()), [Lsn(0x300_0000); 2]);
}

#[test]
fn moments_of_the_log() {
    let text = "2026-11-22T10:00:00.000001Z";
    let moment: ServerTime = text.parse().unwrap();
    assert_eq!(moment.to_string(), text);
    assert_eq!(ServerTime::from_log(0).unwrap().to_string(), "2000-01-01T00:00:00.000000Z");
    assert_eq!(ServerTime::from_log(-1).unwrap().to_string(), "1999-12-31T23:59:59.999999Z");
    assert_eq!((ServerTime::from_log(i64::MAX), ServerTime::from_log(i64::MIN)), (None, None));
}

#[test]
fn histories() {
    let text = "7301234567890123456-0000000A";
    let history: HistoryId = text.parse().unwrap();
    assert_eq!((history.to_string().as_str(), HistoryId::from_key(&history.key())), (text, Some(history)));
    assert_eq!(HistoryId::from_key(text), None);
    for bad in ["7301234567890123456", "7301234567890123456-A", "07-00000001", "+7-00000001", "7-0000000a"] {
        assert!(bad.parse::<HistoryId>().is_err(), "{bad}");
    }
}
