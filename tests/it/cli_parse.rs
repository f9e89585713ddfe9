//! Which command lines are understood, and with which codes the others end.

use clap::FromArgMatches;
use recoup::cli::{arguments::CommandLine, command};

fn parses(line: &str) -> Result<CommandLine, String> {
    let matches = command().try_get_matches_from(line.split(' ')).map_err(|error| error.to_string())?;
    CommandLine::from_arg_matches(&matches).map_err(|error| error.to_string())
}

#[test]
fn the_promised_lines_are_understood() {
    for line in [
        "recoup init --config R/recoup.toml --store a=file:///A --store b=file:///B --store c=file:///C --source ledger=sqlite:/data/ledger.db --new-identity R/custodian.age",
        "recoup init --store a=file:///A --recipient age1x --recipient age1y",
        "recoup --config R/recoup.toml backup",
        "recoup --config R/recoup.toml backup ledger --full",
        "recoup backup ledger log --dry-run --config R/recoup.toml",
        "recoup --config R/recoup.toml list --json",
        "recoup --json list ledger",
        "recoup list --store file:///A --signers K/custodian.age.signers",
        "recoup --config R/recoup.toml restore ledger --to OUT --identity R/custodian.age --target latest",
        "recoup restore ledger --store file:///A --identity K/custodian.age --to OUT",
        "recoup restore ledger --store a=file:///A --store file:///B --signers S --to OUT --target snapshot:7 --check",
        "recoup restore ledger --to OUT --target 2026-11-22T10:15:00+01:00 --dry-run --confirm ledger",
        "recoup restore ledger --to OUT --head 0000000007-aaaaaaaaaaaaaaaa --json --confirm=ledger",
        "recoup --config R/recoup.toml verify --all",
        "recoup verify --store file:///A --signers S",
        "recoup --config R/recoup.toml copy",
        "recoup copy ledger --dry-run",
        "recoup doctor --json",
        "recoup config show",
        "recoup config path --config R/recoup.toml",
        "recoup config check",
        "recoup config rescue --store file:///A --identity K/custodian.age",
        "recoup key list --store file:///A --signers S",
        "recoup key prove --identity K/custodian.age",
        "recoup key add age1x --reason why",
        "recoup key remove age1x --confirm=age1x --reason why",
        "recoup key signer add new.pub --source ledger --role inventory --role evidence --reason why",
        "recoup key signer revoke SHA256:x --confirm=SHA256:x --except 0000000007-aaaaaaaaaaaaaaaa --reason why",
        "recoup completions bash",
        "recoup demo --dir D --json",
        "recoup --color never --progress plain --quiet backup",
        "recoup backup --color=always --progress=json --quiet",
    ] {
        parses(line).unwrap_or_else(|error| panic!("{line}\n{error}"));
    }
}

#[test]
fn other_lines_are_refused() {
    for line in [
        "recoup",
        "recoup frobnicate",
        "recoup init --source ledger=sqlite:/data/ledger.db --new-identity I",
        "recoup init --store a=file:///A",
        "recoup init --store file:///A --new-identity I",
        "recoup init --store a=s3://bucket --new-identity I",
        "recoup init --store a=file:///A --source ledger=sqlite:relative --new-identity I",
        "recoup backup LEDGER",
        "recoup backup --fulll",
        "recoup list one two",
        "recoup restore ledger",
        "recoup restore --to OUT",
        "recoup restore ledger --to OUT --target yesterday",
        "recoup restore ledger --to OUT --target 2026-11-22T10:15:00",
        "recoup restore ledger --to OUT --head 7",
        "recoup verify ledger",
        "recoup config",
        "recoup key",
        "recoup key signer",
        "recoup key signer add new.pub --role everything",
        "recoup key signer revoke SHA256:x --except 7",
        "recoup completions perl",
        "recoup backup --verbose",
        "recoup backup --progress loud",
    ] {
        assert!(parses(line).is_err(), "{line}");
    }
}

#[test]
fn the_configuration_may_be_named_before_and_after_the_command() {
    for line in ["recoup --config F backup", "recoup backup --config F", "recoup config show --config F"] {
        assert_eq!(parses(line).unwrap().global.config.unwrap().to_str(), Some("F"), "{line}");
    }
}
