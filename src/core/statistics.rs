//! What a number of drills can support, computed exactly and without a table.
//!
//! All of it assumes that the drills are independent and alike; reports say so.

/// The probability that a binomial variable of `trials` and `chance` is at most `most`.
fn binomial_at_most(most: u64, trials: u64, chance: f64) -> f64 {
    if most >= trials || chance <= 0.0 {
        return 1.0;
    }
    if chance >= 1.0 {
        return 0.0;
    }
    let (ln_hit, ln_miss) = (chance.ln(), (-chance).ln_1p());
    let mut ln_ways = 0.0;
    let mut sum = 0.0;
    for hits in 0..=most {
        if hits > 0 {
            ln_ways += ((trials - hits + 1) as f64).ln() - (hits as f64).ln();
        }
        sum += (ln_ways + hits as f64 * ln_hit + (trials - hits) as f64 * ln_miss).exp();
    }
    sum.min(1.0)
}

/// Where a falling function of a chance between 0 and 1 crosses `level`.
fn crossing(level: f64, falling: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if falling(middle) > level { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// The upper bound on the probability of failure that `failures` among `trials` support with `confidence`: one-sided,
/// after Clopper and Pearson. Without failures it is 1 − (1 − confidence)^(1/trials). `None` without a trial.
pub fn failure_upper_bound(failures: u64, trials: u64, confidence: f64) -> Option<f64> {
    match (failures, trials) {
        (_, 0) => None,
        (0, trials) => Some(1.0 - (1.0 - confidence).powf(1.0 / trials as f64)),
        (failures, trials) if failures >= trials => Some(1.0),
        (failures, trials) => Some(crossing(1.0 - confidence, |chance| binomial_at_most(failures, trials, chance))),
    }
}

/// The two-sided interval after Clopper and Pearson for the probability of failure. `None` without a trial.
pub fn failure_interval(failures: u64, trials: u64, confidence: f64) -> Option<(f64, f64)> {
    let tail = (1.0 - confidence) / 2.0;
    let upper = failure_upper_bound(failures, trials, 1.0 - tail)?;
    let lower = match failures {
        0 => 0.0,
        failures => crossing(1.0 - tail, |chance| binomial_at_most(failures - 1, trials, chance)),
    };
    Some((lower, upper))
}

/// The confidence with which the slowest of `trials` is no faster than the `quantile` of all: 1 − quantile^trials.
pub fn slowest_confidence(quantile: f64, trials: u64) -> f64 {
    1.0 - quantile.powf(trials as f64)
}

/// How many trials without a failure it takes to bound the probability of failure by `bound`.
pub fn trials_for(bound: f64, confidence: f64) -> u64 {
    ((1.0 - confidence).ln() / (-bound).ln_1p()).ceil() as u64
}

/// The median of values; `None` where there is none.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length.is_multiple_of(2) => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        _ => Some(sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 5e-7, "{found} is not {expected}");
    }

    #[test]
    fn without_failures() {
        for (trials, bound) in
            [(1, 0.95), (4, 0.527_129), (12, 0.220_922), (52, 0.055_982), (59, 0.049_508), (299, 0.009_969)]
        {
            assert_near(failure_upper_bound(0, trials, 0.95).unwrap(), bound);
        }
        assert_eq!(failure_upper_bound(0, 0, 0.95), None);
        assert_eq!((trials_for(0.05, 0.95), trials_for(0.01, 0.95)), (59, 299));
    }

    #[test]
    fn intervals_after_clopper_and_pearson() {
        for (failures, trials, lower, upper) in [
            (1, 10, 0.002_528_6, 0.445_016_1),
            (0, 10, 0.0, 0.308_497_1),
            (5, 50, 0.033_275_1, 0.218_135_4),
            (2, 20, 0.012_348_5, 0.316_982_7),
            (10, 10, 0.691_502_9, 1.0),
        ] {
            let (found_lower, found_upper) = failure_interval(failures, trials, 0.95).unwrap();
            assert_near(found_lower, lower);
            assert_near(found_upper, upper);
        }
        assert_eq!(failure_interval(0, 0, 0.95), None);
    }

    #[test]
    fn one_sided_bounds_go_on_where_failures_begin() {
        assert_near(failure_upper_bound(1, 10, 0.95).unwrap(), 0.394_163_3);
        assert_eq!(failure_upper_bound(3, 3, 0.95), Some(1.0));
        assert!(failure_upper_bound(1, 100_000, 0.95).unwrap() < 0.000_05);
    }

    #[test]
    fn slowest_and_middle() {
        assert!(slowest_confidence(0.9, 22) > 0.9 && slowest_confidence(0.9, 21) < 0.9);
        assert!(slowest_confidence(0.95, 59) > 0.95 && slowest_confidence(0.95, 58) < 0.95);
        assert_eq!((median(&[]), median(&[3.0, 1.0]), median(&[5.0, 1.0, 3.0])), (None, Some(2.0), Some(3.0)));
    }
}
