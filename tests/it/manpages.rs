//! The manual pages of section 1: written with RECOUP_WRITE=1, compared otherwise.

use clap_mangen::{
    Man,
    roff::{Roff, bold, italic, roman},
};
use recoup::cli::{Help, command, commands::HELP};
use std::{collections::BTreeMap, fs, path::Path};

/// Every page by its file name.
fn pages() -> BTreeMap<String, String> {
    let mut root = command().disable_help_subcommand(true);
    root = HELP.iter().fold(root, describe);
    root.build();
    let mut pages = BTreeMap::new();
    for help in HELP {
        let page = find(&root, help.command);
        let name = page.get_display_name().unwrap_or("recoup").to_owned();
        pages.insert(format!("{name}.1"), render(page.clone(), help));
    }
    pages
}

/// Gives a command its description, which `--help` does without.
fn describe(root: clap::Command, help: &Help) -> clap::Command {
    let path: Vec<&str> = help.command.split(' ').filter(|name| !name.is_empty()).collect();
    described(root, &path, &help.description.replace('\n', "\n\n"))
}

fn described(command: clap::Command, path: &[&str], text: &str) -> clap::Command {
    match path {
        [] => command.long_about(text.to_owned()),
        [name, inner @ ..] => command.mut_subcommand(name, |command| {
            let command = if inner.is_empty() { command } else { command.disable_help_subcommand(true) };
            described(command, inner, text)
        }),
    }
}

fn find<'c>(root: &'c clap::Command, path: &str) -> &'c clap::Command {
    let names = path.split(' ').filter(|name| !name.is_empty());
    names.fold(root, |command, name| command.find_subcommand(name).unwrap())
}

/// What may be typed: what is required first, values by their names, and what may be repeated.
fn synopsis(page: &clap::Command) -> Roff {
    let is_global = |argument: &&clap::Arg| argument.is_global_set() || argument.get_id() == "help";
    let mut words = vec![bold(page.get_bin_name().unwrap_or("recoup"))];
    let own = || page.get_arguments().filter(|argument| !is_global(argument));
    let (mut required, mut optional): (Vec<_>, Vec<_>) =
        own().filter(|argument| !argument.is_positional()).partition(|argument| argument.is_required_set());
    required.append(&mut optional);
    for argument in required {
        let flag = format!("--{}", argument.get_long().unwrap());
        let value = argument.get_value_names().filter(|_| argument.get_action().takes_values());
        let value = value.map(|names| format!(" {}", names[0])).unwrap_or_default();
        let again = if matches!(argument.get_action(), clap::ArgAction::Append) { " ..." } else { "" };
        let (open, close) = if argument.is_required_set() { ("", "") } else { ("[", "]") };
        words.extend([roman(format!(" {open}")), bold(flag), italic(value), roman(format!("{again}{close}"))]);
    }
    for argument in own().filter(|argument| argument.is_positional()) {
        let name = argument.get_value_names().map_or("ARGUMENT", |names| names[0].as_str());
        let again = if matches!(argument.get_action(), clap::ArgAction::Append) { " ..." } else { "" };
        let (open, close) = if argument.is_required_set() { ("", "") } else { ("[", "]") };
        words.extend([roman(format!(" {open}")), italic(name), roman(format!("{again}{close}"))]);
    }
    if page.get_subcommands().next().is_some() {
        words.extend([roman(" "), italic("COMMAND"), roman(" ...")]);
    }
    words.extend([roman(" ["), italic("OPTION"), roman(" ...]")]);
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]).text(words);
    roff
}

/// Variables, what they do, and the commands that look at them; the page of the program has all.
const ENVIRONMENT: &[(&str, &str, &[&str])] = &[
    ("RECOUP_CONFIG", "The configuration, where --config names none.", &[]),
    (
        "RECOUP_IDENTITY_FILE",
        "The custodian's identity, where --identity names none. With --store, the signers that lie beside it are \
         trusted unless --signers names others.",
        &[
            "restore",
            "drill",
            "report",
            "config rescue",
            "list",
            "points",
            "verify",
            "key prove",
            "key list",
            "archive fetch",
        ],
    ),
    (
        "RECOUP_IDENTITY_COMMAND",
        "A command, run by /bin/sh, that prints the custodian's identity, where nothing names a file.",
        &["restore", "drill", "report", "config rescue", "key prove", "archive fetch"],
    ),
    (
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY",
        "The keys of s3:// stores. CREDENTIALS in recoup.toml(5) names the other ways, and how every store has its own.",
        &[
            "init",
            "backup",
            "list",
            "points",
            "restore",
            "verify",
            "check",
            "status",
            "drill",
            "copy",
            "report",
            "doctor",
            "config rescue",
            "archive push",
            "archive fetch",
        ],
    ),
    ("TMPDIR", "Where the demonstration makes its directory, unless --dir names one.", &["demo"]),
    ("NO_COLOR", "If it is set, nothing is colored unless --color=always.", &[]),
];

fn environment(roff: &mut Roff, command: &str) {
    roff.control("SH", ["ENVIRONMENT"]);
    for (name, meaning, commands) in ENVIRONMENT {
        if command.is_empty() || commands.is_empty() || commands.contains(&command) {
            roff.control("TP", []).text([bold(*name)]).text([roman(*meaning)]);
        }
    }
}

fn render(page: clap::Command, help: &Help) -> String {
    let has_commands = page.get_subcommands().next().is_some();
    let page_definition = page.clone();
    let man = Man::new(page).source(concat!("recoup ", env!("CARGO_PKG_VERSION"))).manual("recoup");
    let mut bytes = Vec::new();
    man.render_title(&mut bytes).unwrap();
    man.render_name_section(&mut bytes).unwrap();
    synopsis(&page_definition).to_writer(&mut bytes).unwrap();
    man.render_description_section(&mut bytes).unwrap();
    man.render_options_section(&mut bytes).unwrap();
    if has_commands {
        man.render_subcommands_section(&mut bytes).unwrap();
    }
    let mut roff = Roff::new();
    roff.control("SH", ["EXAMPLES"]);
    for (what, line) in help.examples {
        roff.control("PP", []);
        roff.text([roman(format!("{}{}:", what[..1].to_uppercase(), &what[1..]))]);
        roff.control("PP", []).control("nf", []).control("RS", ["4"]);
        for part in line.lines() {
            roff.text([bold(part)]);
        }
        roff.control("RE", []).control("fi", []);
    }
    environment(&mut roff, help.command);
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in help.exit_codes {
        roff.control("TP", ["6"]).text([bold(code.to_string())]).text([roman(*meaning)]);
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman("recoup(1), recoup.toml(5), recoup-exit-codes(7), recoup-json(7), recoup-runbook(7)")]);
    roff.to_writer(&mut bytes).unwrap();
    // Every section brings the preamble that the page needs once.
    let page = String::from_utf8(bytes).unwrap();
    let preamble: String = page.split_inclusive('\n').take(2).collect();
    let lines = page.replace(&preamble, "");
    preamble + &lines.lines().map(|line| format!("{}\n", line.trim_end())).collect::<String>()
}

#[test]
fn the_manual_pages_are_those_of_the_definitions() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let pages = pages();
    if recoup::world::environment("RECOUP_WRITE").is_some() {
        fs::create_dir_all(&dir).unwrap();
        for (name, page) in &pages {
            fs::write(dir.join(name), page).unwrap();
        }
    }
    for (name, page) in &pages {
        let written = fs::read_to_string(dir.join(name)).unwrap_or_default();
        assert!(written == *page, "man/{name} is not what the definitions say: run this test with RECOUP_WRITE=1");
    }
    let mut stray: Vec<String> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".1"))
        .collect();
    stray.retain(|name| !pages.contains_key(name));
    assert!(stray.is_empty(), "pages of commands that do not exist: {stray:?}");
}
