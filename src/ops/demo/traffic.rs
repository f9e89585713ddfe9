//! The application: a writer on a thread of its own that remembers what the ledger acknowledged, and when.

use super::ledger::Writer;
use crate::{
    core::{failure::Failure, time::Timestamp},
    world::World,
};
use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// Transfers of one commit: a bet and what is settled on the way.
const TRANSFERS_PER_COMMIT: u32 = 3;
/// A platform with a few hundred transfers a second.
const PAUSE: Duration = Duration::from_millis(5);

/// One commit that the ledger acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acknowledged {
    /// The newest transfer in it.
    pub(super) last_transfer: i64,
    /// The moment after the commit.
    pub(super) committed_at: Timestamp,
}

/// A writer at work. It stops when it is told to, or dropped.
pub(super) struct Traffic {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<(), Failure>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: Mutex<Vec<Acknowledged>>,
}

impl Shared {
    fn work(&self, ledger: &std::path::Path, seed: u64, world: &World) -> Result<(), Failure> {
        let mut writer = Writer::open(ledger, seed)?;
        while !self.stop.load(Ordering::SeqCst) {
            let last_transfer = writer.append(TRANSFERS_PER_COMMIT, world.now())?.last_transfer;
            let acknowledged = Acknowledged { last_transfer, committed_at: world.now() };
            self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(acknowledged);
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }
}

impl Traffic {
    /// Begins to write.
    pub(super) fn start(ledger: PathBuf, seed: u64, world: World) -> Result<Self, Failure> {
        let shared = Arc::new(Shared::default());
        let worker = shared.clone();
        let thread = std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || worker.work(&ledger, seed, &world))
            .map_err(|error| Failure::internal("cannot start the writer").cause(error))?;
        Ok(Traffic { shared, thread: Some(thread) })
    }

    /// The newest commit so far.
    pub(super) fn newest(&self) -> Option<Acknowledged> {
        self.shared.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).last().copied()
    }

    /// Lets it write for a while, and until there is at least one more commit.
    pub(super) async fn go_on_for(&mut self, time: Duration) -> Result<(), Failure> {
        let before = self.newest();
        tokio::time::sleep(time).await;
        while self.newest() == before {
            if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                return self.end().and(Err(Failure::internal("the writer ended before it was told to")));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Stops it between two commits; returns every commit that was acknowledged.
    pub(super) fn stop(mut self) -> Result<Vec<Acknowledged>, Failure> {
        self.end()?;
        Ok(std::mem::take(&mut *self.shared.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn end(&mut self) -> Result<(), Failure> {
        self.shared.stop.store(true, Ordering::SeqCst);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(Failure::internal("the writer stopped because of a bug in it")))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        // Whoever drops it without stopping it has a failure of their own to report.
        let _ = self.end();
    }
}
