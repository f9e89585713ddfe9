//! Drills: what they measure and judge, and that no attempt goes without its signed records.

mod ended;
mod killed;
mod order;
mod restores;
mod stores;

use crate::{
    needs::needs,
    site::{Site, names_in, sha256_of},
    support::{Run, program, run},
};
use recoup::{
    core::evidence::Body,
    format::{
        evidence,
        seal::{Identities, open_small},
    },
    world::Stopwatch,
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

/// A policy that a healthy ledger meets.
pub(super) const POLICY: &str = r#"rpo = "1d"
rto = "1h"
[schedule]
incremental = "1h"
[[drill.assert]]
name = "every transfer balances"
query = "select transfer from posting group by transfer having sum(amount_minor) <> 0"
expect = "no rows"
"#;

/// A policy with a query that goes on until somebody stops it.
pub(super) const ENDLESS: &str = r#"[[drill.assert]]
name = "endless"
query = "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n"
expect = "no rows"
"#;

/// A site with one snapshot, under a policy.
pub(super) fn site_with(policy: &str) -> Site {
    let site = Site::new(2_000, &["a", "b", "c"]);
    set_policy(&site, policy);
    site.run(&["backup"]).expect_code(0);
    site
}

pub(super) fn set_policy(site: &Site, policy: &str) {
    fs::write(policy_file(site), policy).unwrap();
}

fn policy_file(site: &Site) -> PathBuf {
    site.path().join("host/policies/default.toml")
}

pub(super) fn drill_command(site: &Site, arguments: &[&str]) -> Command {
    let mut command = site.command(&["drill", "ledger", "--json", "--identity"]);
    command.arg(site.identity()).args(arguments);
    command
}

pub(super) fn drill(site: &Site, arguments: &[&str]) -> Run {
    run(&mut drill_command(site, arguments))
}

/// The records of one action that a store shows, chain by chain, in order.
pub(super) fn records_on(site: &Site, store: &str, action: &str) -> Vec<Value> {
    let folder = site.store(store).join("evidence");
    let mut records = Vec::new();
    for writer in names_in(&folder) {
        for name in names_in(&folder.join(&writer)).iter().filter(|name| name.ends_with(".json")) {
            let record: Value = serde_json::from_slice(&fs::read(folder.join(&writer).join(name)).unwrap()).unwrap();
            if record["action"] == action {
                records.push(record);
            }
        }
    }
    records
}

/// The start and the end of the newest drill or restore, as a store shows them.
#[track_caller]
pub(super) fn newest_pair(site: &Site, store: &str, action: &str) -> (Value, Value) {
    let records = records_on(site, store, action);
    let [.., start, end] = &records[..] else { panic!("no start and end in {records:?}") };
    assert_eq!((&start["phase"], &start["verdict"]), (&"start".into(), &"pending".into()));
    assert_eq!((&end["phase"], &end["closes"]), (&"end".into(), &start["number"]));
    (start.clone(), end.clone())
}

/// What a record keeps sealed.
pub(super) fn body_of(site: &Site, store: &str, record: &Value) -> Body {
    let name = format!("{:010}.age", record["number"].as_u64().unwrap());
    let path = site.store(store).join("evidence").join(record["writer"].as_str().unwrap()).join(name);
    assert_eq!(sha256_of(&path), record["body"]["sha256"].as_str().unwrap());
    let identities = Identities::parse(&fs::read_to_string(site.identity()).unwrap()).unwrap();
    let opened = open_small(&identities, &fs::read(path).unwrap(), evidence::MAX_RAW_BODY_BYTES).unwrap();
    evidence::parse_body(&opened).unwrap()
}

/// Directories with plaintext of drills below the state directory.
pub(super) fn scratch_left(site: &Site) -> Vec<String> {
    names_in(&site.path().join("host/state/scratch"))
}

/// Waits until a drill under way has restored the ledger, and returns the directory that has it.
pub(super) fn until_restored(site: &Site, child: &mut Child) -> PathBuf {
    let scratch = site.path().join("host/state/scratch");
    let patience = Stopwatch::start();
    loop {
        let restored = names_in(&scratch).into_iter().map(|name| scratch.join(name));
        if let Some(found) = restored.into_iter().find(|directory| directory.join("ledger.db").exists()) {
            return found;
        }
        assert!(patience.seconds() < 60.0 && child.try_wait().unwrap().is_none(), "nothing was restored");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[track_caller]
pub(super) fn assert_no_plaintext(site: &Site) {
    assert_eq!(names_in(&site.path().join("host/state")), ["evidence", "sources"]);
}

/// Flips a bit near the end of the newest pack on a store.
pub(super) fn damage_pack(site: &Site, store: &str) {
    let packs = site.store(store).join("sources/ledger/packs");
    let path = packs.join(&names_in(&packs)[0]).join("0.age");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_drill_measures_and_proves() {
    let site = site_with(POLICY);
    let done = drill(&site, &["--reason", "quarterly drill"]).expect_code(0);
    let result = done.json();
    assert_eq!((&result["schema"], &result["verdict"]), (&"recoup.drill/1".into(), &"passed".into()), "{result}");
    assert_eq!(result["drawn_at_random"], true);
    assert_eq!((&result["rpo_policy_seconds"], &result["rto_policy_seconds"]), (&86_400.into(), &3_600.into()));
    let phases: Vec<&str> =
        result["phases"].as_array().unwrap().iter().map(|phase| phase["name"].as_str().unwrap()).collect();
    assert_eq!(phases, ["locate", "manifest", "restore", "publish", "check", "assert"]);
    let seconds: f64 =
        result["phases"].as_array().unwrap().iter().map(|phase| phase["seconds"].as_f64().unwrap()).sum();
    let rto = result["rto_seconds"].as_f64().unwrap();
    assert!(seconds > 0.0 && seconds <= rto && rto < 3_600.0, "{result}");
    let moment = |field: &str| result[field].as_str().unwrap().parse::<recoup::core::time::Timestamp>().unwrap();
    let lost = moment("disaster_at").seconds_since(moment("read_started_at"));
    assert!(lost >= 0.0 && result["rpo_seconds"] == lost, "{result}");
    let checks: Vec<&str> =
        result["checks"].as_array().unwrap().iter().map(|check| check["name"].as_str().unwrap()).collect();
    assert_eq!(checks, ["blocks", "files", "integrity_check", "foreign_key_check", "every transfer balances"]);
    assert_eq!(result["files"], 1);
    assert_eq!(result["stores_used"], serde_json::json!([result["read_first"]]));
    assert_eq!(result["scratch"]["removed"], true);
    let texts = |field: &str| result[field].to_string();
    assert!(texts("exceptions").contains("also signs the snapshots"), "{result}");
    for part in ["only one snapshot", "everything was read from", "people", "same host", "fingerprints"] {
        assert!(texts("limits").contains(part), "{part}: {result}");
    }
    assert!(!texts("limits").contains("no assertions"), "{result}");
    assert_no_plaintext(&site);

    let inventory = site.store("a").join("sources/ledger/snapshots").join(result["snapshot"].as_str().unwrap());
    let inventory = sha256_of(&inventory.join("inventory.json"));
    for store in ["a", "b", "c"] {
        let (start, end) = newest_pair(&site, store, "drill");
        assert_eq!(end["verdict"], "passed");
        for record in [&start, &end] {
            let subject = &record["subjects"][0];
            assert_eq!((&subject["source"], &subject["snapshot"]), (&"ledger".into(), &result["snapshot"]));
            assert_eq!(subject["inventory_sha256"], inventory.as_str());
            assert_eq!(subject["policy_sha256"], sha256_of(&policy_file(&site)).as_str());
            assert_eq!(record["measured"]["disaster_at"], result["disaster_at"]);
        }
        assert_eq!(start["measured"]["rpo_seconds"], Value::Null);
        assert_eq!(end["measured"]["rpo_seconds"], result["rpo_seconds"]);
        assert_eq!(end["measured"]["rto_seconds"], result["rto_seconds"]);
        assert_eq!((&start["number"], &end["number"]), (&result["evidence"]["start"], &result["evidence"]["end"]));
        let body = body_of(&site, store, &end);
        let mut told = result.clone();
        told["evidence"]["end"] = Value::Null;
        assert_eq!(body.result, told, "the sealed body holds the very result");
        assert_eq!(body.reason.as_deref(), Some("quarterly drill"));
        let window = &body_of(&site, store, &start).result["drawn_from"];
        assert!(window["from"].as_str().unwrap() <= result["disaster_at"].as_str().unwrap(), "{window}");
    }
    let text = site.run(&["drill", "ledger", "--identity", site.identity().to_str().unwrap()]).expect_code(0).stdout;
    assert!(text.starts_with("passed: ledger lost ") && text.contains("\n  evidence   records "), "{text}");
}

#[test]
fn stock_programs_verify_the_records() {
    if !needs("ssh-keygen") {
        return;
    }
    let site = site_with(POLICY);
    drill(&site, &[]).expect_code(0);
    let repository = fs::read_to_string(site.config()).unwrap();
    let repository =
        repository.lines().find_map(|line| line.strip_prefix("id = ")).unwrap().trim_matches('"').to_owned();
    let folder = site.store("b").join("evidence");
    let folder = folder.join(&names_in(&folder)[0]);
    let records: Vec<String> = names_in(&folder).into_iter().filter(|name| name.ends_with(".json")).collect();
    assert!(records.len() >= 4, "{records:?}");
    let verify = |record: &Path| {
        let signers = site.path().join("host/allowed_signers");
        let line = "ssh-keygen -Y verify -f \"$0\" -I \"$1\" -n recoup-evidence -s \"$2\" < \"$3\"";
        let mut shell = program("sh", site.path());
        shell.args(["-c", line]).arg(signers).arg(format!("evidence@{repository}"));
        run(shell.arg(record.with_extension("sig")).arg(record)).code
    };
    for name in &records {
        assert_eq!(verify(&folder.join(name)), 0, "{name}");
    }
    let forged = folder.join(&records[0]);
    fs::write(&forged, fs::read_to_string(&forged).unwrap().replace("passed", "failed")).unwrap();
    assert_ne!(verify(&forged), 0);
}

#[test]
fn a_plan_shows_what_would_be_done_and_does_nothing() {
    let site = site_with(POLICY);
    let before = records_on(&site, "a", "drill");
    let plan = drill(&site, &["--dry-run"]).expect_code(0).json();
    let steps = plan["steps"].to_string();
    assert_eq!(plan["command"], "drill");
    for part in [
        "drawn at random between",
        "on 2 stores or more",
        "from a store drawn at random",
        "1 assertions",
        "remove what was restored",
    ] {
        assert!(steps.contains(part), "{part}: {steps}");
    }
    assert_eq!(records_on(&site, "a", "drill"), before);
    assert_no_plaintext(&site);
}
