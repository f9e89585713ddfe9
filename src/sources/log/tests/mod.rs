//! Tests of the log source.
