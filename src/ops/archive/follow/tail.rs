//! The segment that is being received, shipped in pieces.

use super::Following;
use crate::{
    core::{
        failure::{Code, Failure},
        id::RunId,
        log::{HistoryId, SegmentName},
    },
    ops::archive::{
        follow::{inbox::Inbox, on_thread},
        push::sealing,
        segment::{self, Content},
        ship::{Label, Way, not_durable},
        state::Kept,
    },
    sources::postgres::wal::SegmentHeader,
};
use futures_util::stream;
use std::{fs, time::SystemTime};

/// The most pieces that follow each other: then a new one holds all there is, so that a restore has few to fetch.
const PIECES_MAX: u32 = 64;
/// A segment that cannot be read so many times in a row is reported. Once says nothing: it is written meanwhile.
const FAILURES_MAX: u32 = 3;

/// What was shipped of a segment that is being received.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// The run that all its pieces are of.
    run: Option<RunId>,
    /// How far they go, and how many there are.
    to: u64,
    pieces: u32,
    /// When the file was last written to, as seen before it was last looked at, and whether that was so twice: then
    /// nothing was written within one tick of the file system's clock that was not seen.
    seen: Option<SystemTime>,
    seen_twice: bool,
    failures: u32,
}

impl Following<'_> {
    /// Ships what is new of the segments that are being received.
    pub(super) async fn ship_growing(&mut self, inbox: &Inbox) -> Result<(), Failure> {
        self.tails.retain(|name, _| inbox.growing.contains(name));
        let newest = inbox.growing.last();
        for name in &inbox.growing {
            let is_all = self.ship_tail(*name).await?;
            // Its timeline has ended within it: nothing more comes.
            if Some(name) != newest && is_all {
                drop(fs::remove_file(Inbox::growing_path(&self.inbox, *name)));
            }
        }
        Ok(())
    }

    /// Ships what is new of one; says whether everything of it is shipped.
    async fn ship_tail(&mut self, name: SegmentName) -> Result<bool, Failure> {
        let path = Inbox::growing_path(&self.inbox, name);
        let Ok(written) = fs::metadata(&path).and_then(|found| found.modified()) else { return Ok(true) };
        let tail = self.tails.entry(name).or_default();
        if tail.seen_twice && tail.seen == Some(written) {
            return Ok(true);
        }
        if tail.pieces >= PIECES_MAX {
            *tail = Tail::default();
        }
        let from = tail.to;
        let read = on_thread(move || segment::read_piece(&path, name, from)).await?;
        let found = match read {
            Ok(found) => found,
            Err(failure) => {
                tail.failures += 1;
                return if tail.failures < FAILURES_MAX { Ok(false) } else { Err(failure) };
            }
        };
        (tail.seen_twice, tail.seen, tail.failures) = (tail.seen == Some(written), Some(written), 0);
        let Some((header, span, content)) = found else { return Ok(true) };
        let run = *tail.run.get_or_insert_with(|| self.host.world.new_id());
        self.note_gap(name, header.segment_bytes);
        let shipped = self.ship_piece(&header, content, run).await;
        let tail = self.tails.entry(name).or_default();
        match shipped {
            Ok(()) => {
                (tail.to, tail.pieces) = (span.to.into(), tail.pieces + 1);
                Ok(true)
            }
            Err(failure) => {
                // What stores may have of it is no part of what is shipped next.
                *tail = Tail::default();
                Err(failure)
            }
        }
    }

    async fn ship_piece(&self, header: &SegmentHeader, content: Content, run: RunId) -> Result<(), Failure> {
        let (host, request, file) = (self.host, self.request, content.file);
        let way = Way { host, source: &request.source, copies: &request.copies };
        let mut kept = Kept::lock(&host.source_state_dir(&request.source), host.repository.id).await?;
        let reached = way.reach(&mut kept, (header.system, file)).await?;
        let history = HistoryId { system: header.system, timeline: file.timeline() };
        let label = Label { history, segment_bytes: header.segment_bytes, run };
        let (sealing, spool) = (sealing(host), way.spool());
        let prepared = on_thread(move || content.prepare(&sealing, &spool)).await?;
        let pieces = Box::pin(stream::once(async { prepared }));
        let (shipped, _) = way.ship(reached, &mut kept.state, &label, pieces).await?;
        kept.state.system = Some(header.system);
        let saved = kept.save();
        if way.is_enough(&shipped.stores) { saved } else { Err(not_durable(&request.source, file, &shipped)) }
    }

    /// Says once when what is received does not go on what is archived.
    pub(super) fn note_gap(&mut self, first: SegmentName, segment_bytes: u64) {
        if !std::mem::take(&mut self.stream.is_anew) {
            return;
        }
        let known = super::super::peek(&self.host.source_state_dir(&self.request.source), self.host.repository.id);
        let highest = known.and_then(|state| state.highest.get(&first.timeline).copied());
        let number = |name: SegmentName| name.number(segment_bytes);
        if let Some((highest, gap)) = highest.zip(highest.and_then(number).zip(number(first)))
            && gap.1 > gap.0 + 1
        {
            let source = &self.request.source;
            (self.tell)(&format!(
                "gap: the log in the archive ends with {highest}, and what is received begins with {first}; the moments \
                 between are lost unless the archiver ships them; take a snapshot at once: recoup backup {source} --full"
            ));
        }
    }
}

/// Whether trying again is of no use.
pub(super) fn is_final(failure: &Failure) -> bool {
    matches!(failure.code, Code::Refused | Code::NoKey | Code::Internal)
}
