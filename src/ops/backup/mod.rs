//! Takes snapshots: gather, plan, capture and ship, commit, record.

mod base;
mod capture;
mod commit;
mod digest_parts;
mod fuzzy;
mod gather;
mod last;
mod log_wait;
mod pipeline;
mod reuse;
mod segments;
pub(super) mod shipment;
#[cfg(test)]
mod tests;

use super::{
    host::{Host, Protected},
    progress::{Progress, Unit},
    state::{ALTERED_FILES_MAX, Altered, BaseRecord, SourceState},
};
use crate::{
    core::{
        alteration::Alteration,
        failure::{Code, Failure},
        id::{RunId, SnapshotId, SourceName},
        inventory::{FORMAT, Inventory, Kind, ObjectRef, Parent, Use},
        plan::backup::Approach,
        policy::is_durable,
    },
    format::{
        inventory as inventory_format,
        objects::{self, RunObjects},
        run::{self, RunWriter},
        seal::SealedObject,
    },
    repository::layout,
    sources::CHANGED_WHILE_READ,
};
use capture::{Capture, CaptureRequest};
use commit::{Commit, CommitOutcome};
use gather::Gathered;
pub(crate) use gather::check_own_key;
use last::Last;
use shipment::{Parcel, Room, Shipment};
use std::collections::BTreeMap;

/// How long the threads of a run that failed are waited for.
const CAPTURE_ENDS_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

/// What one run of one source came to.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The inventory that was committed.
    pub inventory: Inventory,
    /// The snapshot and the digest of its inventory: the new head.
    pub head: Parent,
    /// Stores that hold all of it.
    pub stores: Vec<String>,
    /// Stores that do not, and why.
    pub behind: Vec<(String, String)>,
    /// Whether enough stores hold it.
    pub durable: bool,
    /// Files of an append-only log that were altered since the snapshot before.
    pub alterations: Vec<Alteration>,
    /// The snapshot before, which holds what they were; `None` where nothing was altered.
    pub altered_since: Option<SnapshotId>,
    /// Whether a prune plan that was published meanwhile condemns something that it uses.
    pub condemned: bool,
    /// Why it is a full, if it is one.
    pub full_because: Option<String>,
    /// What the operator should know.
    pub notes: Vec<String>,
    /// What the operator should look into.
    pub warnings: Vec<String>,
}

impl Snapshot {
    /// The exit code that says it.
    pub fn code(&self) -> Code {
        match (self.durable, self.behind.is_empty() && self.warnings.is_empty()) {
            (false, _) => Code::Failed,
            (true, _) if !self.alterations.is_empty() => Code::LogAltered,
            (true, false) => Code::Warning,
            (true, true) => Code::Done,
        }
    }
}

/// What a run would do.
#[derive(Clone, Debug)]
pub struct BackupPlan {
    /// Full or incremental, and why.
    pub approach: Approach,
    /// The number the snapshot would get.
    pub seq: u64,
    /// The heads it would name as parents.
    pub parents: Vec<Parent>,
    /// Stores that would get it.
    pub stores: Vec<String>,
    /// Stores that would not, and why.
    pub behind: Vec<(String, String)>,
    /// Whether nothing changed since the base.
    pub unchanged: bool,
}

/// Says what a run would do; changes nothing.
pub async fn plan(host: &Host, protected: &Protected, full: bool) -> Result<BackupPlan, Failure> {
    let state = SourceState::read_only(host.source_state_dir(&protected.name), host.repository.id);
    let gathered = gather::gather(host, protected, &state, full, false).await?;
    Ok(BackupPlan {
        unchanged: gathered.idle,
        approach: gathered.approach,
        seq: gathered.seq,
        parents: gathered.parents,
        stores: gathered.takers.iter().map(|at| host.repository.stores[*at].name().to_owned()).collect(),
        behind: gathered.behind,
    })
}

/// Takes one snapshot of one source.
pub async fn backup(
    host: &Host,
    protected: &Protected,
    full: bool,
    progress: &dyn Progress,
) -> Result<Snapshot, Failure> {
    let state = SourceState::open(host.source_state_dir(&protected.name), host.repository.id)?;
    let _lock = state.lock(&protected.name)?;
    let first = undisturbed_attempt(host, protected, &state, full, progress).await?;
    if !first.condemned {
        return Ok(first);
    }
    // A prune that ran at the same time condemns something that it uses. The second attempt has seen the plan.
    let mut again = undisturbed_attempt(host, protected, &state, full, progress).await?;
    again.notes.push(format!("snapshot {} uses what a prune condemned meanwhile; it was taken again", first.head.id));
    if again.alterations.is_empty() {
        (again.alterations, again.altered_since) = (first.alterations, first.altered_since);
    }
    Ok(again)
}

/// As many attempts as it takes to read one state. Somebody may open a database that nobody had open: the next attempt
/// reads it beside them. Or logs are rotated.
async fn undisturbed_attempt(
    host: &Host,
    protected: &Protected,
    state: &SourceState,
    full: bool,
    progress: &dyn Progress,
) -> Result<Snapshot, Failure> {
    for _ in 1..protected.source.attempts() {
        match attempt(host, protected, state, full, progress).await {
            Err(failure) if failure.message.contains(CHANGED_WHILE_READ) => {}
            outcome => return outcome,
        }
    }
    attempt(host, protected, state, full, progress).await
}

async fn attempt(
    host: &Host,
    protected: &Protected,
    state: &SourceState,
    full: bool,
    progress: &dyn Progress,
) -> Result<Snapshot, Failure> {
    state.remove_leftovers();
    let gathered = gather::gather(host, protected, state, full, true).await?;
    let run = host.world.new_id();
    let id = SnapshotId { seq: gathered.seq, run };
    if gathered.idle {
        return idle(host, protected, gathered, id).await;
    }
    active(host, protected, gathered, id, progress).await
}

/// Nothing changed since the base: its root and objects are named again.
async fn idle(host: &Host, protected: &Protected, gathered: Gathered, id: SnapshotId) -> Result<Snapshot, Failure> {
    let state = SourceState::open(host.source_state_dir(&protected.name), host.repository.id)?;
    let base = gathered.base.as_ref().ok_or_else(|| Failure::internal("an idle run has a base"))?;
    let record = base.record.clone();
    let inventory = Inventory {
        kind: Kind::Incremental,
        seq: id.seq,
        run: id.run,
        writer: host.key.fingerprint().to_string(),
        parents: gathered.parents.clone(),
        created_at: host.world.now(),
        read_started_at: gathered.looked_at,
        bytes_stored: 0,
        recipients: host.recipients.names().to_vec(),
        altered_since: None,
        ..base.committed.inventory.clone()
    };
    let commit = Commit::new(host, &protected.name, inventory, Vec::new())?;
    let shipment = shipment(host, protected, &gathered, id.run);
    let outcome = commit.run(host, &protected.policy.copies, shipment, gathered.behind.clone()).await?;
    let outcome = outcome.heed_plans(host, protected, &gathered).await;
    let record = BaseRecord { snapshot: id, inventory_sha256: outcome.head.sha256, ..record };
    finish(&state, &gathered, outcome, Ok(record), Vec::new(), None)
}

async fn active(
    host: &Host,
    protected: &Protected,
    mut gathered: Gathered,
    id: SnapshotId,
    progress: &dyn Progress,
) -> Result<Snapshot, Failure> {
    let state = SourceState::open(host.source_state_dir(&protected.name), host.repository.id)?;
    let kind = gathered.approach.kind();
    let base = gathered.base.as_mut().filter(|_| kind == Kind::Incremental);
    let history = base.as_ref().map_or_else(|| id.run.to_string(), |base| base.committed.inventory.history.clone());
    let base_uses: BTreeMap<RunId, _> = base
        .iter()
        .flat_map(|base| base.committed.inventory.uses.iter().map(|used| (used.run, used.objects_sha256)))
        .collect();
    let base_root = base.as_ref().map(|base| base.committed.inventory.manifest.clone());
    let (digest_key, last, manifest) = match base {
        Some(base) => {
            let last = base.digests.take().map(|digests| Last::of_base(&base.record, base.digest_key, digests));
            (base.digest_key, last, base.manifest.take())
        }
        None => (host.world.random(), last_of_full(protected, &state, &mut gathered), None),
    };
    let altered_since = last.as_ref().map(|last| last.snapshot);
    let structure_recipients = match &host.catalogue_key {
        Some(key) => host.recipients.with(&key.recipients),
        None => host.recipients.clone(),
    };
    let (begun, log_begins) = tokio::sync::oneshot::channel();
    let request = CaptureRequest {
        begun: Some(begun),
        repository: host.repository.id,
        source_name: protected.name.clone(),
        source: protected.source.clone(),
        run: id.run,
        recipients: host.recipients.clone(),
        structure_recipients,
        compression_level: host.compression_level,
        configuration: host.configuration.clone(),
        catalogue_identity: host.catalogue_key.as_ref().map(|key| key.text.clone()),
        digest_key,
        base: manifest,
        last,
        state,
        fingerprints: protected.policy.fingerprints.clone(),
    };
    let mut shipment = shipment(host, protected, &gathered, id.run);
    shipment.begin_with(writer_parcel(host, protected, id.run));
    let (outbox, mut receiver) = shipment::outbox();
    let (done, captured) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // The receiver is gone when the run was cut short; then nobody wants the result.
        let _ = done.send(capture::capture(request, outbox));
    });
    progress.begin("sealing and shipping", None, Unit::Bytes);
    let advance = |bytes| progress.advance(bytes);
    let carried = tokio::select! {
        carried = shipment.carry(&mut receiver, &advance) => Ok(carried),
        failure = log_wait::unshipped(host, protected, log_begins) => Err(failure),
    };
    drop(receiver);
    let carried = match carried {
        Ok(carried) => carried,
        Err(failure) => {
            // It notices at its next object that nobody takes any; what it leaves is removed by the next run.
            let _ = tokio::time::timeout(CAPTURE_ENDS_WITHIN, captured).await;
            return Err(failure);
        }
    };
    let captured = captured.await.unwrap_or_else(|_| Err(Failure::internal("a thread of the backup panicked")));
    if carried.is_err() {
        // When no store takes anything any more, that is the cause, and the capture only noticed it.
        return Err(nobody_took_it(shipment, &protected.name, &gathered.behind).await);
    }
    let capture = captured?;
    if let Some(range) = &capture.facts.log {
        progress.begin("waiting for the log", None, Unit::Bytes);
        if let Err(failure) = log_wait::until_durable(host, protected, range).await {
            capture.new_digests.discard();
            return Err(failure);
        }
    }
    let inventory = inventory_of(host, protected, &gathered, id, kind, history, &capture, &base_uses, base_root)?;
    let mut parcels = Vec::new();
    let mut inventory = inventory;
    if let Some(parcel) = objects_parcel(host, protected, id.run, &capture) {
        set_own_objects(&mut inventory, id.run, &parcel.object);
        parcels.push(parcel);
    }
    if let Some(root) = &capture.root {
        parcels.push(Parcel { name: layout::manifest_root(id), object: root.clone() });
    }
    inventory.bytes_stored = shipment.bytes + parcels.iter().map(|parcel| parcel.object.size()).sum::<u64>();
    inventory.created_at = host.world.now();
    let altered_since = altered_since.filter(|_| !capture.alterations.is_empty());
    inventory.altered_since = altered_since;
    let notes = capture.facts.notes.clone();
    let record = record_of(host, id, &capture, digest_key);
    let commit = Commit::new(host, &protected.name, inventory, parcels);
    let outcome = match commit {
        Ok(commit) => commit.run(host, &protected.policy.copies, shipment, gathered.behind.clone()).await,
        Err(failure) => Err(failure),
    };
    if record.is_err() || !outcome.as_ref().is_ok_and(|outcome| !outcome.stores.is_empty()) {
        capture.new_digests.discard();
    }
    let outcome = outcome?.heed_plans(host, protected, &gathered).await;
    let record = record.map(|record| BaseRecord { inventory_sha256: outcome.head.sha256, ..record });
    let altered = altered_since.map(|since| Altered {
        since,
        found_in: outcome.head.id,
        files: capture.alterations.iter().take(ALTERED_FILES_MAX).map(ToString::to_string).collect(),
        hold: None,
    });
    gathered.warnings.extend(capture.facts.warnings.iter().cloned());
    if let Some(parent) = gathered.parents.first().filter(|_| !capture.facts.warnings.is_empty()) {
        gathered.warnings.push(format!(
            "snapshot {} was taken before this one: keep it until the damage is understood (recoup hold add)",
            parent.id
        ));
    }
    let snapshot = finish(&capture.state, &gathered, outcome, record, notes, altered)?;
    Ok(Snapshot { alterations: capture.alterations, altered_since, ..snapshot })
}

/// What a full of an append-only source is compared with. A full trusts no local state, and replaces it: an alteration
/// that went unnoticed now would never be noticed.
fn last_of_full(protected: &Protected, state: &SourceState, gathered: &mut Gathered) -> Option<Last> {
    if !protected.source.is_append_only() {
        return None;
    }
    match Last::read(state) {
        Ok(last) => Some(last),
        // Before the first snapshot there is nothing to compare with.
        Err(_) if gathered.parents.is_empty() => None,
        Err(why) => {
            gathered.warnings.push(format!(
                "what was captured before could not be compared with the log as it is now, because {why}; compare it by \
                 hand with what the snapshot before restores"
            ));
            None
        }
    }
}

/// Every store failed while the snapshot was shipped: says how each did.
async fn nobody_took_it(shipment: Shipment, source: &SourceName, behind: &[(String, String)]) -> Failure {
    let mut reasons: Vec<String> = behind.iter().map(|(store, why)| reason(store, why)).collect();
    for (store, task) in shipment.close() {
        let why = match task.await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        reasons.push(if why.starts_with("store ") { why } else { format!("store {store}: {why}") });
    }
    Failure::new(Code::Failed, format!("no store took the snapshot of {source}"))
        .cause(reasons.join("; "))
        .safe("earlier snapshots are unaffected; nothing of this one is committed")
        .next_step("make room or bring the stores back, then run the same command again")
}

/// A shipment to every store that can get the snapshot.
fn shipment(host: &Host, protected: &Protected, gathered: &Gathered, run: RunId) -> Shipment {
    let spool_dir = host.source_state_dir(&protected.name).join("spool").join(run.as_str());
    let (copies, places) = (protected.policy.copies.clone(), host.repository.places());
    Shipment::new(
        &gathered.taking_stores(host),
        layout::source_folder(&protected.name),
        Room::new(spool_dir, host.spool_limit_bytes),
        Box::new(move |stores| is_durable(&copies, &places, stores)),
    )
}

#[expect(clippy::too_many_arguments, reason = "an inventory gathers what every step has found out")]
fn inventory_of(
    host: &Host,
    protected: &Protected,
    gathered: &Gathered,
    id: SnapshotId,
    kind: Kind,
    history: String,
    capture: &Capture,
    base_uses: &BTreeMap<RunId, crate::core::id::Sha256>,
    base_root: Option<ObjectRef>,
) -> Result<Inventory, Failure> {
    let mut uses = Vec::new();
    for (run, packs) in &capture.uses {
        let objects_sha256 = match base_uses.get(run) {
            Some(sha256) => *sha256,
            // Filled in once the object list is written.
            None if *run == id.run => crate::core::id::Sha256([0; 32]),
            None => return Err(Failure::internal(format!("run {run} is used but not known"))),
        };
        uses.push(Use {
            run: *run,
            objects_sha256,
            packs: crate::core::inventory::PackSet::from_packs(packs.iter().copied()),
        });
    }
    let manifest = match (&capture.root, base_root) {
        (Some(root), _) => ObjectRef { name: layout::manifest_root(id), size: root.size(), sha256: root.sha256 },
        (None, Some(root)) => root,
        (None, None) => return Err(Failure::internal("a full snapshot has no manifest")),
    };
    let now = host.world.now();
    Ok(Inventory {
        format: FORMAT.to_owned(),
        repository: host.repository.id,
        source: protected.name.clone(),
        source_kind: protected.source.kind().to_owned(),
        source_identity: capture.facts.identity.clone(),
        seq: id.seq,
        run: id.run,
        writer: host.key.fingerprint().to_string(),
        kind,
        parents: gathered.parents.clone(),
        created_at: now,
        read_started_at: capture.facts.read_started_at,
        history: capture.facts.history.clone().unwrap_or(history),
        position: capture.facts.position.clone(),
        bytes_raw: capture.facts.entries.iter().map(crate::core::manifest::Entry::size).sum(),
        bytes_stored: 0,
        recipients: host.recipients.names().to_vec(),
        manifest,
        uses,
        log: capture.facts.log.clone(),
        altered_since: None,
    })
}

/// Until the inventory is there, a prune that meets the run knows from this whose it is.
fn writer_parcel(host: &Host, protected: &Protected, run: RunId) -> Parcel {
    let note = RunWriter {
        format: run::FORMAT.to_owned(),
        repository: host.repository.id,
        source: protected.name.clone(),
        run,
        writer: host.key.fingerprint().to_string(),
    };
    Parcel { name: layout::run_object(run, layout::WRITER), object: SealedObject::clear(note.to_bytes()) }
}

fn objects_parcel(host: &Host, protected: &Protected, run: RunId, capture: &Capture) -> Option<Parcel> {
    if capture.objects.is_empty() {
        return None;
    }
    let list = RunObjects {
        format: objects::FORMAT.to_owned(),
        repository: host.repository.id,
        source: protected.name.clone(),
        run,
        recipients: host.recipients.names().to_vec(),
        objects: capture.objects.clone(),
    };
    Some(Parcel { name: layout::run_object(run, layout::OBJECTS), object: SealedObject::clear(list.to_bytes()) })
}

fn set_own_objects(inventory: &mut Inventory, run: RunId, list: &SealedObject) {
    for used in inventory.uses.iter_mut().filter(|used| used.run == run) {
        used.objects_sha256 = list.sha256;
    }
}

/// What the next run is to know of this one; says why it cannot, if so.
fn record_of(host: &Host, id: SnapshotId, capture: &Capture, digest_key: [u8; 32]) -> Result<BaseRecord, Failure> {
    Ok(BaseRecord {
        format: BaseRecord::format(),
        repository: host.repository.id,
        snapshot: id,
        inventory_sha256: crate::core::id::Sha256([0; 32]),
        configuration_sha256: capture::configuration_sha256(&host.configuration),
        digest_key: crate::core::id::hex(&digest_key),
        digest_run: id.run,
        digests_blake3: capture.digests_blake3.clone()?,
        files: capture.new_digests.files().to_vec(),
        fingerprint: capture.facts.fingerprint.clone(),
    })
}

/// Why a store is behind, with its name, which its own errors have already.
pub(super) fn reason(store: &str, why: &str) -> String {
    let prefix = format!("store {store}: ");
    if why.starts_with(&prefix) { why.to_owned() } else { prefix + why }
}

/// Records what was committed, and says what came of the run.
fn finish(
    state: &SourceState,
    gathered: &Gathered,
    outcome: CommitOutcome,
    record: Result<BaseRecord, Failure>,
    notes: Vec<String>,
    altered: Option<Altered>,
) -> Result<Snapshot, Failure> {
    let notes = gathered.notes.iter().cloned().chain(notes).collect();
    let mut warnings = gathered.warnings.clone();
    if let Err(failure) = remember(state, &outcome, record, altered) {
        // The snapshot is committed all the same; the next one is just larger.
        warnings.push(format!(
            "the snapshot is safe, but this host could not note it: {failure}; make room there: until then snapshots are \
             taken over the last one that was noted, or in full"
        ));
    }
    Ok(Snapshot {
        full_because: match &gathered.approach {
            Approach::Full(reason) => Some(reason.to_string()),
            Approach::Incremental(_) => None,
        },
        inventory: outcome.inventory,
        head: outcome.head,
        stores: outcome.stores,
        behind: outcome.behind,
        durable: outcome.durable,
        alterations: Vec::new(),
        altered_since: None,
        condemned: outcome.condemned,
        notes,
        warnings,
    })
}

/// Notes what was committed. Each of the two records may fail without the other.
///
/// An alteration is noted before the record that hides it from the next run.
fn remember(
    state: &SourceState,
    outcome: &CommitOutcome,
    record: Result<BaseRecord, Failure>,
    altered: Option<Altered>,
) -> Result<(), Failure> {
    let hides = altered.is_some();
    if outcome.stores.is_empty() {
        return Ok(());
    }
    let known = state.update_known(|known| {
        known.last_seq = known.last_seq.max(outcome.head.id.seq);
        if outcome.durable {
            known.head = Some(outcome.head);
        }
        for store in &outcome.stores {
            known.completed.entry(store.clone()).or_default().insert(outcome.head.id);
        }
        if let Some(altered) = altered {
            known.altered.push(altered);
        }
    });
    match known {
        // Found again by the next run, rather than never told.
        Err(failure) if hides => Err(failure),
        known => record.and_then(|record| state.set_base(&record)).and(known),
    }
}

/// The bytes of the inventory and its digest.
fn seal_inventory(inventory: &Inventory) -> Result<SealedObject, Failure> {
    match inventory.contradiction() {
        Some(why) => Err(Failure::internal(format!("the inventory cannot be right: {why}"))),
        None => Ok(SealedObject::clear(inventory_format::to_bytes(inventory))),
    }
}
