//! Brings this host's records to the stores, in order: a store that has one has all before it.

use super::{
    Recorder,
    journal::{Chain, LocalRecord},
};
use crate::{
    core::{
        evidence::{BODY_BYTES_MAX, Control, Draft, Record, WriterId},
        id::Sha256,
    },
    format::{self, evidence as evidence_format},
    repository::{head, layout},
    stores::{Problem, Store, StoreError},
};
use bytes::Bytes;
use futures_util::future::join_all;
use std::collections::BTreeMap;

/// What the stores have of this host's chain now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shipped {
    /// The newest record that each store has, by its name.
    pub acknowledged: BTreeMap<String, u64>,
    /// Stores that lack some, and why.
    pub behind: Vec<(String, String)>,
    /// The newest record that there is.
    pub newest: u64,
    /// Whether the chain turned out to be another state directory's too; it goes on as a new one.
    pub forked: bool,
}

impl Shipped {
    /// How many stores have a record.
    pub fn holds(&self, number: u64) -> usize {
        self.acknowledged.values().filter(|newest| **newest >= number).count()
    }

    /// How many stores have all of them.
    pub fn holds_newest(&self) -> usize {
        self.holds(self.newest)
    }

    /// Why stores lack some, in one line.
    pub fn reasons(&self) -> String {
        let reasons: Vec<String> = self.behind.iter().map(|(store, why)| format!("store {store}: {why}")).collect();
        reasons.join("; ")
    }
}

/// Why a record did not get to a store.
enum NotTaken {
    /// It says that it has another object of this name.
    Exists {
        key: String,
        sha256: Sha256,
    },
    /// The store has another one there.
    Fork,
    Other(String),
}

impl Recorder {
    /// Brings the stores everything of this host's chain that they lack. One that does not take it is left behind.
    pub async fn ship(&self) -> Shipped {
        let Some(chain) = self.journal.chain() else { return Shipped::default() };
        let stores = &self.host.repository.stores;
        let (acknowledged, chain_writer, chain_number) = (&chain.acknowledged, chain.writer, chain.number());
        let shipped = join_all(stores.iter().enumerate().map(|(at, store)| async move {
            let from = acknowledged.get(store.name()).copied().unwrap_or(0);
            let (newest, outcome) = self.ship_to(at, chain_writer, from, chain_number).await;
            (store.name().to_owned(), newest, outcome)
        }))
        .await;
        let mut result = Shipped { newest: chain.number(), ..Shipped::default() };
        for (store, newest, outcome) in shipped {
            result.acknowledged.insert(store.clone(), newest);
            match outcome {
                Ok(()) => {}
                Err(NotTaken::Other(why)) => result.behind.push((store, why)),
                Err(NotTaken::Exists { key, .. }) => result.behind.push((store, format!("it has another {key}"))),
                Err(NotTaken::Fork) => {
                    result.forked = true;
                    let why = "another state directory writes the same chain: this one was copied, or set back";
                    result.behind.push((store, why.to_owned()));
                }
            }
        }
        let names: Vec<&str> = stores.iter().map(Store::name).collect();
        // Not noted, it is shipped again, which changes nothing.
        let _ = self.journal.acknowledge(chain.writer, &result.acknowledged, &names);
        if result.forked {
            let restated = self.restated(&chain, &result);
            if self.journal.retire(&self.host.world, chain.writer).is_ok() {
                // What cannot be noted now is on this host's disk still, in the chain that was given up.
                restated.into_iter().for_each(|draft| drop(self.record(draft)));
            }
        }
        result
    }

    /// What records of a chain that is given up change, and too few stores will ever show: said again in the next one.
    fn restated(&self, chain: &Chain, shipped: &Shipped) -> Vec<Draft> {
        let lost = (1..=chain.number()).rev().take_while(|number| shipped.holds(*number) < self.quorum());
        let read = |number| {
            let local = self.journal.local(chain.writer, number)?;
            evidence_format::parse(local.envelope.as_bytes()).ok()
        };
        let mut drafts: Vec<Draft> = lost.filter_map(read).filter_map(|record| restate(&record)).collect();
        drafts.reverse();
        drafts
    }

    async fn ship_to(&self, at: usize, writer: WriterId, from: u64, to: u64) -> (u64, Result<(), NotTaken>) {
        let store = &self.host.repository.stores[at];
        if from >= to {
            return (from, Ok(()));
        }
        let status = head::status(store, self.host.repository.id).await;
        if let Some(why) = status.problem() {
            return (from, Err(NotTaken::Other(why)));
        }
        if from > 0 && !has(store, writer, from).await {
            // Records stay in order: what was lost comes back first.
            let why = "it has lost records that it had; `recoup copy` brings them";
            return (from, Err(NotTaken::Other(why.to_owned())));
        }
        let mut newest = from;
        for number in from + 1..=to {
            let Some(local) = self.journal.local(writer, number) else {
                // A store that was renamed, or that `recoup copy` brought level, has it.
                if matches!(self.host.repository.read_record(at, writer, number).await, Ok(Some(_))) {
                    newest = number;
                    continue;
                }
                let why = "it lacks records that are no longer on this host; `recoup copy` brings them";
                return (newest, Err(NotTaken::Other(why.to_owned())));
            };
            let body = match self.journal.body(writer, number) {
                Ok(body) => body,
                Err(error) => return (newest, Err(NotTaken::Other(format!("a record here cannot be read: {error}")))),
            };
            if let Err(why) = create_record(store, writer, number, local, body).await {
                return (newest, Err(self.settle(at, writer, number, why).await));
            }
            newest = number;
        }
        (newest, Ok(()))
    }
}

impl Recorder {
    /// What it means that a store has another object where a record belongs. A new chain is begun only for what was read
    /// back: a store that calls everything taken would have every command begin one.
    async fn settle(&self, at: usize, writer: WriterId, number: u64, not_taken: NotTaken) -> NotTaken {
        let NotTaken::Exists { key, sha256 } = not_taken else { return not_taken };
        let own = self.journal.local(writer, number).map(|local| local.envelope.into_bytes());
        let there = self.host.repository.read_record(at, writer, number).await;
        if matches!(there, Ok(Some(signed)) if own.is_none_or(|own| signed.bytes != own)) {
            return NotTaken::Fork;
        }
        let other = self.host.repository.stores[at].get(&key, BODY_BYTES_MAX).await;
        let is_other = other.is_ok_and(|bytes| format::sha256(&bytes) != sha256);
        NotTaken::Other(match is_other {
            true => {
                format!("{key} is there already, and belongs to no record that is trusted: look at it, and remove it")
            }
            false => format!("it says that {key} is there already, and does not show it"),
        })
    }
}

/// What a record changes, to be said again; a configuration is noted anyway.
fn restate(record: &Record) -> Option<Draft> {
    let control = record.control.clone().filter(|control| !matches!(control, Control::Configuration { .. }))?;
    let mut draft = Draft::new(record.action, record.verdict, record.started_at);
    draft.subjects = record.subjects.clone();
    draft.control = Some(control);
    draft.result = serde_json::json!({ "restates": format!("{}/{}", record.writer, record.number) });
    Some(draft)
}

/// Whether a store has a record, or does not say.
async fn has(store: &Store, writer: WriterId, number: u64) -> bool {
    let envelope = store.size(&layout::evidence(writer, number, "json")).await;
    !envelope.is_err_and(|error| error.is_missing())
}

/// Body first, envelope last: where that is, the record counts.
async fn create_record(
    store: &Store,
    writer: WriterId,
    number: u64,
    local: LocalRecord,
    body: Vec<u8>,
) -> Result<(), NotTaken> {
    let objects = [("age", body), ("sig", local.signature.into_bytes()), ("json", local.envelope.into_bytes())];
    for (ending, bytes) in objects {
        let sha256 = format::sha256(&bytes);
        let key = layout::evidence(writer, number, ending);
        store.create(&key, Bytes::from(bytes), &sha256).await.map_err(|error: StoreError| match error.problem {
            Problem::Exists => NotTaken::Exists { key: key.clone(), sha256 },
            _ => NotTaken::Other(head::reason(&error)),
        })?;
    }
    Ok(())
}
