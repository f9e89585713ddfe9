//! A host of its own for examples: what they call `/data`, `/mnt` and so on lies in a temporary directory.

use crate::{
    postgres::cluster::{as_owner, own},
    support::{Run, program, recoup, run},
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The directories that examples speak of.
const PLACES: &[&str] = &["/data", "/mnt", "/etc/recoup", "/media", "/srv"];

/// One command of an example.
#[derive(Debug, PartialEq)]
pub(super) struct Step {
    /// The line of the document.
    pub(super) line: usize,
    /// Whether readers see it.
    pub(super) is_shown: bool,
    /// The command; `None` for a new world.
    pub(super) command: Option<String>,
    /// What it prints; empty where the document does not say.
    pub(super) expected: Vec<String>,
    /// How it ends.
    pub(super) code: i32,
}

/// What a line of a document is.
enum Line<'t> {
    /// Begins or ends a literal block.
    Fence(bool),
    /// A comment.
    Comment(&'t str),
    /// Anything else.
    Text(&'t str),
}

fn line_of(line: &str, inside: bool) -> Line<'_> {
    if line.starts_with(".Bd -literal") || (!inside && line.starts_with("```")) {
        Line::Fence(true)
    } else if line == ".Ed" || line == "```" {
        Line::Fence(false)
    } else if let Some(comment) = line.strip_prefix(".\\\" ") {
        Line::Comment(comment)
    } else if let Some(comment) = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->")) {
        Line::Comment(comment)
    } else {
        Line::Text(line)
    }
}

fn unescaped(line: &str) -> String {
    line.replace("\\-", "-").replace("\\&", "").replace("\\(aq", "'").replace("\\(ga", "`").replace("\\e", "\\")
}

/// The literal blocks of a document.
pub(super) fn blocks(document: &str) -> Vec<String> {
    let (mut blocks, mut inside) = (Vec::new(), false);
    for line in document.lines() {
        match line_of(line, inside) {
            Line::Fence(begins) => {
                inside = begins;
                if begins {
                    blocks.push(String::new());
                }
            }
            Line::Text(text) if inside => {
                let block: &mut String = blocks.last_mut().expect("a block has begun");
                block.push_str(&unescaped(text));
                block.push('\n');
            }
            _ => {}
        }
    }
    blocks
}

/// The commands of a document, in order.
pub(super) fn steps(document: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut inside, mut open) = (false, false);
    for (at, line) in document.lines().enumerate() {
        let new = |command: Option<&str>, is_shown| Step {
            line: at + 1,
            is_shown,
            command: command.map(str::to_owned),
            expected: Vec::new(),
            code: 0,
        };
        match line_of(line, inside) {
            Line::Fence(begins) => (inside, open) = (begins, false),
            Line::Comment("new world") => steps.push(new(None, false)),
            Line::Comment(comment) => {
                steps.extend(comment.strip_prefix("$ ").map(|command| new(Some(&unescaped(command)), false)));
            }
            Line::Text(text) if inside => {
                let text = unescaped(text);
                let last = steps.last_mut().filter(|_| open);
                if let Some(command) = text.strip_prefix("$ ") {
                    steps.push(new(Some(command), true));
                    open = true;
                } else if let Some(step) = last {
                    step.take(&text);
                }
            }
            Line::Text(_) => {}
        }
    }
    steps
}

impl Step {
    /// Takes a line after the command: more of it, what it prints, or how it ends.
    fn take(&mut self, text: &str) {
        let command = self.command.get_or_insert_default();
        if let Some(shortened) = command.strip_suffix('\\').filter(|_| self.expected.is_empty()) {
            *command = format!("{}{}", shortened, text.trim_start());
        } else if let Some(code) = text.strip_prefix("(exit code ").and_then(|rest| rest.strip_suffix(')')) {
            self.code = code.parse().unwrap_or_else(|_| panic!("line {}: {text}", self.line));
        } else if !text.is_empty() {
            self.expected.push(text.to_owned());
        }
    }
}

/// An empty host.
pub(super) struct World {
    dir: tempfile::TempDir,
    root: PathBuf,
    /// The programs of a server that refuses root; then another user does everything.
    server: Option<PathBuf>,
}

impl Drop for World {
    fn drop(&mut self) {
        let Some(server) = &self.server else { return };
        for data in fs::read_dir(self.root.join("data")).into_iter().flatten().flatten() {
            if data.path().join("postmaster.pid").exists() {
                let mut stop = as_owner(&self.root, server.join("pg_ctl"));
                let _ = stop.arg("-D").arg(data.path()).args(["-m", "immediate", "-w", "stop"]).output();
            }
        }
    }
}

impl World {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for place in ["data", "mnt", "etc/recoup", "media/key", "srv"] {
            fs::create_dir_all(root.join(place)).unwrap();
        }
        World { dir, root, server: None }
    }

    /// The same, for the user who runs servers with these programs.
    fn of_server(server: &Path) -> Self {
        let mut world = World::new();
        fs::create_dir(world.root.join("bin")).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_recoup"), world.root.join("bin/recoup")).unwrap();
        own(&world.root, ".");
        world.server = Some(server.to_owned());
        world
    }

    pub(super) fn root(&self) -> &Path {
        debug_assert!(self.dir.path().exists());
        &self.root
    }

    /// A repository on three stores, with one small database.
    pub(super) fn found(&self, source: &str) {
        let database = self.root.join("data").join(format!("{source}.db"));
        let connection = rusqlite::Connection::open(&database).unwrap();
        connection
            .execute_batch("CREATE TABLE posting (transfer, amount_minor); INSERT INTO posting VALUES (1, 5)")
            .unwrap();
        let path = |below: &str| format!("{}/{below}", self.root.display());
        let mut command = recoup(&self.root);
        command.arg("init").arg("--config").arg(path("etc/recoup/recoup.toml"));
        for store in ["a", "b", "c"] {
            command.arg(format!("--store={store}=file://{}", path(&format!("mnt/{store}"))));
        }
        command.arg(format!("--source={source}=sqlite:{}", database.display()));
        run(command.arg("--new-identity").arg(path("media/key/custodian.age"))).expect_code(0);
    }

    /// Flips a bit in some pack of a store.
    pub(super) fn damage_a_pack(&self, store: &str) {
        let packs = self.root.join("mnt").join(store).join("sources/ledger/packs");
        let run = fs::read_dir(packs).unwrap().next().unwrap().unwrap().path();
        let mut bytes = fs::read(run.join("0.age")).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(run.join("0.age"), bytes).unwrap();
    }

    /// Runs a command of an example as a person at a terminal would.
    fn perform(&self, command: &str) -> Run {
        let mut command = command.to_owned();
        for place in PLACES {
            command = command.replace(place, &format!("{}{place}", self.root.display()));
        }
        fs::write(self.root.join("command"), command).unwrap();
        let mut terminal = match &self.server {
            None => program("script", &self.root),
            Some(_) => as_owner(&self.root, "script"),
        };
        terminal.args(["-qec", "sh ./command 2>messages", "/dev/null"]);
        let built = Path::new(env!("CARGO_BIN_EXE_recoup")).parent().unwrap();
        let mut path = recoup::world::environment("PATH").unwrap_or_default();
        match &self.server {
            None => path = format!("{}:{path}", built.display()),
            Some(server) => {
                path = format!("{}:{}:{path}", self.root.join("bin").display(), server.display());
                terminal.env("PGHOST", self.root.join("srv")).env("PGUSER", "postgres").env("PAGER", "cat");
            }
        }
        terminal.env("PATH", path).env("TERM", "dumb").env("NO_COLOR", "1");
        terminal.env("RECOUP_CONFIG", self.root.join("etc/recoup/recoup.toml")).env("SHELL", "/bin/sh");
        run(&mut terminal)
    }

    /// What a command printed and said, as examples show it.
    fn lines(&self, text: &str) -> Vec<String> {
        let text = without_colors(text).replace('\r', "").replace(&self.root.display().to_string(), "");
        text.lines().map(spaced).filter(|line| !line.is_empty()).collect()
    }
}

/// jq colors what it prints on a terminal, and not every version can be told not to.
fn without_colors(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or("", |(_, rest)| rest))
}

/// Columns are as wide as what stands in them: only words are compared.
fn spaced(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Follows the steps of a document; panics at the first that does not do what it says.
pub(super) fn follow(document: &str, steps: &[Step], server: Option<&Path>) {
    let new = || server.map_or_else(World::new, World::of_server);
    let mut world = new();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for step in steps {
        let place = format!("{document}:{}", step.line);
        let Some(command) = &step.command else {
            (world, names) = (new(), BTreeMap::new());
            continue;
        };
        let command = names.iter().fold(command.clone(), |line, (name, value)| line.replace(name, value));
        let done = world.perform(&command);
        let messages = fs::read_to_string(world.root().join("messages")).unwrap_or_default();
        let (printed, said) = (world.lines(&done.stdout), world.lines(&messages));
        let told = format!("{place}: $ {command}\n{}\n{}\n", printed.join("\n"), said.join("\n"));
        assert_eq!(done.code, step.code, "{told}");
        if step.expected.is_empty() {
            continue;
        }
        let expected: Vec<String> = step.expected.iter().map(|line| spaced(line)).collect();
        let orders = [[&printed[..], &said[..]].concat(), [&said[..], &printed[..]].concat()];
        let found = orders.iter().find_map(|lines| match_lines(&expected, lines, &names));
        names = found.unwrap_or_else(|| panic!("{told}--- is not what the document says:\n{}", expected.join("\n")));
    }
}

type Names = BTreeMap<String, String>;

/// Whether the lines are those expected; what the names stand for then.
fn match_lines(expected: &[String], lines: &[String], names: &Names) -> Option<Names> {
    let Some((first, rest)) = expected.split_first() else {
        return lines.is_empty().then(|| names.clone());
    };
    if first == "..." {
        return (0..=lines.len()).find_map(|skipped| match_lines(rest, &lines[skipped..], names));
    }
    let (line, after) = lines.split_first()?;
    match_lines(rest, after, &match_line(first, line, names)?)
}

fn match_line(expected: &str, line: &str, names: &Names) -> Option<Names> {
    if let Some(rest) = expected.strip_prefix("...") {
        let starts = (0..=line.len()).filter(|at| line.is_char_boundary(*at));
        return starts.into_iter().find_map(|at| match_line(rest, &line[at..], names));
    }
    if let Some((name, rest)) = name_at(expected) {
        let length = line.find(|character: char| !character.is_ascii_alphanumeric()).unwrap_or(line.len());
        let word = &line[..length];
        if word.is_empty() || names.get(name).is_some_and(|known| known != word) {
            return None;
        }
        let mut names = names.clone();
        names.insert(name.to_owned(), word.to_owned());
        return match_line(rest, &line[length..], &names);
    }
    let Some(character) = expected.chars().next() else {
        return line.is_empty().then(|| names.clone());
    };
    match_line(&expected[character.len_utf8()..], line.strip_prefix(character)?, names)
}

/// A name such as `<RUN>` at the beginning of a text, and what follows.
fn name_at(text: &str) -> Option<(&str, &str)> {
    let end = text.strip_prefix('<')?.find('>')? + 2;
    let (name, rest) = text.split_at(end);
    let letters = &name[1..name.len() - 1];
    let is_name = !letters.is_empty() && letters.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
    is_name.then_some((name, rest))
}

#[test]
fn documents_are_read() {
    let document = "```console\n$ a \\\n    b\nout ...\n(exit code 3)\n$ c\n```\n$ not here\n<!-- $ hidden -->\n\
                    .\\\" new world\n.Bd -literal -offset indent\n$ d \\-\\-all \\e\n\\&.x\n.Ed\n";
    let steps = steps(document);
    let shown: Vec<_> = steps.iter().map(|step| (step.command.as_deref(), step.is_shown, step.code)).collect();
    assert_eq!(
        shown,
        [
            (Some("a b"), true, 3),
            (Some("c"), true, 0),
            (Some("hidden"), false, 0),
            (None, false, 0),
            (Some("d --all .x"), true, 0)
        ]
    );
    assert_eq!(steps[0].expected, ["out ..."]);
    assert_eq!(blocks(document).len(), 2);
}

#[test]
fn outputs_are_compared() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let matches = |expected: &str, found: &str| match_lines(&lines(expected), &lines(found), &Names::new());
    assert!(matches("a ... c", "a b b c").is_some());
    assert!(matches("a", "a\nb").is_none());
    assert!(matches("a\n...", "a\nb\nc").is_some());
    assert!(matches("...\nc", "a\nb\nc").is_some());
    assert!(matches("x <A> y <A>", "x 1b y 1b").is_some());
    assert!(matches("x <A> y <A>", "x 1 y 2").is_none());
    assert_eq!(matches("id <RUN>,", "id abc,").unwrap()["<RUN>"], "abc");
    assert!(matches("b", "a").is_none());
}
