//! Whether the policies are met now: from gathered facts to findings and verdicts.
//!
//! Nothing here looks at anything: `ops::check` gathers, this judges, and tests give it whatever facts they like.

mod drills;
mod log;
mod server;
mod snapshots;
mod stores;
#[cfg(test)]
mod tests;

use super::{
    control::ControlState,
    coverage::LogHistory,
    evidence::{HoldCause, WriterId},
    id::{Sha256, SnapshotId, SourceName},
    log::{LogFile, SegmentName, ServerTime},
    policy::{Place, Policy},
    result::{CheckFinding, Checked, CheckedSource, FindingId, Head, LastDrill, Severity, Status},
    server::{Rate, Watched},
    time::Timestamp,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

pub use stores::LITTLE_ROOM_BYTES;

/// How far the clocks of hosts that are well may differ.
const CLOCK_SLACK_SECONDS: f64 = 300.0;

/// Everything that is judged.
#[derive(Clone, Debug)]
pub struct Facts {
    /// By this host's clock.
    pub now: Timestamp,
    /// This host.
    pub host: HostFacts,
    /// The stores, in the order of the configuration.
    pub stores: Vec<StoreFacts>,
    /// The sources that were asked for, in the order of the configuration.
    pub sources: Vec<SourceFacts>,
    /// The control log.
    pub control: ControlFacts,
}

/// What was found on this host.
#[derive(Clone, Debug, Default)]
pub struct HostFacts {
    /// The custodians' public keys.
    pub recipients: Vec<String>,
    /// Files that hold a custodian's identity.
    pub identities: Vec<String>,
    /// Why the state directory cannot be used, if so.
    pub state_lost: Option<String>,
    /// What would keep a backup from running: why, and what to do.
    pub unfit: Vec<(String, Option<String>)>,
}

/// How a store answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It holds the repository.
    Ready,
    /// It does not answer, or with errors.
    Down,
    /// It answers and holds no repository.
    Empty,
    /// It holds another repository.
    Foreign,
    /// It holds a repository of a newer format.
    Newer,
    /// Its recoup.json cannot be read.
    Damaged,
}

/// What was found out about a store.
#[derive(Clone, Debug)]
pub struct StoreFacts {
    /// Its name.
    pub name: String,
    /// Region and provider.
    pub place: Place,
    /// How it answered.
    pub answer: Answer,
    /// Why it cannot be used, where it cannot.
    pub problem: String,
    /// What to do about that.
    pub next_step: Option<String>,
    /// Room that is left, where anybody says.
    pub free_bytes: Option<u64>,
}

/// A committed snapshot that a trusted signer signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The snapshot.
    pub id: SnapshotId,
    /// SHA-256 of its inventory.
    pub sha256: Sha256,
    /// When it was committed, by the writer's clock.
    pub created_at: Timestamp,
    /// When the read of the source began, by the writer's clock.
    pub read_started_at: Timestamp,
    /// The stores that show it, and those that do not answer and are known to have it.
    pub held_by: BTreeSet<String>,
    /// The recipients that it is sealed to.
    pub sealed_to: BTreeSet<String>,
}

/// When the last full snapshot was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastFull {
    /// Then.
    At(Timestamp),
    /// Before this; nobody looked further back.
    Before(Timestamp),
    /// It could not be read.
    Unknown,
}

/// What a store lacks of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lacking {
    /// Durable snapshots that it does not show.
    pub snapshots: u64,
    /// How many of them it once held complete.
    pub once_held: u64,
}

/// Something that claims to be a snapshot and was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedFact {
    /// The store it lies on.
    pub store: String,
    /// The snapshot it claims to be.
    pub id: SnapshotId,
    /// Why it is not accepted.
    pub why: String,
    /// Whether nobody trusted signed it.
    pub untrusted: bool,
    /// Whether the store gave nothing that could be judged.
    pub unreadable: bool,
    /// Whether another store gave a good one.
    pub good_elsewhere: bool,
}

/// A file that was refused as part of a source's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignLog {
    /// The file.
    pub file: LogFile,
    /// The system identifier that it has.
    pub system: u64,
    /// That of the log.
    pub expected: Option<u64>,
    /// When it was refused last.
    pub at: Timestamp,
}

/// What the stores show of the log of a source.
#[derive(Clone, Debug)]
pub struct LogState {
    /// What was committed until then is durable; `None` where the newest durable snapshot's own part of the log is not.
    pub covered: Option<ServerTime>,
    /// The last segment of which that was told.
    pub last: Option<SegmentName>,
    /// Its timelines.
    pub histories: Vec<LogHistory>,
    /// Whether every store was asked.
    pub all_asked: bool,
    /// Files from the newest durable snapshot on that were stored with different contents.
    pub forked: Vec<LogFile>,
}

/// How the server of a source looks from its own host.
#[derive(Clone, Debug)]
pub struct ServerState {
    /// What it says.
    pub watched: Watched,
    /// How fast it writes its log.
    pub rate: Rate,
}

/// What was found out about a source.
#[derive(Clone, Debug)]
pub struct SourceFacts {
    /// Its name.
    pub name: SourceName,
    /// What is promised for it.
    pub policy: Policy,
    /// Why it cannot be seen, if so.
    pub unreachable: Option<String>,
    /// Whether it is provably as it is in the newest durable snapshot, and the durable log after it.
    pub unchanged: bool,
    /// Its log, where the newest durable snapshot has one.
    pub log: Option<LogState>,
    /// Its server, where it has one, on this host.
    pub server: Option<ServerState>,
    /// How many snapshots the stores show, accepted or not.
    pub shown: u64,
    /// The newest snapshot.
    pub newest: Option<Seen>,
    /// The newest durable one.
    pub durable: Option<Seen>,
    /// The last full one.
    pub last_full: LastFull,
    /// Of the newest: parents that are dated later than it, with their dates.
    pub later_parents: Vec<(SnapshotId, Timestamp)>,
    /// What the stores that answer lack, by name.
    pub lacking: BTreeMap<String, Lacking>,
    /// What was not accepted among those that were looked at.
    pub refused: Vec<RefusedFact>,
    /// Numbers that several snapshots share.
    pub forks: Vec<(u64, Vec<SnapshotId>)>,
    /// The newest snapshot that this host has made durable, where the stores do not show it.
    pub lost_head: Option<SnapshotId>,
    /// The snapshots that the stores show, where every store has given its list.
    pub all_shown: Option<BTreeSet<SnapshotId>>,
    /// Objects that were found damaged and not healed since, by store.
    pub damaged: BTreeMap<String, u64>,
    /// Why nothing is known of what was done earlier, if so.
    pub state_lost: Option<String>,
    /// What was refused as its log, and waits for a decision.
    pub foreign_log: Option<ForeignLog>,
}

/// Records of the control log that stores had, and that none shows any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostFact {
    /// Whose.
    pub writer: WriterId,
    /// The first of them.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// Whether this host has them.
    pub is_here: bool,
}

/// What was found out about the control log.
#[derive(Clone, Debug, Default)]
pub struct ControlFacts {
    /// The fold of its records.
    pub state: ControlState,
    /// Whether enough stores answered.
    pub complete: bool,
    /// What was not accepted: what it is and why, and the stores that show it.
    pub refused: BTreeMap<String, Vec<String>>,
    /// What stores had, and none shows any more.
    pub lost: Vec<LostFact>,
    /// This host's writer.
    pub writer: Option<WriterId>,
    /// Starts whose processes run on this host now.
    pub running: BTreeSet<(WriterId, u64)>,
}

/// After how long something that is due every `interval` is overdue: a schedule has some play, a promise has none.
pub fn overdue_after(interval: Duration) -> Duration {
    interval + (interval / 4).clamp(Duration::from_secs(60), Duration::from_secs(6 * 3600))
}

/// Judges.
pub fn judge(facts: &Facts) -> Checked {
    // Of what matters equally, what is read first is what is most likely to be acted on.
    let mut findings = Findings::default();
    judge_host(facts, &mut findings);
    let mut sources = Vec::new();
    for source in &facts.sources {
        snapshots::judge(facts, source, &mut findings);
        log::judge(source, &mut findings);
        server::judge(source, &mut findings);
        drills::judge(facts, source, &mut findings);
        sources.push(checked_source(facts, source));
    }
    let stores = stores::judge(facts, &mut findings);
    judge_control(facts, &mut findings);
    judge_posture(facts, &mut findings);
    let mut checked = Checked { status: Status::Ok, checked_at: facts.now, sources, stores, findings: findings.0 };
    checked.settle();
    checked
}

/// What was found, as it was found.
#[derive(Default)]
struct Findings(Vec<CheckFinding>);

/// What a finding concerns.
#[derive(Clone, Copy, Default)]
struct Concerns<'a> {
    source: Option<&'a SourceName>,
    store: Option<&'a str>,
}

impl<'a> Concerns<'a> {
    fn source(source: &'a SourceName) -> Self {
        Concerns { source: Some(source), store: None }
    }

    fn store(store: &'a str) -> Self {
        Concerns { source: None, store: Some(store) }
    }
}

impl Findings {
    fn add(
        &mut self,
        id: FindingId,
        severity: Severity,
        concerns: Concerns<'_>,
        message: impl Into<String>,
        next_step: impl Into<String>,
    ) {
        let next_step = Some(next_step.into()).filter(|step| !step.is_empty());
        let (source, store) = (concerns.source.cloned(), concerns.store.map(str::to_owned));
        self.0.push(CheckFinding { id, severity, source, store, message: message.into(), next_step });
    }
}

fn judge_host(facts: &Facts, findings: &mut Findings) {
    let host = &facts.host;
    for (why, next_step) in &host.unfit {
        let next_step = next_step.clone().unwrap_or_else(|| "recoup doctor".to_owned());
        findings.add(FindingId::HostUnfit, Severity::Critical, Concerns::default(), why, next_step);
    }
    if let Some(why) = &host.state_lost {
        let message = format!("what this host knew is lost ({why}): stores that were rolled back would not be noticed");
        findings.add(FindingId::StateLost, Severity::Warning, Concerns::default(), message, "recoup backup");
    }
}

/// What an auditor would remark on.
fn judge_posture(facts: &Facts, findings: &mut Findings) {
    let host = &facts.host;
    judge_custodians(facts, findings);
    for path in &host.identities {
        let message = format!("the identity {path} opens the snapshots and lies on this host");
        let next_step = "move it off this host";
        findings.add(FindingId::IdentityOnHost, Severity::Note, Concerns::default(), message, next_step);
    }
    for recipient in &host.recipients {
        if !facts.control.state.proven_recipients.contains_key(recipient) {
            let message = format!("nobody has shown that the identity of {recipient} opens the snapshots");
            let next_step = "recoup key prove --identity FILE, by that custodian";
            findings.add(FindingId::RecipientUnproven, Severity::Note, Concerns::default(), message, next_step);
        }
    }
}

/// Whether losing one identity loses what there is. What is configured opens nothing until it is sealed to.
fn judge_custodians(facts: &Facts, findings: &mut Findings) {
    let configured = &facts.host.recipients;
    if configured.len() < 2 {
        let message = "one custodian: losing that identity loses every snapshot";
        let next_step = "recoup key add RECIPIENT --reason TEXT (a second custodian's public key), then recoup backup";
        return findings.add(FindingId::FewCustodians, Severity::Warning, Concerns::default(), message, next_step);
    }
    for source in &facts.sources {
        // A custodian who is configured no more may have left with the identity.
        let Some(durable) = &source.durable else { continue };
        let sealed_to = configured.iter().filter(|recipient| durable.sealed_to.contains(*recipient)).count();
        if sealed_to < 2 {
            let message = format!(
                "the newest durable snapshot is sealed to {sealed_to} of {} custodians: the others cannot open it",
                configured.len()
            );
            let next_step = format!("recoup backup {}", source.name);
            let about = Concerns::source(&source.name);
            findings.add(FindingId::FewCustodians, Severity::Warning, about, message, next_step);
        }
    }
}

fn judge_control(facts: &Facts, findings: &mut Findings) {
    let control = &facts.control;
    if !control.complete {
        let message = "too few stores answer: holds, drills and proofs that others recorded may be missing here";
        let next_step = "bring the stores back";
        findings.add(FindingId::ControlLogIncomplete, Severity::Warning, Concerns::default(), message, next_step);
    }
    // Where nobody is trusted, that is said once, with the snapshots.
    let is_known = facts.sources.iter().any(snapshots::is_nobody_trusted);
    for (what, stores) in control.refused.iter().filter(|_| !is_known) {
        let (about, message) = match stores.as_slice() {
            [store] => (Concerns::store(store), what.clone()),
            several => (Concerns::default(), format!("stores {}: {what}", several.join(", "))),
        };
        let next_step = "find out who wrote it; allowed_signers says who is trusted";
        findings.add(FindingId::EvidenceRefused, Severity::Critical, about, message, next_step);
    }
    judge_lost(control, findings);
    for (id, hold) in control.state.holds().filter(|(_, hold)| hold.cause == HoldCause::LogAltered) {
        if facts.sources.iter().any(|source| source.name == hold.source) {
            let message = format!("the log was altered; both versions are kept since {}", hold.added_at);
            let next_step = format!("find out who altered it, then recoup hold release {id} --reason TEXT");
            findings.add(FindingId::LogAltered, Severity::Critical, Concerns::source(&hold.source), message, next_step);
        }
    }
}

/// Each chain once: what has to be decided comes before what the next command mends.
fn judge_lost(control: &ControlFacts, findings: &mut Findings) {
    let mut writers: Vec<WriterId> = control.lost.iter().map(|lost| lost.writer).collect();
    writers.dedup();
    for writer in writers {
        let of_writer = || control.lost.iter().filter(|lost| lost.writer == writer);
        let Some(worst) = of_writer().min_by_key(|lost| lost.is_here) else { continue };
        let LostFact { first, last, .. } = *worst;
        let range = if first == last { format!("{writer}/{first}") } else { format!("{writer}/{first}-{last}") };
        let more = match of_writer().count() {
            1 => String::new(),
            several => format!(", and of {} more of this chain", count(several as u64 - 1, "stretch")),
        };
        let message = format!("stores had evidence {range}, and none shows it any more{more}: it may have been a hold");
        let next_step = match worst.is_here {
            true => "recoup copy, which brings it again from this host; find out who removed it".to_owned(),
            false => format!(
                "put it back from where it still is, then recoup copy; what is lost for good: recoup evidence acknowledge \
                 {range} --reason TEXT"
            ),
        };
        findings.add(FindingId::EvidenceLost, Severity::Critical, Concerns::default(), message, next_step);
    }
}

/// What would be lost if the source were lost now.
fn exposure(facts: &Facts, source: &SourceFacts) -> Option<f64> {
    let durable = source.durable.as_ref()?;
    let since = match &source.log {
        Some(log) => Timestamp::new(log.covered?.as_datetime()),
        None => durable.read_started_at,
    };
    Some(if source.unchanged { 0.0 } else { facts.now.seconds_since(since).max(0.0) })
}

fn checked_source(facts: &Facts, source: &SourceFacts) -> CheckedSource {
    let last_drill = facts.control.state.drills_of(&source.name).max_by_key(|drill| drill.started_at);
    let passed = facts.control.state.last_passed_drill(&source.name, facts.now);
    let newest = source.newest.as_ref();
    CheckedSource {
        source: source.name.clone(),
        status: Status::Ok,
        exposure_seconds: exposure(facts, source).map(|seconds| seconds.ceil() as u64),
        rpo_seconds: source.policy.rpo.map(|rpo| rpo.as_secs()),
        unchanged: source.unchanged,
        durable_until: source.log.as_ref().and_then(|log| log.covered),
        head: newest.map(|seen| Head { snapshot: seen.id, sha256: seen.sha256 }),
        newest_at: newest.map(|seen| seen.read_started_at),
        durable_snapshot: source.durable.as_ref().map(|seen| seen.id),
        durable_at: source.durable.as_ref().map(|seen| seen.read_started_at),
        copies: newest.map_or(0, |seen| seen.held_by.len() as u64),
        copies_wanted: source.policy.copies.required_stores(facts.stores.len()) as u64,
        last_drill: last_drill.map(|drill| LastDrill { started_at: drill.started_at, verdict: drill.verdict }),
        drill_passed_at: passed.map(|drill| drill.started_at),
        holds: facts.control.state.holds_of(&source.name).count() as u64,
    }
}

/// A span as people say it.
fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..=119 => format!("{whole} s"),
        120..=7_199 => format!("{} min", whole / 60),
        7_200..=172_799 => format!("{} h", whole / 3_600),
        _ => format!("{} d", whole / 86_400),
    }
}

/// A number of things.
fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
