//! `recoup.toml` and policies as typed settings, each value with where it came from.
//!
//! [`find`] says which file is meant, [`load`] reads it and its policies, [`render`] writes the one that
//! `init` makes. Every failure has the exit code of a wrong configuration and names file, line and key.

mod access;
mod document;
mod edit;
mod identity;
mod kept;
mod lookup;
mod nearest;
mod parse;
mod policy;
mod postgres;
mod settings;
mod show;
#[cfg(test)]
mod tests;
mod url;
mod write;

pub use access::{Access, parse_store_argument};
pub use document::FILE_BYTES_MAX;
pub use edit::{RecipientChange, by_hand, edit_recipients};
pub use identity::{IDENTITY_COMMAND, IDENTITY_FILE, IdentityInput, find_identity, signers_beside};
pub use kept::parse_kept;
pub use lookup::{CONFIG, find, find_for_init};
pub use parse::{
    KNOWN as CONFIGURATION_KEYS, POSTGRES, ReadPolicy, load, load_text, parse, parse_source_argument, read_text,
};
pub use policy::{
    BUILT_IN as BUILT_IN_POLICIES, DEFAULT_POLICY, DEFAULT_POLICY_TEXT, KNOWN as POLICY_KEYS, LoadedPolicy,
};
pub use postgres::{PostgresSettings, ServerUrl};
pub use settings::{Host, Origin, Origins, Settings, SourceSettings, StoreSettings};
pub use show::Value;
pub use url::{InvalidUrl, StoreUrl, Target};
pub use write::{NewConfiguration, render};
