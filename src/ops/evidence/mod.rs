//! Leaves evidence: every action that matters is recorded, signed and chained, here first and then on the stores.
//!
//! A restore is never blocked by it. A drill's start must be durable before the drill begins.

mod acknowledge;
mod control;
pub mod deeds;
pub mod journal;
mod left;
mod ship;
pub mod show;
pub mod verify;

pub use acknowledge::{Lost, acknowledge};
pub use control::{ControlView, read_control};
pub use ship::Shipped;

use super::{host::Host, restore};
use crate::{
    config::Settings,
    core::{
        evidence::{Action, Body, BodyRef, ChainHead, Control, Draft, Phase, Record, SeenHead, Verdict, WriterId},
        failure::{Code, Failure},
        id::{Sha256, SourceName},
    },
    format::{self, evidence as evidence_format, seal::seal_small, signature},
    world::Invocation,
};
use journal::{Chain, Journal, RunningLock};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Records what this host does.
pub struct Recorder {
    host: Host,
    journal: Journal,
    configuration: Configuration,
    /// What the operator has to be told.
    notes: Mutex<Vec<String>>,
}

/// What the host works with, as its chain records it.
struct Configuration {
    sha256: Sha256,
    stores: Vec<String>,
    recipients: Vec<String>,
    policies: BTreeMap<SourceName, Sha256>,
    min_stores: BTreeMap<SourceName, u64>,
}

/// A record that was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Whose chain it is in.
    pub writer: WriterId,
    /// Its number and digest.
    pub head: ChainHead,
}

/// Something that has begun, and is on record with that.
pub struct Started {
    /// The record of the start.
    pub recorded: Recorded,
    started: Record,
    running: RunningLock,
}

/// What a dead start left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aborted {
    /// The start's number in this host's chain.
    pub number: u64,
    /// The directory with plaintext that was removed, if there was one.
    pub scratch: Option<PathBuf>,
}

impl Recorder {
    /// The recorder of a configured host. Reads and writes nothing yet.
    pub fn new(host: &Host, settings: &Settings) -> Self {
        let policy =
            |source: &crate::config::SourceSettings| Some((source.name.clone(), settings.policy(source).sha256?));
        let stores = host.repository.stores.len();
        let min_stores = |source: &crate::config::SourceSettings| {
            (source.name.clone(), settings.policy(source).copies.required_stores(stores) as u64)
        };
        let recorder = Recorder::with_policies(host, settings.sources.iter().filter_map(policy).collect());
        recorder.with_min_stores(settings.sources.iter().map(min_stores).collect())
    }

    /// The same, that also records how many stores make a snapshot of each source durable.
    #[must_use]
    pub fn with_min_stores(mut self, min_stores: BTreeMap<SourceName, u64>) -> Self {
        self.configuration.min_stores = min_stores;
        self
    }

    /// The recorder of a host whose sources have these policies, by their digests.
    pub fn with_policies(host: &Host, policies: BTreeMap<SourceName, Sha256>) -> Self {
        let configuration = Configuration {
            sha256: format::sha256(host.configuration.as_bytes()),
            stores: host.repository.stores.iter().map(|store| store.name().to_owned()).collect(),
            recipients: host.recipients.names().to_vec(),
            policies,
            min_stores: BTreeMap::new(),
        };
        let journal = Journal::new(&host.state_dir, host.repository.id);
        Recorder { host: host.clone(), journal, configuration, notes: Mutex::default() }
    }

    /// Whether this host has recorded anything yet.
    pub fn has_records(&self) -> bool {
        self.journal.chain().is_some_and(|chain| chain.number() > 0)
    }

    /// What the operator has to be told of the chain itself, once.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, note: String) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(note);
    }

    /// How many stores have to hold a record for it to be durable.
    pub fn quorum(&self) -> usize {
        self.host.repository.control_write_quorum()
    }

    /// Records something that is over. On this host's disk when this returns; [`Recorder::ship`] brings it to the stores.
    pub fn record(&self, draft: Draft) -> Result<Recorded, Failure> {
        self.leave_behind()?;
        self.note_configuration()?;
        self.append(draft, Phase::Whole, None)
    }

    /// Records that something begins. `scratch` is a directory with plaintext that the next command removes if this
    /// process dies. Until [`Recorder::end`], the record is open.
    pub fn start(&self, draft: Draft, scratch: Option<&Path>) -> Result<Started, Failure> {
        self.leave_behind()?;
        self.note_configuration()?;
        let draft = Draft { verdict: Verdict::Pending, ..draft };
        let (record, head, running) = self.journal.append_start(
            &self.host.world,
            scratch.map(Path::to_owned),
            |chain| self.record_of(chain, &draft, Phase::Start, None),
            |bytes| self.host.key.sign(signature::EVIDENCE, bytes),
        )?;
        Ok(Started { recorded: Recorded { writer: record.writer, head }, started: record, running })
    }

    /// The same, and fails unless enough stores hold the record: nobody can begin again in secret.
    pub async fn start_durably(&self, draft: Draft, scratch: Option<&Path>) -> Result<Started, Failure> {
        let action = draft.action;
        let started = self.start(draft, scratch)?;
        let shipped = self.ship().await;
        if shipped.holds(started.recorded.head.number) >= self.quorum() {
            return Ok(started);
        }
        let why = shipped.reasons();
        let at = self.host.world.now();
        self.end(started, Draft::new(action, Verdict::Refused, at))?;
        Err(Failure::new(Code::Store, format!("the start of the {action} is not on enough stores"))
            .cause(why)
            .safe(format!("the {action} did not begin; its start and its end are recorded on this host"))
            .next_step("bring the stores back, then run the same command again"))
    }

    /// Records how something ended.
    pub fn end(&self, started: Started, draft: Draft) -> Result<Recorded, Failure> {
        let mut draft = Draft { started_at: started.started.started_at, ..draft };
        if draft.subjects.is_empty() {
            draft.subjects = started.started.subjects.clone();
            draft.subjects.iter_mut().for_each(|subject| subject.verdict = draft.verdict);
        }
        let recorded = self.append_end(&draft, started.recorded.writer, started.recorded.head.number)?;
        started.running.forget();
        Ok(recorded)
    }

    /// Closes a start. Where its chain was given up meanwhile, nothing can follow it there: the new one records the whole,
    /// and its body says which start that closes.
    fn append_end(&self, draft: &Draft, writer: WriterId, start: u64) -> Result<Recorded, Failure> {
        self.append_as(|chain| {
            if chain.writer == writer {
                return self.record_of(chain, draft, Phase::End, Some(start));
            }
            let mut draft = draft.clone();
            let closes = serde_json::Value::from(format!("{writer}/{start}"));
            match draft.result.as_object_mut() {
                Some(result) => drop(result.insert("closes".to_owned(), closes)),
                None => draft.result = serde_json::json!({ "closes": closes }),
            }
            self.record_of(chain, &draft, Phase::Whole, None)
        })
    }

    /// Closes what processes of this host began and never ended, and removes the plaintext that they left.
    pub fn close_dead(&self) -> Result<Vec<Aborted>, Failure> {
        self.leave_behind()?;
        let mut closed = Vec::new();
        for (running, lock) in self.journal.dead() {
            let scratch = running.scratch.filter(|scratch| scratch.is_dir());
            if let Some(scratch) = &scratch {
                restore::remove_directory(scratch).map_err(|error| {
                    Failure::new(Code::Failed, format!("cannot remove {}", scratch.display()))
                        .cause(error)
                        .safe("it holds plaintext that an interrupted command left")
                        .next_step(format!("rm -r {}", scratch.display()))
                })?;
            }
            let chain = self.journal.chain().filter(|chain| chain.writer == running.writer);
            let started = self.journal.read(running.writer, running.number).map(|(record, _)| record);
            // Of a chain that was given up, all that some store lacked lies here.
            let is_recorded = chain.map_or(started.is_some(), |chain| chain.number() >= running.number);
            if is_recorded {
                let mut draft = Draft::new(Action::Restore, Verdict::Aborted, self.host.world.now());
                if let Some(started) = started {
                    draft.action = started.action;
                    draft.started_at = started.started_at;
                    draft.subjects = started.subjects;
                    draft.subjects.iter_mut().for_each(|subject| subject.verdict = Verdict::Aborted);
                    draft.measured = started.measured;
                }
                self.append_end(&draft, running.writer, running.number)?;
                closed.push(Aborted { number: running.number, scratch });
            }
            lock.forget();
        }
        Ok(closed)
    }

    /// Records what the host works with where that is not what its chain says.
    fn note_configuration(&self) -> Result<(), Failure> {
        let is_noted = |chain: &Chain| {
            chain.configuration_sha256 == Some(self.configuration.sha256)
                && chain.min_stores == self.configuration.min_stores
        };
        if self.journal.chain().as_ref().is_some_and(is_noted) {
            return Ok(());
        }
        let mut draft = Draft::new(Action::Configuration, Verdict::Passed, self.host.world.now());
        draft.control = Some(Control::Configuration {
            sha256: self.configuration.sha256,
            stores: self.configuration.stores.clone(),
            recipients: self.configuration.recipients.clone(),
            policies: self.configuration.policies.clone(),
            min_stores: self.configuration.min_stores.clone(),
        });
        draft.result = serde_json::json!({ "configuration": self.host.configuration });
        self.append(draft, Phase::Whole, None).map(drop)
    }

    fn append(&self, draft: Draft, phase: Phase, closes: Option<u64>) -> Result<Recorded, Failure> {
        self.append_as(|chain| self.record_of(chain, &draft, phase, closes))
    }

    fn append_as(&self, make: impl FnOnce(&Chain) -> (Record, Vec<u8>)) -> Result<Recorded, Failure> {
        let sign = |bytes: &[u8]| self.host.key.sign(signature::EVIDENCE, bytes);
        let (record, head) = self.journal.append(&self.host.world, make, sign)?;
        Ok(Recorded { writer: record.writer, head })
    }

    fn record_of(&self, chain: &Chain, draft: &Draft, phase: Phase, closes: Option<u64>) -> (Record, Vec<u8>) {
        let body = self.seal(draft);
        let mut subjects = draft.subjects.clone();
        for subject in &mut subjects {
            let policy = self.configuration.policies.get(&subject.source);
            subject.policy_sha256 = subject.policy_sha256.or(policy.copied());
        }
        let record = Record {
            format: crate::core::evidence::FORMAT.to_owned(),
            repository: self.host.repository.id,
            writer: chain.writer,
            number: chain.number() + 1,
            previous: chain.head.map(|head| head.sha256),
            seen: self.seen(chain.writer, draft.seen),
            acknowledged: chain.acknowledged.clone(),
            signer: self.host.key.fingerprint().to_string(),
            action: draft.action,
            phase,
            closes,
            verdict: draft.verdict,
            started_at: draft.started_at,
            recorded_at: self.host.world.now(),
            subjects,
            measured: draft.measured.clone(),
            control: draft.control.clone(),
            body: BodyRef { size: body.len() as u64, sha256: format::sha256(&body) },
        };
        (record, body)
    }

    /// Sealed to the custodians, and to this host's own catalogue key: who runs the host knows what it did.
    fn seal(&self, draft: &Draft) -> Vec<u8> {
        let Invocation { host, os_user, login_user, reason, command_line } = self.host.world.invocation();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let body = Body { host, os_user, login_user, reason, version, command_line, result: draft.result.clone() };
        let recipients = match &self.host.catalogue_key {
            Some(key) => self.host.recipients.with(&key.recipients),
            None => self.host.recipients.clone(),
        };
        seal_small(&recipients, &evidence_format::body_to_bytes(&body)).bytes.to_vec()
    }

    /// What was last read of the other writers; and what is known of one besides.
    fn seen(&self, writer: WriterId, known: Option<SeenHead>) -> Vec<SeenHead> {
        let mut heads = control::cached(&self.host.repository, &self.journal).heads;
        if let Some(SeenHead { writer, number, sha256 }) = known {
            let head = heads.entry(writer).or_insert(ChainHead { number, sha256 });
            if number > head.number {
                *head = ChainHead { number, sha256 };
            }
        }
        let others = heads.into_iter().filter(|(other, _)| *other != writer);
        others.map(|(writer, head)| SeenHead { writer, number: head.number, sha256: head.sha256 }).collect()
    }
}
