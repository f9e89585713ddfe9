//! Gathers what a report rests on: every record with its signature, sealed bodies, snapshots, what the stores hold.

use crate::{
    config::{Settings, SourceSettings},
    core::{
        evidence::WriterId,
        failure::{Code, Failure},
        id::SourceName,
        policy::Policy,
        report::{
            Authority, Facts, Head, KIND, OpenedBody, RecordFact, RefusedLine, SeenIn, SnapshotLine, StoreCopies, Tool,
            build::needs_body,
        },
        result::Durability,
        time::Timestamp,
    },
    format::{
        evidence::{self as evidence_format, MAX_RAW_BODY_BYTES},
        seal::{Identities, open_small},
    },
    ops::{
        evidence::{journal::Journal, read_control},
        host::Host,
        list,
    },
    repository::{catalogue::Catalogue, chains::KnownChains, evidence::SignedRecord},
    world::World,
};
use bytes::Bytes;
use futures_util::future::join_all;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Bodies that are read at once.
const AT_ONCE: usize = 8;

/// What was gathered.
pub(super) struct Gathered {
    /// What the report is built from.
    pub(super) facts: Facts,
    /// Every record with its exact bytes and signature.
    pub(super) records: Vec<SignedRecord>,
    /// What keeps it from being everything there is.
    pub(super) warnings: Vec<String>,
}

pub(super) async fn gather(
    settings: &Settings,
    host: &Host,
    identities: Option<&Identities>,
    source: &SourceName,
    (from, to): (Timestamp, Timestamp),
    made_at: Timestamp,
) -> Result<Gathered, Failure> {
    let configured = settings.source(source.as_str()).ok_or_else(|| unknown(settings, source))?;
    let policy = settings.policy(configured);
    let catalogue = host.repository.catalogue(source).await;
    let chains = read_chains(host).await;
    let head = Head {
        report: host.world.new_id(),
        kind: KIND.to_owned(),
        repository: host.repository.id,
        source: source.clone(),
        source_kind: Some(configured.kind.clone()),
        from,
        to,
        made_at,
        previous: None,
    };
    let records = open_bodies(host, identities, &chains.records, &head).await;
    let copies = copies(host, &catalogue);
    let mut warnings: Vec<String> = copies
        .iter()
        .filter_map(|copies| copies.problem.as_ref().map(|problem| format!("store {}: {problem}", copies.store)))
        .collect();
    warnings.extend(chains.warnings());
    let facts = Facts {
        head,
        authority: authority(settings, host, configured, policy),
        tool: tool(&host.world),
        complete: chains.complete,
        answered: chains.answered.iter().cloned().collect(),
        refused: chains.refused,
        shortened: chains.shortened,
        records,
        snapshots: snapshots(host, &catalogue, policy),
        copies,
    };
    Ok(Gathered { facts, records: chains.records, warnings })
}

fn unknown(settings: &Settings, source: &SourceName) -> Failure {
    let known: Vec<&str> = settings.sources.iter().map(|source| source.name.as_str()).collect();
    Failure::new(Code::Usage, format!("there is no source {source}"))
        .cause(format!(
            "the configuration has: {}",
            if known.is_empty() { "none".to_owned() } else { known.join(", ") }
        ))
        .safe("nothing was read or changed")
        .next_step("name a source of the configuration: only that has a policy to judge by")
}

/// The chains as the stores show them, and what this host has not brought there yet.
struct Chains {
    records: Vec<SignedRecord>,
    answered: BTreeSet<String>,
    complete: bool,
    refused: Vec<RefusedLine>,
    shortened: Vec<WriterId>,
}

impl Chains {
    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.complete {
            warnings.push("too few stores answered: records may be missing from the report".to_owned());
        }
        if let Some(first) = self.refused.first() {
            let (number, why) = (self.refused.len(), &first.why);
            warnings.push(format!("{number} records were refused; the first, on store {}: {why}", first.store));
        }
        let shortened = self.shortened.iter();
        warnings.extend(shortened.map(|writer| {
            format!("the stores show fewer records of writer {writer} than this host has seen: recoup evidence verify")
        }));
        warnings
    }
}

async fn read_chains(host: &Host) -> Chains {
    let repository = &host.repository;
    let known = read_control(repository, Some(&host.state_dir)).await.state.heads;
    let followed = repository.follow_evidence(&KnownChains::default()).await;
    let line = |refused: &crate::repository::evidence::RefusedRecord| RefusedLine {
        store: refused.store.clone(),
        writer: refused.writer,
        number: refused.number,
        why: refused.why.to_string(),
    };
    // What is lost may have been a drill that failed: a report says so, whoever has acknowledged it.
    let lost = followed.lost.stretches().map(|(writer, first, last)| RefusedLine {
        store: followed.answered.iter().cloned().collect::<Vec<_>>().join(", "),
        writer,
        number: first,
        why: format!("it is lost, up to record {last}, and was acknowledged as lost"),
    });
    let mut chains = Chains {
        complete: followed.answered.len() >= repository.control_read_quorum(),
        refused: followed.refused.iter().map(line).chain(lost).collect(),
        answered: followed.answered,
        records: followed.records,
        shortened: Vec::new(),
    };
    add_own(host, &mut chains);
    let shown: BTreeMap<WriterId, u64> =
        chains.records.iter().map(|signed| (signed.record.writer, signed.record.number)).collect();
    let is_shorter = |writer: &WriterId, number: u64| shown.get(writer).copied().unwrap_or(0) < number;
    chains.shortened =
        known.iter().filter(|(writer, head)| is_shorter(writer, head.number)).map(|(writer, _)| *writer).collect();
    chains
}

/// Adds what lies on this host and on no store that answers.
fn add_own(host: &Host, chains: &mut Chains) {
    let journal = Journal::new(&host.state_dir, host.repository.id);
    let Some(own) = journal.chain() else { return };
    let newest = chains.records.iter().rfind(|signed| signed.record.writer == own.writer);
    let mut head = newest.map(|signed| signed.record.head(signed.sha256));
    for number in head.map_or(1, |head| head.number + 1)..=own.number() {
        let Some(local) = journal.local(own.writer, number) else { return };
        let (bytes, signature) = (Bytes::from(local.envelope), Bytes::from(local.signature));
        let refused = match host.repository.accept_record(own.writer, number, bytes, signature) {
            Ok(signed) if signed.record.previous == head.map(|head| head.sha256) => {
                head = Some(signed.record.head(signed.sha256));
                chains.records.push(signed);
                continue;
            }
            Ok(_) => "it does not follow the record before it".to_owned(),
            Err(why) => why.to_string(),
        };
        chains.refused.push(RefusedLine { store: "this host".to_owned(), writer: own.writer, number, why: refused });
        return;
    }
}

async fn open_bodies(
    host: &Host,
    identities: Option<&Identities>,
    records: &[SignedRecord],
    head: &Head,
) -> Vec<RecordFact> {
    let mut facts = Vec::new();
    for some in records.chunks(AT_ONCE) {
        let opened = join_all(some.iter().map(|signed| async {
            if needs_body(&signed.record, head) {
                open_body(host, identities, signed).await
            } else {
                OpenedBody::NotRead
            }
        }))
        .await;
        let fact = |(signed, body): (&SignedRecord, OpenedBody)| RecordFact {
            record: signed.record.clone(),
            sha256: signed.sha256,
            body,
        };
        facts.extend(some.iter().zip(opened).map(fact));
    }
    facts
}

async fn open_body(host: &Host, identities: Option<&Identities>, signed: &SignedRecord) -> OpenedBody {
    let journal = Journal::new(&host.state_dir, host.repository.id);
    let local = journal.body(signed.record.writer, signed.record.number).ok().map(Bytes::from);
    let local = local.filter(|bytes| crate::format::sha256(bytes) == signed.record.body.sha256);
    let sealed = match local {
        Some(bytes) => bytes,
        None => match host.repository.read_evidence_body(signed).await {
            Ok(bytes) => bytes,
            Err(_) => return OpenedBody::NotOpened("no store that answers has its sealed body intact".to_owned()),
        },
    };
    let own = host.catalogue_key.as_ref().map(|key| &key.identities);
    let mut why = "this host has no catalogue key, and no identity was given".to_owned();
    for keys in [own, identities].into_iter().flatten() {
        match open_small(keys, &sealed, MAX_RAW_BODY_BYTES).and_then(|raw| evidence_format::parse_body(&raw)) {
            Ok(body) => return OpenedBody::Opened(Box::new(body)),
            Err(error) => why = error.to_string(),
        }
    }
    OpenedBody::NotOpened(why)
}

fn snapshots(host: &Host, catalogue: &Catalogue, policy: &Policy) -> Vec<SnapshotLine> {
    let line = |committed: &crate::repository::catalogue::Committed| {
        let stores = catalogue.names(&catalogue.complete_on(committed));
        let durability = list::durability(&host.repository, catalogue, &stores, Some(&policy.copies));
        let inventory = &committed.inventory;
        SnapshotLine {
            snapshot: inventory.id(),
            kind: Some(inventory.kind),
            read_started_at: inventory.read_started_at,
            created_at: inventory.created_at,
            durable: match durability {
                Durability::Durable => Some(true),
                Durability::NotDurable => Some(false),
                Durability::Unknown => None,
            },
            stores: stores.into_iter().collect(),
            inventory_sha256: Some(committed.sha256),
            seen_in: SeenIn::Stores,
        }
    };
    catalogue.snapshots.values().map(line).collect()
}

fn copies(host: &Host, catalogue: &Catalogue) -> Vec<StoreCopies> {
    let places = host.repository.places();
    let complete: Vec<_> = catalogue
        .snapshots
        .values()
        .map(|committed| (committed.inventory.id(), catalogue.complete_on(committed)))
        .collect();
    let of_store = |(at, listing): (usize, &crate::repository::catalogue::StoreListing)| {
        let held = || complete.iter().filter(|(_, stores)| stores.contains(&at)).map(|(id, _)| *id);
        let problem = listing.status.problem();
        let place = places.get(&listing.store);
        let refused: BTreeSet<_> = catalogue
            .refused
            .iter()
            .filter(|refused| refused.store == listing.store)
            .map(|refused| refused.id)
            .collect();
        StoreCopies {
            store: listing.store.clone(),
            region: place.and_then(|place| place.region.clone()),
            provider: place.and_then(|place| place.provider.clone()),
            snapshots: problem.is_none().then(|| held().count() as u64),
            newest: held().max(),
            problem,
            refused: refused.len() as u64,
        }
    };
    catalogue.listings.iter().enumerate().map(of_store).collect()
}

fn authority(settings: &Settings, host: &Host, source: &SourceSettings, policy: &Policy) -> Authority {
    let seconds = |duration: Option<Duration>| duration.map(|duration| duration.as_secs());
    Authority {
        policy: source.policy.clone(),
        policy_sha256: policy.sha256,
        tier: policy.tier.clone(),
        rpo_seconds: seconds(policy.rpo),
        rto_seconds: seconds(policy.rto),
        drill_every_seconds: seconds(policy.drill_interval),
        full_every_seconds: seconds(policy.full_interval),
        incremental_every_seconds: seconds(policy.incremental_interval),
        min_stores: policy.copies.required_stores(settings.stores.len()) as u64,
        min_regions: policy.copies.min_regions.map(u64::from),
        min_providers: policy.copies.min_providers.map(u64::from),
        immutable_for_seconds: seconds(policy.copies.immutable_for),
        keep_within_seconds: seconds(policy.keep_within),
        keep_last: policy.keep_last,
        assertions: policy.assertions.iter().map(|assertion| assertion.name.clone()).collect(),
        signer: host.key.fingerprint().to_string(),
    }
}

fn tool(world: &World) -> Tool {
    Tool {
        name: "recoup".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        engine: format!("SQLite {}", rusqlite::version()),
        host: world.invocation().host,
    }
}
