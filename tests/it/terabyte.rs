//! A cluster of a terabyte is planned, listed and pruned in as little memory as a small one.
//!
//! Sealing that much takes too long for a test. So its repository is laid as it would be after fulls and incrementals
//! with changes here and there, and what works on it is a process of its own, whose memory is watched.

mod laid;
mod source;

use crate::support::{LEDGER, TestRepository, count_from, files_below, peak_of, recoup};
use ::recoup::{
    config,
    core::{inventory::Kind, policy::Policy},
    format::seal::Identities,
    ops::{backup, host::Protected, open, progress::NoProgress, restore},
    world::{self, World},
};
use laid::{FILE_BLOCKS, Laid, SNAPSHOTS};
use serde::{Deserialize, Serialize};
use source::Cluster;
use std::{fs, path::PathBuf, process::Command, sync::Arc};

/// Tells a process of this program what to do.
const ORDER: &str = "RECOUP_TEST_TERABYTE";
/// What every command may take of a cluster of 1,000 files.
const WHOLE_MIB: u64 = 256;

#[derive(Serialize, Deserialize)]
enum Step {
    /// Takes an incremental, which is snapshot `seq`.
    Backup { seq: u64, renamed: bool },
    /// Reads the manifest of the newest snapshot, which names at least so many packs.
    Manifest { packs: u64 },
}

#[derive(Serialize, Deserialize)]
struct Order {
    step: Step,
    config: PathBuf,
    identity: PathBuf,
    files: u64,
}

/// `RECOUP_TEST_FILES` of 1 GiB each (64). `RECOUP_TEST_MIB=0` makes it tell the figures.
///
/// What a step takes of a cluster of no files is given with it; the bound grows from there with the number of files.
#[test]
fn a_large_cluster_takes_little_memory() {
    let files = count_from("RECOUP_TEST_FILES", 64);
    let whole = count_from("RECOUP_TEST_MIB", WHOLE_MIB);
    let repository = TestRepository::new();
    let laid = Laid::lay(&repository, files);
    assert!(laid.extents > files * 3000 && laid.packs() > files * 8, "{} extents", laid.extents);
    let mut peaks = Vec::new();
    let mut measure = |name: &str, nothing: u64, command: &mut Command| {
        let most = nothing + WHOLE_MIB.saturating_sub(nothing) * files / 1000;
        peaks.push((name.to_owned(), peak_of(command) / 1024, most.min(whole)));
    };
    let in_process = |step: Step| {
        let (config, identity) = (repository.config(), repository.identity());
        let order = serde_json::to_string(&Order { step, config, identity, files }).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["terabyte::a_step_of_its_own", "--exact", "--ignored"]).env(ORDER, order);
        command
    };
    let by_program = |arguments: &[&str]| {
        let mut command = recoup(&repository.path("."));
        command.arg("--config").arg(repository.config()).args(arguments);
        command
    };
    measure("backup", 96, &mut in_process(Step::Backup { seq: SNAPSHOTS + 1, renamed: false }));
    measure("backup of renamed files", 72, &mut in_process(Step::Backup { seq: SNAPSHOTS + 2, renamed: true }));
    measure("list", 48, &mut by_program(&["list"]));
    measure("verify", 48, &mut by_program(&["verify"]));
    measure("manifest", 56, &mut in_process(Step::Manifest { packs: laid.packs() }));
    // Eight that are whole, and the one that has lost a pack.
    fs::write(repository.path("host/policies/default.toml"), "[retention]\nkeep_last = 8\n").unwrap();
    measure("prune --dry-run", 48, &mut by_program(&["prune", "--dry-run", "--confirm=ledger"]));
    measure("prune --now", 52, &mut by_program(&["prune", "--yes", "--now", "--confirm=ledger"]));
    let left = files_below(&repository.object("c", "snapshots"));
    let left = left.iter().filter(|file| file.ends_with("inventory.json")).count() as u64;
    assert_eq!(left, SNAPSHOTS / 2 + 2, "the older history is gone");
    let is_little = |(_, peak, most): &(String, u64, u64)| (5..=*most).contains(peak);
    assert!(peaks.iter().all(is_little), "MiB, and the most that it may be: {peaks:?}");
}

/// Not a test: what a test runs in a process of its own.
#[test]
#[ignore = "run by another test as a process of its own"]
fn a_step_of_its_own() {
    let Some(order) = world::environment(ORDER) else { return };
    let Order { step, config, identity, files } = serde_json::from_str(&order).unwrap();
    let world = World::real();
    let host = open::open_host(&config::load(&config).unwrap(), &world).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let name: ::recoup::core::id::SourceName = LEDGER.parse().unwrap();
    match step {
        Step::Backup { seq, renamed } => {
            let source = Arc::new(Cluster { files, renamed, world });
            let protected = Protected { name, source, policy: Policy::default() };
            let taken = runtime.block_on(backup::backup(&host, &protected, false, &NoProgress)).unwrap();
            assert_eq!((taken.inventory.kind, taken.inventory.seq), (Kind::Incremental, seq));
            assert_eq!((&taken.stores[..], taken.durable), (&["a", "b", "c"].map(str::to_owned)[..], true));
        }
        Step::Manifest { packs } => {
            let identities = Identities::parse(&fs::read_to_string(identity).unwrap()).unwrap();
            let manifest = runtime.block_on(async {
                let catalogue = host.repository.catalogue(&name).await;
                let newest = *catalogue.snapshots.keys().next_back().unwrap();
                restore::read_manifest(&host.repository, &catalogue, newest, &identities).await.unwrap()
            });
            assert_eq!((manifest.files(), manifest.bytes()), (files, files << 30));
            assert_eq!(manifest.bytes_stored_raw(), files * FILE_BLOCKS * 8192, "every block is stored somewhere");
            assert!(manifest.packs.len() as u64 >= packs, "{} of {packs} packs", manifest.packs.len());
        }
    }
}
