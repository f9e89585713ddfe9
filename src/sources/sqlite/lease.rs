//! A connection with a pinned read, which is let go in time whatever its holder is doing.

use super::failures;
use crate::{core::failure::Failure, world::Stopwatch};
use rusqlite::Connection;
use std::{
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread::{self, JoinHandle},
    time::Duration,
};

/// Holds the connection of a view.
///
/// Where the read blocks writers, a watchdog drops the connection when the time is over, also while the
/// holder is stuck in something else: a slow store must never hold the application's writers.
pub(super) struct Lease {
    held: Arc<Held>,
    watchdog: Option<JoinHandle<()>>,
    database: PathBuf,
    limit: Option<Limit>,
}

/// How long a lease may last.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    /// The setting.
    pub(super) limit: Duration,
    /// Runs since the lock was taken.
    pub(super) held: Stopwatch,
}

impl Limit {
    fn remaining(&self) -> Duration {
        self.limit.saturating_sub(self.held.elapsed())
    }
}

struct Held {
    connection: Mutex<Option<Connection>>,
    ended: Condvar,
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Lease {
    /// Takes over a connection, for good or up to a limit.
    pub(super) fn new(connection: Connection, database: PathBuf, limit: Option<Limit>) -> Self {
        let held = Arc::new(Held { connection: Mutex::new(Some(connection)), ended: Condvar::new() });
        let watchdog = limit.map(|limit| {
            let held = Arc::clone(&held);
            thread::spawn(move || {
                let guard = held.lock();
                let waited = held.ended.wait_timeout_while(guard, limit.remaining(), |connection| connection.is_some());
                let (mut connection, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
                drop(connection.take());
            })
        });
        Lease { held, watchdog, database, limit }
    }

    /// How long it may still last; `None` without a limit.
    pub(super) fn remaining(&self) -> Option<Duration> {
        self.limit.map(|limit| limit.remaining())
    }

    /// Does something with the connection, unless the time is over.
    pub(super) fn with<T>(&self, action: impl FnOnce(&Connection) -> Result<T, Failure>) -> Result<T, Failure> {
        match self.held.lock().as_ref() {
            Some(connection) => action(connection),
            None => {
                Err(failures::held_too_long(&self.database, self.limit.map(|limit| limit.limit).unwrap_or_default()))
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.held.lock().take());
        self.held.ended.notify_all();
        if let Some(watchdog) = self.watchdog.take() {
            let _ = watchdog.join(); // it has nothing to report
        }
    }
}
