//! `facts.age`: fingerprints of the source, sealed to the custodians only.

use super::{FormatError, document_bytes, parse_document};
use crate::core::{
    fingerprint::{Fingerprints, TABLES_MAX},
    id::RunId,
};
use serde::{Deserialize, Serialize};

/// The value of `format`.
pub const FORMAT: &str = "recoup-facts/1";
/// The most raw bytes that a reader accepts.
pub const MAX_RAW_BYTES: u64 = 16 * 1024 * 1024;

/// What is known of a source beside its blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// [`FORMAT`].
    pub format: String,
    /// The run that took them.
    pub run: RunId,
    /// The fingerprints.
    pub fingerprints: Fingerprints,
}

impl Facts {
    /// Those of a run.
    pub fn of(run: RunId, fingerprints: Fingerprints) -> Self {
        Facts { format: FORMAT.to_owned(), run, fingerprints }
    }

    /// The raw bytes; where there would be too many, those of the reason alone.
    pub fn to_bytes(&self) -> Vec<u8> {
        let bytes = document_bytes(self);
        if bytes.len() as u64 <= MAX_RAW_BYTES {
            return bytes;
        }
        let why = "the names of the tables take too much room";
        document_bytes(&Facts::of(self.run, Fingerprints::not_taken(&self.fingerprints.database, why)))
    }

    /// Reads the raw bytes of a run's.
    pub fn parse(bytes: &[u8], run: RunId) -> Result<Self, FormatError> {
        parse_document(
            bytes,
            FORMAT,
            |facts: &Facts| &facts.format,
            |facts| {
                let fingerprints = &facts.fingerprints;
                if facts.run != run {
                    Some("it is of another run")
                } else if fingerprints.tables.len() > TABLES_MAX {
                    Some("it names more tables than any")
                } else if fingerprints.place.is_none() && !fingerprints.tables.is_empty() {
                    Some("its fingerprints belong to no place")
                } else {
                    None
                }
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::fingerprint::{Content, Place, Table};

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let run = RunId::from_random([1; 16]);
        let content = Some(Content { rows: 7, digest: "-1 2".to_owned() });
        let table = Table { schema: "s".into(), name: "t".into(), is_partitioned: false, content, not_taken: None };
        let place = Place {
            history: "7301234567890123456-00000001".parse().unwrap(),
            at: "0/5000028".parse().unwrap(),
            moment: "2026-11-22T09:15:00.000001Z".parse().unwrap(),
        };
        let taken =
            Fingerprints { database: "d".into(), place: Some(place), not_taken: None, tables: vec![table.clone()] };
        let facts = Facts::of(run, taken.clone());
        assert_eq!(Facts::parse(&facts.to_bytes(), run).unwrap(), facts);
        assert!(Facts::parse(&facts.to_bytes(), RunId::from_random([2; 16])).is_err());
        let nowhere = Facts::of(run, Fingerprints { place: None, ..taken.clone() });
        assert!(Facts::parse(&nowhere.to_bytes(), run).is_err());
        let newer = Facts { format: "recoup-facts/2".to_owned(), ..facts.clone() };
        assert!(matches!(Facts::parse(&newer.to_bytes(), run), Err(FormatError::Newer { .. })));
        // Names that are too long are left out, and the reason stays.
        let long = Table { name: "x".repeat(MAX_RAW_BYTES as usize), ..table };
        let facts = Facts::of(run, Fingerprints { tables: vec![long], ..taken });
        let read = Facts::parse(&facts.to_bytes(), run).unwrap().fingerprints;
        assert!(read.not_taken.is_some() && read.tables.is_empty());
    }
}
