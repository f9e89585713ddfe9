//! A drill: a restore that is tried out, timed, checked, and proven by records that are signed before it begins and
//! after it has ended.
//!
//! The order is the point. The start, with the moment of the declared disaster, is on enough stores before anything of
//! the snapshot is fetched, so that nobody can try in secret until it works; every start gets an end, whatever comes
//! of it. Read `drill` below, then `attempt` (what is timed), `gather`, `place` and `limits`.

mod attempt;
mod gather;
mod limits;
mod lost;
mod phases;
mod place;

use super::{
    cancel::Cancellation,
    evidence::{Recorder, Started, deeds},
    host::Host,
    progress::{Progress, Unit},
};
use crate::{
    config::{IdentityInput, Settings},
    core::{
        evidence::{Action, Draft, Measured, Subject, Verdict as RecordVerdict},
        failure::{Code, Failure},
        id::SourceName,
        plan::drill::verdict_of_failure,
        policy::Policy,
        result::{CheckStatus, DrillEvidence, DrillResult, DrillSchema, DrillScratch, PlanResult, PlanSchema, Verdict},
        time::Timestamp,
    },
    world::Stopwatch,
};
use attempt::Attempt;
use gather::Gathered;
use place::Place;
use std::{path::PathBuf, time::Duration};

/// How long the end of a drill that was interrupted may take to the stores; the next command ships what they lack.
const INTERRUPTED_SHIPPING_MAX: Duration = Duration::from_secs(2);

/// As many objects that were gone round are named; the rest are counted.
const WENT_ROUND_MAX: usize = 1_000;

/// What to try out.
#[derive(Clone, Debug)]
pub struct DrillRequest {
    /// The source.
    pub source: SourceName,
    /// The moment at which the source is declared lost; drawn at random where it is not given.
    pub disaster_at: Option<Timestamp>,
    /// The directory below which the plaintext is written for a while.
    pub scratch: Option<PathBuf>,
    /// A new or empty directory to restore into, where the plaintext is to stay.
    pub to: Option<PathBuf>,
    /// Whether the plaintext stays.
    pub keep: bool,
    /// The store that everything is read from which it can give; drawn at random where it is not named, so that in time
    /// each one is proven.
    pub store: Option<String>,
    /// Where the identity comes from that opens the snapshot.
    pub identity: IdentityInput,
}

/// A drill that is on record.
#[derive(Clone, Debug)]
pub struct Drilled {
    /// What it came to.
    pub result: DrillResult,
    /// Why nothing came back, where that is so.
    pub failure: Option<Failure>,
    /// What the operator should know.
    pub notes: Vec<String>,
}

impl DrillRequest {
    /// Whether the plaintext stays: a directory that the operator names is never cleared.
    fn keeps(&self) -> bool {
        self.keep || self.to.is_some()
    }
}

impl Drilled {
    /// The exit code, as a monitor reads it; an interruption keeps its own.
    pub fn code(&self) -> Code {
        match &self.failure {
            Some(Failure { code: code @ (Code::Interrupted | Code::Terminated), .. }) => *code,
            _ => self.result.code(),
        }
    }
}

/// The policy of a source, where it is configured here.
pub fn configured_policy<'a>(settings: &'a Settings, source: &SourceName) -> Option<&'a Policy> {
    settings.source(source.as_str()).map(|source| settings.policy(source))
}

/// Tries out a restore. A failure means that it never began; what went wrong later is in the result.
pub async fn drill(
    host: &Host,
    settings: &Settings,
    request: &DrillRequest,
    progress: &dyn Progress,
    cancellation: &Cancellation,
) -> Result<Drilled, Failure> {
    refuse_future(host, request)?;
    refuse_unknown_store(host, request)?;
    let place = Place::choose(host, settings, request)?;
    let recorder = Recorder::new(host, settings);
    let notes = recorder.close_dead()?.iter().map(deeds::aborted_note).collect();
    progress.begin("reading the catalogue", None, Unit::Objects);
    let gathered = tokio::select! {
        gathered = gather::gather(host, settings, request) => gathered,
        () = cancellation.cancelled() => return Err(stopped(cancellation)),
    };
    // A name that was mistyped is no drill, whether it is the source's or that of the identity's file.
    let gathered = match gathered {
        Err(failure) if matches!(failure.code, Code::Usage | Code::NoKey) => return Err(failure),
        gathered => gathered,
    };
    let mut drill = Drill::declared(host, settings, request, place, gathered, notes);
    progress.begin("recording the start", None, Unit::Items);
    let started = recorder.start_durably(drill.start_draft(), Some(&drill.place.unfinished)).await?;
    drill.perform(progress, cancellation).await;
    progress.begin("recording the end", None, Unit::Items);
    drill.end(&recorder, started).await
}

/// Says what a drill would do; writes nothing, and draws no moment.
pub async fn plan(host: &Host, settings: &Settings, request: &DrillRequest) -> Result<PlanResult, Failure> {
    refuse_future(host, request)?;
    refuse_unknown_store(host, request)?;
    let place = Place::choose(host, settings, request)?;
    let gathered = gather::gather(host, settings, request).await?;
    let policy = configured_policy(settings, &request.source);
    let mut steps = gathered.steps(request);
    steps.insert(1, format!("record the start on {} stores or more", host.repository.control_write_quorum()));
    steps.push(format!("restore into {}", place.target.display()));
    steps.push(match policy.map(|policy| policy.assertions.len()) {
        Some(number) => format!("run the source's own checks and {number} assertions of the policy"),
        None => {
            "run the source's own checks and the assertions of the policy that was kept with the snapshot".to_owned()
        }
    });
    steps.push(if request.keeps() { "keep what was restored" } else { "remove what was restored" }.to_owned());
    steps.push("record the end".to_owned());
    Ok(PlanResult { schema: PlanSchema, command: "drill".to_owned(), steps })
}

fn refuse_future(host: &Host, request: &DrillRequest) -> Result<(), Failure> {
    let now = host.world.now();
    match request.disaster_at {
        Some(moment) if moment > now => Err(Failure::new(Code::Usage, format!("{moment} lies in the future"))
            .cause(format!("this host's clock says {now}; a disaster is declared for a moment that has been"))
            .safe("nothing was read or changed")
            .next_step(format!("name an earlier moment, or leave --disaster-at out: recoup drill {}", request.source))),
        _ => Ok(()),
    }
}

fn refuse_unknown_store(host: &Host, request: &DrillRequest) -> Result<(), Failure> {
    let known: Vec<&str> = host.repository.stores.iter().map(|store| store.name()).collect();
    match &request.store {
        Some(name) if !known.contains(&name.as_str()) => {
            Err(Failure::new(Code::Usage, format!("there is no store {name}"))
                .cause(format!("the configuration has: {}", known.join(", ")))
                .safe("nothing was read or changed")
                .next_step(format!("name one of these, or leave --store out: recoup drill {}", request.source)))
        }
        _ => Ok(()),
    }
}

fn stopped(cancellation: &Cancellation) -> Failure {
    cancellation.check().err().unwrap_or_else(|| Failure::internal("the drill was stopped though nobody asked for it"))
}

/// A drill under way.
struct Drill<'a> {
    host: &'a Host,
    settings: &'a Settings,
    request: &'a DrillRequest,
    place: Place,
    gathered: Result<Gathered, Failure>,
    disaster_at: Timestamp,
    drawn_at_random: bool,
    started_at: Timestamp,
    attempt: Attempt,
    failure: Option<Failure>,
    notes: Vec<String>,
}

impl<'a> Drill<'a> {
    /// Declares the disaster. Also where nothing can be restored: what was tried is on record all the same.
    fn declared(
        host: &'a Host,
        settings: &'a Settings,
        request: &'a DrillRequest,
        place: Place,
        gathered: Result<Gathered, Failure>,
        notes: Vec<String>,
    ) -> Self {
        let started_at = host.world.now();
        let drawn = gathered.as_ref().ok().filter(|found| found.window.is_some()).map(|found| found.disaster_at);
        Drill {
            host,
            settings,
            request,
            place,
            disaster_at: drawn.or(request.disaster_at).unwrap_or(started_at),
            drawn_at_random: drawn.is_some(),
            gathered,
            started_at,
            attempt: Attempt::default(),
            failure: None,
            notes,
        }
    }

    fn subject(&self, verdict: RecordVerdict) -> Subject {
        let chosen = self.gathered.as_ref().ok().and_then(|gathered| gathered.chosen.as_ref());
        let (snapshot, inventory_sha256) = match (&self.attempt.located, chosen) {
            (Some(located), _) => (Some(located.id()), Some(located.committed().sha256)),
            (None, Some(chosen)) => (Some(chosen.id), Some(chosen.sha256)),
            (None, None) => (None, None),
        };
        let policy_sha256 = self.policy().and_then(|policy| policy.sha256);
        Subject { snapshot, inventory_sha256, policy_sha256, ..Subject::new(self.request.source.clone(), verdict) }
    }

    /// The policy that it is judged by, as soon as that is known.
    fn policy(&self) -> Option<&Policy> {
        configured_policy(self.settings, &self.request.source).or(self.attempt.kept_policy.as_ref())
    }

    fn measured(&self, result: Option<&DrillResult>) -> Measured {
        Measured {
            disaster_at: self.disaster_at,
            drawn_at_random: self.drawn_at_random,
            rpo_seconds: result.and_then(|result| result.rpo_seconds),
            rto_seconds: result.and_then(|result| result.rto_seconds),
            stores_used: result.map(|result| result.stores_used.clone()).unwrap_or_default(),
        }
    }

    /// The store that is asked first for everything.
    fn read_first(&self) -> Option<&str> {
        self.gathered.as_ref().ok()?.read_first()
    }

    fn start_draft(&self) -> Draft {
        let window = self.gathered.as_ref().ok().and_then(|gathered| gathered.window);
        let window = window.map(|window| serde_json::json!({ "from": window.from, "until": window.until }));
        Draft {
            subjects: vec![self.subject(RecordVerdict::Pending)],
            measured: Some(self.measured(None)),
            result: serde_json::json!({
                "drawn_from": window,
                "restored_into": self.place.target.display().to_string(),
                "read_first": self.read_first(),
            }),
            ..Draft::new(Action::Drill, RecordVerdict::Pending, self.started_at)
        }
    }

    /// What is timed begins here: the start is on enough stores.
    async fn perform(&mut self, progress: &dyn Progress, cancellation: &Cancellation) {
        let running = Stopwatch::start();
        let outcome = match &self.gathered {
            Err(failure) => Err(failure.clone()),
            Ok(gathered) => {
                let trial = attempt::Trial {
                    settings: self.settings,
                    request: self.request,
                    gathered,
                    target: &self.place.target,
                    disaster_at: self.disaster_at,
                };
                tokio::select! {
                    outcome = self.attempt.perform(&trial, progress) => outcome,
                    () = cancellation.cancelled() => Err(stopped(cancellation)),
                }
            }
        };
        self.attempt.phases.end();
        match outcome {
            Ok(()) => {
                self.attempt.rto_seconds = Some(running.seconds());
                // No part of coming back.
                progress.begin("counting what was lost", None, Unit::Items);
                if let Ok(gathered) = &self.gathered {
                    let counting = lost::transactions(self.host, self.settings, self.request, gathered, &self.attempt);
                    let lost = tokio::select! {
                        lost = counting => lost,
                        () = cancellation.cancelled() => None,
                    };
                    self.attempt.lost_transactions = lost;
                }
            }
            Err(failure) => self.failure = Some(self.explained(failure)),
        }
    }

    /// The failure of a restore, with a next step for somebody who wanted to try one out.
    fn explained(&self, failure: Failure) -> Failure {
        let source = &self.request.source;
        match failure.code {
            Code::Damaged => {
                failure.next_step("recoup verify --all shows what is damaged; recoup copy heals what it can")
            }
            Code::NoRecoveryPoint | Code::Refused if self.attempt.located.is_none() => {
                failure.next_step(format!("recoup list {source}"))
            }
            Code::NoRecoveryPoint => failure.next_step(format!("recoup drill {source}")),
            Code::Refused if !self.attempt.published => {
                failure.next_step(format!("name a directory with more room: recoup drill {source} --scratch DIR"))
            }
            Code::Interrupted | Code::Terminated => failure
                .safe("what was restored is removed, and the drill is on record as aborted")
                .next_step(format!("recoup drill {source}")),
            _ => failure,
        }
    }

    /// Removes the plaintext, says what it all came to, and records the end.
    async fn end(mut self, recorder: &Recorder, started: Started) -> Result<Drilled, Failure> {
        let ended_at = self.host.world.now();
        let scratch = self.clear();
        let mut result = self.result(&started, ended_at, scratch);
        let verdict = result.record_verdict();
        let draft = Draft {
            subjects: vec![self.subject(verdict)],
            measured: Some(self.measured(Some(&result))),
            result: serde_json::to_value(&result).unwrap_or_default(),
            ..Draft::new(Action::Drill, verdict, self.started_at)
        };
        let writer = started.recorded.writer;
        let recorded = recorder.end(started, draft)?;
        result.evidence.end = (recorded.writer == writer).then_some(recorded.head.number);
        let shipping = deeds::shipping_notes(recorder);
        let interrupted = result.verdict == Verdict::Aborted;
        let shipped = match interrupted {
            true => tokio::time::timeout(INTERRUPTED_SHIPPING_MAX, shipping).await.unwrap_or_default(),
            false => shipping.await,
        };
        self.notes.extend(shipped);
        Ok(Drilled { result, failure: self.failure, notes: self.notes })
    }

    /// Removes what was restored, unless it is to stay. `None` where nothing was written.
    fn clear(&mut self) -> Option<DrillScratch> {
        let published = self.attempt.published;
        self.attempt.located.as_ref()?;
        let removed = if self.request.keeps() && published {
            let directory = self.place.target.display();
            self.attempt.exceptions.push(format!("the restored plaintext was kept in {directory}"));
            false
        } else {
            self.place.clear().map_err(|error| self.notes.push(self.place.left(&error))).is_ok()
        };
        if !removed && !self.request.keeps() {
            let directory = self.place.target.display();
            self.attempt.exceptions.push(format!("the restored plaintext could not be removed from {directory}"));
        }
        Some(DrillScratch { directory: self.place.target.display().to_string(), removed })
    }

    /// Whoever names a store wants to know what that one can do.
    fn note_other_stores(&mut self) {
        let Some(named) = &self.request.store else { return };
        let others: Vec<String> = self.attempt.stores_used().into_iter().filter(|store| store != named).collect();
        if !others.is_empty() {
            self.attempt
                .exceptions
                .push(format!("not everything was read from {named}: also from {}", others.join(", ")));
        }
    }

    fn result(&mut self, started: &Started, ended_at: Timestamp, scratch: Option<DrillScratch>) -> DrillResult {
        self.attempt.note_exceptions(self.host, self.gathered.as_ref().ok());
        self.note_other_stores();
        let limits = limits::limits(self);
        let policy = self.policy().cloned().unwrap_or_default();
        let attempt = &self.attempt;
        let subject = self.subject(RecordVerdict::Pending);
        let read_started_at = attempt.located.as_ref().map(|located| located.committed().inventory.read_started_at);
        let came_back = attempt.rto_seconds.is_some();
        // Where nothing was committed after what came back, nothing is missing.
        let until = attempt.recovered_until.or(read_started_at);
        let until = if attempt.lost_transactions == Some(0) { Some(self.disaster_at) } else { until };
        let lost = until.map(|moment| self.disaster_at.seconds_since(moment)).filter(|_| came_back);
        let verdict = match &self.failure {
            Some(failure) => verdict_of_failure(failure.code),
            None => attempt.verdict(lost.unwrap_or(0.0), &policy),
        };
        let mut went_round = attempt.went_round();
        let mut exceptions = attempt.exceptions.clone();
        if went_round.len() > WENT_ROUND_MAX {
            exceptions
                .push(format!("damage in {} places was gone round; {WENT_ROUND_MAX} are named", went_round.len()));
            went_round.truncate(WENT_ROUND_MAX);
        }
        DrillResult {
            schema: DrillSchema,
            source: self.request.source.clone(),
            verdict,
            rpo_seconds: lost,
            rto_seconds: attempt.rto_seconds,
            lost_transactions: attempt.lost_transactions,
            rpo_policy_seconds: policy.rpo.map(|limit| limit.as_secs()),
            rto_policy_seconds: policy.rto.map(|limit| limit.as_secs()),
            disaster_at: self.disaster_at,
            drawn_at_random: self.drawn_at_random,
            started_at: self.started_at,
            ended_at,
            snapshot: subject.snapshot,
            inventory_sha256: subject.inventory_sha256,
            read_started_at,
            policy_sha256: subject.policy_sha256,
            files: attempt.files,
            bytes: attempt.bytes,
            read_first: self.read_first().map(str::to_owned),
            stores_used: attempt.stores_used(),
            phases: attempt.phases.list(),
            checks: attempt.checks.clone(),
            went_round,
            exceptions,
            limits,
            failure: self.failure.as_ref().map(ToString::to_string),
            evidence: DrillEvidence { writer: started.recorded.writer, start: started.recorded.head.number, end: None },
            scratch,
        }
    }
}

/// The checks that did not hold.
pub fn failed_checks(result: &DrillResult) -> impl Iterator<Item = &crate::core::result::CheckResult> {
    result.checks.iter().filter(|check| check.status == CheckStatus::Failed)
}
