//! Good and bad configurations.

use super::*;
use crate::core::{
    failure::{Code, Failure},
    policy::Expectation,
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

const FILE: &str = "/etc/recoup/recoup.toml";

/// Line 1 to 8 of every case; what follows begins at line 9.
const BASE: &str = r#"[encryption]
recipients = ["age1custodian"]
[[store]]
name = "a"
url = "file:///srv/a"
[[store]]
name = "b"
url = "file:///srv/b"
"#;

const SOURCE: &str =
    "[[source]]\nname = \"ledger\"\nkind = \"sqlite\"\npath = \"/data/ledger.db\"\npolicy = \"gold\"\n";

fn read(text: &str, policy: Option<&str>) -> Result<Settings, Failure> {
    parse(text, Path::new(FILE), &|name| {
        let file = PathBuf::from(format!("/etc/recoup/policies/{name}.toml"));
        Ok(policy.filter(|_| name == "gold").map(|text| (file, text.to_owned())))
    })
}

#[test]
fn defaults_are_filled_in() {
    let settings = read(&format!("{BASE}[[source]]\nname='l'\nkind='sqlite'\npath='/l.db'\n"), None).unwrap();
    assert_eq!(settings.host.state_dir, Path::new("/etc/recoup/state"));
    assert_eq!(settings.host.signing_key, Path::new("/etc/recoup/host_ed25519"));
    assert_eq!(settings.host.catalogue, Path::new("/etc/recoup/catalogue.age"));
    assert_eq!(settings.host.allowed_signers, Path::new("/etc/recoup/allowed_signers"));
    assert_eq!((settings.compression_level, settings.spool_limit_bytes), (1, 4 << 30));
    let source = settings.source("l").unwrap();
    assert_eq!((source.busy_timeout.as_secs(), source.max_read_lock.as_secs()), (60, 10));
    let policy = settings.policy(source);
    assert_eq!(policy.copies.required_stores(2), 2);
    assert!(policy.rpo.is_none() && policy.assertions.is_empty());
    let digest: [u8; 32] =
        sha2::Digest::finalize(sha2::Digest::chain_update(<sha2::Sha256 as sha2::Digest>::new(), DEFAULT_POLICY_TEXT))
            .into();
    assert_eq!(policy.sha256.unwrap().0, digest);
}

#[test]
fn everything_can_be_set_and_says_where() {
    let text = r#"
[repository]
id = "abcdefghijklmnop"
[host]
state_dir = "/var/lib/recoup"
signing_key = "keys/host"
[encryption]
recipients = ["age1one", "ssh-ed25519 AAAA two"]
[compression]
level = 3
[spool]
limit = "512MiB"
[[store]]
name = "frankfurt"
url = "file:///mnt/frankfurt"
provider = "aws"
region = "eu-central-1"
mounted = true
[[source]]
name = "ledger"
kind = "sqlite"
policy = "gold"
path = "/data/ledger.db"
busy_timeout = "5s"
max_read_lock = "1m"
"#;
    let policy = r#"
tier = "gold"
rpo = "5m"
rto = "30m"
[copies]
min_stores = 1
min_regions = 1
immutable_for = "35d"
[schedule]
full = "7d"
incremental = "1h"
[retention]
keep_within = "35d"
keep_last = 3
[fingerprints]
tables = ["public.posting", "audit.*"]
max_time = "2m"
[drill]
every = "7d"
identity_file = "drill.age"
[[drill.assert]]
name = "balances"
query = "select 1"
expect = "no rows"
[[drill.assert]]
name = "has rows"
query = "select 2"
expect = "rows"
[[drill.assert]]
name = "counts"
query = "select 3"
expect = "3"
"#;
    let settings = read(text, Some(policy)).unwrap();
    assert_eq!(settings.repository.unwrap().as_str(), "abcdefghijklmnop");
    assert_eq!(settings.host.signing_key, Path::new("/etc/recoup/keys/host"));
    assert_eq!(settings.recipients.len(), 2);
    assert_eq!((settings.compression_level, settings.spool_limit_bytes), (3, 512 << 20));
    let store = settings.store("frankfurt").unwrap();
    assert_eq!((store.region.as_deref(), store.mounted), (Some("eu-central-1"), true));
    let source = settings.source("ledger").unwrap();
    assert_eq!((source.busy_timeout.as_secs(), source.max_read_lock.as_secs()), (5, 60));
    let policy = settings.policy(source);
    assert_eq!((policy.tier.as_deref(), policy.rpo), (Some("gold"), Some(Duration::from_secs(300))));
    assert_eq!((policy.copies.min_regions, policy.keep_last), (Some(1), Some(3)));
    assert_eq!(policy.drill_identity_file.as_deref(), Some(Path::new("/etc/recoup/drill.age")));
    let fingerprints = policy.fingerprints.as_ref().unwrap();
    assert_eq!(fingerprints.max_time, Duration::from_secs(120));
    assert!(fingerprints.tables[1].matches("audit", "any") && !fingerprints.tables[0].matches("public", "account"));
    let expected: Vec<&Expectation> = policy.assertions.iter().map(|assertion| &assertion.expect).collect();
    assert_eq!(expected, [&Expectation::NoRows, &Expectation::Rows, &Expectation::Value("3".to_owned())]);
    for (key, origin) in [
        ("repository.id", "/etc/recoup/recoup.toml:3"),
        ("host.signing_key", "/etc/recoup/recoup.toml:6"),
        ("host.catalogue", "default"),
        ("store.frankfurt.region", "/etc/recoup/recoup.toml:17"),
        ("source.ledger.busy_timeout", "/etc/recoup/recoup.toml:24"),
        ("policy.gold.rto", "/etc/recoup/policies/gold.toml:4"),
        ("policy.gold.copies.min_providers", "default"),
    ] {
        assert_eq!(settings.origins.of(key).to_string(), origin, "{key}");
    }
    let shown: Vec<String> = settings.values().iter().map(|value| format!("{} = {}", value.key, value.value)).collect();
    assert!(shown.contains(&"store.frankfurt.url = \"file:///mnt/frankfurt\"".to_owned()), "{shown:#?}");
    assert!(shown.contains(&"policy.gold.copies.min_stores = 1".to_owned()), "{shown:#?}");
}

#[test]
fn bad_configurations_name_line_and_key() {
    let with = |rest: &str| format!("{BASE}{rest}");
    let source = |rest: &str| with(&format!("[[source]]\nname='l'\nkind='sqlite'\npath='/l.db'\n{rest}"));
    let store = |rest: &str| with(&format!("[[store]]\n{rest}"));
    let cases: Vec<(String, u32, &str)> = vec![
        (with("[compresion]\nlevel=1"), 9, "nearest known key is \"compression\""),
        (with("[compression]\nlevl=1"), 10, "nearest known key is \"level\""),
        (with("[host]\nlevel=1"), 10, "belongs in [compression]"),
        (with("[compression]\nlevel=20"), 10, "a whole number from 1 to 19"),
        (with("[compression]\nlevel=1.5"), 10, "a whole number"),
        (with("[compression]\nlevel='1'"), 10, "a whole number"),
        (with("[compression]\nlevel=-1"), 10, "a whole number"),
        (with("[spool]\nlimit='4GB'"), 10, "KiB, MiB, GiB, TiB"),
        (with("[spool]\nlimit='1KiB'"), 10, "at least 64MiB"),
        (with("[spool]\nlimit='99999999999TiB'"), 10, "is not a size"),
        (with("[spool]\nlimit=''"), 10, "it is empty"),
        (with("[repository]\nid='short'"), 10, "16 characters"),
        (with("[host]\nstate_dir=7"), 10, "a text in quotes"),
        (with("host = 7"), 9, "belongs at the top of the file"),
        (with("[host\n"), 9, "not TOML"),
        (with("[host]\n[host]\n"), 10, "not TOML"),
        ("host = 7\n".to_owned() + BASE, 1, "a table, headed [host]"),
        ("store = 7\n".to_owned(), 1, "there is no recipient"),
        (store("name='c'"), 9, "has no key \"url\""),
        (store("url='file:///srv/c'"), 9, "has no key \"name\""),
        (store("name='a'\nurl='file:///srv/c'"), 10, "two stores named \"a\""),
        (store("name='c'\nurl='file:///srv/a/'"), 11, "\"a\" and \"c\" are one place"),
        (store("name='c'\nurl='file:///srv/a/inside'"), 11, "are one place"),
        (store("name='C'\nurl='file:///srv/c'"), 10, "store name \"C\""),
        (store("name='c'\nurl='gs://bucket/path'"), 11, "this build has no gs:// store"),
        (store("name='c'\nurl='s3://bucket/path'"), 11, "reached by region"),
        (store("name='c'\nurl='s3://bucket/path?region=x'"), 11, "as keys of the store"),
        (store("name='c'\nurl='s3://KEY:hidden@bucket'"), 11, "come from the environment"),
        (store("name='c'\nurl='s3://bucket'\nregion='here and there'"), 12, "of a-z, 0-9"),
        (store("name='c'\nurl='s3://bucket'\nendpoint='http://example.com'"), 12, "allow_http = true"),
        (store("name='c'\nurl='s3://bucket'\nendpoint='https://example.com/bucket'"), 12, "without the bucket"),
        (store("name='c'\nurl='s3://bucket'\nregion='x'\nmounted=true"), 13, "it is for file:// stores"),
        (store("name='c'\nurl='s3://bucket'\nregion='x'\ncredentials_env='wJalrXUt/K7'"), 13, "environment variables"),
        (store("name='c'\nurl='s3://bucket'\nregion='x'\nsecret_access_key='x'"), 13, "nearest known key"),
        (store("name='c'\nurl='file:///srv/c'\npath_style=true"), 12, "it is for s3:// stores"),
        (store("name='c'\nurl='/srv/c'"), 11, "write file:///srv/c"),
        (store("name='c'\nurl='file:///srv/c'\nmounted='yes'"), 12, "true or false"),
        (store("nmae='c'\nurl='file:///srv/c'"), 10, "nearest known key is \"name\""),
        (source("[[source]]\nname='l'\nkind='sqlite'\npath='/m.db'"), 14, "two sources named \"l\""),
        (source("policy='none'"), 13, "policies/none.toml does not exist"),
        (source("policy='../x'"), 13, "is not valid"),
        (source("busy_timeout='fast'"), 13, "is not a duration"),
        (source("max_read_lock='0s'"), 13, "longer than nothing"),
        (with("[[source]]\nname='L'\nkind='sqlite'\npath='/l.db'"), 10, "is not valid"),
        (with("[[source]]\nname='l'\nkind='sqlite'\npath='l.db'"), 12, "must be absolute"),
        (with("[[source]]\nname='l'\nkind='postgres'\npath='/l'"), 12, "named by its data_dir"),
        (with("[[source]]\nname='l'\nkind='postgres'\ndata_dir='/l'\nbusy_timeout='1s'"), 13, "kind sqlite"),
        (with("[[source]]\nname='l'\nkind='postgres'\ndata_dir='/l'\nurl='postgres://u:p@h/'"), 13, "PGPASSFILE"),
        (with("[[source]]\nname='l'\nkind='postgres'\ndata_dir='/l'\nread_limit='1KiB'"), 13, "1MiB"),
        (with("[[source]]\nname='l'\nkind='postgres'\ndata_dir='/l'\nnice=20"), 13, "0 to 19"),
        (source("data_dir='/l'"), 13, "kind postgres"),
        (with("[[source]]\nname='l'\nkind='mariadb'\npath='/l'"), 11, "this build has no source of kind mariadb"),
        (with("[[source]]\nname='l'\nkind='sqlit'\npath='/l'"), 11, "no kind of source"),
        (with("[source]\nname='l'"), 9, "each headed [[source]]"),
        ("[encryption]\nrecipients=[]\n".to_owned(), 2, "there is no recipient"),
        ("[encryption]\nrecipients='age1'\n".to_owned(), 2, "a list of texts"),
        ("[encryption]\nrecipients=['age1', 2]\n".to_owned(), 2, "a list of texts"),
        ("[encryption]\nrecipients=['age1', 'age1 ']\n".to_owned(), 2, "stands there twice"),
        ("[encryption]\nrecipients=['age1']\n".to_owned(), 1, "there is no store"),
    ];
    for (text, line, expected) in cases {
        let failure = read(&text, None).expect_err(&text);
        let shown = failure.to_string();
        assert_eq!(failure.code, Code::Configuration, "{text}");
        assert!(shown.starts_with(&format!("{FILE}:{line}: ")), "{shown}\n---\n{text}");
        assert!(shown.contains(expected), "{shown}\n---\n{text}");
        assert!(!shown.contains("hidden") && !shown.contains("wJalr"), "{shown}");
        assert!(failure.safe.is_some() && failure.next_step.is_some(), "{shown}");
    }
}

#[test]
fn bad_policies_name_line_and_key() {
    for (policy, line, expected) in [
        ("tear = 'gold'", 1, "nearest known key is \"tier\""),
        ("min_stores = 2", 1, "belongs in [copies]"),
        ("rpo = '5'", 1, "is not a duration"),
        ("rpo = 5", 1, "a text in quotes"),
        ("rto = '0s'", 1, "longer than nothing"),
        ("[copies]\nmin_stores = 3", 2, "names 2 stores"),
        ("[copies]\nmin_stores = 0", 2, "a whole number from 1"),
        ("[copies]\nmin_regions = 1", 2, "names 0 regions"),
        ("[copies]\nmin_providers = 2", 2, "names 0 providers"),
        ("[schedule]\nfull='1h'\nincremental='1d'", 3, "less often than fulls"),
        ("[retention]\nkeep_withn='1d'", 2, "nearest known key is \"keep_within\""),
        ("[fingerprints]\nmax_time='1m'", 2, "without tables nothing is taken"),
        ("[fingerprints]\ntables=[]", 2, "it is empty"),
        ("[fingerprints]\ntables=['posting']", 2, "SCHEMA.TABLE"),
        ("[fingerprints]\ntables='*'", 2, "a list of texts"),
        ("[drill]\nidentity_file='f'\nidentity_command='c'", 3, "keep one of them"),
        ("[[drill.assert]]\nname='n'\nquery='q'", 1, "has no key \"expect\""),
        (
            "[[drill.assert]]\nname='n'\nquery='q'\nexpect='rows'\n[[drill.assert]]\nname='n'\nquery='r'\nexpect='rows'",
            6,
            "same name",
        ),
    ] {
        let shown = read(&format!("{BASE}{SOURCE}"), Some(policy)).expect_err(policy).to_string();
        assert!(shown.starts_with(&format!("/etc/recoup/policies/gold.toml:{line}: ")), "{shown}");
        assert!(shown.contains(expected), "{shown}");
    }
}

fn new_configuration() -> NewConfiguration {
    let mut source = parse_source_argument("ledger=sqlite:/data/my \"ledger\"\\.db").unwrap();
    source.busy_timeout = Duration::from_secs(90);
    let mut store = parse_store_argument("c=file:///srv/c%20d").unwrap();
    store.region = Some("eu'\"".to_owned());
    store.mounted = true;
    NewConfiguration {
        repository: "abcdefghijklmnop".parse().unwrap(),
        recipients: vec!["age1custodian".to_owned(), "ssh-ed25519 AAAA someone".to_owned()],
        stores: vec![parse_store_argument("a=file:///srv/a").unwrap(), store],
        sources: vec![source, parse_source_argument("log=sqlite:/data/log.db").unwrap()],
    }
}

#[test]
fn what_is_written_is_read_back() {
    let new = new_configuration();
    let settings = read(&render(&new), None).unwrap();
    let again = NewConfiguration {
        repository: settings.repository.unwrap(),
        recipients: settings.recipients.clone(),
        stores: settings.stores.clone(),
        sources: settings.sources.clone(),
    };
    assert_eq!(again, new);
    assert_eq!(settings.host.state_dir, Path::new("/etc/recoup/state"));
    let without_sources = NewConfiguration { sources: Vec::new(), ..new };
    assert!(read(&render(&without_sources), None).unwrap().sources.is_empty());
}

#[test]
fn the_effective_text_is_a_configuration_and_its_policies() {
    let policy = "rpo = '5m' # kept word for word";
    let settings = read(&format!("{BASE}{SOURCE}"), Some(policy)).unwrap();
    let text = settings.effective_text();
    let (configuration, policies) = text.split_once("\n# ---- policies/gold.toml ----\n").unwrap();
    assert_eq!(policies, format!("{policy}\n"));
    let again = read(configuration, Some(policy)).unwrap();
    let plain = |settings: &Settings| Settings { origins: Origins::default(), ..settings.clone() };
    assert_eq!(plain(&again), plain(&settings));
}

#[test]
fn the_default_policy_promises_nothing() {
    let with_examples: String = DEFAULT_POLICY_TEXT
        .lines()
        .skip_while(|line| !line.is_empty())
        .map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line)))
        .collect();
    // Its commented examples must be real keys, too.
    let text = format!(
        "{BASE}{SOURCE}[[store]]\nname='c'\nurl='file:///srv/c'\nregion='r'\nprovider='p'\n[[store]]\nname='d'\nurl='file:///srv/d'\nregion='s'\nprovider='q'\n"
    );
    assert_eq!(read(&text, Some(&with_examples)).unwrap().policies["gold"].policy.assertions.len(), 1);
    let policy = read(&text, Some(DEFAULT_POLICY_TEXT)).unwrap().policies["gold"].policy.clone();
    assert_eq!(crate::core::policy::Policy { sha256: None, ..policy }, crate::core::policy::Policy::default());
}

#[test]
fn arguments_of_init() {
    let store = parse_store_argument("file:///a=b").unwrap();
    assert_eq!((store.name.as_str(), store.url.as_str()), ("file:///a=b", "file:///a=b"));
    let store = parse_store_argument("a=file:///a=b").unwrap();
    assert_eq!((store.name.as_str(), store.url.as_str()), ("a", "file:///a=b"));
    for bad in ["", "a", "a=", "A=file:///a", "=file:///a", "a=/srv/a"] {
        assert!(parse_store_argument(bad).is_err(), "{bad}");
    }
    assert_eq!(parse_source_argument("l=sqlite:/a=b:c.db").unwrap().path, Path::new("/a=b:c.db"));
    for bad in ["", "l", "l=sqlite", "l=/a.db", "l=sqlite:a.db", "L=sqlite:/a.db", "l=oracle:/a"] {
        assert!(parse_source_argument(bad).is_err(), "{bad}");
    }
}

#[test]
fn hostile_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("recoup.toml");
    let refused = |expected: &str| {
        let failure = load(&file).unwrap_err();
        assert_eq!(failure.code, Code::Configuration);
        assert!(failure.cause.as_deref().unwrap().contains(expected), "{failure}");
    };
    refused("No such file");
    std::fs::write(&file, [b'a', 0xff]).unwrap();
    refused("not UTF-8");
    std::fs::write(&file, vec![b'#'; FILE_BYTES_MAX as usize + 1]).unwrap();
    refused("larger than 1 MiB");
    std::fs::write(&file, "a = ".to_owned() + &"[".repeat(100_000)).unwrap();
    assert!(load(&file).is_err());
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    refused("not a regular file");
    std::fs::remove_dir(&file).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    refused("not a regular file");
}

#[test]
fn a_policy_file_stands_before_the_built_in_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("recoup.toml");
    std::fs::write(&file, format!("{BASE}{}", SOURCE.replace("gold", "default"))).unwrap();
    assert_eq!(load(&file).unwrap().policies["default"].file, None);
    let policies = dir.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    std::fs::write(policies.join("default.toml"), "rpo = '1h'").unwrap();
    let settings = load(&file).unwrap();
    assert_eq!(settings.policy(&settings.sources[0]).rpo, Some(Duration::from_secs(3600)));
    // A policy that is there but cannot be read is never replaced by the built-in one.
    std::fs::remove_file(policies.join("default.toml")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("gone"), policies.join("default.toml")).unwrap();
    assert!(load(&file).is_err());
}
