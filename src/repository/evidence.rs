//! The control log on the stores: its records, read and checked.

use super::{
    Repository,
    catalogue::{Refusal, text_of},
    layout,
};
use crate::{
    core::{
        evidence::{Record, WriterId},
        id::{RepositoryId, Sha256},
    },
    format::{
        self, evidence as evidence_format,
        signature::{self, MAX_SIGNATURE_BYTES},
    },
    stores::Store,
};
use bytes::Bytes;

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

/// A good record as stores show it.
pub(super) struct Found {
    /// The first store that gives it, by position.
    pub(super) at: usize,
    pub(super) signed: SignedRecord,
    /// How many do.
    pub(super) stores: usize,
}

/// What a store has in the place of records that others gave.
enum Unlike {
    Missing,
    /// One of them, by position.
    Same(usize),
    Other(Box<SignedRecord>),
}

/// A record that was not accepted.
#[derive(Clone, Debug)]
pub struct RefusedRecord {
    /// The store that gave it.
    pub store: String,
    /// Whose chain it is in.
    pub writer: WriterId,
    /// Its number; the first, where it is of several that are missing.
    pub number: u64,
    /// The last of them.
    pub last: u64,
    /// Why.
    pub why: Refusal,
    /// Whether it can hide nothing that was durable: it does not follow the chain, and enough stores have nothing of the
    /// kind.
    pub stray: bool,
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

    /// The good records of one place, each once. One is all there is unless the chain forked; and which one a single store
    /// shows says nothing about that.
    pub(super) async fn read_everywhere(
        &self,
        writer: WriterId,
        number: u64,
        stores: &[usize],
    ) -> (Vec<Found>, Vec<RefusedRecord>) {
        let (mut found, mut refused) = (Vec::<Found>::new(), Vec::new());
        for at in stores {
            match self.read_unlike(*at, writer, number, &found).await {
                Ok(Unlike::Other(signed)) => found.push(Found { at: *at, signed: *signed, stores: 1 }),
                Ok(Unlike::Same(same)) => found[same].stores += 1,
                Ok(Unlike::Missing) => {}
                Err(why) => {
                    refused.push(RefusedRecord {
                        store: self.stores[*at].name().to_owned(),
                        writer,
                        number,
                        last: number,
                        why,
                        stray: false,
                    });
                }
            }
        }
        (found, refused)
    }

    /// Reads a record from a store, unless it has none, or one of those that were found.
    ///
    /// What has the same bytes is the same record, whatever signature lies beside it.
    async fn read_unlike(&self, at: usize, writer: WriterId, number: u64, found: &[Found]) -> Result<Unlike, Refusal> {
        if !found.is_empty() {
            let bytes = get(&self.stores[at], writer, number, "json", evidence_format::MAX_BYTES).await?;
            let Some(bytes) = bytes else { return Ok(Unlike::Missing) };
            if let Some(same) = found.iter().position(|found| found.signed.bytes == bytes) {
                return Ok(Unlike::Same(same));
            }
        }
        let read = self.read_record(at, writer, number).await?;
        Ok(read.map_or(Unlike::Missing, |signed| Unlike::Other(Box::new(signed))))
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
            return Err(Refusal::Misplaced(format!(
                "it is record {} of writer {} in repository {}, not what its path says",
                record.number, record.writer, record.repository
            )));
        }
        if record.signer != signer.as_str() {
            return Err(Refusal::Damaged(format!("it names {} as its signer, and {signer} signed it", record.signer)));
        }
        Ok(SignedRecord { sha256: format::sha256(&bytes), record, bytes, signature })
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
