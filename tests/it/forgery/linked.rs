//! Links in a store that lead into another store: nothing is read, written, moved or counted through them.

use super::Forger;
use crate::{
    house::STORES,
    support::{program, recoup, run},
};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

/// Everything below a directory but evidence and what is in quarantine: names, types, contents.
fn tree(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        // Commands leave records of what they did.
        if entry.file_name() == "quarantine" || entry.file_name() == "evidence" {
            continue;
        }
        let content = if kind.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        found.push((format!("{kind:?} {}", path.display()), content));
        if kind.is_dir() {
            found.extend(tree(&path));
        }
    }
    found.sort();
    found
}

impl Forger {
    /// Puts a link to the same folder of store b in the place of a folder of store a.
    ///
    /// All that b and c have stays; a has none of the snapshots but the spared ones, which need nothing there; verify
    /// and list say so, and copy makes a whole again.
    #[track_caller]
    fn assert_link_is_healed(&self, folder: &str, spared: &[u64]) {
        let [a, b, c] = STORES.map(|store| self.house.path(store));
        let before = [&a, &b, &c].map(|store| tree(store));
        let away = self.house.path("away");
        fs::rename(a.join(folder), &away).unwrap();
        symlink(b.join(folder), a.join(folder)).unwrap();
        let untouched = |what: &str| {
            assert!(tree(&b) == before[1] && tree(&c) == before[2], "{folder}: {what} changed a healthy store");
            assert!(self.house.path("away").exists());
        };
        for command in [&["verify"][..], &["verify", "--all"]] {
            let verified = run(self.house.recoup(command.iter().copied()).arg("--json")).expect_code(2).json();
            assert_eq!(verified["status"], "critical", "{folder}: {verified}");
            let on_a = |finding: &Value| finding["store"] == "a" && finding["problem"] == "missing";
            assert!(verified["findings"].as_array().unwrap().iter().all(on_a), "{folder}: {verified}");
            untouched("verify");
        }
        let listed = run(&mut self.house.recoup(["list", "--json"])).json();
        let snapshots = listed["snapshots"].as_array().unwrap();
        assert_eq!(snapshots.len(), 2);
        for snapshot in snapshots.iter().filter(|snapshot| !spared.contains(&snapshot["seq"].as_u64().unwrap())) {
            assert_eq!(snapshot["stores"], serde_json::json!(["b", "c"]), "{folder}: {listed}");
        }
        self.house.assert_restores("latest", &self.second);
        untouched("restore");
        run(&mut self.house.recoup(["copy"])).expect_code(0);
        untouched("copy");
        assert_eq!(fs::read_link(a.join("quarantine").join(folder)).unwrap(), b.join(folder));
        // The note that says whose an unfinished run is serves nothing that is committed, and is not brought.
        let needed = |mut tree: Vec<(String, Vec<u8>)>| {
            tree.retain(|(name, _)| !name.ends_with("/writer.json"));
            tree
        };
        assert!(needed(tree(&a)) == needed(before[0].clone()), "{folder}: a is not whole again");
        run(&mut self.house.recoup(["verify", "--all"])).expect_code(0);
        // Each store by itself has everything.
        for store in [&a, &b, &c] {
            self.house.assert_restores("snapshot:1", &self.first);
            let url = format!("file://{}", store.display());
            let alone = ["verify", "--all", "--store", &url, "--signers", "R/custodian.age.signers"];
            run(recoup(&self.house.path("")).args(alone)).expect_code(0);
        }
        fs::remove_dir_all(away).unwrap();
        fs::remove_dir_all(a.join("quarantine")).unwrap();
    }
}

#[test]
fn copy_moves_no_object_of_a_store_that_another_links_to() {
    let forger = Forger::new();
    forger.assert_link_is_healed(&format!("sources/ledger/packs/{}", forger.newest().run), &[1]);
    forger.assert_link_is_healed("sources/ledger/snapshots", &[]);
}

#[test]
fn a_store_that_links_to_a_full_one_is_no_copy() {
    let forger = Forger::new();
    for folder in ["sources", "sources/ledger", "sources/ledger/packs"] {
        forger.assert_link_is_healed(folder, &[]);
    }
}

#[test]
fn a_backup_into_a_store_that_links_to_another_counts_only_the_other() {
    let forger = Forger::new();
    let [a, b] = ["a", "b"].map(|store| forger.house.path(store));
    fs::rename(a.join("sources"), forger.house.path("away")).unwrap();
    symlink(b.join("sources"), a.join("sources")).unwrap();
    forger.house.write_rows(3);
    let backup = run(&mut forger.house.recoup(["backup", "--json"]));
    assert!(matches!(backup.code, 0 | 1), "{backup:?}");
    let listed = run(&mut forger.house.recoup(["list", "--json"])).json();
    let through_a_link = fs::symlink_metadata(a.join("sources")).unwrap().is_symlink();
    let newest = listed["snapshots"].as_array().unwrap().last().unwrap();
    assert_eq!(newest["seq"], 3);
    let held = newest["stores"].as_array().unwrap();
    assert_eq!(held.contains(&"a".into()), !through_a_link, "{listed}");
    run(&mut forger.house.recoup(["copy"])).expect_code(0);
    run(&mut forger.house.recoup(["verify", "--all"])).expect_code(0);
    assert!(fs::symlink_metadata(a.join("sources")).unwrap().is_dir());
    forger.house.assert_restores("latest", &forger.house.ledger());
}

#[test]
fn a_generous_umask_makes_no_store_writable_to_everybody() {
    for (umask, file, folder) in [("0", 0o644, 0o755), ("077", 0o600, 0o700)] {
        let house = crate::house::House::unfounded();
        for command in [house.init(), house.recoup(["backup"])] {
            let mut under = program("sh", &house.path(""));
            under.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"]);
            run(under.arg(command.get_program()).args(command.get_args())).expect_code(0);
        }
        let mut open = vec![house.path("a")];
        while let Some(path) = open.pop() {
            let metadata = fs::symlink_metadata(&path).unwrap();
            let expected = if metadata.is_dir() { folder } else { file };
            assert_eq!(metadata.permissions().mode() & 0o7777, expected, "umask {umask}: {}", path.display());
            if metadata.is_dir() {
                open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
    }
}
