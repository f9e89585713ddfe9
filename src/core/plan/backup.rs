//! What a backup captures: whether it is a full, and which stored blocks an incremental captures again.

use crate::core::{
    id::{RunId, SnapshotId},
    inventory::{Kind, MAX_USES},
    manifest::PackId,
    time::{Timestamp, format_duration},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Why a run takes a full snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FullReason {
    /// The operator asked for one.
    Asked,
    /// There is no earlier snapshot, or no local record of one.
    NoBase(String),
    /// The policy's interval has passed.
    IntervalPassed(Duration),
    /// A recipient was added that cannot open what the base uses.
    RecipientAdded(String),
    /// The base cannot be completed on enough stores.
    BaseIncomplete(String),
}

impl std::fmt::Display for FullReason {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FullReason::Asked => formatter.write_str("asked for"),
            FullReason::NoBase(why) => formatter.write_str(why),
            FullReason::IntervalPassed(interval) => {
                write!(formatter, "the last full is older than {}", format_duration(*interval))
            }
            FullReason::RecipientAdded(recipient) => {
                write!(formatter, "what the base uses is not sealed to recipient {recipient}")
            }
            FullReason::BaseIncomplete(why) => formatter.write_str(why),
        }
    }
}

/// What is known of the base when a run begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseFacts {
    /// The snapshot.
    pub id: SnapshotId,
    /// When the newest full of the source was committed.
    pub last_full_at: Option<Timestamp>,
    /// Every recipient that all runs used by the base are sealed to.
    pub sealed_to: BTreeSet<String>,
    /// Why it cannot serve as a base, if so.
    pub unusable: Option<String>,
}

/// A full, or an incremental over a base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Approach {
    /// Everything is captured.
    Full(FullReason),
    /// What the base has is used again.
    Incremental(SnapshotId),
}

impl Approach {
    /// The kind of snapshot that comes of it.
    pub fn kind(&self) -> Kind {
        match self {
            Approach::Full(_) => Kind::Full,
            Approach::Incremental(_) => Kind::Incremental,
        }
    }
}

/// Decides between full and incremental.
pub fn approach(
    asked_for_full: bool,
    base: Result<&BaseFacts, String>,
    recipients: &[String],
    full_interval: Option<Duration>,
    now: Timestamp,
) -> Approach {
    if asked_for_full {
        return Approach::Full(FullReason::Asked);
    }
    let base = match base {
        Ok(base) => base,
        Err(why) => return Approach::Full(FullReason::NoBase(why)),
    };
    if let Some(added) = recipients.iter().find(|recipient| !base.sealed_to.contains(*recipient)) {
        return Approach::Full(FullReason::RecipientAdded(added.clone()));
    }
    if let Some(why) = &base.unusable {
        return Approach::Full(FullReason::BaseIncomplete(why.clone()));
    }
    if let Some(interval) = full_interval {
        let is_due = base.last_full_at.is_none_or(|full_at| now.seconds_since(full_at) >= interval.as_secs_f64());
        if is_due {
            return Approach::Full(FullReason::IntervalPassed(interval));
        }
    }
    Approach::Incremental(base.id)
}

/// How much of a pack a snapshot would still use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PackLife {
    /// Sealed bytes.
    pub sealed_bytes: u64,
    /// Its part of what a restore fetches of its run besides packs: frame tables and digests.
    pub overhead_bytes: u64,
    /// Raw bytes in the pack.
    pub raw_bytes: u64,
    /// Raw bytes that unchanged blocks of the base still use.
    pub live_bytes: u64,
}

impl PackLife {
    /// What a restore fetches because this pack is in use.
    fn fetched_bytes(&self) -> f64 {
        (self.sealed_bytes + self.overhead_bytes) as f64
    }

    /// Sealed bytes that the live part would take in a fresh full.
    fn live_sealed_bytes(&self) -> f64 {
        self.sealed_bytes as f64 * self.live_bytes as f64 / self.raw_bytes.max(1) as f64
    }

    fn live_share(&self) -> f64 {
        self.live_bytes as f64 / self.raw_bytes.max(1) as f64
    }
}

/// The most that a restore may fetch, as a multiple of a fresh full.
pub const AMPLIFICATION_MAX: f64 = 2.0;
/// Packs that are at least this full are left alone while there is no need. Rows that change all over a table leave
/// every pack of it half used within days: to capture those again would double each incremental, and free little.
const WORTH_KEEPING: f64 = 0.25;
/// What may be spent on packs that are not worth keeping, as a share of what the run captures for its own sake.
const TIDYING_SHARE: f64 = 0.5;
/// Room kept for the run itself and for runs that only hold manifest parts.
const RUNS_KEPT_MAX: usize = MAX_USES - 2;

/// Which packs' live blocks an incremental captures again, so that nothing of them is needed any more.
///
/// Packs with no live block are not used anyway. `changed_bytes` are the raw bytes the run captures for their own
/// sake; half as much may be spent on packs of which less than a quarter is live, and more only to keep a restore's
/// fetch within [`AMPLIFICATION_MAX`] of a fresh full, or the number of runs within what an inventory may use.
pub fn packs_to_capture_again(
    packs: &BTreeMap<PackId, PackLife>,
    lost: &BTreeSet<PackId>,
    changed_bytes: u64,
) -> BTreeSet<PackId> {
    let mut again: BTreeSet<PackId> =
        packs.keys().filter(|pack| lost.contains(pack) && packs[pack].live_bytes > 0).copied().collect();
    retire_runs(packs, &mut again);
    let mut kept: Vec<(PackId, PackLife)> = packs
        .iter()
        .filter(|(pack, life)| life.live_bytes > 0 && !again.contains(pack))
        .map(|(pack, life)| (*pack, *life))
        .collect();
    kept.sort_by(|a, b| b.1.live_share().total_cmp(&a.1.live_share()).then(b.0.cmp(&a.0)));
    let mut fetched: f64 = kept.iter().map(|(_, life)| life.fetched_bytes()).sum();
    let mut fresh: f64 = kept.iter().map(|(_, life)| life.live_sealed_bytes()).sum();
    let mut budget = (changed_bytes as f64 * TIDYING_SHARE) as u64;
    while let Some((pack, life)) = kept.pop() {
        let affordable = life.live_share() < WORTH_KEEPING && life.live_bytes <= budget;
        let needed = fetched > AMPLIFICATION_MAX * fresh;
        if !affordable && !needed {
            break;
        }
        budget = budget.saturating_sub(life.live_bytes);
        fetched -= life.fetched_bytes();
        fresh -= life.live_sealed_bytes();
        again.insert(pack);
    }
    again
}

/// Chooses whole runs, the least live first, until few enough are left.
fn retire_runs(packs: &BTreeMap<PackId, PackLife>, again: &mut BTreeSet<PackId>) {
    let mut live: BTreeMap<RunId, u64> = BTreeMap::new();
    for (pack, life) in packs.iter().filter(|(pack, life)| life.live_bytes > 0 && !again.contains(pack)) {
        *live.entry(pack.run).or_default() += life.live_bytes;
    }
    let excess = live.len().saturating_sub(RUNS_KEPT_MAX);
    let mut runs: Vec<(u64, RunId)> = live.into_iter().map(|(run, bytes)| (bytes, run)).collect();
    runs.sort_unstable();
    let retired: BTreeSet<RunId> = runs.into_iter().take(excess).map(|(_, run)| run).collect();
    again.extend(
        packs.iter().filter(|(pack, life)| retired.contains(&pack.run) && life.live_bytes > 0).map(|(p, _)| *p),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(run: u8, pack: u32) -> PackId {
        let mut random = [0; 16];
        random[0] = run & 31;
        random[1] = run >> 5;
        PackId { run: RunId::from_random(random), pack }
    }

    fn life(sealed_bytes: u64, live_percent: u64) -> PackLife {
        PackLife { sealed_bytes, overhead_bytes: 0, raw_bytes: 1000, live_bytes: live_percent * 10 }
    }

    fn again(packs: &[(PackId, PackLife)], lost: &[PackId], changed_bytes: u64) -> Vec<PackId> {
        let packs = packs.iter().copied().collect();
        packs_to_capture_again(&packs, &lost.iter().copied().collect(), changed_bytes).into_iter().collect()
    }

    #[test]
    fn what_is_captured_again() {
        let (a, b, c) = (pack(0, 0), pack(1, 0), pack(1, 1));
        // Healthy packs are left alone, whatever the budget.
        assert_eq!(again(&[(a, life(500, 99)), (b, life(500, 60))], &[], u64::MAX), []);
        // A sparse pack goes when the run captures twice as much anyway, and stays otherwise.
        assert_eq!(again(&[(a, life(500, 90)), (b, life(100, 20))], &[], 400), [b]);
        assert_eq!(again(&[(a, life(500, 90)), (b, life(100, 20))], &[], 399), []);
        // One of which a quarter is live stays, whatever the budget.
        assert_eq!(again(&[(a, life(500, 90)), (b, life(100, 25))], &[], u64::MAX), []);
        // A restore must never fetch more than twice a fresh full.
        assert_eq!(again(&[(a, life(500, 90)), (b, life(500, 10)), (c, life(500, 20))], &[], 0), [b]);
        assert_eq!(again(&[(a, life(500, 40)), (b, life(500, 40))], &[], 0), [a, b]);
        // Lost packs are captured again, dead ones are just left behind.
        assert_eq!(again(&[(a, life(500, 90)), (b, life(500, 0))], &[a, b], 0), [a]);
    }

    #[test]
    fn what_comes_with_a_pack_counts() {
        let (a, b) = (pack(0, 0), pack(1, 0));
        let small = PackLife { overhead_bytes: 900, ..life(100, 99) };
        assert_eq!(again(&[(a, life(500, 100)), (b, small)], &[], 0), [b]);
        assert_eq!(again(&[(a, life(5000, 100)), (b, small)], &[], 0), []);
    }

    #[test]
    fn amplification_stays_bounded_for_any_mix() {
        let mut state = 1_u64;
        let mut next = |limit: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % limit
        };
        for _ in 0..500 {
            let packs: BTreeMap<PackId, PackLife> =
                (0..1 + next(40)).map(|n| (pack(n as u8, 0), life(1 + next(1000), next(101)))).collect();
            let again = packs_to_capture_again(&packs, &BTreeSet::new(), next(5000));
            let kept = packs.iter().filter(|(pack, life)| life.live_bytes > 0 && !again.contains(pack));
            let (fetched, fresh) = kept.fold((0.0, 0.0), |sum, (_, life)| {
                (sum.0 + life.sealed_bytes as f64, sum.1 + life.live_sealed_bytes())
            });
            assert!(fetched <= AMPLIFICATION_MAX * fresh + 1e-6, "{fetched} > 2 x {fresh}");
        }
    }

    #[test]
    fn runs_are_retired() {
        let packs: BTreeMap<PackId, PackLife> =
            (0..=255).map(|n| (pack(n, 0), life(10, 60 + u64::from(n) % 30))).collect();
        let again = packs_to_capture_again(&packs, &BTreeSet::new(), 0);
        assert_eq!(again.len(), packs.len() - RUNS_KEPT_MAX);
        assert!(again.iter().all(|pack| packs[pack].live_bytes == 600));
    }

    #[test]
    fn approaches() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let id = SnapshotId { seq: 1, run: RunId::from_random([0; 16]) };
        let base = BaseFacts {
            id,
            last_full_at: Some(at("2026-11-01T00:00:00Z")),
            sealed_to: ["age1a".to_owned()].into(),
            unusable: None,
        };
        let now = at("2026-11-08T00:00:00Z");
        let week = Some(Duration::from_secs(7 * 86_400));
        let a = ["age1a".to_owned()];
        let ab = ["age1a".to_owned(), "age1b".to_owned()];
        assert_eq!(approach(false, Ok(&base), &a, None, now), Approach::Incremental(id));
        assert_eq!(approach(true, Ok(&base), &a, None, now), Approach::Full(FullReason::Asked));
        assert!(matches!(approach(false, Ok(&base), &a, week, now), Approach::Full(FullReason::IntervalPassed(_))));
        assert_eq!(approach(false, Ok(&base), &a, week, at("2026-11-07T23:59:59Z")), Approach::Incremental(id));
        // A clock that went back makes nothing due.
        assert_eq!(approach(false, Ok(&base), &a, week, at("2026-10-01T00:00:00Z")), Approach::Incremental(id));
        assert!(matches!(approach(false, Ok(&base), &ab, None, now), Approach::Full(FullReason::RecipientAdded(_))));
        assert!(matches!(approach(false, Err("none".into()), &a, None, now), Approach::Full(FullReason::NoBase(_))));
    }
}
