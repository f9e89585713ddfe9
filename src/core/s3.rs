//! Where an `s3://` store is and how it is reached, as far as configuration says it. It holds no secret.

use std::{fmt, str::FromStr};

/// The bucket and the prefix that `s3://BUCKET[/PREFIX]` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The bucket.
    pub bucket: String,
    /// What every key begins with, without slashes at its ends; empty for the whole bucket.
    pub prefix: String,
}

/// Why an address or an endpoint was not accepted. It never repeats what may be a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(&'static str);

impl Address {
    /// Whether both name the same place in one bucket, or one lies inside the other.
    pub fn overlaps(&self, other: &Address) -> bool {
        let inside = |inner: &str, outer: &str| {
            let rest = inner.strip_prefix(outer);
            outer.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.bucket == other.bucket && (inside(&self.prefix, &other.prefix) || inside(&other.prefix, &self.prefix))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "s3://{}", self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(formatter, "/{}", self.prefix) }
    }
}

impl FromStr for Address {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let rest = text.strip_prefix("s3://").ok_or(Invalid("it is no s3:// URL"))?;
        if rest.contains('@') {
            return Err(Invalid("credentials do not belong into a URL; they come from the environment"));
        }
        if rest.contains('?') {
            return Err(Invalid(
                "write what follows '?' as keys of the store: region, endpoint, path_style and so on; \
                 only --store takes it in the URL",
            ));
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_bucket = (3..=63).contains(&bucket.len())
            && bucket.bytes().all(|byte| plain(byte) || matches!(byte, b'.' | b'-'))
            && bucket.bytes().next().is_some_and(plain)
            && bucket.bytes().last().is_some_and(plain)
            && !bucket.contains("..");
        if !is_bucket {
            return Err(Invalid(
                "write s3://BUCKET/PREFIX; a bucket's name is 3 to 63 of a-z, 0-9, '.' and '-', beginning and ending \
                 with a letter or digit",
            ));
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let is_part = |part: &str| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
            !matches!(part, "" | "." | "..") && part.bytes().all(known)
        };
        if prefix.len() > PREFIX_BYTES_MAX || !(prefix.is_empty() || prefix.split('/').all(is_part)) {
            return Err(Invalid(
                "a prefix is at most 256 bytes of letters, digits, '.', '_' and '-', in parts between single slashes",
            ));
        }
        Ok(Address { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

const PREFIX_BYTES_MAX: usize = 256;

/// The server of a bucket: `https://HOST[:PORT]`, without the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    secure: bool,
    authority: String,
}

impl Endpoint {
    /// Amazon's in a region.
    pub fn of_amazon(region: &str) -> Self {
        let country = if region.starts_with("cn-") { ".cn" } else { "" };
        Endpoint { secure: true, authority: format!("s3.{region}.amazonaws.com{country}") }
    }

    /// Whether what is sent there is encrypted.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// Host and port.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Whether it is this host itself.
    pub fn is_loopback(&self) -> bool {
        let host = match self.authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => host,
            _ => &self.authority,
        };
        let numbers: Vec<Option<u8>> = host.split('.').map(|part| part.parse().ok()).collect();
        matches!(host, "localhost" | "[::1]") || matches!(numbers[..], [Some(127), Some(_), Some(_), Some(_)])
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://{}", self.scheme(), self.authority)
    }
}

impl FromStr for Endpoint {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        const FORM: Invalid = Invalid("write https://HOST or https://HOST:PORT, without the bucket and without a path");
        let (scheme, authority) = text.split_once("://").ok_or(FORM)?;
        let secure = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(FORM),
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority).to_ascii_lowercase();
        if authority.contains('@') {
            return Err(Invalid("credentials do not belong into a URL; they come from the environment"));
        }
        let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
        if authority.is_empty() || authority.starts_with(':') || !authority.bytes().all(known) {
            return Err(FORM);
        }
        // The port that a scheme has anyway makes no other place.
        let usual = if secure { ":443" } else { ":80" };
        let authority = authority.strip_suffix(usual).unwrap_or(&authority).to_owned();
        Ok(Endpoint { secure, authority })
    }
}

/// How the bucket is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The server; `None` for Amazon's in the store's region.
    pub endpoint: Option<Endpoint>,
    /// Whether the bucket stands in the path of a request and not in the name of the host; by default where an
    /// endpoint is set, or where the bucket's name has a dot.
    pub path_style: Option<bool>,
    /// Whether an endpoint elsewhere may be spoken to without encryption.
    pub allow_http: bool,
    /// Whether the server refuses to overwrite when asked to.
    pub conditional_create: bool,
    /// What the names of the environment variables with the credentials begin with, in place of `AWS`.
    pub credentials_env: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options { endpoint: None, path_style: None, allow_http: false, conditional_create: true, credentials_env: None }
    }
}

impl Options {
    /// Whether the bucket stands in the path of a request. Amazon's certificates hold for no bucket with a dot.
    pub fn is_path_style(&self, address: &Address) -> bool {
        self.path_style.unwrap_or(self.endpoint.is_some() || address.bucket.contains('.'))
    }

    /// What the names of the variables begin with.
    pub fn credentials_prefix(&self) -> &str {
        self.credentials_env.as_deref().unwrap_or("AWS")
    }

    /// Whether both speak to one server, as far as their names say. A bucket's name is unique at Amazon.
    pub fn is_same_server(&self, other: &Options) -> bool {
        let server = |options: &Options| match &options.endpoint {
            Some(endpoint) if !is_amazon(&endpoint.authority) => Some(endpoint.authority.clone()),
            _ => None,
        };
        server(self) == server(other)
    }

    /// What contradicts itself in them, given whether there is a region: the key, and why.
    pub fn contradiction(&self, region: Option<&str>) -> Option<(&'static str, String)> {
        match &self.endpoint {
            None if region.is_none() => {
                let why = "Amazon's servers are reached by region; set region, or the endpoint of another server";
                Some(("url", why.to_owned()))
            }
            None if !region.is_some_and(|region| region.bytes().all(is_in_region)) => {
                let why = "Amazon's regions are of a-z, 0-9 and '-', such as eu-central-1";
                Some(("region", why.to_owned()))
            }
            None if self.allow_http => Some(("allow_http", "it belongs to an endpoint, and none is set".to_owned())),
            Some(endpoint) if !(endpoint.secure || self.allow_http || endpoint.is_loopback()) => Some((
                "endpoint",
                "without https everybody on the way sees names and sizes; use https://, or set allow_http = true"
                    .to_owned(),
            )),
            _ => None,
        }
    }
}

fn is_in_region(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

fn is_amazon(authority: &str) -> bool {
    authority.ends_with(".amazonaws.com") || authority.ends_with(".amazonaws.com.cn")
}

/// Reads what the names of the variables with a store's credentials begin with.
pub fn parse_credentials_env(text: &str) -> Result<String, String> {
    let known = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let is_name = text.len() <= 64 && text.bytes().all(known) && text.bytes().next().is_some_and(|byte| byte > b'9');
    // What was written is not repeated: somebody may have put a key there.
    is_name.then(|| text.to_owned()).ok_or_else(|| {
        "write the beginning of the names of environment variables, of A-Z, 0-9 and _: FRANKFURT stands for \
         FRANKFURT_ACCESS_KEY_ID and FRANKFURT_SECRET_ACCESS_KEY"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, bucket, prefix) in [
            ("s3://acme-dr", "acme-dr", ""),
            ("s3://acme-dr/", "acme-dr", ""),
            ("s3://acme.dr/ledger/", "acme.dr", "ledger"),
            ("s3://acme-dr/A/b_c.d", "acme-dr", "A/b_c.d"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.bucket.as_str(), address.prefix.as_str()), (bucket, prefix), "{text}");
            assert_eq!(address.to_string(), text.trim_end_matches('/'));
        }
        for text in [
            "s3://",
            "s3://ab",
            "s3://Acme",
            "s3://-acme",
            "s3://a..b",
            "s3://acme//a",
            "s3://acme/a//b",
            "s3://acme/../b",
            "s3://acme/a b",
            "s3://acme/a%20",
            "s3://acme?region=x",
            "s3://acme#x",
            "file:///a",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        let error = "s3://KEY:hunter2@bucket/a".parse::<Address>().unwrap_err().to_string();
        assert!(error.contains("environment") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn overlapping_addresses() {
        let overlap = |one: &str, other: &str| {
            let [one, other] = [one, other].map(|text| text.parse::<Address>().unwrap());
            assert_eq!(one.overlaps(&other), other.overlaps(&one));
            one.overlaps(&other)
        };
        assert!(overlap("s3://acme", "s3://acme"));
        assert!(overlap("s3://acme", "s3://acme/a"));
        assert!(overlap("s3://acme/a", "s3://acme/a/b"));
        assert!(!overlap("s3://acme/a", "s3://acme/ab"));
        assert!(!overlap("s3://acme/a", "s3://acme/b"));
        assert!(!overlap("s3://acme", "s3://acme2"));
    }

    #[test]
    fn endpoints() {
        for (text, shown, loopback) in [
            ("https://s3.example.com/", "https://s3.example.com", false),
            ("https://S3.example.com:443", "https://s3.example.com", false),
            ("http://127.0.0.1:9000", "http://127.0.0.1:9000", true),
            ("http://127.9.9.9", "http://127.9.9.9", true),
            ("http://[::1]:9000", "http://[::1]:9000", true),
            ("http://[::1]", "http://[::1]", true),
            ("http://localhost:3900", "http://localhost:3900", true),
            ("http://localhost.example.com", "http://localhost.example.com", false),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.to_string().as_str(), endpoint.is_loopback()), (shown, loopback), "{text}");
        }
        for text in ["s3.example.com", "ftp://a", "https://", "https://a/bucket", "https://a?b", "https://:9000"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
        let error = "https://KEY:hunter2@host".parse::<Endpoint>().unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn servers_are_told_apart_by_their_names() {
        let options = |endpoint: &str| Options { endpoint: endpoint.parse().ok(), ..Options::default() };
        assert!(options("").is_same_server(&options("https://s3.eu-central-1.amazonaws.com")));
        assert!(options("https://a").is_same_server(&options("http://a")));
        assert!(!options("https://a").is_same_server(&options("https://b")));
        assert!(!options("").is_same_server(&options("https://b")));
    }

    #[test]
    fn contradictions() {
        let endpoint = |text: &str| Options { endpoint: text.parse().ok(), ..Options::default() };
        let key = |options: &Options, region| options.contradiction(region).map(|(key, _)| key);
        assert_eq!(key(&Options::default(), None), Some("url"));
        assert_eq!(key(&Options::default(), Some("eu-central-1")), None);
        assert_eq!(key(&Options::default(), Some("the cellar")), Some("region"));
        assert_eq!(key(&endpoint("https://a"), None), None);
        assert_eq!(key(&endpoint("http://localhost:1"), None), None);
        assert_eq!(key(&endpoint("http://a"), None), Some("endpoint"));
        assert_eq!(key(&Options { allow_http: true, ..endpoint("http://a") }, None), None);
        assert_eq!(key(&Options { allow_http: true, ..Options::default() }, Some("x")), Some("allow_http"));
    }

    #[test]
    fn beginnings_of_variables() {
        assert_eq!(parse_credentials_env("FRANKFURT_2").as_deref(), Ok("FRANKFURT_2"));
        for text in ["frankfurt", "2A", "A-B", "wJalrXUtnFEMI/K7MDENG", ""] {
            assert!(parse_credentials_env(text).is_err_and(|error| !error.contains("wJalr")), "{text}");
        }
    }
}
