//! Forgeries on the real binary: refused, quickly and in little memory; nothing is written outside the target, and
//! the command that the error names restores an earlier snapshot.

mod draft;
mod linked;
mod planted;
mod signed;

use crate::{
    house::{House, STORES},
    support::{Run, program, run},
};
use recoup::{
    core::{id::SnapshotId, inventory::Inventory},
    format::{
        seal::{Identities, Recipients},
        signature::{self, HostKey},
    },
    world::Stopwatch,
};
use std::{fs, path::Path};

/// The most address space that a command gets here.
const MEMORY_KIB: u64 = 1024 * 1024;
/// The longest that a command may take here, on a slow machine.
const SECONDS_MAX: f64 = 60.0;

/// An installation, and what somebody needs who forges in its stores.
struct Forger {
    house: House,
    /// The host's own key: what a thief of the host has.
    key: HostKey,
    recipients: Recipients,
    custodian: Identities,
    first: Vec<u8>,
    second: Vec<u8>,
}

impl Forger {
    /// An installation with two snapshots.
    fn new() -> Self {
        let (house, first) = House::new();
        let second = house.change_and_backup();
        let key = HostKey::from_openssh(&fs::read_to_string(house.path("R/host_ed25519")).unwrap()).unwrap();
        let custodian = Identities::parse(&fs::read_to_string(house.path("R/custodian.age")).unwrap()).unwrap();
        let recipients = Recipients::parse(custodian.recipients()).unwrap();
        Forger { house, key, recipients, custodian, first, second }
    }

    /// The snapshots that store a shows, in order.
    fn snapshots(&self) -> Vec<SnapshotId> {
        let entries = fs::read_dir(self.house.path("a/sources/ledger/snapshots")).unwrap();
        let mut ids: Vec<SnapshotId> =
            entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
        ids.sort();
        ids
    }

    fn newest(&self) -> Inventory {
        let id = self.snapshots().pop().unwrap();
        serde_json::from_slice(&self.get(&format!("sources/ledger/snapshots/{id}/inventory.json"))).unwrap()
    }

    fn get(&self, key: &str) -> Vec<u8> {
        fs::read(self.house.path("a").join(key)).unwrap()
    }

    /// Puts bytes on every store.
    fn put(&self, key: &str, bytes: &[u8]) {
        STORES.into_iter().for_each(|store| self.put_on(store, key, bytes));
    }

    fn put_on(&self, store: &str, key: &str, bytes: &[u8]) {
        let path = self.house.path(store).join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn remove(&self, folder: &str) {
        for store in STORES {
            let _ = fs::remove_dir_all(self.house.path(store).join(folder));
        }
    }

    /// Puts an inventory with a signature of the host where its snapshot belongs.
    fn put_signed(&self, id: SnapshotId, inventory: &[u8]) {
        let signature = self.key.sign(signature::INVENTORY, inventory);
        self.put(&format!("sources/ledger/snapshots/{id}/inventory.json.sig"), signature.as_bytes());
        self.put(&format!("sources/ledger/snapshots/{id}/inventory.json"), inventory);
    }

    /// Restores in little memory; nothing but the target may change by it.
    #[track_caller]
    fn restore(&self, target: &str) -> (Run, std::path::PathBuf) {
        let (command, file) = self.house.restore(target);
        let before = self.everything_but(file.parent().unwrap());
        let stopwatch = Stopwatch::start();
        let done = self.bounded(command.get_args().map(|word| word.to_str().unwrap()));
        assert!(stopwatch.seconds() < SECONDS_MAX, "{} s: {done:?}", stopwatch.seconds());
        assert!(!done.stderr.contains("panicked") && !done.stderr.contains("internal error"), "{done:?}");
        assert_eq!(self.everything_but(file.parent().unwrap()), before, "{done:?}");
        (done, file)
    }

    fn everything_but(&self, target: &Path) -> Vec<String> {
        let mut found = self.house.inventory_of("");
        found.retain(|line| !line.starts_with(target.to_str().unwrap()));
        found
    }

    /// The binary with a limit to its memory.
    fn bounded<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Run {
        let mut command = program("sh", &self.house.path(""));
        command.args(["-c", &format!("ulimit -v {MEMORY_KIB}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_recoup")]);
        // Every thread's own heap reserves address space that nobody uses.
        run(command.env("MALLOC_ARENA_MAX", "1").args(arguments))
    }

    /// `latest` is refused with one of the codes, and the command that is named restores the second snapshot.
    #[track_caller]
    fn assert_refused(&self, what: &str, codes: &[i32]) -> Run {
        let (refused, file) = self.restore("latest");
        assert!(codes.contains(&refused.code), "{what}: {refused:?}");
        assert!(!file.parent().unwrap().exists(), "{what}: {refused:?}");
        for part in ["error: ", "\nsafe: ", "\nnext: "] {
            assert!(refused.stderr.contains(part), "{what}: {refused:?}");
        }
        self.assert_next_step_works(what, &refused);
        for command in [&["list"][..], &["verify"], &["copy"]] {
            let stopwatch = Stopwatch::start();
            let done = self.bounded(["--config", "R/recoup.toml"].into_iter().chain(command.iter().copied()));
            assert!(done.code <= 2 && !done.stderr.contains("panicked"), "{what}: {done:?}");
            assert!(stopwatch.seconds() < SECONDS_MAX, "{what}: {} s: {done:?}", stopwatch.seconds());
        }
        refused
    }

    #[track_caller]
    fn assert_next_step_works(&self, what: &str, refused: &Run) {
        let next = refused.stderr.lines().find(|line| line.starts_with("next: ")).unwrap();
        let (_, command) = next.split_once(": recoup ").unwrap_or_else(|| panic!("{what}: {refused:?}"));
        let words: Vec<&str> = command.split(' ').collect();
        let to = words[words.iter().position(|word| *word == "--to").unwrap() + 1];
        // As it stands: the configuration and the identity are in it.
        let done = self.bounded(words.clone());
        assert!(matches!(done.code, 0 | 1), "{what}: {done:?}");
        assert!(fs::read(Path::new(to).join("ledger.db")).unwrap() == self.second, "{what}");
        fs::remove_dir_all(to).unwrap();
    }
}
