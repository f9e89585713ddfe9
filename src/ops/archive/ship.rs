//! Files of a log on their way to the stores: payloads, then on each store the record that commits them.
//!
//! Nobody waits for a store once enough others have it all; what a store lacks then, `copy` brings.

use super::{
    segment::{Prepared, Sealed},
    state::{ArchiveState, Down, Kept, Note},
};
use crate::{
    core::{
        failure::{Code, Failure},
        id::{RunId, SourceName},
        log::{HistoryId, LogFile, LogRecord},
        policy::{Copies, is_durable},
        time::Timestamp,
    },
    format::{log::SignedRecord, log::to_text, sha256, signature},
    ops::{
        backup::shipment::{LaneError, Parcel, Room, Shipment},
        host::Host,
    },
    repository::{head, layout},
    stores::{LargeObject, Store},
    world::Stopwatch,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream::FuturesUnordered};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};
use tokio::{sync::mpsc, task::JoinHandle};

/// How long the others are waited for at least, once enough stores have answered or have everything ...
const GRACE_MIN: Duration = Duration::from_millis(500);
/// ... or this many times as long as that took.
const GRACE_FACTOR: u32 = 2;

/// Where to, and what is enough.
pub(super) struct Way<'a> {
    pub(super) host: &'a Host,
    pub(super) source: &'a SourceName,
    pub(super) copies: &'a Copies,
}

/// Stores that a file can go to now.
pub(super) struct Reached {
    stores: Vec<Store>,
    /// Those that it cannot go to, and why.
    behind: BTreeMap<String, String>,
    /// When that was found out.
    at: Timestamp,
}

impl Reached {
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.stores.iter().map(|store| store.name().to_owned()).collect()
    }
}

/// What became of a shipment.
#[derive(Debug, Default)]
pub(super) struct Shipped {
    /// Stores that hold everything, and the record.
    pub(super) stores: BTreeSet<String>,
    /// Stores that do not, and why.
    pub(super) behind: BTreeMap<String, String>,
}

/// A store, and what brings it everything.
type Task = (String, JoinHandle<Result<(), LaneError>>);

/// What the record says besides its files.
pub(super) struct Label {
    pub(super) history: HistoryId,
    pub(super) segment_bytes: u64,
    pub(super) run: RunId,
}

impl Way<'_> {
    pub(super) fn is_enough(&self, stores: &BTreeSet<String>) -> bool {
        is_durable(self.copies, &self.host.repository.places(), stores)
    }

    /// Reaches enough stores for a file, and makes sure that it is of the system whose log they hold.
    pub(super) async fn reach(&self, kept: &mut Kept, (system, file): (u64, LogFile)) -> Result<Reached, Failure> {
        let reached = self.usable(&kept.state).await;
        let names = reached.names();
        if !self.is_enough(&names) {
            let shipped = Shipped { stores: BTreeSet::new(), behind: reached.behind };
            return Err(not_durable(self.source, file, &shipped));
        }
        if kept.is_new {
            self.relearn(kept, &names).await;
        }
        self.check_system(kept, (system, file))?;
        Ok(reached)
    }

    /// The stores that can be used now. One that failed a moment ago is asked only where the others are not enough.
    async fn usable(&self, state: &ArchiveState) -> Reached {
        let now = self.host.world.now();
        let stores = &self.host.repository.stores;
        let (down, up): (Vec<&Store>, Vec<&Store>) = stores.iter().partition(|store| state.is_down(store.name(), now));
        let names = |stores: &[&Store]| stores.iter().map(|store| store.name().to_owned()).collect();
        let mut behind: BTreeMap<String, String> = BTreeMap::new();
        let asked = if self.is_enough(&names(&up)) {
            behind.extend(down.iter().map(|store| {
                let why = state.down.get(store.name()).map_or("", |down| down.why.as_str());
                (store.name().to_owned(), format!("it failed a moment ago: {why}"))
            }));
            up
        } else {
            stores.iter().collect()
        };
        let id = self.host.repository.id;
        let pending = asked.iter().map(|store| async move { (store.name().to_owned(), head::status(store, id).await) });
        let pending: FuturesUnordered<_> = pending.collect();
        let answered = self.gather(pending, |status| status.problem().map_or(Ok(()), Err)).await;
        let usable = asked.into_iter().filter(|store| answered.stores.contains(store.name())).cloned().collect();
        behind.extend(answered.behind);
        Reached { stores: usable, behind, at: now }
    }

    /// Waits for stores until all have answered, or enough have and the others had their time.
    async fn gather<T>(
        &self,
        mut pending: impl Stream<Item = (String, T)> + Unpin,
        judge: impl Fn(T) -> Result<(), String>,
    ) -> Shipped {
        let watch = Stopwatch::start();
        let mut shipped = Shipped::default();
        let mut grace = None;
        loop {
            let next = match grace {
                None => pending.next().await,
                Some(left) => match tokio::time::timeout(left, pending.next()).await {
                    Ok(next) => next,
                    Err(_) => return shipped,
                },
            };
            let Some((store, outcome)) = next else { return shipped };
            match judge(outcome) {
                Ok(()) => drop(shipped.stores.insert(store)),
                Err(why) => drop(shipped.behind.insert(store, why)),
            }
            if grace.is_none() && self.is_enough(&shipped.stores) {
                grace = Some((watch.elapsed() * GRACE_FACTOR).max(GRACE_MIN));
            }
        }
    }

    /// Where what is sealed may wait on the disk.
    pub(super) fn spool(&self) -> PathBuf {
        self.host.source_state_dir(self.source).join("archive-spool")
    }

    /// Ships files as they come, then the record of them, and remembers which stores failed; returns what is to be noted of
    /// the files, too.
    pub(super) async fn ship(
        &self,
        reached: Reached,
        state: &mut ArchiveState,
        label: &Label,
        mut files: impl Stream<Item = Result<Prepared, Failure>> + Unpin,
    ) -> Result<(Shipped, Vec<Note>), Failure> {
        let (copies, places) = (self.copies.clone(), self.host.repository.places());
        let is_enough = Box::new(move |held: &BTreeSet<String>| is_durable(&copies, &places, held));
        let room = Room::new(self.spool().join(label.run.as_str()), self.host.spool_limit_bytes);
        let mut shipment = Shipment::new(&reached.stores, layout::source_folder(self.source), room, is_enough);
        let (sender, mut receiver) = mpsc::channel(1);
        let mut record = self.draft(label);
        let mut notes = Vec::new();
        let mut large = None;
        let feed = async {
            while let Some(prepared) = files.next().await {
                // What was looked ahead for and cannot be read is left for its own turn; the file itself comes first.
                let prepared = match prepared {
                    Ok(prepared) => prepared,
                    Err(failure) if notes.is_empty() => return Err(failure),
                    Err(_) => continue,
                };
                let name = layout::log_file(label.history, prepared.entry.file, label.run);
                notes.push(Note { file: prepared.entry.file, tag: prepared.tag, seen: prepared.seen });
                record.files.push(prepared.entry);
                let sent = match prepared.object {
                    Sealed::Memory(object) => sender.send(Parcel { name, object }).await.is_ok(),
                    // It comes alone.
                    Sealed::File(object) => large.replace((name, object)).is_none(),
                };
                if !sent {
                    break;
                }
            }
            drop(sender);
            Ok(())
        };
        let carry = async {
            // Where no store takes anything any more, their own words, below, say more.
            drop(shipment.carry(&mut receiver, &|_| {}).await);
            receiver.close();
        };
        let (fed, ()) = tokio::join!(feed, carry);
        fed?;
        record.files.sort_by_key(|entry| entry.file);
        let tasks = match large {
            None => shipment.close(),
            Some((name, object)) => self.carry_large(&reached.stores, &name, &object),
        };
        let mut shipped = self.commit(tasks, &record).await;
        for (store, why) in reached.behind {
            shipped.behind.entry(store).or_insert(why);
        }
        self.remember(state, &shipped, reached.at);
        Ok((shipped, notes))
    }

    /// Brings a large file to every store at its own pace.
    fn carry_large(&self, stores: &[Store], name: &str, object: &LargeObject) -> Vec<Task> {
        let key = format!("{}{name}", layout::source_folder(self.source));
        let carry = |store: &Store| {
            let (store, key, object) = (store.clone(), key.clone(), object.clone());
            let name = store.name().to_owned();
            let work = async move { store.create_from(&key, &object).await.map(drop).map_err(LaneError::Store) };
            (name, tokio::spawn(work))
        };
        stores.iter().map(carry).collect()
    }

    fn draft(&self, label: &Label) -> LogRecord {
        LogRecord {
            format: crate::core::log::FORMAT.to_owned(),
            repository: self.host.repository.id,
            source: self.source.clone(),
            history: label.history,
            segment_bytes: label.segment_bytes,
            run: label.run,
            writer: self.host.key.fingerprint().to_string(),
            created_at: self.host.world.now(),
            recipients: self.host.recipients.names().to_vec(),
            files: Vec::new(),
        }
    }

    /// Writes the record on each store that has everything it names.
    async fn commit(&self, tasks: Vec<Task>, record: &LogRecord) -> Shipped {
        let text = to_text(record);
        let signed = SignedRecord { signature: self.host.key.sign(signature::LOG, text.as_bytes()), record: text };
        let bytes = Bytes::from(signed.to_bytes());
        let digest = sha256(&bytes);
        let Some(id) = record.id() else { return Shipped::default() };
        let key = format!("{}{}", layout::source_folder(self.source), layout::log_record(id));
        let pending: FuturesUnordered<_> = tasks
            .into_iter()
            .map(|(name, task)| {
                let store = self.host.repository.stores.iter().find(|store| store.name() == name).cloned();
                let (key, bytes) = (key.clone(), bytes.clone());
                let stop = StopOnDrop(task.abort_handle());
                async move {
                    let _stop = stop;
                    let written = match (task.await, store) {
                        (Ok(Ok(())), Some(store)) => {
                            store.create(&key, bytes, &digest).await.map(drop).map_err(|error| head::reason(&error))
                        }
                        (Ok(Err(error)), _) => Err(error.to_string()),
                        (Err(error), _) => Err(error.to_string()),
                        (_, None) => Err("it is not configured".to_owned()),
                    };
                    (name, written)
                }
            })
            .collect();
        self.gather(pending, |written| written).await
    }

    /// Remembers which stores failed and which did not.
    fn remember(&self, state: &mut ArchiveState, shipped: &Shipped, now: Timestamp) {
        for store in &self.host.repository.stores {
            let name = store.name();
            if shipped.stores.contains(name) {
                state.down.remove(name);
            } else if !state.is_down(name, now) {
                let why = shipped.behind.get(name).cloned().unwrap_or_else(|| "it was too slow".to_owned());
                state.down.insert(name.to_owned(), Down { since: now, why });
            }
        }
    }
}

/// A store that is not waited for any more is not written to any more.
struct StopOnDrop(tokio::task::AbortHandle);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Too few stores hold it.
pub(super) fn not_durable(source: &SourceName, file: LogFile, shipped: &Shipped) -> Failure {
    let why: Vec<String> = shipped.behind.iter().map(|(store, why)| format!("store {store}: {why}")).collect();
    let held: Vec<&str> = shipped.stores.iter().map(String::as_str).collect();
    let held = if held.is_empty() { "no store".to_owned() } else { held.join(", ") };
    Failure::new(Code::Store, format!("{file} of {source} is not on enough stores"))
        .cause(format!(
            "{held} took it; {}",
            if why.is_empty() { "the others did not answer".to_owned() } else { why.join("; ") }
        ))
        .safe("the server keeps the file and asks again")
        .next_step("bring the stores back; recoup doctor says what each answers")
}
