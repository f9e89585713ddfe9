//! Scales of the charts, with ticks where people look for them.

use super::{super::words::duration, writer::Writer};

/// Where the axes lie in a drawing that is 760 wide.
pub(super) const LEFT: f64 = 70.0;
pub(super) const RIGHT: f64 = 750.0;
pub(super) const TOP: f64 = 26.0;
pub(super) const BOTTOM: f64 = 200.0;

const MINUTE: f64 = 60.0;
const HOUR: f64 = 3_600.0;
const DAY: f64 = 86_400.0;

/// Lengths of time that make good ticks on a scale of powers.
const LOG_TICKS: &[f64] = &[
    0.001,
    0.01,
    0.1,
    1.0,
    10.0,
    MINUTE,
    10.0 * MINUTE,
    HOUR,
    6.0 * HOUR,
    DAY,
    7.0 * DAY,
    30.0 * DAY,
    365.0 * DAY,
    3_650.0 * DAY,
];

/// Steps between ticks on an even scale.
const STEPS: &[f64] = &[
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1.0,
    2.0,
    5.0,
    10.0,
    15.0,
    30.0,
    MINUTE,
    2.0 * MINUTE,
    5.0 * MINUTE,
    10.0 * MINUTE,
    15.0 * MINUTE,
    30.0 * MINUTE,
    HOUR,
    2.0 * HOUR,
    3.0 * HOUR,
    6.0 * HOUR,
    12.0 * HOUR,
    DAY,
    2.0 * DAY,
    7.0 * DAY,
    14.0 * DAY,
    30.0 * DAY,
    90.0 * DAY,
    365.0 * DAY,
    3_650.0 * DAY,
];

/// A vertical axis of seconds.
pub(super) struct Axis {
    log: bool,
    low: f64,
    high: f64,
}

impl Axis {
    /// An even axis from zero.
    pub(super) fn even(highest: f64) -> Self {
        Axis { log: false, low: 0.0, high: if highest > 0.0 { highest * 1.08 } else { 1.0 } }
    }

    /// An even axis, or one of powers where the values span more than it could show.
    pub(super) fn fitting(values: impl Iterator<Item = f64> + Clone) -> Self {
        let highest = values.clone().fold(0.0, f64::max);
        let lowest = values.filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
        if !lowest.is_finite() || highest / lowest < 20.0 {
            return Axis::even(highest);
        }
        let low = LOG_TICKS.iter().rev().find(|tick| **tick <= lowest / 1.2).copied().unwrap_or(LOG_TICKS[0] / 10.0);
        Axis { log: true, low, high: highest * 1.6 }
    }

    /// Where a value lies. What is below a scale of powers lies on its bottom.
    pub(super) fn y(&self, value: f64) -> f64 {
        let share = if self.log {
            (value.max(self.low).ln() - self.low.ln()) / (self.high.ln() - self.low.ln())
        } else {
            value / self.high
        };
        BOTTOM - (BOTTOM - TOP) * share.clamp(0.0, 1.0)
    }

    /// What to add to a description of it.
    pub(super) fn note(&self) -> &'static str {
        if self.log { " The scale is logarithmic." } else { "" }
    }

    fn ticks(&self) -> Vec<f64> {
        if self.log {
            return LOG_TICKS.iter().copied().filter(|tick| *tick >= self.low && *tick <= self.high).collect();
        }
        let step = STEPS.iter().copied().find(|step| self.high / step <= 6.0).unwrap_or(self.high / 4.0);
        (0..=6).map(|number| f64::from(number) * step).take_while(|tick| *tick <= self.high).collect()
    }

    /// Draws the grid and its labels.
    pub(super) fn draw(&self, out: &mut Writer) {
        for tick in self.ticks() {
            let y = self.y(tick);
            out.raw("<line class=\"grid\"").at("x1", LEFT).at("x2", RIGHT).at("y1", y).at("y2", y).raw("/>");
            out.raw("<text class=\"tick\" text-anchor=\"end\"").at("x", LEFT - 8.0).at("y", y + 4.0).raw(">");
            out.text(duration(tick)).raw("</text>");
        }
    }

    /// Draws what the policy permits as a broken line with its name; above the drawing where it is too high for it.
    pub(super) fn draw_policy(&self, out: &mut Writer, what: &str, seconds: f64) {
        if seconds > self.high {
            out.raw("<text class=\"limit-text\" text-anchor=\"end\"").at("x", RIGHT).at("y", TOP - 10.0).raw(">↑ ");
            out.text(what).raw(" ").text(duration(seconds)).raw(", above this scale</text>");
            return;
        }
        let y = self.y(seconds);
        out.raw("<line class=\"limit\"").at("x1", LEFT).at("x2", RIGHT).at("y1", y).at("y2", y).raw("/>");
        out.raw("<text class=\"limit-text\" text-anchor=\"end\"").at("x", RIGHT).at("y", y - 5.0).raw(">");
        out.text(what).raw(" ").text(duration(seconds)).raw("</text>");
    }
}

/// The left edge and the width of one of `number` bands.
pub(super) fn band(at: usize, number: usize) -> (f64, f64) {
    let width = (RIGHT - LEFT) / number.max(1) as f64;
    (LEFT + at as f64 * width, width)
}

/// Which of `number` bands have a label below them: eight at most, evenly chosen.
pub(super) fn is_labelled(at: usize, number: usize) -> bool {
    at.is_multiple_of(number.div_ceil(8).max(1))
}

/// A label below a band.
pub(super) fn label_below(out: &mut Writer, at: usize, number: usize, text: &str) {
    let (left, width) = band(at, number);
    out.raw("<text class=\"tick\" text-anchor=\"middle\"").at("x", left + width / 2.0).at("y", BOTTOM + 18.0).raw(">");
    out.text(text).raw("</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_fit_their_values() {
        let even = Axis::fitting([1.0, 2.0].into_iter());
        assert!(!even.log && (even.y(0.0) - BOTTOM).abs() < 1e-9 && even.y(2.0) > TOP);
        let log = Axis::fitting([0.0, 1.0, 5_000.0].into_iter());
        assert!(log.log && (log.y(0.0) - BOTTOM).abs() < 1e-9 && log.y(5_000.0) > TOP && log.y(1.0) < BOTTOM);
        for axis in [even, log, Axis::fitting([].into_iter()), Axis::even(1e12)] {
            assert!(!axis.ticks().is_empty() && axis.ticks().len() < 20, "{:?}", axis.ticks());
        }
    }
}
