//! The chains of the control log, followed as far as the stores show them, and past what was acknowledged as lost.

use super::{
    Repository,
    catalogue::Refusal,
    evidence::{RefusedRecord, SignedRecord},
    head, layout,
};
use crate::core::{
    evidence::{ChainHead, Control, WriterId},
    id::Sha256,
    lost::LostRecords,
};
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};

/// How many records are read at once.
const AHEAD: usize = 8;

/// What following the chains gave.
#[derive(Clone, Debug, Default)]
pub struct Followed {
    /// New records, chain by chain, in order.
    pub records: Vec<SignedRecord>,
    /// The stores that answered, by name.
    pub answered: BTreeSet<String>,
    /// What was not accepted, or does not fit its chain.
    pub refused: Vec<RefusedRecord>,
    /// What no store that answered has, and somebody has acknowledged as lost.
    pub lost: LostRecords,
}

/// The records of a chain that stores list: those that are good, and those that are not.
type Shown = BTreeMap<u64, (Vec<(usize, SignedRecord)>, Vec<RefusedRecord>)>;

/// Which stores list each record.
type Listed = BTreeMap<WriterId, BTreeMap<u64, Vec<usize>>>;

impl Repository {
    /// Follows every chain onwards from the heads that are known already, and past the records of `lost`.
    pub async fn follow_evidence(&self, known: &BTreeMap<WriterId, ChainHead>, lost: &LostRecords) -> Followed {
        let mut followed = Followed::default();
        let listed = self.list_evidence(known, &mut followed).await;
        let mut shown: BTreeMap<WriterId, Shown> = BTreeMap::new();
        for (writer, numbers) in listed {
            shown.insert(writer, self.read_chain(writer, &numbers).await);
        }
        // Whatever lies behind a loss may be what acknowledges it.
        let mut lost = lost.clone();
        for (_, signed) in shown.values().flat_map(BTreeMap::values).flat_map(|(found, _)| found) {
            if let Some(Control::RecordsLost { writer, first, last }) = &signed.record.control {
                lost.add(*writer, *first, *last);
            }
        }
        for (writer, shown) in shown {
            self.follow_chain(writer, shown, known.get(&writer).copied(), &lost, &mut followed);
        }
        followed
    }

    /// The records behind the known heads that any store lists. Where a chain ends is not found by asking for the next
    /// one: so many may be missing that nobody would ask far enough.
    async fn list_evidence(&self, known: &BTreeMap<WriterId, ChainHead>, followed: &mut Followed) -> Listed {
        let listings = join_all(self.stores.iter().enumerate().map(|(at, store)| async move {
            let status = head::status(store, self.id).await;
            if status != head::StoreStatus::Ready {
                return None;
            }
            let names = store.list(layout::EVIDENCE).await.ok()?;
            let is_new =
                |(writer, number): &(WriterId, u64)| known.get(writer).is_none_or(|head| head.number < *number);
            let places = names.iter().filter_map(|(name, _)| layout::evidence_record(name)).filter(is_new);
            Some((at, places.collect::<Vec<_>>()))
        }))
        .await;
        let mut listed = Listed::new();
        for (at, places) in listings.into_iter().flatten() {
            followed.answered.insert(self.stores[at].name().to_owned());
            for (writer, number) in places {
                listed.entry(writer).or_default().entry(number).or_default().push(at);
            }
        }
        listed
    }

    async fn read_chain(&self, writer: WriterId, numbers: &BTreeMap<u64, Vec<usize>>) -> Shown {
        let mut shown = Shown::new();
        let numbers: Vec<_> = numbers.iter().collect();
        for window in numbers.chunks(AHEAD) {
            let reading = window.iter().map(|(number, stores)| self.read_everywhere(writer, **number, stores));
            shown.extend(window.iter().map(|(number, _)| **number).zip(join_all(reading).await));
        }
        shown
    }

    fn follow_chain(
        &self,
        writer: WriterId,
        mut shown: Shown,
        head: Option<ChainHead>,
        lost: &LostRecords,
        followed: &mut Followed,
    ) {
        let mut next = head.map_or(1, |head| head.number + 1);
        // More than one where the chain forked: no branch may hide what another one says. None behind a loss: what was
        // lost cannot say what follows it.
        let mut tips: Option<BTreeSet<Option<Sha256>>> = Some([head.map(|head| head.sha256)].into());
        let last_good = shown.iter().rev().find(|(_, (found, _))| !found.is_empty()).map_or(0, |(number, _)| *number);
        let behind = shown.split_off(&(last_good + 1));
        for (number, (found, refused)) in shown {
            if number > next {
                if let Some((first, last)) = lost.others(writer, next, number - 1).first().copied() {
                    // The chain goes on behind the gap, with what nobody can say.
                    let why = Refusal::Damaged("it is missing, and later ones exist".to_owned());
                    let store = followed.answered.iter().cloned().collect::<Vec<_>>().join(", ");
                    followed.refused.push(RefusedRecord { store, writer, number: first, last, why });
                    return;
                }
                followed.lost.add(writer, next, number - 1);
                tips = None;
            }
            next = number + 1;
            if found.is_empty() {
                if !followed.pass(lost, writer, number, refused) {
                    return;
                }
                tips = None;
                continue;
            }
            followed.refused.extend(refused);
            let (good, stray): (Vec<_>, Vec<_>) = found
                .into_iter()
                .partition(|(_, signed)| tips.as_ref().is_none_or(|tips| tips.contains(&signed.record.previous)));
            let mut refuse = |at: usize, why: &str| {
                let (store, why) = (self.stores[at].name().to_owned(), Refusal::Damaged(why.to_owned()));
                followed.refused.push(RefusedRecord { store, writer, number, last: number, why });
            };
            stray.iter().for_each(|(at, _)| refuse(*at, "it does not follow the record before it"));
            good.iter().skip(1).for_each(|(at, _)| refuse(*at, "another store has another record of this number"));
            if good.is_empty() {
                return;
            }
            tips = Some(good.iter().map(|(_, signed)| Some(signed.sha256)).collect());
            followed.records.extend(good.into_iter().map(|(_, signed)| signed));
        }
        for (number, (_, refused)) in behind {
            followed.pass(lost, writer, number, refused);
        }
    }
}

impl Followed {
    /// Whether a record that is nowhere good was acknowledged as lost. It is not while a store may yet give it.
    fn pass(&mut self, lost: &LostRecords, writer: WriterId, number: u64, refused: Vec<RefusedRecord>) -> bool {
        let is_bad = |refused: &RefusedRecord| matches!(refused.why, Refusal::Damaged(_) | Refusal::Untrusted(_));
        let may_be_passed = lost.contains(writer, number) && !refused.is_empty() && refused.iter().all(is_bad);
        if may_be_passed {
            self.lost.add(writer, number, number);
        } else if refused.is_empty() {
            let why = Refusal::Unreadable("it is listed, and not there".to_owned());
            let store = self.answered.iter().cloned().collect::<Vec<_>>().join(", ");
            self.refused.push(RefusedRecord { store, writer, number, last: number, why });
        } else {
            self.refused.extend(refused);
        }
        may_be_passed
    }
}
