//! Servers that are busy, lose replies, tear bodies, hang, or refuse: every doubt is settled, none taken for damage.

use super::server::{BUCKET, Fault, Server, open_at};
use crate::{
    core::id::Sha256,
    stores::{Created, Patience, Problem, Replaced, Store, StoreError},
};
use sha2::Digest;
use std::{iter::repeat_n, time::Duration};

async fn create(store: &Store, key: &str, bytes: &'static [u8]) -> Result<Created, Problem> {
    let digest = Sha256(sha2::Sha256::digest(bytes).into());
    store.create(key, bytes.into(), &digest).await.map_err(|error| error.problem)
}

async fn replace(store: &Store, key: &str, bytes: &'static [u8]) -> Result<Replaced, StoreError> {
    store.replace(key, bytes.into(), &Sha256(sha2::Sha256::digest(bytes).into())).await
}

fn answer(status: u16, code: &str) -> Fault {
    Fault::Answer(status, format!("<Error><Code>{code}</Code><Message>Told by the test.</Message></Error>"))
}

fn verbs(server: &Server) -> Vec<String> {
    server.asked().into_iter().map(|asked| asked.verb).collect()
}

#[tokio::test]
async fn what_is_missing_is_filled_over_nobody_elses() {
    let server = Server::start();
    let store = server.store("far", "a");
    assert_eq!(replace(&store, "b", b"ours").await, Ok(Replaced::Filled));
    let puts: Vec<_> = server.asked().into_iter().filter(|asked| asked.verb == "PUT").collect();
    assert_eq!(puts.iter().map(|put| put.conditional).collect::<Vec<_>>(), [true]);
}

#[tokio::test]
async fn every_upload_carries_its_digest() {
    let server = Server::start();
    let store = server.store("a", "");
    create(&store, "a", b"one").await.unwrap();
    create(&store, "empty", b"").await.unwrap();
    replace(&store, "a", b"two").await.unwrap();
    create(&store.without_conditional_create(), "b", b"three").await.unwrap();
    let asked = server.asked();
    let puts: Vec<_> = asked.iter().filter(|asked| asked.verb == "PUT").collect();
    assert_eq!(puts.iter().map(|put| put.conditional).collect::<Vec<_>>(), [true, true, false, false]);
    // SHA-256 of "one", in base64.
    assert_eq!(puts[0].checksum.as_deref(), Some("dpLDrTVAu4A8Ags67mbNiIcSMjTqDG5xQ8Ct1z/0Me0="));
    assert!(puts.iter().all(|put| put.checksum.as_ref().is_some_and(|digest| digest.len() == 44)), "{puts:?}");
}

#[tokio::test]
async fn a_busy_server_is_asked_again_a_few_times() {
    let server = Server::start();
    let store = server.store("a", "a");
    server.go_wrong([answer(503, "SlowDown"), answer(500, "InternalError")]);
    // After each failure it is looked whether it was written all the same.
    assert_eq!(create(&store, "a", b"x").await, Ok(Created::Created));
    assert_eq!(store.get("a", 1).await.unwrap(), &b"x"[..]);
    server.go_wrong([answer(503, "SlowDown"), Fault::LostRequest]);
    assert_eq!(store.size("a").await, Ok(1));
    verbs(&server);
    server.go_wrong(repeat_n(answer(503, "SlowDown"), 4));
    let error = store.get("a", 1).await.unwrap_err();
    assert!(matches!(&error.problem, Problem::Unreachable(why) if why.contains("SlowDown: Told by")), "{error}");
    assert_eq!(verbs(&server), ["GET"; 4], "object_store tries nothing again by itself");
}

#[tokio::test]
async fn a_lost_reply_is_no_conflict() {
    let server = Server::start();
    let store = server.store("a", "a");
    server.go_wrong([Fault::LostReply]);
    assert_eq!(create(&store, "a", b"x").await, Ok(Created::Created));
    assert_eq!(verbs(&server), ["PUT", "GET"]);
    // Somebody else's bytes stay what they are.
    server.go_wrong([Fault::LostReply]);
    assert_eq!(create(&store, "a", b"y").await, Err(Problem::Exists));
    assert_eq!(store.get("a", 1).await.unwrap(), &b"x"[..]);
    server.go_wrong([Fault::LostRequest]);
    assert_eq!(create(&store, "b", b"x").await, Ok(Created::Created));
    let unconditional = store.without_conditional_create();
    verbs(&server);
    server.go_wrong([answer(404, "NoSuchKey"), Fault::LostReply]);
    assert_eq!(create(&unconditional, "c", b"x").await, Ok(Created::Created));
    server.go_wrong([answer(503, "SlowDown"), Fault::LostReply]);
    assert_eq!(replace(&unconditional, "a", b"z").await, Ok(Replaced::Healed { quarantined: None }));
}

#[tokio::test]
async fn a_conflict_in_which_nothing_was_written_is_tried_again() {
    let server = Server::start();
    let store = server.store("a", "a");
    server.go_wrong([answer(409, "ConditionalRequestConflict")]);
    assert_eq!(create(&store, "a", b"x").await, Ok(Created::Created));
    assert_eq!(verbs(&server), ["PUT", "GET", "PUT"]);
    let conflict = || answer(409, "ConditionalRequestConflict");
    let missing = || answer(404, "NoSuchKey");
    server.go_wrong((0..4).flat_map(|_| [conflict(), missing()]));
    let problem = create(&store, "b", b"x").await.unwrap_err();
    assert!(matches!(&problem, Problem::Unreachable(why) if why.contains("somebody else")), "{problem:?}");
    assert!(!server.directory().join("a/b").exists());
}

#[tokio::test]
async fn a_server_that_cannot_create_conditionally_is_looked_at_first() {
    let server = Server::start();
    let store = server.store("a", "a");
    server.go_wrong([answer(501, "NotImplemented")]);
    assert_eq!(create(&store, "a", b"x").await, Ok(Created::Created));
    assert_eq!(verbs(&server), ["PUT", "HEAD", "PUT", "GET"]);
}

#[tokio::test]
async fn a_server_that_overwrites_is_found_out() {
    let server = Server::start();
    let store = server.store("a", "a");
    create(&store, "a", b"x").await.unwrap();
    let digest = Sha256(sha2::Sha256::digest(b"x").into());
    assert_eq!(store.keeps_what_is_there("a", "x".into(), &digest).await, Ok(true));
    server.go_wrong([Fault::Overwrites]);
    assert_eq!(store.keeps_what_is_there("a", "x".into(), &digest).await, Ok(false));
    let known = store.without_conditional_create();
    assert_eq!(known.keeps_what_is_there("a", "x".into(), &digest).await, Ok(true), "it is looked first");
}

#[tokio::test]
async fn a_torn_body_is_the_networks_trouble() {
    let server = Server::start();
    let store = server.store("a", "a");
    create(&store, "a", b"0123456789").await.unwrap();
    server.go_wrong([Fault::TornBody, Fault::TornBody]);
    assert_eq!(store.get("a", 10).await.unwrap(), &b"0123456789"[..]);
    server.go_wrong([Fault::TornBody]);
    assert_eq!(store.get_ranges("a", &[2..4, 7..9]).await.unwrap(), [&b"23"[..], b"78"]);
    server.go_wrong([Fault::TornBody]);
    assert_eq!(store.list("").await.unwrap().len(), 1);
    server.go_wrong(repeat_n(Fault::TornBody, 4));
    let error = store.get("a", 10).await.unwrap_err();
    assert!(matches!(error.problem, Problem::Unreachable(_)), "{error}");
}

#[tokio::test]
async fn a_server_that_hangs_costs_its_patience_and_no_more() {
    let server = Server::start();
    let patience = Patience { idle: Duration::from_millis(300), ..Patience::default() };
    let store = server.store("a", "a").with_patience(patience);
    server.go_wrong([Fault::Hangs]);
    assert_eq!(create(&store, "a", b"x").await, Ok(Created::Created), "it was written, as reading back shows");
    server.go_wrong([Fault::Hangs]);
    let error = store.list("").await.unwrap_err();
    assert!(matches!(&error.problem, Problem::Unreachable(why) if why.contains("no answer within 0.3 s")), "{error}");
}

#[tokio::test]
async fn an_address_where_nobody_answers_costs_its_patience_once() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let patience = Patience { pause: Duration::from_millis(50), ..super::super::PATIENCE };
    let store = open_at(nobody, "far", BUCKET, ("id", "secret")).with_patience(patience);
    let ask = async || {
        let since = crate::world::Stopwatch::start();
        store.clone().size("a").await.unwrap_err();
        since.elapsed()
    };
    let first = ask().await;
    assert!(first >= Duration::from_millis(50 + 200 + 800), "{first:?}");
    for _ in 0..3 {
        let next = ask().await;
        assert!(next < first / 3, "{next:?} after {first:?}");
    }
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let server = Server::start();
    let refused = async |place: &str, keys: (&str, &str)| {
        let store = open_at(server.address(), "far", place, keys);
        let listed = store.list("").await.unwrap_err().to_string();
        assert!(!listed.contains(keys.1), "{listed}");
        listed
    };
    let no_bucket = refused("nowhere/a", ("id", "secret")).await;
    assert!(no_bucket.contains("there is no bucket nowhere at http://127.0.0.1:"), "{no_bucket}");
    let wrong_secret = refused(BUCKET, ("id", "hunter2")).await;
    assert!(wrong_secret.contains("secret access key is not the one"), "{wrong_secret}");
    verbs(&server);
    server.go_wrong([answer(403, "AccessDenied")]);
    let problem = create(&server.store("far", "a"), "a", b"x").await.unwrap_err();
    assert!(matches!(&problem, Problem::Denied(why) if why.contains("s3:PutObject")), "{problem:?}");
    assert_eq!(verbs(&server), ["PUT"], "a refusal is not tried again");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = open_at(nobody, "far", BUCKET, ("id", "secret")).list("").await.unwrap_err().to_string();
    assert!(error.contains(&format!("{nobody} does not answer: Connection refused")), "{error}");
}

#[tokio::test]
async fn strange_names_are_counted_and_spoil_nothing() {
    let server = Server::start();
    let store = server.store("a", "led");
    let object = |key: &str| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-11-22T10:00:00.000Z</LastModified>\
             <ETag>&quot;1&quot;</ETag><Size>3</Size></Contents>"
        )
    };
    let keys = ["led/", "led//a", "led/a", "led/a/../b", "led/UPPER", "led/a&#10;b", "led/recoup.json"];
    let objects: String = keys.into_iter().map(object).collect();
    let listing = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><IsTruncated>false</IsTruncated>{objects}\
         <CommonPrefixes><Prefix>led/x//</Prefix></CommonPrefixes>\
         <CommonPrefixes><Prefix>led/sources/</Prefix></CommonPrefixes></ListBucketResult>"
    );
    server.go_wrong([Fault::Answer(200, listing.clone()), Fault::Answer(200, listing)]);
    let found = store.listing("").await.unwrap();
    assert_eq!(found.objects, [("a".to_owned(), 3), ("recoup.json".to_owned(), 3)]);
    assert_eq!((found.foreign, found.leftovers), (4, 0));
    assert_eq!(store.list_directories("").await.unwrap(), ["sources"]);
    server.go_wrong([Fault::Answer(200, "<ListBucketResult>cut".to_owned())]);
    assert!(matches!(store.list("").await, Ok(names) if names.is_empty()), "asked again");
}

#[tokio::test]
async fn long_listings_arrive_whole() {
    let server = Server::start();
    let store = server.store("a", "led");
    std::fs::create_dir_all(server.directory().join("led/a")).unwrap();
    let names: Vec<String> = (0..1_500).map(|number| format!("a/{number:05}")).collect();
    for name in &names {
        std::fs::write(server.directory().join("led").join(name), b"x").unwrap();
    }
    let listed: Vec<String> = store.list("").await.unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(listed, names);
}
