//! What somebody can do who may write to the stores and has no key: planted inventories, signatures of others, links.

use super::Forger;
use crate::{
    house::{House, STORES, assert_refused, copy_tree},
    support::run,
};
use recoup::{
    core::{id::SnapshotId, inventory::Inventory},
    format::{
        inventory as inventory_format,
        signature::{self, HostKey},
    },
};
use std::{fs, os::unix::fs::symlink};

#[test]
fn inventories_that_nobody_trusted_signed() {
    let forger = Forger::new();
    let newest = forger.newest();
    let id = SnapshotId { seq: newest.seq + 1, ..newest.id() };
    let folder = format!("sources/ledger/snapshots/{id}");
    let [inventory_key, signature_key] =
        ["inventory.json", "inventory.json.sig"].map(|name| format!("{folder}/{name}"));
    let claim = Inventory { seq: id.seq, ..newest.clone() };
    let bytes = inventory_format::to_bytes(&claim);
    let stranger = HostKey::generate([5; 32], "stranger");
    let original = format!("sources/ledger/snapshots/{}/inventory.json", newest.id());
    let (old_bytes, old_signature) = (forger.get(&original), forger.get(&format!("{original}.sig")));
    let sign = |key: &HostKey, namespace: &str, bytes: &[u8]| Some(key.sign(namespace, bytes).into_bytes());
    let of = |inventory: Inventory| {
        let bytes = inventory_format::to_bytes(&inventory);
        let signature = sign(&forger.key, signature::INVENTORY, &bytes);
        (bytes, signature)
    };
    let (wallet, wallet_signature) = of(Inventory { source: "wallet".parse().unwrap(), ..claim.clone() });
    let (elsewhere, elsewhere_signature) =
        of(Inventory { repository: "aaaaaaaaaaaaaaaa".parse().unwrap(), ..claim.clone() });
    let (future, future_signature) = {
        let text = String::from_utf8(bytes.clone()).unwrap().replace("recoup-inventory/1", "recoup-inventory/2");
        let signature = sign(&forger.key, signature::INVENTORY, text.as_bytes());
        (text.into_bytes(), signature)
    };
    let mut edited = old_bytes.clone();
    let at = edited.windows(5).position(|window| window == b"\"full").unwrap_or(100);
    edited[at] ^= 1;
    /// What it is, the inventory, its signature, the exit code.
    type Case = (&'static str, Vec<u8>, Option<Vec<u8>>, i32);
    let cases: Vec<Case> = vec![
        ("no signature", bytes.clone(), None, 17),
        ("an empty signature", bytes.clone(), Some(Vec::new()), 17),
        ("a signature that is none", bytes.clone(), Some(b"\x1b[2Jnonsense".to_vec()), 17),
        ("a huge signature", bytes.clone(), Some(vec![b'A'; 1 << 20]), 15),
        ("the signature of another inventory", bytes.clone(), Some(old_signature.clone()), 17),
        ("a stranger's signature", bytes.clone(), sign(&stranger, signature::INVENTORY, &bytes), 17),
        ("a signature for the log", bytes.clone(), sign(&forger.key, signature::LOG, &bytes), 17),
        ("a signature for evidence", bytes.clone(), sign(&forger.key, signature::EVIDENCE, &bytes), 17),
        ("an edited inventory", edited, Some(old_signature.clone()), 17),
        ("another source's inventory", wallet, wallet_signature, 15),
        ("another repository's inventory", elsewhere, elsewhere_signature, 15),
        ("an inventory under another number", old_bytes.clone(), Some(old_signature.clone()), 15),
        ("an inventory of a newer format", future, future_signature, 2),
        ("garbage", b"\x00\xff".to_vec(), Some(old_signature.clone()), 17),
        ("signed garbage", b"{{{".to_vec(), sign(&forger.key, signature::INVENTORY, b"{{{"), 15),
    ];
    for (name, inventory, signature, code) in cases {
        for stores in [&STORES[..1], &STORES] {
            for store in stores {
                forger.put_on(store, &inventory_key, &inventory);
                signature.iter().for_each(|signature| forger.put_on(store, &signature_key, signature));
            }
            let refused = forger.assert_refused(name, &[code]);
            assert!(refused.stderr.contains(&id.to_string()) && !refused.stderr.contains('\x1b'), "{refused:?}");
            let listed = run(&mut forger.house.recoup(["list"])).expect_code(1);
            assert!(listed.stderr.contains(&id.to_string()), "{listed:?}");
            // It does not stand in the way of the next backup, and copy does not spread it.
            let spread = STORES.iter().filter(|store| forger.house.path(store).join(&inventory_key).exists()).count();
            assert_eq!(spread, stores.len(), "{name}");
            forger.remove(&folder);
        }
    }
    // In place of a good one in one store: the others have it, and copy heals it.
    let folder = format!("sources/ledger/snapshots/{}", newest.id());
    forger.put_on("a", &original, &bytes);
    forger.house.assert_restores("latest", &forger.second);
    run(&mut forger.house.recoup(["verify"])).expect_code(2);
    run(&mut forger.house.recoup(["copy"])).expect_code(0);
    assert_eq!(forger.get(&original), old_bytes);
    fs::remove_file(forger.house.path("a").join(format!("{folder}/inventory.json.sig"))).unwrap();
    forger.house.assert_restores("latest", &forger.second);
    run(&mut forger.house.recoup(["copy"])).expect_code(0);
    assert_eq!(forger.get(&format!("{original}.sig")), old_signature);
    run(&mut forger.house.recoup(["verify", "--all"])).expect_code(0);
}

#[test]
fn planted_numbers_do_not_wedge_backups() {
    let forger = Forger::new();
    let newest = forger.newest();
    let id = SnapshotId { seq: 9_999_999_999, ..newest.id() };
    forger.put(&format!("sources/ledger/snapshots/{id}/inventory.json"), b"{}");
    let third = forger.house.change_and_backup();
    assert_eq!(forger.house.ledger(), third);
    forger.house.assert_restores("snapshot:3", &third);
    forger.assert_latest_names_the_good_one(&third);
}

#[test]
fn a_number_that_leaves_none_is_refused_by_name() {
    let forger = Forger::new();
    let id = SnapshotId { seq: 9_999_999_999, ..forger.newest().id() };
    let inventory = Inventory { seq: id.seq, ..forger.newest() };
    forger.put_signed(id, &inventory_format::to_bytes(&inventory));
    for arguments in [&["backup"][..], &["backup", "--full"], &["backup", "--dry-run"]] {
        forger.house.write_rows(3);
        let refused = run(&mut forger.house.recoup(arguments.iter().copied()));
        assert_refused(refused, 17, &[&id.to_string(), "signing key"]);
    }
    forger.remove(&format!("sources/ledger/snapshots/{id}"));
    let third = forger.house.change_and_backup();
    forger.house.assert_restores("snapshot:3", &third);
}

#[test]
fn a_damaged_newest_inventory_keeps_its_number() {
    let forger = Forger::new();
    let newest = forger.newest().id();
    forger.put(&format!("sources/ledger/snapshots/{newest}/inventory.json"), b"not what it was");
    fs::remove_dir_all(forger.house.path("R/state/sources")).unwrap();
    let third = forger.house.change_and_backup();
    forger.house.assert_restores("snapshot:3", &third);
}

impl Forger {
    #[track_caller]
    fn assert_latest_names_the_good_one(&self, bytes: &[u8]) {
        let (refused, _) = self.restore("latest");
        let refused = refused.expect_code(17);
        assert!(refused.stderr.contains("--target snapshot:0000000003-"), "{refused:?}");
        self.house.assert_restores("snapshot:3", bytes);
    }
}

#[test]
fn a_source_under_another_name() {
    let forger = Forger::new();
    for store in STORES {
        copy_tree(
            &forger.house.path(&format!("{store}/sources/ledger")),
            &forger.house.path(&format!("{store}/sources/wallet")),
        );
    }
    let mut restore = forger.house.recoup(["restore", "wallet", "--to", "out", "--identity", "R/custodian.age"]);
    let refused = run(&mut restore).expect_code(15);
    assert!(refused.stderr.contains("ledger"), "{refused:?}");
    assert!(!forger.house.path("out").exists());
    forger.house.assert_restores("latest", &forger.second);
}

#[test]
fn stores_of_another_repository_under_the_right_id() {
    let forger = Forger::new();
    let (other, _) = House::new();
    let id = forger.newest().repository;
    for store in STORES {
        let head = fs::read(forger.house.path(store).join("recoup.json")).unwrap();
        fs::rename(forger.house.path(store), forger.house.path(&format!("{store}.away"))).unwrap();
        copy_tree(&other.path(store), &forger.house.path(store));
        fs::write(forger.house.path(store).join("recoup.json"), head).unwrap();
    }
    let (refused, file) = forger.restore("snapshot:1");
    let refused = refused.expect_code(17);
    assert!(refused.stderr.contains("not among the allowed signers") && !file.exists(), "{id}: {refused:?}");
    for store in STORES {
        fs::remove_dir_all(forger.house.path(store)).unwrap();
        fs::rename(forger.house.path(&format!("{store}.away")), forger.house.path(store)).unwrap();
    }
    forger.house.assert_restores("latest", &forger.second);
}

#[test]
fn many_large_inventories() {
    let forger = Forger::new();
    let newest = forger.newest().id();
    for number in 0..150 {
        let id = SnapshotId { seq: 100 + number, ..newest };
        let folder = format!("sources/ledger/snapshots/{id}");
        forger.put(&format!("{folder}/inventory.json.sig"), b"x");
        forger.put(&format!("{folder}/inventory.json"), b"");
        for store in STORES {
            let path = forger.house.path(store).join(&folder).join("inventory.json");
            fs::File::create(path).unwrap().set_len(16 << 20).unwrap();
        }
    }
    let (refused, _) = forger.restore("latest");
    refused.expect_code(17);
    let (restored, file) = forger.restore("snapshot:2");
    restored.expect_code(0);
    assert_eq!(fs::read(file).unwrap(), forger.second);
}

#[test]
fn links_and_pipes_in_a_store() {
    let forger = Forger::new();
    let outside = forger.house.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "do not touch").unwrap();
    let untouched = || {
        let names: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["precious"]);
        assert_eq!(fs::read(outside.join("precious")).unwrap(), b"do not touch");
    };
    let run_folder = format!("sources/ledger/packs/{}", forger.newest().run);
    let pack = format!("{run_folder}/0.age");
    type Mishap<'a> = (&'a str, &'a dyn Fn(&std::path::Path));
    let mishaps: &[Mishap<'_>] = &[
        (&pack, &|path| symlink(outside.join("precious"), path).unwrap()),
        (&pack, &|path| symlink(outside.join("new"), path).unwrap()),
        (&pack, &|path| fs::create_dir(path).unwrap()),
        (&pack, &|path| assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success())),
        (&run_folder, &|path| symlink(&outside, path).unwrap()),
        ("sources/ledger/snapshots", &|path| symlink(&outside, path).unwrap()),
        ("sources/ledger", &|path| symlink(&outside, path).unwrap()),
        ("sources", &|path| symlink(&outside, path).unwrap()),
        ("recoup.json", &|path| symlink(outside.join("precious"), path).unwrap()),
        ("recover.sh", &|path| symlink(outside.join("precious"), path).unwrap()),
        ("quarantine", &|path| symlink(&outside, path).unwrap()),
    ];
    for (name, plant) in mishaps {
        let path = forger.house.path("a").join(name);
        let aside = forger.house.path("aside");
        if path.exists() {
            fs::rename(&path, &aside).unwrap();
        }
        if *name == "quarantine" {
            fs::write(forger.house.path("a").join(&pack), "damaged").unwrap();
        }
        plant(&path);
        forger.house.assert_restores("latest", &forger.second);
        forger.house.assert_restores("snapshot:1", &forger.first);
        for command in [&["verify", "--all"][..], &["copy"], &["backup"], &["list"]] {
            let done = run(&mut forger.house.recoup(command.iter().copied()));
            assert!(done.code <= 2 && !done.stderr.contains("panicked"), "{name}: {done:?}");
            untouched();
        }
        // Put right by hand, everything is as before.
        let _ = fs::remove_file(&path);
        let _ = fs::remove_dir_all(&path);
        if aside.exists() {
            fs::rename(&aside, &path).unwrap();
        }
        run(&mut forger.house.recoup(["copy"])).expect_code(0);
        run(&mut forger.house.recoup(["verify", "--all"])).expect_code(0);
        forger.house.assert_restores("snapshot:2", &forger.second);
        untouched();
    }
}
