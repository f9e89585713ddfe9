//! Numbers and lines of the story, for people.

/// How far the text of a story stands from the margin.
const LABEL_WIDTH: usize = 12;

/// A number in groups of three digits.
pub(super) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size, to a tenth.
pub(super) fn size(bytes: u64) -> String {
    const MIB: f64 = 1024.0 * 1024.0;
    if bytes < 1024 * 1024 {
        format!("{:.0} KiB", bytes as f64 / 1024.0)
    } else {
        format!("{:.1} MiB", bytes as f64 / MIB)
    }
}

/// A label in the margin and the text beside it; further lines of it are indented as far.
pub(super) fn pad(label: &str, text: &str) -> String {
    let indented = text.replace('\n', &format!("\n{}", " ".repeat(LABEL_WIDTH)));
    format!("{label:<LABEL_WIDTH$}{indented}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for (value, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(number(value), text);
        }
        assert_eq!((size(2_048), size(3 << 20)), ("2 KiB".to_owned(), "3.0 MiB".to_owned()));
        assert_eq!(pad("heal", "a\nb"), "heal        a\n            b");
    }
}
