//! The order of fsync, rename and acknowledgement, as the kernel sees it: no kill -9 can show what a lost cache loses.

mod trace;

use crate::{
    needs::needs,
    site::{Site, ends_at, files_below},
};
use recoup::ops::demo::ledger::Writer;
use std::{
    fs,
    path::{Path, PathBuf},
};
use trace::{Act, Event, Trace};

/// A trace, and what it must never show.
struct Witness {
    trace: Trace,
    /// Only what lies here is looked at: the database's own files are its application's affair.
    roots: Vec<PathBuf>,
    violations: Vec<String>,
}

fn above(path: &Path) -> &Path {
    path.parent().expect("a file has a directory")
}

impl Witness {
    fn new(trace: Trace, site: &Site, roots: &[&str]) -> Self {
        let real = site.path().canonicalize().unwrap();
        let roots = roots.iter().map(|root| real.join(root)).collect();
        Witness { trace, roots, violations: Vec::new() }
    }

    fn is_ours(&self, path: &Path) -> bool {
        self.roots.iter().any(|root| path.starts_with(root))
    }

    fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(what());
        }
    }

    /// Files that were given their name by a rename: when, from where, to where.
    fn published(&self) -> Vec<(Event, PathBuf, PathBuf)> {
        let renames = self.trace.events.iter().filter_map(|event| match &event.act {
            Act::Rename(from, to) if self.is_ours(to) => Some((event.clone(), from.clone(), to.clone())),
            _ => None,
        });
        renames.collect()
    }

    fn is_removed_after(&self, path: &Path, line: usize) -> bool {
        self.trace.events.iter().any(|event| {
            event.begin > line && matches!(&event.act, Act::Remove(gone) if path.starts_with(gone) || gone == path)
        })
    }

    /// The end of the last write to a file before `line`.
    fn last_write(&self, path: &Path, line: usize) -> Option<usize> {
        let wrote = |act: &Act| matches!(act, Act::Write(to) | Act::Create(to) if to == path);
        self.trace.events.iter().filter(|event| event.begin < line && wrote(&event.act)).map(|event| event.end).max()
    }

    /// What is published was synced before, and its directory is synced before anything is acknowledged.
    fn check_published(&mut self) {
        let done = self.trace.acknowledged();
        for (event, from, to) in self.published() {
            if let Some(written) = self.last_write(&from, event.begin) {
                let synced = self.trace.synced(&from, written, event.begin);
                self.require(synced, || format!("{} was published unsynced", to.display()));
            }
            let synced = self.trace.synced(above(&to), event.end, done);
            self.require(synced, || format!("the directory of {} was not synced after it", to.display()));
            if above(&from) != above(&to) && !self.is_removed_after(above(&from), event.end) {
                let synced = self.trace.synced(above(&from), event.end, done);
                self.require(synced, || format!("the directory that {} left was not synced", from.display()));
            }
        }
    }

    /// Files that are written where they stay are synced with their directory before `line`.
    fn check_written_in_place(&mut self, line: usize) {
        let renamed: Vec<PathBuf> = self.published().into_iter().map(|(_, from, _)| from).collect();
        let created: Vec<Event> = self.trace.events.clone();
        for event in created {
            let Act::Create(path) = &event.act else { continue };
            let stays = !renamed.iter().any(|from| path.starts_with(from)) && !self.is_removed_after(path, event.end);
            let Some(written) = self.last_write(path, line).filter(|_| self.is_ours(path) && stays) else { continue };
            // A lock is made and never written.
            let wrote = |act: &Act| matches!(act, Act::Write(to) if to == path);
            if self.trace.first(wrote).is_none() {
                continue;
            }
            let file = self.trace.synced(path, written, line);
            self.require(file, || format!("{} was left unsynced", path.display()));
            let directory = self.trace.synced(above(path), event.end, line);
            self.require(directory, || format!("the directory of {} was left unsynced", path.display()));
        }
    }

    /// Directories that were made are synced into the ones above them before `line`.
    fn check_directories(&mut self, line: usize) {
        for event in self.trace.events.clone() {
            let Act::MakeDirectory(path) = &event.act else { continue };
            if event.begin < line && self.is_ours(path) && !self.is_removed_after(path, event.end) {
                let synced = self.trace.synced(above(path), event.end, line);
                self.require(synced, || format!("the directory {} was not synced into the one above", path.display()));
            }
        }
    }

    /// Per store, everything is published and synced before `last` begins to be published, and nothing follows it.
    fn check_commit(&mut self, store: &Path, last: &str) -> usize {
        let objects: Vec<_> = self.published().into_iter().filter(|(_, _, to)| to.starts_with(store)).collect();
        let is_commit = |to: &Path| to.file_name().is_some_and(|name| name == last);
        let commits: Vec<&Event> =
            objects.iter().filter(|(_, _, to)| is_commit(to)).map(|(event, _, _)| event).collect();
        assert_eq!(commits.len(), 1, "{} commits on {}", commits.len(), store.display());
        let commit = commits[0].clone();
        assert!(objects.len() > 1, "nothing but {last} on {}", store.display());
        for (event, from, to) in objects.iter().filter(|(_, _, to)| !is_commit(to)) {
            // Moved into quarantine; or a record of what was done, which comes after it was.
            if from.starts_with(store) && above(from) != above(to) || to.starts_with(store.join("evidence")) {
                continue;
            }
            let before = self.trace.synced(above(to), event.end, commit.begin);
            self.require(before, || format!("{} was not durable before the commit", to.display()));
        }
        for event in self.trace.events.clone() {
            let Act::MakeDirectory(path) = &event.act else { continue };
            if path.starts_with(store) && event.begin < commit.begin && above(path).starts_with(store) {
                let before = self.trace.synced(above(path), event.end, commit.begin);
                self.require(before, || format!("{} was not durable before the commit", path.display()));
            }
        }
        commit.end
    }

    #[track_caller]
    fn finish(mut self) -> Trace {
        let done = self.trace.acknowledged();
        self.check_published();
        self.check_written_in_place(done);
        self.check_directories(done);
        assert!(self.violations.is_empty(), "{}", self.violations.join("\n"));
        self.trace
    }

    fn published_as(&self, path: &Path) -> Event {
        let mut found = self.published().into_iter().filter(|(_, _, to)| to == path);
        found.next().unwrap_or_else(|| panic!("{} was not published", path.display())).0
    }
}

#[test]
fn an_initialised_repository_is_durable_before_init_says_so() {
    if !needs("strace") {
        return;
    }
    let site = Site::prepare(500, &["a", "b"]);
    let trace = Trace::of(&site.init(), site.path(), 0);
    let mut witness = Witness::new(trace, &site, &["host", "a", "b"]);
    let real = site.path().canonicalize().unwrap();
    let configured = witness.published_as(&real.join("host/recoup.toml"));
    for store in ["a", "b"] {
        let committed = witness.check_commit(&real.join(store), "recoup.json");
        assert!(committed < configured.begin, "configured before store {store} was there");
        let durable = witness.trace.synced(&real.join(store), committed, configured.begin);
        witness.require(durable, || format!("configured before store {store} was durable"));
    }
    for store in ["a", "b"] {
        let recorded = witness
            .published()
            .into_iter()
            .any(|(event, _, to)| to.starts_with(real.join(store).join("evidence")) && event.end < configured.begin);
        assert!(recorded, "configured before store {store} had a record of it");
    }
    for name in ["host_ed25519", "catalogue.age", "allowed_signers", "custodian.age", "custodian.age.signers"] {
        let key = witness.published_as(&real.join("host").join(name));
        let durable = witness.trace.synced(&real.join("host"), key.end, configured.begin);
        witness.require(durable, || format!("configured before {name} was durable"));
    }
    // The marker of an unfinished init goes for good, or a later init would go on with it.
    let marker = real.join("host/state/init.json");
    let gone = witness.trace.first(|act| *act == Act::Remove(marker.clone())).expect("it was removed").end;
    // A leftover of a crash is removed before the marker is written; the last removal counts.
    let gone = witness
        .trace
        .events
        .iter()
        .filter(|event| event.act == Act::Remove(marker.clone()))
        .map(|e| e.end)
        .max()
        .unwrap_or(gone);
    let durable = witness.trace.synced(&real.join("host/state"), gone, witness.trace.acknowledged());
    witness.require(durable, || "the removal of the marker was not synced".to_owned());
    witness.finish();
}

#[test]
fn a_snapshot_is_durable_before_backup_says_so() {
    if !needs("strace") {
        return;
    }
    let site = Site::new(5_000, &["a", "b"]);
    for round in ["full", "incremental", "idle"] {
        if round == "incremental" {
            Writer::open(&site.ledger(), 3).unwrap().append(200, ends_at()).unwrap();
        }
        let trace = Trace::of(&site.command(&["backup", "--json"]), site.path(), 0);
        let mut witness = Witness::new(trace, &site, &["host", "a", "b"]);
        let real = site.path().canonicalize().unwrap();
        let base = witness.published_as(&real.join("host/state/sources/ledger/base.json"));
        let committed: Vec<usize> =
            ["a", "b"].map(|store| witness.check_commit(&real.join(store), "inventory.json")).to_vec();
        let first = committed.iter().min().unwrap();
        assert!(*first < base.begin, "{round}: the state was replaced before anything was committed");
        // What the state names is durable before the state names it.
        witness.check_written_in_place(base.begin);
        let digests = witness.trace.first(
            |act| matches!(act, Act::Write(to) if to.file_name().unwrap().to_string_lossy().starts_with("digests-")),
        );
        assert_eq!(digests.is_some(), round != "idle", "{round}: the digests were not seen");
        witness.finish();
    }
}

#[test]
fn what_copy_brings_is_durable_before_copy_says_so() {
    if !needs("strace") {
        return;
    }
    let site = Site::new(5_000, &["a", "b"]);
    site.run(&["backup"]).expect_code(0);
    let real = site.path().canonicalize().unwrap();
    fs::remove_dir_all(site.store("b").join("sources")).unwrap();
    let pack = files_below(&site.store("a")).into_iter().find(|path| path.ends_with("0.age")).unwrap();
    let trace = Trace::of(&site.command(&["copy", "--json"]), site.path(), 0);
    let mut witness = Witness::new(trace, &site, &["host", "a", "b"]);
    witness.check_commit(&real.join("b"), "inventory.json");
    let done = witness.trace.acknowledged();
    for store in ["a", "b"] {
        // What is found right may have been written a moment ago by a process that was killed.
        for path in [real.join(store).join("RECOVERY.md"), real.join(store)] {
            let settled = witness.trace.synced(&path, 0, done);
            witness.require(settled, || format!("{} was found, and was not synced", path.display()));
        }
    }
    witness.finish();

    // Damage is moved aside and replaced.
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let trace = Trace::of(&site.command(&["copy", "--json"]), site.path(), 0);
    let mut witness = Witness::new(trace, &site, &["host", "a", "b"]);
    let healed = real.join("a").join(pack.strip_prefix(site.store("a")).unwrap());
    let aside = real.join("a/quarantine").join(pack.strip_prefix(site.store("a")).unwrap());
    // It is gone for good before the right bytes come: nothing brings it back beside its copy in quarantine.
    let (moved, came) = (witness.published_as(&aside).end, witness.published_as(&healed).begin);
    let gone = witness.trace.synced(above(&healed), moved, came);
    witness.require(gone, || "healed before the damaged bytes were gone for good".to_owned());
    witness.finish();

    // So is a link in the place of the pack's folder.
    let (folder, elsewhere) = (above(&healed), real.join("elsewhere"));
    fs::rename(folder, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, folder).unwrap();
    let trace = Trace::of(&site.command(&["copy", "--json"]), site.path(), 0);
    let mut witness = Witness::new(trace, &site, &["host", "a", "b"]);
    let aside = real.join("a/quarantine").join(format!("{}.1", relative(folder, &real.join("a"))));
    let (moved, made) = (witness.published_as(&aside).end, Act::MakeDirectory(folder.to_owned()));
    let made = witness.trace.first(|act| *act == made).expect("the folder was made anew").begin;
    let gone = witness.trace.synced(above(folder), moved, made);
    witness.require(gone, || "healed before the link was gone for good".to_owned());
    witness.finish();
}

fn relative<'a>(path: &'a Path, to: &Path) -> std::path::Display<'a> {
    path.strip_prefix(to).unwrap().display()
}

#[test]
fn a_restored_database_is_durable_before_restore_says_so() {
    if !needs("strace") {
        return;
    }
    let site = Site::new(5_000, &["a", "b"]);
    site.run(&["backup"]).expect_code(0);
    let real = site.path().canonicalize().unwrap();
    for out in ["out", "new/folders/out"] {
        let out = real.join(out);
        let trace = Trace::of(&site.restore_command("latest", &out), site.path(), 0);
        let mut witness = Witness::new(trace, &site, &["out", "new"]);
        let published = witness.published_as(&out.join("ledger.db"));
        let staging = out.join(".recoup-partial");
        // Where many files are published, all of them are durable before the first is.
        let made = witness.trace.first(|act| *act == Act::Create(staging.join("ledger.db"))).unwrap().end;
        let durable = witness.trace.synced(&staging, made, published.begin);
        witness.require(durable, || "published before the staging folder was durable".to_owned());
        witness.finish();
    }
}

#[test]
fn what_a_prune_deletes_is_condemned_for_good_first() {
    if !needs("strace") {
        return;
    }
    let site = Site::new(5_000, &["a", "b"]);
    fs::write(site.path().join("host/policies/default.toml"), "[retention]\nkeep_last = 1\n").unwrap();
    for _ in 0..3 {
        site.run(&["backup", "--full"]).expect_code(0);
    }
    let prune = site.command(&["prune", "--now", "--yes", "--confirm=ledger", "--json"]);
    let trace = Trace::of(&prune, site.path(), 0);
    let mut witness = Witness::new(trace, &site, &["host", "a", "b"]);
    let real = site.path().canonicalize().unwrap();
    let done = witness.trace.acknowledged();
    for store in ["a", "b"] {
        let sources = real.join(store).join("sources");
        let is_kept = |path: &Path| path.starts_with(&sources) && !path.to_string_lossy().contains('#');
        let removals: Vec<Event> = witness
            .trace
            .events
            .clone()
            .into_iter()
            .filter(|event| matches!(&event.act, Act::Remove(path) if is_kept(path)))
            .collect();
        let first = removals.iter().map(|event| event.begin).min().expect("something was deleted");
        for name in ["plan.json", "executed.json"] {
            let published = witness.published().into_iter().filter(|(_, _, to)| to.starts_with(&sources));
            let (event, _, to) = published.into_iter().find(|(_, _, to)| to.ends_with(name)).expect("it is recorded");
            let durable = witness.trace.synced(above(&to), event.end, first);
            witness.require(durable, || format!("store {store}: deleted before {name} was durable"));
        }
        for event in removals {
            let Act::Remove(path) = &event.act else { unreachable!("they were chosen so") };
            // A folder that went, too, is synced into the one above it.
            let folder = above(path);
            let durable =
                witness.trace.synced(folder, event.end, done) || witness.is_removed_after(folder, event.begin);
            witness.require(durable, || format!("the removal of {} was not synced", path.display()));
        }
    }
    witness.finish();
}
