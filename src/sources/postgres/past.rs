//! What local state keeps of a snapshot for the next one.

use super::walk::Stamp;
use crate::{
    core::{
        log::{HistoryId, Lsn},
        path::StoredPath,
    },
    world::files,
};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, fs, path::Path};

const FORMAT: u32 = 1;
/// A file of timelines has a line for each.
const HISTORY_BYTES_MAX: u64 = 1 << 20;

/// The record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Past {
    format: u32,
    pub(super) history: HistoryId,
    /// Where replay of that snapshot begins.
    pub(super) start: Lsn,
    pub(super) stop: Lsn,
    /// Every file as it was found, and whether its times are certain to be others once it has changed.
    pub(super) files: HashMap<StoredPath, (Stamp, bool)>,
    /// Pages that were damaged, and those that the server was writing: they are looked at again each time.
    pub(super) damaged: Vec<(StoredPath, u64)>,
}

impl Past {
    pub(super) fn new(history: HistoryId, start: Lsn, stop: Lsn) -> Self {
        Past { format: FORMAT, history, start, stop, files: HashMap::new(), damaged: Vec::new() }
    }

    /// Reads a record; `None` if it is another source's or another version's.
    pub(super) fn read(fingerprint: &serde_json::Value) -> Option<Self> {
        let past = Past::deserialize(fingerprint).ok()?;
        (past.format == FORMAT).then_some(past)
    }

    /// Why a server that is at `now` cannot go on from this, if so.
    pub(super) fn misfit(&self, now: HistoryId, data_dir: &Path) -> Option<String> {
        if now.system != self.history.system {
            return Some(format!(
                "the system identifier is {} and that of the base {}: another server begins a new history",
                now.system, self.history.system
            ));
        }
        if now.timeline == self.history.timeline {
            return None;
        }
        let file = data_dir.join(format!("pg_wal/{:08X}.history", now.timeline));
        let is_small = fs::metadata(&file).is_ok_and(|found| found.len() <= HISTORY_BYTES_MAX);
        let text = if is_small { files::read_to_string(&file).unwrap_or_default() } else { String::new() };
        match left_at(&text, self.history.timeline) {
            Some(left_at) if self.stop <= left_at => None,
            Some(left_at) => Some(format!(
                "the server left timeline {} at {left_at}, before the end of the base at {}",
                self.history.timeline, self.stop
            )),
            None => Some(format!(
                "the server is on timeline {}, which did not grow out of the base's, {}",
                now.timeline, self.history.timeline
            )),
        }
    }
}

/// Where a history file says that a timeline was left.
fn left_at(history: &str, timeline: u32) -> Option<Lsn> {
    history.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let is_it = fields.next()?.parse() == Ok(timeline);
        if is_it { fields.next()?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_grew_out_of_the_base_goes_on_from_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("pg_wal")).unwrap();
        let history = "1\t0/5000\tno recovery target specified\n\n2\t0/9000\tbefore\n";
        fs::write(dir.path().join("pg_wal/00000003.history"), history).unwrap();
        let at = |system, timeline| HistoryId { system, timeline };
        let misfit = |base, stop, now| Past::new(base, Lsn(0x100), Lsn(stop)).misfit(now, dir.path());
        assert_eq!(misfit(at(7, 1), 0x9999, at(7, 1)), None);
        assert_eq!(misfit(at(7, 1), 0x5000, at(7, 3)), None);
        assert!(misfit(at(7, 1), 0x5001, at(7, 3)).unwrap().contains("before the end"));
        assert!(misfit(at(7, 4), 0x100, at(7, 3)).unwrap().contains("grow out"));
        assert!(misfit(at(8, 1), 0x100, at(7, 1)).unwrap().contains("another server"));
    }

    #[test]
    fn records_survive() {
        let mut past = Past::new(HistoryId { system: 1 << 60, timeline: 1 }, Lsn(1), Lsn(2));
        past.damaged.push((StoredPath::parse("base/5/1").unwrap(), 9));
        let value = serde_json::to_value(&past).unwrap();
        assert_eq!(Past::read(&value), Some(past));
        assert_eq!(Past::read(&serde_json::json!({ "version": 1 })), None);
    }
}
