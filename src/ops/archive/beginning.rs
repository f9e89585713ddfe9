//! The beginning of the last segment of a log, for a server that recovers to the end of it by a restore_command of its
//! own, without a plan.
//!
//! It stands under the segment's full name then, with nothing behind it: what reads it believes that the log ends there.
//! That is right only for a server that ends its recovery with it. A standby asks for the same segment again and again
//! until it is whole, and is never given less.

use super::{
    fetch::{Fetched, Fetching},
    large::{look_at, look_at_served},
};
use crate::{
    core::{
        failure::{Code, Failure},
        id::RunId,
        log::{HistoryId, LogFile, LogObject, SegmentName},
        plan::log::{FORMAT, LogFiles, LogPlan, PlanEnd},
    },
    format::seal::Identities,
    repository::{Repository, fetch::Detours, log::LogNames},
    sources::postgres::wal::Text,
    world::files::parent,
};
use std::{ops::Range, path::Path, sync::Arc};

/// How much of two files is compared at once.
const PART_BYTES: usize = 64 * 1024;

impl Fetching<'_> {
    /// Whether whoever asks ends its recovery where the log ends.
    pub(super) fn ends_with_the_log(&self) -> bool {
        let data = parent(parent(&self.request.target));
        data.join("recovery.signal").exists() && !data.join("standby.signal").exists()
    }

    /// Gives what there is of a segment that certainly is not there whole, where nothing comes after it. Where something
    /// does, the log has a gap, and does not end: a recovery that ended there would leave out what nobody gave up.
    pub(super) async fn beginning(&self, names: &LogNames, history: Option<HistoryId>) -> Result<Fetched, Failure> {
        let (LogFile::Segment(name), Some(history)) = (self.request.file, history) else { return Ok(Fetched::Absent) };
        let goes_on = |of: HistoryId, file: LogFile| of == history && matches!(file, LogFile::Segment(of) if of > name);
        if let Some((_, later, _)) = names.files().into_iter().find(|(of, file, _)| goes_on(*of, *file)) {
            let gap = format!("no store has it, and the log goes on with {later}");
            return Err(self.failed(&gap, Code::NoRecoveryPoint).next_step(format!(
                "recoup points {} shows the gap; recoup restore to a time before it recovers to there on purpose",
                self.request.source
            )));
        }
        let survey =
            self.records_of(names, &self.runs_of(names, |of, file| of == history && is_part(file, name))).await;
        if let Some(refused) = survey.refused.first() {
            let why = format!("a record of a part of it is not accepted: {}", refused.why);
            return Err(self.failed(&why, Code::Damaged));
        }
        let records = || survey.records.values().map(|held| &held.signed.record);
        let files = LogFiles::of(history.system, records());
        let (objects, facts) =
            files.beginning(name).map_err(|forked| self.failed(&forked.to_string(), Code::Refused))?;
        let (Some(segment_bytes), false) = (records().map(|record| record.segment_bytes).next(), objects.is_empty())
        else {
            return Ok(Fetched::Absent);
        };
        let end = PlanEnd {
            history,
            at: facts.ends.unwrap_or_default(),
            last_commit: facts.last_commit,
            passes_target: false,
        };
        let plan = LogPlan {
            format: FORMAT.to_owned(),
            repository: self.repository.id,
            source: self.request.source.clone(),
            segment_bytes,
            files: objects,
            end,
        };
        let detours = Detours::default();
        let spool = parent(&self.request.target);
        let forked = fork_of_pieces(self.repository, &self.identities, &plan, &files, &detours, spool).await;
        if forked.map_err(|failure| self.retold(failure))?.is_some() {
            return Err(self.failed("pieces of it were stored with different contents", Code::Refused));
        }
        let parts: Vec<&LogObject> = plan.files.iter().collect();
        self.serve(&plan, &parts).await
    }
}

/// Compares the pieces in a plan with those that other runs stored of the same segment. A follower that was started again
/// stored the same; another content is that of another server, and nobody here can tell which is right. What is large is
/// opened in the directory `spool`.
pub async fn fork_of_pieces(
    repository: &Repository,
    identities: &Arc<Identities>,
    plan: &LogPlan,
    files: &LogFiles,
    detours: &Detours,
    spool: &Path,
) -> Result<Option<(SegmentName, Vec<RunId>)>, Failure> {
    for (file, parts) in plan.served() {
        let (LogFile::Segment(name), Some(part)) = (file, parts.first()) else { continue };
        let others: Vec<&LogObject> = files.pieces(name).filter(|other| other.run != part.run).collect();
        if !matches!(part.file, LogFile::Piece(..)) || others.is_empty() {
            continue;
        }
        let served = (file, parts.as_slice());
        let opened = look_at_served(repository, identities, plan, served, detours, spool).await?;
        let written: usize = parts.iter().map(|part| part.bytes_raw as usize).sum();
        for other in others {
            let LogFile::Piece(_, span) = other.file else { continue };
            let from = (span.from as usize).min(written);
            let apart = Detours::default();
            let piece = match look_at(repository, identities, &plan.source, other, &apart, spool).await {
                Ok(piece) => piece,
                // One that cannot be read says nothing, and is not needed.
                Err(failure) if matches!(failure.code, Code::Damaged | Code::Store | Code::NoKey) => continue,
                Err(failure) => return Err(failure),
            };
            if !agree(&*opened.text(), from..written, &*piece.text()) {
                return Ok(Some((name, vec![part.run, other.run])));
            }
        }
    }
    Ok(None)
}

/// Whether a piece is what stands in that place of a segment, as far as both go.
fn agree(text: &dyn Text, place: Range<usize>, piece: &dyn Text) -> bool {
    let common = piece.length().min(place.len());
    (0..common).step_by(PART_BYTES).all(|at| {
        let bytes = PART_BYTES.min(common - at);
        let found = piece.get(at, bytes);
        found.is_some() && found == text.get(place.start + at, bytes)
    })
}

fn is_part(file: LogFile, name: SegmentName) -> bool {
    matches!(file, LogFile::Partial(of) | LogFile::Piece(of, _) if of == name)
}
