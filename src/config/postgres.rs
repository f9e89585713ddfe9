//! How a PostgreSQL server is reached and what its snapshots may cost: the keys of sources of kind `postgres`.

use super::url::percent_decode;
use std::{path::PathBuf, time::Duration};

/// How long a snapshot waits for the archiver while nothing arrives.
pub(super) const ARCHIVE_WAIT_DEFAULT: Duration = Duration::from_secs(300);

/// What is configured for a PostgreSQL server, besides its data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresSettings {
    /// How the server is reached.
    pub server: ServerUrl,
    /// The server's own programs; `None` where nothing needs them.
    pub bin_dir: Option<PathBuf>,
    /// How long a snapshot waits for its part of the log while nothing of it arrives in the stores.
    pub archive_wait: Duration,
    /// The most bytes that a snapshot reads in a second; `None` is as fast as it goes.
    pub read_limit_bytes: Option<u64>,
    /// By how much the threads of a snapshot give way to others, 0 to 19.
    pub nice: u32,
}

impl Default for PostgresSettings {
    fn default() -> Self {
        PostgresSettings {
            server: ServerUrl::default(),
            bin_dir: None,
            archive_wait: ARCHIVE_WAIT_DEFAULT,
            read_limit_bytes: None,
            nice: 0,
        }
    }
}

/// How a server is reached. What is left out comes from the data directory's `postmaster.pid` and the user's name.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ServerUrl {
    /// A host, or the directory of a Unix socket.
    pub host: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// The role.
    pub user: Option<String>,
    /// The database.
    pub dbname: Option<String>,
}

impl ServerUrl {
    /// Reads `postgres://[USER@][HOST][:PORT]/[DBNAME][?host=...&port=...&user=...&dbname=...]`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let form = "write postgres:///DBNAME?host=/run/postgresql&port=5432&user=NAME";
        let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")).ok_or(form)?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, dbname) = place.split_once('/').unwrap_or((place, ""));
        let (user, address) = authority.rsplit_once('@').unwrap_or(("", authority));
        if user.contains(':') {
            return Err(NO_PASSWORD.to_owned());
        }
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !address.ends_with(']') => (host, port),
            _ => (address, ""),
        };
        let mut url = ServerUrl::default();
        for (key, value) in
            [("user", user), ("host", host.trim_matches(['[', ']'])), ("port", port), ("dbname", dbname)]
        {
            if !value.is_empty() {
                url.set(key, value)?;
            }
        }
        url.query(query)?;
        Ok(url)
    }

    /// Reads what stands behind the `?`.
    pub(super) fn query(&mut self, query: &str) -> Result<(), String> {
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| format!("{:?} is no KEY=VALUE", shown(pair)))?;
            self.set(key, value)?;
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let coded = percent_decode(value).and_then(|bytes| String::from_utf8(bytes).ok());
        let value = coded.filter(|value| !value.is_empty() && !value.contains(char::is_control));
        let value = value.ok_or_else(|| format!("the value of {:?} is empty or badly coded", shown(key)))?;
        let twice = || format!("{key:?} is given twice");
        match key {
            "host" => self.host.replace(value).map_or(Ok(()), |_| Err(twice())),
            "user" => self.user.replace(value).map_or(Ok(()), |_| Err(twice())),
            "dbname" => self.dbname.replace(value).map_or(Ok(()), |_| Err(twice())),
            "port" => {
                let port: u16 = value.parse().ok().filter(|port| *port > 0).ok_or("a port is 1 to 65535")?;
                self.port.replace(port).map_or(Ok(()), |_| Err(twice()))
            }
            "password" | "passfile" => Err(NO_PASSWORD.to_owned()),
            _ => Err(format!("{:?} is none of host, port, user and dbname", shown(key))),
        }
    }

    /// The URL that means this.
    pub fn text(&self) -> String {
        let coded = |text: &str| crate::core::path::encode(text.as_bytes()).replace('&', "%26").replace('?', "%3f");
        let mut pairs = Vec::new();
        if let Some(host) = &self.host {
            pairs.push(format!("host={}", coded(host)));
        }
        if let Some(port) = self.port {
            pairs.push(format!("port={port}"));
        }
        if let Some(user) = &self.user {
            pairs.push(format!("user={}", coded(user)));
        }
        let dbname = self.dbname.as_deref().map(coded).unwrap_or_default();
        let query = if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) };
        format!("postgres:///{dbname}{query}")
    }
}

const NO_PASSWORD: &str = "passwords stand in ~/.pgpass or the file that PGPASSFILE names, never here";

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_urls() {
        for (text, canonical) in [
            ("postgres:///", "postgres:///"),
            ("postgres:///postgres?host=/run/postgresql", "postgres:///postgres?host=/run/postgresql"),
            ("postgresql://app@db.example:5433/x", "postgres:///x?host=db.example&port=5433&user=app"),
            ("postgres://[::1]:5433", "postgres:///?host=::1&port=5433"),
            ("postgres:///a%26b?user=o%20o", "postgres:///a%26b?user=o o"),
        ] {
            let url = ServerUrl::parse(text).unwrap();
            assert_eq!(url.text(), canonical, "{text}");
            assert_eq!(ServerUrl::parse(&url.text()).unwrap(), url);
        }
    }

    #[test]
    fn bad_server_urls() {
        for (text, why) in [
            ("mysql:///", "write postgres:///"),
            ("postgres://me:hunter2@/x", "PGPASSFILE"),
            ("postgres:///?password=hunter2", "PGPASSFILE"),
            ("postgres:///?port=0", "1 to 65535"),
            ("postgres://h/?host=x", "twice"),
            ("postgres:///?sslmode=off", "none of"),
            ("postgres:///?host", "KEY=VALUE"),
            ("postgres:///?host=", "empty"),
        ] {
            let error = ServerUrl::parse(text).unwrap_err();
            assert!(error.contains(why) && !error.contains("hunter2"), "{text}: {error}");
        }
    }
}
