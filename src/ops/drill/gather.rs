//! What is known before a drill begins: the identity, what the stores hold, and with it the moment of the disaster.

use super::{DrillRequest, configured_policy};
use crate::{
    config::Settings,
    core::{
        failure::Failure,
        id::{SnapshotId, SourceName},
        inventory::{Inventory, Parent},
        plan::drill::{Window, interval, window},
        policy::Copies,
        target::Target,
        time::Timestamp,
    },
    format::seal::Identities,
    ops::{
        host::Host,
        list, open,
        restore::{Restore, RestoreRequest},
        runs,
    },
    repository::{Repository, catalogue::Catalogue},
    sources::CheckOptions,
};
use std::{path::PathBuf, sync::Arc};

/// What a drill begins with.
pub(super) struct Gathered {
    pub(super) identities: Arc<Identities>,
    /// The repository, with its stores in the order in which this drill asks them.
    pub(super) repository: Repository,
    /// The moment of the disaster: as given, or drawn.
    pub(super) disaster_at: Timestamp,
    /// What it was drawn from.
    pub(super) window: Option<Window>,
    /// The snapshot that it means, as far as can be told before the drill; the drill chooses again, timed.
    pub(super) chosen: Option<Parent>,
    /// When a snapshot is durable.
    pub(super) copies: Copies,
    /// What the database's own checks need to know.
    pub(super) check_options: CheckOptions,
    /// The newest snapshot that this host knows of.
    pub(super) known_head: Option<Parent>,
    /// Snapshots that the stores show.
    pub(super) snapshots: usize,
    /// Whether this host's own key signed one of them.
    pub(super) signed_here: bool,
}

/// Reads the identity and the catalogue, and declares the disaster.
pub(super) async fn gather(host: &Host, settings: &Settings, request: &DrillRequest) -> Result<Gathered, Failure> {
    let now = host.world.now();
    let target = Target::Time(request.disaster_at.unwrap_or(now));
    let known = runs::before_restore(settings, &request.source, &target, None)?;
    let repository = in_order(host, request);
    let catalogue = repository.catalogue(&request.source).await;
    refuse_mistyped(host, settings, request, &catalogue).await?;
    let identities = Arc::new(open::read_identities(&request.identity).await?);
    let window = match request.disaster_at {
        Some(_) => None,
        None => {
            let policy = configured_policy(settings, &request.source);
            window(now, &read_from(host, &catalogue, &known.copies), policy.and_then(interval))
        }
    };
    let drawn = window.map(|window| window.at(u64::from_le_bytes(host.world.random())));
    let disaster_at = request.disaster_at.or(drawn).unwrap_or(now);
    let own = host.key.fingerprint();
    let mut gathered = Gathered {
        identities,
        repository,
        disaster_at,
        window,
        chosen: None,
        copies: known.copies,
        check_options: known.check_options,
        known_head: known.head,
        snapshots: catalogue.snapshots.len(),
        signed_here: catalogue.snapshots.values().any(|committed| committed.inventory.writer == own.as_str()),
    };
    // What cannot be chosen is found out again, and named, once the start is on record.
    let restore = gathered.restore_request(&request.source, disaster_at, PathBuf::from("/"));
    gathered.chosen = Restore::choose(&gathered.repository, &catalogue, &restore).await.ok();
    Ok(gathered)
}

/// The store that is named comes first, else one that is drawn: asked in the same order every time, drills would prove the
/// nearest store and never another.
fn in_order(host: &Host, request: &DrillRequest) -> Repository {
    let mut repository = host.repository.clone();
    let stores = &mut repository.stores;
    let named = request.store.as_ref().and_then(|name| stores.iter().position(|store| store.name() == name));
    let first = named.unwrap_or_else(|| {
        let number = stores.len().max(1) as u64;
        (u64::from_le_bytes(host.world.random()) % number) as usize
    });
    if first < stores.len() {
        stores[..=first].rotate_right(1);
    }
    repository
}

/// A source that is neither configured nor on any store that answers.
async fn refuse_mistyped(
    host: &Host,
    settings: &Settings,
    request: &DrillRequest,
    catalogue: &Catalogue,
) -> Result<(), Failure> {
    let is_known = settings.source(request.source.as_str()).is_some() || !catalogue.snapshots.is_empty();
    if is_known || catalogue.ready().next().is_none() {
        return Ok(());
    }
    let on_stores = list::sources_on_stores(&host.repository).await?;
    list::check_known(&request.source, &on_stores, &Default::default())
}

/// When the reads of the durable snapshots began; of all that there are where none is durable.
fn read_from(host: &Host, catalogue: &Catalogue, copies: &Copies) -> Vec<Timestamp> {
    let moments = |durable: bool| -> Vec<Timestamp> {
        let all = catalogue.snapshots.values();
        let found = all.filter(|committed| !durable || catalogue.is_durable(&host.repository, copies, committed));
        // Of what has a log, a moment before it was committed would find nothing: it counts from then on.
        let since = |inventory: &Inventory| {
            if inventory.log.is_some() { inventory.created_at } else { inventory.read_started_at }
        };
        found.map(|committed| since(&committed.inventory)).collect()
    };
    let durable = moments(true);
    if durable.is_empty() { moments(false) } else { durable }
}

impl Gathered {
    /// What is restored: the newest durable snapshot whose read began before the disaster.
    pub(super) fn restore_request(&self, source: &SourceName, at: Timestamp, to: PathBuf) -> RestoreRequest {
        RestoreRequest {
            as_of: Some(at),
            known_head: self.known_head,
            copies: self.copies.clone(),
            ..RestoreRequest::new(source.clone(), Target::Time(at), to)
        }
    }

    /// The store that is asked first.
    pub(super) fn read_first(&self) -> Option<&str> {
        self.repository.stores.first().map(|store| store.name())
    }

    /// The first steps of a plan.
    pub(super) fn steps(&self, request: &DrillRequest) -> Vec<String> {
        let declared = match (request.disaster_at, self.window) {
            (Some(moment), _) => format!("declare {} lost at {moment}", request.source),
            (None, Some(window)) => format!(
                "declare {} lost at a moment drawn at random between {} and {}",
                request.source, window.from, window.until
            ),
            (None, None) => format!("declare {} lost now: it has no snapshot yet", request.source),
        };
        let chosen: Option<SnapshotId> = self.chosen.filter(|_| request.disaster_at.is_some()).map(|chosen| chosen.id);
        let snapshot = match chosen {
            Some(id) => format!("fetch snapshot {id}, the newest that was read before"),
            None => "fetch the newest durable snapshot that was read before".to_owned(),
        };
        let from = match &request.store {
            Some(store) => format!("store {store}"),
            None => "a store drawn at random".to_owned(),
        };
        vec![declared, format!("{snapshot}, from {from}")]
    }
}
