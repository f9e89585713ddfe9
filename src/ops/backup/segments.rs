//! From the view to the threads that compress and seal: blocks travel in segments of a few MiB of one file, so that an
//! extent of a pack stays long. The buffers of segments are used again.
//!
//! A view that is one state is read by one thread. One that changes anyway is read by several, the largest files first,
//! so that one slow file keeps nobody waiting.

use crate::{
    core::{
        blocks::BlockSet,
        failure::{Code, Failure},
        manifest::Entry,
        path::StoredPath,
    },
    sources::{Reader, View},
    world::Stopwatch,
};
use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, Scope, ScopedJoinHandle},
    time::Duration,
};

/// How many packs are built at once.
const BUILDERS: usize = 2;
/// How many files of a view that changes are read at once.
const READERS: usize = 2;
/// Raw bytes in a segment.
const SEGMENT_BYTES: usize = 4 * 1024 * 1024;
/// How often a view that others read is asked whether it is still of use.
const VIEW_CHECK: Duration = Duration::from_secs(30);

/// What is read.
pub(super) enum Input<'a> {
    /// A view, by one thread.
    View(&'a mut dyn View),
    /// The files of a view that changes, by several.
    Files(&'a dyn View, Arc<dyn Reader>),
}

impl<'a> Input<'a> {
    /// Whatever is fastest.
    pub(super) fn of(view: &'a mut dyn View) -> Self {
        match view.reader() {
            Some(reader) => Input::Files(view, reader),
            None => Input::View(view),
        }
    }

    /// What examines blocks that are kept, if anything does.
    pub(super) fn examiner(&self) -> Option<Arc<dyn Reader>> {
        match self {
            Input::View(_) => None,
            Input::Files(_, reader) => Some(reader.clone()),
        }
    }
}

/// Consecutive runs of blocks of one file.
pub(super) struct Segment {
    pub(super) entry: usize,
    block_size: usize,
    pub(super) runs: Vec<(u64, u64)>,
    /// The blocks, and room for more.
    bytes: Vec<u8>,
    used: usize,
}

impl Segment {
    fn new(entry: usize, block_size: usize, bytes: Vec<u8>) -> Self {
        Segment { entry, block_size, runs: Vec::new(), bytes, used: 0 }
    }

    /// How many blocks it has.
    pub(super) fn count(&self) -> usize {
        self.used / self.block_size
    }

    fn is_full(&self) -> bool {
        self.used + self.block_size > SEGMENT_BYTES
    }

    /// The blocks with their numbers.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (u64, &[u8])> {
        numbers(&self.runs).zip(self.bytes[..self.used].chunks_exact(self.block_size))
    }

    /// The same, to be replaced by newer readings.
    pub(super) fn blocks_mut(&mut self) -> impl Iterator<Item = (u64, &mut [u8])> {
        numbers(&self.runs).zip(self.bytes[..self.used].chunks_exact_mut(self.block_size))
    }

    /// Room for blocks from `first` on.
    fn extend(&mut self, first: u64, count: usize) -> &mut [u8] {
        match self.runs.last_mut() {
            Some((run, length)) if *run + *length == first => *length += count as u64,
            _ => self.runs.push((first, count as u64)),
        }
        let from = self.used;
        self.used += count * self.block_size;
        if self.bytes.len() < self.used {
            self.bytes.resize(self.used, 0);
        }
        &mut self.bytes[from..self.used]
    }
}

fn numbers(runs: &[(u64, u64)]) -> impl Iterator<Item = u64> {
    runs.iter().flat_map(|(first, count)| *first..first + count)
}

/// Reads runs of blocks of the files and lets `BUILDERS` workers consume the segments.
///
/// `work` is called once on each worker's thread, and gives back every segment that it is done with.
pub(super) fn run_workers<T: Send>(
    input: Input<'_>,
    entries: &[Entry],
    wanted: &BTreeMap<StoredPath, BlockSet>,
    work: impl Fn(&mut dyn Iterator<Item = Segment>, &dyn Fn(Segment)) -> Result<T, Failure> + Sync,
) -> Result<Vec<T>, Failure> {
    let (sender, receiver) = sync_channel::<Segment>(1);
    let (recycle, recycled) = sync_channel::<Vec<u8>>(BUILDERS + READERS + 2);
    let (receiver, recycled) = (Mutex::new(receiver), Mutex::new(recycled));
    let failed = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..BUILDERS)
            .map(|_| {
                let (work, receiver, failed, recycle) = (&work, &receiver, &failed, recycle.clone());
                scope.spawn(move || {
                    let mut segments = std::iter::from_fn(|| receiver.lock().ok()?.recv().ok());
                    let give_back = |segment: Segment| {
                        // A full recycling bin just means that the buffer is freed.
                        let _ = recycle.try_send(segment.bytes);
                    };
                    let result = work(&mut segments, &give_back);
                    if result.is_err() {
                        failed.store(true, Ordering::Relaxed);
                        // Let the reader run dry instead of blocking for ever.
                        segments.for_each(drop);
                    }
                    result
                })
            })
            .collect();
        let way = Way { sender, recycled: &recycled, failed: &failed, limit: None };
        let read = match input {
            Input::View(view) => read_view(view, entries, wanted, way),
            Input::Files(view, reader) => read_files(scope, (view, reader), entries, wanted, way),
        };
        let results: Result<Vec<T>, Failure> = workers.into_iter().map(joined).collect();
        // A worker's failure is the cause; the reader only noticed it.
        let results = results?;
        read?;
        Ok(results)
    })
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T, Failure>>) -> Result<T, Failure> {
    thread.join().unwrap_or_else(|_| Err(Failure::internal("a thread of the backup panicked")))
}

/// From those who read to the workers.
#[derive(Clone)]
struct Way<'a> {
    sender: SyncSender<Segment>,
    recycled: &'a Mutex<Receiver<Vec<u8>>>,
    failed: &'a AtomicBool,
    /// When reading must have ended.
    limit: Option<(Duration, Stopwatch)>,
}

impl Way<'_> {
    fn empty(&self, entry: usize, block_size: usize) -> Segment {
        let recycled = self.recycled.lock().ok().and_then(|recycled| recycled.try_recv().ok());
        Segment::new(entry, block_size, recycled.unwrap_or_default())
    }

    /// Sends a segment. `false`: nobody wants any more, and whoever failed says why.
    fn send(&self, mut segment: Segment) -> Result<bool, Failure> {
        loop {
            if self.failed.load(Ordering::Relaxed) {
                return Ok(false);
            }
            match self.sender.try_send(segment) {
                Ok(()) => return Ok(true),
                Err(TrySendError::Disconnected(_)) => return Ok(false),
                Err(TrySendError::Full(back)) => segment = back,
            }
            if self.limit.as_ref().is_some_and(|(limit, stopwatch)| stopwatch.elapsed() > *limit) {
                return Err(too_slow_for_the_lock());
            }
            thread::sleep(Duration::from_micros(200));
        }
    }
}

fn read_view(
    view: &mut dyn View,
    entries: &[Entry],
    wanted: &BTreeMap<StoredPath, BlockSet>,
    way: Way<'_>,
) -> Result<(), Failure> {
    let limit = view.must_end_within().map(|limit| (limit, Stopwatch::start()));
    let way = Way { limit, ..way };
    let send = |segment| match way.send(segment)? {
        true => Ok(()),
        false => Err(Failure::internal("the backup stopped reading because sealing failed")),
    };
    for (at, block_size, set) in files(entries, wanted) {
        let mut segment = way.empty(at, block_size);
        view.read(at, &mut set.runs(), &mut |first, bytes| {
            segment.extend(first, bytes.len() / block_size).copy_from_slice(bytes);
            if segment.used >= SEGMENT_BYTES {
                send(std::mem::replace(&mut segment, way.empty(at, block_size)))?;
            }
            Ok(())
        })?;
        if segment.used > 0 {
            send(segment)?;
        }
    }
    Ok(())
}

/// The files of which something is wanted, with their block sizes.
fn files<'a>(
    entries: &'a [Entry],
    wanted: &'a BTreeMap<StoredPath, BlockSet>,
) -> impl Iterator<Item = (usize, usize, &'a BlockSet)> {
    entries.iter().enumerate().filter_map(|(at, entry)| {
        let (block_size, set) = (entry.block_size()?, wanted.get(&entry.path)?);
        (!set.is_empty()).then_some((at, block_size as usize, set))
    })
}

fn read_files<'scope>(
    scope: &'scope Scope<'scope, '_>,
    (view, reader): (&dyn View, Arc<dyn Reader>),
    entries: &'scope [Entry],
    wanted: &'scope BTreeMap<StoredPath, BlockSet>,
    way: Way<'scope>,
) -> Result<(), Failure> {
    let mut largest_first: Vec<_> = files(entries, wanted).collect();
    largest_first.sort_by_cached_key(|(_, block_size, set)| Reverse(set.count() * *block_size as u64));
    let queue = Arc::new((largest_first, AtomicUsize::new(0)));
    let (alive, ended) = sync_channel::<()>(0);
    let readers: Vec<_> = (0..READERS)
        .map(|_| {
            let (queue, reader, way, alive) = (queue.clone(), reader.clone(), way.clone(), alive.clone());
            scope.spawn(move || {
                let _alive = alive;
                let (files, next) = &*queue;
                let mine = std::iter::from_fn(|| files.get(next.fetch_add(1, Ordering::Relaxed)));
                let result = read_each(mine, &*reader, &way);
                if result.is_err() {
                    way.failed.store(true, Ordering::Relaxed);
                }
                result
            })
        })
        .collect();
    let failed = way.failed;
    drop((way, alive));
    let mut result = Ok(());
    while ended.recv_timeout(VIEW_CHECK) == Err(RecvTimeoutError::Timeout) && result.is_ok() {
        result = view.check().inspect_err(|_| failed.store(true, Ordering::Relaxed));
    }
    readers.into_iter().map(joined).fold(result, Result::and)
}

fn read_each<'a>(
    files: impl Iterator<Item = &'a (usize, usize, &'a BlockSet)>,
    reader: &dyn Reader,
    way: &Way<'_>,
) -> Result<(), Failure> {
    for (at, block_size, set) in files {
        let file = reader.open(*at)?;
        let mut segment = way.empty(*at, *block_size);
        for (first, count) in set.runs() {
            let (mut next, end) = (first, first + count);
            while next < end {
                let room = (SEGMENT_BYTES - segment.used) / block_size;
                let taken = (end - next).min(room as u64);
                reader.read(*at, file.as_ref(), next, segment.extend(next, taken as usize))?;
                next += taken;
                if segment.is_full() && !way.send(std::mem::replace(&mut segment, way.empty(*at, *block_size)))? {
                    return Ok(());
                }
            }
        }
        if segment.used > 0 && !way.send(segment)? {
            return Ok(());
        }
    }
    Ok(())
}

fn too_slow_for_the_lock() -> Failure {
    Failure::new(Code::Source, "the read lock was held as long as it may be")
        .cause("in rollback-journal mode a reader keeps writers waiting, and the stores took the snapshot too slowly")
        .safe("the lock is released; earlier snapshots are unaffected")
        .next_step("switch the database to WAL mode (PRAGMA journal_mode=WAL), or raise max_read_lock of the source")
}
