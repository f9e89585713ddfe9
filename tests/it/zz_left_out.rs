//! The last test of all: says what could not be tested on this machine.

use crate::{
    needs::{count, is_installed},
    tidy,
};
use std::{collections::BTreeMap, io::Write};

#[test]
fn programs_that_are_missing() {
    let mut tests_by_program: BTreeMap<String, u64> = BTreeMap::new();
    for (name, source) in tidy::texts("tests/it").into_iter().filter(|(name, _)| !name.ends_with("/needs.rs")) {
        let needs = count(&source);
        assert!(needs.uncounted_lines.is_empty(), "{name}:{:?}: ask in the test itself", needs.uncounted_lines);
        for (program, tests) in needs.tests_by_program {
            *tests_by_program.entry(program).or_default() += tests;
        }
    }
    let (_, runner) = tidy::texts("tests/run").remove(0);
    for program in tests_by_program.keys() {
        assert!(is_installed_by(&runner, program), "tests/run does not know {program}, which tests ask for");
    }
    // Straight to stderr: what a passing test prints by macro is never seen.
    let mut stderr = std::io::stderr();
    for (program, tests) in tests_by_program.iter().filter(|(program, _)| !is_installed(program)) {
        let word = if *tests == 1 { "test" } else { "tests" };
        writeln!(stderr, "LEFT OUT: {tests} {word} for want of {program} (tests/run installs it)").unwrap();
    }
}

/// Whether `tests/run` has `program` in one of its tables of programs and packages.
fn is_installed_by(runner: &str, program: &str) -> bool {
    ["programs=(", "python_programs=("].iter().any(|start| {
        let mut table = runner.lines().skip_while(|line| line != start).skip(1).take_while(|line| *line != ")");
        table.any(|line| line.trim_start().starts_with(&format!("\"{program} ")))
    })
}

#[test]
fn the_table_of_programs_is_read() {
    let runner =
        "other=(\n  \"jq jq\"\n)\nprograms=(\n  \"age age\"\n)\n  \"zstd zstd\"\npython_programs=(\n  \"x y\"\n)\n";
    assert!(is_installed_by(runner, "age") && is_installed_by(runner, "x"));
    assert!(!is_installed_by(runner, "jq") && !is_installed_by(runner, "zstd") && !is_installed_by(runner, "ag"));
}
