//! PURE: bytes to values and back. What lies on a store, byte for byte, and nothing about stores.

pub mod digests;
pub mod evidence;
pub mod facts;
pub mod index;
pub mod inventory;
pub mod log;
pub mod manifest;
pub mod objects;
pub mod pack;
pub mod prune;
pub mod ranged;
pub mod report;
pub mod run;
pub mod seal;
pub mod signature;
pub mod signers;
pub mod vouch;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::Digest;

use crate::core::id::Sha256;

/// Why bytes are not what they should be. Never says more than the reader may know.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The bytes are damaged or forged.
    #[error("{0}")]
    Damaged(String),
    /// A newer version of the format.
    #[error("it has format {found:?}, this version of recoup reads {known:?}; use a newer recoup")]
    Newer {
        /// What stands in the object.
        found: String,
        /// What this version reads.
        known: &'static str,
    },
    /// None of the identities opens it.
    #[error("none of the given identities opens it")]
    NoMatchingKey,
}

impl FormatError {
    fn damaged(what: impl std::fmt::Display) -> Self {
        FormatError::Damaged(what.to_string())
    }
}

/// SHA-256 of bytes.
pub fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

/// The bytes of a JSON document that people may read, too.
fn document_bytes<T: Serialize>(document: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(document).expect("no document has a map with odd keys");
    bytes.push(b'\n');
    bytes
}

/// Reads a JSON document of the format `known`, and asks it why it cannot be right.
///
/// It is read once where it is what it should be. Of what is not understood the format alone says whether it is newer.
fn parse_document<T: DeserializeOwned>(
    bytes: &[u8],
    known: &'static str,
    format_of: impl Fn(&T) -> &str,
    contradiction: impl Fn(&T) -> Option<&'static str>,
) -> Result<T, FormatError> {
    #[derive(Deserialize)]
    struct Head {
        format: String,
    }
    let read = serde_json::from_slice::<T>(bytes);
    if !read.as_ref().is_ok_and(|document| format_of(document) == known) {
        let head: Head = serde_json::from_slice(bytes).map_err(FormatError::damaged)?;
        check_format(&head.format, known)?;
    }
    let document = read.map_err(FormatError::damaged)?;
    match contradiction(&document) {
        Some(why) => Err(FormatError::damaged(why)),
        None => Ok(document),
    }
}

/// Checks the `format` of a JSON object against `known` (`name/major`): a newer major is told apart from rubbish.
fn check_format(found: &str, known: &'static str) -> Result<(), FormatError> {
    if found == known {
        return Ok(());
    }
    let (name, major) = known.split_once('/').expect("a format has a name and a major version");
    match found.split_once('/') {
        Some((found_name, found_major))
            if found_name == name && found_major.parse().unwrap_or(0) > major.parse::<u32>().unwrap_or(0) =>
        {
            Err(FormatError::Newer { found: found.chars().take(80).collect(), known })
        }
        _ => Err(FormatError::damaged(format_args!("it is no {known}"))),
    }
}
