//! Reports as bytes. The signature is over the exact bytes and is checked before they are believed.

use super::{FormatError, check_format};
use crate::core::{
    id::RepositoryId,
    report::{FORMAT, Report},
};
use serde::Deserialize;

/// The most bytes of a report that a reader accepts.
pub const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// The name that a report is signed as.
pub fn principal(repository: &RepositoryId) -> String {
    format!("report@{repository}")
}

/// The bytes of a report.
pub fn to_bytes(report: &Report) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(report).expect("a report has no map with odd keys");
    bytes.push(b'\n');
    bytes
}

/// Reads a report.
pub fn parse(bytes: &[u8]) -> Result<Report, FormatError> {
    #[derive(Deserialize)]
    struct Head {
        format: String,
    }
    let head: Head = serde_json::from_slice(bytes).map_err(FormatError::damaged)?;
    check_format(&head.format, FORMAT)?;
    serde_json::from_slice(bytes).map_err(FormatError::damaged)
}
