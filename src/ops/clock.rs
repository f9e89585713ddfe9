//! Whether this host's clock can be right, going by the snapshots that there are.

use crate::{core::time::Timestamp, repository::catalogue::Catalogue};

/// How far the clocks of hosts that are well may differ.
const SLACK_SECONDS: f64 = 5.0;
/// Nobody's clock is ahead by so much unless it was set wrong.
const IMPLAUSIBLE_SECONDS: f64 = 24.0 * 3600.0;

/// What makes the clock suspect; `None` where nothing does.
pub fn suspicion(now: Timestamp, catalogue: &Catalogue) -> Option<String> {
    let newest = catalogue.snapshots.values().max_by_key(|committed| committed.inventory.created_at)?;
    let created_at = newest.inventory.created_at;
    let ahead = created_at.seconds_since(now);
    if ahead <= SLACK_SECONDS {
        return None;
    }
    let (source, id) = (&catalogue.source, newest.inventory.id());
    let whose = if ahead > IMPLAUSIBLE_SECONDS {
        "this host's clock was set back, or a clock that was far ahead dated that snapshot"
    } else {
        "this host's clock was set back, or another host's is ahead"
    };
    Some(format!(
        "the clock says {now}, and snapshot {id} of {source} is from {created_at}, which lies in the future: {whose}; \
         restores by time go by these times"
    ))
}
