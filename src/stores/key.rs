//! Keys: the names of objects. Only what this program writes itself is a key.

use object_store::path::Path;

/// The folder at the top of a `file://` store that keeps what was found damaged.
pub const QUARANTINE: &str = "quarantine";

/// The one object whose name people should notice.
const RECOVERY: &str = "RECOVERY.md";

/// The most damaged versions of one object that are kept.
pub(super) const MAX_QUARANTINED: u32 = 1000;

const MAX_KEY_BYTES: usize = 512;
const MAX_PART_BYTES: usize = 200;

/// The key as object_store's path, if it is one of ours: lower-case letters, digits, `.`, `_`, `-` between slashes.
pub(super) fn parse(key: &str) -> Option<Path> {
    if key == RECOVERY {
        return Path::parse(key).ok();
    }
    let ok = key.len() <= MAX_KEY_BYTES && key.split('/').all(is_part);
    if ok { Path::parse(key).ok() } else { None }
}

/// Whether a text can be one part of a key.
pub(super) fn is_part(part: &str) -> bool {
    (1..=MAX_PART_BYTES).contains(&part.len())
        && part.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
        && !matches!(part, "." | "..")
}

/// Whether a listed name is what an interrupted write left beside its target: the target's name, `#` and digits.
pub(super) fn is_leftover(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(target, number)| {
        parse(target).is_some() && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Whether a key lies in the quarantine.
pub(super) fn is_quarantined(key: &str) -> bool {
    key.strip_prefix(QUARANTINE).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Where in the quarantine a version of an object is kept: the first under its own name, the others with a number.
pub(super) fn quarantined(key: &str, number: u32) -> String {
    match number {
        0 => format!("{QUARANTINE}/{key}"),
        _ => format!("{QUARANTINE}/{key}.{number}"),
    }
}

/// What to say when every one of those is taken.
pub(super) fn quarantine_is_full() -> String {
    format!("{MAX_QUARANTINED} damaged versions of it lie in {QUARANTINE}/ already")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let long = ["a".repeat(MAX_PART_BYTES).as_str(), "b"].join("/");
        for good in ["a", "recoup.json", "RECOVERY.md", "sources/a_b-c/packs/x/0.age", "...", ".a", &long] {
            assert_eq!(parse(good).map(String::from).as_deref(), Some(good));
        }
        let too_long = "a".repeat(MAX_PART_BYTES + 1);
        let deep = "a/".repeat(MAX_KEY_BYTES / 2) + "a";
        for bad in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            "..",
            "a/../b",
            ".",
            "a/.",
            "A",
            "a b",
            "a#1",
            "a%2f",
            "é",
            "a\0",
            "a\n",
            "a\\b",
            "x/RECOVERY.md",
            &too_long,
            &deep,
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn leftovers_and_quarantine() {
        for (name, expected) in
            [("a/b#1", true), ("a#12", true), ("a#", false), ("a#x", false), ("A#1", false), ("a", false)]
        {
            assert_eq!(is_leftover(name), expected, "{name}");
        }
        for (key, expected) in
            [("quarantine", true), ("quarantine/a", true), ("quarantined/a", false), ("a/quarantine", false)]
        {
            assert_eq!(is_quarantined(key), expected, "{key}");
        }
    }
}
