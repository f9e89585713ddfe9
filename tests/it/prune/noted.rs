//! A log whose alteration was found by a run that died before the hold was on record.

use super::confirmed;
use crate::simulation::{Machine, Process, Site, live, source_name};
use recoup::{
    core::{
        failure::{Code, Failure},
        id::SnapshotId,
        result::PrunedSource,
    },
    ops::{altered, prune::PruneRequest},
    sources::log::{Log, Rules},
};
use std::{fs, path::Path, sync::Arc, time::Duration};

fn prune(process: &Process, request: PruneRequest) -> Result<PrunedSource, Failure> {
    live(process.prune(PruneRequest { now: true, ..request }))
}

#[test]
fn both_versions_of_a_log_outlast_the_run_that_found_it_altered() {
    let (site, machine) = (Site::new(3), Machine::new(0, "noted"));
    let directory = tempfile::tempdir().unwrap();
    let rules = Rules { expire_after: None, reread_every: Duration::from_secs(60) };
    let of = |machine: &Machine| {
        let log = Log::new(directory.path(), rules, machine.world.clone());
        Process::protecting(&site, machine, Arc::new(log)).keeping(1)
    };
    let process = || of(&machine);
    let take = |content: &str| -> SnapshotId {
        fs::write(Path::new(directory.path()).join("app.log"), content).unwrap();
        machine.clock.advance_seconds(3600);
        live(process().backup(false)).unwrap().head.id
    };
    let before = take("one\n");
    let since = take("one\ntwo\n");
    let found_in = take("one\nsix\n");
    let after = take("one\nsix\nten\n");
    take("one\nsix\nten\nsum\n");
    // No run has held anything yet, and another host knows of it from the snapshot alone.
    let other = Machine::new(1, "other");
    other.clock.advance_seconds(5 * 3600);
    let pruned = prune(&of(&other), confirmed()).unwrap();
    assert_eq!(pruned.pruned, [before, after]);
    let pruned = prune(&process(), confirmed()).unwrap();
    assert_eq!(pruned.pruned, []);
    let refused = prune(&process(), PruneRequest { forget: Some(since), ..confirmed() }).unwrap_err();
    assert!(refused.code == Code::Refused && refused.to_string().contains("held"), "{refused}");
    // The next backup holds both, and that is on record everywhere.
    let next = || {
        let process = process();
        let recorder = process.recorder();
        let answer = altered::answer(&process.host, &recorder, &source_name());
        live(recorder.ship());
        (process, answer)
    };
    // It dies once that has happened, and the one after it gives the alarm that nobody has had.
    for _ in 0..2 {
        let (_, answer) = next();
        assert!(answer.failure.is_some() && answer.notes.len() == 1, "{:?}", answer.notes);
    }
    altered::told(&next().0.host, &source_name());
    assert!(next().1.failure.is_none());
    assert_eq!(prune(&process(), confirmed()).unwrap().pruned, []);
    for id in [since, found_in] {
        assert!((0..3).all(|store| site.committed(store).contains(&id)), "{id}");
    }
    // What is released goes.
    let view = live(recoup::ops::evidence::read_control(&process().host.repository, None));
    let holds: Vec<_> = view.state.holds().map(|(hold, _)| hold).collect();
    assert_eq!(holds.len(), 1);
    live(process().release(holds[0])).unwrap();
    assert_eq!(prune(&of(&other), confirmed()).unwrap().pruned, [since, found_in]);
}
