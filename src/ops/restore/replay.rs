//! The log after a snapshot: planned and proven to be there before anything is written, then made reachable for the
//! server that will replay it.

use super::{Manifest, RestoreRequest, proof::Proof, select, write::OpenFiles};
use crate::{
    core::{
        failure::{Code, Failure, shell_word},
        fingerprint::Replayed,
        inventory::Inventory,
        log::{LogEntry, LogFile, LogRange, LogRecord, Lsn, SegmentName, ServerTime},
        plan::log::{Gap, Goal, LogFiles, LogPlan, PlanEnd, TimelineHistory, Wanted, plan},
        target::{Target, Timeline},
        time::Timestamp,
    },
    format::seal::Identities,
    ops::archive,
    repository::{Repository, catalogue::Catalogue, fetch::Detours},
    sources::postgres::{
        settings::{Recovery, RecoveryEnd, freed_from_places},
        wal::read_history,
    },
    stores::LARGE_BYTES,
};
use std::{collections::BTreeSet, path::Path, sync::Arc};

/// The plan, at the top of what is restored.
const PLAN: &str = "recoup-plan.json";
/// The folder of the files of the log that were opened beforehand.
const LOG: &str = "recoup-log";
/// From it the server makes the links to tablespaces that are not in its data directory.
const TABLESPACE_MAP: &str = "tablespace_map";
const AUTO_CONF: &str = "postgresql.auto.conf";
const CONF: &str = "postgresql.conf";

/// Restored files that do not stay as the snapshot has them.
pub const AMENDED: &[&str] = &[AUTO_CONF, CONF];

/// How the restored server gets at its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LogAccess {
    /// The planned files are opened into the restored directory: the server needs neither key nor store.
    #[default]
    Beforehand,
    /// It runs this command, which takes the plan as `--plan FILE`.
    Command(String),
}

/// What a server is to replay.
pub(super) struct Replay {
    plan: LogPlan,
    /// What the snapshot needs of it.
    range: LogRange,
    /// Where the snapshot's timeline is left for a newer one.
    leaves_at: Option<Lsn>,
    /// What the stores have now, also of what does not count; only where something does not.
    files: Option<LogFiles>,
    recovery: Recovery,
    access: LogAccess,
    notes: Vec<String>,
    warnings: Vec<String>,
}

/// Plans the replay of a snapshot's log, if it has one.
pub(super) async fn prepare(
    repository: &Repository,
    catalogue: &Catalogue,
    request: &RestoreRequest,
    inventory: &Inventory,
    identities: &Arc<Identities>,
) -> Result<Option<Replay>, Failure> {
    let Some(range) = &inventory.log else { return Ok(None) };
    let survey = repository.survey_log(catalogue).await;
    let records = || survey.records.values().map(|held| &held.signed.record);
    // What the snapshot itself needs was there before it, whatever the clock of the host that shipped it said.
    let as_of = request.as_of.filter(|as_of| inventory.created_at <= *as_of);
    let needed: BTreeSet<SegmentName> = range.segments().collect();
    let is_needed = |entry: &LogEntry| matches!(entry.file, LogFile::Segment(name) if needed.contains(&name));
    let counts = |record: &&LogRecord| {
        as_of.is_none_or(|as_of| record.created_at <= as_of) || record.files.iter().any(is_needed)
    };
    let files = LogFiles::of(range.history.system, records().filter(counts));
    let goal = goal(request, range);
    let mut gap = Gap::Unrelated;
    let detours = &catalogue.detours;
    for timeline in timelines(request, range, &files) {
        let Ok(history) = history(repository, request, &files, timeline, identities, detours).await? else { continue };
        let wanted = Wanted {
            from: range.history,
            start: range.start,
            consistent_at: range.stop,
            timeline,
            goal: goal.clone(),
            segment_bytes: range.segment_bytes,
        };
        let planned = match plan(repository.id, &request.source, &wanted, history.as_ref(), &files) {
            Err(Gap::EndsBefore { .. }) if request.as_of.is_some() => {
                let all = Wanted { goal: Goal::Latest, ..wanted };
                plan(repository.id, &request.source, &all, history.as_ref(), &files).map(|plan| {
                    let end = PlanEnd { passes_target: false, ..plan.end };
                    LogPlan { end, ..plan }
                })
            }
            planned => planned,
        };
        match planned {
            Ok(plan) => {
                let stores = survey.given_by(&plan.files);
                stores.into_iter().for_each(|at| detours.note_given(repository.stores[at].name()));
                let (files, goal, plan) = (&files, &goal, plan);
                let proof = Proof { repository, request, inventory, range, goal, files, plan: &plan };
                proof.every_file_is_there(detours).await?;
                if let Some(found) = proof.pieces_agree(identities, detours).await? {
                    gap = found;
                    break;
                }
                let warnings = proof.nothing_is_overrun(identities, detours).await?;
                let mut replay = Replay { warnings, ..Replay::of(request, plan, range, history.as_ref()) };
                replay.files = request.as_of.map(|_| LogFiles::of(range.history.system, records()));
                if !survey.refused.is_empty() {
                    let count = survey.refused.len();
                    replay
                        .notes
                        .push(format!("{count} records of the log were not accepted: recoup verify names them"));
                }
                return Ok(Some(replay));
            }
            // Another timeline may have grown out of the snapshot's history.
            Err(Gap::Unrelated) => {}
            Err(found) => {
                gap = found;
                break;
            }
        }
    }
    Err(no_plan(request, inventory, &gap))
}

/// Up to where the log is needed.
fn goal(request: &RestoreRequest, range: &LogRange) -> Goal {
    match &request.target {
        Target::Latest | Target::Transaction(_) => Goal::Latest,
        Target::Time(moment) => Goal::Time(ServerTime::new(moment.as_datetime())),
        Target::Position(at) => Goal::At(*at),
        Target::Point(name) => Goal::Point(name.clone()),
        Target::Immediate | Target::Snapshot(_) | Target::SnapshotId(_) => Goal::At(range.stop),
    }
}

/// The timelines that may be followed, the newest first; what is asked for by its snapshot stays on its own.
fn timelines(request: &RestoreRequest, range: &LogRange, files: &LogFiles) -> Vec<u32> {
    let own = range.history.timeline;
    let stays = matches!(request.target, Target::Immediate | Target::Snapshot(_) | Target::SnapshotId(_));
    match request.server.timeline {
        Timeline::Current => vec![own],
        Timeline::Number(number) => vec![number],
        Timeline::Latest => {
            let newer = files.timelines().into_iter().rev().filter(|timeline| !stays && *timeline > own);
            newer.chain([own]).collect()
        }
    }
}

/// What a timeline grew out of; `Err` where its history is not there, which only the snapshot's own may lack.
async fn history(
    repository: &Repository,
    request: &RestoreRequest,
    files: &LogFiles,
    timeline: u32,
    identities: &Arc<Identities>,
    detours: &Detours,
) -> Result<Result<Option<TimelineHistory>, ()>, Failure> {
    if timeline == 1 {
        return Ok(Ok(None));
    }
    let Some((object, _)) = files.get(LogFile::History(timeline)) else { return Ok(Err(())) };
    let bytes = archive::open_file(repository, identities, &request.source, object, detours).await?;
    let history = read_history(&bytes, timeline).map_err(|error| {
        Failure::new(Code::Damaged, format!("{} of {} cannot be read", object.file, request.source)).cause(error)
    })?;
    Ok(Ok(Some(history)))
}

fn no_plan(request: &RestoreRequest, inventory: &Inventory, gap: &Gap) -> Failure {
    let command = |target: &str| select::command(request, target);
    let own = format!("snapshot:{}", inventory.seq);
    let nearest = match gap {
        Gap::EndsBefore { last_commit: Some(last), .. } => {
            format!("the nearest before: {}   or   {}", command(&last.to_string()), command(&own))
        }
        _ => format!("the nearest before: {}", command(&own)),
    };
    Failure::new(Code::NoRecoveryPoint, format!("the log of {} does not lead to {}", request.source, request.target))
        .cause(gap)
        .safe("nothing was written")
        .next_step(nearest)
}

impl Replay {
    fn of(request: &RestoreRequest, plan: LogPlan, range: &LogRange, history: Option<&TimelineHistory>) -> Self {
        let mut notes = Vec::new();
        let passes = plan.end.passes_target;
        let end = request.server.standby.is_none().then(|| match &request.target {
            Target::Latest => RecoveryEnd::Log,
            Target::Immediate | Target::Snapshot(_) | Target::SnapshotId(_) => RecoveryEnd::Immediate,
            Target::Transaction(number) => RecoveryEnd::Transaction(*number),
            Target::Point(name) => RecoveryEnd::Point(name.clone()),
            Target::Time(moment) if passes => RecoveryEnd::Time(moment.as_datetime()),
            Target::Position(at) if passes => RecoveryEnd::Position(*at),
            Target::Time(_) | Target::Position(_) => {
                notes.push(format!("the log shows nothing after {}: all of it is replayed", request.target));
                RecoveryEnd::Log
            }
        });
        let last = plan.end.last_commit.map_or_else(String::new, |last| format!(", its last commit is of {last}"));
        let goes_on = if end.is_none() { ", and what comes after them" } else { "" };
        let files = match plan.served().len() {
            1 => "1 file of the log is replayed".to_owned(),
            count => format!("{count} files of the log are replayed"),
        };
        notes.push(format!("{files}, up to {}{last}{goes_on}", plan.end.at));
        if let (LogAccess::Command(_), [first, ..]) = (&request.log_access, &request.log_variables[..]) {
            notes.push(format!(
                "the server runs restore_command in its own environment, which must have {}: start it where they are set \
                 (a service manager takes nothing from this shell), or restore with --fetch-log; without {first} it finds \
                 no log and does not start",
                request.log_variables.join(", ")
            ));
        }
        let recovery = Recovery {
            end,
            timeline: plan.end.history.timeline,
            restore_command: restore_command(request),
            primary_conninfo: request.server.standby.as_ref().and_then(|standby| standby.primary_conninfo.clone()),
            archives: false,
            in_place_tablespaces: false,
        };
        let ancestors = history.map_or(&[][..], |history| &history.ancestors);
        let leaves_at = ancestors.iter().find(|ancestor| ancestor.timeline == range.history.timeline);
        Replay {
            plan,
            range: range.clone(),
            leaves_at: leaves_at.map(|ancestor| ancestor.until),
            files: None,
            recovery,
            access: request.log_access.clone(),
            notes,
            warnings: Vec::new(),
        }
    }

    /// What the stores have of the log now, where that is more than what counts.
    pub(super) fn files(&self) -> Option<&LogFiles> {
        self.files.as_ref()
    }

    /// What the snapshot needs of the log.
    pub(super) fn range(&self) -> &LogRange {
        &self.range
    }

    /// How far it goes, where it is to end at a moment.
    pub(super) fn replayed(&self, until: Timestamp) -> Replayed {
        Replayed { history: self.range.history, leaves_at: self.leaves_at, ends: self.plan.end.at, until }
    }

    /// Where it ends.
    pub(super) fn end(&self) -> &PlanEnd {
        &self.plan.end
    }

    /// What the operator should know.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What has its part in the exit code.
    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Bytes that it needs besides the snapshot's files.
    pub(super) fn bytes(&self) -> u64 {
        match self.access {
            LogAccess::Beforehand => self.plan.served().len() as u64 * self.plan.segment_bytes,
            LogAccess::Command(_) => 0,
        }
    }

    /// Opens the planned files beside the snapshot's, where the server is to find them there.
    pub(super) async fn fetch(
        &self,
        repository: &Repository,
        identities: &Arc<Identities>,
        files: &OpenFiles,
        detours: &Detours,
    ) -> Result<(), Failure> {
        if self.access != LogAccess::Beforehand {
            return Ok(());
        }
        files.make_top(LOG)?;
        for (file, parts) in self.plan.served() {
            let served = (file, parts.as_slice());
            let name = format!("{LOG}/{file}");
            if self.plan.segment_bytes > LARGE_BYTES {
                let output = Arc::new(files.create_top(&name)?);
                archive::serve_into(repository, identities, &self.plan, served, detours, &output).await?;
                files.finish_top(&name, &output)?;
            } else {
                let bytes = archive::open_served(repository, identities, &self.plan, served, detours).await?;
                files.put_top(&name, &bytes)?;
            }
        }
        files.sync_top(LOG)
    }

    /// Writes what the server needs to know. Returns what the operator should know.
    pub(super) fn amend(&self, files: &OpenFiles, manifest: &Manifest) -> Result<Vec<String>, Failure> {
        let text = |bytes: Option<Vec<u8>>| String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
        let in_place_tablespaces = manifest.layout.has_inner_tablespaces(&manifest.entries);
        if let Some(map) = manifest.layout.map() {
            files.put_top(TABLESPACE_MAP, map.as_bytes())?;
        }
        let recovery = Recovery { in_place_tablespaces, ..self.recovery.clone() };
        files.put_top(AUTO_CONF, recovery.auto_conf(&text(files.read_top(AUTO_CONF)?)).as_bytes())?;
        files.put_top(recovery.signal_file(), b"")?;
        // A standby goes beyond any plan.
        if self.recovery.end.is_some() {
            let plan = serde_json::to_vec(&self.plan).map_err(|error| Failure::internal(error.to_string()))?;
            files.put_top(PLAN, &plan)?;
        }
        let mut notes = vec!["archive_mode is off in the restored server, until somebody turns it on".to_owned()];
        if let Some(conf) = files.read_top(CONF)? {
            let (conf, taken_out) = freed_from_places(&text(Some(conf)));
            if !taken_out.is_empty() {
                files.put_top(CONF, conf.as_bytes())?;
                notes.push(format!("these settings were taken out of {CONF}: {}", taken_out.join("; ")));
            }
        }
        Ok(notes)
    }
}

/// The command, in which the server replaces `%f` and `%p`.
fn restore_command(request: &RestoreRequest) -> String {
    let word = |path: &Path| in_command(path.display());
    match &request.log_access {
        LogAccess::Beforehand => format!("cp {}/%f %p", word(&request.to.join(LOG))),
        LogAccess::Command(command) if request.server.standby.is_some() => command.clone(),
        LogAccess::Command(command) => format!("{command} --plan {}", word(&request.to.join(PLAN))),
    }
}

/// A word of a command of the server's, which would replace what begins with a percent sign.
pub fn in_command(text: impl std::fmt::Display) -> String {
    shell_word(text).replace('%', "%%")
}
