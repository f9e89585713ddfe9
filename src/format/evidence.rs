//! Evidence records as bytes. The signature is over the exact bytes and is checked before they are parsed.

use super::{FormatError, document_bytes, parse_document};
use crate::core::evidence::{Body, FORMAT, Record};

/// The most bytes of a record that a reader accepts.
pub const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The most bytes of a body that was opened.
pub const MAX_RAW_BODY_BYTES: u64 = 64 * 1024 * 1024;

/// The bytes of a record.
pub fn to_bytes(record: &Record) -> Vec<u8> {
    document_bytes(record)
}

/// Reads and checks a record whose signature has been checked.
pub fn parse(bytes: &[u8]) -> Result<Record, FormatError> {
    parse_document(bytes, FORMAT, |record: &Record| &record.format, Record::contradiction)
}

/// The bytes of a body, before it is sealed.
pub fn body_to_bytes(body: &Body) -> Vec<u8> {
    document_bytes(body)
}

/// Reads a body that was opened.
pub fn parse_body(bytes: &[u8]) -> Result<Body, FormatError> {
    serde_json::from_slice(bytes).map_err(FormatError::damaged)
}
