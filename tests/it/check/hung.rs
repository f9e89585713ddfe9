//! A store that hangs costs a check its patience once, and nothing else.

use crate::support::{LEDGER, TestRepository};
use recoup::{
    core::{
        result::{FindingId, StoreState},
        verdicts,
    },
    ops::check,
    stores::{
        Patience,
        fault::{Faults, Operations, Switch},
    },
    world::{Stopwatch, World},
};
use std::time::Duration;

#[test]
fn a_store_that_hangs_is_down() {
    let repository = TestRepository::new();
    repository.sqlite(LEDGER).execute_batch("create table posting (amount)").unwrap();
    repository.backup();
    let settings = repository.settings();
    let mut opened = repository.host().repository;
    let faults = Faults::new("b", &Operations::new());
    faults.switch(Switch::Hung);
    let patience = Patience { idle: Duration::from_millis(300), ..Patience::default() };
    opened.stores[1] = opened.stores[1].clone().with_patience(patience).wrapped(|inner| faults.wrap(inner));
    let sources: Vec<_> = settings.sources.iter().collect();
    let started = Stopwatch::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let facts = runtime.block_on(check::gather(&opened, &settings, &World::real(), &sources));
    // Far more than its patience, far less than what waiting without one would take.
    assert!(started.elapsed() < Duration::from_secs(30));
    let checked = verdicts::judge(&facts);
    assert!(checked.findings.iter().any(|finding| finding.id == FindingId::StoreDown), "{checked:?}");
    assert_eq!(checked.stores[1].state, StoreState::Down);
    assert!(checked.sources[0].exposure_seconds.is_some() && checked.sources[0].copies == 3, "{checked:?}");
}
