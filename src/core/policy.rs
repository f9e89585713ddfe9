//! Policies: what is promised for a source.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

/// A policy, typed; `None` where it promises nothing.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Policy {
    /// The tier's name, for reports.
    pub tier: Option<String>,
    /// How much may be lost.
    pub rpo: Option<Duration>,
    /// How long a restore may take.
    pub rto: Option<Duration>,
    /// On how many copies, and where, a snapshot is durable.
    pub copies: Copies,
    /// When the next full snapshot is due.
    pub full_interval: Option<Duration>,
    /// How often an incremental is due.
    pub incremental_interval: Option<Duration>,
    /// How long snapshots are kept.
    pub keep_within: Option<Duration>,
    /// How many snapshots are kept at least.
    pub keep_last: Option<u64>,
    /// How often a drill is due.
    pub drill_interval: Option<Duration>,
    /// The identity that drills read snapshots with, as a file.
    pub drill_identity_file: Option<PathBuf>,
    /// The identity that drills read snapshots with, as a command that prints it.
    pub drill_identity_command: Option<String>,
    /// What must hold of the data once it is restored.
    pub assertions: Vec<Assertion>,
    /// What fingerprints are taken of with each snapshot; `None` takes none.
    pub fingerprints: Option<FingerprintRule>,
    /// SHA-256 of the policy file, or of the built-in text.
    pub sha256: Option<super::id::Sha256>,
}

/// A query over restored data and what it must return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assertion {
    /// What it proves, in words; unique in its policy.
    pub name: String,
    /// The query, in the database's own language.
    pub query: String,
    /// What it must return.
    pub expect: Expectation,
}

/// What an assertion's query must return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// Nothing at all.
    NoRows,
    /// At least one row.
    Rows,
    /// One row of one column that reads so.
    Value(String),
}

impl Expectation {
    /// Reads `no rows`, `rows`, or a value.
    pub fn from_text(text: &str) -> Self {
        match text {
            "no rows" => Expectation::NoRows,
            "rows" => Expectation::Rows,
            value => Expectation::Value(value.to_owned()),
        }
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Expectation::NoRows => "no rows",
            Expectation::Rows => "rows",
            Expectation::Value(value) => value,
        })
    }
}

/// What fingerprints are taken of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FingerprintRule {
    /// The tables.
    pub tables: Vec<TablePattern>,
    /// How long it may take in all.
    pub max_time: Duration,
}

/// A table, all tables of a schema, or all tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TablePattern {
    /// `*`
    All,
    /// `SCHEMA.*`
    Schema(String),
    /// `SCHEMA.TABLE`
    Table(String, String),
}

impl TablePattern {
    /// Whether a table is meant.
    pub fn matches(&self, schema: &str, table: &str) -> bool {
        match self {
            TablePattern::All => true,
            TablePattern::Schema(named) => named == schema,
            TablePattern::Table(in_schema, named) => in_schema == schema && named == table,
        }
    }
}

impl FromStr for TablePattern {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('.') {
            None if text == "*" => Ok(TablePattern::All),
            Some((schema, "*")) if !schema.is_empty() => Ok(TablePattern::Schema(schema.to_owned())),
            Some((schema, table)) if !schema.is_empty() && !table.is_empty() => {
                Ok(TablePattern::Table(schema.to_owned(), table.to_owned()))
            }
            _ => Err("a table is SCHEMA.TABLE, SCHEMA.* or *"),
        }
    }
}

impl fmt::Display for TablePattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TablePattern::All => formatter.write_str("*"),
            TablePattern::Schema(schema) => write!(formatter, "{schema}.*"),
            TablePattern::Table(schema, table) => write!(formatter, "{schema}.{table}"),
        }
    }
}

/// When a snapshot counts as durable.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Copies {
    /// Stores that must hold all of it; `None` means more than half of the stores.
    pub min_stores: Option<u32>,
    /// Regions they must lie in.
    pub min_regions: Option<u32>,
    /// Providers they must be with.
    pub min_providers: Option<u32>,
    /// How long copies must be immutable.
    pub immutable_for: Option<Duration>,
}

impl Copies {
    /// How many of `stores` stores must hold a snapshot.
    pub fn required_stores(&self, stores: usize) -> usize {
        self.min_stores.map_or(stores / 2 + 1, |wanted| wanted as usize)
    }

    /// The same, with another number of stores.
    #[must_use]
    pub fn on_stores(self, stores: usize) -> Self {
        Copies { min_stores: u32::try_from(stores).ok(), ..self }
    }
}

/// Where a store is and who runs it, as the configuration says.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Place {
    /// Region, as configured.
    pub region: Option<String>,
    /// Provider, as configured.
    pub provider: Option<String>,
}

/// Whether a snapshot that the stores `complete` hold is durable.
pub fn is_durable(copies: &Copies, places: &BTreeMap<String, Place>, complete: &BTreeSet<String>) -> bool {
    let held: Vec<&Place> = complete.iter().filter_map(|name| places.get(name)).collect();
    let distinct = |value: fn(&Place) -> &Option<String>| {
        held.iter().filter_map(|place| value(place).as_ref()).collect::<BTreeSet<_>>().len()
    };
    held.len() >= copies.required_stores(places.len())
        && distinct(|place| &place.region) >= copies.min_regions.unwrap_or(0) as usize
        && distinct(|place| &place.provider) >= copies.min_providers.unwrap_or(0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_named() {
        for text in ["*", "public.*", "public.posting", "Odd.name.with dots"] {
            assert_eq!(text.parse::<TablePattern>().map(|pattern| pattern.to_string()), Ok(text.to_owned()));
        }
        for bad in ["", "posting", ".posting", "public.", ".*"] {
            assert!(bad.parse::<TablePattern>().is_err(), "{bad}");
        }
        let matches = |text: &str, table: &str| text.parse::<TablePattern>().unwrap().matches("public", table);
        assert!(matches("*", "a") && matches("public.*", "a") && matches("public.a", "a"));
        assert!(!matches("other.*", "a") && !matches("public.a", "b") && !matches("other.a", "a"));
    }

    #[test]
    fn durability() {
        let place = |region: &str| Place { region: Some(region.into()), provider: None };
        let places: BTreeMap<_, _> = [("a", place("eu")), ("b", place("eu")), ("c", place("us"))]
            .map(|(name, place)| (name.to_owned(), place))
            .into();
        let held = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let majority = Copies::default();
        assert!(!is_durable(&majority, &places, &held(&["a"])));
        assert!(is_durable(&majority, &places, &held(&["a", "b"])));
        assert!(!is_durable(&majority, &places, &held(&["a", "gone"])));
        let regions = Copies { min_regions: Some(2), ..Copies::default() };
        assert!(!is_durable(&regions, &places, &held(&["a", "b"])));
        assert!(is_durable(&regions, &places, &held(&["b", "c"])));
        assert_eq!(Copies::default().required_stores(1), 1);
        assert_eq!(Copies::default().required_stores(4), 3);
    }
}
