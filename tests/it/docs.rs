//! What the README and the manual pages of sections 5 and 7 say, tried out.
//!
//! In a literal block a line that begins with `$ ` is a command; what follows is what it prints. `...` in a line
//! stands for anything, alone on a line for any lines, `<NAME>` for a word that is the same wherever it stands
//! again, and `(exit code N)` for how the command ends where that is not 0. Comments prepare what the reader has
//! already: `$ ` a command, `new world` an empty host.

mod world;

use crate::{
    needs::needs,
    postgres::cluster::programs,
    support::{program, recoup, run},
};
use recoup::{
    config, core,
    format::{
        digests, facts, index, inventory, manifest,
        objects::{self, ObjectKind},
        pack, prune, signature, signers, vouch,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};
use world::{World, follow, steps};

/// The pages that people write, each with how many commands it shows at least.
const PAGES: &[(&str, usize)] = &[
    ("recoup-exit-codes.7", 1),
    ("recoup-json.7", 3),
    ("recoup-policy.5", 1),
    ("recoup-report.5", 4),
    ("recoup-repository.7", 3),
    ("recoup-runbook-postgres.7", 25),
    ("recoup-runbook.7", 25),
    ("recoup-source-log.7", 7),
    ("recoup-source-postgres.7", 0),
    ("recoup-source-sqlite.7", 2),
    ("recoup.toml.5", 2),
];

fn text_of(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn page(name: &str) -> String {
    text_of(&format!("man/{name}"))
}

/// A page's text without its markup, lines joined.
fn plain(page: &str) -> String {
    let words = page.replace("\\-", "-").replace("\\&", "").replace("\\e", "\\");
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The items of a page that are marked as code: `.It Ic name`.
fn items(page: &str) -> BTreeSet<String> {
    let of_line =
        |line: &str| line.strip_prefix(".It Ic ").and_then(|rest| rest.split_whitespace().next().map(str::to_owned));
    page.lines().filter_map(of_line).collect()
}

/// Follows the examples of a page; `least` guards against blocks that are not recognised any more.
fn try_page(name: &str) {
    try_page_with(name, None);
}

/// The same; with the programs of a server that refuses root, by another user.
fn try_page_with(name: &str, server: Option<&Path>) {
    let (_, least) = PAGES.iter().find(|(page, _)| *page == name).expect("the page is in the list");
    let steps = steps(&page(name));
    let shown = steps.iter().filter(|step| step.is_shown).count();
    assert!(shown >= *least, "man/{name} shows {shown} commands, not {least}");
    follow(name, &steps, server);
}

#[test]
fn the_session_in_the_readme_is_real() {
    if !needs("script") || !needs("sqlite3") || !needs("jq") {
        return;
    }
    let steps = steps(&text_of("README.md"));
    assert!(steps.iter().filter(|step| step.is_shown).count() >= 5, "the README shows a session");
    follow("README.md", &steps, None);
}

#[test]
fn the_runbook_is_real() {
    if !needs("script") || !needs("sqlite3") || !needs("jq") || !needs("age") || !needs("ssh-keygen") {
        return;
    }
    try_page("recoup-runbook.7");
}

#[test]
fn the_runbook_of_servers_is_real() {
    if !needs("script") || !needs("jq") || !needs("postgres15") || !needs("setpriv") {
        return;
    }
    try_page_with("recoup-runbook-postgres.7", Some(&programs("postgres15")));
}

#[test]
fn the_examples_of_the_format_are_real() {
    if !needs("script") || !needs("sqlite3") || !needs("jq") || !needs("age") || !needs("zstd") || !needs("ssh-keygen")
    {
        return;
    }
    try_page("recoup-repository.7");
}

#[test]
fn the_examples_of_the_other_pages_are_real() {
    if !needs("script") || !needs("sqlite3") || !needs("jq") {
        return;
    }
    for (name, _) in PAGES
        .iter()
        .filter(|(name, _)| !matches!(*name, "recoup-runbook.7" | "recoup-runbook-postgres.7" | "recoup-repository.7"))
    {
        try_page(name);
    }
}

#[test]
fn every_page_is_tried_and_clean() {
    if !needs("mandoc") {
        return;
    }
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let names = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut written: Vec<String> = names.filter(|name| !name.ends_with(".1")).collect();
    written.sort();
    assert_eq!(written, PAGES.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>());
    run(program("mandoc", &dir).args(["-T", "lint", "-W", "warning"]).args(&written)).expect_code(0);
}

#[test]
fn the_configuration_page_has_every_key_and_no_other() {
    let mut known = BTreeSet::new();
    let sections = [config::CONFIGURATION_KEYS, config::POLICY_KEYS].concat();
    let is_table =
        |key: &str| sections.iter().any(|(name, _)| name.trim_matches(['[', ']']).rsplit('.').next() == Some(key));
    for (section, keys) in &sections {
        let keys = keys.iter().filter(|key| !is_table(key));
        known.extend(keys.map(|key| ((*section).to_owned(), (*key).to_owned())));
    }
    let mut documented = BTreeSet::new();
    let mut section = String::new();
    for line in (page("recoup.toml.5") + &page("recoup-policy.5")).lines() {
        if let Some(heading) = line.strip_prefix(".Ss ") {
            section = if heading.starts_with('[') { heading.to_owned() } else { String::new() };
        } else if let Some(key) = line.strip_prefix(".It Ic ") {
            documented.insert((section.clone(), key.to_owned()));
        }
    }
    assert_eq!(documented, known);
}

#[test]
fn the_configurations_that_the_page_shows_are_accepted() {
    let page = page("recoup.toml.5") + &page("recoup-policy.5");
    let blocks: Vec<String> = world::blocks(&page).into_iter().filter(|block| !block.starts_with("$ ")).collect();
    let whole = blocks.iter().find(|block| block.contains("[host]")).expect("the page shows a recoup.toml");
    let policy = blocks.iter().find(|block| block.contains("[retention]")).expect("the page shows a policy");
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("policies")).unwrap();
    fs::write(dir.path().join("recoup.toml"), whole).unwrap();
    fs::write(dir.path().join("policies/ledger.toml"), policy).unwrap();
    run(recoup(dir.path()).args(["config", "check", "--config", "recoup.toml"])).expect_code(0);
    // The examples leave no key out.
    let written = keys(&toml::Value::Table(toml::from_str(whole).unwrap()));
    let written: BTreeSet<String> =
        written.union(&keys(&toml::Value::Table(toml::from_str(policy).unwrap()))).cloned().collect();
    let either = ["identity_file".to_owned(), "identity_command".to_owned()];
    let missing: Vec<String> = items(&page).difference(&written).filter(|key| !either.contains(key)).cloned().collect();
    assert!(missing.is_empty(), "the examples do not show {missing:?}");
}

fn keys(value: &toml::Value) -> BTreeSet<String> {
    match value {
        toml::Value::Table(table) => {
            table.iter().flat_map(|(key, value)| keys(value).into_iter().chain([key.clone()])).collect()
        }
        toml::Value::Array(values) => values.iter().flat_map(keys).collect(),
        _ => BTreeSet::new(),
    }
}

#[test]
fn every_exit_code_is_explained() {
    let documented = items(&page("recoup-exit-codes.7"));
    let source = text_of("src/core/failure.rs");
    let number = |line: &str| line.trim().strip_suffix(',')?.split_once(" = ")?.1.parse::<u8>().ok();
    let codes: BTreeSet<String> = source.lines().filter_map(number).map(|code| code.to_string()).collect();
    assert!(codes.contains("143") && codes.len() > 15, "{codes:?}");
    assert_eq!(documented, codes);
}

#[test]
fn every_schema_is_described() {
    let page = page("recoup-json.7");
    let source = text_of("src/core/result.rs");
    let name = |line: &str| {
        line.split('"').find(|part| part.starts_with("recoup.") && part.ends_with("/1")).map(str::to_owned)
    };
    let progress = text_of("src/cli/progress.rs");
    let lines = source.lines().filter(|line| line.contains("Schema = "));
    let lines = lines.chain(progress.lines().filter(|line| line.starts_with("const SCHEMA")));
    let schemas: BTreeSet<String> = lines.filter_map(name).collect();
    assert!(schemas.len() >= 12, "{schemas:?}");
    let described: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix(".Ss "))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    assert_eq!(described.into_iter().filter(|name| name.starts_with("recoup.")).collect::<BTreeSet<_>>(), schemas);
}

/// The fields of what the commands really print stand on the page.
#[test]
fn every_field_is_described() {
    let documented = items(&page("recoup-json.7"));
    let world = World::new();
    world.found("ledger");
    let root = world.root();
    let identity = root.join("media/key/custodian.age");
    let json = |arguments: &[&str], code: i32| {
        let mut command = recoup(root);
        command.env("RECOUP_CONFIG", root.join("etc/recoup/recoup.toml")).env("RECOUP_IDENTITY_FILE", &identity);
        run(command.args(arguments).arg("--json")).expect_code(code).json()
    };
    let mut printed = vec![
        json(&["backup"], 0),
        json(&["list"], 0),
        json(&["backup", "--dry-run"], 0),
        json(&["restore", "ledger", "--to", "out", "--check"], 0),
        json(&["restore", "ledger", "--to", "out"], 17),
        json(&["doctor"], 0),
        json(&["config", "show"], 0),
        json(&["config", "path"], 0),
        json(&["init", "--config", "other/recoup.toml", "--store=d=file:///nowhere/at/all", "--recipient=age1"], 64),
        json(&["config", "check"], 0),
        json(&["config", "rescue"], 0),
        json(&["copy"], 0),
        json(&["key", "list"], 0),
        json(&["key", "prove"], 0),
        json(&["drill", "ledger"], 0),
        json(&["check"], 1),
        json(&["status"], 1),
        json(&["points"], 0),
        json(&["report", "ledger", "--out", "report"], 0),
        json(&["report", "--verify", "report"], 0),
        json(&["prune", "--yes"], 0),
    ];
    world.damage_a_pack("a");
    printed.push(json(&["verify", "--all"], 2));
    printed.push(json(&["restore", "ledger", "--to", "again"], 1));
    printed.push(json(&["drill", "ledger", "--store", "a"], 1));
    for value in printed {
        let schema = value["schema"].as_str().unwrap().to_owned();
        let missing: Vec<String> = fields(&value).difference(&documented).cloned().collect();
        assert!(missing.is_empty(), "{schema}: recoup-json(7) lacks {missing:?}");
    }
}

/// Words that scripts compare with stand on the page.
#[test]
fn every_word_of_the_results_is_described() {
    let page = page("recoup-json.7");
    let doctor: String = crate::tidy::texts("src/ops/doctor").into_iter().map(|(_, text)| text).collect();
    let calls = doctor.split("findings.add(").skip(1).chain(doctor.split("findings.failure(").skip(1));
    let ids: BTreeSet<&str> = calls.filter_map(|call| call.split('"').nth(1)).collect();
    assert!(ids.contains("store-down") && ids.len() > 10, "{ids:?}");
    use core::result::{Problem, Severity, Status, Verdict};
    let mut words: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
    words.extend(core::result::FindingId::ALL.iter().map(|id| id.to_string()));
    words.extend(core::result::StoreState::ALL.map(|word| word.to_string()));
    words.extend(Problem::ALL.map(|word| word.to_string()));
    words.extend([Status::Ok, Status::Warning, Status::Critical, Status::Unknown].map(|word| word.to_string()));
    words.extend([Severity::Note, Severity::Warning, Severity::Critical].map(|word| word.word().to_owned()));
    words.extend([Verdict::Pass, Verdict::FailObjective, Verdict::FailIntegrity].map(|word| word.to_string()));
    words.extend([Verdict::FailCompleteness, Verdict::Inconclusive, Verdict::Aborted].map(|word| word.to_string()));
    words.push(Verdict::Refused.to_string());
    let is_described = |word: &&String| [" ", "\n"].iter().any(|end| page.contains(&format!(".Ql {word}{end}")));
    let missing: Vec<&String> = words.iter().filter(|word| !is_described(word)).collect();
    assert!(missing.is_empty(), "recoup-json(7) lacks {missing:?}");
}

fn fields(value: &serde_json::Value) -> BTreeSet<String> {
    match value {
        serde_json::Value::Object(object) => {
            object.iter().flat_map(|(key, value)| fields(value).into_iter().chain([key.clone()])).collect()
        }
        serde_json::Value::Array(values) => values.iter().flat_map(fields).collect(),
        _ => BTreeSet::new(),
    }
}

#[test]
fn the_limits_of_the_format_are_those_of_the_code() {
    let text = plain(&page("recoup-repository.7"));
    let limits: BTreeMap<&str, u64> = [
        ("raw bytes of a frame", pack::FRAME_BYTES as u64),
        ("sealed bytes at which a pack closes", pack::PACK_SEALED_BYTES as u64),
        ("raw bytes at which a pack closes", pack::PACK_RAW_BYTES),
        ("raw bytes that a reader accepts in a pack", pack::PACK_RAW_BYTES_MAX),
        ("bytes of a compressed frame", u64::from(pack::FRAME_COMPRESSED_BYTES_MAX)),
        ("raw bytes of a manifest part", manifest::MAX_RAW_BYTES),
        ("raw bytes of a manifest root", manifest::MAX_ROOT_RAW_BYTES),
        ("raw bytes of an index", index::MAX_RAW_BYTES),
        ("raw bytes of an index for each pack", index::max_raw_bytes(2) - index::max_raw_bytes(1)),
        ("bytes of a pack", ObjectKind::Pack(0).max_bytes()),
        ("bytes of a manifest part", ObjectKind::ManifestPart(0).max_bytes()),
        ("bytes of a part of the digests", ObjectKind::Digests(0).max_bytes()),
        ("bytes of a manifest root", core::inventory::MANIFEST_BYTES_MAX),
        ("raw bytes at which a part of the digests closes", digests::PART_BYTES as u64),
        ("raw bytes of a part of the digests", digests::MAX_RAW_BYTES),
        ("raw bytes of facts.age", facts::MAX_RAW_BYTES),
        ("bytes of facts.age", ObjectKind::Facts.max_bytes()),
        ("bytes of objects.json", objects::MAX_BYTES),
        ("bytes of inventory.json", inventory::MAX_BYTES),
        ("bytes of inventory.json.sig", signature::MAX_SIGNATURE_BYTES as u64),
        ("bytes of a prune record", prune::MAX_BYTES),
        ("snapshots that a plan condemns", core::prune::MAX_SNAPSHOTS as u64),
        ("runs or folders that a prune record names", core::prune::MAX_RUNS as u64),
        ("bytes of a file of signers", signers::MAX_SIGNERS_BYTES as u64),
        ("bytes of a vouch", vouch::MAX_BYTES),
        ("objects that a vouch names", core::vouch::OBJECTS_MAX as u64),
        ("runs that an inventory uses", core::inventory::MAX_USES as u64),
        ("smallest block in bytes", u64::from(*core::manifest::BLOCK_SIZES.start())),
        ("largest block in bytes", u64::from(*core::manifest::BLOCK_SIZES.end())),
        ("bytes of a file", core::manifest::FILE_BYTES_MAX),
        ("bytes of a path, or of what a link points to, decoded", core::path::PATH_BYTES_MAX as u64),
        ("bytes of a part of a path, decoded", core::path::PART_BYTES_MAX as u64),
        ("number of a user or a group", u64::from(core::manifest::OWNER_MAX)),
        ("numbers in stored JSON", core::manifest::NUMBER_MAX),
        ("sequence number", core::id::SEQ_MAX),
    ]
    .into();
    for (what, limit) in limits {
        assert!(text.contains(&format!(".It {what} {limit} ")), "recoup-repository(7) lacks: {what} {limit}");
    }
    for name in [
        core::inventory::FORMAT,
        core::prune::FORMAT,
        core::vouch::FORMAT,
        objects::FORMAT,
        index::FORMAT,
        digests::FORMAT,
        facts::FORMAT,
        manifest::ROOT_FORMAT,
        manifest::PART_FORMAT,
        signature::INVENTORY,
        signature::LOG,
        signature::EVIDENCE,
        signature::PRUNE,
        signature::KEYS,
        signature::REPORT,
    ] {
        assert!(text.contains(name), "recoup-repository(7) lacks {name}");
    }
}
