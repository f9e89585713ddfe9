//! Evidence: the records of the control log. Every action that matters leaves one, signed and chained.
//!
//! A record is a clear envelope, and a body sealed to those who may read it, bound to it by SHA-256. One chain a
//! writer: a writer is a state directory, so that one that was lost never forks its chain.

use super::{
    id::{RepositoryId, RunId, SEQ_MAX, Sha256, SnapshotId, SourceName},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// The value of `format` in every record that this version reads and writes.
pub const FORMAT: &str = "recoup-evidence/1";

/// The most sealed bytes of a body.
pub const BODY_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The most other writers, and the most subjects, that one record names.
const NAMED_MAX: usize = 10_000;

/// The most bytes of a text in a record.
const TEXT_BYTES_MAX: usize = 8 * 1024;

/// The most seconds that are measured: more than lie between any two moments that can be written down.
const SECONDS_MAX: f64 = 1e12;

/// A writer of evidence: one state directory.
pub type WriterId = RunId;

/// A hold's id.
pub type HoldId = RunId;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// A repository was set up.
    Init,
    /// Snapshots were taken.
    Backup,
    /// A source was restored.
    Restore,
    /// A restore was tried out and timed.
    Drill,
    /// Snapshots were deleted by the rule, or their deletion was planned.
    Prune,
    /// A hold was added.
    Hold,
    /// A hold was released.
    Release,
    /// Stores were brought level.
    Copy,
    /// Recipients were added, removed or proven.
    Key,
    /// Signers were added or revoked.
    Signer,
    /// Stores, sources or policies differ from what the writer's last record said.
    Configuration,
    /// A report was made.
    Report,
    /// Records of the control log were acknowledged as lost.
    Acknowledge,
    /// A new history of a log was opened.
    Archive,
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Action::Init => "init",
            Action::Backup => "backup",
            Action::Restore => "restore",
            Action::Drill => "drill",
            Action::Prune => "prune",
            Action::Hold => "hold",
            Action::Release => "release",
            Action::Copy => "copy",
            Action::Key => "key",
            Action::Signer => "signer",
            Action::Configuration => "configuration",
            Action::Report => "report",
            Action::Acknowledge => "acknowledge",
            Action::Archive => "archive",
        })
    }
}

/// Which part of an action a record is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// All of it, recorded when it was over.
    Whole,
    /// Its beginning: an end must follow.
    Start,
    /// The end of the one that `closes` names.
    End,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Not known yet: the record of a start.
    Pending,
    /// It did what it should; a drill met what its policy asks for.
    Passed,
    /// It did, and something deserves a look.
    Warning,
    /// It did not.
    Failed,
    /// It was refused for safety.
    Refused,
    /// It never ended: its process was gone.
    Aborted,
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Verdict::Pending => "pending",
            Verdict::Passed => "passed",
            Verdict::Warning => "warning",
            Verdict::Failed => "failed",
            Verdict::Refused => "refused",
            Verdict::Aborted => "aborted",
        })
    }
}

/// A record of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChainHead {
    /// Its number.
    pub number: u64,
    /// SHA-256 of its bytes.
    pub sha256: Sha256,
}

/// The newest record of another writer that this one has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SeenHead {
    /// The other writer.
    pub writer: WriterId,
    /// Its record's number.
    pub number: u64,
    /// SHA-256 of its bytes.
    pub sha256: Sha256,
}

/// One source that an action was about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The source.
    pub source: SourceName,
    /// What came of it for this source.
    pub verdict: Verdict,
    /// The snapshot that was taken, restored or tried.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub snapshot: Option<SnapshotId>,
    /// SHA-256 of that snapshot's inventory.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub inventory_sha256: Option<Sha256>,
    /// SHA-256 of the policy that held.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub policy_sha256: Option<Sha256>,
}

impl Subject {
    /// A source, and what came of it.
    pub fn new(source: SourceName, verdict: Verdict) -> Self {
        Subject { source, verdict, snapshot: None, inventory_sha256: None, policy_sha256: None }
    }
}

/// What a drill measured, in clear: enough for `check` and for charts. Everything else is in the body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The moment at which the source is declared lost. Fixed before the drill begins.
    pub disaster_at: Timestamp,
    /// Whether that moment was drawn at random.
    pub drawn_at_random: bool,
    /// What was lost: from what came back to the declared moment, in seconds. `None` in a start.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rpo_seconds: Option<f64>,
    /// How long it took from the start until the result was checked, in seconds. `None` in a start.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rto_seconds: Option<f64>,
    /// The stores that gave what came back, by name. None in a start, and none in records of earlier versions.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub stores_used: Vec<String>,
}

/// Why a hold exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldCause {
    /// Somebody asked for it.
    Operator,
    /// An append-only log was altered: the snapshot before it is what it was.
    LogAltered,
}

/// What a record changes in the state of the repository. That state is the fold of all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "change")]
pub enum Control {
    /// Snapshots must not be deleted.
    HoldAdded {
        /// The hold.
        hold: HoldId,
        /// Whose snapshots.
        source: SourceName,
        /// Which; all that the source has, now and later, where none is named.
        snapshots: Vec<SnapshotId>,
        /// Why.
        cause: HoldCause,
    },
    /// A hold ends.
    HoldReleased {
        /// The hold.
        hold: HoldId,
    },
    /// What the writer works with from now on.
    Configuration {
        /// SHA-256 of its text, which is in the body.
        sha256: Sha256,
        /// Names of the stores.
        stores: Vec<String>,
        /// The recipients.
        recipients: Vec<String>,
        /// SHA-256 of each source's policy.
        policies: BTreeMap<SourceName, Sha256>,
        /// How many stores make a snapshot of each source durable. Older versions said nothing.
        #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
        min_stores: BTreeMap<SourceName, u64>,
    },
    /// A custodian has shown that their identity opens what is sealed to this recipient.
    RecipientProven {
        /// The recipient.
        recipient: String,
    },
    /// A recipient was added.
    RecipientAdded {
        /// The recipient.
        recipient: String,
    },
    /// A recipient was removed.
    RecipientRemoved {
        /// The recipient.
        recipient: String,
    },
    /// A signer was added.
    SignerAdded {
        /// Its fingerprint.
        signer: String,
    },
    /// A signer was revoked: what it signed up to here is vouched for by who signed this record, nothing later is.
    SignerRevoked {
        /// Its fingerprint.
        signer: String,
        /// Its newest evidence that is vouched for, by writer.
        evidence: Vec<SeenHead>,
        /// SHA-256 of the list of vouches, a line `SHA256  keys/ID.json` for each: they name every inventory that is
        /// vouched for.
        inventories_sha256: Sha256,
    },
    /// Records of a writer are lost for good: its chain is read on behind them. One that turns up counts all the same.
    RecordsLost {
        /// Whose.
        writer: WriterId,
        /// The first of them.
        first: u64,
        /// The last.
        last: u64,
    },
}

/// The sealed body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyRef {
    /// Sealed bytes.
    pub size: u64,
    /// SHA-256 of them.
    pub sha256: Sha256,
}

/// One record: the clear envelope.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`FORMAT`].
    pub format: String,
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// Whose chain it is in.
    pub writer: WriterId,
    /// Its number in the chain, from 1.
    pub number: u64,
    /// SHA-256 of the record before it; none in the first.
    pub previous: Option<Sha256>,
    /// The newest record that was seen of every other writer.
    pub seen: Vec<SeenHead>,
    /// The newest record of this chain that each store is known to have, by the store's name.
    pub acknowledged: BTreeMap<String, u64>,
    /// The key that signed it, as its SHA-256 fingerprint.
    pub signer: String,
    /// What was done.
    pub action: Action,
    /// Which part of it.
    pub phase: Phase,
    /// The number of the start that this is the end of.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub closes: Option<u64>,
    /// What came of it.
    pub verdict: Verdict,
    /// When it began, by the writer's clock.
    pub started_at: Timestamp,
    /// When this was recorded, by the writer's clock.
    pub recorded_at: Timestamp,
    /// The sources it was about.
    pub subjects: Vec<Subject>,
    /// What a drill measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub measured: Option<Measured>,
    /// What it changes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub control: Option<Control>,
    /// The sealed body.
    pub body: BodyRef,
}

impl Record {
    /// Why the record cannot be what it claims to be, if so. Its signature and its place are other matters.
    pub fn contradiction(&self) -> Option<&'static str> {
        if self.format != FORMAT {
            Some("its format is not the one this version reads")
        } else if self.number == 0 || self.number > SEQ_MAX {
            Some("its number is out of range")
        } else if (self.number == 1) != self.previous.is_none() {
            Some("the first record has no other before it, and every other has")
        } else if self.named().into_iter().any(|number| number > NAMED_MAX) {
            Some("it names more than any record does")
        } else if self.seen.iter().any(|seen| seen.writer == self.writer) {
            Some("it names its own writer among the others")
        } else if (self.phase == Phase::End) != self.closes.is_some()
            || self.closes.is_some_and(|closes| closes >= self.number)
        {
            Some("an end names the start before it, and nothing else does")
        } else if (self.phase == Phase::Start) != (self.verdict == Verdict::Pending) {
            Some("only a start has no verdict yet")
        } else if let Some(Control::RecordsLost { first, last, .. }) = self.control
            && (first == 0 || first > last || last > SEQ_MAX)
        {
            Some("the records that it calls lost are none")
        } else if self.body.size > BODY_BYTES_MAX {
            Some("its body is larger than any")
        } else if !self
            .measured
            .iter()
            .flat_map(|measured| [measured.rpo_seconds, measured.rto_seconds])
            .all(is_measured)
        {
            Some("it measured more than can be")
        } else if !self.texts().all(is_plain) {
            Some("one of its texts is not of printable characters, or too long")
        } else {
            None
        }
    }

    /// How many things it names, of each kind.
    fn named(&self) -> [usize; 4] {
        let used = self.measured.as_ref().map_or(0, |measured| measured.stores_used.len());
        [self.seen.len(), self.acknowledged.len(), self.subjects.len(), used]
    }

    /// The texts that are shown to people.
    fn texts(&self) -> impl Iterator<Item = &str> {
        let of_control: Vec<&str> = match &self.control {
            Some(Control::Configuration { stores, recipients, .. }) => {
                stores.iter().chain(recipients).map(String::as_str).collect()
            }
            Some(
                Control::RecipientProven { recipient: text }
                | Control::RecipientAdded { recipient: text }
                | Control::RecipientRemoved { recipient: text }
                | Control::SignerAdded { signer: text }
                | Control::SignerRevoked { signer: text, .. },
            ) => vec![text],
            _ => Vec::new(),
        };
        let used = self.measured.iter().flat_map(|measured| &measured.stores_used).map(String::as_str);
        self.acknowledged.keys().map(String::as_str).chain([self.signer.as_str()]).chain(of_control).chain(used)
    }

    /// Where it is in its chain, given the digest of its bytes.
    pub fn head(&self, sha256: Sha256) -> ChainHead {
        ChainHead { number: self.number, sha256 }
    }
}

/// Whether a number of seconds, where there is one, can have been measured.
fn is_measured(seconds: Option<f64>) -> bool {
    seconds.is_none_or(|seconds| seconds.abs() <= SECONDS_MAX)
}

/// Whether a text can be shown on any terminal, and is no longer than any of ours.
fn is_plain(text: &str) -> bool {
    text.len() <= TEXT_BYTES_MAX && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

/// What a record says besides its place in the chain: what an action hands over to be recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// What was done.
    pub action: Action,
    /// What came of it.
    pub verdict: Verdict,
    /// When it began.
    pub started_at: Timestamp,
    /// The sources it was about.
    pub subjects: Vec<Subject>,
    /// What a drill measured.
    pub measured: Option<Measured>,
    /// What it changes.
    pub control: Option<Control>,
    /// The newest record that is known of a writer it speaks of, where that was never read.
    pub seen: Option<SeenHead>,
    /// The result, as `--json` prints it, or what else belongs in the sealed body.
    pub result: serde_json::Value,
}

impl Draft {
    /// A draft without subjects.
    pub fn new(action: Action, verdict: Verdict, started_at: Timestamp) -> Self {
        Draft {
            action,
            verdict,
            started_at,
            subjects: Vec::new(),
            measured: None,
            control: None,
            seen: None,
            result: serde_json::Value::Null,
        }
    }
}

/// The body, before it is sealed: who did it, where, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Body {
    /// This host's name.
    pub host: String,
    /// The user that the operating system knows.
    pub os_user: String,
    /// Who logged in and became that user, where the system tells.
    pub login_user: Option<String>,
    /// Why, as given with `--reason`.
    pub reason: Option<String>,
    /// The program's version.
    pub version: String,
    /// The command line. Secrets are never on it.
    pub command_line: Vec<String>,
    /// The result, as `--json` prints it, or what else the action has to tell.
    pub result: serde_json::Value,
}

#[cfg(test)]
impl Record {
    /// One that may be, for tests to change.
    pub(crate) fn example() -> Self {
        let at: Timestamp = "2026-11-22T09:15:00Z".parse().unwrap();
        Record {
            format: FORMAT.to_owned(),
            repository: "aaaaaaaaaaaaaaaa".parse().unwrap(),
            writer: "bbbbbbbbbbbbbbbb".parse().unwrap(),
            number: 2,
            previous: Some(Sha256([1; 32])),
            seen: Vec::new(),
            acknowledged: BTreeMap::new(),
            signer: "SHA256:x".to_owned(),
            action: Action::Backup,
            phase: Phase::Whole,
            closes: None,
            verdict: Verdict::Passed,
            started_at: at,
            recorded_at: at,
            subjects: Vec::new(),
            measured: None,
            control: None,
            body: BodyRef { size: 3, sha256: Sha256([2; 32]) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions() {
        assert_eq!(Record::example().contradiction(), None);
        let own = SeenHead { writer: Record::example().writer, number: 1, sha256: Sha256([0; 32]) };
        let changes: [fn(&mut Record, SeenHead); 9] = [
            |record, _| record.format = "recoup-evidence/2".to_owned(),
            |record, _| record.number = 0,
            |record, _| record.number = 1,
            |record, _| record.previous = None,
            |record, own| record.seen.push(own),
            |record, _| record.closes = Some(1),
            |record, _| record.verdict = Verdict::Pending,
            |record, _| record.body.size = BODY_BYTES_MAX + 1,
            |record, _| record.signer = "a\u{1b}[31m".to_owned(),
        ];
        for (at, change) in changes.iter().enumerate() {
            let mut changed = Record::example();
            change(&mut changed, own);
            assert!(changed.contradiction().is_some(), "change {at}");
        }
    }

    #[test]
    fn what_a_drill_measured() {
        let cases: [(Option<f64>, &str, usize, bool); 4] = [
            (Some(1.5), "a", 2, true),
            (Some(1e308), "a", 2, false),
            (None, "a\u{1b}[31m", 1, false),
            (None, "a", NAMED_MAX + 1, false),
        ];
        for (rto_seconds, store, number, is_right) in cases {
            let mut record = Record::example();
            let (disaster_at, drawn_at_random) = (record.started_at, true);
            let stores_used = vec![store.to_owned(); number];
            record.measured =
                Some(Measured { disaster_at, drawn_at_random, rpo_seconds: None, rto_seconds, stores_used });
            assert_eq!(record.contradiction().is_none(), is_right, "{rto_seconds:?} {store:?} {number}");
        }
    }
}
