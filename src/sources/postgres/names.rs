//! What the names in a data directory mean.

/// Directories whose content is made again by the server: they are kept, and empty.
const EMPTIED: &[&str] =
    &["pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_subtrans", "pg_stat_tmp"];

/// Files that belong to a running server, to another backup, or to another way of starting.
const LEFT_OUT: &[&str] = &[
    "postmaster.pid",
    "postmaster.opts",
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "backup_label",
    "backup_label.old",
    "tablespace_map",
    "tablespace_map.old",
    "backup_manifest",
    "backup_manifest.tmp",
    "recovery.signal",
    "standby.signal",
    "recovery.conf",
    "recovery.done",
    // What was fetched ahead for a recovery, and what a restore has left.
    "recoup-prefetch",
    "recoup-log",
    "recoup-plan.json",
    "recoup-server.json",
];

/// Whether the content of a directory at the top is left out.
pub(super) fn is_emptied(path: &str) -> bool {
    EMPTIED.contains(&path)
}

/// Whether something is left out wherever it is, or at the top of the data directory.
pub(super) fn is_left_out(name: &str, is_at_top: bool) -> bool {
    name.starts_with("pgsql_tmp") || name.starts_with("pg_internal.init") || (is_at_top && LEFT_OUT.contains(&name))
}

/// A file of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RelationFile {
    pub(super) number: u32,
    pub(super) fork: Fork,
    /// Which of its files; the first has no number.
    pub(super) segment: u32,
    /// Whether it belongs to a session.
    pub(super) is_temporary: bool,
}

/// What a file of a relation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fork {
    Main,
    FreeSpace,
    Visibility,
    /// What an unlogged relation is made of after a crash.
    Initial,
}

impl RelationFile {
    /// Reads the name of a file in the directory of a database.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (is_temporary, name) = match name.strip_prefix('t').and_then(|rest| rest.split_once('_')) {
            Some((backend, rest)) if number(backend).is_some() => (true, rest),
            _ => (false, name),
        };
        let (stem, segment) = match name.split_once('.') {
            Some((stem, segment)) => (stem, number(segment).filter(|segment| *segment > 0)?),
            None => (name, 0),
        };
        let (digits, fork) = match stem.split_once('_') {
            None => (stem, Fork::Main),
            Some((digits, "fsm")) => (digits, Fork::FreeSpace),
            Some((digits, "vm")) => (digits, Fork::Visibility),
            Some((digits, "init")) => (digits, Fork::Initial),
            Some(_) => return None,
        };
        Some(RelationFile { number: number(digits)?, fork, segment, is_temporary })
    }
}

fn number(digits: &str) -> Option<u32> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}

/// Whether files of relations lie in a directory: `global`, `base/N`, `pg_tblspc/N/PG_.../N`.
pub(super) fn holds_relations(directory: &str) -> bool {
    let parts: Vec<&str> = directory.split('/').collect();
    match parts.as_slice() {
        ["global"] => true,
        ["base", database] => number(database).is_some(),
        ["pg_tblspc", tablespace, version, database] => {
            number(tablespace).is_some() && version.starts_with("PG_") && number(database).is_some()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relation_files() {
        let file = |number, fork, segment, is_temporary| Some(RelationFile { number, fork, segment, is_temporary });
        for (name, expected) in [
            ("16384", file(16384, Fork::Main, 0, false)),
            ("16384.3", file(16384, Fork::Main, 3, false)),
            ("16384_fsm", file(16384, Fork::FreeSpace, 0, false)),
            ("16384_vm.1", file(16384, Fork::Visibility, 1, false)),
            ("16384_init", file(16384, Fork::Initial, 0, false)),
            ("t3_16384", file(16384, Fork::Main, 0, true)),
            ("t3_16384_fsm", file(16384, Fork::FreeSpace, 0, true)),
            ("16384.0", None),
            ("16384_other", None),
            ("PG_VERSION", None),
            ("pg_filenode.map", None),
            ("99999999999", None),
            ("", None),
        ] {
            assert_eq!(RelationFile::parse(name), expected, "{name}");
        }
    }

    #[test]
    fn directories() {
        for (directory, holds) in [
            ("global", true),
            ("base/5", true),
            ("base", false),
            ("pg_tblspc/16390/PG_15_202209061/5", true),
            ("pg_tblspc/16390/x/5", false),
            ("pg_xact", false),
        ] {
            assert_eq!(holds_relations(directory), holds, "{directory}");
        }
        assert!(is_left_out("pgsql_tmp3", false) && is_left_out("backup_label", true));
        assert!(!is_left_out("backup_label", false) && !is_left_out("PG_VERSION", true));
        assert!(is_left_out("recoup-prefetch", true) && !is_left_out("recoup-prefetch", false));
    }
}
