//! Paths inside a source: relative, percent-coded, unable to leave the target directory.

use super::text::text_debug;
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

/// The most bytes of a path, decoded: Linux takes 4096 with the zero at the end.
pub const PATH_BYTES_MAX: usize = 4095;
/// The most bytes of one part of a path, decoded: no Linux file system takes more.
pub const PART_BYTES_MAX: usize = 255;

/// What stands in a target directory until a restore is complete; nothing of a source may have this name there.
pub const PARTIAL: &str = ".recoup-partial";

impl StoredPath {
    /// The stored form of raw path bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidPath> {
        StoredPath::parse(&encode(bytes))
    }

    /// Reads a stored form and refuses anything that is not the one stored form of a safe path.
    pub fn parse(text: &str) -> Result<Self, InvalidPath> {
        let refuse = |rule| Err(InvalidPath { path: text.chars().take(200).collect(), rule });
        // Looked at before it is decoded: a text of any length may come from a store.
        if text.len() > 3 * PATH_BYTES_MAX {
            return refuse("it is longer than 4095 bytes");
        }
        let Some(bytes) = decode(text) else {
            return refuse("it is not percent-coded printable ASCII");
        };
        if bytes.len() > PATH_BYTES_MAX {
            return refuse("it is longer than 4095 bytes");
        }
        if bytes.contains(&0) {
            return refuse("it contains a zero byte");
        }
        for part in bytes.split(|byte| *byte == b'/') {
            match part {
                b"" => return refuse("it is absolute or has an empty part"),
                b"." | b".." => return refuse("it has a . or .. part"),
                _ if part.len() > PART_BYTES_MAX => return refuse("a part is longer than 255 bytes"),
                _ => {}
            }
        }
        if bytes.split(|byte| *byte == b'/').next() == Some(PARTIAL.as_bytes()) {
            return refuse("a restore keeps what is not complete under this name");
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

/// Raw bytes as percent-coded text: what [`decode`] takes.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if (b' '..=b'~').contains(byte) && *byte != b'%' {
            text.push(*byte as char);
        } else {
            text.push_str(&format!("%{byte:02x}"));
        }
    }
    text
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

text_debug!(StoredPath);

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
    }

    #[test]
    fn long_paths_are_refused_by_their_decoded_length() {
        let (byte, part) = ("%81", 255);
        for (text, fits) in [
            ("a".repeat(part), true),
            ("a".repeat(part + 1), false),
            (byte.repeat(part), true),
            (byte.repeat(part + 1), false),
            (format!("{}a", "a/".repeat(2047)), true),
            (format!("{}aa", "a/".repeat(2047)), false),
            (format!("{}{byte}", "%81/".repeat(2047)), true),
            (format!("{}{byte}a", "%81/".repeat(2047)), false),
            ("a/".repeat(9000) + "a", false),
        ] {
            let parsed = StoredPath::parse(&text);
            assert_eq!(parsed.is_ok(), fits, "{} bytes", text.len());
            let raw = StoredPath::from_bytes(&decode(&text).unwrap());
            assert_eq!(raw.is_ok(), fits, "{} bytes", text.len());
        }
        let refused = StoredPath::from_bytes(&[b'x'; 300]).unwrap_err().to_string();
        assert!(refused.contains("longer than 255 bytes") && refused.len() < 300, "{refused}");
    }

    #[test]
    fn the_name_of_what_is_not_complete_is_taken() {
        for (path, taken) in [
            (".recoup-partial", true),
            (".recoup-partial/x", true),
            ("a/.recoup-partial", false),
            (".recoup-partial.db", false),
        ] {
            assert_eq!(StoredPath::parse(path).is_err(), taken, "{path}");
        }
    }
}
