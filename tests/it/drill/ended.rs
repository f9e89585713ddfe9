//! However a drill ends, its end is on record and says so.

use super::{
    ENDLESS, POLICY, assert_no_plaintext, body_of, damage_pack, drill, drill_command, newest_pair, records_on,
    set_policy, site_with, until_restored,
};
use crate::{
    full_disk::Disk,
    house::set_mode,
    site::{Site, names_in},
    support::run,
};
use rusqlite::Connection;
use serde_json::Value;
use std::{
    fs,
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
    time::Duration,
};

/// The result of a drill that ended so, as the stores have it on record.
#[track_caller]
fn ended(site: &Site, arguments: &[&str], code: i32, verdict: &str, recorded: &str) -> Value {
    let done = drill(site, arguments).expect_code(code);
    let result = done.json();
    assert_eq!(result["verdict"], verdict, "{done:?}");
    let (start, end) = newest_pair(site, "b", "drill");
    assert_eq!(end["verdict"], recorded, "{end}");
    assert_eq!(start["number"], result["evidence"]["start"]);
    assert_eq!(body_of(site, "b", &end).result["verdict"], verdict);
    assert_no_plaintext(site);
    result
}

#[test]
fn planted_faults_fail_the_checks() {
    let site = site_with(POLICY);
    let ledger = Connection::open(site.ledger()).unwrap();
    ledger.execute_batch("update posting set amount_minor = amount_minor + 1 where rowid = 1").unwrap();
    drop(ledger);
    site.run(&["backup"]).expect_code(0);
    // A moment after the newest snapshot.
    let now = recoup::world::World::real().now().to_string();
    let result = ended(&site, &["--disaster-at", &now], 2, "fail-integrity", "failed");
    let failed: Vec<&Value> =
        result["checks"].as_array().unwrap().iter().filter(|check| check["status"] == "failed").collect();
    assert_eq!(failed.len(), 1, "{result}");
    assert_eq!(failed[0]["name"], "every transfer balances");
    assert_eq!(result["drawn_at_random"], false);
    assert!(result["limits"].to_string().contains("was chosen, not drawn"), "{result}");
}

#[test]
fn what_a_failed_assertion_finds_is_counted_and_never_shown() {
    let assertion = |name: &str, query: &str, expect: &str| {
        format!("[[drill.assert]]\nname = \"{name}\"\nquery = \"{query}\"\nexpect = \"{expect}\"\n")
    };
    let policy = [
        assertion("nobody is excluded", "select name, street from player", "no rows"),
        assertion("the first player", "select name from player limit 1", "nobody"),
    ];
    let site = site_with(&policy.concat());
    let ledger = Connection::open(site.ledger()).unwrap();
    let people =
        "create table player (name, street); insert into player values ('Ada Lovelace', 'Baker Street'), ('B', 'C')";
    ledger.execute_batch(people).unwrap();
    drop(ledger);
    site.run(&["backup"]).expect_code(0);
    let now = recoup::world::World::real().now().to_string();
    let done = drill(&site, &["--disaster-at", &now]).expect_code(2);
    let checks = done.json()["checks"].clone();
    let found = |name: &str| {
        let check = checks.as_array().unwrap().iter().find(|check| check["name"] == name);
        check.map(|check| (check["status"].clone(), check["actual"].clone()))
    };
    assert_eq!(found("nobody is excluded"), Some(("failed".into(), "2 rows".into())));
    assert_eq!(found("the first player"), Some(("failed".into(), "another value".into())));
    let shows = |text: &str| text.contains("Lovelace") || text.contains("Baker");
    assert!(done.stderr.contains("2 rows") && !shows(&done.stderr) && !shows(&done.stdout), "{done:?}");
    let (_, end) = newest_pair(&site, "b", "drill");
    let body = serde_json::to_string(&body_of(&site, "b", &end)).unwrap();
    assert!(body.contains("2 rows") && !shows(&body) && !shows(&end.to_string()), "{body}");
    let report = site.path().join("report");
    let mut command = site.command(&["report", "ledger", "--out"]);
    run(command.arg(&report)).expect_code(0);
    let told = fs::read_to_string(report.join("report.json")).unwrap();
    assert!(told.contains("2 rows"), "{told}");
    for name in names_in(&report) {
        let text = fs::read(report.join(&name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(!text.is_ok_and(|text| shows(&text)), "{name}");
    }
}

#[test]
fn what_is_lost_misses_the_objective() {
    let site = site_with(&POLICY.replace("1d", "1s"));
    std::thread::sleep(Duration::from_millis(1_100));
    let now = recoup::world::World::real().now().to_string();
    let result = ended(&site, &["--disaster-at", &now], 2, "fail-objective", "failed");
    assert!(result["rpo_seconds"].as_f64().unwrap() > 1.0, "{result}");
}

#[test]
fn damage_is_gone_round_or_named() {
    let site = site_with(POLICY);
    damage_pack(&site, "a");
    let result = ended(&site, &["--store", "a"], 1, "passed", "warning");
    assert_eq!(
        (&result["went_round"][0]["store"], &result["went_round"][0]["problem"]),
        (&"a".into(), &"damaged".into())
    );
    for store in ["b", "c"] {
        damage_pack(&site, store);
    }
    let result = ended(&site, &[], 2, "fail-completeness", "failed");
    assert!(result["failure"].as_str().unwrap().contains("0.age"), "{result}");
    assert_eq!((&result["rpo_seconds"], &result["rto_seconds"]), (&Value::Null, &Value::Null));
    assert_eq!(result["limits"].as_array().unwrap().len(), 1, "{result}");
}

#[test]
fn what_is_refused_is_on_record() {
    let site = site_with(POLICY);
    let state = site.path().join("host/state");
    let mut command = site.command(&["drill", "ledger", "--json", "--identity"]);
    let refused = run(command.arg(site.path().join("host/catalogue.age"))).expect_code(3);
    assert_eq!(refused.json()["verdict"], "refused", "{refused:?}");
    assert!(refused.stderr.contains("does not open") && refused.stderr.contains("next: "), "{refused:?}");
    assert_eq!(newest_pair(&site, "c", "drill").1["verdict"], "refused");
    let result = ended(&site, &["--disaster-at", "2020-01-01T00:00:00Z"], 3, "refused", "refused");
    assert!(result["failure"].as_str().unwrap().contains("before the first snapshot"), "{result}");
    assert_no_plaintext(&site);
    assert_eq!(names_in(&state.join("evidence/running")), [] as [&str; 0]);
}

#[test]
fn a_source_that_is_not_configured_here_is_judged_by_the_policy_in_its_snapshot() {
    let site = site_with(POLICY);
    let text = fs::read_to_string(site.config()).unwrap();
    fs::write(site.config(), &text[..text.find("[[source]]").unwrap()]).unwrap();
    let result = ended(&site, &[], 0, "passed", "passed");
    assert_eq!(result["rpo_policy_seconds"], 86_400);
    assert_eq!(result["checks"].as_array().unwrap().last().unwrap()["name"], "every transfer balances");
    assert!(result["exceptions"].to_string().contains("kept with the snapshot"), "{result}");
    assert!(result["limits"].to_string().contains("the policy came from the snapshot"), "{result}");
}

#[test]
fn a_store_that_is_down_is_gone_round() {
    let site = site_with(POLICY);
    fs::rename(site.store("a"), site.path().join("away")).unwrap();
    let result = ended(&site, &["--store", "a"], 1, "passed", "warning");
    assert_eq!(result["went_round"][0]["problem"], "unreachable");
    assert!(result["went_round"].as_array().unwrap().iter().all(|round| round["store"] == "a"), "{result}");
}

#[test]
fn bad_usage_leaves_no_record() {
    let site = site_with(POLICY);
    let inside = site.store("b").join("scratch");
    let full = site.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("precious"), "").unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["--disaster-at", "2999-01-01T00:00:00Z"], "lies in the future"),
        (&["--disaster-at", "yesterday"], "is not a moment"),
        (&["--scratch", inside.to_str().unwrap()], "it lies in store b"),
        (&["--keep", "--to", full.to_str().unwrap()], "it is not empty"),
        (&["--to", "out"], "--keep"),
    ];
    for (arguments, part) in cases {
        let refused = drill(&site, arguments).expect_code(3);
        assert!(refused.stderr.contains(part) && refused.stderr.contains("next: "), "{refused:?}");
        assert_eq!(refused.json()["schema"], "recoup.error/1");
    }
    let identity = site.identity().display().to_string();
    for (source, identity, part) in [
        ("ledgre", identity.as_str(), "there is no source ledgre"),
        ("ledger", &format!("{identity}x"), "custodian.agex cannot be used"),
        ("ledger", site.config().to_str().unwrap(), "cannot be used"),
    ] {
        let mistyped = site.run(&["drill", source, "--json", "--identity", identity]).expect_code(3);
        assert!(mistyped.stderr.contains(part) && mistyped.stderr.contains("next: "), "{mistyped:?}");
        assert_eq!(mistyped.json()["schema"], "recoup.error/1");
    }
    assert_eq!(records_on(&site, "a", "drill"), [] as [Value; 0]);
    assert_no_plaintext(&site);
}

#[test]
fn plaintext_that_is_kept_is_on_record() {
    let site = site_with(POLICY);
    let out = site.path().join("out");
    let done = drill(&site, &["--keep", "--to", out.to_str().unwrap()]).expect_code(0);
    assert_eq!(names_in(&out), ["ledger.db"]);
    let result = done.json();
    assert_eq!(result["scratch"], serde_json::json!({ "directory": out, "removed": false }));
    let (_, end) = newest_pair(&site, "a", "drill");
    let exceptions = body_of(&site, "a", &end).result["exceptions"].to_string();
    assert!(exceptions.contains("plaintext was kept in"), "{exceptions}");
    assert_no_plaintext(&site);
    // What lies there is nobody's to remove any more.
    drill(&site, &[]).expect_code(0);
    assert_eq!(names_in(&out), ["ledger.db"]);
}

#[test]
fn stores_that_are_down_refuse_the_drill_and_get_its_records_later() {
    let site = site_with(POLICY);
    for store in ["a", "c"] {
        fs::rename(site.store(store), site.path().join(format!("{store}-away"))).unwrap();
    }
    let refused = drill(&site, &[]).expect_code(3);
    assert!(refused.stderr.contains("the start of the drill is not on enough stores"), "{refused:?}");
    assert_no_plaintext(&site);
    for store in ["a", "c"] {
        fs::rename(site.path().join(format!("{store}-away")), site.store(store)).unwrap();
    }
    drill(&site, &[]).expect_code(0);
    for store in ["a", "b", "c"] {
        let records = records_on(&site, store, "drill");
        let verdicts: Vec<&str> = records.iter().map(|record| record["verdict"].as_str().unwrap()).collect();
        assert_eq!(verdicts, ["pending", "refused", "pending", "passed"], "{store}");
    }
}

#[test]
fn a_full_disk_refuses_the_drill() {
    let site = Site::new(20_000, &["a", "b", "c"]);
    set_policy(&site, POLICY);
    site.run(&["backup"]).expect_code(0);
    let small = site.path().join("small");
    let Some(_disk) = Disk::mount(&small, "size=64k") else { return };
    set_mode(&small, 0o700);
    let result = ended(&site, &["--scratch", small.to_str().unwrap()], 3, "refused", "refused");
    assert!(result["failure"].as_str().unwrap().contains("no room"), "{result}");
    assert_eq!(names_in(&small), [] as [&str; 0]);
}

#[test]
fn an_interrupted_drill_ends_as_aborted() {
    let site = site_with(ENDLESS);
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let mut child = drill_command(&site, &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until_restored(&site, &mut child);
        Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap();
        let output = child.wait_with_output().unwrap();
        let shown = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), output.status.signal()), (Some(code), None), "{shown}");
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(result["verdict"], "aborted", "{result}");
        let (_, end) = newest_pair(&site, "a", "drill");
        assert_eq!(end["verdict"], "aborted");
        assert_no_plaintext(&site);
    }
}

#[test]
fn logs_are_tried_out_too() {
    let site = site_with("rpo = \"1d\"\n");
    let logs = site.path().join("logs");
    fs::create_dir(&logs).unwrap();
    fs::write(logs.join("access.log"), "one line\n").unwrap();
    let text = fs::read_to_string(site.config()).unwrap();
    let source = format!("\n[[source]]\nname = \"audit\"\nkind = \"log\"\npath = \"{}\"\n", logs.display());
    fs::write(site.config(), text + &source).unwrap();
    site.run(&["backup", "audit"]).expect_code(0);
    let identity = site.identity();
    let drill = |more: &[&str]| {
        let arguments = ["drill", "audit", "--json", "--identity", identity.to_str().unwrap()];
        site.run(&[&arguments[..], more].concat())
    };
    let result = drill(&[]).expect_code(0).json();
    let checks: Vec<&Value> = result["checks"].as_array().unwrap().iter().map(|check| &check["name"]).collect();
    assert_eq!(checks, ["blocks", "files"], "{result}");
    assert!(result["limits"].to_string().contains("kind log have no checks of their own"), "{result}");
    let inside = logs.join("scratch");
    let refused = drill(&["--scratch", inside.to_str().unwrap()]).expect_code(3);
    assert!(refused.stderr.contains("it lies in source audit") && !inside.exists(), "{refused:?}");
    assert_no_plaintext(&site);
}
