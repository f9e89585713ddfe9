//! A proof that a custodian's identity opens what is sealed to it: the manifest of each source's newest snapshot, the
//! digests of its blocks and the beginning of a pack, which only custodians can open.

use super::{Keys, kind_of};
use crate::{
    core::{
        evidence::{Action, Control, Draft, Subject, Verdict},
        failure::{Code, Failure},
        id::{SnapshotId, SourceName},
        manifest::PackId,
        result::{KeysResult, RecipientEntry},
    },
    format::{
        FormatError,
        digests::{self, DigestPart},
        objects::ObjectKind,
        pack::{PackReader, block_digest, check_header},
        ranged::{self, SparseObject},
        seal::{Identities, open_small},
    },
    ops::{
        evidence::deeds,
        list::sources_on_stores,
        restore::{PackContent, read_manifest},
    },
    repository::{Repository, catalogue::Catalogue, fetch::Wanted, layout},
};
use std::collections::{BTreeMap, BTreeSet};

/// Shows which configured recipients the identities stand for, and records it.
pub async fn prove(keys: &Keys<'_>, identities: Identities) -> Result<KeysResult, Failure> {
    let configured = keys.host.recipients.names();
    let custodians: Vec<(String, Identities)> = identities
        .each()
        .into_iter()
        .map(|(name, identity)| (name.split_whitespace().take(2).collect::<Vec<_>>().join(" "), identity))
        .filter(|(name, _)| configured.contains(name))
        .collect();
    if custodians.is_empty() {
        return Err(Failure::new(Code::NoKey, "the identity is none of a configured recipient")
            .cause(format!("the recipients are {}", configured.join(", ")))
            .safe("nothing was recorded")
            .next_step("name the custodian's identity; or make its public key a recipient: recoup key add RECIPIENT"));
    }
    let started_at = keys.host.world.now();
    let mut result = KeysResult::new();
    let newest = newest_snapshots(keys, &mut result.notes).await?;
    let mut proven = Vec::new();
    for (recipient, identity) in &custodians {
        let sources = open_newest(keys, &newest, recipient, identity, &mut result.notes).await?;
        proven.push((recipient.clone(), sources));
    }
    result.notes.extend(keys.recorder.close_dead()?.iter().map(deeds::aborted_note));
    let subject = |source: &SourceName| {
        let (catalogue, id) = &newest[source];
        let inventory_sha256 = Some(catalogue.snapshots[id].sha256);
        Subject { snapshot: Some(*id), inventory_sha256, ..Subject::new(source.clone(), Verdict::Passed) }
    };
    let mut last = 0;
    for (recipient, sources) in proven {
        let draft = Draft {
            subjects: sources.iter().map(subject).collect(),
            control: Some(Control::RecipientProven { recipient: recipient.clone() }),
            ..Draft::new(Action::Key, Verdict::Passed, started_at)
        };
        last = keys.recorder.record(draft)?.head.number;
        result.recipients.push(RecipientEntry {
            kind: kind_of(&recipient).to_owned(),
            recipient,
            configured: Some(true),
            sources,
            proven_at: Some(keys.host.world.now()),
            proven_by: None,
        });
    }
    keys.insist(last).await?;
    result.notes.extend(keys.recorder.take_notes());
    Ok(result)
}

/// Opens the newest snapshot of each source with one identity; returns the sources.
async fn open_newest(
    keys: &Keys<'_>,
    newest: &BTreeMap<SourceName, (Catalogue, SnapshotId)>,
    recipient: &str,
    identity: &Identities,
    notes: &mut Vec<String>,
) -> Result<Vec<SourceName>, Failure> {
    let mut opened = Vec::new();
    for (source, (catalogue, id)) in newest {
        let is_sealed_to = catalogue.snapshots[id].inventory.recipients.iter().any(|name| name == recipient);
        // Nothing more will ever be sealed of a source that is no longer configured.
        if keys.settings.source(source.as_str()).is_none() && !is_sealed_to {
            notes.push(format!("source {source} is not configured, and {id} is not sealed to {recipient}"));
            continue;
        }
        open_all(&keys.host.repository, catalogue, *id, identity).await.map_err(|failure| {
            let cause = failure.cause.map_or(failure.message.clone(), |cause| format!("{}: {cause}", failure.message));
            failure_of(failure.code, recipient, source, *id).cause(cause)
        })?;
        opened.push(source.clone());
    }
    match newest.iter().next_back() {
        Some((source, (_, id))) if opened.is_empty() => {
            Err(failure_of(Code::NoKey, recipient, source, *id).cause("no snapshot is sealed to it"))
        }
        _ => Ok(opened),
    }
}

fn failure_of(code: Code, recipient: &str, source: &SourceName, id: SnapshotId) -> Failure {
    let next_step = match code {
        Code::NoKey => format!("if it became a recipient only lately: recoup backup {source}, then the same again"),
        _ => "recoup verify --all".to_owned(),
    };
    Failure::new(code, format!("the identity of {recipient} did not open snapshot {id} of {source}"))
        .safe("nothing was recorded")
        .next_step(next_step)
}

/// The newest durable snapshot of each source that has one.
async fn newest_snapshots(
    keys: &Keys<'_>,
    notes: &mut Vec<String>,
) -> Result<BTreeMap<SourceName, (Catalogue, SnapshotId)>, Failure> {
    let repository = &keys.host.repository;
    let mut sources: BTreeSet<SourceName> = sources_on_stores(repository).await?;
    sources.extend(keys.settings.sources.iter().map(|source| source.name.clone()));
    let mut newest = BTreeMap::new();
    for name in sources {
        let catalogue = repository.catalogue(&name).await;
        let policy = keys.settings.source(name.as_str()).map(|source| keys.settings.policy(source).copies.clone());
        let copies = policy.unwrap_or_default();
        let durable = catalogue.snapshots.iter().rev().find(|(_, of)| catalogue.is_durable(repository, &copies, of));
        match durable.map(|(id, _)| *id) {
            Some(id) => drop(newest.insert(name, (catalogue, id))),
            None => notes.push(format!("source {name} has no durable snapshot yet: nothing is shown for it")),
        }
    }
    if newest.is_empty() {
        return Err(Failure::new(Code::NoRecoveryPoint, "there is no durable snapshot yet")
            .cause("an identity is shown to work by opening one")
            .safe("nothing was recorded")
            .next_step("recoup backup"));
    }
    Ok(newest)
}

/// Opens something of every kind that a snapshot consists of.
async fn open_all(
    repository: &Repository,
    catalogue: &Catalogue,
    id: SnapshotId,
    identities: &Identities,
) -> Result<(), Failure> {
    let manifest = read_manifest(repository, catalogue, id, identities).await?;
    // One without a block has nothing more to open.
    let Some((pack, content)) = manifest.packs.iter().find(|(_, content)| !content.extents.is_empty()) else {
        return Ok(());
    };
    let digests = open_digests(repository, catalogue, id, *pack, identities).await?;
    open_pack(repository, catalogue, *pack, content, &digests, identities).await
}

fn damaged(key: &str, error: &FormatError) -> Failure {
    let code = if matches!(error, FormatError::NoMatchingKey) { Code::NoKey } else { Code::Damaged };
    Failure::new(code, format!("{key} cannot be opened")).cause(error)
}

/// The digests of a pack: of several objects, the one that has them.
async fn open_digests(
    repository: &Repository,
    catalogue: &Catalogue,
    id: SnapshotId,
    pack: PackId,
    identities: &Identities,
) -> Result<DigestPart, Failure> {
    let used = catalogue.snapshots[&id].inventory.uses.iter().find(|used| used.run == pack.run);
    let objects = used.and_then(|used| catalogue.run(used)).map(|list| list.objects.as_slice()).unwrap_or_default();
    let parts = objects.iter().filter(|object| matches!(ObjectKind::of(&object.name), Some(ObjectKind::Digests(_))));
    for object in parts {
        let folder = layout::source_folder(&catalogue.source);
        let key = format!("{folder}{}", layout::run_object(pack.run, &object.name));
        let wanted = Wanted { key: &key, size: Some(object.size), sha256: object.sha256, max_bytes: object.size };
        let sealed = repository.fetch(wanted, &catalogue.detours).await.map_err(|error| {
            let code = if error.unreachable { Code::Store } else { Code::Damaged };
            Failure::new(code, error.to_string())
        })?;
        let part = open_small(identities, &sealed, digests::MAX_RAW_BYTES)
            .and_then(|raw| DigestPart::parse(raw, pack.run))
            .map_err(|error| damaged(&key, &error))?;
        if part.pack(pack.pack).is_some() {
            return Ok(part);
        }
    }
    Err(Failure::new(Code::Damaged, format!("the digests of run {} do not cover pack {}", pack.run, pack.pack)))
}

/// Reads one block of a pack, from the first store that gives it right.
async fn open_pack(
    repository: &Repository,
    catalogue: &Catalogue,
    pack: PackId,
    content: &PackContent,
    digests: &DigestPart,
    identities: &Identities,
) -> Result<(), Failure> {
    let key = format!("{}{}", layout::source_folder(&catalogue.source), layout::pack(pack.run, pack.pack));
    let block = content.extents.iter().next().map_or(0, |(_, extent)| extent.raw_block);
    let expected = digests.pack(pack.pack).and_then(|all| all.get(usize::try_from(block).ok()?));
    let ranges = ranged::ranges(&content.index, content.object.size, [(block, 1)]);
    let mut last = Failure::new(Code::Store, format!("{key} cannot be read from any store"));
    for store in &repository.stores {
        let pieces = match store.get_ranges(&key, &ranges).await {
            Ok(pieces) => pieces,
            Err(error) => {
                last = error.failure();
                continue;
            }
        };
        let starts = ranges.iter().map(|range| range.start);
        let object = SparseObject::new(content.object.size, starts.zip(pieces));
        let opened = check_header(object.start(), &content.index)
            .and_then(|()| PackReader::new(object, &content.index, identities))
            .and_then(|mut reader| Ok(block_digest(&digests.key, reader.blocks(block, 1)?)));
        match opened {
            Ok(found) if expected == Some(&found) => return Ok(()),
            Ok(_) => last = Failure::new(Code::Damaged, format!("{key} holds another block than was captured")),
            Err(error @ FormatError::NoMatchingKey) => return Err(damaged(&key, &error)),
            Err(error) => last = damaged(&key, &error),
        }
    }
    Err(last)
}
