//! A signer that was revoked: what it had signed stays good, byte for byte, and nothing else of it is.

use super::{change, changes, host_key, key, restores_with};
use crate::{
    house::{House, STORES, assert_refused, copy_tree},
    needs::needs,
    support::{Run, program, recoup, run},
};
use recoup::{
    core::{
        evidence::Record,
        id::{RunId, SnapshotId},
        inventory::Inventory,
    },
    format::{
        evidence as evidence_format, inventory as inventory_format,
        signature::{EVIDENCE, HostKey, INVENTORY, KEYS},
    },
};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// An installation whose key was stolen, with another key in its place.
struct Stolen {
    house: House,
    /// What the thief has.
    old: HostKey,
    first: Vec<u8>,
    second: Vec<u8>,
}

impl Stolen {
    /// Two snapshots by the old key; the new one is trusted, and this host signs with it.
    fn new() -> Self {
        let (house, first) = House::new();
        let second = house.change_and_backup();
        let old = HostKey::from_openssh(&fs::read_to_string(house.path("R/host_ed25519")).unwrap()).unwrap();
        let (file, _) = host_key(&house, "new", 9);
        let added = change(&house, &["signer", "add", &format!("{file}.pub")]).expect_code(0);
        house.edit_configuration("\"host_ed25519\"", "\"new_ed25519\"");
        // What custodians have from then on.
        fs::write(house.path("R/custodian.age.signers"), &added.stdout).unwrap();
        Stolen { house, old, first, second }
    }

    fn revoked() -> Self {
        let stolen = Stolen::new();
        stolen.revoke().expect_code(0);
        stolen
    }

    fn revoke(&self) -> Run {
        self.revoke_with(&[])
    }

    fn revoke_with(&self, arguments: &[&str]) -> Run {
        let old = self.old.fingerprint();
        change(&self.house, &[&["signer", "revoke", old.as_str(), "--confirm", old.as_str()], arguments].concat())
    }

    fn snapshots(&self) -> Vec<SnapshotId> {
        let entries = fs::read_dir(self.house.path("c/sources/ledger/snapshots")).unwrap();
        let mut ids: Vec<SnapshotId> =
            entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
        ids.sort();
        ids
    }

    fn inventory(&self, id: SnapshotId) -> Inventory {
        let path = format!("c/sources/ledger/snapshots/{id}/inventory.json");
        serde_json::from_slice(&fs::read(self.house.path(&path)).unwrap()).unwrap()
    }

    fn put(&self, stores: &[&str], name: &str, bytes: &[u8]) {
        for store in stores {
            let path = self.house.path(store).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    /// The thief signs an inventory, and puts it where it belongs.
    fn put_forged(&self, stores: &[&str], inventory: &Inventory) {
        let bytes = inventory_format::to_bytes(inventory);
        let folder = format!("sources/ledger/snapshots/{}", inventory.id());
        self.put(stores, &format!("{folder}/inventory.json.sig"), self.old.sign(INVENTORY, &bytes).as_bytes());
        self.put(stores, &format!("{folder}/inventory.json"), &bytes);
    }

    /// The thief takes a snapshot of their own: the first one as the newest.
    fn forge(&self, stores: &[&str], seq: u64) -> SnapshotId {
        let mut inventory = self.inventory(self.snapshots()[0]);
        inventory.seq = seq;
        inventory.run = RunId::from_random([seq as u8; 16]);
        self.put_forged(stores, &inventory);
        inventory.id()
    }

    /// What was signed before is as good as ever, on this host and on a bare one.
    fn assert_all_is_well(&self) {
        for command in [&["list"][..], &["verify", "--all"], &["copy"], &["evidence", "verify"], &["evidence", "list"]]
        {
            run(&mut self.house.recoup(command.iter().copied())).expect_code(0);
        }
        self.house.assert_restores("snapshot:1", &self.first);
        self.house.assert_restores("snapshot:2", &self.second);
        for store in STORES {
            assert_eq!(self.restore_bare(store, "snapshot:2"), self.second, "{store}");
        }
    }

    fn restore_bare(&self, store: &str, target: &str) -> Vec<u8> {
        let to = self.house.path("bare");
        let url = format!("file://{}", self.house.path(store).display());
        let mut command = recoup(&self.house.path(""));
        command.args(["restore", "ledger", "--store", &url, "--identity", "R/custodian.age", "--target", target]);
        let done = run(command.args(["--to", "bare"]));
        assert!(matches!(done.code, 0 | 1), "{done:?}");
        let bytes = fs::read(to.join("ledger.db")).unwrap();
        fs::remove_dir_all(to).unwrap();
        bytes
    }

    /// The objects of vouches on a store, by name.
    fn vouches(&self, store: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.house.path(store).join("keys")).into_iter().flatten();
        let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        found.sort();
        found
    }

    fn trusts_the_old_key(&self) -> bool {
        let signers = fs::read_to_string(self.house.path("R/allowed_signers")).unwrap();
        let line = self.old.public_line();
        signers.contains(line.split(' ').nth(1).unwrap())
    }

    fn pending(&self) -> Option<PathBuf> {
        let entries = fs::read_dir(self.house.path("R/state/keys")).into_iter().flatten();
        let mut files = entries.map(|entry| entry.unwrap().path());
        files.find(|path| path.extension().is_some_and(|ending| ending == "json"))
    }
}

#[test]
fn what_it_had_signed_stays_good() {
    let stolen = Stolen::new();
    let old = stolen.old.fingerprint().to_string();
    let unconfirmed = change(&stolen.house, &["signer", "revoke", &old]);
    let newest = stolen.snapshots()[1].to_string();
    assert_refused(unconfirmed, 17, &["--confirm=SHA256:", "2 of ledger up to", &newest]);
    assert!(stolen.trusts_the_old_key() && stolen.vouches("a").is_empty());
    let revoked = stolen.revoke_with(&["--json"]).expect_code(0).json();
    assert_eq!(revoked["vouched"]["sources"][0]["snapshots"], 2);
    assert_eq!(revoked["vouched"]["sources"][0]["newest"], newest);
    assert!(!stolen.trusts_the_old_key() && stolen.pending().is_none());
    for store in STORES {
        assert_eq!(stolen.vouches(store).len(), 2, "{store}");
    }
    stolen.assert_all_is_well();
    // The next one builds on the last, and everything goes on.
    let third = stolen.house.change_and_backup();
    let list = run(&mut stolen.house.recoup(["list", "--json"])).expect_code(0).json();
    assert_eq!(list["snapshots"][2]["kind"], "incremental");
    stolen.house.assert_restores("latest", &third);
    key(&stolen.house, &["prove", "--identity", "R/custodian.age"]).expect_code(0);
    assert_eq!(changes(&stolen.house), ["signer-added", "signer-revoked", "recipient-proven"]);
    let shown = key(&stolen.house, &["list", "--json"]).expect_code(0).json();
    let gone = shown["signers"].as_array().unwrap().iter().find(|entry| entry["fingerprint"] == *old).unwrap();
    assert_eq!((&gone["revoked"], &gone["trusted"]), (&true.into(), &false.into()));
    // It is gone for good.
    assert_refused(stolen.revoke(), 64, &["it was revoked"]);
    let again = change(&stolen.house, &["signer", "add", "R/host_ed25519.pub"]);
    assert_refused(again, 17, &["was revoked"]);
}

#[test]
fn stock_programs_believe_a_vouch_too() {
    if !needs("age") || !needs("zstd") || !needs("jq") || !needs("ssh-keygen") {
        return;
    }
    let stolen = Stolen::revoked();
    let forged = stolen.forge(&["b"], 9).seq.to_string();
    let identity = stolen.house.path("R/custodian.age");
    let recover = |seq: &str, out: &str| {
        let mut script = program("sh", &stolen.house.path("b"));
        run(script.args(["recover.sh", "ledger", seq]).arg(&identity).arg(stolen.house.path(out)))
    };
    let done = recover("2", "recovered").expect_code(0);
    assert!(done.stderr.contains("its signer was revoked since"), "{done:?}");
    assert_eq!(fs::read(stolen.house.path("recovered/ledger.db")).unwrap(), stolen.second);
    assert!(recover(&forged, "forged").expect_code(1).stderr.contains("not signed by a trusted signer"));
    // Rubbish among the vouches is in nobody's way; a vouch that was changed is none.
    stolen.put(&["b"], "keys/aaaaaaaaaaaaaaaa.json", b"rubbish");
    recover("1", "again").expect_code(0);
    append(
        stolen.vouches("b").iter().find(|file| file.ends_with(stolen.vouches("a")[0].file_name().unwrap())).unwrap(),
    );
    assert!(recover("1", "altered").expect_code(1).stderr.contains("not signed by a trusted signer"));
    let stderr = recover("1", "altered").stderr;
    assert!(!stderr.contains("jq") && !stderr.contains("No such file"), "{stderr}");
}

#[test]
fn nothing_later_is_believed() {
    let stolen = Stolen::revoked();
    let forged = stolen.forge(&["a"], 9);
    let list = run(&mut stolen.house.recoup(["list", "--json"])).json();
    assert_eq!(list["snapshots"].as_array().unwrap().len(), 2, "{list}");
    let refused = restores_with(&stolen.house, "R/custodian.age", "latest");
    assert_refused(refused, 17, &[&forged.to_string(), "not among the allowed signers"]);
    let verified = run(&mut stolen.house.recoup(["verify", "--json"])).expect_code(2).json();
    assert_eq!(verified["findings"][0]["problem"], "foreign", "{verified}");
    run(&mut stolen.house.recoup(["copy"]));
    assert!(!stolen.house.path(&format!("b/sources/ledger/snapshots/{forged}")).exists());
    // A snapshot that is vouched for, written anew.
    let mut altered = stolen.inventory(stolen.snapshots()[1]);
    altered.position = "elsewhere".to_owned();
    stolen.put_forged(&STORES, &altered);
    let target = format!("snapshot:{}", altered.id());
    assert_refused(restores_with(&stolen.house, "R/custodian.age", &target), 17, &["not among the allowed signers"]);
    stolen.house.assert_restores("snapshot:1", &stolen.first);
}

#[test]
fn evidence_of_a_thief_is_not_believed() {
    let stolen = Stolen::revoked();
    let writer = fs::read_dir(stolen.house.path("a/evidence")).unwrap().next().unwrap().unwrap().path();
    let mut envelopes: Vec<PathBuf> = fs::read_dir(&writer).unwrap().map(|entry| entry.unwrap().path()).collect();
    envelopes.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
    envelopes.sort();
    // One more record after the newest; and one that is vouched for, written anew.
    for (number, at) in [(envelopes.len() as u64 + 1, 0), (2, 1)] {
        let mut record: Record = serde_json::from_slice(&fs::read(&envelopes[at]).unwrap()).unwrap();
        assert_eq!(record.signer, stolen.old.fingerprint().as_str());
        let newest = fs::read(envelopes.last().unwrap()).unwrap();
        let previous = if at == 0 { Some(recoup::format::sha256(&newest)) } else { record.previous };
        (record.number, record.previous) = (number, previous);
        record.recorded_at = "2027-01-01T00:00:00Z".parse().unwrap();
        let bytes = evidence_format::to_bytes(&record);
        let path = writer.join(format!("{number:010}.json"));
        let before = [fs::read(&path).ok(), fs::read(path.with_extension("sig")).ok()];
        fs::write(&path, &bytes).unwrap();
        fs::write(path.with_extension("sig"), stolen.old.sign(EVIDENCE, &bytes)).unwrap();
        let verified = run(&mut stolen.house.recoup(["evidence", "verify", "--json"])).expect_code(2).json();
        let word = if at == 0 { "untrusted" } else { "altered" };
        assert_eq!(verified["findings"][0]["problem"], word, "{verified}");
        for (ending, bytes) in ["json", "sig"].into_iter().zip(before) {
            match bytes {
                Some(bytes) => fs::write(path.with_extension(ending), bytes).unwrap(),
                None => fs::remove_file(path.with_extension(ending)).unwrap(),
            }
        }
    }
    run(&mut stolen.house.recoup(["evidence", "verify"])).expect_code(0);
}

#[test]
fn forgeries_are_left_out() {
    let stolen = Stolen::new();
    let forged = stolen.forge(&STORES, 3);
    let unknown = "0000000007-aaaaaaaaaaaaaaaa";
    assert_refused(stolen.revoke_with(&["--except", unknown]), 16, &[unknown]);
    assert!(stolen.trusts_the_old_key());
    stolen.revoke_with(&["--except", &forged.to_string()]).expect_code(0);
    let refused = restores_with(&stolen.house, "R/custodian.age", "latest");
    assert_refused(refused, 17, &[&forged.to_string()]);
    stolen.house.assert_restores("snapshot:2", &stolen.second);
}

/// What no store gives to read is left out by the name that the refusal gives it.
#[test]
fn what_cannot_be_read_is_left_out_by_its_name() {
    let stolen = Stolen::new();
    let mut later = stolen.inventory(stolen.snapshots()[1]);
    (later.format, later.seq, later.run) = ("recoup-inventory/9".to_owned(), 3, RunId::from_random([3; 16]));
    stolen.put_forged(&STORES, &later);
    let id = later.id().to_string();
    assert_refused(stolen.revoke(), 14, &[&format!("snapshot {id} on store a"), &format!("--except {id}")]);
    assert!(stolen.trusts_the_old_key() && stolen.pending().is_none());
    let revoked = stolen.revoke_with(&["--except", &id]).expect_code(0);
    assert!(revoked.stderr.contains(&format!("snapshot {id} of ledger cannot be read")), "{revoked:?}");
    assert!(!stolen.trusts_the_old_key());
    // What there is of it is in nobody's way, once it is looked at and removed.
    STORES.iter().for_each(|store| {
        fs::remove_dir_all(stolen.house.path(&format!("{store}/sources/ledger/snapshots/{id}"))).unwrap();
    });
    stolen.assert_all_is_well();
}

#[test]
fn a_vouch_that_is_damaged_or_gone_is_named_and_brought_back() {
    let stolen = Stolen::revoked();
    type Harm = (&'static str, fn(&[PathBuf]), &'static str);
    let harms: [Harm; 5] = [
        ("the list is changed", |files| append(&files[0]), "damaged"),
        ("the signature is changed", |files| append(&files[1]), "damaged"),
        ("the list is gone", |files| fs::remove_file(&files[0]).unwrap(), "missing"),
        ("the signature is gone", |files| fs::remove_file(&files[1]).unwrap(), "damaged"),
        ("both are gone", |files| files.iter().for_each(|file| fs::remove_file(file).unwrap()), "missing"),
    ];
    for (what, harm, word) in harms {
        harm(&stolen.vouches("a"));
        let verified = run(&mut stolen.house.recoup(["verify", "--json"])).expect_code(2).json();
        let finding = &verified["findings"][0];
        assert_eq!((&finding["store"], &finding["problem"]), (&"a".into(), &word.into()), "{what}: {verified}");
        assert!(finding["object"].as_str().unwrap().starts_with("keys/"), "{what}: {verified}");
        // The other stores vouch for all of it meanwhile.
        stolen.house.assert_restores("snapshot:2", &stolen.second);
        run(&mut stolen.house.recoup(["copy"])).expect_code(0);
        run(&mut stolen.house.recoup(["verify", "--all"])).expect_code(0);
    }
    // Changed everywhere, it is worth nothing, and so is what it stood for.
    for store in STORES {
        append(&stolen.vouches(store)[0]);
    }
    let refused = restores_with(&stolen.house, "R/custodian.age", "latest");
    assert_refused(refused, 17, &["not among the allowed signers"]);
    run(&mut stolen.house.recoup(["verify"])).expect_code(2);
}

fn append(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes.push(b'\n');
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_thief_cannot_vouch() {
    let stolen = Stolen::revoked();
    let forged = stolen.forge(&STORES, 9);
    let list = stolen.vouches("a")[0].clone();
    let text = fs::read_to_string(&list).unwrap();
    let name = format!("sources/ledger/snapshots/{forged}/inventory.json");
    let digest = recoup::format::sha256(&fs::read(stolen.house.path("a").join(&name)).unwrap());
    let id = "bbbbbbbbbbbbbbbb";
    let new = HostKey::from_openssh(&fs::read_to_string(stolen.house.path("R/new_ed25519")).unwrap()).unwrap();
    let mine = text
        .replace(list.file_stem().unwrap().to_str().unwrap(), id)
        .replace("\"objects\": {", &format!("\"objects\": {{\n    \"{name}\": \"{digest}\","));
    let swapped = mine.replace(new.fingerprint().as_str(), "X").replace(stolen.old.fingerprint().as_str(), "Y");
    let by_thief = swapped.replace('X', stolen.old.fingerprint().as_str()).replace('Y', "SHA256:nobody");
    let refused =
        || assert_refused(restores_with(&stolen.house, "R/custodian.age", "latest"), 17, &[&forged.to_string()]);
    // Signed by the thief; signed by the new key for something else; and with the signature of another vouch.
    let other = fs::read_to_string(list.with_extension("sig")).unwrap();
    for (bytes, signature) in [
        (&by_thief, stolen.old.sign(KEYS, by_thief.as_bytes())),
        (&mine, new.sign(INVENTORY, mine.as_bytes())),
        (&mine, other),
    ] {
        stolen.put(&STORES, &format!("keys/{id}.sig"), signature.as_bytes());
        stolen.put(&STORES, &format!("keys/{id}.json"), bytes.as_bytes());
        refused();
        let verified = run(&mut stolen.house.recoup(["verify", "--json"])).expect_code(2).json();
        let object = format!("keys/{id}.json");
        let findings = verified["findings"].as_array().unwrap();
        let of_it = findings.iter().find(|finding| finding["object"] == *object).unwrap();
        assert_eq!(of_it["problem"], "foreign", "{verified}");
        run(&mut stolen.house.recoup(["copy"]));
    }
    // Signed as it should be, it counts: the test would notice.
    stolen.put(&STORES, &format!("keys/{id}.sig"), new.sign(KEYS, mine.as_bytes()).as_bytes());
    stolen.put(&STORES, &format!("keys/{id}.json"), mine.as_bytes());
    assert!(matches!(restores_with(&stolen.house, "R/custodian.age", "latest").code, 0 | 1));
}

#[test]
fn a_vouch_counts_in_its_own_repository_only() {
    let stolen = Stolen::revoked();
    // Another repository of the same two keys, whose old one is no longer trusted either.
    let (other, _) = House::new();
    for file in ["host_ed25519", "host_ed25519.pub", "new_ed25519", "new_ed25519.pub"] {
        fs::copy(stolen.house.path("R").join(file), other.path("R").join(file)).unwrap();
    }
    let signers = fs::read_to_string(other.path("R/allowed_signers")).unwrap();
    let of_key = |key: &str| {
        let line = fs::read_to_string(other.path(&format!("R/{key}.pub"))).unwrap();
        format!("{}{line}", &signers[..signers.find("ssh-ed25519").unwrap()])
    };
    fs::write(other.path("R/allowed_signers"), format!("{signers}{}", of_key("host_ed25519"))).unwrap();
    other.change_and_backup();
    fs::write(other.path("R/allowed_signers"), format!("{signers}{}", of_key("new_ed25519"))).unwrap();
    for store in STORES {
        copy_tree(&stolen.house.path(store).join("keys"), &other.path(store).join("keys"));
    }
    assert_refused(restores_with(&other, "R/custodian.age", "latest"), 17, &["not among the allowed signers"]);
    let verified = run(&mut other.recoup(["verify", "--json"])).expect_code(2).json();
    let findings = verified["findings"].as_array().unwrap();
    let of_vouch = |finding: &&serde_json::Value| finding["object"].as_str().unwrap_or_default().starts_with("keys/");
    assert_eq!(findings.iter().filter(of_vouch).count(), 3, "{verified}");
    let why = "of repository";
    assert!(findings.iter().filter(of_vouch).all(|finding| finding["cause"].as_str().unwrap().contains(why)));
}

/// Where a revocation may be cut short, and how that is brought about and put right again.
type Cut = (&'static str, fn(&Stolen), i32, fn(&Stolen));

const CUTS: &[Cut] = &[
    (
        "before the vouch is on enough stores",
        |stolen| stolen.put(&["a", "b"], "keys", b"in the way"),
        14,
        |stolen| ["a", "b"].iter().for_each(|store| fs::remove_file(stolen.house.path(store).join("keys")).unwrap()),
    ),
    (
        "before the key leaves the file",
        |stolen| {
            fs::rename(stolen.house.path("R/allowed_signers"), stolen.house.path("R/signers")).unwrap();
            symlink("signers", stolen.house.path("R/allowed_signers")).unwrap();
        },
        17,
        |stolen| fs::rename(stolen.house.path("R/signers"), stolen.house.path("R/allowed_signers")).unwrap(),
    ),
    (
        "before its end is on record",
        |stolen| {
            fs::rename(stolen.house.path("R/allowed_signers"), stolen.house.path("R/signers")).unwrap();
            symlink("signers", stolen.house.path("R/allowed_signers")).unwrap();
        },
        17,
        |stolen| {
            let text = fs::read_to_string(stolen.house.path("R/signers")).unwrap();
            fs::remove_file(stolen.house.path("R/allowed_signers")).unwrap();
            let kept = text.lines().filter(|line| !stolen.old.public_line().contains(line.rsplit(' ').nth(1).unwrap()));
            let kept: String = kept.map(|line| format!("{line}\n")).collect();
            fs::write(stolen.house.path("R/allowed_signers"), kept).unwrap();
        },
    ),
];

#[test]
fn a_revocation_that_was_cut_short_goes_on() {
    for (what, cut, code, mend) in CUTS {
        let stolen = Stolen::new();
        cut(&stolen);
        let failed = stolen.revoke();
        assert_eq!(failed.code, *code, "{what}: {failed:?}");
        let pending = stolen.pending().unwrap_or_else(|| panic!("{what}: what was begun is gone"));
        let kept = fs::read(&pending).unwrap();
        mend(&stolen);
        // Until it is over, everything that was good is good.
        stolen.house.assert_restores("snapshot:1", &stolen.first);
        // What the thief signs meanwhile is not vouched for.
        let forged = stolen.forge(&["a"], 9);
        assert_refused(
            change(&stolen.house, &["signer", "revoke", stolen.old.fingerprint().as_str()]),
            17,
            &["--confirm=", "2 of ledger"],
        );
        stolen.revoke().expect_code(0);
        assert!(!stolen.trusts_the_old_key() && stolen.pending().is_none(), "{what}");
        let refused = restores_with(&stolen.house, "R/custodian.age", "latest");
        assert_refused(refused, 17, &[&forged.to_string()]);
        fs::remove_dir_all(stolen.house.path(&format!("a/sources/ledger/snapshots/{forged}"))).unwrap();
        stolen.assert_all_is_well();
        assert_eq!(changes(&stolen.house), ["signer-added", "signer-revoked"], "{what}");
        // Cut short at the very end, it does the same again.
        fs::write(&pending, kept).unwrap();
        stolen.revoke().expect_code(0);
        stolen.assert_all_is_well();
    }
}

#[test]
fn a_revocation_that_was_killed_at_any_moment_goes_on() {
    for milliseconds in [5, 15, 25, 40] {
        let stolen = Stolen::new();
        let old = stolen.old.fingerprint().to_string();
        let arguments = ["key", "signer", "revoke", &old, "--confirm", &old, "--reason", "a test"];
        let mut killed = stolen.house.recoup(arguments).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        let _ = killed.kill();
        killed.wait().unwrap();
        stolen.house.assert_restores("snapshot:1", &stolen.first);
        // It may have been over already.
        let again = stolen.revoke();
        assert!(matches!(again.code, 0 | 64), "after {milliseconds} ms: {again:?}");
        assert!(!stolen.trusts_the_old_key() && stolen.pending().is_none(), "after {milliseconds} ms");
        stolen.assert_all_is_well();
        assert!(changes(&stolen.house).contains(&"signer-revoked".to_owned()), "after {milliseconds} ms");
    }
}

#[test]
fn a_host_cannot_revoke_itself_nor_without_the_right_to_vouch() {
    let (house, _) = House::new();
    let own = HostKey::from_openssh(&fs::read_to_string(house.path("R/host_ed25519")).unwrap()).unwrap();
    let own = own.fingerprint().to_string();
    let revoke = |signer: &str| change(&house, &["signer", "revoke", signer, "--confirm", signer]);
    assert_refused(revoke(&own), 17, &["signs with", "key signer add"]);
    assert_refused(revoke("SHA256:nobody"), 64, &["does not name it"]);
    let (file, _) = host_key(&house, "new", 9);
    let public = format!("{file}.pub");
    change(&house, &["signer", "add", &public, "--role", "inventory", "--role", "evidence"]).expect_code(0);
    house.edit_configuration("\"host_ed25519\"", "\"new_ed25519\"");
    assert_refused(revoke(&own), 17, &["recoup-keys", "would believe"]);
    assert_refused(key(&house, &["signer", "revoke", &own]), 64, &["needs a reason"]);
}

#[test]
fn too_few_stores_revoke_nothing() {
    let stolen = Stolen::new();
    for store in ["b", "c"] {
        fs::rename(stolen.house.path(store), stolen.house.path(&format!("{store}-away"))).unwrap();
    }
    assert_refused(stolen.revoke(), 14, &["too few stores answer", "1 of 3 answered", "still trusted"]);
    assert!(stolen.trusts_the_old_key() && stolen.pending().is_none());
    fs::rename(stolen.house.path("b-away"), stolen.house.path("b")).unwrap();
    let revoked = stolen.revoke().expect_code(1);
    assert!(revoked.stderr.contains("store c") && revoked.stderr.contains("copy"), "{revoked:?}");
    fs::rename(stolen.house.path("c-away"), stolen.house.path("c")).unwrap();
    run(&mut stolen.house.recoup(["copy"])).expect_code(0);
    stolen.assert_all_is_well();
}

#[test]
fn who_vouched_can_be_revoked_too() {
    let stolen = Stolen::revoked();
    let third = stolen.house.change_and_backup();
    let (file, _) = host_key(&stolen.house, "newest", 11);
    let added = change(&stolen.house, &["signer", "add", &format!("{file}.pub")]).expect_code(0);
    stolen.house.edit_configuration("\"new_ed25519\"", "\"newest_ed25519\"");
    fs::write(stolen.house.path("R/custodian.age.signers"), &added.stdout).unwrap();
    let new = HostKey::from_openssh(&fs::read_to_string(stolen.house.path("R/new_ed25519")).unwrap()).unwrap();
    let new = new.fingerprint().to_string();
    change(&stolen.house, &["signer", "revoke", &new, "--confirm", &new]).expect_code(0);
    stolen.assert_all_is_well();
    stolen.house.assert_restores("snapshot:3", &third);
}
