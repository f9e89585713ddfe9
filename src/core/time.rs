//! Moments and durations as they are written: RFC 3339 in UTC, and an integer with a unit.

use super::text::{text_debug, text_serde};
use chrono::{DateTime, SecondsFormat, SubsecRound, Utc};
use std::{fmt, str::FromStr, time::Duration};

/// A moment, in UTC, to the millisecond.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(DateTime<Utc>);

impl Timestamp {
    /// The moment, cut to the millisecond.
    pub fn new(moment: DateTime<Utc>) -> Self {
        Timestamp(moment.trunc_subsecs(3))
    }

    /// The moment as chrono's type.
    pub fn as_datetime(&self) -> DateTime<Utc> {
        self.0
    }

    /// Seconds from `earlier` to this moment; negative where this one is the earlier.
    pub fn seconds_since(&self, earlier: Timestamp) -> f64 {
        (self.0 - earlier.0).num_milliseconds() as f64 / 1000.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

/// Why a moment was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a moment with an offset, such as 2026-11-22T09:15:00Z or 2026-11-22T10:15:00.5+01:00")]
pub struct InvalidMoment(String);

impl FromStr for Timestamp {
    type Err = InvalidMoment;
    fn from_str(text: &str) -> Result<Self, InvalidMoment> {
        DateTime::parse_from_rfc3339(text)
            .map(|moment| Timestamp(moment.with_timezone(&Utc)))
            .map_err(|_| InvalidMoment(text.chars().take(80).collect()))
    }
}

text_serde!(Timestamp);
text_debug!(Timestamp);

/// Why a duration was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write an integer and one of s, m, h, d, such as 30m or 7d")]
pub struct InvalidDuration(String);

/// Reads a duration: an integer and one of s, m, h, d. At most 100 years.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let wrong = || InvalidDuration(text.chars().take(40).collect());
    let unit_at = text.len().checked_sub(1).filter(|at| text.is_char_boundary(*at)).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit_at);
    let unit_seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(unit_seconds).filter(|seconds| *seconds <= 36_525 * 86_400).ok_or_else(wrong)?;
    Ok(Duration::from_secs(seconds))
}

/// Writes a duration in the largest unit that divides it.
pub fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    for (unit, unit_seconds) in [("d", 86_400), ("h", 3_600), ("m", 60)] {
        if seconds >= unit_seconds && seconds.is_multiple_of(unit_seconds) {
            return format!("{}{unit}", seconds / unit_seconds);
        }
    }
    format!("{seconds}s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let moment: Timestamp = "2026-11-22T10:15:00.5+01:00".parse().unwrap();
        assert_eq!(moment.to_string(), "2026-11-22T09:15:00.500Z");
        for bad in ["2026-11-22", "2026-11-22T10:15:00", "yesterday", ""] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        for (text, seconds) in [("0s", 0), ("90s", 90), ("5m", 300), ("2h", 7_200), ("35d", 3_024_000)] {
            assert_eq!(parse_duration(text).unwrap().as_secs(), seconds);
        }
        for bad in ["", "s", "5", "-5s", "+5s", "1.5h", "5 m", "5w", "5é", "99999999999999999999s", "40000d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(format_duration(Duration::from_secs(90)), "90s");
        assert_eq!(format_duration(Duration::from_secs(604_800)), "7d");
    }
}
