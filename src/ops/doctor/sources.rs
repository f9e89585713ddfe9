//! The sources, and the clock that their snapshots are dated by.

use super::Findings;
use crate::{
    config::{Settings, SourceSettings},
    core::result::Severity,
    ops::{backup, clock, open},
    sources::{log, postgres},
    world::World,
};

pub(super) async fn examine(settings: &Settings, world: &World, findings: &mut Findings) {
    let host = open::open_host(settings, world).ok();
    let repository = open::open_repository(settings).ok();
    for source in &settings.sources {
        probe(settings, source, world, findings).await;
        if let Some(protected) = host.as_ref().and_then(|host| open::open_source(settings, host, &source.name).ok())
            && let Some(Err(failure)) = host.as_ref().map(|host| backup::check_own_key(host, &protected))
        {
            findings.failure("signer-not-trusted", None, &failure);
        }
        let Some(repository) = &repository else { continue };
        let catalogue = repository.catalogue(&source.name).await;
        if let Some(suspicion) = clock::suspicion(world.now(), &catalogue) {
            let next_step = "set the clock (timedatectl), or find out whose clock was wrong".to_owned();
            findings.add("clock-suspect", Severity::Warning, None, suspicion, Some(next_step));
        }
    }
}

/// Looks whether the source could be read. What a crashed writer left is reported and stays as it is.
async fn probe(settings: &Settings, source: &SourceSettings, world: &World, findings: &mut Findings) {
    let scratch_dir = settings.host.state_dir.join("sources").join(source.name.as_str()).join("scratch");
    let opened = open::refuse_own_files(source, &settings.stores, &[&settings.host.state_dir])
        .and_then(|()| open::open_database(source, world, scratch_dir));
    let opened = match opened {
        Ok(opened) => opened,
        Err(failure) => return findings.failure("source", None, &failure),
    };
    match tokio::task::spawn_blocking(move || opened.probe()).await {
        Ok(Ok(remarks)) => {
            for remark in remarks {
                let message = format!("source {}: {remark}", source.name);
                if source.kind == log::KIND {
                    findings.add("left-out", Severity::Note, None, message, None);
                    continue;
                }
                if source.kind == postgres::KIND {
                    findings.add("server", Severity::Warning, None, message, None);
                    continue;
                }
                let next_step = "find out why the writer ended; opening the database with the application recovers it";
                findings.add("crashed-writer", Severity::Warning, None, message, Some(next_step.to_owned()));
            }
        }
        Ok(Err(failure)) => {
            let message = format!("source {}: {failure}", source.name);
            findings.add("source-unfit", Severity::Critical, None, message, failure.next_step.clone());
        }
        Err(error) => findings.add("source-unfit", Severity::Critical, None, error.to_string(), None),
    }
}
