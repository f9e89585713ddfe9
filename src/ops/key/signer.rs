//! Adding a signer: a key whose snapshots, evidence or other records are trusted from now on.

use super::{Keys, read_editable, replace_text};
use crate::{
    core::{
        evidence::{Action, Control},
        failure::{Code, Failure},
        id::{RepositoryId, SourceName},
        result::{KeysResult, SignerEntry},
    },
    format::{
        signature,
        signers::{self, Signers},
    },
    world::files,
};
use std::{collections::BTreeSet, io::Read, path::PathBuf};

/// The most bytes of a file with a public key that are read.
const PUBLIC_KEY_BYTES_MAX: u64 = 16 * 1024;

/// What a signer may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Snapshots.
    Inventory,
    /// Log segments.
    Log,
    /// The control log.
    Evidence,
    /// What prune deletes.
    Prune,
    /// Vouches for what revoked signers signed.
    Keys,
    /// Reports.
    Report,
}

impl Role {
    /// All of them, as `init` gives them.
    pub const ALL: [Role; 6] = [Role::Inventory, Role::Log, Role::Evidence, Role::Prune, Role::Keys, Role::Report];

    fn namespace(self) -> &'static str {
        match self {
            Role::Inventory => signature::INVENTORY,
            Role::Log => signature::LOG,
            Role::Evidence => signature::EVIDENCE,
            Role::Prune => signature::PRUNE,
            Role::Keys => signature::KEYS,
            Role::Report => signature::REPORT,
        }
    }

    fn is_of_sources(self) -> bool {
        matches!(self, Role::Inventory | Role::Log)
    }

    /// Whom it signs as, where that is no source.
    fn principal(self, repository: &RepositoryId) -> String {
        let namespace = self.namespace();
        signature::role_principal(namespace.strip_prefix("recoup-").unwrap_or(namespace), repository)
    }
}

/// Who is to be trusted, and with what.
#[derive(Clone, Debug)]
pub struct SignerRequest {
    /// The file with the public key.
    pub file: PathBuf,
    /// Whose snapshots it may sign; of every source where none is named.
    pub sources: BTreeSet<SourceName>,
    /// What it may sign; everything where nothing is named.
    pub roles: BTreeSet<Role>,
}

/// Adds a signer to this host's file of signers.
pub async fn add(keys: &Keys<'_>, request: &SignerRequest) -> Result<KeysResult, Failure> {
    let (fingerprint, key) = read_public_key(request)?;
    let file = &keys.settings.host.allowed_signers;
    if keys.host.repository.signers.fingerprints().contains(&fingerprint) {
        return Err(Failure::new(Code::Usage, format!("{fingerprint} is a trusted signer already"))
            .cause(format!("{} names it", file.display()))
            .safe("nothing was changed")
            .next_step("recoup key list"));
    }
    if keys.host.repository.vouched().await.revoked.contains(fingerprint.as_str()) {
        return Err(Failure::new(Code::Refused, format!("{fingerprint} was revoked"))
            .cause("what it signed since, nobody vouches for")
            .safe("nothing was changed")
            .next_step("make a new key: ssh-keygen -t ed25519 -N '' -f FILE"));
    }
    let lines = lines(request, &keys.host.repository.id, &key);
    let what = fingerprint.to_string();
    keys.recorded(Action::Signer, async || {
        let before = read_editable(file)?;
        let gap = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
        let after = format!("{before}{gap}{}\n", lines.join("\n"));
        let trusted = Signers::parse(&after).map_err(|error| {
            Failure::new(Code::Refused, format!("{} would no longer be readable", file.display()))
                .cause(error)
                .safe("it was left as it is")
                .next_step("correct it by hand, then run the same command again")
        })?;
        replace_text(file, &before, &after)?;
        let signers = entries(&trusted).into_iter().filter(|entry| entry.fingerprint == what).collect();
        let mut result = KeysResult { signers, signers_lines: lines.clone(), ..KeysResult::new() };
        result.notes.push(
            "every custodian, and every other host, trusts it once the same lines stand in their files of signers"
                .to_owned(),
        );
        Ok((result, Control::SignerAdded { signer: what.clone() }))
    })
    .await
}

/// The signers of a file, each key once.
pub(super) fn entries(signers: &Signers) -> Vec<SignerEntry> {
    let mut entries: Vec<SignerEntry> = Vec::new();
    for (fingerprint, principals, namespaces) in signers.lines() {
        let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        let (principals, namespaces) = (list(principals), namespaces.map(list).unwrap_or_default());
        match entries.iter_mut().find(|entry| entry.fingerprint == fingerprint.as_str()) {
            Some(entry) => {
                entry.principals.extend(principals);
                entry.namespaces.extend(namespaces);
            }
            None => entries.push(SignerEntry {
                fingerprint: fingerprint.to_string(),
                principals,
                namespaces,
                this_host: false,
                trusted: true,
                revoked: false,
            }),
        }
    }
    entries
}

fn read_public_key(request: &SignerRequest) -> Result<(signature::SignerFingerprint, String), Failure> {
    let refused = |why: String| {
        Failure::new(Code::Usage, format!("{} cannot be used as a signer's key", request.file.display()))
            .cause(why)
            .safe("nothing was changed")
            .next_step("name the public key, FILE.pub, of an Ed25519 key: ssh-keygen -t ed25519 -N '' -f FILE")
    };
    let mut text = String::new();
    let opened = files::open_given(&request.file).map_err(|error| refused(error.to_string()))?;
    let read = opened.take(PUBLIC_KEY_BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| refused(error.to_string()))?;
    if text.len() as u64 > PUBLIC_KEY_BYTES_MAX {
        return Err(refused("it is larger than any public key".to_owned()));
    }
    signers::public_key(&text).map_err(refused)
}

/// The lines that let a key sign what is asked for, and nothing else: a role is no source, and no source a role.
fn lines(request: &SignerRequest, repository: &RepositoryId, key: &str) -> Vec<String> {
    let roles: Vec<Role> =
        Role::ALL.into_iter().filter(|role| request.roles.is_empty() || request.roles.contains(role)).collect();
    let line = |principals: &[String], roles: &[Role]| {
        let namespaces: Vec<&str> = roles.iter().map(|role| role.namespace()).collect();
        format!("{} namespaces=\"{}\" {key}", principals.join(","), namespaces.join(","))
    };
    if request.sources.is_empty() {
        return vec![line(&[signature::role_principal("*", repository)], &roles)];
    }
    let (of_sources, others): (Vec<Role>, Vec<Role>) = roles.into_iter().partition(|role| role.is_of_sources());
    let sources: Vec<String> = request.sources.iter().map(|source| signature::principal(source, repository)).collect();
    let principals: Vec<String> = others.iter().map(|role| role.principal(repository)).collect();
    let all = [(sources, of_sources), (principals, others)];
    all.iter().filter(|(_, roles)| !roles.is_empty()).map(|(principals, roles)| line(principals, roles)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_give_what_is_asked_for_and_no_more() {
        let repository = RepositoryId::from_random([0; 16]);
        let request = |sources: &[&str], roles: &[Role]| SignerRequest {
            file: PathBuf::new(),
            sources: sources.iter().map(|source| source.parse().unwrap()).collect(),
            roles: roles.iter().copied().collect(),
        };
        let id = repository.as_str();
        let all = "recoup-inventory,recoup-log,recoup-evidence,recoup-prune,recoup-keys,recoup-report";
        for (request, expected) in [
            (request(&[], &[]), vec![format!("*@{id} namespaces=\"{all}\" K")]),
            (request(&[], &[Role::Evidence]), vec![format!("*@{id} namespaces=\"recoup-evidence\" K")]),
            (
                request(&["a", "b"], &[Role::Evidence, Role::Inventory]),
                vec![
                    format!("a@{id},b@{id} namespaces=\"recoup-inventory\" K"),
                    format!("evidence@{id} namespaces=\"recoup-evidence\" K"),
                ],
            ),
            (request(&["a"], &[Role::Log]), vec![format!("a@{id} namespaces=\"recoup-log\" K")]),
        ] {
            assert_eq!(lines(&request, &repository, "K"), expected);
        }
    }
}
