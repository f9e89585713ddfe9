//! The start is on enough stores before anything of the snapshot is fetched.

use crate::support::TestRepository;
use recoup::{
    config::IdentityInput,
    core::result::Verdict,
    ops::{
        cancel::Cancellation,
        drill::{self, DrillRequest, Drilled},
        host::Host,
        progress::NoProgress,
    },
    stores::{
        Patience,
        fault::{Faults, Operation, Operations, Switch},
    },
};
use std::{fs, time::Duration};

/// A repository whose stores count what is asked of them, with one snapshot.
pub(super) struct Watched {
    repository: TestRepository,
    pub(super) host: Host,
    pub(super) operations: Operations,
    faults: Vec<Faults>,
}

impl Watched {
    pub(super) fn new() -> Self {
        let repository = TestRepository::new();
        repository
            .sqlite("ledger")
            .execute_batch("create table posting (amount); insert into posting values (7)")
            .unwrap();
        repository.backup();
        let mut host = repository.host();
        let operations = Operations::new();
        let mut faults = Vec::new();
        host.repository.stores = host
            .repository
            .stores
            .into_iter()
            .map(|store| {
                let fault = Faults::new(store.name(), &operations);
                faults.push(fault.clone());
                let patience = Patience { attempts: 1, ..Patience::default() };
                store.wrapped(|inner| fault.wrap(inner)).with_patience(patience)
            })
            .collect();
        Watched { repository, host, operations, faults }
    }

    pub(super) fn drill(&self) -> Result<Drilled, recoup::core::failure::Failure> {
        let request = DrillRequest {
            source: "ledger".parse().unwrap(),
            disaster_at: None,
            scratch: None,
            to: None,
            keep: false,
            store: None,
            identity: IdentityInput::File(self.repository.identity()),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let settings = self.repository.settings();
        runtime.block_on(drill::drill(&self.host, &settings, &request, &NoProgress, &Cancellation::new()))
    }
}

/// What is sealed: nobody learns from anything else whether a snapshot restores.
pub(super) fn is_content(operation: &&Operation) -> bool {
    operation.key.starts_with("sources/") && operation.key.ends_with(".age")
}

#[test]
fn nothing_is_fetched_before_the_start_is_on_enough_stores() {
    let watched = Watched::new();
    let drilled = watched.drill().unwrap();
    assert_eq!(drilled.result.verdict, Verdict::Pass, "{drilled:?}");
    let log = watched.operations.log();
    let start = format!("{:010}.json", drilled.result.evidence.start);
    let stored: Vec<u64> = log
        .iter()
        .filter(|operation| operation.verb != "get" && operation.key.ends_with(&start))
        .map(|operation| operation.number)
        .collect();
    let first = log.iter().find(is_content).expect("a drill fetches what is sealed").number;
    let before = stored.iter().filter(|number| **number < first).count();
    assert!(before >= 2, "{before} of {stored:?} before {first}: {log:?}");
}

#[test]
fn without_enough_stores_nothing_is_fetched() {
    let watched = Watched::new();
    for fault in &watched.faults[1..] {
        fault.switch(Switch::Down);
    }
    let failure = watched.drill().unwrap_err();
    assert!(failure.message.contains("the start of the drill is not on enough stores"), "{failure:?}");
    assert_eq!(watched.operations.log().iter().filter(is_content).count(), 0);
    let state = watched.repository.path("host/state");
    assert!(!state.join("scratch").exists());
    assert_eq!(fs::read_dir(state.join("evidence/running")).unwrap().count(), 0, "its end is recorded");
}

#[test]
fn what_takes_too_long_misses_the_objective() {
    let watched = Watched::new();
    fs::write(watched.repository.path("host/policies/default.toml"), "rto = \"1s\"\n").unwrap();
    for fault in &watched.faults {
        fault.switch(Switch::Slow(Duration::from_millis(150)));
    }
    let drilled = watched.drill().unwrap();
    let result = &drilled.result;
    assert_eq!(result.verdict, Verdict::FailObjective, "{result:?}");
    assert!(result.rto_seconds.unwrap() > 1.0 && result.checks.len() >= 4, "{result:?}");
}
