//! `inventory.json` as bytes. The signature is over the exact bytes and is checked before they are parsed.

use super::{FormatError, check_format};
use crate::core::inventory::{FORMAT, Inventory};
use serde::Deserialize;

/// The most bytes that a reader accepts.
pub const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// The bytes of `inventory.json`. Whether it can be right is the caller's to ask: see [`Inventory::contradiction`].
pub fn to_bytes(inventory: &Inventory) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(inventory).expect("an inventory has no map with odd keys");
    bytes.push(b'\n');
    bytes
}

/// Reads and checks an inventory whose signature has been checked.
pub fn parse(bytes: &[u8]) -> Result<Inventory, FormatError> {
    #[derive(Deserialize)]
    struct Head {
        format: String,
    }
    let read = serde_json::from_slice::<Inventory>(bytes);
    // Of what is not understood the format alone says whether it is newer.
    if !read.as_ref().is_ok_and(|inventory| inventory.format == FORMAT) {
        let head: Head = serde_json::from_slice(bytes).map_err(FormatError::damaged)?;
        check_format(&head.format, FORMAT)?;
    }
    let inventory = read.map_err(FormatError::damaged)?;
    match inventory.contradiction() {
        Some(why) => Err(FormatError::damaged(why)),
        None => Ok(inventory),
    }
}
