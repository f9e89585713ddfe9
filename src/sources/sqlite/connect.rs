//! Connections to a database: how it is opened, how a read is pinned, what SQLite's answers mean.

use super::files::DatabaseFiles;
use crate::{core::time::Timestamp, world::Stopwatch, world::World};
use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig, ffi};
use std::{os::unix::ffi::OsStrExt, path::Path, thread, time::Duration};

/// How much SQLite may cache, in KiB. Pages are read once, so a small cache that stays in the processor's is best.
const CACHE_KIB: u32 = 256;

/// The ways to open a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Beside whoever has it open, or alone. Takes the locks of a reader, never writes to the wal-index.
    ReadOnly,
    /// A file that nobody changes: no locks and no sidecars. The caller makes sure of that.
    AtRest,
    /// Only to learn the journal mode: fails with "cannot open" on WAL mode instead of creating a log.
    Probe,
    /// With write permission, so that SQLite recovers what a crashed writer left.
    Recover {
        /// Whether a log was there before: it then stays as it is. If not, the one that SQLite makes goes again.
        keep_log: bool,
    },
}

impl Way {
    fn query(self) -> &'static str {
        match self {
            Way::ReadOnly => "mode=ro&readonly_shm=1",
            Way::AtRest => "mode=ro&immutable=1",
            Way::Probe => "mode=ro&nolock=1",
            Way::Recover { .. } => "mode=rw",
        }
    }
}

/// Opens a database; nothing is read or locked yet.
pub(super) fn connect(database: &Path, way: Way) -> rusqlite::Result<Connection> {
    let access = match way {
        Way::Recover { .. } => OpenFlags::SQLITE_OPEN_READ_WRITE,
        _ => OpenFlags::SQLITE_OPEN_READ_ONLY,
    };
    let flags = access | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(uri(database, way.query()), flags)?;
    connection.busy_timeout(Duration::ZERO)?; // waiting is done in `pin_patiently`, which knows when each try began
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    if way != (Way::Recover { keep_log: false }) {
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    }
    Ok(connection)
}

/// The URI of a path, whatever bytes it has.
fn uri(database: &Path, query: &str) -> String {
    let mut uri = String::from(if database.is_absolute() { "file://" } else { "file:" });
    for byte in database.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => uri.push(*byte as char),
            _ => uri.push_str(&format!("%{byte:02x}")),
        }
    }
    uri + "?" + query
}

/// A read transaction that has really begun.
pub(super) struct Pin {
    /// The moment before it began.
    pub(super) read_started_at: Timestamp,
    /// Runs since then.
    pub(super) held: Stopwatch,
}

/// Begins a read transaction and makes it take its locks (BEGIN alone does not), waiting for them up to `timeout`.
pub(super) fn pin_patiently(connection: &Connection, world: &World, timeout: Duration) -> rusqlite::Result<Pin> {
    let waiting = Stopwatch::start();
    let mut pause = Duration::from_millis(1);
    loop {
        let pin = Pin { read_started_at: world.now(), held: Stopwatch::start() };
        let error = match pin_once(connection) {
            Ok(()) => return Ok(pin),
            Err(error) => error,
        };
        if !connection.is_autocommit() {
            connection.execute_batch("ROLLBACK")?;
        }
        if Obstacle::of(&error) != Obstacle::Busy || waiting.elapsed() >= timeout {
            return Err(error);
        }
        thread::sleep(pause.min(timeout.saturating_sub(waiting.elapsed())));
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn pin_once(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN")?;
    number(connection, "schema_version")?;
    connection.pragma_update(None, "cache_size", -i64::from(CACHE_KIB))
}

/// The value of a numeric pragma.
pub(super) fn number(connection: &Connection, pragma: &str) -> rusqlite::Result<i64> {
    connection.query_row(&format!("PRAGMA main.{pragma}"), [], |row| row.get(0))
}

/// Whether the pinned read goes through a write-ahead log.
pub(super) fn uses_log(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("PRAGMA main.journal_mode", [], |row| Ok(row.get_ref(0)?.as_str()? == "wal"))
}

/// Whether the read transaction is still the one that was begun.
pub(super) fn is_reading(connection: &Connection) -> bool {
    !connection.is_autocommit()
        && matches!(connection.transaction_state(Some(c"main")), Ok(rusqlite::TransactionState::Read))
}

/// What stands in the way of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Somebody holds a lock.
    Busy,
    /// A journal of a crashed writer must be rolled back first.
    HotJournal,
    /// The log's index must be rebuilt first, or is being written this moment.
    LogIndex,
    /// A file cannot be opened.
    CannotOpen,
    /// Anything else.
    Other,
}

impl Obstacle {
    pub(super) fn of(error: &rusqlite::Error) -> Self {
        let extended = error.sqlite_error().map_or(0, |error| error.extended_code);
        match (error.sqlite_error_code(), extended) {
            (_, ffi::SQLITE_READONLY_ROLLBACK) => Obstacle::HotJournal,
            (_, ffi::SQLITE_READONLY_RECOVERY | ffi::SQLITE_READONLY_CANTINIT) => Obstacle::LogIndex,
            (Some(ErrorCode::DatabaseBusy | ErrorCode::FileLockingProtocolFailed), _) => Obstacle::Busy,
            (Some(ErrorCode::CannotOpen), _) => Obstacle::CannotOpen,
            _ => Obstacle::Other,
        }
    }
}

/// Whether a database file at rest is in WAL mode, where any ordinary open would create its sidecars.
///
/// Without locks the look may meet a half-written page: any other answer is left to the read that takes them.
pub(super) fn is_in_wal_mode(files: &DatabaseFiles) -> bool {
    connect(&files.database, Way::Probe).is_ok_and(|connection| {
        number(&connection, "schema_version").is_err_and(|error| Obstacle::of(&error) == Obstacle::CannotOpen)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_carry_any_path() {
        use std::ffi::OsStr;
        assert_eq!(uri(Path::new("/data/ledger.db"), "mode=ro"), "file:///data/ledger.db?mode=ro");
        assert_eq!(uri(Path::new("a b?c#d%"), "x"), "file:a%20b%3fc%23d%25?x");
        assert_eq!(uri(Path::new(OsStr::from_bytes(b"/\xff&")), "x"), "file:///%ff%26?x");
    }
}
