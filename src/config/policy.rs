//! Policies: from `policies/NAME.toml`, or built in.

use super::{
    Origins, Settings,
    document::{Document, Found, Known, Section},
    parse::{ReadPolicy, first_repeated, parse_positive_duration},
};
use crate::core::{
    failure::Failure,
    id::Sha256,
    policy::{Assertion, Copies, Expectation, FingerprintRule, Policy, TablePattern},
};
use sha2::Digest;
use std::{
    borrow::Cow,
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

/// The name of the policy that a source has unless it names another.
pub const DEFAULT_POLICY: &str = "default";

/// The policy that `init` writes as `policies/default.toml`.
pub const DEFAULT_POLICY_TEXT: &str = include_str!("../../policies/default.toml");

/// The policies that are built in, by name; a file of the name stands in their place. They assume nothing about the
/// data: policies with assertions are for one schema, and are files.
pub const BUILT_IN: &[(&str, &str)] = &[
    (DEFAULT_POLICY, DEFAULT_POLICY_TEXT),
    ("gold", include_str!("../../policies/gold.toml")),
    ("silver", include_str!("../../policies/silver.toml")),
    ("bronze", include_str!("../../policies/bronze.toml")),
];

const TOP: &[&str] = &["tier", "rpo", "rto", "copies", "schedule", "retention", "fingerprints", "drill"];
const COPIES: &[&str] = &["min_stores", "min_regions", "min_providers", "immutable_for"];
const SCHEDULE: &[&str] = &["full", "incremental"];
const RETENTION: &[&str] = &["keep_within", "keep_last"];
const FINGERPRINTS: &[&str] = &["tables", "max_time"];
const DRILL: &[&str] = &["every", "identity_file", "identity_command", "assert"];
const ASSERT: &[&str] = &["name", "query", "expect"];

/// Every section of a policy and its keys; the first is the top of the file.
pub const KNOWN: Known = &[
    ("", TOP),
    ("[copies]", COPIES),
    ("[schedule]", SCHEDULE),
    ("[retention]", RETENTION),
    ("[fingerprints]", FINGERPRINTS),
    ("[drill]", DRILL),
    ("[[drill.assert]]", ASSERT),
];

/// How long fingerprints may take where a policy does not say.
const FINGERPRINTS_MAX_TIME: Duration = Duration::from_secs(5 * 60);

/// The most copies, regions or snapshots that a policy may ask for.
const COUNT_MAX: u32 = 1_000_000;

/// A policy and the text it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedPolicy {
    /// Its name.
    pub name: String,
    /// Its file; `None` where it is built in.
    pub file: Option<PathBuf>,
    /// Its text, whose SHA-256 goes into every report.
    pub text: String,
    /// What it says.
    pub policy: Policy,
    /// The line of each number of copies, for what only the stores can contradict.
    copies_lines: CopiesLines,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct CopiesLines {
    min_stores: u32,
    min_regions: u32,
    min_providers: u32,
}

/// Reads a policy; `None` where there is none of that name.
pub(super) fn load_policy(
    name: &str,
    dir: &Path,
    read: &ReadPolicy<'_>,
    origins: &mut Origins,
) -> Result<Option<LoadedPolicy>, Failure> {
    let built_in = || BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned());
    let (file, text) = match read(name)? {
        Some((file, text)) => (Some(file), text),
        None => match built_in() {
            Some(text) => (None, text),
            None => return Ok(None),
        },
    };
    let shown = file.clone().unwrap_or_else(|| PathBuf::from(format!("built-in policy {name}")));
    let document = Document { file: &shown, built_in: file.is_none(), text: &text };
    let mut reading = Reading { document, prefix: format!("policy.{name}"), origins };
    let (mut policy, copies_lines) = reading.policy(dir)?;
    policy.sha256 = Some(Sha256(sha2::Sha256::digest(&text).into()));
    Ok(Some(LoadedPolicy { name: name.to_owned(), file, text, policy, copies_lines }))
}

struct Reading<'t, 'o> {
    document: Document<'t>,
    prefix: String,
    origins: &'o mut Origins,
}

impl<'t> Reading<'t, '_> {
    fn note<T>(&mut self, key: &str, found: Option<Found<T>>) -> Option<T> {
        let (value, line) = found?;
        self.origins.note(format!("{}.{key}", self.prefix), self.document.origin(line));
        Some(value)
    }

    fn policy(&mut self, dir: &Path) -> Result<(Policy, CopiesLines), Failure> {
        let mut top = self.document.parse(TOP, KNOWN)?;
        let (copies, copies_lines) = self.copies(&mut top)?;
        let (full_interval, incremental_interval) = self.schedule(&mut top)?;
        let mut retention = top.table("retention", "[retention]", RETENTION)?;
        let keep_within = retention.parsed("keep_within", parse_positive_duration)?;
        let keep_last = retention.integer("keep_last", 1..=COUNT_MAX)?;
        let mut policy = Policy {
            tier: self.note("tier", top.text("tier")?),
            rpo: self.note("rpo", top.parsed("rpo", parse_positive_duration)?),
            rto: self.note("rto", top.parsed("rto", parse_positive_duration)?),
            copies,
            full_interval,
            incremental_interval,
            keep_within: self.note("retention.keep_within", keep_within),
            keep_last: self.note("retention.keep_last", keep_last).map(u64::from),
            ..Policy::default()
        };
        policy.fingerprints = self.fingerprints(&mut top)?;
        self.drill(&mut top, dir, &mut policy)?;
        Ok((policy, copies_lines))
    }

    fn copies(&mut self, top: &mut Section<'t>) -> Result<(Copies, CopiesLines), Failure> {
        let mut section = top.table("copies", "[copies]", COPIES)?;
        let mut count = |key: &str| -> Result<(Option<u32>, u32), Failure> {
            let found = section.integer(key, 1..=COUNT_MAX)?;
            let line = found.map_or(0, |(_, line)| line);
            Ok((self.note(&format!("copies.{key}"), found), line))
        };
        let (min_stores, stores_line) = count("min_stores")?;
        let (min_regions, regions_line) = count("min_regions")?;
        let (min_providers, providers_line) = count("min_providers")?;
        let immutable_for = section.parsed("immutable_for", parse_positive_duration)?;
        let copies = Copies {
            min_stores,
            min_regions,
            min_providers,
            immutable_for: self.note("copies.immutable_for", immutable_for),
        };
        let lines = CopiesLines { min_stores: stores_line, min_regions: regions_line, min_providers: providers_line };
        Ok((copies, lines))
    }

    fn schedule(&mut self, top: &mut Section<'t>) -> Result<(Option<Duration>, Option<Duration>), Failure> {
        let mut section = top.table("schedule", "[schedule]", SCHEDULE)?;
        let full = section.parsed("full", parse_positive_duration)?;
        let incremental = section.parsed("incremental", parse_positive_duration)?;
        if let (Some((full, _)), Some((incremental, line))) = (full, incremental)
            && incremental > full
        {
            let cause = "incrementals would be due less often than fulls";
            return Err(section.wrong("incremental", line, cause));
        }
        Ok((self.note("schedule.full", full), self.note("schedule.incremental", incremental)))
    }

    fn fingerprints(&mut self, top: &mut Section<'t>) -> Result<Option<FingerprintRule>, Failure> {
        let mut section = top.table("fingerprints", "[fingerprints]", FINGERPRINTS)?;
        let tables = section.texts("tables")?;
        let limit = section.parsed("max_time", parse_positive_duration)?;
        let Some((named, line)) = tables else {
            return match limit {
                None => Ok(None),
                Some((_, line)) => Err(section.wrong("max_time", line, "without tables nothing is taken")),
            };
        };
        let patterns: Result<Vec<TablePattern>, &str> = named.iter().map(|text| text.parse()).collect();
        let tables = patterns.map_err(|why| section.wrong("tables", line, why))?;
        if tables.is_empty() {
            return Err(section.wrong("tables", line, "it is empty; leave the key out or name a table"));
        }
        self.note("fingerprints.tables", Some(((), line)));
        let limit = self.note("fingerprints.max_time", limit).unwrap_or(FINGERPRINTS_MAX_TIME);
        Ok(Some(FingerprintRule { tables, max_time: limit }))
    }

    fn drill(&mut self, top: &mut Section<'t>, dir: &Path, policy: &mut Policy) -> Result<(), Failure> {
        let mut section = top.table("drill", "[drill]", DRILL)?;
        let every = section.parsed("every", parse_positive_duration)?;
        let file = section.text("identity_file")?;
        let command = section.text("identity_command")?;
        if let (Some(_), Some((_, line))) = (&file, &command) {
            return Err(section.wrong("identity_command", *line, "identity_file is set as well; keep one of them"));
        }
        policy.drill_interval = self.note("drill.every", every);
        policy.drill_identity_file = self.note("drill.identity_file", file).map(|file| dir.join(file));
        policy.drill_identity_command = self.note("drill.identity_command", command);
        for (mut section, line) in section.tables("assert", "[[drill.assert]]", ASSERT)? {
            let name = section.text("name")?;
            let (name, name_line) = section.required(name, "name", line)?;
            let query = section.text("query")?;
            let (query, _) = section.required(query, "query", line)?;
            let expect = section.text("expect")?;
            let (expect, _) = section.required(expect, "expect", line)?;
            policy.assertions.push(Assertion { name, query, expect: Expectation::from_text(&expect) });
            if first_repeated(policy.assertions.iter().map(|assertion| &assertion.name)).is_some() {
                return Err(section.wrong("name", name_line, "another assertion has the same name"));
            }
            let number = policy.assertions.len();
            self.note(&format!("drill.assert.{number}"), Some(((), name_line)));
        }
        Ok(())
    }
}

impl LoadedPolicy {
    /// The text without `[drill] identity_command`: a command line may hold a password, and what is kept with every
    /// snapshot can be read for as long as the snapshot exists.
    pub(super) fn text_without_command(&self) -> Cow<'_, str> {
        if self.policy.drill_identity_command.is_none() {
            return Cow::Borrowed(&self.text);
        }
        let mut table: toml::Table = self.text.parse().expect("it was read before");
        if let Some(toml::Value::Table(drill)) = table.get_mut("drill") {
            drill.remove("identity_command");
        }
        Cow::Owned(format!("# Without its comments and [drill] identity_command, which may hold a secret.\n{table}"))
    }

    /// Refuses what the configured stores can never fulfil.
    pub(super) fn check_against(&self, settings: &Settings) -> Result<(), Failure> {
        let distinct = |value: fn(&super::StoreSettings) -> &Option<String>| {
            settings.stores.iter().filter_map(|store| value(store).as_deref()).collect::<BTreeSet<_>>().len()
        };
        let copies = &self.policy.copies;
        let cases = [
            ("min_stores", copies.min_stores, self.copies_lines.min_stores, settings.stores.len(), "store"),
            ("min_regions", copies.min_regions, self.copies_lines.min_regions, distinct(|s| &s.region), "region"),
            (
                "min_providers",
                copies.min_providers,
                self.copies_lines.min_providers,
                distinct(|store| &store.provider),
                "provider",
            ),
        ];
        for (key, wanted, line, present, what) in cases {
            let wanted = wanted.map_or(0, |wanted| wanted as usize);
            if wanted > present {
                let file = self.file.clone().unwrap_or_default();
                let document = Document { file: &file, built_in: false, text: "" };
                let plural = if present == 1 { "" } else { "s" };
                let cause = format!("{} names {present} {what}{plural}", settings.file.display());
                let message = format!("policy {:?} asks for {key} = {wanted}", self.name);
                return Err(document.failure(line, message, cause));
            }
        }
        Ok(())
    }
}
