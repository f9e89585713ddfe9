//! The real program: what it asks for, what it prints, and how it ends.

use crate::site::{Site, files_below};
use std::{collections::BTreeSet, fs, path::PathBuf};

/// Three full snapshots, of which the policy keeps one.
fn site() -> Site {
    let site = Site::new(200, &["a", "b", "c"]);
    for _ in 0..3 {
        site.run(&["backup", "--full"]).expect_code(0);
    }
    fs::write(site.path().join("host/policies/default.toml"), "[retention]\nkeep_last = 1\n").unwrap();
    site
}

fn stored(site: &Site) -> BTreeSet<PathBuf> {
    let files = ["a", "b", "c"].into_iter().flat_map(|store| files_below(&site.store(store)));
    // A prune that was refused is on record, too.
    files.filter(|file| !file.components().any(|part| part.as_os_str() == "evidence")).collect()
}

#[test]
fn nothing_happens_until_somebody_says_so() {
    let site = site();
    let before = stored(&site);
    for (arguments, code, told) in [
        (&["prune", "--confirm=ledger"][..], 17, "add --yes"),
        (&["prune", "--yes"], 17, "--confirm=ledger"),
        (&["prune", "--yes"], 17, "2 of 3 snapshots would go, more than half"),
        (&["prune", "--yes", "--confirm=book"], 64, "--confirm=book confirms nothing"),
        (&["prune", "book", "--yes"], 64, "there is no source named book"),
        (&["prune", "--yes", "--cancel", "aaaaaaaaaaaaaaaa"], 64, "--forget and --cancel are for one source"),
        (&["prune", "ledger", "--yes", "--cancel", "aaaaaaaaaaaaaaaa"], 17, "is not pending"),
        (&["prune", "ledger", "--yes", "--forget", "0000000001-aaaaaaaaaaaaaaaa"], 17, "add --confirm=ledger"),
        (&["prune", "ledger", "--yes", "--forget", "1"], 64, "ten digits"),
    ] {
        let run = site.run(arguments).expect_code(code);
        assert!(run.stderr.contains(told), "{arguments:?}: {}", run.stderr);
        assert_eq!(stored(&site), before, "{arguments:?}");
    }
    let shown = site.run(&["prune", "--dry-run", "--confirm=ledger"]).expect_code(0);
    assert!(shown.stdout.starts_with("ledger: condemn snapshots 0000000001-"), "{}", shown.stdout);
    assert!(shown.stdout.ends_with("; the next prune deletes it\n"), "{}", shown.stdout);
    assert_eq!(shown.stderr, "note: ledger: of 3 snapshots, the last 1 are kept\n");
    let planned = site.run(&["prune", "--dry-run", "--confirm=ledger", "--json"]).expect_code(0).json();
    assert_eq!((planned["schema"].as_str(), planned["command"].as_str()), (Some("recoup.plan/1"), Some("prune")));
    assert_eq!(planned["steps"].as_array().unwrap().len(), 1);
    assert_eq!(stored(&site), before);
}

#[test]
fn what_cannot_be_planned_is_in_the_plan() {
    let site = site();
    let text = fs::read_to_string(site.config()).unwrap();
    let inside = format!("[[source]]\nname = \"book\"\nkind = \"log\"\npath = {:?}\n", site.path());
    fs::write(site.config(), format!("{text}\n{inside}")).unwrap();
    let planned = site.run(&["prune", "--dry-run", "--confirm=ledger", "--json"]).expect_code(17);
    assert!(planned.stderr.contains("error: book (exit 17): "), "{planned:?}");
    let planned = planned.json();
    assert_eq!((planned["steps"].as_array().unwrap().len(), planned["notes"].as_array().unwrap().len()), (1, 1));
    let failure = &planned["failures"][0];
    assert_eq!((&failure["source"], &failure["exit_code"]), (&"book".into(), &17.into()), "{planned}");
    assert!(failure["message"].is_string() && failure["next_step"].is_string(), "{planned}");
}

#[test]
fn two_runs_and_quiet_under_cron() {
    let site = site();
    let planned = site.run(&["prune", "--yes", "--confirm=ledger", "--json"]).expect_code(0).json();
    assert_eq!(planned["schema"], "recoup.prune/1");
    let source = &planned["sources"][0];
    assert_eq!((source["condemned"].as_array().unwrap().len(), source["pruned"].as_array().unwrap().len()), (2, 0));
    let first = source["condemned"][0].as_str().unwrap().to_owned();
    site.restored(1);
    let executed = site.run(&["prune", "--yes"]).expect_code(0);
    assert_eq!((&executed.stdout[..], &executed.stderr[..]), ("", ""));
    let left = stored(&site);
    assert!(!left.iter().any(|path| path.to_str().unwrap().contains(&first[11..])), "{left:?}");
    site.restored(3);
    let mut restore = site.restore_command("snapshot:1", &site.path().join("out"));
    let refused = crate::support::run(&mut restore).expect_code(16);
    assert!(refused.stderr.contains("snapshot 1 of ledger was pruned at "), "{}", refused.stderr);
    let listed = site.run(&["list", "--json"]).expect_code(0).json();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 1);
    for arguments in [&["verify", "--all"][..], &["copy"], &["backup"], &["prune", "--yes"]] {
        site.run(arguments).expect_code(0);
    }
}

#[test]
fn without_a_policy_it_says_that_everything_is_kept() {
    let site = Site::new(200, &["a"]);
    site.run(&["backup"]).expect_code(0);
    // No news to a schedule; whoever asks is told.
    let run = site.run(&["prune"]).expect_code(0);
    assert_eq!((&run.stdout[..], &run.stderr[..]), ("", ""));
    let run = site.run(&["prune", "--json"]).expect_code(0);
    let note = "ledger: its policy has no [retention], so every snapshot is kept";
    assert_eq!((&run.json()["sources"][0]["notes"], &run.stderr[..]), (&serde_json::json!([note]), ""));
    let run = site.run(&["prune", "--dry-run"]).expect_code(0);
    assert_eq!(run.stderr, format!("note: {note}\n"));
}

#[test]
fn a_policy_that_is_lowered_in_an_outage_counts_at_once_and_prunes_wait() {
    let site = Site::new(200, &["a", "b", "c"]);
    site.run(&["backup"]).expect_code(0);
    let policy = "[copies]\nmin_stores = 1\n[retention]\nkeep_last = 1\n";
    fs::write(site.path().join("host/policies/default.toml"), policy).unwrap();
    let aside = |store: &str| site.path().join(format!("aside-{store}"));
    ["b", "c"].iter().for_each(|store| fs::rename(site.store(store), aside(store)).unwrap());
    site.run(&["backup"]).expect_code(1);
    let listed = site.run(&["list", "--json"]).json();
    assert_eq!(listed["snapshots"].as_array().unwrap().last().unwrap()["durable"], true, "{listed}");
    let refused = site.run(&["prune", "--yes"]).expect_code(14);
    for part in ["store b: ", "store c: ", "may be the only one that shows", "nothing more was deleted"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    ["b", "c"].iter().for_each(|store| fs::rename(aside(store), site.store(store)).unwrap());
    site.run(&["copy"]).expect_code(0);
    site.run(&["prune", "--yes"]).expect_code(0);
}
