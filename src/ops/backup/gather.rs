//! What a backup needs to know before it begins: stores, heads, the base, and whether anything changed.

use super::{
    base::{self, BaseManifest},
    capture::configuration_sha256,
};
use crate::{
    core::{
        failure::{Code, Failure},
        id::{RunId, SEQ_MAX},
        inventory::Parent,
        manifest::PackId,
        plan::backup::{Approach, BaseFacts, FullReason, approach},
        policy::{Copies, is_durable},
        prune::CondemnedSet,
        time::Timestamp,
    },
    format::{objects::ObjectKind, signature},
    ops::{
        clock,
        host::{Host, Protected},
        state::{BaseRecord, DigestFile, Known, SourceState},
    },
    repository::{
        catalogue::{Catalogue, Committed, Needed},
        heal::BringError,
        layout,
    },
    stores::{Problem, Store, StoreError},
};
use std::collections::{BTreeMap, BTreeSet};

/// How far above all accepted numbers one may be that nobody signed.
const CLAIMED_SEQ_LEAD_MAX: u64 = 1_000;

/// Everything that was found out.
pub(super) struct Gathered {
    pub(super) approach: Approach,
    pub(super) seq: u64,
    pub(super) parents: Vec<Parent>,
    /// Stores that can get the snapshot, by position.
    pub(super) takers: BTreeSet<usize>,
    /// The others, and why.
    pub(super) behind: Vec<(String, String)>,
    pub(super) base: Option<Base>,
    /// Whether nothing changed since the base, so that there is nothing to capture.
    pub(super) idle: bool,
    /// When the source was looked at.
    pub(super) looked_at: Timestamp,
    pub(super) warnings: Vec<String>,
    /// What the operator should know, and what changes no exit code.
    pub(super) notes: Vec<String>,
    /// The prune plans that were seen, and what they condemn: nothing of it is used.
    pub(super) plans_seen: BTreeSet<RunId>,
    pub(super) avoided: CondemnedSet,
}

/// The base of an incremental.
pub(super) struct Base {
    pub(super) record: BaseRecord,
    pub(super) committed: Committed,
    pub(super) digest_key: [u8; 32],
    pub(super) digests: Option<DigestFile>,
    /// Read only when something is captured.
    pub(super) manifest: Option<BaseManifest>,
}

impl Gathered {
    /// The stores that can get the snapshot.
    pub(super) fn taking_stores(&self, host: &Host) -> Vec<Store> {
        self.takers.iter().map(|at| host.repository.stores[*at].clone()).collect()
    }
}

/// Gathers; with `repair` it also completes the base on stores that lack some of it, where that is needed.
pub(super) async fn gather(
    host: &Host,
    protected: &Protected,
    state: &SourceState,
    full: bool,
    repair: bool,
) -> Result<Gathered, Failure> {
    check_own_key(host, protected)?;
    let catalogue = host.repository.catalogue(&protected.name).await;
    let ready: BTreeSet<usize> = catalogue.ready().collect();
    if ready.is_empty() {
        return Err(no_store(&catalogue));
    }
    let known = state.known();
    let avoided = catalogue.prunes.avoided();
    let looked_at = host.world.now();
    let (found, none_because) = match find_base(state, &catalogue).and_then(|base| fitting(protected, base)) {
        Ok(base) => (Some(base), String::new()),
        Err(why) => (None, why),
    };
    let last_full_at = catalogue
        .snapshots
        .values()
        .filter(|committed| committed.inventory.kind == crate::core::inventory::Kind::Full)
        .map(|committed| committed.inventory.created_at)
        .max();
    let mut reuse = match &found {
        Some(base) => {
            Some(Reuse::assess(host, &protected.policy.copies, &catalogue, &known, &avoided, base, repair).await)
        }
        None => None,
    };
    let facts = found.as_ref().zip(reuse.as_ref()).map(|(base, reuse)| BaseFacts {
        id: base.record.snapshot,
        last_full_at,
        sealed_to: sealed_to(&catalogue, &base.committed),
        unusable: reuse.unusable.clone(),
    });
    let mut approach = approach(
        full,
        facts.as_ref().ok_or(none_because),
        host.recipients.names(),
        protected.policy.full_interval,
        looked_at,
    );
    let mut base = found.filter(|_| matches!(approach, Approach::Incremental(_)));
    let mut idle = false;
    if let (Some(base), Some(reuse)) = (&mut base, &mut reuse) {
        idle = reuse.lost.is_empty()
            && base.record.configuration_sha256 == configuration_sha256(&host.configuration)
            && base.record.fingerprint.as_ref().is_some_and(|fingerprint| {
                protected.source.is_unchanged(fingerprint) && !protected.source.is_reread_due(fingerprint)
            });
        if !idle {
            match read_base(host, &catalogue, base, std::mem::take(&mut reuse.lost)).await {
                Ok(manifest) => base.manifest = Some(manifest),
                Err(why) => approach = Approach::Full(FullReason::BaseIncomplete(why)),
            }
        }
    }
    let incremental = matches!(approach, Approach::Incremental(_));
    let takers = match reuse {
        Some(reuse) if incremental => reuse.complete,
        _ => ready,
    };
    Ok(Gathered {
        approach,
        seq: next_seq(&catalogue, known.last_seq)?,
        parents: catalogue.heads(),
        behind: behind(&catalogue, &takers),
        takers,
        base: base.filter(|_| incremental),
        idle,
        looked_at,
        warnings: warnings(&catalogue, &known),
        notes: clock::suspicion(looked_at, &catalogue).into_iter().collect(),
        plans_seen: catalogue.prunes.known(),
        avoided,
    })
}

/// Reads what an incremental compares with; an idle run needs none of it.
async fn read_base(
    host: &Host,
    catalogue: &Catalogue,
    base: &Base,
    lost: BTreeSet<PackId>,
) -> Result<BaseManifest, String> {
    if let Some(digests) = &base.digests {
        digests.check(&base.record.digests_blake3)?;
    }
    let read = base::read(host, catalogue, &base.committed, lost).await;
    read.map_err(|why| format!("the base cannot be read: {why}"))
}

/// One more than the largest number seen, accepted or not: the newest inventory may be the one that is damaged.
///
/// What nobody signed counts only near the others, or anybody who can write to a store could use up all numbers.
fn next_seq(catalogue: &Catalogue, last_seq: u64) -> Result<u64, Failure> {
    let newest = catalogue.snapshots.keys().next_back();
    let pruned = catalogue.all_pruned().last().into_iter().chain(catalogue.spoilt.keys().next_back().copied());
    let gone = pruned.map(|id| id.seq).max().unwrap_or(0);
    let accepted = newest.map_or(0, |id| id.seq).max(last_seq).max(gone);
    let listed = catalogue.listings.iter().flat_map(|listing| listing.objects.keys());
    let claimed = listed.filter_map(|name| layout::snapshot_of(name)).map(|id| id.seq);
    let largest = claimed.filter(|seq| *seq <= accepted.saturating_add(CLAIMED_SEQ_LEAD_MAX)).max();
    let next = largest.unwrap_or(0).max(accepted).saturating_add(1);
    if next <= SEQ_MAX {
        return Ok(next);
    }
    let whose = newest.filter(|id| id.seq == accepted).map_or_else(
        || "this host's record of the last snapshot names it".to_owned(),
        |id| format!("snapshot {id} has it, and its inventory is signed by a trusted key"),
    );
    Err(Failure::new(Code::Refused, format!("no number is left for a snapshot of {}", catalogue.source))
        .cause(format!("the largest is {SEQ_MAX}: {whose}"))
        .safe("nothing was written; earlier snapshots are unaffected")
        .next_step(
            "find out who signed it: whoever did has the signing key of a host. Replace that key, remove the snapshot's \
             folder from every store, then run the same command again",
        ))
}

/// A snapshot that this host's own signers do not trust could never be restored.
pub(crate) fn check_own_key(host: &Host, protected: &Protected) -> Result<(), Failure> {
    let signature = host.key.sign(signature::INVENTORY, b"recoup");
    let principal = signature::principal(&protected.name, &host.repository.id);
    let verified = host.repository.signers.verify(b"recoup", &signature, signature::INVENTORY, &principal);
    verified.map(drop).map_err(|error| {
        Failure::new(
            Code::Configuration,
            format!("this host's signing key is not trusted for source {}", protected.name),
        )
        .cause(error)
        .safe("nothing was written; earlier snapshots are unaffected")
        .next_step(format!(
            "add to allowed_signers (and to each custodian's .signers file) a line that allows {principal}: {}",
            host.key.public_line()
        ))
    })
}

fn no_store(catalogue: &Catalogue) -> Failure {
    let mut failures: Vec<Failure> =
        catalogue.listings.iter().map(|listing| listing.status.failure(&listing.store)).collect();
    let others = failures.len().saturating_sub(1);
    failures.sort_by_key(|failure| failure.code);
    let mut failure = failures.into_iter().next().unwrap_or_else(|| Failure::internal("there is no store"));
    if others > 0 {
        failure.message.push_str(&format!(", and none of the {others} other stores can be used"));
    }
    failure
}

fn behind(catalogue: &Catalogue, takers: &BTreeSet<usize>) -> Vec<(String, String)> {
    let others = catalogue.listings.iter().enumerate().filter(|(at, _)| !takers.contains(at));
    others
        .map(|(_, listing)| {
            let why = listing.status.problem();
            (
                listing.store.clone(),
                why.unwrap_or_else(|| "it lacks objects of the base; recoup copy heals it".to_owned()),
            )
        })
        .collect()
}

fn warnings(catalogue: &Catalogue, known: &Known) -> Vec<String> {
    let all_ready = catalogue.ready().count() == catalogue.listings.len();
    match known.head {
        Some(head) if all_ready && !catalogue.snapshots.contains_key(&head.id) && !catalogue.is_settled(head.id) => {
            vec![format!(
                "snapshot {}, which this host has committed, is on no store: deleted, or the stores were rolled back",
                head.id
            )]
        }
        _ => Vec::new(),
    }
}

/// The base that local state describes; says why there is none.
fn find_base(state: &SourceState, catalogue: &Catalogue) -> Result<Base, String> {
    let record = state.base()?;
    let committed = catalogue.snapshots.get(&record.snapshot);
    if let Some(pruned) = catalogue.pruned(record.snapshot) {
        return Err(format!(
            "prune plan {} has deleted the last snapshot of this host, {}",
            pruned.plan, record.snapshot
        ));
    }
    if let Some((_, part)) = catalogue.spoilt.get(&record.snapshot) {
        return Err(format!(
            "a prune has deleted {part}, which the last snapshot of this host, {}, uses",
            record.snapshot
        ));
    }
    let committed =
        committed.ok_or_else(|| format!("no store shows the last snapshot of this host, {}", record.snapshot))?;
    if committed.sha256 != record.inventory_sha256 {
        return Err(format!("snapshot {} is not the one this host has a record of", record.snapshot));
    }
    let digest_key = record.key().ok_or("this host's record of the last snapshot is damaged")?;
    let digests = Some(state.open_digests(&record)?);
    Ok(Base { committed: committed.clone(), digest_key, digests, record, manifest: None })
}

/// The base, if the source says that it can be used.
fn fitting(protected: &Protected, base: Base) -> Result<Base, String> {
    match protected.source.unusable_base(base.record.fingerprint.as_ref()) {
        Some(why) => Err(why),
        None => Ok(base),
    }
}

/// Recipients that everything the base uses is sealed to.
fn sealed_to(catalogue: &Catalogue, committed: &Committed) -> BTreeSet<String> {
    let mut of_runs = committed.inventory.uses.iter().map(|used| {
        let list = catalogue.run(used);
        list.map(|list| list.recipients.iter().cloned().collect::<BTreeSet<String>>()).unwrap_or_default()
    });
    let first = of_runs.next().unwrap_or_else(|| committed.inventory.recipients.iter().cloned().collect());
    of_runs.fold(first, |common, next| common.intersection(&next).cloned().collect())
}

/// What of the base can be used again, and where.
struct Reuse {
    /// Stores that hold everything of the base but the lost packs.
    complete: BTreeSet<usize>,
    /// Packs that no store that answers holds intact.
    lost: BTreeSet<PackId>,
    unusable: Option<String>,
}

impl Reuse {
    async fn assess(
        host: &Host,
        copies: &Copies,
        catalogue: &Catalogue,
        known: &Known,
        avoided: &CondemnedSet,
        base: &Base,
        repair: bool,
    ) -> Self {
        if avoided.has_snapshot(base.record.snapshot) {
            let unusable = Some(format!("a prune plan condemns the base, {}", base.record.snapshot));
            return Reuse { complete: BTreeSet::new(), lost: BTreeSet::new(), unusable };
        }
        let Some(needed) = needed_of_base(catalogue, base) else {
            let unusable = Some("an object list that the base needs is on no store".to_owned());
            return Reuse { complete: BTreeSet::new(), lost: BTreeSet::new(), unusable };
        };
        let mut lacking: BTreeMap<usize, BTreeSet<String>> =
            catalogue.ready().map(|store| (store, lacking(catalogue, known, store, &needed))).collect();
        // What is condemned goes the way of what is lost: it is captured again.
        let is_lost = |name: &String| avoided.has_object(name) || lacking.values().all(|names| names.contains(name));
        let lost_names: BTreeSet<String> = needed.iter().map(|object| object.name.clone()).filter(is_lost).collect();
        let mut lost = BTreeSet::new();
        for name in &lost_names {
            match pack_of(name) {
                Some(pack) => drop(lost.insert(pack)),
                None => {
                    let why =
                        if avoided.has_object(name) { "condemned by a prune plan" } else { "on no store that answers" };
                    let unusable = Some(format!("{name}, which the base needs, is {why}"));
                    return Reuse { complete: BTreeSet::new(), lost, unusable };
                }
            }
        }
        lacking.values_mut().for_each(|names| names.retain(|name| !lost_names.contains(name)));
        let durable = |lacking: &BTreeMap<usize, BTreeSet<String>>| {
            let complete: BTreeSet<usize> =
                lacking.iter().filter(|(_, names)| names.is_empty()).map(|(store, _)| *store).collect();
            let enough = is_durable(copies, &host.repository.places(), &catalogue.names(&complete));
            (complete, enough)
        };
        let (mut complete, mut enough) = durable(&lacking);
        let mut refusing = 0;
        if !enough && repair {
            for (store, names) in &mut lacking {
                let wanted: Vec<Needed> =
                    needed.iter().filter(|object| names.contains(&object.name)).cloned().collect();
                match host.repository.bring(&catalogue.source, *store, &wanted).await {
                    Ok(()) => names.clear(),
                    Err(BringError::Store(error)) => {
                        let holds_some = names.len() + lost_names.len() < needed.len();
                        refusing += usize::from(refuses(&host.repository.stores[*store], &error, holds_some).await);
                    }
                    Err(BringError::Nowhere(_)) => {}
                }
            }
            (complete, enough) = durable(&lacking);
        }
        // With too few complete stores the base is no base, unless no full could do better either.
        // A store that takes no writes would not take a full either. One that refuses a single object may well.
        let would_help = complete.len() + refusing < lacking.len();
        let unusable = (!enough && repair && would_help)
            .then(|| format!("the base is complete on {} of {} stores only", complete.len(), catalogue.listings.len()));
        Reuse { complete, lost, unusable }
    }
}

/// Whether a store that did not take an object of the base takes nothing at all.
async fn refuses(store: &Store, error: &StoreError, holds_some: bool) -> bool {
    match error.problem {
        Problem::Full(_) => true,
        Problem::Unreachable(_) => !holds_some || !store.answers().await,
        // One object or folder that cannot be written: unless nothing of the base ever got there, a full will.
        _ => !holds_some,
    }
}

/// What the base needs, without its own inventory and signature: those are not used again.
fn needed_of_base(catalogue: &Catalogue, base: &Base) -> Option<Vec<Needed>> {
    let [_, signature, inventory] = layout::commit_names(&base.committed.inventory);
    let needed = catalogue.needed(&base.committed)?;
    Some(needed.into_iter().filter(|object| object.name != signature && object.name != inventory).collect())
}

fn lacking(catalogue: &Catalogue, known: &Known, store: usize, needed: &[Needed]) -> BTreeSet<String> {
    let mut names: BTreeSet<String> =
        catalogue.lacking(store, needed).into_iter().map(|object| object.name.clone()).collect();
    if let Some(damaged) = known.damaged.get(&catalogue.listings[store].store) {
        names.extend(needed.iter().filter(|object| damaged.contains(&object.name)).map(|object| object.name.clone()));
    }
    names
}

/// The pack that a name below a source's folder is, if it is one.
fn pack_of(name: &str) -> Option<PackId> {
    let (run, object) = name.strip_prefix("packs/")?.split_once('/')?;
    match ObjectKind::of(object)? {
        ObjectKind::Pack(pack) => Some(PackId { run: run.parse().ok()?, pack }),
        _ => None,
    }
}
