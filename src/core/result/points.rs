//! What `points` shows: the moments that can be brought back, and the holes between them.

use super::{Durability, PointsSchema};
use crate::core::{
    coverage::LogHistory,
    failure::Code,
    id::{SnapshotId, SourceName},
    time::Timestamp,
};
use serde::Serialize;

/// A moment that can be brought back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Point {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The moment: when the read of the source began.
    pub at: Timestamp,
    /// Targets from `at` up to here, not included, mean this point; `None` for the newest, which all later ones mean.
    pub selected_until: Option<Timestamp>,
    /// Seconds since the point before; `None` for the first.
    pub since_previous_seconds: Option<u64>,
    /// Whether more time lies between it and the point before than the policy permits.
    pub after_gap: bool,
    /// Whether enough stores hold all of it, where that can be known.
    pub durability: Durability,
    /// The stores that hold all of it, by name.
    pub stores: Vec<String>,
    /// What keeps it from being pruned.
    pub holds: Vec<String>,
}

/// A run of points without a gap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
    /// Its first point.
    pub from: Timestamp,
    /// Its last point.
    pub to: Timestamp,
    /// How many points it has.
    pub points: u64,
}

/// A hole between two windows: what happened in it comes back only as it was at its beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The last point before it.
    pub from: Timestamp,
    /// The first point after it; `None` where it lasts until now.
    pub to: Option<Timestamp>,
    /// How long it is.
    pub seconds: u64,
}

/// The points of one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourcePoints {
    /// The source.
    pub source: SourceName,
    /// The most seconds that may lie between two points; `None` where no policy says.
    pub interval_seconds: Option<u64>,
    /// The points, oldest first.
    pub points: Vec<Point>,
    /// Runs of points without a gap, oldest first.
    pub windows: Vec<Window>,
    /// The holes between them, oldest first.
    pub gaps: Vec<Gap>,
    /// The log between snapshots, by timeline; empty for sources without one.
    pub log: Vec<LogHistory>,
}

/// `recoup points`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PointsResult {
    /// `recoup.points/1`.
    pub schema: PointsSchema,
    /// The present moment, by this host's clock.
    pub checked_at: Timestamp,
    /// The sources, by name.
    pub sources: Vec<SourcePoints>,
    /// What makes this less than complete, such as a store that did not answer.
    #[serde(skip)]
    pub warnings: Vec<String>,
    /// Whether nobody who is trusted signed anything.
    #[serde(skip)]
    pub nobody_trusted: bool,
    /// Whether the stores do not show a snapshot that this host has committed.
    #[serde(skip)]
    pub known_missing: bool,
}

impl PointsResult {
    /// The exit code.
    pub fn code(&self) -> Code {
        if self.warnings.is_empty() { Code::Done } else { Code::Warning }
    }
}
