//! SQLite's own checks, run over restored files.

use super::connect::{self, Way};
use crate::{
    core::{failure::Failure, manifest::Entry},
    sources::RestoredCheck,
};
use rusqlite::Connection;
use std::path::Path;

/// How many findings of a check are shown.
const SHOWN: usize = 5;

/// Runs `integrity_check` and `foreign_key_check` over restored databases.
///
/// Nobody else has restored files open, so they are read without locks: no sidecar appears beside them.
pub fn check_restored(dir: &Path, entries: &[Entry]) -> Result<Vec<RestoredCheck>, Failure> {
    let files: Vec<&Entry> = entries.iter().filter(|entry| entry.block_size().is_some()).collect();
    let mut checks = Vec::new();
    for entry in &files {
        let path = dir.join(entry.path.to_relative());
        let name = |check: &str| {
            if files.len() == 1 { check.to_owned() } else { format!("{check} {}", entry.path) }
        };
        let path_failed = std::fs::symlink_metadata(&path).err().map(|error| error.to_string());
        let connection = match path_failed {
            Some(error) => Err(error),
            None => connect::connect(&path, Way::AtRest).map_err(|error| error.to_string()),
        };
        checks.push(finding(name("integrity_check"), "ok", &connection, integrity));
        checks.push(finding(name("foreign_key_check"), "no rows", &connection, foreign_keys));
    }
    Ok(checks)
}

fn finding(
    name: String,
    expected: &str,
    connection: &Result<Connection, String>,
    check: fn(&Connection) -> rusqlite::Result<String>,
) -> RestoredCheck {
    let actual = match connection {
        Ok(connection) => check(connection).unwrap_or_else(|error| format!("could not be run: {error}")),
        Err(error) => format!("could not be opened: {error}"),
    };
    RestoredCheck { ok: actual == expected, name, expected: expected.to_owned(), actual }
}

fn integrity(connection: &Connection) -> rusqlite::Result<String> {
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({SHOWN})"))?;
    let lines: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(lines.join("; "))
}

fn foreign_keys(connection: &Connection) -> rusqlite::Result<String> {
    let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
    let mut rows = statement.query([])?;
    let (mut count, mut shown) = (0_u64, Vec::new());
    while let Some(row) = rows.next()? {
        count += 1;
        if shown.len() < SHOWN {
            let (table, rowid): (String, Option<i64>) = (row.get(0)?, row.get(1)?);
            let rowid = rowid.map_or("without rowid".to_owned(), |rowid| rowid.to_string());
            shown.push(format!("{table} {rowid} refers to a missing {}", row.get::<_, String>(2)?));
        }
    }
    Ok(if count == 0 { "no rows".to_owned() } else { format!("{count} rows: {}", shown.join("; ")) })
}
