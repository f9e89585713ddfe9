//! Revoking a signer: another one vouches for what it has signed so far, and then it is trusted no more.
//!
//! In this order, each step on stable storage before the next: the start on record; the vouch in the state directory;
//! the vouch on enough stores; the file of signers without the key; the end on record. Whatever is cut short, the same
//! command goes on with the vouch that is there, or that the stores show where this host has lost it, so that nothing
//! signed meanwhile is vouched for.

use super::{
    Keys,
    begun::{self, Begun},
    confirmed, read_editable, replace_text,
    vouch::{Gathered, LocalVouch, gather, put},
};
use crate::{
    core::{
        evidence::{Action, Control},
        failure::{Code, Failure},
        id::{Sha256, SnapshotId},
        result::{KeysResult, SignerEntry},
    },
    format::{self, signature, signers},
    repository::layout,
};
use std::collections::BTreeSet;

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

/// Revokes a signer.
pub async fn revoke(keys: &Keys<'_>, request: &RevokeRequest) -> Result<KeysResult, Failure> {
    may_revoke(keys, request)?;
    let begun = begun::find(keys, request).await?;
    if let Some(begun) = &begun {
        begun.check(request)?;
    }
    if request.confirm.as_deref() != Some(request.signer.as_str()) {
        let cause = match &begun {
            Some(begun) => would_vouch(&begun.gathered, &begun.left_out),
            None => would_vouch(&gather(&keys.host.repository, &request.signer, &request.except).await?, &[]),
        };
        let message = format!("{} would be trusted no more", request.signer);
        return confirmed(request.confirm.as_deref(), &request.signer, message, &cause).map(|()| KeysResult::new());
    }
    let result = keys.recorded(Action::Signer, async || perform(keys, request, begun).await).await?;
    begun::forget(keys, &request.signer);
    Ok(result)
}

async fn perform(
    keys: &Keys<'_>,
    request: &RevokeRequest,
    begun: Option<Begun>,
) -> Result<(KeysResult, Control), Failure> {
    let repository = &keys.host.repository;
    let begun = match begun {
        Some(begun) => begun,
        None => Begun::new(keys, &request.signer, gather(repository, &request.signer, &request.except).await?),
    };
    begun.keep(keys)?;
    let file = &keys.settings.host.allowed_signers;
    let Begun { pending, gathered, left_out } = begun;
    let behind = put(repository, &pending.vouches, keys.trusts(&request.signer)).await?;
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
    result.warnings.extend(left_out);
    result.warnings.extend(behind.into_iter().map(|why| format!("{why}; recoup copy brings the vouch there")));
    let inventories_sha256 = list_sha256(&pending.vouches);
    Ok((
        result,
        Control::SignerRevoked { signer: request.signer.clone(), evidence: gathered.heads(), inventories_sha256 },
    ))
}

/// What this host lacks to revoke a signer.
fn may_revoke(keys: &Keys<'_>, request: &RevokeRequest) -> Result<(), Failure> {
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
    Ok(())
}

fn would_vouch(gathered: &Gathered, left_out: &[String]) -> String {
    let summary = gathered.summary(Vec::new());
    let mut parts: Vec<String> =
        summary.sources.iter().map(|of| format!("{} of {} up to {}", of.snapshots, of.source, of.newest)).collect();
    if parts.is_empty() {
        parts.push("none".to_owned());
    }
    let begun = left_out.iter().map(|left_out| format!("; {left_out}")).collect::<String>();
    format!(
        "this host would vouch for these of its snapshots: {}; leave out forgeries with --except SNAPSHOT{begun}",
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
