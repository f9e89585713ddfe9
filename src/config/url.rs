//! Where a store is, as a URL: `file:///absolute/path` or `s3://BUCKET/PREFIX`.

use crate::core::s3::Address;
use std::{
    ffi::OsString,
    fmt,
    os::unix::ffi::OsStringExt,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

/// The URL of a store, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreUrl {
    text: String,
    target: Target,
}

/// What a store's URL names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A directory.
    Directory(PathBuf),
    /// A bucket, or what lies below a prefix in it.
    S3(Address),
}

impl StoreUrl {
    /// What it names.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Whether it is an `s3://` URL.
    pub fn is_s3(&self) -> bool {
        matches!(self.target, Target::S3(_))
    }

    /// The URL as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether both name the same place, or one lies inside the other; of `s3://` URLs, if both mean one server.
    pub(super) fn overlaps(&self, other: &StoreUrl) -> bool {
        match (&self.target, &other.target) {
            (Target::Directory(one), Target::Directory(other)) => one.starts_with(other) || other.starts_with(one),
            (Target::S3(one), Target::S3(other)) => one.overlaps(other),
            _ => false,
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Why a store's URL was not accepted. It never repeats what may be a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidUrl(String);

impl FromStr for StoreUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let wrong = |why: &str| Err(InvalidUrl(why.to_owned()));
        let Some((scheme, rest)) = text.split_once("://") else {
            return if text.starts_with('/') && !text.contains(char::is_control) {
                Err(InvalidUrl(format!("a store is named by a URL: write file://{text}")))
            } else {
                wrong("a store is named by a URL, such as file:///srv/backup")
            };
        };
        match scheme {
            "file" => {}
            "s3" => {
                let address = text.parse().map_err(|error: crate::core::s3::Invalid| InvalidUrl(error.to_string()))?;
                return Ok(StoreUrl { text: text.to_owned(), target: Target::S3(address) });
            }
            "gs" | "az" => {
                let has = "it has file:///absolute/path and s3://BUCKET/PREFIX";
                return Err(InvalidUrl(format!("this build has no {scheme}:// store; {has}")));
            }
            _ => {
                return wrong(
                    "its scheme is not one recoup knows; this build has file:///absolute/path and s3://BUCKET/PREFIX",
                );
            }
        }
        if !rest.starts_with('/') {
            return wrong("a file:// URL names an absolute path and no host: file:///absolute/path");
        }
        if rest.contains(['?', '#']) || rest.contains(char::is_control) {
            return wrong("write '?', '#' and control characters in a file:// URL as %3f, %23 and so on");
        }
        let Some(bytes) = percent_decode(rest) else {
            return wrong("a '%' in a URL begins two hexadecimal digits; write the character '%' as %25");
        };
        let path = PathBuf::from(OsString::from_vec(bytes));
        if path.components().any(|part| matches!(part, Component::ParentDir)) {
            return wrong("a store's path must not contain '..'");
        }
        // Rebuilt from its parts, so that a doubled or trailing slash does not make it another place.
        let path: PathBuf = path.components().collect();
        if path == Path::new("/") {
            return wrong("a store needs a directory of its own, not the root of the file system");
        }
        Ok(StoreUrl { text: text.to_owned(), target: Target::Directory(path) })
    }
}

/// The bytes that a percent-coded path stands for; `None` for bad codes and zero bytes.
pub(super) fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first == b'%' {
            let code = std::str::from_utf8(rest.get(..2)?).ok()?.to_ascii_lowercase();
            bytes.push(*crate::core::id::unhex(&code)?.first()?);
            rest = &rest[2..];
        } else {
            bytes.push(*first);
        }
    }
    (!bytes.contains(&0)).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_directories() {
        for (text, path) in [
            ("file:///srv/a", "/srv/a"),
            ("file:///srv//a/./b/", "/srv/a/b"),
            ("file:///a%20b", "/a b"),
            ("file:///100%25", "/100%"),
            ("file:///a=b", "/a=b"),
        ] {
            let url: StoreUrl = text.parse().unwrap();
            assert_eq!((url.target(), url.as_str()), (&Target::Directory(path.into()), text));
        }
    }

    #[test]
    fn everything_else_is_refused_without_repeating_secrets() {
        for (text, why) in [
            ("/srv/a", "write file:///srv/a"),
            ("srv", "named by a URL"),
            ("file://srv/a", "no host"),
            ("file://user:hunter2@srv/a", "no host"),
            ("file:///", "root"),
            ("file:///a/../b", "'..'"),
            ("file:///a%2", "%25"),
            ("file:///a%zz", "%25"),
            ("file:///a%00", "%25"),
            ("file:///a?b", "%3f"),
            ("s3://KEY:hunter2@bucket", "environment"),
            ("s3://bucket?region=x", "keys of the store"),
            ("gs://bucket", "no gs:// store"),
            ("https://user:hunter2@host/", "scheme"),
        ] {
            let error = text.parse::<StoreUrl>().unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn overlapping_places() {
        let url = |text: &str| text.parse::<StoreUrl>().unwrap();
        assert!(url("file:///a").overlaps(&url("file:///a/")));
        assert!(url("file:///a").overlaps(&url("file:///a/b")));
        assert!(!url("file:///a").overlaps(&url("file:///ab")));
        assert!(url("s3://acme").overlaps(&url("s3://acme/b")));
        assert!(!url("s3://acme/a").overlaps(&url("file:///acme/a")));
    }
}
