//! What a database server, and the directory of its log, say of themselves to whoever watches over them.

use super::log::{HistoryId, Lsn};

/// How a server looks from its own host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The directory of its log.
    pub directory: LogDirectory,
    /// What it answers, or why it does not.
    pub server: Result<ServerFacts, String>,
}

/// The directory that a server writes its log to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogDirectory {
    /// The history, as its control file says.
    pub history: Option<HistoryId>,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// How many files wait to be archived.
    pub waiting: u64,
    /// How long the oldest of them has waited.
    pub oldest_seconds: Option<u64>,
    /// Room that is left on its file system.
    pub free_bytes: Option<u64>,
}

/// What a server answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerFacts {
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// Where it writes next.
    pub insert: Lsn,
    /// How it archives: `archive_mode`.
    pub archive_mode: String,
    /// With what: `archive_command`.
    pub archive_command: String,
    /// Or with what else: `archive_library`.
    pub archive_library: String,
    /// Its archiver's last failure, where nothing was archived since.
    pub archiver_trouble: Option<String>,
    /// The file that it archived last, with the settings that it has now.
    pub last_archived: Option<String>,
    /// How much its slots may keep from being removed; `None` is without limit.
    pub slots_keep_bytes: Option<u64>,
    /// Whether recoup archive follow receives its log now.
    pub is_followed: bool,
    /// Its replication slots.
    pub slots: Vec<Slot>,
}

/// A replication slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Whether somebody reads from it.
    pub is_active: bool,
    /// What of the log it needs: `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: String,
    /// How much of the log it keeps from being removed.
    pub held_bytes: u64,
}

/// How fast a server writes its log, as far as anybody can tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// So many bytes in a second, as seen between two looks.
    Seen(f64),
    /// So many, by the number and age of the files that wait.
    ByBacklog(f64),
    /// Nobody knows.
    Unknown,
}

/// The least time between two looks that say how fast a log grows.
const SEEN_SECONDS_MIN: f64 = 30.0;

impl Rate {
    /// The rate: by where the log was at the last look and how many seconds ago that was, else by the backlog.
    pub fn of(before: Option<(Lsn, f64)>, now: Option<Lsn>, directory: &LogDirectory) -> Self {
        if let (Some((then, seconds)), Some(now)) = (before, now)
            && seconds >= SEEN_SECONDS_MIN
            && now >= then
        {
            return Rate::Seen((now.0 - then.0) as f64 / seconds);
        }
        match (directory.waiting, directory.oldest_seconds) {
            // One file says when it was finished, and not how long it took.
            (2.., Some(seconds)) if seconds > 0 => {
                let bytes = (directory.waiting - 1) as f64 * directory.segment_bytes as f64;
                Rate::ByBacklog(bytes / seconds as f64)
            }
            _ => Rate::Unknown,
        }
    }

    /// How many seconds until so much room is full.
    pub fn seconds_to_fill(self, free_bytes: u64) -> Option<f64> {
        match self {
            Rate::Seen(rate) | Rate::ByBacklog(rate) if rate > 0.0 => Some(free_bytes as f64 / rate),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_forecasts() {
        let directory = |waiting, oldest_seconds| LogDirectory {
            segment_bytes: 100,
            waiting,
            oldest_seconds,
            ..LogDirectory::default()
        };
        for (before, now, directory, rate, full) in [
            (Some((Lsn(0), 50.0)), Some(Lsn(500)), directory(9, Some(1)), Rate::Seen(10.0), Some(100.0)),
            (Some((Lsn(500), 50.0)), Some(Lsn(500)), directory(0, None), Rate::Seen(0.0), None),
            // Another system's place, or a clock that was set back.
            (Some((Lsn(0), 29.0)), Some(Lsn(500)), directory(0, None), Rate::Unknown, None),
            (Some((Lsn(501), 50.0)), Some(Lsn(500)), directory(0, None), Rate::Unknown, None),
            (Some((Lsn(0), -3.0)), Some(Lsn(500)), directory(0, None), Rate::Unknown, None),
            (None, Some(Lsn(500)), directory(3, Some(10)), Rate::ByBacklog(20.0), Some(50.0)),
            (Some((Lsn(0), 50.0)), None, directory(3, Some(10)), Rate::ByBacklog(20.0), Some(50.0)),
            (None, None, directory(1, Some(10)), Rate::Unknown, None),
            (None, None, directory(2, Some(0)), Rate::Unknown, None),
        ] {
            let found = Rate::of(before, now, &directory);
            assert_eq!((found, found.seconds_to_fill(1000)), (rate, full), "{before:?} {now:?} {directory:?}");
        }
    }
}
