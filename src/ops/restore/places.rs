//! Which part of a snapshot goes where: tablespaces may be wanted elsewhere. Pure.

use crate::core::{
    manifest::{Entry, EntryKind},
    path::{StoredPath, encode},
};
use std::{
    collections::BTreeMap,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Where a data directory has its tablespaces.
pub(super) const TABLESPACES: &str = "pg_tblspc/";

/// The entries of a snapshot by the directory that they go to.
#[derive(Default)]
pub(super) struct Layout {
    /// Of the target, then of each directory elsewhere, with their paths there.
    parts: Vec<Vec<Entry>>,
    /// Of each entry of the snapshot: its part, and its position there. Empty where all go to the target.
    route: Vec<(usize, usize)>,
    /// What `tablespace_map` says of it.
    map: String,
}

impl Layout {
    /// Puts tablespaces, by their numbers, into directories of their own.
    pub(super) fn of(entries: &[Entry], elsewhere: &[(u32, PathBuf)]) -> Self {
        if elsewhere.is_empty() {
            return Layout::default();
        }
        let numbers: BTreeMap<String, usize> =
            elsewhere.iter().enumerate().map(|(at, (number, _))| (number.to_string(), at)).collect();
        let mut layout = Layout { parts: vec![Vec::new(); elsewhere.len() + 1], ..Layout::default() };
        let mut linked = vec![false; elsewhere.len()];
        for entry in entries {
            let inner = entry.path.as_str().strip_prefix(TABLESPACES);
            let (number, below) = inner.map_or(("", ""), |inner| inner.split_once('/').unwrap_or((inner, "")));
            let Some(at) = numbers.get(number) else {
                layout.push(0, entry.clone());
                continue;
            };
            if !std::mem::replace(&mut linked[*at], true) {
                let link = link(entry, number, &elsewhere[*at].1);
                layout.parts[0].push(link);
            }
            match StoredPath::parse(below) {
                Ok(path) => layout.push(at + 1, Entry { path, ..entry.clone() }),
                // The directory of the tablespace itself: the link stands for it.
                Err(_) => layout.route.push((0, layout.parts[0].len() - 1)),
            }
        }
        for (number, directory) in elsewhere {
            layout.map.push_str(&format!("{number} {}\n", escaped(directory)));
        }
        layout
    }

    fn push(&mut self, part: usize, entry: Entry) {
        self.route.push((part, self.parts[part].len()));
        self.parts[part].push(entry);
    }

    /// The entries of a part, of those of the snapshot.
    pub(super) fn part<'a>(&'a self, part: usize, entries: &'a [Entry]) -> &'a [Entry] {
        match self.parts.get(part) {
            Some(own) => own,
            None if part == 0 => entries,
            None => &[],
        }
    }

    /// Where an entry of the snapshot goes.
    pub(super) fn place(&self, entry: usize) -> (usize, usize) {
        if self.parts.is_empty() { (0, entry) } else { self.route.get(entry).copied().unwrap_or((0, usize::MAX)) }
    }

    /// `tablespace_map` as the server wants it; `None` where every tablespace stays in the data directory.
    pub(super) fn map(&self) -> Option<&str> {
        (!self.map.is_empty()).then_some(self.map.as_str())
    }

    /// Whether tablespaces stay in the data directory.
    pub(super) fn has_inner_tablespaces(&self, entries: &[Entry]) -> bool {
        let inner = |entry: &Entry| entry.path.as_str().starts_with(TABLESPACES) && entry.kind == EntryKind::Directory;
        self.part(0, entries).iter().any(inner)
    }
}

/// The numbers of the tablespaces of a snapshot.
pub(super) fn tablespaces(entries: &[Entry]) -> Vec<u32> {
    let mut numbers: Vec<u32> = entries
        .iter()
        .filter_map(|entry| entry.path.as_str().strip_prefix(TABLESPACES)?.split('/').next()?.parse().ok())
        .collect();
    numbers.dedup();
    numbers
}

fn link(like: &Entry, number: &str, directory: &Path) -> Entry {
    let path = StoredPath::parse(&format!("{TABLESPACES}{number}")).expect("a plain name");
    let kind = EntryKind::Link { target: encode(directory.as_os_str().as_bytes()) };
    Entry { path, kind, mode: 0o777, uid: like.uid, gid: like.gid }
}

/// A path with a backslash before what would end its line.
fn escaped(directory: &Path) -> String {
    let text = directory.to_string_lossy();
    text.chars().flat_map(|char| matches!(char, '\\' | '\n' | '\r').then_some('\\').into_iter().chain([char])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: EntryKind) -> Entry {
        Entry { path: StoredPath::parse(path).unwrap(), kind, mode: 0o700, uid: 1, gid: 2 }
    }

    fn directory(path: &str) -> Entry {
        entry(path, EntryKind::Directory)
    }

    fn file(path: &str) -> Entry {
        entry(path, EntryKind::File { size: 1, block_size: 8192 })
    }

    fn snapshot() -> Vec<Entry> {
        vec![
            file("PG_VERSION"),
            directory("pg_tblspc"),
            directory("pg_tblspc/16400"),
            directory("pg_tblspc/16400/PG_15_1"),
            file("pg_tblspc/16400/PG_15_1/5"),
            // Its own directory is only implied.
            file("pg_tblspc/16401/PG_15_1/6"),
            file("postgresql.conf"),
        ]
    }

    #[test]
    fn all_goes_to_the_target_by_default() {
        let (entries, layout) = (snapshot(), Layout::of(&snapshot(), &[]));
        assert_eq!(layout.part(0, &entries), entries);
        assert!(layout.part(1, &entries).is_empty() && layout.map().is_none());
        assert_eq!(layout.place(4), (0, 4));
        assert!(layout.has_inner_tablespaces(&entries));
        assert_eq!(tablespaces(&entries), [16400, 16401]);
    }

    #[test]
    fn tablespaces_go_elsewhere() {
        let entries = snapshot();
        let elsewhere = [(16400, PathBuf::from("/a b")), (16401, PathBuf::from("/new\nline\\"))];
        let layout = Layout::of(&entries, &elsewhere);
        let paths = |part| layout.part(part, &entries).iter().map(|entry| entry.path.to_string()).collect::<Vec<_>>();
        assert_eq!(
            paths(0),
            ["PG_VERSION", "pg_tblspc", "pg_tblspc/16400", "pg_tblspc/16401", "postgresql.conf"].map(str::to_owned)
        );
        assert_eq!(paths(1), ["PG_15_1", "PG_15_1/5"]);
        assert_eq!(paths(2), ["PG_15_1/6"]);
        let links = layout.part(0, &entries)[2..4].iter().map(|entry| entry.kind.clone()).collect::<Vec<_>>();
        assert_eq!(links, ["/a b", "/new%0aline\\"].map(|target| EntryKind::Link { target: target.to_owned() }));
        assert_eq!([0, 1, 2, 4, 5, 6].map(|at| layout.place(at)), [(0, 0), (0, 1), (0, 2), (1, 1), (2, 0), (0, 4)]);
        assert_eq!(layout.map(), Some("16400 /a b\n16401 /new\\\nline\\\\\n"));
        assert!(!layout.has_inner_tablespaces(&entries));
        assert!(Layout::of(&entries, &elsewhere[..1]).part(0, &entries).iter().any(|entry| entry == &entries[5]));
    }
}
