//! What was taken out of a plan again may have been deleted by then, and is trusted no more.

use super::{Logged, confirmed, moment, now};
use crate::simulation::{Machine, Process, live};
use recoup::{
    core::{log::LogFile, target::Target},
    ops::prune::PruneRequest,
};

/// Store c was cut off before it had deleted all of the log. A snapshot that began behind the hole is held, or shown by a
/// new store: what is left on c is taken out of the plan, and the hole stays a hole.
fn a_hole_is_remembered(is_held: bool) {
    let logged = Logged::new(4, 2);
    let old = logged.history.site.objects(2);
    live(logged.process().keeping(1).prune(now())).unwrap();
    assert_eq!(logged.on_stores()[0], [7, 8].into());
    let good = logged.ids()[3];
    let left = LogFile::Segment(logged.server.name(6)).key();
    for (key, bytes) in old.into_iter().filter(|(key, _)| key.contains(&left)) {
        logged.history.site.put(2, &key, bytes.to_vec());
    }
    logged.server.push_again(&logged.process(), 3).unwrap();
    logged.history.database.source.set_log(logged.server.range(3));
    let taken = live(logged.process().backup(true)).unwrap();
    assert!(!taken.durable);
    logged.history.machine.clock.advance_seconds(3600);
    if is_held {
        live(logged.process().hold(taken.head.id)).unwrap();
    } else {
        logged.history.site.empty(1);
        live(logged.process().copy()).unwrap();
        assert!(logged.history.site.committed(1).contains(&taken.head.id));
    }
    let pruner = Machine::new(1, "pruner");
    pruner.clock.advance_seconds(20 * 3600);
    for _ in 0..4 {
        let process = Process::new(&logged.history.site, &pruner, &logged.history.database);
        let pruned = live(process.keeping(1).prune(confirmed())).unwrap();
        assert!(!pruned.condemned.contains(&good) && !pruned.pruned.contains(&good), "{}", pruned.message);
    }
    let (restored, _) = live(logged.process().restore(Target::Time(moment(7, 1)))).unwrap();
    assert_eq!(restored.snapshot, good);
}

#[test]
fn a_hold_over_a_hole_pushes_out_nothing() {
    a_hole_is_remembered(true);
}

#[test]
fn a_new_store_that_shows_a_snapshot_over_a_hole_pushes_out_nothing() {
    a_hole_is_remembered(false);
}

/// A plan that was cancelled has deleted nothing, but nobody can be sure of that: what is asked for again is stored again,
/// and a standby that lags behind has its snapshot.
#[test]
fn after_a_cancelled_plan_log_is_stored_again() {
    let logged = Logged::new(4, 2);
    let plan = logged.prune(1).plan;
    let cancel = PruneRequest { cancel: plan, ..confirmed() };
    live(logged.process().keeping(10).prune(cancel)).unwrap();
    for number in 3..7 {
        let pushed = logged.server.push_again(&logged.process(), number).unwrap();
        assert_eq!(pushed.files, [LogFile::Segment(logged.server.name(number))]);
    }
    logged.history.database.source.set_log(logged.server.range(3));
    let taken = live(logged.process().backup(true)).unwrap();
    assert!(taken.durable, "{:?}", taken.behind);
}
