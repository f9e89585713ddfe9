//! The chains of the control log, followed as far as the stores show them, and past what was acknowledged as lost.

use super::{
    Repository,
    catalogue::Refusal,
    evidence::{Found, RefusedRecord, SignedRecord},
    head, layout,
};
use crate::core::{
    evidence::{ChainHead, WriterId},
    id::Sha256,
    lost::LostRecords,
};
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};

/// How many records are read at once.
const AHEAD: usize = 8;

/// What is known of the chains before they are followed.
#[derive(Clone, Debug, Default)]
pub struct KnownChains {
    /// How far they were read.
    pub heads: BTreeMap<WriterId, ChainHead>,
    /// What was acknowledged as lost.
    pub lost: LostRecords,
    /// What was passed over before the heads, for it was lost.
    pub passed: LostRecords,
}

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
    /// The numbers that any store lists, by writer, whatever lies there.
    pub listed: BTreeMap<WriterId, BTreeSet<u64>>,
    /// The newest record of each chain that more than half of the stores show. No other of its number can be durable, nor
    /// of those before it.
    pub settled: BTreeMap<WriterId, u64>,
    /// Whether something that was passed over is there now, or what comes next follows another record than the one that
    /// is known. What is known has to be forgotten then.
    pub turned_up: bool,
}

/// The records of a chain that stores list: those that are good, and those that are not.
type Shown = BTreeMap<u64, (Vec<Found>, Vec<RefusedRecord>)>;

/// Which stores list each record.
type Listed = BTreeMap<WriterId, BTreeMap<u64, Vec<usize>>>;

impl Repository {
    /// Follows every chain onwards from what is known already, and past what was acknowledged as lost.
    pub async fn follow_evidence(&self, known: &KnownChains) -> Followed {
        let mut followed = Followed::default();
        let mut listed = self.list_evidence(known, &mut followed).await;
        let mut passed = Listed::new();
        for (writer, numbers) in &mut listed {
            let behind = numbers.split_off(&(known.number(*writer) + 1));
            passed.insert(*writer, std::mem::replace(numbers, behind));
        }
        followed.turned_up = self.has_turned_up(&passed).await;
        if followed.turned_up {
            return followed;
        }
        let mut shown: BTreeMap<WriterId, Shown> = BTreeMap::new();
        for (writer, numbers) in &listed {
            shown.insert(*writer, self.read_chain(*writer, numbers).await);
        }
        // Whatever lies behind a loss may be what acknowledges it.
        let mut lost = known.lost.clone();
        for found in shown.values().flat_map(BTreeMap::values).flat_map(|(found, _)| found) {
            lost.add_acknowledged(&found.signed.record);
        }
        for (writer, shown) in shown {
            let head = known.heads.get(&writer).copied();
            let next = self.follow_chain(writer, shown, head, &lost, &mut followed);
            self.mark_strays(writer, next, &listed[&writer], &mut followed);
        }
        followed
    }

    /// Whether a record that was passed over counts again, or may: a store has it, or cannot say.
    async fn has_turned_up(&self, passed: &Listed) -> bool {
        for (writer, numbers) in passed {
            let shown = self.read_chain(*writer, numbers).await;
            if !shown.values().all(|(found, refused)| found.is_empty() && are_bad(refused)) {
                return true;
            }
        }
        false
    }

    /// The records behind the known heads that any store lists, and those that were passed over before them. Where a
    /// chain ends is not found by asking for the next one: so many may be missing that nobody would ask far enough.
    async fn list_evidence(&self, known: &KnownChains, followed: &mut Followed) -> Listed {
        let listings = join_all(self.stores.iter().enumerate().map(|(at, store)| async move {
            let status = head::status(store, self.id).await;
            if status != head::StoreStatus::Ready {
                return None;
            }
            let names = store.list(layout::EVIDENCE).await.ok()?;
            Some((at, names.iter().filter_map(|(name, _)| layout::evidence_record(name)).collect::<Vec<_>>()))
        }))
        .await;
        let mut listed = Listed::new();
        for (at, places) in listings.into_iter().flatten() {
            followed.answered.insert(self.stores[at].name().to_owned());
            for (writer, number) in places {
                followed.listed.entry(writer).or_default().insert(number);
                if number > known.number(writer) || known.passed.contains(writer, number) {
                    listed.entry(writer).or_default().entry(number).or_default().push(at);
                }
            }
        }
        listed
    }

    /// Marks what lies beyond a chain's end without following it, and can hide nothing.
    ///
    /// A store that has a record has all before it, and more than half have a durable one. Where enough stores answered
    /// that show nothing beyond the end, there is nothing durable there: they alone would be believed, were the store with
    /// the stray object silent.
    fn mark_strays(&self, writer: WriterId, next: u64, numbers: &BTreeMap<u64, Vec<usize>>, followed: &mut Followed) {
        let beyond: BTreeSet<usize> = numbers.range(next..).flat_map(|(_, stores)| stores).copied().collect();
        if followed.answered.len() - beyond.len() < self.control_read_quorum() {
            return;
        }
        let mut follows = next;
        while numbers.contains_key(&follows) {
            follows += 1;
        }
        for refused in followed.refused.iter_mut().filter(|refused| refused.writer == writer) {
            refused.stray |= match refused.why {
                Refusal::Untrusted(_) | Refusal::Damaged(_) => refused.number > follows,
                // Where it would follow, what few stores had may have been damaged; a copy is somebody's doing, who
                // could have removed that as well. So it is with a chain that never was.
                Refusal::Misplaced(_) => refused.number >= next,
                Refusal::Newer(_) | Refusal::Unreadable(_) => false,
            };
        }
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

    /// Returns the first number that is not followed to.
    fn follow_chain(
        &self,
        writer: WriterId,
        mut shown: Shown,
        head: Option<ChainHead>,
        lost: &LostRecords,
        followed: &mut Followed,
    ) -> u64 {
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
                    followed.refused.push(RefusedRecord { store, writer, number: first, last, why, stray: false });
                    return u64::MAX;
                }
                followed.lost.add(writer, next, number - 1);
                tips = None;
            }
            next = number + 1;
            if found.is_empty() {
                if !followed.pass(lost, writer, number, refused) {
                    return u64::MAX;
                }
                tips = None;
                continue;
            }
            followed.refused.extend(refused);
            let (good, stray): (Vec<_>, Vec<_>) = found
                .into_iter()
                .partition(|found| tips.as_ref().is_none_or(|tips| tips.contains(&found.signed.record.previous)));
            let mut refuse = |at: usize, why: &str| {
                let (store, why) = (self.stores[at].name().to_owned(), Refusal::Damaged(why.to_owned()));
                followed.refused.push(RefusedRecord { store, writer, number, last: number, why, stray: false });
            };
            stray.iter().for_each(|found| refuse(found.at, "it does not follow the record before it"));
            good.iter().skip(1).for_each(|found| refuse(found.at, "another store has another record of this number"));
            if good.is_empty() {
                // Another record than the known one may be before it.
                followed.turned_up |= head.is_some_and(|head| number == head.number + 1);
                return u64::MAX;
            }
            if good.iter().any(|found| found.stores >= self.control_write_quorum()) {
                followed.settled.insert(writer, number);
            }
            tips = Some(good.iter().map(|found| Some(found.signed.sha256)).collect());
            followed.records.extend(good.into_iter().map(|found| found.signed));
        }
        for (number, (_, refused)) in behind {
            followed.pass(lost, writer, number, refused);
        }
        next
    }
}

impl KnownChains {
    /// How far a chain was read.
    fn number(&self, writer: WriterId) -> u64 {
        self.heads.get(&writer).map_or(0, |head| head.number)
    }
}

/// Whether a record is nowhere good, and no store may yet give it.
fn are_bad(refused: &[RefusedRecord]) -> bool {
    let is_bad = |refused: &RefusedRecord| {
        matches!(refused.why, Refusal::Damaged(_) | Refusal::Misplaced(_) | Refusal::Untrusted(_))
    };
    !refused.is_empty() && refused.iter().all(is_bad)
}

impl Followed {
    /// Whether a record that is nowhere good was acknowledged as lost. It is not while a store may yet give it.
    fn pass(&mut self, lost: &LostRecords, writer: WriterId, number: u64, refused: Vec<RefusedRecord>) -> bool {
        let may_be_passed = lost.contains(writer, number) && are_bad(&refused);
        if may_be_passed {
            self.lost.add(writer, number, number);
        } else if refused.is_empty() {
            let why = Refusal::Unreadable("it is listed, and not there".to_owned());
            let store = self.answered.iter().cloned().collect::<Vec<_>>().join(", ");
            self.refused.push(RefusedRecord { store, writer, number, last: number, why, stray: false });
        } else {
            self.refused.extend(refused);
        }
        may_be_passed
    }
}
