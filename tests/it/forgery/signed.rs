//! What a thief of the host's key could sign: contradictions, paths that lead out, bombs, lies about sizes.

use super::{
    Forger,
    draft::{BLOCK, Draft, bomb, no_digest, pack_of, seal_as_is},
};
use crate::support::{program, run};
use recoup::core::id::RunId;
use std::fs;

/// A lie in a snapshot that is right otherwise.
type Lie = (&'static str, fn(&mut Draft));

const LIES: &[Lie] = &[
    // Paths.
    ("a path above", |draft| draft.edit_part("\"ledger.db\"", "\"../ledger.db\"")),
    ("an absolute path", |draft| draft.edit_part("\"ledger.db\"", "\"/tmp/ledger.db\"")),
    ("a path above, coded", |draft| draft.edit_part("\"ledger.db\"", "\"%2e%2e/ledger.db\"")),
    ("a slash, coded", |draft| draft.edit_part("\"ledger.db\"", "\"..%2fledger.db\"")),
    ("a zero byte", |draft| draft.edit_part("\"ledger.db\"", "\"ledger%00db\"")),
    ("an empty path", |draft| draft.edit_part("\"ledger.db\"", "\"\"")),
    ("a path through a link", |draft| {
        draft.edit_part("\"ledger.db\"", "\"out/ledger.db\"");
        let link = link("out", "..");
        draft.edit_part("{\"entry\"", &format!("{link}\n{{\"entry\""));
    }),
    ("a path through a file", |draft| {
        draft.edit_part("\"ledger.db\"", "\"out/ledger.db\"");
        let file = r#"{"entry":{"path":"out","kind":"file","size":0,"block_size":512,"mode":"0600","uid":0,"gid":0}}"#;
        draft.edit_part("{\"entry\"", &format!("{file}\n{{\"entry\""));
    }),
    ("a link and a file of one name", |draft| {
        let link = link("ledger.db", "../ledger.db");
        draft.edit_part("{\"entry\"", &format!("{link}\n{{\"entry\""));
    }),
    ("the name of what is not complete", |draft| draft.edit_part("\"ledger.db\"", "\".recoup-partial\"")),
    ("the name of what is not complete, and a file", |draft| {
        let file = r#"{"entry":{"path":".recoup-partial/x","kind":"file","size":0,"block_size":512,"mode":"0600","uid":0,"gid":0}}"#;
        draft.edit_part("{\"entry\"", &format!("{file}\n{{\"entry\""));
    }),
    ("a part that is too long", |draft| draft.edit_part("\"ledger.db\"", &format!("\"{}\"", "%81".repeat(256)))),
    ("a path that is too long", |draft| {
        draft.edit_part("\"ledger.db\"", &format!("\"{}aa\"", "a/".repeat(2047)));
    }),
    ("an owner that is none", |draft| draft.edit_part("\"uid\":0", "\"uid\":4294967295")),
    ("a group that is none", |draft| draft.edit_part("\"gid\":0", "\"gid\":4294967295")),
    ("a link to nothing", |draft| draft.edit_part("{\"entry\"", &format!("{}\n{{\"entry\"", link("a", "")))),
    ("a link that is too long", |draft| {
        draft.edit_part("{\"entry\"", &format!("{}\n{{\"entry\"", link("a", &"x".repeat(4096))));
    }),
    ("a link with a zero byte", |draft| draft.edit_part("{\"entry\"", &format!("{}\n{{\"entry\"", link("a", "b%00")))),
    ("a kind that there is not", |draft| draft.edit_part("\"kind\":\"file\"", "\"kind\":\"device\"")),
    ("a mode that is none", |draft| draft.edit_part("\"0600\"", "\"177777\"")),
    // Extents.
    ("overlapping extents", |draft| draft.edit_part("[1,1,0,0,1]", "[0,2,0,0,1]")),
    ("extents out of order", |draft| draft.edit_part("[[0,1,0,0,0],[1,1,0,0,1]", "[[1,1,0,0,1],[0,1,0,0,0]")),
    ("an extent of nothing", |draft| draft.edit_part("[2,1,0,0,70]", "[2,0,0,0,70]")),
    ("an extent beyond the file", |draft| draft.edit_part("[2,1,0,0,70]", "[3,1,0,0,70]")),
    ("an extent beyond the pack", |draft| draft.edit_part("[2,1,0,0,70]", "[2,1,0,0,100]")),
    ("an extent far beyond the pack", |draft| draft.edit_part("[2,1,0,0,70]", "[2,1,0,0,9007199254740991]")),
    ("an extent beyond all numbers", |draft| draft.edit_part("[2,1,0,0,70]", "[2,18446744073709551615,0,0,70]")),
    ("an extent of an unknown run", |draft| draft.edit_part("[2,1,0,0,70]", "[2,1,7,0,70]")),
    ("an extent of an unknown pack", |draft| draft.edit_part("[2,1,0,0,70]", "[2,1,0,4294967295,70]")),
    ("an extent without a file", |draft| draft.edit_part("{\"path\":\"ledger.db\",\"at\"", "{\"path\":\"z\",\"at\"")),
    ("a file without end", |draft| draft.edit_part("\"size\":12188", "\"size\":18446744073709551615")),
    ("a file larger than any", |draft| draft.edit_part("\"size\":12188", "\"size\":281474976710657")),
    ("a file of all numbers", |draft| draft.edit_part("\"size\":12188", "\"size\":9007199254740991")),
    ("a block size that is none", |draft| draft.edit_part("\"block_size\":4096", "\"block_size\":0")),
    ("another block size", |draft| draft.edit_part("\"block_size\":4096", "\"block_size\":8192")),
    // Manifest and lists.
    ("a part named again and again", |draft| {
        let text = String::from_utf8(draft.root.clone()).unwrap();
        let (head, line) = text.trim_end().split_once('\n').unwrap();
        let lines: Vec<String> =
            (0..20_000).map(|block| line.replace("\"block\":0", &format!("\"block\":{block}"))).collect();
        draft.root = format!("{head}\n{}\n", lines.join("\n")).into_bytes();
    }),
    ("a part of another run", |draft| {
        let text = String::from_utf8(draft.root.clone()).unwrap();
        draft.root = text.replace(draft.id.run.as_str(), RunId::from_random([1; 16]).as_str()).into_bytes();
    }),
    ("a manifest of another source", |draft| {
        let text = String::from_utf8(draft.root.clone()).unwrap();
        draft.root = text.replace("\"source\":\"ledger\"", "\"source\":\"wallet\"").into_bytes();
    }),
    ("an empty manifest", |draft| draft.root = Vec::new()),
    ("an empty part", |draft| draft.parts[0] = Vec::new()),
    ("nesting in a part", |draft| draft.edit_part("{\"entry\"", &format!("{}{{\"entry\"", "[".repeat(100_000)))),
    ("nesting in the manifest", |draft| draft.root = "[".repeat(1_000_000).into_bytes()),
    ("nesting in the list", |draft| {
        draft.objects_edits.push(("{".to_owned(), format!("{{\"x\": {},", "[".repeat(1_000_000))));
    }),
    ("a list of another run", |draft| {
        draft.objects_edits.push((draft.id.run.to_string(), RunId::from_random([1; 16]).to_string()));
    }),
    ("a list that leads out", |draft| draft.objects_edits.push(("0.age".into(), "../../0.age".into()))),
    ("an object twice", |draft| draft.objects_edits.push(("digests.age".into(), "0.age".into()))),
    ("a size too small", |draft| lie_about_size(draft, "m0.age", "1")),
    ("a size beyond all", |draft| lie_about_size(draft, "0.age", "18446744073709551615")),
    ("a large size", |draft| lie_about_size(draft, "0.age", "1099511627776")),
    ("a small pack", |draft| lie_about_size(draft, "0.age", "100")),
    // Frame tables.
    ("a frame more", |draft| draft.index.frames.push(10)),
    ("a frame too short", |draft| draft.index.frames[2] -= 1),
    ("frames too large", |draft| draft.index.frames.iter_mut().for_each(|bytes| *bytes = u32::MAX)),
    ("more raw bytes", |draft| draft.index.raw_bytes += BLOCK as u64),
    ("raw bytes without end", |draft| draft.index.raw_bytes = u64::MAX / 4096 * 4096),
    ("a header elsewhere", |draft| draft.index.payload_offset += 1),
    ("no header", |draft| draft.index.payload_offset = 0),
    ("a header far away", |draft| draft.index.payload_offset = u64::MAX),
    ("another header", |draft| draft.index.header_sha256 = no_digest()),
    ("a table of another pack", |draft| draft.index.pack = 7),
    // Digests.
    ("other digests", |draft| {
        let end = draft.digests.len() - 1;
        draft.digests[end - 16 * 29] ^= 1;
    }),
    ("digests that end early", |draft| draft.digests.truncate(draft.digests.len() - 16)),
    ("no digests", |draft| draft.digests.clear()),
    ("digests without end", |draft| {
        draft.digests =
            String::from_utf8_lossy(&draft.digests).replacen("\"blocks\":100", "\"blocks\":1e300", 1).into();
    }),
    // Bombs.
    ("a bomb for a part", |draft| draft.instead.push(("m0.age", bomb(&draft.recipients)))),
    ("a bomb for the manifest", |draft| draft.instead.push(("manifest.age", bomb(&draft.recipients)))),
    ("a bomb for the index", |draft| draft.instead.push(("index.age", bomb(&draft.recipients)))),
    ("a bomb for the digests", |draft| draft.instead.push(("digests.age", bomb(&draft.recipients)))),
    ("a bomb for a frame", |draft| {
        let frame = zstd::bulk::compress(&vec![0; 1 << 30], 1).unwrap();
        let frame = &frame[..frame.len().min(100_000)];
        let sealed = seal_as_is(&draft.recipients, frame);
        draft.index.payload_offset =
            sealed.len() as u64 - frame.len() as u64 - 16 * (frame.len() as u64).div_ceil(65_536);
        draft.index.header_sha256 = recoup::format::sha256(&sealed[..draft.index.payload_offset as usize]);
        draft.index.frames = vec![frame.len() as u32 / 4; 4];
        draft.instead.push(("0.age", sealed));
    }),
    ("no compression", |draft| draft.instead.push(("m0.age", seal_as_is(&draft.recipients, b"not zstd at all")))),
    ("no sealing", |draft| draft.instead.push(("m0.age", b"age-encryption.org/v1\n".to_vec()))),
    ("a header without end", |draft| {
        let stanzas = "-> X25519 AAAA\nAAAA\n".repeat(50_000);
        draft.instead.push(("m0.age", format!("age-encryption.org/v1\n{stanzas}").into_bytes()));
    }),
    // Inventories.
    ("more than 256 runs", |draft| {
        let used = |at: u16| {
            let mut random = [0; 16];
            random[..2].copy_from_slice(&[at as u8 & 31, (at >> 5) as u8]);
            let (run, digest) = (RunId::from_random(random), no_digest());
            format!("{{\"run\":\"{run}\",\"objects_sha256\":\"{digest}\",\"packs\":\"0\"}},")
        };
        let uses: String = (0..256).map(used).collect();
        draft.inventory_edits.push(("\"uses\": [".to_owned(), format!("\"uses\": [{uses}")));
    }),
    ("nesting in the inventory", |draft| {
        draft.inventory_edits.push(("{".to_owned(), format!("{{\"x\": {},", "[".repeat(1_000_000))));
    }),
    ("a manifest elsewhere", |draft| {
        draft.inventory_edits.push((format!("snapshots/{}/manifest.age", draft.id), "../../recoup.json".into()));
    }),
    ("a manifest beyond all sizes", |draft| {
        draft.inventory_edits.push(("\"manifest\": {".into(), "\"manifest\": {\"size\": 1,".into()));
    }),
    ("itself as its parent", |draft| {
        let parent = format!("\"parents\": [{{\"id\":\"{}\",\"sha256\":\"{}\"}}]", draft.id, no_digest());
        draft.inventory_edits.push(("\"parents\": []".to_owned(), parent));
    }),
    ("packs that are no set", |draft| {
        draft.inventory_edits.push(("\"packs\": \"0\"".into(), "\"packs\": \"0,0\"".into()))
    }),
];

fn link(path: &str, target: &str) -> String {
    format!(r#"{{"entry":{{"path":"{path}","kind":"link","target":"{target}","mode":"0777","uid":0,"gid":0}}}}"#)
}

/// Another size for an object in the list; its line stands right below its name.
fn lie_about_size(draft: &mut Draft, name: &str, size: &str) {
    let name = format!("\"name\": \"{name}\",\n      \"size\": ");
    draft.objects_edits.push((name.clone(), format!("{name}{size}, \"was\": ")));
}

#[test]
fn lies_under_a_good_signature() {
    let forger = Forger::new();
    let honest = Draft::new(&forger, "honest");
    honest.plant(&forger);
    // What is forged below is right until something is changed in it.
    // It names no parent, which is no reason to refuse it, and is said.
    let (done, file) = forger.restore("latest");
    let done = done.expect_code(1);
    assert!(done.stderr.contains("the history is forked") && done.stderr.contains(&honest.id.to_string()), "{done:?}");
    assert_eq!(fs::read(file).unwrap(), honest.content);
    honest.remove(&forger);
    for (name, lie) in LIES {
        let mut draft = Draft::new(&forger, name);
        lie(&mut draft);
        draft.plant(&forger);
        forger.assert_refused(name, &[15]);
        draft.remove(&forger);
    }
    forger.house.assert_restores("latest", &forger.second);
    forger.house.assert_restores("snapshot:1", &forger.first);
    forger.house.backup();
}

#[test]
fn oddities_that_restore_all_the_same() {
    let forger = Forger::new();
    // A parent that nobody knows is no reason to refuse what is intact.
    let mut draft = Draft::new(&forger, "an unknown parent");
    let parent = "{\"id\":\"0000000002-aaaaaaaaaaaaaaaa\",\"sha256\":\"".to_owned() + &no_digest().to_string() + "\"}";
    draft.inventory_edits.push(("\"parents\": []".to_owned(), format!("\"parents\": [{parent}]")));
    draft.plant(&forger);
    let (done, file) = forger.restore("latest");
    assert!(matches!(done.code, 0 | 1), "{done:?}");
    assert_eq!(fs::read(file).unwrap(), draft.content);
    draft.remove(&forger);
    // Two places of a file may have the same blocks, in any order.
    let mut draft = Draft::new(&forger, "shared blocks");
    draft.edit_part("[[0,1,0,0,0],[1,1,0,0,1],[2,1,0,0,70]]", "[[0,1,0,0,70],[1,2,0,0,69]]");
    draft.plant(&forger);
    let (done, file) = forger.restore("latest");
    done.expect_code(1);
    let bytes = fs::read(file).unwrap();
    assert_eq!(bytes[..BLOCK - 100], bytes[2 * BLOCK..]);
    draft.remove(&forger);
    // A wrong size in the list, where the digest is right.
    let mut draft = Draft::new(&forger, "a size too large");
    lie_about_size(&mut draft, "m0.age", "4000000");
    draft.plant(&forger);
    let (done, file) = forger.restore("latest");
    assert!(matches!(done.code, 0 | 1), "{done:?}");
    assert_eq!(fs::read(file).unwrap(), draft.content);
    draft.remove(&forger);
    // More packs than there are: not complete anywhere, and `verify` says so.
    let mut draft = Draft::new(&forger, "packs without end");
    draft.inventory_edits.push(("\"packs\": \"0\"".into(), "\"packs\": \"0-4294967295\"".into()));
    draft.plant(&forger);
    let (done, file) = forger.restore("latest");
    assert!(matches!(done.code, 0 | 1), "{done:?}");
    assert_eq!(fs::read(file).unwrap(), draft.content);
    let verified = forger.bounded(["--config", "R/recoup.toml", "verify", "--json"]).expect_code(2);
    assert!(verified.stdout.contains(&draft.id.to_string()), "{verified:?}");
    let copied = forger.bounded(["--config", "R/recoup.toml", "copy"]);
    assert!(matches!(copied.code, 1 | 2), "{copied:?}");
    draft.remove(&forger);
    forger.house.assert_restores("latest", &forger.second);
}

#[test]
fn thousands_of_files_restore_with_few_descriptors() {
    let forger = Forger::new();
    let mut draft = Draft::new(&forger, "many files");
    let text = String::from_utf8(draft.parts[0].clone()).unwrap();
    let mut part = format!("{}\n", text.lines().next().unwrap());
    let count = 3_000;
    let name = |at: usize| format!("{}/{at:04}.db", at / 1_000);
    for at in 0..count {
        let (path, block) = (name(at), at * 7 % 100);
        part.push_str(&format!(
            "{{\"entry\":{{\"path\":\"{path}\",\"kind\":\"file\",\"size\":{BLOCK},\"block_size\":{BLOCK},\
             \"mode\":\"0600\",\"uid\":0,\"gid\":0}}}}\n{{\"extents\":{{\"path\":\"{path}\",\"at\":[[0,1,0,0,{block}]]}}}}\n"
        ));
    }
    draft.parts[0] = part.into_bytes();
    draft.plant(&forger);
    let (command, file) = forger.house.restore("latest");
    let mut limited = program("sh", &forger.house.path(""));
    limited.args(["-c", "ulimit -n 256; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    // A snapshot without a parent is a fork, which is said.
    run(&mut limited).expect_code(1);
    let to = file.parent().unwrap();
    let first = fs::read(to.join(name(0))).unwrap();
    for at in 0..count {
        let bytes = fs::read(to.join(name(at))).unwrap();
        assert_eq!(bytes.len(), BLOCK, "{at}");
        assert_eq!(bytes == first, at * 7 % 100 == 0, "{at}");
    }
}

#[test]
fn packs_sealed_again_by_a_stranger() {
    let forger = Forger::new();
    for ranged in [true, false] {
        let name = format!("sealed again {ranged}");
        let mut draft = Draft::new(&forger, &name);
        if !ranged {
            // Nearly all of the pack is used, so that it is fetched whole.
            draft.edit_part("\"size\":12188", "\"size\":401408");
            draft.edit_part("[[0,1,0,0,0],[1,1,0,0,1],[2,1,0,0,70]]", "[[0,98,0,0,0]]");
        }
        draft.plant(&forger);
        let (done, _) = forger.restore("latest");
        done.expect_code(1);
        // Somebody who has the public keys, and knows the content, seals it again; then other content.
        let key = format!("sources/ledger/packs/{}/0.age", draft.id.run);
        let opened = open(&forger, &draft.pack);
        let mut noise = vec![0; 100 * BLOCK];
        recoup::world::Random::fill(&*recoup::world::SeededRandom::new("other content"), &mut noise);
        let (other, _) = pack_of(draft.id.run, &noise, &forger.recipients);
        let mut spliced = other.object.bytes.to_vec();
        let header = draft.index.payload_offset as usize;
        spliced[..header].copy_from_slice(&draft.pack[..header]);
        for forged in [seal_as_is(&forger.recipients, &opened), other.object.bytes.to_vec(), spliced] {
            forger.put_on("a", &key, &forged);
            let (done, file) = forger.restore("latest");
            let done = done.expect_code(1);
            assert!(done.stderr.contains(&key), "{done:?}");
            assert_eq!(&fs::read(file).unwrap()[..BLOCK], &draft.content[..BLOCK]);
            forger.put(&key, &forged);
            forger.assert_refused(&name, &[15]);
            forger.put(&key, &draft.pack);
        }
        draft.remove(&forger);
    }
}

fn open(forger: &Forger, sealed: &[u8]) -> Vec<u8> {
    use std::io::Read;
    let text = fs::read_to_string(forger.house.path("R/custodian.age")).unwrap();
    let key: age::x25519::Identity = text.lines().last().unwrap().parse().unwrap();
    assert_eq!(forger.custodian.recipients(), [key.to_public().to_string()]);
    let mut opened = Vec::new();
    let decryptor = age::Decryptor::new(sealed).unwrap();
    decryptor.decrypt([&key as &dyn age::Identity].into_iter()).unwrap().read_to_end(&mut opened).unwrap();
    opened
}
