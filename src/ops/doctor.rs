//! Whether this host is set up right: configuration, keys, stores, sources, clock. Changes nothing.

use super::{host::Host, open};
use crate::{
    config::Settings,
    core::{
        failure::Failure,
        result::{DoctorFinding, DoctorResult, Severity},
    },
    repository::{catalogue::Catalogue, head::StoreStatus, recovery},
    stores::{self, Fate, Shared, StoreSpec, Surroundings},
    world::World,
};

/// A store with less than this free is worth a warning.
const LITTLE_ROOM_BYTES: u64 = 1024 * 1024 * 1024;
/// How far a snapshot may lie in the future before the clock is suspect.
const CLOCK_SLACK_SECONDS: f64 = 60.0;

/// Examines the host.
pub async fn doctor(settings: &Settings, world: &World) -> DoctorResult {
    let mut findings = Findings(Vec::new());
    for remark in settings.remarks() {
        findings.add("remark", Severity::Note, None, remark, None);
    }
    let host = match open::open_host(settings, world) {
        Ok(host) => host,
        Err(failure) => {
            findings.failure("host", None, &failure);
            return DoctorResult::of(findings.0);
        }
    };
    if host.catalogue_key.is_none() {
        findings.add(
            "no-catalogue-key",
            Severity::Warning,
            None,
            format!("there is no catalogue key {}: every snapshot is a full", settings.host.catalogue.display()),
            Some("bring it back with `recoup config rescue --catalogue`, or make a new one with age-keygen".to_owned()),
        );
    }
    if let Err(error) = crate::world::files::try_lock(&settings.host.state_dir.join("doctor.lock")) {
        findings.add(
            "state-dir",
            Severity::Critical,
            None,
            format!("the state directory cannot be written: {error}"),
            None,
        );
    }
    examine_stores(settings, &host, &mut findings).await;
    examine_sources(settings, &host, &mut findings).await;
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

async fn examine_stores(settings: &Settings, host: &Host, findings: &mut Findings) {
    for (store, configured) in host.repository.stores.iter().zip(&settings.stores) {
        let status = crate::repository::head::status(store, host.repository.id).await;
        if status != StoreStatus::Ready {
            let failure = status.failure(store.name());
            findings.failure("store-down", Some(store.name()), &failure);
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

async fn examine_sources(settings: &Settings, host: &Host, findings: &mut Findings) {
    for source in &settings.sources {
        let protected = match open::open_source(settings, host, &source.name) {
            Ok(protected) => protected,
            Err(failure) => {
                findings.failure("source", None, &failure);
                continue;
            }
        };
        if let Err(failure) = super::backup::check_own_key(host, &protected) {
            findings.failure("signer-not-trusted", None, &failure);
        }
        let opened = protected.source.clone();
        let answer = tokio::task::spawn_blocking(move || opened.open().and_then(|view| view.close())).await;
        match answer {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => {
                let message = format!("source {}: {failure}", source.name);
                findings.add("source-unfit", Severity::Critical, None, message, failure.next_step.clone());
            }
            Err(error) => findings.add("source-unfit", Severity::Critical, None, error.to_string(), None),
        }
        examine_clock(host, &host.repository.catalogue(&source.name).await, findings);
    }
}

fn examine_clock(host: &Host, catalogue: &Catalogue, findings: &mut Findings) {
    let newest = catalogue.snapshots.values().map(|committed| committed.inventory.created_at).max();
    if let Some(newest) = newest
        && newest.seconds_since(host.world.now()) > CLOCK_SLACK_SECONDS
    {
        findings.add(
            "clock-suspect",
            Severity::Warning,
            None,
            format!("snapshot of {} from {newest} lies in the future of this host's clock", catalogue.source),
            Some("set the clock (timedatectl), or find out whose clock was wrong".to_owned()),
        );
    }
}
