//! Values that have one way of being written: they are stored and shown in it. Text that somebody wrote, and what of it
//! must not reach a terminal.

/// Stores a type as its text, and reads it from there.
macro_rules! text_serde {
    ($($type:ty)*) => {$(
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

/// Shows a type as its text where it is looked into, too.
macro_rules! text_debug {
    ($($type:ty)*) => {$(
        impl std::fmt::Debug for $type {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(formatter, "{self}")
            }
        }
    )*};
}

pub(super) use {text_debug, text_serde};

/// Whether a character could steer a terminal, or make text read otherwise than it is: names, positions, reasons and
/// errors may come from hostile files. Ends of lines and tabs do neither where text may have several lines.
pub fn steers(char: char) -> bool {
    let turns_direction = matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns_direction || char.is_control() && !matches!(char, '\t' | '\n')
}

/// Whether a character has no place in a text of one line.
pub fn breaks_line(char: char) -> bool {
    steers(char) || matches!(char, '\t' | '\n' | '\u{2028}' | '\u{2029}')
}
