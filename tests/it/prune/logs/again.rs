//! What was pruned is archived again: by a server that asks twice, one that was set back, one that comes back.

use super::{Logged, confirmed, now, server::segments_on};
use crate::simulation::{Machine, Process, Site, live};
use recoup::{
    core::{failure::Code, log::LogFile, target::Target},
    stores::fault::Switch,
};
use std::collections::BTreeSet;

/// Takes a snapshot that begins in this segment; says whether it counts.
fn begin_at(logged: &mut Logged, number: u64) -> bool {
    logged.history.database.source.set_log(logged.server.range(number));
    let taken = live(logged.process().backup(true)).unwrap();
    if taken.durable {
        logged.begins.push((taken.head.id, number));
    } else {
        let told = "which is needed from there on, is not there or condemned";
        assert!(
            taken.behind.len() == 3 && taken.behind.iter().all(|(_, why)| why.contains(told)),
            "{:?}",
            taken.behind
        );
    }
    logged.history.machine.clock.advance_seconds(3600);
    taken.durable
}

/// A server asks again for what it has archived. It is told that this is done only where it is.
#[test]
fn what_was_acknowledged_before_is_stored_anew_where_it_was_pruned() {
    let logged = Logged::new(3, 2);
    assert_eq!(logged.server.push_again(&logged.process(), 2).unwrap().files, []);
    // A plan condemns it: what the stores hold is as good as gone.
    logged.prune(1);
    let process = logged.process();
    let stored = logged.server.push_again(&process, 2).unwrap().files;
    assert_eq!(stored, [LogFile::Segment(logged.server.name(2))]);
    assert_eq!(logged.server.push_again(&process, 2).unwrap().files, [], "it is there now");
    assert_eq!(logged.server.push_again(&process, 6).unwrap().files, [], "no plan reaches so far");
    // The second look has found that: a snapshot may be under way that begins there.
    let pruned = logged.prune(1);
    assert_eq!((pruned.pruned_log.len(), pruned.dropped_log.len()), (0, 1), "{}", pruned.message);
    for _ in 0..2 {
        logged.prune(1);
    }
    assert_eq!(logged.on_stores(), [(); 3].map(|()| [5, 6].into()));
    let stored = logged.server.push_again(&process, 2).unwrap().files;
    assert_eq!(stored.len(), 1);
    assert_eq!(logged.on_stores(), [(); 3].map(|()| [2, 5, 6].into()));
    // Nothing is said to be done that the stores cannot be asked about.
    process.faults.iter().for_each(|faults| faults.switch(Switch::Down));
    assert_eq!(logged.server.push_again(&process, 6).unwrap_err().code, Code::Store);
}

/// What lies where a standby begins is there again, and what leads on from there is not.
#[test]
fn a_snapshot_over_a_hole_that_a_prune_has_made_counts_for_nothing() {
    let mut logged = Logged::new(3, 2);
    live(logged.process().keeping(1).prune(now())).unwrap();
    assert_eq!(logged.on_stores()[0], [5, 6].into());
    let good = logged.ids()[2];
    for number in [2, 3] {
        logged.server.push_again(&logged.process(), number).unwrap();
        assert!(!begin_at(&mut logged, 2), "4 is gone");
        let pruned = live(logged.process().keeping(1).prune(confirmed())).unwrap();
        assert!(!pruned.condemned.contains(&good) && !pruned.pruned.contains(&good), "{}", pruned.message);
    }
    // A name is nothing that a replay goes on with, and one store is not enough.
    let planted = |logged: &Logged, ending: &str| {
        let file = LogFile::Segment(logged.server.name(4)).key();
        format!("sources/ledger/log/{}/{file}-aaaaaaaaaaaaaaaa.{ending}", logged.server.history_id().key())
    };
    for ending in ["age", "json"] {
        (0..3).for_each(|store| logged.history.site.put(store, &planted(&logged, ending), b"rubbish".to_vec()));
    }
    assert!(!begin_at(&mut logged, 2), "nobody has signed it");
    (0..3).for_each(|store| {
        ["age", "json"].iter().for_each(|ending| logged.history.site.remove(store, &planted(&logged, ending)));
    });
    // What is there again must be there all along.
    for number in [2, 3, 4] {
        logged.server.push_again(&logged.process(), number).unwrap();
    }
    assert!(begin_at(&mut logged, 2));
    logged.prune(1);
    logged.prune(1);
    assert!((2..7).all(|number| logged.on_stores()[0].contains(&number)), "the newest one begins there");
    let at = logged.begins.len() - 1;
    logged.expect_moments(at);
}

/// The same with the record of the prune: what too late a snapshot lacks may go after it was committed.
#[test]
fn what_came_too_late_pushes_out_nothing_that_can_be_brought_back() {
    let mut logged = Logged::new(3, 2);
    live(logged.process().keeping(1).prune(now())).unwrap();
    for number in [2, 3, 4] {
        logged.server.push_again(&logged.process(), number).unwrap();
    }
    assert!(begin_at(&mut logged, 2));
    let (late, _) = logged.begins.pop().unwrap();
    // As if it had been committed without them: by a host that had not heard of the plan.
    let (site, name) = (&logged.history.site, LogFile::Segment(logged.server.name(4)).key());
    for store in 0..3 {
        let of_it: Vec<String> = site.objects(store).into_keys().filter(|key| key.contains(&name)).collect();
        assert_eq!(of_it.len(), 2);
        of_it.iter().for_each(|key| site.remove(store, key));
    }
    let good = logged.ids()[2];
    for _ in 0..3 {
        let pruned = live(logged.process().keeping(1).prune(confirmed())).unwrap();
        assert!(!pruned.condemned.contains(&good), "{late} is of no use: {}", pruned.message);
    }
    logged.expect_moments(2);
}

/// Nothing is left that could tell whether what it writes is the same.
#[test]
fn a_server_that_was_set_back_is_not_mixed_with_what_came_after() {
    let mut logged = Logged::new(3, 2);
    live(logged.process().keeping(1).prune(now())).unwrap();
    let before = logged.on_stores();
    assert_eq!(before[0], [5, 6].into());
    let mut back = logged.server.fork();
    back.set_back(2);
    // This host has a note of it; another has none.
    let refused = back.push_next(&logged.process()).unwrap_err();
    assert_eq!((refused.code, refused.message.contains("with other content")), (Code::Refused, true), "{refused}");
    let other = Machine::new(1, "another");
    let of_other = |site: &Site| Process::new(site, &other, &logged.history.database);
    let refused = back.push_next(&of_other(&logged.history.site)).unwrap_err();
    assert!(refused.message.contains("lies before what was pruned of its timeline"), "{refused}");
    assert!(refused.cause.unwrap().contains(&logged.server.name(5).to_string()));
    let next = refused.next_step.unwrap();
    assert!(next.contains("archive_mode = on") && next.contains("begin a new timeline"), "{next}");
    assert_eq!(logged.on_stores(), before);
    // So it gets on: with a timeline of its own, whose snapshots count from the first one on.
    back.history(2);
    back.timeline = 2;
    back.push(&logged.process(), "00000002.history").unwrap();
    for _ in 0..2 {
        back.push_next(&of_other(&logged.history.site)).unwrap();
    }
    logged.server = back;
    assert!(begin_at(&mut logged, 2));
    for _ in 0..2 {
        logged.prune(1);
    }
    let id = logged.begins.last().unwrap().0;
    assert_eq!(live(logged.process().restore(Target::SnapshotId(id))).unwrap().0.snapshot, id);
    logged.expect_level();
}

/// The log of a former system is gone as a whole, and the server takes over again.
#[test]
fn a_server_that_comes_back_after_all_of_it_was_pruned_is_as_good_as_any() {
    let mut logged = Logged::new(2, 2);
    let former = logged.server.fork();
    logged.server = logged.server.made_anew(&logged.process());
    logged.take();
    logged.go_on(1);
    let pruned = live(logged.process().keeping(1).prune(now())).unwrap();
    assert!(pruned.pruned_log.iter().any(|log| log.what == "all"), "{pruned:?}");
    assert_eq!(segments_on(&logged.history.site, 0, &former), BTreeSet::new());

    // It goes on where it was.
    let mut ahead = logged.fork("ahead");
    ahead.server = former.fork();
    ahead.server.is_opened(&ahead.process());
    ahead.go_on(1);
    assert!(begin_at(&mut ahead, 5));
    ahead.go_on(1);
    for _ in 0..3 {
        live(ahead.process().keeping(1).prune(confirmed())).unwrap();
    }
    let at = ahead.begins.len() - 1;
    ahead.expect_moments(at);
    ahead.expect_level();

    // It was set back: its snapshots count once all is there again, up to where it was.
    logged.server = former;
    logged.server.set_back(2);
    logged.server.is_opened(&logged.process());
    logged.go_on(1);
    assert!(!begin_at(&mut logged, 2));
    logged.go_on(1);
    assert!(!begin_at(&mut logged, 2));
    logged.go_on(1);
    assert!(begin_at(&mut logged, 2), "there is no hole");
    logged.go_on(1);
    let at = logged.begins.len() - 1;
    logged.expect_moments(at);
}
