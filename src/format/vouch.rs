//! Vouches as bytes. The signature is over the exact bytes and is checked before they are parsed.

use super::{FormatError, check_format};
use crate::core::vouch::{FORMAT, Vouch};
use serde::Deserialize;

/// The most bytes of a vouch that a reader accepts.
pub const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The bytes of a vouch.
pub fn to_bytes(vouch: &Vouch) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(vouch).expect("a vouch has no map with odd keys");
    bytes.push(b'\n');
    bytes
}

/// Reads and checks a vouch whose signature has been checked.
pub fn parse(bytes: &[u8]) -> Result<Vouch, FormatError> {
    #[derive(Deserialize)]
    struct Head {
        format: String,
    }
    let head: Head = serde_json::from_slice(bytes).map_err(FormatError::damaged)?;
    check_format(&head.format, FORMAT)?;
    let vouch: Vouch = serde_json::from_slice(bytes).map_err(FormatError::damaged)?;
    match vouch.contradiction() {
        Some(why) => Err(FormatError::damaged(why)),
        None => Ok(vouch),
    }
}
