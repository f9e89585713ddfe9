//! What a key that is trusted no more has signed, and that has not left this host: it is shipped no further.
//!
//! Whoever revoked the key vouched for what lay on the stores then. A record that comes later is nobody's: it would be
//! called foreign for ever, and prune would stop before it. So its chain is given up, and this host goes on with another.

use super::{Lost, Recorder, control, journal::Chain};
use crate::{
    core::{
        evidence::{Control, Draft, Phase, Record, SeenHead},
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
    /// Gives up the chain if such a record waits in it. What a process that died then has not said again is said first.
    pub(super) fn leave_behind(&self) -> Result<(), Failure> {
        self.say_again()?;
        let Some(chain) = self.journal.chain() else { return Ok(()) };
        let Some(left) = self.left_behind(&chain, None) else { return Ok(()) };
        let holds = |number: u64| self.acknowledged(&chain).filter(|newest| *newest >= number).count();
        self.give_up(&chain, &left, &self.unheard(&chain, holds))?;
        self.say_again()
    }

    /// Says what the chain has noted when it began: what those given up before it have changed, and too few stores show.
    pub(super) fn say_again(&self) -> Result<(), Failure> {
        let Some(chain) = self.journal.chain().filter(|chain| !chain.restates.is_empty()) else { return Ok(()) };
        self.note_configuration()?;
        let trust = self.trust(None);
        for place @ (writer, number) in chain.restates {
            let record = self.journal.read(writer, number).map(|(record, _)| record);
            let record = record.filter(|record| !trust.is_gone(&record.signer));
            match record.as_ref().and_then(restate) {
                Some(draft) => {
                    self.append(draft, Phase::Whole, None)?;
                }
                None => self.note(format!(
                    "evidence {writer}/{number}, which this host has yet to say again, cannot be read here any more, or its \
                     key is trusted no more: recoup hold list, and do again what should stand"
                )),
            }
            // Said twice, it changes nothing.
            self.journal.restated(place)?;
        }
        Ok(())
    }

    /// Begins a new chain, and says what stays behind of the one so far.
    pub(super) fn give_up(&self, chain: &Chain, left: &Left, unheard: &BTreeSet<u64>) -> Result<(), Failure> {
        self.journal.retire(&self.host.world, chain.writer, unheard)?;
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
        let cached = control::cached(&self.host.repository, &self.journal);
        let mut revoked: BTreeSet<String> = cached.revoked_signers().cloned().collect();
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

    /// Records of a chain that is given up which change something, and which too few stores will ever show: they are said
    /// again in the next one. What a key signed that is trusted no more, nobody says again.
    pub(super) fn unheard(&self, chain: &Chain, holds: impl Fn(u64) -> usize) -> BTreeSet<u64> {
        let trust = self.trust(None);
        let numbers = self.journal.numbers(chain.writer);
        let unheard = numbers.into_iter().filter(|number| *number <= chain.number() && holds(*number) < self.quorum());
        let records = unheard.filter_map(|number| self.journal.read(chain.writer, number)).map(|(record, _)| record);
        let counting = records.filter(|record| !trust.is_gone(&record.signer) && restate(record).is_some());
        counting.map(|record| record.number).collect()
    }
}

/// What a record changes, to be said again; a configuration is noted anyway.
fn restate(record: &Record) -> Option<Draft> {
    let control = record.control.clone().filter(|control| !matches!(control, Control::Configuration { .. }))?;
    let mut draft = Draft::new(record.action, record.verdict, record.started_at);
    draft.subjects = record.subjects.clone();
    // What is acknowledged as lost counts up to what was seen of it; in its own chain, that is all before it.
    if let Control::RecordsLost { writer, .. } = control {
        let before = record.previous.filter(|_| writer == record.writer);
        let before = before.map(|sha256| SeenHead { writer, number: record.number - 1, sha256 });
        draft.seen = before.or(record.seen.iter().find(|seen| seen.writer == writer).copied());
    }
    draft.control = Some(control);
    draft.result = serde_json::json!({ "restates": format!("{}/{}", record.writer, record.number) });
    Some(draft)
}
