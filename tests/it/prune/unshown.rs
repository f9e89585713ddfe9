//! Records that somebody has seen, and that no store shows which answers.

use super::*;
use recoup::{
    core::evidence::Action,
    ops::{
        evidence::{self, Lost, Recorded},
        hold,
    },
    stores::fault::Switch,
};
use std::fs;

fn record(process: &Process) -> Recorded {
    process.record(Action::Copy, None)
}

#[test]
fn a_hold_that_a_store_lost_is_missed_by_who_has_seen_it() {
    let history = History::new(3);
    let (ids, other) = (history.ids(), Machine::new(1, "other"));
    other.clock.advance_seconds(24 * 3600);
    let process = |machine: &Machine, down: &[usize]| {
        let process = Process::new(&history.site, machine, &history.database).keeping(1);
        down.iter().for_each(|at| process.faults[*at].switch(Switch::Down));
        process
    };
    let read = || {
        let host = process(&other, &[]).host;
        live(evidence::read_control(&host.repository, Some(&host.state_dir)))
    };
    let prune = |down: &[usize]| live(process(&other, down).prune(confirmed())).map(|pruned| pruned.exit_code);
    live(process(&history.machine, &[2]).hold(ids[0])).unwrap();
    let (writer, head) = read().state.heads.into_iter().next().unwrap();
    record(&process(&other, &[]));
    // What few stores have, nobody has seen there: one that is silent may have it, and stops no prune.
    record(&process(&history.machine, &[0, 2]));
    read();
    record(&process(&other, &[]));
    assert_eq!(prune(&[1]).unwrap_err().code, Code::Store, "a store is silent");
    assert_eq!(prune(&[]), Ok(Code::Done));
    let list = |down: &[usize]| {
        let host = process(&other, down).host;
        live(hold::list(&host.repository, Some(&host.state_dir), None, &[])).unwrap()
    };
    assert_eq!((list(&[]).holds.len(), list(&[]).notes), (1, Vec::new()));
    let lose = |store: usize, number: u64| {
        let names = ["json", "sig", "age"].map(|ending| format!("evidence/{writer}/{number:010}.{ending}"));
        names
            .iter()
            .filter(|name| history.site.get(store, name).is_some())
            .for_each(|name| history.site.remove(store, name));
    };
    // One store is set back, another is silent, and what was read before is gone.
    lose(0, head.number);
    fs::remove_file(process(&other, &[]).host.state_dir.join("evidence/control.json")).unwrap();
    assert_eq!(prune(&[1]).unwrap_err().code, Code::Store);
    // Whoever lists the holds is told so before a prune tells it.
    let listed = list(&[1]);
    assert!(matches!(&listed.notes[..], [note] if note.starts_with("no answer from b: ")), "{listed:?}");
    assert!(listed.holds.is_empty(), "{listed:?}");
    let said = format!("evidence {writer}/{} was on more than half of the stores", head.number);
    assert_eq!(prune(&[]), Ok(Code::Done));
    assert_eq!(history.listed().first(), Some(&ids[0]));
    // It is lost for good.
    (head.number..=head.number + 1).for_each(|number| lose(1, number));
    fs::remove_file(process(&other, &[]).host.state_dir.join("evidence/control.json")).unwrap();
    let lost = Lost { writer, first: head.number, last: head.number };
    let refused = prune(&[]).unwrap_err();
    assert_eq!(refused.code, Code::Refused, "{refused}");
    assert!(refused.next_step.unwrap().contains(&format!("recoup evidence acknowledge {lost} ")));
    let listed = list(&[]);
    let way_on = format!("recoup evidence acknowledge {lost} --reason TEXT");
    assert!(matches!(&listed.notes[..], [note] if note.starts_with(&said) && note.ends_with(&way_on)), "{listed:?}");
    let host = process(&other, &[]).host;
    assert_eq!(read().missing(&host.repository, None), [lost]);
    live(evidence::acknowledge(&host.repository, &process(&other, &[]).recorder(), &host.world, lost)).unwrap();
    assert_eq!(prune(&[]), Ok(Code::Done));
    assert_eq!(list(&[]).notes, Vec::<String>::new());
}

#[test]
fn nobody_is_told_to_give_up_what_this_host_has() {
    let history = History::new(3);
    let process = || history.process().keeping(1);
    let recorded: Vec<Recorded> = (0..3).map(|_| record(&process())).collect();
    let (writer, last) = (recorded[2].writer, recorded[2].head.number);
    let host = process().host;
    // What all stores have, this host has no more, but for the newest. All of them are set back behind it.
    for number in last - 2..=last {
        let names = ["json", "sig", "age"].map(|ending| format!("evidence/{writer}/{number:010}.{ending}"));
        (0..3).for_each(|store| names.iter().for_each(|name| history.site.remove(store, name)));
    }
    drop(fs::remove_file(host.state_dir.join("evidence/control.json")));
    let refused = live(process().prune(confirmed())).unwrap_err();
    assert_eq!(refused.code, Code::Refused, "{refused}");
    let lost = Lost { writer, first: last - 2, last: last - 1 };
    let next_step = refused.next_step.unwrap();
    assert!(next_step.contains(&format!("acknowledge {lost} --reason TEXT, then recoup copy")), "{next_step}");
    let listed = live(hold::list(&host.repository, Some(&host.state_dir), None, &[])).unwrap();
    assert!(listed.notes.iter().any(|note| note.ends_with(&next_step)), "{listed:?}");
    // What it says helps.
    live(evidence::acknowledge(&host.repository, &process().recorder(), &host.world, lost)).unwrap();
    assert_eq!(live(process().prune(confirmed())).map(|pruned| pruned.exit_code), Ok(Code::Done));
    assert!(history.site.get(1, &format!("evidence/{writer}/{last:010}.json")).is_some());
}
