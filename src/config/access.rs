//! How a reading command reaches the stores: through the configuration, or by URLs and signers alone.

use super::{Settings, StoreSettings, StoreUrl, parse::store_name};
use std::path::PathBuf;

/// What a reading command may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// A configuration.
    Configured(Box<Settings>),
    /// A bare host: only these stores, and whom to trust.
    Bare {
        /// The stores.
        stores: Vec<StoreSettings>,
        /// The file of trusted signers.
        signers: PathBuf,
    },
}

impl Access {
    /// The stores.
    pub fn stores(&self) -> &[StoreSettings] {
        match self {
            Access::Configured(settings) => &settings.stores,
            Access::Bare { stores, .. } => stores,
        }
    }

    /// The file of trusted signers.
    pub fn signers(&self) -> &std::path::Path {
        match self {
            Access::Configured(settings) => &settings.host.allowed_signers,
            Access::Bare { signers, .. } => signers,
        }
    }

    /// The configuration, where there is one.
    pub fn settings(&self) -> Option<&Settings> {
        match self {
            Access::Configured(settings) => Some(settings),
            Access::Bare { .. } => None,
        }
    }
}

/// Reads `--store`: `NAME=URL`, or a bare URL, which is then its own name.
pub fn parse_store_argument(text: &str) -> Result<StoreSettings, String> {
    // A URL may contain '=' too, but no name contains ':' or '/'.
    let named = text.split_once('=').filter(|(name, _)| !name.contains([':', '/']));
    let (name, url) = match named {
        Some((name, url)) => (store_name(name)?, url),
        None => (text.to_owned(), text),
    };
    let url: StoreUrl = url.parse().map_err(|error: super::InvalidUrl| error.to_string())?;
    Ok(StoreSettings { name, url, provider: None, region: None, mounted: false })
}
