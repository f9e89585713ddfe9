//! What keeps snapshots from being pruned whatever the policy says: holds, and the proof of the newest drill.

use crate::{
    core::{
        failure::Failure,
        id::{SnapshotId, SourceName},
    },
    ops::host::Host,
};
use std::collections::{BTreeMap, BTreeSet};

/// The vetoes of one source.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Vetoes {
    /// Held snapshots, each with the names of its holds.
    pub holds: BTreeMap<SnapshotId, Vec<String>>,
    /// The newest snapshot that a drill has proven.
    pub proven: Option<SnapshotId>,
}

/// Reads the vetoes of a source from the stores at these positions: enough of them to have one in common with every
/// durable record. Vetoes that cannot be read from all that are needed are a failure: nothing is pruned then.
///
/// No record of this version is a veto, so there are none to read.
pub(super) async fn read(_host: &Host, _source: &SourceName, _stores: &BTreeSet<usize>) -> Result<Vetoes, Failure> {
    Ok(Vetoes::default())
}
