//! PostgreSQL: physical snapshots of a cluster, its write-ahead log, recovery to a chosen moment.

pub mod settings;
