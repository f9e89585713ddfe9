//! Whole outputs, as people and plug-ins read them, without what differs from run to run.

use super::{ago, begin_drill, check, date_anew, drill, hold, promise, record, well};
use crate::{
    house::House,
    support::{Run, run},
};
use recoup::core::{
    evidence::{HoldCause, Verdict},
    id::{Sha256, SnapshotId},
    time::Timestamp,
};
use std::fs;

/// What a run printed and how it ended, without times, ids, keys, sizes and paths; columns by two spaces.
fn shown(house: &House, run: &Run) -> String {
    let text = format!("{}--- stderr\n{}--- exit code {}\n", run.stdout, run.stderr, run.code);
    let text = text.replace(house.path("").to_str().unwrap().trim_end_matches('/'), "HOUSE");
    let mut lines = String::new();
    for line in text.lines() {
        let indent: String = line.chars().take_while(|char| *char == ' ').collect();
        let words: Vec<String> = line.split_whitespace().map(known).collect();
        let mut words = words.join(" ");
        for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
            words = words.replace(&format!("<N> {unit}"), "<SIZE>");
        }
        lines.push_str(&format!("{indent}{words}\n"));
    }
    lines
}

fn known(word: &str) -> String {
    let bare = word.trim_matches(|char: char| "\"',:;()".contains(char));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let stands_for = if bare.parse::<Timestamp>().is_ok() {
        "<TIME>"
    } else if bare.parse::<SnapshotId>().is_ok() {
        "<SNAPSHOT>"
    } else if bare.parse::<Sha256>().is_ok() {
        "<SHA256>"
    } else if bare.starts_with("age1") || bare.starts_with("AAAA") {
        "<KEY>"
    } else if bare.contains(".exposure'=") {
        return word
            .split_once('=')
            .map(|(label, data)| format!("{label}=<N>{}", data.trim_start_matches(|char: char| char.is_ascii_digit())))
            .unwrap();
    } else if bare.strip_suffix(['s', 'm', 'h', 'd']).is_some_and(is_number) && bare != "1h" {
        "<AGE>"
    } else if is_number(bare) && bare.len() > 1 {
        "<N>"
    } else {
        return word.to_owned();
    };
    word.replace(bare, stands_for)
}

fn output(house: &House, arguments: &[&str]) -> String {
    let run = run(&mut house.recoup(arguments.iter().copied()));
    format!("$ recoup {}\n{}", arguments.join(" "), shown(house, &run))
}

/// A host where several things are wrong.
fn troubled() -> House {
    let house = well();
    promise(&house, "rpo = \"1h\"\n[schedule]\nincremental = \"30m\"\n[drill]\nevery = \"7d\"\n");
    date_anew(&house, ago(200));
    house.write_rows(1);
    record(&house, drill(Verdict::Passed, 60 * 24 * 30));
    record(&house, drill(Verdict::Failed, 60));
    record(&house, hold(HoldCause::Operator, Vec::new()));
    drop(begin_drill(&house, 30));
    fs::remove_dir_all(house.path("b")).unwrap();
    fs::remove_dir_all(house.path("c/sources")).unwrap();
    house
}

#[test]
fn a_host_that_is_well() {
    let house = well();
    for (name, arguments) in
        [("check_well", &["check"][..]), ("status_well", &["status"]), ("points_well", &["points"])]
    {
        insta::assert_snapshot!(name, output(&house, arguments));
    }
}

#[test]
fn a_host_in_trouble() {
    let house = troubled();
    for (name, arguments) in [("check_troubled", &["check"][..]), ("status_troubled", &["status"])] {
        insta::assert_snapshot!(name, output(&house, arguments));
    }
}

#[test]
fn a_host_without_a_snapshot() {
    let house = House::founded();
    for (name, arguments) in
        [("check_empty", &["check"][..]), ("status_empty", &["status"]), ("points_empty", &["points"])]
    {
        insta::assert_snapshot!(name, output(&house, arguments));
    }
}

#[test]
fn points_with_a_gap() {
    let house = well();
    promise(&house, "[schedule]\nincremental = \"1h\"\n");
    date_anew(&house, ago(60 * 48));
    house.change_and_backup();
    let listed = run(&mut house.recoup(["points", "--json"])).json();
    let source = &listed["sources"][0];
    assert_eq!(source["gaps"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(source["points"][0]["selected_until"], source["points"][1]["at"]);
    assert_eq!((&source["points"][1]["after_gap"], &source["interval_seconds"]), (&true.into(), &4500.into()));
    insta::assert_snapshot!("points_gap", output(&house, &["points", "ledger"]));
}

#[test]
fn points_are_found_from_one_store_alone() {
    let house = well();
    let url = format!("a=file://{}", house.path("a").display());
    let arguments = ["points", "--store", &url, "--signers", "R/allowed_signers"];
    let found = run(crate::support::recoup(&house.path("")).args(arguments)).expect_code(0);
    assert!(
        found.stdout.starts_with("ledger: 1 point in 1 window\n") && found.stdout.contains("\n  o---"),
        "{found:?}"
    );
    let unknown = run(&mut house.recoup(["points", "other"]));
    assert_eq!(unknown.code, 64, "{unknown:?}");
    fs::remove_dir_all(house.path("c")).unwrap();
    run(&mut house.recoup(["points"])).expect_code(1);
}

#[test]
fn a_screen_holds_the_status() {
    for house in [well(), troubled()] {
        let status = run(&mut house.recoup(["status"]));
        assert!(status.stdout.lines().count() <= 24, "{status:?}");
        assert!(!status.stdout.contains('\x1b'), "{status:?}");
        let tables = status.stdout.lines().take_while(|line| !line.starts_with("critical"));
        assert!(tables.into_iter().all(|line| line.chars().count() <= 80), "{status:?}");
        let painted = run(&mut house.recoup(["status", "--color", "always"]));
        assert_eq!(painted.stdout.contains("\x1b[1;31mcritical\x1b[0m"), status.code == 2, "{painted:?}");
    }
}

#[test]
fn status_is_what_check_finds() {
    let house = troubled();
    let status = run(&mut house.recoup(["status", "--json"])).expect_code(2).json();
    let checked = check(&house).expect_code(2).json();
    assert_eq!((&status["schema"], &checked["schema"]), (&"recoup.status/1".into(), &"recoup.check/1".into()));
    for field in ["status", "stores", "findings"] {
        let without_spans = |text: &str| text.chars().filter(|char| !char.is_ascii_digit()).collect::<String>();
        assert_eq!(without_spans(&status[field].to_string()), without_spans(&checked[field].to_string()));
    }
}

#[test]
fn metrics_are_written_in_one_step() {
    let house = troubled();
    let textfile = |name: &str| run(&mut house.recoup(["check", "--textfile", name]));
    textfile("recoup.prom").expect_code(2);
    let text = fs::read_to_string(house.path("recoup.prom")).unwrap();
    let mut metrics = String::new();
    for line in text.lines() {
        match line.rsplit_once(' ') {
            Some((name, value)) if !line.starts_with('#') => {
                assert!(value.parse::<f64>().is_ok(), "{line}");
                let varies = ["timestamp", "exposure", "newest", "age", "free"];
                let value = if varies.iter().any(|word| name.contains(word)) { "<N>" } else { value };
                metrics.push_str(&format!("{name} {value}\n"));
            }
            _ => metrics.push_str(&format!("{line}\n")),
        }
    }
    insta::assert_snapshot!("metrics", metrics);
    assert!(!house.path("recoup.prom.new").exists());
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(house.path("recoup.prom")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o644);
    let house = well();
    let failed = run(&mut house.recoup(["check", "--textfile", "none/recoup.prom"])).expect_code(1);
    assert!(failed.stdout.contains("[textfile-unwritable]"), "{failed:?}");
}

#[test]
fn a_plug_in_speaks_on_standard_output() {
    for (house, code, word) in [(well(), 0, "OK"), (troubled(), 2, "CRITICAL")] {
        let checked = run(&mut house.recoup(["check"])).expect_code(code);
        assert_eq!(checked.stderr, "");
        let (first, rest) = checked.stdout.split_once('\n').unwrap();
        assert!(first.starts_with(&format!("RECOUP {word} - ")) && first.matches('|').count() == 1, "{checked:?}");
        assert!(!rest.contains('|'), "{checked:?}");
        assert!(first.contains("'ledger.exposure'=") && first.contains("s;;3600 'stores.up'="), "{checked:?}");
    }
}
