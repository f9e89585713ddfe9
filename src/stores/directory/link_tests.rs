//! Links in the place of a store's folders: nothing that is done in the store passes through one.

use super::{
    Directory,
    tests::{create, open, spec},
};
use crate::{
    core::id::Sha256,
    stores::{Listing, Problem, Replaced, Store, found},
};
use futures_util::StreamExt;
use object_store::{ObjectStore, ObjectStoreExt, path::Path as ObjectPath};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use sha2::Digest;
use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Everything below a directory: names, where links lead, contents.
fn tree(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        let name = path.display().to_string();
        if kind.is_symlink() {
            found.push((name, fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()));
        } else if kind.is_dir() {
            found.push((name, Vec::new()));
            found.extend(tree(&path));
        } else {
            found.push((name, fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

/// Two stores that hold the same, open, and something that is no store.
struct Linked {
    dir: tempfile::TempDir,
    store: Store,
    raw: Directory,
}

const KEY: &str = "a/b/c/d";

impl Linked {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [root, other] = ["store", "other"].map(|name| dir.path().join(name));
        for root in [&root, &other] {
            let store = found(&spec(root)).unwrap();
            create(&store, KEY, b"healthy").await.unwrap();
        }
        fs::create_dir_all(dir.path().join("outside/b/c")).unwrap();
        fs::write(dir.path().join("outside/d"), b"precious").unwrap();
        fs::write(dir.path().join("other/a/b/c/unseen"), b"").unwrap();
        let (store, raw) = (open(&root), Directory::open(&root).unwrap());
        let linked = Linked { dir, store, raw };
        // Both have seen the folders, and know that they are on stable storage.
        create(&linked.store, "a/b/c/first", b"x").await.unwrap();
        linked.raw.put(&ObjectPath::from("a/b/c/second"), "x".into()).await.unwrap();
        linked
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What must not change, whatever is done in the store.
    fn elsewhere(&self) -> Vec<(String, Vec<u8>)> {
        ["other", "outside", "away"].into_iter().flat_map(|name| tree(&self.path(name))).collect()
    }

    /// Moves a folder out of the store and puts a link in its place.
    fn swap(&self, folder: &str, target: &Path) {
        let path = self.path("store").join(folder);
        fs::rename(&path, self.path("away")).unwrap();
        symlink(target, &path).unwrap();
    }

    /// Every way into the store, with a link in the place of `folder`.
    async fn assert_closed(&self, folder: &str) {
        let missing = |problem: Problem| assert_eq!(problem, Problem::Missing, "{folder}");
        missing(self.store.get(KEY, 100).await.unwrap_err().problem);
        missing(self.store.size(KEY).await.unwrap_err().problem);
        missing(self.store.get_ranges(KEY, &[0..1, 1..2]).await.unwrap_err().problem);
        for key in [KEY, "a/b/c/new", "a/b/c/new/deeper"] {
            let problem = create(&self.store, key, b"healthy").await.unwrap_err();
            let named = format!("{}: ", self.path("store").join(folder).display());
            assert!(matches!(&problem, Problem::Denied(why) if why.starts_with(&named)), "{problem:?}");
        }
        let [key, inside, free, top] = [KEY, "a/b/c/new", "free", "top"].map(|key| ObjectPath::parse(key).unwrap());
        let absent =
            |error: object_store::Error| assert!(matches!(error, object_store::Error::NotFound { .. }), "{error}");
        absent(self.raw.settle(&key).await.unwrap_err());
        absent(self.raw.rename(&key, &free).await.unwrap_err());
        absent(self.raw.rename_if_not_exists(&key, &free).await.unwrap_err());
        absent(self.raw.copy(&key, &free).await.unwrap_err());
        absent(self.raw.delete(&key).await.unwrap_err());
        self.raw.put(&top, "x".into()).await.unwrap();
        self.raw.rename(&top, &inside).await.unwrap_err();
        self.raw.rename_if_not_exists(&top, &key).await.unwrap_err();
        self.raw.copy(&top, &inside).await.unwrap_err();
        self.raw.put(&inside, "x".into()).await.unwrap_err();
        self.raw.delete(&top).await.unwrap();
        for prefix in ["a/b/c", folder] {
            assert_eq!(self.store.listing(prefix).await.unwrap(), Listing::default(), "{folder}");
            assert_eq!(self.store.list_directories(prefix).await.unwrap(), [""; 0], "{folder}");
        }
        assert_eq!(self.store.listing("").await.unwrap(), Listing { foreign: 1, ..Listing::default() });
    }
}

#[tokio::test]
async fn no_operation_passes_through_a_link() {
    for folder in ["a", "a/b", "a/b/c"] {
        for target in ["other", "outside", "away", "nowhere"] {
            let linked = Linked::new().await;
            // Into the same folder of another store, out of any store, to the very same folder, to nothing.
            let inside = if target == "other" { linked.path(target).join(folder) } else { linked.path(target) };
            linked.swap(folder, &inside);
            let before = linked.elsewhere();
            linked.assert_closed(folder).await;
            assert_eq!(linked.elsewhere(), before, "{folder} {target}");
            // Healing moves the link itself aside.
            let sha256 = Sha256(sha2::Sha256::digest(b"healthy").into());
            let aside = format!("quarantine/{folder}");
            let healed = linked.store.replace(KEY, "healthy".into(), &sha256).await;
            assert_eq!(healed, Ok(Replaced::Healed { quarantined: Some(aside.clone()) }));
            assert_eq!(fs::read_link(linked.path("store").join(aside)).unwrap(), inside);
            assert_eq!(linked.store.list("").await.unwrap(), [(KEY.to_owned(), 7)]);
            assert_eq!(linked.elsewhere(), before, "{folder} {target}");
        }
    }
}

#[tokio::test]
async fn a_file_in_a_folders_place_is_moved_aside_by_healing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sha256 = Sha256(sha2::Sha256::digest(b"x").into());
    for aside in ["quarantine/a", "quarantine/a.1"] {
        fs::write(dir.path().join("a"), b"in the way").unwrap();
        let healed = store.replace("a/b", "x".into(), &sha256).await;
        assert_eq!(healed, Ok(Replaced::Healed { quarantined: Some(aside.to_owned()) }));
        assert_eq!(fs::read(dir.path().join(aside)).unwrap(), b"in the way");
        fs::remove_dir_all(dir.path().join("a")).unwrap();
    }
}

#[tokio::test]
async fn nothing_is_moved_through_a_link_into_quarantine() {
    // In the place of the quarantine itself, and of a folder in it.
    for (planted, kept) in [("quarantine", "quarantine/quarantine"), ("quarantine/a", "quarantine/a.1")] {
        for target in ["outside", "other", "nowhere"] {
            let linked = Linked::new().await;
            fs::create_dir(linked.path("away")).unwrap();
            let at = |name: &str| linked.path("store").join(name);
            fs::create_dir_all(at(planted).parent().unwrap()).unwrap();
            for round in 0..3 {
                fs::write(at(KEY), format!("damaged {round}")).unwrap();
                if round < 2 {
                    drop(fs::rename(at(planted), at(&format!("was-{round}"))));
                    symlink(linked.path(target), at(planted)).unwrap();
                }
                let (before, sha256) = (linked.elsewhere(), Sha256(sha2::Sha256::digest(b"healthy").into()));
                let healed = linked.store.replace(KEY, "healthy".into(), &sha256).await;
                let aside = if round < 2 { format!("quarantine/{KEY}") } else { format!("quarantine/{KEY}.1") };
                assert_eq!(healed, Ok(Replaced::Healed { quarantined: Some(aside.clone()) }), "{planted} {target}");
                assert_eq!(fs::read(at(&aside)).unwrap(), format!("damaged {round}").as_bytes());
                assert_eq!(fs::read(at(KEY)).unwrap(), b"healthy");
                assert_eq!(linked.elsewhere(), before, "{planted} {target}");
                let last =
                    if round == 0 || planted == "quarantine" { kept.to_owned() } else { "quarantine/a.2".to_owned() };
                assert_eq!(fs::read_link(at(&last)).unwrap(), linked.path(target));
            }
        }
    }
}

#[tokio::test]
async fn a_file_in_the_place_of_the_quarantine_is_kept_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sha256 = Sha256(sha2::Sha256::digest(b"x").into());
    create(&store, "a/b", b"x").await.unwrap();
    fs::write(dir.path().join("a/b"), b"damaged").unwrap();
    fs::write(dir.path().join("quarantine"), b"in the way").unwrap();
    fs::write(dir.path().join("quarantine#1"), b"there before").unwrap();
    let healed = store.replace("a/b", "x".into(), &sha256).await;
    assert_eq!(healed, Ok(Replaced::Healed { quarantined: Some("quarantine/a/b".to_owned()) }));
    assert_eq!(fs::read(dir.path().join("quarantine/quarantine")).unwrap(), b"in the way");
    assert_eq!(fs::read(dir.path().join("quarantine#1")).unwrap(), b"there before");
    assert_eq!(fs::read(dir.path().join("quarantine/a/b")).unwrap(), b"damaged");
}

#[tokio::test]
async fn many_that_heal_below_one_link_move_nothing_but_the_link() {
    for _ in 0..20 {
        let linked = Linked::new().await;
        linked.swap("a", &linked.path("other/a"));
        let before = linked.elsewhere();
        let healers = (0..8).map(|number| {
            let store = linked.store.clone();
            let sha256 = Sha256(sha2::Sha256::digest(b"x").into());
            tokio::spawn(async move { store.replace(&format!("a/b/{number}"), "x".into(), &sha256).await })
        });
        for healed in futures_util::future::join_all(healers).await {
            assert!(healed.unwrap().is_ok());
        }
        assert_eq!(linked.store.list("a").await.unwrap().len(), 8);
        assert_eq!(fs::read_dir(linked.path("store/quarantine")).unwrap().count(), 1);
        assert!(fs::symlink_metadata(linked.path("store/quarantine/a")).unwrap().is_symlink());
        assert_eq!(linked.elsewhere(), before);
    }
}

#[tokio::test]
async fn a_link_that_comes_and_goes_leads_nowhere() {
    let linked = Linked::new().await;
    let (folder, link) = (linked.path("store/a/b"), linked.path("store/link"));
    symlink(linked.path("other/a/b"), &link).unwrap();
    fs::create_dir(linked.path("away")).unwrap();
    let before = linked.elsewhere();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let swapping = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            renameat_with(CWD, &folder, CWD, &link, RenameFlags::EXCHANGE).unwrap();
        }
    });
    let [inside, top] = ["a/b/c/inside", "top"].map(ObjectPath::from);
    for number in 0..200 {
        // Each may succeed in the folder or fail at the link, and must do nothing elsewhere.
        let key = ObjectPath::from(format!("a/b/c/{number}"));
        let _ = linked.raw.put(&key, "x".into()).await;
        let _ = linked.raw.put(&top, "x".into()).await;
        let _ = linked.raw.rename(&top, &inside).await;
        let _ = linked.raw.rename(&ObjectPath::from(KEY), &top).await;
        let _ = linked.raw.delete(&ObjectPath::from(KEY)).await;
        let listed: Vec<_> = linked.raw.list(Some(&ObjectPath::from("a/b"))).collect().await;
        assert!(listed.iter().flatten().all(|meta| meta.location != ObjectPath::from("a/b/c/unseen")));
    }
    stop.store(true, Ordering::Relaxed);
    swapping.join().unwrap();
    assert_eq!(linked.elsewhere(), before);
}
