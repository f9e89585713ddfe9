//! Everything at once: the log is pushed, fetched and followed while snapshots, copies, prunes and drills go on. Nobody
//! is refused, and nobody waits for the others.

use super::{
    cluster::{BALANCED, Cluster},
    follower::Follower,
    writer::{Writer, numbers},
};
use crate::{
    needs::needs,
    simulation::random::Rng,
    site::files_below,
    support::{Run, run},
};
use recoup::world::Stopwatch;
use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

const SECONDS: f64 = 8.0;
/// A fetch that waits for a snapshot or a drill takes longer than this.
const FETCH_SECONDS: f64 = 10.0;

/// Does something again and again until the time is over; gives what came of each.
fn again<T>(over: &AtomicBool, mut work: impl FnMut() -> T) -> Vec<T> {
    let mut done = vec![work()];
    while !over.load(Ordering::SeqCst) {
        done.push(work());
    }
    done
}

/// Whether any store shows a segment.
fn is_shown(cluster: &Cluster, name: &str) -> bool {
    let files = ["a", "b", "c"].map(|store| files_below(&cluster.path(store).join("sources/ledger/log")));
    let begins = format!("{}-", name.to_lowercase());
    files.iter().flatten().any(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&begins))
}

/// Fetches a segment that was archived; how long that took. There is none where a prune has taken it away.
fn fetch(cluster: &Cluster, rng: &mut Rng) -> f64 {
    let names = fs::read_dir(cluster.path("data/pg_wal/archive_status")).unwrap().flatten();
    let names = names.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".done")?.to_owned()));
    let names: Vec<String> = names.filter(|name| name.len() == 24).collect();
    let Some(name) = (!names.is_empty()).then(|| rng.pick(&names)) else { return 0.0 };
    let (time, target) = (Stopwatch::start(), cluster.path("fetched"));
    let fixed = ["archive", "fetch", "ledger", name.as_str(), "fetched", "--identity", "R/custodian.age"];
    let fetched = run(&mut cluster.recoup(fixed));
    let seconds = time.seconds();
    if fetched.code == 1 {
        // Records go first: what they named may lie there a moment longer.
        let gone = Stopwatch::start();
        while is_shown(cluster, name) && gone.seconds() < FETCH_SECONDS {
            thread::sleep(Duration::from_millis(20));
        }
        assert!(!is_shown(cluster, name) && !target.exists(), "{name}: {fetched:?}");
        return seconds;
    }
    fetched.expect_code(0);
    let there = fs::read(cluster.path("data/pg_wal").join(name));
    // The server may have removed its own by now.
    assert!(there.is_err() || there.unwrap() == fs::read(&target).unwrap(), "{name}");
    fs::remove_file(target).unwrap();
    seconds
}

#[test]
fn nobody_waits_for_the_others() {
    if !(needs("postgres18") && needs("setpriv")) {
        return;
    }
    let mut cluster = super::ledger("postgres18");
    cluster.stop("data");
    cluster.configure("data", "max_slot_wal_keep_size = '1GB'\n");
    cluster.start("data");
    cluster.name_programs();
    fs::write(cluster.path("R/policies/default.toml"), "[retention]\nkeep_last = 2\n").unwrap();
    let mut follower = Follower::start(&cluster, &["--create-slot"]);
    cluster.wait_for("data", "SELECT count(*) FROM pg_stat_replication", "1");
    let (writer, mut traffic) = (Writer::start(&cluster), cluster.traffic());
    assert!(cluster.backup(&[]).code < 2);
    let over = &AtomicBool::new(false);
    let recoup = &|arguments: &[&str]| run(&mut cluster.recoup(arguments.iter().copied()));
    let drill = ["drill", "ledger", "--identity", "R/custodian.age"];
    let (done, fetched) = thread::scope(|scope| {
        let commands: [&[&str]; 4] =
            [&["backup", "ledger"], &["copy"], &["prune", "ledger", "--now", "--yes", "--confirm=ledger"], &drill];
        let works = commands.map(|command| scope.spawn(move || again(over, || recoup(command))));
        let fetches = scope.spawn(|| {
            let mut rng = Rng::new(5);
            again(over, || fetch(&cluster, &mut rng))
        });
        let time = Stopwatch::start();
        while time.seconds() < SECONDS {
            cluster.sql("data", "postgres", &["SELECT pg_switch_wal()"]);
            thread::sleep(Duration::from_millis(300));
        }
        over.store(true, Ordering::SeqCst);
        (works.map(|work| work.join().unwrap()), fetches.join().unwrap())
    });
    for runs in &done {
        // A drill of what a prune deletes at that moment comes to no result, and says so.
        let is_late = |run: &Run| run.code == 16 && run.stderr.contains(", while it was being restored\n");
        let wrong: Vec<&Run> = runs.iter().filter(|run| run.code > 1 && !is_late(run)).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
    assert!(fetched.iter().all(|seconds| *seconds < FETCH_SECONDS), "{fetched:?}");
    assert!(traffic.is_running() && follower.is_running(), "{}", follower.said());
    assert_eq!(follower.said(), "");
    drop(traffic);
    let last = writer.end();
    cluster.sql("data", "postgres", &["SELECT pg_switch_wal()"]);
    cluster.drained("data");
    assert_eq!(cluster.sql("data", "postgres", &["SELECT failed_count FROM pg_stat_archiver"]), "0");
    assert_eq!(follower.end(), 0);
    run(&mut cluster.recoup(["copy"])).expect_code(0);
    run(&mut cluster.recoup(["verify", "--all"])).expect_code(0);
    let taken = cluster.backup(&[]).expect_code(0).json();
    for target in ["latest", &format!("snapshot:{}", taken["snapshots"][0]["seq"])] {
        cluster.restore_to("restored", target, &["--fetch-log"]).expect_code(0);
        cluster.start_restored("restored");
        let found = numbers(&cluster, "restored");
        assert!((last..=last + 1).contains(&found), "{target}: {found}, not {last}");
        assert_eq!(cluster.sql("restored", "ledger", &[BALANCED]), "t");
        cluster.stop("restored");
        fs::remove_dir_all(cluster.path("restored")).unwrap();
    }
}
