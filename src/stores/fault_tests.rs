//! Tests of the faults, and of what stores make of them.

use super::*;
use crate::{
    core::id::Sha256,
    stores::{Created, Patience, Problem, Replaced, Store, StoreError},
};
use sha2::Digest;

fn faulty() -> (Store, Faults, Operations) {
    let operations = Operations::new();
    let faults = Faults::new("a", &operations);
    (Store::memory("a").wrapped(|inner| faults.wrap(inner)), faults, operations)
}

fn digest(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

async fn create(store: &Store, key: &str, bytes: &'static [u8]) -> Result<Created, StoreError> {
    store.create(key, bytes.into(), &digest(bytes)).await
}

const ALWAYS: u16 = 1000;

#[tokio::test(start_paused = true)]
async fn operations_are_counted_and_stop_where_told() {
    let (store, _, operations) = faulty();
    create(&store, "x/a", b"1").await.unwrap();
    store.get("x/a", 1).await.unwrap();
    store.list("x").await.unwrap();
    let log: Vec<_> = operations.log().into_iter().map(|done| (done.number, done.verb, done.key)).collect();
    assert_eq!(log, [(1, "put", "x/a".into()), (2, "get", "x/a".into()), (3, "list", "x".to_owned())]);

    operations.stop_after(4);
    create(&store, "x/b", b"1").await.unwrap();
    assert!(!operations.stopped());
    let error = create(&store, "x/c", b"1").await.unwrap_err();
    assert_eq!(error.problem, Problem::Unreachable("stopped by the test".to_owned()));
    assert!(operations.stopped());
    assert_eq!(operations.count(), 5, "what is stopped is not tried again");
    assert!(store.list("").await.is_err() && store.size("x/a").await.is_err());
    operations.resume();
    assert_eq!(store.list("").await.unwrap().len(), 2);

    operations.stop_within(operations.count() + 1);
    assert!(create(&store, "x/d", b"1").await.is_err(), "done, and nobody hears of it");
    assert!(operations.stopped());
    operations.resume();
    assert_eq!(create(&store, "x/d", b"1").await, Ok(Created::AlreadyThere));
}

#[tokio::test(start_paused = true)]
async fn one_count_covers_several_stores() {
    let operations = Operations::new();
    let stores = ["a", "b"].map(|name| {
        let faults = Faults::new(name, &operations);
        Store::memory(name).wrapped(|inner| faults.wrap(inner))
    });
    operations.stop_after(1);
    assert!(create(&stores[0], "k", b"1").await.is_ok());
    assert!(create(&stores[1], "k", b"1").await.is_err());
    assert_eq!(operations.log()[1].store, "b");
}

#[tokio::test(start_paused = true)]
async fn errors_that_pass_are_survived_and_doubts_settled() {
    let rates = [
        Rates { error_before: 300, ..Rates::default() },
        Rates { error_after: 300, ..Rates::default() },
        Rates { torn_body: 300, ..Rates::default() },
        Rates { latency: ALWAYS, latency_max: Duration::from_secs(50), ..Rates::default() },
    ];
    for rates in rates {
        let (store, faults, _) = faulty();
        let store = store.with_patience(Patience { attempts: 12, ..Patience::default() });
        faults.schedule(7, rates);
        for number in 0..50 {
            let key = format!("k/{number}");
            assert!(create(&store, &key, b"bytes").await.is_ok(), "{rates:?} {key}");
            assert_eq!(store.get(&key, 5).await.unwrap(), &b"bytes"[..]);
        }
        assert_eq!(store.list("k").await.unwrap().len(), 50, "{rates:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_no_conflict() {
    let (store, faults, _) = faulty();
    let lost_once = (0..).find(|seed| {
        let rates = Rates { error_after: 500, ..Rates::default() };
        let lost = |number| Ticket { number, seed: *seed, rates }.happens(Fault::After, rates.error_after);
        lost(1) && !lost(2)
    });
    faults.schedule(lost_once.unwrap(), Rates { error_after: 500, ..Rates::default() });
    assert_eq!(create(&store, "a", b"bytes").await, Ok(Created::Created));
    faults.schedule(0, Rates::default());
    assert_eq!(create(&store, "a", b"other").await.unwrap_err().problem, Problem::Exists);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_costs_its_patience_and_no_more() {
    let (store, faults, operations) = faulty();
    create(&store, "a", b"bytes").await.unwrap();
    let before = operations.count();
    faults.switch(Switch::Hung);
    let started = tokio::time::Instant::now();
    for outcome in [
        create(&store, "b", b"bytes").await.map(|_| ()),
        store.get("a", 5).await.map(|_| ()),
        store.size("a").await.map(|_| ()),
        store.list("").await.map(|_| ()),
        store.list_directories("").await.map(|_| ()),
        store.get_ranges("a", &[0..1, 1..2]).await.map(|_| ()),
    ] {
        let problem = outcome.unwrap_err().problem;
        assert!(matches!(&problem, Problem::Unreachable(why) if why.contains("no answer within 60 s")), "{problem:?}");
    }
    // Creating asks twice: whether it was done after all.
    assert_eq!(operations.count() - before, 7);
    assert_eq!(started.elapsed().as_secs(), 7 * 60);
    faults.switch(Switch::Slow(Duration::from_secs(59)));
    assert!(create(&store, "b", b"bytes").await.is_ok());
    faults.switch(Switch::Down);
    assert!(matches!(store.size("a").await.unwrap_err().problem, Problem::Unreachable(_)));
    faults.switch(Switch::Up);
    assert_eq!(store.list("").await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_full_store_says_so_and_keeps_what_it_has() {
    let (store, faults, operations) = faulty();
    create(&store, "a", b"bytes").await.unwrap();
    faults.schedule(1, Rates { no_space: ALWAYS, ..Rates::default() });
    assert!(matches!(create(&store, "b", b"bytes").await.unwrap_err().problem, Problem::Full(_)));
    assert_eq!(operations.count(), 2, "trying again makes no room");
    assert_eq!(store.get("a", 5).await.unwrap(), &b"bytes"[..]);
}

#[tokio::test(start_paused = true)]
async fn a_flipped_bit_is_seen_and_healing_survives_it() {
    let (store, faults, _) = faulty();
    create(&store, "a", b"bytes").await.unwrap();
    faults.schedule(1, Rates { bit_flip: ALWAYS, ..Rates::default() });
    let read = store.get("a", 5).await.unwrap();
    let wrong: u32 = read.iter().zip(b"bytes").map(|(one, other)| (one ^ other).count_ones()).sum();
    assert_eq!(wrong, 1);
    let pieces = store.get_ranges("a", &[0..5, 0..2]).await.unwrap();
    assert_ne!(pieces[0], &b"bytes"[..]);
    let healed = store.replace("a", "bytes".into(), &digest(b"bytes")).await;
    assert!(matches!(healed.unwrap_err().problem, Problem::Damaged(_)), "what is read back never is right");
    faults.schedule(1, Rates::default());
    assert_eq!(store.replace("a", "bytes".into(), &digest(b"bytes")).await, Ok(Replaced::AlreadyRight));
}

#[tokio::test(start_paused = true)]
async fn stale_listings_show_the_past() {
    let (store, faults, operations) = faulty();
    let objects = store.objects.clone();
    for key in ["x/a", "x/y/b", "z/c"] {
        create(&store, key, b"1").await.unwrap();
    }
    let delete = stream::once(std::future::ready(Ok(Path::from("z/c")))).boxed();
    objects.delete_stream(delete).try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(operations.count(), 4);
    let keys = async || store.list("").await.unwrap().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    for (moment, expected) in [
        (5, vec!["x/a", "x/y/b"]),
        (4, vec!["x/a", "x/y/b"]),
        (3, vec!["x/a", "x/y/b", "z/c"]),
        (2, vec!["x/a", "x/y/b"]),
        (1, vec!["x/a"]),
        (0, vec![]),
    ] {
        let stale_by = operations.count() + 1 - moment;
        faults.schedule(1, Rates { stale_list: ALWAYS, stale_by, ..Rates::default() });
        assert_eq!(keys().await, expected, "as of operation {moment}");
    }
    faults.schedule(1, Rates { stale_list: ALWAYS, stale_by: operations.count(), ..Rates::default() });
    assert_eq!(store.list_directories("x").await.unwrap(), Vec::<String>::new());
    faults.schedule(1, Rates::default());
    assert_eq!(store.list_directories("x").await.unwrap(), ["y"]);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_faults() {
    let run = async |seed: u64| {
        let (store, faults, operations) = faulty();
        let (latency_max, rates) = (Duration::from_secs(1), 200);
        let (error_before, error_after, latency, torn_body) = (rates, rates, rates, rates);
        let rates = Rates { error_before, error_after, latency, latency_max, torn_body, ..Rates::default() };
        faults.schedule(seed, rates);
        let mut outcomes = Vec::new();
        for number in 0..30 {
            outcomes.push(format!("{:?}", create(&store, &format!("k/{number}"), b"x").await));
        }
        (outcomes, operations.log())
    };
    assert_eq!(run(5).await, run(5).await);
    assert_ne!(run(5).await.1, run(6).await.1);
}
