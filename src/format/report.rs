//! Reports as bytes. The signature is over the exact bytes and is checked before they are believed.

use super::{FormatError, document_bytes, parse_document, signature};
use crate::core::{
    id::RepositoryId,
    report::{FORMAT, Report},
};

/// The most bytes of a report that a reader accepts.
pub const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// The name that a report is signed as.
pub fn principal(repository: &RepositoryId) -> String {
    signature::role_principal("report", repository)
}

/// The bytes of a report.
pub fn to_bytes(report: &Report) -> Vec<u8> {
    document_bytes(report)
}

/// Reads a report.
pub fn parse(bytes: &[u8]) -> Result<Report, FormatError> {
    parse_document(bytes, FORMAT, |report: &Report| &report.format, |_| None)
}
