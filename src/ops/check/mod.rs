//! Checks whether the policies are met now. Reads little, writes nothing but what it has read of the control log.

mod host;
mod logs;
mod metrics;
mod seen;
mod snapshots;

use super::{
    archive,
    evidence::{self, journal::Journal},
    open, runs,
};
use crate::{
    config::{Settings, SourceSettings},
    core::{
        failure::{Code, Failure},
        id::SourceName,
        result::{CheckFinding, Checked, FindingId, Severity},
        verdicts::{self, Answer, ControlFacts, Facts, LostFact, SourceFacts, StoreFacts},
    },
    repository::{Repository, head::StoreStatus, survey::Survey},
    stores::{Patience, Store},
    world::{World, files},
};
use futures_util::{StreamExt, future::join, stream};
use std::{collections::BTreeMap, path::Path, time::Duration};

/// How long a store may take: a monitor waits for seconds, not minutes.
const PATIENCE: Patience = Patience {
    idle: Duration::from_secs(8),
    slowest_bytes_per_second: 256 * 1024,
    attempts: 2,
    pause: Duration::from_millis(100),
};

/// How long this host's own file system may take to say how a source, or the room of a store, is.
const LOCAL_PATIENCE: Duration = Duration::from_secs(5);

/// How long a server may take for each answer; together no longer than twice what its files may.
const SERVER_PATIENCE: Duration = Duration::from_secs(3);

/// Sources that are looked at at once.
const CONCURRENT_SOURCES: usize = 8;

/// Checks the sources that are named, or all of them.
pub async fn check(settings: &Settings, world: &World, sources: &[SourceName]) -> Result<Checked, Failure> {
    open::check_user(settings)?;
    let chosen = choose(settings, sources)?;
    let mut repository = open::open_repository(settings)?;
    repository.stores = repository.stores.into_iter().map(|store| store.with_patience(PATIENCE)).collect();
    Ok(verdicts::judge(&gather(&repository, settings, world, &chosen).await))
}

/// Writes what was found as metrics, for the textfile collector of Prometheus' node exporter. What cannot be written
/// is a finding: nobody would see that the metrics are old.
pub fn write_metrics(checked: &mut Checked, file: &Path) {
    let written = files::write_atomic(file, metrics::text(checked).as_bytes(), 0o644);
    if let Err(error) = written {
        checked.add(CheckFinding {
            id: FindingId::TextfileUnwritable,
            severity: Severity::Warning,
            source: None,
            store: None,
            message: format!("the metrics cannot be written to {}: {error}", file.display()),
            next_step: Some("name another file with --textfile, or make its directory writable".to_owned()),
        });
    }
}

fn choose<'a>(settings: &'a Settings, named: &[SourceName]) -> Result<Vec<&'a SourceSettings>, Failure> {
    if let Some(unknown) = named.iter().find(|name| settings.source(name.as_str()).is_none()) {
        let known: Vec<&str> = settings.sources.iter().map(|source| source.name.as_str()).collect();
        return Err(Failure::new(Code::Usage, format!("there is no source named {unknown}"))
            .cause(format!("{} names: {}", settings.file.display(), known.join(", ")))
            .safe("nothing was read or changed")
            .next_step("recoup config show"));
    }
    let is_chosen = |source: &&SourceSettings| named.is_empty() || named.contains(&source.name);
    let chosen: Vec<&SourceSettings> = settings.sources.iter().filter(is_chosen).collect();
    if chosen.is_empty() {
        return Err(Failure::new(Code::Configuration, "there is no source to check")
            .cause(format!("{} has no [[source]]", settings.file.display()))
            .safe("nothing was read or changed")
            .next_step("add a [[source]] with name, kind and path; recoup.toml(5) explains them"));
    }
    Ok(chosen)
}

/// Gathers what is judged, over stores of the caller's making.
pub async fn gather(repository: &Repository, settings: &Settings, world: &World, sources: &[&SourceSettings]) -> Facts {
    let now = world.now();
    let survey = repository.survey().await;
    let looked_at =
        stream::iter(sources.iter().map(|source| gather_source(repository, settings, world, &survey, source)))
            .buffered(CONCURRENT_SOURCES)
            .collect::<Vec<_>>();
    let control = gather_control(repository, settings, &survey);
    let (sources, control) = join(looked_at, control).await;
    Facts {
        now,
        host: host::gather(settings),
        stores: gather_stores(repository, settings, &survey).await,
        sources,
        control,
    }
}

async fn gather_source(
    repository: &Repository,
    settings: &Settings,
    world: &World,
    survey: &Survey<'_>,
    source: &SourceSettings,
) -> SourceFacts {
    let gathered = snapshots::gather(repository, settings, survey, source);
    // What was committed before now is before the place at which the server is asked.
    let ((mut facts, anchors), server) = join(gathered, host::watch(settings, world, source)).await;
    let seen = host::look_at(settings, world, source, facts.durable.as_ref(), repository.id).await;
    facts.unchanged = seen.unchanged;
    facts.unreachable = seen.unreachable;
    let asked = server.as_ref();
    let timeline = asked.and_then(|server| Some(server.watched.directory.history?.timeline));
    if let Some(anchors) = anchors {
        let archived = archive::peek(&runs::source_state_dir(settings, &source.name), repository.id);
        let copies = &facts.policy.copies;
        let log = logs::gather(repository, survey, &source.name, copies, anchors, archived.as_ref(), timeline).await;
        let safe = log.judge(timeline);
        if let (Some(server), Some(covered)) = (asked, &safe.covered) {
            facts.unchanged = server.has_committed_nothing_since(log.system(), covered).await;
        }
        facts.log = Some(safe.state);
    }
    facts.server = server.map(|server| server.state(settings, &source.name, world.now()));
    facts
}

async fn gather_stores(repository: &Repository, settings: &Settings, survey: &Survey<'_>) -> Vec<StoreFacts> {
    let mut found = Vec::new();
    for (store, status) in repository.stores.iter().zip(survey.statuses()) {
        let free_bytes = match (&status, settings.store(store.name())) {
            (StoreStatus::Ready, Some(configured)) => host::free_bytes(open::store_spec(configured)).await,
            _ => None,
        };
        found.push(store_facts(store, &status, free_bytes));
    }
    found
}

fn store_facts(store: &Store, status: &StoreStatus, free_bytes: Option<u64>) -> StoreFacts {
    let answer = match status {
        StoreStatus::Ready => Answer::Ready,
        StoreStatus::Down(_) => Answer::Down,
        StoreStatus::Empty => Answer::Empty,
        StoreStatus::Foreign(_) => Answer::Foreign,
        StoreStatus::Newer(_) => Answer::Newer,
        StoreStatus::Damaged(_) => Answer::Damaged,
    };
    let next_step = (*status != StoreStatus::Ready).then(|| status.failure(store.name()).next_step).flatten();
    let problem = status.problem().unwrap_or_default();
    StoreFacts { name: store.name().to_owned(), place: store.place().clone(), answer, problem, next_step, free_bytes }
}

async fn gather_control(repository: &Repository, settings: &Settings, survey: &Survey<'_>) -> ControlFacts {
    // What is down costs its patience once, not once more for every record.
    let ready = repository.stores.iter().zip(survey.statuses()).filter(|(_, status)| *status == StoreStatus::Ready);
    let asked = Repository { stores: ready.map(|(store, _)| store.clone()).collect(), ..repository.clone() };
    let state_dir = &settings.host.state_dir;
    let view = evidence::read_control(&asked, state_dir.exists().then_some(state_dir.as_path())).await;
    let journal = Journal::new(state_dir, repository.id);
    let own = journal.chain();
    let writer = own.as_ref().map(|chain| chain.writer);
    let of_sources = settings.sources.iter().flat_map(|source| view.state.drills_of(&source.name));
    let open = of_sources.filter(|drill| drill.end.is_none()).map(|drill| (drill.writer, drill.start));
    let running = open.filter(|(writer, number)| host::is_running(state_dir, *writer, *number)).collect();
    let mut refused: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for one in &view.refused {
        let what = format!("record {} of writer {}: {}", one.number, one.writer, one.why);
        refused.entry(what).or_default().push(one.store.clone());
    }
    ControlFacts {
        refused,
        lost: view.missing(repository, own.as_ref()).into_iter().flat_map(|lost| lost_facts(&journal, lost)).collect(),
        complete: view.answered.len() >= repository.control_read_quorum(),
        state: view.state,
        writer,
        running,
    }
}

/// What is missing on the stores, told apart by whether this host has it.
fn lost_facts(journal: &Journal, lost: evidence::Lost) -> Vec<LostFact> {
    let evidence::Lost { writer, first, last } = lost;
    let here = journal.numbers(writer);
    let mut facts: Vec<LostFact> = Vec::new();
    let mut next = first;
    for number in here.range(first..=last).copied() {
        if number > next {
            facts.push(LostFact { writer, first: next, last: number - 1, is_here: false });
        }
        match facts.last_mut().filter(|fact| fact.is_here && fact.last + 1 == number) {
            Some(fact) => fact.last = number,
            None => facts.push(LostFact { writer, first: number, last: number, is_here: true }),
        }
        next = number + 1;
    }
    if next <= last {
        facts.push(LostFact { writer, first: next, last, is_here: false });
    }
    facts
}

/// What this host knows of one source, and why it knows nothing where it should.
fn known_of(settings: &Settings, repository: &Repository, source: &SourceName) -> Result<super::state::Known, String> {
    let directory = runs::source_state_dir(settings, source);
    super::state::SourceState::peek_strictly(&directory, repository.id)
}
