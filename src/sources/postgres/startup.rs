//! What a server says of its start: in its log, in `postmaster.pid`, in `pg_controldata`. Pure.

use crate::core::log::{Lsn, ServerTime};
use chrono::{DateTime, Utc};

/// How many causes of a failed start are shown.
const CAUSES_MAX: usize = 3;
/// How many characters of each.
const CAUSE_CHARACTERS_MAX: usize = 400;

/// How far a server got with the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Where the last record that was replayed begins; `None` where there was nothing to replay.
    pub until: Option<Lsn>,
    /// The time of the last commit that was replayed.
    pub last_commit_at: Option<ServerTime>,
    /// The timeline that the server opened, where it opened a new one.
    pub new_timeline: Option<u32>,
}

/// How far the server got, by its log.
pub(super) fn replayed(log: &str) -> Replayed {
    let mut replayed = Replayed::default();
    for line in log.lines() {
        let Some(message) = line.strip_prefix("LOG:  ") else { continue };
        if let Some(rest) = message.strip_prefix("redo done at ") {
            replayed.until = rest.split_whitespace().next().and_then(|word| word.parse().ok());
        } else if let Some(rest) = message.strip_prefix("last completed transaction was at log time ") {
            replayed.last_commit_at = server_time(rest);
        } else if let Some(rest) = message.strip_prefix("selected new timeline ID: ") {
            replayed.new_timeline = rest.trim().parse().ok();
        }
    }
    replayed
}

/// A moment as the server prints it where its time zone is UTC.
fn server_time(text: &str) -> Option<ServerTime> {
    let moment = DateTime::parse_from_str(text.trim(), "%Y-%m-%d %H:%M:%S%.f%#z").ok()?;
    Some(ServerTime::new(moment.with_timezone(&Utc)))
}

/// Why the server did not start, by its log: what it called fatal, without what it told those who came too early.
pub(super) fn causes(log: &str) -> Vec<String> {
    let mut causes: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in log.lines() {
        if let Some(message) = ["FATAL:  ", "PANIC:  "].iter().find_map(|level| line.strip_prefix(level)) {
            is_open = !message.starts_with("the database system is") && !message.starts_with("terminating connection");
            if is_open {
                causes.push(message.to_owned());
            }
        } else if let (true, Some(cause)) = (is_open, causes.last_mut()) {
            match ["DETAIL:  ", "HINT:  "].iter().find_map(|level| line.strip_prefix(level)) {
                Some(more) => cause.push_str(&format!(" ({more})")),
                None if line.starts_with('\t') => cause.push_str(&format!(" {}", line.trim())),
                None => is_open = false,
            }
        }
    }
    causes.dedup();
    causes.truncate(CAUSES_MAX);
    causes.into_iter().map(|cause| cause.chars().take(CAUSE_CHARACTERS_MAX).collect()).collect()
}

/// The library that a cause says is missing.
pub(super) fn missing_library(causes: &[String]) -> Option<&str> {
    causes.iter().find_map(|cause| {
        let (name, rest) = cause.strip_prefix("could not access file \"")?.split_once('"')?;
        rest.contains("No such file").then_some(name)
    })
}

/// What a line of `postmaster.pid` says of a server: its process's number, and how far it is.
pub(super) fn process_and_status(text: &str) -> Option<(i32, &str)> {
    let number = text.lines().next()?.trim().parse().ok()?;
    Some((number, text.lines().nth(7).unwrap_or_default().trim()))
}

/// What `pg_controldata` says of a data directory, as far as it matters to its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Control {
    /// Settings that must not be smaller than they were on the server that wrote the log, and what they were.
    pub(super) settings: Vec<(&'static str, String)>,
    /// Whether pages have checksums.
    pub(super) has_checksums: bool,
    /// Where the last checkpoint is.
    pub(super) checkpoint: Option<Lsn>,
}

/// What `pg_controldata` calls the settings that it shows.
const SETTINGS: &[(&str, &str)] = &[
    ("wal_level setting", "wal_level"),
    ("max_connections setting", "max_connections"),
    ("max_worker_processes setting", "max_worker_processes"),
    ("max_wal_senders setting", "max_wal_senders"),
    ("max_prepared_xacts setting", "max_prepared_transactions"),
    ("max_locks_per_xact setting", "max_locks_per_transaction"),
];

/// Reads what `pg_controldata` prints.
pub(super) fn control(text: &str) -> Control {
    let mut control = Control::default();
    for (label, value) in text.lines().filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        let is_plain = !value.is_empty() && value.chars().all(|char| char.is_ascii_alphanumeric());
        if let Some((_, name)) = SETTINGS.iter().find(|(shown, _)| *shown == label)
            && is_plain
        {
            control.settings.push((name, value.to_owned()));
        }
        match label {
            "Data page checksum version" => control.has_checksums = value != "0",
            "Latest checkpoint location" => control.checkpoint = value.parse().ok(),
            _ => {}
        }
    }
    control
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replay_is_told() {
        let log = "LOG:  starting PostgreSQL\nLOG:  redo starts at 0/2000028\n\
                   LOG:  redo done at 0/30000A0 system usage: CPU: user: 0.00 s, elapsed: 0.01 s\n\
                   LOG:  last completed transaction was at log time 2026-11-22 09:15:00.5+00\n\
                   LOG:  selected new timeline ID: 2\nLOG:  archive recovery complete\n";
        let replayed = replayed(log);
        assert_eq!(replayed.until, Some(Lsn(0x300_00A0)));
        assert_eq!(replayed.last_commit_at.unwrap().to_string(), "2026-11-22T09:15:00.500000Z");
        assert_eq!(replayed.new_timeline, Some(2));
        for bad in ["", "LOG:  redo done at \n", "LOG:  redo done at x\nLOG:  selected new timeline ID: -1"] {
            assert_eq!(super::replayed(bad), Replayed::default());
        }
    }

    #[test]
    fn causes_are_told() {
        let log = "FATAL:  the database system is starting up\n\
                   FATAL:  could not access file \"nosuch\": No such file or directory\n\
                   LOG:  database system is shut down\nPANIC:  could not locate a valid checkpoint record\n\
                   DETAIL:  It is\n\tgone.\nHINT:  Look.\nLOG:  x\n\tnot this\nDETAIL:  nor this\n";
        let causes = causes(log);
        assert_eq!(
            causes,
            [
                "could not access file \"nosuch\": No such file or directory",
                "could not locate a valid checkpoint record (It is) gone. (Look.)"
            ]
        );
        assert_eq!(missing_library(&causes), Some("nosuch"));
        assert_eq!(missing_library(&causes[1..]), None);
        let many: String = (0..50).map(|number| format!("FATAL:  {number}{}\n", "é".repeat(1000))).collect();
        let bounded = super::causes(&many);
        assert!(bounded.len() == CAUSES_MAX && bounded[0].chars().count() == CAUSE_CHARACTERS_MAX);
    }

    #[test]
    fn processes_are_told() {
        let text = "4711\n/data\n1700000000\n5432\n/tmp\n\n  123  4\nready   \n";
        assert_eq!(process_and_status(text), Some((4711, "ready")));
        assert_eq!(process_and_status("4711\n"), Some((4711, "")));
        assert_eq!(process_and_status("x"), None);
    }

    #[test]
    fn control_data_is_told() {
        let text = "wal_level setting:                    replica\nmax_connections setting:              200\n\
                    max_prepared_xacts setting:           7\nmax_worker_processes setting:         8 -c x=y\n\
                    Latest checkpoint location:           0/1A2B3C4D\nData page checksum version:           1\n";
        let control = control(text);
        let expected = [("wal_level", "replica"), ("max_connections", "200"), ("max_prepared_transactions", "7")];
        assert_eq!(control.settings, expected.map(|(name, value)| (name, value.to_owned())));
        assert!(control.has_checksums);
        assert_eq!(control.checkpoint, Some(Lsn(0x1A2B_3C4D)));
        assert!(!super::control("Data page checksum version:           0\n").has_checksums);
    }
}
