//! Every effective value, and where it came from.

use super::{LoadedPolicy, Origin, Settings, parse::format_bytes, settings::Host, url::Target, write::quoted};
use crate::core::{s3, time::format_duration};
use std::{path::Path, time::Duration};

/// One effective value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Its full key, such as `store.frankfurt.url`.
    pub key: String,
    /// The value as TOML writes it.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

impl Host {
    /// The files by their keys.
    pub(super) fn paths(&self) -> [(&'static str, &Path); 4] {
        [
            ("state_dir", &self.state_dir),
            ("signing_key", &self.signing_key),
            ("catalogue", &self.catalogue),
            ("allowed_signers", &self.allowed_signers),
        ]
    }
}

struct Listing<'s> {
    settings: &'s Settings,
    values: Vec<Value>,
}

impl Settings {
    /// Every effective value in the order of the file; of a policy, what it promises.
    pub fn values(&self) -> Vec<Value> {
        let mut listing = Listing { settings: self, values: Vec::new() };
        if let Some(id) = &self.repository {
            listing.text("repository.id", id.as_str());
        }
        for (key, path) in self.host.paths() {
            listing.text(&format!("host.{key}"), &path.to_string_lossy());
        }
        let recipients: Vec<String> = self.recipients.iter().map(|recipient| quoted(recipient)).collect();
        listing.push("encryption.recipients", format!("[{}]", recipients.join(", ")));
        listing.push("compression.level", self.compression_level.to_string());
        listing.text("spool.limit", &format_bytes(self.spool_limit_bytes));
        for store in &self.stores {
            let key = |name: &str| format!("store.{}.{name}", store.name);
            listing.text(&key("url"), store.url.as_str());
            listing.optional(&key("provider"), store.provider.as_deref());
            listing.optional(&key("region"), store.region.as_deref());
            match store.url.target() {
                Target::Directory(_) => listing.push(&key("mounted"), store.mounted.to_string()),
                Target::S3(address) => listing.s3(&key, &store.s3, address),
            }
        }
        for source in &self.sources {
            let key = |name: &str| format!("source.{}.{name}", source.name);
            listing.text(&key("kind"), &source.kind);
            listing.text(&key(source.path_key()), &source.path.to_string_lossy());
            listing.text(&key("policy"), &source.policy);
            for (name, value) in source.postgres_values() {
                listing.push(&key(name), value);
            }
            for (name, value, _) in source.durations() {
                listing.optional(&key(name), value.map(format_duration).as_deref());
            }
        }
        for policy in self.policies.values() {
            listing.policy(policy);
        }
        listing.values
    }
}

impl Listing<'_> {
    fn push(&mut self, key: &str, value: String) {
        self.values.push(Value { key: key.to_owned(), value, origin: self.settings.origins.of(key) });
    }

    fn text(&mut self, key: &str, text: &str) {
        self.push(key, quoted(text));
    }

    fn optional(&mut self, key: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(key, text);
        }
    }

    fn s3(&mut self, key: &dyn Fn(&str) -> String, s3: &s3::Options, address: &s3::Address) {
        self.optional(&key("endpoint"), s3.endpoint.as_ref().map(s3::Endpoint::to_string).as_deref());
        self.push(&key("path_style"), s3.is_path_style(address).to_string());
        self.push(&key("allow_http"), s3.allow_http.to_string());
        self.push(&key("conditional_create"), s3.conditional_create.to_string());
        self.text(&key("credentials_env"), s3.credentials_prefix());
    }

    fn policy(&mut self, loaded: &LoadedPolicy) {
        let key = |name: &str| format!("policy.{}.{name}", loaded.name);
        let policy = &loaded.policy;
        if let Some(sha256) = policy.sha256 {
            let origin = match &loaded.file {
                Some(file) => Origin::File { file: file.clone(), line: 1 },
                None => Origin::BuiltIn,
            };
            self.values.push(Value { key: key("sha256"), value: quoted(&sha256.to_string()), origin });
        }
        self.optional(&key("tier"), policy.tier.as_deref());
        let span = |value: Option<Duration>| value.map(|value| quoted(&format_duration(value)));
        let number = |value: Option<u64>| value.map(|value| value.to_string());
        let copies = &policy.copies;
        let stores = self.settings.stores.len();
        let drill_file = policy.drill_identity_file.as_ref().map(|file| quoted(&file.to_string_lossy()));
        let tables = policy.fingerprints.as_ref().map(|rule| {
            let tables: Vec<String> = rule.tables.iter().map(|table| quoted(&table.to_string())).collect();
            format!("[{}]", tables.join(", "))
        });
        let values = [
            ("rpo", span(policy.rpo)),
            ("rto", span(policy.rto)),
            ("copies.min_stores", Some(copies.required_stores(stores).to_string())),
            ("copies.min_regions", number(copies.min_regions.map(u64::from))),
            ("copies.min_providers", number(copies.min_providers.map(u64::from))),
            ("copies.immutable_for", span(copies.immutable_for)),
            ("schedule.full", span(policy.full_interval)),
            ("schedule.incremental", span(policy.incremental_interval)),
            ("retention.keep_within", span(policy.keep_within)),
            ("retention.keep_last", number(policy.keep_last)),
            ("fingerprints.tables", tables),
            ("fingerprints.max_time", span(policy.fingerprints.as_ref().map(|rule| rule.max_time))),
            ("drill.every", span(policy.drill_interval)),
            ("drill.identity_file", drill_file),
            // A command line may hold a password, and this is printed where others look on.
            ("drill.identity_command", policy.drill_identity_command.as_ref().map(|_| "(set, not shown)".to_owned())),
        ];
        for (name, value) in values {
            if let Some(value) = value {
                self.push(&key(name), value);
            }
        }
        for (at, assertion) in policy.assertions.iter().enumerate() {
            self.text(&key(&format!("drill.assert.{}", at + 1)), &assertion.name);
        }
    }
}
