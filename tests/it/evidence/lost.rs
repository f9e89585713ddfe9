//! Records that stores have lost: what is brought again, what is let go, and what nobody may let go.

use crate::{
    house::{House, STORES},
    simulation::{Machine, Process, Site, content::Database, live, source_name},
    support::{Run, run},
};
use recoup::{
    core::{
        evidence::{Action, Control, Draft, HoldCause, HoldId, SeenHead, Verdict},
        failure::Code,
        result::Status,
    },
    ops::{
        evidence::{self, ControlView, Lost, Recorded, journal::Journal},
        hold as holds,
    },
    stores::fault::Switch,
};
use std::fs;

/// A site and a host on it.
struct Place {
    site: Site,
    machine: Machine,
    database: Database,
}

impl Place {
    fn new(stores: usize) -> Self {
        Place { site: Site::new(stores), machine: Machine::new(0, "lost"), database: Database::new(512) }
    }

    fn process(&self) -> Process {
        Process::new(&self.site, &self.machine, &self.database)
    }

    /// Records something, and ships it.
    fn record(&self, control: Option<Control>) -> Recorded {
        self.process().record(Action::Hold, control)
    }

    fn read(&self) -> ControlView {
        let host = self.process().host;
        live(evidence::read_control(&host.repository, Some(&host.state_dir)))
    }

    fn acknowledge(&self, lost: Lost) -> Result<(), recoup::core::failure::Failure> {
        let process = self.process();
        let (host, recorder) = (&process.host, process.recorder());
        live(evidence::acknowledge(&host.repository, &recorder, &host.world, lost)).map(drop)
    }

    /// Takes a record from every store.
    fn remove(&self, lost: Lost) {
        for (store, number) in
            (0..self.site.backends.len()).flat_map(|at| (lost.first..=lost.last).map(move |of| (at, of)))
        {
            names(lost, number).iter().for_each(|name| self.site.remove(store, name));
        }
    }
}

fn names(lost: Lost, number: u64) -> [String; 3] {
    ["json", "sig", "age"].map(|ending| format!("evidence/{}/{number:010}.{ending}", lost.writer))
}

fn hold(id: &str) -> (HoldId, Option<Control>) {
    let (hold, source) = (id.parse().unwrap(), source_name());
    (hold, Some(Control::HoldAdded { hold, source, snapshots: Vec::new(), cause: HoldCause::Operator }))
}

#[test]
fn the_tail_that_every_store_lost_is_brought_again_or_let_go() {
    let place = Place::new(1);
    let writer = place.record(None).writer;
    (3..=10).for_each(|number| assert_eq!(place.record(None).head.number, number));
    place.remove(Lost { writer, first: 7, last: 10 });
    let process = place.process();
    let own = Journal::new(&process.host.state_dir, process.host.repository.id).chain();
    let missing = |place: &Place| place.read().missing(&process.host.repository, own.as_ref());
    assert_eq!(missing(&place), [Lost { writer, first: 7, last: 10 }]);
    // The next one is not put behind a gap.
    let draft = Draft::new(Action::Backup, Verdict::Passed, process.host.world.now());
    assert_eq!(process.recorder().record(draft).unwrap().head.number, 11);
    let shipped = live(process.recorder().ship());
    let asked = format!("recoup evidence acknowledge {writer}/7-9");
    assert!(shipped.holds(7) == 0 && shipped.reasons().contains(&asked), "{}", shipped.reasons());
    // What this host still has is not lost.
    let refused = place.acknowledge(Lost { writer, first: 7, last: 10 }).unwrap_err();
    assert!(refused.code == Code::Refused && refused.to_string().contains("on this host"), "{refused}");
    place.acknowledge(Lost { writer, first: 7, last: 9 }).unwrap();
    assert_eq!(missing(&place), []);
    let verified = live(process.evidence());
    assert!(verified.status == Status::Ok && verified.notes.len() == 1, "{:?} {:?}", verified.findings, verified.notes);
    let process = place.process();
    let recorder = process.recorder();
    let draft = Draft::new(Action::Backup, Verdict::Passed, process.host.world.now());
    let number = recorder.record(draft).unwrap().head.number;
    assert_eq!((live(recorder.ship()).holds(number), number), (1, 13));
}

#[test]
fn a_store_that_lost_its_newest_gets_it_again_and_that_is_said() {
    let place = Place::new(2);
    let newest = place.record(None);
    names(Lost { writer: newest.writer, first: 1, last: 1 }, newest.head.number)
        .iter()
        .for_each(|name| place.site.remove(1, name));
    let process = place.process();
    let recorder = process.recorder();
    let next = recorder.record(Draft::new(Action::Backup, Verdict::Passed, process.host.world.now())).unwrap();
    let shipped = live(recorder.ship());
    assert_eq!(shipped.holds(next.head.number), 2, "{}", shipped.reasons());
    let notes = recorder.take_notes();
    assert!(matches!(&notes[..], [note] if note.contains("store b had lost evidence")), "{notes:?}");
    assert_eq!(live(process.evidence()).status, Status::Ok);
}

#[test]
fn nobody_acknowledges_what_is_not_written_yet() {
    let place = Place::new(3);
    let writer = place.record(None).writer;
    // Another signer, who has seen all there is.
    let other =
        Place { site: Site::over(place.site.backends.clone()), machine: Machine::new(1, "other"), ..Place::new(0) };
    other.read();
    other.record(Some(Control::RecordsLost { writer, first: 3, last: 9 }));
    let (_, control) = hold("hhhhhhhhhhhhhhhh");
    let held = place.record(control);
    place.record(None);
    let lost = Lost { writer, first: held.head.number, last: held.head.number };
    place.remove(lost);
    let reader =
        Place { site: Site::over(place.site.backends.clone()), machine: Machine::new(1, "reader"), ..Place::new(0) };
    let view = reader.read();
    assert!(
        view.refused.iter().any(|refused| refused.number == lost.first) && view.lost.is_empty(),
        "{:?}",
        view.refused
    );
    let verified = live(reader.process().evidence());
    assert_eq!(verified.status, Status::Critical, "{:?}", verified.findings);
    assert!(verified.notes.iter().any(|note| note.contains("that does not count")), "{:?}", verified.notes);
    // Whoever has seen what follows may.
    reader.acknowledge(lost).unwrap();
    let view = reader.read();
    assert!(view.refused.is_empty() && view.lost.contains(writer, lost.first), "{:?}", view.refused);
}

#[test]
fn a_chain_with_an_acknowledged_loss_is_kept_until_what_was_lost_turns_up() {
    let place = Place::new(3);
    place.record(None);
    let (id, control) = hold("hhhhhhhhhhhhhhhh");
    let held = place.record(control);
    place.record(None);
    let (writer, number) = (held.writer, held.head.number);
    let lost = Lost { writer, first: number, last: number };
    let saved: Vec<_> = names(lost, number).into_iter().map(|name| (place.site.get(0, &name).unwrap(), name)).collect();
    place.remove(lost);
    place.acknowledge(lost).unwrap();
    let reader =
        || Place { site: Site::over(place.site.backends.clone()), machine: Machine::new(1, "reader"), ..Place::new(0) };
    let kept = reader();
    for _ in 0..2 {
        let view = kept.read();
        assert!(view.lost.contains(writer, number) && view.state.hold(id).is_none());
        // It is kept, with what was passed over: a store that is silent later may have it.
        let file = fs::read(kept.process().host.state_dir.join("evidence/control.json")).unwrap();
        let file: serde_json::Value = serde_json::from_slice(&file).unwrap();
        assert_eq!(file["state"]["heads"][writer.to_string()]["number"], number + 2, "{file}");
        assert!(!file["passed"].as_object().unwrap().is_empty(), "{file}");
    }
    // While a store is silent, holds may be hidden, and whoever lists them is told.
    let list = |silent: &[usize]| {
        let process = kept.process();
        silent.iter().for_each(|at| process.faults[*at].switch(Switch::Down));
        live(holds::list(&process.host.repository, Some(&process.host.state_dir), None, &[])).unwrap().notes
    };
    assert!(matches!(&list(&[2])[..], [note] if note.starts_with("no answer from c: ")), "{:?}", list(&[2]));
    assert_eq!(list(&[]), Vec::<String>::new());
    // Junk in its place changes nothing.
    place.site.put(1, &saved.iter().find(|(_, name)| name.ends_with("json")).unwrap().1, b"{}".to_vec());
    assert!(kept.read().lost.contains(writer, number));
    saved.iter().for_each(|(bytes, name)| place.site.put(0, name, bytes.to_vec()));
    for _ in 0..2 {
        let view = kept.read();
        assert!(!view.lost.contains(writer, number) && view.state.hold(id).is_some(), "{:?}", view.lost);
    }
    assert_eq!(kept.read().state.heads, reader().read().state.heads);
}

fn check(house: &House) -> Run {
    run(&mut house.recoup(["check"]))
}

#[test]
fn check_says_what_was_lost_and_how_to_get_on() {
    let house = super::recorded();
    super::remove_everywhere(&house, 3);
    let found = check(&house).expect_code(2).stdout;
    assert!(found.contains("none shows it any more") && found.contains("brings it again"), "{found}");
    // This host has the newest one.
    run(&mut house.recoup(["copy"]));
    assert!(!check(&house).stdout.contains("[evidence-lost]"));
    super::verify(&house).expect_code(0);
    STORES.iter().for_each(|store| super::envelopes(&house, store)[3..].iter().for_each(|it| super::remove_record(it)));
    let found = check(&house).expect_code(2).stdout;
    let lost = found.split("evidence acknowledge ").nth(1).unwrap().split(' ').next().unwrap();
    assert!(lost.ends_with("/4"), "{found}");
    let done = run(&mut house.recoup(["evidence", "acknowledge", lost, "--reason", "set back"])).expect_code(0);
    assert!(done.stderr.contains("prune needs an answer from every store"), "{done:?}");
    assert!(!check(&house).stdout.contains("[evidence-lost]"));
    super::verify(&house).expect_code(0);
}

/// Who lies about what was seen is found out by what is written then.
#[test]
fn a_head_that_nobody_wrote_is_a_fork() {
    let place = Place::new(3);
    let seen = place.record(None);
    let other =
        Place { site: Site::over(place.site.backends.clone()), machine: Machine::new(1, "other"), ..Place::new(0) };
    let process = other.process();
    let recorder = process.recorder();
    let ahead = SeenHead { writer: seen.writer, number: seen.head.number + 1, sha256: seen.head.sha256 };
    let lost = Control::RecordsLost { writer: seen.writer, first: ahead.number, last: ahead.number };
    let draft = Draft::new(Action::Acknowledge, Verdict::Passed, process.host.world.now());
    recorder.record(Draft { control: Some(lost), seen: Some(ahead), ..draft }).unwrap();
    live(recorder.ship());
    place.record(None);
    assert_eq!(live(place.process().evidence()).status, Status::Critical);
}
