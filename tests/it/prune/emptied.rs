//! A store that answers and has lost what it had stands in for none that is silent.

use super::*;
use recoup::{
    ops::{hold, prune},
    stores::fault::Switch,
};

/// A process that some stores do not answer.
fn without(history: &History, machine: &Machine, down: &[usize]) -> Process {
    let process = Process::new(&history.site, machine, &history.database).keeping(1);
    down.iter().for_each(|at| process.faults[*at].switch(Switch::Down));
    process
}

#[test]
fn a_hold_on_a_silent_store_and_an_emptied_one_is_not_missed() {
    let mut history = History::new(1);
    let held = history.take(true);
    history.take(true);
    let other = Machine::new(1, "other");
    let hold = live(without(&history, &other, &[2]).hold(held)).unwrap();
    history.site.empty(1);
    // It is founded again from the one that never had the hold.
    let process = without(&history, &history.machine, &[0]);
    live(process.copy()).unwrap();
    let listed = live(hold::list(&process.host.repository, Some(&process.host.state_dir), None, &[])).unwrap();
    assert!(listed.holds.is_empty(), "{listed:?}");
    assert!(matches!(&listed.notes[..], [note] if note.starts_with("no answer from a: ")), "{listed:?}");
    for request in [confirmed(), now()] {
        let refused = live(process.prune(request)).unwrap_err();
        assert_eq!(refused.code, Code::Store, "{refused}");
        assert!(refused.to_string().contains("may be the only one that shows"), "{refused}");
    }
    // Nor is it where only the catalogue is asked.
    let process = without(&history, &history.machine, &[]);
    let prepared = live(prune::prepare(&process.host, &process.protected, now(), true)).unwrap();
    process.faults[0].switch(Switch::Down);
    let refused = live(prune::execute(&process.host, &process.protected, prepared, &recoup::ops::progress::NoProgress));
    assert_eq!(refused.unwrap_err().code, Code::Store);
    let listed = live(hold::list(&process.host.repository, Some(&process.host.state_dir), None, &[]));
    assert_eq!(listed.unwrap().notes.len(), 1);
    let process = without(&history, &history.machine, &[]);
    let pruned = live(process.prune(now())).unwrap();
    assert!(!pruned.pruned.contains(&held) && !pruned.pruned.is_empty(), "{pruned:?}");
    history.restore_all(&[held]);
    let listed = live(hold::list(&process.host.repository, Some(&process.host.state_dir), None, &[])).unwrap();
    assert_eq!((listed.holds[0].hold, listed.notes), (hold, Vec::new()));
}

#[test]
fn a_snapshot_on_a_silent_store_and_an_emptied_one_loses_nothing() {
    let mut history = History::new(1);
    let first = history.ids()[0];
    history.database.set("ledger.db", vec![7; 512 * 64]);
    let second = live(without(&history, &history.machine, &[2]).backup(false)).unwrap();
    assert_eq!(second.stores.len(), 2);
    history.taken.insert(second.head.id, history.database.files.clone());
    history.machine.clock.advance_seconds(3600);
    let lost = |name: &String| name.contains(&second.head.id.to_string());
    history.site.objects(1).into_keys().filter(lost).for_each(|name| history.site.remove(1, &name));
    let process = without(&history, &history.machine, &[0]);
    live(process.backup(true)).unwrap();
    let refused = live(process.prune(now())).unwrap_err();
    assert_eq!(refused.code, Code::Store, "{refused}");
    history.restore_all(&[first, second.head.id]);
}
