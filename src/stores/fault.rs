//! A store that misbehaves as told, for tests and simulations.
//!
//! [`Operations`] counts what is done on any number of stores and can stop everything after a given operation, as if
//! the process were gone. [`Faults`] wraps one store: a seeded schedule of faults, and a switch to turn it off.
//! What happens at operation n depends on the seed and n alone, so a failing seed replays.

pub use super::operations::{Operation, Operations};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, path::Path,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

/// How often each fault happens, in thousandths of the operations that it fits. All are 0 by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Rates {
    /// The operation fails and was not done.
    pub error_before: u16,
    /// The operation was done and its reply is lost.
    pub error_after: u16,
    /// The operation takes up to `latency_max`.
    pub latency: u16,
    /// The longest time that a slow operation takes.
    pub latency_max: Duration,
    /// The body of a get breaks off.
    pub torn_body: u16,
    /// One bit of what is read is wrong.
    pub bit_flip: u16,
    /// There is no room for a put.
    pub no_space: u16,
    /// A listing shows what was there `stale_by` operations ago.
    pub stale_list: u16,
    /// How old a stale listing is.
    pub stale_by: u64,
}

/// Whether a store works at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Switch {
    /// It works.
    #[default]
    Up,
    /// It refuses every connection.
    Down,
    /// It never answers.
    Hung,
    /// Every operation takes that long.
    Slow(Duration),
}

/// The faults of one store. Clones are the same store's.
#[derive(Clone, Debug)]
pub struct Faults(Arc<Settings>);

#[derive(Debug)]
struct Settings {
    store: String,
    operations: Operations,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    switch: Switch,
    unreadable: BTreeSet<String>,
    seed: u64,
    rates: Rates,
    /// When what is there came (absent: before all), and what is gone: for stale listings.
    born: BTreeMap<Path, u64>,
    died: Vec<Life>,
}

/// A deleted object: from which operation to which it was there.
#[derive(Debug)]
struct Life {
    born: u64,
    died: u64,
    meta: ObjectMeta,
}

impl Faults {
    /// No faults yet, for the store of that name.
    pub fn new(store: &str, operations: &Operations) -> Self {
        let (store, operations) = (store.to_owned(), operations.clone());
        Faults(Arc::new(Settings { store, operations, state: Mutex::default() }))
    }

    /// Wraps a backend; give it to [`super::Store::wrapped`].
    pub fn wrap(&self, inner: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(Faulty { inner, faults: self.clone() })
    }

    /// Turns the store off, on, or slow.
    pub fn switch(&self, switch: Switch) {
        self.state().switch = switch;
    }

    /// From now on these objects are listed, and every reading of one of them fails in a way that may pass.
    pub fn refuse_reading(&self, keys: impl IntoIterator<Item = String>) {
        self.state().unreadable = keys.into_iter().collect();
    }

    /// Sets the schedule. The same seed gives the same faults at the same operations.
    pub fn schedule(&self, seed: u64, rates: Rates) {
        let mut state = self.state();
        (state.seed, state.rates) = (seed, rates);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("nothing panics while holding it")
    }

    /// Counts an operation and does to it what comes before it is done.
    async fn begin(&self, verb: &'static str, key: &str) -> Result<Ticket> {
        let number = self.0.operations.begin(&self.0.store, verb, key)?;
        let (switch, seed, rates, is_unreadable) = {
            let state = self.state();
            let is_unreadable = matches!(verb, "get" | "ranges") && state.unreadable.contains(key);
            (state.switch, state.seed, state.rates, is_unreadable)
        };
        let ticket = Ticket { number, seed, rates };
        match switch {
            Switch::Up => {}
            Switch::Down => return Err(passing(io::ErrorKind::ConnectionRefused)),
            Switch::Hung => std::future::pending().await,
            Switch::Slow(duration) => tokio::time::sleep(duration).await,
        }
        if ticket.happens(Fault::Latency, rates.latency) {
            let longest = u64::try_from(rates.latency_max.as_micros()).unwrap_or(u64::MAX).max(1);
            tokio::time::sleep(Duration::from_micros(ticket.chance(Fault::LatencyLength) % longest)).await;
        }
        if is_unreadable || ticket.happens(Fault::Before, rates.error_before) {
            return Err(passing(io::ErrorKind::ConnectionReset));
        }
        Ok(ticket)
    }

    /// Hands over the outcome, unless the reply is lost.
    fn end<T>(&self, ticket: &Ticket, outcome: Result<T>) -> Result<T> {
        self.0.operations.end(ticket.number)?;
        if ticket.happens(Fault::After, ticket.rates.error_after) {
            return Err(passing(io::ErrorKind::ConnectionAborted));
        }
        outcome
    }
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Latency = 1,
    LatencyLength,
    Before,
    After,
    Torn,
    TornAt,
    Flip,
    FlipAt,
    Space,
    Stale,
}

/// One operation under way.
#[derive(Clone, Copy, Debug)]
struct Ticket {
    number: u64,
    seed: u64,
    rates: Rates,
}

impl Ticket {
    /// A number that depends on the seed, the operation and the fault alone (SplitMix64's mixing).
    fn chance(&self, fault: Fault) -> u64 {
        let mut mixed = self.seed;
        for part in [self.number, fault as u64] {
            mixed = mixed.wrapping_add(part).wrapping_add(0x9e37_79b9_7f4a_7c15);
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
        }
        mixed
    }

    fn happens(&self, fault: Fault, thousandths: u16) -> bool {
        self.chance(fault) % 1000 < u64::from(thousandths)
    }

    /// The bytes with one bit flipped, if that is the fault.
    fn flipped(&self, bytes: Bytes) -> Bytes {
        if bytes.is_empty() || !self.happens(Fault::Flip, self.rates.bit_flip) {
            return bytes;
        }
        let at = self.chance(Fault::FlipAt);
        let mut changed = bytes.to_vec();
        let length = changed.len() as u64;
        changed[usize::try_from(at % length).expect("less than the length")] ^= 1 << (at / length % 8);
        changed.into()
    }
}

fn generic(source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Generic { store: "faulty", source: Box::new(source) }
}

fn passing(kind: io::ErrorKind) -> Error {
    generic(io::Error::from(kind))
}

/// A backend with faults.
#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn ObjectStore>,
    faults: Faults,
}

impl fmt::Display for Faulty {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Faulty({})", self.inner)
    }
}

impl Faulty {
    /// What a listing shows: what is there, or what was there a while ago.
    async fn listed(&self, ticket: &Ticket, prefix: Option<&Path>) -> Result<Vec<ObjectMeta>> {
        let mut objects: Vec<ObjectMeta> = self.inner.list(prefix).try_collect().await?;
        if !ticket.happens(Fault::Stale, ticket.rates.stale_list) {
            return Ok(objects);
        }
        let then = ticket.number.saturating_sub(ticket.rates.stale_by);
        let state = self.faults.state();
        objects.retain(|object| state.born.get(&object.location).is_none_or(|born| *born <= then));
        let was_there = |life: &&Life| (life.born..life.died).contains(&then);
        let below = |life: &&Life| prefix.is_none_or(|prefix| life.meta.location.prefix_matches(prefix));
        objects.extend(state.died.iter().filter(was_there).filter(below).map(|life| life.meta.clone()));
        Ok(objects)
    }

    fn born(&self, ticket: &Ticket, key: &Path) {
        self.faults.state().born.entry(key.clone()).or_insert(ticket.number);
    }

    async fn delete_one(&self, key: Path) -> Result<Path> {
        let ticket = self.faults.begin("delete", key.as_ref()).await?;
        let head = GetOptions { head: true, ..GetOptions::default() };
        let before = self.inner.get_opts(&key, head).await.map(|found| found.meta);
        let one = stream::once(std::future::ready(Ok(key.clone()))).boxed();
        let deleted = self.inner.delete_stream(one).try_collect::<Vec<_>>().await;
        if let (Ok(_), Ok(meta)) = (&deleted, before) {
            let mut state = self.faults.state();
            let born = state.born.remove(&key).unwrap_or(0);
            state.died.push(Life { born, died: ticket.number, meta });
        }
        self.faults.end(&ticket, deleted.map(|_| key))
    }
}

/// What a get delivers: perhaps with a bit flipped, perhaps broken off.
async fn spoiled(ticket: &Ticket, found: GetResult) -> Result<GetResult> {
    let torn = ticket.happens(Fault::Torn, ticket.rates.torn_body);
    if !torn && !ticket.happens(Fault::Flip, ticket.rates.bit_flip) {
        return Ok(found);
    }
    let (meta, range, attributes) = (found.meta.clone(), found.range.clone(), found.attributes.clone());
    let mut body = ticket.flipped(found.bytes().await?);
    if torn {
        let length = usize::try_from(ticket.chance(Fault::TornAt) % (body.len() as u64).max(1)).unwrap_or(0);
        body.truncate(length);
    }
    let payload = GetResultPayload::Stream(stream::once(std::future::ready(Ok(body))).boxed());
    Ok(GetResult { payload, meta, range, attributes, extensions: Default::default() })
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let ticket = self.faults.begin("put", location.as_ref()).await?;
        if ticket.happens(Fault::Space, ticket.rates.no_space) {
            return Err(generic(io::Error::from(rustix::io::Errno::NOSPC)));
        }
        let outcome = self.inner.put_opts(location, payload, opts).await;
        if outcome.is_ok() {
            self.born(&ticket, location);
        }
        self.faults.end(&ticket, outcome)
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let (operation, implementer) = ("upload in parts".to_owned(), "a store with faults".to_owned());
        Err(Error::NotImplemented { operation, implementer })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let verb = if options.head { "head" } else { "get" };
        let head = options.head;
        let ticket = self.faults.begin(verb, location.as_ref()).await?;
        let outcome = match self.inner.get_opts(location, options).await {
            Ok(found) if !head => spoiled(&ticket, found).await,
            other => other,
        };
        self.faults.end(&ticket, outcome)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let ticket = self.faults.begin("ranges", location.as_ref()).await?;
        let outcome = self.inner.get_ranges(location, ranges).await.map(|mut pieces| {
            if let Some(first) = pieces.first_mut() {
                *first = ticket.flipped(std::mem::take(first));
            }
            pieces
        });
        self.faults.end(&ticket, outcome)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = Arc::new(Faulty { inner: self.inner.clone(), faults: self.faults.clone() });
        let delete = move |location: Result<Path>| {
            let this = this.clone();
            async move { this.delete_one(location?).await }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let this = Faulty { inner: self.inner.clone(), faults: self.faults.clone() };
        let prefix = prefix.cloned();
        let listed = async move {
            let key = prefix.as_ref().map(ToString::to_string).unwrap_or_default();
            let ticket = this.faults.begin("list", &key).await?;
            let outcome = this.listed(&ticket, prefix.as_ref()).await;
            this.faults.end(&ticket, outcome).map(|objects| stream::iter(objects.into_iter().map(Ok)))
        };
        stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let key = prefix.map(ToString::to_string).unwrap_or_default();
        let ticket = self.faults.begin("folders", &key).await?;
        let outcome = if ticket.happens(Fault::Stale, ticket.rates.stale_list) {
            self.listed(&ticket, prefix).await.map(|objects| one_level(prefix, objects))
        } else {
            self.inner.list_with_delimiter(prefix).await
        };
        self.faults.end(&ticket, outcome)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let ticket = self.faults.begin("copy", from.as_ref()).await?;
        let outcome = self.inner.copy_opts(from, to, options).await;
        if outcome.is_ok() {
            self.born(&ticket, to);
        }
        self.faults.end(&ticket, outcome)
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let ticket = self.faults.begin("rename", from.as_ref()).await?;
        let outcome = self.inner.rename_opts(from, to, options).await;
        if outcome.is_ok() {
            self.born(&ticket, to);
            self.faults.state().born.remove(from);
        }
        self.faults.end(&ticket, outcome)
    }
}

/// The objects and folders directly below a prefix.
fn one_level(prefix: Option<&Path>, objects: Vec<ObjectMeta>) -> ListResult {
    let root = Path::default();
    let prefix = prefix.unwrap_or(&root);
    let mut folders = BTreeSet::new();
    let mut direct = Vec::new();
    for object in objects {
        let Some(mut parts) = object.location.prefix_match(prefix) else { continue };
        let Some(first) = parts.next() else { continue };
        if parts.next().is_some() {
            folders.insert(prefix.clone().join(first));
        } else {
            drop(parts);
            direct.push(object);
        }
    }
    ListResult { common_prefixes: folders.into_iter().collect(), objects: direct, extensions: Default::default() }
}

#[cfg(test)]
#[path = "fault_tests.rs"]
mod tests;
