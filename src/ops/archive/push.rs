//! Brings one file of the log to the stores, and what waits behind it.

use super::{
    known::Stored,
    ready,
    segment::{self, Content, Prepared, Sealing},
    ship::{Label, Reached, Way, not_durable},
    state::{Foreign, Kept},
};
use crate::{
    core::{
        failure::{Code, Failure},
        id::SourceName,
        log::{FIRST_TIMELINE, HistoryId, LogFile},
        policy::Copies,
        prune::{CondemnedLogs, end_of},
        time::Timestamp,
    },
    format::log::Tagger,
    ops::host::Host,
    sources::postgres::wal::SegmentHeader,
    stores::LARGE_BYTES,
    world::files::parent,
};
use futures_util::{Stream, StreamExt, stream};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Bytes of files that are read and sealed at once.
const BYTES_AT_ONCE: u64 = 48 * 1024 * 1024;
/// How many files are read and sealed at once at most.
const FILES_AT_ONCE: u64 = 4;

/// What to archive.
pub struct PushRequest {
    /// Whose log it is.
    pub source: SourceName,
    /// The file, as the server names it.
    pub path: PathBuf,
    /// On how many stores it is durable.
    pub copies: Copies,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// The files that were stored now; none where the file was durable already.
    pub files: Vec<LogFile>,
    /// Stores that lack them, and why.
    pub behind: Vec<(String, String)>,
    /// What the operator should know.
    pub notes: Vec<String>,
}

/// Archives a file. When this returns without a failure, the policy's stores hold it on stable storage.
pub async fn push(host: &Host, request: &PushRequest) -> Result<Pushed, Failure> {
    push_with(host, request, None).await
}

/// The same, with what waits beside it where the server's own notes do not tell.
pub(super) async fn push_with(
    host: &Host,
    request: &PushRequest,
    beside: Option<BTreeSet<LogFile>>,
) -> Result<Pushed, Failure> {
    let file = file_of(&request.path)?;
    let mut kept = Kept::lock(&host.source_state_dir(&request.source), host.repository.id).await?;
    // What is no regular file is refused where it is read.
    if kept.state.was_just_shipped(file, fs::symlink_metadata(&request.path).ok().as_ref()) {
        return Ok(Pushed::default());
    }
    let (sealing, began_at) = (sealing(host), host.world.now());
    let content = segment::read(&request.path, file)?;
    let header = content.header()?;
    let way = Way { host, source: &request.source, copies: &request.copies };
    let noted = kept.state.acknowledged.get(&file).filter(|_| Some(header.system) == kept.state.system);
    let is_noted = noted.is_some();
    if let Some(noted) = noted
        && noted.tag != content.tag(&sealing.tagger)?
    {
        return Err(other_content(&request.source, file, "this host"));
    }
    if is_noted && kept.state.last_run.contains_key(&file) {
        return Ok(Pushed::default());
    }
    Pushing { request, way, file, header, sealing, beside, is_noted, began_at }.run(&mut kept, content).await
}

fn file_of(path: &Path) -> Result<LogFile, Failure> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let wrong = |error: String| {
        Failure::new(Code::Usage, format!("{} is no file of the write-ahead log", path.display()))
            .cause(error)
            .safe("nothing was read or archived")
            .next_step("set archive_command = 'recoup archive push SOURCE %p'")
    };
    match name.parse() {
        Ok(LogFile::History(FIRST_TIMELINE)) => Err(wrong("the first timeline has no history file".to_owned())),
        Ok(file) => Ok(file),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// How this host seals and tags.
pub(super) fn sealing(host: &Host) -> Sealing {
    let tagger = match &host.catalogue_key {
        Some(key) => Tagger::of_secret(&key.text),
        // Good for this host's own notes.
        None => Tagger::of_secret(&host.key.to_openssh()),
    };
    Sealing {
        recipients: host.recipients.clone(),
        level: host.compression_level,
        tagger,
        tags_are_shared: host.catalogue_key.is_some(),
    }
}

struct Pushing<'a> {
    request: &'a PushRequest,
    way: Way<'a>,
    file: LogFile,
    header: SegmentHeader,
    sealing: Sealing,
    beside: Option<BTreeSet<LogFile>>,
    /// Whether this host has archived it before, with this content.
    is_noted: bool,
    /// Nothing was read before.
    began_at: Timestamp,
}

impl Pushing<'_> {
    async fn run(&self, kept: &mut Kept, content: Content) -> Result<Pushed, Failure> {
        let reached = self.way.reach(kept, (self.header.system, self.file)).await?;
        let history = HistoryId { system: self.header.system, timeline: self.file.timeline() };
        let mut pushed = Pushed::default();
        let is_again = self.is_noted || kept.state.may_be_stored(self.file);
        if is_again {
            let known = kept.state.condemned.plans.len();
            let is_stored = self.is_stored(kept, history, &content, &reached).await?;
            if is_stored && !self.is_noted {
                kept.state.acknowledge(self.file, content.tag(&self.sealing.tagger)?);
            }
            if is_stored {
                if !self.is_noted || known < kept.state.condemned.plans.len() {
                    self.save(kept, &mut pushed);
                }
                return Ok(pushed);
            }
        }
        let known = &kept.state;
        let is_known = |file| known.acknowledged.contains_key(&file) || known.may_be_stored(file);
        let batch = match &self.beside {
            // One large one at a time takes enough of the disk.
            _ if self.header.segment_bytes > LARGE_BYTES => [self.file].into(),
            // A run goes as a whole: what is old keeps nothing new, and the other way round.
            _ if is_again => [self.file].into(),
            Some(beside) => ready::batch(self.file, beside.iter().copied(), is_known),
            None => ready::waiting(&self.request.path, self.file, is_known),
        };
        let label = Label { history, segment_bytes: self.header.segment_bytes, run: self.way.host.world.new_id() };
        let files = self.prepare(content, batch);
        let (shipped, notes) = self.way.ship(reached, &mut kept.state, &label, files).await?;
        if !self.way.is_enough(&shipped.stores) {
            self.save(kept, &mut pushed);
            return Err(not_durable(&self.request.source, self.file, &shipped));
        }
        kept.state.system = Some(self.header.system);
        kept.state.foreign = None;
        pushed.files = notes.iter().map(|note| note.file).collect();
        kept.state.acknowledge_run(notes, self.began_at, !is_again);
        self.save(kept, &mut pushed);
        pushed.behind = shipped.behind.into_iter().collect();
        Ok(pushed)
    }

    /// Whether enough stores hold the file already, and no prune takes it away. Refuses what cannot be of the same history.
    async fn is_stored(
        &self,
        kept: &mut Kept,
        history: HistoryId,
        content: &Content,
        reached: &Reached,
    ) -> Result<bool, Failure> {
        let (way, file, asked) = (&self.way, self.file, reached.names());
        let segment_bytes = self.header.segment_bytes;
        // A note says what was durable once. Nothing but a prune has taken it away since.
        way.note_plans(kept, file, &asked).await?;
        let may_be_gone = kept.state.condemned.covers(history, file, segment_bytes);
        if self.is_noted && !may_be_gone {
            return Ok(true);
        }
        let (condemned, deleted) = match may_be_gone {
            true => way.condemned(file, &asked).await?,
            false => (CondemnedLogs::default(), CondemnedLogs::default()),
        };
        let names = way.names(Some(history), &asked).await;
        let tag = || content.tag(&self.sealing.tagger);
        match way.stored(history, file, tag, &names, &condemned).await? {
            Stored::Durable => return Ok(true),
            Stored::Other(run) => {
                return Err(other_content(&self.request.source, file, &format!("run {run} on the stores")));
            }
            Stored::Same => return Ok(false),
            Stored::No => {}
        }
        // Nothing is left that it could be compared with. Beside what came after it, it may be of another history: of a
        // server that was set back, whose log must not be mixed with that of before.
        if let LogFile::Segment(name) = file
            && !self.is_noted
            && end_of(file, segment_bytes).is_some_and(|end| Some(end) <= deleted.reach_of(history))
            && let Some(later) = way.later(history, name, &names).await
        {
            return Err(pruned_before(&self.request.source, file, later));
        }
        Ok(false)
    }

    /// The stores hold it: what is not noted here costs the next push a look at them, and nothing else.
    fn save(&self, kept: &Kept, pushed: &mut Pushed) {
        if let Err(failure) = kept.save() {
            pushed.notes.push(failure.to_string());
        }
    }

    /// The files, read and sealed several at once; the given one comes first.
    fn prepare(
        &self,
        content: Content,
        batch: BTreeSet<LogFile>,
    ) -> impl Stream<Item = Result<Prepared, Failure>> + Unpin + use<> {
        let at_once = (BYTES_AT_ONCE / self.header.segment_bytes).clamp(1, FILES_AT_ONCE) as usize;
        let (directory, sealing) = (parent(&self.request.path).to_owned(), Arc::new(self.sealing.clone()));
        let (given, system) = (self.file, self.header.system);
        let spool = self.way.spool();
        let mut content = Some(content);
        let rest = batch.into_iter().filter(move |file| *file != given);
        let jobs = std::iter::once(given).chain(rest).map(move |file| {
            let (given, path, sealing) = (content.take(), directory.join(file.to_string()), sealing.clone());
            let spool = spool.clone();
            let work = tokio::task::spawn_blocking(move || {
                let content = match given {
                    Some(content) => content,
                    None => ahead(&path, file, system)?,
                };
                content.prepare(&sealing, &spool)
            });
            async move { work.await.unwrap_or_else(|error| Err(Failure::internal(error.to_string()))) }
        });
        Box::pin(stream::iter(jobs).buffered(at_once))
    }
}

impl Way<'_> {
    /// Refuses the log of another system, and notes that for whoever watches.
    pub(super) fn check_system(&self, kept: &mut Kept, (system, file): (u64, LogFile)) -> Result<(), Failure> {
        let of_snapshots = || self.system_of_snapshots();
        let Some(known) = kept.state.system.or_else(of_snapshots) else { return Ok(()) };
        if known == system {
            return Ok(());
        }
        let at = self.host.world.now();
        kept.state.system = Some(known);
        kept.state.foreign = Some(Foreign { system, file, at });
        // The refusal stands, noted or not.
        drop(kept.save());
        let source = self.source;
        Err(Failure::new(Code::Refused, format!("{file} is of another system than the log of {source}"))
            .cause(format!("its system identifier is {system}, that of the log is {known}"))
            .safe("the server keeps the file and asks again; everything archived before is untouched")
            .next_step(format!(
                "if this server was made anew (initdb, pg_upgrade): recoup archive open {source} --reason TEXT; \
                 if it is another one, it must archive elsewhere"
            )))
    }
}

/// A file that was looked ahead for. It is of the same system, or left for its own turn.
fn ahead(path: &Path, file: LogFile, system: u64) -> Result<Content, Failure> {
    let content = segment::read(path, file)?;
    if content.header()?.system == system {
        Ok(content)
    } else {
        Err(Failure::new(Code::Refused, format!("{file} is of another system")))
    }
}

/// What was archived of it is deleted, so nobody can tell any more whether it is the same.
fn pruned_before(source: &SourceName, file: LogFile, later: LogFile) -> Failure {
    Failure::new(Code::Refused, format!("{file} of {source} lies before what was pruned of its timeline"))
        .cause(format!(
            "what was archived under this name is deleted, so nothing tells whether this is the same; {later} and what \
             follows it are on the stores"
        ))
        .safe("what is archived is untouched, and nothing was added to it; the server keeps its file")
        .next_step(
            "if it is a standby that lags behind: set archive_mode = on there instead of always, so that only the primary \
             archives; if this server was set back to an earlier state: have it begin a new timeline, as \
             recoup-source-postgres(7) says under \"Retention of the log\"",
        )
}

fn other_content(source: &SourceName, file: LogFile, by: &str) -> Failure {
    Failure::new(Code::Refused, format!("{file} of {source} was archived before with other content"))
        .cause(format!("what was archived by {by} is not what the server gives now"))
        .safe("what is archived is untouched and was not overwritten; the server keeps its file")
        .next_step(
            "find out which of two servers is right: a clone or a restored copy that archives here must be stopped, \
             or given its own source",
        )
}
