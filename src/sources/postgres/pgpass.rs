//! Passwords from `PGPASSWORD`, from `~/.pgpass` or the file that `PGPASSFILE` names, as libpq finds them.

use crate::world::{self, files};
use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a password is for.
pub(super) struct Wanted<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) dbname: &'a str,
    pub(super) user: &'a str,
}

/// The password for a server, if one is given, or noted where nobody else can read it.
pub(super) fn find(wanted: &Wanted<'_>) -> Option<String> {
    if let Some(password) = world::environment("PGPASSWORD").filter(|password| !password.is_empty()) {
        return Some(password);
    }
    let file = world::environment("PGPASSFILE").map(PathBuf::from);
    let file = file.or_else(|| Some(PathBuf::from(world::environment("HOME")?).join(".pgpass")))?;
    let metadata = fs::metadata(&file).ok()?;
    // As libpq does: a file that others can read is not used.
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX || metadata.permissions().mode() & 0o077 != 0 {
        return None;
    }
    search(&files::read_to_string(&file).ok()?, wanted)
}

fn search(text: &str, wanted: &Wanted<'_>) -> Option<String> {
    let port = wanted.port.to_string();
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line);
        let [host, its_port, dbname, user, password] = fields.as_slice() else { return None };
        let fits = |field: &str, value: &str| field == "*" || field == value;
        // A Unix socket goes by its directory, and by this name too.
        let host_fits = fits(host, wanted.host) || (wanted.host.starts_with('/') && host == "localhost");
        let rest_fits = fits(its_port, &port) && fits(dbname, wanted.dbname) && fits(user, wanted.user);
        (host_fits && rest_fits).then(|| password.clone())
    })
}

/// Fields between colons; a backslash takes away the meaning of what follows it.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            ':' if fields.len() < 5 => fields.push(String::new()),
            '\\' => fields.last_mut().expect("never empty").extend(characters.next()),
            other => fields.last_mut().expect("never empty").push(other),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords() {
        let text = "# note\nother:*:*:*:no\nlocalhost:5432:*:app:so\\:cket\n*:*:ledger:backup:two words\n";
        let find = |host, dbname, user| search(text, &Wanted { host, port: 5432, dbname, user });
        assert_eq!(find("/run/postgresql", "x", "app").as_deref(), Some("so:cket"));
        assert_eq!(find("db", "ledger", "backup").as_deref(), Some("two words"));
        assert_eq!(find("db", "other", "backup"), None);
    }
}
