//! What every store must do, whatever it is made of.

use super::*;
use crate::core::id::Sha256;
use crate::stores::s3::tests::server::Server;
use bytes::Bytes;
use sha2::Digest;

/// A store of every kind, each empty. The guards keep its directory and its server.
struct Kinds(Vec<Store>, #[expect(dead_code, reason = "they end with it")] (tempfile::TempDir, Server));

fn every_kind() -> Kinds {
    let dir = tempfile::tempdir().unwrap();
    let patience = Patience { pause: Duration::from_millis(1), ..Patience::default() };
    let open = |name: &str| {
        let url = format!("file://{}/{name}", dir.path().display());
        found(&StoreSpec { name: name.into(), url, ..StoreSpec::default() }).unwrap()
    };
    let server = Server::start();
    let stores = vec![
        Store::memory("memory"),
        Store::memory("overwriting").without_conditional_create(),
        open("file"),
        open("file-overwriting").without_conditional_create(),
        server.store("s3", "deep/prefix"),
        server.store("s3-overwriting", "other").without_conditional_create(),
    ];
    Kinds(stores.into_iter().map(|store| store.with_patience(patience)).collect(), (dir, server))
}

fn digest(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

async fn create(store: &Store, key: &str, bytes: &'static [u8]) -> Result<Created, StoreError> {
    store.create(key, Bytes::from_static(bytes), &digest(bytes)).await
}

async fn replace(store: &Store, key: &str, bytes: &'static [u8]) -> Result<Replaced, StoreError> {
    store.replace(key, Bytes::from_static(bytes), &digest(bytes)).await
}

fn problem<T: std::fmt::Debug>(result: Result<T, StoreError>) -> Problem {
    result.expect_err("this cannot succeed").problem
}

#[tokio::test]
async fn what_was_created_is_read_back_and_never_overwritten() {
    for store in every_kind().0 {
        assert_eq!(create(&store, "a/b/c", b"one").await, Ok(Created::Created), "{store:?}");
        assert_eq!(create(&store, "a/b/c", b"one").await, Ok(Created::AlreadyThere), "{store:?}");
        for other in [&b"two"[..], b"on", b"onee", b""] {
            assert_eq!(problem(create(&store, "a/b/c", other).await), Problem::Exists, "{store:?}");
        }
        assert_eq!(store.get("a/b/c", 3).await.unwrap(), &b"one"[..]);
        assert_eq!(store.size("a/b/c").await, Ok(3));
        assert_eq!(create(&store, "empty", b"").await, Ok(Created::Created));
        assert_eq!(store.get("empty", 0).await.unwrap(), &b""[..]);
        assert_eq!(create(&store, "empty", b"").await, Ok(Created::AlreadyThere));
    }
}

#[tokio::test]
async fn what_is_not_there_is_missing() {
    for store in every_kind().0 {
        create(&store, "a/b", b"x").await.unwrap();
        // A folder, a name below an object, a name beside one, the name cut short.
        for key in ["a", "a/b/c", "a/c", "b", "a/bb"] {
            assert_eq!(problem(store.get(key, 10).await), Problem::Missing, "{store:?} {key}");
            assert_eq!(problem(store.size(key).await), Problem::Missing, "{store:?} {key}");
            let one: &[std::ops::Range<u64>] = &[0..1, 0..1];
            assert_eq!(problem(store.get_ranges(key, one).await), Problem::Missing, "{store:?} {key}");
        }
    }
}

#[tokio::test]
async fn reading_is_bounded() {
    for store in every_kind().0 {
        create(&store, "a", b"0123456789").await.unwrap();
        assert!(matches!(problem(store.get("a", 9).await), Problem::Damaged(_)), "{store:?}");
        let pieces = store.get_ranges("a", &[4..6, 0..1, 9..10, 0..10, 4..6]).await.unwrap();
        assert_eq!(pieces, [&b"45"[..], b"0", b"9", b"0123456789", b"45"], "{store:?}");
        assert_eq!(store.get_ranges("a", &[]).await.unwrap(), Vec::<Bytes>::new());
        for beyond in [9..11, 10..11, 50..60, 0..11, 3..3, 10..10] {
            let ranges = [0..2, beyond];
            assert!(matches!(problem(store.get_ranges("a", &ranges).await), Problem::Damaged(_)), "{store:?}");
        }
    }
}

#[tokio::test]
async fn listings_are_sorted_and_cut_at_whole_parts() {
    for store in every_kind().0 {
        assert_eq!(store.list("").await, Ok(vec![]), "{store:?}");
        assert_eq!(store.list("a").await, Ok(vec![]), "{store:?}");
        assert_eq!(store.list_directories("a").await, Ok(vec![]), "{store:?}");
        for key in ["a/z", "a/b/1", "a/b/0", "ab/x", "a-b", "RECOVERY.md", "quarantine/a/z"] {
            create(&store, key, b"xy").await.unwrap_or_else(|error| panic!("{store:?}: {error}"));
        }
        let keys = |prefix: &'static str| {
            let store = store.clone();
            async move { store.list(prefix).await.unwrap().into_iter().map(|(key, _)| key).collect::<Vec<_>>() }
        };
        assert_eq!(keys("").await, ["RECOVERY.md", "a-b", "a/b/0", "a/b/1", "a/z", "ab/x"], "{store:?}");
        assert_eq!(keys("a").await, ["a/b/0", "a/b/1", "a/z"], "{store:?}");
        assert_eq!(keys("a/b").await, ["a/b/0", "a/b/1"], "{store:?}");
        assert_eq!(keys("a/z").await, Vec::<String>::new(), "{store:?}");
        assert_eq!(keys("quarantine").await, ["quarantine/a/z"], "{store:?}");
        assert_eq!(store.list("ab").await.unwrap(), [("ab/x".to_owned(), 2)], "{store:?}");
        assert_eq!(store.list_directories("").await.unwrap(), ["a", "ab"], "{store:?}");
        assert_eq!(store.list_directories("a").await.unwrap(), ["b"], "{store:?}");
    }
}

#[tokio::test]
async fn hostile_keys_reach_no_store() {
    for store in every_kind().0 {
        for key in ["", "../a", "a/../../b", "/etc/passwd", "a//b", "A", "a#1"] {
            assert_eq!(problem(create(&store, key, b"x").await), Problem::InvalidKey, "{key}");
            assert_eq!(problem(replace(&store, key, b"x").await), Problem::InvalidKey, "{key}");
            assert_eq!(problem(store.get(key, 1).await), Problem::InvalidKey, "{key}");
            assert_eq!(problem(store.size(key).await), Problem::InvalidKey, "{key}");
            assert_eq!(
                problem(store.get_ranges(key, std::slice::from_ref(&(0..1))).await),
                Problem::InvalidKey,
                "{key}"
            );
            if !key.is_empty() {
                assert_eq!(problem(store.list(key).await), Problem::InvalidKey, "{key}");
                assert_eq!(problem(store.list_directories(key).await), Problem::InvalidKey, "{key}");
            }
        }
    }
}

#[tokio::test]
async fn healing_keeps_what_it_replaces_where_it_can() {
    for store in every_kind().0 {
        let keeps = store.facts().directory.is_some();
        assert_eq!(replace(&store, "a/b", b"right").await, Ok(Replaced::Filled), "{store:?}");
        assert_eq!(replace(&store, "a/b", b"right").await, Ok(Replaced::AlreadyRight), "{store:?}");
        for (number, right) in [&b"other"[..], b"cut", b"longer than before"].into_iter().enumerate() {
            let aside = if number == 0 { "quarantine/a/b".to_owned() } else { format!("quarantine/a/b.{number}") };
            let quarantined = keeps.then_some(aside);
            assert_eq!(replace(&store, "a/b", right).await, Ok(Replaced::Healed { quarantined }), "{store:?}");
            assert_eq!(store.get("a/b", 100).await.unwrap(), right);
        }
        let kept = store.list("quarantine").await.unwrap();
        let sizes: Vec<u64> = kept.iter().map(|(_, size)| *size).collect();
        assert_eq!(sizes, if keeps { vec![5, 5, 3] } else { vec![] }, "{store:?}");
        assert_eq!(store.list("").await.unwrap().len(), 1, "{store:?}");
    }
}

fn large(bytes: &[u8]) -> LargeObject {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    LargeObject { file: Arc::new(file), size: bytes.len() as u64, sha256: digest(bytes) }
}

#[tokio::test]
async fn what_is_too_large_for_memory_is_healed_alike() {
    // More than one part of an upload.
    let right: Vec<u8> =
        (0..LARGE_BYTES as u32 + 1_000_003).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let spoil = |at: usize, cut: usize| {
        let mut bytes = right[..right.len() - cut].to_vec();
        bytes[at] ^= 1;
        Bytes::from(bytes)
    };
    let object = large(&right);
    for store in every_kind().0 {
        let keeps = store.facts().directory.is_some();
        assert_eq!(problem(store.digest("a/b", object.size).await), Problem::Missing, "{store:?}");
        // The disk of the spool has lost something: nothing shows of it.
        let lost = LargeObject { sha256: digest(b"other"), ..object.clone() };
        assert!(store.replace_from("a/b", &lost).await.is_err() && store.list("").await == Ok(vec![]), "{store:?}");
        assert_eq!(store.replace_from("a/b", &object).await, Ok(Replaced::Filled), "{store:?}");
        assert_eq!(store.replace_from("a/b", &object).await, Ok(Replaced::AlreadyRight), "{store:?}");
        assert_eq!(store.digest("a/b", object.size).await, Ok((object.sha256, object.size)), "{store:?}");
        assert!(matches!(problem(store.digest("a/b", object.size - 1).await), Problem::Damaged(_)), "{store:?}");
        for (number, damaged) in [spoil(right.len() - 1, 0), spoil(7, 1), spoil(0, 2_000_000)].into_iter().enumerate() {
            let wrong = digest(&damaged);
            store.replace("a/b", damaged.clone(), &wrong).await.unwrap();
            assert_eq!(store.digest("a/b", object.size).await, Ok((wrong, damaged.len() as u64)), "{store:?}");
            assert_eq!(problem(store.create_from("a/b", &object).await), Problem::Exists, "{store:?}");
            // What was right went aside for the damage, then the damage for what is right.
            let aside =
                if number == 0 { "quarantine/a/b.1".to_owned() } else { format!("quarantine/a/b.{}", 2 * number + 1) };
            let quarantined = keeps.then_some(aside);
            assert_eq!(store.replace_from("a/b", &object).await, Ok(Replaced::Healed { quarantined }), "{store:?}");
            assert!(store.get("a/b", object.size).await.unwrap() == right, "{store:?}");
        }
        let file = Arc::new(tempfile::tempfile().unwrap());
        assert_eq!(store.get_into("a/b", object.size, &file).await.unwrap().unwrap(), object.sha256, "{store:?}");
        let mut read = Vec::new();
        std::io::Read::read_to_end(&mut &*file, &mut read).unwrap();
        assert!(read == right, "{store:?}");
        for size in [object.size - 1, object.size + 1] {
            assert!(matches!(problem(store.get_into("a/b", size, &file).await), Problem::Damaged(_)), "{store:?}");
        }
        let closed = Arc::new(std::fs::File::open("/dev/null").unwrap());
        assert!(store.get_into("a/b", object.size, &closed).await.unwrap().is_err(), "nothing can be written to it");
    }
}

#[tokio::test]
async fn what_is_deleted_is_gone_and_nothing_else() {
    for store in every_kind().0 {
        for key in ["a/b/c", "a/b", "a/bc", "d"] {
            // A directory cannot hold an object and a folder of one name.
            let _ = create(&store, key, b"x").await;
        }
        let before = store.list("").await.unwrap();
        for key in ["a/b/c", "a/b/c", "nothing/here", "a/b/c/d", "e"] {
            assert_eq!(store.delete(key).await, Ok(()), "{store:?} {key}");
        }
        assert_eq!(problem(store.get("a/b/c", 1).await), Problem::Missing, "{store:?}");
        let mut left = before.clone();
        left.retain(|(key, _)| key != "a/b/c");
        assert_eq!(store.list("").await.unwrap(), left, "{store:?}");
        assert!(left.len() + 1 == before.len() && left.len() >= 2, "{store:?}: {left:?}");
        // What is deleted may come back, as new.
        assert_eq!(create(&store, "a/b/c", b"y").await, Ok(Created::Created), "{store:?}");
        for key in ["", "../a", "/etc/passwd", "A"] {
            assert_eq!(problem(store.delete(key).await), Problem::InvalidKey, "{store:?} {key}");
        }
    }
}

#[tokio::test]
async fn of_many_writers_one_wins_and_the_rest_hear_of_it() {
    for store in every_kind().0 {
        if !store.facts().conditional_create {
            continue;
        }
        let writers = (0..8u8).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let bytes = vec![writer % 2; 1000];
                (writer % 2, store.create("a/b/c/d", bytes.clone().into(), &digest(&bytes)).await)
            })
        });
        let outcomes: Vec<_> = futures_util::future::join_all(writers).await.into_iter().map(Result::unwrap).collect();
        let winner = store.get("a/b/c/d", 1000).await.unwrap()[0];
        let created = outcomes.iter().filter(|(_, outcome)| *outcome == Ok(Created::Created)).count();
        assert_eq!(created, 1, "{store:?}: {outcomes:?}");
        for (writer, outcome) in outcomes {
            let expected = if writer == winner { outcome.is_ok() } else { problem(outcome) == Problem::Exists };
            assert!(expected, "{store:?}: writer {writer}, winner {winner}");
        }
    }
}
