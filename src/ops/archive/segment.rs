//! One file of the log: read, looked at, compressed and sealed.

use crate::{
    core::{
        failure::{Code, Failure},
        log::{HISTORY_BYTES_MAX, LogEntry, LogFacts, LogFile, SEGMENT_BYTES, SegmentName, Span},
    },
    format::{
        log::{self as log_format, FRAME_BYTES, Tagger},
        seal::{Recipients, SealedObject},
    },
    sources::postgres::wal::{self, SegmentHeader, WalError},
    world::files::parent,
};
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// As many zeros at the beginning of a segment mean that nothing was written to it yet.
const EMPTY_BYTES: usize = 64;

/// What sealing needs to know.
#[derive(Clone)]
pub(super) struct Sealing {
    pub(super) recipients: Recipients,
    pub(super) level: i32,
    pub(super) tagger: Tagger,
    /// Whether hosts of the same repository compute the same tags, so that records may have them.
    pub(super) tags_are_shared: bool,
}

/// A file as it was read.
pub(super) struct Content {
    pub(super) file: LogFile,
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
    /// What was found in it, where its bytes alone do not tell.
    facts: Option<LogFacts>,
}

/// A file ready for the stores.
pub(super) struct Prepared {
    pub(super) entry: LogEntry,
    pub(super) tag: String,
    pub(super) object: SealedObject,
}

/// Reads a file of the log, which must be a regular one and no larger than any.
pub(super) fn read(path: &Path, file: LogFile) -> Result<Content, Failure> {
    let failed = |cause: &dyn std::fmt::Display| {
        Failure::new(Code::Source, format!("cannot read {}", path.display()))
            .cause(cause)
            .safe("nothing was archived, and nothing that was archived before is affected")
            .next_step("run recoup as the user who owns the server's data directory")
    };
    let most = match file {
        LogFile::Segment(_) | LogFile::Partial(_) | LogFile::Piece(..) => *SEGMENT_BYTES.end(),
        LogFile::History(_) | LogFile::BackupNote(..) => HISTORY_BYTES_MAX,
    };
    let opened = File::open(path).map_err(|error| failed(&error))?;
    let metadata = opened.metadata().map_err(|error| failed(&error))?;
    if !metadata.is_file() || metadata.len() > most {
        return Err(failed(&"it is no regular file, or larger than any of its kind"));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    opened.take(most + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    if bytes.len() as u64 != metadata.len() {
        return Err(failed(&"its size changed while it was read"));
    }
    Ok(Content { file, path: path.to_owned(), bytes, facts: None })
}

/// What is new behind an offset of a segment that is being received, in whole records, and whose it is; `None` where
/// there is nothing.
pub(super) fn read_piece(
    path: &Path,
    name: SegmentName,
    from: u64,
) -> Result<Option<(SegmentHeader, Span, Content)>, Failure> {
    let mut content = read(path, LogFile::Partial(name))?;
    // It is made before anything is written to it.
    if content.bytes.iter().take(EMPTY_BYTES).all(|byte| *byte == 0) {
        return Ok(None);
    }
    let found = wal::read_growing(&content.bytes, name, from).map_err(|error| unfit(path, &error))?;
    let (header, facts, to) = found;
    let Some(span) = Span::new(from, to) else { return Ok(None) };
    content.bytes.truncate(span.to as usize);
    content.bytes.drain(..span.from as usize);
    content.bytes.shrink_to_fit();
    (content.file, content.facts) = (LogFile::Piece(name, span), Some(facts));
    Ok(Some((header, span, content)))
}

/// A file that is not what its name says.
pub(super) fn unfit(path: &Path, error: &WalError) -> Failure {
    Failure::new(Code::Source, format!("{} is not what its name says", path.display()))
        .cause(error)
        .safe("nothing was archived of it, and nothing that was archived before is affected")
        .next_step("look whether the server's archive_command names %p, and whether its disk is well")
}

impl Content {
    /// Whose file it is. What has no header of its own is of the server in whose directory it lies.
    pub(super) fn header(&self) -> Result<SegmentHeader, Failure> {
        let segment = match self.file {
            LogFile::Segment(name) | LogFile::Partial(name) => Some(name),
            LogFile::History(_) | LogFile::BackupNote(..) | LogFile::Piece(..) => None,
        };
        match segment {
            Some(name) => {
                let header = SegmentHeader::read(&self.bytes).map_err(|error| unfit(&self.path, &error))?;
                header.check_name(name).map_err(|error| unfit(&self.path, &error))?;
                Ok(header)
            }
            None => header_beside(&self.path),
        }
    }

    /// What is in it.
    fn facts(&self) -> Result<LogFacts, WalError> {
        match self.file {
            LogFile::Segment(name) => wal::read_segment(&self.bytes, name).map(|(_, facts)| facts),
            LogFile::Partial(name) => wal::read_partial(&self.bytes, name).map(|(_, facts)| facts),
            LogFile::History(timeline) => wal::read_history(&self.bytes, timeline)
                .map(|history| LogFacts { grew_from: history.ancestors.last().copied(), ..LogFacts::default() }),
            LogFile::BackupNote(..) => Ok(LogFacts::default()),
            LogFile::Piece(..) => Ok(self.facts.clone().unwrap_or_default()),
        }
    }

    /// Looks at it and seals it, on threads of its own where that pays.
    pub(super) fn prepare(&self, sealing: &Sealing) -> Result<Prepared, Failure> {
        let parts: Vec<&[u8]> = self.bytes.chunks(FRAME_BYTES).collect();
        let (facts, tag, frames) = std::thread::scope(|scope| {
            let facts = scope.spawn(|| (self.facts(), sealing.tagger.tag(&self.bytes)));
            let (mine, other) = parts.split_at(parts.len() - parts.len() / 2);
            let level = sealing.level;
            let compress = move |part: &&[u8]| log_format::compress(part, level);
            let rest = scope.spawn(move || other.iter().map(compress).collect::<Vec<_>>());
            let mut frames: Vec<Vec<u8>> = mine.iter().map(compress).collect();
            frames.extend(rest.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            let (facts, tag) = facts.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (facts, tag, frames)
        });
        let facts = facts.map_err(|error| unfit(&self.path, &error))?;
        let object = log_format::seal(&sealing.recipients, &frames);
        let entry = LogEntry {
            file: self.file,
            bytes_raw: self.bytes.len() as u64,
            size: object.size(),
            sha256: object.sha256,
            content_tag: sealing.tags_are_shared.then(|| tag.clone()),
            facts,
        };
        Ok(Prepared { entry, tag, object })
    }
}

/// The header of any segment in the same directory.
fn header_beside(path: &Path) -> Result<SegmentHeader, Failure> {
    const HEADER_BYTES: u64 = 64;
    let directory = parent(path);
    let found = std::fs::read_dir(directory).ok().and_then(|entries| {
        entries.filter_map(Result::ok).find_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            // One that is being received says as well whose it is.
            name.strip_suffix(".partial").unwrap_or(&name).parse::<SegmentName>().ok()?;
            let mut start = Vec::new();
            File::open(entry.path()).ok()?.take(HEADER_BYTES).read_to_end(&mut start).ok()?;
            SegmentHeader::read(&start).ok()
        })
    });
    found.ok_or_else(|| {
        Failure::new(Code::Source, format!("nobody knows whose {} is", path.display()))
            .cause(format!("it names no system itself, and no segment in {} can be read", directory.display()))
            .safe("nothing was archived of it, and nothing that was archived before is affected")
            .next_step("give recoup the file in the server's own pg_wal: archive_command with %p")
    })
}
