//! What a process did to files and in which order, as `strace -f -y` tells it.

use crate::support::{program, run};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Every system call by which this program changes files or talks.
const CALLS: &str = "openat,open,creat,write,writev,pwrite64,pwritev,pwritev2,ftruncate,fallocate,fsync,fdatasync,\
    rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,mkdir,mkdirat,exit_group";

/// What one system call did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// A file was opened and made if it was not there.
    Create(PathBuf),
    /// Bytes or a length were given to a file.
    Write(PathBuf),
    /// A file or a directory was synced.
    Sync(PathBuf),
    /// A file got another name, or one more.
    Rename(PathBuf, PathBuf),
    /// A directory was made.
    MakeDirectory(PathBuf),
    /// A file or a directory was removed.
    Remove(PathBuf),
    /// Something was printed on standard output.
    Print,
    /// The process ended.
    Exit,
}

/// One successful system call: the lines of the trace where it began and ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) begin: usize,
    pub(super) end: usize,
    pub(super) act: Act,
}

/// All that a process did, in order of completion.
pub(super) struct Trace {
    pub(super) events: Vec<Event>,
}

impl Trace {
    /// Runs a command, which must end with `code`, under `strace`, started in `dir`.
    #[track_caller]
    pub(super) fn of(command: &Command, dir: &Path, code: i32) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut strace = program("strace", dir);
        strace.args(["-f", "-y", "-a", "1", "-s", "0", "-e", "signal=none", "-e"]).arg(format!("trace={CALLS}"));
        strace.arg("-o").arg(file.path()).arg("--").arg(command.get_program()).args(command.get_args());
        run(&mut strace).expect_code(code);
        let trace = Trace { events: parse(&fs::read_to_string(file.path()).unwrap(), dir) };
        assert!(trace.events.iter().any(|event| event.act == Act::Exit), "the trace has no end");
        trace
    }

    /// Where the first event that `wanted` accepts begins.
    pub(super) fn first(&self, wanted: impl Fn(&Act) -> bool) -> Option<&Event> {
        self.events.iter().filter(|event| wanted(&event.act)).min_by_key(|event| event.begin)
    }

    /// When the caller may take the work for done: at the first word of the result, or else at the exit.
    pub(super) fn acknowledged(&self) -> usize {
        let print = self.first(|act| *act == Act::Print);
        print.or_else(|| self.first(|act| *act == Act::Exit)).map_or(usize::MAX, |event| event.begin)
    }

    /// Whether `path` was synced within the given lines of the trace, by a call that began and ended there.
    pub(super) fn synced(&self, path: &Path, after: usize, before: usize) -> bool {
        self.events.iter().any(|event| {
            event.begin > after && event.end < before && matches!(&event.act, Act::Sync(synced) if synced == path)
        })
    }
}

/// Reads a trace of a process that began in `dir`.
pub(super) fn parse(text: &str, dir: &Path) -> Vec<Event> {
    // The trace has real paths where it shows descriptors, and paths as given elsewhere.
    let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let path = |given: &str| match Path::new(given).strip_prefix(dir) {
        Ok(below) => real.join(below),
        Err(_) => real.join(given),
    };
    let mut unfinished: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    let mut events = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let Some((process, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let (begin, call) = if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some((begin, first)) = unfinished.remove(process) else { panic!("resumed from nowhere: {line}") };
            let (_, last) = resumed.split_once(" resumed>").unwrap_or_else(|| panic!("not understood: {line}"));
            (begin, first + last)
        } else if let Some(first) = rest.strip_suffix(" <unfinished ...>") {
            // A process that ends does not come back to say so.
            if first.starts_with("exit_group(") {
                events.push(Event { begin: number, end: number, act: Act::Exit });
            }
            unfinished.insert(process, (number, first.to_owned()));
            continue;
        } else {
            (number, rest.to_owned())
        };
        if let Some(act) = act(&call, &path) {
            events.push(Event { begin, end: number, act });
        }
    }
    events
}

/// What a finished call did; `None` if it failed or is of no interest.
fn act(call: &str, path: &dyn Fn(&str) -> PathBuf) -> Option<Act> {
    let (head, result) = call.rsplit_once(") = ")?;
    let (name, arguments) = head.split_once('(')?;
    if result.starts_with('-') {
        return None;
    }
    let named = |at: usize| path(&entry(arguments, at).unwrap_or_else(|| panic!("no path: {call}")));
    Some(match name {
        "openat" | "open" | "creat" => {
            let made = name == "creat" || arguments.contains("O_CREAT");
            if !made {
                return None;
            }
            Act::Create(path(descriptor(result)?))
        }
        "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2" | "ftruncate" | "fallocate" => {
            if arguments.starts_with("1<") {
                return Some(Act::Print);
            }
            Act::Write(path(descriptor(arguments)?))
        }
        "fsync" | "fdatasync" => Act::Sync(path(descriptor(arguments)?)),
        "rename" | "renameat" | "renameat2" | "link" | "linkat" => Act::Rename(named(0), named(1)),
        "mkdir" | "mkdirat" => Act::MakeDirectory(named(0)),
        "unlink" | "unlinkat" | "rmdir" => Act::Remove(named(0)),
        "exit_group" => Act::Exit,
        _ => return None,
    })
}

/// The name that is the argument's `at`th text, in the folder whose descriptor stands before it, if one does:
/// `5</folder>, "name"`.
fn entry(arguments: &str, at: usize) -> Option<String> {
    let mut texts = arguments.split('"').skip(2 * at);
    let (before, name) = (texts.next()?, texts.next()?);
    match before.strip_suffix(">, ").and_then(|before| before.split_once('<')) {
        Some((_, folder)) => Some(Path::new(folder).join(name).to_str()?.to_owned()),
        None => Some(name.to_owned()),
    }
}

/// The path of `5</path>`, at the beginning of a text; `None` for pipes, sockets and the like.
fn descriptor(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('<')?;
    let end = rest.find(">, ").or_else(|| rest.rfind('>'))?;
    rest[..end].starts_with('/').then_some(&rest[..end])
}

#[test]
fn traces_are_read() {
    let text = "\
10 openat(AT_FDCWD</r>, \"/r/a#1\", O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0666) = 5</r/a#1>
10 write(5</r/a#1>, \"\"..., 7 <unfinished ...>
11 fsync(6</r/d> <unfinished ...>
10 <... write resumed>) = 7
10 fsync(5</r/a#1>) = 0
11 <... fsync resumed>) = -1 EIO (Input/output error)
10 renameat2(AT_FDCWD</r>, \"/r/a#1\", AT_FDCWD</r>, \"a\", RENAME_NOREPLACE) = 0
10 mkdir(\"/r/b\", 0777) = -1 EEXIST (File exists)
10 openat(AT_FDCWD</r>, \"/r/c\", O_RDONLY|O_CLOEXEC) = 7</r/c>
10 write(8<pipe:[3]>, \"\"..., 1) = 1
10 write(1<pipe:[4]>, \"\"..., 1) = 1
10 openat(4</r/d>, \"e#1\", O_WRONLY|O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC, 0644) = 9</r/d/e#1>
10 renameat2(4</r/d>, \"e#1\", 6</r/f>, \"e\", RENAME_NOREPLACE) = 0
10 mkdirat(4</r/d>, \"g\", 0755) = 0
10 unlinkat(4</r/d>, \"h\", 0) = 0
10 exit_group(0) = ?
11 +++ exited with 0 +++
";
    let path = |name: &str| PathBuf::from("/r").join(name);
    let expected = [
        (0, 0, Act::Create(path("a#1"))),
        (1, 3, Act::Write(path("a#1"))),
        (4, 4, Act::Sync(path("a#1"))),
        (6, 6, Act::Rename(path("a#1"), path("a"))),
        (10, 10, Act::Print),
        (11, 11, Act::Create(path("d/e#1"))),
        (12, 12, Act::Rename(path("d/e#1"), path("f/e"))),
        (13, 13, Act::MakeDirectory(path("d/g"))),
        (14, 14, Act::Remove(path("d/h"))),
        (15, 15, Act::Exit),
    ];
    let expected = expected.map(|(begin, end, act)| Event { begin, end, act });
    assert_eq!(parse(text, Path::new("/r")), expected);
}
