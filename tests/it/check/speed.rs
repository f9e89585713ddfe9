//! A check reads little: its time does not grow with what the snapshots hold, and barely with their number.

use super::well;
use crate::{
    house::{House, STORES},
    support::{count_from, recoup, run},
};
use recoup::{
    core::{
        id::{RunId, Sha256, SnapshotId},
        inventory::{Inventory, Kind, Parent},
        time::Timestamp,
    },
    format::{
        self, inventory,
        signature::{self, HostKey},
    },
    world::{SeededRandom, Stopwatch, World},
};
use std::{fs, path::Path, time::Duration};

/// Writes so many snapshots of each of so many sources, an hour apart until now, signed and committed on every store.
fn populate(house: &House, sources: u64, snapshots: u64) {
    let key = HostKey::from_openssh(&fs::read_to_string(house.path("R/host_ed25519")).unwrap()).unwrap();
    let folder = fs::read_dir(house.path("a/sources/ledger/snapshots")).unwrap().next().unwrap().unwrap().path();
    let model: Inventory = serde_json::from_slice(&fs::read(folder.join("inventory.json")).unwrap()).unwrap();
    let now = World::real().now().as_datetime();
    let random = World::new(recoup::world::ManualClock::new(Timestamp::new(now)), SeededRandom::new("speed"));
    let mut configured = fs::read_to_string(house.path("R/recoup.toml")).unwrap();
    for source in 0..sources {
        let name = format!("ledger-{source}");
        let path = house.path("data/ledger.db");
        configured.push_str(&format!(
            "\n[[source]]\nname = \"{name}\"\nkind = \"sqlite\"\npolicy = \"default\"\npath = \"{}\"\n",
            path.display()
        ));
        let (mut parent, mut first, mut ids): (Option<Parent>, Option<RunId>, Vec<SnapshotId>) =
            (None, None, Vec::new());
        for seq in 1..=snapshots {
            let at = Timestamp::new(now - chrono::Duration::hours((snapshots - seq) as i64));
            let run = random.new_id();
            let mut inventory = model.clone();
            let id = SnapshotId { seq, run };
            inventory.source = name.parse().unwrap();
            (inventory.seq, inventory.run, inventory.created_at, inventory.read_started_at) = (seq, run, at, at);
            inventory.kind = if seq == 1 { Kind::Full } else { Kind::Incremental };
            inventory.parents = parent.into_iter().collect();
            inventory.manifest.name = format!("snapshots/{id}/manifest.age");
            inventory.uses.truncate(1);
            inventory.uses[0].run = *first.get_or_insert(run);
            let bytes = inventory::to_bytes(&inventory);
            let signed = key.sign(signature::INVENTORY, &bytes);
            let sha256: Sha256 = format::sha256(&bytes);
            for store in STORES {
                let folder = house.path(store).join(format!("sources/{name}/snapshots/{id}"));
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join("inventory.json"), &bytes).unwrap();
                fs::write(folder.join("inventory.json.sig"), &signed).unwrap();
                fs::write(folder.join("manifest.age"), "x").unwrap();
                fs::create_dir_all(house.path(store).join(format!("sources/{name}/packs/{run}"))).unwrap();
            }
            parent = Some(Parent { id, sha256 });
            ids.push(id);
        }
        remember(house, &name, &model, parent.unwrap(), &ids);
    }
    fs::write(house.path("R/recoup.toml"), configured).unwrap();
}

/// What the host would know had it taken them.
fn remember(house: &House, name: &str, model: &Inventory, head: Parent, ids: &[SnapshotId]) {
    let folder = house.path("R/state/sources").join(name);
    fs::create_dir_all(&folder).unwrap();
    let completed: serde_json::Map<String, serde_json::Value> =
        STORES.iter().map(|store| ((*store).to_owned(), serde_json::json!(ids))).collect();
    let known = serde_json::json!({
        "repository": model.repository, "head": head, "last_seq": ids.len(), "completed": completed,
    });
    fs::write(folder.join("known.json"), known.to_string()).unwrap();
}

/// The fastest of three checks.
fn fastest(house: &House, binary: Option<&Path>) -> Duration {
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        let mut command = match binary {
            Some(binary) => crate::support::program(binary.to_str().unwrap(), &house.path("")),
            None => recoup(&house.path("")),
        };
        let started = Stopwatch::start();
        let checked = run(command.args(["--config", "R/recoup.toml", "check"])).expect_code(0);
        fastest = fastest.min(started.elapsed());
        assert!(checked.stdout.starts_with("RECOUP OK - "), "{checked:?}");
    }
    fastest
}

#[test]
fn many_old_snapshots_cost_little() {
    let (few, many) = (well(), well());
    populate(&few, 4, 2);
    populate(&many, 4, 100);
    let (few, many) = (fastest(&few, None), fastest(&many, None));
    // Fifty times as many; to read and verify all of them would take a hundred times as long as to list them.
    assert!(many < 10 * few + Duration::from_millis(500), "{many:?} after {few:?}");
}

/// The whole measurement: `RECOUP_TEST_BINARY` names a release build.
#[test]
#[ignore = "it writes 180,000 files; run it by hand"]
#[expect(clippy::print_stderr, reason = "the figure is what it is run for")]
fn fifty_sources_with_twenty_thousand_snapshots() {
    let house = well();
    populate(&house, count_from("RECOUP_TEST_SOURCES", 50), count_from("RECOUP_TEST_SNAPSHOTS", 400));
    let binary = recoup::world::environment("RECOUP_TEST_BINARY");
    let took = fastest(&house, binary.as_deref().map(Path::new));
    assert!(binary.is_none() || took < Duration::from_secs(2), "{took:?}");
    eprintln!("check over everything: {took:?}");
}
