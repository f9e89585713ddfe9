//! PostgreSQL: physical snapshots of a cluster, its write-ahead log, recovery to a chosen moment.

pub mod checks;
pub mod programs;
mod psql;
mod query;

pub mod server;
pub mod settings;
mod startup;

/// The word for this kind of source.
pub const KIND: &str = "postgres";
