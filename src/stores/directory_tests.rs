//! Tests of what only a directory can do to a store: vanish, hold strangers' files, be left half-written.

use super::{Root, walk::level};
use crate::{
    core::{
        failure::{Code, Failure},
        id::Sha256,
    },
    stores::{
        Created, Patience, Problem, Replaced, Store, StoreSpec,
        mount::{self, DirectoryState},
        open::Target,
    },
};
use sha2::Digest;
use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::{Path, PathBuf},
    time::Duration,
};

pub(super) fn spec(path: &Path) -> StoreSpec {
    StoreSpec { name: "a".into(), url: format!("file://{}", path.display()), ..StoreSpec::default() }
}

fn directory(spec: &StoreSpec) -> PathBuf {
    let Ok(Target::Directory(path)) = spec.target() else { panic!("{} is no directory", spec.url) };
    path
}

fn create_directory(spec: &StoreSpec) -> Result<Store, Failure> {
    mount::create_directory(spec, &directory(spec))
}

fn examine_directory(spec: &StoreSpec) -> Result<DirectoryState, Failure> {
    mount::examine_directory(spec, &directory(spec))
}

pub(super) fn open(path: &Path) -> Store {
    let patience = Patience { pause: Duration::from_millis(1), ..Patience::default() };
    Store::open(&spec(path)).unwrap().with_patience(patience)
}

pub(super) async fn create(store: &Store, key: &str, bytes: &'static [u8]) -> Result<Created, Problem> {
    let digest = Sha256(sha2::Sha256::digest(bytes).into());
    store.create(key, bytes.into(), &digest).await.map_err(|error| error.problem)
}

#[tokio::test]
async fn a_vanished_directory_is_never_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = create_directory(&spec(&root)).unwrap();
    create(&store, "a/b", b"x").await.unwrap();
    fs::rename(&root, dir.path().join("elsewhere")).unwrap();
    let check = async |what: &str| {
        let gone = |problem: &Problem| matches!(problem, Problem::Unreachable(why) if why.contains(what));
        assert!(gone(&create(&store, "a/c", b"x").await.unwrap_err()));
        assert!(gone(&store.get("a/b", 9).await.unwrap_err().problem));
        assert!(gone(&store.list("").await.unwrap_err().problem), "an empty listing would say that nothing is there");
        assert!(gone(&store.list_directories("a").await.unwrap_err().problem));
        assert!(gone(&store.get_ranges("a/b", &[0..1, 0..1]).await.unwrap_err().problem));
        assert!(gone(&store.replace("a/b", "y".into(), &Sha256([0; 32])).await.unwrap_err().problem));
    };
    check("is gone").await;
    assert!(!root.exists());
    fs::create_dir(&root).unwrap();
    check("no longer the one").await;
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "what lies beneath an unmounted disk must not be filled");
}

#[tokio::test]
async fn strange_names_are_counted_and_spoil_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir(root.join("outside")).unwrap();
    let root = root.join("store");
    let store = create_directory(&spec(&root)).unwrap();
    create(&store, "a/b", b"x").await.unwrap();
    for name in [&b"\xff\xfe"[..], b"new\nline", b"with space", b"UPPER", b"percent%2e", b"back\\slash", b"n\xc3\xa9"] {
        fs::write(root.join("a").join(std::ffi::OsStr::from_bytes(name)), b"foreign").unwrap();
    }
    fs::create_dir_all(root.join("Photos/2026")).unwrap();
    fs::write(root.join("Photos/2026/a"), b"foreign").unwrap();
    symlink(dir.path(), root.join("a/loop")).unwrap();
    symlink("/etc/passwd", root.join("a/link")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("a/pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    fs::write(root.join("a/b#1"), b"left behind").unwrap();
    fs::create_dir(root.join("lost+found")).unwrap();
    let listing = store.listing("").await.unwrap();
    assert_eq!(listing.objects, [("a/b".to_owned(), 1)]);
    assert_eq!((listing.foreign, listing.leftovers), (7 + 1 + 3, 1));
    assert_eq!(store.list_directories("").await.unwrap(), ["a"]);
    for key in ["a/loop", "a/link", "a/pipe"] {
        assert_eq!(store.get(key, 100_000).await.unwrap_err().problem, Problem::Missing, "{key}");
    }
}

#[tokio::test]
async fn nothing_is_written_through_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let (root, outside) = (dir.path().join("store"), dir.path().join("outside"));
    create_directory(&spec(&root)).unwrap();
    let store = open(&root);
    fs::create_dir(&outside).unwrap();
    symlink(&outside, root.join("a")).unwrap();
    assert!(matches!(create(&store, "a/b", b"x").await, Err(Problem::Denied(_))));
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    // What stands in an object's place and is none is moved aside, and its target left alone.
    fs::write(outside.join("target"), b"untouched").unwrap();
    symlink(outside.join("target"), root.join("link")).unwrap();
    fs::create_dir_all(root.join("folder/below")).unwrap();
    for key in ["link", "folder"] {
        assert_eq!(create(&store, key, b"right").await, Err(Problem::Exists));
        let right = Sha256(sha2::Sha256::digest(b"right").into());
        let quarantined = Some(format!("quarantine/{key}"));
        assert_eq!(store.replace(key, "right".into(), &right).await, Ok(Replaced::Healed { quarantined }));
        assert_eq!(store.get(key, 5).await.unwrap(), &b"right"[..]);
    }
    assert_eq!(fs::read(outside.join("target")).unwrap(), b"untouched");
}

#[tokio::test]
async fn a_file_in_a_folders_place_is_refused_access_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    create(&store, "a", b"x").await.unwrap();
    assert!(matches!(create(&store, "a/b", b"x").await, Err(Problem::Denied(_))));
    assert_eq!(store.get("a", 1).await.unwrap(), &b"x"[..]);
}

#[tokio::test]
async fn what_a_killed_writer_left_is_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for number in 1..4 {
        fs::write(dir.path().join(format!("a#{number}")), b"torn").unwrap();
    }
    assert_eq!(create(&store, "a", b"whole").await, Ok(Created::Created));
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"whole");
    assert_eq!(store.listing("").await.unwrap().leftovers, 3);
}

#[tokio::test]
async fn a_removed_folder_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    create(&store, "a/b/c", b"x").await.unwrap();
    fs::remove_dir_all(dir.path().join("a")).unwrap();
    assert_eq!(create(&store, "a/b/d", b"x").await, Ok(Created::Created));
}

#[tokio::test]
async fn long_listings_arrive_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    fs::create_dir(dir.path().join("a")).unwrap();
    let names: Vec<String> = (0..2_000).map(|number| format!("a/{number:05}")).collect();
    for name in &names {
        fs::write(dir.path().join(name), b"").unwrap();
    }
    let listed: Vec<String> = store.list("").await.unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(listed, names);
}

#[test]
fn directories_are_opened_and_made_as_told() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("disk 1").join("store");
    let new = spec(&root);
    assert_eq!(examine_directory(&new).unwrap_err().code, Code::Store, "two parts of the path are missing");
    assert_eq!(create_directory(&new).unwrap_err().code, Code::Store);
    fs::create_dir(dir.path().join("disk 1")).unwrap();
    assert_eq!(Store::open(&new).unwrap_err().code, Code::Store);
    assert!(!root.exists(), "opening makes nothing");
    assert_eq!(examine_directory(&new).unwrap(), DirectoryState::Missing);
    assert!(!root.exists(), "looking makes nothing");
    create_directory(&new).unwrap();
    assert_eq!(examine_directory(&new).unwrap(), DirectoryState::Empty);
    create_directory(&new).unwrap();
    fs::write(root.join("recoup.json"), b"{}").unwrap();
    assert_eq!(examine_directory(&new).unwrap(), DirectoryState::Occupied);
    let encoded = StoreSpec { url: new.url.replace(' ', "%20"), ..new.clone() };
    assert_eq!(Store::open(&encoded).unwrap().facts().directory, Some(fs::canonicalize(&root).unwrap()));
    fs::write(dir.path().join("file"), b"").unwrap();
    assert_eq!(Store::open(&spec(&dir.path().join("file"))).unwrap_err().code, Code::Store);
    assert_eq!(examine_directory(&spec(&dir.path().join("file/store"))).unwrap_err().code, Code::Store);
    symlink("/nowhere/at/all", dir.path().join("dangling")).unwrap();
    assert_eq!(create_directory(&spec(&dir.path().join("dangling"))).unwrap_err().code, Code::Store);
}

#[test]
fn an_unmounted_disk_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    fs::create_dir(&root).unwrap();
    let mounted = StoreSpec { mounted: true, ..spec(&root) };
    for refused in [Store::open(&mounted).unwrap_err(), examine_directory(&mounted).unwrap_err()] {
        assert_eq!(refused.code, Code::Store);
        assert!(refused.message.contains("no disk is mounted"), "{refused}");
    }
    let missing = StoreSpec { mounted: true, ..spec(&dir.path().join("missing")) };
    assert_eq!(create_directory(&missing).unwrap_err().code, Code::Store);
    let proc = StoreSpec { mounted: true, ..spec(Path::new("/proc")) };
    assert!(Store::open(&proc).is_ok(), "/proc is on a device of its own");
}

#[test]
fn urls() {
    let path = |url: &str| StoreSpec { url: url.into(), ..StoreSpec::default() }.target();
    for (url, expected) in [
        ("file:///a/b", "/a/b"),
        ("file:///a%20b", "/a b"),
        ("file:///a b", "/a b"),
        ("file:///a%25b", "/a%b"),
        ("file:///\u{e9}", "/\u{e9}"),
        ("file:///%C3%A9", "/\u{e9}"),
        ("file:///a/", "/a/"),
    ] {
        assert_eq!(path(url).unwrap(), Target::Directory(expected.into()), "{url}");
    }
    for url in [
        "",
        "/a",
        "a",
        "file:",
        "file:/a",
        "file://",
        "file:///",
        "file:////",
        "file://host/a",
        "file://a",
        "file:///a/../b",
        "file:///a%2",
        "file:///a%",
        "file:///a%zz",
        "file:///a%00",
        "file:///%ff",
        "file:///a%+1",
        "gs://bucket/a",
        "http://a",
        "memory:a",
    ] {
        let failure = path(url).expect_err(url);
        assert_eq!(failure.code, Code::Configuration, "{url}");
        assert!(failure.cause.is_some() && failure.next_step.is_some());
    }
}

#[test]
fn a_folder_of_too_many_names_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b", "FOREIGN"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    let root = Root::open(dir.path()).unwrap();
    assert_eq!(level(&root, &object_store::path::Path::default(), 3).unwrap().common_prefixes.len(), 2);
    let refused = level(&root, &object_store::path::Path::default(), 2).unwrap_err();
    assert!(refused.to_string().contains("more names than any repository"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn healers_that_race_move_no_right_bytes_aside() {
    let dir = tempfile::tempdir().unwrap();
    let store = create_directory(&spec(&dir.path().join("store"))).unwrap();
    let right: &'static [u8] = &[7; 4096];
    let digest = Sha256(sha2::Sha256::digest(right).into());
    for round in 0..50 {
        let key = format!("a/{round}");
        create(&store, &key, &[8; 4096]).await.unwrap();
        let heal = || {
            let (store, key) = (store.clone(), key.clone());
            tokio::spawn(async move { store.replace(&key, right.into(), &digest).await.map(drop) })
        };
        let (one, two) = tokio::join!(heal(), heal());
        assert!(one.unwrap().is_ok() || two.unwrap().is_ok(), "round {round}");
        assert_eq!(store.get(&key, 4096).await.unwrap(), right);
        let aside = fs::read_dir(dir.path().join("store/quarantine/a")).unwrap().map(|entry| entry.unwrap().path());
        for aside in aside {
            assert!(fs::read(&aside).unwrap() != right, "{}", aside.display());
        }
    }
}
