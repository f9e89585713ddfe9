//! The commit: per store, an inventory that is written last, and only where everything it uses is.

use super::{
    Gathered, Host, Parcel, Protected,
    shipment::{LaneError, Shipment},
};
use crate::{
    core::{
        failure::Failure,
        id::SourceName,
        inventory::{Inventory, Parent},
        policy::{Copies, is_durable},
        prune::{CondemnedSet, PruneRecord},
    },
    format::{seal::SealedObject, signature},
    repository::{layout, log::NeededLog},
    stores::Store,
    world::Stopwatch,
};
use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use std::{collections::BTreeSet, time::Duration};

/// Once a snapshot is durable, slower stores are waited for this long at least ...
const GRACE_MIN: Duration = Duration::from_secs(30);
/// ... or this many times as long as it took until then.
const GRACE_FACTOR: u32 = 3;

/// The objects that make a snapshot exist, in the order in which they are written.
pub(super) struct Commit {
    inventory: Inventory,
    head: Parent,
    objects: Vec<Parcel>,
    folder: String,
}

/// Which stores hold the snapshot.
pub(super) struct CommitOutcome {
    pub(super) inventory: Inventory,
    pub(super) head: Parent,
    pub(super) stores: Vec<String>,
    pub(super) behind: Vec<(String, String)>,
    pub(super) durable: bool,
    /// Whether a prune plan that nobody had seen before condemns something that the snapshot uses.
    pub(super) condemned: bool,
}

impl CommitOutcome {
    /// Lists the prune plans on every store that has the inventory now, and counts none where a plan condemns something
    /// that the snapshot uses. A prune publishes its plan, then lists inventories: one of the two sees the other.
    pub(super) async fn heed_plans(mut self, host: &Host, protected: &Protected, gathered: &Gathered) -> Self {
        let (seen, avoided) = (&gathered.plans_seen, &gathered.avoided);
        let counted = host
            .repository
            .stores
            .iter()
            .enumerate()
            .filter(|(_, store)| self.stores.contains(&store.name().to_owned()));
        let inventory = &self.inventory;
        let verdicts = join_all(counted.map(|(at, store)| async move {
            let unknown = host.repository.unknown_prunes(at, &protected.name, seen).await;
            let verdict = match unknown {
                Ok(records) => heed(host, at, inventory, avoided, &records).await,
                Err(why) => Some((format!("its prune plans cannot be read: {why}"), false)),
            };
            (store.name().to_owned(), verdict)
        }))
        .await;
        for (store, verdict) in verdicts {
            let Some((why, condemned)) = verdict else { continue };
            self.stores.retain(|counted| *counted != store);
            self.behind.push((store, why));
            self.condemned |= condemned;
        }
        self.behind.sort();
        let counted = self.stores.iter().cloned().collect();
        self.durable = is_durable(&protected.policy.copies, &host.repository.places(), &counted);
        self
    }
}

/// Why a snapshot must not be acknowledged on a store, if so, and whether a plan is why.
async fn heed(
    host: &Host,
    store: usize,
    inventory: &Inventory,
    avoided: &CondemnedSet,
    records: &[PruneRecord],
) -> Option<(String, bool)> {
    let why = |part: String| (format!("a prune plan condemns {part}, which the snapshot uses"), true);
    let mut unknown = CondemnedSet::default();
    for record in records {
        // Somebody took it for one that never gets its inventory, and gave it up.
        if CondemnedSet::of(&record.condemned).has_snapshot(inventory.id()) {
            return Some((format!("prune plan {} condemns it", record.plan), true));
        }
        unknown.add(&record.condemned);
        unknown.add(&record.dropped);
    }
    if let Some(part) = [avoided, &unknown].into_iter().find_map(|set| set.used_by(inventory)) {
        return Some(why(part));
    }
    let range = inventory.log.as_ref()?;
    let mut condemned = unknown.logs;
    condemned.extend(avoided.logs.clone());
    // What it needs of the log is newer than anything that a plan condemns; but for a standby that lags behind, and a
    // server that was set back or comes back.
    condemned.reach(range)?;
    // The lists of what was deleted long ago are read only here.
    match host.repository.unknown_prunes(store, &inventory.source, &BTreeSet::new()).await {
        Ok(records) => {
            for record in records {
                let mut all = CondemnedSet::default();
                all.add(&record.condemned);
                all.add(&record.dropped);
                condemned.extend(all.logs);
            }
        }
        Err(why) => return Some((format!("its prune plans cannot be read: {why}"), false)),
    }
    let needed = NeededLog::beside(range, &condemned);
    match host.repository.lacking_of_log(store, &inventory.source, needed, &condemned).await {
        Ok(None) => None,
        Ok(Some(file)) => {
            let reach = condemned.reach(range).unwrap_or_default();
            let why = format!(
                "a prune takes the log of {} before {reach}, and {file}, which is needed from there on, is not there or \
                 condemned",
                range.history.system
            );
            Some((why, true))
        }
        Err(error) => Some((format!("its log cannot be listed: {error}"), false)),
    }
}

impl Commit {
    /// Signs the inventory; `objects` are written before it, in their order.
    pub(super) fn new(
        host: &Host,
        source: &SourceName,
        inventory: Inventory,
        mut objects: Vec<Parcel>,
    ) -> Result<Self, Failure> {
        let id = inventory.id();
        let object = super::seal_inventory(&inventory)?;
        let signature = host.key.sign(signature::INVENTORY, &object.bytes);
        let head = Parent { id, sha256: object.sha256 };
        objects.push(Parcel {
            name: layout::snapshot_object(id, layout::SIGNATURE),
            object: SealedObject::clear(signature.into_bytes()),
        });
        objects.push(Parcel { name: layout::snapshot_object(id, layout::INVENTORY), object });
        Ok(Commit { inventory, head, objects, folder: layout::source_folder(source) })
    }

    /// Commits on each store as soon as it has everything, and waits for the slower ones within reason.
    pub(super) async fn run(
        self,
        host: &Host,
        copies: &Copies,
        shipment: Shipment,
        behind: Vec<(String, String)>,
    ) -> Result<CommitOutcome, Failure> {
        let stopwatch = Stopwatch::start();
        let places = host.repository.places();
        let mut waiting = FuturesUnordered::new();
        let mut unfinished = BTreeSet::new();
        for (name, task) in shipment.close() {
            let store = host.repository.stores.iter().find(|store| store.name() == name);
            let store = store.ok_or_else(|| Failure::internal(format!("store {name} is gone")))?.clone();
            unfinished.insert(name.clone());
            let this = &self;
            waiting.push(async move {
                let shipped = task.await.unwrap_or_else(|error| Err(LaneError::Own(error.to_string())));
                let outcome = match shipped {
                    Ok(()) => this.commit_on(&store).await,
                    Err(error) => Err(error.to_string()),
                };
                (name, outcome)
            });
        }
        let mut complete = BTreeSet::new();
        let mut behind = behind;
        let mut deadline: Option<tokio::time::Instant> = None;
        loop {
            let next = match deadline {
                Some(deadline) => tokio::time::timeout_at(deadline, waiting.next()).await,
                None => Ok(waiting.next().await),
            };
            match next {
                Ok(Some((name, outcome))) => {
                    unfinished.remove(&name);
                    match outcome {
                        Ok(()) => drop(complete.insert(name)),
                        Err(why) => behind.push((name, why)),
                    }
                }
                Ok(None) => break,
                Err(_) => {
                    let slow = |name: String| (name, "it was too slow and was left behind".to_owned());
                    behind.extend(std::mem::take(&mut unfinished).into_iter().map(slow));
                    break;
                }
            }
            if deadline.is_none() && is_durable(copies, &places, &complete) {
                let grace = GRACE_MIN.max(stopwatch.elapsed() * GRACE_FACTOR);
                deadline = Some(tokio::time::Instant::now() + grace);
            }
        }
        drop(waiting);
        behind.sort();
        Ok(CommitOutcome {
            durable: is_durable(copies, &places, &complete),
            inventory: self.inventory,
            head: self.head,
            stores: complete.into_iter().collect(),
            behind,
            condemned: false,
        })
    }

    /// Writes what belongs to the commit on one store, the inventory last.
    async fn commit_on(&self, store: &Store) -> Result<(), String> {
        for parcel in &self.objects {
            let key = format!("{}{}", self.folder, parcel.name);
            let created = store.create(&key, parcel.object.bytes.clone(), &parcel.object.sha256).await;
            created.map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}
