//! What the commands about keys return.

use super::KeysSchema;
use crate::core::{
    id::{SnapshotId, SourceName},
    time::Timestamp,
    vouch::VouchId,
};
use serde::Serialize;

/// `recoup key`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeysResult {
    /// `recoup.keys/1`.
    pub schema: KeysSchema,
    /// The recipients: all of them, or the one that the command was about.
    pub recipients: Vec<RecipientEntry>,
    /// The signers: all of them, or the one that the command was about.
    pub signers: Vec<SignerEntry>,
    /// What every custodian has to add to the file of signers beside the identity.
    pub signers_lines: Vec<String>,
    /// What a revocation vouches for; of other commands, nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vouched: Option<Vouched>,
    /// What the operator should know.
    pub notes: Vec<String>,
    /// Those of the notes that are so every time.
    #[serde(skip)]
    pub remarks: Vec<String>,
    /// What has its part in the exit code.
    pub warnings: Vec<String>,
}

impl KeysResult {
    /// A result that tells of nothing yet.
    pub fn new() -> Self {
        KeysResult {
            schema: KeysSchema,
            recipients: Vec::new(),
            signers: Vec::new(),
            signers_lines: Vec::new(),
            vouched: None,
            notes: Vec::new(),
            remarks: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

impl Default for KeysResult {
    fn default() -> Self {
        KeysResult::new()
    }
}

/// One recipient: a custodian's public key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecipientEntry {
    /// The public key.
    pub recipient: String,
    /// `age`, `ssh-ed25519` or `ssh-rsa`.
    pub kind: String,
    /// Whether the configuration names it; null where there is no configuration.
    pub configured: Option<bool>,
    /// The sources whose newest snapshot is sealed to it.
    pub sources: Vec<SourceName>,
    /// When its identity was last shown to open what is sealed to it.
    pub proven_at: Option<Timestamp>,
    /// Who showed it, where the record could be opened.
    pub proven_by: Option<String>,
}

/// One signer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SignerEntry {
    /// SHA-256 fingerprint of its key.
    pub fingerprint: String,
    /// Whom it may sign as, as the file of signers says it.
    pub principals: Vec<String>,
    /// In which namespaces; empty for all.
    pub namespaces: Vec<String>,
    /// Whether this host signs with it.
    pub this_host: bool,
    /// Whether the file of signers names it.
    pub trusted: bool,
    /// Whether it was revoked.
    pub revoked: bool,
}

/// What a revocation vouches for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Vouched {
    /// The vouches.
    pub vouches: Vec<VouchId>,
    /// Snapshots, by source.
    pub sources: Vec<VouchedSource>,
    /// How many records of evidence.
    pub evidence_records: u64,
}

/// Snapshots of a source that are vouched for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VouchedSource {
    /// The source.
    pub source: SourceName,
    /// How many.
    pub snapshots: u64,
    /// The newest of them.
    pub newest: SnapshotId,
}
