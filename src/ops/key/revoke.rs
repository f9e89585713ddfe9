//! Revoking a signer: another one vouches for what it has signed so far, and then it is trusted no more.
//!
//! In this order, each step on stable storage before the next: the start on record; the vouch in the state directory;
//! the vouch on enough stores; the file of signers without the key; the end on record. Whatever is cut short, the same
//! command goes on with the vouch that is there, so that nothing signed meanwhile is vouched for.

use super::{
    Keys, confirmed, read_editable, replace_text,
    vouch::{Gathered, LocalVouch, gather, put},
};
use crate::{
    core::{
        evidence::{Action, Control},
        failure::{Code, Failure},
        id::{Sha256, SnapshotId},
        result::{KeysResult, SignerEntry},
        vouch::Vouch,
    },
    format::{self, signature, signers, vouch as vouch_format},
    ops::host::state_failure,
    repository::{layout, vouch},
    world::files,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fs, io, path::PathBuf};

/// Whom to revoke.
#[derive(Clone, Debug)]
pub struct RevokeRequest {
    /// Its fingerprint, `SHA256:...`.
    pub signer: String,
    /// Its fingerprint again.
    pub confirm: Option<String>,
    /// Snapshots that are not vouched for: forgeries.
    pub except: BTreeSet<SnapshotId>,
}

/// A revocation that has begun.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pending {
    revoked: String,
    vouches: Vec<LocalVouch>,
}

/// Revokes a signer.
pub async fn revoke(keys: &Keys<'_>, request: &RevokeRequest) -> Result<KeysResult, Failure> {
    let pending = read_pending(keys, &request.signer);
    check(keys, request, pending.is_some()).await?;
    if let Some(pending) = &pending {
        check_begun(pending, request)?;
    }
    if request.confirm.as_deref() != Some(request.signer.as_str()) {
        let gathered = match &pending {
            Some(pending) => Gathered::of_vouches(&parsed(pending)),
            None => gather(&keys.host.repository, &request.signer, &request.except).await?,
        };
        let message = format!("{} would be trusted no more", request.signer);
        return confirmed(request.confirm.as_deref(), &request.signer, message, &would_vouch(&gathered))
            .map(|()| KeysResult::new());
    }
    let result = keys.recorded(Action::Signer, async || perform(keys, request, pending).await).await?;
    // What is left of it does no harm: the next revocation of this signer would find it revoked.
    let _ = fs::remove_file(pending_path(keys, &request.signer));
    Ok(result)
}

async fn perform(
    keys: &Keys<'_>,
    request: &RevokeRequest,
    pending: Option<Pending>,
) -> Result<(KeysResult, Control), Failure> {
    let repository = &keys.host.repository;
    let (pending, gathered) = match pending {
        Some(pending) => {
            let vouches = parsed(&pending);
            let mut gathered = Gathered::of_vouches(&vouches);
            gathered.notes.extend(vouches.first().map(|vouch| {
                format!(
                    "this goes on with what was begun at {}: what it signed since is not vouched for",
                    vouch.created_at
                )
            }));
            (pending, gathered)
        }
        None => {
            let gathered = gather(repository, &request.signer, &request.except).await?;
            let vouches = gathered.sign(keys.host, &request.signer);
            let pending = Pending { revoked: request.signer.clone(), vouches };
            write_pending(keys, &pending)?;
            (pending, gathered)
        }
    };
    let behind = put(repository, &pending.vouches).await?;
    let file = &keys.settings.host.allowed_signers;
    let before = read_editable(file)?;
    let after = signers::text_without(&before, &request.signer);
    if after != before {
        replace_text(file, &before, &after)?;
    }
    let mut result = KeysResult {
        signers: vec![SignerEntry {
            fingerprint: request.signer.clone(),
            principals: Vec::new(),
            namespaces: Vec::new(),
            this_host: false,
            trusted: false,
            revoked: true,
        }],
        vouched: Some(gathered.summary(pending.vouches.iter().map(|local| local.vouch).collect())),
        ..KeysResult::new()
    };
    result.notes.extend(gathered.notes.iter().cloned());
    result.notes.push(format!(
        "take the lines of {} out of every custodian's file of signers, and out of that of every other host",
        request.signer
    ));
    result.warnings.extend(behind.into_iter().map(|why| format!("{why}; recoup copy brings the vouch there")));
    let inventories_sha256 = list_sha256(&pending.vouches);
    Ok((
        result,
        Control::SignerRevoked { signer: request.signer.clone(), evidence: gathered.heads(), inventories_sha256 },
    ))
}

/// What stands in the way, before anything is begun.
async fn check(keys: &Keys<'_>, request: &RevokeRequest, has_begun: bool) -> Result<(), Failure> {
    let repository = &keys.host.repository;
    let own = keys.host.key.fingerprint();
    if own.as_str() == request.signer {
        return Err(Failure::new(Code::Refused, format!("this host signs with {own} itself"))
            .cause("another trusted signer has to vouch for what it has signed")
            .safe("nothing was changed")
            .next_step(
                "make a new key, have it trusted with `recoup key signer add FILE.pub`, name it as signing_key, then \
                 run the same command again",
            ));
    }
    for (role, namespace) in [("keys", signature::KEYS), ("evidence", signature::EVIDENCE)] {
        let principal = signature::role_principal(role, &repository.id);
        if !repository.signers.may(own.as_str(), namespace, &principal) {
            return Err(Failure::new(Code::Refused, format!("nobody would believe {own}, which this host signs with"))
                .cause(format!("the file of signers does not let it sign {namespace} as {principal}"))
                .safe("nothing was changed")
                .next_step("recoup key signer add FILE.pub, by a host that is trusted; or correct its line by hand"));
        }
    }
    let is_trusted = repository.signers.fingerprints().iter().any(|signer| signer.as_str() == request.signer);
    if is_trusted || has_begun {
        return Ok(());
    }
    let was_revoked = repository.vouched().await.revoked.contains(&request.signer);
    let why = if was_revoked { "it was revoked" } else { "the file of signers does not name it" };
    Err(Failure::new(Code::Usage, format!("{} is not a trusted signer", request.signer))
        .cause(why)
        .safe("nothing was changed")
        .next_step("recoup key list"))
}

/// What was begun may be on stores already: it cannot be taken back.
fn check_begun(pending: &Pending, request: &RevokeRequest) -> Result<(), Failure> {
    let vouches = parsed(pending);
    let mut names = vouches.iter().flat_map(|vouch| vouch.objects.keys());
    let is_excepted = |name: &String| request.except.iter().any(|id| name.ends_with(&format!("/{id}/inventory.json")));
    match names.find(|name| is_excepted(name)) {
        None => Ok(()),
        Some(name) => Err(Failure::new(Code::Refused, format!("the revocation that was begun vouches for {name}"))
            .cause("it was begun without --except, and stores may have the vouch already")
            .safe("nothing was changed by this command")
            .next_step("run it without --except; then have the signer that vouched revoked by another, with --except")),
    }
}

fn would_vouch(gathered: &Gathered) -> String {
    let summary = gathered.summary(Vec::new());
    let mut parts: Vec<String> =
        summary.sources.iter().map(|of| format!("{} of {} up to {}", of.snapshots, of.source, of.newest)).collect();
    if parts.is_empty() {
        parts.push("none".to_owned());
    }
    format!(
        "this host would vouch for these of its snapshots: {}; leave out forgeries with --except SNAPSHOT",
        parts.join(", ")
    )
}

/// SHA-256 of the list of vouches, as `sha256sum` writes it.
fn list_sha256(vouches: &[LocalVouch]) -> Sha256 {
    let line = |local: &LocalVouch| {
        format!("{}  {}\n", format::sha256(local.text.as_bytes()), layout::vouch(local.vouch, "json"))
    };
    format::sha256(vouches.iter().map(line).collect::<String>().as_bytes())
}

fn pending_path(keys: &Keys<'_>, signer: &str) -> PathBuf {
    let name = format::sha256(signer.as_bytes()).to_string();
    keys.host.state_dir.join("keys").join(format!("revoke-{}.json", &name[..16]))
}

fn write_pending(keys: &Keys<'_>, pending: &Pending) -> Result<(), Failure> {
    let path = pending_path(keys, &pending.revoked);
    let bytes = serde_json::to_vec(pending).expect("it has no map");
    files::write_atomic(&path, &bytes, 0o600).map_err(|error: io::Error| state_failure("write", &path, &error))
}

/// A revocation that was cut short, if its vouches still count: another key may have taken this host's place.
fn read_pending(keys: &Keys<'_>, signer: &str) -> Option<Pending> {
    let bytes = fs::read(pending_path(keys, signer)).ok()?;
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
