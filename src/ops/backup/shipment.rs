//! Sealed objects on their way to the stores: every store at its own pace, none holding up the others.
//!
//! Objects wait in memory while few, then in a bounded spool on disk. A store that lags by more than the spool can
//! hold is left behind once the snapshot is durable without it; `copy` brings it level later. Until then the sealing
//! threads wait for it: a slow store is better than a snapshot that too few stores hold.

use crate::{
    core::{
        failure::{Code, Failure},
        id::Sha256,
    },
    format::seal::SealedObject,
    stores::{Store, StoreError},
    world::files,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinHandle,
};

/// Bytes of sealed objects that may wait in memory.
const MEMORY_BYTES: u64 = 96 * 1024 * 1024;
/// Uploads at once to one store.
const CONCURRENT_UPLOADS: usize = 2;
/// How often a full spool looks for stores to leave behind.
const LAG_CHECK_INTERVAL: Duration = Duration::from_millis(50);
const UNIT_BYTES: u64 = 1024;

/// An object to be shipped; its name is relative to the source's folder.
pub(in crate::ops) struct Parcel {
    pub(in crate::ops) name: String,
    pub(in crate::ops) object: SealedObject,
}

/// The sealing threads' end of the way.
pub(in crate::ops) struct Outbox(mpsc::Sender<Parcel>);

impl Outbox {
    /// Hands over an object; blocks while too many wait.
    pub(in crate::ops) fn send(&self, parcel: Parcel) -> Result<(), Failure> {
        self.0.blocking_send(parcel).map_err(|_| {
            Failure::new(Code::Store, "no store takes objects any more").safe("earlier snapshots are unaffected")
        })
    }
}

/// A channel from the sealing threads to a shipment.
pub(in crate::ops) fn outbox() -> (Outbox, mpsc::Receiver<Parcel>) {
    let (sender, receiver) = mpsc::channel(1);
    (Outbox(sender), receiver)
}

/// Where a waiting object is kept.
enum Body {
    Memory(Bytes, #[expect(dead_code, reason = "released when dropped")] OwnedSemaphorePermit),
    Disk(SpoolFile, #[expect(dead_code, reason = "released when dropped")] OwnedSemaphorePermit),
}

struct SpoolFile(PathBuf);

impl Drop for SpoolFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

struct Waiting {
    key: String,
    sha256: Sha256,
    body: Body,
}

/// Whether a snapshot is durable when the stores of these names hold it.
pub(in crate::ops) type Enough = Box<dyn Fn(&BTreeSet<String>) -> bool + Send + Sync>;

/// Where objects may wait.
pub(in crate::ops) struct Room {
    pub(in crate::ops) memory_bytes: u64,
    pub(in crate::ops) spool_bytes: u64,
    pub(in crate::ops) spool_dir: PathBuf,
}

impl Room {
    /// With a spool of so many bytes.
    pub(in crate::ops) fn new(spool_dir: PathBuf, spool_bytes: u64) -> Self {
        Room { memory_bytes: MEMORY_BYTES, spool_bytes: spool_bytes.min(1 << 40), spool_dir }
    }
}

/// Objects on their way to several stores.
pub(in crate::ops) struct Shipment {
    folder: String,
    room: Room,
    memory: Arc<Semaphore>,
    disk: Arc<Semaphore>,
    spooled: AtomicU64,
    lanes: Vec<Lane>,
    is_enough: Enough,
    /// What every store gets before anything else, once there is anything else.
    first: Option<Parcel>,
    /// Bytes handed over so far.
    pub(in crate::ops) bytes: u64,
}

struct Lane {
    sender: Option<mpsc::UnboundedSender<Arc<Waiting>>>,
    backlog: Arc<AtomicUsize>,
    leave: watch::Sender<bool>,
    task: Option<JoinHandle<Result<(), LaneError>>>,
    store: String,
}

/// Why a store did not get everything.
#[derive(Clone, Debug)]
pub(in crate::ops) enum LaneError {
    /// It failed.
    Store(StoreError),
    /// It was too slow.
    LeftBehind,
    /// Something of ours failed.
    Own(String),
}

impl std::fmt::Display for LaneError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LaneError::Store(error) => error.fmt(formatter),
            LaneError::LeftBehind => formatter.write_str("it was too slow and was left behind"),
            LaneError::Own(why) => formatter.write_str(why),
        }
    }
}

impl Shipment {
    /// A shipment to `stores`, whose objects get the folder in front of their names.
    pub(in crate::ops) fn new(stores: &[Store], folder: String, room: Room, is_enough: Enough) -> Self {
        let reload = Arc::new(Semaphore::new(1));
        let permits = |bytes: u64| Arc::new(Semaphore::new((bytes / UNIT_BYTES) as usize));
        let lanes = stores.iter().map(|store| Lane::start(store.clone(), reload.clone())).collect();
        Shipment {
            folder,
            memory: permits(room.memory_bytes),
            disk: permits(room.spool_bytes),
            room,
            spooled: AtomicU64::new(0),
            lanes,
            is_enough,
            first: None,
            bytes: 0,
        }
    }

    /// Has every store get this object before any other; none at all where no other comes.
    pub(super) fn begin_with(&mut self, first: Parcel) {
        self.first = Some(first);
    }

    /// Takes everything from the sealing threads until they are done.
    pub(in crate::ops) async fn carry(
        &mut self,
        receiver: &mut mpsc::Receiver<Parcel>,
        progress: &dyn Fn(u64),
    ) -> Result<(), Failure> {
        while let Some(parcel) = receiver.recv().await {
            if let Some(first) = self.first.take() {
                self.accept(first).await?;
            }
            let size = parcel.object.size();
            self.accept(parcel).await?;
            self.bytes += size;
            progress(size);
        }
        Ok(())
    }

    async fn accept(&self, parcel: Parcel) -> Result<(), Failure> {
        let body = self.admit(parcel.object.bytes).await?;
        let waiting =
            Arc::new(Waiting { key: format!("{}{}", self.folder, parcel.name), sha256: parcel.object.sha256, body });
        let mut alive = false;
        for lane in &self.lanes {
            alive |= lane.push(waiting.clone());
        }
        if alive {
            Ok(())
        } else {
            Err(Failure::new(Code::Store, "no store takes objects any more").safe("earlier snapshots are unaffected"))
        }
    }

    async fn admit(&self, bytes: Bytes) -> Result<Body, Failure> {
        let units = (bytes.len() as u64).div_ceil(UNIT_BYTES).max(1);
        let memory_units = units.min(self.room.memory_bytes / UNIT_BYTES) as u32;
        if let Ok(permit) = self.memory.clone().try_acquire_many_owned(memory_units) {
            return Ok(Body::Memory(bytes, permit));
        }
        loop {
            if let Ok(disk_units) = u32::try_from(units)
                && let Ok(permit) = self.disk.clone().try_acquire_many_owned(disk_units)
            {
                match self.spool(&bytes) {
                    Ok(file) => return Ok(Body::Disk(file, permit)),
                    // A full disk under the spool is no reason to fail: wait for memory instead.
                    Err(_) => drop(permit),
                }
            }
            let memory = self.memory.clone().acquire_many_owned(memory_units);
            match tokio::time::timeout(LAG_CHECK_INTERVAL, memory).await {
                Ok(Ok(permit)) => return Ok(Body::Memory(bytes, permit)),
                Ok(Err(_)) => return Err(Failure::internal("the spool's semaphore was closed")),
                Err(_) => self.leave_laggards(),
            }
            if self.lanes.iter().all(|lane| !lane.is_alive()) {
                return Err(Failure::new(Code::Store, "no store takes objects any more")
                    .safe("earlier snapshots are unaffected"));
            }
        }
    }

    fn spool(&self, bytes: &Bytes) -> std::io::Result<SpoolFile> {
        files::create_private_directories(&self.room.spool_dir)?;
        let number = self.spooled.fetch_add(1, Ordering::Relaxed);
        let file = SpoolFile(self.room.spool_dir.join(format!("{number}.age")));
        fs::write(&file.0, bytes)?;
        Ok(file)
    }

    /// With a full spool, whoever lags is left behind if those that have taken everything are enough.
    fn leave_laggards(&self) {
        let keeps_up = |lane: &&Lane| lane.is_alive() && lane.backlog.load(Ordering::Acquire) == 0;
        let keep_up: BTreeSet<String> = self.lanes.iter().filter(keeps_up).map(|lane| lane.store.clone()).collect();
        if (self.is_enough)(&keep_up) {
            for lane in self.lanes.iter().filter(|lane| !keep_up.contains(&lane.store)) {
                lane.leave.send_replace(true);
            }
        }
    }

    /// Says that nothing more comes, and hands out each store's task, to be awaited for its outcome.
    pub(in crate::ops) fn close(mut self) -> Vec<(String, JoinHandle<Result<(), LaneError>>)> {
        self.lanes
            .iter_mut()
            .filter_map(|lane| {
                lane.sender = None;
                Some((lane.store.clone(), lane.task.take()?))
            })
            .collect()
    }
}

impl Drop for Shipment {
    fn drop(&mut self) {
        for lane in &mut self.lanes {
            if let Some(task) = lane.task.take() {
                task.abort();
            }
        }
        // Empty unless the run was cut short.
        let _ = fs::remove_dir(&self.room.spool_dir);
    }
}

impl Lane {
    fn start(store: Store, reload: Arc<Semaphore>) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let (leave, left) = watch::channel(false);
        let backlog = Arc::new(AtomicUsize::new(0));
        let name = store.name().to_owned();
        let task = tokio::spawn(upload_all(store, receiver, left, backlog.clone(), reload));
        Lane { sender: Some(sender), backlog, leave, task: Some(task), store: name }
    }

    fn push(&self, waiting: Arc<Waiting>) -> bool {
        self.backlog.fetch_add(1, Ordering::AcqRel);
        let sent = self.sender.as_ref().is_some_and(|sender| sender.send(waiting).is_ok());
        if !sent {
            self.backlog.fetch_sub(1, Ordering::AcqRel);
        }
        sent
    }

    fn is_alive(&self) -> bool {
        self.sender.as_ref().is_some_and(|sender| !sender.is_closed())
    }
}

async fn upload_all(
    store: Store,
    mut receiver: mpsc::UnboundedReceiver<Arc<Waiting>>,
    mut left: watch::Receiver<bool>,
    backlog: Arc<AtomicUsize>,
    reload: Arc<Semaphore>,
) -> Result<(), LaneError> {
    let mut uploads = FuturesUnordered::new();
    let mut open = true;
    // The first object says whose the others are: none of them is there before it.
    let mut at_once = 1;
    while open || !uploads.is_empty() {
        tokio::select! {
            // The sender of the watch lives as long as the shipment; once it is gone nothing asks to leave any more.
            Ok(()) = left.changed(), if open => return Err(LaneError::LeftBehind),
            Some(done) = uploads.next() => {
                backlog.fetch_sub(1, Ordering::AcqRel);
                done?;
                at_once = CONCURRENT_UPLOADS;
            }
            received = receiver.recv(), if open && uploads.len() < at_once => match received {
                Some(waiting) => uploads.push(upload(&store, waiting, &reload)),
                None => open = false,
            },
        }
    }
    Ok(())
}

async fn upload(store: &Store, waiting: Arc<Waiting>, reload: &Semaphore) -> Result<(), LaneError> {
    let bytes = match &waiting.body {
        Body::Memory(bytes, _) => bytes.clone(),
        Body::Disk(file, _) => {
            // One spooled object is in memory at a time, whatever the number of stores.
            let _turn = reload.acquire().await.map_err(|_| LaneError::Own("the spool was closed".to_owned()))?;
            let bytes = read_spooled(&file.0, &waiting.sha256)?;
            return create(store, &waiting, bytes).await;
        }
    };
    create(store, &waiting, bytes).await
}

/// Reads an object back and makes sure that the spool's disk gave what it was given.
pub(in crate::ops) fn read_spooled(path: &Path, sha256: &Sha256) -> Result<Bytes, LaneError> {
    match files::read(path) {
        Ok(bytes) if crate::format::sha256(&bytes) == *sha256 => Ok(bytes.into()),
        Ok(_) => Err(LaneError::Own(format!("{} is not what was written there: check its disk", path.display()))),
        Err(error) => Err(LaneError::Own(format!("{}: {error}", path.display()))),
    }
}

async fn create(store: &Store, waiting: &Waiting, bytes: Bytes) -> Result<(), LaneError> {
    store.create(&waiting.key, bytes, &waiting.sha256).await.map(drop).map_err(LaneError::Store)
}
