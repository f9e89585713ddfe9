//! Objects on their way to stores that are slow, fail or lie, with little room to wait in.

use crate::{
    core::policy::{Copies, Place, is_durable},
    format::seal::SealedObject,
    ops::backup::shipment::{LaneError, Parcel, Room, Shipment, read_spooled},
    stores::{
        Store,
        fault::{Faults, Operations, Switch},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

/// Objects that are shipped, and bytes in each.
const OBJECTS: usize = 40;
const OBJECT_BYTES: usize = 8 * 1024;

/// Ships to three stores that take so many milliseconds for each operation; says how each fared.
async fn ship(milliseconds: [u64; 3], copies: Copies, spool: &Path) -> BTreeMap<&'static str, Result<(), LaneError>> {
    let names = ["a", "b", "c"];
    let stores: Vec<Store> = std::iter::zip(names, milliseconds)
        .map(|(name, milliseconds)| {
            let faults = Faults::new(name, &Operations::new());
            faults.switch(Switch::Slow(Duration::from_millis(milliseconds)));
            let region = Some(if name == "c" { "far" } else { "near" }.to_owned());
            Store::memory(name).with_place(Place { region, provider: None }).wrapped(|inner| faults.wrap(inner))
        })
        .collect();
    let places = stores.iter().map(|store| (store.name().to_owned(), store.place().clone())).collect();
    let is_enough = Box::new(move |held: &BTreeSet<String>| is_durable(&copies, &places, held));
    let unit = OBJECT_BYTES as u64;
    let room = Room { memory_bytes: 2 * unit, spool_bytes: 4 * unit, spool_dir: spool.join("run") };
    let mut shipment = Shipment::new(&stores, "sources/ledger/".to_owned(), room, is_enough);
    // A task and no thread: the paused clock would run on while a thread waits for a processor.
    let (outbox, mut receiver) = tokio::sync::mpsc::channel(1);
    let sealing = tokio::spawn(async move {
        for number in 0..OBJECTS {
            let object = SealedObject::clear(vec![number as u8; OBJECT_BYTES]);
            if outbox.send(Parcel { name: format!("packs/{number}"), object }).await.is_err() {
                return; // no store takes anything any more
            }
        }
    });
    let carried = shipment.carry(&mut receiver, &|_| {}).await;
    drop(receiver);
    sealing.await.unwrap();
    let mut outcomes = BTreeMap::new();
    for ((_, task), name) in shipment.close().into_iter().zip(names) {
        outcomes.insert(name, task.await.unwrap());
    }
    assert_eq!(carried.is_ok(), outcomes.values().any(Result::is_ok), "{carried:?} {outcomes:?}");
    let left = std::fs::read_dir(spool.join("run")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "the spool is emptied");
    outcomes
}

#[tokio::test(start_paused = true)]
async fn slow_stores_are_waited_for_while_the_snapshot_needs_them() {
    let spool = tempfile::tempdir().unwrap();
    let all = Copies { min_stores: Some(3), ..Copies::default() };
    let far = Copies { min_stores: Some(1), min_regions: Some(2), ..Copies::default() };
    // Speeds, the policy, the stores that must have everything, and one that is not waited for.
    let cases = [
        ([1, 400, 400], Copies::default(), &["a", "b"][..], None),
        ([1, 400, 500], all, &["a", "b", "c"], None),
        ([1, 1, 4_000], Copies::default(), &["a", "b"], Some("c")),
        ([1, 4_000, 100], far, &["a", "c"], Some("b")),
    ];
    for (milliseconds, copies, complete, left) in cases {
        let outcomes = ship(milliseconds, copies.clone(), spool.path()).await;
        let taken = outcomes.values().filter(|outcome| outcome.is_ok()).count();
        assert!(taken >= complete.len(), "{milliseconds:?}, {copies:?}: {outcomes:?}");
        if let Some(left) = left {
            assert!(complete.iter().all(|name| outcomes[name].is_ok()), "{milliseconds:?}: {outcomes:?}");
            assert!(matches!(outcomes[left], Err(LaneError::LeftBehind)), "{milliseconds:?}: {outcomes:?}");
        }
    }
}

#[test]
fn a_spool_that_gives_other_bytes_back_is_noticed() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("0.age");
    let sha256 = crate::format::sha256(&[7; 1000]);
    std::fs::write(&path, [7; 1000]).unwrap();
    assert_eq!(read_spooled(&path, &sha256).unwrap(), [7; 1000][..]);
    let mut other = [7; 1000];
    other[500] ^= 1;
    for spoiled in [&other[..], &[7; 999], &[]] {
        std::fs::write(&path, spoiled).unwrap();
        let Err(LaneError::Own(why)) = read_spooled(&path, &sha256) else { panic!("{} bytes", spoiled.len()) };
        assert!(why.contains("is not what was written there"), "{why}");
    }
}
