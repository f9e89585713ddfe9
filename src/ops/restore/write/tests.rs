//! Targets in which somebody else is at work, results that cannot be published whole, and many files.

use super::*;
use crate::core::{
    manifest::{Entry, EntryKind},
    path::StoredPath,
};
use crate::ops::restore::Manifest;
use std::{
    collections::BTreeMap,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

impl Staging {
    /// All of the last steps.
    fn publish(&self, manifest: &Manifest, files: &OpenFiles) -> Result<Vec<String>, Failure> {
        let mut notes = Notes::default();
        self.settle(&manifest.entries, files, &mut notes)?;
        self.move_in(&manifest.entries, &mut notes)?;
        self.complete();
        Ok(notes.into_lines())
    }
}

const BLOCK: u64 = 512;

fn entry(path: &str, kind: EntryKind, mode: u32) -> Entry {
    let gid = rustix::process::getegid().as_raw();
    Entry { path: StoredPath::parse(path).unwrap(), kind, mode, uid: user_id(), gid }
}

fn file(path: &str, size: u64) -> Entry {
    entry(path, EntryKind::File { size, block_size: BLOCK as u32 }, 0o640)
}

fn manifest(mut entries: Vec<Entry>) -> Manifest {
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    let (packs, digests) = (BTreeMap::new(), BTreeMap::new());
    Manifest {
        configuration: String::new(),
        catalogue_identity: None,
        entries,
        packs,
        replay: None,
        layout: Arc::default(),
        digests,
    }
}

/// A directory with a target, something that nobody may touch, and what is to be restored.
struct Scene {
    dir: tempfile::TempDir,
    manifest: Manifest,
}

impl Scene {
    fn new(entries: Vec<Entry>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("target")).unwrap();
        fs::write(dir.path().join("precious"), "do not touch").unwrap();
        fs::set_permissions(dir.path().join("precious"), fs::Permissions::from_mode(0o600)).unwrap();
        Scene { dir, manifest: manifest(entries) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn check(&self) -> Result<Staging, Failure> {
        Staging::check(&self.path("target"), &[])
    }

    /// Everything but publishing: the first block of each file is its number.
    fn written(&self) -> (Staging, OpenFiles) {
        let staging = self.check().unwrap();
        let files = staging.create(&self.manifest.entries).unwrap();
        for (at, entry) in self.manifest.entries.iter().enumerate() {
            if entry.size() > 0 {
                files.write(at, 0, BLOCK, &[at as u8; BLOCK as usize]).unwrap();
            }
        }
        (staging, files)
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[track_caller]
    fn assert_precious(&self) {
        assert_eq!(fs::read(self.path("precious")).unwrap(), b"do not touch");
        assert_eq!(fs::metadata(self.path("precious")).unwrap().mode() & 0o7777, 0o600);
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn everything_is_published_with_its_mode() {
    let scene = Scene::new(vec![
        file("a.db", 700),
        entry("closed", EntryKind::Directory, 0o500),
        entry("closed/inner", EntryKind::Directory, 0o000),
        file("closed/inner/b.db", 3),
        file("implied/deep/c.db", 0),
        entry("link", EntryKind::Link { target: "../precious".into() }, 0o777),
        entry("shared", EntryKind::Directory, 0o2775),
        entry("tool", EntryKind::File { size: 1, block_size: 512 }, 0o6755),
    ]);
    let (staging, files) = scene.written();
    let notes = staging.publish(&scene.manifest, &files).unwrap();
    drop(staging);
    let target = scene.path("target");
    assert_eq!(scene.names("target"), ["a.db", "closed", "implied", "link", "shared", "tool"]);
    assert_eq!((mode(&target.join("a.db")), fs::metadata(target.join("a.db")).unwrap().len()), (0o640, 700));
    assert_eq!([mode(&target.join("closed")), mode(&target.join("closed/inner"))], [0o500, 0]);
    assert_eq!([mode(&target.join("shared")), mode(&target.join("tool"))], [0o2775, 0o755]);
    assert_eq!([mode(&target.join("implied")), mode(&target.join("implied/deep"))], [0o700, 0o700]);
    assert_eq!(fs::read_link(target.join("link")).unwrap(), Path::new("../precious"));
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("tool had mode 6755"), "{notes:?}");
    scene.assert_precious();
    for folder in ["closed", "closed/inner"] {
        fs::set_permissions(target.join(folder), fs::Permissions::from_mode(0o700)).unwrap();
    }
    assert_eq!(fs::read(target.join("closed/inner/b.db")).unwrap(), [3; 3]);
}

#[test]
fn a_folder_that_others_may_have_filled_is_not_taken_over() {
    let scene = Scene::new(vec![file("a.db", 1)]);
    let left = scene.path("target").join(PARTIAL);
    fs::create_dir(&left).unwrap();
    fs::write(left.join("a.db"), "theirs").unwrap();
    for open in [0o777, 0o701, 0o710, 0o704, 0o740] {
        fs::set_permissions(&left, fs::Permissions::from_mode(open)).unwrap();
        let failure = scene.check().err().unwrap();
        assert_eq!(failure.code, Code::Refused);
        assert!(failure.cause.as_ref().unwrap().contains("others may enter it"), "{failure:?}");
        assert!(failure.next_step.is_some() && failure.safe.is_some(), "{failure:?}");
    }
    if user_id() == 0 {
        fs::set_permissions(&left, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&left, Some(65_534), None).unwrap();
        let failure = scene.check().err().unwrap();
        assert!(failure.code == Code::Refused && failure.to_string().contains("user 65534"), "{failure:?}");
        std::os::unix::fs::chown(&left, Some(0), None).unwrap();
    }
    assert_eq!(fs::read(left.join("a.db")).unwrap(), b"theirs");
    fs::set_permissions(&left, fs::Permissions::from_mode(0o700)).unwrap();
    let (staging, files) = scene.written();
    staging.publish(&scene.manifest, &files).unwrap();
    assert_eq!(scene.names("target"), ["a.db"]);
}

#[test]
fn a_folder_that_is_exchanged_leads_nowhere() {
    let scene = Scene::new(vec![file("a.db", 1), file("folder/b.db", 1)]);
    if user_id() == 0 {
        std::os::unix::fs::chown(scene.path("target"), Some(65_534), None).unwrap();
    }
    let (staging, files) = scene.written();
    // Whoever owns the target may do this at any moment.
    let folder = scene.path("target").join(PARTIAL);
    fs::rename(&folder, scene.path("moved")).unwrap();
    fs::create_dir(&folder).unwrap();
    for name in ["a.db", "folder"] {
        symlink(scene.path("precious"), folder.join(name)).unwrap();
    }
    files.write(0, 0, BLOCK, &[9; BLOCK as usize]).unwrap();
    staging.publish(&scene.manifest, &files).unwrap();
    drop(staging);
    scene.assert_precious();
    assert_eq!(fs::read(scene.path("target/a.db")).unwrap(), [9]);
    assert_eq!(fs::read(scene.path("target/folder/b.db")).unwrap(), [1]);
    assert_eq!(scene.names("moved"), [""; 0]);
    assert!(folder.join("a.db").is_symlink(), "what is not ours stays");
}

#[test]
fn what_was_published_is_taken_back_when_the_rest_cannot_be() {
    for theirs in ["file", "link"] {
        let scene = Scene::new(vec![
            file("a.db", 1),
            entry("b", EntryKind::Directory, 0o500),
            file("b/c.db", 1),
            file("d.db", 1),
        ]);
        let (staging, files) = scene.written();
        match theirs {
            "file" => fs::write(scene.path("target/d.db"), "theirs").unwrap(),
            _ => symlink(scene.path("precious"), scene.path("target/d.db")).unwrap(),
        }
        let failure = staging.publish(&scene.manifest, &files).unwrap_err();
        assert_eq!(failure.code, Code::Failed);
        assert!(failure.message.contains("d.db"), "{failure:?}");
        assert!(failure.safe.as_ref().unwrap().contains("nothing is left behind as if it were whole"), "{failure:?}");
        assert_eq!(scene.names("target"), [PARTIAL, "d.db"]);
        drop(staging);
        assert_eq!(scene.names("target"), ["d.db"]);
        scene.assert_precious();
    }
}

#[test]
fn what_cannot_be_taken_back_is_named() {
    let scene = Scene::new(vec![file("a.db", 1), file("b.db", 1)]);
    let (staging, files) = scene.written();
    let (target, folder) = (staging.target.get().unwrap(), staging.claimed.get().unwrap());
    let mut moved = Vec::new();
    staging.move_all(target, folder, &mut moved).unwrap();
    // Something stands in the way back, and one was exchanged.
    fs::write(scene.path("target").join(PARTIAL).join("a.db"), "in the way").unwrap();
    fs::rename(scene.path("target/b.db"), scene.path("stolen")).unwrap();
    symlink(scene.path("precious"), scene.path("target/b.db")).unwrap();
    let failure = staging.check_moved(target, &moved).unwrap_err();
    assert!(failure.message.contains("b.db was moved or replaced"), "{failure:?}");
    let failure = staging.take_back(&moved, failure);
    let safe = failure.safe.unwrap();
    assert!(safe.contains("could not be taken back: a.db") && !safe.contains("b.db"), "{safe}");
    assert!(failure.next_step.unwrap().contains("remove these"));
    assert!(scene.path("target/b.db").is_symlink(), "what is not ours stays");
    drop((staging, files));
    scene.assert_precious();
}

#[test]
fn a_target_that_is_exchanged_gets_nothing() {
    for before in [true, false] {
        let scene = Scene::new(vec![file("a.db", 1)]);
        let (staging, files) = scene.written();
        let exchange = || {
            fs::rename(scene.path("target"), scene.path("moved")).unwrap();
            fs::create_dir(scene.path("target")).unwrap();
        };
        let failure = if before {
            exchange();
            staging.publish(&scene.manifest, &files).unwrap_err()
        } else {
            let (target, folder) = (staging.target.get().unwrap(), staging.claimed.get().unwrap());
            let mut moved = Vec::new();
            staging.move_all(target, folder, &mut moved).unwrap();
            exchange();
            let failure = staging.check_moved(target, &moved).unwrap_err();
            staging.take_back(&moved, failure)
        };
        assert_eq!(failure.code, Code::Failed);
        assert!(failure.message.contains("was moved or replaced"), "{failure:?}");
        drop(staging);
        assert_eq!((scene.names("target"), scene.names("moved")), (Vec::new(), Vec::new()));
    }
}

#[test]
fn links_in_place_of_the_target() {
    let scene = Scene::new(vec![file("a.db", 1)]);
    for (name, to) in [("link", "target"), ("dangling", "nowhere"), ("to-a-file", "precious")] {
        symlink(scene.path(to), scene.path(name)).unwrap();
        for slash in ["", "/", "/."] {
            let failure = Staging::check(&scene.path(&format!("{name}{slash}")), &[]).err().unwrap();
            assert_eq!(failure.code, Code::Refused, "{name}{slash}");
            let named = failure.next_step.unwrap().contains(scene.path("target").to_str().unwrap());
            assert_eq!(named, name == "link", "{name}{slash}");
        }
    }
    // One that appears between the first look and the first step.
    let made = scene.path("later");
    let staging = Staging::check(&made, &[]).unwrap();
    symlink(scene.path("target"), &made).unwrap();
    assert!(staging.create(&scene.manifest.entries).is_err());
    drop(staging);
    assert_eq!(scene.names("target"), [""; 0]);
}

#[test]
fn few_of_many_files_are_open_at_a_time() {
    let count = 900;
    let scene = Scene::new((0..count).map(|at| file(&format!("{}/{at:04}", at % 7), 2 * BLOCK)).collect());
    let (staging, files) = scene.written();
    let folder = scene.path("target");
    let open = || {
        let open = fs::read_dir("/proc/self/fd").unwrap();
        let links = open.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
        links.filter(|link| link.starts_with(folder.canonicalize().unwrap())).count()
    };
    assert!((2..=202).contains(&open()), "{} files are open", open());
    for round in 0..3 {
        for at in (0..count).map(|at| at * 7 % count) {
            files.write(at, 1, BLOCK, &[(at + round) as u8; BLOCK as usize]).unwrap();
        }
    }
    assert!((2..=202).contains(&open()), "{} files are open", open());
    staging.publish(&scene.manifest, &files).unwrap();
    assert!(open() <= 2, "{} files are open", open());
    for (at, entry) in scene.manifest.entries.iter().enumerate() {
        let bytes = fs::read(folder.join(entry.path.to_relative())).unwrap();
        let expected = [vec![at as u8; BLOCK as usize], vec![(at + 2) as u8; BLOCK as usize]].concat();
        assert!(bytes == expected, "{}", entry.path);
    }
}

#[test]
fn many_notes_are_counted() {
    let foreign = |at: usize| Entry { uid: 12_345, gid: 12_345, mode: 0o4755, ..file(&format!("{at:03}"), 0) };
    let scene = Scene::new((0..50).map(foreign).collect());
    let (staging, files) = scene.written();
    let notes = staging.publish(&scene.manifest, &files).unwrap();
    assert!(notes.len() <= 42, "{notes:?}");
    assert!(notes.iter().any(|note| note.starts_with("30 more had set-user-id")), "{notes:?}");
    let is_root = user_id() == 0;
    assert_eq!(notes.iter().any(|note| note.starts_with("30 more belonged")), !is_root, "{notes:?}");
}

#[test]
fn a_target_in_a_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store_dir = dir.path().join("store");
    fs::create_dir_all(store_dir.join("empty")).unwrap();
    fs::create_dir(dir.path().join("other")).unwrap();
    symlink(&store_dir, dir.path().join("link")).unwrap();
    let spec = crate::stores::StoreSpec {
        name: "a".into(),
        url: format!("file://{}", store_dir.display()),
        ..crate::stores::StoreSpec::default()
    };
    let stores = [Store::open(&spec).unwrap()];
    for inside in ["store", "store/empty", "store/new/deep", "link/new", "other/../store/x", "missing/../store/x"] {
        let failure = Staging::check(&dir.path().join(inside), &stores).err().unwrap();
        assert_eq!(failure.code, Code::Refused, "{inside}");
        let said = if inside.starts_with("missing") { "does not exist" } else { "store a" };
        assert!(failure.cause.unwrap().contains(said), "{inside}");
    }
    for outside in ["other", "other/new", "store-like/new", "."] {
        let checked = Staging::check(&dir.path().join(outside), &stores);
        assert!(checked.is_ok() || outside == ".", "{outside}");
    }
}

#[test]
fn directories_of_ours_are_removed_whatever_their_modes() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (dir.path().join("ours"), dir.path().join("other"));
    fs::create_dir_all(ours.join("closed/inner")).unwrap();
    fs::write(ours.join("closed/inner/file"), "plaintext").unwrap();
    fs::set_permissions(ours.join("closed"), fs::Permissions::from_mode(0o500)).unwrap();
    fs::create_dir(&other).unwrap();
    fs::write(other.join("kept"), "").unwrap();
    symlink(&other, ours.join("link")).unwrap();
    remove_directory(&ours).unwrap();
    assert!(!ours.exists() && other.join("kept").exists());
    remove_directory(&ours).unwrap();
    symlink(&other, &ours).unwrap();
    assert!(remove_directory(&ours).is_err() && other.join("kept").exists(), "a link is nobody's directory");
}
