//! Numbers as people read them.

/// A length of time.
pub(super) fn duration(seconds: f64) -> String {
    let sign = if seconds < 0.0 { "−" } else { "" };
    let seconds = seconds.abs();
    let whole = seconds.round() as u64;
    let pair = |first: u64, first_unit: &str, second: u64, second_unit: &str| match second {
        0 => format!("{first} {first_unit}"),
        second => format!("{first} {first_unit} {second} {second_unit}"),
    };
    let text = match whole {
        _ if seconds == 0.0 => "0 s".to_owned(),
        _ if seconds < 10.0 => format!("{} s", trimmed(seconds, 3)),
        _ if seconds < 60.0 => format!("{} s", trimmed(seconds, 1)),
        0..3_600 => pair(whole / 60, "min", whole % 60, "s"),
        3_600..86_400 => pair(whole / 3_600, "h", whole % 3_600 / 60, "min"),
        _ => pair(whole / 86_400, "d", whole % 86_400 / 3_600, "h"),
    };
    format!("{sign}{text}")
}

/// The same, and a dash where it is not known.
pub(super) fn duration_or_dash(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "–".to_owned(), duration)
}

/// A number with at most so many digits after the point, none of them idle.
pub(super) fn trimmed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A share of one in percent. What is not all of it never reads as all of it, what is not nothing never as nothing.
pub(super) fn percent(share: f64) -> String {
    let text = trimmed(share * 100.0, 2);
    match text.as_str() {
        "100" if share < 1.0 => "> 99.99 %".to_owned(),
        "0" if share > 0.0 => "< 0.01 %".to_owned(),
        _ => format!("{text} %"),
    }
}

/// A number of things.
pub(super) fn count(number: u64, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

/// Bytes.
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return format!("{} {unit}", trimmed(value, 1));
        }
        value /= 1024.0;
    }
    format!("{} TiB", trimmed(value, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (seconds, text) in [
            (0.0, "0 s"),
            (0.0123, "0.012 s"),
            (12.34, "12.3 s"),
            (59.97, "60 s"),
            (61.0, "1 min 1 s"),
            (3_600.0, "1 h"),
            (93_600.0, "1 d 2 h"),
            (-90.0, "−1 min 30 s"),
        ] {
            assert_eq!(duration(seconds), text);
        }
        for (share, text) in
            [(1.0, "100 %"), (0.999_999, "> 99.99 %"), (0.5, "50 %"), (0.000_001, "< 0.01 %"), (0.0, "0 %")]
        {
            assert_eq!(percent(share), text);
        }
        assert_eq!(
            (size(0), size(1536), trimmed(100.0, 0)),
            ("0 B".to_owned(), "1.5 KiB".to_owned(), "100".to_owned())
        );
        assert_eq!(
            (count(1, "drill", "drills"), count(0, "drill", "drills")),
            ("1 drill".to_owned(), "0 drills".to_owned())
        );
    }
}
