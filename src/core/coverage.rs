//! Which moments the log on the stores brings back: runs of segments that follow each other, the holes between them,
//! and how far everything that was committed is safe.

use super::{
    id::SnapshotId,
    log::{self, Ancestor, HistoryId, LogFacts, LogFile, LogObject, LogRange, Lsn, SegmentName, ServerTime},
    prune::end_of,
};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A file of a log as the stores show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredFile {
    /// The stores that hold it, by name.
    pub stores: BTreeSet<String>,
    /// Whether they are enough.
    pub durable: bool,
    /// What is in it, where its record was read.
    pub facts: LogFacts,
}

/// The log of one system as the stores show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLog {
    /// The system identifier.
    pub system: u64,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// The files.
    pub files: BTreeMap<LogFile, StoredFile>,
}

/// A snapshot that the log can be replayed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// What it needs of the log.
    pub range: LogRange,
}

/// All moments of a window can be brought back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogWindow {
    /// The first: the end of a snapshot.
    pub from: ServerTime,
    /// The last commit that can be reached.
    pub to: ServerTime,
    /// Where the log is at the first.
    pub from_position: Lsn,
    /// Where its last whole record ends.
    pub to_position: Lsn,
    /// How many snapshots it has.
    pub snapshots: u64,
}

/// Segments that no store shows, though there is log after them or a snapshot needs them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogGap {
    /// The first.
    pub first: SegmentName,
    /// The last.
    pub last: SegmentName,
    /// How many.
    pub segments: u64,
    /// The last moment before them, where a record tells one.
    pub after: Option<ServerTime>,
    /// The first moment after them, where a record tells one.
    pub before: Option<ServerTime>,
    /// Whether the newest snapshot needs them, or what came after it.
    pub since_newest_snapshot: bool,
}

/// Files that follow each other and are on too few stores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ThinFiles {
    /// The first.
    pub first: LogFile,
    /// The last.
    pub last: LogFile,
    /// How many.
    pub files: u64,
    /// The stores that hold them, by name.
    pub stores: Vec<String>,
}

/// One timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogHistory {
    /// System and timeline.
    pub history: HistoryId,
    /// What it grew out of, where that is known.
    pub grew_from: Option<Ancestor>,
    /// How many of its segments there are.
    pub segments: u64,
    /// The last of them.
    pub newest: Option<SegmentName>,
    /// What can be brought back, oldest first. A window may begin on an ancestor.
    pub windows: Vec<LogWindow>,
    /// The holes, oldest first.
    pub gaps: Vec<LogGap>,
    /// What is on too few stores.
    pub thin: Vec<ThinFiles>,
}

/// How far everything that was committed is safe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Covered {
    /// The timeline.
    pub timeline: u32,
    /// Where the files that enough stores hold end.
    pub at: Lsn,
    /// The latest moment that they, or the snapshot, tell.
    pub time: ServerTime,
    /// Whether a record ends exactly there, so that none goes on behind it.
    pub is_whole: bool,
    /// The segments of which `at` and `time` were told, oldest first.
    pub segments: Vec<SegmentName>,
}

/// A timeline with its ancestors, the oldest first; each with where it begins.
type Chain = Vec<(u32, Lsn)>;

impl StoredLog {
    /// Adds what pieces of segments hold together: it counts as the beginning of a segment of which there is no more.
    pub fn add_pieces(&mut self, pieces: &[(LogObject, StoredFile)]) {
        let mut by_segment: BTreeMap<SegmentName, Vec<(LogObject, LogFacts)>> = BTreeMap::new();
        for (object, stored) in pieces {
            if let LogFile::Piece(name, _) = object.file {
                by_segment.entry(name).or_default().push((*object, stored.facts.clone()));
            }
        }
        for (name, known) in by_segment {
            let partial = self.files.get(&LogFile::Partial(name)).map(|stored| &stored.facts);
            let Some(chain) = log::Chain::beyond(&known, partial) else { continue };
            let mut parts =
                pieces.iter().filter(|(object, _)| chain.objects.contains(object)).map(|(_, stored)| stored);
            let Some(first) = parts.next().cloned() else { continue };
            // A store holds it that holds all of them.
            let together = parts.fold(first, |all, part| StoredFile {
                stores: all.stores.intersection(&part.stores).cloned().collect(),
                durable: all.durable && part.durable,
                facts: all.facts,
            });
            self.files.insert(LogFile::Partial(name), StoredFile { facts: chain.facts, ..together });
        }
    }

    fn timelines(&self) -> BTreeSet<u32> {
        self.files.keys().map(LogFile::timeline).collect()
    }

    fn grew_from(&self, timeline: u32) -> Option<Ancestor> {
        let grew_from = self.files.get(&LogFile::History(timeline))?.facts.grew_from?;
        // What a signer who lies may say; the way to the oldest must end.
        (grew_from.timeline < timeline).then_some(grew_from)
    }

    fn chain(&self, timeline: u32) -> Chain {
        let (mut chain, mut current) = (Chain::new(), timeline);
        while let Some(ancestor) = self.grew_from(current) {
            chain.push((current, ancestor.until));
            current = ancestor.timeline;
        }
        chain.push((current, Lsn(0)));
        chain.reverse();
        chain
    }

    /// The timelines of a chain that a segment may belong to, the newest first: the one in which a timeline ends is
    /// still its own.
    fn owners<'c>(&self, chain: &'c Chain, number: u64) -> impl Iterator<Item = u32> + use<'c> {
        let bytes = self.segment_bytes;
        let owns = move |at: usize| {
            let ends = chain.get(at + 1).map_or(u64::MAX, |(_, until)| until.0 / bytes);
            chain[at].1.0 / bytes <= number && number <= ends
        };
        (0..chain.len()).rev().filter(move |at| owns(*at)).map(|at| chain[at].0)
    }

    /// A segment of a chain. The beginning of one counts where it is the last of its log.
    fn segment(&self, chain: &Chain, number: u64) -> Option<(SegmentName, &StoredFile)> {
        let name = |timeline| SegmentName::of_number(timeline, number, self.segment_bytes);
        self.owners(chain, number).map(name).find_map(|name| Some((name, self.files.get(&LogFile::Segment(name))?)))
    }

    /// The numbers of the segments of a chain that some store shows.
    fn numbers(&self, chain: &Chain) -> BTreeSet<u64> {
        let number = |file: &LogFile| match file {
            LogFile::Segment(name) => {
                let number = name.number(self.segment_bytes)?;
                self.owners(chain, number).any(|timeline| timeline == name.timeline).then_some(number)
            }
            _ => None,
        };
        self.files.keys().filter_map(number).collect()
    }

    fn numbers_of(&self, range: &LogRange) -> (u64, u64) {
        let bytes = self.segment_bytes;
        (range.start.0 / bytes, (range.stop.0.saturating_sub(1) / bytes).max(range.start.0 / bytes))
    }

    /// Whether a chain leads through a snapshot.
    fn has(&self, chain: &Chain, range: &LogRange) -> bool {
        let fits = range.history.system == self.system && range.segment_bytes == self.segment_bytes;
        let at = chain.iter().position(|(timeline, _)| *timeline == range.history.timeline);
        fits && at.is_some_and(|at| chain.get(at + 1).is_none_or(|(_, until)| *until >= range.stop))
    }

    /// How far everything is safe that was committed on a timeline, or on the newest one that leads on from a snapshot;
    /// `None` where the snapshot's own part of the log is not.
    pub fn covered(&self, range: &LogRange, timeline: Option<u32>) -> Option<Covered> {
        let leads_on = |timeline: &u32| self.has(&self.chain(*timeline), range);
        let newest = || self.timelines().into_iter().rev().find(leads_on);
        let timeline = timeline.filter(leads_on).or_else(newest)?;
        let chain = self.chain(timeline);
        let (first, last) = self.numbers_of(range);
        let mut covered =
            Covered { timeline, at: range.stop, time: range.stopped_at, is_whole: true, segments: Vec::new() };
        let durable = |number| self.segment(&chain, number).filter(|(_, stored)| stored.durable);
        for number in first..last {
            durable(number)?;
        }
        let mut number = last;
        while let Some((name, stored)) = durable(number) {
            number = number.checked_add(1)?;
            covered.at = Lsn(number.saturating_mul(self.segment_bytes));
            covered.is_whole = stored.facts.ends == Some(covered.at);
            covered.time = covered.time.max(stored.facts.last_time.unwrap_or(covered.time));
            covered.segments.push(name);
        }
        if covered.segments.is_empty() {
            return None;
        }
        self.add_partial(&chain, number, &mut covered);
        Some(covered)
    }

    /// The beginning of the next segment, where it is all there is.
    fn add_partial(&self, chain: &Chain, number: u64, covered: &mut Covered) {
        let name = SegmentName::of_number(covered.timeline, number, self.segment_bytes);
        let partial = self.files.get(&LogFile::Partial(name)).filter(|stored| stored.durable);
        if let (Some(stored), None) = (partial, self.segment(chain, number)) {
            if let Some(ends) = stored.facts.ends.filter(|ends| *ends > covered.at) {
                (covered.at, covered.is_whole) = (ends, true);
            }
            covered.time = covered.time.max(stored.facts.last_time.unwrap_or(covered.time));
        }
    }

    /// Every timeline with its windows, gaps and thin places.
    pub fn histories(&self, anchors: &[Anchor]) -> Vec<LogHistory> {
        let mut named = BTreeSet::new();
        let snapshots = anchors.iter().filter(|anchor| anchor.range.history.system == self.system);
        let timelines = self.timelines().into_iter().chain(snapshots.map(|anchor| anchor.range.history.timeline));
        let timelines: BTreeSet<u32> = timelines.collect();
        // What lies before all snapshots is of no use to any: a prune takes it away.
        let first = anchors.iter().filter(|anchor| anchor.range.history.system == self.system);
        let first = first.map(|anchor| anchor.range.start).min().unwrap_or_default();
        let mut histories = Vec::new();
        for timeline in timelines {
            let survey = Survey::new(self, anchors, timeline);
            // What a timeline has of its ancestors was named with them.
            let gaps = survey.gaps().into_iter().filter(|gap| named.insert(gap.first)).collect();
            let segment = |file: &LogFile| match file {
                LogFile::Segment(name) if name.timeline == timeline => Some(*name),
                _ => None,
            };
            let segments = self.files.keys().filter_map(segment);
            histories.push(LogHistory {
                history: HistoryId { system: self.system, timeline },
                grew_from: self.grew_from(timeline),
                segments: segments.clone().count() as u64,
                newest: segments.max(),
                windows: survey.windows(),
                gaps,
                thin: self.thin(timeline, first),
            });
        }
        histories
    }

    fn thin(&self, timeline: u32, first: Lsn) -> Vec<ThinFiles> {
        let mut thin: Vec<ThinFiles> = Vec::new();
        let mut previous = None;
        for (file, stored) in self.files.iter().filter(|(file, _)| file.timeline() == timeline) {
            // A note of a backup is for people; no replay asks for it.
            let is_over = match file {
                LogFile::BackupNote(..) => true,
                // All of the segment is there.
                LogFile::Partial(name) if self.files.contains_key(&LogFile::Segment(*name)) => true,
                file => end_of(*file, self.segment_bytes).is_some_and(|end| end <= first),
            };
            if stored.durable || is_over {
                continue;
            }
            let stores: Vec<String> = stored.stores.iter().cloned().collect();
            let follows = |last: LogFile| match (last, file) {
                (LogFile::Segment(last), LogFile::Segment(name)) => last.next(self.segment_bytes) == Some(*name),
                _ => false,
            };
            match thin.last_mut().filter(|last| last.stores == stores && previous.is_some_and(follows)) {
                Some(last) => (last.last, last.files) = (*file, last.files + 1),
                None => thin.push(ThinFiles { first: *file, last: *file, files: 1, stores }),
            }
            previous = Some(*file);
        }
        thin
    }
}

/// One timeline with its past.
struct Survey<'l> {
    log: &'l StoredLog,
    chain: Chain,
    timeline: u32,
    /// The snapshots on the way, by where they begin.
    anchors: Vec<&'l Anchor>,
    /// The newest of all, where it is on the way: else the log has gone on elsewhere.
    newest: Option<&'l Anchor>,
    /// Runs of segments without a hole: the first and the last number of each.
    runs: Vec<(u64, u64)>,
}

impl<'l> Survey<'l> {
    fn new(log: &'l StoredLog, anchors: &'l [Anchor], timeline: u32) -> Self {
        let chain = log.chain(timeline);
        let of_system = anchors.iter().filter(|anchor| anchor.range.history.system == log.system);
        let newest = of_system.max_by_key(|anchor| anchor.snapshot).filter(|anchor| log.has(&chain, &anchor.range));
        let mut anchors: Vec<&Anchor> = anchors.iter().filter(|anchor| log.has(&chain, &anchor.range)).collect();
        anchors.sort_by_key(|anchor| (anchor.range.start, anchor.range.stop));
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for number in log.numbers(&chain) {
            match runs.last_mut().filter(|(_, last)| *last + 1 == number) {
                Some((_, last)) => *last = number,
                None => runs.push((number, number)),
            }
        }
        Survey { log, chain, timeline, anchors, newest, runs }
    }

    fn windows(&self) -> Vec<LogWindow> {
        let own = self.chain.last().map_or(0, |(_, begins)| begins.0 / self.log.segment_bytes);
        let reaches = |(_, last): &&(u64, u64)| *last >= own;
        self.runs.iter().filter(reaches).filter_map(|(first, last)| self.window(*first, *last)).collect()
    }

    fn window(&self, first: u64, last: u64) -> Option<LogWindow> {
        let is_in = |anchor: &&&Anchor| {
            let (from, to) = self.log.numbers_of(&anchor.range);
            first <= from && to <= last
        };
        let within: Vec<&&Anchor> = self.anchors.iter().filter(is_in).collect();
        let opening = within.iter().min_by_key(|anchor| anchor.range.stop)?;
        let (begin, _) = self.log.numbers_of(&opening.range);
        let mut window = LogWindow {
            from: opening.range.stopped_at,
            to: within.iter().map(|anchor| anchor.range.stopped_at).max()?,
            from_position: opening.range.stop,
            to_position: within.iter().map(|anchor| anchor.range.stop).max()?,
            snapshots: within.len() as u64,
        };
        let next = SegmentName::of_number(self.timeline, last.saturating_add(1), self.log.segment_bytes);
        let partial = self.log.files.get(&LogFile::Partial(next));
        let whole = (begin..=last).filter_map(|number| self.log.segment(&self.chain, number));
        for stored in whole.map(|(_, stored)| stored).chain(partial) {
            window.to = window.to.max(stored.facts.last_commit.unwrap_or(window.to));
            window.to_position = window.to_position.max(stored.facts.ends.unwrap_or(window.to_position));
        }
        Some(window)
    }

    /// What lies before the first snapshot is of no use, and no loss.
    fn gaps(&self) -> Vec<LogGap> {
        let needed = |anchor: &&Anchor| self.log.numbers_of(&anchor.range);
        let Some(first) = self.anchors.iter().map(|anchor| needed(anchor).0).min() else { return Vec::new() };
        let newest = self.newest.as_ref().map(|anchor| needed(anchor).0);
        let end = self.anchors.iter().map(|anchor| needed(anchor).1).max().unwrap_or(first);
        let mut gaps = Vec::new();
        let mut expected = first;
        for (from, to) in self.runs.iter().copied().chain([(end.saturating_add(1), end)]) {
            if from > expected {
                gaps.push(self.gap(expected, from - 1, newest));
            }
            expected = expected.max(to.saturating_add(1));
        }
        gaps
    }

    fn gap(&self, first: u64, last: u64, newest: Option<u64>) -> LogGap {
        let name = |number| {
            let timeline = self.log.owners(&self.chain, number).next().unwrap_or(self.timeline);
            SegmentName::of_number(timeline, number, self.log.segment_bytes)
        };
        let facts = |number: Option<u64>| Some(&self.log.segment(&self.chain, number?)?.1.facts);
        LogGap {
            first: name(first),
            last: name(last),
            segments: last - first + 1,
            after: facts(first.checked_sub(1)).and_then(|facts| facts.last_time),
            before: facts(last.checked_add(1)).and_then(|facts| facts.first_time),
            since_newest_snapshot: newest.is_some_and(|newest| last >= newest),
        }
    }
}

#[cfg(test)]
mod tests;
