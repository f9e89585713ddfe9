//! How a server and the directory of its log look to whoever watches over them. Nothing here waits for long, and nothing
//! is changed.

use super::{
    Server,
    control::Control,
    session::Session,
    wal::{
        self, FileText, Joined, LONG_HEADER_BYTES, SHORT_HEADER_BYTES, SegmentHeader, Text, Until,
        commits::{self, TAIL_BYTES},
    },
};
use crate::{
    core::{
        log::{HistoryId, LogFacts, LogFile, Lsn, SegmentName, ServerTime},
        server::{LogDirectory, Watched},
        time::Timestamp,
    },
    world::files,
};
use chrono::{DateTime, Utc};
use std::{
    fs::{self, File},
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

/// The most names of `archive_status` that are looked at.
const NAMES_MAX: usize = 1_000_000;
/// The most of the log that is read to find out whether something was committed.
const READ_BYTES_MAX: u64 = 64 << 20;
static NOTHING: &[u8] = &[];
/// Bytes of the largest page that a server may be built with.
const PAGE_BYTES_MAX: u64 = 64 << 10;

/// Looks at the directory, then asks the server.
pub(super) fn look(data_dir: &Path, server: &Server, patience: Duration, now: Timestamp) -> Watched {
    let control = Control::read(data_dir).map(|(control, _)| control);
    let directory = directory(data_dir, control.as_ref().ok(), now);
    let asked = control.and_then(|control| {
        let session = Session::open_within(data_dir, server, patience)?;
        session.facts(data_dir, control.system, patience)
    });
    let server = asked.map_err(|failure| match &failure.cause {
        Some(cause) => format!("{}: {cause}", failure.message),
        None => failure.message.clone(),
    });
    Watched { directory, server }
}

fn directory(data_dir: &Path, control: Option<&Control>, now: Timestamp) -> LogDirectory {
    let wal = data_dir.join("pg_wal");
    let status = wal.join("archive_status");
    let entries = fs::read_dir(&status).into_iter().flatten().take(NAMES_MAX).flatten();
    let (mut waiting, mut oldest) = (0, None::<LogFile>);
    for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
        let Some(Ok(file)) = name.strip_suffix(".ready").map(str::parse) else { continue };
        waiting += 1;
        oldest = Some(oldest.map_or(file, |oldest| oldest.min(file)));
    }
    let since = oldest.and_then(|file| fs::metadata(status.join(format!("{file}.ready"))).ok()?.modified().ok());
    let age = since.map(|since| now.seconds_since(Timestamp::new(DateTime::<Utc>::from(since))));
    LogDirectory {
        history: control.map(|control| HistoryId { system: control.system, timeline: control.timeline }),
        segment_bytes: control.map_or(0, |control| control.wal_segment_bytes),
        waiting,
        oldest_seconds: age.map(|seconds| seconds.max(0.0) as u64),
        free_bytes: files::free_bytes(&wal).ok(),
    }
}

/// The segments of a directory's log in which something was written between two places.
struct Stretch {
    wal: PathBuf,
    history: HistoryId,
    segment_bytes: u64,
    from: Lsn,
    to: Lsn,
}

impl Stretch {
    /// From the end of a record at `from` up to `to`, where the server writes its next one. `None` where that would be too
    /// much to read, or nobody knows whose directory it is.
    fn of(data_dir: &Path, history: HistoryId, (from, to): (Lsn, Lsn)) -> Option<Self> {
        let (control, _) = Control::read(data_dir).ok()?;
        let segment_bytes = control.wal_segment_bytes;
        let to = end_of_records(to, segment_bytes).max(from);
        let wal = data_dir.join("pg_wal");
        (to.0 - from.0 <= READ_BYTES_MAX).then_some(Stretch { wal, history, segment_bytes, from, to })
    }

    /// The numbers of its segments.
    fn numbers(&self) -> Range<u64> {
        let first = self.from.0 / self.segment_bytes;
        if self.to == self.from { first..first } else { first..self.to.0.div_ceil(self.segment_bytes) }
    }

    fn name(&self, number: u64) -> SegmentName {
        SegmentName::of_number(self.history.timeline, number, self.segment_bytes)
    }

    /// Up to where there is something in a segment.
    fn end(&self, number: u64) -> Lsn {
        Lsn((number + 1) * self.segment_bytes).min(self.to)
    }

    /// What is written of a segment, at most so many bytes: the file, and how many.
    fn open(&self, number: u64, most: u64) -> Option<(File, u64)> {
        let written = self.end(number).0 - number * self.segment_bytes;
        open(&self.wal.join(self.name(number).to_string()), self.segment_bytes, written.min(most))
    }

    fn is_ours(&self, header: &SegmentHeader) -> bool {
        header.system == self.history.system && header.segment_bytes == self.segment_bytes
    }
}

/// How many transactions the log in a directory commits from the end of a record at `from` up to `to`; `None` where that
/// is not certain: something was removed, is not written yet, or would be too much to read.
pub(super) fn commits_between(data_dir: &Path, history: HistoryId, from: Lsn, to: Lsn) -> Option<u64> {
    let stretch = Stretch::of(data_dir, history, (from, to))?;
    let mut commits = 0;
    for number in stretch.numbers() {
        let (file, bytes) = stretch.open(number, u64::MAX)?;
        let offset = from.0.saturating_sub(number * stretch.segment_bytes);
        let (header, facts) = behind(&FileText::new(&file, bytes), stretch.name(number), offset)?;
        // What begins in one segment and ends in the next would be counted in neither.
        if !stretch.is_ours(&header) || facts.ends? < stretch.end(number) {
            return None;
        }
        commits += facts.commits;
    }
    Some(commits)
}

/// How many transactions the log in a directory commits until a moment, of those whose record begins at `from` or behind
/// it; `None` where that is not certain. The server writes its next record at `to`.
pub(super) fn commits_until(
    data_dir: &Path,
    history: HistoryId,
    (from, to): (Lsn, Lsn),
    until: ServerTime,
) -> Option<u64> {
    let stretch = Stretch::of(data_dir, history, (from, to))?;
    let mut count = 0;
    for number in stretch.numbers() {
        let (file, bytes) = stretch.open(number, u64::MAX)?;
        let own = FileText::new(&file, bytes);
        let follows = number + 1 < stretch.numbers().end;
        let next = if follows { Some(stretch.open(number + 1, TAIL_BYTES as u64)?) } else { None };
        let next = next.as_ref().map(|(file, bytes)| FileText::new(file, *bytes));
        let text = Joined(&own, next.as_ref().map_or(&NOTHING, |next| next));
        let header = SegmentHeader::of_text(&own, stretch.name(number)).ok()?;
        let found = commits::commits(&text, stretch.name(number), from, until)?;
        if !stretch.is_ours(&header) {
            return None;
        }
        count += found.count;
        if found.is_past {
            return Some(count);
        }
        if found.ends < stretch.end(number) {
            return None;
        }
    }
    Some(count)
}

/// What a segment holds behind an offset, at which a record must end; the caller says so, and is not believed.
fn behind(text: &dyn Text, name: SegmentName, offset: u64) -> Option<(SegmentHeader, LogFacts)> {
    let (header, facts, _) = wal::read_text(text, name, offset).ok()?;
    if offset > 0 {
        let from = usize::try_from(offset).ok().filter(|from| *from <= text.length())?;
        let (_, _, written) = wal::read_text(&Until(text, from), name, 0).ok()?;
        return (written == offset).then_some((header, facts));
    }
    Some((header, facts))
}

/// Where the records before a place end: a server that has filled a page says where the next record would begin.
fn end_of_records(at: Lsn, segment_bytes: u64) -> Lsn {
    const PAGE_BYTES: u64 = 8192;
    let (first, other) = (LONG_HEADER_BYTES as u64, SHORT_HEADER_BYTES as u64);
    if at.0 % segment_bytes == first {
        Lsn(at.0 - first)
    } else if at.0 % PAGE_BYTES == other && at.0 % segment_bytes > PAGE_BYTES {
        Lsn(at.0 - other)
    } else {
        at
    }
}

/// A segment, and the bytes of its pages up to an offset: it may be large, and what is written of it may be little.
fn open(path: &Path, segment_bytes: u64, until: u64) -> Option<(File, u64)> {
    let file = files::open_regular(path).ok()?;
    let is_whole = file.metadata().is_ok_and(|found| found.len() == segment_bytes);
    is_whole.then_some((file, until.next_multiple_of(PAGE_BYTES_MAX).min(segment_bytes)))
}

/// Whether a segment waits to be archived.
pub(super) fn is_waiting(data_dir: &Path, name: SegmentName) -> bool {
    data_dir.join("pg_wal/archive_status").join(format!("{name}.ready")).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_at_the_beginning_of_a_page_are_the_end_of_the_one_before() {
        const SEGMENT: u64 = 1 << 24;
        for (at, end) in [
            (3 * SEGMENT + 40, 3 * SEGMENT),
            (3 * SEGMENT + 8192 + 24, 3 * SEGMENT + 8192),
            (3 * SEGMENT + 24, 3 * SEGMENT + 24),
            (3 * SEGMENT + 8192 + 40, 3 * SEGMENT + 8192 + 40),
            (3 * SEGMENT + 1000, 3 * SEGMENT + 1000),
        ] {
            assert_eq!(end_of_records(Lsn(at), SEGMENT), Lsn(end), "{at:x}");
        }
    }

    #[test]
    fn commits_are_counted_where_that_is_certain() {
        let dir = tempfile::tempdir().unwrap();
        let history = HistoryId { system: 7, timeline: 1 };
        // Without a control file nobody knows whose directory it is.
        assert_eq!(commits_between(dir.path(), history, Lsn(1 << 20), Lsn(2 << 20)), None);
        let path = dir.path().join("segment");
        fs::write(&path, vec![7; 1 << 20]).unwrap();
        assert_eq!(open(&path, 1 << 20, 1).map(|(_, bytes)| bytes), Some(64 << 10));
        assert_eq!(open(&path, 1 << 20, 1 << 20).map(|(_, bytes)| bytes), Some(1 << 20));
        assert!(open(&path, 2 << 20, 1).is_none());
        assert!(open(&dir.path().join("gone"), 1 << 20, 1).is_none());
    }

    #[test]
    fn the_oldest_file_that_waits_says_how_long() {
        let dir = tempfile::tempdir().unwrap();
        let status = dir.path().join("pg_wal/archive_status");
        fs::create_dir_all(&status).unwrap();
        let names = ["000000010000000000000003.ready", "000000010000000000000002.ready", "x.ready", "1.done"];
        for name in names.iter().chain(&["000000010000000000000001.done"]) {
            fs::write(status.join(name), "").unwrap();
        }
        let since = fs::metadata(status.join(names[1])).unwrap().modified().unwrap();
        let now = Timestamp::new(DateTime::<Utc>::from(since + Duration::from_secs(90)));
        let found = directory(dir.path(), None, now);
        assert_eq!((found.waiting, found.oldest_seconds), (2, Some(90)));
        assert!(found.free_bytes.is_some());
        assert!(is_waiting(dir.path(), "000000010000000000000003".parse().unwrap()));
        assert!(!is_waiting(dir.path(), "000000010000000000000001".parse().unwrap()));
    }
}
