//! What a key that is trusted no more has signed, and that had not left its host.

use crate::simulation::{Process, STORES, Site, content::Database, keyring::Keyed, live, source_name};
use recoup::{
    core::{
        evidence::{Action, Control, Draft, HoldCause, Verdict},
        result::Status,
    },
    ops::evidence::{self, Recorded, Shipped},
    stores::fault::Switch,
};
use std::fs;

fn record(process: &Process, control: Option<Control>) -> (Recorded, Shipped, Vec<String>) {
    let recorder = process.recorder();
    let draft = Draft { control, ..Draft::new(Action::Hold, Verdict::Passed, process.host.world.now()) };
    let recorded = recorder.record(draft).unwrap();
    let shipped = live(recorder.ship());
    (recorded, shipped, recorder.take_notes())
}

fn hold(id: &str) -> Option<Control> {
    let (hold, source) = (id.parse().unwrap(), source_name());
    Some(Control::HoldAdded { hold, source, snapshots: Vec::new(), cause: HoldCause::Operator })
}

#[test]
fn what_a_revoked_key_signed_stays_where_it_was_left() {
    let (site, database) = (Site::new(3), Database::new(512));
    let [mut stolen, other] = [0, 1].map(|number| Keyed::new(number, "left", number, &[0, 1]));
    let shipped = record(&stolen.process(&site, &database), None).0;
    let down = stolen.process(&site, &database);
    down.faults.iter().for_each(|faults| faults.switch(Switch::Down));
    let waiting = record(&down, hold("hhhhhhhhhhhhhhhh")).0;
    assert_eq!((waiting.writer, waiting.head.number), (shipped.writer, shipped.head.number + 1));
    other.revoke(&other.process(&site, &database), 0).unwrap();
    other.add_signer(&other.process(&site, &database), 2).unwrap();
    stolen.set_up_again(2, &other);
    let process = stolen.process(&site, &database);
    let (recorded, shipping, notes) = record(&process, hold("kkkkkkkkkkkkkkkk"));
    assert_ne!(recorded.writer, waiting.writer);
    assert_eq!(shipping.holds(recorded.head.number), STORES.len(), "{}", shipping.reasons());
    let left = format!("evidence {}/{} was not on every store", waiting.writer, waiting.head.number);
    assert!(matches!(&notes[..], [note] if note.contains(&left) && note.contains("holds")), "{notes:?}");
    let file = format!("evidence/records/{}-{:010}.json", waiting.writer, waiting.head.number);
    assert!(fs::metadata(process.host.state_dir.join(file)).is_ok(), "it is gone");
    // Nothing of it is anywhere else, and nothing is foreign.
    let view = live(evidence::read_control(&process.host.repository, Some(&process.host.state_dir)));
    let holds: Vec<String> = view.state.holds().map(|(id, _)| id.to_string()).collect();
    assert_eq!((holds, view.refused.len()), (vec!["kkkkkkkkkkkkkkkk".to_owned()], 0));
    let verified = live(process.evidence());
    assert_eq!(verified.status, Status::Ok, "{:?}", verified.findings);
    assert!(record(&process, None).2.is_empty(), "it is said once");
}

#[test]
fn a_key_that_is_not_trusted_yet_ships_what_it_signs() {
    let (site, database) = (Site::new(3), Database::new(512));
    let mut host = Keyed::new(0, "new", 5, &[0, 1]);
    let first = record(&host.process(&site, &database), None).0;
    // Nor does it take the host's earlier key for one that lost its trust.
    host.key = 6;
    let down = host.process(&site, &database);
    down.faults[0].switch(Switch::Down);
    record(&down, None);
    host.key = 7;
    let (second, shipped, notes) = record(&host.process(&site, &database), None);
    assert_eq!((second.writer, second.head.number), (first.writer, first.head.number + 2));
    assert!(shipped.holds(second.head.number) == STORES.len() && notes.is_empty(), "{notes:?} {}", shipped.reasons());
}
