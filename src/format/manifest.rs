//! Manifests as bytes: a root and parts, sealed JSON Lines of at most 4 MiB raw each.
//!
//! A part is self-contained: it has its own table of runs, so a part that did not change is named again, not
//! written again.

use super::{FormatError, check_format};
use crate::core::{
    id::{RepositoryId, RunId, SourceName},
    manifest::{
        Entry, EntryKind, Extent, FILE_BYTES_MAX, Item, Key, NUMBER_MAX, OWNER_MAX, PackId, PartId, PartRef,
        block_size_is_valid,
    },
    path::{PATH_BYTES_MAX, StoredPath, decode},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;

/// The value of `format` in the first line of a root.
pub const ROOT_FORMAT: &str = "recoup-manifest/1";
/// The value of `format` in the first line of a part.
pub const PART_FORMAT: &str = "recoup-manifest-part/1";
/// The most raw bytes that a writer puts in a part or a root.
pub const MAX_RAW_BYTES: u64 = 4 * 1024 * 1024;
/// The most raw bytes that a reader accepts in a root: it also carries the configuration.
pub const MAX_ROOT_RAW_BYTES: u64 = 64 * 1024 * 1024;
/// Extents in one line of a part.
const EXTENTS_PER_LINE: usize = 256;

/// The root of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// The source it is of.
    pub source: SourceName,
    /// The source's kind.
    pub source_kind: String,
    /// Effective configuration and policies, without secrets, at the time of the run.
    pub configuration: String,
    /// The host's catalogue identity, for whoever can open the root anyway: losing the host must not lose it.
    pub catalogue_identity: Option<String>,
    /// The parts in order.
    pub parts: Vec<PartRef>,
}

#[derive(Serialize, Deserialize)]
struct RootHead {
    format: String,
    repository: RepositoryId,
    source: SourceName,
    source_kind: String,
    configuration: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    catalogue_identity: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct PartLine {
    from: Key,
    run: RunId,
    part: u32,
}

impl Root {
    /// The raw lines.
    pub fn to_lines(&self) -> Vec<u8> {
        let mut lines = Vec::new();
        let head = RootHead {
            format: ROOT_FORMAT.to_owned(),
            repository: self.repository,
            source: self.source.clone(),
            source_kind: self.source_kind.clone(),
            configuration: self.configuration.clone(),
            catalogue_identity: self.catalogue_identity.clone(),
        };
        push_line(&mut lines, &head);
        for part in &self.parts {
            push_line(&mut lines, &PartLine { from: part.from.clone(), run: part.id.run, part: part.id.part });
        }
        lines
    }

    /// Reads the raw lines.
    pub fn parse(raw: &[u8]) -> Result<Self, FormatError> {
        let mut rest = lines(raw);
        let head: RootHead = parse_line(rest.next().unwrap_or_default())?;
        check_format(&head.format, ROOT_FORMAT)?;
        let mut parts: Vec<PartRef> = Vec::new();
        for line in rest {
            let line: PartLine = parse_line(line)?;
            if parts.last().is_some_and(|last| last.from >= line.from) {
                return Err(FormatError::damaged("its parts are not in order"));
            }
            parts.push(PartRef { from: line.from, id: PartId { run: line.run, part: line.part } });
        }
        Ok(Root {
            repository: head.repository,
            source: head.source,
            source_kind: head.source_kind,
            configuration: head.configuration,
            catalogue_identity: head.catalogue_identity,
            parts,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct PartHead {
    format: String,
    runs: Vec<RunId>,
}

/// First block, count, position of the run in the part's table, pack, first raw block in the pack.
type StoredExtent = (u64, u64, u64, u32, u64);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Entry(Entry),
    Extents { path: StoredPath, at: Vec<StoredExtent> },
}

/// Collects the items of one part.
#[derive(Default)]
pub struct PartWriter {
    runs: BTreeMap<RunId, u64>,
    run_order: Vec<RunId>,
    lines: Vec<u8>,
    pending: Option<(StoredPath, Vec<StoredExtent>)>,
    from: Option<Key>,
}

impl PartWriter {
    /// Appends the next item.
    pub fn push(&mut self, item: &Item) {
        let key = key_of(item);
        self.from.get_or_insert(key);
        match item {
            Item::Entry(entry) => {
                self.flush();
                push_line(&mut self.lines, &Line::Entry(entry.clone()));
            }
            Item::Extent(path, extent) => {
                let run = *self.runs.entry(extent.pack.run).or_insert_with(|| {
                    self.run_order.push(extent.pack.run);
                    self.run_order.len() as u64 - 1
                });
                let full = |(at_path, at): &(StoredPath, Vec<_>)| at_path != path || at.len() == EXTENTS_PER_LINE;
                if self.pending.as_ref().is_some_and(full) {
                    self.flush();
                }
                let pending = self.pending.get_or_insert_with(|| (path.clone(), Vec::new()));
                pending.1.push((extent.first, extent.count, run, extent.pack.pack, extent.raw_block));
            }
        }
    }

    fn flush(&mut self) {
        if let Some((path, at)) = self.pending.take() {
            push_line(&mut self.lines, &Line::Extents { path, at });
        }
    }

    /// Where the part begins; `None` while it is empty.
    pub fn from(&self) -> Option<&Key> {
        self.from.as_ref()
    }

    /// An upper bound of the part's raw bytes so far.
    pub fn raw_bytes(&self) -> u64 {
        let pending = self.pending.as_ref().map_or(0, |(path, at)| path.as_str().len() + 64 + at.len() * 80);
        (self.lines.len() + pending + self.run_order.len() * 20 + 100) as u64
    }

    /// The raw lines.
    pub fn finish(mut self) -> Vec<u8> {
        self.flush();
        let mut raw = Vec::with_capacity(self.lines.len() + 1024);
        push_line(&mut raw, &PartHead { format: PART_FORMAT.to_owned(), runs: self.run_order });
        raw.extend_from_slice(&self.lines);
        raw
    }
}

/// The place of an item in the order of a manifest. An entry stands before the extents of its blocks.
pub fn key_of(item: &Item) -> Key {
    match item {
        Item::Entry(entry) => Key { path: entry.path.clone(), block: 0 },
        Item::Extent(path, extent) => Key { path: path.clone(), block: extent.first },
    }
}

/// Reads and checks the raw lines of a part.
pub fn parse_part(raw: &[u8]) -> Result<Vec<Item>, FormatError> {
    let mut rest = lines(raw);
    let head: PartHead = parse_line(rest.next().unwrap_or_default())?;
    check_format(&head.format, PART_FORMAT)?;
    let mut items = Vec::new();
    let mut order = Order::default();
    for line in rest {
        match parse_line(line)? {
            Line::Entry(entry) => {
                check_entry(&entry)?;
                order.entry(&entry)?;
                items.push(Item::Entry(entry));
            }
            Line::Extents { path, at } => {
                for (first, count, run, pack, raw_block) in at {
                    let run = usize::try_from(run).ok().and_then(|run| head.runs.get(run));
                    let run = *run.ok_or_else(|| FormatError::damaged("an extent names a run that is not listed"))?;
                    let extent = Extent { first, count, pack: PackId { run, pack }, raw_block };
                    order.extent(&path, &extent)?;
                    items.push(Item::Extent(path.clone(), extent));
                }
            }
        }
    }
    Ok(items)
}

fn check_entry(entry: &Entry) -> Result<(), FormatError> {
    let odd = |why: &str| Err(FormatError::damaged(format_args!("entry {:?} has {why}", entry.path)));
    match &entry.kind {
        EntryKind::File { size, block_size } => {
            if *size > FILE_BYTES_MAX {
                return odd("a size that no file has");
            }
            if !block_size_is_valid(*block_size) {
                return odd("a block size that no file has");
            }
        }
        EntryKind::Link { target } => {
            let fits = |bytes: &Vec<u8>| (1..=PATH_BYTES_MAX).contains(&bytes.len()) && !bytes.contains(&0);
            if !decode(target).as_ref().is_some_and(fits) {
                return odd("a target that no link has");
            }
        }
        EntryKind::Directory => {}
    }
    if entry.uid > OWNER_MAX || entry.gid > OWNER_MAX {
        return odd("an owner that nobody is");
    }
    Ok(())
}

/// Checks that items come in ascending order and that extents do not overlap.
#[derive(Default)]
pub struct Order {
    path: Option<StoredPath>,
    next_block: u64,
}

impl Order {
    /// Accepts the next entry.
    pub fn entry(&mut self, entry: &Entry) -> Result<(), FormatError> {
        if self.path.as_ref().is_some_and(|path| *path >= entry.path) {
            return Err(FormatError::damaged("its entries are not in order"));
        }
        self.path = Some(entry.path.clone());
        self.next_block = 0;
        Ok(())
    }

    /// Accepts the next extent.
    pub fn extent(&mut self, path: &StoredPath, extent: &Extent) -> Result<(), FormatError> {
        let in_order = match &self.path {
            Some(current) if current == path => extent.first >= self.next_block,
            Some(current) => current < path,
            None => true,
        };
        let sane = |number: u64| number < NUMBER_MAX;
        if !in_order || extent.count == 0 || !sane(extent.first) || !sane(extent.count) || !sane(extent.raw_block) {
            return Err(FormatError::damaged(format_args!("the extents of {path:?} contradict each other")));
        }
        self.path = Some(path.clone());
        self.next_block = extent.end();
        Ok(())
    }
}

/// Appends a value as one line of JSON.
pub(crate) fn push_line<T: Serialize>(lines: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(&mut *lines, value).expect("stored values have no maps with odd keys");
    lines.push(b'\n');
}

/// The lines of a text, without their ends.
pub(crate) fn lines(raw: &[u8]) -> impl Iterator<Item = &[u8]> {
    raw.strip_suffix(b"\n").unwrap_or(raw).split(|byte| *byte == b'\n')
}

/// Reads one line of JSON.
pub(crate) fn parse_line<T: DeserializeOwned>(line: &[u8]) -> Result<T, FormatError> {
    serde_json::from_slice(line).map_err(FormatError::damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, size: u64) -> Entry {
        let kind = EntryKind::File { size, block_size: 4096 };
        Entry { path: StoredPath::parse(path).unwrap(), kind, mode: 0o640, uid: 1, gid: 2 }
    }

    fn extent(first: u64, count: u64, run: u8, pack: u32, raw_block: u64) -> Extent {
        Extent { first, count, pack: PackId { run: RunId::from_random([run; 16]), pack }, raw_block }
    }

    fn part(items: &[Item]) -> Vec<u8> {
        let mut writer = PartWriter::default();
        for item in items {
            writer.push(item);
            assert!(writer.raw_bytes() > 0);
        }
        let bound = writer.raw_bytes();
        let raw = writer.finish();
        assert!(raw.len() as u64 <= bound, "{} > {bound}", raw.len());
        raw
    }

    #[test]
    fn parts_round_trip() {
        let path = StoredPath::parse("b").unwrap();
        let mut items = vec![Item::Entry(entry("a", 0)), Item::Entry(entry("b", 1 << 40))];
        items.extend((0..600).map(|n| Item::Extent(path.clone(), extent(n * 3, 2, (n % 3) as u8, n as u32, n * 7))));
        items.push(Item::Entry(Entry { kind: EntryKind::Directory, ..entry("c", 0) }));
        items.push(Item::Entry(Entry { kind: EntryKind::Link { target: "a".into() }, ..entry("d", 0) }));
        assert_eq!(parse_part(&part(&items)).unwrap(), items);
        // A part may begin in the middle of a file.
        assert_eq!(parse_part(&part(&items[300..])).unwrap(), &items[300..]);
    }

    #[test]
    fn the_stored_form() {
        let path = StoredPath::parse("ledger.db").unwrap();
        let raw = part(&[Item::Entry(entry("ledger.db", 8192)), Item::Extent(path, extent(0, 2, 0, 1, 5))]);
        assert_eq!(
            String::from_utf8(raw).unwrap(),
            "{\"format\":\"recoup-manifest-part/1\",\"runs\":[\"aaaaaaaaaaaaaaaa\"]}\n\
             {\"entry\":{\"path\":\"ledger.db\",\"kind\":\"file\",\"size\":8192,\"block_size\":4096,\"mode\":\"0640\",\
             \"uid\":1,\"gid\":2}}\n\
             {\"extents\":{\"path\":\"ledger.db\",\"at\":[[0,2,0,1,5]]}}\n"
        );
    }

    #[test]
    fn contradictions_are_refused() {
        let path = StoredPath::parse("a").unwrap();
        let at = |extent| Item::Extent(path.clone(), extent);
        let link =
            |target: &str| Item::Entry(Entry { kind: EntryKind::Link { target: target.into() }, ..entry("a", 0) });
        let largest = Entry { uid: OWNER_MAX, gid: OWNER_MAX, ..entry("a", FILE_BYTES_MAX) };
        assert!(parse_part(&part(&[Item::Entry(largest)])).is_ok());
        assert!(parse_part(&part(&[link(&"%81".repeat(PATH_BYTES_MAX))])).is_ok());
        let cases = [
            vec![Item::Entry(entry("b", 0)), Item::Entry(entry("a", 0))],
            vec![Item::Entry(entry("a", 0)), Item::Entry(entry("a", 0))],
            vec![at(extent(5, 2, 0, 0, 0)), at(extent(6, 1, 0, 0, 0))],
            vec![at(extent(5, 0, 0, 0, 0))],
            vec![at(extent(NUMBER_MAX, 1, 0, 0, 0))],
            vec![at(extent(1, NUMBER_MAX, 0, 0, 0))],
            vec![at(extent(1, 1, 0, 0, NUMBER_MAX))],
            vec![Item::Entry(entry("a", NUMBER_MAX))],
            vec![Item::Entry(entry("a", FILE_BYTES_MAX + 1))],
            vec![Item::Entry(Entry { uid: OWNER_MAX + 1, ..entry("a", 0) })],
            vec![Item::Entry(Entry { gid: OWNER_MAX + 1, ..entry("a", 0) })],
            vec![link("")],
            vec![link("a%00b")],
            vec![link("a%")],
            vec![link(&"x".repeat(PATH_BYTES_MAX + 1))],
        ];
        for items in cases {
            assert!(parse_part(&part(&items)).is_err(), "{items:?}");
        }
        for bad in [
            "",
            "{}",
            "{\"format\":\"recoup-manifest-part/1\",\"runs\":[]}\n{\"extents\":{\"path\":\"a\",\"at\":[[0,1,0,0,0]]}}\n",
            "{\"format\":\"recoup-manifest-part/1\",\"runs\":[]}\n{\"entry\":{\"path\":\"../a\",\"kind\":\"directory\",\"mode\":\"0755\",\"uid\":0,\"gid\":0}}\n",
            "{\"format\":\"recoup-manifest-part/1\",\"runs\":[]}\nnull\n",
        ] {
            assert!(parse_part(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn roots_round_trip() {
        let key = |path: &str, block| Key { path: StoredPath::parse(path).unwrap(), block };
        let id = |part| PartId { run: RunId::from_random([1; 16]), part };
        let mut root = Root {
            repository: RunId::from_random([0; 16]),
            source: "ledger".parse().unwrap(),
            source_kind: "sqlite".into(),
            configuration: "[host]\n".into(),
            catalogue_identity: None,
            parts: vec![PartRef { from: key("a", 0), id: id(0) }, PartRef { from: key("a", 900), id: id(1) }],
        };
        assert_eq!(Root::parse(&root.to_lines()).unwrap(), root);
        root.parts.reverse();
        assert!(Root::parse(&root.to_lines()).is_err());
    }
}
