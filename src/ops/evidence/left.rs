//! What a key that is trusted no more has signed, and that has not left this host: it is shipped no further.
//!
//! Whoever revoked the key vouched for what lay on the stores then. A record that comes later is nobody's: it would be
//! called foreign for ever, and prune would stop before it. So its chain is given up, and this host goes on with another.

use super::{Lost, Recorder, control, journal::Chain};
use crate::{
    core::{
        evidence::{Control, Draft, Record},
        failure::Failure,
    },
    format::{self, evidence as evidence_format},
    repository::{layout, vouch::Vouched},
};
use std::collections::BTreeSet;

/// Records of a chain that are shipped no further.
pub(super) struct Left {
    /// The first of them: those before it are shipped.
    pub(super) first: u64,
    signer: String,
    /// What those of the key would change.
    changes: u64,
}

/// Who is trusted, as far as this host knows.
struct Trust {
    own: String,
    named: BTreeSet<String>,
    revoked: BTreeSet<String>,
}

impl Trust {
    /// Whether a signer was trusted once and is no more. Where the file of signers does not name this host's own key
    /// either, it says nothing of the others.
    fn is_gone(&self, signer: &str) -> bool {
        let is_replaced = self.named.contains(&self.own) && !self.named.contains(signer);
        signer != self.own && (is_replaced || self.revoked.contains(signer))
    }
}

impl Recorder {
    /// Gives up the chain if such a record waits in it.
    pub(super) fn leave_behind(&self) -> Result<(), Failure> {
        let Some(chain) = self.journal.chain() else { return Ok(()) };
        let Some(left) = self.left_behind(&chain, None) else { return Ok(()) };
        let holds = |number: u64| self.acknowledged(&chain).filter(|newest| *newest >= number).count();
        let restated = self.restated(&chain, holds);
        self.give_up(&chain, &left)?;
        restated.into_iter().try_for_each(|draft| self.record(draft).map(drop))
    }

    /// Begins a new chain, and says what stays behind of the one so far.
    pub(super) fn give_up(&self, chain: &Chain, left: &Left) -> Result<(), Failure> {
        self.journal.retire(&self.host.world, chain.writer)?;
        let records = Lost { writer: chain.writer, first: left.first, last: chain.number() };
        let changes = match left.changes {
            0 => String::new(),
            changes => format!(
                "; of that, {changes} add or release holds or change keys, which counts only where a store has it: recoup \
                 hold list, and do again what should stand"
            ),
        };
        self.note(format!(
            "evidence {records} was not on every store yet when {}, which signed it, lost its trust: it is not shipped, and \
             stays in {}; this host goes on as a new chain{changes}",
            left.signer,
            self.journal.directory().join("records").display()
        ));
        Ok(())
    }

    /// The same as [`Recorder::left_behind`], as those know who vouch.
    pub(super) async fn left_behind_now(&self, chain: &Chain) -> Option<Left> {
        let own = self.host.key.fingerprint().to_string();
        // Who has had one key only asks nobody.
        if self.waiting(chain).all(|(record, _)| record.signer == own) {
            return None;
        }
        self.left_behind(chain, Some(self.host.repository.vouched().await))
    }

    /// What waits for a store and is signed by a key that is trusted no more, unless somebody vouches for it.
    fn left_behind(&self, chain: &Chain, vouched: Option<&Vouched>) -> Option<Left> {
        let trust = self.trust(vouched);
        let is_vouched_for = |(record, envelope): &(Record, Vec<u8>)| {
            let name = layout::evidence(record.writer, record.number, "json");
            vouched.is_some_and(|vouched| vouched.holds(&name, format::sha256(envelope)))
        };
        let mut left = self.waiting(chain).filter(|of| trust.is_gone(&of.0.signer) && !is_vouched_for(of));
        let (first, _) = left.next()?;
        let is_change = |record: &Record| {
            record.control.as_ref().is_some_and(|control| !matches!(control, Control::Configuration { .. }))
        };
        let changes = is_change(&first) as u64 + left.filter(|(record, _)| is_change(record)).count() as u64;
        Some(Left { first: first.number, signer: first.signer, changes })
    }

    fn trust(&self, vouched: Option<&Vouched>) -> Trust {
        let named = self.host.repository.signers.fingerprints();
        let mut revoked = control::cached(&self.host.repository, &self.journal).revoked_signers;
        revoked.extend(vouched.iter().flat_map(|vouched| vouched.revoked.iter().cloned()));
        Trust {
            own: self.host.key.fingerprint().to_string(),
            named: named.iter().map(ToString::to_string).collect(),
            revoked,
        }
    }

    /// The newest record of the chain that each store is known to have.
    fn acknowledged(&self, chain: &Chain) -> impl Iterator<Item = u64> {
        let of_store = |name: &str| chain.acknowledged.get(name).copied().unwrap_or(0);
        self.host.repository.stores.iter().map(move |store| of_store(store.name()))
    }

    /// The records on this host that some store lacks, with their bytes.
    fn waiting(&self, chain: &Chain) -> impl Iterator<Item = (Record, Vec<u8>)> {
        let everywhere = self.acknowledged(chain).min().unwrap_or(0);
        let numbers = self.journal.numbers(chain.writer).split_off(&(everywhere + 1));
        numbers.into_iter().filter_map(|number| {
            let envelope = self.journal.local(chain.writer, number)?.envelope.into_bytes();
            Some((evidence_format::parse(&envelope).ok()?, envelope))
        })
    }

    /// What records of a chain that is given up change, and too few stores will ever show: said again in the next one. What
    /// a key signed that is trusted no more, nobody says again.
    pub(super) fn restated(&self, chain: &Chain, holds: impl Fn(u64) -> usize) -> Vec<Draft> {
        let trust = self.trust(None);
        let numbers = self.journal.numbers(chain.writer);
        let lost = numbers.into_iter().filter(|number| *number <= chain.number() && holds(*number) < self.quorum());
        let read = |number| {
            let local = self.journal.local(chain.writer, number)?;
            evidence_format::parse(local.envelope.as_bytes()).ok()
        };
        let records = lost.filter_map(read).filter(|record| !trust.is_gone(&record.signer));
        records.filter_map(|record| restate(&record)).collect()
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
