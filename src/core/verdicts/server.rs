//! Whether the server of a source gets rid of its log as it should, and has room for it.

use super::{Concerns, Findings, LITTLE_ROOM_BYTES, ServerState, SourceFacts, count, span};
use crate::core::{
    result::{FindingId, Severity},
    server::{LogDirectory, Rate, ServerFacts, Slot},
};

/// Without a promise, how many seconds a file may wait to be archived.
const WAIT_SECONDS: u64 = 600;
/// When a disk that fills deserves a look, and when it must be acted on, in seconds before it is full.
const FILLING_SECONDS: (f64, f64) = (24.0 * 3600.0, 4.0 * 3600.0);
/// Fewer free segments than these are none.
const FREE_SEGMENTS_MIN: u64 = 4;
/// A slot that nobody uses may keep so many segments: whoever reads from it may just be restarting.
const IDLE_SLOT_SEGMENTS: u64 = 4;
/// The share of what slots may keep, in percent, at which one deserves a look.
const SLOT_LAG_PERCENT: u64 = 75;

pub(super) fn judge(source: &SourceFacts, findings: &mut Findings) {
    let Some(state) = &source.server else { return };
    let directory = &state.watched.directory;
    let about = Concerns::source(&source.name);
    let mut trouble = None;
    let mut is_held = false;
    match &state.watched.server {
        Err(why) => {
            let message = format!("its server cannot be asked: {why}");
            let next_step = "start the server, or correct the url of the source; recoup doctor says more";
            findings.add(FindingId::SourceUnreachable, Severity::Critical, about, message, next_step);
        }
        Ok(server) => {
            if !server.in_recovery || server.archive_mode == "always" {
                judge_archiving(source, server, findings);
                trouble = server.archiver_trouble.as_deref();
            }
            if let Some(why) = trouble {
                let waiting = waiting_text(directory);
                let message = format!("{why}{waiting}");
                let next_step = format!(
                    "see the server's log for what its archive_command says; recoup archive push {} FILE says it, too",
                    source.name
                );
                findings.add(FindingId::ArchiveFailing, Severity::Critical, about, message, next_step);
            }
            is_held = judge_slots(source, server, directory, findings);
        }
    }
    let is_late = judge_backlog(source, directory, trouble.is_some(), findings);
    judge_room(source, state, is_late || is_held || trouble.is_some(), findings);
}

fn waiting_text(directory: &LogDirectory) -> String {
    match (directory.waiting, directory.oldest_seconds) {
        (0, _) => String::new(),
        (waiting, Some(age)) => {
            format!("; {} to be archived, the oldest for {}", files_wait(waiting), span(age as f64))
        }
        (waiting, None) => format!("; {} to be archived", files_wait(waiting)),
    }
}

fn files_wait(waiting: u64) -> String {
    format!("{} {}", count(waiting, "file"), if waiting == 1 { "waits" } else { "wait" })
}

/// Whether the server's settings bring its log here.
fn judge_archiving(source: &SourceFacts, server: &ServerFacts, findings: &mut Findings) {
    let arrives = source.log.as_ref().and_then(|log| log.last).map(|last| last.to_string());
    let message = if server.is_followed {
        return;
    } else if server.archive_mode == "off" {
        "archive_mode is off: nothing of its log is archived".to_owned()
    } else if server.archive_command.is_empty() && server.archive_library.is_empty() {
        "neither archive_command nor archive_library is set: its log waits for ever".to_owned()
    } else if server.archive_command.contains("archive push") && server.archive_library.is_empty() {
        return;
    } else if arrives.is_some() && arrives == server.last_archived {
        // By whatever way it goes, it arrives.
        return;
    } else if server.archive_library.is_empty() {
        "its archive_command does not call recoup archive push, and what it archived last is not in the stores"
            .to_owned()
    } else {
        format!(
            "its archive_library {} archives elsewhere: what it archived last is not in the stores",
            server.archive_library
        )
    };
    let next_step = format!(
        "set archive_mode = on and archive_command = 'recoup --config ... archive push {0} %p', or run recoup archive follow {0}",
        source.name
    );
    findings.add(FindingId::ArchiveOff, Severity::Critical, Concerns::source(&source.name), message, next_step);
}

/// Whether files wait too long; says whether they do.
fn judge_backlog(source: &SourceFacts, directory: &LogDirectory, is_failing: bool, findings: &mut Findings) -> bool {
    let Some(age) = directory.oldest_seconds else { return false };
    let rpo = source.policy.rpo.map(|rpo| rpo.as_secs());
    if age <= rpo.map_or(WAIT_SECONDS, |rpo| rpo / 2) {
        return false;
    }
    let is_broken = is_failing || rpo.is_some_and(|rpo| age > rpo);
    let severity = if is_broken { Severity::Critical } else { Severity::Warning };
    let promise = rpo.map_or_else(String::new, |rpo| format!("; {} may be lost", span(rpo as f64)));
    let message =
        format!("{} to be archived, the oldest for {}{promise}", files_wait(directory.waiting), span(age as f64));
    let next_step =
        "see the server's log for what its archive_command says; recoup doctor says what each store answers";
    findings.add(FindingId::ArchiveBacklog, severity, Concerns::source(&source.name), message, next_step);
    true
}

/// Whether there is room for the log, as long as it is kept.
fn judge_room(source: &SourceFacts, state: &ServerState, is_kept: bool, findings: &mut Findings) {
    let directory = &state.watched.directory;
    let Some(free) = directory.free_bytes else { return };
    let forecast = state.rate.seconds_to_fill(free).filter(|_| is_kept);
    let (notice, alarm) = FILLING_SECONDS;
    let is_full = free < FREE_SEGMENTS_MIN * directory.segment_bytes;
    let severity = if is_full || forecast.is_some_and(|seconds| seconds < alarm) {
        Severity::Critical
    } else if free < LITTLE_ROOM_BYTES || forecast.is_some_and(|seconds| seconds < notice) {
        Severity::Warning
    } else {
        return;
    };
    let when = match (forecast, state.rate) {
        (Some(seconds), Rate::ByBacklog(_)) => {
            format!(", full in about {} by the files that wait, if nothing is archived", span(seconds))
        }
        (Some(seconds), _) => format!(", full in about {} if nothing is archived or read", span(seconds)),
        (None, _) if !is_kept => ": nothing keeps the log from being removed now".to_owned(),
        (None, Rate::Unknown) => "; how fast it fills is not known before the next check".to_owned(),
        (None, _) => String::new(),
    };
    let message = format!("{} MiB are free where the server writes its log{when}", free >> 20);
    let next_step = "make room on that file system, or let the log go: archive it, drop slots that nobody uses";
    findings.add(FindingId::LogDiskFilling, severity, Concerns::source(&source.name), message, next_step);
}

/// Whether slots keep the log, or have lost it; says whether one that nobody uses keeps it.
fn judge_slots(source: &SourceFacts, server: &ServerFacts, directory: &LogDirectory, findings: &mut Findings) -> bool {
    let about = Concerns::source(&source.name);
    let mut is_held = false;
    for slot in &server.slots {
        let drop_it =
            format!("if nobody needs it: SELECT pg_drop_replication_slot('{}')", slot.name.replace('\'', "''"));
        if slot.wal_status == "lost" {
            let message = format!(
                "replication slot {} has lost the log that it needs: whoever reads from it cannot go on",
                slot.name
            );
            let next_step = format!("make the reader anew; {drop_it}");
            findings.add(FindingId::SlotLost, Severity::Critical, about, message, next_step);
            continue;
        }
        if let Some(message) = lag(slot, server.slots_keep_bytes) {
            let next_step = format!("bring the reader back; {drop_it}");
            findings.add(FindingId::SlotLag, Severity::Warning, about, message, next_step);
        }
        if !slot.is_active && slot.held_bytes >= IDLE_SLOT_SEGMENTS * directory.segment_bytes.max(1) {
            is_held = true;
            let limit = match server.slots_keep_bytes {
                Some(most) => format!("at most {} MiB are kept", most >> 20),
                None => "max_slot_wal_keep_size sets no limit".to_owned(),
            };
            let message = format!(
                "replication slot {} keeps {} MiB of the log and nobody reads from it; {limit}",
                slot.name,
                slot.held_bytes >> 20
            );
            findings.add(
                FindingId::SlotInactive,
                Severity::Warning,
                about,
                message,
                format!("bring the reader back; {drop_it}"),
            );
        }
    }
    is_held
}

/// Why a slot will soon have lost what it needs, if so.
fn lag(slot: &Slot, most: Option<u64>) -> Option<String> {
    let held = slot.held_bytes >> 20;
    if slot.wal_status == "unreserved" {
        return Some(format!("replication slot {} needs log that is removed at the next checkpoint", slot.name));
    }
    let most = most?;
    let is_near = u128::from(slot.held_bytes) * 100 >= u128::from(most) * u128::from(SLOT_LAG_PERCENT);
    (is_near && held > 0).then(|| {
        format!(
            "replication slot {} is {held} MiB behind, and no more than {} MiB are kept for it",
            slot.name,
            most >> 20
        )
    })
}
