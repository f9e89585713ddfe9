//! What a prune needs to know: what is committed, what must stay, and whether its clock can be believed.

use super::{
    PruneRequest,
    durable::{dated, discount_incomplete, newest_durable},
    held,
    vetoes::{self, Vetoes},
};
use crate::{
    core::{
        failure::{Code, Failure},
        id::{RunId, Sha256, SnapshotId},
        inventory::Parent,
        plan::prune::{Known as KnownSnapshot, Remains, Snapshots, second_look, writers},
        prune::{Because, Condemned, CondemnedSet, MAX_SNAPSHOTS, WriterSeen},
        retention::{Rule, doubtful, doubts, expired, interval},
        time::Timestamp,
    },
    format::{prune as prune_format, signature},
    ops::{
        host::{Host, Protected},
        state::SourceState,
    },
    repository::{
        catalogue::{Catalogue, Committed, Refusal},
        layout,
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that was found out about one source.
pub(super) struct Gathered {
    pub(super) catalogue: Catalogue,
    pub(super) now: Timestamp,
    /// What must not go, and why.
    pub(super) protected: BTreeMap<SnapshotId, String>,
    /// What goes, as far as nothing protects it.
    pub(super) going: BTreeMap<SnapshotId, Because>,
    /// Snapshots from the future that the operator has confirmed with this command, and not before.
    pub(super) confirmed: Vec<Parent>,
    pub(super) writers: Vec<WriterSeen>,
    /// What is held and nowhere committed.
    pub(super) remains: Remains,
    /// The newest snapshot that is whole on enough stores.
    pub(super) newest_durable: Option<SnapshotId>,
    vetoes: Vetoes,
    /// The newest snapshot that is there and that a drill has proven.
    proven: Option<SnapshotId>,
    /// Both versions of a log that was altered, and that nobody has held yet.
    noted: BTreeSet<SnapshotId>,
}

/// Why a snapshot stays that uses what an executed plan deletes, and that was not spoilt by it.
const TAKEN_WITHOUT: &str = "a store that shows it had no such plan when it was taken";

/// How a prune gets on that needs every store.
pub(super) const EVERY_STORE: &str = "bring the stores back, or have recoup copy found an empty one again, then run the \
     same command again; what is gone for good: take it out of recoup.toml";

/// Gathers, and refuses what must not be acted upon.
pub(super) async fn gather(
    host: &Host,
    protected: &Protected,
    state: &SourceState,
    request: &PruneRequest,
) -> Result<Gathered, Failure> {
    check_own_key(host)?;
    // The control log first: what is recorded after the stores were listed says nothing about what they showed.
    let vetoes = vetoes::read(host, &protected.name).await;
    let mut catalogue = host.repository.inventories(&protected.name, &BTreeSet::new()).await;
    every_store_answers(protected, &catalogue)?;
    // Dropping a plan deletes nothing.
    if request.cancel.is_none() {
        check_refused(&catalogue, request)?;
    }
    let vetoes = vetoes?;
    let known = state.known();
    let mut noted: BTreeSet<SnapshotId> =
        known.altered.iter().filter(|altered| altered.hold.is_none()).flat_map(|of| [of.since, of.found_in]).collect();
    noted.extend(held::unanswered(&catalogue, &vetoes));
    let remains = held::remains(&catalogue, &vetoes, &noted);
    let newest_durable = newest_durable(host, protected, &known, &mut catalogue).await;
    let now = host.world.now();
    let mut dated = dated(host, protected, &known, &catalogue).await;
    let proven = newest_proven(&catalogue, &vetoes);
    let mut keep = protections(&catalogue, proven, newest_durable, state);
    keep.extend(held::all(&catalogue, &vetoes, &noted));
    let rule = Rule::of(&protected.policy);
    discount_incomplete(host, protected, &known, &mut catalogue, &mut dated, newest_durable, rule.keep_last).await;
    let expired = expired(&rule, &dated, now).into_iter().map(|id| (id, Because::Retention));
    let spoilt = catalogue.spoilt.iter().map(|(id, (committed, _))| (*id, because(&catalogue, committed)));
    let mut going: BTreeMap<SnapshotId, Because> = expired.chain(spoilt).collect();
    going.retain(|id, _| !keep.contains_key(id));
    let was_confirmed = confirmed_before(&catalogue);
    let mut confirmed = Vec::new();
    // Without a rule nothing goes by time, and no clock matters.
    if !request.confirmed && request.cancel.is_none() && !rule.keeps_all() {
        let condemned = catalogue.prunes.condemned();
        let new = going.iter().filter(|(id, because)| **because == Because::Retention && !condemned.has_snapshot(**id));
        let doubts = doubts(&dated, &was_confirmed, new.count(), interval(&protected.policy), now);
        if !doubts.is_empty() {
            return Err(not_without_a_look(protected, &doubts));
        }
    } else if request.confirmed && request.forget.is_none() && !rule.keeps_all() {
        let new = doubtful(&dated, now).into_iter().filter(|id| !was_confirmed.contains(id)).take(MAX_SNAPSHOTS);
        confirmed = new.map(|id| Parent { id, sha256: catalogue.snapshots[&id].sha256 }).collect();
    }
    let durable = |id: SnapshotId| dated.get(&id).is_some_and(|dated| dated.durable);
    let inventories = all_committed(&catalogue).map(|(id, committed)| (&committed.inventory, durable(id)));
    let writers = writers(inventories);
    Ok(Gathered {
        writers,
        now,
        protected: keep,
        going,
        confirmed,
        remains,
        newest_durable,
        vetoes,
        proven,
        noted,
        catalogue,
    })
}

impl Gathered {
    /// Everything that is committed, spoilt or not.
    pub(super) fn snapshots(&self) -> Snapshots<'_> {
        all_committed(&self.catalogue).map(|(id, committed)| (id, known(committed))).collect()
    }

    /// What of a plan still goes, and what is dropped: what is in use or kept now, and what lies of held snapshots.
    pub(super) fn second_look(&self, plan: &Condemned, keep: &BTreeSet<SnapshotId>) -> (Condemned, Condemned) {
        let (mut rest, mut dropped) = self.remains.spared(second_look(plan, &self.snapshots(), keep));
        (rest.log, dropped.log) = self.look_at_log(&plan.log, &rest);
        (rest, dropped)
    }

    /// Why a snapshot must stay though its deletion is executed: it is held, proven, or the newest durable one.
    pub(super) fn veto(&self, id: SnapshotId) -> Option<String> {
        let proven = (self.proven == Some(id)).then(|| "it is the newest that a drill has proven".to_owned());
        let newest = (self.newest_durable == Some(id)).then(|| "it is the newest durable one".to_owned());
        self.held(id).or(proven).or(newest)
    }

    /// What holds a snapshot, if anything does.
    pub(super) fn held(&self, id: SnapshotId) -> Option<String> {
        held::why(&self.vetoes, &self.noted, id)
    }

    /// A snapshot that must stay, and that some store shows, of which a plan deletes something; and why it must.
    pub(super) fn spoiled_by(&self, deletes: &CondemnedSet) -> Option<(SnapshotId, String)> {
        let shows = |at: usize, id: SnapshotId| self.catalogue.listings[at].has_inventory(id);
        let named = deletes.snapshots().iter().chain(deletes.folders()).copied();
        let mut named = named.filter_map(|id| Some((id, self.veto(id)?)));
        let used = || {
            let catalogue = &self.catalogue;
            let held = all_committed(catalogue).filter_map(|(id, of)| Some((id, of, self.held(id)?)));
            // Those that the plan deletes itself go, whatever they use.
            let unheeding = catalogue.unheeding.iter().filter(|id| !deletes.leaves_nothing_of(**id));
            let unheeding = unheeding.map(|id| (*id, &catalogue.snapshots[id], TAKEN_WITHOUT.to_owned()));
            let is_spoiled = |of: &Committed| {
                deletes.used_by(&of.inventory).is_some() || self.shows_log_of(&of.inventory, &deletes.logs)
            };
            let mut stay = held.chain(unheeding);
            stay.find(|(_, of, _)| is_spoiled(of)).map(|(id, _, why)| (id, why))
        };
        named.find(|(id, _)| self.catalogue.ready().any(|at| shows(at, *id))).or_else(used)
    }

    /// Reads once more what is held.
    pub(super) async fn read_vetoes(&mut self, host: &Host, protected: &Protected) -> Result<(), Failure> {
        self.vetoes = vetoes::read(host, &protected.name).await?;
        Ok(())
    }

    /// The snapshots that an executed plan deletes, and that must stay; each is still shown.
    async fn stays(&self, host: &Host, deletes: &CondemnedSet) -> Result<BTreeMap<SnapshotId, Committed>, String> {
        let mut stays = BTreeMap::new();
        for id in deletes.snapshots().iter().chain(deletes.folders()).copied().filter(|id| self.veto(*id).is_some()) {
            let shows = |at: &usize| self.catalogue.listings[*at].has_inventory(id);
            let mut refused = None;
            for at in self.catalogue.ready().filter(shows) {
                match host.repository.read_snapshot(at, &self.catalogue.source, id).await {
                    Ok(committed) => {
                        refused = None;
                        stays.insert(id, committed);
                        break;
                    }
                    Err(refusal) => refused = Some(refusal),
                }
            }
            if let Some(refusal) = refused {
                return Err(format!("the inventory of {id} cannot be read: {refusal}"));
            }
        }
        Ok(stays)
    }

    /// What of an executed plan goes all the same, once what must stay is taken out of it.
    pub(super) async fn but_what_stays(
        &self,
        host: &Host,
        condemned: &Condemned,
        deletes: &CondemnedSet,
    ) -> Result<CondemnedSet, String> {
        let stays = &self.stays(host, deletes).await?;
        // What was spoilt by the plan was never acknowledged, and keeps nothing, unless it is held.
        let spoilt = self.catalogue.spoilt.iter().map(|(id, (committed, _))| (id, committed));
        let held: BTreeMap<&SnapshotId, &Committed> = spoilt.filter(|(id, _)| self.held(**id).is_some()).collect();
        let keep = stays.keys().chain(held.keys().copied()).copied().collect();
        let all = self.catalogue.snapshots.iter().chain(stays).chain(held);
        let snapshots: Snapshots<'_> = all.map(|(id, committed)| (*id, known(committed))).collect();
        let within = condemned.split(deletes).0;
        let (mut goes, _) = self.remains.spared(second_look(&within, &snapshots, &keep));
        goes.log = self.log_but_what_stays(within.log, &snapshots, &goes);
        Ok(CondemnedSet::of(&goes))
    }

    /// Whether a key was revoked: whoever has it commits nothing any more that counts.
    pub(super) fn is_revoked(&self, signer: &str) -> bool {
        self.vetoes.control.is_revoked(signer)
    }

    /// What a pending plan must not delete: what is protected, and what the rule keeps now.
    pub(super) fn kept(&self) -> BTreeSet<SnapshotId> {
        let all = all_committed(&self.catalogue).map(|(id, _)| id);
        all.filter(|id| !self.going.contains_key(id)).collect()
    }

    /// The runs and the snapshot folders that the stores show.
    pub(super) fn shown(&self) -> (BTreeSet<RunId>, BTreeSet<SnapshotId>) {
        let names = || {
            let listings = self.catalogue.ready().map(|at| &self.catalogue.listings[at]);
            listings.flat_map(|listing| listing.objects.keys())
        };
        let committed: BTreeSet<SnapshotId> = names().filter_map(|name| layout::committed_snapshot(name)).collect();
        let folders = names().filter_map(|name| layout::snapshot_of(name)).filter(|id| !committed.contains(id));
        (names().filter_map(|name| layout::run_of(name)).collect(), folders.collect())
    }
}

fn known(committed: &Committed) -> KnownSnapshot<'_> {
    KnownSnapshot { inventory: &committed.inventory, sha256: committed.sha256 }
}

pub(super) fn all_committed(catalogue: &Catalogue) -> impl Iterator<Item = (SnapshotId, &Committed)> {
    let spoilt = catalogue.spoilt.iter().map(|(id, (committed, _))| (*id, committed));
    catalogue.snapshots.iter().map(|(id, committed)| (*id, committed)).chain(spoilt)
}

/// Why a snapshot goes that uses what was deleted. That its log was is told from what the stores show, so the second
/// look is to find the same.
fn because(catalogue: &Catalogue, committed: &Committed) -> Because {
    match catalogue.tombstones.used_by(&committed.inventory) {
        Some(_) => Because::UsesPruned,
        None => Because::Retention,
    }
}

/// The snapshots from the future that prune records say somebody has looked at, and that are still the same.
fn confirmed_before(catalogue: &Catalogue) -> BTreeSet<SnapshotId> {
    let confirmed = catalogue.prunes.records().flat_map(|record| &record.confirmed);
    let is_same = |at: &&Parent| catalogue.snapshots.get(&at.id).is_some_and(|known| known.sha256 == at.sha256);
    confirmed.filter(is_same).map(|at| at.id).collect()
}

/// A plan that no backup believes would be heeded by none.
fn check_own_key(host: &Host) -> Result<(), Failure> {
    let signature = host.key.sign(signature::PRUNE, b"recoup");
    let principal = prune_format::principal(&host.repository.id);
    let verified = host.repository.signers.verify(b"recoup", &signature, signature::PRUNE, &principal);
    verified.map(drop).map_err(|error| {
        Failure::new(Code::Configuration, "this host's signing key is not trusted to prune")
            .cause(error)
            .safe("nothing was planned or deleted")
            .next_step(format!(
                "prune on a host that may, or add to allowed_signers on every host a line that allows {principal}: {}",
                host.key.public_line()
            ))
    })
}

/// Fails while a store is silent.
///
/// A snapshot, a hold or a plan may be on that store alone among those that still have it: by a policy that asks for few
/// stores, or because another store has lost what it had, by a new disk in its place or by somebody's hand, and answers
/// all the same. Nothing is so urgent about a deletion that it could not wait.
fn every_store_answers(protected: &Protected, catalogue: &Catalogue) -> Result<(), Failure> {
    let problems = catalogue.listings.iter().filter_map(|listing| {
        let problem = listing.status.problem()?;
        Some(format!("store {}: {problem}", listing.store))
    });
    let problems: Vec<String> = problems.collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Code::Store, format!("not every store answers to prune {}", protected.name))
        .cause(format!("{}; it may be the only one that shows what must stay", problems.join("; ")))
        .safe("nothing more was deleted")
        .next_step(EVERY_STORE))
}

/// What cannot be read may use anything.
pub(super) fn check_refused(catalogue: &Catalogue, request: &PruneRequest) -> Result<(), Failure> {
    let given_up = |id: SnapshotId| {
        let plans = || catalogue.prunes.pending.values().flat_map(|signed| &signed.record.condemned.snapshots);
        request.forget == Some(id) || plans().any(|one| one.id == id && one.because == Because::Forgotten)
    };
    let is_known = |id: &SnapshotId| catalogue.snapshots.contains_key(id) || catalogue.spoilt.contains_key(id);
    let unknown = catalogue.refused.iter().filter(|refused| !is_known(&refused.id) && !given_up(refused.id));
    let mut blocking = unknown.filter(|refused| match refused.why {
        Refusal::Untrusted(_) | Refusal::Misplaced(_) => !request.confirmed,
        // One is given up after the other, and until all are, nothing else goes.
        Refusal::Damaged(_) => request.forget.is_none() || request.now,
        _ => true,
    });
    let Some(refused) = blocking.next() else { return Ok(()) };
    let (source, id) = (&catalogue.source, refused.id);
    let (code, next_step) = match &refused.why {
        Refusal::Untrusted(_) | Refusal::Misplaced(_) => {
            (Code::Refused, format!("find out who wrote it; to prune as if it were not there, add --confirm={source}"))
        }
        Refusal::Damaged(_) => (
            Code::Refused,
            format!(
                "recoup copy heals it if a store has it right; if none has, give it up: recoup prune {source} \
                 --forget {id} --confirm={source}"
            ),
        ),
        Refusal::Newer(_) => (Code::Refused, "prune with the newer recoup".to_owned()),
        Refusal::Unreadable(_) => (Code::Store, "recoup doctor, then run the same command again".to_owned()),
    };
    Err(Failure::new(code, format!("snapshot {id} of {source} on store {} cannot be read", refused.store))
        .cause(format!("what it uses is not known, and would be deleted: {}", refused.why))
        .safe("nothing more was deleted")
        .next_step(next_step))
}

fn not_without_a_look(protected: &Protected, doubts: &[String]) -> Failure {
    let name = &protected.name;
    Failure::new(Code::Refused, format!("{name} is not pruned without a second look"))
        .cause(doubts.join("; "))
        .safe("nothing was planned or deleted")
        .next_step(format!(
            "recoup prune {name} --dry-run --confirm={name} shows what would go; if that is right, add --confirm={name}"
        ))
}

/// A drill may name a snapshot that never was: only what is there, and is what the drill restored, is proven.
fn newest_proven(catalogue: &Catalogue, vetoes: &Vetoes) -> Option<SnapshotId> {
    let is_there = |(id, sha256): &&(SnapshotId, Option<Sha256>)| {
        catalogue.snapshots.get(id).is_some_and(|committed| sha256.is_none_or(|sha256| sha256 == committed.sha256))
    };
    vetoes.proven.iter().filter(is_there).map(|(id, _)| *id).max()
}

fn protections(
    catalogue: &Catalogue,
    proven: Option<SnapshotId>,
    newest: Option<SnapshotId>,
    state: &SourceState,
) -> BTreeMap<SnapshotId, String> {
    let mut keep = BTreeMap::new();
    // Of what was condemned by mistake the base would come back in full.
    keep.extend(state.base().ok().map(|record| (record.snapshot, "this host's next snapshot builds on it".to_owned())));
    keep.extend(proven.map(|id| (id, "it is the newest that a drill has proven".to_owned())));
    keep.extend(newest.map(|id| (id, "it is the newest durable one".to_owned())));
    // With nothing whole on enough stores, nothing is known to be dispensable.
    if newest.is_none() {
        keep.extend(catalogue.snapshots.keys().map(|id| (*id, "no newer one is durable".to_owned())));
    }
    keep.retain(|id, _| !catalogue.spoilt.contains_key(id));
    keep
}
