//! Whether the stores can be used, and are level.

use super::{Answer, Concerns, Facts, Findings, Lacking, StoreFacts, count};
use crate::core::result::{CheckedStore, FindingId, Severity, StoreState};

/// A store with less than this free has little room.
pub const LITTLE_ROOM_BYTES: u64 = 1024 * 1024 * 1024;

pub(super) fn judge(facts: &Facts, findings: &mut Findings) -> Vec<CheckedStore> {
    facts.stores.iter().map(|store| judge_one(facts, store, findings)).collect()
}

fn judge_one(facts: &Facts, store: &StoreFacts, findings: &mut Findings) -> CheckedStore {
    let next_step = || store.next_step.clone().unwrap_or_else(|| "recoup doctor".to_owned());
    let unusable = match store.answer {
        Answer::Ready => None,
        // Others may hold all that there is; a source for which they do not says so itself.
        Answer::Down => Some((FindingId::StoreDown, Severity::Warning)),
        Answer::Empty => Some((FindingId::StoreEmpty, Severity::Critical)),
        Answer::Foreign => Some((FindingId::StoreForeign, Severity::Critical)),
        Answer::Newer => Some((FindingId::StoreNewer, Severity::Critical)),
        Answer::Damaged => Some((FindingId::StoreDamaged, Severity::Critical)),
    };
    if let Some((id, severity)) = unusable {
        findings.add(id, severity, Concerns::store(&store.name), store.problem.clone(), next_step());
    }
    let behind = (store.answer == Answer::Ready).then(|| judge_level(facts, store, findings));
    let little_room = store.free_bytes.filter(|free| *free < LITTLE_ROOM_BYTES);
    if let Some(free) = little_room {
        let message = format!("{} MiB are free", free >> 20);
        let next_step = "make room before the next full snapshot";
        findings.add(FindingId::LittleRoom, Severity::Warning, Concerns::store(&store.name), message, next_step);
    }
    let state = match behind {
        None => StoreState::Down,
        Some(_) if little_room.is_some() => StoreState::Full,
        Some(0) => StoreState::Up,
        Some(_) => StoreState::Behind,
    };
    CheckedStore { store: store.name.clone(), state, snapshots_behind: behind, free_bytes: store.free_bytes }
}

/// How many durable snapshots a store lacks. One finding for all sources: one command levels all of them.
fn judge_level(facts: &Facts, store: &StoreFacts, findings: &mut Findings) -> u64 {
    let mut total = Lacking::default();
    let mut sources = Vec::new();
    for source in &facts.sources {
        let Some(lacking) = source.lacking.get(&store.name).filter(|lacking| lacking.snapshots > 0) else { continue };
        total.snapshots += lacking.snapshots;
        total.once_held += lacking.once_held;
        sources.push(source.name.as_str());
    }
    if total.snapshots > 0 {
        let lost = match total.once_held {
            0 => String::new(),
            held => format!(", {held} of which it once held"),
        };
        let message =
            format!("it lacks {} of {}{lost}", count(total.snapshots, "durable snapshot"), sources.join(", "));
        findings.add(FindingId::StoreBehind, Severity::Warning, Concerns::store(&store.name), message, "recoup copy");
    }
    total.snapshots
}
