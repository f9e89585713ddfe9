//! PostgreSQL.

pub mod wal;
