//! Files of the log that some stores have lost, or all of them.

use super::cluster::{BALANCED, Cluster};
use crate::{needs::needs, support::run};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A row for each commit, every one in a segment of its own; the moment after each, and its segment.
struct Numbered {
    cluster: Cluster,
    commits: Vec<(String, String)>,
}

/// Behind the last moment that is restored there is one more: a server that looks for a time goes to what comes after it.
const COMMITS: usize = 5;
const LAST: usize = 4;

fn numbered(program: &str) -> Numbered {
    let cluster = super::ledger(program);
    cluster.sql("data", "ledger", &["CREATE TABLE numbered (n int PRIMARY KEY)"]);
    cluster.backup(&[]).expect_code(0);
    let told = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') || ' ' || \
        pg_walfile_name(pg_current_wal_insert_lsn())";
    let commits = (1..=COMMITS).map(|n| {
        let told = cluster.sql("data", "ledger", &[&format!("INSERT INTO numbered VALUES ({n})"), told]);
        cluster.sql("data", "ledger", &["SELECT pg_switch_wal()"]);
        let (moment, segment) = told.split_once(' ').unwrap();
        (moment.to_owned(), segment.to_owned())
    });
    let commits = commits.collect();
    cluster.drained("data");
    run(&mut cluster.recoup(["copy"])).expect_code(0);
    Numbered { cluster, commits }
}

impl Numbered {
    /// The sealed file of the segment of a commit on a store.
    fn payload(&self, store: &str, commit: usize) -> PathBuf {
        let wanted = self.commits[commit - 1].1.to_lowercase();
        let histories = fs::read_dir(self.cluster.path(store).join("sources/ledger/log")).unwrap();
        let objects = histories.flat_map(|history| fs::read_dir(history.unwrap().path()).unwrap());
        let is_payload = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with(&format!("{wanted}-")) && name.ends_with(".age")
        };
        let found: Vec<PathBuf> = objects.map(|object| object.unwrap().path()).filter(is_payload).collect();
        assert_eq!(found.len(), 1, "{wanted}");
        found[0].clone()
    }

    fn spoil(&self, stores: &[&str], commit: usize, how: impl Fn(&Path)) {
        stores.iter().for_each(|store| how(&self.payload(store, commit)));
    }

    /// Restores to the moment of a commit and shows as many rows.
    #[track_caller]
    fn restores(&mut self, target: &str, extra: &[&str], code: i32, rows: usize) -> String {
        let restored = self.cluster.restore_to("restored", target, extra).expect_code(code);
        self.cluster.start_restored("restored");
        let shown = self.cluster.sql("restored", "ledger", &["SELECT count(*) FROM numbered"]);
        assert_eq!(shown, rows.to_string(), "{target}");
        assert_eq!(self.cluster.sql("restored", "ledger", &[BALANCED]), "t");
        self.cluster.stop("restored");
        fs::remove_dir_all(self.cluster.path("restored")).unwrap();
        restored.stderr
    }

    /// Is refused with words, whatever is asked for, and leaves the target as it was; gives the next command.
    #[track_caller]
    fn refused(&self, target: &str, code: i32, words: &[&str]) -> String {
        let segment = &self.commits[2].1;
        let mut next = String::new();
        for extra in [&[][..], &["--fetch-log"], &["--dry-run"], &["--standby"]] {
            if extra == ["--standby"] && target != "latest" {
                continue;
            }
            let refused = self.cluster.restore_to("refused", target, extra).expect_code(code);
            for word in words.iter().copied().chain([segment.as_str()]) {
                assert!(refused.stderr.contains(word), "{word}: {refused:?}");
            }
            assert!(!self.cluster.path("refused").exists(), "{extra:?}");
            next = refused.stderr;
        }
        next
    }
}

fn damage(payload: &Path) {
    let mut bytes = fs::read(payload).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(payload, bytes).unwrap();
}

fn remove(payload: &Path) {
    fs::remove_file(payload).unwrap();
}

#[test]
fn a_segment_that_one_store_has_is_enough() {
    if !(needs("postgres18") && needs("setpriv")) {
        return;
    }
    let mut numbered = numbered("postgres18");
    numbered.spoil(&["a"], 3, damage);
    numbered.spoil(&["b"], 3, remove);
    let target = numbered.commits[LAST - 1].0.clone();
    // Whether the server fetches it later or finds it in the directory: it is named by the restore.
    for extra in [&[][..], &["--fetch-log"]] {
        let said = numbered.restores(&target, extra, 1, LAST);
        assert!(said.contains("is damaged") && said.contains("is missing"), "{said}");
        assert!(said.contains(&numbered.commits[2].1.to_lowercase()), "{said}");
    }
    // A moment before it has nothing to do with it.
    let before = numbered.commits[0].0.clone();
    let said = numbered.restores(&before, &[], 0, 1);
    assert!(!said.contains("damaged"), "{said}");
    run(&mut numbered.cluster.recoup(["copy"])).expect_code(0);
    numbered.restores(&target, &[], 0, LAST);
}

fn what_is_lost_everywhere_is_named_first(program: &str) {
    let mut numbered = numbered(program);
    // A cluster that is to be restored over.
    let before = numbered.commits[1].0.clone();
    numbered.cluster.restore_to("over", &before, &["--fetch-log"]).expect_code(0);
    let control = fs::read(numbered.cluster.path("over/global/pg_control")).unwrap();
    numbered.spoil(&["a", "b"], 3, damage);
    numbered.spoil(&["c"], 3, remove);
    // While a store that may have it is away, that is what is said.
    fs::rename(numbered.cluster.path("c"), numbered.cluster.path("aside")).unwrap();
    numbered.refused("latest", 14, &["bring back the store"]);
    fs::rename(numbered.cluster.path("aside"), numbered.cluster.path("c")).unwrap();
    let last = numbered.commits[LAST - 1].0.clone();
    for target in [last.as_str(), "latest"] {
        let said = numbered.refused(target, 15, &["on a it is damaged", "on c it is missing", "the nearest before"]);
        assert!(said.contains("snapshot:1"), "{said}");
        let over = ["--delta", "--confirm=ledger"];
        let refused = numbered.cluster.restore_to("over", target, &over).expect_code(15);
        assert!(refused.stderr.contains(&numbered.commits[2].1), "{refused:?}");
        assert_eq!(fs::read(numbered.cluster.path("over/global/pg_control")).unwrap(), control);
        assert!(!numbered.cluster.path("over/.recoup-delta").exists());
    }
    // The nearest before it is what it says.
    let said = numbered.refused("latest", 15, &[]);
    let nearest = said.split_whitespace().skip_while(|word| *word != "--target").nth(1).unwrap().to_owned();
    assert!(nearest.starts_with("lsn:"), "{nearest}: {said}");
    numbered.restores(&nearest, &[], 0, 2);
    numbered.restores("snapshot:1", &[], 0, 0);
    // Whoever takes a snapshot needs nothing of it.
    numbered.cluster.backup(&[]).expect_code(0);
    numbered.restores("latest", &[], 0, COMMITS);
}

#[test]
fn what_is_lost_everywhere_of_15_is_named_first() {
    if needs("postgres15") && needs("setpriv") {
        what_is_lost_everywhere_is_named_first("postgres15");
    }
}

#[test]
fn what_is_lost_everywhere_of_18_is_named_first() {
    if needs("postgres18") && needs("setpriv") {
        what_is_lost_everywhere_is_named_first("postgres18");
    }
}

/// The objects of the log on a store, with their bytes.
fn log_of(cluster: &Cluster, store: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let files = crate::site::files_below(&cluster.path(store).join("sources/ledger/log"));
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn sequence_numbers(cluster: &Cluster) -> Vec<u64> {
    let listed = run(&mut cluster.recoup(["list", "ledger", "--json"])).json();
    listed["snapshots"].as_array().unwrap().iter().map(|snapshot| snapshot["seq"].as_u64().unwrap()).collect()
}

/// A snapshot whose own log is lost everywhere cannot be restored: the one before it stays, whatever the rule says.
#[test]
fn a_snapshot_without_its_log_pushes_none_out() {
    if !(needs("postgres15") && needs("setpriv")) {
        return;
    }
    let cluster = super::ledger("postgres15");
    fs::write(cluster.path("R/policies/default.toml"), "[retention]\nkeep_last = 1\n").unwrap();
    cluster.backup(&[]).expect_code(0);
    cluster.drained("data");
    run(&mut cluster.recoup(["copy"])).expect_code(0);
    let before = ["a", "b", "c"].map(|store| log_of(&cluster, store));
    cluster.backup(&[]).expect_code(0);
    cluster.drained("data");
    run(&mut cluster.recoup(["copy"])).expect_code(0);
    let stores = ["a", "b", "c"].map(|store| log_of(&cluster, store));
    let new = || stores.iter().zip(&before).flat_map(|(now, before)| now.iter().filter(|file| !before.contains(file)));
    assert!(new().count() >= 6);
    let is_payload = |path: &Path| path.extension().is_some_and(|ending| ending == "age");
    type Spoil<'s> = (&'s str, &'s dyn Fn(&Path));
    let cut = |path: &Path| {
        if is_payload(path) {
            fs::write(path, "").unwrap()
        }
    };
    let flip = |path: &Path| {
        if is_payload(path) {
            damage(path)
        }
    };
    let unsay = |path: &Path| {
        if !is_payload(path) {
            fs::write(path, "{}").unwrap()
        }
    };
    let spoils: [Spoil<'_>; 4] =
        [("cut", &cut), ("flipped", &flip), ("not recorded", &unsay), ("removed", &|path| remove(path))];
    for (what, spoil) in spoils {
        new().for_each(|(path, _)| spoil(path));
        let verified = run(&mut cluster.recoup(["verify", "--all"]));
        assert_eq!(verified.code, 2, "{what}: {verified:?}");
        assert!(verified.stderr.contains("newest that is whole: "), "{what}: {verified:?}");
        assert!(verified.stderr.contains("--target snapshot:0000000001-"), "{what}: {verified:?}");
        let pruned = run(&mut cluster.recoup(["prune", "ledger", "--yes", "--now", "--confirm=ledger"]));
        assert!(pruned.code <= 1, "{what}: {pruned:?}");
        assert_eq!(sequence_numbers(&cluster), [1, 2], "{what}: {pruned:?}");
        new().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    }
    run(&mut cluster.recoup(["verify", "--all"])).expect_code(0);
    run(&mut cluster.recoup(["prune", "ledger", "--yes", "--now", "--confirm=ledger"])).expect_code(0);
    assert_eq!(sequence_numbers(&cluster), [2]);
}
