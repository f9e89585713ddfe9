//! Evidence records as bytes. The signature is over the exact bytes and is checked before they are parsed.

use super::{FormatError, check_format};
use crate::core::evidence::{Body, FORMAT, Record};
use serde::Deserialize;

/// The most bytes of a record that a reader accepts.
pub const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The most bytes of a body that was opened.
pub const MAX_RAW_BODY_BYTES: u64 = 64 * 1024 * 1024;

/// The bytes of a record.
pub fn to_bytes(record: &Record) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(record).expect("a record has no map with odd keys");
    bytes.push(b'\n');
    bytes
}

/// Reads and checks a record whose signature has been checked.
pub fn parse(bytes: &[u8]) -> Result<Record, FormatError> {
    #[derive(Deserialize)]
    struct Head {
        format: String,
    }
    let head: Head = serde_json::from_slice(bytes).map_err(FormatError::damaged)?;
    check_format(&head.format, FORMAT)?;
    let record: Record = serde_json::from_slice(bytes).map_err(FormatError::damaged)?;
    match record.contradiction() {
        Some(why) => Err(FormatError::damaged(why)),
        None => Ok(record),
    }
}

/// The bytes of a body, before it is sealed.
pub fn body_to_bytes(body: &Body) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(body).expect("a body has no map with odd keys");
    bytes.push(b'\n');
    bytes
}

/// Reads a body that was opened.
pub fn parse_body(bytes: &[u8]) -> Result<Body, FormatError> {
    serde_json::from_slice(bytes).map_err(FormatError::damaged)
}
