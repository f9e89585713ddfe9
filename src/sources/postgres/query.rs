//! An assertion's query as text: one statement and no more, so that it can stand in parentheses. Pure.

/// The most bytes of a query; it is handed over as one argument of a program.
const QUERY_BYTES_MAX: usize = 64 * 1024;

/// The one statement in `text`, without a semicolon at its end.
///
/// Knows PostgreSQL's quotes and comments (with `standard_conforming_strings` on, as it is set for assertions), so that
/// nothing in it can end the parentheses that it is put into.
pub(super) fn one_statement(text: &str) -> Result<&str, String> {
    if text.len() > QUERY_BYTES_MAX {
        return Err(format!("the query is longer than {} KiB", QUERY_BYTES_MAX / 1024));
    }
    if text.contains('\0') {
        return Err("the query has a zero byte in it".to_owned());
    }
    let mut reader = Reader { text, at: 0, depth: 0 };
    let mut end = None;
    while reader.at < text.len() {
        let from = reader.at;
        let is_blank = reader.skip()?;
        if text[from..].starts_with(';') {
            end.get_or_insert(from);
        } else if !is_blank && end.is_some() {
            return Err("the query is more than one statement".to_owned());
        }
    }
    if reader.depth != 0 {
        return Err("the query's parentheses do not match".to_owned());
    }
    let statement = text[..end.unwrap_or(text.len())].trim();
    if statement.is_empty() { Err("the query is empty".to_owned()) } else { Ok(statement) }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    /// Passes over the next piece; whether it means nothing.
    fn skip(&mut self) -> Result<bool, String> {
        let rest = &self.text[self.at..];
        let first = rest.chars().next().unwrap_or(' ');
        let mut is_blank = false;
        let bytes = match first {
            _ if rest.starts_with("--") => {
                is_blank = true;
                rest.find(['\n', '\r']).unwrap_or(rest.len())
            }
            _ if rest.starts_with("/*") => {
                is_blank = true;
                comment(rest)?
            }
            '\'' => quoted(rest, '\'', false)?,
            '"' => quoted(rest, '"', false)?,
            '$' => dollar(rest)?,
            '(' => {
                self.depth += 1;
                1
            }
            ')' => {
                self.depth = self.depth.checked_sub(1).ok_or("the query's parentheses do not match")?;
                1
            }
            _ if starts_word(first) => {
                let word = rest.find(|char: char| !in_word(char)).unwrap_or(rest.len());
                // Only as a word of its own it makes backslashes mean something in the string that follows.
                let escapes = rest[..word].eq_ignore_ascii_case("e") && rest[word..].starts_with('\'');
                word + if escapes { escaped(&rest[word..])? } else { 0 }
            }
            _ if first.is_ascii_digit() => rest.find(|char: char| !in_word(char)).unwrap_or(rest.len()),
            other => {
                is_blank = other.is_whitespace();
                other.len_utf8()
            }
        };
        self.at += bytes;
        Ok(is_blank)
    }
}

fn starts_word(char: char) -> bool {
    char.is_ascii_alphabetic() || char == '_' || !char.is_ascii()
}

fn in_word(char: char) -> bool {
    starts_word(char) || char.is_ascii_digit() || char == '$'
}

/// The length of what is quoted; a doubled quote ends it and begins the next, which is all the same.
fn quoted(text: &str, quote: char, escapes: bool) -> Result<usize, String> {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, char)) = chars.next() {
        if char == quote {
            // With escapes, what follows a doubled quote still has them.
            if escapes && text[at + 1..].starts_with(quote) {
                chars.next();
                continue;
            }
            return Ok(at + 1);
        }
        if escapes && char == '\\' {
            chars.next();
        }
    }
    Err("a quote in the query is not closed".to_owned())
}

/// The length of a string with escapes. It goes on behind space and comments, still with escapes.
fn escaped(text: &str) -> Result<usize, String> {
    let mut end = quoted(text, '\'', true)?;
    let mut at = end;
    loop {
        let rest = &text[at..];
        at += match rest.chars().next() {
            Some('\'') => {
                end = at + quoted(rest, '\'', true)?;
                end - at
            }
            Some(char) if char.is_ascii_whitespace() => 1,
            _ if rest.starts_with("--") => rest.find(['\n', '\r']).unwrap_or(rest.len()),
            _ => return Ok(end),
        };
    }
}

/// The length of a comment with the comments in it.
fn comment(text: &str) -> Result<usize, String> {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Ok(at);
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    Err("a comment in the query is not closed".to_owned())
}

/// The length of `$tag$...$tag$`, or of the one character where it is none.
fn dollar(text: &str) -> Result<usize, String> {
    let Some(end) = text[1..].find('$').map(|at| at + 2) else { return Ok(1) };
    let tag = &text[1..end - 1];
    let is_tag = tag.is_empty() || (tag.starts_with(starts_word) && tag.chars().all(in_word));
    if !is_tag {
        return Ok(1);
    }
    let delimiter = &text[..end];
    let close = text[end..].find(delimiter).ok_or("a quote in the query is not closed")?;
    Ok(end + close + delimiter.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_statement_is_told_from_more() {
        let same = [
            "select 1",
            "select ';'",
            "select E'\\';' , 'a'",
            "select e'it''\\';s'",
            "select E'a' -- on\n '\\';' from t",
            "select ';''' as \";)\"",
            "select date'2020-01-01', name$1$ from t",
            "select $$;)$$, $a$ $b$;$b$ $$ $a$, $1",
            "select (1) -- ;)\n, 2",
            "select /* ; /* ) */ ; */ 1",
            "select 'é;', \"ü)\", ü from ö",
            "select '\\' , 1",
        ];
        for text in same {
            assert_eq!(one_statement(text), Ok(text), "{text}");
        }
        for (text, statement) in [
            (" select 1 ;\n", "select 1"),
            ("select 1; -- done\n ; /* x */", "select 1"),
            ("select ';' ;", "select ';'"),
        ] {
            assert_eq!(one_statement(text), Ok(statement), "{text}");
        }
    }

    #[test]
    fn what_could_end_its_parentheses_is_refused() {
        for (text, why) in [
            ("", "empty"),
            (" ; ", "empty"),
            ("select 1; select 2", "more than one"),
            ("select '\\'; commit; select '", "more than one"),
            ("select date'\\'; commit --'", "more than one"),
            ("; commit", "more than one"),
            ("select E'a'\n'\\'' ; commit -- '", "more than one"),
            ("select 1) to program 'true'", "parentheses"),
            ("select (1", "parentheses"),
            ("select ')", "quote"),
            ("select \"x", "quote"),
            ("select E'\\'", "quote"),
            ("select $a$ x $$", "quote"),
            ("select /* /* */ 1", "comment"),
            ("select\0 1", "zero"),
        ] {
            let refused = one_statement(text).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
        assert!(one_statement(&"x".repeat(QUERY_BYTES_MAX + 1)).unwrap_err().contains("longer"));
    }

    #[test]
    fn no_text_makes_it_panic() {
        // Every short text of the characters that mean something.
        let characters: Vec<char> = "'\"$/*-;()\\eé1 ".chars().collect();
        let count = characters.len();
        for number in 0..count.pow(4) {
            let text: String = (0..4).map(|place| characters[number / count.pow(place) % count]).collect();
            let _ = one_statement(&text);
        }
    }
}
