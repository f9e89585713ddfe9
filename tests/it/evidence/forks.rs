//! Chains that two state directories write: no branch hides what the other one says.

use crate::simulation::{Machine, Process, Site, content::Database, live, source_name};
use recoup::{
    core::{
        evidence::{Action, Control, Draft, HoldCause, HoldId, Subject, Verdict},
        result::Status,
    },
    ops::evidence::{self, ControlView, Lost, Recorded, Started, journal::Journal},
    stores::fault::Switch,
};

/// A host and another one over the same stores.
struct Place {
    site: Site,
    database: Database,
    host: Machine,
    other: Machine,
}

impl Place {
    fn new() -> Self {
        let [host, other] = [0, 1].map(|number| Machine::new(number, "forks"));
        Place { site: Site::new(3), database: Database::new(512), host, other }
    }

    /// A process that some stores do not answer.
    fn without(&self, machine: &Machine, down: &[usize]) -> Process {
        let process = Process::new(&self.site, machine, &self.database);
        down.iter().for_each(|at| process.faults[*at].switch(Switch::Down));
        process
    }

    fn read(&self, machine: &Machine, down: &[usize]) -> ControlView {
        let host = self.without(machine, down).host;
        live(evidence::read_control(&host.repository, Some(&host.state_dir)))
    }
}

fn record(process: &Process, control: Option<Control>) -> Recorded {
    process.record(Action::Hold, control)
}

fn hold() -> (HoldId, Option<Control>) {
    let (hold, source) = ("hhhhhhhhhhhhhhhh".parse().unwrap(), source_name());
    (hold, Some(Control::HoldAdded { hold, source, snapshots: Vec::new(), cause: HoldCause::Operator }))
}

/// Nothing that is refused lies where it may hide something.
#[track_caller]
fn may_be_pruned_by(view: &ControlView) {
    let head = |writer| view.state.heads.get(writer).map_or(0, |head| head.number);
    assert!(view.refused.iter().all(|refused| refused.number <= head(&refused.writer)), "{:?}", view.refused);
    assert_eq!(view.unshown(), []);
}

#[test]
fn what_one_store_alone_showed_hides_no_hold_that_more_have() {
    // Whether the hold takes the number that was read before, or the next one.
    for before in [0, 1] {
        let place = Place::new();
        record(&place.without(&place.host, &[]), None);
        let saved = place.host.save_state();
        record(&place.without(&place.host, &[1, 2]), None);
        place.read(&place.other, &[1, 2]);
        place.host.roll_back_state(&saved);
        let set_back = place.without(&place.host, &[0]);
        for _ in 0..before {
            record(&set_back, None);
        }
        let (id, control) = hold();
        record(&set_back, control);
        for _ in 0..2 {
            let view = place.read(&place.other, &[]);
            assert!(view.state.hold(id).is_some(), "{before}: {:?}", view.refused);
            may_be_pruned_by(&view);
        }
    }
}

#[test]
fn what_follows_another_record_than_the_one_that_was_read_is_read_from_the_beginning() {
    let place = Place::new();
    record(&place.without(&place.host, &[]), None);
    let saved = place.host.save_state();
    let gone = record(&place.without(&place.host, &[]), None);
    place.read(&place.other, &[]);
    // All stores are set back, and the host.
    (0..3).for_each(|store| place.site.remove_record(store, gone.writer, gone.head.number));
    place.host.roll_back_state(&saved);
    let (id, control) = hold();
    record(&place.without(&place.host, &[]), None);
    record(&place.without(&place.host, &[]), control);
    let view = place.read(&place.other, &[]);
    assert!(view.state.hold(id).is_some(), "{:?}", view.refused);
    may_be_pruned_by(&view);
}

/// Begins a drill on a chain whose next number another state directory has taken on all stores but `free`.
fn begin_on_a_fork(place: &Place, free: &[usize]) -> Started {
    record(&place.without(&place.host, &[]), None);
    record(&place.without(&place.host.fork("fork"), free), None);
    let process = place.without(&place.host, &[]);
    let recorder = process.recorder();
    let subjects = vec![Subject::new(source_name(), Verdict::Pending)];
    let draft = Draft { subjects, ..Draft::new(Action::Drill, Verdict::Pending, process.host.world.now()) };
    let started = recorder.start(draft, None).unwrap();
    assert!(live(recorder.ship()).forked);
    started
}

#[test]
fn an_end_never_closes_a_number_of_another_chain() {
    let free: [&[usize]; 2] = [&[1, 2], &[2]];
    for (free, ends) in free.into_iter().flat_map(|free| [(free, true), (free, false)]) {
        let place = Place::new();
        let started = begin_on_a_fork(&place, free);
        let start = started.recorded.clone();
        let process = place.without(&place.host, &[]);
        let recorder = process.recorder();
        let verdict = if ends { Verdict::Passed } else { Verdict::Aborted };
        if ends {
            let ended = recorder.end(started, Draft::new(Action::Drill, verdict, process.host.world.now())).unwrap();
            // Where enough stores have its start, it belongs there.
            assert_eq!(ended.writer == start.writer, free.len() == 2);
        } else {
            drop(started);
            assert_eq!(recorder.close_dead().unwrap().len(), 1);
        }
        live(recorder.ship());
        let next = record(&process, None);
        assert_ne!(next.writer, start.writer, "the fork goes on");
        let view = place.read(&place.other, &[]);
        may_be_pruned_by(&view);
        let source = source_name();
        let drills: Vec<_> = view.state.drills_of(&source).filter(|drill| drill.verdict == verdict).collect();
        assert!(matches!(&drills[..], [drill] if drill.end.is_some()), "{free:?} {ends}: {drills:?}");
        let open = view.state.drills_of(&source).filter(|drill| drill.end.is_none()).count();
        assert_eq!(open, usize::from(free.len() == 1), "{free:?} {ends}");
    }
}

#[test]
fn what_a_dying_process_has_not_said_again_the_next_one_says() {
    let place = Place::new();
    // Somebody else's record is lost.
    let lost = record(&place.without(&place.other, &[]), None);
    let last = record(&place.without(&place.other, &[]), None);
    for (store, ending) in (0..3).flat_map(|store| ["json", "sig", "age"].map(|ending| (store, ending))) {
        place.site.remove(store, &format!("evidence/{}/{:010}.{ending}", lost.writer, lost.head.number));
    }
    let down = place.without(&place.host, &[0, 1, 2]);
    let (recorder, now) = (down.recorder(), down.host.world.now());
    let (id, control) = hold();
    let held = recorder.record(Draft { control, ..Draft::new(Action::Hold, Verdict::Passed, now) }).unwrap();
    let (writer, first) = (lost.writer, lost.head.number);
    let acknowledged = Draft {
        control: Some(Control::RecordsLost { writer, first, last: first }),
        seen: Some(recoup::core::evidence::SeenHead { writer, number: last.head.number, sha256: last.head.sha256 }),
        ..Draft::new(Action::Acknowledge, Verdict::Passed, now)
    };
    let acknowledged = recorder.record(acknowledged).unwrap();
    // It dies when it has given up the chain.
    let journal = Journal::new(&down.host.state_dir, down.host.repository.id);
    let unheard = [held.head.number, acknowledged.head.number].into();
    journal.retire(&down.host.world, held.writer, &unheard).unwrap();
    assert!(place.read(&place.host, &[]).state.hold(id).is_some(), "this host honors it");
    // Nor is it forgotten when the chain is given up once more.
    let given_up = journal.chain().unwrap().writer;
    journal.retire(&down.host.world, given_up, &[].into()).unwrap();
    let next = record(&place.without(&place.host, &[]), None);
    assert!(next.writer != held.writer && journal.unsaid().is_empty());
    let fresh = Machine::new(1, "fresh");
    let view = place.read(&fresh, &[]);
    assert!(view.state.hold(id).is_some() && view.lost.contains(writer, first), "{:?}", view.refused);
    may_be_pruned_by(&view);
    assert_eq!(live(place.without(&place.host, &[]).evidence()).status, Status::Ok);
}

#[test]
fn behind_a_record_that_is_lost_and_has_another_in_its_place_there_is_a_way_on() {
    let place = Place::new();
    record(&place.without(&place.host, &[]), None);
    let saved = place.host.save_state();
    let stray = record(&place.without(&place.host, &[1, 2]), None);
    place.host.roll_back_state(&saved);
    record(&place.without(&place.host, &[0]), None);
    let (id, control) = hold();
    let held = record(&place.without(&place.host, &[0]), control);
    let remove = |store: usize| {
        for ending in ["json", "sig", "age"] {
            place.site.remove(store, &format!("evidence/{}/{:010}.{ending}", stray.writer, stray.head.number));
        }
    };
    (1..3).for_each(remove);
    let view = place.read(&place.other, &[]);
    assert!(view.refused.iter().any(|refused| refused.number == held.head.number) && view.state.hold(id).is_none());
    let process = place.without(&place.other, &[]);
    let acknowledge = |number: u64| {
        let lost = Lost { writer: held.writer, first: number, last: number };
        live(evidence::acknowledge(&process.host.repository, &process.recorder(), &process.host.world, lost))
    };
    let next_step = acknowledge(held.head.number).unwrap_err().next_step.unwrap();
    let command = format!("recoup evidence acknowledge {}/{} ", stray.writer, stray.head.number);
    assert!(next_step.contains(&command), "{next_step}");
    remove(0);
    acknowledge(stray.head.number).unwrap();
    let view = place.read(&place.other, &[]);
    assert!(view.state.hold(id).is_some(), "{:?}", view.refused);
    may_be_pruned_by(&view);
}
