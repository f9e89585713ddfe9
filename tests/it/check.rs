//! `check`, `status` and `points` as scripts, monitors and people meet them: the real program over real stores.

mod findings;
mod hung;
mod shown;
mod speed;

use crate::{
    house::{House, STORES},
    support::{Run, run},
};
use recoup::{
    config::{self, Settings},
    core::{
        evidence::{Action, Control, Draft, Subject, Verdict},
        inventory::Inventory,
        time::Timestamp,
    },
    format::{
        inventory,
        signature::{self, HostKey},
    },
    ops::{
        evidence::{Recorder, Started},
        open,
    },
    world::World,
};
use std::fs;

/// A house with two custodians, one snapshot on every store, and a promise of an hour: nothing is wrong.
fn well() -> House {
    let house = before_the_first();
    house.backup();
    house
}

/// The same before its snapshot.
fn before_the_first() -> House {
    let house = House::founded();
    let key = fs::read_to_string(house.path("R/host_ed25519.pub")).unwrap();
    let key: Vec<&str> = key.split_whitespace().take(2).collect();
    house.edit_configuration("\"age1", &format!("\"{}\", \"age1", key.join(" ")));
    promise(&house, "rpo = \"1h\"\n");
    house
}

/// Replaces the policy.
fn promise(house: &House, policy: &str) {
    fs::write(house.path("R/policies/default.toml"), policy).unwrap();
}

fn settings(house: &House) -> Settings {
    config::load(&house.path("R/recoup.toml")).unwrap()
}

fn recorder(house: &House) -> Recorder {
    let settings = settings(house);
    Recorder::new(&open::open_host(&settings, &World::real()).unwrap(), &settings)
}

/// So many minutes ago.
fn ago(minutes: i64) -> Timestamp {
    Timestamp::new(World::real().now().as_datetime() - chrono::Duration::minutes(minutes))
}

fn drill(verdict: Verdict, minutes: i64) -> Draft {
    let mut draft = Draft::new(Action::Drill, verdict, ago(minutes));
    draft.subjects = vec![Subject::new("ledger".parse().unwrap(), verdict)];
    draft
}

fn hold(cause: recoup::core::evidence::HoldCause, snapshots: Vec<recoup::core::id::SnapshotId>) -> Draft {
    let mut draft = Draft::new(Action::Hold, Verdict::Passed, ago(1));
    let (hold, source) = ("holdholdholdhold".parse().unwrap(), "ledger".parse().unwrap());
    draft.control = Some(Control::HoldAdded { hold, source, snapshots, cause });
    draft
}

/// Records something, and brings it to the stores.
fn record(house: &House, draft: Draft) {
    let recorder = recorder(house);
    recorder.record(draft).unwrap();
    ship(&recorder);
}

/// Records that a drill began so long ago.
fn begin_drill(house: &House, minutes: i64) -> Started {
    let recorder = recorder(house);
    let started = recorder.start(drill(Verdict::Pending, minutes), None).unwrap();
    ship(&recorder);
    started
}

fn ship(recorder: &Recorder) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(recorder.ship());
}

/// Dates the only snapshot anew on every store, as if it had been taken then; what this host knows goes with it.
fn date_anew(house: &House, moment: Timestamp) {
    let key = HostKey::from_openssh(&fs::read_to_string(house.path("R/host_ed25519")).unwrap()).unwrap();
    for store in STORES {
        let folder = house.path(store).join("sources/ledger/snapshots");
        let snapshot = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
        let before = fs::read(snapshot.join("inventory.json")).unwrap();
        let mut inventory: Inventory = serde_json::from_slice(&before).unwrap();
        (inventory.created_at, inventory.read_started_at) = (moment, moment);
        let bytes = inventory::to_bytes(&inventory);
        fs::write(snapshot.join("inventory.json"), &bytes).unwrap();
        fs::write(snapshot.join("inventory.json.sig"), key.sign(signature::INVENTORY, &bytes)).unwrap();
        for state in ["known.json", "base.json"] {
            let path = house.path("R/state/sources/ledger").join(state);
            let sha256 = |bytes: &[u8]| recoup::format::sha256(bytes).to_string();
            let text = fs::read_to_string(&path).unwrap().replace(&sha256(&before), &sha256(&bytes));
            fs::write(path, text).unwrap();
        }
    }
}

/// The findings beyond notes, as `severity id`.
fn found(run: &Run) -> Vec<String> {
    let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let findings = run.json()["findings"].as_array().unwrap().clone();
    let all = findings.iter().map(|finding| format!("{} {}", word(&finding["severity"]), word(&finding["id"])));
    all.filter(|found| !found.starts_with("note")).collect()
}

fn check(house: &House) -> Run {
    run(&mut house.recoup(["check", "--json"]))
}
