//! Pieces: what was received of a segment that is still being written, in parts that follow each other.
//!
//! Whoever receives a log stores what it has of the last segment every few seconds. All pieces of one run are parts of
//! one stream of bytes, so only they are put together. Where the whole segment is there, a replay takes that.

use super::{LogFacts, LogFile, LogObject, POINTS_MAX};
use crate::core::id::RunId;
use std::{collections::BTreeMap, fmt};

/// From one place in a segment to another, in bytes from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Where it begins.
    pub from: u32,
    /// Where it ends: the first byte that is no part of it.
    pub to: u32,
}

impl Span {
    /// A span; `None` for one that is empty, or larger than any segment.
    pub fn new(from: u64, to: u64) -> Option<Self> {
        let fits = from < to && to <= *super::SEGMENT_BYTES.end();
        let span = Span { from: u32::try_from(from).ok()?, to: u32::try_from(to).ok()? };
        fits.then_some(span)
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        u64::from(self.to.saturating_sub(self.from))
    }

    /// Reads it as it stands in a name.
    pub(super) fn read(text: &str) -> Option<Self> {
        let (from, to) = text.split_once('-')?;
        let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
        // Only the one way of writing it names an object.
        Span::new(number(from)?, number(to)?).filter(|span| span.to_string() == text)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:08X}-{:08X}", self.from, self.to)
    }
}

/// Pieces of one segment and one run that follow each other from its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The pieces.
    pub objects: Vec<LogObject>,
    /// Where they end.
    pub to: u32,
    /// What they hold together.
    pub facts: LogFacts,
}

impl Chain {
    /// Of the pieces of one segment those that reach furthest.
    pub fn longest<'p>(pieces: impl IntoIterator<Item = &'p (LogObject, LogFacts)>) -> Option<Self> {
        let mut runs: BTreeMap<RunId, BTreeMap<Span, &(LogObject, LogFacts)>> = BTreeMap::new();
        for piece in pieces {
            if let LogFile::Piece(_, span) = piece.0.file {
                runs.entry(piece.0.run).or_default().insert(span, piece);
            }
        }
        let chains = runs.values().filter_map(Chain::of_run);
        // The fewer pieces, the less there is to fetch.
        chains.max_by_key(|chain| (chain.to, std::cmp::Reverse(chain.objects.len())))
    }

    /// The same, where they reach further than a file that has the beginning of the segment, too.
    pub fn beyond<'p>(
        pieces: impl IntoIterator<Item = &'p (LogObject, LogFacts)>,
        partial: Option<&LogFacts>,
    ) -> Option<Self> {
        Chain::longest(pieces).filter(|chain| partial.is_none_or(|partial| partial.ends < chain.facts.ends))
    }

    fn of_run(pieces: &BTreeMap<Span, &(LogObject, LogFacts)>) -> Option<Self> {
        let mut chain = Chain { objects: Vec::new(), to: 0, facts: LogFacts::default() };
        loop {
            let here = Span { from: chain.to, to: 0 }..=Span { from: chain.to, to: u32::MAX };
            let Some((span, (object, facts))) = pieces.range(here).next_back() else { break };
            chain.objects.push(*object);
            chain.to = span.to;
            chain.facts.go_on(facts);
        }
        (!chain.objects.is_empty()).then_some(chain)
    }
}

impl LogFacts {
    /// Adds what the next piece holds.
    fn go_on(&mut self, next: &LogFacts) {
        self.last_begins = next.last_begins.or(self.last_begins);
        self.ends = next.ends.or(self.ends);
        self.first_time = self.first_time.or(next.first_time);
        self.last_time = self.last_time.max(next.last_time);
        self.last_commit = self.last_commit.max(next.last_commit);
        self.commits = self.commits.saturating_add(next.commits);
        self.tablespaces = self.tablespaces.saturating_add(next.tablespaces);
        let room = POINTS_MAX.saturating_sub(self.points.len());
        self.points.extend(next.points.iter().take(room).cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        id::Sha256,
        log::{HistoryId, LogRecord, Lsn, forks},
    };

    fn record(file: &str, run: u8, tag: &str) -> LogRecord {
        let file: LogFile = file.parse().unwrap();
        let LogFile::Piece(_, span) = file else { panic!("{file}") };
        let facts = LogFacts { ends: Some(Lsn(span.to.into())), commits: 1, ..LogFacts::default() };
        let entry = super::super::LogEntry {
            file,
            bytes_raw: span.bytes(),
            size: 300,
            sha256: Sha256([run; 32]),
            content_tag: Some(tag.to_owned()),
            facts,
        };
        LogRecord {
            format: super::super::FORMAT.into(),
            repository: RunId::from_random([3; 16]),
            source: "ledger".parse().unwrap(),
            history: HistoryId { system: 7, timeline: 1 },
            segment_bytes: 1 << 20,
            run: RunId::from_random([run; 16]),
            writer: "SHA256:x".into(),
            created_at: "2026-11-22T10:00:00Z".parse().unwrap(),
            recipients: Vec::new(),
            files: vec![entry],
        }
    }

    /// `1:0-8` for the piece of run 1 from 0 to 8.
    fn records(short: &str) -> Vec<LogRecord> {
        let one = |short: &str| {
            let (run, span) = short.split_once(':').unwrap();
            let (from, to) = span.split_once('-').unwrap();
            let (from, to): (u64, u64) = (from.parse().unwrap(), to.parse().unwrap());
            record(
                &format!("000000010000000000000005.{}.piece", Span::new(from, to).unwrap()),
                run.parse().unwrap(),
                "t",
            )
        };
        short.split_whitespace().map(one).collect()
    }

    fn spans(objects: impl IntoIterator<Item = LogObject>) -> String {
        let span = |object: LogObject| match object.file {
            LogFile::Piece(_, span) => format!("{}:{}-{}", run_number(object.run), span.from, span.to),
            other => other.to_string(),
        };
        objects.into_iter().map(span).collect::<Vec<_>>().join(" ")
    }

    fn run_number(run: RunId) -> u8 {
        (0..9).find(|number| RunId::from_random([*number; 16]) == run).unwrap()
    }

    #[test]
    fn pieces_of_one_run_follow_each_other() {
        for (given, expected) in [
            ("1:0-8", "1:0-8"),
            ("1:0-8 1:8-24 1:24-32", "1:0-8 1:8-24 1:24-32"),
            // A hole ends it; what another run has is no part of it.
            ("1:0-8 1:16-24", "1:0-8"),
            ("1:8-16", ""),
            ("1:0-8 2:8-16", "1:0-8"),
            // The furthest, and of equal ones that with the fewest pieces.
            ("1:0-8 1:8-16 2:0-24", "2:0-24"),
            ("1:0-8 1:8-16 2:0-8", "1:0-8 1:8-16"),
            ("1:0-8 1:8-16 2:0-16", "2:0-16"),
            ("1:0-8 1:0-16 1:16-24", "1:0-16 1:16-24"),
        ] {
            let records = records(given);
            let known: Vec<(LogObject, LogFacts)> =
                records.iter().map(|record| (record.object(&record.files[0]), record.files[0].facts.clone())).collect();
            let chain = Chain::longest(&known);
            let found = spans(chain.iter().flat_map(|chain| chain.objects.clone()));
            assert_eq!(found, expected, "{given}");
            if let Some(chain) = chain {
                assert_eq!(chain.facts.ends, Some(Lsn(chain.to.into())), "{given}");
                assert_eq!(chain.facts.commits as usize, chain.objects.len(), "{given}");
            }
            assert!(records.iter().all(|record| record.contradiction().is_none()), "{given}");
        }
    }

    #[test]
    fn only_what_certainly_differs_is_a_fork() {
        let name = "000000010000000000000005.00000000-00000010.piece";
        let (one, same, other) = (record(name, 1, "t"), record(name, 2, "t"), record(name, 3, "u"));
        let mut unknown = record(name, 4, "t");
        unknown.files[0].content_tag = None;
        assert_eq!(forks([&one, &same, &unknown]), Vec::new());
        assert!(forks([&one, &other])[0].certain);
    }

    #[test]
    fn spans_that_are_none() {
        for bad in [
            "0-8",
            "00000000-00000000",
            "00000008-00000000",
            "00000000-40000001",
            "00000000-0000000a",
            "-",
            "+0000000-00000008",
        ] {
            assert_eq!(Span::read(bad), None, "{bad}");
        }
        let span = Span::read("00000010-0000001A").unwrap();
        assert_eq!((span.bytes(), span.to_string().as_str()), (10, "00000010-0000001A"));
        // A record's piece must have as many bytes as its name says.
        let mut wrong = records("1:0-8").remove(0);
        wrong.files[0].bytes_raw = 9;
        assert!(wrong.contradiction().is_some());
    }
}
