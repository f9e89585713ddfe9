//! The server's own programs, of the version that a data directory needs.

use crate::{
    core::failure::{Code, Failure, shell_word},
    world::{
        self, files,
        programs::{Ended, Halt, NotEnded, Program},
    },
};
use std::{
    ffi::OsString,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a program may take that only looks something up.
const QUICK: Duration = Duration::from_secs(60);
/// How much of such a program's output is read.
const QUICK_OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// The file that says which version a data directory is of.
const VERSION_FILE: &str = "PG_VERSION";
/// The oldest version whose programs are understood.
const MAJOR_MIN: u32 = 13;

/// The programs of one installation.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Where they lie.
    pub dir: PathBuf,
    /// Their major version.
    pub major: u32,
    /// Their whole version, as they print it.
    pub version: String,
}

impl Programs {
    /// Finds the programs of the version that `data` needs: in `bin_dir` where it is set, else in the usual places.
    pub fn find(data: &Path, bin_dir: Option<&Path>, halt: &Halt) -> Result<Self, Failure> {
        let major = major_of(data)?;
        let seen = match Programs::of_version(major, bin_dir, halt) {
            Ok(programs) => return Ok(programs),
            Err(seen) => seen,
        };
        let failure = Failure::new(
            if bin_dir.is_some() { Code::Configuration } else { Code::Source },
            format!("found no PostgreSQL {major} for {}", data.display()),
        );
        Err(failure
            .cause(format!("the data directory needs the programs of version {major}: {seen}"))
            .safe("what was restored was not touched")
            .next_step(format!(
                "install the server's package for version {major} (postgresql-{major} on Debian), or name the \
                 directory of its programs as bin_dir of the source"
            )))
    }

    /// Finds the programs of a version, or says what there is instead.
    pub(super) fn of_version(major: u32, bin_dir: Option<&Path>, halt: &Halt) -> Result<Self, String> {
        let places = match bin_dir {
            Some(dir) => vec![dir.to_owned()],
            None => usual_places(major),
        };
        let mut seen = Vec::new();
        for dir in &places {
            match version_in(dir, halt) {
                Ok((found, version)) if found == major => return Ok(Programs { dir: dir.clone(), major, version }),
                Ok((_, version)) => seen.push(format!("{} has {version}", dir.display())),
                Err(Absent::NotThere) => seen.push(format!("{} has none", dir.display())),
                Err(Absent::Broken(why)) => seen.push(format!("{}/postgres: {why}", dir.display())),
            }
        }
        Err(seen.join("; "))
    }

    /// The path of a program, if this installation has it.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        let path = self.dir.join(name);
        is_executable(&path).then_some(path)
    }

    /// The path of a program that is part of every installation.
    pub fn required(&self, name: &str) -> Result<PathBuf, Failure> {
        self.path(name).ok_or_else(|| {
            Failure::new(Code::Source, format!("{} has no {name}", self.dir.display()))
                .cause(format!("the programs of PostgreSQL {} are there only in part", self.major))
                .safe("what was restored was not touched")
                .next_step(format!(
                    "install the client programs too (postgresql-client-{} on Debian), or name another bin_dir",
                    self.major
                ))
        })
    }

    /// Runs a program that looks something up in a data directory, and returns what it prints.
    pub(super) fn look_up(&self, name: &str, arguments: &[OsString], halt: &Halt) -> Result<String, Failure> {
        let path = self.required(name)?;
        let failed = |why: String| {
            Failure::new(Code::Failed, format!("{name} failed"))
                .cause(why)
                .safe("what was restored was not changed")
                .next_step(format!("run it by hand: {}", by_hand(&path, arguments)))
        };
        match run_quick(&path, arguments, halt) {
            Ok(ended) if ended.code == Some(0) => Ok(String::from_utf8_lossy(&ended.stdout).into_owned()),
            Ok(ended) => Err(failed(ended.complaint())),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// A command line that a person can paste.
pub(super) fn by_hand(path: &Path, arguments: &[OsString]) -> String {
    let words = std::iter::once(path.as_os_str()).chain(arguments.iter().map(OsString::as_os_str));
    words.map(|word| shell_word(word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn run_quick(path: &Path, arguments: &[OsString], halt: &Halt) -> Result<Ended, NotEnded> {
    let program = Program {
        path: path.to_owned(),
        arguments: arguments.to_vec(),
        environment: Vec::new(),
        limit: QUICK,
        output_bytes_max: QUICK_OUTPUT_BYTES_MAX,
    };
    program.run(halt)
}

/// The major version that a data directory is of.
fn major_of(data: &Path) -> Result<u32, Failure> {
    let path = data.join(VERSION_FILE);
    let unfit = |why: String| {
        Failure::new(Code::Source, format!("{} is no data directory of PostgreSQL", data.display()))
            .cause(format!("{}: {why}", path.display()))
            .safe("nothing was changed")
            .next_step("name the directory that holds PG_VERSION and global/pg_control")
    };
    let mut text = String::new();
    let opened = files::open_regular(&path).map_err(|error| unfit(error.to_string()))?;
    opened.take(64).read_to_string(&mut text).map_err(|error| unfit(error.to_string()))?;
    match text.trim().parse() {
        Ok(major) if (MAJOR_MIN..1000).contains(&major) => Ok(major),
        Ok(major) => Err(unfit(format!("version {major} is not supported, from {MAJOR_MIN} on all are"))),
        Err(_) => Err(unfit("it does not begin with a version number".to_owned())),
    }
}

/// Where the programs of a version usually lie.
fn usual_places(major: u32) -> Vec<PathBuf> {
    let path = world::environment("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = [
        format!("/usr/lib/postgresql/{major}/bin"),
        format!("/usr/pgsql-{major}/bin"),
        "/usr/local/pgsql/bin".to_owned(),
    ]
    .map(PathBuf::from)
    .into();
    places.extend(path.split(':').filter(|dir| dir.starts_with('/')).map(PathBuf::from));
    places
}

enum Absent {
    NotThere,
    Broken(String),
}

fn version_in(dir: &Path, halt: &Halt) -> Result<(u32, String), Absent> {
    let path = dir.join("postgres");
    if !is_executable(&path) {
        return Err(Absent::NotThere);
    }
    let ended = run_quick(&path, &["--version".into()], halt).map_err(|error| Absent::Broken(error.to_string()))?;
    if ended.code != Some(0) {
        return Err(Absent::Broken(ended.complaint()));
    }
    let text = String::from_utf8_lossy(&ended.stdout).trim().to_owned();
    let major = major_in(&text).ok_or_else(|| Absent::Broken("it does not tell its version".to_owned()))?;
    Ok((major, text))
}

/// The major version in what `postgres --version` prints.
fn major_in(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("(PostgreSQL) ")?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Programs that are none, but tell a version.
    fn pretend(dir: &Path, version: &str) {
        fs::create_dir_all(dir).unwrap();
        let path = dir.join("postgres");
        fs::write(&path, format!("#!/bin/sh\necho '{version}'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn versions_are_told() {
        for (text, major) in [
            ("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)", Some(15)),
            ("postgres (PostgreSQL) 18.6", Some(18)),
            ("postgres (PostgreSQL) 19beta1", Some(19)),
            ("postgres (PostgreSQL) devel", None),
            ("mysqld 8", None),
        ] {
            assert_eq!(major_in(text), major, "{text}");
        }
    }

    #[test]
    fn only_programs_of_the_right_version_are_used() {
        let dir = tempfile::tempdir().unwrap();
        let (data, right, wrong) = (dir.path().join("data"), dir.path().join("right"), dir.path().join("wrong"));
        fs::create_dir(&data).unwrap();
        pretend(&right, "postgres (PostgreSQL) 900.1");
        pretend(&wrong, "postgres (PostgreSQL) 901.1");
        let halt = Halt::new();
        let find = |bin_dir: Option<&Path>| Programs::find(&data, bin_dir, &halt);
        let refused = |bin_dir: Option<&Path>, code: Code, cause: &str| {
            let failure = find(bin_dir).unwrap_err();
            assert_eq!(failure.code, code, "{failure}");
            assert!(failure.to_string().contains(cause) && failure.next_step.is_some(), "{failure:?}");
        };
        refused(Some(&right), Code::Source, "PG_VERSION: No such file");
        for (text, cause) in [("", "version number"), ("9.6\n", "version number"), ("12\n", "not supported")] {
            fs::write(data.join(VERSION_FILE), text).unwrap();
            refused(Some(&right), Code::Source, cause);
        }
        fs::write(data.join(VERSION_FILE), "900\n").unwrap();
        let found = find(Some(&right)).unwrap();
        assert_eq!((found.major, found.dir.as_path()), (900, right.as_path()));
        let failure = found.required("psql").unwrap_err();
        assert!(failure.message.ends_with("has no psql"), "{failure:?}");
        refused(Some(&wrong), Code::Configuration, "wrong has postgres (PostgreSQL) 901.1");
        refused(Some(&data), Code::Configuration, "data has none");
        refused(None, Code::Source, "/usr/lib/postgresql/900/bin has none");
    }
}
