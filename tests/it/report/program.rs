//! The real program: a report of a real repository, checked with stock tools, and tampered with.
