//! Fingerprints of a source's tables, taken with a snapshot: what a restore to the place that they belong to must show.

use super::{
    log::{HistoryId, Lsn, ServerTime},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

/// The most tables that fingerprints are taken of.
pub const TABLES_MAX: usize = 10_000;

/// What was taken of a source, or why nothing was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprints {
    /// The database that the tables are in.
    pub database: String,
    /// What they belong to; `None` where nothing was taken.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub place: Option<Place>,
    /// Why nothing was taken.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub not_taken: Option<String>,
    /// The tables, by schema and name.
    pub tables: Vec<Table>,
}

/// A place in the log: everything that was committed before it is in the fingerprints, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The history.
    pub history: HistoryId,
    /// The place.
    pub at: Lsn,
    /// When that was, by the server's clock.
    pub moment: ServerTime,
}

/// One table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Whether its rows lie in other tables, its partitions.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub is_partitioned: bool,
    /// What was in it; `None` where it was not read to its end.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content: Option<Content>,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub not_taken: Option<String>,
}

/// What was in a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// How many rows.
    pub rows: u64,
    /// A digest of them that does not depend on their order.
    pub digest: String,
}

impl Fingerprints {
    /// Nothing, for a reason.
    pub fn not_taken(database: &str, why: impl Into<String>) -> Self {
        Fingerprints { database: database.to_owned(), not_taken: Some(why.into()), ..Fingerprints::default() }
    }

    /// How many tables were read to their end.
    pub fn taken(&self) -> usize {
        self.tables.iter().filter(|table| table.content.is_some()).count()
    }

    /// What the operator should know of what was not taken, if anything.
    pub fn shortfall(&self) -> Option<String> {
        if let Some(why) = &self.not_taken {
            return Some(format!("fingerprints were not taken: {why}"));
        }
        let first = self.tables.iter().find(|table| table.content.is_none())?;
        let why = first.not_taken.as_deref().unwrap_or("nobody knows why");
        let others = match self.tables.len() - self.taken() - 1 {
            0 => String::new(),
            others => format!(", nor of {others} others"),
        };
        Some(format!("no fingerprint was taken of {}{others}: {why}", first.full_name()))
    }
}

impl Table {
    /// Its name with its schema.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

/// How far a replay goes, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The history of the snapshot.
    pub history: HistoryId,
    /// Where the replay leaves that history for one that grew out of it; `None` where it never does.
    pub leaves_at: Option<Lsn>,
    /// Where the log that is replayed ends.
    pub ends: Lsn,
    /// The moment that is asked for.
    pub until: Timestamp,
}

impl Place {
    /// Why a replay does not pass this place, if so: then there is no moment at which it could be compared.
    pub fn not_passed_by(&self, replay: &Replayed) -> Option<String> {
        if self.history != replay.history {
            return Some(format!("they belong to history {}, the snapshot to {}", self.history, replay.history));
        }
        if let Some(leaves_at) = replay.leaves_at.filter(|leaves_at| *leaves_at < self.at) {
            return Some(format!("they belong to {}, and the timeline is left at {leaves_at}", self.at));
        }
        if replay.ends <= self.at {
            return Some(format!("they belong to {}, and the log that is there ends at {}", self.at, replay.ends));
        }
        if replay.until.as_datetime() < self.moment.as_datetime() {
            return Some(format!("they were taken at {}, after the moment that was restored to", self.moment));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, rows: Option<u64>) -> Table {
        let content = rows.map(|rows| Content { rows, digest: "1 2".to_owned() });
        let not_taken = rows.is_none().then(|| "there is no such table".to_owned());
        Table { schema: "public".to_owned(), name: name.to_owned(), is_partitioned: false, content, not_taken }
    }

    #[test]
    fn what_is_missing_is_said() {
        let all = |tables: Vec<Table>| Fingerprints { tables, ..Fingerprints::default() };
        assert_eq!(all(vec![table("a", Some(0))]).shortfall(), None);
        let said = all(vec![table("a", Some(1)), table("b", None), table("c", None)]).shortfall().unwrap();
        assert_eq!(said, "no fingerprint was taken of public.b, nor of 1 others: there is no such table");
        assert_eq!(Fingerprints::not_taken("d", "no").shortfall().unwrap(), "fingerprints were not taken: no");
    }

    #[test]
    fn only_what_is_passed_is_compared() {
        let history = HistoryId { system: 7, timeline: 1 };
        let place = Place { history, at: Lsn(100), moment: "2026-11-22T09:00:00.5Z".parse().unwrap() };
        let passes =
            Replayed { history, leaves_at: None, ends: Lsn(101), until: "2026-11-22T09:00:00.501Z".parse().unwrap() };
        assert_eq!(place.not_passed_by(&passes), None);
        assert_eq!(place.not_passed_by(&Replayed { leaves_at: Some(Lsn(100)), ..passes }), None);
        for (replay, why) in [
            (Replayed { history: HistoryId { system: 7, timeline: 2 }, ..passes }, "history 7-00000001"),
            (Replayed { leaves_at: Some(Lsn(99)), ..passes }, "is left at 0/63"),
            (Replayed { ends: Lsn(100), ..passes }, "ends at 0/64"),
            (Replayed { until: "2026-11-22T09:00:00.499Z".parse().unwrap(), ..passes }, "after the moment"),
        ] {
            assert!(place.not_passed_by(&replay).is_some_and(|said| said.contains(why)), "{why}");
        }
    }
}
