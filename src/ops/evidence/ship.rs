//! Brings this host's records to the stores, in order: a store that has one has all before it.

use super::{
    Recorder,
    control::read_control,
    journal::{Chain, LocalRecord},
    left::Left,
};
use crate::{
    core::{
        evidence::{BODY_BYTES_MAX, WriterId},
        id::Sha256,
        lost::LostRecords,
    },
    format,
    repository::{head, layout},
    stores::{Problem, Store, StoreError},
};
use bytes::Bytes;
use futures_util::future::join_all;
use std::collections::BTreeMap;
use tokio::sync::OnceCell;

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

/// What is acknowledged as lost, read when something asks for it.
type Lost = OnceCell<LostRecords>;

impl Recorder {
    /// Brings the stores everything of this host's chain that they lack. One that does not take it is left behind.
    pub async fn ship(&self) -> Shipped {
        let Some(chain) = self.journal.chain() else { return Shipped::default() };
        let left = self.left_behind_now(&chain).await;
        let last = left.as_ref().map_or(chain.number(), |left| left.first - 1);
        let stores = &self.host.repository.stores;
        let (of_chain, lost) = (&chain, &Lost::new());
        let shipped = join_all(stores.iter().enumerate().map(|(at, store)| async move {
            let (newest, outcome) = self.ship_to(at, of_chain, last, lost).await;
            (store.name().to_owned(), newest, outcome)
        }))
        .await;
        let mut result = Shipped { newest: chain.number(), ..Shipped::default() };
        for (store, newest, outcome) in shipped {
            result.acknowledged.insert(store.clone(), newest);
            match outcome {
                Ok(()) if newest < chain.number() => {
                    result.behind.push((store, "a key that is trusted no more has signed what it lacks".to_owned()));
                }
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
        if result.forked || left.is_some() {
            self.go_on(&chain, &result, left.as_ref());
        }
        result
    }

    /// Begins a new chain. What cannot be noted now is on this host's disk still, in the one that was given up.
    fn go_on(&self, chain: &Chain, shipped: &Shipped, left: Option<&Left>) {
        let restated = self.restated(chain, |number| shipped.holds(number));
        let is_begun = match left {
            Some(left) => self.give_up(chain, left),
            None => self.journal.retire(&self.host.world, chain.writer),
        };
        if is_begun.is_ok() {
            restated.into_iter().for_each(|draft| drop(self.record(draft)));
        }
    }

    async fn ship_to(&self, at: usize, chain: &Chain, to: u64, lost: &Lost) -> (u64, Result<(), NotTaken>) {
        let (store, writer) = (&self.host.repository.stores[at], chain.writer);
        let acknowledged = chain.acknowledged.get(store.name()).copied().unwrap_or(0);
        if acknowledged >= to {
            return (acknowledged, Ok(()));
        }
        let status = head::status(store, self.host.repository.id).await;
        if let Some(why) = status.problem() {
            return (acknowledged, Err(NotTaken::Other(why)));
        }
        // Records stay in order: what was lost comes back first.
        let from = match still_has(store, writer, acknowledged).await {
            Ok(from) => from,
            Err(why) => return (acknowledged, Err(NotTaken::Other(why))),
        };
        let (newest, outcome) = self.ship_from(at, writer, (from + 1, to), lost).await;
        if from < newest.min(acknowledged) {
            let lost = super::Lost { writer, first: from + 1, last: newest.min(acknowledged) };
            self.note(format!(
                "store {} had lost evidence {lost} that it had acknowledged; what this host has of it was brought again: \
                 find out who removed it",
                store.name()
            ));
        }
        (newest, outcome)
    }

    /// Brings the records `first` to `last`; returns the newest that the store has.
    async fn ship_from(
        &self,
        at: usize,
        writer: WriterId,
        (first, last): (u64, u64),
        lost: &Lost,
    ) -> (u64, Result<(), NotTaken>) {
        let store = &self.host.repository.stores[at];
        for number in first..=last {
            let newest = number - 1;
            let Some(local) = self.journal.local(writer, number) else {
                // A store that was renamed, or that `recoup copy` brought level, has it.
                if self.is_lost(writer, number, lost).await
                    || matches!(self.host.repository.read_record(at, writer, number).await, Ok(Some(_)))
                {
                    continue;
                }
                return (newest, Err(NotTaken::Other(self.lacks(writer, number, last))));
            };
            let body = match self.journal.body(writer, number) {
                Ok(body) => body,
                Err(error) => return (newest, Err(NotTaken::Other(format!("a record here cannot be read: {error}")))),
            };
            if let Err(why) = create_record(store, writer, number, local, body).await {
                return (newest, Err(self.settle(at, writer, number, why).await));
            }
        }
        (last, Ok(()))
    }

    /// Whether a record was acknowledged as lost, by this host or by another.
    async fn is_lost(&self, writer: WriterId, number: u64, lost: &Lost) -> bool {
        let read = || async { read_control(&self.host.repository, Some(&self.host.state_dir)).await.state.lost };
        lost.get_or_init(read).await.contains(writer, number)
    }

    /// Why a store gets nothing from record `first` on.
    fn lacks(&self, writer: WriterId, first: u64, to: u64) -> String {
        let next = self.journal.numbers(writer).range(first..=to).next().copied();
        let lost = super::Lost { writer, first, last: next.map_or(to, |next| next - 1) };
        format!(
            "it lacks evidence {lost}, which is no longer on this host: `recoup copy` brings what another store has; where \
             none has it, `recoup evidence acknowledge {lost} --reason TEXT`"
        )
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

/// The newest record up to `acknowledged` that a store has still.
async fn still_has(store: &Store, writer: WriterId, acknowledged: u64) -> Result<u64, String> {
    let envelope = layout::evidence(writer, acknowledged, "json");
    // One that does not say is taken at its earlier word.
    if acknowledged == 0 || !store.size(&envelope).await.is_err_and(|error| error.is_missing()) {
        return Ok(acknowledged);
    }
    let names = store.list(layout::EVIDENCE).await.map_err(|error| head::reason(&error))?;
    let numbers = names.iter().filter_map(|(name, _)| layout::evidence_record(name));
    let numbers = numbers.filter(|(of, number)| *of == writer && *number < acknowledged);
    Ok(numbers.map(|(_, number)| number).max().unwrap_or(0))
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
