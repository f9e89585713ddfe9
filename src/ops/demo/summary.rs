//! The signed summary: what was restored and proven, how it was measured, and what it does not show.

use super::{
    audit::Totals,
    checks::{self, Check},
    stage::{Stage, failed, shell_word},
};
use crate::{
    config::Settings,
    core::{
        failure::Failure,
        id::{RepositoryId, Sha256},
        result::{
            CheckResult, CheckStatus, CopiedStore, DemoResult, DemoSchema, DrillResult, Head, InitResult,
            RestoreResult, SnapshotEntry, Verdict, WentRound,
        },
        time::Timestamp,
    },
    format::{self, report, signature},
    ops::open,
    world::{self, World, files},
};
use serde::Serialize;
use std::{fs, path::Path};

/// What was done; whether it held is for the checks to say.
const WHAT: &str = "A ledger was written to all the time and backed up to three stores; then it was deleted together with one \
    store, and an object of another store was damaged. The newest snapshot was restored with the custodian's files from \
    what was left, and checked; then the stores were healed and every byte of them was read again. A compliance log was \
    altered in between, caught, and restored as it was before; a drill was judged by a policy.";

/// What a reader of the summary must not take it for.
const DOES_NOT_SHOW: &[&str] = &[
    "that any other database, host or store would come back: the ledger was made up for this demonstration",
    "what a disaster of the whole machine leaves: production, host, custodian and stores are directories of one machine",
    "how long a restore takes at another size, from stores that are far away, or with people to wake first",
    "what a real schedule loses: the loss is the time since the snapshot that was taken shortly before the disaster",
    "that the moments are right: they are this host's clock; the time to get back is by its monotonic clock",
    "that the signer deserves trust: its key was made in this very directory, by whoever ran the demonstration",
];

const HOW_MEASURED: &[&str] = &[
    "rpo_seconds: from the moment stored with the newest transfer that came back to disaster.declared_at",
    "transfers_lost: transfers in the copy kept at the disaster, less those that came back",
    "rto_seconds: from the destruction until the restored ledger had passed integrity_check, foreign_key_check and \
     double entry; between declared_at and the destruction the copy to measure by was made, with the clock stopped",
];

/// A part of the story and how long it took.
#[derive(Debug, Serialize)]
pub(super) struct Phase {
    pub(super) name: String,
    pub(super) seconds: f64,
}

/// What happened, and the last that the application was promised before it.
#[derive(Debug, Serialize)]
pub(super) struct Disaster {
    pub(super) declared_at: Timestamp,
    pub(super) last_transfer_acknowledged: i64,
    pub(super) last_transfer_acknowledged_at: Timestamp,
    pub(super) deleted_database: String,
    pub(super) deleted_store: String,
    pub(super) damaged_store: String,
    pub(super) damaged_object: String,
}

/// What it took to make the stores whole.
#[derive(Debug, Serialize)]
pub(super) struct Healing {
    pub(super) stores: Vec<CopiedStore>,
    pub(super) verified_objects: u64,
    pub(super) verified_bytes: u64,
}

/// Everything that the summary is made from.
pub(super) struct Report<'a> {
    pub(super) began_at: Timestamp,
    pub(super) init: &'a InitResult,
    pub(super) snapshots: &'a [SnapshotEntry],
    pub(super) head: &'a Head,
    pub(super) disaster: &'a Disaster,
    pub(super) at_disaster: &'a Totals,
    pub(super) restore: &'a RestoreResult,
    pub(super) restored: &'a Totals,
    pub(super) rto_seconds: f64,
    pub(super) checks: &'a [Check],
    pub(super) healing: &'a Healing,
    pub(super) drill: &'a DrillResult,
    pub(super) phases: &'a [Phase],
}

#[derive(Serialize)]
struct Summary<'a> {
    schema: &'static str,
    what: &'static str,
    tool: String,
    host: String,
    repository: RepositoryId,
    signer: String,
    principal: &'a str,
    began_at: Timestamp,
    ended_at: Timestamp,
    verdict: Verdict,
    rpo_seconds: f64,
    rto_seconds: f64,
    transfers_lost: u64,
    how_measured: &'a [&'a str],
    disaster: &'a Disaster,
    snapshots: &'a [SnapshotEntry],
    head: &'a Head,
    restored_snapshot: String,
    went_round: &'a [WentRound],
    restored: LedgerFile,
    at_disaster: LedgerFile,
    checks: Vec<&'a CheckResult>,
    healing: &'a Healing,
    drill: &'a DrillResult,
    phases: &'a [Phase],
    does_not_show: &'a [&'a str],
    remarks: &'a [String],
}

/// A ledger's file and what is in it.
#[derive(Serialize)]
struct LedgerFile {
    file: String,
    bytes: u64,
    sha256: Sha256,
    accounts: u64,
    bets: u64,
    transfers: u64,
    postings: u64,
    last_transfer: Option<i64>,
    last_transfer_at: Option<Timestamp>,
}

impl LedgerFile {
    fn new(stage: &Stage, path: &Path, totals: &Totals) -> Result<Self, Failure> {
        let bytes = fs::read(path).map_err(|error| failed("read", path, &error))?;
        Ok(LedgerFile {
            file: path.strip_prefix(stage.dir()).unwrap_or(path).display().to_string(),
            bytes: bytes.len() as u64,
            sha256: format::sha256(&bytes),
            accounts: totals.accounts,
            bets: totals.bets,
            transfers: totals.transfers,
            postings: totals.postings,
            last_transfer: totals.last_transfer,
            last_transfer_at: totals.last_transfer_at,
        })
    }
}

impl Report<'_> {
    /// Writes and signs the summary.
    pub(super) fn publish(self, world: &World, stage: &Stage, settings: &Settings) -> Result<DemoResult, Failure> {
        let key = open::open_host(settings, world)?.key;
        let repository = self.init.repository;
        let principal = report::principal(&repository);
        let came_back_until = self.restored.last_transfer_at.unwrap_or(self.began_at);
        let summary = Summary {
            schema: "recoup.demo-summary/1",
            what: WHAT,
            tool: concat!("recoup ", env!("CARGO_PKG_VERSION")).to_owned(),
            host: world::host_name(),
            repository,
            signer: key.fingerprint().to_string(),
            principal: &principal,
            began_at: self.began_at,
            ended_at: world.now(),
            verdict: checks::verdict(self.checks),
            rpo_seconds: self.disaster.declared_at.seconds_since(came_back_until),
            rto_seconds: (self.rto_seconds * 1000.0).round() / 1000.0,
            transfers_lost: self.at_disaster.transfers.saturating_sub(self.restored.transfers),
            how_measured: HOW_MEASURED,
            disaster: self.disaster,
            snapshots: self.snapshots,
            head: self.head,
            restored_snapshot: self.restore.snapshot.to_string(),
            went_round: &self.restore.went_round,
            restored: LedgerFile::new(stage, &stage.restored_ledger(), self.restored)?,
            at_disaster: LedgerFile::new(stage, &stage.evidence(), self.at_disaster)?,
            checks: self.checks.iter().map(|check| &check.result).collect(),
            healing: self.healing,
            drill: self.drill,
            phases: self.phases,
            does_not_show: DOES_NOT_SHOW,
            remarks: &self.init.remarks,
        };
        let mut bytes = serde_json::to_vec_pretty(&summary).expect("texts and numbers are always JSON");
        bytes.push(b'\n');
        let signed = key.sign(signature::REPORT, &bytes);
        let signers = &settings.host.allowed_signers;
        open::read_signers(signers, "run the demonstration again")?
            .verify(&bytes, &signed, signature::REPORT, &principal)
            .map_err(|error| Failure::internal("the summary's own signature does not verify").cause(error))?;
        let write = |path: &Path, bytes: &[u8]| {
            files::write_new(path, bytes, 0o644).map_err(|error| failed("write", path, &error))
        };
        write(&stage.signature(), signed.as_bytes())?;
        write(&stage.summary(), &bytes)?;
        Ok(self.result(stage, &summary, &check_command(stage, signers, &principal)))
    }

    fn result(&self, stage: &Stage, summary: &Summary<'_>, check_command: &str) -> DemoResult {
        let text = |path: &Path| path.display().to_string();
        let held = self.checks.iter().filter(|check| check.result.status == CheckStatus::Passed).count();
        DemoResult {
            schema: DemoSchema,
            dir: text(stage.dir()),
            source_ledger: text(&stage.evidence()),
            restored_ledger: text(&stage.restored_ledger()),
            restored_log: Some(text(&stage.restored_audit())),
            // The report follows: it rests on what is signed here, too.
            report: String::new(),
            signature: String::new(),
            summary: text(&stage.summary()),
            summary_signature: text(&stage.signature()),
            rpo_seconds: summary.rpo_seconds,
            rto_seconds: summary.rto_seconds,
            verdict: summary.verdict,
            transfers_lost: summary.transfers_lost,
            checks: self.checks.len(),
            checks_held: held,
            check_command: check_command.to_owned(),
        }
    }
}

/// The line that checks the summary's signature with stock OpenSSH, from any directory.
fn check_command(stage: &Stage, signers: &Path, principal: &str) -> String {
    let word = |path: &Path| shell_word(&path.display().to_string());
    format!(
        "ssh-keygen -Y verify -f {} -I {} -n {} -s {} < {}",
        word(signers),
        shell_word(principal),
        signature::REPORT,
        word(&stage.signature()),
        word(&stage.summary()),
    )
}
