//! Many snapshots of one source: inventories that were never taken, signed and laid on a store.

use crate::{
    simulation::{FOLDER, Machine, Process, Site, content::Database, source_name},
    support::count_from,
};
use bytes::Bytes;
use recoup::{
    core::{
        id::{RunId, Sha256, SnapshotId},
        inventory::{FORMAT, Inventory, Kind, ObjectRef, PackSet, Parent, Use},
        result::PrunedSource,
        time::Timestamp,
    },
    format::{
        inventory as inventory_format,
        objects::{self, RunObject, RunObjects},
        sha256, signature,
    },
    ops::{host::Host, progress::NoProgress, prune, prune::PruneRequest},
    stores::{Store, StoreSpec},
    world::Stopwatch,
};
use std::time::Duration;

fn run(number: u64) -> RunId {
    let mut random = [0; 16];
    for (at, byte) in random.iter_mut().enumerate() {
        *byte = (number >> (5 * at).min(63)) as u8 & 31;
    }
    RunId::from_random(random)
}

fn list_of(host: &Host, number: u64) -> Vec<u8> {
    let object = |name: &str| RunObject { name: name.to_owned(), size: 1, sha256: sha256(b"x") };
    RunObjects {
        format: objects::FORMAT.to_owned(),
        repository: host.repository.id,
        source: source_name(),
        run: run(number),
        recipients: host.recipients.names().to_vec(),
        objects: ["0.age", "digests.age", "index.age", "m0.age"].map(object).into(),
    }
    .to_bytes()
}

/// Snapshot `seq`, an hour after the one before, over packs of the last 20 runs.
fn inventory(host: &Host, seq: u64, lists: &[Sha256], parent: Option<Sha256>) -> Inventory {
    let start: Timestamp = "2024-01-01T00:00:00Z".parse().unwrap();
    let created_at = Timestamp::new(start.as_datetime() + chrono::Duration::hours(seq as i64));
    let uses = (seq.saturating_sub(19).max(1)..=seq).map(|number| Use {
        run: run(number),
        objects_sha256: lists[number as usize - 1],
        packs: PackSet::from_packs([0]),
    });
    let id = |seq| SnapshotId { seq, run: run(seq) };
    Inventory {
        format: FORMAT.to_owned(),
        repository: host.repository.id,
        source: source_name(),
        source_kind: "memory".to_owned(),
        source_identity: "synthetic".to_owned(),
        seq,
        run: run(seq),
        writer: host.key.fingerprint().to_string(),
        kind: if seq == 1 { Kind::Full } else { Kind::Incremental },
        parents: parent.map(|sha256| Parent { id: id(seq - 1), sha256 }).into_iter().collect(),
        created_at,
        read_started_at: created_at,
        history: "h".to_owned(),
        position: format!("version {seq}"),
        bytes_raw: 1 << 30,
        bytes_stored: 1 << 20,
        recipients: host.recipients.names().to_vec(),
        manifest: ObjectRef { name: format!("snapshots/{}/manifest.age", id(seq)), size: 1, sha256: sha256(b"x") },
        uses: uses.collect(),
        log: None,
        altered_since: None,
    }
}

/// Lays so many snapshots on the first store.
async fn lay(host: &Host, snapshots: u64) {
    let store = &host.repository.stores[0];
    let put = async |name: String, bytes: Vec<u8>| {
        let digest = sha256(&bytes);
        store.create(&format!("{FOLDER}{name}"), Bytes::from(bytes), &digest).await.unwrap();
    };
    let (mut lists, mut parent) = (Vec::new(), None);
    for seq in 1..=snapshots {
        let list = list_of(host, seq);
        lists.push(sha256(&list));
        for name in ["0.age", "digests.age", "index.age", "m0.age"] {
            put(format!("packs/{}/{name}", run(seq)), b"x".to_vec()).await;
        }
        put(format!("packs/{}/objects.json", run(seq)), list).await;
        let inventory = inventory(host, seq, &lists, parent);
        let bytes = inventory_format::to_bytes(&inventory);
        parent = Some(sha256(&bytes));
        let folder = format!("snapshots/{}", inventory.id());
        put(format!("{folder}/manifest.age"), b"x".to_vec()).await;
        let signed = host.key.sign(signature::INVENTORY, &bytes);
        put(format!("{folder}/inventory.json.sig"), signed.into_bytes()).await;
        put(format!("{folder}/inventory.json"), bytes).await;
    }
}

fn machine() -> Machine {
    let machine = Machine::new(0, "scale");
    machine.clock.advance_seconds(20 * 365 * 86_400);
    machine
}

async fn pruned(process: &Process, request: PruneRequest) -> PrunedSource {
    let prepared = prune::prepare(&process.host, &process.protected, request, true).await.unwrap();
    prune::execute(&process.host, &process.protected, prepared, &NoProgress).await.unwrap()
}

/// What is kept, and what of it is still there, after most of a long history went.
#[test]
fn most_of_a_long_history_goes() {
    let (site, machine, database) = (Site::new(1), machine(), Database::new(512));
    let process = Process::new(&site, &machine, &database).keeping(10);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        lay(&process.host, 300).await;
        let request = PruneRequest { now: true, confirmed: true, ..PruneRequest::default() };
        let pruned = pruned(&process, request).await;
        assert_eq!(pruned.pruned.len(), 290);
    });
    // Ten snapshots, and the 29 runs that they use.
    let names: Vec<String> = site.objects(0).into_keys().collect();
    assert_eq!(names.iter().filter(|name| name.ends_with("/inventory.json")).count(), 10);
    assert_eq!(names.iter().filter(|name| name.ends_with("/objects.json")).count(), 29);
    assert_eq!(names.iter().filter(|name| name.contains("/packs/")).count(), 29 * 5);
}

/// How long it takes to plan over `RECOUP_TEST_SNAPSHOTS` (20,000) on a `file://` store, and how much memory. For a
/// release build; `RECOUP_TEST_SECONDS=0` makes it tell the figures.
#[test]
#[ignore = "it measures"]
fn planning_over_twenty_thousand_snapshots() {
    let snapshots = count_from("RECOUP_TEST_SNAPSHOTS", 20_000);
    let (site, machine, database) = (Site::new(1), machine(), Database::new(512));
    let mut process = Process::new(&site, &machine, &database);
    process.protected.policy.keep_within = Some(Duration::from_secs(35 * 86_400));
    let dir = tempfile::tempdir().unwrap();
    let spec = StoreSpec { name: "a".into(), url: format!("file://{}/a", dir.path().display()), ..Default::default() };
    let store = recoup::stores::found(&spec).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        process.host.repository.stores = vec![Store::memory("a")];
        process.host.repository.stores[0] = store;
        let head = site.get(0, "recoup.json").unwrap();
        let store = &process.host.repository.stores[0];
        store.create("recoup.json", head.clone(), &sha256(&head)).await.unwrap();
        lay(&process.host, snapshots).await;
        let before = peak_memory_kib();
        let stopwatch = Stopwatch::start();
        let request = PruneRequest { confirmed: true, ..PruneRequest::default() };
        let prepared = prune::prepare(&process.host, &process.protected, request.clone(), true).await.unwrap();
        let planned = stopwatch.seconds();
        let memory = peak_memory_kib();
        let published = prune::execute(&process.host, &process.protected, prepared, &NoProgress).await.unwrap();
        let condemned = published.condemned.len();
        let whole = stopwatch.seconds();
        let figures = format!(
            "{snapshots} snapshots: planned in {planned:.2} s, published in {whole:.2} s ({condemned} condemned), peak \
             memory {} MiB ({} MiB before)",
            memory / 1024,
            before / 1024
        );
        assert!(planned <= count_from("RECOUP_TEST_SECONDS", 5) as f64 && memory < 256 * 1024, "{figures}");
    });
}

fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
