//! What was committed behind the end of a replay: what a loss at that moment would have cost.

use super::replay::Replay;
use crate::{
    core::{
        log::{HistoryId, LogFile, LogObject, Lsn, SegmentName, ServerTime},
        time::Timestamp,
    },
    ops::archive::LogBytes,
    sources::postgres::wal::{Joined, commits::commits},
};

/// No more segments than this are opened to count what is in them.
const SEGMENTS_MAX: usize = 64;

/// What the stores show of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Later {
    /// Transactions that were committed.
    pub commits: u64,
    /// The history.
    pub history: HistoryId,
    /// Where it is not known any more: commits from here on are not counted.
    pub known_to: Lsn,
    /// Whether all that were committed until the moment are counted.
    pub is_complete: bool,
}

impl Replay {
    /// Counts what was committed behind its end until a moment, as far as the stores have whole segments by now.
    /// `look` opens a file of the log, where some store has it.
    pub(super) async fn committed_later(
        &self,
        look: impl AsyncFn(&LogObject) -> Option<LogBytes>,
        until: Timestamp,
    ) -> Later {
        let end = self.end();
        let mut later = Later { commits: 0, history: end.history, known_to: end.at, is_complete: end.passes_target };
        let (bytes, until) = (self.range().segment_bytes, ServerTime::new(until.as_datetime()));
        let name = |number: u64| SegmentName::of_number(end.history.timeline, number, bytes);
        let open = async |number| {
            let (object, _) = self.files()?.get(LogFile::Segment(name(number)))?;
            look(object).await
        };
        let mut content: Option<LogBytes> = None;
        for number in (end.at.0 / bytes..).take(SEGMENTS_MAX) {
            if later.is_complete {
                break;
            }
            let here = match content.take() {
                Some(content) => content,
                None => match open(number).await {
                    Some(content) => content,
                    None => break,
                },
            };
            // The commit that goes over its end is counted with it, or not yet.
            content = open(number + 1).await;
            let found = match &content {
                Some(next) => commits(&Joined(&*here.text(), &*next.text()), name(number), later.known_to, until),
                None => commits(&*here.text(), name(number), later.known_to, until),
            };
            let Some(found) = found else { break };
            let next = Lsn((number + 1) * bytes);
            later.commits += found.count;
            later.is_complete = found.is_past;
            later.known_to = later.known_to.max(found.ends);
            if found.ends < next {
                break;
            }
        }
        later
    }
}
