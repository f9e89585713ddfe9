//! `inventory.json` as bytes. The signature is over the exact bytes and is checked before they are parsed.

use super::{FormatError, document_bytes, parse_document};
use crate::core::inventory::{FORMAT, Inventory};

/// The most bytes that a reader accepts.
pub const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// The bytes of `inventory.json`. Whether it can be right is the caller's to ask: see [`Inventory::contradiction`].
pub fn to_bytes(inventory: &Inventory) -> Vec<u8> {
    document_bytes(inventory)
}

/// Reads and checks an inventory whose signature has been checked.
pub fn parse(bytes: &[u8]) -> Result<Inventory, FormatError> {
    parse_document(bytes, FORMAT, |inventory: &Inventory| &inventory.format, Inventory::contradiction)
}
