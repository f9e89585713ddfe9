//! Programs that tests need and that a machine may lack.
//!
//! A test asks first: `if !needs("age") { return; }`. With `RECOUP_TEST_FULL=1` a missing program fails it;
//! otherwise it ends there, and `zz_left_out` says so. Each test asks in its own body, so that they can be counted.

use recoup::world;
use std::{collections::BTreeMap, os::unix::fs::PermissionsExt, path::Path};

/// Whether `program` is installed. Panics when it is not and everything has to be tested.
#[must_use]
pub(crate) fn needs(program: &str) -> bool {
    let found = is_installed(program);
    assert!(found || !everything(), "{program} is missing, and RECOUP_TEST_FULL=1 leaves no test out");
    found
}

/// Whether a missing program is a failure.
fn everything() -> bool {
    world::environment("RECOUP_TEST_FULL").is_some_and(|value| value == "1")
}

/// Whether `program` is found in the PATH.
pub(crate) fn is_installed(program: &str) -> bool {
    is_in(program, &world::environment("PATH").unwrap_or_default())
}

fn is_in(program: &str, path: &str) -> bool {
    path.split(':').filter(|dir| !dir.is_empty()).any(|dir| {
        let candidate = Path::new(dir).join(program);
        candidate.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}

/// What one file of tests needs.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Needs {
    /// How many tests ask for each program.
    pub(crate) tests_by_program: BTreeMap<String, u64>,
    /// Lines that ask outside of a test, where nobody counts them.
    pub(crate) uncounted_lines: Vec<usize>,
}

/// Counts the tests in `source` by the programs that they ask for. Relies on `cargo fmt`.
pub(crate) fn count(source: &str) -> Needs {
    let mut result = Needs::default();
    // The programs of the test being read, and the line that ends it.
    let mut test: Option<(Vec<&str>, String)> = None;
    for (index, line) in source.lines().enumerate() {
        let text = line.trim_start();
        let indent = &line[..line.len() - text.len()];
        if test.is_none() && (text == "#[test]" || text.starts_with("#[tokio::test")) {
            test = Some((Vec::new(), format!("{indent}}}")));
            continue;
        }
        if text.starts_with("//") {
            continue;
        }
        let asked: Vec<&str> = text.split("needs(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        match &mut test {
            None if asked.is_empty() => {}
            None => result.uncounted_lines.push(index + 1),
            Some((programs, _)) => programs.extend(asked),
        }
        if let Some((mut programs, _)) = test.take_if(|(_, end)| end == line) {
            programs.sort_unstable();
            programs.dedup();
            for program in programs {
                *result.tests_by_program.entry(program.to_owned()).or_default() += 1;
            }
        }
    }
    result
}

#[test]
fn programs_are_looked_for_in_the_path() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tool"), "").unwrap();
    let path = format!("/nonexistent::{}", dir.path().display());
    assert!(!is_in("tool", &path), "it cannot be executed");
    std::fs::set_permissions(dir.path().join("tool"), PermissionsExt::from_mode(0o755)).unwrap();
    assert!(is_in("tool", &path));
    assert!(!is_in("other", &path));
    assert!(!is_in("tool", ""));
    std::fs::create_dir(dir.path().join("folder")).unwrap();
    assert!(!is_in("folder", &path));
}

#[test]
fn tests_are_counted_by_program() {
    let ask = |program: &str| format!("    if !needs({program:?}) {{\n        return;\n    }}\n");
    let source = [
        format!("fn helper() {{\n{}}}\n", ask("age")),
        format!("#[test]\nfn one() {{\n{}{}}}\n", ask("age"), ask("age")),
        format!("#[tokio::test(flavor = \"multi_thread\")]\nasync fn two() {{\n{}{}}}\n", ask("age"), ask("jq")),
        "#[test]\nfn three() {\n    // no needs(\"zstd\") here\n}\n".to_owned(),
    ];
    let needs = count(&source.concat());
    assert_eq!(needs.tests_by_program, [("age".to_owned(), 2), ("jq".to_owned(), 1)].into());
    assert_eq!(needs.uncounted_lines, [2]);
}
