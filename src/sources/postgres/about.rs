//! What a server says of itself that its files do not say: kept with each snapshot, so that a restore can name what
//! does not fit before anything is written.

use super::startup;
use crate::world::{
    files,
    programs::{Halt, Program},
};
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Where it is at the top of a snapshot. No server looks at it.
pub const PATH: &str = "recoup-server.json";

/// No program of a server is larger.
const PROGRAM_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How a program names the library of ICU that it needs.
const ICU: &[u8] = b"libicui18n.so.";

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// Its version, as it prints it.
    pub version: String,
    /// The C library of its host, such as `glibc 2.36`.
    pub libc: Option<String>,
    /// The version of the ICU library that its program needs.
    pub icu: Option<u32>,
    /// Its tablespaces, but for those that every cluster has.
    pub tablespaces: Vec<Tablespace>,
    /// Databases whose texts are in the order of a library's version.
    pub collations: Vec<Collation>,
}

/// A tablespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its number, and the name of its directory in `pg_tblspc`.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// Where it was.
    pub location: String,
}

/// The default collation of a database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collation {
    /// The database.
    pub database: String,
    /// `libc` or `icu`.
    pub provider: String,
    /// The version that it was made with.
    pub version: String,
}

impl About {
    /// Reads what was kept; whatever else stands there counts as nothing.
    pub fn read(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_default()
    }

    /// The number of a tablespace, by its name or number.
    pub fn tablespace(&self, name_or_number: &str) -> Option<u32> {
        let named = self.tablespaces.iter().find(|tablespace| tablespace.name == name_or_number);
        named.map(|tablespace| tablespace.number).or_else(|| name_or_number.parse().ok())
    }

    /// Adds what is so of the host: the libraries of the server that `data_dir` is of.
    pub(super) fn with_host(mut self, data_dir: &Path) -> Self {
        let pid = files::read_to_string(data_dir.join("postmaster.pid")).unwrap_or_default();
        let process = startup::process_and_status(&pid);
        self.icu = process.and_then(|(number, _)| icu_of(Path::new(&format!("/proc/{number}/exe"))));
        self.libc = libc();
        self
    }
}

/// The C library of this host.
pub(super) fn libc() -> Option<String> {
    let program = Program {
        path: PathBuf::from("/usr/bin/getconf"),
        arguments: vec!["GNU_LIBC_VERSION".into()],
        environment: Vec::new(),
        limit: Duration::from_secs(10),
        output_bytes_max: 1024,
    };
    let ended = program.run(&Halt::new()).ok().filter(|ended| ended.code == Some(0))?;
    let text = String::from_utf8(ended.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| text.starts_with("glibc "))
}

/// The version of the ICU library that a program needs, if it needs one.
pub(super) fn icu_of(program: &Path) -> Option<u32> {
    icu_in(&files::read_start(program, PROGRAM_BYTES_MAX).ok()?)
}

fn icu_in(bytes: &[u8]) -> Option<u32> {
    let after = |at: usize| {
        let rest = &bytes[at + ICU.len()..];
        let digits = rest.iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
        std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
    };
    let first = |from: usize| bytes[from..].iter().position(|byte| *byte == ICU[0]).map(|at| from + at);
    let mut at = first(0);
    while let Some(found) = at {
        if bytes[found..].starts_with(ICU)
            && let Some(version) = after(found)
        {
            return Some(version);
        }
        at = first(found + 1);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn icu_is_found_in_a_program() {
        for (bytes, version) in [
            (b"\0libicuuc.so.72\0libicui18n.so.72\0".as_slice(), Some(72)),
            (b"libicui18n.so.\0libicui18n.so.70", Some(70)),
            (b"libicui18n.so.", None),
            (b"", None),
        ] {
            assert_eq!(icu_in(bytes), version);
        }
    }

    #[test]
    fn tablespaces_are_found_by_name_and_number() {
        let tablespace = Tablespace { number: 16400, name: "fast".to_owned(), location: "/fast".to_owned() };
        let about = About { tablespaces: vec![tablespace], ..About::default() };
        let read = About::read(&serde_json::to_vec(&about).unwrap());
        assert_eq!(read, about);
        assert_eq!(
            ["fast", "16400", "16401", "slow"].map(|name| read.tablespace(name)),
            [Some(16400), Some(16400), Some(16401), None]
        );
        for bad in [b"".as_slice(), b"[]", b"{\"tablespaces\": 7}"] {
            assert_eq!(About::read(bad), About::default());
        }
    }
}
