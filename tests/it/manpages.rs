//! The manual pages of section 1: written with RECOUP_WRITE=1, compared otherwise.

use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
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
    let text = help.description.replace('\n', "\n\n");
    let mut path = help.command.split(' ').filter(|name| !name.is_empty());
    match (path.next(), path.next()) {
        (None, _) => root.long_about(text),
        (Some(name), None) => root.mut_subcommand(name, |command| command.long_about(text)),
        (Some(name), Some(inner)) => root.mut_subcommand(name, |command| {
            command.disable_help_subcommand(true).mut_subcommand(inner, |command| command.long_about(text))
        }),
    }
}

fn find<'c>(root: &'c clap::Command, path: &str) -> &'c clap::Command {
    let names = path.split(' ').filter(|name| !name.is_empty());
    names.fold(root, |command, name| command.find_subcommand(name).unwrap())
}

fn render(page: clap::Command, help: &Help) -> String {
    let has_commands = page.get_subcommands().next().is_some();
    let man = Man::new(page).source(concat!("recoup ", env!("CARGO_PKG_VERSION"))).manual("recoup");
    let mut bytes = Vec::new();
    man.render_title(&mut bytes).unwrap();
    man.render_name_section(&mut bytes).unwrap();
    man.render_synopsis_section(&mut bytes).unwrap();
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
