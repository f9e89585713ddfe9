//! `writer.json`: the clear note that a run writes first, so that a prune knows whose unfinished run it meets.
//!
//! Nobody signs it, and nothing is believed because of it: it can only keep a run longer.

use super::{FormatError, document_bytes, parse_document};
use crate::core::{
    id::{RepositoryId, RunId, SourceName},
    inventory::TEXT_BYTES_MAX,
};
use serde::{Deserialize, Serialize};

/// The value of `format`.
pub const FORMAT: &str = "recoup-run/1";
/// The most bytes that a reader accepts.
pub const MAX_BYTES: u64 = 64 * 1024;

/// Who writes a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunWriter {
    /// [`FORMAT`].
    pub format: String,
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// The source it is of.
    pub source: SourceName,
    /// The run.
    pub run: RunId,
    /// The host key that will sign its inventory, as its SHA-256 fingerprint.
    pub writer: String,
}

impl RunWriter {
    /// The bytes of `writer.json`.
    pub fn to_bytes(&self) -> Vec<u8> {
        document_bytes(self)
    }

    /// Reads `writer.json`.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        parse_document(bytes, FORMAT, |note: &RunWriter| &note.format, RunWriter::contradiction)
    }

    fn contradiction(&self) -> Option<&'static str> {
        let is_plain = self.writer.len() <= TEXT_BYTES_MAX && self.writer.bytes().all(|byte| byte.is_ascii_graphic());
        (!is_plain).then_some("its writer is not of printable characters, or too long")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let note = RunWriter {
            format: FORMAT.to_owned(),
            repository: "aaaaaaaaaaaaaaaa".parse().unwrap(),
            source: "ledger".parse().unwrap(),
            run: "bbbbbbbbbbbbbbbb".parse().unwrap(),
            writer: "SHA256:x".to_owned(),
        };
        assert_eq!(RunWriter::parse(&note.to_bytes()).unwrap(), note);
        let newer = RunWriter { format: "recoup-run/2".to_owned(), ..note.clone() };
        assert!(matches!(RunWriter::parse(&newer.to_bytes()), Err(FormatError::Newer { .. })));
        for other in [
            RunWriter { writer: "a\u{1b}[31m".to_owned(), ..note.clone() },
            RunWriter { format: "x".to_owned(), ..note },
        ] {
            assert!(RunWriter::parse(&other.to_bytes()).is_err());
        }
        assert!(RunWriter::parse(b"{}").is_err());
    }
}
