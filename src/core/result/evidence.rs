//! What the commands about evidence and holds return.

use super::{EvidenceSchema, HoldsSchema, Status};
use crate::core::{
    evidence::{Body, HoldCause, HoldId, Record, WriterId},
    id::{Sha256, SnapshotId, SourceName},
    time::Timestamp,
};
use serde::Serialize;
use std::fmt;

/// `recoup evidence`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvidenceResult {
    /// `recoup.evidence/1`.
    pub schema: EvidenceSchema,
    /// The verdict of `evidence verify`; of the others, whether everything could be read.
    pub status: Status,
    /// The records, chain by chain.
    pub records: Vec<EvidenceRecord>,
    /// What is wrong.
    pub findings: Vec<EvidenceFinding>,
    /// Things that are no fault, such as a start that has no end yet.
    pub notes: Vec<String>,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvidenceRecord {
    /// SHA-256 of its bytes.
    pub sha256: Sha256,
    /// The stores that hold it right, by name.
    pub stores: Vec<String>,
    /// The clear envelope, as it is signed.
    pub record: Record,
    /// The body, where it was asked for and could be opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Body>,
}

/// What can be wrong with evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvidenceProblem {
    /// A store lacks records that it has never acknowledged.
    Behind,
    /// A store could not be read.
    Unreachable,
    /// Bytes are not those that were signed, or do not fit their chain.
    Altered,
    /// It was there once, and is not any more.
    Removed,
    /// No signer that is trusted with evidence signed it.
    Untrusted,
    /// One writer has two records of one number.
    Forked,
}

impl EvidenceProblem {
    /// How bad it is.
    pub fn status(self) -> Status {
        match self {
            EvidenceProblem::Behind | EvidenceProblem::Unreachable => Status::Warning,
            _ => Status::Critical,
        }
    }
}

impl fmt::Display for EvidenceProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            EvidenceProblem::Behind => "behind",
            EvidenceProblem::Unreachable => "unreachable",
            EvidenceProblem::Altered => "altered",
            EvidenceProblem::Removed => "removed",
            EvidenceProblem::Untrusted => "untrusted",
            EvidenceProblem::Forked => "forked",
        })
    }
}

/// Something that is wrong with evidence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct EvidenceFinding {
    /// What.
    pub problem: EvidenceProblem,
    /// On which store; none where it is so on all of them.
    pub store: Option<String>,
    /// In whose chain.
    pub writer: Option<WriterId>,
    /// Which record.
    pub number: Option<u64>,
    /// More about it.
    pub message: String,
}

/// `recoup hold`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HoldsResult {
    /// `recoup.holds/1`.
    pub schema: HoldsSchema,
    /// The holds that are in force, or the one that was added or released.
    pub holds: Vec<HoldEntry>,
    /// What the operator should know.
    pub notes: Vec<String>,
}

/// One hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HoldEntry {
    /// Its id.
    pub hold: HoldId,
    /// Whose snapshots it keeps.
    pub source: SourceName,
    /// Which; all of the source where none is named.
    pub snapshots: Vec<SnapshotId>,
    /// Why it exists.
    pub cause: HoldCause,
    /// When it was added.
    pub added_at: Timestamp,
    /// When it was released, if it was.
    pub released_at: Option<Timestamp>,
    /// Who added it and why, where the record could be opened.
    pub reason: Option<String>,
    /// Where it is recorded.
    pub writer: WriterId,
    /// The record's number.
    pub record: u64,
}
