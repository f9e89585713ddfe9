//! Snapshots from the future: somebody has to look once at each, and nothing goes sooner for it.

use super::*;

/// Takes a snapshot by a clock that is so many hours ahead, and goes on by the right one.
fn take_ahead(history: &mut History, hours: i64) -> SnapshotId {
    history.machine.clock.advance_seconds(hours * 3600);
    let id = history.take(true);
    history.machine.clock.advance_seconds(-hours * 3600);
    id
}

fn prune(history: &History, confirmed: bool) -> Result<PrunedSource, String> {
    let request = PruneRequest { confirmed, ..PruneRequest::default() };
    let pruned = live(history.process().keeping(4).prune(request));
    pruned.map_err(|failure| {
        assert_eq!(failure.code, Code::Refused, "{failure}");
        failure.cause.unwrap()
    })
}

#[test]
fn what_was_confirmed_is_not_asked_again() {
    let mut history = History::new(3);
    let ahead = take_ahead(&mut history, 500_000);
    let refused = prune(&history, false).unwrap_err();
    assert!(refused.contains(&format!("snapshot {ahead}")) && refused.contains("lies in the future"), "{refused}");
    let confirmed = prune(&history, true).unwrap();
    assert!(confirmed.message.contains("what was confirmed") && confirmed.pruned.is_empty(), "{}", confirmed.message);
    // Neither by the next run, nor once the plan that says so is executed, nor on another host.
    let other = Machine::new(1, "other");
    for _ in 0..3 {
        history.take(true);
        prune(&history, false).unwrap();
        other.clock.advance_seconds(8 * 3600);
        let process = Process::new(&history.site, &other, &history.database).keeping(4);
        live(process.prune(PruneRequest::default())).unwrap();
    }
    history.restore_all(&history.listed());
    history.verify_is(Status::Ok);
    // Another one is another matter.
    let second = take_ahead(&mut history, 300_000);
    let refused = prune(&history, false).unwrap_err();
    assert!(refused.contains(&format!("snapshot {second}")), "{refused}");
    prune(&history, true).unwrap();
    prune(&history, false).unwrap();
    // Nothing before them went because of their time.
    assert!(history.listed().len() >= 4 && history.listed().contains(&second));
    history.restore_all(&history.listed());
    history.verify_is(Status::Ok);
}

#[test]
fn a_plan_that_is_dropped_confirms_nothing() {
    let mut history = History::new(3);
    let ahead = take_ahead(&mut history, 500_000);
    let plan = prune(&history, true).unwrap().plan;
    assert!(plan.is_some());
    let cancel = PruneRequest { cancel: plan, ..PruneRequest::default() };
    live(history.process().keeping(4).prune(cancel)).unwrap();
    assert!(prune(&history, false).unwrap_err().contains(&ahead.to_string()));
}
