//! Whatever facts, and what they are judged to be.
