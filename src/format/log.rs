//! Log records as bytes: the record and its signature in one JSON object, so that one small object commits.
//!
//! The signature is over the exact bytes of the text in `record`, and is checked before that is parsed.

use super::{
    FormatError,
    pack::{Compressor, new_compressor},
    parse_document,
    seal::{Hashed, Identities, Recipients, SealedObject, open_small, open_stream},
    signature,
};
use crate::core::{
    id::Sha256,
    log::{FORMAT, LogRecord},
};
use serde::{Deserialize, Serialize};
use sha2::Digest;
use std::{
    cell::RefCell,
    io::{self, Read, Write},
};

/// The most bytes of a stored record that a reader accepts: 64 files with all their restore points take half of it.
pub const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Bytes of a file that are compressed as one frame: several can be compressed at once.
pub const FRAME_BYTES: usize = 4 * 1024 * 1024;

thread_local! {
    /// What compresses at a level; a new one for every segment of a backlog costs as much as the small ones themselves.
    static COMPRESSOR: RefCell<Option<(i32, Compressor)>> = const { RefCell::new(None) };
}

/// Compresses a part of a file as one frame.
pub fn compress(part: &[u8], level: i32) -> Vec<u8> {
    COMPRESSOR.with_borrow_mut(|kept| {
        let compressor = match kept {
            Some((of, compressor)) if *of == level => compressor,
            _ => &mut kept.insert((level, new_compressor(level))).1,
        };
        compressor.compress(part).expect("compressing in memory does not fail")
    })
}

/// Seals a file whose parts are compressed already.
pub fn seal(recipients: &Recipients, frames: &[Vec<u8>]) -> SealedObject {
    let bytes: usize = frames.iter().map(Vec::len).sum();
    let output = Hashed::with_capacity(bytes + bytes / 1024 + 2048);
    let mut writer = recipients.seal(output).expect("sealing in memory does not fail");
    frames.iter().for_each(|frame| writer.write_all(frame).expect("sealing in memory does not fail"));
    writer.finish().expect("sealing in memory does not fail").finish()
}

/// Seals a file frame by frame into something that is not held in memory.
pub struct Sealer<W: Write>(age::stream::StreamWriter<Counted<W>>);

impl<W: Write> Sealer<W> {
    /// Begins: the header is written at once.
    pub fn new(recipients: &Recipients, output: W) -> io::Result<Self> {
        recipients.seal(Counted { output, bytes: 0, hasher: sha2::Sha256::new() }).map(Sealer)
    }

    /// Adds a part that is compressed already.
    pub fn add(&mut self, frame: &[u8]) -> io::Result<()> {
        self.0.write_all(frame)
    }

    /// Ends it; gives how many bytes there are, and their SHA-256.
    pub fn finish(self) -> io::Result<(u64, Sha256)> {
        let mut counted = self.0.finish()?;
        counted.output.flush()?;
        Ok((counted.bytes, Sha256(counted.hasher.finalize().into())))
    }
}

struct Counted<W> {
    output: W,
    bytes: u64,
    hasher: sha2::Sha256,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.output.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// Opens a stored file that is not held in memory; it must have exactly so many bytes.
///
/// Errors of `output` are the inner ones.
pub fn open_into(
    identities: &Identities,
    sealed: impl Read,
    bytes_raw: u64,
    output: &mut impl Write,
) -> Result<io::Result<()>, FormatError> {
    let mut raw = open_stream(identities, sealed, bytes_raw)?;
    let mut piece = vec![0; 1 << 20];
    let mut written = 0;
    loop {
        let count = raw.read(&mut piece).map_err(FormatError::damaged)?;
        if count == 0 || written > bytes_raw {
            break;
        }
        if let Err(error) = output.write_all(&piece[..count]) {
            return Ok(Err(error));
        }
        written += count as u64;
    }
    if written == bytes_raw {
        Ok(Ok(()))
    } else {
        Err(FormatError::damaged(format_args!("it holds {written} bytes or more in place of {bytes_raw}")))
    }
}

/// Opens a stored file, which must have exactly so many bytes.
pub fn open(identities: &Identities, sealed: &[u8], bytes_raw: u64) -> Result<Vec<u8>, FormatError> {
    let raw = open_small(identities, sealed, bytes_raw)?;
    if raw.len() as u64 == bytes_raw {
        Ok(raw)
    } else {
        Err(FormatError::damaged(format_args!("it holds {} bytes in place of {bytes_raw}", raw.len())))
    }
}

/// Computes the tags by which one host knows equal contents again. Without its key they tell nothing.
#[derive(Clone)]
pub struct Tagger([u8; 32]);

impl Tagger {
    /// The one that belongs to a secret: an identity's or a key's text.
    pub fn of_secret(secret: &str) -> Self {
        // Comments and line ends are no part of a key.
        let lines = secret.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        Tagger(blake3::derive_key("recoup log content tag 1", lines.collect::<Vec<_>>().join("\n").as_bytes()))
    }

    /// The tag of a content: 32 digits.
    pub fn tag(&self, content: &[u8]) -> String {
        let mut tagging = self.begin();
        tagging.add(content);
        tagging.finish()
    }

    /// The tag of a content that comes piece by piece.
    pub fn begin(&self) -> Tagging {
        Tagging(Box::new(blake3::Hasher::new_keyed(&self.0)))
    }
}

/// A tag that is being computed.
pub struct Tagging(Box<blake3::Hasher>);

impl Tagging {
    /// Adds a piece.
    pub fn add(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The tag.
    pub fn finish(self) -> String {
        self.0.finalize().to_hex()[..32].to_owned()
    }
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedRecord {
    /// The record's JSON text.
    pub record: String,
    /// The SSHSIG over exactly that text.
    pub signature: String,
}

/// The text of a record, to be signed.
pub fn to_text(record: &LogRecord) -> String {
    serde_json::to_string(record).expect("a record has no map with odd keys") + "\n"
}

impl SignedRecord {
    /// The bytes of the object.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("two texts");
        bytes.push(b'\n');
        bytes
    }

    /// Reads a stored object. Nothing in it is to be believed before the signature has been checked.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let signed: SignedRecord = serde_json::from_slice(bytes).map_err(FormatError::damaged)?;
        if signed.signature.len() > signature::MAX_SIGNATURE_BYTES {
            return Err(FormatError::damaged("its signature is longer than any"));
        }
        Ok(signed)
    }

    /// The record in it, once the signature has been checked.
    pub fn open(&self) -> Result<LogRecord, FormatError> {
        parse_document(self.record.as_bytes(), FORMAT, |record: &LogRecord| &record.format, LogRecord::contradiction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        id::{RunId, Sha256},
        log::{FILES_MAX, LogEntry, LogFacts, LogFile, Lsn, NamedPoint, POINTS_MAX, SegmentName},
    };

    fn record(files: u64) -> LogRecord {
        let time = "2026-11-22T10:00:00.123456Z".parse().unwrap();
        let entry = |number| LogEntry {
            file: LogFile::Segment(SegmentName::of_number(1, number, 16 << 20)),
            bytes_raw: 16 << 20,
            size: 16 << 20,
            sha256: Sha256([7; 32]),
            content_tag: Some("0".repeat(32)),
            facts: LogFacts {
                last_begins: Some(Lsn(7)),
                ends: Some(Lsn((number + 1) << 24)),
                first_time: Some(time),
                last_time: Some(time),
                last_commit: Some(time),
                commits: u64::from(u32::MAX),
                tablespaces: u64::from(u32::MAX),
                points: vec![NamedPoint { name: "\u{7}".repeat(63), at: Lsn(7), time }; POINTS_MAX],
                grew_from: None,
            },
        };
        LogRecord {
            format: FORMAT.into(),
            repository: RunId::from_random([3; 16]),
            source: "ledger".parse().unwrap(),
            history: "7301234567890123456-00000001".parse().unwrap(),
            segment_bytes: 16 << 20,
            run: RunId::from_random([4; 16]),
            writer: "SHA256:x".into(),
            created_at: "2026-11-22T10:00:00Z".parse().unwrap(),
            recipients: vec!["age1x".into()],
            files: (0..files).map(entry).collect(),
        }
    }

    fn signed(record: &LogRecord) -> SignedRecord {
        SignedRecord { record: to_text(record), signature: "x".into() }
    }

    #[test]
    fn the_largest_record_fits_and_reads_back() {
        let largest = record(FILES_MAX as u64);
        let bytes = signed(&largest).to_bytes();
        assert!((bytes.len() as u64) < MAX_BYTES, "{}", bytes.len());
        assert_eq!(SignedRecord::parse(&bytes).unwrap().open().unwrap(), largest);
    }

    #[test]
    fn records_that_cannot_be_right_are_refused() {
        type Spoil = fn(&mut LogRecord);
        let spoilt: [Spoil; 8] = [
            |record| record.format = "recoup-log/0".into(),
            |record| record.files.clear(),
            |record| record.files.swap(0, 1),
            |record| record.files[1].file = record.files[0].file,
            |record| record.history.timeline = 2,
            |record| record.segment_bytes = 3 << 20,
            |record| record.files[0].bytes_raw -= 1,
            |record| record.files[0].size = 1 << 40,
        ];
        for (at, spoil) in spoilt.into_iter().enumerate() {
            let mut bad = record(2);
            spoil(&mut bad);
            assert!(matches!(signed(&bad).open(), Err(FormatError::Damaged(_))), "{at}");
        }
        let newer = LogRecord { format: "recoup-log/2".into(), ..record(1) };
        assert!(matches!(signed(&newer).open(), Err(FormatError::Newer { .. })));
        for rubbish in [&b""[..], b"{}", b"[]", b"{\"record\":1,\"signature\":\"\"}"] {
            assert!(SignedRecord::parse(rubbish).is_err());
        }
    }
}
