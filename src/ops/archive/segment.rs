//! One file of the log: read, looked at, compressed and sealed.

use super::state::Seen;
use crate::{
    core::{
        failure::{Code, Failure},
        log::{HISTORY_BYTES_MAX, LogEntry, LogFacts, LogFile, SEGMENT_BYTES, SegmentName, Span},
    },
    format::{
        log::{self as log_format, FRAME_BYTES, Sealer, Tagger, Tagging},
        seal::{Recipients, SealedObject},
    },
    ops::host::state_failure,
    sources::postgres::wal::{self, FileText, SegmentHeader, Text, WalError},
    stores::{LARGE_BYTES, LargeObject},
    world::files::{self, create_private_directories, parent},
};
use std::{
    fs::{File, Metadata},
    io::{self, BufWriter, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// As many zeros at the beginning of a segment mean that nothing was written to it yet.
const EMPTY_BYTES: usize = 64;
/// As many parts of a large file are read at once, and compressed on two threads.
const PARTS_AT_ONCE: usize = 4;

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
    path: PathBuf,
    body: Body,
    /// What was found in it, where its bytes alone do not tell.
    facts: Option<LogFacts>,
    /// How the whole file looked.
    seen: Option<Seen>,
}

enum Body {
    Memory(Vec<u8>),
    /// A large one stays where it is: from where to where.
    File(File, u64, u64),
}

/// A file ready for the stores.
pub(super) struct Prepared {
    pub(super) entry: LogEntry,
    pub(super) tag: String,
    pub(super) object: Sealed,
    pub(super) seen: Option<Seen>,
}

/// A sealed file.
pub(super) enum Sealed {
    Memory(SealedObject),
    /// In a file without a name, in the directory of the host's state.
    File(LargeObject),
}

fn unreadable(path: &Path, cause: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Source, format!("cannot read {}", path.display()))
        .cause(cause)
        .safe("nothing was archived, and nothing that was archived before is affected")
        .next_step("run recoup as the user who owns the server's data directory")
}

/// Opens a file of the log, which must be a regular one and no larger than any. Says how it looks, too.
fn opened(path: &Path, file: LogFile) -> Result<(File, Metadata), Failure> {
    let most = match file {
        LogFile::Segment(_) | LogFile::Partial(_) | LogFile::Piece(..) => *SEGMENT_BYTES.end(),
        LogFile::History(_) | LogFile::BackupNote(..) => HISTORY_BYTES_MAX,
    };
    let opened = files::open_regular(path).map_err(|error| unreadable(path, error))?;
    let metadata = opened.metadata().map_err(|error| unreadable(path, error))?;
    if metadata.len() > most {
        return Err(unreadable(path, "it is larger than any of its kind"));
    }
    Ok((opened, metadata))
}

/// Reads a file of the log, or opens it where it is large.
pub(super) fn read(path: &Path, file: LogFile) -> Result<Content, Failure> {
    let (opened, metadata) = opened(path, file)?;
    let size = metadata.len();
    let content = |body| Content { file, path: path.to_owned(), body, facts: None, seen: Some(Seen::of(&metadata)) };
    if size > LARGE_BYTES {
        return Ok(content(Body::File(opened, 0, size)));
    }
    let mut bytes = Vec::with_capacity(size as usize);
    opened.take(size + 1).read_to_end(&mut bytes).map_err(|error| unreadable(path, error))?;
    if bytes.len() as u64 != size {
        return Err(unreadable(path, "its size changed while it was read"));
    }
    Ok(content(Body::Memory(bytes)))
}

/// What is new behind an offset of a segment that is being received, in whole records, and whose it is; `None` where
/// there is nothing.
pub(super) fn read_piece(
    path: &Path,
    name: SegmentName,
    from: u64,
) -> Result<Option<(SegmentHeader, Span, Content)>, Failure> {
    let (opened, metadata) = opened(path, LogFile::Partial(name))?;
    let size = metadata.len();
    let text = FileText::new(&opened, size);
    // It is made before anything is written to it.
    let start = text.get(0, EMPTY_BYTES.min(size as usize)).unwrap_or_default();
    if start.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let found = wal::read_text(&text, name, from).map_err(|error| unfit(path, &error))?;
    let (header, facts, to) = found;
    let Some(span) = Span::new(from, to) else { return Ok(None) };
    let (from, to) = (u64::from(span.from), u64::from(span.to));
    let body = if to - from > LARGE_BYTES {
        Body::File(opened, from, to)
    } else {
        let mut bytes = vec![0; (to - from) as usize];
        opened.read_exact_at(&mut bytes, from).map_err(|error| unreadable(path, error))?;
        Body::Memory(bytes)
    };
    let content =
        Content { file: LogFile::Piece(name, span), path: path.to_owned(), body, facts: Some(facts), seen: None };
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
    fn length(&self) -> u64 {
        match &self.body {
            Body::Memory(bytes) => bytes.len() as u64,
            Body::File(_, from, to) => to - from,
        }
    }

    /// Hands it out in the parts that become frames; of a large one, as many at once as can be compressed at once.
    fn each_parts(&self, mut take: impl FnMut(&[&[u8]]) -> Result<(), Failure>) -> Result<(), Failure> {
        let (file, from, to) = match &self.body {
            Body::Memory(bytes) => return take(&bytes.chunks(FRAME_BYTES).collect::<Vec<_>>()),
            Body::File(file, from, to) => (file, *from, *to),
        };
        let mut buffer = vec![0; PARTS_AT_ONCE * FRAME_BYTES];
        let mut at = from;
        while at < to {
            let piece = &mut buffer[..(to - at).min((PARTS_AT_ONCE * FRAME_BYTES) as u64) as usize];
            file.read_exact_at(piece, at).map_err(|error| unreadable(&self.path, error))?;
            take(&piece.chunks(FRAME_BYTES).collect::<Vec<_>>())?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// The tag of its content.
    pub(super) fn tag(&self, tagger: &Tagger) -> Result<String, Failure> {
        let mut tagging = tagger.begin();
        self.each_parts(|parts| {
            parts.iter().for_each(|part| tagging.add(part));
            Ok(())
        })?;
        Ok(tagging.finish())
    }

    /// Whose file it is. What has no header of its own is of the server in whose directory it lies.
    pub(super) fn header(&self) -> Result<SegmentHeader, Failure> {
        let segment = match self.file {
            LogFile::Segment(name) | LogFile::Partial(name) => Some(name),
            LogFile::History(_) | LogFile::BackupNote(..) | LogFile::Piece(..) => None,
        };
        let Some(name) = segment else { return header_beside(&self.path) };
        let header = self.with_text(|text| {
            let header = SegmentHeader::read(&text.get(0, EMPTY_BYTES.min(text.length())).unwrap_or_default())?;
            header.check_name(name).map(|()| header)
        });
        header.map_err(|error| unfit(&self.path, &error))
    }

    fn with_text<T>(&self, look: impl FnOnce(&dyn Text) -> T) -> T {
        match &self.body {
            Body::Memory(bytes) => look(&bytes.as_slice()),
            Body::File(file, _, to) => look(&FileText::new(file, *to)),
        }
    }

    /// What is in it.
    fn facts(&self) -> Result<LogFacts, WalError> {
        match (self.file, &self.body) {
            (LogFile::Segment(name), _) => {
                self.with_text(|text| wal::read_segment_text(text, name)).map(|(_, facts)| facts)
            }
            (LogFile::Partial(name), _) => {
                self.with_text(|text| wal::read_text(text, name, 0)).map(|(_, facts, _)| facts)
            }
            (LogFile::History(timeline), Body::Memory(bytes)) => wal::read_history(bytes, timeline)
                .map(|history| LogFacts { grew_from: history.ancestors.last().copied(), ..LogFacts::default() }),
            (LogFile::BackupNote(..) | LogFile::History(_), _) => Ok(LogFacts::default()),
            (LogFile::Piece(..), _) => Ok(self.facts.clone().unwrap_or_default()),
        }
    }

    /// Looks at it and seals it, on threads of its own where that pays. A large one is sealed into `spool`.
    pub(super) fn prepare(&self, sealing: &Sealing, spool: &Path) -> Result<Prepared, Failure> {
        let (facts, sealed) = if self.length() > FRAME_BYTES as u64 {
            std::thread::scope(|scope| {
                let facts = scope.spawn(|| self.facts());
                let sealed = self.seal(sealing, spool);
                (facts.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), sealed)
            })
        } else {
            (self.facts(), self.seal(sealing, spool))
        };
        let facts = facts.map_err(|error| unfit(&self.path, &error))?;
        let (tag, object) = sealed?;
        let (size, sha256) = match &object {
            Sealed::Memory(object) => (object.size(), object.sha256),
            Sealed::File(object) => (object.size, object.sha256),
        };
        let entry = LogEntry {
            file: self.file,
            bytes_raw: self.length(),
            size,
            sha256,
            content_tag: sealing.tags_are_shared.then(|| tag.clone()),
            facts,
        };
        Ok(Prepared { entry, tag, object, seen: self.seen })
    }

    fn seal(&self, sealing: &Sealing, spool: &Path) -> Result<(String, Sealed), Failure> {
        let mut tagging = sealing.tagger.begin();
        if let Body::Memory(_) = &self.body {
            let mut frames = Vec::new();
            self.each_parts(|parts| {
                frames = compressed(parts, sealing.level, &mut tagging);
                Ok(())
            })?;
            return Ok((tagging.finish(), Sealed::Memory(log_format::seal(&sealing.recipients, &frames))));
        }
        let failed = |error: io::Error| state_failure("write", spool, &error);
        create_private_directories(spool).map_err(failed)?;
        // Without a name nobody else finds it, and it is gone with this process.
        let file = tempfile::tempfile_in(spool).map_err(failed)?;
        let output = BufWriter::with_capacity(1 << 20, file.try_clone().map_err(failed)?);
        let mut sealer = Sealer::new(&sealing.recipients, output).map_err(failed)?;
        self.each_parts(|parts| {
            let frames = compressed(parts, sealing.level, &mut tagging);
            frames.iter().try_for_each(|frame| sealer.add(frame)).map_err(failed)
        })?;
        let (size, sha256) = sealer.finish().map_err(failed)?;
        Ok((tagging.finish(), Sealed::File(LargeObject { file: Arc::new(file), size, sha256 })))
    }
}

/// Compresses parts, half of them on a thread of their own, and tags them.
fn compressed(parts: &[&[u8]], level: i32, tagging: &mut Tagging) -> Vec<Vec<u8>> {
    let compress = move |part: &&[u8]| log_format::compress(part, level);
    if let [part] = parts {
        tagging.add(part);
        return vec![compress(part)];
    }
    std::thread::scope(|scope| {
        let (mine, other) = parts.split_at(parts.len() / 2);
        let rest = scope.spawn(move || other.iter().map(compress).collect::<Vec<_>>());
        parts.iter().for_each(|part| tagging.add(part));
        let mut frames: Vec<Vec<u8>> = mine.iter().map(compress).collect();
        frames.extend(rest.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        frames
    })
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
            SegmentHeader::read(&files::read_start(entry.path(), HEADER_BYTES).ok()?).ok()
        })
    });
    found.ok_or_else(|| {
        Failure::new(Code::Source, format!("nobody knows whose {} is", path.display()))
            .cause(format!("it names no system itself, and no segment in {} can be read", directory.display()))
            .safe("nothing was archived of it, and nothing that was archived before is affected")
            .next_step("give recoup the file in the server's own pg_wal: archive_command with %p")
    })
}
