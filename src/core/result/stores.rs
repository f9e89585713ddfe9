//! What `verify` and `copy` find out about the stores.

use super::{CopySchema, Status, VerifySchema};
use crate::core::{failure::Code, id::SnapshotId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What is wrong with an object or a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Problem {
    /// An object is not there though the store committed to holding it.
    Missing,
    /// An object is there and is not what it should be.
    Damaged,
    /// The store lacks what it never held yet.
    Behind,
    /// An older version of a versioned store holds it.
    Hidden,
    /// Something that no trusted signer signed.
    Foreign,
    /// The store did not answer.
    Unreachable,
    /// The store has no room for what it lacks.
    Full,
}

impl Problem {
    /// All of them.
    pub const ALL: [Problem; 7] = [
        Problem::Missing,
        Problem::Damaged,
        Problem::Behind,
        Problem::Hidden,
        Problem::Foreign,
        Problem::Unreachable,
        Problem::Full,
    ];
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Problem::Missing => "missing",
            Problem::Damaged => "damaged",
            Problem::Behind => "behind",
            Problem::Hidden => "hidden",
            Problem::Foreign => "foreign",
            Problem::Unreachable => "unreachable",
            Problem::Full => "full",
        })
    }
}

/// Something that is wrong on a store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct StoreFinding {
    /// The store, by name.
    pub store: String,
    /// The object; `None` where it is the store as a whole.
    pub object: Option<String>,
    /// What is wrong.
    pub problem: Problem,
    /// The snapshots it concerns.
    pub snapshots: Vec<SnapshotId>,
    /// Why, where more is known than the problem says.
    pub cause: Option<String>,
}

/// `recoup verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerifyResult {
    /// `recoup.verify/1`.
    pub schema: VerifySchema,
    /// The verdict.
    pub status: Status,
    /// Objects that were looked at.
    pub objects: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// What is wrong.
    pub findings: Vec<StoreFinding>,
    /// What the operator should know, such as leftovers of interrupted runs.
    #[serde(skip)]
    pub notes: Vec<String>,
    /// What to do about it.
    #[serde(skip)]
    pub next_steps: Vec<String>,
}

/// What `copy` did to one store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CopiedStore {
    /// The store, by name.
    pub store: String,
    /// Objects it lacked and now holds.
    pub copied_objects: u64,
    /// Their bytes.
    pub copied_bytes: u64,
    /// Damaged objects that were replaced by intact ones.
    pub healed: u64,
    /// Whether it was empty, and was founded again.
    pub seeded: bool,
}

/// `recoup copy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CopyResult {
    /// `recoup.copy/1`.
    pub schema: CopySchema,
    /// How the stores stand now.
    pub status: Status,
    /// What was done to each store.
    pub stores: Vec<CopiedStore>,
    /// What is still wrong.
    pub findings: Vec<StoreFinding>,
    /// What the operator should know.
    #[serde(skip)]
    pub notes: Vec<String>,
    /// What to do about what is still wrong.
    #[serde(skip)]
    pub next_steps: Vec<String>,
}

impl CopyResult {
    /// The exit code.
    pub fn code(&self) -> Code {
        match self.status {
            Status::Ok => Code::Done,
            Status::Warning => Code::Warning,
            Status::Critical | Status::Unknown => Code::Failed,
        }
    }
}
