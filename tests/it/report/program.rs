//! The real program: a report of a real repository, checked with stock tools, and tampered with.

use crate::{
    needs::needs,
    site::{Site, files_below, names_in, sha256_of},
    support::{Run, program, run},
};
use recoup::{
    config,
    core::{
        evidence::{Action, Draft, Measured, Subject, Verdict},
        time::Timestamp,
    },
    ops::{evidence::Recorder, open},
    world::World,
};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const POLICY: &str = "rpo = \"1d\"\nrto = \"1h\"\n[drill]\nevery = \"7d\"\n";

/// A site with a snapshot and a policy that promises something.
fn site() -> Site {
    let site = Site::new(40, &["a", "b"]);
    fs::write(site.path().join("host/policies/default.toml"), POLICY).unwrap();
    site.run(&["backup"]).expect_code(0);
    site
}

/// A drill as it leaves evidence.
#[derive(Clone, Copy)]
enum Drilled {
    Passed,
    NoEnd,
}

/// Records a drill as the program would.
fn drill(site: &Site, drilled: Drilled) {
    let settings = config::load(&site.config()).unwrap();
    let world = World::real();
    let host = open::open_host(&settings, &world).unwrap();
    let recorder = Recorder::new(&host, &settings);
    let now = world.now();
    let measured = |rpo_seconds, rto_seconds| {
        Some(Measured { disaster_at: now, drawn_at_random: false, rpo_seconds, rto_seconds, stores_used: Vec::new() })
    };
    let mut begin = Draft::new(Action::Drill, Verdict::Pending, now);
    begin.subjects = vec![Subject::new("ledger".parse().unwrap(), Verdict::Pending)];
    begin.measured = measured(None, None);
    let started = recorder.start(begin, None).unwrap();
    if matches!(drilled, Drilled::Passed) {
        let mut end = Draft::new(Action::Drill, Verdict::Passed, now);
        end.measured = measured(Some(2.5), Some(1.25));
        end.result = result(now, started.recorded.head.number);
        recorder.end(started, end).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let shipped = runtime.block_on(recorder.ship());
    assert_eq!(shipped.behind, Vec::new());
}

fn result(at: Timestamp, start: u64) -> Value {
    json!({
        "schema": "recoup.drill/1", "source": "ledger", "verdict": "pass", "rpo_seconds": 2.5, "rto_seconds": 1.25,
        "rpo_policy_seconds": 86_400, "rto_policy_seconds": 3_600, "disaster_at": at, "drawn_at_random": false,
        "started_at": at, "ended_at": at, "snapshot": null, "inventory_sha256": null, "read_started_at": null,
        "policy_sha256": null, "files": 1, "bytes": 4_096, "phases": [{ "name": "fetch", "seconds": 1.25 }],
        "checks": [{ "name": "integrity_check", "status": "passed", "expected": "ok", "actual": "ok" }],
        "went_round": [], "exceptions": [], "limits": [], "failure": null,
        "evidence": { "writer": "aaaaaaaaaaaaaaaa", "start": start, "end": null },
        "a_field_of_a_later_version": true,
    })
}

fn report(site: &Site, out: &str, code: i32) -> Run {
    let mut command = site.command(&["report", "ledger", "--json", "--out"]);
    run(command.arg(site.path().join(out))).expect_code(code)
}

fn verify(directory: &Path, code: i32) -> Value {
    let mut command = crate::support::recoup(directory);
    run(command.args(["report", "--json", "--verify", "."])).expect_code(code).json()
}

fn json_of(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_report_is_made_recorded_and_checked() {
    let site = site();
    drill(&site, Drilled::Passed);
    let made = report(&site, "first", 0).json();
    let first = site.path().join("first");
    assert_eq!(made["schema"], "recoup.report/1");
    assert_eq!((&made["verdict"], &made["warnings"]), (&json!("passed"), &json!([])));
    assert_eq!(made["report_sha256"], json!(sha256_of(&first.join("report.json"))));
    let names =
        ["README.txt", "SHA256SUMS", "allowed_signers", "evidence", "report.html", "report.json", "report.json.sig"];
    assert_eq!(names_in(&first), names);
    let written = json_of(&first.join("report.json"));
    assert_eq!(written["format"], "recoup-report/1");
    let drill = &written["drills"][0];
    assert_eq!((&drill["rpo_seconds"], &drill["detail"]["phases"][0]["name"]), (&json!(2.5), &json!("fetch")));
    assert_eq!(written["snapshots"].as_array().unwrap().len(), 1);
    assert_eq!(written["head"]["previous"], Value::Null);
    let checked = verify(&first, 0);
    assert_eq!(
        (&checked["valid"], &checked["problems"], &checked["verdict"]),
        (&json!(true), &json!([]), &json!("passed"))
    );
    assert_eq!(checked["signer"], written["authority"]["signer"]);
    assert_eq!(made["found"], written["findings"]);
    // The next one names the one before by its digest.
    report(&site, "second", 0);
    let second = json_of(&site.path().join("second/report.json"));
    assert_eq!(second["head"]["previous"]["report_sha256"], made["report_sha256"]);
    verify(&site.path().join("second"), 0);
}

#[test]
fn stock_tools_check_it_as_the_text_beside_it_says() {
    if !needs("ssh-keygen") || !needs("sha256sum") {
        return;
    }
    let site = site();
    drill(&site, Drilled::Passed);
    report(&site, "out", 0);
    let out = site.path().join("out");
    let readme = fs::read_to_string(out.join("README.txt")).unwrap();
    let commands: Vec<&str> = readme.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    assert_eq!(commands.len(), 4, "{readme}");
    let stock = |command: &str| run(program("sh", &out).args(["-c", command]));
    for command in commands.iter().filter(|command| !command.starts_with("recoup ")) {
        stock(command).expect_code(0);
    }
    // None of them is idle: each finds what it is for.
    let verifies = |name: &str| {
        let is_for = |command: &&&str| command.contains(name);
        assert_ne!(stock(commands.iter().find(is_for).unwrap()).code, 0, "{name}");
    };
    let record =
        files_below(&out.join("evidence")).into_iter().find(|path| path.extension().unwrap() == "json").unwrap();
    append(&record, " ");
    verifies("evidence/");
    verifies("SHA256SUMS");
    append(&out.join("report.json"), " ");
    verifies("report.json.sig");
}

fn append(path: &Path, text: &str) {
    let bytes = [fs::read(path).unwrap(), text.as_bytes().to_vec()].concat();
    fs::write(path, bytes).unwrap();
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} is not in {}", path.display());
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn everything_that_was_tampered_with_is_found() {
    let site = site();
    drill(&site, Drilled::Passed);
    report(&site, "out", 0);
    let out = site.path().join("out");
    type Change = fn(&Path);
    fn record(out: &Path, ending: &str) -> PathBuf {
        files_below(&out.join("evidence")).into_iter().find(|path| path.extension().unwrap() == ending).unwrap()
    }
    let cases: &[(&str, Change)] = &[
        ("does not match", |out| replace(&out.join("report.json"), "\"rto_seconds\": 1.25", "\"rto_seconds\": 1.05")),
        ("drills are not what", |out| {
            replace(&out.join("report.json"), "\"rto_seconds\": 1.25", "\"rto_seconds\": 1.05")
        }),
        ("verdict does not follow", |out| {
            replace(&out.join("report.json"), "\"verdict\": \"passed\"\n}", "\"verdict\": \"fail-integrity\"\n}")
        }),
        ("limits do not follow", |out| replace(&out.join("report.json"), "\"human-phases\"", "\"other\"")),
        ("report.html is not what", |out| replace(&out.join("report.html"), "✓ Passed", "✓ Fine")),
        ("README.txt is not what", |out| append(&out.join("README.txt"), "more\n")),
        ("SHA256SUMS has not", |out| append(&out.join("SHA256SUMS"), "more\n")),
        ("does not match", |out| append(&record(out, "json"), " ")),
        ("cannot be read", |out| fs::remove_file(record(out, "json")).unwrap()),
        ("malformed", |out| fs::write(record(out, "sig"), "rubbish").unwrap()),
        ("is not among the records", |out| fs::write(out.join("evidence/extra.json"), "{}").unwrap()),
        ("does not belong", |out| fs::write(out.join("report.pdf"), "").unwrap()),
        ("signers cannot be used", |out| fs::write(out.join("allowed_signers"), [0xff, b'x']).unwrap()),
        ("report.json cannot be read", |out| fs::remove_file(out.join("report.json")).unwrap()),
        ("report.json", |out| fs::write(out.join("report.json"), "[]").unwrap()),
        ("report.json.sig cannot be read", |out| fs::remove_file(out.join("report.json.sig")).unwrap()),
    ];
    for (number, (problem, change)) in cases.iter().enumerate() {
        let copy = site.path().join(format!("copy-{number}"));
        run(program("cp", site.path()).arg("-a").arg(&out).arg(&copy)).expect_code(0);
        change(&copy);
        let found = verify(&copy, 2);
        assert_eq!(found["valid"], json!(false));
        let problems = found["problems"].to_string();
        assert!(problems.contains(problem), "{problem:?} is not among {problems}");
    }
    // Signers of one's own decide, not those that came along.
    let stranger = recoup::format::signature::HostKey::generate([9; 32], "stranger").signers_line("*", &["recoup-*"]);
    fs::write(site.path().join("strangers"), stranger).unwrap();
    let mut command = site.command(&["report", "--json", "--verify"]);
    let found = run(command.arg(&out).arg("--signers").arg(site.path().join("strangers"))).expect_code(2).json();
    assert!(found["problems"].to_string().contains("not among the allowed signers"), "{found}");
}

#[test]
fn what_is_missing_is_said() {
    let site = site();
    drill(&site, Drilled::Passed);
    drill(&site, Drilled::NoEnd);
    // What enough stores show is remembered.
    let checked = run(&mut site.command(&["check", "--json"])).json();
    assert_eq!(checked["schema"], "recoup.check/1");
    // A store is down: the report is made all the same.
    fs::rename(site.store("b"), site.path().join("away")).unwrap();
    let made = report(&site, "down", 1).json();
    assert_eq!(made["verdict"], "inconclusive");
    assert!(made["warnings"].to_string().contains("store b"), "{made}");
    let written = json_of(&site.path().join("down/report.json"));
    let ids =
        |key: &str| written[key].as_array().unwrap().iter().map(|entry| entry["id"].to_string()).collect::<Vec<_>>();
    for id in ["\"store-down\"", "\"drill-without-end\""] {
        assert!(ids("findings").contains(&id.to_owned()), "{id} is not among {:?}", ids("findings"));
    }
    assert!(ids("limits").contains(&"\"stores-down\"".to_owned()));
    verify(&site.path().join("down"), 0);
    // Without any store, and without the key to the bodies, it still says what it lacks.
    fs::rename(site.store("a"), site.path().join("away-too")).unwrap();
    fs::remove_file(site.path().join("host/catalogue.age")).unwrap();
    report(&site, "alone", 1);
    let alone = json_of(&site.path().join("alone/report.json"));
    assert_eq!(alone["evidence"]["complete"], json!(false));
    assert_eq!(
        alone["evidence"]["shortened"].as_array().unwrap().len(),
        1,
        "what is kept here shows that there was more"
    );
    verify(&site.path().join("alone"), 0);
}

#[test]
fn bodies_are_opened_with_the_identity_where_the_host_cannot() {
    let site = site();
    drill(&site, Drilled::Passed);
    fs::remove_file(site.path().join("host/catalogue.age")).unwrap();
    report(&site, "closed", 0);
    let detail = |out: &str| json_of(&site.path().join(out).join("report.json"))["drills"][0].clone();
    assert_eq!(detail("closed")["detail"], Value::Null);
    assert!(detail("closed")["not_opened"].is_string());
    let mut command: Command = site.command(&["report", "ledger", "--json", "--out"]);
    run(command.arg(site.path().join("opened")).arg("--identity").arg(site.identity())).expect_code(0);
    assert_eq!(detail("opened")["detail"]["checks"][0]["name"], "integrity_check");
    assert_eq!(detail("opened")["not_opened"], Value::Null);
}

#[test]
fn unfit_requests_are_refused() {
    let site = site();
    let out = |name: &str| site.path().join(name).display().to_string();
    fs::create_dir(site.path().join("full")).unwrap();
    fs::write(site.path().join("full/file"), "").unwrap();
    fs::create_dir(site.path().join("half")).unwrap();
    fs::write(site.path().join("half/README.txt"), "").unwrap();
    fs::create_dir(site.path().join("empty")).unwrap();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["report", "ledger", "--out", &out("full")], 17, "not empty"),
        (&["report", "ledger", "--out", &out("half")], 17, "not finished"),
        (&["report", "wallet", "--out", &out("new")], 64, "no source wallet"),
        (&["report", "ledger"], 64, "--out"),
        (&["report", "--verify", &out("full"), "--out", &out("new")], 64, "--verify"),
        (&["report", "ledger", "--to", "2999-01-01T00:00:00Z", "--out", &out("new")], 64, "future"),
        (
            &[
                "report",
                "ledger",
                "--from",
                "2026-01-02T00:00:00Z",
                "--to",
                "2026-01-01T00:00:00Z",
                "--out",
                &out("new"),
            ],
            64,
            "empty",
        ),
        (&["report", "--verify", &out("empty")], 2, "NOT RIGHT"),
        (&["report", "--verify", &out("new")], 64, "there is no report at "),
        (&["report", "ledger", "--out", &out("empty")], 0, "verdict  inconclusive"),
    ];
    for (arguments, code, said) in cases {
        let run = site.run(arguments).expect_code(*code);
        assert!(format!("{}{}", run.stdout, run.stderr).contains(said), "{arguments:?}: {run:?}");
    }
    assert!(!site.path().join("new").exists());
    // A period without anything in it is no error.
    let mut command =
        site.command(&["report", "ledger", "--from", "1990-01-01T00:00:00Z", "--to", "1990-02-01T00:00:00Z", "--out"]);
    run(command.arg(out("past"))).expect_code(0);
    verify(&site.path().join("past"), 0);
}
