//! Whole commands over settings: several sources, each with its own outcome; local knowledge read and kept.

use super::{
    altered,
    backup::{self, Snapshot},
    copy::{self, CopyRequest},
    evidence::{Recorder, deeds},
    host::{Host, Protected},
    list::{self, ListRequest},
    open,
    progress::Progress,
    state::{Known, SourceState},
    verify::{self, VerifyRequest},
};
use crate::{
    config::{Settings, SourceSettings},
    core::{
        failure::{Code, Failure},
        id::{RepositoryId, SourceName},
        inventory::Parent,
        plan::backup::Approach,
        policy::{Assertion, Copies},
        result::{
            BackupResult, BackupSchema, CopyResult, Durability, Head, PlanResult, PlanSchema, Problem, SnapshotEntry,
            SourceOutcome, StoreFinding, VerifyResult,
        },
        target::{KnownHead, Target},
    },
    repository::{Repository, layout},
    sources::CheckOptions,
    world::World,
};
use std::collections::{BTreeMap, BTreeSet};

/// When a snapshot of each configured source is durable.
pub fn copies_of(settings: &Settings) -> BTreeMap<SourceName, Copies> {
    let of = |source: &crate::config::SourceSettings| (source.name.clone(), settings.policy(source).copies.clone());
    settings.sources.iter().map(of).collect()
}

/// What this host knows of the configured sources in a repository.
pub fn known_of(settings: &Settings, repository: RepositoryId, sources: &[SourceName]) -> BTreeMap<SourceName, Known> {
    let state_dir = settings.host.state_dir.join("sources");
    let configured = settings.sources.iter().map(|source| source.name.clone());
    configured
        .filter(|name| sources.is_empty() || sources.contains(name))
        .map(|name| (name.clone(), SourceState::peek(&state_dir.join(name.as_str()), repository)))
        .collect()
}

/// Where the local state of a source lies.
pub fn source_state_dir(settings: &Settings, source: &SourceName) -> std::path::PathBuf {
    settings.host.state_dir.join("sources").join(source.as_str())
}

/// What is known before a restore is chosen.
#[derive(Default)]
pub struct BeforeRestore {
    /// The newest snapshot that this host knows of.
    pub head: Option<Parent>,
    /// When a snapshot is durable.
    pub copies: Copies,
    /// The policy's assertions; `None` takes those that were kept with the snapshot.
    pub assertions: Option<Vec<Assertion>>,
    /// What the database's own checks need to know.
    pub check_options: CheckOptions,
    /// What the operator should know.
    pub notes: Vec<String>,
    /// What is so of every restore here.
    pub remarks: Vec<String>,
}

impl BeforeRestore {
    /// Without a configuration: only what the signers tell.
    pub fn on_a_bare_host(repository: &Repository) -> Self {
        let mut before = BeforeRestore::default();
        if !repository.signers.are_of_one_repository() {
            before.notes.push(format!(
                "the signers sign for more than one repository; what is restored is of repository {}",
                repository.id
            ));
        }
        before
    }
}

/// What the configured host knows. A record that cannot be read must not pass for one that knows of no later snapshot.
pub fn before_restore(
    settings: &Settings,
    source: &SourceName,
    target: &Target,
    head: Option<&KnownHead>,
) -> Result<BeforeRestore, Failure> {
    let mut before =
        BeforeRestore { copies: copies_of(settings).remove(source).unwrap_or_default(), ..Default::default() };
    let Some(configured) = settings.source(source.as_str()) else { return Ok(before) };
    before.assertions = Some(settings.policy(configured).assertions.clone());
    before.check_options = check_options(configured);
    if settings.host.signing_key.exists() {
        before.remarks.push(format!(
            "this host also signs snapshots of {source}: whoever takes it over now can read and forge them; where there \
             is time, restore on another host"
        ));
    }
    let directory = settings.host.state_dir.join("sources").join(source.as_str());
    // Without an id nothing could have been noted: opening the repository has refused that already.
    let Some(repository) = settings.repository else { return Ok(before) };
    match SourceState::peek_strictly(&directory, repository) {
        Ok(known) => before.head = known.head,
        Err(why) if *target == Target::Latest && head.is_none() => {
            return Err(Failure::new(Code::Refused, format!("this host's record of the newest snapshot of {source} is damaged"))
                .cause(why)
                .safe("nothing was written; the snapshots are unaffected")
                .next_step("recoup list shows what there is: name one with --target snapshot:NUMBER, or the newest that anybody knows of with --head ID"));
        }
        Err(why) => before.notes.push(format!("this host's record of the newest snapshot is damaged ({why})")),
    }
    Ok(before)
}

/// What the checks of a restored server need to know of the one that is protected.
fn check_options(source: &SourceSettings) -> CheckOptions {
    let Some(postgres) = &source.postgres else { return CheckOptions::default() };
    CheckOptions {
        bin_dir: postgres.bin_dir.clone(),
        database: postgres.server.dbname.clone(),
        user: postgres.server.user.clone(),
        is_scratch: false,
    }
}

/// Takes a snapshot of each source, one after another; none stops the others.
pub async fn backup_sources(
    settings: &Settings,
    world: &World,
    sources: &[SourceName],
    full: bool,
    progress: &dyn Progress,
) -> Result<BackupResult, Failure> {
    let host = open::open_host(settings, world)?;
    let made_again = open::provide_state_dir(settings)?;
    let started_at = world.now();
    let mut result =
        BackupResult { schema: BackupSchema, snapshots: Vec::new(), sources: Vec::new(), notes: Vec::new() };
    if made_again {
        result.notes.push(format!(
            "the state directory {} was gone and was made again; until now, nobody would have noticed stores that were \
             rolled back: recoup list shows what they hold",
            settings.host.state_dir.display()
        ));
    }
    let recorder = Recorder::new(&host, settings);
    for name in sources {
        let taken = backup_one(settings, &host, name, full, progress).await;
        let held = altered::answer(&host, &recorder, name);
        result.notes.extend(held.notes);
        match taken {
            Ok(snapshot) => {
                let altered = altered::failure(name, &snapshot).or(held.failure);
                result.notes.extend(snapshot.notes.iter().map(|note| format!("{name}: {note}")));
                let mut outcome = outcome_of(name, &snapshot);
                if let (Some(failure), Code::Done | Code::Warning) = (&altered, outcome.exit_code) {
                    outcome.exit_code = failure.code;
                    outcome.message = format!("{}; {}", failure.message, outcome.message);
                }
                result.sources.push(SourceOutcome { failure: altered, ..outcome });
                // One that no store holds does not exist.
                if !snapshot.stores.is_empty() {
                    result.snapshots.push(SnapshotEntry::of(
                        &snapshot.inventory,
                        snapshot.stores.clone(),
                        Durability::known(snapshot.durable),
                    ));
                }
            }
            Err(failure) => result.sources.push(SourceOutcome {
                source: name.clone(),
                exit_code: failure.code,
                message: failure.to_string(),
                head: None,
                alterations: Vec::new(),
                altered_since: None,
                failure: Some(failure),
                next_step: None,
            }),
        }
    }
    result.notes.extend(deeds::leave(&recorder, deeds::backup(&result, started_at)).await);
    sources.iter().for_each(|name| altered::told(&host, name));
    Ok(result)
}

async fn backup_one(
    settings: &Settings,
    host: &Host,
    name: &SourceName,
    full: bool,
    progress: &dyn Progress,
) -> Result<Snapshot, Failure> {
    let protected = open::open_source(settings, host, name)?;
    backup::backup(host, &protected, full, progress).await
}

/// This host's state directory, where it has one yet.
fn state_dir_of(settings: &Settings) -> Option<std::path::PathBuf> {
    Some(settings.host.state_dir.clone()).filter(|directory| directory.exists())
}

fn outcome_of(name: &SourceName, snapshot: &Snapshot) -> SourceOutcome {
    let behind: Vec<String> = snapshot.behind.iter().map(|(store, why)| backup::reason(store, why)).collect();
    let id = snapshot.head.id;
    let next_step = match snapshot.code() {
        Code::Warning if !behind.is_empty() => Some("recoup copy"),
        Code::Warning => Some("recoup verify"),
        _ => None,
    };
    let message = match (snapshot.code(), snapshot.stores.is_empty()) {
        (Code::Failed, true) => format!("snapshot {id} is on no store; {}", behind.join("; ")),
        (Code::Failed, false) => format!(
            "snapshot {id} is not durable: only {} hold it (it can be restored); {}",
            snapshot.stores.join(", "),
            behind.join("; ")
        ),
        _ if behind.is_empty() && snapshot.warnings.is_empty() => {
            format!("snapshot {id} is durable and on all stores")
        }
        _ => {
            let parts: Vec<String> = behind.into_iter().chain(snapshot.warnings.iter().cloned()).collect();
            format!("snapshot {id} is durable; {}", parts.join("; "))
        }
    };
    // Told also where more is wrong: the next run compares with this snapshot.
    let message =
        if snapshot.alterations.is_empty() { message } else { format!("{}; {message}", altered::summary(snapshot)) };
    SourceOutcome {
        source: name.clone(),
        exit_code: snapshot.code(),
        message,
        head: (!snapshot.stores.is_empty()).then_some(Head { snapshot: id, sha256: snapshot.head.sha256 }),
        alterations: snapshot.alterations.clone(),
        altered_since: snapshot.altered_since,
        failure: None,
        next_step,
    }
}

/// Says what a backup would do.
pub async fn plan_backup(
    settings: &Settings,
    world: &World,
    sources: &[SourceName],
    full: bool,
) -> Result<PlanResult, Failure> {
    let host = open::open_host(settings, world)?;
    let mut steps = Vec::new();
    for name in sources {
        let protected: Protected = open::open_source(settings, &host, name)?;
        let plan = backup::plan(&host, &protected, full).await?;
        steps.push(match &plan.approach {
            Approach::Full(reason) => format!("{name}: take full snapshot {} ({reason})", plan.seq),
            Approach::Incremental(base) if plan.unchanged => {
                format!("{name}: take snapshot {}; nothing changed since {base}, its content is named again", plan.seq)
            }
            Approach::Incremental(base) => format!("{name}: take incremental snapshot {} over {base}", plan.seq),
        });
        steps.push(format!("{name}: ship it to {}", plan.stores.join(", ")));
        steps.extend(plan.behind.iter().map(|(store, why)| format!("{name}: leave out store {store}: {why}")));
    }
    Ok(PlanResult { schema: PlanSchema, command: "backup".to_owned(), steps })
}

/// Verifies, and remembers what was found damaged, so that no backup builds on it.
pub async fn verify_stores(
    repository: &Repository,
    settings: Option<&Settings>,
    sources: Vec<SourceName>,
    all: bool,
    progress: &dyn Progress,
) -> Result<VerifyResult, Failure> {
    let known = settings.map(|settings| known_of(settings, repository.id, &sources)).unwrap_or_default();
    let copies = settings.map(copies_of).unwrap_or_default();
    let named = sources.clone();
    let state_dir = settings.and_then(state_dir_of);
    let request = VerifyRequest { sources, all, known, copies, state_dir };
    let result = verify::verify(repository, &request, progress).await?;
    if let Some(settings) = settings {
        remember_damage(settings, repository.id, &named, all, &result.findings);
    }
    Ok(result)
}

/// Adds what was found damaged. An entry goes only when a run has read every byte of that store's objects of that
/// source: otherwise the next snapshot would be built on what is known to be lost.
fn remember_damage(
    settings: &Settings,
    repository: RepositoryId,
    sources: &[SourceName],
    all: bool,
    findings: &[StoreFinding],
) {
    // A store that was full or gone was not mended: what is known of it stays.
    let is_unfinished = |finding: &StoreFinding| matches!(finding.problem, Problem::Unreachable | Problem::Full);
    let unreachable = |store: &str| findings.iter().any(|finding| finding.store == store && is_unfinished(finding));
    let examined = |name: &&SourceSettings| sources.is_empty() || sources.contains(&name.name);
    for source in settings.sources.iter().filter(examined) {
        let folder = layout::source_folder(&source.name);
        let damaged_on = |store: &str| -> BTreeSet<String> {
            let of_store = findings.iter().filter(|finding| finding.store == store);
            let damaged = of_store.filter(|finding| matches!(finding.problem, Problem::Damaged | Problem::Missing));
            damaged.filter_map(|finding| finding.object.as_deref()?.strip_prefix(&folder)).map(str::to_owned).collect()
        };
        let state = settings.host.state_dir.join("sources").join(source.name.as_str());
        let before = SourceState::peek(&state, repository).damaged;
        let mut after = before.clone();
        for store in &settings.stores {
            let found = damaged_on(&store.name);
            let entry = after.entry(store.name.clone()).or_default();
            if all && !unreachable(&store.name) {
                *entry = found;
            } else {
                entry.extend(found);
            }
        }
        after.retain(|_, names| !names.is_empty());
        if before == after {
            continue;
        }
        // Losing the remark costs nothing: the next verify finds it again.
        if let Ok(state) = SourceState::open(state, repository) {
            let _ = state.update_known(|known| known.damaged = after);
        }
    }
}

/// Brings the stores level, remembers what is complete now, and leaves evidence of it.
pub async fn copy_stores(
    settings: &Settings,
    world: &World,
    sources: Vec<SourceName>,
    presence_only: bool,
    dry_run: bool,
    progress: &dyn Progress,
) -> Result<CopyResult, Failure> {
    let started_at = world.now();
    let mut copied = bring_level(settings, sources, presence_only, dry_run, progress).await;
    if dry_run {
        return copied;
    }
    let notes = match deeds::recorder(settings, world) {
        Ok(recorder) => deeds::leave(&recorder, deeds::copy(&copied, started_at)).await,
        Err(why) => vec![why],
    };
    if let Ok(result) = &mut copied {
        result.notes.extend(notes);
    }
    copied
}

async fn bring_level(
    settings: &Settings,
    sources: Vec<SourceName>,
    presence_only: bool,
    dry_run: bool,
    progress: &dyn Progress,
) -> Result<CopyResult, Failure> {
    if dry_run {
        open::check_user(settings)?
    } else {
        open::provide_state_dir(settings).map(drop)?
    }
    let repository = open::open_repository(settings)?;
    let known = known_of(settings, repository.id, &sources);
    let named = sources.clone();
    let configured = settings.sources.iter().map(|source| source.name.clone()).collect();
    let spool = settings.host.state_dir.clone();
    let request = CopyRequest { sources, presence_only, dry_run, known, configured, spool };
    let copied = copy::copy(&repository, &request, progress).await?;
    if !dry_run {
        for (source, stores) in &copied.completed {
            if settings.source(source.as_str()).is_none() {
                continue;
            }
            let directory = settings.host.state_dir.join("sources").join(source.as_str());
            let state = SourceState::open(directory, repository.id)?;
            state.update_known(|known| {
                for (store, ids) in stores {
                    known.completed.entry(store.clone()).or_default().extend(ids);
                }
            })?;
        }
    }
    if !dry_run {
        // What could not be healed stays known; with every byte read, the rest is right now.
        remember_damage(settings, repository.id, &named, !presence_only, &copied.result.findings);
    }
    Ok(copied.result)
}

/// Lists snapshots; `settings` say when one is durable.
pub async fn list_snapshots(
    repository: &Repository,
    settings: Option<&Settings>,
    source: Option<&SourceName>,
) -> Result<crate::core::result::ListResult, Failure> {
    let copies = settings.map(copies_of).unwrap_or_default();
    let named: Vec<SourceName> = source.cloned().into_iter().collect();
    let known = settings.map(|settings| known_of(settings, repository.id, &named)).unwrap_or_default();
    let state_dir = settings.and_then(state_dir_of);
    list::list(repository, &ListRequest { source: source.cloned(), copies, known, state_dir }).await
}
