//! The store in a bucket against servers that are right and servers that are not.

mod faults;
pub(in super::super) mod server;
