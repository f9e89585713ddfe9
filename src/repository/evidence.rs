//! The control log on the stores: its records, read and checked; chains as far as the stores show them.

use super::{
    Repository,
    catalogue::{Refusal, text_of},
    head, layout,
};
use crate::{
    core::{
        evidence::{ChainHead, Record, WriterId},
        id::{RepositoryId, Sha256},
    },
    format::{
        self, evidence as evidence_format,
        signature::{self, MAX_SIGNATURE_BYTES},
        signers,
    },
    stores::Store,
};
use bytes::Bytes;
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};

/// How many records are asked for at once while a chain is followed.
const AHEAD: u64 = 8;

/// The name that signers of evidence sign as.
pub fn principal(repository: &RepositoryId) -> String {
    signature::role_principal("evidence", repository)
}

/// A record that a trusted signer signed.
#[derive(Clone, Debug, PartialEq)]
pub struct SignedRecord {
    /// What it says.
    pub record: Record,
    /// Its exact bytes.
    pub bytes: Bytes,
    /// The signature over them.
    pub signature: Bytes,
    /// SHA-256 of them.
    pub sha256: Sha256,
}

/// A record that was not accepted.
#[derive(Clone, Debug)]
pub struct RefusedRecord {
    /// The store that gave it.
    pub store: String,
    /// Whose chain it is in.
    pub writer: WriterId,
    /// Its number.
    pub number: u64,
    /// Why.
    pub why: Refusal,
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
}

impl Repository {
    /// How many stores have to answer so that nothing that was acknowledged is missed.
    pub fn control_read_quorum(&self) -> usize {
        self.stores.len() + 1 - self.control_write_quorum()
    }

    /// How many stores have to hold a control record for it to be durable: more than half.
    pub fn control_write_quorum(&self) -> usize {
        self.stores.len() / 2 + 1
    }

    /// Follows every chain onwards from the heads that are known already.
    pub async fn follow_evidence(&self, known: &BTreeMap<WriterId, ChainHead>) -> Followed {
        let mut followed = Followed::default();
        let surveyed = join_all(self.stores.iter().enumerate().map(|(at, store)| async move {
            let status = head::status(store, self.id).await;
            if status != head::StoreStatus::Ready {
                return None;
            }
            let names = store.list_directories(layout::EVIDENCE).await.ok()?;
            Some((at, names.iter().filter_map(|name| name.parse().ok()).collect::<BTreeSet<WriterId>>()))
        }))
        .await;
        let ready: Vec<(usize, BTreeSet<WriterId>)> = surveyed.into_iter().flatten().collect();
        followed.answered = ready.iter().map(|(at, _)| self.stores[*at].name().to_owned()).collect();
        let mut writers: BTreeSet<WriterId> = known.keys().copied().collect();
        writers.extend(ready.iter().flat_map(|(_, writers)| writers.iter().copied()));
        for writer in writers {
            let stores: Vec<usize> =
                ready.iter().filter(|(_, writers)| writers.contains(&writer)).map(|(at, _)| *at).collect();
            self.follow_chain(writer, &stores, known.get(&writer).copied(), &mut followed).await;
        }
        followed
    }

    async fn follow_chain(&self, writer: WriterId, stores: &[usize], head: Option<ChainHead>, followed: &mut Followed) {
        let mut next = head.map_or(1, |head| head.number + 1);
        // More than one where the chain forked: no branch may hide what another one says.
        let mut tips: BTreeSet<Option<Sha256>> = [head.map(|head| head.sha256)].into();
        loop {
            let window =
                join_all((next..next + AHEAD).map(|number| self.read_everywhere(writer, number, stores))).await;
            let last_shown = window.iter().rposition(|(found, _)| !found.is_empty());
            for (offset, (number, (found, refused))) in (next..).zip(window).enumerate() {
                followed.refused.extend(refused);
                if found.is_empty() {
                    // The chain goes on behind the gap, with what nobody can say.
                    if last_shown.is_some_and(|last| last > offset) {
                        let why = Refusal::Damaged("it is missing, and later ones exist".to_owned());
                        let names = stores.iter().map(|at| self.stores[*at].name()).collect::<Vec<_>>();
                        followed.refused.push(RefusedRecord { store: names.join(", "), writer, number, why });
                    }
                    return;
                }
                let (good, stray): (Vec<_>, Vec<_>) =
                    found.into_iter().partition(|(_, signed)| tips.contains(&signed.record.previous));
                let mut refuse = |at: usize, why: &str| {
                    let (store, why) = (self.stores[at].name().to_owned(), Refusal::Damaged(why.to_owned()));
                    followed.refused.push(RefusedRecord { store, writer, number, why });
                };
                stray.iter().for_each(|(at, _)| refuse(*at, "it does not follow the record before it"));
                good.iter().skip(1).for_each(|(at, _)| refuse(*at, "another store has another record of this number"));
                if good.is_empty() {
                    return;
                }
                tips = good.iter().map(|(_, signed)| Some(signed.sha256)).collect();
                followed.records.extend(good.into_iter().map(|(_, signed)| signed));
            }
            next += AHEAD;
        }
    }

    /// The good records of one place, each once, with the first store that gives it. One is all there is unless the
    /// chain forked; and which one a single store shows says nothing about that.
    async fn read_everywhere(
        &self,
        writer: WriterId,
        number: u64,
        stores: &[usize],
    ) -> (Vec<(usize, SignedRecord)>, Vec<RefusedRecord>) {
        let (mut found, mut refused) = (Vec::<(usize, SignedRecord)>::new(), Vec::new());
        for at in stores {
            match self.read_unlike(*at, writer, number, &found).await {
                Ok(Some(signed)) => found.push((*at, signed)),
                Ok(None) => {}
                Err(why) => {
                    refused.push(RefusedRecord { store: self.stores[*at].name().to_owned(), writer, number, why });
                }
            }
        }
        (found, refused)
    }

    /// Reads a record from a store, unless it has none, or one of those that were found.
    async fn read_unlike(
        &self,
        at: usize,
        writer: WriterId,
        number: u64,
        found: &[(usize, SignedRecord)],
    ) -> Result<Option<SignedRecord>, Refusal> {
        if !found.is_empty() {
            let bytes = get(&self.stores[at], writer, number, "json", evidence_format::MAX_BYTES).await?;
            if bytes.is_none_or(|bytes| found.iter().any(|(_, signed)| signed.bytes == bytes)) {
                return Ok(None);
            }
        }
        self.read_record(at, writer, number).await
    }

    /// Reads one record from the store at a position; `None` where it has none.
    pub async fn read_record(
        &self,
        store: usize,
        writer: WriterId,
        number: u64,
    ) -> Result<Option<SignedRecord>, Refusal> {
        let store = &self.stores[store];
        let Some(bytes) = get(store, writer, number, "json", evidence_format::MAX_BYTES).await? else {
            return Ok(None);
        };
        match get(store, writer, number, "sig", MAX_SIGNATURE_BYTES as u64).await? {
            Some(signature) => {
                let name = layout::evidence(writer, number, "json");
                if let Ok(text) = std::str::from_utf8(&signature) {
                    // Says why in a moment, if not.
                    let _ = self.may_be_trusted(&name, text, signature::EVIDENCE, &principal(&self.id)).await;
                }
                self.accept_record(writer, number, bytes, signature).map(Some)
            }
            None => Err(Refusal::Untrusted("it has no signature".to_owned())),
        }
    }

    /// Checks a record: signed for this repository by a signer that is trusted with evidence, and in its own place.
    pub fn accept_record(
        &self,
        writer: WriterId,
        number: u64,
        bytes: Bytes,
        signature: Bytes,
    ) -> Result<SignedRecord, Refusal> {
        let (name, text) = (layout::evidence(writer, number, "json"), text_of(&signature)?);
        let signer = self
            .verify_signed(&name, &bytes, text, signature::EVIDENCE, &principal(&self.id))
            .map_err(Refusal::untrusted)?;
        let record = evidence_format::parse(&bytes)?;
        if record.repository != self.id || record.writer != writer || record.number != number {
            return Err(Refusal::Damaged(format!(
                "it is record {} of writer {} in repository {}, not what its path says",
                record.number, record.writer, record.repository
            )));
        }
        if record.signer != signer.as_str() {
            return Err(Refusal::Damaged(format!("it names {} as its signer, and {signer} signed it", record.signer)));
        }
        Ok(SignedRecord { sha256: format::sha256(&bytes), record, bytes, signature })
    }

    /// Whether nothing says that a record which was not accepted is of anybody who is trusted here: neither its signature
    /// nor its envelope names a key that is, and no vouch names it. What one of them signed and was damaged since still
    /// has the other of the two.
    pub async fn is_nobodys(&self, refused: &RefusedRecord) -> bool {
        let RefusedRecord { writer, number, .. } = *refused;
        let Some(store) = self.stores.iter().find(|store| store.name() == refused.store) else { return false };
        let envelope = get(store, writer, number, "json", evidence_format::MAX_BYTES).await;
        let signature = get(store, writer, number, "sig", MAX_SIGNATURE_BYTES as u64).await;
        let (Ok(envelope), Ok(signature)) = (envelope, signature) else { return false };
        let is_known = |signer: &str| self.signers.fingerprints().iter().any(|known| known.as_str() == signer);
        let text = signature.as_deref().map(std::str::from_utf8);
        let claims = match text {
            Some(Ok(text)) => signers::claimed_by(text).is_some_and(|signer| is_known(signer.as_str())),
            _ => false,
        };
        let record = envelope.and_then(|bytes| evidence_format::parse(&bytes).ok());
        let names = record.is_some_and(|record| is_known(&record.signer));
        !claims && !names && !self.vouched().await.names(&layout::evidence(writer, number, "json"))
    }

    /// The sealed body of a record, from the first store that has it right.
    pub async fn read_evidence_body(&self, signed: &SignedRecord) -> Result<Bytes, super::fetch::NowhereIntact> {
        let record = &signed.record;
        let key = layout::evidence(record.writer, record.number, "age");
        let wanted = super::fetch::Wanted {
            key: &key,
            size: Some(record.body.size),
            sha256: record.body.sha256,
            max_bytes: record.body.size,
        };
        self.fetch(wanted, &super::fetch::Detours::default()).await
    }
}

async fn get(
    store: &Store,
    writer: WriterId,
    number: u64,
    ending: &str,
    max_bytes: u64,
) -> Result<Option<Bytes>, Refusal> {
    match store.get(&layout::evidence(writer, number, ending), max_bytes).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(Refusal::of_store(error)),
    }
}
