//! Paths inside a source: relative, percent-coded, unable to leave the target directory.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{ffi::OsStr, fmt, os::unix::ffi::OsStrExt, path::PathBuf, sync::Arc};

/// A relative path in its stored form: bytes that are not printable ASCII, and `%`, are `%xx`.
///
/// It has no empty, `.` or `..` part and is not absolute, so joining it to a directory stays inside it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoredPath(Arc<str>);

/// Why a path was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("path {path:?} is refused: {rule}")]
pub struct InvalidPath {
    path: String,
    rule: &'static str,
}

/// The longest stored path; Linux's own limit is 4096 bytes.
const MAX_LENGTH: usize = 3 * 4096;

impl StoredPath {
    /// The stored form of raw path bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidPath> {
        let mut text = String::with_capacity(bytes.len());
        for byte in bytes {
            if (b' '..=b'~').contains(byte) && *byte != b'%' {
                text.push(*byte as char);
            } else {
                text.push_str(&format!("%{byte:02x}"));
            }
        }
        StoredPath::parse(&text)
    }

    /// Reads a stored form and refuses anything that is not the one stored form of a safe path.
    pub fn parse(text: &str) -> Result<Self, InvalidPath> {
        let refuse = |rule| Err(InvalidPath { path: text.chars().take(200).collect(), rule });
        if text.len() > MAX_LENGTH {
            return refuse("it is too long");
        }
        let Some(bytes) = decode(text) else {
            return refuse("it is not percent-coded printable ASCII");
        };
        if bytes.contains(&0) {
            return refuse("it contains a zero byte");
        }
        for part in bytes.split(|byte| *byte == b'/') {
            match part {
                b"" => return refuse("it is absolute or has an empty part"),
                b"." | b".." => return refuse("it has a . or .. part"),
                _ if part.len() > 255 => return refuse("a part is longer than 255 bytes"),
                _ => {}
            }
        }
        Ok(StoredPath(text.into()))
    }

    /// The stored form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path to join to a target directory.
    pub fn to_relative(&self) -> PathBuf {
        PathBuf::from(OsStr::from_bytes(&decode(&self.0).expect("checked when it was made")))
    }
}

/// The raw bytes of a percent-coded text, whatever they are; `None` unless it is canonically coded.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'%' => {
                let code = std::str::from_utf8(rest.get(..2)?).ok()?;
                let byte = *super::id::unhex(code)?.first()?;
                if (b' '..=b'~').contains(&byte) && byte != b'%' {
                    return None; // a second spelling of the same path
                }
                bytes.push(byte);
                rest = &rest[2..];
            }
            b' '..=b'~' => bytes.push(*first),
            _ => return None,
        }
    }
    Some(bytes)
}

impl fmt::Display for StoredPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for StoredPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Serialize for StoredPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for StoredPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        StoredPath::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_form() {
        let cases: &[(&[u8], &str)] = &[
            (b"ledger.db", "ledger.db"),
            (b"a b/100%", "a b/100%25"),
            ("Zürich.db".as_bytes(), "Z%c3%bcrich.db"),
            (b"a\nb", "a%0ab"),
        ];
        for (raw, stored) in cases {
            let path = StoredPath::from_bytes(raw).unwrap();
            assert_eq!(path.as_str(), *stored);
            assert_eq!(path.to_relative().as_os_str().as_bytes(), *raw);
        }
    }

    #[test]
    fn unsafe_paths_are_refused() {
        for bad in [
            "",
            "/etc/passwd",
            "..",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "a%2e",
            "a%2",
            "a%zz",
            "a%00b",
            "é",
            "a%2fb",
            "%2e%2e/x",
        ] {
            assert!(StoredPath::parse(bad).is_err(), "{bad}");
        }
        assert!(StoredPath::parse(&"a".repeat(256)).is_err());
        assert!(StoredPath::parse(&"a/".repeat(9000)).is_err());
    }
}
