//! What there is to vouch for when a signer is revoked, and putting vouches on the stores.

use super::unread;
use crate::{
    core::{
        evidence::{SeenHead, WriterId},
        failure::{Code, Failure},
        id::{Sha256, SnapshotId, SourceName},
        prune::Stage,
        result::{Vouched, VouchedSource},
        vouch::{FORMAT, OBJECTS_MAX, Vouch, VouchId},
    },
    format::{
        self,
        log::SignedRecord,
        prune as prune_format,
        signature::{self, MAX_SIGNATURE_BYTES},
        signers::Signers,
        vouch as vouch_format,
    },
    ops::{evidence::verify::examine, host::Host, list::sources_and_silent_stores},
    repository::{
        Repository, evidence, head, layout,
        log::LogSurvey,
        prunes::{Prunes, SignedPrune},
        vouch,
    },
    stores::Store,
};
use bytes::Bytes;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A vouch as it lies in the state directory until it is on the stores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LocalVouch {
    /// Its id.
    pub(super) vouch: VouchId,
    /// Its exact bytes, which are text.
    pub(super) text: String,
    /// The signature over them.
    pub(super) signature: String,
}

/// Signed objects that the stores show, and that nobody but the revoked signer, or who vouched for it, signed.
#[derive(Clone, Debug, Default)]
pub(super) struct Gathered {
    /// Two hosts that executed one prune plan at once have left two records of one name.
    objects: BTreeMap<String, BTreeSet<Sha256>>,
    sources: BTreeMap<SourceName, BTreeSet<SnapshotId>>,
    /// The newest of its evidence, by writer.
    heads: BTreeMap<WriterId, SeenHead>,
    records: u64,
    /// What is left out although a store may have it.
    pub(super) notes: Vec<String>,
}

impl Gathered {
    /// What it comes to.
    pub(super) fn summary(&self, vouches: Vec<VouchId>) -> Vouched {
        let of_source = |(source, ids): (&SourceName, &BTreeSet<SnapshotId>)| {
            let (snapshots, newest) = (ids.len() as u64, *ids.last()?);
            Some(VouchedSource { source: source.clone(), snapshots, newest })
        };
        Vouched {
            vouches,
            sources: self.sources.iter().filter_map(of_source).collect(),
            evidence_records: self.records,
        }
    }

    /// The newest of its evidence.
    pub(super) fn heads(&self) -> Vec<SeenHead> {
        self.heads.values().copied().collect()
    }

    /// The same of vouches that were made before.
    pub(super) fn of_vouches<'a>(vouches: impl IntoIterator<Item = &'a Vouch>) -> Self {
        Gathered::of_objects(vouches.into_iter().flat_map(|vouch| &vouch.objects))
    }

    /// The same of any objects.
    fn of_objects<'a>(objects: impl IntoIterator<Item = (&'a String, &'a Sha256)>) -> Self {
        let mut gathered = Gathered::default();
        for (name, sha256) in objects {
            if let Some((writer, number)) = layout::evidence_record(name) {
                gathered.add_record(SeenHead { writer, number, sha256: *sha256 });
            } else if let Some((source, id)) = snapshot_of(name) {
                gathered.sources.entry(source).or_default().insert(id);
            }
            gathered.add(name.clone(), *sha256);
        }
        gathered
    }

    /// What of it is among other objects, and what is not.
    pub(super) fn split(&self, others: &Gathered) -> (Gathered, Gathered) {
        let objects = self.objects.iter().flat_map(|(name, all)| all.iter().map(move |sha256| (name, sha256)));
        let is_among =
            |(name, sha256): &(&String, &Sha256)| others.objects.get(*name).is_some_and(|all| all.contains(sha256));
        let (among, rest): (Vec<_>, Vec<_>) = objects.partition(is_among);
        let among = Gathered { notes: self.notes.clone(), ..Gathered::of_objects(among) };
        (among, Gathered::of_objects(rest))
    }

    /// How many objects there are.
    pub(super) fn len(&self) -> usize {
        self.objects.values().map(BTreeSet::len).sum()
    }

    /// The snapshots, each with its source.
    pub(super) fn snapshots(&self) -> impl Iterator<Item = (&SourceName, SnapshotId)> {
        self.sources.iter().flat_map(|(source, ids)| ids.iter().map(move |id| (source, *id)))
    }

    fn add(&mut self, name: String, sha256: Sha256) {
        self.objects.entry(name).or_default().insert(sha256);
    }

    fn add_record(&mut self, seen: SeenHead) {
        self.records += 1;
        let newest = self.heads.entry(seen.writer).or_insert(seen);
        if seen.number > newest.number {
            *newest = seen;
        }
    }

    /// The vouches, signed by this host.
    pub(super) fn sign(&self, host: &Host, revoked: &str) -> Vec<LocalVouch> {
        // One vouch has one digest for a name: further ones go into further vouches.
        let most = self.objects.values().map(BTreeSet::len).max().unwrap_or(0);
        let layers: Vec<Vec<(&String, &Sha256)>> = (0..most)
            .map(|at| self.objects.iter().filter_map(|(name, all)| Some((name, all.iter().nth(at)?))).collect())
            .collect();
        // A signer that has signed nothing is revoked all the same.
        let nothing: Vec<(&String, &Sha256)> = Vec::new();
        let mut parts: Vec<&[(&String, &Sha256)]> = layers.iter().flat_map(|layer| layer.chunks(OBJECTS_MAX)).collect();
        if parts.is_empty() {
            parts.push(&nothing);
        }
        let ids: Vec<VouchId> = parts.iter().map(|_| host.world.new_id()).collect();
        let sign = |(id, part): (&VouchId, &[(&String, &Sha256)])| {
            let vouch = Vouch {
                format: FORMAT.to_owned(),
                repository: host.repository.id,
                vouch: *id,
                signer: host.key.fingerprint().to_string(),
                revoked: revoked.to_owned(),
                created_at: host.world.now(),
                others: ids.iter().copied().filter(|other| other != id).collect(),
                objects: part.iter().map(|(name, sha256)| ((*name).clone(), **sha256)).collect(),
            };
            let bytes = vouch_format::to_bytes(&vouch);
            let signature = host.key.sign(signature::KEYS, &bytes);
            LocalVouch { vouch: vouch.vouch, text: String::from_utf8(bytes).expect("JSON is text"), signature }
        };
        ids.iter().zip(parts).map(sign).collect()
    }
}

fn snapshot_of(name: &str) -> Option<(SourceName, SnapshotId)> {
    let (source, rest) = name.strip_prefix(layout::SOURCES)?.split_once('/')?;
    Some((source.parse().ok()?, layout::committed_snapshot(rest)?))
}

/// Tombstones stay: without them, what is deleted would come back from a store that lagged. A plan that was not executed
/// yet may be a thief's, and deletes nothing any more.
fn gather_prunes(
    repository: &Repository,
    remaining: &Signers,
    source: &SourceName,
    prunes: &Prunes,
    gathered: &mut Gathered,
) {
    let principal = prune_format::principal(&repository.id);
    let is_of_others = |signed: &SignedPrune| {
        let text = std::str::from_utf8(&signed.signature).unwrap_or_default();
        remaining.verify(&signed.bytes, text, signature::PRUNE, &principal).is_ok()
    };
    for (plan, signed) in prunes.executed.iter().flat_map(|(plan, all)| all.iter().map(move |signed| (plan, signed))) {
        if !is_of_others(signed) {
            let name = layout::prune_object(*plan, Stage::Executed);
            gathered.add(format!("{}{name}", layout::source_folder(source)), signed.sha256);
        }
    }
    for (plan, _) in prunes.pending.iter().filter(|(_, signed)| !is_of_others(signed)) {
        gathered.notes.push(format!("prune plan {plan} of {source} was not executed, and is not vouched for"));
    }
}

/// Records of a log are vouched for as whole objects, signature included.
fn gather_log(
    repository: &Repository,
    remaining: &Signers,
    source: &SourceName,
    log: &LogSurvey,
    gathered: &mut Gathered,
) {
    let principal = signature::principal(source, &repository.id);
    for (id, held) in &log.records {
        let stays = SignedRecord::parse(&held.signed.bytes).is_ok_and(|stored| {
            remaining.verify(stored.record.as_bytes(), &stored.signature, signature::LOG, &principal).is_ok()
        });
        if !stays {
            let name = layout::log_record(*id);
            gathered.add(format!("{}{name}", layout::source_folder(source)), held.signed.sha256);
        }
    }
}

/// Finds what is good now and would not be without the signer. Snapshots in `except` are left out.
///
/// Read from as many stores as it takes to see everything that was durable. What cannot be read fails it: left out, it
/// would be good for nothing from then on.
pub(super) async fn gather(
    repository: &Repository,
    revoked: &str,
    except: &BTreeSet<SnapshotId>,
) -> Result<Gathered, Failure> {
    let mut gathered = Gathered::default();
    let mut left_out = BTreeSet::new();
    let mut silent = BTreeSet::new();
    let remaining = repository.signers.without(revoked);
    let survey = repository.survey_vouches().await;
    unread::of_vouches(repository, &survey, repository.vouched().await)?;
    let (sources, down) = sources_and_silent_stores(repository).await;
    unread::enough(repository, repository.stores.len() - down.len())?;
    for source in sources {
        let mut catalogue = repository.catalogue(&source).await;
        let ready: BTreeSet<usize> = catalogue.ready().collect();
        unread::enough(repository, ready.len())?;
        unread::read_again(repository, &mut catalogue).await;
        unread::of_source(&catalogue, except)?;
        // What nobody can read is there all the same, and may be left out by its name.
        let unread = catalogue.refused.iter().filter(|refused| !catalogue.snapshots.contains_key(&refused.id));
        for id in unread.map(|refused| refused.id).filter(|id| except.contains(id)) {
            if left_out.insert(id) {
                gathered.notes.push(format!("snapshot {id} of {source} cannot be read, and is not vouched for"));
            }
        }
        silent.extend((0..repository.stores.len()).filter(|at| !ready.contains(at)));
        let principal = signature::principal(&source, &repository.id);
        for (id, committed) in &catalogue.snapshots {
            let text = std::str::from_utf8(&committed.signature).unwrap_or_default();
            if remaining.verify(&committed.bytes, text, signature::INVENTORY, &principal).is_ok() {
                continue;
            }
            if except.contains(id) {
                left_out.insert(*id);
                continue;
            }
            let name = layout::snapshot_object(*id, layout::INVENTORY);
            gathered.add(format!("{}{name}", layout::source_folder(&source)), committed.sha256);
            gathered.sources.entry(source.clone()).or_default().insert(*id);
        }
        gather_prunes(repository, &remaining, &source, &catalogue.prunes, &mut gathered);
        // What is left of the deleted on a store that lagged, too: a prune reads it before it finishes there.
        let log = repository.survey_all_log(&catalogue).await;
        gather_log(repository, &remaining, &source, &log, &mut gathered);
    }
    if let Some(unknown) = except.iter().find(|id| !left_out.contains(id)) {
        return Err(Failure::new(Code::NoRecoveryPoint, format!("there is no snapshot {unknown} to leave out"))
            .cause(format!("the stores show none of that name that {revoked} signed, or that cannot be read"))
            .safe("nothing was changed")
            .next_step("recoup list"));
    }
    gather_evidence(repository, &remaining, &mut gathered).await?;
    for (id, signed) in survey.good {
        let text = std::str::from_utf8(&signed.signature).unwrap_or_default();
        let principal = vouch::principal(&repository.id);
        if remaining.verify(&signed.bytes, text, signature::KEYS, &principal).is_err() {
            gathered.add(layout::vouch(id, "json"), format::sha256(&signed.bytes));
        }
    }
    gathered.notes.extend(silent.iter().map(|at| {
        let name = repository.stores[*at].name();
        format!("store {name} did not answer: what only it has of the revoked signer is not vouched for")
    }));
    Ok(gathered)
}

async fn gather_evidence(
    repository: &Repository,
    remaining: &crate::format::signers::Signers,
    gathered: &mut Gathered,
) -> Result<(), Failure> {
    let examined = examine(repository, None).await;
    unread::enough(repository, examined.listed.len())?;
    unread::of_evidence(&examined)?;
    let principal = evidence::principal(&repository.id);
    for ((writer, number), (signed, _)) in &examined.records {
        let text = std::str::from_utf8(&signed.signature).unwrap_or_default();
        if remaining.verify(&signed.bytes, text, signature::EVIDENCE, &principal).is_err() {
            gathered.add(layout::evidence(*writer, *number, "json"), signed.sha256);
            gathered.add_record(SeenHead { writer: *writer, number: *number, sha256: signed.sha256 });
        }
    }
    Ok(())
}

/// Puts vouches on every store that answers; fails unless enough have them. The list comes last: where it is, its
/// signature is. Returns what keeps the others from having them.
pub(super) async fn put(
    repository: &Repository,
    vouches: &[LocalVouch],
    is_trusted: bool,
) -> Result<Vec<String>, Failure> {
    let outcomes = join_all(repository.stores.iter().map(|store| put_on(store, repository, vouches))).await;
    let behind: Vec<String> = outcomes.iter().filter_map(|outcome| outcome.clone().err()).collect();
    if outcomes.len() - behind.len() >= repository.control_write_quorum() {
        return Ok(behind);
    }
    Err(Failure::new(Code::Store, "the vouch for what the signer has signed is not on enough stores")
        .cause(behind.join("; "))
        .safe(match is_trusted {
            true => "the signer is still trusted; what was begun is kept on this host",
            false => "the signer is trusted no more; what was begun is kept on this host",
        })
        .next_step("bring the stores back, then run the same command again: it goes on from here"))
}

async fn put_on(store: &Store, repository: &Repository, vouches: &[LocalVouch]) -> Result<(), String> {
    let why = |what: String| format!("store {}: {what}", store.name());
    if let Some(problem) = head::status(store, repository.id).await.problem() {
        return Err(why(problem));
    }
    for vouch in vouches {
        debug_assert!(vouch.signature.len() <= MAX_SIGNATURE_BYTES);
        for (ending, text) in [("sig", &vouch.signature), ("json", &vouch.text)] {
            let bytes = Bytes::from(text.clone().into_bytes());
            let sha256 = format::sha256(&bytes);
            let created = store.create(&layout::vouch(vouch.vouch, ending), bytes, &sha256).await;
            created.map_err(|error| why(head::reason(&error)))?;
        }
    }
    Ok(())
}
