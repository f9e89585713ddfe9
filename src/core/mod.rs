//! PURE: values and decisions. No I/O, no clock, no randomness, no environment.

pub mod alteration;
pub mod blocks;
pub mod control;
pub mod coverage;
pub mod evidence;
pub mod failure;
pub mod fingerprint;
pub mod id;
pub mod inventory;
pub mod log;
pub mod lost;
pub mod manifest;
pub mod path;
pub mod plan;
pub mod policy;
pub mod prune;
pub mod report;
pub mod result;
pub mod retention;
pub mod s3;
pub mod server;
pub mod statistics;
pub mod target;
mod text;
pub mod time;
pub mod verdicts;
pub mod vouch;
