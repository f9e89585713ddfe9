//! Records of the control log that somebody has acknowledged as lost for good.
//!
//! That lets a reader go on past them while nobody has them. One that turns up counts as it always did.

use super::evidence::{Control, Record, WriterId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Which records are lost: the first and the last of each stretch, by writer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRecords(BTreeMap<WriterId, BTreeSet<(u64, u64)>>);

/// What a record acknowledges as lost, as far as it counts: whose, the first, the last.
///
/// It counts up to the newest record of that writer that it names as seen; in its own chain, up to itself. What is not
/// written yet is not lost: acknowledged in advance, a record could be removed and missed by nobody.
pub fn acknowledged_by(record: &Record) -> Option<(WriterId, u64, u64)> {
    let Some(Control::RecordsLost { writer, first, last }) = record.control else { return None };
    let seen = record.seen.iter().filter(|seen| seen.writer == writer).map(|seen| seen.number).max();
    let newest = if writer == record.writer { record.number.saturating_sub(1) } else { seen.unwrap_or(0) };
    let last = last.min(newest);
    (first <= last).then_some((writer, first, last))
}

impl LostRecords {
    /// Adds what a record acknowledges.
    pub fn add_acknowledged(&mut self, record: &Record) {
        if let Some((writer, first, last)) = acknowledged_by(record) {
            self.add(writer, first, last);
        }
    }

    /// Adds those of another, as far as a writer's records go up to `last`.
    pub fn add_up_to(&mut self, others: &LostRecords, last: impl Fn(WriterId) -> u64) {
        for (writer, first, to) in others.stretches() {
            let to = to.min(last(writer));
            if first <= to {
                self.add(writer, first, to);
            }
        }
    }

    /// Adds those from `first` to `last`.
    pub fn add(&mut self, writer: WriterId, first: u64, last: u64) {
        self.0.entry(writer).or_default().insert((first, last));
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
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
    use crate::core::{
        evidence::{Action, SeenHead},
        id::Sha256,
    };

    /// What counts of an acknowledgement of 4 to 9 by record 6 of its writer.
    const COUNTS: &[(&str, Option<u64>, Option<u64>)] = &[
        ("bbbbbbbbbbbbbbbb", None, None),
        ("bbbbbbbbbbbbbbbb", Some(3), None),
        ("bbbbbbbbbbbbbbbb", Some(7), Some(7)),
        ("bbbbbbbbbbbbbbbb", Some(9), Some(9)),
        ("bbbbbbbbbbbbbbbb", Some(12), Some(9)),
        ("aaaaaaaaaaaaaaaa", None, Some(5)),
    ];

    #[test]
    fn what_nobody_has_seen_is_not_lost() {
        for (of, seen, counts) in COUNTS {
            let (of, sha256) = (of.parse().unwrap(), Sha256([3; 32]));
            let record = Record {
                writer: "aaaaaaaaaaaaaaaa".parse().unwrap(),
                number: 6,
                previous: Some(sha256),
                seen: seen.iter().map(|number| SeenHead { writer: of, number: *number, sha256 }).collect(),
                action: Action::Acknowledge,
                control: Some(Control::RecordsLost { writer: of, first: 4, last: 9 }),
                ..Record::example()
            };
            assert_eq!(acknowledged_by(&record), counts.map(|last| (of, 4, last)), "{of} {seen:?}");
        }
    }

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
