//! Drills prove every store in time, or the one that is named, and say which stores gave what came back.

use super::{
    POLICY, assert_no_plaintext, body_of, damage_pack, drill, newest_pair,
    order::{Watched, is_content},
    records_on, site_with,
};
use crate::{
    needs::needs,
    postgres::cluster::Cluster,
    site::{Site, names_in},
    support::run,
};
use recoup::{
    core::result::Verdict,
    world::{ManualClock, SeededRandom, World},
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, path::PathBuf};

/// A drill with the random numbers of a seed: the store that it read from, and nothing but that.
#[track_caller]
fn drawn(watched: &mut Watched, seed: &str) -> String {
    watched.host.world = World::new(ManualClock::new(World::real().now()), SeededRandom::new(seed));
    let before = watched.operations.log().len();
    let drilled = watched.drill().unwrap();
    let result = &drilled.result;
    assert_eq!(result.verdict, Verdict::Pass, "{drilled:?}");
    let log = watched.operations.log();
    let read: BTreeSet<&str> = log[before..].iter().filter(is_content).map(|read| read.store.as_str()).collect();
    assert_eq!(result.stores_used.iter().map(String::as_str).collect::<BTreeSet<_>>(), read);
    assert_eq!(result.read_first.as_slice(), result.stores_used);
    result.read_first.clone().unwrap()
}

#[test]
fn every_store_is_drawn_in_time() {
    let mut watched = Watched::new();
    let seeds: Vec<String> = (0..10).map(|seed| format!("drill {seed}")).collect();
    let stores: Vec<String> = seeds.iter().map(|seed| drawn(&mut watched, seed)).collect();
    let all: BTreeSet<&str> = watched.host.repository.stores.iter().map(|store| store.name()).collect();
    assert_eq!(stores.iter().map(String::as_str).collect::<BTreeSet<_>>(), all);
    // The same numbers draw the same store.
    let again: Vec<String> = seeds[..3].iter().map(|seed| drawn(&mut watched, seed)).collect();
    assert_eq!(again, stores[..3]);
}

/// The result of a drill from a store, as the stores have it on record.
#[track_caller]
fn from(site: &Site, store: &str, code: i32) -> Value {
    let result = drill(site, &["--store", store]).expect_code(code).json();
    let (start, end) = newest_pair(site, "b", "drill");
    assert_eq!(
        (&result["read_first"], &body_of(site, "b", &start).result["read_first"]),
        (&json!(store), &json!(store))
    );
    assert_eq!(
        (&start["measured"]["stores_used"], &end["measured"]["stores_used"]),
        (&Value::Null, &result["stores_used"])
    );
    assert_eq!(body_of(site, "b", &end).result["stores_used"], result["stores_used"]);
    assert_no_plaintext(site);
    result
}

/// What was gone round, without what the store is.
fn problems(result: &Value, store: &str) -> BTreeSet<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let gone_round = result["went_round"].as_array().unwrap();
    assert!(gone_round.iter().all(|round| round["store"] == store), "{result}");
    gone_round.iter().map(|round| (text(&round["object"]), text(&round["problem"]))).collect()
}

#[test]
fn a_named_store_gives_everything_that_it_can() {
    let site = site_with(POLICY);
    damage_pack(&site, "a");
    for store in ["b", "c"] {
        let result = from(&site, store, 0);
        assert_eq!((&result["stores_used"], &result["went_round"]), (&json!([store]), &json!([])));
        let others = if store == "b" { "a, c" } else { "a, b" };
        let told = format!("everything was read from {store}: the copies on {others} were not read");
        assert!(result["limits"].to_string().contains(&told), "{result}");
    }
    // One pack of it comes from the next store.
    let result = from(&site, "a", 1);
    assert_eq!((&result["verdict"], &result["stores_used"]), (&json!("passed"), &json!(["a", "b"])));
    let found = problems(&result, "a");
    assert!(
        found.len() == 1 && found.iter().all(|(object, problem)| object.ends_with("0.age") && problem == "damaged")
    );
    let told = "not everything was read from a: also from b";
    assert!(result["exceptions"].to_string().contains(told), "{result}");
    assert!(result["limits"].to_string().contains("no store was shown to have all of it"), "{result}");
}

/// A store that has every object, and does not say that they are a snapshot, could not restore it alone.
#[test]
fn a_store_without_the_inventory_is_named() {
    let site = site_with(POLICY);
    let snapshots = site.store("c").join("sources/ledger/snapshots");
    let inventory = snapshots.join(&names_in(&snapshots)[0]).join("inventory.json");
    let bytes = fs::read(&inventory).unwrap();
    fs::remove_file(&inventory).unwrap();
    for problem in ["missing", "damaged"] {
        let result = from(&site, "c", 1);
        assert_eq!(result["stores_used"], json!(["a", "c"]), "{problem}");
        let found = problems(&result, "c");
        let name = inventory.strip_prefix(site.store("c")).unwrap().display().to_string();
        assert_eq!(found, BTreeSet::from([(name, problem.to_owned())]));
        fs::write(&inventory, &bytes[1..]).unwrap();
    }
    fs::write(&inventory, &bytes).unwrap();
    assert_eq!(from(&site, "c", 0)["stores_used"], json!(["c"]));
    fs::remove_dir_all(site.store("c").join("sources")).unwrap();
    let result = from(&site, "c", 1);
    assert_eq!(result["stores_used"], json!(["a"]));
    assert!(problems(&result, "c").iter().all(|(_, problem)| problem == "missing"), "{result}");
}

#[test]
fn an_unknown_store_is_bad_usage() {
    let site = site_with(POLICY);
    for extra in [&[][..], &["--dry-run"]] {
        let arguments = [&["--store", "d"], extra].concat();
        let refused = drill(&site, &arguments).expect_code(3);
        for part in ["there is no store d", "the configuration has: a, b, c", "recoup", "drill ledger"] {
            assert!(refused.stderr.contains(part), "{part}: {refused:?}");
        }
        assert_eq!(refused.json()["schema"], "recoup.error/1");
    }
    assert_eq!(records_on(&site, "a", "drill"), [] as [Value; 0]);
    let steps = |arguments: &[&str]| drill(&site, arguments).expect_code(0).json()["steps"].to_string();
    assert!(steps(&["--dry-run", "--store", "b"]).contains("from store b"));
    assert!(steps(&["--dry-run"]).contains("from a store drawn at random"));
}

/// The sealed files of a log on a store.
fn log_files(cluster: &Cluster, store: &str) -> Vec<PathBuf> {
    let folder = cluster.path(store).join("sources/ledger/log");
    let histories = names_in(&folder).into_iter().map(|history| folder.join(history));
    let files = histories.flat_map(|history| names_in(&history).into_iter().map(move |name| history.join(name)));
    files.filter(|file| file.extension().is_some_and(|ending| ending == "age")).collect()
}

#[test]
fn what_is_read_of_a_log_counts_too() {
    if !needs("postgres15") {
        return;
    }
    let cluster = Cluster::new("postgres15");
    cluster.backup(&[]).expect_code(0);
    let lost_at = World::real().now().to_string();
    // A commit after that moment, in a segment that is archived.
    let sql = |statements: &[&str]| cluster.sql("data", "postgres", statements);
    let last = sql(&["CREATE TABLE later (n int)", "SELECT pg_walfile_name(pg_current_wal_insert_lsn())"]);
    sql(&["SELECT pg_switch_wal()"]);
    let is_archived = format!("SELECT left(last_archived_wal, 24) >= '{last}' FROM pg_stat_archiver");
    cluster.wait_for("data", &is_archived, "t");
    // Nobody has waited for the slowest store.
    run(&mut cluster.recoup(["copy"])).expect_code(0);
    // What its checks find is the matter of other tests.
    let from = |store: &str| {
        let fixed = ["drill", "ledger", "--identity", "R/custodian.age", "--json", "--disaster-at", &lost_at];
        let result = run(cluster.recoup(fixed).args(["--store", store])).json();
        assert!(result["rto_seconds"].is_number(), "{result}");
        result
    };
    // A store that is slow to give a file of the log is not waited for: one that is right does it alone in time.
    let alone = |store: &str| {
        let is_alone = |result: Value| result["stores_used"] == json!([store]) && result["went_round"] == json!([]);
        assert!((0..3).map(|_| from(store)).any(is_alone), "{store}");
    };
    ["a", "b"].into_iter().for_each(alone);
    let files = log_files(&cluster, "b");
    assert!(!files.is_empty());
    files.iter().for_each(|file| fs::write(file, b"damaged").unwrap());
    let result = from("b");
    let used: Vec<&str> = result["stores_used"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(used.len() > 1 && used.contains(&"b"), "{result}");
    let found = problems(&result, "b");
    assert!(!found.is_empty() && found.iter().all(|(object, _)| object.contains("/log/")), "{result}");
    // What the records of the log are read from counts as well.
    files.iter().for_each(|file| fs::remove_dir_all(file.parent().unwrap()).unwrap_or_default());
    assert_ne!(from("b")["stores_used"], json!(["b"]));
    alone("c");
}
