//! Directories of append-only log files.
//!
//! What the last snapshot captured of a file is its *captured prefix*. Growing, renaming, copying and truncating, and
//! compressing leave it where it can be found: at the head of some file, or of what some file unpacks to. Where it
//! cannot be found the log was altered. Nothing in the directory is ever changed.
//!
//! Read `scan` first (what is there, as one moment saw it), then `matching` (where each captured prefix is now),
//! `judge` (what became of one that is nowhere), and `view`.

mod content;
mod failures;
mod judge;
mod matching;
mod names;
mod past;
mod scan;
mod view;

#[cfg(test)]
mod tests;

use super::{LastCapture, Source, View};
use crate::{
    core::{failure::Failure, time::Timestamp},
    world::World,
};
use matching::Matched;
use past::Fingerprint;
use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// The word in configuration and inventories.
pub const KIND: &str = "log";

/// Bytes in a block of a log file. The short last block is captured again when the file grows, so it must be small.
pub(crate) const BLOCK_BYTES: u32 = 4096;

/// How often a view is tried before rotations are called too many.
const TRIES: u32 = 12;
/// How long a doubt may take to settle before it is looked at again: a rotation has more than one step.
const SETTLING: Duration = Duration::from_millis(60);

/// What is configured for a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// From which age on a file may be removed; `None` means never.
    pub expire_after: Option<Duration>,
    /// How long a captured prefix may go unread while nothing shows that it changed.
    pub reread_every: Duration,
}

/// A directory of log files as a source.
pub struct Log {
    directory: PathBuf,
    rules: Rules,
    world: World,
}

/// Why a view did not come about.
enum Trouble {
    /// Files moved while they were looked at.
    Moved,
    Failed(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Trouble::Failed(failure)
    }
}

impl Log {
    /// The logs in `directory`; nothing is looked at yet.
    pub fn new(directory: impl AsRef<Path>, rules: Rules, world: World) -> Self {
        Log { directory: directory.as_ref().to_owned(), rules, world }
    }

    fn open_view(&self, last: Option<&dyn LastCapture>, all: bool) -> Result<Box<dyn View>, Failure> {
        let past = last.map(|last| (last, Fingerprint::read(last.fingerprint())));
        let is_foreign = past.as_ref().is_some_and(|(_, past)| past.is_none());
        let past = past.as_ref().and_then(|(last, past)| Some((*last, past.as_ref()?)));
        let mut suspected = None;
        for attempt in 0..TRIES {
            if attempt > 0 {
                thread::sleep(SETTLING);
            }
            match self.try_view(past, all, &mut suspected) {
                Ok(Some(mut view)) => {
                    if is_foreign {
                        view.note("what was captured before is of another kind, and could not be compared".to_owned());
                    }
                    return Ok(Box::new(view));
                }
                Ok(None) | Err(Trouble::Moved) => {}
                Err(Trouble::Failed(failure)) => return Err(failure),
            }
        }
        Err(failures::changed_while_read(&self.directory, "files moved each time it was looked at"))
    }

    /// One try. What looks altered is looked at again before it is believed: `None` asks for that.
    fn try_view(
        &self,
        past: Option<(&dyn LastCapture, &Fingerprint)>,
        all: bool,
        suspected: &mut Option<Vec<crate::core::path::StoredPath>>,
    ) -> Result<Option<view::LogView>, Trouble> {
        let started_at = self.world.now();
        let scan = scan::steady(&self.directory)?;
        let mut files = content::Files::new(&self.directory, &scan.found);
        let matched = match past {
            Some((last, past)) => {
                let moment = Moment { now: started_at, rules: self.rules, all };
                matching::find(past, &scan.found, &mut files, last, moment)?
            }
            None => Matched::nothing(scan.found.len()),
        };
        let altered: Vec<_> = matched.alterations.iter().map(|alteration| alteration.path.clone()).collect();
        if !altered.is_empty() && suspected.as_ref() != Some(&altered) {
            *suspected = Some(altered);
            return Ok(None);
        }
        files.hold_what_will_be_read(&matched)?;
        let held = files.into_held();
        let past = past.map(|(_, past)| past);
        Ok(Some(view::LogView::new(&self.directory, scan, matched, past, held, started_at)))
    }
}

/// What a comparison is made by.
#[derive(Clone, Copy)]
struct Moment {
    now: Timestamp,
    rules: Rules,
    /// Whether everything is to be read.
    all: bool,
}

impl Source for Log {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn is_unchanged(&self, fingerprint: &serde_json::Value) -> bool {
        let Some(past) = Fingerprint::read(fingerprint) else { return false };
        scan::once(&self.directory).is_ok_and(|scan| past.holds(&scan.found))
    }

    fn is_append_only(&self) -> bool {
        true
    }

    fn is_reread_due(&self, fingerprint: &serde_json::Value) -> bool {
        let now = self.world.now();
        Fingerprint::read(fingerprint)
            .is_none_or(|past| past.files.iter().any(|file| file.is_due(now, self.rules.reread_every)))
    }

    fn attempts(&self) -> u32 {
        8
    }

    fn open(&self) -> Result<Box<dyn View>, Failure> {
        self.open_view(None, false)
    }

    fn open_since(&self, last: &dyn LastCapture, all: bool) -> Result<Box<dyn View>, Failure> {
        self.open_view(Some(last), all)
    }

    fn probe(&self) -> Result<Vec<String>, Failure> {
        for _ in 0..TRIES {
            let probed = scan::steady(&self.directory).and_then(|scan| {
                content::Files::new(&self.directory, &scan.found).try_all()?;
                Ok(scan.notes)
            });
            match probed {
                Ok(notes) => return Ok(notes),
                Err(Trouble::Moved) => thread::sleep(SETTLING),
                Err(Trouble::Failed(failure)) => return Err(failure),
            }
        }
        Err(failures::changed_while_read(&self.directory, "files moved each time it was looked at"))
    }
}
