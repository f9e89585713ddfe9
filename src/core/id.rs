//! Names and identifiers: sources, runs, repositories, snapshots, digests.
//!
//! Every one of them is validated when it is made, so that code holding one need not look again.

use super::text::{text_debug, text_serde};
use std::{fmt, str::FromStr};

/// Why a name or an identifier was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {rule}")]
pub struct InvalidName {
    what: &'static str,
    value: String,
    rule: &'static str,
}

fn invalid(what: &'static str, value: &str, rule: &'static str) -> InvalidName {
    // Hostile input is shown, but never at length.
    InvalidName { what, value: value.chars().take(80).collect(), rule }
}

/// The name of a source: `[a-z0-9][a-z0-9_-]{0,62}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceName(String);

impl SourceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SourceName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let ok = (1..=63).contains(&text.len())
            && !text.starts_with(['_', '-'])
            && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
        if ok {
            Ok(SourceName(text.to_owned()))
        } else {
            Err(invalid("source name", text, "use 1 to 63 of a-z, 0-9, _ and -, beginning with a letter or digit"))
        }
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
text_serde!(SourceName);
text_debug!(SourceName);

const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// 16 random characters of base32 (80 bits): the id of a run, and of a repository.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId([u8; 16]);

impl RunId {
    /// An id made from 16 random bytes; five bits of each are used.
    pub fn from_random(random: [u8; 16]) -> Self {
        RunId(random.map(|byte| BASE32[usize::from(byte & 31)]))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("base32 is ASCII")
    }
}

impl FromStr for RunId {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let bytes: [u8; 16] =
            text.as_bytes().try_into().map_err(|_| invalid("id", text, "16 characters of a-z and 2-7"))?;
        if bytes.iter().all(|byte| BASE32.contains(byte)) {
            Ok(RunId(bytes))
        } else {
            Err(invalid("id", text, "16 characters of a-z and 2-7"))
        }
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
text_serde!(RunId);
text_debug!(RunId);

/// The id of a repository; it has the form of a run id.
pub type RepositoryId = RunId;

/// The largest sequence number: ten digits.
pub const SEQ_MAX: u64 = 9_999_999_999;

/// One snapshot of a source: its sequence number and its run. Two runs may share a number (a fork).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId {
    /// Sequence number, from 1.
    pub seq: u64,
    /// The run that made it.
    pub run: RunId,
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:010}-{}", self.seq, self.run)
    }
}

impl FromStr for SnapshotId {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let rule = "ten digits, a hyphen and a run id";
        let (seq, run) = text.split_once('-').ok_or_else(|| invalid("snapshot id", text, rule))?;
        if seq.len() != 10 || !seq.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(invalid("snapshot id", text, rule));
        }
        let seq = seq.parse().map_err(|_| invalid("snapshot id", text, rule))?;
        Ok(SnapshotId { seq, run: run.parse()? })
    }
}
text_serde!(SnapshotId);
text_debug!(SnapshotId);

/// A SHA-256 digest, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

impl fmt::Display for Sha256 {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex(&self.0))
    }
}

impl FromStr for Sha256 {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let wrong = || invalid("SHA-256", text, "64 lower-case hexadecimal digits");
        let bytes = unhex(text).ok_or_else(wrong)?;
        Ok(Sha256(bytes.try_into().map_err(|_| wrong())?))
    }
}
text_serde!(Sha256);
text_debug!(Sha256);

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)] as char);
        text.push(DIGITS[usize::from(byte & 15)] as char);
    }
    text
}

/// The bytes that lower-case hexadecimal digits stand for; `None` for anything else.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let bytes = text.as_bytes();
    if !bytes.len().is_multiple_of(2) {
        return None;
    }
    bytes.chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "ledger", "0-9_x", &"a".repeat(63)] {
            assert_eq!(good.parse::<SourceName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "_a", "A", "a/b", "..", "a b", "é", &"a".repeat(64)] {
            assert!(bad.parse::<SourceName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_round_trip() {
        let run = RunId::from_random([255; 16]);
        assert_eq!(run.as_str(), "7777777777777777");
        assert_eq!(run.as_str().parse::<RunId>().unwrap(), run);
        let id = SnapshotId { seq: 42, run };
        assert_eq!(id.to_string(), "0000000042-7777777777777777");
        assert_eq!(id.to_string().parse::<SnapshotId>().unwrap(), id);
        for bad in ["42-7777777777777777", "0000000042", "0000000042-777777777777777A", "00000000é42-7777777777777777"]
        {
            assert!(bad.parse::<SnapshotId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn digests_round_trip() {
        let digest = Sha256([0xab; 32]);
        assert_eq!(digest.to_string().parse::<Sha256>().unwrap(), digest);
        assert!("AB".repeat(32).parse::<Sha256>().is_err());
        assert!("ab".repeat(31).parse::<Sha256>().is_err());
        assert_eq!(unhex("é0"), None);
    }
}
