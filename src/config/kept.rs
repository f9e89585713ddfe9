//! The configuration that was kept with a snapshot, read again.

use super::{Settings, parse::parse};
use crate::core::failure::Failure;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

const BEGIN: &str = "# ---- policies/";
const END: &str = ".toml ----";

/// The line that begins a policy in the text that is kept.
pub(super) fn policy_line(name: &str) -> String {
    format!("{BEGIN}{name}{END}")
}

/// Reads what [`Settings::effective_text`] wrote.
pub fn parse_kept(text: &str) -> Result<Settings, Failure> {
    let mut configuration = String::new();
    let mut policies: BTreeMap<&str, String> = BTreeMap::new();
    let mut policy = None;
    for line in text.split_inclusive('\n') {
        let name = line.trim_end().strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END));
        match (name, policy) {
            (Some(name), _) => policy = Some(name),
            (None, None) => configuration.push_str(line),
            (None, Some(name)) => policies.entry(name).or_default().push_str(line),
        }
    }
    parse(&configuration, Path::new("the configuration that was kept with the snapshot"), &|name| {
        Ok(policies.get(name).map(|text| (PathBuf::from(format!("policies/{name}.toml")), text.clone())))
    })
}
