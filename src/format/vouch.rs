//! Vouches as bytes. The signature is over the exact bytes and is checked before they are parsed.

use super::{FormatError, document_bytes, parse_document};
use crate::core::vouch::{FORMAT, Vouch};

/// The most bytes of a vouch that a reader accepts.
pub const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The bytes of a vouch.
pub fn to_bytes(vouch: &Vouch) -> Vec<u8> {
    document_bytes(vouch)
}

/// Reads and checks a vouch whose signature has been checked.
pub fn parse(bytes: &[u8]) -> Result<Vouch, FormatError> {
    parse_document(bytes, FORMAT, |vouch: &Vouch| &vouch.format, Vouch::contradiction)
}
