//! A pruner whose key is revoked: what its executed plans list is deleted for good all the same.

use super::{
    confirmed,
    server::{Server, segments_on},
};
use crate::simulation::{Process, Site, content::Database, keyring::Keyed, live};
use recoup::{core::failure::Code, stores::fault::Switch};

struct Revoked {
    site: Site,
    database: Database,
    hosts: [Keyed; 2],
    server: Server,
}

impl Revoked {
    fn process(&self, host: usize, keep_last: u64) -> Process {
        self.hosts[host].process(&self.site, &self.database).keeping(keep_last)
    }

    fn take(&mut self) {
        let content = vec![self.server.next as u8; 4096];
        self.database.set("ledger", content);
        self.database.source.set_log(self.server.range(self.server.next));
        for _ in 0..2 {
            self.server.push_next(&self.process(0, 9)).unwrap();
        }
        let taken = live(self.process(0, 9).backup(false)).unwrap();
        assert!(taken.durable && taken.behind.is_empty(), "{:?}", taken.behind);
        self.hosts.iter().for_each(|host| host.machine.clock.advance_seconds(3600));
    }
}

#[test]
fn the_lists_of_executed_plans_still_count_and_a_pending_plan_does_not() {
    finished_by_another(Switch::Up);
}

/// Nobody vouches for the records that only it has; and nobody needs them.
#[test]
fn nor_does_it_matter_what_a_store_that_was_away_then_has_left() {
    finished_by_another(Switch::Down);
}

/// One store lags; the key is revoked while it is so.
fn finished_by_another(lagging: Switch) {
    let mut of = Revoked {
        site: Site::new(3),
        database: Database::new(512),
        hosts: [0, 1].map(|number| Keyed::new(number, "lists", number, &[0, 1])),
        server: Server::new(7),
    };
    (0..4).for_each(|_| of.take());
    live(of.process(0, 2).prune(confirmed())).unwrap();
    let before = of.site.objects(2);
    live(of.process(0, 2).prune(confirmed())).unwrap();
    // A thief may have made the next one.
    let pending = live(of.process(0, 1).prune(confirmed())).unwrap();
    assert_eq!((pending.condemned.len(), pending.condemned_log[0].files), (1, 2), "{}", pending.message);
    // The disk of one store comes back as it was before.
    let sources = |name: &String| name.starts_with("sources/");
    of.site.objects(2).into_keys().filter(sources).for_each(|name| of.site.remove(2, &name));
    let there = before.into_iter().filter(|(name, _)| sources(name));
    there.for_each(|(name, bytes)| of.site.put(2, &name, bytes.to_vec()));
    let on = |of: &Revoked, store| segments_on(&of.site, store, &of.server);
    assert_eq!((on(&of, 0), on(&of, 2)), ((5..9).collect(), (1..9).collect()), "one store lags");

    let process = of.process(1, 9);
    process.faults[2].switch(lagging);
    let revoked = of.hosts[1].revoke(&process, 0).unwrap();
    assert!(revoked.notes.iter().any(|note| note.contains("was not executed")), "{:?}", revoked.notes);
    let pruned = live(of.process(1, 9).prune(confirmed())).unwrap();
    assert_eq!((pruned.exit_code, pruned.plan, &pruned.executed[..]), (Code::Done, None, &[][..]), "{pruned:?}");
    assert_eq!([0, 1, 2].map(|store| on(&of, store)), [(); 3].map(|()| (5..9).collect()));
}
