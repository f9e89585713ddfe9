//! How a reading command reaches the stores: through the configuration, or by URLs and signers alone.

use super::{Settings, StoreSettings, StoreUrl, nearest::nearest, parse::store_name, url::percent_decode};
use crate::core::s3;
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

/// Reads `--store`: `NAME=URL`, or a bare URL, which is then its own name. The keys of an `s3://` store may follow
/// its URL, as in `s3://acme/ledger?region=eu-central-1`.
pub fn parse_store_argument(text: &str) -> Result<StoreSettings, String> {
    // A URL may contain '=' too, but no name contains ':' or '/'.
    let named = text.split_once('=').filter(|(name, _)| !name.contains([':', '/']));
    let (name, url) = match named {
        Some((name, url)) => (Some(store_name(name)?), url),
        None => (None, text),
    };
    let (url, keys) = match url.split_once('?') {
        Some((before, keys)) if before.starts_with("s3://") => (before, keys),
        _ => (url, ""),
    };
    let parsed: StoreUrl = url.parse().map_err(|error: super::InvalidUrl| error.to_string())?;
    let mut store = StoreSettings::new(name.unwrap_or_else(|| url.to_owned()), parsed);
    for pair in keys.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        set_key(&mut store, key, value)?;
    }
    if store.url.is_s3()
        && let Some((key, why)) = store.s3.contradiction(store.region.as_deref())
    {
        return Err(format!("{key}: {why}"));
    }
    Ok(store)
}

/// What may follow the URL of an `s3://` store.
const KEYS: &[&str] =
    &["provider", "region", "endpoint", "path_style", "allow_http", "conditional_create", "credentials_env"];

fn set_key(store: &mut StoreSettings, key: &str, value: &str) -> Result<(), String> {
    let text = || match percent_decode(value).and_then(|bytes| String::from_utf8(bytes).ok()) {
        Some(text) if !text.trim().is_empty() && !text.contains(char::is_control) => Ok(text),
        _ => Err(format!("{key}: it needs a value")),
    };
    let flag = || value.parse::<bool>().map_err(|_| format!("{key}: it must be true or false"));
    match key {
        "provider" => store.provider = Some(text()?),
        "region" => store.region = Some(text()?),
        "endpoint" => {
            store.s3.endpoint = Some(text()?.parse().map_err(|error: s3::Invalid| format!("{key}: {error}"))?);
        }
        "path_style" => store.s3.path_style = Some(flag()?),
        "allow_http" => store.s3.allow_http = flag()?,
        "conditional_create" => store.s3.conditional_create = flag()?,
        "credentials_env" => store.s3.credentials_env = Some(s3::parse_credentials_env(&text()?)?),
        unknown => {
            let shown: String = unknown.chars().take(80).collect();
            let known = nearest(unknown, KEYS.iter().copied()).unwrap_or_default();
            return Err(format!("unknown key {shown:?}; the nearest known key is {known:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_follow_the_url_of_a_bucket() {
        let text = "far=s3://acme/ledger?region=eu-central-1&endpoint=https://s3.example.com&path_style=false\
            &conditional_create=false&credentials_env=FAR&provider=a%20b";
        let store = parse_store_argument(text).unwrap();
        assert_eq!((store.name.as_str(), store.url.as_str()), ("far", "s3://acme/ledger"));
        assert_eq!((store.region.as_deref(), store.provider.as_deref()), (Some("eu-central-1"), Some("a b")));
        let s3::Options { endpoint, path_style, allow_http, conditional_create, credentials_env } = store.s3;
        assert_eq!(endpoint.unwrap().to_string(), "https://s3.example.com");
        assert_eq!((path_style, allow_http, conditional_create), (Some(false), false, false));
        assert_eq!(credentials_env.as_deref(), Some("FAR"));
        let bare = parse_store_argument("s3://acme/ledger?region=eu-central-1").unwrap();
        assert_eq!(bare.name, "s3://acme/ledger");
    }

    #[test]
    fn keys_are_known_and_make_sense() {
        for (keys, why) in [
            ("regoin=x", "\"region\""),
            ("region=", "needs a value"),
            ("region=x&path_style=yes", "true or false"),
            ("endpoint=http://a", "allow_http"),
            ("", "region"),
            ("endpoint=https://KEY:hunter2@a", "environment"),
            ("region=x&credentials_env=hunter2", "FRANKFURT"),
        ] {
            let error = parse_store_argument(&format!("a=s3://acme?{keys}")).unwrap_err();
            assert!(error.contains(why) && !error.contains("hunter2"), "{keys}: {error}");
        }
    }
}
