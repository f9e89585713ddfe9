//! A prune that takes parts of the log with it dies after operation N on its stores, for every N. What is kept comes
//! back to every moment, nothing looks committed that cannot be read, and the next runs finish what was begun.

use super::{Logged, confirmed, server::run};
use crate::simulation::{audit::Audit, live, source_name};
use recoup::{
    core::{failure::Code, result::Problem},
    ops::{archive, prune::PruneRequest},
    repository::fetch::Detours,
};

/// Whether the run that dies is the one that executes a plan of an earlier one, or does both.
fn die_everywhere(at_once: bool, within: bool) {
    let mut prepared = Logged::new(4, 2);
    let process = prepared.process();
    prepared.server.lay_pieces(&process, 2, 2);
    prepared.server.lay_pieces(&process, 8, 2);
    prepared.server.push_together(&process, 3);
    if !at_once {
        prepared.prune(2);
    }
    let mut seen = None;
    for last in 0..5000 {
        let crashed = prepared.fork("crashed");
        let process = crashed.process().keeping(2);
        if within {
            process.operations.stop_within(last + 1)
        } else {
            process.operations.stop_after(last)
        }
        let _ = live(process.prune(PruneRequest { now: at_once, ..confirmed() }));
        let stopped = process.operations.stopped();
        let left: Vec<Vec<String>> =
            (0..3).map(|store| crashed.history.site.objects(store).into_keys().collect()).collect();
        if !stopped || seen.as_ref() != Some(&left) {
            recover(crashed, &format!("{at_once}, dead after {last}, {within}"));
        }
        seen = Some(left);
        if !stopped {
            assert!(last > 10);
            return;
        }
    }
    panic!("it never ends");
}

fn recover(mut crashed: Logged, context: &str) {
    let mut audit = Audit::default();
    assert_eq!(audit.faults(&crashed.history.site), Vec::<String>::new(), "{context}");
    let verified = live(crashed.process().verify()).unwrap();
    for finding in &verified.findings {
        assert_eq!(finding.problem, Problem::Behind, "{context}: {finding:?}");
        assert!(finding.object.as_ref().is_some_and(|object| object.contains("/prunes/")), "{context}: {finding:?}");
    }
    everything_that_is_committed_opens(&crashed, context);
    crashed.expect_moments(2);
    crashed.expect_moments(3);
    crashed.take();
    for _ in 0..2 {
        let pruned = live(crashed.process().keeping(3).prune(confirmed())).unwrap();
        assert_eq!(pruned.exit_code, Code::Done, "{context}: {}", pruned.message);
    }
    assert_eq!(crashed.on_stores(), [(); 3].map(|()| (5..13).collect()), "{context}");
    let pieces = [2, 8].map(|number| crashed.server.pieces_on(&crashed.history.site, 0, number));
    assert_eq!(pieces, [0, 4], "{context}");
    assert_eq!(audit.faults(&crashed.history.site), Vec::<String>::new(), "{context}");
    crashed.expect_level();
    crashed.expect_moments(3);
}

/// Whatever a record that is believed names can be had.
fn everything_that_is_committed_opens(crashed: &Logged, context: &str) {
    let (process, source) = (crashed.process(), source_name());
    let repository = &process.host.repository;
    run(async {
        let survey = repository.survey_log(&repository.catalogue(&source).await).await;
        for held in survey.records.values() {
            let record = &held.signed.record;
            for entry in record.files.iter().filter(|entry| entry.bytes_raw == record.segment_bytes) {
                let identities = crate::simulation::keys().identities();
                let (object, detours) = (record.object(entry), Detours::default());
                let opened = archive::open_file(repository, &identities, &source, &object, &detours).await;
                assert!(opened.is_ok(), "{context}: {} {:?}", entry.file, opened.err());
                assert_eq!(detours.list().len(), 0, "{context}: {}", entry.file);
            }
        }
    });
}

#[test]
fn executing_after() {
    die_everywhere(false, false);
}

#[test]
fn executing_within() {
    die_everywhere(false, true);
}

#[test]
fn at_once_after() {
    die_everywhere(true, false);
}
