//! Numbers and tables for people.

use crate::core::{text::breaks_line, time::Timestamp};
use chrono::SecondsFormat;

pub(super) use crate::core::size::size_text as size;

/// A span in its largest unit.
pub(super) fn span(seconds: f64) -> String {
    let whole = seconds.abs().round() as u64;
    let text = match whole {
        0..=119 => format!("{whole} s"),
        120..=7_199 => format!("{} min", whole / 60),
        7_200..=172_799 => format!("{} h", whole / 3_600),
        _ => format!("{} d", whole / 86_400),
    };
    if seconds <= -1.0 { format!("-{text}") } else { text }
}

/// A span as policies write it: in its largest unit, cut.
pub(super) fn short(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A moment to the second.
pub(super) fn moment(moment: Timestamp) -> String {
    moment.as_datetime().to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// How long ago something was, by this host's clock.
pub(super) fn age(seconds: f64) -> String {
    if seconds <= -1.0 { "in the future".to_owned() } else { span(seconds) }
}

/// A count and its noun.
pub(super) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Text that somebody else wrote, on one line: what stands on a line of its own must be ours.
pub(super) fn line(text: &str) -> String {
    text.replace(['\n', '\t'], " ").replace(breaks_line, "\u{fffd}")
}

/// Rows in aligned columns; those named in `right` are aligned to the right. Nothing trails.
pub(super) fn table(rows: &[Vec<String>], right: &[usize]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| line(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let space = " ".repeat(widths[column] - cell.chars().count());
            let (before, after) = if right.contains(&column) { (space.as_str(), "") } else { ("", space.as_str()) };
            line.push_str(&format!("{before}{cell}{after}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_000, "1023 KiB"),
            (1_048_575, "1.0 MiB"),
            (107_374_182_400, "100 GiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(size(bytes), shown, "{bytes}");
        }
        for (seconds, shown) in [
            (0.2, "0 s"),
            (119.0, "119 s"),
            (7_199.0, "119 min"),
            (90_000.0, "25 h"),
            (-200.0, "-3 min"),
            (1e6, "11 d"),
        ] {
            assert_eq!(span(seconds), shown);
        }
        assert_eq!((age(-2.0), age(119.0)), ("in the future".to_owned(), "119 s".to_owned()));
        assert_eq!((count(1, "object"), count(0, "object")), ("1 object".to_owned(), "0 objects".to_owned()));
    }

    #[test]
    fn tables_are_aligned() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = table(&[row(["NAME", "SEQ", "X"]), row(["é", "10", ""])], &[1]);
        assert_eq!(text, "NAME  SEQ  X\né      10\n");
        assert_eq!(table(&[], &[]), "");
        // Nobody makes a row of his own.
        let text = table(&[row(["held\n9 LEDGER\t\u{1b}[2J\u{2028}", "1", "x"])], &[1]);
        assert_eq!(text, "held 9 LEDGER \u{fffd}[2J\u{fffd}  1  x\n");
    }
}
