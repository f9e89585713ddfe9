//! Records come to a store in their order: what may still turn up is waited for, what is lost is passed over.

use crate::simulation::{Machine, Process, Site, content::Database, live};
use recoup::{
    core::{
        evidence::{Action, WriterId},
        result::{EvidenceProblem, Problem, Status, StoreFinding},
    },
    stores::fault::Switch,
};

/// The store that was away while three records were written.
const BEHIND: usize = 2;

/// Stores a and b with three records that c lacks.
struct Place {
    site: Site,
    machine: Machine,
    database: Database,
    writer: WriterId,
    /// The number of the first of the three.
    first: u64,
}

impl Place {
    fn new() -> Self {
        let (site, machine, database) = (Site::new(3), Machine::new(0, "order"), Database::new(512));
        let numbers = [false, true, true, true].map(|is_away| {
            let process = Process::new(&site, &machine, &database);
            if is_away {
                process.faults[BEHIND].switch(Switch::Down);
            }
            let recorded = process.record(Action::Hold, None);
            (recorded.writer, recorded.head.number)
        });
        let (writer, first) = numbers[1];
        let place = Place { site, machine, database, writer, first };
        assert_eq!(place.shown(BEHIND), [false; 3]);
        place
    }

    fn process(&self) -> Process {
        Process::new(&self.site, &self.machine, &self.database)
    }

    fn name(&self, at: u64, ending: &str) -> String {
        format!("evidence/{}/{:010}.{ending}", self.writer, self.first + at)
    }

    /// Which of the three a store has.
    fn shown(&self, store: usize) -> [bool; 3] {
        [0, 1, 2].map(|at| self.site.get(store, &self.name(at, "json")).is_some())
    }

    fn remove(&self, store: usize, at: u64) {
        self.site.remove_record(store, self.writer, self.first + at);
    }

    /// Brings the stores level, after something was done to them; says what is left to bring to the one that is behind.
    fn copy(&self, spoil: impl FnOnce(&Process)) -> (Status, Vec<String>) {
        let process = self.process();
        spoil(&process);
        let copied = live(process.copy()).unwrap();
        let is_left = |finding: &&StoreFinding| finding.store == "c" && finding.problem == Problem::Behind;
        let name = |finding: &StoreFinding| finding.object.clone().unwrap();
        (copied.status, copied.findings.iter().filter(is_left).map(name).collect())
    }

    /// What is found of the store that was behind, once all answer.
    fn found(&self) -> Vec<(EvidenceProblem, Option<u64>)> {
        let verified = live(self.process().evidence());
        let of_store = verified.findings.into_iter().filter(|finding| finding.store.as_deref() == Some("c"));
        of_store.map(|finding| (finding.problem, finding.number)).collect()
    }

    /// Nothing of the store was lost, and it gets all of it now.
    fn expect_the_rest_comes(&self) {
        assert_eq!(self.found(), [(EvidenceProblem::Behind, Some(self.first + self.shown(BEHIND)[0] as u64))]);
        self.copy(|_| ());
        assert_eq!(self.shown(BEHIND), [true; 3]);
        assert_eq!(self.found(), []);
    }
}

#[test]
fn what_only_a_silent_store_has_is_waited_for() {
    let place = Place::new();
    place.remove(1, 1);
    let (status, left) = place.copy(|process| process.faults[0].switch(Switch::Down));
    assert_eq!((status, left), (Status::Warning, vec![place.name(2, "json")]));
    assert_eq!(place.shown(BEHIND), [true, false, false]);
    place.expect_the_rest_comes();
}

#[test]
fn what_no_store_gives_just_now_is_waited_for() {
    for ending in ["json", "sig", "age"] {
        let place = Place::new();
        let name = place.name(1, ending);
        let (status, left) = place.copy(|process| {
            [0, 1].iter().for_each(|at: &usize| process.faults[*at].refuse_reading([name.clone()]));
        });
        let waits = place.name(if ending == "age" { 1 } else { 2 }, "json");
        assert_eq!((status, left), (Status::Warning, vec![waits]), "{ending}");
        assert_eq!(place.shown(BEHIND), [true, false, false], "{ending}");
        place.expect_the_rest_comes();
    }
}

/// Nobody can bring it, and the rest is no worse for that.
#[test]
fn what_every_store_has_lost_or_has_wrong_is_passed_over() {
    for ending in ["json", "sig", "age"] {
        for is_removed in [true, false] {
            let place = Place::new();
            for store in [0, 1] {
                match is_removed {
                    true => place.site.remove(store, &place.name(1, ending)),
                    false => place.site.put(store, &place.name(1, ending), b"something else".to_vec()),
                }
            }
            place.copy(|_| ());
            assert_eq!(place.shown(BEHIND), [true, false, true], "{ending} {is_removed}");
            // What is accused are the two that had it.
            assert_eq!(place.found(), [], "{ending} {is_removed}");
            assert_eq!(live(place.process().evidence()).status, Status::Critical, "{ending} {is_removed}");
        }
    }
}
