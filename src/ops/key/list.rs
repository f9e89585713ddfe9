//! Who can read, and whose word counts.

use super::{kind_of, signer};
use crate::{
    config::Settings,
    core::{
        evidence::WriterId,
        failure::Failure,
        id::SourceName,
        result::{KeysResult, RecipientEntry, SignerEntry},
    },
    format::seal::{Identities, Recipients},
    ops::{
        evidence::{read_control, show::open_body},
        list::sources_on_stores,
        open::read_host_key,
    },
    repository::Repository,
};
use std::collections::{BTreeMap, BTreeSet};

/// The recipients and the signers.
pub async fn list(
    repository: &Repository,
    settings: Option<&Settings>,
    identities: &[&Identities],
) -> Result<KeysResult, Failure> {
    let mut result = KeysResult::new();
    let sealed_to = newest_recipients(repository).await?;
    let view = read_control(repository, settings.map(|settings| settings.host.state_dir.as_path())).await;
    if !view.complete {
        result
            .warnings
            .push("too few stores answered: the newest proofs and revocations may be missing here".to_owned());
    }
    let configured = settings.map(|settings| Recipients::parse(&settings.recipients).map(|all| all.names().to_vec()));
    let configured = configured.transpose().unwrap_or_default();
    let mut names: Vec<String> = configured.clone().unwrap_or_default();
    names.extend(sealed_to.keys().filter(|name| !names.contains(name)).cloned().collect::<Vec<_>>());
    for name in names {
        let proof = view.state.proof_records.get(&name).copied();
        result.recipients.push(RecipientEntry {
            kind: kind_of(&name).to_owned(),
            configured: configured.as_ref().map(|configured| configured.contains(&name)),
            sources: sealed_to.get(&name).into_iter().flatten().cloned().collect(),
            proven_at: view.state.proven_recipients.get(&name).copied(),
            proven_by: match proof {
                Some(place) => proven_by(repository, place, identities).await,
                None => None,
            },
            recipient: name,
        });
    }
    // Without its key a host signs nothing; what it knows of others is shown all the same.
    let own = settings.and_then(|settings| read_host_key(&settings.host.signing_key).ok());
    let own = own.map(|key| key.fingerprint().to_string());
    let mut revoked: BTreeSet<String> = view.state.revoked_signers().cloned().collect();
    revoked.extend(repository.vouched().await.revoked.iter().cloned());
    result.signers = signers(repository, &revoked, own.as_deref());
    for entry in result.signers.iter().filter(|entry| entry.trusted && entry.revoked) {
        result.warnings.push(format!(
            "{} was revoked, and the file of signers still names it: take its lines out",
            entry.fingerprint
        ));
    }
    Ok(result)
}

fn signers(repository: &Repository, revoked: &BTreeSet<String>, own: Option<&str>) -> Vec<SignerEntry> {
    let mut entries = signer::entries(&repository.signers);
    for entry in &mut entries {
        entry.this_host = own == Some(entry.fingerprint.as_str());
        entry.revoked = revoked.contains(&entry.fingerprint);
    }
    let gone = revoked.iter().filter(|fingerprint| !entries.iter().any(|entry| entry.fingerprint == **fingerprint));
    let gone: Vec<SignerEntry> = gone
        .map(|fingerprint| SignerEntry {
            fingerprint: fingerprint.clone(),
            principals: Vec::new(),
            namespaces: Vec::new(),
            this_host: own == Some(fingerprint.as_str()),
            trusted: false,
            revoked: true,
        })
        .collect();
    entries.extend(gone);
    entries
}

/// To whom the newest snapshot of each source is sealed.
async fn newest_recipients(repository: &Repository) -> Result<BTreeMap<String, BTreeSet<SourceName>>, Failure> {
    let mut found: BTreeMap<String, BTreeSet<SourceName>> = BTreeMap::new();
    for source in sources_on_stores(repository).await? {
        let catalogue = repository.catalogue(&source).await;
        let newest = catalogue.snapshots.values().next_back();
        for recipient in newest.into_iter().flat_map(|committed| &committed.inventory.recipients) {
            found.entry(recipient.clone()).or_default().insert(source.clone());
        }
    }
    Ok(found)
}

async fn proven_by(
    repository: &Repository,
    (writer, number): (WriterId, u64),
    identities: &[&Identities],
) -> Option<String> {
    for at in 0..repository.stores.len() {
        if let Ok(Some(signed)) = repository.read_record(at, writer, number).await {
            let body = open_body(repository, &signed, identities).await.ok()?;
            return Some(format!("{} on {}", body.login_user.unwrap_or(body.os_user), body.host));
        }
    }
    None
}
