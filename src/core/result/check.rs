//! What `check` and `status` find out: whether the policies are met now.

use super::{CheckSchema, Head, Severity, Status, StatusSchema};
use crate::core::{
    evidence::Verdict,
    id::{SnapshotId, SourceName},
    log::ServerTime,
    time::Timestamp,
};
use serde::{Serialize, Serializer};
use std::fmt;

/// Fixed words for everything that can be found.
macro_rules! findings {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// What a finding is about: a word that scripts compare with.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FindingId {
            $($(#[$doc])* $name,)*
        }

        impl FindingId {
            /// All of them.
            pub const ALL: &[FindingId] = &[$(FindingId::$name,)*];

            /// The word that JSON has for it, too.
            pub fn word(self) -> &'static str {
                match self {
                    $(FindingId::$name => $word,)*
                }
            }
        }
    };
}

findings! {
    /// Files of the log wait too long to be archived.
    ArchiveBacklog = "archive-backlog",
    /// The server fails to archive its log.
    ArchiveFailing = "archive-failing",
    /// A file of another system was refused that was to be archived as this source's log.
    ArchiveForeign = "archive-foreign",
    /// The server does not archive its log, or not here.
    ArchiveOff = "archive-off",
    /// A snapshot is dated later than now, or earlier than what it follows.
    ClockSuspect = "clock-suspect",
    /// Too few stores answered for the control log to be known whole.
    ControlLogIncomplete = "control-log-incomplete",
    /// The policy asks for copies that the configured stores cannot give.
    CopiesImpossible = "copies-impossible",
    /// A drill was broken off, and none has passed since.
    DrillAborted = "drill-aborted",
    /// The last drill failed.
    DrillFailed = "drill-failed",
    /// No drill passed within the policy's interval.
    DrillOverdue = "drill-overdue",
    /// A drill began, and nothing says how it ended.
    DrillWithoutEnd = "drill-without-end",
    /// Records of the control log that stores had, and that none shows any more.
    EvidenceLost = "evidence-lost",
    /// A record of the control log was not accepted.
    EvidenceRefused = "evidence-refused",
    /// Too few stores answered to say what would be lost.
    ExposureUnknown = "exposure-unknown",
    /// Fewer than two custodians.
    FewCustodians = "few-custodians",
    /// Several snapshots with one number.
    Fork = "fork",
    /// No full snapshot within the policy's interval.
    FullOverdue = "full-overdue",
    /// A held snapshot is on no store.
    HeldMissing = "held-missing",
    /// The stores do not show the newest snapshot that this host has made durable.
    HeadRolledBack = "head-rolled-back",
    /// A backup could not run on this host.
    HostUnfit = "host-unfit",
    /// A custodian's identity lies on this host.
    IdentityOnHost = "identity-on-host",
    /// No snapshot within the policy's interval.
    IncrementalOverdue = "incremental-overdue",
    /// Objects that `verify` found damaged and that nothing has healed since.
    KnownDamage = "known-damage",
    /// A store has little room left.
    LittleRoom = "little-room",
    /// An append-only log was altered.
    LogAltered = "log-altered",
    /// The file system of the server's log will be full.
    LogDiskFilling = "log-disk-filling",
    /// A piece of the log was stored with different contents.
    LogForked = "log-forked",
    /// A piece of the log is on no store.
    LogGap = "log-gap",
    /// A piece of the log is on too few stores.
    LogNotDurable = "log-not-durable",
    /// There is no snapshot.
    NoSnapshot = "no-snapshot",
    /// There are snapshots, and nobody who is trusted signed one of them.
    NobodyTrusted = "nobody-trusted",
    /// The newest snapshot is not on enough stores.
    NotDurable = "not-durable",
    /// No custodian has shown that they can open what is sealed to them.
    RecipientUnproven = "recipient-unproven",
    /// More would be lost than the policy permits.
    RpoExceeded = "rpo-exceeded",
    /// A replication slot that nobody uses keeps the log from being removed.
    SlotInactive = "slot-inactive",
    /// A replication slot will soon have lost what it needs.
    SlotLag = "slot-lag",
    /// A replication slot has lost what it needs.
    SlotLost = "slot-lost",
    /// Something that claims to be a snapshot was not accepted.
    SnapshotRefused = "snapshot-refused",
    /// The source cannot be seen.
    SourceUnreachable = "source-unreachable",
    /// What this host knew of the stores is lost.
    StateLost = "state-lost",
    /// A store lacks durable snapshots.
    StoreBehind = "store-behind",
    /// A store's recoup.json is damaged.
    StoreDamaged = "store-damaged",
    /// A store does not answer.
    StoreDown = "store-down",
    /// A store answers and holds no repository.
    StoreEmpty = "store-empty",
    /// A store holds another repository.
    StoreForeign = "store-foreign",
    /// A store holds a repository of a newer format.
    StoreNewer = "store-newer",
    /// The file for metrics cannot be written.
    TextfileUnwritable = "textfile-unwritable",
    /// So few stores answer that no snapshot would be durable now.
    TooFewStores = "too-few-stores",
}

impl fmt::Display for FindingId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

impl Serialize for FindingId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckFinding {
    /// What it is about.
    pub id: FindingId,
    /// How much it matters.
    pub severity: Severity,
    /// The source it concerns, if it is one.
    pub source: Option<SourceName>,
    /// The store it concerns, by name, if it is one.
    pub store: Option<String>,
    /// What it is.
    pub message: String,
    /// What to do about it.
    pub next_step: Option<String>,
}

/// One source, and whether what its policy promises holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckedSource {
    /// The source.
    pub source: SourceName,
    /// The verdict about it.
    pub status: Status,
    /// What would be lost if the source were lost now; `None` where nobody can say.
    pub exposure_seconds: Option<u64>,
    /// What the policy permits to be lost.
    pub rpo_seconds: Option<u64>,
    /// Whether the source is provably as it is in its newest durable snapshot, and the durable log after it.
    pub unchanged: bool,
    /// Of a source with a log: what was committed until then is durable.
    pub durable_until: Option<ServerTime>,
    /// The newest snapshot that the stores show: whoever keeps this can tell stores that were rolled back.
    pub head: Option<Head>,
    /// When the read of the source for it began.
    pub newest_at: Option<Timestamp>,
    /// The newest durable snapshot.
    pub durable_snapshot: Option<SnapshotId>,
    /// When the read of the source for it began.
    pub durable_at: Option<Timestamp>,
    /// How many stores hold the newest snapshot.
    pub copies: u64,
    /// How many the policy asks for.
    pub copies_wanted: u64,
    /// The drill that was begun last.
    pub last_drill: Option<LastDrill>,
    /// When the drill began that passed last.
    pub drill_passed_at: Option<Timestamp>,
    /// How many holds keep snapshots of it.
    pub holds: u64,
}

/// A drill, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LastDrill {
    /// When it began.
    pub started_at: Timestamp,
    /// What came of it.
    pub verdict: Verdict,
}

/// How a store stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreState {
    /// It answers and has every durable snapshot.
    Up,
    /// It answers and lacks durable snapshots.
    Behind,
    /// It has little room left.
    Full,
    /// It cannot be used.
    Down,
}

impl StoreState {
    /// All of them.
    pub const ALL: [StoreState; 4] = [StoreState::Up, StoreState::Behind, StoreState::Full, StoreState::Down];
}

impl fmt::Display for StoreState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            StoreState::Up => "up",
            StoreState::Behind => "behind",
            StoreState::Full => "full",
            StoreState::Down => "down",
        })
    }
}

/// One store, and whether it is level with the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckedStore {
    /// The store.
    pub store: String,
    /// How it stands.
    pub state: StoreState,
    /// Durable snapshots that it lacks; `None` where it could not be asked.
    pub snapshots_behind: Option<u64>,
    /// Room that is left, where anybody says.
    pub free_bytes: Option<u64>,
}

/// What was found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// The verdict.
    pub status: Status,
    /// When this was, by this host's clock.
    pub checked_at: Timestamp,
    /// The sources, in the order of the configuration.
    pub sources: Vec<CheckedSource>,
    /// The stores, in the order of the configuration.
    pub stores: Vec<CheckedStore>,
    /// What is not as it should be, worst first.
    pub findings: Vec<CheckFinding>,
}

/// `recoup check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// `recoup.check/1`.
    pub schema: CheckSchema,
    /// What was found out.
    #[serde(flatten)]
    pub checked: Checked,
}

/// `recoup status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StatusReport {
    /// `recoup.status/1`.
    pub schema: StatusSchema,
    /// What was found out.
    #[serde(flatten)]
    pub checked: Checked,
}

impl Checked {
    /// Adds a finding at its place, and settles the verdict again.
    pub fn add(&mut self, finding: CheckFinding) {
        self.findings.push(finding);
        self.settle();
    }

    /// Puts the worst first, and lets the verdicts follow from the findings.
    pub(crate) fn settle(&mut self) {
        self.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        self.status = Status::of(self.findings.iter().map(|finding| finding.severity));
        for source in &mut self.sources {
            let of_source = self.findings.iter().filter(|finding| finding.source.as_ref() == Some(&source.source));
            source.status = Status::of(of_source.map(|finding| finding.severity));
        }
    }
}
