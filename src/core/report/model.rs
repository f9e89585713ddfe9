//! What a report says, as `report.json` holds it. `null` means not measured or not known, never zero.

use crate::core::{
    evidence::{Action, Phase, Verdict as EvidenceVerdict, WriterId},
    id::{RepositoryId, RunId, Sha256, SnapshotId, SourceName},
    inventory::Kind,
    result::{CheckResult, DrillPhase, Severity, Verdict, WentRound},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

/// The value of `format` in every report that this version writes and reads.
pub const FORMAT: &str = "recoup-report/1";

/// What `head.kind` says.
pub const KIND: &str = "restore-verification";

/// One report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: String,
    /// What it is about.
    pub head: Head,
    /// What the drills and snapshots are judged by.
    pub authority: Authority,
    /// What made it.
    pub tool: Tool,
    /// The records it rests on.
    pub evidence: EvidenceBase,
    /// Every drill that began in the period.
    pub drills: Vec<DrillEntry>,
    /// The drill that passed last before the period: the cadence is counted from it.
    pub drill_before: Option<DrillBefore>,
    /// The snapshots of the period, and the newest one before it.
    pub snapshots: Vec<SnapshotLine>,
    /// What each store holds now.
    pub copies: Vec<StoreCopies>,
    /// Backups in the period that did not do what they should.
    pub failed_backups: Vec<FailedBackup>,
    /// What else is on record for the period.
    pub changes: Vec<Change>,
    /// What follows from the above.
    #[serde(flatten)]
    pub derived: super::Derived,
}

/// What a report is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its id.
    pub report: RunId,
    /// [`KIND`].
    pub kind: String,
    /// The repository.
    pub repository: RepositoryId,
    /// The source.
    pub source: SourceName,
    /// The source's kind, such as `sqlite`.
    pub source_kind: Option<String>,
    /// Where the period begins.
    pub from: Timestamp,
    /// Where it ends; this moment is not in it any more.
    pub to: Timestamp,
    /// When the report was made, by the host's clock.
    pub made_at: Timestamp,
    /// The report of this source that was made before this one, as the evidence has it.
    pub previous: Option<PreviousReport>,
}

/// The report before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousReport {
    /// Where it is recorded.
    pub record: RecordRef,
    /// SHA-256 of its `report.json`, where the record's body could be opened.
    pub report_sha256: Option<Sha256>,
}

/// What is promised, and who says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// The policy's name.
    pub policy: String,
    /// SHA-256 of its text.
    pub policy_sha256: Option<Sha256>,
    /// The tier it names.
    pub tier: Option<String>,
    /// How much may be lost.
    pub rpo_seconds: Option<u64>,
    /// How long a restore may take.
    pub rto_seconds: Option<u64>,
    /// How often a drill is due.
    pub drill_every_seconds: Option<u64>,
    /// How often a full snapshot is due.
    pub full_every_seconds: Option<u64>,
    /// How often an incremental one is due.
    pub incremental_every_seconds: Option<u64>,
    /// Stores that must hold a snapshot.
    pub min_stores: u64,
    /// Regions they must lie in.
    pub min_regions: Option<u64>,
    /// Providers they must be with.
    pub min_providers: Option<u64>,
    /// How long copies must be immutable.
    pub immutable_for_seconds: Option<u64>,
    /// How long snapshots are kept.
    pub keep_within_seconds: Option<u64>,
    /// How many are kept at least.
    pub keep_last: Option<u64>,
    /// What must hold of restored data, by name.
    pub assertions: Vec<String>,
    /// The key that signed this report, as its SHA-256 fingerprint.
    pub signer: String,
}

/// What made the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// `recoup`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The database's library, and its version.
    pub engine: String,
    /// The host's name.
    pub host: String,
}

/// The records that a report rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceBase {
    /// Whether enough stores answered, so that nothing which was acknowledged is missed.
    pub complete: bool,
    /// The stores whose records were read, by name.
    pub answered: Vec<String>,
    /// The chains, as far as they were read.
    pub chains: Vec<ChainLine>,
    /// Records that were not accepted.
    pub refused: Vec<RefusedLine>,
    /// Chains of which this host has seen more than the stores show now.
    pub shortened: Vec<WriterId>,
    /// The records that lie beside the report.
    pub quoted: Vec<QuotedLine>,
}

/// One chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainLine {
    /// Whose.
    pub writer: WriterId,
    /// How many records were read: all from the first.
    pub records: u64,
    /// SHA-256 of the newest one.
    pub head_sha256: Sha256,
}

/// A record that was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedLine {
    /// The store that gave it.
    pub store: String,
    /// Whose chain it is in.
    pub writer: WriterId,
    /// Its number.
    pub number: u64,
    /// Why.
    pub why: String,
}

/// One record, by its place and digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecordRef {
    /// Whose chain it is in.
    pub writer: WriterId,
    /// Its number.
    pub number: u64,
    /// SHA-256 of its bytes.
    pub sha256: Sha256,
}

/// A record that lies beside the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotedLine {
    /// Which.
    #[serde(flatten)]
    pub record: RecordRef,
    /// Who signed it.
    pub signer: String,
    /// What it is about.
    pub action: Action,
    /// Which part of it.
    pub phase: Phase,
    /// When it was recorded, by the writer's clock.
    pub recorded_at: Timestamp,
}

/// The drill that passed last before the period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillBefore {
    /// The record of its start.
    pub start: RecordRef,
    /// When it began.
    pub started_at: Timestamp,
}

/// One drill: what its signed records say in clear, and what their sealed body says where that was opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillEntry {
    /// The clear part.
    #[serde(flatten)]
    pub clear: DrillClear,
    /// What it may lose by the policy that it was judged by, where that is known.
    pub rpo_policy_seconds: Option<u64>,
    /// How long it may take by that policy.
    pub rto_policy_seconds: Option<u64>,
    /// The sealed part; `null` where it was not opened.
    pub detail: Option<DrillDetail>,
    /// Why it was not opened.
    pub not_opened: Option<String>,
}

/// What signed records say of a drill in clear.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillClear {
    /// The record of its start.
    pub start: RecordRef,
    /// The record of its end; `null` where there is none.
    pub end: Option<RecordRef>,
    /// When it began, by the writer's clock.
    pub started_at: Timestamp,
    /// When its end was recorded.
    pub ended_at: Option<Timestamp>,
    /// The moment at which the source was declared lost, fixed in the start.
    pub disaster_at: Option<Timestamp>,
    /// Whether that moment was drawn at random.
    pub drawn_at_random: Option<bool>,
    /// What came of it; pending without an end.
    pub verdict: EvidenceVerdict,
    /// The snapshot that was restored.
    pub snapshot: Option<SnapshotId>,
    /// SHA-256 of its inventory.
    pub inventory_sha256: Option<Sha256>,
    /// SHA-256 of the policy that it was judged by.
    pub policy_sha256: Option<Sha256>,
    /// What was lost, in seconds.
    pub rpo_seconds: Option<f64>,
    /// How long it took, in seconds.
    pub rto_seconds: Option<f64>,
    /// The stores that gave what came back, by name; none where nobody recorded them.
    #[serde(default)]
    pub stores_used: Vec<String>,
}

/// What the sealed body of a drill's end says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillDetail {
    /// What came of it, in the words of a proof.
    pub verdict: Verdict,
    /// Files that were restored.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long each part took.
    pub phases: Vec<DrillPhase>,
    /// What was checked.
    pub checks: Vec<CheckResult>,
    /// Damage that the restore went round.
    pub went_round: Vec<WentRound>,
    /// What was done otherwise than a drill should be.
    pub exceptions: Vec<String>,
    /// What the drill says of itself that it does not show.
    pub limits: Vec<String>,
    /// Why it came to no result.
    pub failure: Option<String>,
    /// The version of recoup that did it.
    pub version: String,
    /// The host that did it.
    pub host: String,
}

/// Where a snapshot is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SeenIn {
    /// The stores hold it.
    Stores,
    /// Only the record of its backup is left.
    Evidence,
}

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotLine {
    /// Its id.
    pub snapshot: SnapshotId,
    /// Full or incremental.
    pub kind: Option<Kind>,
    /// When the read of the source began; of one that is left in evidence only, when its backup began.
    pub read_started_at: Timestamp,
    /// When it was committed.
    pub created_at: Timestamp,
    /// Whether as many stores hold it as the policy asks for.
    pub durable: Option<bool>,
    /// The stores that hold all of it now, by name.
    pub stores: Vec<String>,
    /// SHA-256 of its inventory.
    pub inventory_sha256: Option<Sha256>,
    /// Where it is known from.
    pub seen_in: SeenIn,
}

/// What one store holds now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreCopies {
    /// Its name.
    pub store: String,
    /// Where it stands.
    pub region: Option<String>,
    /// Who runs it.
    pub provider: Option<String>,
    /// Why it could not be read; `null` where it answered.
    pub problem: Option<String>,
    /// Snapshots of the source that it holds all of; `null` where it did not answer.
    pub snapshots: Option<u64>,
    /// The newest of them.
    pub newest: Option<SnapshotId>,
    /// What it shows as snapshots of the source and was not accepted.
    pub refused: u64,
}

/// A backup that did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedBackup {
    /// Where it is recorded.
    pub record: RecordRef,
    /// When it was recorded.
    pub recorded_at: Timestamp,
    /// What came of it for this source.
    pub verdict: EvidenceVerdict,
    /// The snapshot, if there was one.
    pub snapshot: Option<SnapshotId>,
}

/// Something else that is on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Where it is recorded.
    pub record: RecordRef,
    /// When it was recorded.
    pub recorded_at: Timestamp,
    /// What was done.
    pub action: Action,
    /// Which part of it.
    pub phase: Phase,
    /// What came of it.
    pub verdict: EvidenceVerdict,
    /// What it changes, in words.
    pub what: String,
    /// Who did it, where the sealed body was opened.
    pub by: Option<String>,
    /// Why, as it was given.
    pub reason: Option<String>,
}

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// A fixed id, such as `drill-missed`.
    pub id: String,
    /// How much it matters.
    pub severity: Severity,
    /// When it was so.
    pub at: Option<Timestamp>,
    /// What it is.
    pub text: String,
}

/// Something that the report does not show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// A fixed id, such as `no-time-stamp`.
    pub id: String,
    /// What is not shown, and why.
    pub text: String,
}
