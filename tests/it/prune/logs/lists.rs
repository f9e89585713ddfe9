//! The plan of an executed prune lists which files of the log it has deleted: every store has it, and no other will do.

use super::{
    Logged, confirmed,
    lying::{plan_on, put},
    now,
};
use crate::simulation::{FOLDER, live};
use recoup::{
    core::{
        id::RunId,
        prune::Stage,
        result::{Problem, Status},
        target::Target,
    },
    repository::layout,
};

fn keys(plan: RunId) -> [String; 2] {
    let key = format!("{FOLDER}{}", layout::prune_object(plan, Stage::Planned));
    [format!("{key}.sig"), key]
}

#[test]
fn a_store_that_lacks_the_list_or_has_it_damaged_gets_it() {
    let logged = Logged::new(3, 2);
    let plan = live(logged.process().keeping(1).prune(now())).unwrap().executed[0];
    let [signature, list] = keys(plan);
    let site = &logged.history.site;
    let right = [&signature, &list].map(|key| site.get(0, key).unwrap());
    let mend = |problem: Problem, status: Status| {
        let verified = live(logged.process().verify()).unwrap();
        assert_eq!(verified.status, status, "{:?}", verified.findings);
        let found: Vec<_> = verified.findings.iter().map(|of| (of.store.as_str(), of.object.as_ref())).collect();
        assert_eq!(found, [("c", Some(&list))], "{:?}", verified.findings);
        assert_eq!(verified.findings[0].problem, problem);
        let copied = live(logged.process().copy()).unwrap();
        assert_eq!(copied.status, Status::Ok, "{:?}", copied.findings);
        assert_eq!([&signature, &list].map(|key| site.get(2, key)), right.clone().map(Some));
        logged.expect_level();
    };
    for key in [&signature, &list] {
        site.remove(2, key);
        mend(Problem::Behind, Status::Warning);
    }
    site.put(2, &list, b"rubbish".to_vec());
    mend(Problem::Damaged, Status::Critical);
}

/// A store that was away knows nothing of the plan: it gets the list before it hears that the plan is executed.
#[test]
fn a_store_that_lagged_gets_the_list_first() {
    let logged = Logged::new(3, 2);
    let plan = live(logged.process().keeping(1).prune(now())).unwrap().executed[0];
    let site = &logged.history.site;
    let of_plan = |key: &String| key.contains(&format!("/prunes/{plan}/"));
    let known: Vec<String> = site.objects(2).into_keys().filter(of_plan).collect();
    assert_eq!(known.len(), 4);
    known.iter().for_each(|key| site.remove(2, key));
    live(logged.process().keeping(1).prune(confirmed())).unwrap();
    let again: Vec<String> = site.objects(2).into_keys().filter(of_plan).collect();
    assert_eq!(again, known);
}

/// Whoever may sign plans puts another one in the place of one that is executed: what is archived again since then is
/// nothing that it has deleted.
#[test]
fn no_other_plan_is_taken_for_the_one_that_was_executed() {
    let logged = Logged::new(3, 2);
    let plan = live(logged.process().keeping(1).prune(now())).unwrap().executed[0];
    for number in [2, 3, 4] {
        logged.server.push_again(&logged.process(), number).unwrap();
    }
    let (_, mut other) = plan_on(&logged.history.site, plan);
    other.condemned.log[0].runs = logged.server.runs_on(&logged.history.site, 0).into_iter().collect();
    put(&logged, &other);
    logged.history.database.source.set_log(logged.server.range(2));
    let taken = live(logged.process().backup(true)).unwrap();
    assert!(!taken.durable, "nobody knows any more what the plan has deleted");
    for _ in 0..2 {
        live(logged.process().keeping(1).prune(confirmed())).unwrap();
    }
    assert_eq!(logged.on_stores(), [(); 3].map(|()| (2..7).collect()));
    let verified = live(logged.process().verify()).unwrap();
    let told: Vec<_> = verified.findings.iter().map(|of| (of.problem, of.object.as_ref())).collect();
    assert_eq!(told, [(Problem::Damaged, Some(&keys(plan)[1])); 3]);
    let restored = live(logged.process().restore(Target::SnapshotId(taken.head.id))).unwrap();
    assert_eq!(restored.0.snapshot, taken.head.id);
}
