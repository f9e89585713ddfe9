//! A revocation that has begun: by this host, which kept what it vouches for; or as vouches on the stores say, whoever
//! made them. A host that lost its state directory in the middle goes on from those, and so does one that only now hears
//! of it. Either way, what the signer signed since is vouched for by nobody.

use super::{
    Keys,
    revoke::RevokeRequest,
    unread,
    vouch::{Gathered, LocalVouch, gather},
};
use crate::{
    core::{
        evidence::{Control, WriterId},
        failure::{Code, Failure},
        vouch::{Vouch, VouchId},
    },
    format::{self, signature, vouch as vouch_format},
    ops::{evidence::verify::examine, host::state_failure},
    repository::{
        layout,
        vouch::{self, SignedVouch, VouchSurvey},
    },
    world::files,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io, path::PathBuf};

/// The most snapshots that are named one by one.
const NAMED_MAX: usize = 20;

/// A revocation as this host keeps it until it is over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Pending {
    revoked: String,
    pub(super) vouches: Vec<LocalVouch>,
    /// What was left out although a store may have it.
    #[serde(default)]
    notes: Vec<String>,
}

/// What a revocation vouches for, and what it does not.
pub(super) struct Begun {
    pub(super) pending: Pending,
    pub(super) gathered: Gathered,
    /// What the signer signed, and would be trusted no more: it was not vouched for when the signer was revoked.
    pub(super) left_out: Vec<String>,
}

impl Begun {
    /// One that begins now.
    pub(super) fn new(keys: &Keys<'_>, signer: &str, gathered: Gathered) -> Self {
        let vouches = gathered.sign(keys.host, signer);
        let pending = Pending { revoked: signer.to_owned(), vouches, notes: gathered.notes.clone() };
        Begun { pending, gathered, left_out: Vec::new() }
    }

    /// One that goes on with vouches which were made before.
    fn going_on(pending: Pending) -> Self {
        let vouches = parsed(&pending);
        let mut gathered = Gathered::of_vouches(&vouches);
        gathered.notes.extend(pending.notes.iter().cloned());
        gathered.notes.extend(
            vouches
                .iter()
                .map(|vouch| vouch.created_at)
                .min()
                .map(|at| format!("this goes on with what was begun at {at}: what it signed since is not vouched for")),
        );
        Begun { pending, gathered, left_out: Vec::new() }
    }

    /// What was begun may be on stores already: it cannot be taken back.
    pub(super) fn check(&self, request: &RevokeRequest) -> Result<(), Failure> {
        let vouches = parsed(&self.pending);
        let mut names = vouches.iter().flat_map(|vouch| vouch.objects.keys());
        let is_excepted =
            |name: &String| request.except.iter().any(|id| name.ends_with(&format!("/{id}/inventory.json")));
        match names.find(|name| is_excepted(name)) {
            None => Ok(()),
            Some(name) => Err(Failure::new(Code::Refused, format!("the revocation that was begun vouches for {name}"))
                .cause("it was begun without --except, and stores may have the vouch already")
                .safe("nothing was changed by this command")
                .next_step(
                    "run it without --except; then have the signer that vouched revoked by another, with --except",
                )),
        }
    }

    /// Keeps it on this host until it is over.
    pub(super) fn keep(&self, keys: &Keys<'_>) -> Result<(), Failure> {
        let path = pending_path(keys, &self.pending.revoked);
        let bytes = serde_json::to_vec(&self.pending).expect("it has no map");
        files::write_atomic(&path, &bytes, 0o600).map_err(|error: io::Error| state_failure("write", &path, &error))
    }
}

/// Forgets a revocation that is over.
pub(super) fn forget(keys: &Keys<'_>, signer: &str) {
    // What is left of it does no harm: the next revocation of this signer would find it revoked.
    let _ = fs::remove_file(pending_path(keys, signer));
}

/// Finds a revocation that has begun and is not over. Fails where there is nothing to revoke.
pub(super) async fn find(keys: &Keys<'_>, request: &RevokeRequest) -> Result<Option<Begun>, Failure> {
    if let Some(pending) = read_pending(keys, &request.signer) {
        return Ok(Some(Begun::going_on(pending)));
    }
    let repository = &keys.host.repository;
    let is_trusted = keys.trusts(&request.signer);
    let found = async {
        let survey = repository.survey_vouches().await;
        unread::of_vouches(repository, &survey, repository.vouched().await)?;
        let said = Said::of(keys, &request.signer, &survey);
        match (said.all.is_empty(), is_trusted) {
            (true, true) => Ok(None),
            (true, false) => Err(not_trusted(request, "the file of signers does not name it".to_owned())),
            (false, true) => said.restricted(keys, request).await.map(Some),
            (false, false) => said.unfinished(keys, request, &survey).await.map(Some),
        }
    };
    found.await.map_err(|failure| match is_trusted {
        true => failure,
        false => failure.safe("nothing was changed"),
    })
}

fn not_trusted(request: &RevokeRequest, why: String) -> Failure {
    Failure::new(Code::Usage, format!("{} is not a trusted signer", request.signer))
        .cause(why)
        .safe("nothing was changed")
        .next_step("recoup key list")
}

/// What the stores say of the revocation of one signer, leaving out whatever counts by that signer's word only.
struct Said {
    /// The vouches that name it as revoked; those too that count no more, for who made them was revoked since.
    all: BTreeMap<VouchId, SignedVouch>,
    /// Those that count.
    counting: BTreeMap<VouchId, SignedVouch>,
    /// Vouches that belong to these and that no store shows, if each of these lacks one.
    missing: Vec<VouchId>,
}

impl Said {
    fn of(keys: &Keys<'_>, signer: &str, survey: &VouchSurvey) -> Self {
        let repository = &keys.host.repository;
        let (remaining, principal) = (repository.signers.without(signer), vouch::principal(&repository.id));
        let counts = |signed: &SignedVouch| {
            let text = std::str::from_utf8(&signed.signature).unwrap_or_default();
            remaining.verify(&signed.bytes, text, signature::KEYS, &principal).is_ok()
        };
        let (sound, others): (Vec<_>, Vec<_>) = survey.good.iter().partition(|(_, signed)| counts(signed));
        // Of who was revoked since: only what who revoked that one has vouched for. The signer itself may have vouched for
        // a vouch of nobody's that says it was revoked, and names nothing that is good; and that is vouched for with the rest.
        let is_vouched_for = |id: VouchId, signed: &SignedVouch| {
            let (name, sha256) = (layout::vouch(id, "json"), format::sha256(&signed.bytes));
            let of = |of: &Vouch| of.revoked == signed.vouch.signer && of.objects.get(&name) == Some(&sha256);
            sound.iter().any(|(_, signed)| of(&signed.vouch))
        };
        let of_signer = |signed: &SignedVouch| signed.vouch.revoked == signer;
        let owned = |(id, signed): &(&VouchId, &SignedVouch)| (**id, (*signed).clone());
        let counting: BTreeMap<VouchId, SignedVouch> =
            sound.iter().filter(|(_, signed)| of_signer(signed)).map(owned).collect();
        let others = others.iter().filter(|(id, signed)| of_signer(signed) && is_vouched_for(**id, signed)).map(owned);
        let all: BTreeMap<VouchId, SignedVouch> = counting.clone().into_iter().chain(others).collect();
        let lacks = |signed: &SignedVouch| {
            let mut others = signed.vouch.others.iter();
            others.find(|id| !sound.iter().any(|(shown, _)| shown == id)).copied()
        };
        // Where one is whole, nothing that came before it matters.
        let missing = all.values().map(lacks).collect::<Option<Vec<VouchId>>>().unwrap_or_default();
        Said { all, counting, missing }
    }

    fn objects(&self) -> Gathered {
        Gathered::of_vouches(self.all.values().map(|signed| &signed.vouch))
    }

    /// Goes on with the vouches that count, as they are.
    fn going_on(&self, signer: &str) -> Begun {
        let local = |(id, signed): (&VouchId, &SignedVouch)| LocalVouch {
            vouch: *id,
            text: String::from_utf8_lossy(&signed.bytes).into_owned(),
            signature: String::from_utf8_lossy(&signed.signature).into_owned(),
        };
        let vouches = self.counting.iter().map(local).collect();
        Begun::going_on(Pending { revoked: signer.to_owned(), vouches, notes: Vec::new() })
    }

    /// For a host that trusts the signer still. Another has revoked it, or this one began to and has lost what it kept:
    /// nothing is vouched for that was not then.
    async fn restricted(&self, keys: &Keys<'_>, request: &RevokeRequest) -> Result<Begun, Failure> {
        let mut now = gather(&keys.host.repository, &request.signer, &request.except).await?;
        let at = self.all.values().map(|signed| signed.vouch.created_at).min().unwrap_or_else(|| keys.host.world.now());
        if let Some(missing) = self.missing.first() {
            // Nobody had been told that it was over, and what only that one named would be lost.
            now.notes.push(format!(
                "a revocation that was begun at {at} did not get to the stores whole, for none shows {}: what it signed \
                 since is vouched for too, unless --except names it",
                layout::vouch(*missing, "json")
            ));
            return Ok(Begun::new(keys, &request.signer, now));
        }
        let (kept, later) = now.split(&self.objects());
        let (_, unvouched) = kept.split(&Gathered::of_vouches(self.counting.values().map(|signed| &signed.vouch)));
        let mut begun = match unvouched.len() == 0 && !self.counting.is_empty() {
            true => {
                let mut begun = self.going_on(&request.signer);
                begun.gathered.notes.splice(0..0, kept.notes);
                begun
            }
            false => Begun::new(keys, &request.signer, kept),
        };
        begun.left_out = left_out(&later, &format!("it was revoked at {at}, and this was not vouched for then"));
        Ok(begun)
    }

    /// For a host that trusts the signer no more, and keeps nothing of it. Fails if all of it is on enough stores.
    async fn unfinished(
        &self,
        keys: &Keys<'_>,
        request: &RevokeRequest,
        survey: &VouchSurvey,
    ) -> Result<Begun, Failure> {
        let quorum = keys.host.repository.control_write_quorum();
        let is_right = |shown: &&BTreeMap<VouchId, _>, id: &VouchId| matches!(shown.get(id), Some(None));
        let holders = |id: &VouchId| survey.shown.values().filter(|shown| is_right(shown, id)).count();
        let record = self.record(keys, &request.signer, quorum).await?;
        if let Some((writer, number)) = record.filter(|_| self.all.keys().all(|id| holders(id) >= quorum)) {
            let why = format!(
                "it was revoked: evidence record {writer}/{number} says so, and what it had signed is vouched for"
            );
            return Err(not_trusted(request, why));
        }
        let mut begun = match self.counting.is_empty() {
            // What is still good of it, another vouch names.
            true => Begun::new(keys, &request.signer, Gathered::default()),
            false => self.going_on(&request.signer),
        };
        begun.left_out = self
            .missing
            .iter()
            .map(|id| format!("no store that answers shows {}", layout::vouch(*id, "json")))
            .collect();
        Ok(begun)
    }

    /// The record that it was revoked, where enough stores have it.
    async fn record(&self, keys: &Keys<'_>, signer: &str, quorum: usize) -> Result<Option<(WriterId, u64)>, Failure> {
        let repository = &keys.host.repository;
        let examined = examine(repository, None).await;
        unread::enough(repository, examined.listed.len())?;
        let says_so = |control: &Option<Control>| matches!(control, Some(Control::SignerRevoked { signer: revoked, .. }) if revoked == signer);
        let mut records = examined.records.iter();
        let durable = records.find(|(_, (signed, stores))| says_so(&signed.record.control) && stores.len() >= quorum);
        Ok(durable.map(|(place, _)| *place))
    }
}

/// Says what of the signer is trusted no more.
fn left_out(later: &Gathered, why: &str) -> Vec<String> {
    let mut said: Vec<String> = later
        .snapshots()
        .take(NAMED_MAX)
        .map(|(source, id)| format!("snapshot {id} of {source} is trusted no more: {why}"))
        .collect();
    let others = later.len() - said.len();
    if others > 0 {
        said.push(format!("{others} other objects that it signed are trusted no more: {why}"));
    }
    said
}

fn pending_path(keys: &Keys<'_>, signer: &str) -> PathBuf {
    let name = format::sha256(signer.as_bytes()).to_string();
    keys.host.state_dir.join("keys").join(format!("revoke-{}.json", &name[..16]))
}

/// A revocation that was cut short, if its vouches still count: another key may have taken this host's place.
fn read_pending(keys: &Keys<'_>, signer: &str) -> Option<Pending> {
    let bytes = files::read(pending_path(keys, signer)).ok()?;
    let pending: Pending = serde_json::from_slice(&bytes).ok()?;
    let repository = &keys.host.repository;
    let remaining = repository.signers.without(signer);
    let counts = |local: &LocalVouch| {
        let principal = vouch::principal(&repository.id);
        let bytes = local.text.as_bytes();
        let parsed = vouch_format::parse(bytes).is_ok_and(|vouch| vouch.repository == repository.id);
        parsed && remaining.verify(bytes, &local.signature, signature::KEYS, &principal).is_ok()
    };
    (pending.revoked == signer && !pending.vouches.is_empty() && pending.vouches.iter().all(counts)).then_some(pending)
}

fn parsed(pending: &Pending) -> Vec<Vouch> {
    pending.vouches.iter().filter_map(|local| vouch_format::parse(local.text.as_bytes()).ok()).collect()
}
