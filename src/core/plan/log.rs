//! Which files of a log a restore replays: an exact list, made before anything is touched.

use crate::core::{
    id::{RepositoryId, RunId, SourceName},
    log::ServerTime,
    log::{Ancestor, Chain, HistoryId, LogFacts, LogFile, LogObject, LogRecord, Lsn, SegmentName, forks},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// The value of `format` in every plan that this version reads and writes.
pub const FORMAT: &str = "recoup-log-plan/1";

/// The most bytes of a plan: enough for millions of segments.
pub const BYTES_MAX: u64 = 1 << 30;

/// What a timeline grew out of, as its history file tells: its ancestors, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineHistory {
    /// The ancestors.
    pub ancestors: Vec<Ancestor>,
}

/// The files that a replay needs, and no others: inside of the list a file that cannot be had is an error, outside of
/// it there is nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPlan {
    /// [`FORMAT`].
    pub format: String,
    /// The repository.
    pub repository: RepositoryId,
    /// The source.
    pub source: SourceName,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// The files, by timeline and name.
    pub files: Vec<LogObject>,
    /// Where the replay ends.
    pub end: PlanEnd,
}

/// Where a replay ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanEnd {
    /// The history in which it ends.
    pub history: HistoryId,
    /// The place up to which whole records are known to be there.
    pub at: Lsn,
    /// The time of the last commit that is known to be there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_commit: Option<ServerTime>,
    /// Whether something after the wanted time or place is in it. Without that the server must be told to replay all there is.
    pub passes_target: bool,
}

/// What a plan says of a file that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Planned<'p> {
    /// It is needed.
    Needed(&'p LogObject),
    /// Its beginning is all there is of it, in so many parts; the rest is empty.
    Beginning(Vec<&'p LogObject>),
    /// It is past the end, or of no timeline that leads to it.
    Past,
    /// It lies inside of what the plan covers, and is not in it.
    Inside,
}

impl LogPlan {
    /// Why it cannot be right, if so.
    pub fn contradiction(&self) -> Option<&'static str> {
        let size = self.segment_bytes;
        if self.format != FORMAT {
            Some("its format is not the one this version reads")
        } else if !size.is_power_of_two() || !crate::core::log::SEGMENT_BYTES.contains(&size) {
            Some("its segments are of no size that segments have")
        } else if self
            .files
            .iter()
            .any(|object| object.bytes_raw > size || object.history.system != self.end.history.system)
        {
            Some("one of its files cannot belong to it")
        } else if !self.pieces_follow() {
            Some("its pieces do not follow each other")
        } else {
            None
        }
    }

    /// Whether the pieces of every segment begin where it does, and go on where the one before ends.
    fn pieces_follow(&self) -> bool {
        let mut ends: BTreeMap<SegmentName, u32> = BTreeMap::new();
        self.files.iter().all(|object| match object.file {
            LogFile::Piece(name, span) => {
                let end = ends.entry(name).or_default();
                let follows = *end == span.from && span.bytes() == object.bytes_raw;
                *end = span.to;
                follows && u64::from(span.to) <= self.segment_bytes
            }
            _ => true,
        })
    }

    /// The files as a server asks for them, each with what it is put together from.
    pub fn served(&self) -> BTreeMap<LogFile, Vec<&LogObject>> {
        let mut served: BTreeMap<LogFile, Vec<&LogObject>> = BTreeMap::new();
        for object in &self.files {
            let file = match object.file {
                LogFile::Partial(name) | LogFile::Piece(name, _) => LogFile::Segment(name),
                file => file,
            };
            served.entry(file).or_default().push(object);
        }
        served
    }

    /// What it says of a file.
    pub fn find(&self, file: LogFile) -> Planned<'_> {
        if let Some(object) = self.files.iter().find(|object| object.file == file) {
            return Planned::Needed(object);
        }
        let LogFile::Segment(name) = file else { return Planned::Past };
        let is_part = |object: &&LogObject| match object.file {
            LogFile::Partial(of) | LogFile::Piece(of, _) => of == name,
            _ => false,
        };
        let parts: Vec<&LogObject> = self.files.iter().filter(is_part).collect();
        if !parts.is_empty() {
            return Planned::Beginning(parts);
        }
        let numbers = self.files.iter().filter_map(|object| match object.file {
            LogFile::Segment(name) | LogFile::Partial(name) | LogFile::Piece(name, _) => {
                Some((name.timeline, name.number(self.segment_bytes)?))
            }
            _ => None,
        });
        let (Some(number), Some(first)) =
            (name.number(self.segment_bytes), numbers.clone().map(|(_, number)| number).min())
        else {
            return Planned::Inside;
        };
        let of_timeline = numbers.filter(|(timeline, _)| *timeline == name.timeline).map(|(_, number)| number);
        // Before all of it, or a hole: neither is an end.
        let is_inside = number < first || of_timeline.max().is_some_and(|last| number <= last);
        if is_inside { Planned::Inside } else { Planned::Past }
    }

    /// The segments after one, in the order in which they are replayed.
    pub fn after(&self, file: LogFile) -> impl Iterator<Item = &LogObject> {
        let number = self.number(file);
        self.files.iter().filter(move |object| {
            matches!(object.file, LogFile::Segment(_)) && number.is_some() && self.number(object.file) > number
        })
    }

    fn number(&self, file: LogFile) -> Option<u64> {
        match file {
            LogFile::Segment(name) | LogFile::Partial(name) | LogFile::Piece(name, _) => {
                name.number(self.segment_bytes)
            }
            _ => None,
        }
    }
}

/// Up to where to replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// All there is on the timeline.
    Latest,
    /// A place.
    At(Lsn),
    /// A moment, inclusive.
    Time(ServerTime),
    /// A named restore point.
    Point(String),
}

/// What a replay is wanted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The history of the snapshot.
    pub from: HistoryId,
    /// Where its replay begins.
    pub start: Lsn,
    /// Before this the restored files are of no one moment.
    pub consistent_at: Lsn,
    /// The timeline to end on.
    pub timeline: u32,
    /// Up to where.
    pub goal: Goal,
    /// Bytes of a segment.
    pub segment_bytes: u64,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gap {
    /// A file is on no store.
    Missing {
        /// The file.
        file: LogFile,
        /// The next one that is there, if any.
        next: Option<LogFile>,
    },
    /// The timeline did not grow out of the snapshot's history, or left it before the snapshot was taken.
    Unrelated,
    /// The files end before what was wanted.
    EndsBefore {
        /// Where they end.
        at: Lsn,
        /// The last commit in them.
        last_commit: Option<ServerTime>,
    },
    /// A file was stored with several contents, and nobody has said which is right.
    Forked {
        /// The file.
        file: LogFile,
        /// The runs that stored it.
        runs: Vec<RunId>,
    },
}

impl fmt::Display for Gap {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gap::Missing { file, next: Some(next) } => {
                write!(formatter, "{file} is on no store; the next file that is there is {next}")
            }
            Gap::Missing { file, next: None } => write!(formatter, "{file} is on no store"),
            Gap::Unrelated => formatter.write_str("the timeline did not grow out of the snapshot's history"),
            Gap::EndsBefore { at, last_commit: Some(time) } => {
                write!(formatter, "the log on the stores ends at {at}, its last commit is of {time}")
            }
            Gap::EndsBefore { at, last_commit: None } => write!(formatter, "the log on the stores ends at {at}"),
            Gap::Forked { file, runs } => {
                let runs: Vec<&str> = runs.iter().map(RunId::as_str).collect();
                write!(formatter, "{file} was stored with different contents by the runs {}", runs.join(" and "))
            }
        }
    }
}

/// The files of one system, as its records tell.
#[derive(Clone, Debug, Default)]
pub struct LogFiles {
    files: BTreeMap<LogFile, (LogObject, LogFacts)>,
    /// Of several copies of one piece each counts for itself: it goes on what its own run stored.
    pieces: BTreeMap<SegmentName, Vec<(LogObject, LogFacts)>>,
    forked: BTreeMap<LogFile, Vec<RunId>>,
}

impl LogFiles {
    /// The files of a system. Of equal copies the first stands for all.
    pub fn of<'r>(system: u64, records: impl IntoIterator<Item = &'r LogRecord>) -> Self {
        let records: Vec<&LogRecord> = records.into_iter().filter(|record| record.history.system == system).collect();
        let mut all = LogFiles::default();
        for fork in forks(records.iter().copied()) {
            all.forked.insert(fork.file, fork.runs);
        }
        for record in records {
            for entry in &record.files {
                let known = (record.object(entry), entry.facts.clone());
                match entry.file {
                    LogFile::Piece(name, _) => all.pieces.entry(name).or_default().push(known),
                    file => drop(all.files.entry(file).or_insert(known)),
                }
            }
        }
        all
    }

    /// A file.
    pub fn get(&self, file: LogFile) -> Option<&(LogObject, LogFacts)> {
        self.files.get(&file)
    }

    /// What is in an object of them.
    pub fn facts(&self, object: &LogObject) -> Option<&LogFacts> {
        let known = match object.file {
            LogFile::Piece(name, _) => self.pieces.get(&name)?.iter().find(|(other, _)| other == object),
            file => self.files.get(&file),
        };
        known.map(|(_, facts)| facts)
    }

    /// The beginning of a segment, or the pieces of it, whichever reaches further; nothing where there is neither.
    pub fn beginning(&self, name: SegmentName) -> Result<(Vec<LogObject>, LogFacts), Gap> {
        let partial = self.get(LogFile::Partial(name));
        let pieces = self.pieces.get(&name).and_then(|pieces| Chain::beyond(pieces, partial.map(|(_, facts)| facts)));
        let (objects, facts) = match (pieces, partial) {
            (Some(chain), _) => (chain.objects, chain.facts),
            (None, Some((object, facts))) => (vec![*object], facts.clone()),
            (None, None) => (Vec::new(), LogFacts::default()),
        };
        match objects.iter().find_map(|object| Some((object.file, self.forked.get(&object.file)?))) {
            Some((file, runs)) => Err(Gap::Forked { file, runs: runs.clone() }),
            None => Ok((objects, facts)),
        }
    }

    /// All pieces of a segment, of whichever run.
    pub fn pieces(&self, name: SegmentName) -> impl Iterator<Item = &LogObject> {
        self.pieces.get(&name).into_iter().flatten().map(|(object, _)| object)
    }

    /// The timelines whose history files are there.
    pub fn timelines(&self) -> BTreeSet<u32> {
        self.files.keys().filter_map(|file| if let LogFile::History(of) = file { Some(*of) } else { None }).collect()
    }
}

/// Makes the plan. `history` is what the wanted timeline grew out of, where it is not the first one.
pub fn plan(
    repository: RepositoryId,
    source: &SourceName,
    wanted: &Wanted,
    history: Option<&TimelineHistory>,
    files: &LogFiles,
) -> Result<LogPlan, Gap> {
    let chain = chain(wanted, history)?;
    let (chosen, at) = (BTreeMap::new(), wanted.start);
    let mut planning = Planning { wanted, files, chain, chosen, at, last_commit: None, last_time: None };
    planning.choose_histories()?;
    let passes_target = planning.choose_segments()?;
    let end = PlanEnd {
        history: HistoryId { system: wanted.from.system, timeline: wanted.timeline },
        at: planning.at,
        last_commit: planning.last_commit,
        passes_target,
    };
    Ok(LogPlan {
        format: FORMAT.to_owned(),
        repository,
        source: source.clone(),
        segment_bytes: wanted.segment_bytes,
        files: planning.chosen.into_values().collect(),
        end,
    })
}

/// The timelines from the snapshot's to the wanted one, with where each begins to be the newest.
fn chain(wanted: &Wanted, history: Option<&TimelineHistory>) -> Result<Vec<(u32, Lsn)>, Gap> {
    let no_ancestors = TimelineHistory::default();
    let ancestors = &history.unwrap_or(&no_ancestors).ancestors;
    let mut chain = Vec::new();
    let mut begins = Lsn(0);
    for ancestor in ancestors {
        chain.push((ancestor.timeline, begins));
        begins = ancestor.until;
    }
    chain.push((wanted.timeline, begins));
    let Some(from) = chain.iter().position(|(timeline, _)| *timeline == wanted.from.timeline) else {
        return Err(Gap::Unrelated);
    };
    if chain.get(from + 1).is_some_and(|(_, left_at)| *left_at < wanted.consistent_at) {
        return Err(Gap::Unrelated);
    }
    Ok(chain.split_off(from))
}

struct Planning<'p> {
    wanted: &'p Wanted,
    files: &'p LogFiles,
    chain: Vec<(u32, Lsn)>,
    chosen: BTreeMap<LogFile, LogObject>,
    at: Lsn,
    last_commit: Option<ServerTime>,
    last_time: Option<ServerTime>,
}

impl Planning<'_> {
    fn choose(&mut self, file: LogFile) -> Result<Option<LogFacts>, Gap> {
        if let Some(runs) = self.files.forked.get(&file) {
            return Err(Gap::Forked { file, runs: runs.clone() });
        }
        let Some((object, facts)) = self.files.get(file) else { return Ok(None) };
        self.chosen.insert(file, *object);
        Ok(Some(facts.clone()))
    }

    /// The server asks for the history of every timeline after the first that it replays.
    fn choose_histories(&mut self) -> Result<(), Gap> {
        let timelines: Vec<u32> = self.chain.iter().map(|(timeline, _)| *timeline).filter(|of| *of > 1).collect();
        for (at, timeline) in timelines.iter().enumerate() {
            let file = LogFile::History(*timeline);
            let is_start = at == 0 && *timeline == self.wanted.from.timeline;
            if self.choose(file)?.is_none() && !is_start {
                return Err(Gap::Missing { file, next: None });
            }
        }
        Ok(())
    }

    /// Chooses segments up to the goal; says whether a commit after a wanted time is among them.
    fn choose_segments(&mut self) -> Result<bool, Gap> {
        let bytes = self.wanted.segment_bytes;
        let mut number = self.wanted.start.0 / bytes;
        loop {
            let Some((whole, facts)) = self.choose_segment(number)? else {
                return self.ended_before(number);
            };
            let begins = Lsn(number.saturating_mul(bytes));
            let next = Lsn(begins.0.saturating_add(bytes));
            self.at = self.at.max(facts.ends.unwrap_or(begins));
            self.last_commit = self.last_commit.max(facts.last_commit);
            self.last_time = self.last_time.max(facts.last_time);
            if self.is_reached(&facts, begins, next, whole) {
                return Ok(true);
            }
            if !whole {
                return self.ended_within(number);
            }
            number += 1;
        }
    }

    /// A segment of the newest timeline that has it; says whether it is whole.
    fn choose_segment(&mut self, number: u64) -> Result<Option<(bool, LogFacts)>, Gap> {
        let bytes = self.wanted.segment_bytes;
        let candidates: Vec<(usize, SegmentName)> = self
            .chain
            .iter()
            .enumerate()
            .filter(|(at, (_, begins))| {
                // The segment in which a timeline ends is still its own.
                let ends = self.chain.get(at + 1).map_or(u64::MAX, |(_, until)| until.0 / bytes);
                begins.0 / bytes <= number && number <= ends
            })
            .map(|(at, (timeline, _))| (at, SegmentName::of_number(*timeline, number, bytes)))
            .collect();
        for (_, name) in candidates.iter().rev() {
            if let Some(facts) = self.choose(LogFile::Segment(*name))? {
                return Ok(Some((true, facts)));
            }
        }
        // The beginning of a segment counts where it is the last of its log: only there nothing follows it.
        let last = self.chain.len() - 1;
        let Some((_, name)) = candidates.iter().rev().find(|(at, _)| *at == last) else { return Ok(None) };
        Ok(self.choose_beginning(*name)?.map(|facts| (false, facts)))
    }

    /// The beginning of a segment, or the pieces of it, whichever reaches further.
    fn choose_beginning(&mut self, name: SegmentName) -> Result<Option<LogFacts>, Gap> {
        let (objects, facts) = self.files.beginning(name)?;
        let found = !objects.is_empty();
        self.chosen.extend(objects.into_iter().map(|object| (object.file, object)));
        Ok(found.then_some(facts))
    }

    fn is_reached(&self, facts: &LogFacts, begins: Lsn, next: Lsn, whole: bool) -> bool {
        // The end of a partial's records is all that is sure of it; of a whole one, a record may end in the next.
        let covered = if whole { next } else { facts.ends.unwrap_or(begins) };
        if covered < self.wanted.consistent_at {
            return false;
        }
        match &self.wanted.goal {
            Goal::Latest => false,
            Goal::At(at) => facts.last_begins.is_some_and(|last| last >= *at),
            Goal::Time(time) => facts.last_commit.is_some_and(|last| last > *time),
            Goal::Point(name) => facts.points.iter().any(|point| point.name == *name),
        }
    }

    /// There is no segment of this number. That is the end, or a gap.
    fn ended_before(&self, number: u64) -> Result<bool, Gap> {
        let begins = Lsn(number.saturating_mul(self.wanted.segment_bytes));
        let last_begins = self.chain.last().map_or(Lsn(0), |(_, begins)| *begins);
        let is_short = begins.0 / self.wanted.segment_bytes < last_begins.0 / self.wanted.segment_bytes;
        self.ended(number, is_short || begins < self.wanted.consistent_at)
    }

    /// There is only the beginning of the segment of this number. That is the end, or a gap.
    fn ended_within(&self, number: u64) -> Result<bool, Gap> {
        self.ended(number, self.at < self.wanted.consistent_at)
    }

    fn ended(&self, number: u64, is_too_early: bool) -> Result<bool, Gap> {
        let bytes = self.wanted.segment_bytes;
        let timeline = match self.chain.iter().rev().find(|(_, begins)| begins.0 / bytes <= number) {
            Some((timeline, _)) => *timeline,
            None => self.wanted.from.timeline,
        };
        let file = LogFile::Segment(SegmentName::of_number(timeline, number, bytes));
        let is_later = |file: &LogFile| match file {
            LogFile::Segment(name) => {
                let of_chain = self.chain.iter().any(|(timeline, _)| *timeline == name.timeline);
                of_chain && name.number(bytes).is_some_and(|other| other > number)
            }
            _ => false,
        };
        let next = self.files.files.keys().copied().filter(is_later).min_by_key(|file| match file {
            LogFile::Segment(name) => name.number(bytes),
            _ => None,
        });
        // A hole behind what is wanted is none: what a snapshot needs itself may end exactly where a segment does.
        let is_behind = match &self.wanted.goal {
            Goal::At(at) => *at <= self.at || *at <= self.wanted.consistent_at,
            _ => false,
        };
        if is_too_early || next.is_some() && !is_behind {
            return Err(Gap::Missing { file, next });
        }
        match &self.wanted.goal {
            Goal::Latest => Ok(true),
            // Nothing after it is known: all there is may be right, and the caller says so.
            Goal::At(_) if is_behind => Ok(false),
            Goal::Time(time) if self.last_time.is_some_and(|last| last >= *time) => Ok(false),
            _ => Err(Gap::EndsBefore { at: self.at, last_commit: self.last_commit }),
        }
    }
}

#[cfg(test)]
mod tests;
