//! Files of the log that are too large to be held in memory, on their way back: opened into a file as they arrive.

use super::fetch::{check, misfit, open_file, open_served, unopened};
use crate::{
    core::{
        failure::{Code, Failure},
        id::{Sha256, SourceName},
        log::{HISTORY_BYTES_MAX, LogFile, LogObject},
        plan::log::LogPlan,
        result::Problem,
    },
    format::{FormatError, log as log_format, seal::Identities},
    repository::{
        Repository,
        fetch::{Detours, problem_of},
        log::log_key,
    },
    sources::postgres::wal::{self, FileText, Text},
    stores::{LARGE_BYTES, Store, StoreError},
};
use bytes::{Buf, Bytes};
use sha2::Digest;
use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};
use tokio::sync::mpsc;

/// Opens a file of a log into `output`, from byte `at` on, from whichever store has it intact.
///
/// What is in `output` is to be used only when this has succeeded.
pub(super) async fn open_into(
    repository: &Repository,
    identities: &Arc<Identities>,
    source: &SourceName,
    object: &LogObject,
    detours: &Detours,
    (output, at): (&Arc<File>, u64),
) -> Result<(), Failure> {
    let key = log_key(source, object);
    let (mut reasons, mut unreachable, mut is_locked) = (Vec::new(), false, false);
    for store in detours.in_order(&repository.stores) {
        let problem = match open_from(store, &key, identities, object, (output, at)).await? {
            Ok(()) => {
                detours.note_given(store.name());
                return Ok(());
            }
            Err(Trouble::Store(error)) => problem_of(&error),
            Err(Trouble::Locked) => {
                is_locked = true;
                Problem::Damaged
            }
            Err(Trouble::Damaged) => Problem::Damaged,
        };
        unreachable |= problem == Problem::Unreachable;
        detours.add(store.name(), &key, problem);
        reasons.push(format!("on {} it is {problem}", store.name()));
    }
    Err(match (is_locked, unreachable) {
        (true, _) => unopened(source, object, "the identity does not open it", Code::NoKey),
        (false, true) => unopened(source, object, &reasons.join("; "), Code::Store),
        (false, false) => unopened(source, object, &reasons.join("; "), Code::Damaged),
    })
}

/// Why a store did not give it.
enum Trouble {
    Store(StoreError),
    Damaged,
    Locked,
}

async fn open_from(
    store: &Store,
    key: &str,
    identities: &Arc<Identities>,
    object: &LogObject,
    (output, at): (&Arc<File>, u64),
) -> Result<Result<(), Trouble>, Failure> {
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let (identities, bytes_raw, file) = (identities.clone(), object.bytes_raw, output.clone());
    let opening = tokio::task::spawn_blocking(move || {
        let mut output = Writer { file: &file, at };
        log_format::open_into(&identities, Reader { receiver, piece: Bytes::new() }, bytes_raw, &mut output)
    });
    let mut hasher = sha2::Sha256::new();
    let to = &sender;
    let take = |piece: Bytes| {
        hasher.update(&piece);
        async move { to.send(piece).await.is_ok() }
    };
    let got = store.get_in_pieces(key, object.size, take).await;
    drop(sender);
    let sha256 = Sha256(hasher.finalize().into());
    let opened = opening.await.map_err(|error| Failure::internal(error.to_string()))?;
    let written = |error: io::Error| {
        Failure::new(Code::Failed, format!("{} cannot be written", object.file))
            .cause(error)
            .safe("the stores are unaffected; nothing is left behind as if it were whole")
            .next_step("make room, then run the same command again")
    };
    match (got, opened) {
        (_, Ok(Err(error))) => return Err(written(error)),
        (Err(error), _) => return Ok(Err(Trouble::Store(error))),
        (Ok(()), Err(FormatError::NoMatchingKey)) => return Ok(Err(Trouble::Locked)),
        (Ok(()), Err(_)) => return Ok(Err(Trouble::Damaged)),
        (Ok(()), Ok(Ok(()))) if sha256 != object.sha256 => {
            return Ok(Err(Trouble::Damaged));
        }
        (Ok(()), Ok(Ok(()))) => {}
    }
    // Of an attempt before more may be there.
    output.set_len(at + bytes_raw).map_err(written)?;
    let mut start = vec![0; bytes_raw.min(HISTORY_BYTES_MAX) as usize];
    output.read_exact_at(&mut start, at).map_err(written)?;
    // What was sealed is what its name says, or nobody gets it.
    Ok(check(&start, object.file).map_err(|_| Trouble::Damaged))
}

/// The same as [`super::open_served`], into a file.
pub async fn serve_into(
    repository: &Repository,
    identities: &Arc<Identities>,
    plan: &LogPlan,
    (file, parts): (LogFile, &[&LogObject]),
    detours: &Detours,
    output: &Arc<File>,
) -> Result<(), Failure> {
    let mut written = 0;
    for part in parts {
        open_into(repository, identities, &plan.source, part, detours, (output, written)).await?;
        written += part.bytes_raw;
    }
    let LogFile::Segment(name) = file else { return Ok(()) };
    if written > plan.segment_bytes {
        return Err(misfit(name, plan, written));
    }
    output.set_len(plan.segment_bytes).map_err(|error| {
        Failure::new(Code::Failed, format!("{name} cannot be written")).cause(error).next_step("make room there")
    })?;
    let is_in_pieces = parts.iter().any(|part| matches!(part.file, LogFile::Piece(..)));
    // Only what one server wrote in one go reads as one.
    let reads_as_one = || {
        let text = FileText::new(output, plan.segment_bytes);
        wal::read_text(&text, name, 0).is_ok_and(|(_, _, whole)| whole == written)
    };
    if is_in_pieces && !reads_as_one() { Err(misfit(name, plan, written)) } else { Ok(()) }
}

/// A file of a log that is only looked at.
pub enum LogBytes {
    /// One that fits in memory.
    Memory(Vec<u8>),
    /// A large one, in a file without a name, and its bytes.
    File(Arc<File>, u64),
}

impl LogBytes {
    /// Its bytes.
    pub fn text(&self) -> Box<dyn Text + '_> {
        match self {
            LogBytes::Memory(bytes) => Box::new(bytes.as_slice()),
            LogBytes::File(file, bytes) => Box::new(FileText::new(file, *bytes)),
        }
    }

    fn file(spool: &Path) -> Result<Arc<File>, Failure> {
        let failed = |error| {
            Failure::new(Code::Failed, format!("a large file of the log cannot be opened in {}", spool.display()))
                .cause(error)
                .safe("the stores are unaffected, and nothing was written")
                .next_step("make room there, then run the same command again")
        };
        tempfile::tempfile_in(spool).map(Arc::new).map_err(failed)
    }
}

/// The same as [`open_file`], to be looked at; a large one in the directory `spool`.
pub async fn look_at(
    repository: &Repository,
    identities: &Arc<Identities>,
    source: &SourceName,
    object: &LogObject,
    detours: &Detours,
    spool: &Path,
) -> Result<LogBytes, Failure> {
    if object.bytes_raw <= LARGE_BYTES {
        return open_file(repository, identities, source, object, detours).await.map(LogBytes::Memory);
    }
    let file = LogBytes::file(spool)?;
    open_into(repository, identities, source, object, detours, (&file, 0)).await?;
    Ok(LogBytes::File(file, object.bytes_raw))
}

/// The same as [`open_served`], to be looked at; a large one in the directory `spool`.
pub async fn look_at_served(
    repository: &Repository,
    identities: &Arc<Identities>,
    plan: &LogPlan,
    served: (LogFile, &[&LogObject]),
    detours: &Detours,
    spool: &Path,
) -> Result<LogBytes, Failure> {
    if plan.segment_bytes <= LARGE_BYTES {
        return open_served(repository, identities, plan, served, detours).await.map(LogBytes::Memory);
    }
    let file = LogBytes::file(spool)?;
    serve_into(repository, identities, plan, served, detours, &file).await?;
    Ok(LogBytes::File(file, plan.segment_bytes))
}

/// What arrives, as something to be read.
struct Reader {
    receiver: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Reader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = self.piece.len().min(bytes.len());
        self.piece.copy_to_slice(&mut bytes[..count]);
        Ok(count)
    }
}

/// A file, from some place on.
struct Writer<'f> {
    file: &'f File,
    at: u64,
}

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write_at(bytes, self.at)?;
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
