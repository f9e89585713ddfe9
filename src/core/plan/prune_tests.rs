//! Tables of what goes and what stays.

use super::*;
use crate::core::{
    id::SourceName,
    inventory::{FORMAT, Kind, ObjectRef, Use},
    prune::{self, Stage},
};

fn run(number: u64) -> RunId {
    RunId::from_random([number as u8; 16])
}

fn id(seq: u64) -> SnapshotId {
    SnapshotId { seq, run: run(seq) }
}

/// A snapshot of run `seq` with the root of `root`, using packs of runs: `1:0-3 2:4`.
fn inventory(seq: u64, root: u64, uses: &str) -> Inventory {
    let used = |part: &str| {
        let (number, packs) = part.split_once(':').unwrap();
        Use { run: run(number.parse().unwrap()), objects_sha256: Sha256([0; 32]), packs: packs.parse().unwrap() }
    };
    Inventory {
        format: FORMAT.into(),
        repository: run(31),
        source: "ledger".parse::<SourceName>().unwrap(),
        source_kind: "sqlite".into(),
        source_identity: "x".into(),
        seq,
        run: run(seq),
        writer: format!("writer {}", seq % 2),
        kind: Kind::Incremental,
        parents: Vec::new(),
        created_at: "2026-11-22T10:00:00Z".parse().unwrap(),
        read_started_at: "2026-11-22T10:00:00Z".parse().unwrap(),
        history: "h".into(),
        position: "p".into(),
        bytes_raw: 0,
        bytes_stored: 0,
        recipients: Vec::new(),
        manifest: ObjectRef { name: format!("snapshots/{}/manifest.age", id(root)), size: 1, sha256: Sha256([0; 32]) },
        uses: uses.split_whitespace().map(used).collect(),
        log: None,
        altered_since: None,
    }
}

fn snapshots(inventories: &[Inventory]) -> Snapshots<'_> {
    let known = |inventory| Known { inventory, sha256: Sha256([1; 32]) };
    inventories.iter().map(|inventory| (inventory.id(), known(inventory))).collect()
}

/// As text: `s1 r1 1:0-3 2:4!` with `!` for whole runs, `f4` for folders.
fn text(condemned: &Condemned) -> String {
    let number = |run: RunId| (0..32).find(|number| super::tests::run(*number) == run).unwrap();
    let mut words: Vec<String> = condemned.snapshots.iter().map(|snapshot| format!("s{}", snapshot.id.seq)).collect();
    words.extend(condemned.roots.iter().map(|root| format!("r{}", root.seq)));
    words.extend(
        condemned
            .runs
            .iter()
            .map(|run| format!("{}:{}{}", number(run.run), run.packs, if run.whole { "!" } else { "" })),
    );
    words.extend(condemned.folders.iter().map(|folder| format!("f{}", folder.seq)));
    words.join(" ")
}

fn condemning(seqs: &[u64]) -> BTreeMap<SnapshotId, Because> {
    seqs.iter().map(|seq| (id(*seq), Because::Retention)).collect()
}

/// A full, an incremental that uses half of it, an idle one, and a new full.
fn history() -> Vec<Inventory> {
    vec![inventory(1, 1, "1:0-3"), inventory(2, 2, "1:0-1 2:0"), inventory(3, 2, "1:0-1 2:0"), inventory(4, 4, "4:0-5")]
}

#[test]
fn only_what_nobody_else_uses_goes() {
    for (going, expected) in [
        (&[][..], ""),
        (&[1], "s1 r1 1:2-3"),
        (&[2], "s2"),
        (&[3], "s3"),
        (&[1, 2], "s1 s2 r1 1:2-3"),
        (&[2, 3], "s2 s3 r2 2:0!"),
        (&[1, 2, 3], "s1 s2 s3 r1 r2 1:0-3! 2:0!"),
        (&[4], "s4 r4 4:0-5!"),
        // Known to be lost: a tombstone for what is on no store.
        (&[1, 9], "s1 s9 r1 1:2-3"),
    ] {
        let inventories = history();
        let condemned = condemn(&snapshots(&inventories), &condemning(going), &CondemnedSet::default());
        assert_eq!(text(&condemned), expected, "{going:?}");
    }
}

#[test]
fn what_an_earlier_plan_condemns_counts_as_gone() {
    let inventories = history();
    for (earlier, later, expected) in [
        (&[1][..], &[2, 3][..], "s2 s3 r2 1:0-3! 2:0!"),
        (&[2, 3], &[1], "s1 r1 1:0-3!"),
        (&[1, 2, 3], &[4], "s4 r4 4:0-5!"),
        (&[1], &[2], "s2"),
        (&[1], &[], ""),
    ] {
        let mut before = CondemnedSet::default();
        before.add(&condemn(&snapshots(&inventories), &condemning(earlier), &CondemnedSet::default()));
        let condemned = condemn(&snapshots(&inventories), &condemning(later), &before);
        assert_eq!(text(&condemned), expected, "{earlier:?} {later:?}");
    }
}

#[test]
fn the_second_look_drops_what_is_in_use() {
    let inventories = history();
    let plan = |going: &[u64]| condemn(&snapshots(&inventories), &condemning(going), &CondemnedSet::default());
    for (going, new, keep, rest, dropped) in [
        (&[1, 2, 3][..], None, &[][..], "s1 s2 s3 r1 r2 1:0-3! 2:0!", ""),
        // A backup that was in flight uses a pack, an index, or the root.
        (&[1, 2, 3], Some(inventory(5, 5, "1:0 5:0")), &[], "s1 s2 s3 r1 r2 1:1-3 2:0!", "1:0-3!"),
        (&[1, 2, 3], Some(inventory(5, 2, "1:0-1 2:0")), &[], "s1 s2 s3 r1 1:2-3", "r2 1:0-3! 2:0!"),
        (&[1, 2, 3], Some(inventory(5, 5, "4:0 5:0")), &[], "s1 s2 s3 r1 r2 1:0-3! 2:0!", ""),
        (&[1], Some(inventory(5, 5, "1:3 5:0")), &[], "s1 r1 1:2", "1:2-3"),
        // A hold, or a policy that keeps it again.
        (&[1, 2, 3], None, &[3], "s1 s2 r1 1:2-3", "s3 r2 1:0-3! 2:0!"),
        (&[1], None, &[1], "", "s1 r1 1:2-3"),
        // One that was lost has come back.
        (&[9], Some(inventory(9, 9, "9:0")), &[], "", "s9"),
    ] {
        let plan = plan(going);
        let mut now = inventories.clone();
        now.extend(new);
        let keep = keep.iter().map(|seq| id(*seq)).collect();
        let (found, found_dropped) = second_look(&plan, &snapshots(&now), &keep);
        assert_eq!((text(&found), text(&found_dropped)), (rest.to_owned(), dropped.to_owned()), "{going:?}");
        // What was published and is not executed is dropped: nothing is forgotten.
        let (mut all, mut both) = (CondemnedSet::default(), CondemnedSet::default());
        all.add(&plan);
        both.add(&found);
        both.add(&found_dropped);
        assert_eq!(both, all, "{going:?}");
        // Nothing that stays loses anything.
        let mut gone = CondemnedSet::default();
        gone.add(&found);
        for inventory in now.iter().filter(|inventory| !gone.has_snapshot(inventory.id())) {
            assert_eq!(gone.used_by(inventory), None, "{going:?}: {}", inventory.id());
        }
    }
}

#[test]
fn another_inventory_under_a_condemned_name_stays() {
    let inventories = history();
    let mut plan = condemn(&snapshots(&inventories), &condemning(&[1]), &CondemnedSet::default());
    plan.snapshots[0].inventory_sha256 = Some(Sha256([2; 32]));
    let (rest, _) = second_look(&plan, &snapshots(&inventories), &BTreeSet::new());
    assert_eq!(text(&rest), "");
}

fn record(orphans: &[u64], writers: &[(&str, u64)]) -> PruneRecord {
    PruneRecord {
        format: prune::FORMAT.into(),
        stage: Stage::Planned,
        repository: run(31),
        source: "ledger".parse().unwrap(),
        plan: run(30),
        writer: "x".into(),
        created_at: "2026-11-22T10:00:00Z".parse().unwrap(),
        policy_sha256: None,
        keep_within_seconds: None,
        keep_last: None,
        condemned: Condemned::default(),
        dropped: Condemned::default(),
        log_sha256: None,
        orphans_seen: orphans.iter().map(|number| run(*number)).collect(),
        writers_seen: seen(writers),
        confirmed: Vec::new(),
    }
}

fn seen(writers: &[(&str, u64)]) -> Vec<WriterSeen> {
    writers.iter().map(|(writer, seq)| WriterSeen { writer: (*writer).to_owned(), seq: *seq }).collect()
}

#[test]
fn orphans_are_condemned_once_every_writer_has_moved_on() {
    let inventories = history();
    let shown: BTreeSet<RunId> = [1, 2, 4, 7, 8].map(run).into();
    let folders: BTreeSet<SnapshotId> = [1, 2, 7, 9].map(id).into();
    let orphans = Orphans::among(&shown, &folders, &snapshots(&inventories), &CondemnedSet::default());
    assert_eq!(orphans, Orphans { runs: [7, 8].map(run).into(), folders: [7, 9].map(id).into() });
    assert_eq!(orphans.all_runs(), [7, 8, 9].map(run).into());
    for (records, now, expected) in [
        (&[][..], &[("a", 5)][..], ""),
        (&[record(&[7], &[("a", 4)])], &[("a", 4)], ""),
        (&[record(&[7], &[("a", 4)])], &[("a", 5)], "7:! f7"),
        (&[record(&[7], &[("a", 4)])], &[("a", 5), ("b", 1)], "7:! f7"),
        (&[record(&[7], &[("a", 4)])], &[("a", 5), ("b", 0)], ""),
        (&[record(&[7], &[("a", 4), ("b", 2)])], &[("a", 5)], ""),
        (&[record(&[7], &[])], &[], ""),
        (&[record(&[7], &[("a", 4)]), record(&[7, 8, 9], &[("a", 5)])], &[("a", 5)], "7:! f7"),
        (&[record(&[7], &[("a", 4)]), record(&[7, 8, 9], &[("a", 5)])], &[("a", 6)], "7:! 8:! f7 f9"),
    ] {
        let mut condemned = Condemned::default();
        let records: Vec<&PruneRecord> = records.iter().collect();
        orphans.abandoned(&records, &seen(now), &NamedWriters::new()).condemn(&mut condemned);
        assert_eq!(text(&condemned), expected, "{now:?}");
    }
    let writers = writers(inventories.iter().map(|inventory| (inventory, inventory.seq < 4)));
    assert_eq!(writers, seen(&[("writer 0", 2), ("writer 1", 3)]));
}

#[test]
fn a_run_that_names_its_writer_stays_until_that_one_has_moved_on() {
    let orphans = Orphans { runs: [7].map(run).into(), folders: [7].map(id).into() };
    for (named, then, now, expected) in [
        (&[][..], &[("a", 4)][..], &[("a", 5)][..], "7:! f7"),
        (&["a"], &[("a", 4)], &[("a", 5)], "7:! f7"),
        // Of one that has committed nothing yet, nobody knows what became of it.
        (&["b"], &[("a", 4)], &[("a", 5)], ""),
        (&["b"], &[("a", 4)], &[("a", 5), ("b", 0)], ""),
        (&["b"], &[("a", 4)], &[("a", 5), ("b", 6)], "7:! f7"),
        // Whatever it names, it makes nothing go earlier.
        (&["a"], &[("a", 4), ("b", 2)], &[("a", 5), ("b", 2)], ""),
        (&["a", "b"], &[("a", 4)], &[("a", 5)], ""),
    ] {
        let named: NamedWriters = [(run(7), named.iter().map(|name| (*name).to_owned()).collect())].into();
        let mut condemned = Condemned::default();
        orphans.abandoned(&[&record(&[7], then)], &seen(now), &named).condemn(&mut condemned);
        assert_eq!(text(&condemned), expected, "{named:?} {now:?}");
    }
}
