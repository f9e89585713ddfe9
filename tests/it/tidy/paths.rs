//! Just enough of Rust's grammar to see which paths a source file uses.

/// A path as it is written, `use` trees taken apart and `super` and `self` resolved to `crate`, and its line.
#[derive(Debug, PartialEq)]
pub(crate) struct UsedPath {
    pub(crate) line: usize,
    pub(crate) segments: Vec<String>,
}

impl UsedPath {
    /// Whether `pattern`, such as `env::var`, stands somewhere in the path.
    pub(crate) fn holds(&self, pattern: &str) -> bool {
        let pattern: Vec<&str> = pattern.split("::").collect();
        self.segments.windows(pattern.len()).any(|window| window == pattern)
    }

    /// Whether the path begins with `pattern`.
    pub(crate) fn starts_with(&self, pattern: &str) -> bool {
        let pattern: Vec<&str> = pattern.split("::").collect();
        self.segments.iter().zip(&pattern).filter(|(segment, wanted)| segment == *wanted).count() == pattern.len()
    }
}

/// `source` with comments and the insides of strings blanked, and items for tests only left out. Lines stay lines.
pub(crate) fn product_code(source: &str) -> String {
    let mut kept = String::new();
    // The line that ends the item being left out; empty while its first line is awaited.
    let mut leaving: Option<String> = None;
    for line in blank(source).lines() {
        let text = line.trim_start();
        let indent = &line[..line.len() - text.len()];
        match &mut leaving {
            None if text == "#[cfg(test)]" => leaving = Some(String::new()),
            None => kept.push_str(line),
            Some(end) if end.is_empty() && text.starts_with("#[") => {}
            Some(end) if end.is_empty() && (text.ends_with([';', '}', ','])) => leaving = None,
            Some(end) if end.is_empty() => *end = format!("{indent}}}"),
            Some(end) if end == line => leaving = None,
            Some(_) => {}
        }
        kept.push('\n');
    }
    kept
}

/// All paths in `code` (see [`product_code`]) of the module `module`, such as `["sources", "sqlite"]`.
pub(crate) fn used_paths(code: &str, module: &[&str]) -> Vec<UsedPath> {
    let characters: Vec<char> = code.chars().collect();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < characters.len() {
        let here = characters[at];
        let after_path = characters[..at].ends_with(&[':', ':']);
        let end = at + characters[at..].iter().take_while(|character| is_word(**character)).count();
        if end == at {
            line += usize::from(here == '\n');
            at += 1;
        } else if after_path || !characters[end..].starts_with(&[':', ':']) {
            at = end;
        } else {
            let mut trees = Vec::new();
            let mut reader = TreeReader { characters: &characters, at };
            reader.tree(Vec::new(), &mut trees);
            found.extend(trees.into_iter().map(|segments| UsedPath { line, segments: resolve(segments, module) }));
            line += characters[at..reader.at].iter().filter(|character| **character == '\n').count();
            at = reader.at;
        }
    }
    found
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn resolve(segments: Vec<String>, module: &[&str]) -> Vec<String> {
    if segments[0] != "super" && segments[0] != "self" {
        return segments;
    }
    let mut resolved: Vec<String> = std::iter::once("crate").chain(module.iter().copied()).map(str::to_owned).collect();
    for (index, segment) in segments.into_iter().enumerate() {
        match segment.as_str() {
            "super" => drop(resolved.pop()),
            "self" if index == 0 => {}
            _ => resolved.push(segment),
        }
    }
    resolved
}

struct TreeReader<'a> {
    characters: &'a [char],
    at: usize,
}

impl TreeReader<'_> {
    /// Reads `a::b`, `a::{b, c::d}` or `a::*`.
    fn tree(&mut self, mut prefix: Vec<String>, trees: &mut Vec<Vec<String>>) {
        loop {
            self.skip_space();
            match self.characters.get(self.at) {
                Some('{') => {
                    self.at += 1;
                    return self.group(&prefix, trees);
                }
                Some(character) if is_word(*character) => prefix.push(self.word()),
                _ => break,
            }
            if !self.characters[self.at..].starts_with(&[':', ':']) {
                break;
            }
            self.at += 2;
        }
        trees.push(prefix);
    }

    fn group(&mut self, prefix: &[String], trees: &mut Vec<Vec<String>>) {
        while let Some(character) = self.characters.get(self.at) {
            match character {
                '}' => {
                    self.at += 1;
                    return;
                }
                ',' | '*' => self.at += 1,
                character if character.is_whitespace() => self.at += 1,
                character if is_word(*character) => {
                    self.tree(prefix.to_vec(), trees);
                    // What follows is `as name`, or nothing.
                    let rest = &self.characters[self.at..];
                    self.at += rest.iter().take_while(|character| !matches!(character, ',' | '}')).count();
                }
                _ => return,
            }
        }
    }

    fn word(&mut self) -> String {
        let word: String = self.characters[self.at..].iter().take_while(|character| is_word(**character)).collect();
        self.at += word.chars().count();
        word
    }

    fn skip_space(&mut self) {
        while self.characters.get(self.at).is_some_and(|character| character.is_whitespace()) {
            self.at += 1;
        }
    }
}

/// Blanks comments and the insides of strings and characters; every line end stays.
fn blank(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let after_word = code.chars().next_back().is_some_and(is_word);
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment_length(rest),
            '"' => string_length(rest),
            'r' if !after_word => raw_string_length(rest),
            '\'' => character_length(rest),
            _ => 0,
        };
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..length].chars().map(|character| if character == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    code
}

fn block_comment_length(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of `r"..."` or `r#"..."#`; 0 for a word that begins with r.
fn raw_string_length(text: &str) -> usize {
    let hashes = text[1..].chars().take_while(|character| *character == '#').count();
    if !text[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let body = 2 + hashes;
    text[body..].find(&end).map_or(text.len(), |at| body + at + end.len())
}

/// The length of a character in quotes; 0 for a lifetime.
fn character_length(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => {
            characters.next();
            characters.find(|(_, character)| *character == '\'').map_or(0, |(at, _)| at + 1)
        }
        _ => characters.next().filter(|(_, character)| *character == '\'').map_or(0, |(at, _)| at + 1),
    }
}

#[test]
fn paths_are_found_wherever_they_stand() {
    let source = r##"
//! crate::comment::one
use crate::{
    core::{failure::Failure, id::{self, RunId as Run}},
    world::*,
};
use super::{contract, super::stores::file};
fn f<'a>(x: &'a str) -> Vec::<u8> {
    let quoted = ("crate::string::two", r#"crate::"raw"::three"#, 'c', '\'', b"crate::bytes::four");
    /* crate::comment::five /* crate::nested::six */ */
    std::fs::read(self::helper::path(x))
}
#[cfg(test)]
mod tests {
    use crate::cli;
}
#[cfg(test)]
pub(crate) mod contract;
use crate::last;
"##;
    let found = used_paths(&product_code(source), &["sources", "sqlite"]);
    let found: Vec<String> =
        found.into_iter().map(|path| format!("{}:{}", path.line, path.segments.join("::"))).collect();
    let expected = [
        "3:crate::core::failure::Failure",
        "3:crate::core::id::self",
        "3:crate::core::id::RunId",
        "3:crate::world",
        "7:crate::sources::contract",
        "7:crate::stores::file",
        "8:Vec",
        "11:std::fs::read",
        "11:crate::sources::sqlite::helper::path",
        "19:crate::last",
    ];
    assert_eq!(found, expected);
}
