//! What local state knows of the last capture, for sources that judge what became of it.

use super::pipeline::digest_or_zero;
use crate::{
    core::{failure::Failure, id::SnapshotId, path::StoredPath},
    format::pack::BlockDigest,
    ops::{
        host::state_failure,
        state::{BaseRecord, DigestFile, SourceState},
    },
    sources::LastCapture,
};

/// The last capture.
pub(super) struct Last {
    /// The snapshot that it became.
    pub(super) snapshot: SnapshotId,
    fingerprint: serde_json::Value,
    key: [u8; 32],
    digests: DigestFile,
}

impl Last {
    /// Of an incremental's base, whose digests were checked.
    pub(super) fn of_base(record: &BaseRecord, key: [u8; 32], digests: DigestFile) -> Self {
        let fingerprint = record.fingerprint.clone().unwrap_or_default();
        Last { snapshot: record.snapshot, fingerprint, key, digests }
    }

    /// Whatever local state holds, for a full; says why there is none.
    pub(super) fn read(state: &SourceState) -> Result<Self, String> {
        let record = state.base()?;
        let key = record.key().ok_or("this host's record of the last snapshot is damaged")?;
        let digests = state.open_digests(&record)?;
        digests.check(&record.digests_blake3)?;
        Ok(Last::of_base(&record, key, digests))
    }

    pub(super) fn digest_file(&self) -> &DigestFile {
        &self.digests
    }
}

impl LastCapture for Last {
    fn fingerprint(&self) -> &serde_json::Value {
        &self.fingerprint
    }

    fn digest(&self, block: &[u8]) -> BlockDigest {
        digest_or_zero(&self.key, block)
    }

    fn digests(&self, path: &StoredPath, first: u64, count: u64) -> Result<Option<Vec<BlockDigest>>, Failure> {
        let Some((offset, file)) = self.digests.find(path) else { return Ok(None) };
        let is_known = first.checked_add(count).is_some_and(|end| end <= file.blocks);
        let Some(count) = usize::try_from(count).ok().filter(|_| is_known) else { return Ok(None) };
        let read = self.digests.read(offset, first, count);
        read.map(Some).map_err(|error| state_failure("read", self.digests.path(), &error))
    }
}
