//! Verifies that the stores hold what they should: presence and sizes, or every byte. Needs no key.

mod clear;
mod held;
pub(in crate::ops) mod logs;
pub(in crate::ops) mod prunes;
mod vouches;

use super::{
    findings::{Findings, Losses},
    progress::{Progress, Unit},
};
use crate::{
    core::{
        control::ControlState,
        evidence::HoldId,
        failure::Failure,
        id::{SnapshotId, SourceName},
        policy::{Copies, is_durable},
        prune::CondemnedLogs,
        result::{Problem, Status, StoreFinding, VerifyResult, VerifySchema},
    },
    format,
    ops::{evidence::read_control, state::Known},
    repository::{
        Repository,
        catalogue::{Catalogue, Needed},
        fetch::problem_of,
        head::StoreStatus,
        layout,
        log::LogSurvey,
    },
};
use futures_util::{StreamExt, stream};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

/// Objects that are read at once.
const CONCURRENT_READS: usize = 4;

/// What to verify.
#[derive(Clone, Debug, Default)]
pub struct VerifyRequest {
    /// Sources; empty for all.
    pub sources: Vec<SourceName>,
    /// Re-read every byte; otherwise presence, sizes and clear objects.
    pub all: bool,
    /// What this host knows, by source.
    pub known: BTreeMap<SourceName, Known>,
    /// When a snapshot of each source is durable; more than half of the stores where it is not said.
    pub copies: BTreeMap<SourceName, Copies>,
    /// This host's state directory, where what was read of the control log is kept.
    pub state_dir: Option<PathBuf>,
}

/// Everything that was found, before it is judged.
pub struct Examination {
    /// What was found.
    pub findings: Findings,
    /// What of it no store can mend.
    pub losses: Losses,
    /// Objects looked at.
    pub objects: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Things that are no fault.
    pub notes: Vec<String>,
    /// Whether any store could be read.
    pub any_ready: bool,
    /// Damaged or missing objects: source, store position, object.
    pub to_heal: Vec<(SourceName, usize, Needed)>,
    /// Holds on snapshots that no store shows.
    pub held_missing: BTreeSet<HoldId>,
}

/// Verifies the stores.
pub async fn verify(
    repository: &Repository,
    request: &VerifyRequest,
    progress: &dyn Progress,
) -> Result<VerifyResult, Failure> {
    let control = read_control(repository, request.state_dir.as_deref()).await;
    let examination = examine(repository, request, &control.state, progress).await?;
    let findings = examination.findings.list();
    let mut next_steps = examination.losses.next_steps(&findings, false);
    next_steps.extend(held::next_step(&examination));
    Ok(VerifyResult {
        schema: VerifySchema,
        status: judge(&examination, &findings),
        next_steps,
        objects: examination.objects,
        bytes: examination.bytes,
        findings,
        notes: examination.notes,
    })
}

fn judge(examination: &Examination, findings: &[StoreFinding]) -> Status {
    if !examination.any_ready {
        return Status::Unknown;
    }
    let severity = |problem: Problem| match problem {
        Problem::Missing | Problem::Damaged | Problem::Foreign | Problem::Hidden => Status::Critical,
        Problem::Behind | Problem::Unreachable | Problem::Full => Status::Warning,
    };
    let found: Vec<Status> = findings.iter().map(|finding| severity(finding.problem)).collect();
    if found.contains(&Status::Critical) {
        Status::Critical
    } else if found.is_empty() {
        Status::Ok
    } else {
        Status::Warning
    }
}

/// Looks at everything that the request covers, and at what is held.
pub async fn examine(
    repository: &Repository,
    request: &VerifyRequest,
    control: &ControlState,
    progress: &dyn Progress,
) -> Result<Examination, Failure> {
    let mut examination = Examination {
        findings: Findings::default(),
        losses: Losses::default(),
        objects: 0,
        bytes: 0,
        notes: Vec::new(),
        any_ready: false,
        to_heal: Vec::new(),
        held_missing: BTreeSet::new(),
    };
    clear::examine(repository, &mut examination).await;
    if !examination.any_ready {
        return Ok(examination);
    }
    vouches::examine(repository, &mut examination).await;
    let mut sources = super::list::sources_on_stores(repository).await?;
    sources.extend(request.known.keys().cloned());
    sources.extend(control.holds().map(|(_, hold)| hold.source.clone()));
    sources.retain(|name| request.sources.is_empty() || request.sources.contains(name));
    for source in sources {
        let catalogue = repository.catalogue(&source).await;
        let known = request.known.get(&source).cloned().unwrap_or_default();
        let copies = request.copies.get(&source).cloned().unwrap_or_default();
        let log = repository.survey_log(&catalogue).await;
        let held = held::of(control, &source);
        let mut durable = once_durable(repository, &catalogue, &known, &copies);
        durable.extend(held.keys().filter(|id| catalogue.snapshots.contains_key(id)));
        let judged = Judged { catalogue: &catalogue, log: &log, known: &known, durable, held };
        examine_source(repository, &judged, request.all, progress, &mut examination).await;
    }
    Ok(examination)
}

impl Examination {
    /// Says something once.
    pub(super) fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// A source and what its stores are judged by.
struct Judged<'a> {
    catalogue: &'a Catalogue,
    log: &'a LogSurvey,
    known: &'a Known,
    /// Snapshots that are or once were durable, or are held: a store that lacks one is behind.
    durable: BTreeSet<SnapshotId>,
    /// Snapshots that are held, each with its holds.
    held: BTreeMap<SnapshotId, BTreeSet<HoldId>>,
}

/// Snapshots that enough stores have committed, damaged or not.
fn once_durable(
    repository: &Repository,
    catalogue: &Catalogue,
    known: &Known,
    copies: &Copies,
) -> BTreeSet<SnapshotId> {
    let places = repository.places();
    let committed_on = |id: SnapshotId| -> BTreeSet<String> {
        let holds = |store: &str| known.completed.get(store).is_some_and(|completed| completed.contains(&id));
        let listings = catalogue.listings.iter().filter(|listing| listing.has_inventory(id) || holds(&listing.store));
        listings.map(|listing| listing.store.clone()).collect()
    };
    catalogue.snapshots.keys().copied().filter(|id| is_durable(copies, &places, &committed_on(*id))).collect()
}

async fn examine_source(
    repository: &Repository,
    judged: &Judged<'_>,
    all: bool,
    progress: &dyn Progress,
    examination: &mut Examination,
) {
    let catalogue = judged.catalogue;
    examine_refused(catalogue, examination);
    prunes::examine_refused(catalogue, examination);
    prunes::note_leftovers(catalogue, examination);
    logs::examine(catalogue, judged.log, examination);
    // A store may have answered a moment ago, and may give its recoup.json and no listing.
    for listing in &catalogue.listings {
        let StoreStatus::Down(why) = &listing.status else { continue };
        examination.note(format!("store {}: {why}", listing.store));
        examination.losses.unasked.insert(listing.store.clone());
        examination.findings.add(&listing.store, None, Problem::Unreachable, [], Some(why.clone()));
    }
    let mut wrong: BTreeMap<Needed, BTreeSet<usize>> = BTreeMap::new();
    for store in catalogue.ready().collect::<Vec<_>>() {
        for object in examine_objects(repository, judged, store, all, progress, examination).await {
            wrong.entry(object).or_default().insert(store);
        }
    }
    logs::examine_own(catalogue, judged.log, &wrong, examination);
    let log_lags = !logs::lacking(catalogue, judged.log, &CondemnedLogs::default()).is_empty();
    let gone = prunes::forget_pruned(repository, catalogue, &mut examination.findings, log_lags).await;
    logs::examine_lag(catalogue, judged.log, &gone.logs, examination);
    examine_head(judged, examination);
    held::examine(judged, examination);
    settle_losses(catalogue, &wrong, examination);
}

/// Looks at everything that a store should hold of a source; returns what is not right there.
async fn examine_objects(
    repository: &Repository,
    judged: &Judged<'_>,
    store: usize,
    all: bool,
    progress: &dyn Progress,
    examination: &mut Examination,
) -> Vec<Needed> {
    let catalogue = judged.catalogue;
    let wanted = wanted_on(judged, store, examination);
    let name = &catalogue.listings[store].store;
    progress.begin(&format!("verifying {} on {name}", catalogue.source), Some(wanted.len() as u64), Unit::Objects);
    let held = &catalogue.listings[store].objects;
    let checks = stream::iter(wanted).map(|(object, snapshots)| async move {
        let found = check_object(repository, catalogue, store, &object, held, all).await;
        progress.advance(1);
        (object, snapshots, found)
    });
    let checks: Vec<_> = checks.buffer_unordered(CONCURRENT_READS).collect().await;
    let mut wrong = Vec::new();
    for (object, snapshots, found) in checks {
        examination.objects += 1;
        let problem = match found {
            Ok(bytes) => {
                examination.bytes += bytes;
                continue;
            }
            Err(problem) => problem,
        };
        examination.findings.add(name, Some(full_name(catalogue, &object.name)), problem, snapshots, None);
        if problem == Problem::Unreachable {
            examination.losses.unasked.insert(name.clone());
        }
        examination.to_heal.push((catalogue.source.clone(), store, object.clone()));
        wrong.push(object);
    }
    wrong
}

fn full_name(catalogue: &Catalogue, name: &str) -> String {
    format!("{}{name}", layout::source_folder(&catalogue.source))
}

/// The newest snapshot that this host has made durable must be somewhere, also where it is not known on which stores.
fn examine_head(judged: &Judged<'_>, examination: &mut Examination) {
    let Judged { catalogue, known, .. } = judged;
    let Some(head) = known.head.filter(|head| !catalogue.snapshots.contains_key(&head.id)) else { return };
    let name = full_name(catalogue, &layout::snapshot_object(head.id, layout::INVENTORY));
    let unclear = catalogue.ready().count() < catalogue.listings.len();
    if unclear || examination.findings.names(&name) || catalogue.is_settled(head.id) {
        return;
    }
    for store in catalogue.ready() {
        let store = &catalogue.listings[store].store;
        examination.findings.add(store, Some(name.clone()), Problem::Missing, [head.id], None);
    }
    examination.losses.objects.insert(name);
}

/// Finds out what no store has whole, and which snapshot is the newest that needs nothing of that.
fn settle_losses(catalogue: &Catalogue, wrong: &BTreeMap<Needed, BTreeSet<usize>>, examination: &mut Examination) {
    for (object, stores) in wrong {
        let has_it_whole = |store: usize| {
            !stores.contains(&store) && catalogue.lacking(store, std::slice::from_ref(object)).is_empty()
        };
        if !catalogue.ready().any(has_it_whole) {
            examination.losses.objects.insert(full_name(catalogue, &object.name));
        }
    }
    let folder = layout::source_folder(&catalogue.source);
    let lost = &examination.losses.objects;
    let spoilt: BTreeSet<SnapshotId> = examination
        .findings
        .list()
        .into_iter()
        .filter(|found| found.object.as_ref().is_some_and(|name| name.starts_with(&folder) && lost.contains(name)))
        .flat_map(|found| found.snapshots)
        .collect();
    if let Some(newest) = catalogue.snapshots.keys().rev().find(|id| !spoilt.contains(id)) {
        examination.losses.newest_whole.insert(catalogue.source.clone(), *newest);
    }
}

/// What was signed by nobody trusted, is damaged, or is not where it belongs.
fn examine_refused(catalogue: &Catalogue, examination: &mut Examination) {
    for refused in &catalogue.refused {
        // With a good one elsewhere, this copy is just damaged, and will be found as such below.
        if catalogue.snapshots.contains_key(&refused.id) {
            continue;
        }
        let problem = refused.why.problem();
        let name = layout::snapshot_object(refused.id, layout::INVENTORY);
        let object = full_name(catalogue, &name);
        if problem == Problem::Damaged {
            examination.losses.objects.insert(object.clone());
        }
        let cause = Some(refused.why.to_string());
        examination.findings.add(&refused.store, Some(object), problem, [refused.id], cause);
        examination.note(format!("{name} on store {}: {}", refused.store, refused.why));
    }
}

/// The objects that a store should hold, each with the snapshots that need it.
fn wanted_on(
    judged: &Judged<'_>,
    store: usize,
    examination: &mut Examination,
) -> BTreeMap<Needed, BTreeSet<SnapshotId>> {
    let Judged { catalogue, log, known, durable, .. } = judged;
    let listing = &catalogue.listings[store];
    let mut wanted: BTreeMap<Needed, BTreeSet<SnapshotId>> = BTreeMap::new();
    let completed = known.completed.get(&listing.store);
    prunes::wanted_on(catalogue, store, examination, &mut wanted);
    logs::wanted_on(log, store, &mut wanted);
    for (id, committed) in &catalogue.snapshots {
        let is_committed = listing.has_inventory(*id);
        let was_completed = completed.is_some_and(|completed| completed.contains(id));
        if !is_committed && !was_completed {
            if durable.contains(id) {
                examination.findings.add(&listing.store, None, Problem::Behind, [*id], None);
            } else {
                examination
                    .note(format!("snapshot {id} never became durable; store {} does not have it", listing.store));
            }
            continue;
        }
        match catalogue.needed(committed) {
            Some(needed) => needed.into_iter().for_each(|object| {
                wanted.entry(object).or_default().insert(*id);
            }),
            None => {
                let lost = committed.inventory.uses.iter().filter(|used| catalogue.run(used).is_none());
                let mut names: Vec<_> = lost.map(|used| layout::run_object(used.run, layout::OBJECTS)).collect();
                if names.is_empty() {
                    // Every list is there, and the inventory uses packs that they do not know.
                    names.push(layout::snapshot_object(*id, layout::INVENTORY));
                }
                for name in names.into_iter().map(|name| full_name(catalogue, &name)) {
                    examination.losses.objects.insert(name.clone());
                    examination.findings.add(&listing.store, Some(name), Problem::Damaged, [*id], None);
                }
            }
        }
    }
    let is_unaccounted = |id: &&SnapshotId| !catalogue.snapshots.contains_key(id) && !catalogue.is_settled(**id);
    for id in completed.into_iter().flatten().filter(is_unaccounted) {
        let name = layout::snapshot_object(*id, layout::INVENTORY);
        // What lies there and was refused has its own finding.
        if !listing.objects.contains_key(&name) {
            let name = full_name(catalogue, &name);
            examination.losses.objects.insert(name.clone());
            examination.findings.add(&listing.store, Some(name), Problem::Missing, [*id], None);
        }
    }
    wanted
}

/// Checks one object on one store; says how many bytes were read.
async fn check_object(
    repository: &Repository,
    catalogue: &Catalogue,
    store: usize,
    object: &Needed,
    held: &std::collections::HashMap<String, u64>,
    all: bool,
) -> Result<u64, Problem> {
    let key = format!("{}{}", layout::source_folder(&catalogue.source), object.name);
    let is_right = |found: u64| object.size.is_none_or(|size| found == size);
    if !held.get(&object.name).is_some_and(|found| is_right(*found)) {
        // A listing is not of one moment: a backup that committed meanwhile shows its inventory and not yet its objects.
        match repository.stores[store].size(&key).await {
            Ok(found) if is_right(found) => {}
            Ok(_) => return Err(Problem::Damaged),
            Err(error) => return Err(problem_of(&error)),
        }
    }
    let is_clear = !object.name.ends_with(".age");
    if !all && !is_clear {
        return Ok(0);
    }
    let max_bytes = object.size.unwrap_or(format::objects::MAX_BYTES);
    match repository.stores[store].digest(&key, max_bytes).await {
        Ok((found, bytes)) if found == object.sha256 => Ok(bytes),
        Ok(_) => Err(Problem::Damaged),
        Err(error) => Err(problem_of(&error)),
    }
}
