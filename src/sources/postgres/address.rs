//! Where the server of a data directory is reached, and as whom.

use super::Server;
use crate::world::{self, files};
use std::{ffi::OsString, net::IpAddr, path::Path};

/// A place that a server listens at, and a role.
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) role: String,
}

impl Server {
    /// What is not configured is as the server itself notes it in its data directory, or as its own programs have it.
    pub(super) fn address(&self, data_dir: &Path) -> Address {
        let postmaster = files::read_to_string(data_dir.join("postmaster.pid")).unwrap_or_default();
        let line = |number: usize| postmaster.lines().nth(number).map(str::trim).filter(|line| !line.is_empty());
        let host = self.host.as_deref().or_else(|| line(4)).unwrap_or("/run/postgresql").to_owned();
        let port = self.port.or_else(|| line(3)?.parse().ok()).unwrap_or(5432);
        Address { host, port, role: self.role() }
    }

    pub(super) fn role(&self) -> String {
        self.user.clone().unwrap_or_else(|| world::user_name(world::user_id()))
    }
}

impl Address {
    /// Whether what is said to the server leaves the host. Nothing encrypts it.
    pub(super) fn leaves_host(&self) -> bool {
        let is_local = |address: IpAddr| address.is_loopback();
        !self.host.starts_with(['/', '@']) && self.host != "localhost" && !self.host.parse().is_ok_and(is_local)
    }

    /// How the server's own programs are told it, and by which name the server is to know them.
    pub(super) fn conninfo(&self, application: &str) -> String {
        let (host, user, name) = (quoted(&self.host), quoted(&self.role), quoted(application));
        format!("host={host} port={} user={user} connect_timeout=10 application_name={name}", self.port)
    }
}

/// A value in a connection string.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"))
}

/// The environment in which the server's own programs find a password as the operator's do.
pub(super) fn client_environment() -> Vec<(&'static str, OsString)> {
    let names = ["HOME", "PGPASSFILE", "PGPASSWORD"];
    names.into_iter().filter_map(|name| Some((name, world::environment(name)?.into()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted() {
        assert_eq!(quoted(r"o'b\c"), r"'o\'b\\c'");
    }

    #[test]
    fn what_leaves_the_host_is_known() {
        for (host, leaves) in [
            ("/run/postgresql", false),
            ("localhost", false),
            ("127.0.0.2", false),
            ("::1", false),
            ("10.0.0.1", true),
            ("db1", true),
        ] {
            let address = Address { host: host.to_owned(), port: 5432, role: String::new() };
            assert_eq!(address.leaves_host(), leaves, "{host}");
        }
    }
}
