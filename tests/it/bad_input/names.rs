//! Names that are legal and strange.

use crate::{
    house::House,
    support::{recoup, run},
};
use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// A path as a `file://` URL.
fn url(path: &Path) -> String {
    let coded = |byte: &u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => char::from(*byte).to_string(),
        other => format!("%{other:02x}"),
    };
    format!("file://{}", path.as_os_str().as_bytes().iter().map(coded).collect::<String>())
}

#[test]
fn names_of_databases_and_directories() {
    let strange: &[&[u8]] = &[
        b"with space",
        "Zürich Straße €".as_bytes(),
        b"new\nline",
        b"100%25 'quoted' \"twice\" \\n $(touch x) `x` ;&|",
        b"-rf --json",
        b"?mode=memory#x",
        b"tab\there",
        b"\xf0\x9f\x92\xb0",
    ];
    for name in strange {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join(OsStr::from_bytes(name));
        fs::create_dir(&base).unwrap();
        let database = base.join(PathBuf::from(OsStr::from_bytes(&[name, &b".db"[..]].concat())));
        let plain = House::unfounded();
        fs::copy(plain.path("data/ledger.db"), &database).unwrap();
        let mut source = b"ledger=sqlite:".to_vec();
        source.extend_from_slice(database.as_os_str().as_bytes());
        let mut init = recoup(&base);
        init.args(["init", "--config", "R x/recoup.toml", "--new-identity", "R x/custodian.age"]);
        init.arg("--store").arg(format!("a={}", url(&base.join("store a"))));
        init.arg("--source").arg(OsStr::from_bytes(&source));
        run(&mut init).expect_code(0);
        // Relative to the working directory, and from elsewhere by its absolute path.
        run(recoup(&base).args(["--config", "R x/recoup.toml", "backup"])).expect_code(0);
        let mut again = recoup(Path::new("/"));
        run(again.arg("--config").arg(base.join("R x/recoup.toml")).arg("backup")).expect_code(0);
        let mut restore = recoup(&base);
        restore.args(["--config", "R x/recoup.toml", "restore", "ledger", "--identity", "R x/custodian.age"]);
        let to = OsStr::from_bytes(b"out \xe2\x82\xac\n");
        run(restore.arg("--to").arg(to)).expect_code(0);
        let restored = base.join(to).join(database.file_name().unwrap());
        assert_eq!(fs::read(restored).unwrap(), fs::read(&database).unwrap(), "{}", database.display());
        run(recoup(&base).args(["--config", "R x/recoup.toml", "verify", "--all"])).expect_code(0);
        run(recoup(&base).args(["--config", "R x/recoup.toml", "config", "show"])).expect_code(0);
    }
}

#[test]
fn a_database_behind_links() {
    let (house, _) = House::new();
    fs::rename(house.path("data"), house.path("disk2")).unwrap();
    std::os::unix::fs::symlink("disk2", house.path("data")).unwrap();
    fs::rename(house.path("disk2/ledger.db"), house.path("disk2/ledger-v2.db")).unwrap();
    std::os::unix::fs::symlink("ledger-v2.db", house.path("disk2/ledger.db")).unwrap();
    run(&mut house.recoup(["backup"])).expect_code(0);
    house.write_rows(5);
    run(&mut house.recoup(["backup"])).expect_code(0);
    let (mut restore, file) = house.restore("latest");
    run(&mut restore).expect_code(0);
    // It comes back as a file, under one of its two names.
    let restored = [file.clone(), file.with_file_name("ledger-v2.db")].into_iter().find(|path| path.exists());
    assert_eq!(fs::read(restored.unwrap()).unwrap(), house.ledger());
}
