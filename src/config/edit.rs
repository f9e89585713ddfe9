//! Adds and removes recipients in the text of `recoup.toml`, and leaves every other byte as it is.
//!
//! Where the parser says that the list and its elements stand, and nowhere else, something is put in or taken out. The
//! result must read as the same configuration with the other list; else nothing is changed, and the operator is told
//! what to write.

use super::{Settings, load_text, write::quoted};
use crate::core::failure::{Code, Failure};
use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// What becomes of the recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecipientChange<'a> {
    /// This one comes after the others.
    Add(&'a str),
    /// The one at this position goes.
    Remove(usize),
}

/// The text of the configuration with other recipients, and what it then says.
pub fn edit_recipients(
    settings: &Settings,
    text: &str,
    change: RecipientChange<'_>,
) -> Result<(String, Settings), Failure> {
    let edited = match change {
        RecipientChange::Add(recipient) => with_added(text, recipient),
        RecipientChange::Remove(at) => with_removed(text, at),
    };
    let edited = edited.ok_or_else(|| by_hand(settings, change, "its list of recipients is written in another way"))?;
    let read = load_text(&edited, &settings.file).map_err(|failure| by_hand(settings, change, &failure.message))?;
    let mut expected = settings.clone();
    match change {
        RecipientChange::Add(recipient) => expected.recipients.push(recipient.to_owned()),
        RecipientChange::Remove(at) => drop(expected.recipients.remove(at)),
    }
    // Lines moved; nothing else did.
    expected.origins = read.origins.clone();
    if read == expected {
        return Ok((edited, read));
    }
    Err(by_hand(settings, change, "it would then say something else, too"))
}

/// The refusal to touch a configuration, with what to change by hand.
pub fn by_hand(settings: &Settings, change: RecipientChange<'_>, cause: &str) -> Failure {
    let what = match change {
        RecipientChange::Add(recipient) => format!("add {} to", quoted(recipient)),
        RecipientChange::Remove(at) => {
            let recipient = settings.recipients.get(at).map(String::as_str).unwrap_or_default();
            format!("take {} out of", quoted(recipient))
        }
    };
    let file = settings.file.display();
    Failure::new(Code::Refused, format!("{file} cannot be edited safely"))
        .cause(cause)
        .safe("it was left as it is")
        .next_step(format!("{what} `recipients` in [encryption] of {file} by hand; the next command records it"))
}

/// Where the list of recipients stands, and each of its elements.
fn places(text: &str) -> Option<(Range<usize>, Vec<Range<usize>>)> {
    let table = DeTable::parse(text).ok()?;
    let encryption = table.get_ref().iter().find(|(key, _)| key.get_ref().as_ref() == "encryption")?.1;
    let DeValue::Table(encryption) = encryption.get_ref() else { return None };
    let list = encryption.iter().find(|(key, _)| key.get_ref().as_ref() == "recipients")?.1;
    let DeValue::Array(elements) = list.get_ref() else { return None };
    let span = list.span();
    let is_list = text.get(span.clone())?.starts_with('[') && text.get(span.clone())?.ends_with(']');
    is_list.then(|| (span, elements.iter().map(|element| element.span()).collect()))
}

/// What stands between two elements, or after the last: where its comma is, and where its first line ends.
struct Gap {
    comma: Option<usize>,
    line_end: Option<usize>,
}

/// Looks at the text from `from` to `to`, in which there are blanks, comments, and a comma perhaps.
fn gap(text: &str, from: usize, to: usize) -> Option<Gap> {
    let mut found = Gap { comma: None, line_end: None };
    let mut in_comment = false;
    for (at, byte) in text.as_bytes().get(from..to)?.iter().enumerate() {
        let at = from + at;
        match byte {
            b'\n' => {
                // The first line end after the comma, or after the element where there is no comma.
                in_comment = false;
                if found.line_end.is_none() {
                    let is_crlf = at > from && text.as_bytes()[at - 1] == b'\r';
                    found.line_end = Some(if is_crlf { at - 1 } else { at });
                }
            }
            _ if in_comment => {}
            b'#' => in_comment = true,
            b',' if found.comma.is_none() => {
                found.comma = Some(at);
                found.line_end = None;
            }
            b' ' | b'\t' | b'\r' => {}
            _ => return None,
        }
    }
    Some(found)
}

/// The blanks at the beginning of the line that something stands in.
fn indentation(text: &str, at: usize) -> &str {
    let line = text[..at].rfind('\n').map_or(0, |before| before + 1);
    let blanks = text[line..at].find(|char: char| char != ' ' && char != '\t').unwrap_or(at - line);
    &text[line..line + blanks]
}

fn with_added(text: &str, recipient: &str) -> Option<String> {
    let (list, elements) = places(text)?;
    let last = elements.last()?;
    let after = gap(text, last.end, list.end - 1)?;
    let line_break = if text[list.clone()].contains("\r\n") { "\r\n" } else { "\n" };
    let new = quoted(recipient);
    let mut edited = text.to_owned();
    // From the back, so that positions stay right.
    match (after.line_end, after.comma) {
        (Some(line_end), comma) => {
            let end = if comma.is_some() { "," } else { "" };
            edited.insert_str(line_end, &format!("{line_break}{}{new}{end}", indentation(text, last.start)));
            if comma.is_none() {
                edited.insert(last.end, ',');
            }
        }
        (None, Some(comma)) => edited.insert_str(comma + 1, &format!(" {new},")),
        (None, None) => edited.insert_str(last.end, &format!(", {new}")),
    }
    Some(edited)
}

fn with_removed(text: &str, at: usize) -> Option<String> {
    let (list, elements) = places(text)?;
    let element = elements.get(at)?;
    let next = elements.get(at + 1);
    let after = gap(text, element.end, next.map_or(list.end - 1, |next| next.start))?;
    let line = text[..element.start].rfind('\n').map_or(0, |before| before + 1);
    let stands_first = line > list.start && text[line..element.start].trim_matches([' ', '\t']).is_empty();
    let range = match after.line_end {
        // Alone in its line: the line goes, and what is said of it there.
        Some(end) if stands_first && !text[element.end..end].contains('\n') => {
            line..end + text[end..].find('\n').map_or(0, |newline| newline + 1)
        }
        _ => match (next, after.comma) {
            (Some(next), Some(_)) if !text[element.end..next.start].contains(['#', '\n']) => element.start..next.start,
            (None, comma) => {
                let before = elements.get(at.checked_sub(1)?)?;
                if text[before.end..element.start].contains(['#', '\n']) {
                    return None;
                }
                // The comma before it goes, or its own where the list ends with one. A comment stays.
                match comma {
                    Some(comma) if text[comma..list.end - 1].contains(['#', '\n']) => element.start..comma + 1,
                    Some(_) => element.start..list.end - 1,
                    None => before.end..element.end,
                }
            }
            _ => return None,
        },
    };
    let mut edited = text.to_owned();
    edited.replace_range(range, "");
    Some(edited)
}

#[cfg(test)]
#[path = "edit_tests.rs"]
mod tests;
