//! Reading TOML strictly: every key is known, every value has its type and its line.

use super::{Origin, nearest::nearest};
use crate::core::failure::{Code, Failure};
use std::{collections::BTreeMap, fmt::Display, path::Path};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// The largest configuration or policy file that is read.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A file's text, or a text that is built in.
#[derive(Clone, Copy)]
pub(super) struct Document<'t> {
    pub(super) file: &'t Path,
    pub(super) built_in: bool,
    pub(super) text: &'t str,
}

/// A value and the line it stands in.
pub(super) type Found<T> = (T, u32);

impl<'t> Document<'t> {
    /// Parses the text; `known` names every section and key there is, for mistyped ones.
    pub(super) fn parse(self, keys: &'static [&'static str], known: Known) -> Result<Section<'t>, Failure> {
        let table = DeTable::parse(self.text).map_err(|error| {
            let line = error.span().map_or(1, |span| self.line(span.start));
            self.failure(line, "the file is not TOML", error.message())
        })?;
        Section::new(self, "", table, keys, known)
    }

    fn line(&self, offset: usize) -> u32 {
        let before = self.text.as_bytes().get(..offset).unwrap_or(self.text.as_bytes());
        u32::try_from(before.iter().filter(|byte| **byte == b'\n').count() + 1).unwrap_or(u32::MAX)
    }

    /// Where a value of this text comes from.
    pub(super) fn origin(&self, line: u32) -> Origin {
        if self.built_in { Origin::BuiltIn } else { Origin::File { file: self.file.to_owned(), line } }
    }

    /// What is wrong with a line.
    pub(super) fn failure(&self, line: u32, message: impl Display, cause: impl Display) -> Failure {
        let file = self.file.display();
        Failure::new(Code::Configuration, format!("{file}:{line}: {message}"))
            .cause(cause)
            .safe("nothing was read or changed")
            .next_step(format!("correct line {line} of {file}, then run the same command again"))
    }
}

/// Every key of a file by its section, so that a mistyped or misplaced one can be named.
pub(super) type Known = &'static [(&'static str, &'static [&'static str])];

/// A table of a document, all of whose keys are known.
pub(super) struct Section<'t> {
    pub(super) document: Document<'t>,
    name: String,
    known: Known,
    fields: BTreeMap<String, Found<Spanned<DeValue<'t>>>>,
}

impl<'t> Section<'t> {
    fn new(
        document: Document<'t>,
        name: &str,
        table: Spanned<DeTable<'t>>,
        keys: &'static [&'static str],
        known: Known,
    ) -> Result<Self, Failure> {
        let mut fields = BTreeMap::new();
        for (key, value) in table.into_inner() {
            let line = document.line(key.span().start);
            fields.insert(key.into_inner().into_owned(), (value, line));
        }
        let section = Section { document, name: name.to_owned(), known, fields };
        // The first line that is wrong, not the first key of the alphabet.
        let unknown = section.fields.iter().filter(|(key, _)| !keys.contains(&key.as_str()));
        match unknown.min_by_key(|(_, (_, line))| *line) {
            Some((key, (_, line))) => Err(section.unknown_key(key, *line, keys)),
            None => Ok(section),
        }
    }

    fn unknown_key(&self, key: &str, line: u32, keys: &[&str]) -> Failure {
        let elsewhere = self.known.iter().find(|(_, theirs)| theirs.contains(&key));
        let cause = match (elsewhere, nearest(key, keys.iter().copied())) {
            (Some((section, _)), _) => format!("{key:?} belongs {}", place(section)),
            (None, Some(known)) => format!("the nearest known key is {known:?}"),
            (None, None) => "no key is known here".to_owned(),
        };
        let shown: String = key.chars().take(80).collect();
        self.document.failure(line, format!("unknown key {shown:?} {}", self.place()), cause)
    }

    fn place(&self) -> String {
        place(&self.name)
    }

    /// A table below this one; empty where it is not written.
    pub(super) fn table(
        &mut self,
        key: &str,
        name: &str,
        keys: &'static [&'static str],
    ) -> Result<Section<'t>, Failure> {
        let Some((value, line)) = self.fields.remove(key) else {
            return Section::new(self.document, name, Spanned::new(0..0, DeTable::new()), keys, self.known);
        };
        self.table_of(value, line, key, name, keys)
    }

    /// The tables of an array of tables, each with its line.
    pub(super) fn tables(
        &mut self,
        key: &str,
        name: &str,
        keys: &'static [&'static str],
    ) -> Result<Vec<Found<Section<'t>>>, Failure> {
        let Some((value, line)) = self.fields.remove(key) else { return Ok(Vec::new()) };
        let DeValue::Array(values) = value.into_inner() else {
            return Err(self.wrong_type(key, line, &format!("a list of tables, each headed [[{key}]]")));
        };
        let mut tables = Vec::new();
        for value in values {
            let line = self.document.line(value.span().start);
            tables.push((self.table_of(value, line, key, name, keys)?, line));
        }
        Ok(tables)
    }

    fn table_of(
        &self,
        value: Spanned<DeValue<'t>>,
        line: u32,
        key: &str,
        name: &str,
        keys: &'static [&'static str],
    ) -> Result<Section<'t>, Failure> {
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) => Section::new(self.document, name, Spanned::new(span, table), keys, self.known),
            _ => Err(self.wrong_type(key, line, &format!("a table, headed {name}"))),
        }
    }

    /// The line of a key that stands there and was not read yet.
    pub(super) fn line_of(&self, key: &str) -> Option<u32> {
        self.fields.get(key).map(|(_, line)| *line)
    }

    /// A text that is not empty.
    pub(super) fn text(&mut self, key: &str) -> Result<Option<Found<String>>, Failure> {
        let Some((value, line)) = self.fields.remove(key) else { return Ok(None) };
        match value.into_inner() {
            DeValue::String(text) if text.trim().is_empty() => {
                Err(self.wrong(key, line, "it is empty; leave the key out or give it a value"))
            }
            DeValue::String(text) if text.contains('\0') => Err(self.wrong(key, line, "it contains a zero byte")),
            DeValue::String(text) => Ok(Some((text.into_owned(), line))),
            _ => Err(self.wrong_type(key, line, "a text in quotes")),
        }
    }

    /// A text that means a `T`.
    pub(super) fn parsed<T, E: Display>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<Found<T>>, Failure> {
        let Some((text, line)) = self.text(key)? else { return Ok(None) };
        parse(&text).map(|value| Some((value, line))).map_err(|error| self.wrong(key, line, error))
    }

    /// A whole number in a range.
    pub(super) fn integer(
        &mut self,
        key: &str,
        range: std::ops::RangeInclusive<u32>,
    ) -> Result<Option<Found<u32>>, Failure> {
        let Some((value, line)) = self.fields.remove(key) else { return Ok(None) };
        let number = match value.into_inner() {
            DeValue::Integer(integer) => u32::from_str_radix(integer.as_str(), integer.radix()).ok(),
            _ => None,
        };
        match number.filter(|number| range.contains(number)) {
            Some(number) => Ok(Some((number, line))),
            None => {
                let (least, most) = range.into_inner();
                Err(self.wrong_type(key, line, &format!("a whole number from {least} to {most}")))
            }
        }
    }

    /// True or false.
    pub(super) fn boolean(&mut self, key: &str) -> Result<Option<Found<bool>>, Failure> {
        let Some((value, line)) = self.fields.remove(key) else { return Ok(None) };
        match value.into_inner() {
            DeValue::Boolean(value) => Ok(Some((value, line))),
            _ => Err(self.wrong_type(key, line, "true or false")),
        }
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, key: &str) -> Result<Option<Found<Vec<String>>>, Failure> {
        let Some((value, line)) = self.fields.remove(key) else { return Ok(None) };
        let wrong = |section: &Self| section.wrong_type(key, line, "a list of texts, such as [\"one\", \"two\"]");
        let DeValue::Array(values) = value.into_inner() else { return Err(wrong(self)) };
        let texts: Option<Vec<String>> = values
            .into_iter()
            .map(|value| match value.into_inner() {
                DeValue::String(text) if !text.trim().is_empty() => Some(text.trim().to_owned()),
                _ => None,
            })
            .collect();
        Ok(Some((texts.ok_or_else(|| wrong(self))?, line)))
    }

    /// A key that this section cannot do without.
    pub(super) fn required<T>(&self, found: Option<Found<T>>, key: &str, line: u32) -> Result<Found<T>, Failure> {
        found.ok_or_else(|| {
            let message = format!("{} has no key {key:?}", self.name);
            self.document.failure(line, message, format!("every {} needs one", self.name))
        })
    }

    /// What is wrong with the value of a key.
    pub(super) fn wrong(&self, key: &str, line: u32, cause: impl Display) -> Failure {
        self.document.failure(line, format!("the value of {key:?} {} is not usable", self.place()), cause)
    }

    fn wrong_type(&self, key: &str, line: u32, wanted: &str) -> Failure {
        self.document.failure(line, format!("{key:?} {} has the wrong kind of value", self.place()), {
            format!("it must be {wanted}")
        })
    }
}

fn place(section: &str) -> String {
    if section.is_empty() { "at the top of the file".to_owned() } else { format!("in {section}") }
}
