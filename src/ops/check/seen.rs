//! Where a server's log was at an earlier check: from two looks follows how fast it grows.

use crate::{core::log::Lsn, core::time::Timestamp, world::files};
use serde::{Deserialize, Serialize};
use std::path::Path;

const FORMAT: &str = "recoup-server-seen/1";
/// A look is kept so long at least, that checks in short order tell a rate, too.
const KEPT_SECONDS: f64 = 60.0;

/// A look.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct LastLook {
    format: String,
    system: u64,
    insert: Lsn,
    at: Timestamp,
}

/// Where the log of a system was, and how many seconds ago; keeps what is seen now in its place when it is old. Losing
/// it costs a forecast, and nothing else.
pub(super) fn replaced(directory: &Path, system: u64, insert: Lsn, now: Timestamp) -> Option<(Lsn, f64)> {
    let path = directory.join("server-seen.json");
    let read: Option<LastLook> = files::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let last = read.filter(|last| last.format == FORMAT && last.system == system);
    let before = last.map(|last| (last.insert, now.seconds_since(last.at)));
    let is_usable = before.is_some_and(|(then, seconds)| then <= insert && (0.0..KEPT_SECONDS).contains(&seconds));
    if !is_usable && directory.is_dir() {
        let look = LastLook { format: FORMAT.to_owned(), system, insert, at: now };
        let text = serde_json::to_vec(&look).unwrap_or_default();
        let _ = files::write_atomic(&path, &text, 0o600);
    }
    before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_kept_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let at = |second: u32| format!("2026-11-22T09:{:02}:{:02}Z", second / 60, second % 60).parse().unwrap();
        let look = |system, insert, second| replaced(dir.path(), system, Lsn(insert), at(second));
        assert_eq!(look(7, 100, 0), None);
        assert_eq!(look(7, 200, 10), Some((Lsn(100), 10.0)));
        assert_eq!(look(7, 900, 80), Some((Lsn(100), 80.0)));
        assert_eq!(look(7, 950, 90), Some((Lsn(900), 10.0)));
        // Another system, and a place from before.
        assert_eq!(look(8, 10, 95), None);
        assert_eq!(look(8, 5, 96), Some((Lsn(10), 1.0)));
        assert_eq!(look(8, 6, 97), Some((Lsn(5), 1.0)));
        assert_eq!(replaced(&dir.path().join("gone"), 7, Lsn(1), at(0)), None);
        assert!(!dir.path().join("gone").exists());
    }
}
