//! Stores that have not heard of a plan that deletes of the log: set back, new, or never with anything of it.

use super::{Logged, confirmed, now};
use crate::simulation::{FOLDER, Machine, Process, live, source_name};
use recoup::{
    core::{
        id::RunId,
        log::LogFile,
        prune::Stage,
        result::{Problem, Status},
        target::Target,
    },
    repository::layout,
    stores::fault::Switch,
};
use std::collections::BTreeSet;

fn on_all(expected: std::ops::Range<u64>) -> [BTreeSet<u64>; 3] {
    [(); 3].map(|()| expected.clone().collect())
}

/// A standby that lags behind takes a snapshot with a store alone that was set back to before the plan: by the policy that
/// is enough, and the store shows no plan to heed. What it needs of the log lies there and nowhere else.
#[test]
fn the_log_of_what_was_taken_on_a_store_that_was_set_back_stays() {
    // Also where the server has archived once more what lies where it begins.
    for is_again in [false, true] {
        let logged = Logged::new(4, 2);
        let site = &logged.history.site;
        let mut old = site.objects(1);
        let pruned = live(logged.process().keeping(1).prune(now())).unwrap();
        assert_eq!(pruned.pruned_log[0].files, 6);
        if is_again {
            let elsewhere = logged.fork("elsewhere");
            elsewhere.server.push_again(&elsewhere.process(), 3).unwrap();
            let again = elsewhere.history.site.objects(1).into_iter().filter(|(name, _)| site.get(1, name).is_none());
            old.extend(again.filter(|(name, _)| name.contains("/log/")));
        }
        site.empty(1);
        old.into_iter().for_each(|(name, bytes)| site.put(1, &name, bytes.to_vec()));
        let alone = |machine: &Machine| {
            let mut process = Process::new(site, machine, &logged.history.database);
            process.protected.policy.copies.min_stores = Some(1);
            [0, 2].iter().for_each(|away| process.faults[*away].switch(Switch::Down));
            process
        };
        logged.history.database.source.set_log(logged.server.range(3));
        let standby = Machine::new(1, "standby");
        let taken = live(alone(&standby).backup(true)).unwrap();
        assert!(taken.durable, "{:?}", taken.behind);
        let id = taken.head.id;
        for _ in 0..3 {
            live(logged.process().keeping(1).prune(confirmed())).unwrap();
            live(logged.process().copy()).unwrap();
        }
        assert!((0..3).all(|store| site.committed(store).contains(&id)), "{is_again}");
        assert_eq!(logged.on_stores(), on_all(3..9), "{is_again}");
        let restored = live(logged.process().restore(Target::SnapshotId(id))).unwrap();
        assert_eq!(restored.0.snapshot, id);
        for number in 3..8 {
            let target = Target::Time(super::moment(number, 1));
            live(logged.process().restore(target)).unwrap();
        }
        logged.expect_level();
    }
}

/// A plan that condemns log alone, with the record of its execution as another host would write it.
fn of_log_alone() -> (Logged, RunId, Vec<(String, Vec<u8>)>) {
    let mut logged = Logged::new(0, 1);
    logged.go_on(4);
    logged.take();
    let planned = logged.prune(1);
    assert_eq!((planned.condemned.len(), planned.condemned_log[0].files), (0, 4));
    let plan = planned.plan.unwrap();
    let fork = logged.fork("executes");
    assert_eq!(fork.prune(1).pruned_log[0].files, 4);
    let record = layout::prune_object(plan, Stage::Executed);
    let names = [layout::prune_list(plan), format!("{record}.sig"), record];
    let objects = names.map(|name| {
        let key = format!("{FOLDER}{name}");
        let bytes = fork.history.site.get(0, &key).unwrap().to_vec();
        (key, bytes)
    });
    (logged, plan, objects.to_vec())
}

fn remove(logged: &Logged, store: usize, what: &str) {
    let keys = logged.history.site.objects(store).into_keys().filter(|key| key.contains(what));
    keys.for_each(|key| logged.history.site.remove(store, &key));
}

fn stage_of(logged: &Logged, plan: RunId) -> (bool, bool, bool) {
    let (_, prunes) = live(logged.process().host.repository.prunes(&source_name()));
    let is_in = |of: &std::collections::BTreeMap<RunId, Vec<_>>| of.contains_key(&plan);
    (prunes.pending.contains_key(&plan), is_in(&prunes.executed), is_in(&prunes.unconfirmed))
}

const PENDING: (bool, bool, bool) = (true, false, true);
const EXECUTED: (bool, bool, bool) = (false, true, false);

/// The store whose record of the execution is the only one never had anything of that log.
#[test]
fn that_a_store_shows_nothing_of_a_log_does_not_say_that_it_is_deleted() {
    let (logged, plan, execution) = of_log_alone();
    remove(&logged, 2, "/log/");
    execution.iter().for_each(|(key, bytes)| logged.history.site.put(2, key, bytes.clone()));
    assert_eq!(stage_of(&logged, plan), PENDING);
    // A standby that has begun before all of it commits now: the plan is looked at once more before anything goes.
    logged.history.database.source.set_log(logged.server.range(2));
    let standby = Machine::new(1, "standby");
    let taken = live(Process::new(&logged.history.site, &standby, &logged.history.database).backup(true)).unwrap();
    assert!(!taken.durable, "a plan condemns what it needs");
    let pruned = live(logged.process().keeping(2).prune(confirmed())).unwrap();
    assert_eq!((pruned.pruned_log.len(), pruned.dropped_log[0].files), (0, 4), "{}", pruned.message);
    live(logged.process().copy()).unwrap();
    assert_eq!(logged.on_stores(), on_all(1..6));
    logged.expect_level();
}

/// The plan is nowhere any more, and one store alone says that it was executed.
#[test]
fn one_record_alone_hides_no_log_and_is_no_alarm_where_nothing_of_it_is_left() {
    let (logged, plan, execution) = of_log_alone();
    (0..3).for_each(|store| remove(&logged, store, "/prunes/"));
    execution.iter().for_each(|(key, bytes)| logged.history.site.put(2, key, bytes.clone()));
    let remove_old = |logged: &Logged, store: usize| {
        for number in 1..5 {
            remove(logged, store, &LogFile::Segment(logged.server.name(number)).key());
        }
    };
    for lacking in [&[][..], &[1], &[1, 2], &[2]] {
        let fork = logged.fork("lacks");
        lacking.iter().for_each(|store| remove_old(&fork, *store));
        assert_eq!(stage_of(&fork, plan), (false, false, true), "{lacking:?}");
        let verified = live(fork.process().verify()).unwrap();
        let foreign: Vec<_> = verified.findings.iter().filter(|of| of.problem == Problem::Foreign).collect();
        assert!(foreign.len() == 1 && foreign[0].store == "c", "{:?}", verified.findings);
        // It goes by a plan that is looked at, and by no other.
        let first = live(fork.process().keeping(1).prune(confirmed())).unwrap();
        assert_eq!(first.pruned_log, [], "{}", first.message);
        assert_eq!(first.condemned_log.iter().map(|log| log.files).sum::<u64>(), 4, "{}", first.message);
    }
    // Stores in the place of those that were lost are brought what is left.
    (0..3).for_each(|store| remove_old(&logged, store));
    assert_eq!(stage_of(&logged, plan), EXECUTED);
    live(logged.process().copy()).unwrap();
    let verified = live(logged.process().verify()).unwrap();
    assert_eq!((verified.status, &verified.findings[..]), (Status::Ok, &[][..]));
}

/// A store that was away while a plan took its log, and one in the place of another.
#[test]
fn a_store_set_back_brings_no_log_back_though_the_others_are_new() {
    let logged = Logged::new(4, 2);
    let site = &logged.history.site;
    let old = site.objects(0);
    live(logged.process().keeping(1).prune(now())).unwrap();
    for store in [1, 2] {
        site.empty(store);
        live(logged.process().copy()).unwrap();
    }
    site.empty(0);
    old.into_iter().for_each(|(name, bytes)| site.put(0, &name, bytes.to_vec()));
    live(logged.process().copy()).unwrap();
    assert_eq!(logged.on_stores().map(|on| on.len()), [8, 2, 2]);
    logged.prune(1);
    assert_eq!(logged.on_stores(), on_all(7..9));
    logged.expect_level();
    logged.expect_moments(3);
}

/// A snapshot that was taken on a store that was set back is taken out of a plan; of the log, which it does not need and no
/// store shows any more, that says what it said.
#[test]
fn what_is_taken_out_of_a_plan_leaves_what_it_says_of_other_log() {
    let mut logged = Logged::new(2, 2);
    let machine = Machine::new(1, "other");
    let base = live(Process::new(&logged.history.site, &machine, &logged.history.database).backup(true)).unwrap();
    logged.history.machine.clock.advance_seconds(3600);
    machine.clock.advance_seconds(10 * 3600);
    for number in 0..3 {
        logged.history.database.source.set_log(logged.server.range(logged.server.next));
        logged.go_on(1);
        logged.history.take(number == 0);
    }
    let old = logged.history.site.objects(1);
    let pruned = live(logged.process().keeping(1).prune(now())).unwrap();
    assert!(pruned.pruned.contains(&base.head.id), "{pruned:?}");
    let (plan, goes) = (pruned.executed[0], pruned.pruned_log[0].files);
    let (gone, site) = (logged.on_stores()[0].clone(), &logged.history.site);
    // Its packs come back with the store, and none of the log.
    site.empty(1);
    let runs = logged.server.runs_on(site, 0);
    let is_old_log = |name: &str| name.contains("/log/") && !runs.iter().any(|run| name.contains(run.as_str()));
    old.into_iter().filter(|(name, _)| !is_old_log(name)).for_each(|(name, bytes)| site.put(1, &name, bytes.to_vec()));
    logged.history.database.source.set_log(logged.server.range(logged.server.next - 1));
    let mut other = Process::new(site, &machine, &logged.history.database);
    other.protected.policy.copies.min_stores = Some(1);
    [0, 2].iter().for_each(|away| other.faults[*away].switch(Switch::Down));
    let taken = live(other.backup(false)).unwrap();
    assert!(taken.durable && taken.inventory.uses.iter().any(|used| used.run == base.head.id.run), "{taken:?}");
    let spared = live(logged.process().keeping(2).prune(confirmed())).unwrap();
    assert!(spared.warnings.iter().any(|one| one.contains("is no longer in the plan")), "{spared:?}");
    let (_, prunes) = live(logged.process().host.repository.prunes(&source_name()));
    for signed in &prunes.executed[&plan] {
        let files: Vec<u64> = signed.record.condemned.log.iter().map(|part| part.files).collect();
        assert_eq!((files, &signed.record.dropped.log[..]), (vec![goes], &[][..]));
    }
    assert_eq!(logged.on_stores()[0], gone);
}
