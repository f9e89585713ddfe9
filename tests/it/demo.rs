//! The demonstration, played by the real binary: what it prints, what it leaves, and whether that is true.

use crate::{
    needs::needs,
    support::{program, recoup, run},
};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
};

/// Where one demonstration plays, in a directory whose name a shell would take apart.
const DIR: &str = "it's a demo";

fn play(place: &Path) -> (Value, Value) {
    let played = run(recoup(place).args(["demo", "--json", "--dir", DIR])).expect_code(0);
    assert_eq!(played.stdout.lines().count(), 1, "{}", played.stdout);
    let result = played.json();
    let summary = fs::read_to_string(text(&result, "summary")).unwrap();
    (result, serde_json::from_str(&summary).unwrap())
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("{name} of {value}"))
}

fn number(ledger: &Connection, query: &str) -> i64 {
    ledger.query_row(query, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{query}: {error}"))
}

/// The restored ledger with the one at the disaster attached; nothing is trusted that the demonstration says.
fn open_both(result: &Value) -> Connection {
    let ledger =
        Connection::open_with_flags(text(result, "restored_ledger"), OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    ledger.execute("attach database ?1 as source", [text(result, "source_ledger")]).unwrap();
    ledger
}

#[test]
fn what_the_demonstration_says_is_true() {
    let place = tempfile::tempdir().unwrap();
    let (result, summary) = play(place.path());
    let dir = place.path().join(DIR);
    assert_eq!(text(&result, "schema"), "recoup.demo/1");
    assert_eq!(text(&result, "verdict"), "passed");
    assert_eq!(Path::new(text(&result, "dir")), dir);
    let log = fs::read(Path::new(text(&result, "restored_log")).join("audit.log")).unwrap();
    assert!(log == fs::read(dir.join("evidence/audit-before.log")).unwrap() && log.len() > 1_000_000);
    let holds =
        run(recoup(place.path()).arg("--config").arg(dir.join("host/recoup.toml")).args(["hold", "list", "--json"]));
    assert_eq!(holds.expect_code(0).json()["holds"][0]["cause"], "log-altered");
    let report: Value = serde_json::from_str(&fs::read_to_string(text(&result, "report")).unwrap()).unwrap();
    assert_eq!(
        (&report["verdict"], &report["drills"][0]["rpo_seconds"]),
        (&"passed".into(), &summary["drill"]["rpo_seconds"])
    );
    run(recoup(place.path()).args(["report", "--verify"]).arg(dir.join("report"))).expect_code(0);

    let ledger = open_both(&result);
    let count = |query: &str| number(&ledger, query);
    assert!(count("select count(*) from main.posting") > 200_000);
    assert_eq!(count("select count(*) from pragma_foreign_key_check"), 0);
    let unbalanced =
        "select count(*) from (select transfer from main.posting group by 1 having sum(amount_minor) <> 0)";
    assert_eq!(count(unbalanced), 0);
    for (table, columns) in [
        ("transfer", "id, reference, kind, player, bet, made_at"),
        ("posting", "id, transfer, account_id, amount_minor, posted_at, memo"),
    ] {
        let changed = format!(
            "select count(*) from (select {columns} from main.{table} except select {columns} from source.{table})"
        );
        assert_eq!(count(&changed), 0, "{table}");
    }
    let lost = count("select count(*) from source.transfer") - count("select count(*) from main.transfer");
    assert!(lost > 0, "the writer never stopped, so the last snapshot cannot have everything");
    assert_eq!(count("select max(id) - count(*) from main.transfer"), 0, "a transfer is absent");
    assert_eq!(summary["transfers_lost"], lost);

    let loss = "select (julianday(max(source.made_at)) - julianday((select max(made_at) from main.transfer))) * 86400.0
                from source.transfer source";
    let loss_seconds: f64 = ledger.query_row(loss, [], |row| row.get(0)).unwrap();
    let said = result["rpo_seconds"].as_f64().unwrap();
    assert!(said >= loss_seconds - 0.01 && said < loss_seconds + 10.0, "{said} is said, {loss_seconds} is so");
    let rto = result["rto_seconds"].as_f64().unwrap();
    assert!(rto > 0.0 && rto < 120.0, "{rto}");

    assert!(!dir.join("production").exists());
    assert_eq!(text(summary["went_round"].as_array().unwrap().last().unwrap(), "store"), "store-b");
    assert!(dir.join("store-b/quarantine").exists());
    for word in ["does_not_show", "how_measured", "checks", "snapshots", "head"] {
        assert!(!summary[word].is_null(), "{word}");
    }
    assert!(!fs::read_to_string(text(&result, "report")).unwrap().to_lowercase().contains("compliant"));

    let config = dir.join("host/recoup.toml");
    let verified = run(recoup(place.path()).arg("--config").arg(config).args(["verify", "--all", "--json"]));
    assert_eq!(text(&verified.expect_code(0).json(), "status"), "ok");
    run(recoup(place.path()).args(["demo", "--dir", DIR])).expect_code(17);
}

#[test]
fn the_line_that_is_printed_checks_the_summary_from_anywhere() {
    if !needs("ssh-keygen") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let played = run(recoup(place.path()).args(["demo", "--dir", DIR])).expect_code(0);
    let lines: Vec<&str> = played.stdout.lines().filter(|line| line.contains("ssh-keygen")).collect();
    let [line] = lines[..] else { panic!("{}", played.stdout) };
    assert!(line.starts_with("ssh-keygen -Y verify -f '/"), "{line}");
    let check = || run(program("sh", Path::new("/")).args(["-c", line]));
    let good = check().expect_code(0);
    assert!(good.stdout.contains("Good \"recoup-report\" signature for report@"), "{}", good.stdout);
    let summary = place.path().join(DIR).join("summary.json");
    let text = fs::read_to_string(&summary).unwrap();
    fs::write(&summary, text.replacen("\"pass", "\"Pass", 1)).unwrap();
    assert_ne!(check().code, 0, "an edited summary passed");
}

#[test]
fn an_interrupted_demonstration_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let mut child = recoup(place.path()).args(["demo", "--dir", DIR]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The writer is at work by now.
    while !lines.next().unwrap().unwrap().starts_with("keys") {}
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!place.path().join(DIR).exists());
}
