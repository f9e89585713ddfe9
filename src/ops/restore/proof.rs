//! What is found out about the log before anything is written: that every file of it is whole on some store, and that
//! its replay creates nothing where something else is.

use super::{RestoreRequest, select};
use crate::{
    core::{
        failure::{Code, Failure},
        inventory::Inventory,
        log::{LogFile, LogObject, LogRange, Lsn, ServerTime},
        plan::log::{Gap, Goal, LogFiles, LogPlan},
    },
    format::seal::Identities,
    ops::archive,
    repository::{
        Repository,
        fetch::{Detours, NowhereIntact},
    },
    sources::postgres::wal::{MadeTablespace, ReplayEnd, tablespaces_made},
};
use futures_util::{StreamExt, stream};
use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Bytes of files that are read at once, and how many of them at most: with more of them, each would come so slowly that
/// other stores were asked for it, too.
const BYTES_AT_ONCE: u64 = 128 * 1024 * 1024;
const FILES_AT_ONCE: u64 = 8;

/// A plan, and what it was made for.
pub(super) struct Proof<'a> {
    pub(super) repository: &'a Repository,
    pub(super) request: &'a RestoreRequest,
    pub(super) inventory: &'a Inventory,
    pub(super) range: &'a LogRange,
    pub(super) goal: &'a Goal,
    pub(super) files: &'a LogFiles,
    pub(super) plan: &'a LogPlan,
}

impl Proof<'_> {
    /// Reads every planned file from whichever store has it right.
    pub(super) async fn every_file_is_there(&self, detours: &Detours) -> Result<(), Failure> {
        let at_once = (BYTES_AT_ONCE / self.plan.segment_bytes).clamp(1, FILES_AT_ONCE) as usize;
        let reads = self.plan.files.iter().map(|object| async move {
            let read = self.repository.prove_log(&self.request.source, object, detours).await;
            read.err().map(|nowhere| (*object, nowhere))
        });
        let reads: Vec<_> = reads.collect();
        let mut lost: Vec<(LogObject, NowhereIntact)> =
            stream::iter(reads).buffered(at_once).filter_map(|read| async { read }).collect().await;
        lost.sort_by_key(|(object, _)| self.number(object));
        match lost.first() {
            None => Ok(()),
            Some((object, nowhere)) => Err(self.not_whole(object, nowhere, lost.len() - 1)),
        }
    }

    fn number(&self, object: &LogObject) -> Option<u64> {
        match object.file {
            LogFile::Segment(name) | LogFile::Partial(name) | LogFile::Piece(name, _) => {
                name.number(self.plan.segment_bytes)
            }
            LogFile::History(_) | LogFile::BackupNote(..) => None,
        }
    }

    fn not_whole(&self, object: &LogObject, nowhere: &NowhereIntact, others: usize) -> Failure {
        let (source, target) = (&self.request.source, &self.request.target);
        let code = if nowhere.unreachable { Code::Store } else { Code::Damaged };
        let also = match others {
            0 => String::new(),
            1 => "; so is 1 more file".to_owned(),
            more => format!("; so are {more} more files"),
        };
        let failure = Failure::new(code, format!("{} of the log that leads {source} to {target} is lost", object.file))
            .cause(format!("{nowhere}{also}"))
            .safe("nothing was written");
        if nowhere.unreachable {
            return failure.next_step("bring back the store that may have it, then run the same command again");
        }
        let number = self.number(object);
        let first_free = self.range.stop.0.div_ceil(self.range.segment_bytes);
        if number.is_none_or(|number| number < first_free) {
            // The snapshot itself needs it: the caller names another one.
            return failure;
        }
        let command = |target: &str| select::command(self.request, target);
        let before = self.plan.files.iter().filter(|object| self.number(object) < number);
        let last = before.max_by_key(|object| self.number(object)).and_then(|object| self.files.facts(object));
        // By its place: a server that looks for a time needs the first commit after it, which is what is lost.
        let place = last.and_then(|facts| facts.last_begins).filter(|place| *place >= self.range.stop);
        let place = place.map_or_else(String::new, |place| format!("{}   or   ", command(&format!("lsn:{place}"))));
        let commit = last.and_then(|facts| facts.last_commit).map(|time| format!(", with its last commit of {time}"));
        failure.next_step(format!(
            "the nearest before{}: {place}{}",
            commit.unwrap_or_default(),
            command(&format!("snapshot:{}", self.inventory.seq))
        ))
    }

    /// Whether other runs stored another content of what is replayed in pieces.
    pub(super) async fn pieces_agree(
        &self,
        identities: &Arc<Identities>,
        detours: &Detours,
    ) -> Result<Option<Gap>, Failure> {
        let fork =
            archive::fork_of_pieces(self.repository, identities, self.plan, self.files, detours, self.request.spool());
        let fork = fork.await?;
        Ok(fork.map(|(name, runs)| Gap::Forked { file: LogFile::Segment(name), runs }))
    }

    /// Looks where the replay would create tablespaces, which it does where the original server had them: on that one's
    /// own host, in the directories that it works on. Gives what the operator should know.
    pub(super) async fn nothing_is_overrun(
        &self,
        identities: &Arc<Identities>,
        detours: &Detours,
    ) -> Result<Vec<String>, Failure> {
        let mut warnings = Vec::new();
        for (file, parts) in self.plan.served() {
            let LogFile::Segment(name) = file else { continue };
            let makes = |object: &&LogObject| self.files.facts(object).is_some_and(|facts| facts.tablespaces > 0);
            if !parts.iter().any(makes) {
                continue;
            }
            let served = (file, parts.as_slice());
            let opened =
                archive::look_at_served(self.repository, identities, self.plan, served, detours, self.request.spool())
                    .await?;
            let made = tablespaces_made(&*opened.text(), name, self.range.start, self.end());
            let made = made.map_err(|error| {
                Failure::new(Code::Damaged, format!("{name} of {} cannot be read", self.request.source)).cause(error)
            })?;
            for made in made {
                warnings.extend(self.may_be_made(&made)?);
            }
        }
        Ok(warnings)
    }

    fn end(&self) -> ReplayEnd {
        let (mut at, mut after): (Option<Lsn>, Option<ServerTime>) = (None, None);
        match self.goal {
            Goal::At(place) => at = Some((*place).max(self.range.stop)),
            Goal::Time(time) => after = Some(*time),
            Goal::Latest | Goal::Point(_) => {}
        }
        ReplayEnd { at, after }
    }

    fn may_be_made(&self, made: &MadeTablespace) -> Result<Option<String>, Failure> {
        let source = &self.request.source;
        let place = made.directory.as_ref().map(|bytes| PathBuf::from(OsStr::from_bytes(bytes)));
        let unknown = || "a directory that is not known".to_owned();
        let shown = place.as_ref().map_or_else(unknown, |place| place.display().to_string());
        let what = format!("the log, at {}, creates a tablespace in {shown}, outside of what is restored", made.at);
        let found = match place.as_deref().map_or(Found::Taken("nobody knows what is in it".into()), look) {
            Found::Nothing => {
                return Ok(Some(format!(
                    "{what}: the server stops there unless that directory exists; make it, empty, before it is started"
                )));
            }
            Found::Empty => return Ok(Some(what)),
            Found::Taken(why) => why,
        };
        if self.request.confirmed {
            return Ok(Some(format!("{what}: {found}, and the server writes over it")));
        }
        Err(Failure::new(Code::Refused, format!("the server of {source} would write over {shown}"))
            .cause(format!("{what}: {found}; on the host of the original server that one works there"))
            .safe("nothing was written")
            .next_step(format!(
                "restore on a host that has no {shown}, or take a snapshot, after which it is part of what is restored; \
                 or, where nobody needs what is there, add --confirm={source}"
            )))
    }
}

/// What is where a tablespace is to be.
enum Found {
    Nothing,
    Empty,
    Taken(String),
}

fn look(path: &Path) -> Found {
    match fs::read_dir(path).and_then(|mut entries| entries.next().transpose()) {
        Ok(None) => Found::Empty,
        Ok(Some(_)) => Found::Taken("it is not empty".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
        Err(error) => Found::Taken(format!("it cannot be looked at ({error})")),
    }
}
