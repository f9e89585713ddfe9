//! Beside the record of an executed prune lies which runs of the log it has deleted: every store has it before anything
//! is deleted, and no other will do.

use super::{
    Logged, confirmed,
    lying::{plan_on, put},
    now,
};
use crate::simulation::{FOLDER, live};
use recoup::{
    core::{
        id::RunId,
        prune::{LogList, Stage},
        result::{Problem, Status},
        target::Target,
    },
    format::prune as prune_format,
    repository::layout,
};
use std::collections::BTreeSet;

fn key(plan: RunId) -> String {
    format!("{FOLDER}{}", layout::prune_list(plan))
}

fn execute(logged: &Logged) -> RunId {
    live(logged.process().keeping(1).prune(now())).unwrap().executed[0]
}

#[test]
fn a_store_that_lacks_the_list_or_has_it_damaged_gets_it() {
    let logged = Logged::new(3, 2);
    let list = key(execute(&logged));
    let site = &logged.history.site;
    let right = site.get(0, &list).unwrap();
    let mend = |problem: Problem, status: Status| {
        let verified = live(logged.process().verify()).unwrap();
        assert_eq!(verified.status, status, "{:?}", verified.findings);
        let found: Vec<_> = verified.findings.iter().map(|of| (of.store.as_str(), of.object.as_ref())).collect();
        assert_eq!(found, [("c", Some(&list))], "{:?}", verified.findings);
        assert_eq!(verified.findings[0].problem, problem);
        let copied = live(logged.process().copy()).unwrap();
        assert_eq!(copied.status, Status::Ok, "{:?}", copied.findings);
        assert_eq!(site.get(2, &list), Some(right.clone()));
        logged.expect_level();
    };
    site.remove(2, &list);
    mend(Problem::Behind, Status::Warning);
    site.put(2, &list, b"rubbish".to_vec());
    mend(Problem::Damaged, Status::Critical);
    // So does a prune, where it is missing.
    site.remove(2, &list);
    live(logged.process().keeping(1).prune(confirmed())).unwrap();
    assert_eq!(site.get(2, &list), Some(right));
}

/// A store that was away knows nothing of the plan: it gets the list together with the record, and never the plan.
#[test]
fn a_store_that_lagged_or_is_new_gets_the_list_with_the_record() {
    let logged = Logged::new(3, 2);
    let plan = execute(&logged);
    let of_plan = |key: &String| key.contains(&format!("/prunes/{plan}/"));
    let known =
        |logged: &Logged| -> BTreeSet<String> { logged.history.site.objects(2).into_keys().filter(of_plan).collect() };
    let plan_name = layout::prune_object(plan, Stage::Planned);
    let expected: BTreeSet<String> = known(&logged).into_iter().filter(|key| !key.contains(&plan_name)).collect();
    assert_eq!((expected.len(), known(&logged).len()), (3, 5));
    // It is brought by the next prune, or a copy; where it has nothing else either, too.
    for (is_new, is_copied) in [(false, false), (false, true), (true, true)] {
        let logged = logged.fork("lagged");
        match is_new {
            true => logged.history.site.empty(2),
            false => known(&logged).iter().for_each(|key| logged.history.site.remove(2, key)),
        }
        match is_copied {
            true => drop(live(logged.process().copy()).unwrap()),
            false => drop(live(logged.process().keeping(1).prune(confirmed())).unwrap()),
        }
        assert_eq!(known(&logged), expected, "{is_new} {is_copied}");
        logged.expect_level();
        assert_eq!(logged.on_stores(), [(); 3].map(|()| [5, 6].into()));
    }
}

/// Whoever may sign plans puts another one in the place of one that is executed, and whoever can write to a store another
/// list: what is archived again since then is nothing that it has deleted.
#[test]
fn no_other_plan_or_list_is_taken_for_the_one_that_was_executed() {
    for lists_lie in [false, true] {
        let logged = Logged::new(3, 2);
        let plan = execute(&logged);
        let (site, all) = (&logged.history.site, || (2..7).collect::<BTreeSet<u64>>());
        for number in [2, 3, 4] {
            logged.server.push_again(&logged.process(), number).unwrap();
        }
        let (_, mut other) = plan_on(site, plan);
        other.condemned.log[0].runs = logged.server.runs_on(site, 0).into_iter().collect();
        put(&logged, &other);
        if lists_lie {
            let list = prune_format::list_to_bytes(&LogList::of(plan, &other.condemned.log));
            (0..3).for_each(|store| site.put(store, &key(plan), list.clone()));
        }
        logged.history.database.source.set_log(logged.server.range(2));
        let taken = live(logged.process().backup(true)).unwrap();
        assert_eq!(taken.durable, !lists_lie, "only the list tells what the plan has deleted");
        for _ in 0..2 {
            live(logged.process().keeping(1).prune(confirmed())).unwrap();
        }
        assert_eq!(logged.on_stores(), [(); 3].map(|()| all()));
        let verified = live(logged.process().verify()).unwrap();
        let told: Vec<_> = verified.findings.iter().map(|of| (of.problem, of.object.as_ref())).collect();
        let list = key(plan);
        let damaged = vec![(Problem::Damaged, Some(&list)); 3];
        assert_eq!(told, if lists_lie { damaged } else { Vec::new() });
        let restored = live(logged.process().restore(Target::SnapshotId(taken.head.id))).unwrap();
        assert_eq!(restored.0.snapshot, taken.head.id);
    }
}
