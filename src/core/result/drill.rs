//! What a drill came to: what `--json` prints, what its evidence keeps sealed, and what reports are made from.

use super::{CheckResult, CheckStatus, DrillSchema, Verdict, WentRound};
use crate::core::{
    evidence::{Verdict as RecordVerdict, WriterId},
    failure::Code,
    id::{Sha256, SnapshotId, SourceName},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

/// `recoup drill`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillResult {
    /// `recoup.drill/1`.
    pub schema: DrillSchema,
    /// The source.
    pub source: SourceName,
    /// What came of it.
    pub verdict: Verdict,
    /// What was lost: from the moment that came back to the declared disaster, in seconds; `None` where nothing came back.
    pub rpo_seconds: Option<f64>,
    /// From the start until the result was checked, in seconds; `None` where nothing came back.
    pub rto_seconds: Option<f64>,
    /// Transactions that were committed until the declared disaster and did not come back; `None` where nobody can tell.
    #[serde(default)]
    pub lost_transactions: Option<u64>,
    /// What the policy permits to be lost.
    pub rpo_policy_seconds: Option<u64>,
    /// How long the policy permits a restore to take.
    pub rto_policy_seconds: Option<u64>,
    /// The moment at which the source was declared lost.
    pub disaster_at: Timestamp,
    /// Whether that moment was drawn at random.
    pub drawn_at_random: bool,
    /// When the drill began.
    pub started_at: Timestamp,
    /// When its result was checked.
    pub ended_at: Timestamp,
    /// The snapshot that was restored.
    pub snapshot: Option<SnapshotId>,
    /// SHA-256 of its inventory.
    pub inventory_sha256: Option<Sha256>,
    /// When the read of the source for that snapshot began: everything up to then came back.
    pub read_started_at: Option<Timestamp>,
    /// SHA-256 of the policy that it was judged by.
    pub policy_sha256: Option<Sha256>,
    /// Files that were restored.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The store that was asked first for everything, where that is known.
    #[serde(default)]
    pub read_first: Option<String>,
    /// The stores that gave what came back, by name.
    #[serde(default)]
    pub stores_used: Vec<String>,
    /// How long each part took, in order.
    pub phases: Vec<DrillPhase>,
    /// What was checked.
    pub checks: Vec<CheckResult>,
    /// Damage that the restore had to go round.
    pub went_round: Vec<WentRound>,
    /// What was done otherwise than a drill should be, such as plaintext that was kept.
    pub exceptions: Vec<String>,
    /// What this drill does not show.
    pub limits: Vec<String>,
    /// Why it came to no result, where it did not.
    pub failure: Option<String>,
    /// Where its start and end are recorded.
    pub evidence: DrillEvidence,
    /// Where the plaintext was; `None` where none was written.
    #[serde(default)]
    pub scratch: Option<DrillScratch>,
}

/// What became of the plaintext that a drill restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillScratch {
    /// The directory.
    pub directory: String,
    /// Whether it was removed with everything in it.
    pub removed: bool,
}

/// How long one part of a drill took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillPhase {
    /// Its name.
    pub name: String,
    /// By the monotonic clock.
    pub seconds: f64,
}

/// Where a drill is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillEvidence {
    /// Whose chain.
    pub writer: WriterId,
    /// The number of its start.
    pub start: u64,
    /// The number of its end; it is not known yet in the end's own body.
    pub end: Option<u64>,
}

impl DrillResult {
    /// The verdict as the clear part of its record has it.
    pub fn record_verdict(&self) -> RecordVerdict {
        match self.verdict {
            Verdict::Pass if self.code() == Code::Done => RecordVerdict::Passed,
            Verdict::Pass => RecordVerdict::Warning,
            Verdict::Aborted => RecordVerdict::Aborted,
            Verdict::Refused => RecordVerdict::Refused,
            _ => RecordVerdict::Failed,
        }
    }

    /// The exit code, as a monitor reads it.
    pub fn code(&self) -> Code {
        let failed = self.checks.iter().any(|check| check.status == CheckStatus::Failed);
        match self.verdict {
            Verdict::Pass if failed => Code::Failed,
            Verdict::Pass if self.went_round.is_empty() => Code::Done,
            Verdict::Pass => Code::Warning,
            Verdict::FailObjective | Verdict::FailIntegrity | Verdict::FailCompleteness => Code::Failed,
            Verdict::Inconclusive | Verdict::Aborted | Verdict::Refused => Code::Unknown,
        }
    }
}
