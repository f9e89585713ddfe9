//! Writes HTML and SVG. Only constants of the program get in as markup; everything else is text, and escaped.

use std::fmt::Display;

/// A page that is being written.
#[derive(Default)]
pub(super) struct Writer(String);

impl Writer {
    /// Markup, which only the program itself writes.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Text, or the value of an attribute in double quotes.
    pub(super) fn text(&mut self, text: impl Display) -> &mut Self {
        for char in text.to_string().chars() {
            match char {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                char if misleads(char) => self.0.push('\u{fffd}'),
                char => self.0.push(char),
            }
        }
        self
    }

    /// An element that holds text only.
    pub(super) fn element(&mut self, open: &'static str, text: impl Display, close: &'static str) -> &mut Self {
        self.raw(open).text(text).raw(close)
    }

    /// A coordinate: one digit after the point is finer than any screen.
    pub(super) fn number(&mut self, value: f64) -> &mut Self {
        let value = if value.is_finite() { value } else { 0.0 };
        self.0.push_str(&super::super::words::trimmed(value, 1));
        self
    }

    /// An attribute that is a number.
    pub(super) fn at(&mut self, name: &'static str, value: f64) -> &mut Self {
        self.raw(" ").raw(name).raw("=\"").number(value).raw("\"")
    }

    /// What was written.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// Whether a character would make text read otherwise than it is.
fn misleads(char: char) -> bool {
    let turns_direction = matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns_direction || char.is_control() && char != '\n'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_never_markup() {
        let mut writer = Writer::default();
        writer.raw("<p title=\"").text("\" onload='x'").raw("\">").text("<script>&\u{202e}\u{1b}</p>").raw("</p>");
        assert_eq!(
            writer.finish(),
            "<p title=\"&quot; onload=&#39;x&#39;\">&lt;script&gt;&amp;\u{fffd}\u{fffd}&lt;/p&gt;</p>"
        );
        let mut writer = Writer::default();
        writer.at("x", 1.25).at("y", f64::NAN).at("z", 10.0);
        assert_eq!(writer.finish(), " x=\"1.2\" y=\"0\" z=\"10\"");
    }
}
