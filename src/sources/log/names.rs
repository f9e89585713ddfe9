//! Names that rotation gives: `app.log`, `app.log.1`, `app.log-20261124`, `app-20261124.log.gz` are one log's.

use crate::core::path::StoredPath;

const COMPRESSED: [&str; 4] = [".gz", ".zst", ".zstd", ".z"];

/// What the names of one rotated log have in common: the last part without numbers that a separator leads in.
pub(super) fn root(path: &StoredPath) -> String {
    let name = path.as_str().rsplit('/').next().unwrap_or_default();
    let name = COMPRESSED.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
    let mut root = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        let after = &rest[first.len_utf8()..];
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        if matches!(first, '.' | '-' | '_') && digits > 0 {
            rest = &after[digits..];
        } else {
            root.push(first);
            rest = after;
        }
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_log() {
        let root = |name: &str| root(&StoredPath::parse(name).unwrap());
        for name in [
            "app.log",
            "app.log.1",
            "old/app.log.12.gz",
            "app.log-20261124",
            "app.log-20261124-1700000000.zst",
            "app-20261124.log",
            "app_2026-11-24.log.gz",
        ] {
            assert_eq!(root(name), "app.log", "{name}");
        }
        assert_ne!(root("app1.log"), root("app2.log"));
        assert_ne!(root("web-app.log"), root("app.log"));
        assert_eq!(root("7"), "7");
    }
}
