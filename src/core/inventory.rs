//! The inventory: the clear, signed list of what a snapshot needs. Its existence on a store is the commit.

use super::{
    id::{RepositoryId, RunId, SEQ_MAX, Sha256, SnapshotId, SourceName},
    log::LogRange,
    text::text_serde,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The value of `format` in every inventory that this version reads and writes.
pub const FORMAT: &str = "recoup-inventory/1";

/// The most runs that one snapshot may use; the planner captures the rest again.
pub const MAX_USES: usize = 256;

/// The most sealed bytes that a manifest root has.
pub const MANIFEST_BYTES_MAX: u64 = 65 * 1024 * 1024;

/// The most bytes of a text in an inventory: room for a public key of RSA.
pub const TEXT_BYTES_MAX: usize = 8 * 1024;

/// Whether a snapshot refers to older objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It refers to no older object.
    Full,
    /// It re-uses extents of its base.
    Incremental,
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Kind::Full => "full",
            Kind::Incremental => "incremental",
        })
    }
}

/// A head that the run saw: a snapshot and the SHA-256 of its inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Parent {
    /// The snapshot.
    pub id: SnapshotId,
    /// SHA-256 of its `inventory.json`.
    pub sha256: Sha256,
}

/// One object by its name below the source's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Name relative to `sources/<source>/`.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the stored bytes.
    pub sha256: Sha256,
}

/// What a snapshot uses of one run: its `objects.json`, everything in it that is no pack, and these packs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// The run.
    pub run: RunId,
    /// SHA-256 of the run's `objects.json`.
    pub objects_sha256: Sha256,
    /// The packs.
    pub packs: PackSet,
}

/// A set of pack numbers, written as `0-41,44`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PackSet(Vec<(u32, u32)>);

impl PackSet {
    /// The set of these packs.
    pub fn from_packs(packs: impl IntoIterator<Item = u32>) -> Self {
        let mut sorted: Vec<u32> = packs.into_iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for pack in sorted {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == pack => *last = pack,
                _ => ranges.push((pack, pack)),
            }
        }
        PackSet(ranges)
    }

    /// Whether a pack is in the set.
    pub fn contains(&self, pack: u32) -> bool {
        // A hostile set may have a million ranges, and be asked as often.
        let from = self.0.partition_point(|(_, last)| *last < pack);
        self.0.get(from).is_some_and(|(first, _)| *first <= pack)
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the sets have a pack in common.
    pub fn intersects(&self, other: &PackSet) -> bool {
        let mut others = other.0.iter().peekable();
        self.0.iter().any(|(first, last)| {
            while others.next_if(|(_, before)| before < first).is_some() {}
            others.peek().is_some_and(|(from, _)| from <= last)
        })
    }

    /// What is in either set.
    #[must_use]
    pub fn union(&self, other: &PackSet) -> PackSet {
        let mut all: Vec<(u32, u32)> = self.0.iter().chain(&other.0).copied().collect();
        all.sort_unstable();
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for (first, last) in all {
            match ranges.last_mut() {
                Some((_, before)) if first <= before.saturating_add(1) => *before = last.max(*before),
                _ => ranges.push((first, last)),
            }
        }
        PackSet(ranges)
    }

    /// What is in this set and not in the other.
    #[must_use]
    pub fn without(&self, other: &PackSet) -> PackSet {
        let mut ranges = Vec::new();
        for (first, last) in &self.0 {
            let mut from = u64::from(*first);
            let overlapping = other.0.partition_point(|(_, end)| end < first);
            for (cut, end) in other.0[overlapping..].iter().take_while(|(cut, _)| cut <= last) {
                if u64::from(*cut) > from {
                    ranges.push((from as u32, cut - 1));
                }
                from = u64::from(*end) + 1;
            }
            if from <= u64::from(*last) {
                ranges.push((from as u32, *last));
            }
        }
        PackSet(ranges)
    }

    /// How many packs are in the set.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(first, last)| u64::from(last - first) + 1).sum()
    }

    /// The packs in order. A hostile set may name four thousand million: look at [`PackSet::count`] first.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }
}

impl fmt::Display for PackSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            if at > 0 {
                formatter.write_str(",")?;
            }
            if first == last { write!(formatter, "{first}")? } else { write!(formatter, "{first}-{last}")? }
        }
        Ok(())
    }
}

/// Why a set of packs was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a set of packs in ascending order, such as 0-41,44")]
pub struct InvalidPackSet(String);

impl FromStr for PackSet {
    type Err = InvalidPackSet;
    fn from_str(text: &str) -> Result<Self, InvalidPackSet> {
        let wrong = || InvalidPackSet(text.chars().take(80).collect());
        let number = |digits: &str| -> Result<u32, InvalidPackSet> {
            let canonical = !digits.is_empty()
                && digits.bytes().all(|byte| byte.is_ascii_digit())
                && (digits == "0" || !digits.starts_with('0'));
            if canonical { digits.parse().map_err(|_| wrong()) } else { Err(wrong()) }
        };
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        if text.is_empty() {
            return Ok(PackSet(ranges));
        }
        for part in text.split(',') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            let follows = ranges.last().is_none_or(|(_, before)| first > *before);
            if first > last || !follows {
                return Err(wrong());
            }
            ranges.push((first, last));
        }
        Ok(PackSet(ranges))
    }
}

text_serde!(PackSet);

/// A snapshot's inventory, as `inventory.json` holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// [`FORMAT`].
    pub format: String,
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// The source it is of.
    pub source: SourceName,
    /// The source's kind, such as `sqlite`.
    pub source_kind: String,
    /// The source's own identity.
    pub source_identity: String,
    /// Sequence number, from 1.
    pub seq: u64,
    /// The run that wrote it.
    pub run: RunId,
    /// The host key that signed it, as its SHA-256 fingerprint.
    pub writer: String,
    /// Full or incremental.
    pub kind: Kind,
    /// The heads that the run saw.
    pub parents: Vec<Parent>,
    /// When the run committed, by the writer's clock.
    pub created_at: Timestamp,
    /// When the read of the source began, by the writer's clock.
    pub read_started_at: Timestamp,
    /// Which history the position belongs to.
    pub history: String,
    /// Where in the history the snapshot is.
    pub position: String,
    /// Bytes of the source's files.
    pub bytes_raw: u64,
    /// Sealed bytes this run wrote to one store.
    pub bytes_stored: u64,
    /// The recipients that the run's objects are sealed to.
    pub recipients: Vec<String>,
    /// The manifest root.
    pub manifest: ObjectRef,
    /// What it uses of each run.
    pub uses: Vec<Use>,
    /// What it needs of the source's log, where the source has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub log: Option<LogRange>,
    /// The snapshot that has an append-only log as it was before it was altered, where this one has found that. Both stay
    /// until a hold says so: see [`crate::ops::altered`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub altered_since: Option<SnapshotId>,
}

impl Inventory {
    /// The snapshot's id.
    pub fn id(&self) -> SnapshotId {
        SnapshotId { seq: self.seq, run: self.run }
    }

    /// The texts that are shown to people.
    fn texts(&self) -> impl Iterator<Item = &str> {
        let own = [&self.source_kind, &self.source_identity, &self.writer, &self.history, &self.position];
        own.into_iter().chain(&self.recipients).map(String::as_str)
    }

    /// Why the inventory cannot be what it claims to be, if so. Its signature is another matter.
    pub fn contradiction(&self) -> Option<&'static str> {
        let named_runs: std::collections::BTreeSet<_> = self.uses.iter().map(|used| used.run).collect();
        if self.format != FORMAT {
            Some("its format is not the one this version reads")
        } else if self.seq == 0 || self.seq > SEQ_MAX {
            Some("its sequence number is out of range")
        } else if self.uses.len() > MAX_USES {
            Some("it uses more than 256 runs")
        } else if named_runs.len() != self.uses.len() {
            Some("it names a run twice")
        } else if !manifest_name_is_valid(&self.manifest.name) {
            Some("its manifest has a name that no manifest has")
        } else if self.manifest.size > MANIFEST_BYTES_MAX {
            Some("its manifest is larger than any")
        } else if !self.texts().all(is_plain) {
            Some("one of its texts is not of printable characters, or too long")
        } else if self.parents.iter().any(|parent| parent.id == self.id()) {
            Some("it names itself as its parent")
        } else {
            self.log.as_ref().and_then(LogRange::contradiction)
        }
    }
}

/// Whether a text can be shown on any terminal, and is no longer than any of ours.
fn is_plain(text: &str) -> bool {
    text.len() <= TEXT_BYTES_MAX && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

/// Whether a name is `snapshots/<seq>-<run>/manifest.age`.
fn manifest_name_is_valid(name: &str) -> bool {
    name.strip_prefix("snapshots/")
        .and_then(|rest| rest.strip_suffix("/manifest.age"))
        .is_some_and(|id| id.parse::<SnapshotId>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pack_sets() {
        let set = PackSet::from_packs([44, 0, 1, 2, 41, 42]);
        assert_eq!(set.to_string(), "0-2,41-42,44");
        assert_eq!("0-2,41-42,44".parse::<PackSet>().unwrap(), set);
        assert_eq!(set.count(), 6);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 1, 2, 41, 42, 44]);
        let contained: Vec<u32> = (0..50).filter(|pack| set.contains(*pack)).collect();
        assert_eq!(contained, [0, 1, 2, 41, 42, 44]);
        assert_eq!("".parse::<PackSet>().unwrap().count(), 0);
        for bad in ["a", "1-", "-1", "2-1", "1,1", "3,1", "01", "1,,2", "4294967296", "0-4294967296", "+1"] {
            assert!(bad.parse::<PackSet>().is_err(), "{bad}");
        }
        assert_eq!("0-4294967295".parse::<PackSet>().unwrap().count(), 1 << 32);
    }

    #[test]
    fn pack_sets_as_sets() {
        let sets = ["", "0", "1-3", "0-2,4", "3", "5-9", "0-4294967295", "4294967295", "2-6,8,10-12"];
        let member = |set: &PackSet, pack: u32| set.contains(pack);
        for a in sets.map(|text| text.parse::<PackSet>().unwrap()) {
            for b in sets.map(|text| text.parse::<PackSet>().unwrap()) {
                let (union, rest) = (a.union(&b), a.without(&b));
                for set in [&union, &rest] {
                    assert_eq!(set.to_string().parse::<PackSet>().as_ref(), Ok(set), "{a} {b}");
                }
                for pack in (0..15).chain([u32::MAX - 1, u32::MAX]) {
                    assert_eq!(member(&union, pack), member(&a, pack) || member(&b, pack), "{a} {b} {pack}");
                    assert_eq!(member(&rest, pack), member(&a, pack) && !member(&b, pack), "{a} {b} {pack}");
                }
                assert_eq!(a.intersects(&b), a.without(&b) != a, "{a} {b}");
            }
        }
    }

    #[test]
    fn manifest_names() {
        assert!(manifest_name_is_valid("snapshots/0000000001-aaaaaaaaaaaaaaaa/manifest.age"));
        for bad in
            ["manifest.age", "snapshots/../manifest.age", "snapshots/0000000001-aaaaaaaaaaaaaaaa/../x/manifest.age"]
        {
            assert!(!manifest_name_is_valid(bad), "{bad}");
        }
    }
}
