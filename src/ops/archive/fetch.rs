//! Gives a server the file of the log that it asks for, or says that there certainly is none.

use super::{
    large::{open_into, serve_into},
    prefetch::{Pending, Prefetched, put},
};
use crate::{
    core::{
        failure::{Code, Failure},
        id::{RunId, SourceName},
        log::{FIRST_TIMELINE, HistoryId, LogFile, LogObject, SegmentName, forks},
        plan::log::{BYTES_MAX, LogPlan, Planned},
        policy::Copies,
    },
    format::{FormatError, log as log_format, seal::Identities},
    repository::{
        Repository,
        fetch::{Detours, NowhereIntact},
        log::{LogNames, LogSurvey},
    },
    sources::postgres::wal::{self, SegmentHeader},
    stores::LARGE_BYTES,
    world::files::{self, parent},
};
use futures_util::{StreamExt, stream, stream::FuturesUnordered};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Bytes of files that are fetched ahead, and how many of them at most.
const AHEAD_BYTES: u64 = 128 * 1024 * 1024;
const AHEAD_FILES: usize = 16;
/// How many files are fetched and opened at once.
const AT_ONCE: usize = 3;
/// How long a store may take to list once enough others have.
const LISTING_PATIENCE: Duration = Duration::from_secs(5);

/// What to fetch.
pub struct FetchRequest {
    /// Whose log it is.
    pub source: SourceName,
    /// The file that the server asks for.
    pub file: LogFile,
    /// Where the server wants it.
    pub target: PathBuf,
    /// When a file is durable: how many stores must say that there is none.
    pub copies: Copies,
    /// The exact list of what there is, where a restore made one.
    pub plan: Option<LogPlan>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// The file is where the server wants it.
    Here,
    /// There certainly is no such file, or none that belongs to the replay.
    Absent,
}

/// Reads a plan.
pub fn read_plan(path: &Path) -> Result<LogPlan, Failure> {
    let failed = |cause: &dyn std::fmt::Display| {
        Failure::new(Code::Usage, format!("the plan {} cannot be used", path.display()))
            .cause(cause)
            .safe("nothing was fetched; the server asks again")
            .next_step("restore again: it writes a new plan")
    };
    let bytes = files::read_start(path, BYTES_MAX).map_err(|error| failed(&error))?;
    let plan: LogPlan = serde_json::from_slice(&bytes).map_err(|error| failed(&error))?;
    match plan.contradiction() {
        Some(why) => Err(failed(&why)),
        None => Ok(plan),
    }
}

/// Fetches a file. A failure says nothing about whether there is such a file.
pub async fn fetch(
    repository: &Repository,
    identities: Arc<Identities>,
    request: &FetchRequest,
) -> Result<Fetched, Failure> {
    if request.file == LogFile::History(FIRST_TIMELINE) {
        return Ok(Fetched::Absent);
    }
    let prefetched = Prefetched::beside(&request.target, repository.id, &request.source);
    let fetching = Fetching { repository, identities, request, prefetched };
    match &request.plan {
        Some(plan) => fetching.planned(plan).await,
        None => fetching.unplanned().await,
    }
}

/// The content of a file of a log, from whichever store has it intact, and certainly what its name says.
pub async fn open_file(
    repository: &Repository,
    identities: &Arc<Identities>,
    source: &SourceName,
    object: &LogObject,
    detours: &Detours,
) -> Result<Vec<u8>, Failure> {
    let failed = |cause: &str, code: Code| unopened(source, object, cause, code);
    let nowhere =
        |error: NowhereIntact| failed(&error.to_string(), if error.unreachable { Code::Store } else { Code::Damaged });
    let sealed = repository.fetch_log(source, object, detours).await.map_err(nowhere)?;
    let (identities, bytes_raw, file) = (identities.clone(), object.bytes_raw, object.file);
    let work = tokio::task::spawn_blocking(move || {
        let raw = log_format::open(&identities, &sealed, bytes_raw)?;
        // What was sealed is what its name says, or nobody gets it.
        check(&raw, file).map(|()| raw).map_err(FormatError::Damaged)
    });
    match work.await {
        Ok(Ok(raw)) => Ok(raw),
        Ok(Err(FormatError::NoMatchingKey)) => Err(failed("the identity does not open it", Code::NoKey)),
        Ok(Err(error)) => Err(failed(&error.to_string(), Code::Damaged)),
        Err(error) => Err(Failure::internal(error.to_string())),
    }
}

pub(super) fn unopened(source: &SourceName, object: &LogObject, cause: &str, code: Code) -> Failure {
    Failure::new(code, format!("{} of the log of {source} cannot be opened", object.file))
        .cause(cause)
        .safe("the stores are unaffected; nothing is left behind as if it were whole")
        .next_step("recoup verify says what the stores hold")
}

/// A file as a server asks for it, put together from its parts; what there is not of a segment is empty.
pub async fn open_served(
    repository: &Repository,
    identities: &Arc<Identities>,
    plan: &LogPlan,
    (file, parts): (LogFile, &[&LogObject]),
    detours: &Detours,
) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend(open_file(repository, identities, &plan.source, part, detours).await?);
    }
    let LogFile::Segment(name) = file else { return Ok(bytes) };
    let is_in_pieces = parts.iter().any(|part| matches!(part.file, LogFile::Piece(..)));
    let written = bytes.len() as u64;
    bytes.resize(usize::try_from(plan.segment_bytes).unwrap_or(bytes.len()).max(bytes.len()), 0);
    // Only what one server wrote in one go reads as one.
    let reads_as_one = || wal::read_growing(&bytes, name, 0).is_ok_and(|(_, _, whole)| whole == written);
    if written > plan.segment_bytes || is_in_pieces && !reads_as_one() {
        return Err(misfit(name, plan, written));
    }
    Ok(bytes)
}

pub(super) fn misfit(name: SegmentName, plan: &LogPlan, written: u64) -> Failure {
    Failure::new(Code::Damaged, format!("the pieces of {name} of {} do not fit together", plan.source))
        .cause(format!("their records do not go on to byte {written}"))
        .safe("nothing of them was used")
        .next_step("restore to a moment before them")
}

pub(super) struct Fetching<'a> {
    pub(super) repository: &'a Repository,
    pub(super) identities: Arc<Identities>,
    pub(super) request: &'a FetchRequest,
    prefetched: Option<Prefetched>,
}

impl Fetching<'_> {
    async fn planned(&self, plan: &LogPlan) -> Result<Fetched, Failure> {
        if plan.repository != self.repository.id || plan.source != self.request.source {
            return Err(Failure::new(Code::Refused, "the plan is of another source or repository")
                .cause(format!("it is of {} in repository {}", plan.source, plan.repository))
                .safe("nothing was fetched; the server asks again")
                .next_step("name the plan that the restore wrote"));
        }
        match plan.find(self.request.file) {
            Planned::Past => Ok(Fetched::Absent),
            Planned::Inside => {
                Err(self.failed("the plan covers its place and does not list it", Code::NoRecoveryPoint))
            }
            Planned::Needed(object) => {
                let ahead = plan.after(self.request.file).take(AHEAD_FILES).copied().collect();
                self.bring(object, ahead).await
            }
            Planned::Beginning(parts) => self.serve(plan, &parts).await,
        }
    }

    /// Without a plan, absent means that so many stores said so that none of the others can make it durable.
    async fn unplanned(&self) -> Result<Fetched, Failure> {
        match self.looked_for().await {
            // A prune has taken it away since it was listed.
            Err(_) if self.is_gone().await => self.looked_for().await,
            other => other,
        }
    }

    /// Whether every store answers and none shows the file.
    async fn is_gone(&self) -> bool {
        let names = self.names(None).await;
        let of_file = self.request.file;
        names.answered() == self.repository.stores.len()
            && names.files().iter().all(|(_, file, _)| *file != of_file)
            && names.records().keys().all(|id| id.first != of_file)
    }

    async fn looked_for(&self) -> Result<Fetched, Failure> {
        let system = self.system_beside();
        let timeline = self.request.file.timeline();
        let known = system.map(|system| HistoryId { system, timeline });
        if let (Some(history), Some(prefetched)) = (known, &self.prefetched)
            && prefetched.take(history, self.request.file, None, &self.request.target).is_some()
        {
            return Ok(Fetched::Here);
        }
        let names = self.names(known).await;
        let found = self.runs_of(&names, |history, file| {
            file == self.request.file && system.is_none_or(|system| system == history.system)
        });
        let survey = self.records_of(&names, &found).await;
        let objects = self.objects(&survey, |history, file| {
            file == self.request.file && system.is_none_or(|system| system == history.system)
        });
        let Some(object) = objects.first() else {
            return match self.nothing(&names, &survey)? {
                Fetched::Absent if self.ends_with_the_log() => self.beginning(&names, known).await,
                other => Ok(other),
            };
        };
        if objects.iter().any(|other| other.history != object.history) {
            return Err(self.failed("several systems have one, and no pg_control tells which is meant", Code::Refused));
        }
        let records = survey.records.values().map(|held| &held.signed.record);
        if forks(records).iter().any(|fork| fork.file == self.request.file && fork.certain) {
            return Err(self.failed("it was stored with different contents; a plan must say which", Code::Refused));
        }
        let ahead = self.next(&names, object, segment_bytes(&survey, object)).await;
        self.bring(object, ahead).await
    }

    /// Nothing was found that is believed. Whether that is certain depends on who answered.
    fn nothing(&self, names: &LogNames, survey: &LogSurvey) -> Result<Fetched, Failure> {
        let stores = self.repository.stores.len();
        let needed = (stores + 1).saturating_sub(self.request.copies.required_stores(stores)).max(1);
        if let Some(refused) = survey.refused.first() {
            let store = self.repository.stores[refused.store].name();
            return Err(
                self.failed(&format!("its record on store {store} is not accepted: {}", refused.why), Code::Damaged)
            );
        }
        if names.answered() >= needed {
            return Ok(Fetched::Absent);
        }
        let why = std::iter::zip(&self.repository.stores, &names.stores)
            .filter_map(|(store, names)| Some(format!("store {}: {}", store.name(), names.as_ref().err()?)));
        let why = why.collect::<Vec<_>>().join("; ");
        let answered = names.answered();
        Err(self.failed(&format!("only {answered} of {needed} stores that must answer did; {why}"), Code::Store))
    }

    /// Lists what may be relevant on all stores. One that hangs is not waited for once enough others have answered.
    async fn names(&self, history: Option<HistoryId>) -> LogNames {
        let stores = self.repository.stores.len();
        let needed = (stores + 1).saturating_sub(self.request.copies.required_stores(stores)).max(1);
        let mut names = LogNames { stores: vec![Err("it did not answer in time".to_owned()); stores] };
        let listings = (0..stores)
            .map(|at| async move { (at, self.repository.log_names_on(at, &self.request.source, history).await) });
        let mut listings: FuturesUnordered<_> = listings.collect();
        loop {
            let next = match names.answered() >= needed {
                true => tokio::time::timeout(LISTING_PATIENCE, listings.next()).await.unwrap_or(None),
                false => listings.next().await,
            };
            let Some((at, listed)) = next else { return names };
            names.stores[at] = listed;
        }
    }

    pub(super) fn runs_of(
        &self,
        names: &LogNames,
        wanted: impl Fn(HistoryId, LogFile) -> bool,
    ) -> BTreeSet<(HistoryId, RunId)> {
        let files = names.files().into_iter();
        files.filter(|(history, file, _)| wanted(*history, *file)).map(|(history, _, run)| (history, run)).collect()
    }

    /// The records of some runs, and those that begin with the wanted file itself.
    pub(super) async fn records_of(&self, names: &LogNames, runs: &BTreeSet<(HistoryId, RunId)>) -> LogSurvey {
        let mut records = names.records();
        records.retain(|id, _| runs.contains(&(id.history, id.run)) || id.first == self.request.file);
        self.repository.read_log_records(&self.request.source, records).await
    }

    fn objects(&self, survey: &LogSurvey, wanted: impl Fn(HistoryId, LogFile) -> bool) -> Vec<LogObject> {
        let records = survey.records.values().map(|held| &held.signed.record);
        let entries = records.flat_map(|record| record.files.iter().map(|entry| record.object(entry)));
        let mut objects: Vec<LogObject> = entries.filter(|object| wanted(object.history, object.file)).collect();
        objects.sort();
        objects
    }

    /// The segments that the server will ask for next.
    async fn next(&self, names: &LogNames, object: &LogObject, segment_bytes: Option<u64>) -> Vec<LogObject> {
        let (LogFile::Segment(name), Some(bytes)) = (object.file, segment_bytes) else { return Vec::new() };
        let next = std::iter::successors(name.next(bytes), |name| name.next(bytes)).map(LogFile::Segment);
        let next: BTreeSet<LogFile> = next.take(AHEAD_FILES).collect();
        let wanted = |history: HistoryId, file: LogFile| history == object.history && next.contains(&file);
        let runs = self.runs_of(names, wanted);
        let survey = self.records_of(names, &runs).await;
        let forked: BTreeSet<LogFile> = survey.forks().into_iter().map(|fork| fork.file).collect();
        let mut objects = self.objects(&survey, wanted);
        objects.dedup_by_key(|object| object.file);
        objects.retain(|object| !forked.contains(&object.file));
        objects
    }

    /// Brings the file, and fetches the next ones ahead.
    async fn bring(&self, object: &LogObject, ahead: Vec<LogObject>) -> Result<Fetched, Failure> {
        let target = &self.request.target;
        if let Some(prefetched) = &self.prefetched
            && let Some(bytes) = prefetched.take(object.history, object.file, Some(object.run), target)
        {
            // Its size is checked again: a disk that was full may have lost its end.
            if bytes == object.bytes_raw {
                return Ok(Fetched::Here);
            }
            drop(fs::remove_file(target));
        }
        let ahead = self.within_bounds(ahead);
        let (own, ()) = tokio::join!(self.deliver(object, target), self.fetch_ahead(ahead));
        own.map(|()| Fetched::Here)
    }

    /// Brings a file to where it is wanted, whole or not at all.
    async fn deliver(&self, object: &LogObject, target: &Path) -> Result<(), Failure> {
        let (source, detours) = (&self.request.source, Detours::default());
        if object.bytes_raw <= LARGE_BYTES {
            let opened = open_file(self.repository, &self.identities, source, object, &detours).await;
            let bytes = opened.map_err(|failure| self.retold(failure))?;
            return put(target, &bytes).map_err(|error| self.unwritten(&error));
        }
        let open = async |output: &Arc<File>| {
            open_into(self.repository, &self.identities, source, object, &detours, (output, 0)).await
        };
        self.written(target, open).await
    }

    /// Gives what there is of a segment, put together from its parts.
    pub(super) async fn serve(&self, plan: &LogPlan, parts: &[&LogObject]) -> Result<Fetched, Failure> {
        let (target, served, detours) = (&self.request.target, (self.request.file, parts), Detours::default());
        if plan.segment_bytes <= LARGE_BYTES {
            let opened = open_served(self.repository, &self.identities, plan, served, &detours).await;
            let bytes = opened.map_err(|failure| self.retold(failure))?;
            put(target, &bytes).map_err(|error| self.unwritten(&error))?;
        } else {
            let serve = async |output: &Arc<File>| {
                serve_into(self.repository, &self.identities, plan, served, &detours, output).await
            };
            self.written(target, serve).await?;
        }
        Ok(Fetched::Here)
    }

    /// Has a file written beside its target, and gives it its name once it is right.
    async fn written(
        &self,
        target: &Path,
        write: impl AsyncFnOnce(&Arc<File>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let pending = Pending::create(target).map_err(|error| self.unwritten(&error))?;
        let output = Arc::new(pending.file.try_clone().map_err(|error| self.unwritten(&error))?);
        write(&output).await.map_err(|failure| self.retold(failure))?;
        pending.publish().map_err(|error| self.unwritten(&error))
    }

    fn unwritten(&self, error: &io::Error) -> Failure {
        self.failed(&format!("{}: {error}", self.request.target.display()), Code::Failed)
    }

    fn within_bounds(&self, ahead: Vec<LogObject>) -> Vec<LogObject> {
        let mut bytes = 0u64;
        let fits = |object: &LogObject| {
            bytes = bytes.saturating_add(object.bytes_raw);
            bytes <= AHEAD_BYTES
        };
        ahead.into_iter().take_while(fits).collect()
    }

    /// What goes wrong here is found when the server asks for the file itself.
    async fn fetch_ahead(&self, ahead: Vec<LogObject>) {
        let Some(prefetched) = &self.prefetched else { return };
        let names: Vec<_> = ahead.iter().map(|object| (object.history, object.file, object.run)).collect();
        prefetched.keep_only(&names);
        let missing = ahead.iter().filter(|object| !prefetched.has(object.history, object.file, object.run));
        let fetches = missing.map(|object| async move {
            drop(self.deliver(object, &prefetched.path(object.history, object.file, object.run)).await);
        });
        let fetches: Vec<_> = fetches.collect();
        stream::iter(fetches).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
    }

    /// A failure as the server's log is to have it.
    pub(super) fn retold(&self, failure: Failure) -> Failure {
        match failure.code {
            Code::Internal => failure,
            code => self.failed(&failure.cause.clone().unwrap_or_default(), code),
        }
    }

    pub(super) fn failed(&self, cause: &str, code: Code) -> Failure {
        Failure::new(code, format!("{} of {} cannot be given to the server", self.request.file, self.request.source))
            .cause(cause)
            .safe("the server was not told that the log ends here: it stops, or asks again")
            .next_step("recoup verify says what the stores hold")
    }

    /// The system identifier of the data directory that the target lies in.
    fn system_beside(&self) -> Option<u64> {
        let control = parent(parent(&self.request.target)).join("global/pg_control");
        let mut start = [0; 8];
        files::open_regular(control).ok()?.read_exact(&mut start).ok()?;
        Some(u64::from_le_bytes(start)).filter(|system| *system != 0)
    }
}

fn segment_bytes(survey: &LogSurvey, object: &LogObject) -> Option<u64> {
    let records = survey.records.values().map(|held| &held.signed.record);
    records.filter(|record| record.history == object.history).map(|record| record.segment_bytes).next()
}

/// Whether the content is of the file of that name.
pub(super) fn check(raw: &[u8], file: LogFile) -> Result<(), String> {
    let checked = match file {
        LogFile::Segment(name) | LogFile::Partial(name) => {
            SegmentHeader::read(raw).and_then(|header| header.check_name(name))
        }
        LogFile::Piece(name, span) if span.from == 0 => {
            SegmentHeader::read(raw).and_then(|header| header.check_name(name))
        }
        LogFile::History(timeline) => wal::read_history(raw, timeline).map(drop),
        // Whether a piece goes on what is before it shows when they are put together.
        LogFile::BackupNote(..) | LogFile::Piece(..) => Ok(()),
    };
    checked.map_err(|error| error.to_string())
}
