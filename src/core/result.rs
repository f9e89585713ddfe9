//! What every command returns: the values that `--json` prints, `schema` first.
//!
//! Fields are only ever added. Those marked as skipped serve the text for people, which scripts do not read.

mod check;
mod demo;
mod drill;
mod evidence;
mod keys;
mod points;
mod prune;
mod report;
mod stores;
#[cfg(test)]
mod tests;

pub use check::{
    CheckFinding, CheckReport, Checked, CheckedSource, CheckedStore, FindingId, LastDrill, StatusReport, StoreState,
};
pub use demo::{DemoResult, Verdict};
pub use drill::{DrillEvidence, DrillPhase, DrillResult, DrillScratch};
pub use evidence::{EvidenceFinding, EvidenceProblem, EvidenceRecord, EvidenceResult, HoldEntry, HoldsResult};
pub use keys::{KeysResult, RecipientEntry, SignerEntry, Vouched, VouchedSource};
pub use points::{Gap, Point, PointsResult, SourcePoints, Window};
pub use prune::{PlanFailure, PrunePlanResult, PruneResult, PrunedLog, PrunedSource, PrunedStore};
pub use report::{ReportResult, ReportVerification};
pub use stores::{CopiedStore, CopyResult, Problem, StoreFinding, VerifyResult};

use super::{
    alteration::Alteration,
    failure::{Code, Failure, combine},
    id::{RepositoryId, RunId, Sha256, SnapshotId, SourceName},
    inventory::{Inventory, Kind},
    log::LogRange,
    time::Timestamp,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Types that serialise as the name of a schema, so that it can be neither forgotten nor changed.
macro_rules! schemas {
    ($($type:ident = $name:literal,)*) => {$(
        #[doc = concat!("The schema `", $name, "`.")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
        pub struct $type;

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str($name)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                match String::deserialize(deserializer)?.as_str() {
                    $name => Ok($type),
                    _ => Err(serde::de::Error::custom(concat!("the schema is not ", $name))),
                }
            }
        }
    )*};
}

schemas! {
    InitSchema = "recoup.init/1",
    BackupSchema = "recoup.backup/1",
    ListSchema = "recoup.list/1",
    RestoreSchema = "recoup.restore/1",
    VerifySchema = "recoup.verify/1",
    CopySchema = "recoup.copy/1",
    PruneSchema = "recoup.prune/1",
    DoctorSchema = "recoup.doctor/1",
    ConfigSchema = "recoup.config/1",
    DemoSchema = "recoup.demo/1",
    DrillSchema = "recoup.drill/1",
    EvidenceSchema = "recoup.evidence/1",
    HoldsSchema = "recoup.holds/1",
    KeysSchema = "recoup.keys/1",
    CheckSchema = "recoup.check/1",
    StatusSchema = "recoup.status/1",
    PointsSchema = "recoup.points/1",
    ReportSchema = "recoup.report/1",
    ReportVerificationSchema = "recoup.report-verification/1",
    PlanSchema = "recoup.plan/1",
    ErrorSchema = "recoup.error/1",
}

/// What a command that changes something ends with: it was done, or only planned.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome<T> {
    /// It was done.
    Done(T),
    /// `--dry-run`: this is what would be done.
    Planned(PlanResult),
}

/// What `--dry-run` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlanResult {
    /// `recoup.plan/1`.
    pub schema: PlanSchema,
    /// The command that was planned.
    pub command: String,
    /// What it would do, in order, one step per line.
    pub steps: Vec<String>,
}

/// A monitor's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Everything is as it should be.
    Ok,
    /// Something deserves a look.
    Warning,
    /// Damage, or something is not met.
    Critical,
    /// No verdict could be reached.
    Unknown,
}

impl Status {
    /// The verdict that findings lead to; notes are no reason to worry.
    pub fn of(severities: impl Iterator<Item = Severity>) -> Self {
        match severities.max() {
            Some(Severity::Critical) => Status::Critical,
            Some(Severity::Warning) => Status::Warning,
            Some(Severity::Note) | None => Status::Ok,
        }
    }

    /// The exit code of a command that answers as Nagios does.
    pub fn code(self) -> Code {
        match self {
            Status::Ok => Code::Done,
            Status::Warning => Code::Warning,
            Status::Critical => Code::Failed,
            Status::Unknown => Code::Unknown,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Critical => "critical",
            Status::Unknown => "unknown",
        })
    }
}

/// `recoup init`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InitResult {
    /// `recoup.init/1`.
    pub schema: InitSchema,
    /// The new repository.
    pub repository: RepositoryId,
    /// The configuration file.
    pub config: String,
    /// The stores, by name.
    pub stores: Vec<String>,
    /// The new identity's file, if one was made.
    pub identity: Option<String>,
    /// SHA-256 of recover.sh: what custodians compare before they run a store's copy.
    pub recover_sh_sha256: Sha256,
    /// Remarks on posture; none of them is an error.
    pub remarks: Vec<String>,
}

/// Whether enough stores hold all of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// They do.
    Durable,
    /// They do not.
    NotDurable,
    /// There is no policy that says how many are enough, or a store that does not answer may decide it.
    Unknown,
}

impl Durability {
    /// What is known where every store was asked.
    pub fn known(durable: bool) -> Self {
        if durable { Durability::Durable } else { Durability::NotDurable }
    }
}

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SnapshotEntry {
    /// The source it is of.
    pub source: SourceName,
    /// Its sequence number.
    pub seq: u64,
    /// The run that made it.
    pub run: RunId,
    /// Full or incremental.
    pub kind: Kind,
    /// When it was committed.
    pub created_at: Timestamp,
    /// Where in the source's history it is.
    pub position: String,
    /// Whether it is known that enough stores hold all of it.
    pub durable: bool,
    /// Bytes of the source's files.
    pub bytes_raw: u64,
    /// New sealed bytes, on one store.
    pub bytes_stored: u64,
    /// The stores that hold all of it, by name.
    pub stores: Vec<String>,
    /// What keeps it from being pruned.
    pub holds: Vec<String>,
    /// When the read of the source began: what `--target` takes to mean this snapshot.
    pub read_started_at: Timestamp,
    /// Whether enough stores hold all of it, where that can be known.
    pub durability: Durability,
    /// What it needs of the source's log.
    #[serde(skip)]
    pub log: Option<LogRange>,
}

impl SnapshotEntry {
    /// The entry of an inventory that these stores hold all of.
    pub fn of(inventory: &Inventory, stores: Vec<String>, durability: Durability) -> Self {
        SnapshotEntry {
            source: inventory.source.clone(),
            seq: inventory.seq,
            run: inventory.run,
            kind: inventory.kind,
            created_at: inventory.created_at,
            position: inventory.position.clone(),
            durable: durability == Durability::Durable,
            bytes_raw: inventory.bytes_raw,
            bytes_stored: inventory.bytes_stored,
            stores,
            holds: Vec::new(),
            read_started_at: inventory.read_started_at,
            durability,
            log: inventory.log.clone(),
        }
    }

    /// The snapshot's id.
    pub fn id(&self) -> SnapshotId {
        SnapshotId { seq: self.seq, run: self.run }
    }
}

/// The newest snapshot of a source: whoever keeps this can tell a rolled-back store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Head {
    /// `seq-run`.
    pub snapshot: SnapshotId,
    /// SHA-256 of its inventory.
    pub sha256: Sha256,
}

/// How the backup of one source ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceOutcome {
    /// The source.
    pub source: SourceName,
    /// Its own exit code.
    #[serde(serialize_with = "code_number")]
    pub exit_code: Code,
    /// What happened, in a line.
    pub message: String,
    /// The source's newest snapshot after the run.
    pub head: Option<Head>,
    /// Files of an append-only log that were altered since the snapshot before.
    pub alterations: Vec<Alteration>,
    /// The snapshot that holds what they were.
    pub altered_since: Option<SnapshotId>,
    /// What failed, in full.
    #[serde(skip)]
    pub failure: Option<Failure>,
    /// What to do next where nothing failed.
    #[serde(skip)]
    pub next_step: Option<&'static str>,
}

/// `recoup backup`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Default)]
pub struct BackupResult {
    /// `recoup.backup/1`.
    pub schema: BackupSchema,
    /// The snapshots that were taken.
    pub snapshots: Vec<SnapshotEntry>,
    /// How each source ended.
    pub sources: Vec<SourceOutcome>,
    /// What the operator should know.
    #[serde(skip)]
    pub notes: Vec<String>,
}

impl BackupResult {
    /// The exit code over all sources.
    pub fn code(&self) -> Code {
        combine(&self.sources.iter().map(|source| source.exit_code).collect::<Vec<_>>())
    }
}

/// `recoup list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Default)]
pub struct ListResult {
    /// `recoup.list/1`.
    pub schema: ListSchema,
    /// Sorted by source, then seq.
    pub snapshots: Vec<SnapshotEntry>,
    /// What makes the list less than complete, such as a store that did not answer.
    #[serde(skip)]
    pub warnings: Vec<String>,
    /// Whether the stores show snapshots, and nobody who is trusted signed any of them.
    #[serde(skip)]
    pub nobody_trusted: bool,
    /// Whether the stores do not show a snapshot that this host has committed.
    #[serde(skip)]
    pub known_missing: bool,
    /// What the operator should know.
    #[serde(skip)]
    pub notes: Vec<String>,
}

impl ListResult {
    /// The exit code.
    pub fn code(&self) -> Code {
        if self.warnings.is_empty() { Code::Done } else { Code::Warning }
    }
}

/// Damage that a restore went round.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WentRound {
    /// The store, by name.
    pub store: String,
    /// The object.
    pub object: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// Whether a check held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// It held.
    Passed,
    /// It did not.
    Failed,
}

/// One check of restored data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// Its name.
    pub name: String,
    /// Whether it held.
    pub status: CheckStatus,
    /// What was expected.
    pub expected: String,
    /// What was found.
    pub actual: String,
}

/// `recoup restore`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RestoreResult {
    /// `recoup.restore/1`.
    pub schema: RestoreSchema,
    /// What was restored.
    pub snapshot: SnapshotId,
    /// Files that were written.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Damage on the way.
    pub went_round: Vec<WentRound>,
    /// The checks of `--check`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckResult>,
    /// Whether it was written over what was there.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub delta: bool,
    /// Whether it was made a standby.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub standby: bool,
    /// The source.
    #[serde(skip)]
    pub source: SourceName,
    /// When the snapshot was made.
    #[serde(skip)]
    pub created_at: Timestamp,
    /// Where in the source's history it is.
    #[serde(skip)]
    pub position: String,
    /// Where the files are now.
    #[serde(skip)]
    pub directory: String,
    /// What the operator should know, such as the distance to the target.
    #[serde(skip)]
    pub notes: Vec<String>,
    /// What is so of every restore here, such as that this host also signs the snapshots.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// What the operator should look into, such as another history beside the restored one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl RestoreResult {
    /// The exit code: a check that failed outranks damage that was gone round.
    pub fn code(&self) -> Code {
        if self.checks.iter().any(|check| check.status == CheckStatus::Failed) {
            Code::Failed
        } else if self.went_round.is_empty() && self.warnings.is_empty() {
            Code::Done
        } else {
            Code::Warning
        }
    }
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For information.
    Note,
    /// It deserves a look.
    Warning,
    /// It must be put right.
    Critical,
}

impl Severity {
    /// The word that JSON has for it, too.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// Something about how this host is set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DoctorFinding {
    /// A fixed id, such as `few-custodians`.
    pub id: String,
    /// How much it matters.
    pub severity: Severity,
    /// The store it concerns, by name.
    pub store: Option<String>,
    /// What it is.
    pub message: String,
    /// What to do about it.
    pub next_step: Option<String>,
}

/// `recoup doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DoctorResult {
    /// `recoup.doctor/1`.
    pub schema: DoctorSchema,
    /// The verdict.
    pub status: Status,
    /// What was found.
    pub findings: Vec<DoctorFinding>,
}

impl DoctorResult {
    /// The verdict that these findings lead to; notes are no reason to worry.
    pub fn of(findings: Vec<DoctorFinding>) -> Self {
        let status = Status::of(findings.iter().map(|finding| finding.severity));
        DoctorResult { schema: DoctorSchema, status, findings }
    }
}

/// One effective value of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigValue {
    /// Its full key, such as `store.frankfurt.url`.
    pub key: String,
    /// The value as TOML writes it.
    pub value: String,
    /// `FILE:LINE`, `default` or `built in`.
    pub origin: String,
}

/// `recoup config show`, `path`, `check` and `rescue`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Default)]
pub struct ConfigResult {
    /// `recoup.config/1`.
    pub schema: ConfigSchema,
    /// The configuration file; `None` where the text came from a snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// `show`: every effective value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<ConfigValue>>,
    /// `check`: remarks on posture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remarks: Option<Vec<String>>,
    /// `rescue`: the snapshot whose configuration this is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotId>,
    /// `rescue`: configuration and policies as they were kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Any command that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorResult {
    /// `recoup.error/1`.
    pub schema: ErrorSchema,
    /// The process's exit code.
    #[serde(serialize_with = "code_number")]
    pub exit_code: Code,
    /// What failed.
    pub message: String,
    /// Why.
    pub cause: Option<String>,
    /// What is safe now.
    pub safe: Option<String>,
    /// The next command.
    pub next_step: Option<String>,
}

impl ErrorResult {
    /// A failure, and the code that the process ends with because of it.
    pub fn new(failure: &Failure, exit_code: Code) -> Self {
        ErrorResult {
            schema: ErrorSchema,
            exit_code,
            message: failure.message.clone(),
            cause: failure.cause.clone(),
            safe: failure.safe.clone(),
            next_step: failure.next_step.clone(),
        }
    }
}

fn code_number<S: Serializer>(code: &Code, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(code.number())
}
