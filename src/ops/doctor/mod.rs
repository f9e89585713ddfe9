//! Whether this host is set up right: configuration, keys, stores, sources, clock. Changes nothing.

mod host;
mod sources;

pub(in crate::ops) use host::identities_on_host;

use super::open;
use crate::{
    config::Settings,
    core::{
        failure::Failure,
        result::{DoctorFinding, DoctorResult, Severity},
    },
    repository::{
        head::{self, StoreStatus},
        recovery,
    },
    stores::{self, Fate, Shared, StoreSpec, Surroundings},
    world::World,
};

/// A store with less than this free is worth a warning.
const LITTLE_ROOM_BYTES: u64 = 1024 * 1024 * 1024;

/// Examines the host.
pub async fn doctor(settings: &Settings, world: &World) -> DoctorResult {
    let mut findings = Findings(Vec::new());
    for remark in settings.remarks() {
        findings.add("remark", Severity::Note, None, remark, None);
    }
    for failure in open::host_failures(settings) {
        findings.failure("host", None, &failure);
    }
    host::examine(settings, &mut findings);
    examine_stores(settings, &mut findings).await;
    sources::examine(settings, world, &mut findings).await;
    DoctorResult::of(findings.0)
}

struct Findings(Vec<DoctorFinding>);

impl Findings {
    fn add(&mut self, id: &str, severity: Severity, store: Option<&str>, message: String, next_step: Option<String>) {
        self.0.push(DoctorFinding { id: id.to_owned(), severity, store: store.map(str::to_owned), message, next_step });
    }

    fn failure(&mut self, id: &str, store: Option<&str>, failure: &Failure) {
        self.add(id, Severity::Critical, store, failure.to_string(), failure.next_step.clone());
    }
}

async fn examine_stores(settings: &Settings, findings: &mut Findings) {
    for (store, configured) in open::open_stores(&settings.stores).iter().zip(&settings.stores) {
        let status = match settings.repository {
            Some(id) => head::status(store, id).await,
            None => head::read(store).await.map_or_else(|status| status, |_| StoreStatus::Ready),
        };
        if status != StoreStatus::Ready {
            let next_step = status.failure(store.name()).next_step;
            let problem = status.problem().unwrap_or_default();
            findings.add("store-down", Severity::Critical, Some(store.name()), problem, next_step);
            continue;
        }
        for (name, content) in recovery::files() {
            if store.get(name, 1024 * 1024).await.ok().is_none_or(|bytes| bytes != content.as_bytes()) {
                findings.add(
                    "recovery-file-altered",
                    Severity::Critical,
                    Some(store.name()),
                    format!("{name} on the store is missing or not the one that recoup wrote"),
                    Some("find out who changed it, then run `recoup copy`".to_owned()),
                );
            }
        }
        if !store.facts().conditional_create {
            findings.add(
                "no-conditional-create",
                Severity::Warning,
                Some(store.name()),
                "the store overwrites objects even when asked not to; names are unique all the same".to_owned(),
                None,
            );
        }
        examine_surroundings(&open::store_spec(configured), findings);
    }
    for Shared { what, stores } in stores::shared(&open::store_specs(&settings.stores)) {
        let id = match what {
            Fate::Device => "one-device",
            Fate::Bucket => "one-bucket",
        };
        let message = format!("stores {} are {}: losing it loses all of them", stores.join(", "), what.place());
        findings.add(id, Severity::Note, None, message, None);
    }
}

fn examine_surroundings(spec: &StoreSpec, findings: &mut Findings) {
    let Surroundings { place, writable, free_bytes } = stores::surroundings(spec);
    if !writable {
        findings.add(
            "store-not-writable",
            Severity::Critical,
            Some(&spec.name),
            format!("{place} cannot be written by this user"),
            Some("give the user who runs recoup access to it".to_owned()),
        );
    }
    if let Some(free) = free_bytes.filter(|free| *free < LITTLE_ROOM_BYTES) {
        findings.add(
            "little-room",
            Severity::Warning,
            Some(&spec.name),
            format!("{free} bytes are free on {place}"),
            Some("make room before the next full snapshot".to_owned()),
        );
    }
}
