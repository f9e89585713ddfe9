//! Records of the control log that somebody has acknowledged as lost for good.
//!
//! That lets a reader go on past them while nobody has them. One that turns up counts as it always did.

use super::evidence::WriterId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Which records are lost: the first and the last of each stretch, by writer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRecords(BTreeMap<WriterId, BTreeSet<(u64, u64)>>);

impl LostRecords {
    /// Adds those from `first` to `last`.
    pub fn add(&mut self, writer: WriterId, first: u64, last: u64) {
        self.0.entry(writer).or_default().insert((first, last));
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whose records they are.
    pub fn writers(&self) -> impl Iterator<Item = WriterId> {
        self.0.keys().copied()
    }

    /// Every stretch: whose, the first, the last.
    pub fn stretches(&self) -> impl Iterator<Item = (WriterId, u64, u64)> {
        self.0.iter().flat_map(|(writer, stretches)| stretches.iter().map(|(first, last)| (*writer, *first, *last)))
    }

    /// Whether a record is one of them.
    pub fn contains(&self, writer: WriterId, number: u64) -> bool {
        self.others(writer, number, number).is_empty()
    }

    /// The stretches from `first` to `last` that are none of them.
    pub fn others(&self, writer: WriterId, first: u64, last: u64) -> Vec<(u64, u64)> {
        let (mut others, mut next) = (Vec::new(), first);
        for (from, to) in self.0.get(&writer).into_iter().flatten().copied() {
            if from > last {
                break;
            }
            if from > next {
                others.push((next, from - 1));
            }
            next = next.max(to.saturating_add(1));
        }
        if next <= last {
            others.push((next, last));
        }
        others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_lost_is_told_apart() {
        let (writer, other) = ("aaaaaaaaaaaaaaaa".parse().unwrap(), "bbbbbbbbbbbbbbbb".parse().unwrap());
        let mut lost = LostRecords::default();
        [(3, 5), (4, 4), (8, 9), (6, 6)].iter().for_each(|(first, last)| lost.add(writer, *first, *last));
        for (first, last, others) in [
            (1, 12, vec![(1, 2), (7, 7), (10, 12)]),
            (3, 6, vec![]),
            (5, 8, vec![(7, 7)]),
            (9, 9, vec![]),
            (10, 11, vec![(10, 11)]),
            (1, 2, vec![(1, 2)]),
        ] {
            assert_eq!(lost.others(writer, first, last), others, "{first} to {last}");
        }
        assert!(lost.contains(writer, 6) && !lost.contains(writer, 7) && !lost.contains(other, 6));
    }
}
