//! The rules of the house, enforced: who may use what, and what may stand where.
//!
//! Every rule is a function from text to what is wrong in it, and is tried below on text that breaks it.

mod paths;

use crate::{
    needs::needs,
    support::{program, run},
};
use paths::{UsedPath, product_code, used_paths};
use std::{fs, path::Path};

/// Which of our own modules a top-level module may use besides itself.
const MAY_USE: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("format", &["core"]),
    ("sources", &["core", "format", "world"]),
    ("stores", &["core", "format", "world"]),
    ("repository", &["core", "format", "stores", "world"]),
    ("ops", &["core", "format", "sources", "stores", "repository", "config", "world"]),
    ("config", &["core", "world"]),
    ("world", &["core"]),
    ("cli", &["ops", "core", "config", "world"]),
];

/// The modules whose folders must not know each other.
const STRANGERS: &[&str] = &["sources", "stores"];

/// Modules that do nothing but compute, and what would betray them.
const PURE: &[&str] = &["core", "format"];
const IMPURE: &str = "std::fs std::net std::process std::env std::thread tokio object_store rusqlite rustix tempfile";

/// What only `world` may touch: clocks, randomness, the environment, processes.
const WORLDLY: &str = "SystemTime::now Instant::now Utc::now Local::now env::var env::var_os env::vars env::vars_os
    env::temp_dir env::current_dir env::set_var std::process::Command tokio::process OsRng thread_rng getrandom";

/// What only `cli` may do, and the binary itself.
const PRINTING_MACROS: &str = "print! println! eprint! eprintln! dbg!";
const PRINTING_PATHS: &str = "io::stdout io::stderr process::exit";

const TOP_LEVEL: &str = "Cargo.toml Cargo.lock README.md CHANGELOG.md LICENSE src policies tests man target";

const MOST_LINES: usize = 600;

/// Without the bars; they keep this file from holding the words.
const UNFINISHED: &[&str] = &["TO|DO", "FIX|ME", "X|XX", "to|do!(", "unimple|mented!("];
const FOREIGN: &[&str] = &[
    "/wo|rk/",
    "/ro|ot/",
    "/tmp/w|t/",
    "iss|ue #",
    "iss|ue 1",
    "iss|ue 2",
    "this ses|sion",
    "previous ses|sion",
    "sub|agent",
    "the ag|ent",
    "an ag|ent",
    "the pro|mpt",
    "user pro|mpt",
    "system pro|mpt",
    "language mo|del",
    "arti|factory",
];

/// What is wrong, each as `file:line: what`.
type Findings = Vec<String>;

/// All text files under a folder of the project, or one file, by their names relative to it.
pub(crate) fn texts(below: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    collect(root, Path::new(below), &mut found);
    found.sort();
    found
}

fn collect(root: &Path, name: &Path, found: &mut Vec<(String, String)>) {
    let path = root.join(name);
    if path.is_dir() {
        for entry in fs::read_dir(&path).unwrap() {
            collect(root, &name.join(entry.unwrap().file_name()), found);
        }
    } else if let Ok(text) = String::from_utf8(fs::read(&path).unwrap_or_default()) {
        found.push((name.to_str().expect("names are UTF-8").to_owned(), text));
    }
}

fn top_level() -> Vec<String> {
    let entries = fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Everything that people write here.
fn written_texts() -> Vec<(String, String)> {
    let skipped = [".git", "target", "Cargo.lock", "LICENSE"];
    top_level().iter().filter(|name| !skipped.contains(&name.as_str())).flat_map(|name| texts(name)).collect()
}

fn rust_files() -> Vec<(String, String)> {
    let files = ["src", "tests"].into_iter().flat_map(texts);
    files.filter(|(name, _)| name.ends_with(".rs")).collect()
}

fn lines_with<'a>(name: &str, text: &'a str, wrong: impl Fn(&'a str) -> Option<String>) -> Findings {
    let lines = text.lines().enumerate();
    lines.filter_map(|(index, line)| Some(format!("{name}:{}: {}", index + 1, wrong(line)?))).collect()
}

/// The module of a source file: `["sources", "sqlite"]` for `src/sources/sqlite/mod.rs`. Empty for the crate's root.
fn module_of(name: &str) -> Vec<&str> {
    let inner = name.strip_prefix("src/").and_then(|rest| rest.strip_suffix(".rs")).unwrap_or_default();
    let inner = inner.strip_suffix("/mod").unwrap_or(inner);
    if matches!(inner, "" | "lib" | "main") { Vec::new() } else { inner.split('/').collect() }
}

/// Files that only tests are made of; the rules for the product do not bind them.
fn is_for_tests(name: &str) -> bool {
    name.starts_with("tests/")
        || name.contains("/tests/")
        || name.ends_with("/tests.rs")
        || name.ends_with("/contract.rs")
}

/// The paths that the product's part of a source file uses, and its module.
fn product_paths<'a>(name: &'a str, text: &str) -> (Vec<&'a str>, Vec<UsedPath>) {
    let module = module_of(name);
    let paths = if is_for_tests(name) { Vec::new() } else { used_paths(&product_code(text), &module) };
    (module, paths)
}

fn describe(name: &str, path: &UsedPath, what: &str) -> String {
    format!("{name}:{}: {} {what}", path.line, path.segments.join("::"))
}

fn wrong_imports(name: &str, text: &str, folders: &[&str]) -> Findings {
    let (module, paths) = product_paths(name, text);
    let Some((own, inner)) = module.split_first() else { return Vec::new() };
    let Some((_, allowed)) = MAY_USE.iter().find(|(layer, _)| layer == own) else {
        return vec![format!("{name}:1: {own} is no module of the design")];
    };
    let mut findings = Vec::new();
    for path in &paths {
        let [head, target, rest @ ..] = path.segments.as_slice() else { continue };
        if head != "crate" {
            continue;
        }
        let known = MAY_USE.iter().any(|(layer, _)| layer == target);
        if known && target != own && !allowed.contains(&target.as_str()) {
            findings.push(describe(name, path, &format!("is not for {own}")));
        }
        if let ([inner, ..], [other, ..]) = (inner, rest)
            && target == own
            && STRANGERS.contains(own)
            && inner != other
            && [*inner, other.as_str()].iter().all(|folder| folders.contains(&format!("{own}/{folder}").as_str()))
        {
            findings.push(describe(name, path, "is a stranger to its neighbours"));
        }
    }
    findings
}

fn impure(name: &str, text: &str) -> Findings {
    let (module, paths) = product_paths(name, text);
    if !module.first().is_some_and(|own| PURE.contains(own)) {
        return Vec::new();
    }
    let betrays = |path: &&UsedPath| IMPURE.split_whitespace().any(|pattern| path.starts_with(pattern));
    paths.iter().filter(betrays).map(|path| describe(name, path, "is not for a module that only computes")).collect()
}

fn worldly(name: &str, text: &str) -> Findings {
    let (module, paths) = product_paths(name, text);
    if module.first() == Some(&"world") {
        return Vec::new();
    }
    // The runtime's own clock stands still with its timers in a test; it tells no time of day.
    let is_timer = |path: &UsedPath| path.starts_with("tokio::time");
    let touches = |path: &&UsedPath| !is_timer(path) && WORLDLY.split_whitespace().any(|pattern| path.holds(pattern));
    paths.iter().filter(touches).map(|path| describe(name, path, "is for `world` alone")).collect()
}

fn printing(name: &str, text: &str) -> Findings {
    let (module, paths) = product_paths(name, text);
    if is_for_tests(name) || module.is_empty() || module[0] == "cli" {
        return Vec::new();
    }
    let prints = |path: &&UsedPath| PRINTING_PATHS.split_whitespace().any(|pattern| path.holds(pattern));
    let by_path = paths.iter().filter(prints).map(|path| describe(name, path, "is for `cli` alone"));
    let code = product_code(text);
    let by_macro = lines_with(name, &code, |line| {
        let mut words = line.split(|character: char| !(character.is_alphanumeric() || "_!".contains(character)));
        let found = words.find(|word| PRINTING_MACROS.split_whitespace().any(|name| name == *word))?;
        Some(format!("{found} is for `cli` alone"))
    });
    by_path.chain(by_macro).collect()
}

fn too_long(name: &str, text: &str) -> Findings {
    let lines = text.lines().count();
    if lines > MOST_LINES { vec![format!("{name}:{lines}: more than {MOST_LINES} lines")] } else { Vec::new() }
}

fn untidy_space(name: &str, text: &str) -> Findings {
    let mut findings = lines_with(name, text, |line| (line.trim_end() != line).then(|| "space at the end".to_owned()));
    if !text.is_empty() && (!text.ends_with('\n') || text.ends_with("\n\n")) {
        findings.push(format!("{name}:{}: must end with one line end", text.lines().count()));
    }
    findings
}

fn unfinished(name: &str, text: &str) -> Findings {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    let stands_alone = |line: &str, word: &str| {
        line.match_indices(word).any(|(at, _)| {
            let before = line[..at].chars().next_back().is_some_and(is_word);
            let after = line[at + word.len()..].chars().next().is_some_and(is_word);
            !before && (!after || word.ends_with('('))
        })
    };
    let words = without_bars(UNFINISHED);
    lines_with(name, text, |line| Some(format!("{} is left", words.iter().find(|word| stands_alone(line, word))?)))
}

fn foreign(name: &str, text: &str) -> Findings {
    let words = without_bars(FOREIGN);
    lines_with(name, text, |line| {
        let line = line.to_lowercase();
        Some(format!("{:?} has no place here", words.iter().find(|word| line.contains(word.as_str()))?))
    })
}

fn without_bars(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| word.replace('|', "")).collect()
}

fn undocumented(name: &str, text: &str) -> Findings {
    if text.starts_with("//! ") {
        Vec::new()
    } else {
        vec![format!("{name}:1: must begin with //! and what it is for")]
    }
}

fn out_of_place(entries: &[String]) -> Findings {
    let belongs = |name: &&String| !name.starts_with('.') && !TOP_LEVEL.split_whitespace().any(|known| known == *name);
    entries.iter().filter(belongs).map(|name| format!("{name}:1: has no place at the top level")).collect()
}

/// Manual pages of ours, `recoup(1)` and such, that `text` names and `exists` denies.
fn missing_manual_pages(name: &str, text: &str, exists: impl Fn(&str) -> bool) -> Findings {
    lines_with(name, text, |line| {
        let pages = line.match_indices('(').filter_map(|(at, _)| {
            let section = line[at + 1..].chars().next().filter(char::is_ascii_digit)?;
            line[at + 2..].starts_with(')').then_some(())?;
            let in_name = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
            let start = line[..at].rfind(|character| !in_name(character)).map_or(0, |before| before + 1);
            Some(format!("{}.{section}", &line[start..at])).filter(|page| page.starts_with("recoup"))
        });
        let missing: Vec<String> = pages.filter(|page| !exists(page)).collect();
        (!missing.is_empty()).then(|| format!("man/ has no {}", missing.join(", ")))
    })
}

fn is_shell_script(text: &str) -> bool {
    let first = text.lines().next().unwrap_or_default();
    first.starts_with("#!") && first.ends_with("sh")
}

#[track_caller]
fn assert_tidy(findings: Findings) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[track_caller]
fn assert_for_all(files: &[(String, String)], rule: impl Fn(&str, &str) -> Findings) {
    assert!(!files.is_empty(), "nothing to look at");
    assert_tidy(files.iter().flat_map(|(name, text)| rule(name, text)).collect());
}

#[test]
fn modules_use_only_what_the_design_lets_them() {
    let files = texts("src");
    let folders: Vec<&str> = files
        .iter()
        .filter_map(|(name, _)| name.strip_prefix("src/")?.rsplit_once('/'))
        .map(|(folder, _)| folder)
        .collect();
    assert_for_all(&rust_files(), |name, text| wrong_imports(name, text, &folders));

    let folders = ["sources/sqlite", "sources/log"];
    let cases = [
        ("src/core/id.rs", "use crate::{core::time, world::World};", true),
        ("src/core/id.rs", "use super::time;", false),
        ("src/core/id.rs", "use super::super::world;", true),
        ("src/core/id.rs", "// crate::world\nuse crate::core::time;", false),
        ("src/sources/sqlite/mod.rs", "use crate::stores::Store;", true),
        ("src/sources/sqlite/mod.rs", "use crate::sources::log::Tail;", true),
        ("src/sources/sqlite/read.rs", "use super::super::log::Tail;", true),
        ("src/sources/sqlite/read.rs", "use super::{super::View, pages};", false),
        ("src/sources/mod.rs", "pub use sqlite::Sqlite; use crate::sources::log::Tail;", false),
        ("src/ops/backup.rs", "fn f() { crate::cli::print() }", true),
        ("src/ops/backup.rs", "#[cfg(test)]\nmod tests {\n    use crate::cli;\n}", false),
        ("src/helpers/mod.rs", "//! Anything.", true),
        ("src/lib.rs", "pub mod helpers;", false),
    ];
    for (name, text, wrong) in cases {
        assert_eq!(!wrong_imports(name, text, &folders).is_empty(), wrong, "{name}: {text}");
    }
}

#[test]
fn pure_modules_only_compute() {
    assert_for_all(&rust_files(), impure);
    for (name, text, wrong) in [
        ("src/core/id.rs", "use std::{fmt, fs::File};", true),
        ("src/format/pack.rs", "fn f() { tokio::spawn(g()) }", true),
        ("src/format/pack.rs", "use std::{fmt, io::Read};", false),
        ("src/stores/file.rs", "use std::fs;", false),
    ] {
        assert_eq!(!impure(name, text).is_empty(), wrong, "{name}: {text}");
    }
}

#[test]
fn only_world_touches_the_world() {
    assert_for_all(&rust_files(), worldly);
    for (name, text, wrong) in [
        ("src/ops/backup.rs", "let now = std::time::Instant::now();", true),
        ("src/ops/backup.rs", "use std::{env, process::Command};", true),
        ("src/ops/backup.rs", "fn f() { env::var(\"HOME\") }", true),
        ("src/ops/backup.rs", "getrandom::fill(&mut key)", true),
        ("src/ops/backup.rs", "let now = world.now(); // not Utc::now()", false),
        ("src/ops/backup.rs", "let end = tokio::time::Instant::now() + grace;", false),
        ("src/cli/mod.rs", "clap::Command::new(\"recoup\")", false),
        ("src/world/mod.rs", "Utc::now()", false),
        ("src/ops/tests.rs", "Utc::now()", false),
    ] {
        assert_eq!(!worldly(name, text).is_empty(), wrong, "{name}: {text}");
    }
}

#[test]
fn only_the_command_line_prints() {
    assert_for_all(&rust_files(), printing);
    for (name, text, wrong) in [
        ("src/ops/backup.rs", "println!(\"done\")", true),
        ("src/ops/backup.rs", "std::io::stderr().flush()", true),
        ("src/ops/backup.rs", "std::process::exit(1)", true),
        ("src/ops/backup.rs", "write!(out, \"println!\")", false),
        ("src/ops/backup.rs", "#[cfg(test)]\nmod tests {\n    fn f() { println!(); }\n}", false),
        ("src/cli/output.rs", "println!(\"done\")", false),
        ("src/main.rs", "eprintln!(\"done\")", false),
    ] {
        assert_eq!(!printing(name, text).is_empty(), wrong, "{name}: {text}");
    }
}

#[test]
fn files_stay_readable() {
    let rust = rust_files();
    assert_for_all(&rust, too_long);
    assert_for_all(&rust, undocumented);
    assert!(too_long("a.rs", &"\n".repeat(MOST_LINES)).is_empty());
    assert!(!too_long("a.rs", &"\n".repeat(MOST_LINES + 1)).is_empty());
    assert!(undocumented("a.rs", "//! What for.\n").is_empty());
    assert!(!undocumented("a.rs", "use std::fs;\n").is_empty());
}

#[test]
fn texts_are_tidy() {
    let written = written_texts();
    // What a program writes ends its lines as it likes.
    let by_hand = |name: &str| !name.ends_with(".1") && !name.ends_with(".snap");
    assert_for_all(&written, |name, text| if by_hand(name) { untidy_space(name, text) } else { Vec::new() });
    for (text, findings) in [("a\nb\n", 0), ("a \nb\n", 1), ("a\n\tb\t\n", 1), ("a", 1), ("a\n\n", 1), ("", 0)] {
        assert_eq!(untidy_space("a.md", text).len(), findings, "{text:?}");
    }
}

#[test]
fn nothing_is_left_unfinished() {
    assert_for_all(&written_texts(), unfinished);
    for word in without_bars(UNFINISHED) {
        assert_eq!(unfinished("a.rs", &format!("// {word}: later)\n")).len(), 1, "{word}");
    }
    assert_eq!(unfinished("a.sh", &format!("mktemp {}\n", "X".repeat(6))), Findings::new());
}

#[test]
fn texts_speak_to_users_and_developers_only() {
    assert_for_all(&written_texts(), foreign);
    for text in ["/wo|rk/main", "as Iss|ue #7 says", "Iss|ue 2", "in this ses|sion", "/tmp/w|t/infra", "an ag|ent"] {
        assert_eq!(foreign("a.md", &text.replace('|', "")).len(), 1, "{text}");
    }
    assert_eq!(foreign("a.md", "a session with ssh-agent in /tmp, networks, issues\n"), Findings::new());
}

#[test]
fn scripts_pass_shellcheck() {
    if !needs("shellcheck") {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scripts = written_texts().into_iter().filter(|(_, text)| is_shell_script(text)).map(|(name, _)| name);
    let scripts: Vec<String> = scripts.collect();
    assert!(scripts.iter().any(|name| name == "tests/run"), "{scripts:?}");
    run(program("shellcheck", root).arg("--").args(&scripts)).expect_code(0);
}

#[test]
fn shell_scripts_are_known_by_their_first_line() {
    for (text, is_script) in
        [("#!/bin/sh\n", true), ("#!/usr/bin/env bash\n", true), ("#!/usr/bin/jq\n", false), ("", false)]
    {
        assert_eq!(is_shell_script(text), is_script, "{text:?}");
    }
}

#[test]
fn the_top_level_stays_as_it_is() {
    assert_tidy(out_of_place(&top_level()));
    let found = out_of_place(&["src", ".ci", "docs", "build.rs"].map(str::to_owned));
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn named_manual_pages_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let exists = |page: &str| root.join("man").join(page).is_file();
    let readme = fs::read_to_string(root.join("README.md")).unwrap_or_default();
    assert_tidy(missing_manual_pages("README.md", &readme, exists));
    let text = "See `recoup(1)`, recoup.toml(5), age(1), f(x) and **recoup-runbook(7)**.";
    let found = missing_manual_pages("README.md", text, |page| page == "recoup.1");
    assert_eq!(found, ["README.md:1: man/ has no recoup.toml.5, recoup-runbook.7"]);
}
