//! PostgreSQL as a source, on real servers.

mod server;
