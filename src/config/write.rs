//! From settings to text: the file that `init` writes, and the one stored with every snapshot.

use super::{
    Settings, SourceSettings, StoreSettings,
    kept::policy_line,
    parse::{LEVEL_DEFAULT, SPOOL_LIMIT_DEFAULT, format_bytes},
    policy::DEFAULT_POLICY,
};
use crate::core::{id::RepositoryId, time::format_duration};
use std::fmt::Write;

/// What `init` knows when it writes the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewConfiguration {
    /// The new repository.
    pub repository: RepositoryId,
    /// The custodians' public keys.
    pub recipients: Vec<String>,
    /// The stores.
    pub stores: Vec<StoreSettings>,
    /// The sources.
    pub sources: Vec<SourceSettings>,
}

/// A text as TOML writes it.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The text of a new `recoup.toml`, with names relative to its own directory.
pub fn render(new: &NewConfiguration) -> String {
    let mut text = format!(
        "# What recoup protects, and where it keeps the snapshots: recoup.toml(5) explains every key.\n\
         # Relative paths are relative to the directory of this file. It holds no secret.\n\
         \n\
         [repository]\n\
         # Set by `recoup init`. A store that holds another repository is refused.\n\
         id = {}\n\
         \n\
         [host]\n\
         state_dir = \"state\"                    # losing it loses no snapshot\n\
         signing_key = \"host_ed25519\"           # signs every snapshot of this host\n\
         catalogue = \"catalogue.age\"            # reads names and structure of snapshots, never content\n\
         allowed_signers = \"allowed_signers\"    # whose snapshots are trusted\n\
         \n\
         [encryption]\n\
         # The custodians. Only they can read the snapshots, and losing all of their identities\n\
         # loses every snapshot: have two at least, kept in different places.\n\
         recipients = [\n",
        quoted(new.repository.as_str())
    );
    for recipient in &new.recipients {
        writeln!(text, "    {},", quoted(recipient)).expect("a String takes everything");
    }
    text.push_str("]\n");
    text.push_str(&format!(
        "\n[compression]\nlevel = {LEVEL_DEFAULT}    # zstd, 1 to 19\n\
         \n[spool]\nlimit = {}    # sealed packs that wait on disk for slow stores\n",
        quoted(&format_bytes(SPOOL_LIMIT_DEFAULT))
    ));
    for store in &new.stores {
        write_store(&mut text, store);
    }
    for source in &new.sources {
        write_source(&mut text, source, false);
    }
    if new.sources.is_empty() {
        text.push_str("\n# [[source]]\n# name = \"ledger\"\n# kind = \"sqlite\"\n# path = \"/data/ledger.db\"\n");
    }
    text
}

fn write_line(text: &mut String, key: &str, value: &str) {
    text.push_str(&format!("{key} = {value}\n"));
}

fn write_store(text: &mut String, store: &StoreSettings) {
    text.push_str("\n[[store]]\n");
    write_line(text, "name", &quoted(&store.name));
    write_line(text, "url", &quoted(store.url.as_str()));
    for (key, value) in [("provider", &store.provider), ("region", &store.region)] {
        if let Some(value) = value {
            write_line(text, key, &quoted(value));
        }
    }
    if store.mounted {
        write_line(text, "mounted", "true");
    }
    let s3 = &store.s3;
    if let Some(endpoint) = &s3.endpoint {
        write_line(text, "endpoint", &quoted(&endpoint.to_string()));
    }
    if let Some(path_style) = s3.path_style {
        write_line(text, "path_style", &path_style.to_string());
    }
    if s3.allow_http {
        write_line(text, "allow_http", "true");
    }
    if !s3.conditional_create {
        write_line(text, "conditional_create", "false");
    }
    if let Some(prefix) = &s3.credentials_env {
        write_line(text, "credentials_env", &quoted(prefix));
    }
}

fn write_source(text: &mut String, source: &SourceSettings, all: bool) {
    text.push_str("\n[[source]]\n");
    write_line(text, "name", &quoted(source.name.as_str()));
    write_line(text, "kind", &quoted(&source.kind));
    write_line(text, source.path_key(), &quoted(&source.path.to_string_lossy()));
    for (key, value) in source.postgres_values() {
        write_line(text, key, &value);
    }
    let default = |is_default: bool, key: &str| if is_default && !all { format!("# {key}") } else { key.to_owned() };
    if all || source.policy != DEFAULT_POLICY {
        write_line(text, "policy", &quoted(&source.policy));
    } else {
        text.push_str("policy = \"default\"    # policies/default.toml\n");
    }
    for (key, value, usual) in source.durations() {
        if let Some(duration) = value.filter(|_| all || value != usual) {
            write_line(text, &default(value == usual, key), &quoted(&format_duration(duration)));
        }
    }
}

impl Settings {
    /// Configuration and policies as text, defaults filled in: kept sealed with every snapshot.
    ///
    /// It holds no secret: keys are named by their files, and a command that prints an identity is left out.
    /// The part before the first policy reads as a `recoup.toml`; policies follow, word for word where nothing had to
    /// be left out.
    pub fn effective_text(&self) -> String {
        let mut text = format!("# Effective configuration, from {}\n", self.file.display());
        if let Some(id) = &self.repository {
            text.push_str("\n[repository]\n");
            write_line(&mut text, "id", &quoted(id.as_str()));
        }
        text.push_str("\n[host]\n");
        for (key, path) in self.host.paths() {
            write_line(&mut text, key, &quoted(&path.to_string_lossy()));
        }
        let recipients: Vec<String> = self.recipients.iter().map(|recipient| quoted(recipient)).collect();
        text.push_str(&format!("\n[encryption]\nrecipients = [{}]\n", recipients.join(", ")));
        text.push_str(&format!("\n[compression]\nlevel = {}\n", self.compression_level));
        text.push_str(&format!("\n[spool]\nlimit = {}\n", quoted(&format_bytes(self.spool_limit_bytes))));
        for store in &self.stores {
            write_store(&mut text, store);
        }
        for source in &self.sources {
            write_source(&mut text, source, true);
        }
        for policy in self.policies.values() {
            text.push_str(&format!("\n{}\n", policy_line(&policy.name)));
            text.push_str(&policy.text_without_command());
            if !text.ends_with('\n') {
                text.push('\n');
            }
        }
        text
    }
}
