//! Directory stores on real file systems: full, read-only, unmounted.

use recoup::{
    core::id::Sha256,
    stores::{Problem, Store, StoreSpec},
};
use sha2::Digest;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// A small file system in memory; unmounted at the end.
struct SmallDisk {
    _dir: tempfile::TempDir,
    mount_point: PathBuf,
}

impl SmallDisk {
    /// `None` where this user may not mount.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mount_point = dir.path().join("disk");
        std::fs::create_dir(&mount_point).expect("a mount point");
        let disk = SmallDisk { _dir: dir, mount_point };
        disk.run("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).then_some(disk)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> bool {
        let output = Command::new(program).args(arguments).arg(&self.mount_point).output();
        output.is_ok_and(|output| output.status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.run("umount", &["-l"]);
    }
}

fn open(path: &Path) -> Store {
    let url = format!("file://{}", path.display());
    Store::open(&StoreSpec { name: "small".into(), url, mounted: true, ..StoreSpec::default() })
        .expect("the disk is mounted")
}

async fn create(store: &Store, key: &str, size: usize) -> Result<(), Problem> {
    let bytes = vec![7; size];
    let digest = Sha256(sha2::Sha256::digest(&bytes).into());
    store.create(key, bytes.into(), &digest).await.map(|_| ()).map_err(|error| error.problem)
}

#[tokio::test]
async fn full_read_only_and_unmounted_disks_are_told_apart() {
    let Some(disk) = SmallDisk::mount() else { return };
    let store = open(&disk.mount_point);
    create(&store, "a/fits", 100_000).await.unwrap();
    for attempt in 0..3 {
        let problem = create(&store, "a/too-large", 2_000_000).await.unwrap_err();
        assert!(matches!(&problem, Problem::Full(why) if why.contains("disk/a/too-large")), "{attempt}: {problem:?}");
    }
    // What did not fit left nothing that takes up room.
    assert_eq!(store.listing("").await.unwrap().leftovers, 0);
    create(&store, "a/fits-too", 800_000).await.unwrap();
    assert_eq!(store.get("a/fits", 100_000).await.unwrap().len(), 100_000);

    assert!(disk.run("mount", &["-o", "remount,ro"]));
    assert!(matches!(create(&store, "a/refused", 10).await, Err(Problem::Denied(_))));
    assert_eq!(store.list("").await.unwrap().len(), 2);

    // An open store keeps its disk from being unmounted; by force it can be, and must not be taken for what is beneath.
    assert!(disk.run("umount", &["-l"]));
    let problem = create(&store, "a/beneath", 10).await.unwrap_err();
    assert!(matches!(&problem, Problem::Unreachable(why) if why.contains("unmounted")), "{problem:?}");
    assert!(store.list("").await.is_err());
    assert_eq!(std::fs::read_dir(&disk.mount_point).unwrap().count(), 0);
    let url = format!("file://{}", disk.mount_point.display());
    let spec = StoreSpec { name: "small".into(), url, mounted: true, ..StoreSpec::default() };
    assert!(Store::open(&spec).unwrap_err().message.contains("no disk is mounted"));
}
