//! Manifests that a trusted key signed and that lie all the same: nothing runs, nothing leaves the target.

use super::{Recovery, fill, forge::Forge, placed_in, restored_by_recoup};
use crate::{
    needs::{is_installed, needs},
    support::{LEDGER, TestRepository, files_below},
};
use recoup::{
    core::{id::SnapshotId, path::StoredPath},
    repository::layout,
    world::SeededRandom,
};
use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

fn repository() -> (TestRepository, SnapshotId) {
    let repository = TestRepository::with_stores(&["a"]);
    fill(&repository, &SeededRandom::new("hostile"), 40);
    let id = repository.backup().head.id;
    (repository, id)
}

fn entry(path: &str, rest: &str) -> String {
    format!("{{\"entry\":{{\"path\":\"{path}\",{rest},\"uid\":0,\"gid\":0}}}}\n")
}

/// The shells that are there.
fn shells() -> impl Iterator<Item = &'static [&'static str]> {
    let all: [&[&str]; 3] = [&["sh"], &["busybox", "sh"], &["bash"]];
    all.into_iter().filter(|shell| is_installed(shell[0]))
}

#[test]
fn recover_sh_restores_odd_names_safely() {
    if !needs("age") || !needs("zstd") || !needs("jq") || !needs("ssh-keygen") {
        return;
    }
    let (repository, id) = repository();
    let forge = Forge::new(&repository, id);
    let part = forge.part();
    // All in one part: each is an empty file, and the one that had bytes comes last.
    let every_byte: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    let raw: [&[u8]; 14] = [
        &every_byte,
        b"$(touch pwned)",
        b"`touch pwned`;touch pwned\ntouch pwned\n",
        b"-rf",
        b" ",
        b"a b/  c  ",
        b"*",
        b"\n",
        b"\tx\t",
        b"~/x",
        b"..a/...",
        b"%s%n\\n",
        "Zürich.db".as_bytes(),
        b"deep/er/\x81\x82\x83\x84\x85\x86\x87\x88",
    ];
    let mut names: Vec<String> = raw.iter().map(|name| StoredPath::from_bytes(name).unwrap().to_string()).collect();
    names.sort();
    let quoted = |name: &String| name.replace('\\', "\\\\").replace('"', "\\\"");
    let empty = "\"kind\":\"file\",\"size\":0,\"block_size\":4096,\"mode\":\"0600\"";
    let (head, rest) = part.split_once('\n').unwrap();
    let entries: String = names.iter().map(|name| entry(&quoted(name), empty)).collect();
    forge
        .replace("m0.age", format!("{head}\n{entries}{}", rest.replace("ledger.db", "~~$(touch pwned).db")).as_bytes());
    let expected = restored_by_recoup(&repository, id);
    assert_eq!(expected.iter().filter(|(_, what)| what.starts_with("file ")).count(), 15);
    for shell in shells() {
        assert_eq!(Recovery { shell, ..Recovery::of(&repository) }.restored(id), expected, "{shell:?}");
    }
    let everything = files_below(&repository.path(""));
    assert!(!everything.iter().any(|path| path.ends_with("pwned")), "something ran");
}

#[test]
fn recover_sh_restores_directories_links_and_modes() {
    if !needs("age") || !needs("zstd") || !needs("jq") || !needs("ssh-keygen") {
        return;
    }
    let (repository, id) = repository();
    let forge = Forge::new(&repository, id);
    let mut part = forge.part().replace("\"ledger.db\"", "\"closed/ledger.db\"");
    let (head, rest) = part.split_once('\n').unwrap();
    let directory = |path, mode| entry(path, &format!("\"kind\":\"directory\",\"mode\":\"{mode}\""));
    let link = |path, target| entry(path, &format!("\"kind\":\"link\",\"mode\":\"0777\",\"target\":\"{target}\""));
    part = [
        head,
        "\n",
        &directory("closed", "0500"),
        rest,
        &entry("closed/sparse", "\"kind\":\"file\",\"size\":5000000001,\"block_size\":512,\"mode\":\"0600\""),
        &directory("closed/within", "0000"),
        &link("link", "closed/ledger.db"),
        &link("link-out", "/etc/passwd"),
        &link("link-to-nowhere", "../x y"),
        &directory("open", "0755"),
        &entry("open/empty", "\"kind\":\"file\",\"size\":0,\"block_size\":4096,\"mode\":\"0444\""),
        &entry("open/tool", "\"kind\":\"file\",\"size\":0,\"block_size\":4096,\"mode\":\"6755\""),
        &directory("shared", "2775"),
    ]
    .concat();
    forge.replace("m0.age", part.as_bytes());
    let check = |out: PathBuf| {
        let sparse = fs::metadata(out.join("closed/sparse")).unwrap();
        assert_eq!((sparse.len(), sparse.permissions().mode() & 0o7777), (5_000_000_001, 0o600));
        fs::remove_file(out.join("closed/sparse")).unwrap();
        fs::set_permissions(out.join("closed/within"), PermissionsExt::from_mode(0o700)).unwrap();
        let found = placed_in(&out);
        fs::remove_dir_all(out).unwrap();
        found
    };
    let out = repository.path("restored");
    let notes = repository.restore(id, &out).notes;
    assert!(notes.iter().any(|note| note.starts_with("open/tool had mode 6755")), "{notes:?}");
    let expected = check(out);
    let mode = |path: &str| &expected.iter().find(|(placed, _)| placed.as_os_str() == path).unwrap().1;
    assert!(mode("open/tool").starts_with("file 0755") && mode("shared") == "directory 2775", "{expected:?}");
    for shell in shells() {
        let recovery = Recovery { shell, ..Recovery::of(&repository) };
        let done = recovery.run(id).expect_code(0);
        assert!(
            done.stderr.contains("set-user-id, set-group-id and sticky bits of files are not restored"),
            "{done:?}"
        );
        assert_eq!(check(recovery.out), expected, "{shell:?}");
    }
}

#[test]
fn recover_sh_refuses_manifests_that_lie() {
    if !needs("age") || !needs("zstd") || !needs("jq") || !needs("ssh-keygen") {
        return;
    }
    let (repository, id) = repository();
    let forge = Forge::new(&repository, id);
    let part = forge.part();
    let name = |path: &str| part.replace("\"ledger.db\"", &format!("\"{path}\""));
    let last = part.lines().last().unwrap();
    let extents = |at: &str| part.replace(last, &format!("{{\"extents\":{{\"path\":\"ledger.db\",\"at\":[{at}]}}}}"));
    let with = |line: String| format!("{part}{line}");
    let outside = repository.path("outside");
    fs::create_dir(&outside).unwrap();
    let link =
        |path: &str| entry(path, &format!("\"kind\":\"link\",\"mode\":\"0777\",\"target\":\"{}\"", outside.display()));
    let file = "\"kind\":\"file\",\"size\":0,\"block_size\":4096,\"mode\":\"0600\"";
    let mut lies = vec![];
    let paths = [
        "../x",
        "/x",
        "a%2fb",
        "a//b",
        "a/",
        ".",
        "..",
        "a/../../x",
        "%2e%2e/x",
        "a%00b",
        "a%",
        "a%4",
        "a%zz",
        "a%C3",
        "",
        "a\\nb",
        "é",
    ];
    lies.extend(paths.map(|path| (name(path), "not allowed")));
    let too_long = ["a".repeat(256), "%81".repeat(256), format!("x/{}", "a".repeat(256)), "a/".repeat(2047) + "aa"];
    lies.extend(too_long.map(|path| (name(&path), "not allowed")));
    lies.extend([".recoup-partial", ".recoup-partial/x"].map(|path| (name(path), "not allowed")));
    // Sixteen digits and more, halves, texts: no number of them reaches a program.
    for at in ["[0,1,0,9,0]", "[0,1,7,0,0]", "[0,1,0,0,100000]", "[100000,1,0,0,0]", "[0,0,0,0,0]", "[0,100000,0,0,0]"]
    {
        lies.push((extents(at), "manifest"));
    }
    let odd = ["-1", "0.5", "1e99", "99999999999999999999", "\"1\"", "\"$(touch pwned)\"", "null", "[0]", "{}"];
    for (at, odd) in odd.into_iter().enumerate() {
        let mut numbers = ["0", "1", "0", "0", "0"];
        numbers[at % 5] = odd;
        lies.push((extents(&format!("[{}]", numbers.join(","))), "manifest"));
    }
    lies.extend([
        (extents("[0,2,0,0,0],[1,1,0,0,0]"), "contradict"),
        (extents("[0,1]"), "manifest"),
        (with(entry("ledger.db", file)), "order"),
        (with(entry("a", file)), "order"),
        (with(entry("ledger.db/x", file)), "cannot be made"),
        (with(link("m") + &entry("m/x", file)), "stands at m already"),
        (with(link("m") + &link("m/x")), "stands at m already"),
        (with(link("m") + &entry("m/x/y", "\"kind\":\"directory\",\"mode\":\"0700\"")), "stands at m already"),
        (with(link("m").replace("link", "fifo")), "unknown kind"),
        (with(entry("m", "\"kind\":\"link\",\"mode\":\"0777\",\"target\":\"a%00b\"")), "points to something"),
        (with(entry("m", "\"kind\":\"link\",\"mode\":\"0777\",\"target\":\"\"")), "points to something"),
        (with(entry("m", "\"kind\":\"directory\",\"mode\":\"0700;touch pwned\"")), "mode"),
        (with(entry("m", "\"kind\":\"directory\",\"mode\":\"8888\"")), "mode"),
        (with(entry("m", &file.replace("4096", "1"))), "size"),
        (with(entry("m", &file.replace("\"size\":0", "\"size\":1e300"))), "size"),
        (with(entry("m", &file.replace("\"size\":0", "\"size\":\"$(touch pwned)\""))), "size"),
        (with(entry("m", &file.replace("\"size\":0", "\"size\":281474976710657"))), "size"),
        (with(entry("m", file).replace("\"uid\":0", "\"uid\":4294967295")), "owner"),
        (with(entry("m", file).replace("\"gid\":0", "\"gid\":4294967295")), "owner"),
        (with(link("m").replace("/outside\"", &format!("{}\"", "/x".repeat(2048)))), "points to something"),
        (with("null\n".into()), "a line is no object"),
        (with("{}\n".into()), "neither an entry nor extents"),
        (with("{\"entry\":".into()), "manifest"),
        (part.replace("part/1", "part/2"), "its format is not"),
        (part.lines().skip(1).collect::<Vec<_>>().join("\n"), "its format is not"),
        ("\n".repeat(5 << 20), "more than"),
    ]);
    for (number, (text, why)) in lies.into_iter().enumerate() {
        assert_ne!(text, part);
        forge.replace("m0.age", text.as_bytes());
        // Without signatures it is no more trusting.
        let unsigned = number % 4 == 0;
        Recovery { unsigned, ..Recovery::of(&repository) }.refused(id, why);
    }
    assert_eq!(files_below(&outside), Vec::<PathBuf>::new());
    assert!(!files_below(&repository.path("")).iter().any(|path| path.ends_with("pwned")), "something ran");
    forge.replace("m0.age", part.as_bytes());
    let expected = restored_by_recoup(&repository, id);
    assert_eq!(Recovery::of(&repository).restored(id), expected);
    assert_eq!(fs::read_dir(repository.path("data")).unwrap().count(), 1, "{LEDGER} alone");
}

#[test]
fn recover_sh_refuses_roots_and_indexes_that_lie() {
    if !needs("age") || !needs("zstd") || !needs("jq") || !needs("ssh-keygen") {
        return;
    }
    let (repository, id) = repository();
    let forge = Forge::new(&repository, id);
    let expected = restored_by_recoup(&repository, id);
    let root = forge.open(&layout::manifest_root(id));
    let index = forge.open(&layout::run_object(id.run, "index.age"));
    let pages = forge.open_bytes(&layout::run_object(id.run, "0.age"));
    let raw = "\"raw_bytes\":";
    let bytes = index.split_once(raw).unwrap().1.split_once(',').unwrap().0.to_owned();
    let other = |bytes: &str, with: &str| index.replace(&format!("{raw}{bytes}"), &format!("{raw}{with}"));
    let run = id.run.to_string();
    let cases = [
        ("manifest.age", root.replace("\"ledger\"", "\"wallet\""), "of another source"),
        ("manifest.age", root.replace("\"part\":0", "\"part\":1"), "no object list has"),
        ("manifest.age", root.replace("\"part\":0", "\"part\":\"../../x\""), "names a part wrongly"),
        ("manifest.age", root.replace(&run, "aaaaaaaaaaaaaaaa"), "no object list has"),
        ("manifest.age", root.replace("manifest/1", "manifest/2"), "its format is not"),
        ("manifest.age", String::new(), "manifest.age"),
        ("index.age", index.replace(&run, "aaaaaaaaaaaaaaaa"), "of another run"),
        ("index.age", index.replace("\"pack\":0", "\"pack\":1"), "pack"),
        ("index.age", other(&bytes, "999999999999"), "raw size"),
        ("index.age", other(&bytes, "\"$(touch pwned)\""), "wrongly"),
        ("index.age", other(&bytes, "4096"), "do not add up"),
        (
            "index.age",
            other(&bytes, &(bytes.parse::<u64>().unwrap() - 4096).to_string()),
            "blocks that its pack does not",
        ),
        ("index.age", other(&bytes, &(bytes.parse::<u64>().unwrap() + 4096).to_string()), "0.age is damaged: it holds"),
        ("0.age", "a bomb".repeat(20 << 20), "holds more than it may"),
        ("0.age", String::new(), "0.age"),
    ];
    for (name, text, why) in cases {
        forge.replace(name, text.as_bytes());
        Recovery::of(&repository).refused(id, why);
        if name == "manifest.age" {
            forge.replace(name, root.as_bytes());
        } else {
            forge.replace("index.age", index.as_bytes());
        }
    }
    forge.replace("0.age", &pages);
    // The pack is sealed anew, which recoup would notice by its header.
    assert_eq!(Recovery::of(&repository).restored(id), expected);
    assert!(!files_below(&repository.path("")).iter().any(|path| path.ends_with("pwned")), "something ran");
}
